// The gradients of window attention of bfloat16 by products of pairs: logits and gradients of weights are computed a
// block of rows at a time, in float32; weights and gradients of logits are rounded for the products they go into, whose
// sums are float32, those of the keys and values over all queries too.
//
// Shapes: as in window_cpu.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "bf16.h"
#include "window.h"
#include "window_bf16.h"

namespace focalsr::bf16 {

constexpr int64_t kGradientBytes = 256 * 1024;  // of the maps of a block, for the second cache
constexpr int64_t kRowStep = 2 * kPairStep;     // rows are padded to so many: sums over rows take them in pairs

inline Sizes gradient_sizes_of(const Tensor& q, const Tensor& k, const Tensor& v) {
  Sizes s = sizes_of(q, k, v);
  constexpr int64_t kElement = 2 * sizeof(float) + 3 * sizeof(uint16_t);  // of all maps
  const int64_t fitting = kGradientBytes / (s.step * kElement);
  s.rows = std::min(std::max(fitting / kRowStep * kRowStep, kRowStep), multiple_of(kRowStep, s.queries));
  return s;
}

// What is left of a row's softmax once its exponentials are there.
struct Softmax {
  float norm = 0;  // one over the sum of the exponentials
  float mean = 0;  // of the gradients of the weights, by weight
};

// A row of products becomes exponentials of the logits up to a factor, `added` among these; `d_row`: the gradients of
// the weights. `keys` is a multiple of 32.
inline Softmax exponentials_of(float* row, const float* d_row, float scale, const float* added, int64_t keys) {
  const float kLog2E = 1.44269504088896340736f;
  const float kLowest = -64.0f;  // weights below 2^-64 are zeros: products with them would have no normal numbers
  const float largest = logits_of(row, scale, added, keys);
  const Floats shift = all(largest * kLog2E), factor = all(kLog2E);
  Floats sum[2] = {}, mean[2] = {};
  for (int64_t m = 0; m < keys; m += 2 * kLanes) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      float* at = row + m + i * kLanes;
      const Floats power = load(at) * factor - shift;
      const Floats weight = power < all(kLowest) ? Floats{} : power_of_two(power);
      sum[i] += weight;
      mean[i] += weight * load(d_row + m + i * kLanes);
      store(at, weight);
    }
  }
  const float norm = 1.0f / sum_of_lanes(sum[0] + sum[1]);
  return {norm, norm * sum_of_lanes(mean[0] + mean[1])};
}

inline void add_to(float* to, Floats what, int64_t count) {
  if (count >= kLanes) return store(to, load(to) + what);
  for (int64_t i = 0; i < count; ++i) to[i] += what[i];
}

// The gradients of one window and head after the other.
class Backward {
 public:
  Backward(
      const Additive<float>& additive, float scale, const View<uint16_t>& q, const View<uint16_t>& k,
      const View<uint16_t>& v, const View<uint16_t>& grad, const View<uint16_t>& d_q, const View<uint16_t>& d_k,
      const View<uint16_t>& d_v)
      : additive_(additive), s_(additive.s), scale_(scale), from_q_(q), from_k_(k), from_v_(v), from_grad_(grad),
        to_q_(d_q), to_k_(d_k), to_v_(d_v), of_values_(with_widths(s_, s_.value_width, s_.value_width)),
        of_keys_(with_widths(s_, s_.width, s_.width)), pairs_(multiplier_.padded((s_.width + 1) / 2)),
        value_pairs_(multiplier_.padded((s_.value_width + 1) / 2)), q_step_(multiple_of(kLanes, s_.width)),
        v_step_(multiple_of(kLanes, s_.value_width)), map_step_(s_.padded_keys + 2 * kLanes),
        row_step_(s_.rows + 2 * kLanes), keys_(pairs_ * s_.step), values_(value_pairs_ * s_.step),
        tokens_(s_.padded_keys / 2 * q_step_), q_(s_.rows * 2 * pairs_), grad_(s_.rows * 2 * value_pairs_),
        q_columns_(q_step_ * row_step_), grad_columns_(v_step_ * row_step_), weights_(s_.rows * s_.step),
        d_weights_(s_.rows * s_.step), weight_pairs_(s_.rows / 2 * s_.step), d_logit_pairs_(s_.rows / 2 * s_.step),
        d_logits_(s_.rows * map_step_), d_q_(s_.rows * q_step_), d_k_(q_step_ * s_.step), d_v_(v_step_ * s_.step),
        added_(s_.padded_keys), turned_(kLanes * std::max(q_step_, v_step_)) {
    std::memset(q_columns_.get(), 0, q_step_ * row_step_ * sizeof(uint16_t));
    std::memset(grad_columns_.get(), 0, v_step_ * row_step_ * sizeof(uint16_t));
  }

