// Focused attention for the CPU: layers that see all keys and keep them. The bias table is read, and its gradient summed,
// as it is, so that no map of the queries and keys of a window exists. Shapes and rules as in focus.h.

#include <torch/library.h>

#include "focus_dense.h"
#include "softmax.h"

namespace focalsr::focus {
namespace {

template <class T, class A>
Tensor all_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const OptionalTensor& regions,
                   const Sizes& s) {
  const Table<A> bias(table, s);
  Tensor out = token_major(q, v.size(3));
  const View<T> out_view(out), value_view(v);
  const int64_t value_width = padded<A>(v.size(3)), room = padded<A>(s.tokens);
  at::parallel_for(0, s.items(), 1, [&](int64_t begin, int64_t end) {
    DenseLogits<T, A> dense(q, k, bias, regions, s);
    Buffer<A> value(s.tokens * value_width), sums(kTile * value_width), totals(kTile);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t w = item / s.heads, h = item % s.heads;
      dense.begin(w, h);
      value_view.pack(w, h, s.tokens, value.get());
      for (int64_t first = 0; first < s.tokens; first += kTile) {
        const int64_t count = std::min(kTile, s.tokens - first);
        A* const tile = dense.logits(first, count);
        for (int64_t r = 0; r < count; ++r) {
          A* const row = tile + r * dense.stride();
          const Vec<A> most = all<A>(row_maximum(row, s.tokens));
          totals[r] = exponentials_of_row<A>(
              room, [&](int64_t i) { return load(row + i) - most; }, [&](int64_t i, Vec<A> e) { store(row + i, e); });
        }
        product<A>(tile, dense.stride(), 1, value.get(), value_width, sums.get(), value_width, count, value_width,
                   s.tokens);
        for (int64_t r = 0; r < count; ++r)
          out_view.unpack(sums.get() + r * value_width, w, h, first + r, 1, A(1) / totals[r]);
      }
    }
  });
  return out;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The gradients of one head of a window, some rows of queries at a time; a thread has one of these.
template <class T, class A>
class AllGradient {
 public:
  AllGradient(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Table<A>& bias,
              const OptionalTensor& regions, const Sizes& s)
      : sizes_(s), bias_(bias), dense_(q, k, bias, regions, s), grad_(grad), key_from_(k), value_from_(v),
        width_(dense_.width()), value_width_(padded<A>(v.size(3))), key_(s.tokens * width_), by_key_(s.tokens * width_),
        by_query_(kTile * width_), upstream_(kTile * value_width_), by_value_(s.tokens * value_width_),
        value_t_(v.size(3) * dense_.stride()), d_tile_(kTile * dense_.stride()) {}

  void operator()(int64_t w, int64_t h, const View<T>& q_to, const View<T>& k_to, const View<T>& v_to, A* bins) {
    const int64_t tokens = sizes_.tokens, stride = dense_.stride();
    dense_.begin(w, h);
    key_from_.pack(w, h, tokens, key_.get());
    pack_columns<A>(value_from_, w, h, tokens, value_t_.get(), stride);
    std::fill_n(by_key_.get(), tokens * width_, A(0));
    std::fill_n(by_value_.get(), tokens * value_width_, A(0));
    for (int64_t first = 0; first < tokens; first += kTile) {
      const int64_t count = std::min(kTile, tokens - first);
      pack_rows<A>(grad_.at(w, h) + first * grad_.token, grad_.token, grad_.channel, count, grad_.channels,
                   upstream_.get());
      rows(first, count, bins);
      q_to.unpack(by_query_.get(), w, h, first, count, A(1));
    }
    k_to.unpack(by_key_.get(), w, h, 0, tokens, A(1));
    v_to.unpack(by_value_.get(), w, h, 0, tokens, A(1));
  }

 private:
  // What queries from `first` on get, and what they add to keys and values.
  void rows(int64_t first, int64_t count, A* bins) {
    const int64_t tokens = sizes_.tokens, stride = dense_.stride();
    A* const tile = dense_.logits(first, count);
    A* const d_tile = d_tile_.get();
    product<A>(upstream_.get(), value_width_, 1, value_t_.get(), stride, d_tile, stride, count, padded<A>(tokens),
               grad_.channels);
    for (int64_t r = 0; r < count; ++r) {
      fill_tail(tile + r * stride, tokens, -std::numeric_limits<A>::infinity());
      softmax_gradient(false, tile + r * stride, d_tile + r * stride, padded<A>(tokens));
      add_to_bins(d_tile + r * stride, sizes_.side, bins + bias_.offset(first + r));
    }
    product<A>(tile, 1, stride, upstream_.get(), value_width_, by_value_.get(), value_width_, tokens, value_width_, count,
               by_value_.get(), value_width_);
    product<A>(d_tile, 1, stride, dense_.queries() + first * width_, width_, by_key_.get(), width_, tokens, width_, count,
               by_key_.get(), width_);
    product<A>(d_tile, stride, 1, key_.get(), width_, by_query_.get(), width_, count, width_, tokens);
  }

  const Sizes& sizes_;
  const Table<A>& bias_;
  DenseLogits<T, A> dense_;
  const View<T> grad_, key_from_, value_from_;
  const int64_t width_, value_width_;
  const Buffer<A> key_, by_key_, by_query_, upstream_, by_value_, value_t_, d_tile_;
};

template <class T, class A>
Gradients all_backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                       const OptionalTensor& regions, const Sizes& s) {
  const Table<A> bias(table, s);
  Tensor d_q = token_major(q, s.width), d_k = token_major(q, s.width), d_v = token_major(q, v.size(3));
  TableGradient<A> d_table(s, table);
  const View<T> q_to(d_q), k_to(d_k), v_to(d_v);
  at::parallel_for(0, s.items(), 1, [&](int64_t begin, int64_t end) {
    AllGradient<T, A> gradient(grad, q, k, v, bias, regions, s);
    for (int64_t item = begin; item < end; ++item)
      gradient(item / s.heads, item % s.heads, q_to, k_to, v_to, d_table.part(item));
  });
  return {d_q, d_k, d_v, d_table.total(table.size(1))};
}

Tensor keep_all(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const OptionalTensor& regions,
                int64_t side) {
  const Sizes s = sizes_of(q, side);
  check_like(k, q, "k");
  check_like(v, q, "v");
  TORCH_CHECK_VALUE(k.size(3) == s.width, "focused attention: k has the width ", k.size(3), ", q ", s.width);
  check_regions(regions, s);
  return dispatch(q, list_type(s.tokens), [&](auto stored, auto arithmetic, auto) {
    using A = decltype(arithmetic);
    check_numbers<A>(table, "the table");
    return all_forward<decltype(stored), A>(q, k, v, table, regions, s);
  });
}

Gradients all_gradients(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                        const OptionalTensor& regions, int64_t side) {
  const Sizes s = sizes_of(q, side);
  check_like(k, q, "k");
  check_like(v, q, "v");
  check_like(grad, q, "the gradient");
  TORCH_CHECK_VALUE(k.size(3) == s.width && grad.size(3) == v.size(3), "focused attention: k has the width ", k.size(3),
                    ", q ", s.width, ", the gradient ", grad.size(3), ", v ", v.size(3));
  check_regions(regions, s);
  return dispatch(q, list_type(s.tokens), [&](auto stored, auto arithmetic, auto) {
    using A = decltype(arithmetic);
    check_numbers<A>(table, "the table");
    return all_backward<decltype(stored), A>(grad, q, k, v, table, regions, s);
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("focus_all", keep_all);
  m.impl("focus_all_backward", all_gradients);
}

}  // namespace focalsr::focus
