// The gradient of a depth-wise convolution's kernel on CUDA tensors. The messages for people are in ops/depthwise.py.

#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <torch/library.h>

#include "cuda_bindings.h"
#include "depthwise_cuda.h"

namespace focalsr {
namespace {

using at::Tensor;

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

TORCH_LIBRARY_IMPL(focalsr, CUDA, m) { m.impl("depthwise_weight_gradient", depthwise_weight_gradient); }

}  // namespace focalsr
