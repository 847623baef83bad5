// Focused attention for the CPU: layers whose queries have lists of keys, one query at a time. Shapes and rules as in
// focus.h.

#include <torch/library.h>

#include "focus.h"

namespace focalsr::focus {
namespace {

// The lists and the logits on them of the layer before, of `queries` queries at once, in whole vectors.
template <class A, class I>
class Before {
 public:
  Before(int64_t length, const Sizes& s, int64_t queries = 1, bool lists = true)
      : length_(length), room_(padded<A>(length)), tokens_(s.tokens), list_step_(lists ? room_ : 0),
        width_(static_cast<int32_t>(padded<A>(s.width))), side_(static_cast<int32_t>(s.side)),
        list_(lists ? queries * room_ : room_), start_(queries * room_), place_(room_), row_(room_) {}

  // False if the list holds keys that do not exist; others are in their place then. `logits` and `places` are those of
  // the last query that was read.
  bool read(const A* logits, const I* index, int64_t query = 0) {
    int32_t *const list = list_.get() + query * list_step_, *const start = start_.get() + query * room_;
    int32_t *const place = place_.get(), width = width_, side = side_;
    const float part = 1.0f / static_cast<float>(side);
    const bool good = read_list(index, length_, tokens_, list, [=](int64_t j, int32_t key) {
      start[j] = static_cast<int32_t>(static_cast<uint32_t>(key) * static_cast<uint32_t>(width));
      place[j] = position(key, side, part);
    });
    here_ = logits;
    if (length_ != room_) {
      std::copy_n(here_, length_, row_.get());
      fill_tail(row_.get(), length_, -std::numeric_limits<A>::infinity());  // of no weight
      for (int32_t* const x : {list, start, place}) std::fill(x + length_, x + room_, x[length_ - 1]);
      here_ = row_.get();
    }
    return good;
  }
  const int32_t* list(int64_t query = 0) const { return list_.get() + query * list_step_; }
  const int32_t* start(int64_t query = 0) const { return start_.get() + query * room_; }  // of the rows of the keys
  ListedKeys keys(int64_t query = 0) const { return {start(query), place_.get()}; }
  const A* logits() const { return here_; }

 private:
  int64_t length_, room_, tokens_, list_step_;
  int32_t width_, side_;
  Buffer<int32_t> list_, start_, place_;
  Buffer<A> row_;
  const A* here_ = nullptr;
};

// Rows of some queries from `first` on, multiplied.
template <class T, class A>
void pack_scaled(const View<T>& q, int64_t w, int64_t h, int64_t first, int64_t rows, A scale, A* to) {
  pack_rows<A>(q.at(w, h) + first * q.token, q.token, q.channel, rows, q.channels, to);
  for (int64_t c = 0; c < rows * padded<A>(q.channels); ++c) to[c] *= scale;
}

// List of keys, from int32; and the numbers at which their rows begin, in its place.
template <class I>
FOCALSR_INLINE void write_list(int32_t* __restrict list, int64_t count, int32_t width, I* __restrict to) {
  for (int64_t j = 0; j < count; ++j) {
    to[j] = static_cast<I>(list[j]);
    list[j] *= width;
  }
}

// Logits or lists of a layer, [W, h, N, length]: where each head of a window begins; its queries follow each other.
template <class E>
struct Rows {
  explicit Rows(const Tensor& x)
      : data(const_cast<E*>(x.const_data_ptr<E>())), window(x.stride(0)), head(x.stride(1)), length(x.size(3)) {}
  E* at(int64_t w, int64_t h, int64_t query) const { return data + w * window + h * head + query * length; }
  Rows shortened(int64_t to) const {
    Rows result = *this;
    result.length = to;
    return result;
  }
  E* data;
  int64_t window, head, length;
};

// What a layer reads and writes. The results may begin where the operands do: a query's are read before they are
// written, as are those of the queries behind it that are taken with it, and no result of a query reaches beyond the
// operands of the same query.
template <class A, class I>
struct Carried {
  Rows<A> logits;
  Rows<I> index;
  Rows<A> next;
  Rows<I> kept;  // not written to if as many keys as before are kept
};

// The forward pass of one head of a window at a time. Logits of some queries are computed, and then their sums of values:
// queries side by side list much the same keys, so that rows come from the first-level cache, of one array in turn.
template <class T, class A, class I>
class SparseForward {
 public:
  struct Operands {
    View<T> q, k, v, out;
    A* log_sum;
  };

  SparseForward(const Operands& of, const Table<A>& bias, const Carried<A, I>& carried, const Sizes& s, A scale)
      : of_(of), bias_(bias), carried_(carried), s_(s), scale_(scale), room_(padded<A>(carried.logits.length)),
        width_(padded<A>(s.width)), key_(s.tokens * width_), value_(s.tokens * width_), query_(kTogether * width_),
        sum_(width_), row_(kTogether * room_), most_(kTogether), weight_(room_), kept_row_(room_ + kLanes<A>),
        kept_(room_ + kLanes<A>), kept_list_(room_ + kLanes<A>), choose_(carried.logits.length),
        before_(carried.logits.length, s, kTogether, carried.next.length < carried.logits.length) {}

