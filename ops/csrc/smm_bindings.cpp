// smm_qmk and smm_amv on CUDA tensors: lays rows out as the kernels read them, and registers.
//
// The checks keep every access in bounds; the messages for people are in ops/sparse/arguments.py.

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>

#include "cuda_bindings.h"
#include "smm_cuda.h"

namespace focalsr {
namespace {

using at::Tensor;
using gpu::aligned_rows;
using gpu::current_stream;
using gpu::launched;
using gpu::ListShape;
using gpu::types_of;

// int16 and int32 as they are; wider entries as int32, with those that do not fit kept outside every range.
Tensor dense_index(const Tensor& index) {
  if (index.scalar_type() != at::kLong) return index.contiguous();
  return index.clamp(-1, (int64_t{1} << 31) - 1).to(at::kInt).contiguous();
}

// x [B, N, C], y [B, M, C] -> [B, N, K]
Tensor dot(const Tensor& x, const Tensor& y, const Tensor& index) {
  const Tensor rows_x = aligned_rows(x), rows_y = aligned_rows(y), list = dense_index(index);
  const ListShape s{x.size(0), x.size(1), y.size(1), index.size(2), x.size(2), rows_x.size(2)};
  Tensor out = at::empty(index.sizes(), x.options());
  launched(gpu::smm_dot(types_of(x, list), rows_x.const_data_ptr(), rows_y.const_data_ptr(), list.const_data_ptr(),
                        out.mutable_data_ptr(), s, current_stream()));
  return out;
}

// w [B, N, K], y [B, M, C] -> [B, N, C]
Tensor sum(const Tensor& w, const Tensor& y, const Tensor& index) {
  const Tensor weights = w.contiguous(), rows = aligned_rows(y), list = dense_index(index);
  const ListShape s{w.size(0), w.size(1), y.size(1), w.size(2), y.size(2), rows.size(2)};
  Tensor out = at::empty({s.B, s.N, s.C}, w.options());
  launched(gpu::smm_sum(types_of(w, list), weights.const_data_ptr(), rows.const_data_ptr(), list.const_data_ptr(),
                        out.mutable_data_ptr(), s, current_stream()));
  return out;
}

// w [B, N, K], x [B, N, C] -> [B, M, C]
Tensor scatter(const Tensor& w, const Tensor& x, const Tensor& index, int64_t M) {
  const Tensor weights = w.contiguous(), rows = aligned_rows(x), list = dense_index(index);
  const ListShape s{w.size(0), w.size(1), M, w.size(2), x.size(2), rows.size(2)};
  Tensor out = at::empty({s.B, s.M, s.C}, w.options());
  const Tensor workspace = at::empty({gpu::smm_scatter_workspace(s)}, w.options().dtype(at::kInt));
  launched(gpu::smm_scatter(types_of(w, list), weights.const_data_ptr(), rows.const_data_ptr(), list.const_data_ptr(),
                            out.mutable_data_ptr(), s, workspace.mutable_data_ptr<int32_t>(), current_stream()));
  return out;
}

// a [B, N, .], rows [B, M, .], index [B, N, K]
void check(const Tensor& a, const Tensor& rows, const Tensor& index) {
  TORCH_CHECK_VALUE(a.dim() == 3 && rows.dim() == 3 && index.dim() == 3, "expected three dimensions each");
  TORCH_CHECK_VALUE(a.size(0) == index.size(0) && rows.size(0) == index.size(0) && index.size(1) == a.size(1),
                    "batch sizes or numbers of queries differ");
  TORCH_CHECK_VALUE(a.scalar_type() == rows.scalar_type(), "operands of two types");
  TORCH_CHECK_VALUE(index.scalar_type() == at::kShort || index.scalar_type() == at::kInt ||
                        index.scalar_type() == at::kLong, "index must be int16, int32 or int64");
  TORCH_CHECK_VALUE(a.is_cuda() && rows.device() == a.device() && index.device() == a.device(),
                    "expected tensors on one CUDA device");
  constexpr int64_t kMost = int64_t{1} << 31;
  TORCH_CHECK_VALUE(rows.size(1) < kMost && index.size(1) * index.size(2) < kMost, "too many keys or slots");
}

Tensor qmk(const Tensor& q, const Tensor& k_t, const Tensor& index) {
  const Tensor k = k_t.transpose(-2, -1);
  check(q, k, index);
  TORCH_CHECK_VALUE(q.size(2) == k.size(2), "widths differ");
  const c10::cuda::CUDAGuard guard(q.device());
  return dot(q, k, index);
}

Tensor amv(const Tensor& attn, const Tensor& v, const Tensor& index) {
  check(attn, v, index);
  TORCH_CHECK_VALUE(attn.size(2) == index.size(2), "weights and list differ in length");
  const c10::cuda::CUDAGuard guard(attn.device());
  return sum(attn, v, index);
}

std::tuple<Tensor, Tensor> qmk_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k_t, const Tensor& index, bool q_wanted, bool k_wanted) {
  const Tensor k = k_t.transpose(-2, -1);
  check(q, k, index);
  check(grad, k, index);
  TORCH_CHECK_VALUE(q.size(2) == k.size(2), "widths differ");
  TORCH_CHECK_VALUE(grad.sizes() == index.sizes(), "the gradient does not fit");
  const c10::cuda::CUDAGuard guard(q.device());
  return {q_wanted ? sum(grad, k, index) : at::empty({0}, q.options()),
          k_wanted ? scatter(grad, q, index, k.size(1)).transpose(1, 2) : at::empty({0}, q.options())};
}

std::tuple<Tensor, Tensor> amv_backward(
    const Tensor& grad, const Tensor& attn, const Tensor& v, const Tensor& index, bool attn_wanted, bool v_wanted) {
  check(attn, v, index);
  check(grad, v, index);
  TORCH_CHECK_VALUE(attn.size(2) == index.size(2), "weights and list differ in length");
  TORCH_CHECK_VALUE(grad.size(2) == v.size(2), "the gradient does not fit");
  const c10::cuda::CUDAGuard guard(attn.device());
  return {attn_wanted ? dot(grad, v, index) : at::empty({0}, attn.options()),
          v_wanted ? scatter(attn, grad, index, v.size(1)) : at::empty({0}, attn.options())};
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CUDA, m) {
  m.impl("smm_qmk", qmk);
  m.impl("smm_amv", amv);
  m.impl("smm_qmk_backward", qmk_backward);
  m.impl("smm_amv_backward", amv_backward);
}

}  // namespace focalsr
