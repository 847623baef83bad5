// Rows of queries, columns of keys and rows of logits in the cache, for kernels of window attention on the CPU. No torch
// header.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tiles.h"

namespace focalsr {

constexpr int64_t kBlockBytes = 96 * 1024;  // of one block of logits

// Values of any layout -> [width, stride], zeros where there is no token.
template <class A, class T>
void pack_columns(
    const T* from, int64_t token_step, int64_t channel_step, int64_t tokens, int64_t width, A* to, int64_t stride) {
  constexpr int64_t kBlock = 16;
  for (int64_t start = 0; start < tokens; start += kBlock) {
    const int64_t stop = std::min(tokens, start + kBlock);
    for (int64_t c = 0; c < width; ++c)
      for (int64_t t = start; t < stop; ++t) to[c * stride + t] = static_cast<A>(from[t * token_step + c * channel_step]);
  }
  for (int64_t c = 0; c < width; ++c) std::fill(to + c * stride + tokens, to + (c + 1) * stride, A(0));
}

// The largest length of the first `count` padded rows.
template <class A>
A longest(const A* rows, int64_t step, int64_t count) {
  A most = 0;
  for (int64_t r = 0; r < count; ++r) {
    Vec<A> sum{};
    for (int64_t c = 0; c < step; c += kLanes<A>) sum += load(rows + r * step + c) * load(rows + r * step + c);
    most = std::max(most, sum_of_lanes<A>(sum));
  }
  return std::sqrt(most);
}

// The largest length of the columns of [width, step], of which `count` are taken.
template <class A>
A longest_column(const A* columns, int64_t step, int64_t width, int64_t count) {
  A most = 0;
  for (int64_t m = 0; m < count; m += kLanes<A>) {
    Vec<A> sum{};
    for (int64_t c = 0; c < width; ++c) sum += load(columns + c * step + m) * load(columns + c * step + m);
    most = std::max(most, largest_lane<A>(sum));
  }
  return std::sqrt(most);
}

template <class A>
void scale_rows(A* values, int64_t count, A factor) {
  for (int64_t i = 0; i < count; ++i) values[i] *= factor;
}

}  // namespace focalsr
