// What focused attention does with one row of logits: softmax terms, lists and biases. CPU; no torch header.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "focus_choice.h"

namespace focalsr {

// Rows have room for whole vectors; the functions set what stands behind the last of `count` entries.
template <class A>
FOCALSR_INLINE void fill_tail(A* row, int64_t count, A value) {
  for (int64_t i = count; i < padded<A>(count); ++i) row[i] = value;
}

// Numbers that are none are passed over.
template <class A>
FOCALSR_INLINE A row_maximum(A* row, int64_t count) {
  fill_tail(row, count, -std::numeric_limits<A>::infinity());
  Vec<A> most = all(-std::numeric_limits<A>::infinity());
  for (int64_t i = 0; i < count; i += kLanes<A>) {
    const Vec<A> x = load(row + i);
    most = most < x ? x : most;
  }
  return largest_lane<A>(most);
}

// depth = maximum - row, weight = exp(-depth); returns the sum of the weights. `depth` may be `row`. Where a depth is no
// number its sign is taken away, so that it comes after all others in a choice.
template <class A>
FOCALSR_INLINE A row_weights(const A* row, int64_t count, A maximum, A* depth, A* weight) {
  typedef BitsOf<A> Bits __attribute__((vector_size(kVectorBytes)));
  const Vec<A> top = all<A>(maximum);
  const auto take = [&](int64_t i) {
    const Vec<A> x = load(row + i) - top;
    store(depth + i, (Vec<A>)((Bits)x & std::numeric_limits<BitsOf<A>>::max()));  // no depth is below zero
    return x;
  };
  return exponentials_of_row<A>(count, take, [&](int64_t i, Vec<A> e) { store(weight + i, e); });
}

// row -= maximum, into `to`, and weight = exp of that; returns the sum of the weights. `to` has room for `count` numbers,
// all others for whole vectors.
template <class A>
FOCALSR_INLINE A shifted_weights(const A* row, int64_t count, A maximum, A* to, A* weight) {
  const Vec<A> top = all<A>(maximum);
  const int64_t whole = count / kLanes<A> * kLanes<A>;
  const auto take = [&](int64_t i) {
    const Vec<A> x = load(row + i) - top;
    if (i < whole)
      store(to + i, x);
    else
      std::memcpy(to + i, &x, sizeof(A) * static_cast<std::size_t>(count - whole));
    return x;
  };
  return exponentials_of_row<A>(padded<A>(count), take, [&](int64_t i, Vec<A> e) { store(weight + i, e); });
}

// to = -from; `to` has no room for a whole vector at its end.
template <class A>
FOCALSR_INLINE void negated(const A* from, int64_t count, A* to) {
  int64_t i = 0;
  for (; i + kLanes<A> <= count; i += kLanes<A>) store(to + i, -load(from + i));
  for (; i < count; ++i) to[i] = -from[i];
}

// The sum of the products of two rows, which hold whole vectors.
template <class A>
FOCALSR_INLINE A row_product(A* a, A* b, int64_t count) {
  fill_tail(a, count, A(0));
  fill_tail(b, count, A(0));
  Vec<A> sums[2] = {};
  int64_t i = 0;
  for (; i + kLanes<A> < count; i += 2 * kLanes<A>) {
    sums[0] += load(a + i) * load(b + i);
    sums[1] += load(a + i + kLanes<A>) * load(b + i + kLanes<A>);
  }
  if (i < count) sums[0] += load(a + i) * load(b + i);
  return sum_of_lanes<A>(sums[0] + sums[1]);
}

// A dense list of one query; as decode_index, in a loop that becomes vectors. `each(j, key)` may note more of a key.
template <class I, class F>
FOCALSR_INLINE bool read_list(const I* __restrict from, int64_t count, int64_t keys, int32_t* __restrict to, F&& each) {
  using Unsigned = std::make_unsigned_t<I>;  // keys below zero become large
  uint32_t most = 0;
  for (int64_t j = 0; j < count; ++j) {
    const auto key = static_cast<uint32_t>(static_cast<Unsigned>(from[j]));
    to[j] = static_cast<int32_t>(key);
    each(j, static_cast<int32_t>(key));
    most = key > most ? key : most;
  }
  if (most < static_cast<uint32_t>(keys)) return true;
  const bool good = decode_index(from, 1, count, keys, to);
  for (int64_t j = 0; j < count; ++j) each(j, to[j]);
  return good;
}
template <class I>
FOCALSR_INLINE bool read_list(const I* from, int64_t count, int64_t keys, int32_t* to) {
  return read_list(from, count, keys, to, [](int64_t, int32_t) {});
}

// Position of a key, key / side (2 side - 1) + key % side. Computed: that is faster than looked up.
FOCALSR_INLINE int32_t position(int32_t key, int32_t side, float part_of_side) {
  const auto row = static_cast<int32_t>((static_cast<float>(key) + 0.5f) * part_of_side);
  return key + row * (side - 1);
}

// The keys of a list: where their rows begin, and where their biases are among those of a query.
struct ListedKeys {
  const int32_t *start, *place;
};

// Logits of the layers before, and biases: `before` the former of the listed keys, `bias` those of the query with all
// positions of a window.
template <class A>
struct ListedTerms {
  const A* before;
  const A* bias;
};

namespace detail {

// One vector of products with biases, as `dots`. A bias is what the first sum of its key begins with: gathering several
// into a vector takes as long as all products.
template <class A, int V, int N>
FOCALSR_INLINE void biased_products(const Vec<A> (&query)[V], const A* rows, ListedKeys keys, int64_t first,
                                    const A* bias, Vec<A> (&sum)[N]) {
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i)
    sum[i] = Vec<A>{bias[static_cast<uint32_t>(keys.place[first + i])]} +
             query[0] * load(rows + static_cast<uint32_t>(keys.start[first + i]));
#pragma GCC unroll 8
  for (int v = 1; v < V; ++v)
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i)
      sum[i] += query[v] * load(rows + static_cast<uint32_t>(keys.start[first + i]) + v * kLanes<A>);
}

