// Window attention of bfloat16 by products of pairs: queries by keys and weights by values as they are in memory, all
// sums and the softmax in float32. Weights are rounded to bfloat16, and their sum is that of the rounded ones.
//
// Shapes: as in window_cpu.cpp.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "bf16.h"
#include "window.h"

namespace focalsr::bf16 {

constexpr int64_t kLogitBytes = 32 * 1024;  // of a block: what is left of the first cache beside keys and values

inline Sizes sizes_of(const Tensor& q, const Tensor& k, const Tensor& v) {
  Sizes s{q.size(0), q.size(1), q.size(2), k.size(2), q.size(3), v.size(3), 0, 0, 0};
  s.padded_keys = multiple_of(2 * kLanes, s.keys);
  s.step = s.padded_keys + kLanes;  // rows that start a power of two apart compete for the same places of the cache
  const int64_t fitting = kLogitBytes / (s.step * static_cast<int64_t>(sizeof(float)));
  s.rows = std::min(std::max(fitting / kTile * kTile, kTile), multiple_of(kTile, s.queries));
  return s;
}

// Two channels of a token as they lie in memory; `both`: there is a second one.
inline uint32_t pair_at(const uint16_t* at, int64_t step, bool both) {
  return at[0] | (both ? static_cast<uint32_t>(at[step]) << 16 : 0u);
}

// Tokens of any layout -> rows of `step` numbers, zeros after the last channel; rows up to `padded` are zeros.
inline void pack_queries(
    const View<uint16_t>& from, const uint16_t* first, int64_t tokens, int64_t width, uint16_t* to, int64_t step,
    int64_t padded) {
  std::memset(to, 0, padded * step * sizeof(uint16_t));
  for (int64_t t = 0; t < tokens; ++t) {
    const uint16_t* token = first + t * from.token;
    if (from.channel == 1) {
      std::memcpy(to + t * step, token, width * sizeof(uint16_t));
    } else {
      for (int64_t c = 0; c < width; ++c) to[t * step + c] = token[c * from.channel];
    }
  }
}

// Keys -> [pairs of channels, step]: a row is a pair of channels of all tokens. Zeros where there is no token.
inline void pack_keys(
    const View<uint16_t>& from, const uint16_t* first, const Sizes& s, int64_t padded_pairs, uint32_t* to) {
  const int64_t pairs = (s.width + 1) / 2;
  for (int64_t start = 0; start < s.keys; start += kTile) {  // whose cache lines serve all pairs
    const int64_t stop = std::min(s.keys, start + kTile);
    for (int64_t c = 0; c < pairs; ++c) {
      const bool both = 2 * c + 1 < s.width;
      const uint16_t* channel = first + 2 * c * from.channel;
      for (int64_t t = start; t < stop; ++t)
        to[c * s.step + t] = pair_at(channel + t * from.token, from.channel, both);
    }
  }
  for (int64_t c = 0; c < pairs; ++c) std::fill(to + c * s.step + s.keys, to + (c + 1) * s.step, 0u);
  std::fill(to + pairs * s.step, to + padded_pairs * s.step, 0u);
}

// Values -> [pairs of tokens, step]: a row is a pair of tokens with all channels. Zeros where there is none.
inline void pack_values(const View<uint16_t>& from, const uint16_t* first, const Sizes& s, int64_t step, uint32_t* to) {
  for (int64_t t = 0; t < s.padded_keys; t += 2) {
    uint32_t* row = to + t / 2 * step;
    const uint16_t* token = first + t * from.token;
    if (t + 1 < s.keys && from.channel == 1) {
      for (int64_t e = 0; e < s.value_width; ++e) row[e] = pair_at(token + e, from.token, true);
      std::fill(row + s.value_width, row + step, 0u);
      continue;
    }
    for (int64_t e = 0; e < step; ++e)
      row[e] = t < s.keys && e < s.value_width ? pair_at(token + e * from.channel, from.token, t + 1 < s.keys) : 0u;
  }
}

// Products of a row become logits: `scale` times themselves and what is added. The largest; `keys` is a multiple of 32.
template <class Added>
float logits_of(float* row, float scale, const Added* added, int64_t keys) {
  Floats most[2];  // side by side: one would wait for itself
  most[0] = most[1] = all(-std::numeric_limits<float>::infinity());
  for (int64_t m = 0; m < keys; m += 2 * kLanes) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      float* at = row + m + i * kLanes;
      const Floats x = load(at) * all(scale) + load(added + m + i * kLanes);
      most[i] = x > most[i] ? x : most[i];
      store(at, x);
    }
  }
  return largest_lane(most[0] > most[1] ? most[0] : most[1]);
}

