// What the bindings of focused attention on CUDA share: layouts, and checks that keep every access in bounds. Shapes as
// in focus.h. Includes torch.
#pragma once

#include <ATen/ops/empty.h>

#include <optional>
#include <tuple>
#include <vector>

#include "cuda_bindings.h"

namespace focalsr {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// [W, h, N, D] -> rows [W * h, N, D] as the kernels read them.
inline Tensor rows_of(const Tensor& x) { return gpu::aligned_rows(x.flatten(0, 1)); }

inline Tensor token_major(const Tensor& q, int64_t width) {
  return at::empty({q.size(0), q.size(2), q.size(1), width}, q.options()).transpose(1, 2);
}

// Tensors beside q: where it is, and of its type and shape, or of float.
inline void check_like(const Tensor& x, const Tensor& q) {
  TORCH_CHECK_VALUE(x.sizes() == q.sizes() && x.scalar_type() == q.scalar_type() && x.device() == q.device(),
                    "focused attention: operands differ in shape, type or device");
}
inline void check_float(const Tensor& x, const Tensor& q) {
  TORCH_CHECK_VALUE(x.scalar_type() == at::kFloat && x.device() == q.device(),
                    "focused attention: expected float32 on the device of q");
}

inline void check_window(const Tensor& q, const Tensor& table, int64_t side) {
  TORCH_CHECK_VALUE(q.dim() == 4 && side > 0 && side <= 1024 && q.size(2) == side * side, "focused attention: q is ",
                    q.sizes(), ", expected windows of ", side, " x ", side);
  const int64_t rows = (2 * side - 1) * (2 * side - 1);
  TORCH_CHECK_VALUE(table.dim() == 2 && table.size(0) == rows && (table.size(1) == 1 || table.size(1) == q.size(1)),
                    "focused attention: the table is ", table.sizes());
  check_float(table, q);
}

// The gradient of the logits that a layer handed on.
inline void check_next(const Tensor& grad_logits, const Tensor& q, at::IntArrayRef sizes) {
  check_float(grad_logits, q);
  TORCH_CHECK_VALUE(grad_logits.sizes() == sizes, "focused attention: the gradient of the logits does not fit");
}

}  // namespace focalsr
