// focus_select on CUDA tensors: lays rows out as the kernels read them, and registers.
//
// Shapes as in focus.h; the messages for people are in ops/focused/arguments.py.

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "focus_bindings.h"
#include "focus_cuda.h"

namespace focalsr {
namespace {

using gpu::SelectShape;

SelectShape shape_of(const Tensor& q, const Tensor& rows_q, const Tensor& channels, const Tensor& v, const Tensor& rows_v,
                     const Tensor& table, const OptionalTensor& regions, int64_t topk, int64_t side) {
  const int64_t tokens = q.size(2);
  const gpu::FocusShape focus{{q.size(0) * q.size(1), tokens, tokens, topk, v.size(3), rows_v.size(2)}, topk, side,
                              q.size(1), table.size(1), 1.0f};
  return {focus, q.size(3), rows_q.size(2), channels.size(2), regions ? regions->size(0) : 1};
}

void check(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const OptionalTensor& regions,
           int64_t side, int64_t topk) {
  check_window(q, table, side);
  check_like(k, q);
  TORCH_CHECK_VALUE(v.dim() == 4 && v.sizes().slice(0, 3) == q.sizes().slice(0, 3) &&
                        v.scalar_type() == q.scalar_type() && v.device() == q.device(),
                    "focused attention: v is ", v.sizes(), ", q ", q.sizes());
  TORCH_CHECK_VALUE(q.size(2) <= gpu::kMostTokens && topk > 0 && topk < q.size(2), "focused attention: ", topk, " of ",
                    q.size(2), " keys to select, expected fewer, of at most ", gpu::kMostTokens);
  if (regions)
    TORCH_CHECK_VALUE(regions->dim() == 2 && regions->scalar_type() == at::kByte && regions->size(1) == q.size(2) &&
                          regions->size(0) > 0 && regions->device() == q.device(),
                      "focused attention: regions are ", regions->sizes(), " of ", regions->scalar_type());
}

// The layouts in which the kernels read the operands of a layer; two of them are for the backward pass.
struct Operands {
  Tensor q, k, q_t, k_t, v, table, regions;
  Operands(const Tensor& q4, const Tensor& k4, const Tensor& v4, const Tensor& given_table,
           const OptionalTensor& given_regions, bool backward)
      : q(rows_of(q4)), k(backward ? rows_of(k4) : Tensor()), q_t(backward ? rows_of(q4.transpose(2, 3)) : Tensor()),
        k_t(rows_of(k4.transpose(2, 3))), v(rows_of(v4)), table(given_table.contiguous()),
        regions(given_regions ? given_regions->contiguous() : Tensor()) {}
  gpu::SelectOperands pointers() const {
    const auto address = [](const Tensor& x) { return x.defined() ? x.const_data_ptr() : nullptr; };
    return {address(q), address(k), address(q_t), address(k_t), address(v), table.const_data_ptr<float>(),
            static_cast<const uint8_t*>(address(regions))};
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> select(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                                                  const OptionalTensor& regions, int64_t side, int64_t topk) {
  check(q, k, v, table, regions, side, topk);
  const c10::cuda::CUDAGuard guard(q.device());
  const Operands x(q, k, v, table, regions, false);
  const auto numbers = x.table.options();
  Tensor out = token_major(q, v.size(3)), logits = at::empty({q.size(0), q.size(1), q.size(2), topk}, numbers);
  Tensor index = at::empty(logits.sizes(), numbers.dtype(at::kShort));  // there are at most kMostTokens keys
  Tensor log_sum = at::empty(q.sizes().slice(0, 3), numbers);
  const gpu::SelectForward p{x.pointers(), out.mutable_data_ptr(), logits.mutable_data_ptr<float>(),
                             index.mutable_data_ptr<int16_t>(), log_sum.mutable_data_ptr<float>()};
  const SelectShape s = shape_of(q, x.q, x.k_t, v, x.v, table, regions, topk, side);
  gpu::launched(gpu::focus_select(gpu::types_of(q, index).value, p, s, gpu::current_stream()));
  return {out, logits, index, log_sum};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> select_backward(
    const Tensor& grad, const OptionalTensor& grad_logits, const Tensor& q, const Tensor& k, const Tensor& v,
    const Tensor& table, const OptionalTensor& regions, const Tensor& index, const Tensor& log_sum, int64_t side) {
  const int64_t topk = index.size(-1);
  check(q, k, v, table, regions, side, topk);
  check_like(grad, v);
  check_float(log_sum, q);
  const std::vector<int64_t> sizes{q.size(0), q.size(1), q.size(2), topk};
  TORCH_CHECK_VALUE(index.sizes() == sizes && index.device() == q.device() && index.scalar_type() == at::kShort &&
                        log_sum.sizes() == q.sizes().slice(0, 3), "focused attention: the lists or sums do not fit");
  if (grad_logits) check_next(*grad_logits, q, sizes);
  const c10::cuda::CUDAGuard guard(q.device());
  const Operands x(q, k, v, table, regions, true);
  const Tensor rows_grad = rows_of(grad), lists = index.contiguous(), sums = log_sum.contiguous();
  const Tensor next = grad_logits ? grad_logits->contiguous() : Tensor();
  const SelectShape s = shape_of(q, x.q, x.k_t, v, x.v, table, regions, topk, side);
  const auto numbers = x.table.options();
  Tensor d_q = token_major(q, q.size(3)), d_k = token_major(q, q.size(3)), d_v = token_major(q, v.size(3));
  Tensor d_table = at::empty(table.sizes(), numbers);
  const Tensor shift = at::empty(log_sum.sizes(), numbers), mean = at::empty(log_sum.sizes(), numbers);
  const Tensor weights = at::empty(sizes, numbers), extra = at::empty(sizes, numbers);
  const Tensor parts = at::empty({gpu::focus_select_parts(s)}, numbers);
  const Tensor workspace = at::empty({gpu::focus_select_workspace(s)}, numbers.dtype(at::kInt));
  const gpu::SelectBackward p{x.pointers(), rows_grad.const_data_ptr(),
                              next.defined() ? next.const_data_ptr<float>() : nullptr, sums.const_data_ptr<float>(),
                              lists.const_data_ptr<int16_t>(), d_q.mutable_data_ptr(), d_k.mutable_data_ptr(),
                              d_v.mutable_data_ptr(), d_table.mutable_data_ptr<float>(), shift.mutable_data_ptr<float>(),
                              mean.mutable_data_ptr<float>(), weights.mutable_data_ptr<float>(),
                              extra.mutable_data_ptr<float>(), parts.mutable_data_ptr<float>(),
                              workspace.mutable_data_ptr<int32_t>()};
  gpu::launched(gpu::focus_select_backward(gpu::types_of(q, lists).value, p, s, gpu::current_stream()));
  return {d_q, d_k, d_v, d_table};
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CUDA, m) {
  m.impl("focus_select", select);
  m.impl("focus_select_backward", select_backward);
}

}  // namespace focalsr
