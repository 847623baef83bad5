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
  Vec<A> total{};
  for (int64_t i = 0; i < count; i += kLanes<A>) {  // behind the row stands -inf, whose weight is 0
    const Vec<A> below = top - load(row + i);
    const Bits bits = (Bits)below & std::numeric_limits<BitsOf<A>>::max();
    store(depth + i, (Vec<A>)bits);
    const Vec<A> e = exponential<A>(-below);
    store(weight + i, e);
    total += e;
  }
  return sum_of_lanes<A>(total);
}

// row -= maximum, into `to`, and weight = exp of that; returns the sum of the weights. `to` has room for `count` numbers,
// all others for whole vectors.
template <class A>
FOCALSR_INLINE A shifted_weights(const A* row, int64_t count, A maximum, A* to, A* weight) {
  const Vec<A> top = all<A>(maximum);
  Vec<A> total{};
  int64_t i = 0;
  for (; i + kLanes<A> <= count; i += kLanes<A>) {
    const Vec<A> x = load(row + i) - top;
    const Vec<A> e = exponential<A>(x);
    store(to + i, x);
    store(weight + i, e);
    total += e;
  }
  if (i < count) {
    const Vec<A> x = load(row + i) - top;
    const Vec<A> e = exponential<A>(x);
    std::memcpy(to + i, &x, sizeof(A) * static_cast<std::size_t>(count - i));
    store(weight + i, e);
    total += e;
  }
  return sum_of_lanes<A>(total);
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

// A dense list of one query, and where the rows of its keys begin, `width` apart; as decode_index, in a loop that becomes
// vectors. `start` may be null.
template <bool kStart, class I>
FOCALSR_INLINE bool read_list(const I* __restrict from, int64_t count, int64_t keys, int32_t* __restrict to,
                              int32_t width, int32_t* __restrict start) {
  using Unsigned = std::make_unsigned_t<I>;  // keys below zero become large
  uint32_t most = 0;
  for (int64_t j = 0; j < count; ++j) {
    const auto key = static_cast<uint32_t>(static_cast<Unsigned>(from[j]));
    to[j] = static_cast<int32_t>(key);
    if constexpr (kStart) start[j] = static_cast<int32_t>(key * static_cast<uint32_t>(width));
    most = key > most ? key : most;
  }
  if (most < static_cast<uint32_t>(keys)) return true;
  const bool good = decode_index(from, 1, count, keys, to);
  if constexpr (kStart)
    for (int64_t j = 0; j < count; ++j) start[j] = to[j] * width;
  return good;
}
template <class I>
FOCALSR_INLINE bool read_list(const I* from, int64_t count, int64_t keys, int32_t* to) {
  return read_list<false>(from, count, keys, to, 0, nullptr);
}

// Logits of the layers before, and biases: `before` the former of the listed keys, `bias` those of the query with all
// positions of a window `side` wide.
template <class A>
struct ListedTerms {
  const A* before;
  const A* bias;
  int64_t side;
};

namespace detail {

template <class A>
using Places __attribute__((vector_size(sizeof(int32_t) * kLanes<A>))) = int32_t;

// Positions of as many keys as a vector has lanes, key / side (2 side - 1) + key % side. Computed: that is faster than
// looked up.
template <class A>
FOCALSR_INLINE Places<A> positions(const int32_t* list, int64_t side) {
  typedef float Floats __attribute__((vector_size(sizeof(float) * kLanes<A>)));
  Places<A> key;
  std::memcpy(&key, list, sizeof key);
  const Floats part = 1.0f / static_cast<float>(side) - Floats{};
  const auto row = __builtin_convertvector((__builtin_convertvector(key, Floats) + 0.5f) * part, Places<A>);
  return key + row * static_cast<int32_t>(side - 1);
}

// One vector of products with biases, as `dots`. A bias is what the first sum of its key begins with: gathering several
// into a vector takes as long as all products.
template <class A, int V>
FOCALSR_INLINE Vec<A> biased_dots(const Vec<A> (&query)[V], const A* rows, const int32_t* start, const A* bias,
                                  const int32_t* place) {
  Vec<A> partial[kLanes<A>];
#pragma GCC unroll 8
  for (int i = 0; i < kLanes<A>; ++i) {
    const A* row = rows + start[i];
    partial[i] = Vec<A>{bias[place[i]]} + query[0] * load(row);
#pragma GCC unroll 8
    for (int v = 1; v < V; ++v) partial[i] += query[v] * load(row + v * kLanes<A>);
  }
  return sums(partial);
}

// The last V vectors of a product of listed rows: `out` begins with what earlier vectors gave, if there were any.
template <class A, int V>
A listed_logits(const A* x, const A* rows, const int32_t* start, const int32_t* list, int64_t count,
                const ListedTerms<A>& terms, A* out, bool add) {
  Vec<A> query[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) query[v] = load(x + v * kLanes<A>);
  const A *before = terms.before, *bias = terms.bias;
  const int64_t side = terms.side;
  Vec<A> most = all(-std::numeric_limits<A>::infinity());
  int32_t place[2][kLanes<A>];  // computed a turn before they are read
  const auto locate = [&](int64_t k, int32_t* to) {
    const Places<A> found = positions<A>(list + k, side);
    std::memcpy(to, &found, sizeof found);
  };
  locate(0, place[0]);
  for (int64_t k = 0, turn = 0; k < count; k += kLanes<A>, turn ^= 1) {
    if (k + kLanes<A> < count) locate(k + kLanes<A>, place[turn ^ 1]);
    Vec<A> logit = biased_dots<A, V>(query, rows, start + k, bias, place[turn]) + load(before + k);
    if (add) logit += load(out + k);
    store(out + k, logit);
    most = most < logit ? logit : most;
  }
  return largest_lane<A>(most);
}

}  // namespace detail

// out = <x, rows of listed keys> + terms; returns the largest. The row of a key begins at its number in `start`. All hold
// whole vectors, the lists with keys that exist.
template <class A>
A listed_logits(const A* x, const A* rows, int64_t vectors, const int32_t* start, const int32_t* list, int64_t count,
                const ListedTerms<A>& terms, A* out) {
  A most = 0;
  detail::for_pieces(vectors, [&](auto size, int64_t first) {
    constexpr int V = decltype(size)::value;
    constexpr std::integral_constant<int64_t, 1> kOne{};
    const A *x_at = x + first * kLanes<A>, *rows_at = rows + first * kLanes<A>;
    if (first + V < vectors) return detail::gather_dot<A, V>(x_at, rows_at, kOne, start, count, out, first > 0);
    most = detail::listed_logits<A, V>(x_at, rows_at, start, list, count, terms, out, first > 0);
  });
  return most;
}

}  // namespace focalsr
