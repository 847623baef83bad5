// What the CUDA kernels share: 16-byte pieces of rows, conversion to float, launching. Compiled by nvcc; a C++ compiler
// takes the same sources with an emulation of a GPU's threads, for tests on machines without one.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda_types.h"

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

// What blocks may share on this device, and its multiprocessors.
struct Device {
  int bytes, processors;
};
inline Device this_device() {
#ifdef __CUDACC__
  int device = 0, bytes = 0, processors = 1;
  const bool known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) == cudaSuccess;
  return {known ? bytes : 0, processors};
#else
  return {emulate::shared_limit, 1};
#endif
}

// The bytes that a launch gave to each block.
__device__ inline char* shared_bytes() {
#ifdef __CUDACC__
  extern __shared__ uint4 given[];
  return reinterpret_cast<char*>(given);
#else
  return emulate::shared.data();
#endif
}

// Runs a kernel with so many warps, or blocks of `threads` that share `bytes` beside what the kernel declares, and says
// what the launch answered: 0 is success.
template <class... Parameters, class... Arguments>
int launch_sharing(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t bytes, void* stream,
                   Arguments... arguments) {
  if (blocks == 0) return 0;
  if (blocks > 0x7fffffff) return static_cast<int>(cudaErrorInvalidConfiguration);
#ifdef __CUDACC__
  if (bytes > 0) {
    const auto limit = cudaFuncAttributeMaxDynamicSharedMemorySize;
    const cudaError_t error = cudaFuncSetAttribute(kernel, limit, static_cast<int>(bytes));
    if (error != cudaSuccess) return static_cast<int>(error);
  }
  const auto size = static_cast<size_t>(bytes);
  kernel<<<static_cast<unsigned>(blocks), threads, size, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return static_cast<int>(cudaGetLastError());
#else
  static_cast<void>(stream);
  emulate::launch(blocks, threads, bytes, [&] { kernel(arguments...); });
  return 0;
#endif
}
template <class... Parameters, class... Arguments>
int launch_blocks(void (*kernel)(Parameters...), int64_t blocks, int threads, void* stream, Arguments... arguments) {
  return launch_sharing(kernel, blocks, threads, 0, stream, arguments...);
}
template <class... Parameters, class... Arguments>
int launch_warps(void (*kernel)(Parameters...), int64_t warps, void* stream, Arguments... arguments) {
  return launch_blocks(kernel, (warps + kWarps - 1) / kWarps, kWarp * kWarps, stream, arguments...);
}

// f(value pointer), and f(value pointer, entry pointer), with null pointers of the types.
template <class F>
int by_value(Value value, const F& f) {
  switch (value) {
    case Value::kHalf: return f(static_cast<__half*>(nullptr));
    case Value::kBFloat16: return f(static_cast<__nv_bfloat16*>(nullptr));
    default: return f(static_cast<float*>(nullptr));
  }
}
template <class F>
int by_types(Types types, const F& f) {
  return by_value(types.value, [&](auto* value) {
    return types.entry == Entry::kShort ? f(value, static_cast<int16_t*>(nullptr))
                                        : f(value, static_cast<int32_t*>(nullptr));
  });
}

template <class T, class U>
T* as(T*, U* pointer) {
  return static_cast<T*>(pointer);
}
template <class T>
const T* as(T*, const void* pointer) {
  return static_cast<const T*>(pointer);
}

}  // namespace gpu
}  // namespace focalsr
