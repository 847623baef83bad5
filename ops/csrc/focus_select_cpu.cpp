// Focused attention for the CPU: layers that see all keys and select some. Logits exist for a few rows of queries at a
// time. Shapes and rules as in focus.h.

#include <torch/library.h>

#include "focus_dense.h"

namespace focalsr::focus {
namespace {

template <class T, class A, class I>
Forward select_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                       const OptionalTensor& regions, const Sizes& s, int64_t topk) {
  const Table<A> bias(table, s);
  Tensor out = token_major(q, v.size(3));
  Tensor logits = numbers<A>(q, {s.windows, s.heads, s.tokens, topk});
  Tensor index = at::empty(logits.sizes(), q.options().dtype(list_type(s.tokens)));
  Tensor log_sum = numbers<A>(q, {s.windows, s.heads, s.tokens});
  in_large_pages(logits);
  in_large_pages(index);
  A* const logits_to = logits.mutable_data_ptr<A>();
  I* const index_to = index.mutable_data_ptr<I>();
  A* const sum_to = log_sum.mutable_data_ptr<A>();
  const View<T> out_view(out), value_view(v);
  const int64_t value_width = padded<A>(v.size(3)), vectors = vectors_of<A>(v.size(3));
  at::parallel_for(0, s.items(), 1, [&](int64_t begin, int64_t end) {
    DenseLogits<T, A> dense(q, k, bias, regions, s);
    const int64_t room = padded<A>(s.tokens) + kLanes<A>;
    Buffer<A> value(s.tokens * value_width), weight(room), kept_row(room), kept(room), sum(value_width);
    Buffer<int32_t> slot(room);
    Chooser<A> choose(s.tokens);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t w = item / s.heads, h = item % s.heads;
      dense.begin(w, h);
      value_view.pack(w, h, s.tokens, value.get());
      for (int64_t first = 0; first < s.tokens; first += kTile) {
        const int64_t count = std::min(kTile, s.tokens - first);
        A* tile = dense.logits(first, count);
        for (int64_t r = 0; r < count; ++r) {
          A* row = tile + r * dense.stride();
          const int64_t at = item * s.tokens + first + r;
          const A total = row_weights(row, s.tokens, row_maximum(row, s.tokens), row, weight.get());
          keep<A>(row, weight.get(), nullptr, s.tokens, choose(row, s.tokens, topk), kept_row.get(), kept.get(),
                  slot.get());
          negated(kept_row.get(), topk, logits_to + at * topk);
          for (int64_t j = 0; j < topk; ++j) index_to[at * topk + j] = static_cast<I>(slot[j]);
          sum_to[at] = std::log(total);
          gather_sum(kept.get(), value.get(), value_width, vectors, slot.get(), topk, sum.get());
          out_view.unpack(sum.get(), w, h, first + r, 1, A(1) / total);
        }
      }
    }
  });
  return {out, logits, index, log_sum};
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <class T, class A, class I>
Gradients select_backward(const Tensor& grad, const OptionalTensor& grad_logits, const Tensor& q, const Tensor& k,
                          const Tensor& v, const Tensor& table, const OptionalTensor& regions, const Tensor& index,
                          const Tensor& log_sum, const Sizes& s) {
  const Table<A> bias(table, s);
  const int64_t length = index.size(3);
  Tensor d_q = token_major(q, s.width), d_k = token_major(q, s.width), d_v = token_major(q, v.size(3));
  TableGradient<A> d_table(s, table);
  const View<T> grad_view(grad), key_view(k), value_view(v), q_to(d_q), k_to(d_k), v_to(d_v);
  const I* const index_from = index.const_data_ptr<I>();
  const A* const sum_from = log_sum.const_data_ptr<A>();
  const A* const next_from = grad_logits ? grad_logits->const_data_ptr<A>() : nullptr;
  const int64_t value_width = padded<A>(v.size(3)), vectors = vectors_of<A>(v.size(3));
  std::atomic<bool> good{true};
  at::parallel_for(0, s.items(), 1, [&](int64_t begin, int64_t end) {
    DenseLogits<T, A> dense(q, k, bias, regions, s);
    const int64_t width = dense.width();
    Buffer<A> key(s.tokens * width), by_query(s.tokens * width), by_key(s.tokens * width);
    Buffer<A> value(s.tokens * value_width), upstream(s.tokens * value_width), by_value(s.tokens * value_width);
    Buffer<A> kept(padded<A>(length)), d_kept(padded<A>(length));
    Buffer<int32_t> list(length);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t w = item / s.heads, h = item % s.heads;
      dense.begin(w, h);
      key_view.pack(w, h, s.tokens, key.get());
      value_view.pack(w, h, s.tokens, value.get());
      grad_view.pack(w, h, s.tokens, upstream.get());
      std::fill_n(by_key.get(), s.tokens * width, A(0));
      std::fill_n(by_value.get(), s.tokens * value_width, A(0));
      A* const part = d_table.part(item);
      for (int64_t first = 0; first < s.tokens; first += kTile) {
        const int64_t count = std::min(kTile, s.tokens - first);
        A* tile = dense.logits(first, count);
        for (int64_t r = 0; r < count; ++r) {
          A* row = tile + r * dense.stride();
          const int64_t at = item * s.tokens + first + r;
          const A* const up = upstream.get() + (first + r) * value_width;
          if (!read_list(index_from + at * length, length, s.tokens, list.get())) good = false;
          gather_dot(up, value.get(), value_width, vectors, list.get(), length, d_kept.get());
          const A shift = row_maximum(row, s.tokens) + sum_from[at];
          for (int64_t i = 0; i < padded<A>(s.tokens); i += kLanes<A>)
            store(row + i, exponential<A>(load(row + i) - all<A>(shift)));
          for (int64_t j = 0; j < length; ++j) kept[j] = row[list[j]];
          const A mean = row_product(kept.get(), d_kept.get(), length);
          scatter_outer(kept.get(), up, by_value.get(), value_width, vectors, list.get(), length);
          for (int64_t i = 0; i < padded<A>(s.tokens); i += kLanes<A>) store(row + i, load(row + i) * all<A>(-mean));
          for (int64_t j = 0; j < length; ++j)
            row[list[j]] += kept[j] * d_kept[j] + (next_from ? next_from[at * length + j] : A(0));
          add_to_bins(row, s.side, part + bias.offset(first + r));
        }
        product<A>(tile, dense.stride(), 1, key.get(), width, by_query.get() + first * width, width, count, width,
                   s.tokens);
        product<A>(tile, 1, dense.stride(), dense.queries() + first * width, width, by_key.get(), width, s.tokens,
                   width, count, by_key.get(), width);
      }
      q_to.unpack(by_query.get(), w, h, 0, s.tokens, A(1));
      k_to.unpack(by_key.get(), w, h, 0, s.tokens, A(1));
      v_to.unpack(by_value.get(), w, h, 0, s.tokens, A(1));
    }
  });
  TORCH_CHECK_INDEX(good.load(), "focused attention: the list holds keys outside 0 to ", s.tokens - 1);
  return {d_q, d_k, d_v, d_table.total(table.size(1))};
}


