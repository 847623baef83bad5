// What the bindings of CUDA kernels share: tensors as the kernels read them. Includes torch.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda_types.h"

namespace focalsr {
namespace gpu {

// Rows [., rows, channels]: dense, zeros up to a multiple of 16 bytes, aligned.
inline at::Tensor aligned_rows(const at::Tensor& x) {
  const int64_t piece = 16 / x.element_size(), extra = (piece - x.size(-1) % piece) % piece;
  if (extra != 0) return at::constant_pad_nd(x, {0, extra}).contiguous();
  const at::Tensor dense = x.contiguous();
  return reinterpret_cast<uintptr_t>(dense.const_data_ptr()) % 16 == 0 ? dense : dense.clone();
}

inline Types types_of(const at::Tensor& values, const at::Tensor& index) {
  const auto entry = index.scalar_type() == at::kShort ? Entry::kShort : Entry::kInt;
  switch (values.scalar_type()) {
    case at::kFloat: return {Value::kFloat, entry};
    case at::kHalf: return {Value::kHalf, entry};
    case at::kBFloat16: return {Value::kBFloat16, entry};
    default: TORCH_CHECK_VALUE(false, "type ", values.scalar_type(), " is not supported on CUDA");
  }
}

inline void launched(int error) {
  TORCH_CHECK(error == cudaSuccess, "a kernel could not be started: ",
              cudaGetErrorString(static_cast<cudaError_t>(error)));
}

inline void* current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

}  // namespace gpu
}  // namespace focalsr
