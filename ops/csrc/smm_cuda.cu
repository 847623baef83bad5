// smm_qmk and smm_amv for CUDA; see cuda_lists.h, cuda_near.h and cuda_scatter.h.

#include "smm_cuda.h"

#include "cuda_near.h"
#include "cuda_scatter.h"

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

template <int kWidth, class T, class I>
__global__ void __launch_bounds__(kWarp * kNearWarps, 1)
    near_dot_kernel(const T* x, const T* y, const I* index, T* out, ListShape s, Near near) {
  const NearBlock<T> block(near, s);
  block.load(y, s);
  block.each([&](int64_t n) {
    const int64_t row = block.b * s.N + n;
    const I* const list = index + row * s.K;
    T* const to = out + row * s.K;
    near_dot<kWidth>(
        block, x + row * s.W, s.K, [&](int64_t k, int* key, float*) { *key = checked(list[k], s.M); },
        [&](int64_t k, int, float, float product) { to[k] = from_float<T>(product); });
  });
}

template <int kWidth, class T, class I>
__global__ void __launch_bounds__(kWarp * kNearWarps, 1)
    near_sum_kernel(const T* w, const T* y, const I* index, T* out, ListShape s, Near near) {
  const NearBlock<T> block(near, s);
  block.load(y, s);
  block.each([&](int64_t n) {
    const int64_t row = block.b * s.N + n;
    const I* const list = index + row * s.K;
    const T* const weights = w + row * s.K;
    const auto slot = [&](int64_t k, int* key, float* weight) {
      *key = checked(list[k], s.M);
      *weight = to_float(weights[k]);
    };
    near_sum<kWidth>(block, slot, s.K, s, out + row * s.C);
  });
}

}  // namespace

int smm_dot(Types types, const void* x, const void* y, const void* index, void* out, ListShape s, void* stream) {
  if (s.K == 0) return 0;
  return by_types(types, [&](auto* t, auto* i) {
    using T = std::remove_pointer_t<decltype(t)>;
    using I = std::remove_pointer_t<decltype(i)>;
    const int lanes = lanes_per_key(s.W / kPiece<T>);
    const Near near = plan_near<T, I>(s);
    if (near.fits)
      return near_width<I>(s.W, [&](auto width) {
        return launch_near<T>(near_dot_kernel<width(), T, I>, near, s, stream, as(t, x), as(t, y), as(i, index),
                              as(t, out), s, near);
      });
    return launch_warps(dot_kernel<T, I>, s.B * s.N, stream, as(t, x), as(t, y), as(i, index), as(t, out), s, lanes);
  });
}

int smm_sum(Types types, const void* w, const void* y, const void* index, void* out, ListShape s, void* stream) {
  return by_types(types, [&](auto* t, auto* i) {
    using T = std::remove_pointer_t<decltype(t)>;
    using I = std::remove_pointer_t<decltype(i)>;
    const Near near = plan_near<T, I>(s);
    if (near.fits)
      return near_width<I>(s.W, [&](auto width) {
        return launch_near<T>(near_sum_kernel<width(), T, I>, near, s, stream, as(t, w), as(t, y), as(i, index),
                              as(t, out), s, near);
      });
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