Forward select(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const OptionalTensor& regions,
               int64_t side, int64_t topk) {
  const Sizes s = sizes_of(q, side);
  check_like(k, q, "k");
  check_like(v, q, "v");
  TORCH_CHECK_VALUE(k.size(3) == s.width, "focused attention: k has the width ", k.size(3), ", q ", s.width);
  TORCH_CHECK_VALUE(topk > 0 && topk < s.tokens, "focused attention: ", topk, " of ", s.tokens, " keys to select");
  check_regions(regions, s);
  return dispatch(q, list_type(s.tokens), [&](auto stored, auto arithmetic, auto list) {
    using A = decltype(arithmetic);
    check_numbers<A>(table, "the table");
    return select_forward<decltype(stored), A, decltype(list)>(q, k, v, table, regions, s, topk);
  });
}

Gradients select_gradients(const Tensor& grad, const OptionalTensor& grad_logits, const Tensor& q, const Tensor& k,
                           const Tensor& v, const Tensor& table, const OptionalTensor& regions, const Tensor& index,
                           const Tensor& log_sum, int64_t side) {
  const Sizes s = sizes_of(q, side);
  check_like(k, q, "k");
  check_like(v, q, "v");
  check_like(grad, q, "the gradient");
  check_list(index, grad_logits.value_or(index), s);
  check_regions(regions, s);
  const Tensor lists = index.contiguous(), sums = log_sum.contiguous();
  const OptionalTensor next = grad_logits ? OptionalTensor(grad_logits->contiguous()) : grad_logits;
  return dispatch(q, lists.scalar_type(), [&](auto stored, auto arithmetic, auto list) {
    using A = decltype(arithmetic);
    return select_backward<decltype(stored), A, decltype(list)>(grad, next, q, k, v, table, regions, lists, sums, s);
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("focus_select", select);
  m.impl("focus_select_backward", select_gradients);
}

}  // namespace focalsr::focus
