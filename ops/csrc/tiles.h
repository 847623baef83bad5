// Products of small dense matrices and the exponential, for kernels that keep a block of logits in the cache.
// No torch header.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common.h"

namespace focalsr {

namespace detail {

// c[r, :] = start[r, :] + sum_k a[r, k] b[k, :] for R rows and V vectors of columns, all sums in registers.
template <class A, int R, int V>
FOCALSR_INLINE void tile(
    const A* a, int64_t a_row, int64_t a_k, const A* b, int64_t b_k, A* c, int64_t c_row, int64_t depth,
    const A* start, int64_t start_row) {
  Vec<A> sum[R][V];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sum[r][v] = start != nullptr ? load(start + r * start_row + v * kLanes<A>) : Vec<A>{};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<A> right[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) right[v] = load(b + k * b_k + v * kLanes<A>);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const Vec<A> left = all<A>(a[r * a_row + k * a_k]);
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) store(c + r * c_row + v * kLanes<A>, sum[r][v]);
}

// Rows of a tile, so that sums, a row of b and an element of a fill the sixteen registers.
template <int V>
constexpr int kTileRows = V == 1 ? 12 : V == 2 ? 6 : 4;

template <class A, int V, int R>
FOCALSR_INLINE void last_rows(
    const A* a, int64_t a_row, int64_t a_k, const A* b, int64_t b_k, A* c, int64_t c_row, int64_t rows, int64_t depth,
    const A* start, int64_t start_row) {
  if constexpr (R > 0) {
    if (rows == R) return tile<A, R, V>(a, a_row, a_k, b, b_k, c, c_row, depth, start, start_row);
    last_rows<A, V, R - 1>(a, a_row, a_k, b, b_k, c, c_row, rows, depth, start, start_row);
  }
}

template <class A, int V>
void panel(
    const A* a, int64_t a_row, int64_t a_k, const A* b, int64_t b_k, A* c, int64_t c_row, int64_t rows, int64_t depth,
    const A* start, int64_t start_row) {
  constexpr int R = kTileRows<V>;
  for (; rows >= R; rows -= R) {
    tile<A, R, V>(a, a_row, a_k, b, b_k, c, c_row, depth, start, start_row);
    a += R * a_row;
    c += R * c_row;
    start = start == nullptr ? nullptr : start + R * start_row;
  }
  last_rows<A, V, R - 1>(a, a_row, a_k, b, b_k, c, c_row, rows, depth, start, start_row);
}

}  // namespace detail

// c = start + a b: a [rows, depth] with any steps (so also a transpose), b [depth, columns], c and start [rows, columns]
// with dense rows; `columns` is a multiple of kLanes<A>. No start is zeros; it may be c itself.
template <class A>
void product(
    const A* a, int64_t a_row, int64_t a_k, const A* b, int64_t b_k, A* c, int64_t c_row, int64_t rows, int64_t columns,
    int64_t depth, const A* start = nullptr, int64_t start_row = 0) {
  int64_t first = 0;
  const auto panels = [&](auto vectors, int64_t until) {
    constexpr int V = decltype(vectors)::value;
    for (; first + V * kLanes<A> <= until; first += V * kLanes<A>) {
      const A* here = start == nullptr ? nullptr : start + first;
      detail::panel<A, V>(a, a_row, a_k, b + first, b_k, c + first, c_row, rows, depth, here, start_row);
    }
  };
  // Two vectors at a time do most per element read; three are next, so an odd number ends with three, not with one.
  const int64_t odd = columns / kLanes<A> % 2;
  panels(std::integral_constant<int, 2>{}, columns - 3 * odd * kLanes<A>);
  panels(std::integral_constant<int, 3>{}, columns);
  panels(std::integral_constant<int, 1>{}, columns);
}

// e^x to a unit in the last place or two. kNear: for |x| <= kNearLimit; otherwise for x <= 0, and 0 where the result
// would be no normal number.
//
// x = n ln 2 + r with |r| <= ln 2 / 2, and the series of e^r. Adding 1.5 * 2^(bits of the fraction) rounds to n and leaves
// n in the lowest bits, from where it is shifted to the exponent.
constexpr double kNearLimit = 60;

template <class A, bool kNear = false>
FOCALSR_INLINE Vec<A> exponential(Vec<A> x) {
  constexpr bool kFloat = std::is_same<A, float>::value;
  using Integer = typename std::conditional<kFloat, int32_t, int64_t>::type;
  typedef Integer Bits __attribute__((vector_size(kVectorBytes)));
  const A kRounder = kFloat ? A(12582912.0) : A(6755399441055744.0);
  const A kLowest = kFloat ? A(-87.0) : A(-708.0);
  // ln 2 in two parts: the first times n is exact.
  const A kLog2High = kFloat ? A(0.693359375) : A(0.693147180369123816490);
  const A kLog2Low = kFloat ? A(-2.12194440054690583e-4) : A(1.90821492927058770002e-10);
  constexpr int kTerms = kFloat ? 7 : 13;

  const auto tiny = x < all<A>(kLowest);
  if constexpr (!kNear) x = tiny ? all<A>(kLowest) : x;
  const Vec<A> shifted = x * all<A>(A(1.44269504088896340736)) + all<A>(kRounder);
  const Vec<A> n = shifted - all<A>(kRounder);
  const Vec<A> r = (x - n * all<A>(kLog2High)) - n * all<A>(kLog2Low);
  constexpr double kFactorials[14] = {1, 1, 2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800, 479001600,
                                      6227020800};
  Vec<A> series = all<A>(A(1 / kFactorials[kTerms]));
#pragma GCC unroll 13
  for (int i = kTerms - 1; i >= 0; --i) series = series * r + all<A>(A(1 / kFactorials[i]));
  Bits exponent, bits;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  std::memcpy(&bits, &series, sizeof bits);
  bits += exponent << (kFloat ? 23 : 52);
  Vec<A> result;
  std::memcpy(&result, &bits, sizeof result);
  if constexpr (kNear) return result;
  return tiny ? Vec<A>{} : result;
}

// The largest and the sum of the lanes.
template <class A>
FOCALSR_INLINE A largest_lane(Vec<A> x) {
  A result = x[0];
  for (int i = 1; i < kLanes<A>; ++i) result = x[i] > result ? x[i] : result;
  return result;
}
template <class A>
FOCALSR_INLINE A sum_of_lanes(Vec<A> x) {
  A result = 0;
  for (int i = 0; i < kLanes<A>; ++i) result += x[i];
  return result;
}

}  // namespace focalsr
