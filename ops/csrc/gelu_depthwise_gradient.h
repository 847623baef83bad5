// Gradients of the operators of gelu_depthwise_cpu.cpp. No torch header.
//
// A task is one vector of channels of one image, in planes of vectors with zeros around the image, so that all that is
// read over and over lies side by side. The convolution is computed again: it takes less time than its result to write
// and to read. A task owns what it writes: nothing depends on the number of threads.
//
// Shapes: H W pixels of an image, r = K / 2 rows and columns of zeros on each side, K side of the kernel, odd.
// T is the type in memory, A that of all arithmetic.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "gelu.h"

namespace focalsr {

// Channels of pixels in memory, `step` numbers from one pixel to the next, as they come or where `order` says.
template <class T>
struct ChannelsOf {
  T* data;
  const int64_t* order;  // of one image, or null
  int64_t step;

  T* at(int64_t pixel) const { return data + (order == nullptr ? pixel : order[pixel]) * step; }
};

template <class A, class T>
FOCALSR_INLINE Vec<A> take(const T* from, int64_t count) {
  if constexpr (std::is_same<A, T>::value)
    if (count == kLanes<A>) return load(from);
  Vec<A> value{};
  for (int64_t i = 0; i < count; ++i) value[i] = static_cast<A>(from[i]);
  return value;
}

template <class A, class T>
FOCALSR_INLINE void give(Vec<A> value, int64_t count, T* to) {
  if constexpr (std::is_same<A, T>::value)
    if (count == kLanes<A>) return store(to, value);
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(value[i]);
}

// kBefore: t = gelu(x), out = t + gelu(convolution of t + bias); otherwise out = gelu(convolution of x + bias).
template <bool kBefore, class A>
class GeluDepthwiseGradient {
 public:
  GeluDepthwiseGradient(int64_t height, int64_t width, int64_t side)
      : height_(height), width_(width), side_(side), radius_(side / 2), row_((width + 2 * radius_) * kLanes<A>),
        room_((height + 2 * radius_) * row_ + kPixels * kLanes<A>), taken_(room_), inner_(room_),
        slope_(kBefore ? height * width * kLanes<A> : 0) {
    std::fill_n(taken_.get(), room_, A(0));
    std::fill_n(inner_.get(), room_, A(0));
  }

  // weight: a vector for each place of the kernel, then the bias; d_weight likewise. `count` channels of a vector. The
  // result itself is written to `out`, unless that has no memory.
  template <class T>
  void operator()(ChannelsOf<const T> x, ChannelsOf<const T> grad, ChannelsOf<T> d_x, ChannelsOf<T> out, int64_t count,
                  const A* weight, A* d_weight) {
    read(x, count);
    std::fill_n(d_weight, (side_ * side_ + 1) * kLanes<A>, A(0));
    for (int64_t y = 0; y < height_; ++y) {
      inner_row(grad, out, count, weight, y, d_weight + side_ * side_ * kLanes<A>);
      for (int64_t down = 0; down < side_; ++down) weight_row(y, down, d_weight + down * side_ * kLanes<A>);
    }
    const Buffer<A> turned(side_ * side_ * kLanes<A>);
    for (int64_t i = 0; i < side_ * side_; ++i)
      store(turned.get() + i * kLanes<A>, load(weight + (side_ * side_ - 1 - i) * kLanes<A>));
    for (int64_t y = 0; y < height_; ++y) outer_row(grad, d_x, count, turned.get(), y);
  }

 private:
  static constexpr int kPixels = 8;  // whose sums are in registers at a time

  // Of the convolution's argument, and of the gradient of its result, where the image has (y, x).
  A* taken(int64_t y, int64_t x) const { return taken_.get() + (y + radius_) * row_ + (x + radius_) * kLanes<A>; }
  A* inner(int64_t y, int64_t x) const { return inner_.get() + (y + radius_) * row_ + (x + radius_) * kLanes<A>; }

