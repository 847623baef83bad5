// smm_qmk and smm_amv for CUDA; see cuda_lists.h.

#include "smm_cuda.h"

#include "cuda_lists.h"

namespace focalsr {
namespace gpu {
namespace {

template <class T, class I>
__global__ void dot_kernel(const T* x, const T* y, const I* index, T* out, ListShape s, int lanes) {
  const Place here = place();
  if (here.row >= s.B * s.N) return;
  const int64_t at = here.row * s.K;
  listed_dot<T>(
      x + here.row * s.W, y + here.row / s.N * s.M * s.W, s.W, s.K, here.lane, lanes,
      [&](int64_t k) { return checked(index[at + k], s.M); },
      [&](int64_t k, float result) { out[at + k] = from_float<T>(result); });
}

template <class T, class I>
__global__ void sum_kernel(const T* w, const T* y, const I* index, T* out, ListShape s) {
  const Place here = place();
  if (here.row >= s.B * s.N) return;
  const int64_t at = here.row * s.K;
  const auto slot = [&](int64_t k, int* row, float* weight) {
    *row = checked(index[at + k], s.M);
    *weight = to_float(w[at + k]);
  };
  listed_sum<T>(slot, s.K, y + here.row / s.N * s.M * s.W, s, here.lane, out + here.row * s.C);
}

template <class T>
__global__ void scatter_kernel(const T* w, const T* x, T* out, ListShape s, Transposed t) {
  const Place here = place();  // a row of keys
  if (here.row >= s.B * s.M) return;
  key_sum<T>(w, x, s, t, here.row / s.M, here.row % s.M, here.lane, out + here.row * s.C);
}

}  // namespace

int smm_dot(Types types, const void* x, const void* y, const void* index, void* out, ListShape s, void* stream) {
  if (s.K == 0) return 0;
  return by_types(types, [&](auto* t, auto* i) {
    using T = std::remove_pointer_t<decltype(t)>;
    const int lanes = lanes_per_key(s.W / kPiece<T>);
    return launch_warps(dot_kernel<T, std::remove_pointer_t<decltype(i)>>, s.B * s.N, stream, as(t, x), as(t, y),
                        as(i, index), as(t, out), s, lanes);
  });
}

int smm_sum(Types types, const void* w, const void* y, const void* index, void* out, ListShape s, void* stream) {
  return by_types(types, [&](auto* t, auto* i) {
    using T = std::remove_pointer_t<decltype(t)>;
    return launch_warps(sum_kernel<T, std::remove_pointer_t<decltype(i)>>, s.B * s.N, stream, as(t, w), as(t, y),
                        as(i, index), as(t, out), s);
  });
}

int64_t smm_scatter_workspace(ListShape s) { return workspace_of(s); }

int smm_scatter(Types types, const void* w, const void* x, const void* index, void* out, ListShape s,
                int32_t* workspace, void* stream) {
  const Transposed t = lay_out(s, workspace);
  return by_types(types, [&](auto* v, auto* i) {
    const int error = transpose_lists(as(i, index), s, t, stream);
    if (error != 0) return error;
    return launch_warps(scatter_kernel<std::remove_pointer_t<decltype(v)>>, s.B * s.M, stream, as(v, w), as(v, x),
                        as(v, out), s, t);
  });
}

}  // namespace gpu
}  // namespace focalsr
