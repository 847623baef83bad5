// Depth-wise convolutions and the gradient of their kernels on CUDA tensors. The messages for people are in ops/depthwise.py.

#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <torch/library.h>

#include <optional>

#include "cuda_bindings.h"
#include "depthwise_cuda.h"

namespace focalsr {
namespace {

using at::Tensor;

// x [B, H, W, C], weight [C, 1, K, K], bias [C] or none -> [B, H, W, C]
Tensor depthwise_convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, bool turned) {
  TORCH_CHECK_VALUE(x.dim() == 4 && weight.dim() == 4 && weight.size(0) == x.size(3) && weight.size(1) == 1 &&
                        weight.size(2) == weight.size(3), "the kernel does not fit the map");
  const auto fits = [&](const Tensor& other) {
    return other.scalar_type() == x.scalar_type() && other.device() == x.device();
  };
  TORCH_CHECK_VALUE(x.is_cuda() && fits(weight), "expected tensors of one type on one CUDA device");
  if (bias) TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == x.size(3) && fits(*bias), "the bias does not fit");
  const c10::cuda::CUDAGuard guard(x.device());
  const Tensor map = x.contiguous(), taps = weight.contiguous(), base = bias ? bias->contiguous() : Tensor();
  Tensor out = at::empty(map.sizes(), map.options());
  const gpu::MapShape s{x.size(0), x.size(1), x.size(2), x.size(3)};
  gpu::launched(gpu::depthwise_convolve(gpu::types_of(x, x).value, map.const_data_ptr(), taps.const_data_ptr(),
                                        base.defined() ? base.const_data_ptr() : nullptr, out.mutable_data_ptr(), s,
                                        weight.size(3), turned, gpu::current_stream()));
  return out;
}

// x, grad [B, H, W, C] -> [C, 1, K, K]
Tensor depthwise_weight_gradient(const Tensor& x, const Tensor& grad, int64_t K) {
  TORCH_CHECK_VALUE(x.dim() == 4 && grad.sizes() == x.sizes(), "expected maps of one size");
  TORCH_CHECK_VALUE(x.scalar_type() == at::kFloat && grad.scalar_type() == at::kFloat, "expected float32");
  TORCH_CHECK_VALUE(x.is_cuda() && grad.device() == x.device(), "expected tensors on one CUDA device");
  const c10::cuda::CUDAGuard guard(x.device());
  const Tensor map = x.contiguous(), upstream = grad.contiguous();
  const gpu::MapShape s{x.size(0), x.size(1), x.size(2), x.size(3)};
  const Tensor parts = at::empty({gpu::depthwise_segments(s), K * K, s.C}, x.options());
  gpu::launched(gpu::depthwise_weight_parts(map.const_data_ptr<float>(), upstream.const_data_ptr<float>(),
                                            parts.mutable_data_ptr<float>(), s, K, gpu::current_stream()));
  return at::sum(parts, at::IntArrayRef{0}).t().contiguous().view({s.C, 1, K, K});
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CUDA, m) {
  m.impl("depthwise_convolve", depthwise_convolve);
  m.impl("depthwise_weight_gradient", depthwise_weight_gradient);
}

}  // namespace focalsr