// A row of products becomes exponentials of the logits, rounded, up to a factor; returns one over their sum. `added`:
// float, or numbers as they are in memory.
template <class Added>
float weights_of(float* row, float scale, const Added* added, int64_t keys, uint16_t* weights) {
  const float kLog2E = 1.44269504088896340736f;
  const float largest = logits_of(row, scale, added, keys);
  const Floats shift = all(largest * kLog2E), factor = all(kLog2E);
  const Pairs ones = Pairs{} + 0x3f803f80u;
  Floats sum{};
  for (int64_t m = 0; m < keys; m += 2 * kLanes) {
    const Floats low = power_of_two(load(row + m) * factor - shift);
    const Floats high = power_of_two(load(row + m + kLanes) * factor - shift);
    const Pairs both = rounded(low, high);
    sum = dot(sum, both, ones);
    store(static_cast<void*>(weights + m), both);
  }
  return 1.0f / sum_of_lanes(sum);
}

// Numbers times a factor -> a token, `step` from one of its channels to the next.
inline void write_row(const float* from, float factor, int64_t width, int64_t step, uint16_t* to) {
  for (int64_t c = 0; c < width; c += kLanes) {
    const Halves result = rounded(load(from + c) * all(factor));
    const int64_t count = std::min(kLanes, width - c);
    if (count == kLanes && step == 1) {
      std::memcpy(to + c, &result, sizeof result);
    } else {
      for (int64_t i = 0; i < count; ++i) to[(c + i) * step] = result[i];
    }
  }
}

// What a task needs beside its operands, and the work on one block of rows.
class Forward {
 public:
  // bias: where it is bfloat16 too, and not among what is added.
  Forward(const Additive<float>& additive, const uint16_t* bias, float scale)
      : additive_(additive), bias_(bias), s_(additive.s), scale_(scale), pairs_((s_.width + 1) / 2),
        padded_pairs_(multiplier_.padded(pairs_)), v_step_(multiple_of(kLanes, s_.value_width)),
        weight_step_(s_.padded_keys + 2 * kLanes), keys_(padded_pairs_ * s_.step),
        values_(s_.padded_keys / 2 * v_step_), queries_(s_.rows * 2 * padded_pairs_), weights_(s_.rows * weight_step_),
        logits_(s_.rows * s_.step), results_(s_.rows * v_step_), added_(s_.padded_keys) {}

  void pack(const View<uint16_t>& k, const View<uint16_t>& v, int64_t window, int64_t head) {
    pack_keys(k, k.at(window, head, 0), s_, padded_pairs_, keys_.get());
    pack_values(v, v.at(window, head, 0), s_, v_step_, values_.get());
  }