  // False if a list holds keys that do not exist.
  bool run(int64_t w, int64_t h) {
    of_.k.pack(w, h, s_.tokens, key_.get());
    of_.v.pack(w, h, s_.tokens, value_.get());
    bool good = true;
    for (int64_t first = 0; first < s_.tokens; first += kTogether) {
      const int64_t count = std::min(kTogether, s_.tokens - first);
      pack_scaled(of_.q, w, h, first, count, scale_, query_.get());
      for (int64_t i = 0; i < count; ++i) {
        good &= before_.read(carried_.logits.at(w, h, first + i), carried_.index.at(w, h, first + i), i);
        most_[i] = listed_logits<A>(query_.get() + i * width_, key_.get(), width_ / kLanes<A>, before_.keys(i), room_,
                                    {before_.logits(), bias_.of_query(h, first + i)}, row_.get() + i * room_);
      }
      for (int64_t i = 0; i < count; ++i) {
        const A total = finish(w, h, first, i);
        of_.log_sum[(w * s_.heads + h) * s_.tokens + first + i] = std::log(total);
        of_.out.unpack(sum_.get(), w, h, first + i, 1, A(1) / total);
      }
    }
    return good;
  }

 private:
  static constexpr int64_t kTogether = 8;  // queries

  // Writes logits and list of a query, and sums up its values; returns the sum of all weights.
  A finish(int64_t w, int64_t h, int64_t first, int64_t i) {
    A* const row = row_.get() + i * room_;
    A* const next = carried_.next.at(w, h, first + i);
    const int64_t length = carried_.logits.length, after = carried_.next.length, vectors = width_ / kLanes<A>;
    if (after == length) {
      const A total = shifted_weights(row, length, most_[i], next, weight_.get());
      gather_sum(weight_.get(), value_.get(), 1, vectors, before_.start(i), length, sum_.get());
      return total;
    }
    const A total = row_weights(row, room_, most_[i], row, weight_.get());
    keep(row, weight_.get(), before_.list(i), length, choose_(row, length, after), kept_row_.get(), kept_.get(),
         kept_list_.get());
    negated(kept_row_.get(), after, next);
    write_list(kept_list_.get(), after, static_cast<int32_t>(width_), carried_.kept.at(w, h, first + i));
    gather_sum(kept_.get(), value_.get(), 1, vectors, kept_list_.get(), after, sum_.get());
    return total;
  }

  const Operands& of_;
  const Table<A>& bias_;
  const Carried<A, I>& carried_;
  const Sizes& s_;
  const A scale_;
  const int64_t room_, width_;
  Buffer<A> key_, value_, query_, sum_, row_, most_, weight_, kept_row_, kept_;
  Buffer<int32_t> kept_list_;
  Chooser<A> choose_;
  Before<A, I> before_;
};

template <class T, class A, class I>
std::tuple<Tensor, Tensor> sparse_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                                          const Carried<A, I>& carried, const Sizes& s, A scale) {
  const Table<A> bias(table, s);
  Tensor out = token_major(q, s.width);
  Tensor log_sum = numbers<A>(q, {s.windows, s.heads, s.tokens});
  const typename SparseForward<T, A, I>::Operands operands{View<T>(q), View<T>(k), View<T>(v), View<T>(out),
                                                           log_sum.mutable_data_ptr<A>()};
  std::atomic<bool> good{true};
  at::parallel_for(0, s.items(), 1, [&](int64_t begin, int64_t end) {
    SparseForward<T, A, I> forward(operands, bias, carried, s, scale);
    for (int64_t item = begin; item < end; ++item)
      if (!forward.run(item / s.heads, item % s.heads)) good = false;
  });
  TORCH_CHECK_INDEX(good.load(), "focused attention: the list holds keys outside 0 to ", s.tokens - 1);
  return {out, log_sum};
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
    Buffer<int32_t> list(length), kept(after), slot(after), slot_of(s.tokens);
    std::fill_n(slot_of.get(), s.tokens, 0);  // what no list has held is in no place
    Before<A, I> before(length, s);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t w = item / s.heads, h = item % s.heads;
      if (selects) {  // weights of all keys of the list, into the place of the gradient
        k_view.pack(w, h, s.tokens, rows.get());
        pack_scaled(q_view, w, h, 0, s.tokens, scale, one.get());
        for (int64_t i = 0; i < s.tokens; ++i) {
          const int64_t at = item * s.tokens + i;
          if (!before.read(logits_from + at * length, index_from + at * length)) good = false;
          const A most = listed_logits<A>(one.get() + i * width, rows.get(), vectors, before.keys(), padded<A>(length),
                                          {before.logits(), bias.of_query(h, i)}, row.get());
          const Vec<A> shift = all<A>(most + sum_from[at]);
          for (int64_t j = 0; j < length; j += kLanes<A>)
            store(row.get() + j, exponential<A>(load(row.get() + j) - shift));
          std::copy_n(row.get(), length, d_to + at * length);
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
          if (!read_list(index_from + at * length, length, s.tokens, list.get())) good = false;
          for (int64_t j = 0; j < length; ++j) slot_of[list[j]] = static_cast<int32_t>(j);
          bool part = true;  // of the list
          for (int64_t j = 0; j < after; ++j) {
            slot[j] = slot_of[kept[j]];
            part &= list[slot[j]] == kept[j];
            weight[j] = d_row[slot[j]];
          }
          if (!part) good = false;
        } else {
          for (int64_t j = 0; j < length; ++j) row[j] = logits_from[at * length + j] - sum_from[at];
          fill_tail(row.get(), length, A(0));
          for (int64_t j = 0; j < length; j += kLanes<A>)
            store(weight.get() + j, exponential<A>(load(row.get() + j)));
        }
        const A mean = row_product(weight.get(), d_weight.get(), after);
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
      v_to.unpack(sums.get(), w, h, 0, s.tokens, A(1));

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
      q_to.unpack(one.get(), w, h, 0, s.tokens, scale);
      k_to.unpack(sums.get(), w, h, 0, s.tokens, scale);
    }
  });
  TORCH_CHECK_INDEX(good.load(), "focused attention: the lists are no keys from 0 to ", s.tokens - 1,
                    ", or one is no part of the other");
  return {d_q, d_k, d_v, d_table.total(table.size(1)), d_logits};
}


