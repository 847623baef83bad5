// Focused attention for the CPU in layers that see all keys: logits of some rows of queries. Shapes and rules as in focus.h.
#pragma once

#include "focus.h"

namespace focalsr {
namespace focus {

constexpr int64_t kTile = 12;       // rows of queries that are multiplied with all keys at once
constexpr double kHidden = -100.0;  // between regions, as ops/window/region_mask.py

// Rows of one head -> a row of tokens for each channel, `stride` apart, with zeros to the end of the last vector.
template <class A, class T>
void pack_columns(const View<T>& from, int64_t w, int64_t h, int64_t tokens, A* to, int64_t stride) {
  constexpr int64_t kBlock = 16;  // tokens at a time: a cache line of a row
  const T* const at = from.at(w, h);
  for (int64_t first = 0; first < tokens; first += kBlock) {
    const int64_t last = std::min(first + kBlock, tokens);
    for (int64_t c = 0; c < from.channels; ++c)
      for (int64_t t = first; t < last; ++t)
        to[c * stride + t] = static_cast<A>(at[t * from.token + c * from.channel]);
  }
  for (int64_t c = 0; c < from.channels; ++c) fill_tail(to + c * stride, tokens, A(0));
}

// The gradients of a query's logits with all keys, added to the bins of its entries of the bias table.
template <class A>
FOCALSR_INLINE void add_to_bins(const A* __restrict row, int64_t side, A* __restrict bins) {
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x) bins[y * (2 * side - 1) + x] += row[y * side + x];
}

// Queries, keys and what is added of one head; logits of kTile queries at a time.
template <class T, class A>
class DenseLogits {
 public:
  DenseLogits(const Tensor& q, const Tensor& k, const Table<A>& table, const OptionalTensor& regions, const Sizes& s)
      : sizes_(s), table_(table), q_(q), k_(k), width_(padded<A>(s.width)), stride_(padded<A>(s.tokens) + kLanes<A>),
        query_(s.tokens * width_), key_t_(s.width * stride_), tile_(kTile * stride_) {
    if (regions) {
      regions_ = regions->const_data_ptr<uint8_t>();
      per_image_ = regions->size(0);
    }
  }
  void begin(int64_t w, int64_t h) {
    head_ = h;
    hidden_ = nullptr;
    if (regions_ != nullptr) {
      const uint8_t* region = regions_ + w % per_image_ * sizes_.tokens;
      if (std::any_of(region, region + sizes_.tokens, [&](uint8_t one) { return one != region[0]; })) hidden_ = region;
    }
    q_.pack(w, h, sizes_.tokens, query_.get());
    pack_columns<A>(k_, w, h, sizes_.tokens, key_t_.get(), stride_);
  }
  // Rows of `count` queries from `first` on, `stride` apart.
  A* logits(int64_t first, int64_t count) {
    multiply(first, count);
    for (int64_t r = 0; r < count && hidden_ != nullptr; ++r) {
      A* row = tile_.get() + r * stride_;
      const uint8_t own = hidden_[first + r];
      for (int64_t t = 0; t < sizes_.tokens; ++t) row[t] += hidden_[t] == own ? A(0) : A(kHidden);
    }
    return tile_.get();
  }
  const A* queries() const { return query_.get(); }
  int64_t stride() const { return stride_; }
  int64_t width() const { return width_; }

 private:
  // Products and biases. Sums begin with the biases where these lie side by side for all keys of two vectors.
  void multiply(int64_t first, int64_t count) {
    constexpr int V = 2;
    const A* const query = query_.get() + first * width_;
    if (sizes_.side % (V * kLanes<A>) != 0) {
      product<A>(query, width_, 1, key_t_.get(), stride_, tile_.get(), stride_, count, padded<A>(sizes_.tokens),
                 sizes_.width);
      for (int64_t r = 0; r < count; ++r) table_.add(head_, first + r, tile_.get() + r * stride_);
      return;
    }
    const A* bias[kTile];
    for (int64_t r = 0; r < count; ++r) bias[r] = table_.of_query(head_, first + r);
    for (int64_t t = 0; t < sizes_.tokens; t += V * kLanes<A>) {
      const int64_t place = sizes_.position(t);
      detail::panel<A, V>(query, width_, 1, key_t_.get() + t, stride_, tile_.get() + t, stride_, count, sizes_.width,
                          [&](int64_t r, int v) { return load(bias[r] + place + v * kLanes<A>); });
    }
  }

  const Sizes& sizes_;
  const Table<A>& table_;
  View<T> q_, k_;
  int64_t width_, stride_;
  Buffer<A> query_, key_t_, tile_;
  const uint8_t *regions_ = nullptr, *hidden_ = nullptr;  // the latter of a window that has more than one
  int64_t per_image_ = 1, head_ = 0;
};

inline void check_regions(const OptionalTensor& regions, const Sizes& s) {
  if (!regions) return;
  TORCH_CHECK_VALUE(regions->dim() == 2 && regions->scalar_type() == at::kByte && regions->size(1) == s.tokens &&
                        regions->size(0) > 0 && regions->is_contiguous(),
                    "focused attention: regions are ", regions->sizes(), " of ", regions->scalar_type(),
                    ", expected contiguous bytes [windows of an image, ", s.tokens, "]");
}

}  // namespace focus
}  // namespace focalsr
