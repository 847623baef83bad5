// Rows that the queries of a block list, in shared memory, on CUDA. Shapes as in cuda_types.h.
//
// Every listed row is read once per entry of a list: out of the L2 cache that takes several times as long as out of
// shared memory. Where all rows of a batch item fit there, a block loads them and works on some hundred queries of the
// item, one per warp at a time; elsewhere the kernels for rows that are far serve.
#pragma once

#include "cuda_lists.h"

namespace focalsr {
namespace gpu {

constexpr int kNearQueries = 256;  // of a block: what it loads for them should not count
constexpr int kMostWarps = 32, kFewerWarps = 24;  // the second where a thread needs more registers

// Measured on an H100: short lists are summed no faster, and in half precision, whose rows take half of the L2 cache's
// time, products with them neither. A list counts as long from so many entries on; tests have short ones.
inline int64_t long_list() {
#ifdef __CUDACC__
  return 64;
#else
  return 0;
#endif
}

// Rows of an item as a block keeps them, `stride` values apart, with `extra` floats for all and `own` for each warp. No
// warps: they do not fit, or there is too little work for blocks that large.
struct Near {
  int warps, stride, rows, extra, own;
  int segments;  // blocks of an item
  __host__ __device__ int threads() const { return warps * kWarp; }
};

template <class T>
int64_t near_bytes(const Near& near) {
  const int64_t numbers = near.extra + static_cast<int64_t>(near.warps) * near.own;
  return static_cast<int64_t>(near.rows) * near.stride * static_cast<int64_t>(sizeof(T)) + 4 * numbers;
}

template <class T>
Near plan_near(ListShape s, int most, int64_t extra = 0, int64_t own = 0) {
  const Device device = this_device();
  const int64_t segments = (s.N + kNearQueries - 1) / kNearQueries, pieces = s.W / kPiece<T>;
  const Near none{0, 0, 0, 0, 0, 0};
  if (s.M * s.W > device.bytes || extra > device.bytes || own > device.bytes || s.M == 0) return none;
  if (2 * s.B * segments < device.processors) return none;
  for (int warps = most; warps >= kMostWarps / 2; warps -= 8)
    for (const int64_t stride : {pieces | 1, pieces}) {  // odd: rows begin in any bank
      const auto padded = [](int64_t numbers) { return static_cast<int>((numbers + 3) / 4 * 4); };
      const Near near{warps,       static_cast<int>(stride) * kPiece<T>, static_cast<int>(s.M), padded(extra),
                      padded(own), static_cast<int>(segments)};
      if (near_bytes<T>(near) <= device.bytes) return near;
    }
  return none;
}

// What a thread of such a block sees.
template <class T>
struct NearBlock {
  T* data;
  float *extra, *own;
  int b, first, last;  // its item, and its queries
  int stride, lane, warp, warps;
  __device__ NearBlock(const Near& near, ListShape s)
      : data(reinterpret_cast<T*>(shared_bytes())), extra(reinterpret_cast<float*>(data + near.rows * near.stride)),
        b(static_cast<int>(blockIdx.x) / near.segments),
        first(static_cast<int>(blockIdx.x) % near.segments * kNearQueries), stride(near.stride),
        lane(static_cast<int>(threadIdx.x) % kWarp), warp(static_cast<int>(threadIdx.x) / kWarp), warps(near.warps) {
    own = extra + near.extra + warp * near.own;
    last = first + kNearQueries < s.N ? first + kNearQueries : static_cast<int>(s.N);
  }
  __device__ const T* operator()(int row) const { return data + row * stride; }
  // The rows of its item out of x [B, M, W]. Begins and ends with the whole block at one place.
  __device__ void load(const T* __restrict__ x, ListShape s) const {
    const int pieces = static_cast<int>(s.W / kPiece<T>), all = static_cast<int>(s.M) * pieces;
    x += static_cast<int64_t>(b) * s.M * s.W;
    __syncthreads();
#pragma unroll 4
    for (int at = warp * kWarp + lane; at < all; at += warps * kWarp)
      *reinterpret_cast<uint4*>(data + at / pieces * stride + at % pieces * kPiece<T>) =
          *reinterpret_cast<const uint4*>(x + static_cast<int64_t>(at) * kPiece<T>);
    __syncthreads();
  }
  // f(query) for the queries of its warp.
  template <class F>
  __device__ void each(const F& f) const {
    for (int n = first + warp; n < last; n += warps) f(static_cast<int64_t>(n));
  }
};

template <class T, class... Parameters, class... Arguments>
int launch_near(void (*kernel)(Parameters...), const Near& near, ListShape s, void* stream, Arguments... arguments) {
  return launch_sharing(kernel, s.B * near.segments, near.threads(), near_bytes<T>(near), stream, arguments...);
}

}  // namespace gpu
}  // namespace focalsr