  // What the bias gets, [N, M], is added to `d_bias` if there is one.
  void run(int64_t window, int64_t head, float* d_bias) {
    pack_keys(from_k_, from_k_.at(window, head, 0), of_keys_, pairs_, keys_.get());
    pack_keys(from_v_, from_v_.at(window, head, 0), of_values_, value_pairs_, values_.get());
    pack_values(from_k_, from_k_.at(window, head, 0), of_keys_, q_step_, tokens_.get());
    for (int64_t first = 0; first < s_.queries; first += s_.rows) {
      const int64_t rows = std::min(s_.rows, s_.queries - first);
      pack(from_q_, window, head, first, rows, s_.width, q_.get(), 2 * pairs_, q_columns_.get());
      pack(from_grad_, window, head, first, rows, s_.value_width, grad_.get(), 2 * value_pairs_, grad_columns_.get());
      block(window, head, first, rows, d_bias);
      for (int64_t r = 0; r < rows; ++r)
        write_row(d_q_.get() + r * q_step_, scale_, s_.width, to_q_.channel, to_q_.at(window, head, first + r));
    }
    write_columns(d_k_.get(), scale_, s_.width, to_k_, window, head);
    write_columns(d_v_.get(), 1.0f, s_.value_width, to_v_, window, head);
  }

 private:
  static Sizes with_widths(Sizes s, int64_t width, int64_t value_width) {
    s.width = width;
    s.value_width = value_width;
    return s;
  }

  // Some tokens as rows and as columns, zeros after the last.
  void pack(
      const View<uint16_t>& from, int64_t window, int64_t head, int64_t first, int64_t rows, int64_t width, uint16_t* to,
      int64_t step, uint16_t* columns) const {
    const int64_t padded_rows = multiple_of(kRowStep, rows);
    pack_queries(from, from.at(window, head, first), rows, width, to, step, padded_rows);
    for (int64_t start = 0; start < padded_rows; start += kLanes)
      for (int64_t c = 0; c < width; ++c)
        for (int64_t r = start; r < start + kLanes; ++r) columns[c * row_step_ + r] = to[r * step + c];
  }

  // From packed queries and gradients: d_q, and what these rows add to d_k, d_v and the gradient of the bias.
  void block(int64_t window, int64_t head, int64_t first, int64_t rows, float* d_bias) {
    const int64_t padded_rows = multiple_of(kRowStep, rows), keys = s_.padded_keys, step = s_.step;
    multiplier_.product(q_.get(), 2 * pairs_, keys_.get(), step, weights_.get(), step, padded_rows, keys, pairs_);
    multiplier_.product(
        grad_.get(), 2 * value_pairs_, values_.get(), step, d_weights_.get(), step, padded_rows, keys, value_pairs_);
    for (int64_t r = 0; r < rows; r += 2) {
      Softmax of[2];  // a row that is missing has weights of zero
      for (int64_t i = 0; i < std::min<int64_t>(2, rows - r); ++i) {
        const int64_t at = (r + i) * step;
        of[i] = exponentials_of(
            weights_.get() + at, d_weights_.get() + at, scale_, added_to(window, head, first + r + i), keys);
      }
      float* to = d_bias == nullptr ? nullptr : d_bias + (first + r) * s_.keys;
      two_rows(r, of, to, r + 1 < rows);
    }
    const int64_t begun = (rows + 1) / 2, rest = (padded_rows / 2 - begun) * step * sizeof(uint32_t);
    std::memset(weight_pairs_.get() + begun * step, 0, rest);
    std::memset(d_logit_pairs_.get() + begun * step, 0, rest);
    const bool add = first > 0;  // what earlier rows added counts; uninitialised memory does not
    multiplier_.product(
        grad_columns_.get(), row_step_, weight_pairs_.get(), step, d_v_.get(), step, v_step_, keys, padded_rows / 2, add);
    multiplier_.product(
        q_columns_.get(), row_step_, d_logit_pairs_.get(), step, d_k_.get(), step, q_step_, keys, padded_rows / 2, add);
    multiplier_.product(
        d_logits_.get(), map_step_, tokens_.get(), q_step_, d_q_.get(), q_step_, padded_rows, q_step_, keys / 2);
  }

