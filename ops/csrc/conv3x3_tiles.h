// Tiles of images for Winograd's filtering (conv3x3.h): where an image's pixels are, and tiles that leave it. No torch
// header.
//
// Shapes: H W pixels, C channels; tiles in row-major order. T is the type of images in memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "conv3x3.h"

namespace focalsr {

// An image's place: channels side by side, pixels and rows of any step.
struct Place {
  int64_t height, width, channels, row, pixel;

  int64_t across() const { return (width + kTileOut - 1) / kTileOut; }
  int64_t tiles() const { return (height + kTileOut - 1) / kTileOut * across(); }
};

constexpr int64_t whole_vectors(int64_t channels) { return (channels + kConvLanes - 1) / kConvLanes; }

// side x side pixels from (top, left) on, of the channels from `first` on: with zeros around, into our memory.
template <class T>
void copy_patch(
    const T* image, const Place& p, int64_t top, int64_t left, int64_t side, int64_t first, float* to, int64_t width) {
  const int64_t count = p.channels - first;
  for (int64_t y = top; y < top + side; ++y)
    for (int64_t x = left; x < left + side; ++x, to += width) {
      if (y < 0 || x < 0 || y >= p.height || x >= p.width) {
        std::fill_n(to, width, 0.0f);
        continue;
      }
      const T* from = image + y * p.row + x * p.pixel + first;
      for (int64_t c = 0; c < count; ++c) to[c] = static_cast<float>(from[c]);
      std::fill(to + count, to + width, 0.0f);
    }
}

// Calls transform(vector's first channel, from, row step, pixel step) for all channels of side x side pixels, in whole
// vectors: where they are, or copied with zeros around. patch: side * side * channels, padded to whole vectors.
template <class T, class F>
FOCALSR_INLINE void for_vectors(
    const T* image, const Place& p, int64_t top, int64_t left, int64_t side, float* patch, F&& transform) {
  const bool inside = top >= 0 && left >= 0 && top + side <= p.height && left + side <= p.width;
  int64_t direct = 0;
  if constexpr (std::is_same<T, float>::value) {
    direct = inside ? p.channels / kConvLanes * kConvLanes : 0;
    for (int64_t c = 0; c < direct; c += kConvLanes)
      transform(c, image + top * p.row + left * p.pixel + c, p.row, p.pixel);
  }
  if (direct == p.channels) return;
  const int64_t width = whole_vectors(p.channels) * kConvLanes - direct;
  copy_patch(image, p, top, left, side, direct, patch, width);
  for (int64_t c = 0; c < width; c += kConvLanes) transform(direct + c, patch + c, side * width, width);
}

// One tile -> its transformed values, positions `step` apart.
template <class T>
void take_tile(const T* image, const Place& p, int64_t tile, float* patch, float* to, int64_t step) {
  const int64_t top = tile / p.across() * kTileOut - 1, left = tile % p.across() * kTileOut - 1;
  for_vectors(image, p, top, left, kTileIn, patch, [&](int64_t c, const float* from, int64_t row, int64_t pixel) {
    transform_tile(from, row, pixel, to + c, step);
  });
}

}  // namespace focalsr
