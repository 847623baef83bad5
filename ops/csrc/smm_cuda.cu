// smm_qmk and smm_amv for CUDA; see cuda_lists.h, cuda_near.h and cuda_scatter.h.

#include "smm_cuda.h"

#include "cuda_near.h"
#include "cuda_scatter.h"

namespace focalsr {
namespace gpu {
namespace {

template <class T, class I, class Rows>
__device__ void dot_row(const T* x, const Rows& y, const I* index, T* out, const ListShape& s, int64_t row, int lane,
                        int lanes) {
  const int64_t at = row * s.K;
  listed_dot<T>(
      x + row * s.W, y, s.W, s.K, lane, lanes, [&](int64_t k) { return checked(index[at + k], s.M); },
      [&](int64_t k, float result) { out[at + k] = from_float<T>(result); });
}

template <class T, class I, class Rows>
__device__ void sum_row(const T* w, const Rows& y, const I* index, T* out, const ListShape& s, int64_t row, int lane) {
  const int64_t at = row * s.K;
  const auto slot = [&](int64_t k, int* key, float* weight) {
    *key = checked(index[at + k], s.M);
    *weight = to_float(w[at + k]);
  };
  listed_sum<T>(slot, s.K, y, s, lane, out + row * s.C);
}

template <class T, class I>
__global__ void dot_kernel(const T* x, const T* y, const I* index, T* out, ListShape s, int lanes) {
  const Place here = place();
  if (here.row >= s.B * s.N) return;
  dot_row(x, FarRows<T>{y + here.row / s.N * s.M * s.W, s.W}, index, out, s, here.row, here.lane, lanes);
}

template <class T, class I>
__global__ void sum_kernel(const T* w, const T* y, const I* index, T* out, ListShape s) {
  const Place here = place();
  if (here.row >= s.B * s.N) return;
  sum_row(w, FarRows<T>{y + here.row / s.N * s.M * s.W, s.W}, index, out, s, here.row, here.lane);
}

template <class T, class I>
__global__ void __launch_bounds__(kWarp * kMostWarps)
    near_dot_kernel(const T* x, const T* y, const I* index, T* out, ListShape s, int lanes, Near near) {
  const NearBlock<T> block(near, s);
  block.load(y, s);
  block.each([&](int64_t n) { dot_row(x, block, index, out, s, block.b * s.N + n, block.lane, lanes); });
}

template <class T, class I>
__global__ void __launch_bounds__(kWarp * kMostWarps)
    near_sum_kernel(const T* w, const T* y, const I* index, T* out, ListShape s, Near near) {
  const NearBlock<T> block(near, s);
  block.load(y, s);
  block.each([&](int64_t n) { sum_row(w, block, index, out, s, block.b * s.N + n, block.lane); });
}

}  // namespace

int smm_dot(Types types, const void* x, const void* y, const void* index, void* out, ListShape s, void* stream) {
  if (s.K == 0) return 0;
  return by_types(types, [&](auto* t, auto* i) {
    using T = std::remove_pointer_t<decltype(t)>;
    using I = std::remove_pointer_t<decltype(i)>;
    const int lanes = lanes_per_key(s.W / kPiece<T>);
    const Near near = plan_near<T>(s, kMostWarps);
    if (near.warps > 0)
      return launch_near<T>(near_dot_kernel<T, I>, near, s, stream, as(t, x), as(t, y), as(i, index), as(t, out), s,
                            lanes, near);
    return launch_warps(dot_kernel<T, I>, s.B * s.N, stream, as(t, x), as(t, y), as(i, index), as(t, out), s, lanes);
  });
}

int smm_sum(Types types, const void* w, const void* y, const void* index, void* out, ListShape s, void* stream) {
  return by_types(types, [&](auto* t, auto* i) {
    using T = std::remove_pointer_t<decltype(t)>;
    using I = std::remove_pointer_t<decltype(i)>;
    const Near near = s.K < long_list() ? Near{} : plan_near<T>(s, kMostWarps);
    if (near.warps > 0)
      return launch_near<T>(near_sum_kernel<T, I>, near, s, stream, as(t, w), as(t, y), as(i, index), as(t, out), s,
                            near);
    return launch_warps(sum_kernel<T, I>, s.B * s.N, stream, as(t, w), as(t, y), as(i, index), as(t, out), s);
  });
}

int64_t smm_scatter_workspace(ListShape s) { return key_workspace(s); }

int smm_scatter(Types types, const void* w, const void* x, const void* index, void* out, ListShape s,
                int32_t* workspace, void* stream) {
  return by_types(types, [&](auto* v, auto* i) {
    const KeyRows<std::remove_pointer_t<decltype(v)>> rows{as(v, out), s.M, 1, s.C};
    return sum_by_key<false>(as(i, index), as(v, w), as(v, x), rows, s, 1.0f, workspace, false, stream);
  });
}

}  // namespace gpu
}  // namespace focalsr
