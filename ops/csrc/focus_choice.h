// The choice of the smallest depths of a row, and what is kept of the row. CPU; no torch header.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "tiles.h"

namespace focalsr {

#if defined(__AVX2__)
// For each set of lanes their numbers, ascending, one in a byte.
struct LaneNumbers {
  uint64_t of[256];
  constexpr LaneNumbers() : of{} {
    for (int set = 0; set < 256; ++set)
      for (int lane = 0, place = 0; lane < 8; ++lane)
        if (set >> lane & 1) of[set] |= static_cast<uint64_t>(lane) << 8 * place++;
  }
};
inline constexpr LaneNumbers kLaneNumbers;

// Of a set of lanes, where they are to be moved so that they lie side by side.
inline __m256i side_by_side(unsigned set) {
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kLaneNumbers.of[set])));
}
#endif

template <class A>
using BitsOf = typename std::conditional<std::is_same<A, float>::value, int32_t, int64_t>::type;

// Depths whose bits are below `limit` are kept, and the first `ties` of those that equal it; all of these if negative.
template <class A>
struct Cut {
  BitsOf<A> limit;
  int64_t ties;
};

// Finds where to cut. The result depends on the row alone; where the search begins, at the last row's limit, does not
// change it, nor that it goes on among the few numbers that are left. The bits of numbers that are not negative have the
// order of the numbers.
template <class A>
class Chooser {
 public:
  explicit Chooser(int64_t most) : left_(most + kLanes<A>) {}  // numbers of a row

  // For the `wanted` smallest of `count` depths (0 < wanted < count); behind them `row` holds whole vectors.
  Cut<A> operator()(const A* row, int64_t count, int64_t wanted) {
    Integer low = -1, high = kMost;  // fewer than wanted are <= low, more than wanted <= high
    int64_t below = 0, up_to = count;
    int64_t passed = 0;              // numbers that are not in the row any more, all of them <= low
    Integer at = std::clamp<Integer>(hint_, 0, kMost - 1), last = at;
    int64_t found_last = 0;
    for (int turn = 1;; ++turn) {
      const int64_t found = passed + count_up_to(row, count, at);
      if (turn > 1) density_.learn(value_of(at) - value_of(last), found - found_last);
      if (found == wanted) {
        hint_ = at;
        return {at, -1};
      }
      if (found < wanted) {
        low = at;
        below = found;
      } else {
        high = at;
        up_to = found;
      }
      if (high - 1 == low) {
        hint_ = high;
        return {high, wanted - below};
      }
      last = at;
      found_last = found;
      if (kGathers && turn > kPatience && passed == 0 && count >= kMany && (up_to - below) * 4 <= count) {
        passed = below;
        count = gather(row, count, low, high);
        row = left_.get();
      }
      if (turn <= kPatience && density_.known() && std::isfinite(value_of(at))) {
        const A guess = value_of(at) + static_cast<A>(wanted - found) * density_.step();
        at = guess >= A(0) ? std::clamp<Integer>(bits_of(guess), low + 1, high - 1) : middle(low, high);
      } else {
        at = turn % 3 == 0 || turn > 12 ? middle(low, high) : between(low, high, below, up_to, wanted);
      }
    }
  }

 private:
  using Integer = BitsOf<A>;
  typedef Integer Bits __attribute__((vector_size(kVectorBytes)));
  static constexpr Integer kMost = std::numeric_limits<Integer>::max();

  static constexpr int64_t kMany = 128;  // numbers among which it is worth it to gather those that are left
  static constexpr int kPatience = 6;    // turns that go from number to number by how far apart they were last

  // How far apart the numbers lie around the wanted one, in this row or the one before it.
  class Density {
   public:
    void learn(A length, int64_t numbers) {
      const A step = length / static_cast<A>(numbers);
      if (numbers != 0 && step > A(0) && step <= std::numeric_limits<A>::max()) step_ = step;
    }
    bool known() const { return step_ > A(0); }
    A step() const { return step_; }

   private:
    A step_ = 0;
  };
#if defined(__AVX2__)
  static constexpr bool kGathers = std::is_same_v<A, float>;

  // The numbers of a row in (low, high], which are counted.
  int64_t gather(const A* row, int64_t count, Integer low, Integer high) {
    const __m256i least = _mm256_set1_epi32(static_cast<int>(low)), most = _mm256_set1_epi32(static_cast<int>(high));
    int64_t n = 0;
    for (int64_t i = 0; i < count; i += 8) {
      const __m256 x = _mm256_loadu_ps(reinterpret_cast<const float*>(row) + i);
      const __m256i bits = _mm256_castps_si256(x);
      const __m256i in = _mm256_andnot_si256(_mm256_cmpgt_epi32(bits, most), _mm256_cmpgt_epi32(bits, least));
      const auto in_row = static_cast<unsigned>(count - i < 8 ? (1 << (count - i)) - 1 : 255);
      const unsigned set = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(in))) & in_row;
      _mm256_storeu_ps(reinterpret_cast<float*>(left_.get()) + n, _mm256_permutevar8x32_ps(x, side_by_side(set)));
      n += __builtin_popcount(set);
    }
    return n;
  }
