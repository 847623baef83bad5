// Steps between products of whole windows, on CUDA tensors; the operators are defined in ops/maps.py.
//
// Shapes: c windows of one head from window `first` on, maps [c, N, M]; what belongs to queries is [W, h, N, .], dense.

#include <torch/library.h>

#include "focus_bindings.h"
#include "maps_cuda.h"

namespace focalsr {
namespace {

using gpu::RowShape;

const void* address(const OptionalTensor& x) { return x ? x->const_data_ptr() : nullptr; }
const float* floats(const OptionalTensor& x) { return static_cast<const float*>(address(x)); }

void check_map(const Tensor& map, const Tensor& like) {
  TORCH_CHECK_VALUE(map.dim() == 3 && map.is_contiguous() && map.sizes() == like.sizes() && map.is_cuda() &&
                        map.device() == like.device(), "a map is ", map.sizes(), ", expected a dense ", like.sizes());
}

// Something that is dense, of float, and as large as `numel`.
void check_dense(const OptionalTensor& x, const Tensor& map, int64_t numel) {
  if (x)
    TORCH_CHECK_VALUE(x->is_contiguous() && x->scalar_type() == at::kFloat && x->numel() == numel &&
                          x->device() == map.device(), "numbers beside a map are ", x->sizes());
}

// Lists [W, h, N, .] of int16 or int32, of at most M keys.
void check_lists(const OptionalTensor& x, const Tensor& map, at::IntArrayRef queries) {
  if (x)
    TORCH_CHECK_VALUE(x->dim() == 4 && x->is_contiguous() && x->sizes().slice(0, 3) == queries &&
                          (x->scalar_type() == at::kShort || x->scalar_type() == at::kInt) &&
                          x->device() == map.device(), "lists are ", x->sizes());
}

void focus(const Tensor& products, const OptionalTensor& scores, const OptionalTensor& logits, const Tensor& log_sum,
           const OptionalTensor& grad_next, const OptionalTensor& lists, const OptionalTensor& kept, const Tensor& table,
           const OptionalTensor& regions, const OptionalTensor& d_logits, const Tensor& gradient, const Tensor& weights,
           int64_t side, int64_t first, int64_t head, double scale) {
  TORCH_CHECK_VALUE(log_sum.dim() == 3 && (lists || kept), "focused attention: a layer without lists");
  const int64_t windows = log_sum.size(0), heads = log_sum.size(1), tokens = log_sum.size(2), queries = log_sum.numel();
  TORCH_CHECK_VALUE(products.scalar_type() == at::kFloat && products.size(2) == tokens && tokens == side * side &&
                        first >= 0 && head >= 0 && head < heads && first + products.size(0) <= windows,
                    "a map of products is ", products.sizes());
  for (const Tensor& map : {products, gradient, weights}) check_map(map, products);
  TORCH_CHECK_VALUE(gradient.scalar_type() == weights.scalar_type(), "maps of two types");
  if (scores) check_map(*scores, products);
  for (const OptionalTensor& x : {lists, kept}) check_lists(x, products, log_sum.sizes());
  if (regions)
    TORCH_CHECK_VALUE(regions->dim() == 2 && regions->is_contiguous() && regions->scalar_type() == at::kByte &&
                          regions->size(0) > 0 && regions->size(1) == tokens && regions->device() == products.device(),
                      "regions are ", regions->sizes());
  const int64_t length = lists ? lists->size(3) : 0, after = kept ? kept->size(3) : length;
  check_dense(log_sum, products, queries);
  check_dense(logits, products, queries * length);
  check_dense(d_logits, products, queries * length);
  check_dense(grad_next, products, queries * after);
  check_dense(table, products, (2 * side - 1) * (2 * side - 1) * table.size(-1));
  TORCH_CHECK_VALUE(kept.has_value() == scores.has_value() && lists.has_value() == logits.has_value() &&
                        lists.has_value() == d_logits.has_value() && (table.size(1) == 1 || table.size(1) == heads),
                    "focused attention: operands do not fit each other");
  const c10::cuda::CUDAGuard guard(products.device());
  const int64_t at = (first * heads + head) * tokens;  // of the first query, in what belongs to queries
  const auto moved = [&](const float* x, int64_t each) { return x == nullptr ? nullptr : x + at * each; };
  const auto moved_list = [&](const OptionalTensor& x) -> const void* {
    return x ? static_cast<const char*>(x->const_data_ptr()) + at * x->size(3) * x->element_size() : nullptr;
  };
  const gpu::MapBias bias{table.const_data_ptr<float>() + (table.size(1) == 1 ? 0 : head),
                          static_cast<const uint8_t*>(address(regions)), side, table.size(1),
                          regions ? regions->size(0) : 1, first};
  const gpu::FocusMap p{products.const_data_ptr<float>(), floats(scores), moved(floats(logits), length),
                        log_sum.const_data_ptr<float>() + at, moved(floats(grad_next), after), moved_list(lists),
                        moved_list(kept), gradient.mutable_data_ptr(), weights.mutable_data_ptr(),
                        d_logits ? d_logits->mutable_data_ptr<float>() + at * length : nullptr, bias,
                        static_cast<float>(scale)};
  const RowShape s{products.size(0), tokens, tokens, length, after, heads * tokens};
  gpu::launched(gpu::map_focus(gpu::types_of(gradient, lists ? *lists : *kept), p, s, gpu::current_stream()));
}

// Values and lists [c, N, K] beside a map.
RowShape listed(const Tensor& map, const Tensor& values, const Tensor& lists) {
  TORCH_CHECK_VALUE(map.dim() == 3 && map.is_contiguous() && lists.dim() == 3 && lists.is_contiguous() &&
                        values.is_contiguous() && values.sizes() == lists.sizes() &&
                        lists.sizes().slice(0, 2) == map.sizes().slice(0, 2) && map.is_cuda() &&
                        values.device() == map.device() && lists.device() == map.device(),
                    "a map is ", map.sizes(), ", values ", values.sizes(), ", lists ", lists.sizes());
  TORCH_CHECK_VALUE(lists.scalar_type() == at::kShort || lists.scalar_type() == at::kInt, "lists are int16 or int32");
  return {map.size(0), map.size(1), map.size(2), lists.size(2), lists.size(2), map.size(1)};
}

void spread(const Tensor& values, const Tensor& lists, const Tensor& map) {
  const RowShape s = listed(map, values, lists);
  TORCH_CHECK_VALUE(map.scalar_type() == values.scalar_type(), "values and map are of two types");
  const c10::cuda::CUDAGuard guard(map.device());
  gpu::launched(gpu::map_spread(gpu::types_of(values, lists), values.const_data_ptr(), lists.const_data_ptr(),
                                map.mutable_data_ptr(), s, gpu::current_stream()));
}

void collect(const Tensor& map, const Tensor& lists, const Tensor& values) {
  const RowShape s = listed(map, values, lists);
  const c10::cuda::CUDAGuard guard(map.device());
  gpu::launched(gpu::map_collect(gpu::types_of(values, lists), map.const_data_ptr<float>(), lists.const_data_ptr(),
                                 values.mutable_data_ptr(), s, gpu::current_stream()));
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CUDA, m) {
  m.impl("map_focus", focus);
  m.impl("map_spread", spread);
  m.impl("map_collect", collect);
}

}  // namespace focalsr
