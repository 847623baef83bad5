// Focused attention for the CPU: layers whose queries have lists of keys, one query at a time. Shapes and rules as in
// focus.h.

#include <torch/library.h>

#include "focus.h"

namespace focalsr::focus {
namespace {

constexpr int64_t kTile = 24;  // rows of queries that are read at once

template <class T, class A, class I>
Forward sparse_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const Tensor& logits,
                       const Tensor& index, const Sizes& s, int64_t topk, A scale) {
  const Table<A> bias(table, s);
  const int64_t length = index.size(3), after = std::min(topk, length);
  const bool selects = after < length;
  Tensor out = token_major(q, s.width);
  Tensor next = numbers<A>(q, {s.windows, s.heads, s.tokens, after});
  Tensor kept_index = at::empty(selects ? next.sizes() : at::IntArrayRef{0}, index.options());
  Tensor log_sum = numbers<A>(q, {s.windows, s.heads, s.tokens});
  const A* const logits_from = logits.const_data_ptr<A>();
  const I* const index_from = index.const_data_ptr<I>();
  A* const next_to = next.mutable_data_ptr<A>();
  I* const index_to = kept_index.mutable_data_ptr<I>();
  A* const sum_to = log_sum.mutable_data_ptr<A>();
  const View<T> q_view(q), k_view(k), v_view(v), out_view(out);
  const int64_t width = padded<A>(s.width), vectors = vectors_of<A>(s.width);
  std::atomic<bool> good{true};
  at::parallel_for(0, s.items(), 1, [&](int64_t begin, int64_t end) {
    Buffer<A> key(s.tokens * width), value(s.tokens * width), query(kTile * width), sum(width);
    Buffer<A> row(padded<A>(length)), weight(padded<A>(length)), kept(padded<A>(after));
    Buffer<int32_t> list(length), slot(after + 1), kept_list(after);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t w = item / s.heads, h = item % s.heads;
      k_view.pack(w, h, s.tokens, key.get());
      v_view.pack(w, h, s.tokens, value.get());
      for (int64_t i = 0; i < s.tokens; ++i) {
        if (i % kTile == 0)
          pack_rows<A>(q_view.at(w, h) + i * q_view.token, q_view.token, q_view.channel, std::min(kTile, s.tokens - i),
                       s.width, query.get());
        A* const q_row = query.get() + i % kTile * width;
        for (int64_t c = 0; c < width; ++c) q_row[c] *= scale;
        const int64_t at = item * s.tokens + i;
        if (!read_list(index_from + at * length, length, s.tokens, list.get())) good = false;
        gather_dot(q_row, key.get(), width, vectors, list.get(), length, row.get());
        add_listed(bias.of_query(h, i), s.side, list.get(), logits_from + at * length, length, row.get());
        const A total = row_weights(row.get(), length, row_maximum(row.get(), length), row.get(), weight.get());
        sum_to[at] = std::log(total);
        const A share = A(1) / total;
        if (selects) {
          smallest(row.get(), length, after, slot.get());
          for (int64_t j = 0; j < after; ++j) {
            next_to[at * after + j] = -row[slot[j]];
            kept_list[j] = list[slot[j]];
            index_to[at * after + j] = static_cast<I>(kept_list[j]);
            kept[j] = weight[slot[j]] * share;
          }
          gather_sum(kept.get(), value.get(), width, vectors, kept_list.get(), after, sum.get());
        } else {
          for (int64_t j = 0; j < length; ++j) next_to[at * length + j] = -row[j];
          for (int64_t j = 0; j < length; ++j) weight[j] *= share;
          gather_sum(weight.get(), value.get(), width, vectors, list.get(), length, sum.get());
        }
        out_view.unpack_row(sum.get(), w, h, i);
      }
    }
  });
  TORCH_CHECK_INDEX(good.load(), "focused attention: the list holds keys outside 0 to ", s.tokens - 1);
  return {out, next, kept_index, log_sum};
}

using SparseGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// Two passes over the queries, so that two arrays of rows are in the cache and not four: values first, then keys.
template <class T, class A, class I>
SparseGradients sparse_backward(const Tensor& grad, const OptionalTensor& grad_logits, const Tensor& q, const Tensor& k,
                                const Tensor& v, const Tensor& table, const Tensor& logits, const Tensor& index,
                                const OptionalTensor& kept_index, const Tensor& log_sum, const Sizes& s, A scale) {
  const Table<A> bias(table, s);
  const bool selects = kept_index.has_value();
  const int64_t length = index.size(3), after = selects ? kept_index->size(3) : length;
  Tensor d_q = token_major(q, s.width), d_k = token_major(q, s.width), d_v = token_major(q, s.width);
  Tensor d_logits = at::empty(index.sizes(), logits.options());
  TableGradient<A> d_table(s, table);
  const View<T> grad_view(grad), q_view(q), k_view(k), v_view(v), q_to(d_q), k_to(d_k), v_to(d_v);
  const A* const logits_from = logits.const_data_ptr<A>();
  const I* const index_from = index.const_data_ptr<I>();
  const I* const kept_from = selects ? kept_index->const_data_ptr<I>() : index_from;
  const A* const next_from = grad_logits ? grad_logits->const_data_ptr<A>() : nullptr;
  const A* const sum_from = log_sum.const_data_ptr<A>();
  A* const d_to = d_logits.mutable_data_ptr<A>();
  const int64_t width = padded<A>(s.width), vectors = vectors_of<A>(s.width);
  std::atomic<bool> good{true};
  at::parallel_for(0, s.items(), 1, [&](int64_t begin, int64_t end) {
    Buffer<A> rows(s.tokens * width), sums(s.tokens * width), one(s.tokens * width), d_one(width);
    Buffer<A> row(padded<A>(length)), weight(padded<A>(after)), d_weight(padded<A>(after));
    Buffer<int32_t> list(length), kept(after), slot(after);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t w = item / s.heads, h = item % s.heads;
      if (selects) {  // weights of all keys of the list, into the place of the gradient
        k_view.pack(w, h, s.tokens, rows.get());
        q_view.pack(w, h, s.tokens, one.get());
        for (int64_t i = 0; i < s.tokens; ++i) {
          const int64_t at = item * s.tokens + i;
          A* const q_row = one.get() + i * width;
          for (int64_t c = 0; c < width; ++c) q_row[c] *= scale;
          if (!read_list(index_from + at * length, length, s.tokens, list.get())) good = false;
          gather_dot(q_row, rows.get(), width, vectors, list.get(), length, row.get());
          add_listed(bias.of_query(h, i), s.side, list.get(), logits_from + at * length, length, row.get());
          const A shift = row_maximum(row.get(), length) + sum_from[at];
          for (int64_t j = 0; j < length; j += kLanes<A>)
            store(row.get() + j, exponential<A>(load(row.get() + j) - all<A>(shift)));
          for (int64_t j = 0; j < length; ++j) d_to[at * length + j] = row[j];
        }
      }
      v_view.pack(w, h, s.tokens, rows.get());
      grad_view.pack(w, h, s.tokens, one.get());
      std::fill_n(sums.get(), s.tokens * width, A(0));
      for (int64_t i = 0; i < s.tokens; ++i) {
        const int64_t at = item * s.tokens + i;
        if (!read_list(kept_from + at * after, after, s.tokens, kept.get())) good = false;
        gather_dot(one.get() + i * width, rows.get(), width, vectors, kept.get(), after, d_weight.get());
        A* const d_row = d_to + at * length;
        if (selects) {
          int64_t place = 0;
          for (int64_t j = 0; j < length && place < after; ++j) {
            slot[place] = static_cast<int32_t>(j);
            place += index_from[at * length + j] == kept_from[at * after + place];
          }
          if (place < after) {  // no part of the list
            good = false;
            for (; place < after; ++place) slot[place] = 0;
          }
          for (int64_t j = 0; j < after; ++j) weight[j] = d_row[slot[j]];
        } else {
          for (int64_t j = 0; j < length; ++j) row[j] = logits_from[at * length + j] - sum_from[at];
          fill_tail(row.get(), length, A(0));
          for (int64_t j = 0; j < length; j += kLanes<A>)
            store(weight.get() + j, exponential<A>(load(row.get() + j)));
        }
        A mean = 0;
        for (int64_t j = 0; j < after; ++j) mean += weight[j] * d_weight[j];
        scatter_outer(weight.get(), one.get() + i * width, sums.get(), width, vectors, kept.get(), after);
        const A* const next = next_from ? next_from + at * after : nullptr;
        if (selects) {
          for (int64_t j = 0; j < length; ++j) d_row[j] *= -mean;
          for (int64_t j = 0; j < after; ++j) d_row[slot[j]] += weight[j] * d_weight[j] + (next ? next[j] : A(0));
        } else {
          for (int64_t j = 0; j < length; ++j) d_row[j] = weight[j] * (d_weight[j] - mean);
          if (next)
            for (int64_t j = 0; j < length; ++j) d_row[j] += next[j];
        }
      }
      v_to.unpack(sums.get(), w, h, s.tokens, A(1));

      k_view.pack(w, h, s.tokens, rows.get());
      q_view.pack(w, h, s.tokens, one.get());
      std::fill_n(sums.get(), s.tokens * width, A(0));
      A* const part = d_table.part(item);
      for (int64_t i = 0; i < s.tokens; ++i) {
        const int64_t at = item * s.tokens + i;
        const A* const d_row = d_to + at * length;
        read_list(index_from + at * length, length, s.tokens, list.get());
        scatter_outer(d_row, one.get() + i * width, sums.get(), width, vectors, list.get(), length);
        gather_sum(d_row, rows.get(), width, vectors, list.get(), length, d_one.get());
        for (int64_t c = 0; c < width; ++c) one[i * width + c] = d_one[c];  // this query is not needed any more
        A* const bins = part + bias.offset(i);
        for (int64_t j = 0; j < length; ++j) bins[bias.positions()[list[j]]] += d_row[j];
      }
      q_to.unpack(one.get(), w, h, s.tokens, scale);
      k_to.unpack(sums.get(), w, h, s.tokens, scale);
    }
  });
  TORCH_CHECK_INDEX(good.load(), "focused attention: the lists are no keys from 0 to ", s.tokens - 1,
                    ", or one is no part of the other");
  return {d_q, d_k, d_v, d_table.total(table.size(1)), d_logits};
}