// The sums of lanes of eight vectors in three steps, in each of which two vectors become one that is half as far.
FOCALSR_INLINE Vec<float> summed_by_four(Vec<float> a, Vec<float> b) {
  return __builtin_shufflevector(a, b, 0, 1, 10, 11, 4, 5, 14, 15) +
         __builtin_shufflevector(a, b, 2, 3, 8, 9, 6, 7, 12, 13);
}
FOCALSR_INLINE Vec<float> summed_by_two(Vec<float> a, Vec<float> b) {
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
         __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}
FOCALSR_INLINE Vec<float> summed_by_half(Vec<float> a, Vec<float> b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 12, 13, 14, 15) +
         __builtin_shufflevector(a, b, 4, 5, 6, 7, 8, 9, 10, 11);
}

// Calls give(first key, products of as many keys as a vector has lanes) for all of a list.
template <class A, int V, class F>
FOCALSR_INLINE void for_products(const Vec<A> (&query)[V], const A* rows, ListedKeys keys, int64_t count,
                                 const A* bias, F&& give) {
  if constexpr (kLanes<A> == 8) {
    // What is left to sum up of eight keys alternates with the products of the next: each waits for what is before it,
    // and a processor looks ahead no further than over twelve keys.
    Vec<A> by_four[4];
    const auto four = [&](int64_t k, Vec<A>& a, Vec<A>& b) {
      Vec<A> sum[4];
      biased_products<A, V>(query, rows, keys, k, bias, sum);
      a = summed_by_four(sum[0], sum[1]);
      b = summed_by_four(sum[2], sum[3]);
    };
    four(0, by_four[0], by_four[1]);
    four(4, by_four[2], by_four[3]);
    int64_t k = 8;
    for (; k < count; k += 8) {
      const Vec<A> low = summed_by_two(by_four[0], by_four[1]);
      four(k, by_four[0], by_four[1]);
      const Vec<A> high = summed_by_two(by_four[2], by_four[3]);
      four(k + 4, by_four[2], by_four[3]);
      give(k - 8, summed_by_half(low, high));
    }
    give(k - 8, summed_by_half(summed_by_two(by_four[0], by_four[1]), summed_by_two(by_four[2], by_four[3])));
  } else {
    for (int64_t k = 0; k < count; k += kLanes<A>) {
      Vec<A> sum[kLanes<A>];
      biased_products<A, V>(query, rows, keys, k, bias, sum);
      give(k, sums(sum));
    }
  }
}

// The last V vectors of a product of listed rows: `out` begins with what earlier vectors gave, if there were any.
template <class A, int V>
A listed_logits(const A* x, const A* rows, ListedKeys keys, int64_t count, ListedTerms<A> terms, A* out,
                bool add) {
  Vec<A> query[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) query[v] = load(x + v * kLanes<A>);
  const A* before = terms.before;
  Vec<A> most = all(-std::numeric_limits<A>::infinity());
  for_products<A, V>(query, rows, keys, count, terms.bias, [&](int64_t k, Vec<A> products) {
    Vec<A> logit = products + load(before + k);
    if (add) logit += load(out + k);
    store(out + k, logit);
    most = most < logit ? logit : most;
  });
  return largest_lane<A>(most);
}

}  // namespace detail

// out = <x, rows of listed keys> + terms; returns the largest. All hold whole vectors, the lists at least one, with keys
// that exist.
template <class A>
A listed_logits(const A* x, const A* rows, int64_t vectors, ListedKeys keys, int64_t count,
                const ListedTerms<A>& terms, A* out) {
  A most = 0;
  detail::for_pieces(vectors, [&](auto size, int64_t first) {
    constexpr int V = decltype(size)::value;
    constexpr std::integral_constant<int64_t, 1> kOne{};
    const A *x_at = x + first * kLanes<A>, *rows_at = rows + first * kLanes<A>;
    if (first + V < vectors) return detail::gather_dot<A, V>(x_at, rows_at, kOne, keys.start, count, out, first > 0);
    most = detail::listed_logits<A, V>(x_at, rows_at, keys, count, terms, out, first > 0);
  });
  return most;
}

}  // namespace focalsr
