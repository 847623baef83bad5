// What focused attention does with one row of logits: softmax terms, and the choice of the largest. CPU; no torch header.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "tiles.h"

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

template <class A>
using BitsOf = typename std::conditional<std::is_same<A, float>::value, int32_t, int64_t>::type;

// depth = maximum - row, weight = exp(-depth); returns the sum of the weights. `depth` may be `row`. Where a depth is no
// number its sign is taken away, so that it comes after all others in `smallest`.
template <class A>
FOCALSR_INLINE A row_weights(const A* row, int64_t count, A maximum, A* depth, A* weight) {
  typedef BitsOf<A> Bits __attribute__((vector_size(kVectorBytes)));
  const Vec<A> top = all<A>(maximum);
  for (int64_t i = 0; i < count; i += kLanes<A>) {
    const Vec<A> below = top - load(row + i);
    const Bits bits = (Bits)below & std::numeric_limits<BitsOf<A>>::max();
    store(depth + i, (Vec<A>)bits);
    store(weight + i, exponential<A>(-below));
  }
  fill_tail(weight, count, A(0));
  Vec<A> total{};
  for (int64_t i = 0; i < count; i += kLanes<A>) total += load(weight + i);
  return sum_of_lanes<A>(total);
}

// The slots of the `wanted` smallest depths (0 < wanted < count), ascending; of equal depths the first. `slot` has room
// for one more. The bits of numbers that are not negative have the order of the numbers: the search halves a range of
// integers until the right number lies below.
template <class A>
void smallest(const A* depth, int64_t count, int64_t wanted, int32_t* slot) {
  using Integer = BitsOf<A>;
  typedef Integer Bits __attribute__((vector_size(kVectorBytes)));
  const auto key = [&](int64_t i) {
    Integer bits;
    std::memcpy(&bits, depth + i, sizeof bits);
    return bits;
  };
  const int64_t whole = count / kLanes<A> * kLanes<A>;
  const auto up_to = [&](Integer limit) {
    Bits hits{};
    const Bits bound = limit - Bits{};
    for (int64_t i = 0; i < whole; i += kLanes<A>) {
      Bits bits;
      std::memcpy(&bits, depth + i, sizeof bits);
      hits -= bits <= bound;
    }
    int64_t found = 0;
    for (int i = 0; i < kLanes<A>; ++i) found += hits[i];
    for (int64_t i = whole; i < count; ++i) found += key(i) <= limit;
    return found;
  };
  Integer low = -1, high = std::numeric_limits<Integer>::max();  // fewer than wanted are <= low, at least wanted <= high
  int64_t found = -1;
  while (found != wanted) {
    const Integer middle = static_cast<Integer>((low & high) + ((low ^ high) >> 1));  // rounded down, no overflow
    if (middle == low) break;
    found = up_to(middle);
    (found < wanted ? low : high) = middle;
  }
  int64_t n = 0;
  if (found == wanted) {
    for (int64_t i = 0; i < count; ++i) {
      slot[n] = static_cast<int32_t>(i);
      n += key(i) <= high;
    }
    return;
  }
  int64_t equal = wanted - up_to(low);  // so many of those at the limit
  for (int64_t i = 0; i < count && n < wanted; ++i) {
    const bool tie = key(i) == high && equal > 0;
    slot[n] = static_cast<int32_t>(i);
    n += key(i) <= low || tie;
    equal -= tie;
  }
}

// A dense list of one query; as decode_index, in a loop that becomes vectors.
template <class I>
FOCALSR_INLINE bool read_list(const I* __restrict from, int64_t count, int64_t keys, int32_t* __restrict to) {
  using Unsigned = std::make_unsigned_t<I>;  // keys below zero become large
  const auto limit = static_cast<uint32_t>(keys);
  uint32_t outside = 0;
  for (int64_t j = 0; j < count; ++j) {
    to[j] = from[j];
    outside |= static_cast<uint32_t>(static_cast<Unsigned>(from[j])) >= limit;
  }
  return outside == 0 || decode_index(from, 1, count, keys, to);
}

// row[j] += logits[j] + bias of listed keys; the position of a key is computed, which is faster than looked up.
template <class A>
FOCALSR_INLINE void add_listed(const A* __restrict bias, int64_t side, const int32_t* __restrict list,
                               const A* __restrict logits, int64_t count, A* __restrict row) {
  const auto step = static_cast<int32_t>(side - 1);
  const float part = 1.0f / static_cast<float>(side);
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) {
    const auto y = static_cast<int32_t>((static_cast<float>(list[j]) + 0.5f) * part);
    row[j] += logits[j] + bias[list[j] + y * step];
  }
}

}  // namespace focalsr