  template <class T>
  void read(ChannelsOf<const T> x, int64_t count) {
    for (int64_t y = 0; y < height_; ++y) {
      A* const to = taken(y, 0);
      for (int64_t i = 0; i < width_; ++i) {
        const Vec<A> value = take<A>(x.at(y * width_ + i), count);
        if constexpr (kBefore) {
          const GeluParts<A> parts = gelu_parts<A>(value);
          store(to + i * kLanes<A>, parts.value);
          store(slope_.get() + (y * width_ + i) * kLanes<A>, parts.slope);
        } else {
          store(to + i * kLanes<A>, value);
        }
      }
    }
  }

  // Sums over the kernel for pixels side by side; `from` is where the first one's neighbourhood begins.
  FOCALSR_INLINE void convolve(const A* from, const A* weight, Vec<A> (&sum)[kPixels]) const {
    for (int64_t down = 0; down < side_; ++down) {
      const A* at = from + down * row_;
      for (int64_t across = 0; across < side_; ++across, at += kLanes<A>, weight += kLanes<A>) {
        const Vec<A> tap = load(weight);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) sum[p] += tap * load(at + p * kLanes<A>);
      }
    }
  }

  // The gradient of the convolution's result in a row, and what it adds to that of the bias.
  template <class T>
  void inner_row(ChannelsOf<const T> grad, ChannelsOf<T> out, int64_t count, const A* weight, int64_t y, A* d_bias) {
    const Vec<A> bias = load(weight + side_ * side_ * kLanes<A>);
    Vec<A> total{};
    for (int64_t x = 0; x < width_; x += kPixels) {
      Vec<A> sum[kPixels];
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) sum[p] = bias;
      convolve(taken(y - radius_, x - radius_), weight, sum);
      const int64_t wanted = std::min<int64_t>(kPixels, width_ - x);
      for (int64_t p = 0; p < wanted; ++p) {
        const GeluParts<A> parts = gelu_parts<A>(sum[p]);
        const int64_t pixel = y * width_ + x + p;
        if (out.data != nullptr)
          give<A>(kBefore ? load(taken(y, x + p)) + parts.value : parts.value, count, out.at(pixel));
        const Vec<A> d = take<A>(grad.at(pixel), count) * parts.slope;
        store(inner(y, x + p), d);
        total += d;
      }
    }
    store(d_bias, load(d_bias) + total);
  }

  // What a row of results adds to the gradient of a row of the kernel, a few of its places at a time.
  void weight_row(int64_t y, int64_t down, A* d_weight) const {
    detail::for_pieces(side_, [&](auto places, int64_t first) {
      constexpr int N = decltype(places)::value, kSets = N > 4 ? 1 : 2;  // eight sums hide that an FMA takes four cycles
      Vec<A> sum[kSets][N] = {};
      const A *from = taken(y + down - radius_, first - radius_), *d = inner(y, 0);
      const auto pixel = [&](int set) {
        const Vec<A> factor = load(d);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sum[set][n] += factor * load(from + n * kLanes<A>);
        from += kLanes<A>;
        d += kLanes<A>;
      };
      int64_t x = 0;
      for (; x + kSets <= width_; x += kSets)
#pragma GCC unroll 2
        for (int set = 0; set < kSets; ++set) pixel(set);
      for (; x < width_; ++x) pixel(0);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        A* const to = d_weight + (first + n) * kLanes<A>;
        store(to, load(to) + (kSets == 1 ? sum[0][n] : sum[0][n] + sum[kSets - 1][n]));
      }
    });
  }

  // The gradient of x in a row.
  template <class T>
  void outer_row(ChannelsOf<const T> grad, ChannelsOf<T> d_x, int64_t count, const A* turned, int64_t y) const {
    for (int64_t x = 0; x < width_; x += kPixels) {
      Vec<A> sum[kPixels] = {};
      convolve(inner(y - radius_, x - radius_), turned, sum);
      const int64_t wanted = std::min<int64_t>(kPixels, width_ - x);
      for (int64_t p = 0; p < wanted; ++p) {
        const int64_t pixel = y * width_ + x + p;
        Vec<A> d = sum[p];
        if constexpr (kBefore) d = (d + take<A>(grad.at(pixel), count)) * load(slope_.get() + pixel * kLanes<A>);
        give<A>(d, count, d_x.at(pixel));
      }
    }
  }

  const int64_t height_, width_, side_, radius_, row_, room_;
  const Buffer<A> taken_, inner_, slope_;
};

}  // namespace focalsr