// f(T, A, I), after checks of all operands.
template <class F>
auto checked(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const Tensor& logits,
             const Tensor& index, const Sizes& s, int64_t topk, F&& f) {
  check_like(k, q, "k");
  check_like(v, q, "v");
  TORCH_CHECK_VALUE(k.size(3) == s.width && v.size(3) == s.width && topk > 0,
                    "focused attention: q, k, v are ", q.sizes(), ", ", k.sizes(), ", ", v.sizes(), ", topk is ", topk);
  check_list(index, logits, s);
  TORCH_CHECK_VALUE(s.tokens * padded<float>(s.width) < int64_t{1} << 31, "focused attention: q is too large, ", q.sizes());
  return dispatch(q, index.scalar_type(), [&](auto stored, auto arithmetic, auto list) {
    using A = decltype(arithmetic);
    check_numbers<A>(table, "the table");
    check_numbers<A>(logits, "logits");
    return f(stored, arithmetic, list);
  });
}

Forward sparse(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const Tensor& logits,
               const Tensor& index, int64_t side, int64_t topk, double scale) {
  const Sizes s = sizes_of(q, side);
  const Tensor carried = logits.contiguous(), lists = index.contiguous();
  return checked(q, k, v, table, carried, lists, s, topk, [&](auto stored, auto arithmetic, auto list) {
    using A = decltype(arithmetic);
    using I = decltype(list);
    const int64_t length = lists.size(3), after = std::min(topk, length);
    Tensor next = numbers<A>(q, {s.windows, s.heads, s.tokens, after});
    Tensor kept = at::empty(after < length ? next.sizes() : at::IntArrayRef{0}, lists.options());
    in_large_pages(next);
    in_large_pages(kept);
    const Rows<I> from(lists);
    const Carried<A, I> rows{Rows<A>(carried), from, Rows<A>(next), after < length ? Rows<I>(kept) : from};
    auto [out, log_sum] = sparse_forward<decltype(stored), A, I>(q, k, v, table, rows, s, static_cast<A>(scale));
    return Forward{out, next, kept, log_sum};
  });
}

void check_dense_rows(const Tensor& x, const char* name) {
  TORCH_CHECK_VALUE(x.dim() == 4 && x.stride(3) == 1 && x.stride(2) == x.size(3) &&
                        x.stride(1) >= x.size(2) * x.size(3) && x.stride(0) >= x.size(1) * x.stride(1),
                    "focused attention: ", name, " to be overwritten have strides ", x.strides());
}

std::tuple<Tensor, Tensor> sparse_in_place(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                                           const Tensor& logits, const Tensor& index, int64_t side, int64_t topk,
                                           double scale) {
  const Sizes s = sizes_of(q, side);
  check_dense_rows(logits, "logits");
  check_dense_rows(index, "lists");
  return checked(q, k, v, table, logits, index, s, topk, [&](auto stored, auto arithmetic, auto list) {
    using A = decltype(arithmetic);
    using I = decltype(list);
    const int64_t after = std::min(topk, index.size(3));
    const Rows<A> rows(logits);
    const Rows<I> keys(index);
    const Carried<A, I> carried{rows, keys, rows.shortened(after), keys.shortened(after)};
    return sparse_forward<decltype(stored), A, I>(q, k, v, table, carried, s, static_cast<A>(scale));
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
  TORCH_CHECK_VALUE(s.tokens * padded<float>(s.width) < int64_t{1} << 31, "focused attention: q is too large, ", q.sizes());
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
  m.impl("focus_sparse_", sparse_in_place);
  m.impl("focus_sparse_backward", sparse_gradients);
}

}  // namespace focalsr::focus
