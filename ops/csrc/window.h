// What the forms of window attention on the CPU have in common: strided views, sizes, and what is added to logits.
//
// Shapes: as in window_cpu.cpp.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "tiles.h"

namespace focalsr {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kRowsInTask = 1024;  // of queries, in the forward pass
constexpr int64_t kWindowsInSlice = 4;  // at least, in the backward pass
constexpr double kHidden = -100.0;     // between regions, as ops/window/region_mask.py

// [W, h, tokens, width] of any strides, of a type as wide as T.
template <class T>
struct View {
  explicit View(const Tensor& x)
      : data(static_cast<T*>(const_cast<void*>(x.const_data_ptr()))),
        window(x.stride(0)), head(x.stride(1)), token(x.stride(2)), channel(x.stride(3)) {}
  T* at(int64_t w, int64_t h, int64_t t) const { return data + w * window + h * head + t * token; }
  T* data;
  int64_t window, head, token, channel;
};

struct Sizes {
  int64_t windows, heads, queries, keys, width, value_width;
  int64_t padded_keys;
  int64_t step;  // from one row of logits, or one channel of the transposed keys, to the next
  int64_t rows;  // of queries in a block
};

template <class A>
A largest_magnitude(const A* values, int64_t count) {
  Vec<A> most{};
  int64_t i = 0;
  for (; i + kLanes<A> <= count; i += kLanes<A>) {
    const Vec<A> x = load(values + i), size = x < Vec<A>{} ? -x : x;
    most = size > most ? size : most;
  }
  A result = largest_lane<A>(most);
  for (; i < count; ++i) result = std::max(result, std::abs(values[i]));
  return result;
}

// Bias [h, N, M] of A and mask, [n, N, M] of A or regions [n, N], dense or absent. bounded: `near` will be asked.
template <class A>
struct Additive {
  Additive(const OptionalTensor& bias, const OptionalTensor& mask, const Sizes& s, bool bounded) : s(s) {
    if (bias) {
      bias_ = bias->const_data_ptr<A>();
      const int64_t pairs = s.queries * s.keys;
      for (int64_t head = 0; bounded && head < s.heads; ++head)
        largest_.push_back(largest_magnitude(bias_ + head * pairs, pairs));
    }
    if (!mask) return;
    images_windows_ = mask->size(0);
    if (mask->scalar_type() == at::kByte) {
      regions_ = mask->const_data_ptr<uint8_t>();
      mixed_.resize(images_windows_);
      for (int64_t w = 0; w < images_windows_; ++w) {
        const uint8_t* row = regions_ + w * s.queries;
        mixed_[w] = std::any_of(row, row + s.queries, [&](uint8_t region) { return region != row[0]; });
      }
    } else {
      mask_ = mask->const_data_ptr<A>();
    }
  }

  // Whether nothing but the bias is added in a window.
  bool unmasked(int64_t window) const {
    return images_windows_ == 0 || (mask_ == nullptr && !mixed_[window % images_windows_]);
  }

  // Whether all logits of a window are small, given a bound of the products.
  bool near(int64_t window, int64_t head, A products) const {
    if (s.keys != s.padded_keys || !unmasked(window)) return false;
    return products + (bias_ == nullptr ? A(0) : largest_[head]) <= A(kNearLimit);  // false if not a number
  }

  // The bias of a query with each key, or null.
  const A* bias_row(int64_t head, int64_t query) const {
    return bias_ == nullptr ? nullptr : bias_ + (head * s.queries + query) * s.keys;
  }

  // Starts a row of logits; false if there is nothing to add.
  bool start(int64_t window, int64_t head, int64_t query, A* row) const {
    const bool has_bias = bias_ != nullptr;
    if (has_bias) std::copy_n(bias_ + (head * s.queries + query) * s.keys, s.keys, row);
    if (images_windows_ == 0) return has_bias;
    const int64_t w = window % images_windows_;
    if (mask_ != nullptr) {
      const A* mask = mask_ + (w * s.queries + query) * s.keys;
      for (int64_t m = 0; m < s.keys; ++m) row[m] = has_bias ? row[m] + mask[m] : mask[m];
      return true;
    }
    if (!mixed_[w]) return has_bias;
    const uint8_t* regions = regions_ + w * s.queries;
    const uint8_t own = regions[query];
    if (!has_bias) std::fill_n(row, s.keys, A(0));
    for (int64_t m = 0; m < s.keys; ++m) row[m] += regions[m] == own ? A(0) : A(kHidden);
    return true;
  }

  const Sizes& s;
  const A* bias_ = nullptr;
  const A* mask_ = nullptr;
  const uint8_t* regions_ = nullptr;
  std::vector<char> mixed_;
  std::vector<A> largest_;
  int64_t images_windows_ = 0;
};

// The gradients of all windows, in `slices` runs; each (slice, head) is one task, which sums its part of the bias
// gradient [h, N, M] in order. `make` makes what a task works with: run(window, head, its sum or null). least: windows
// of a slice, so that few sums are cleared, read again and added up.
template <class A, class Make>
void in_slices(const Sizes& s, A* d_bias, Make&& make, int64_t least = kWindowsInSlice) {
  constexpr int64_t kTasks = 64;                       // if there are so many windows and heads
  constexpr int64_t kPartialBytes = 64 * 1024 * 1024;  // of the partial sums
  const int64_t pairs = s.queries * s.keys;
  int64_t slices = s.windows;
  if (d_bias != nullptr) {
    const int64_t fitting = kPartialBytes / std::max<int64_t>(1, s.heads * pairs * sizeof(A));
    const int64_t wanted = std::min((kTasks + s.heads - 1) / s.heads, s.windows / least);
    slices = std::max<int64_t>(1, std::min(fitting, wanted));
  }
  // The first slice adds to the result itself.
  const int64_t others = d_bias == nullptr ? 0 : std::max<int64_t>(0, slices - 1) * s.heads * pairs;
  const Buffer<A> partial(others);
  std::fill_n(partial.get(), others, A(0));
  at::parallel_for(0, slices * s.heads, 1, [&](int64_t begin, int64_t end) {
    auto work = make();
    for (int64_t task = begin; task < end; ++task) {
      const int64_t slice = task / s.heads, head = task % s.heads;
      A* sum = nullptr;
      if (d_bias != nullptr)
        sum = (slice == 0 ? d_bias : partial.get() + (slice - 1) * s.heads * pairs) + head * pairs;
      for (int64_t w = s.windows * slice / slices; w < s.windows * (slice + 1) / slices; ++w) work.run(w, head, sum);
    }
  });
  if (others == 0) return;
  at::parallel_for(0, s.heads * pairs, 1 << 15, [&](int64_t begin, int64_t end) {
    for (int64_t slice = 1; slice < slices; ++slice) {
      const A* from = partial.get() + (slice - 1) * s.heads * pairs;
      for (int64_t i = begin; i < end; ++i) d_bias[i] += from[i];
    }
  });
}

}  // namespace focalsr