Forward sparse(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const Tensor& logits,
               const Tensor& index, int64_t side, int64_t topk, double scale) {
  const Sizes s = sizes_of(q, side);
  check_like(k, q, "k");
  check_like(v, q, "v");
  TORCH_CHECK_VALUE(k.size(3) == s.width && v.size(3) == s.width && topk > 0,
                    "focused attention: q, k, v are ", q.sizes(), ", ", k.sizes(), ", ", v.sizes(), ", topk is ", topk);
  check_list(index, logits, s);
  const Tensor carried = logits.contiguous(), lists = index.contiguous();
  return dispatch(q, lists.scalar_type(), [&](auto stored, auto arithmetic, auto list) {
    using A = decltype(arithmetic);
    check_numbers<A>(table, "the table");
    check_numbers<A>(carried, "logits");
    return sparse_forward<decltype(stored), A, decltype(list)>(q, k, v, table, carried, lists, s, topk,
                                                              static_cast<A>(scale));
  });
}

SparseGradients sparse_gradients(const Tensor& grad, const OptionalTensor& grad_logits, const Tensor& q, const Tensor& k,
                                 const Tensor& v, const Tensor& table, const Tensor& logits, const Tensor& index,
                                 const OptionalTensor& kept_index, const Tensor& log_sum, int64_t side, double scale) {
  const Sizes s = sizes_of(q, side);
  check_like(k, q, "k");
  check_like(v, q, "v");
  check_like(grad, q, "the gradient");
  check_list(index, logits, s);
  const Tensor carried = logits.contiguous(), lists = index.contiguous(), sums = log_sum.contiguous();
  OptionalTensor next, kept;
  if (kept_index) kept = kept_index->contiguous();
  if (kept) TORCH_CHECK_VALUE(kept->size(3) > 0 && kept->scalar_type() == lists.scalar_type(), "focused attention: kept list");
  if (grad_logits) next = grad_logits->contiguous();
  return dispatch(q, lists.scalar_type(), [&](auto stored, auto arithmetic, auto list) {
    using A = decltype(arithmetic);
    return sparse_backward<decltype(stored), A, decltype(list)>(grad, next, q, k, v, table, carried, lists, kept, sums,
                                                               s, static_cast<A>(scale));
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("focus_sparse", sparse);
  m.impl("focus_sparse_backward", sparse_gradients);
}

}  // namespace focalsr::focus