  void block(
      const View<uint16_t>& q, const View<uint16_t>& to, int64_t window, int64_t head, int64_t first, int64_t rows) {
    const int64_t padded_rows = multiple_of(kTile, rows), q_step = 2 * padded_pairs_;
    pack_queries(q, q.at(window, head, first), rows, s_.width, queries_.get(), q_step, padded_rows);
    multiplier_.product(
        queries_.get(), q_step, keys_.get(), s_.step, logits_.get(), s_.step, padded_rows, s_.padded_keys,
        padded_pairs_);
    float norms[kLogitBytes / (2 * kLanes * sizeof(float))];
    const bool plain = s_.keys == s_.padded_keys && additive_.unmasked(window);
    for (int64_t r = 0; r < rows; ++r) {
      const auto weigh = [&](const auto* added) {
        float* row = logits_.get() + r * s_.step;
        return weights_of(row, scale_, added, s_.padded_keys, weights_.get() + r * weight_step_);
      };
      const int64_t query = first + r;
      if (plain && bias_ != nullptr) {
        norms[r] = weigh(bias_row(head, query));
      } else if (plain && additive_.bias_ != nullptr) {
        norms[r] = weigh(additive_.bias_row(head, query));
      } else {
        norms[r] = weigh(added_to(window, head, query));
      }
    }
    std::memset(weights_.get() + rows * weight_step_, 0, (padded_rows - rows) * weight_step_ * sizeof(uint16_t));
    multiplier_.product(
        weights_.get(), weight_step_, values_.get(), v_step_, results_.get(), v_step_, padded_rows, v_step_,
        s_.padded_keys / 2);
    for (int64_t r = 0; r < rows; ++r)
      write_row(
          results_.get() + r * v_step_, norms[r], s_.value_width, to.channel, to.at(window, head, first + r));
  }

 private:
  const uint16_t* bias_row(int64_t head, int64_t query) const {
    return bias_ + (head * s_.queries + query) * s_.keys;
  }

  // All that is added to the logits of a query, -inf after the last key.
  const float* added_to(int64_t window, int64_t head, int64_t query) {
    if (!additive_.start(window, head, query, added_.get())) std::fill_n(added_.get(), s_.keys, 0.0f);
    if (bias_ != nullptr)
      for (int64_t m = 0; m < s_.keys; ++m)
        added_[m] += bits<float>(static_cast<uint32_t>(bias_row(head, query)[m]) << 16);
    std::fill(added_.get() + s_.keys, added_.get() + s_.padded_keys, -std::numeric_limits<float>::infinity());
    return added_.get();
  }

  const Additive<float>& additive_;
  const uint16_t* bias_;
  const Sizes& s_;
  const float scale_;
  const Multiplier multiplier_;
  const int64_t pairs_, padded_pairs_, v_step_, weight_step_;
  const Buffer<uint32_t> keys_, values_;
  const Buffer<uint16_t> queries_, weights_;
  const Buffer<float> logits_, results_, added_;
};

inline void forward(
    const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias, const OptionalTensor& mask,
    double scale, const Tensor& out) {
  const Sizes s = sizes_of(q, k, v);
  const bool narrow = bias && bias->scalar_type() == at::kBFloat16;
  const Additive<float> additive(narrow ? std::nullopt : bias, mask, s, false);
  const auto* narrow_bias = narrow ? static_cast<const uint16_t*>(bias->const_data_ptr()) : nullptr;
  const View<uint16_t> from_q(q), from_k(k), from_v(v), to(out);
  const int64_t pieces = (s.queries + kRowsInTask - 1) / kRowsInTask;
  at::parallel_for(0, s.windows * s.heads * pieces, 1, [&](int64_t begin, int64_t end) {
    Forward work(additive, narrow_bias, static_cast<float>(scale));
    int64_t packed = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t window = task / (s.heads * pieces), head = task / pieces % s.heads, piece = task % pieces;
      if (task / pieces != packed) work.pack(from_k, from_v, window, head);
      packed = task / pieces;
      const int64_t last = std::min(s.queries, (piece + 1) * kRowsInTask);
      for (int64_t first = piece * kRowsInTask; first < last; first += s.rows)
        work.block(from_q, to, window, head, first, std::min(s.rows, last - first));
    }
  });
}

}  // namespace focalsr::bf16
