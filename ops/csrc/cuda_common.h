// What the CUDA kernels share: 16-byte pieces of rows, conversion to float, launching. Compiled by nvcc; a C++ compiler
// takes the same sources with an emulation of a GPU's threads, for tests on machines without one.
#pragma once

#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "emulate.h"
#endif

namespace focalsr {
namespace gpu {

constexpr int kWarp = 32;
constexpr int kWarps = 8;  // in a block
constexpr unsigned kAll = 0xffffffffu;

// Values of T in a piece of 16 bytes, and the pieces of a row.
template <class T>
constexpr int kPiece = 16 / static_cast<int>(sizeof(T));

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) { return x; }
template <>
__device__ inline __half from_float<__half>(float x) { return __float2half_rn(x); }
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// One 16-byte load; `at` is aligned to it.
template <class T>
struct Piece {
  union {
    uint4 raw;
    T values[kPiece<T>];
  };
  __device__ Piece() : raw{0, 0, 0, 0} {}
  __device__ explicit Piece(const T* at) : raw(*reinterpret_cast<const uint4*>(at)) {}
  __device__ float operator[](int i) const { return to_float(values[i]); }
};

// Lanes of one warp that work on one row, the row's number, and whether it exists. One row per warp, rows in blockIdx.x.
struct Place {
  int lane;
  int64_t row;
};
__device__ inline Place place() {
  const int thread = static_cast<int>(threadIdx.x);
  return {thread % kWarp, static_cast<int64_t>(blockIdx.x) * kWarps + thread / kWarp};
}

// An entry of a list, or -1 where it names no key: nothing is read for it.
template <class I>
__device__ inline int checked(I entry, int64_t keys) {
  return entry >= 0 && static_cast<int64_t>(entry) < keys ? static_cast<int>(entry) : -1;
}

// Runs a kernel with so many warps (or blocks of `threads`), and says what the launch answered: 0 is success.
template <class... Parameters, class... Arguments>
int launch_blocks(void (*kernel)(Parameters...), int64_t blocks, int threads, void* stream, Arguments... arguments) {
  if (blocks == 0) return 0;
  if (blocks > 0x7fffffff) return static_cast<int>(cudaErrorInvalidConfiguration);
#ifdef __CUDACC__
  kernel<<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return static_cast<int>(cudaGetLastError());
#else
  static_cast<void>(stream);
  emulate::launch(blocks, threads, [&] { kernel(arguments...); });
  return 0;
#endif
}
template <class... Parameters, class... Arguments>
int launch_warps(void (*kernel)(Parameters...), int64_t warps, void* stream, Arguments... arguments) {
  return launch_blocks(kernel, (warps + kWarps - 1) / kWarps, kWarp * kWarps, stream, arguments...);
}

}  // namespace gpu
}  // namespace focalsr
