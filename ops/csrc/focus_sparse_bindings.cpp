// focus_sparse on CUDA tensors: lays rows out as the kernels read them, and registers.
//
// Shapes as in focus.h; the checks keep every access in bounds, messages for people are in ops/focused/arguments.py.

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "focus_bindings.h"
#include "focus_cuda.h"

namespace focalsr {
namespace {

using gpu::FocusShape;

FocusShape shape_of(const Tensor& q, const Tensor& rows, const Tensor& table, int64_t length, int64_t after, int64_t side,
                    double scale) {
  const int64_t tokens = q.size(2);
  return {{q.size(0) * q.size(1), tokens, tokens, length, q.size(3), rows.size(2)}, after, side, q.size(1),
          table.size(1), static_cast<float>(scale)};
}

void check(const Tensor& q, const Tensor& table, const Tensor& logits, const Tensor& index, int64_t side) {
  check_window(q, table, side);
  check_float(logits, q);
  TORCH_CHECK_VALUE(index.dim() == 4 && index.sizes().slice(0, 3) == q.sizes().slice(0, 3) && index.size(3) > 0 &&
                        index.size(3) <= gpu::kLongestList && logits.sizes() == index.sizes(),
                    "focused attention: lists are ", index.sizes(), " and logits ", logits.sizes(), ", expected at most ",
                    gpu::kLongestList, " keys");
  TORCH_CHECK_VALUE(index.scalar_type() == at::kShort || index.scalar_type() == at::kInt,
                    "focused attention: lists are int16 or int32");
  TORCH_CHECK_VALUE(index.size(2) * index.size(3) < (int64_t{1} << 31), "focused attention: too many keys");
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sparse(
    const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const Tensor& logits, const Tensor& index,
    int64_t side, int64_t topk, double scale) {
  check(q, table, logits, index, side);
  for (const Tensor& x : {k, v}) check_like(x, q);
  TORCH_CHECK_VALUE(topk > 0 && index.device() == q.device(), "focused attention: topk or the device of the list");
  const c10::cuda::CUDAGuard guard(q.device());
  const int64_t length = index.size(3), after = std::min(topk, length);
  const Tensor rows_q = rows_of(q), rows_k = rows_of(k), rows_v = rows_of(v);
  const Tensor dense_table = table.contiguous(), carried = logits.contiguous(), lists = index.contiguous();
  const auto numbers = carried.options();
  Tensor out = token_major(q, q.size(3)), next = at::empty({q.size(0), q.size(1), q.size(2), after}, numbers);
  Tensor next_index = at::empty(after < length ? next.sizes() : at::IntArrayRef{0}, index.options());
  Tensor log_sum = at::empty(q.sizes().slice(0, 3), numbers);
  const gpu::FocusForward p{rows_q.const_data_ptr(), rows_k.const_data_ptr(), rows_v.const_data_ptr(),
                            dense_table.const_data_ptr<float>(), carried.const_data_ptr<float>(),
                            lists.const_data_ptr(), out.mutable_data_ptr(), next.mutable_data_ptr<float>(),
                            next_index.mutable_data_ptr(), log_sum.mutable_data_ptr<float>()};
  gpu::launched(gpu::focus_sparse(gpu::types_of(q, lists), p,
                                  shape_of(q, rows_q, table, length, after, side, scale), gpu::current_stream()));
  return {out, next, next_index, log_sum};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> sparse_backward(
    const Tensor& grad, const OptionalTensor& grad_logits, const Tensor& q, const Tensor& k, const Tensor& v,
    const Tensor& table, const Tensor& logits, const Tensor& index, const OptionalTensor& kept_index,
    const Tensor& log_sum, int64_t side, double scale) {
  check(q, table, logits, index, side);
  for (const Tensor& x : {grad, k, v}) check_like(x, q);
  check_float(log_sum, q);
  const int64_t length = index.size(3), after = kept_index ? kept_index->size(-1) : length;
  const std::vector<int64_t> kept_sizes{q.size(0), q.size(1), q.size(2), after};
  TORCH_CHECK_VALUE(index.device() == q.device() && after > 0 && after <= length &&
                        log_sum.sizes() == q.sizes().slice(0, 3),
                    "focused attention: the lists or sums do not fit");
  if (kept_index)
    TORCH_CHECK_VALUE(kept_index->sizes() == kept_sizes && kept_index->scalar_type() == index.scalar_type() &&
                          kept_index->device() == q.device(), "focused attention: the kept list does not fit");
  if (grad_logits) check_next(*grad_logits, q, kept_sizes);
  const c10::cuda::CUDAGuard guard(q.device());
  const Tensor rows_grad = rows_of(grad), rows_q = rows_of(q), rows_k = rows_of(k), rows_v = rows_of(v);
  const Tensor dense_table = table.contiguous(), carried = logits.contiguous(), lists = index.contiguous();
  const Tensor sums = log_sum.contiguous(), kept = kept_index ? kept_index->contiguous() : Tensor();
  const Tensor next = grad_logits ? grad_logits->contiguous() : Tensor();
  const FocusShape s = shape_of(q, rows_q, table, length, after, side, scale);
  const auto numbers = carried.options();
  Tensor d_q = token_major(q, q.size(3)), d_k = token_major(q, q.size(3)), d_v = token_major(q, q.size(3));
  Tensor d_table = at::empty(table.sizes(), numbers), d_logits = at::empty(index.sizes(), numbers);
  const Tensor weights = at::empty(kept_sizes, numbers), parts = at::empty({gpu::focus_parts(s)}, numbers);
  const Tensor workspace = at::empty({gpu::focus_workspace(s)}, numbers.dtype(at::kInt));
  const gpu::FocusBackward p{rows_grad.const_data_ptr(), rows_q.const_data_ptr(), rows_k.const_data_ptr(),
                             rows_v.const_data_ptr(), next.defined() ? next.const_data_ptr<float>() : nullptr,
                             dense_table.const_data_ptr<float>(), carried.const_data_ptr<float>(),
                             sums.const_data_ptr<float>(), lists.const_data_ptr(),
                             kept.defined() ? kept.const_data_ptr() : nullptr, d_q.mutable_data_ptr(),
                             d_k.mutable_data_ptr(), d_v.mutable_data_ptr(), d_table.mutable_data_ptr<float>(),
                             d_logits.mutable_data_ptr<float>(), weights.mutable_data_ptr<float>(),
                             parts.mutable_data_ptr<float>(), workspace.mutable_data_ptr<int32_t>()};
  gpu::launched(gpu::focus_sparse_backward(gpu::types_of(q, lists), p, s, gpu::current_stream()));
  return {d_q, d_k, d_v, d_table, d_logits};
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CUDA, m) {
  m.impl("focus_sparse", sparse);
  m.impl("focus_sparse_backward", sparse_backward);
}

}  // namespace focalsr
