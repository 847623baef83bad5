// Products of small dense matrices and the exponential, for kernels that keep a block of logits in the cache.
// No torch header.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common.h"

namespace focalsr {

namespace detail {

// c[r, :] = start(r, v) + sum_k a[r, k] b[k, :] for R rows and V vectors of columns, all sums in registers.
template <class A, int R, int V, class Start>
FOCALSR_INLINE void tile(const A* a, int64_t a_row, int64_t a_k, const A* b, int64_t b_k, A* c, int64_t c_row,
                         int64_t depth, Start&& start) {
  Vec<A> sum[R][V];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sum[r][v] = start(r, v);
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

template <class A, int V, int R, class Start>
FOCALSR_INLINE void last_rows(const A* a, int64_t a_row, int64_t a_k, const A* b, int64_t b_k, A* c, int64_t c_row,
                              int64_t rows, int64_t depth, Start&& start) {
  if constexpr (R > 0) {
    if (rows == R) return tile<A, R, V>(a, a_row, a_k, b, b_k, c, c_row, depth, start);
    last_rows<A, V, R - 1>(a, a_row, a_k, b, b_k, c, c_row, rows, depth, start);
  }
}

// V vectors of columns of any number of rows: what a sum begins with is start(row, vector).
template <class A, int V, class Start>
FOCALSR_INLINE void panel(const A* a, int64_t a_row, int64_t a_k, const A* b, int64_t b_k, A* c, int64_t c_row,
                          int64_t rows, int64_t depth, Start&& start) {
  constexpr int R = kTileRows<V>;
  int64_t first = 0;
  const auto here = [&](int r, int v) { return start(first + r, v); };
  for (; first + R <= rows; first += R)
    tile<A, R, V>(a + first * a_row, a_row, a_k, b, b_k, c + first * c_row, c_row, depth, here);
  last_rows<A, V, R - 1>(a + first * a_row, a_row, a_k, b, b_k, c + first * c_row, c_row, rows - first, depth, here);
}

template <class A, int V>
void panel(const A* a, int64_t a_row, int64_t a_k, const A* b, int64_t b_k, A* c, int64_t c_row, int64_t rows,
           int64_t depth, const A* start, int64_t start_row) {
  panel<A, V>(a, a_row, a_k, b, b_k, c, c_row, rows, depth, [=](int64_t r, int v) {
    return start != nullptr ? load(start + r * start_row + v * kLanes<A>) : Vec<A>{};
  });
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

// e^x to a unit in the last place or two, of several vectors side by side: one alone is a chain of operations that wait
// for each other. kNear: for |x| <= kNearLimit; otherwise for x <= 0, and 0 where the result would be no normal number.
//
// x = n ln 2 + r with |r| <= ln 2 / 2, and a polynomial of r. Adding 1.5 * 2^(bits of the fraction) rounds to n and leaves
// n in the lowest bits, from where it is shifted to the exponent. In float ln 2 is one number, whose rounding moves x by
// less than x itself is rounded by; the polynomial is the one of smallest relative error, 3e-9, with 1 + r in it. In
// double ln 2 is in two parts, the first of which times n is exact, and the polynomial is the series.
constexpr double kNearLimit = 60;

namespace detail {

template <class A>
struct Exponential;

template <>
struct Exponential<float> {
  typedef int32_t Bits __attribute__((vector_size(kVectorBytes)));
  static constexpr float kRounder = 12582912.0f, kLowest = -87.0f;
  static constexpr int kFraction = 23, kTerms = 6;
  static constexpr float kSeries[] = {1.0f,          1.0f,           0.4999999341f, 0.1666652006f,
                                      0.0416683947f, 0.00836878577f, 0.00138144556f};
  static FOCALSR_INLINE Vec<float> rest(Vec<float> x, Vec<float> n) { return x - n * all<float>(0.693147180559945309f); }
};

template <>
struct Exponential<double> {
  typedef int64_t Bits __attribute__((vector_size(kVectorBytes)));
  static constexpr double kRounder = 6755399441055744.0, kLowest = -708.0;
  static constexpr int kFraction = 52, kTerms = 13;
  static constexpr double kSeries[] = {1,           1,            1.0 / 2,       1.0 / 6,        1.0 / 24,
                                       1.0 / 120,   1.0 / 720,    1.0 / 5040,    1.0 / 40320,    1.0 / 362880,
                                       1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
  static FOCALSR_INLINE Vec<double> rest(Vec<double> x, Vec<double> n) {
    return (x - n * all<double>(0.693147180369123816490)) - n * all<double>(1.90821492927058770002e-10);
  }
};

}  // namespace detail

template <class A, bool kNear, int U>
FOCALSR_INLINE void exponential_each(Vec<A> (&x)[U]) {
  using Numbers = detail::Exponential<A>;
  using Bits = typename Numbers::Bits;
  Vec<A> shifted[U], r[U], series[U];
  const auto each = [](auto&& f) {
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) f(u);
  };
  each([&](int u) { shifted[u] = x[u] * all<A>(A(1.44269504088896340736)) + all<A>(Numbers::kRounder); });
  each([&](int u) { r[u] = Numbers::rest(x[u], shifted[u] - all<A>(Numbers::kRounder)); });
  each([&](int u) { series[u] = all<A>(Numbers::kSeries[Numbers::kTerms]); });
#pragma GCC unroll 13
  for (int i = Numbers::kTerms - 1; i >= 0; --i)
    each([&](int u) { series[u] = series[u] * r[u] + all<A>(Numbers::kSeries[i]); });
  each([&](int u) {
    const Bits bits = (Bits)series[u] + ((Bits)shifted[u] << Numbers::kFraction);
    if constexpr (kNear) {
      x[u] = (Vec<A>)bits;
    } else {
      x[u] = (Vec<A>)(bits & ~(Bits)(x[u] < all<A>(Numbers::kLowest)));
    }
  });
}

template <class A, bool kNear = false>
FOCALSR_INLINE Vec<A> exponential(Vec<A> x) {
  Vec<A> one[1] = {x};
  exponential_each<A, kNear>(one);
  return one[0];
}

constexpr int kSideBySide = 2;  // exponentials that hide each other's waits: more do not fit into sixteen registers

// Exponentials of a row of `count` numbers, whole vectors: takes take(i), hands each to give(i, vector); the sum of all.
template <class A, bool kNear = false, class Take, class Give>
FOCALSR_INLINE A exponentials_of_row(int64_t count, Take&& take, Give&& give) {
  Vec<A> sums[kSideBySide] = {};
  int64_t i = 0;
  for (; i + kSideBySide * kLanes<A> <= count; i += kSideBySide * kLanes<A>) {
    Vec<A> x[kSideBySide];
#pragma GCC unroll 4
    for (int u = 0; u < kSideBySide; ++u) x[u] = take(i + u * kLanes<A>);
    exponential_each<A, kNear>(x);
#pragma GCC unroll 4
    for (int u = 0; u < kSideBySide; ++u) {
      give(i + u * kLanes<A>, x[u]);
      sums[u] += x[u];
    }
  }
  for (; i < count; i += kLanes<A>) {
    const Vec<A> e = exponential<A, kNear>(take(i));
    give(i, e);
    sums[0] += e;
  }
  return sum_of_lanes<A>(sums[0] + sums[1]);
}

}  // namespace focalsr