#else
  static constexpr bool kGathers = false;
  static int64_t gather(const A*, int64_t count, Integer, Integer) { return count; }
#endif

  static Integer bits_of(A x) {
    Integer bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
  }
  static A value_of(Integer bits) {
    A x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
  static int64_t count_up_to(const A* row, int64_t count, Integer limit) {
    constexpr int kParts = 4;
    Bits beyond[kParts] = {};  // counted: to compare for more is one instruction, for no more two
    const Bits bound = limit - Bits{};
    const auto is_beyond = [&](int64_t i) {
      Bits bits;
      std::memcpy(&bits, row + i, sizeof bits);
      return bits > bound;
    };
    int64_t i = 0;
    for (; i + kParts * kLanes<A> <= count; i += kParts * kLanes<A>)
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) beyond[part] -= is_beyond(i + part * kLanes<A>);
    for (; i + kLanes<A> <= count; i += kLanes<A>) beyond[0] -= is_beyond(i);
    beyond[0] += beyond[1] + (beyond[2] + beyond[3]);
    int64_t more = 0;
    for (int lane = 0; lane < kLanes<A>; ++lane) more += beyond[0][lane];
    for (; i < count; ++i) more += bits_of(row[i]) > limit;
    return count - more;
  }
  static Integer middle(Integer low, Integer high) { return (low & high) + ((low ^ high) >> 1); }

  // Where the wanted one lies if those between low and high lie evenly.
  static Integer between(Integer low, Integer high, int64_t below, int64_t up_to, int64_t wanted) {
    const A first = low < 0 ? A(0) : value_of(low), last = value_of(high);
    A guess;
    if (last <= std::numeric_limits<A>::max()) {
      const A share = (A(wanted - below) + A(0.5)) / A(up_to - below);
      guess = first + (last - first) * std::min(share, A(1));
    } else if (below > 0) {
      guess = first * (A(wanted) / A(below)) * A(1.125);
    } else {
      return middle(low, high);
    }
    return guess >= A(0) ? std::clamp<Integer>(bits_of(guess), low + 1, high - 1) : middle(low, high);
  }

  Integer hint_ = 0;
  Density density_;
  Buffer<A> left_;
};

// Keeps the slots of a row that a cut leaves, in their order: their depths, weights and keys (`list`, or the slots
// themselves where it is null). `row`, `weight` and `list` hold whole vectors, and a vector more fits into the results.
template <class A>
void keep(const A* row, const A* weight, const int32_t* list, int64_t count, Cut<A> cut, A* kept_row, A* kept_weight,
          int32_t* kept_list) {
  int64_t n = 0;
#if defined(__AVX2__)
  if constexpr (std::is_same_v<A, float>) {
    if (cut.ties < 0) {
      const __m256i limit = _mm256_set1_epi32(cut.limit);
      const auto vector = [&](int64_t i, unsigned in_row, auto listed) {
        const __m256 x = _mm256_loadu_ps(row + i);
        const __m256i above = _mm256_cmpgt_epi32(_mm256_castps_si256(x), limit);
        const unsigned set = ~static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(above))) & in_row;
        const __m256i lanes = side_by_side(set);
        _mm256_storeu_ps(kept_row + n, _mm256_permutevar8x32_ps(x, lanes));
        _mm256_storeu_ps(kept_weight + n, _mm256_permutevar8x32_ps(_mm256_loadu_ps(weight + i), lanes));
        __m256i keys;
        if constexpr (listed)
          keys = _mm256_permutevar8x32_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(list + i)), lanes);
        else
          keys = _mm256_add_epi32(lanes, _mm256_set1_epi32(static_cast<int32_t>(i)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(kept_list + n), keys);
        n += __builtin_popcount(set);
      };
      const auto all_of = [&](auto listed) {
        int64_t i = 0;
        for (; i + 8 <= count; i += 8) vector(i, 255, listed);
        if (i < count) vector(i, (1u << (count - i)) - 1, listed);
      };
      if (list == nullptr) return all_of(std::false_type{});
      return all_of(std::true_type{});
    }
  }
#endif
  int64_t ties = cut.ties < 0 ? count : cut.ties;
  for (int64_t i = 0; i < count; ++i) {
    BitsOf<A> bits;
    std::memcpy(&bits, row + i, sizeof bits);
    const bool tie = bits == cut.limit && ties > 0;
    kept_row[n] = row[i];
    kept_weight[n] = weight[i];
    kept_list[n] = list == nullptr ? static_cast<int32_t>(i) : list[i];
    n += bits < cut.limit || tie;
    ties -= tie;
  }
}

}  // namespace focalsr