  // Weights and gradients of logits of rows r and r + 1, as the products take them.
  void two_rows(int64_t r, const Softmax (&of)[2], float* d_bias, bool both) const {
    const float* weights = weights_.get() + r * s_.step;
    const float* d_weights = d_weights_.get() + r * s_.step;
    for (int64_t m = 0; m < s_.padded_keys; m += kLanes) {
      Floats weight[2], d_logit[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        weight[i] = load(weights + i * s_.step + m) * all(of[i].norm);
        d_logit[i] = weight[i] * (load(d_weights + i * s_.step + m) - all(of[i].mean));
        const Halves narrow = rounded(d_logit[i]);
        std::memcpy(d_logits_.get() + (r + i) * map_step_ + m, &narrow, sizeof narrow);
      }
      store(static_cast<void*>(weight_pairs_.get() + r / 2 * s_.step + m), paired(weight[0], weight[1]));
      store(static_cast<void*>(d_logit_pairs_.get() + r / 2 * s_.step + m), paired(d_logit[0], d_logit[1]));
      if (d_bias == nullptr) continue;
      add_to(d_bias + m, d_logit[0], s_.keys - m);
      if (both) add_to(d_bias + s_.keys + m, d_logit[1], s_.keys - m);
    }
  }

  // All that is added to the logits of a query, -inf after the last key.
  const float* added_to(int64_t window, int64_t head, int64_t query) const {
    if (s_.keys == s_.padded_keys && additive_.bias_ != nullptr && additive_.unmasked(window))
      return additive_.bias_row(head, query);
    if (!additive_.start(window, head, query, added_.get())) std::fill_n(added_.get(), s_.keys, 0.0f);
    std::fill(added_.get() + s_.keys, added_.get() + s_.padded_keys, -std::numeric_limits<float>::infinity());
    return added_.get();
  }

  // Sums [width, step] -> tokens of any layout.
  void write_columns(
      const float* from, float factor, int64_t width, const View<uint16_t>& to, int64_t window, int64_t head) const {
    for (int64_t start = 0; start < s_.keys; start += kLanes) {
      for (int64_t c = 0; c < width; ++c) {
        const Halves column = rounded(load(from + c * s_.step + start) * all(factor));
        std::memcpy(turned_.get() + c * kLanes, &column, sizeof column);
      }
      for (int64_t t = start; t < std::min(s_.keys, start + kLanes); ++t) {
        uint16_t* token = to.at(window, head, t);
        for (int64_t c = 0; c < width; ++c) token[c * to.channel] = turned_[c * kLanes + t - start];
      }
    }
  }

  const Additive<float>& additive_;
  const Sizes& s_;
  const float scale_;
  const View<uint16_t>&from_q_, &from_k_, &from_v_, &from_grad_, &to_q_, &to_k_, &to_v_;
  const Sizes of_values_, of_keys_;
  const Multiplier multiplier_;
  const int64_t pairs_, value_pairs_;  // of channels
  const int64_t q_step_, v_step_, map_step_, row_step_;
  const Buffer<uint32_t> keys_, values_, tokens_;
  const Buffer<uint16_t> q_, grad_, q_columns_, grad_columns_;
  const Buffer<float> weights_, d_weights_;
  const Buffer<uint32_t> weight_pairs_, d_logit_pairs_;
  const Buffer<uint16_t> d_logits_;
  const Buffer<float> d_q_, d_k_, d_v_, added_;
  const Buffer<uint16_t> turned_;
};

inline void backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias,
    const OptionalTensor& mask, double scale, const Tensor& d_q, const Tensor& d_k, const Tensor& d_v, float* d_bias) {
  const Sizes s = gradient_sizes_of(q, k, v);
  const Additive<float> additive(bias, mask, s, false);
  const View<uint16_t> from_q(q), from_k(k), from_v(v), from_grad(grad), to_q(d_q), to_k(d_k), to_v(d_v);
  in_slices(s, d_bias, [&] {
    return Backward(additive, static_cast<float>(scale), from_q, from_k, from_v, from_grad, to_q, to_k, to_v);
  });
}

}  // namespace focalsr::bf16
