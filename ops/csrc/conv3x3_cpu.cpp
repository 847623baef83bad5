// 3x3 convolution with zeros around the image, bias, leaky ReLU and pixel shuffle on the CPU, of images whose channels
// lie side by side. Tiles are transformed, multiplied and transformed back in groups that fit the cache (conv3x3.h).
//
// Shapes: B images, H W pixels, C channels in, K channels out. Images may be the first channels of wider ones.
// T is the type of images in memory, float or bfloat16; all arithmetic is float.
//
// Every result is computed alone: it depends neither on the group that its tile is in nor on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <optional>
#include <type_traits>

#include "conv3x3.h"

namespace focalsr {
namespace {

using at::Tensor;

constexpr int64_t kGroup = 24;  // tiles

// An image's place: channels side by side, pixels and rows of any step.
struct Place {
  int64_t height, width, channels, row, pixel;
};

constexpr int64_t whole_vectors(int64_t channels) { return (channels + kConvLanes - 1) / kConvLanes; }

// Memory of one thread.
class Group {
 public:
  Group(int64_t channels, int64_t results)
      : values_row(whole_vectors(channels) * kConvLanes), sums_row((results + kPanel - 1) / kPanel * kPanel),
        values_step(kGroup * values_row + kPad), sums_step(kGroup * sums_row + kPad), values(kPositions * values_step),
        sums(kPositions * sums_step), patch(kPositions * values_row),
        results(kTileOut * kTileOut * sums_row) {}

  static constexpr int64_t kPad = 16;  // multiples of 4096 bytes between positions would share lines of the cache
  const int64_t values_row, sums_row, values_step, sums_step;
  const Buffer<float> values, sums, patch, results;
};

// A tile at the border, its last channels that fill no vector, or one of bfloat16: with zeros around, into our memory.
template <class T>
void copy_patch(const T* image, const Place& p, int64_t top, int64_t left, int64_t first, float* to, int64_t width) {
  const int64_t count = p.channels - first;
  for (int64_t y = top; y < top + kTileIn; ++y)
    for (int64_t x = left; x < left + kTileIn; ++x, to += width) {
      if (y < 0 || x < 0 || y >= p.height || x >= p.width) {
        std::fill_n(to, width, 0.0f);
        continue;
      }
      const T* from = image + y * p.row + x * p.pixel + first;
      for (int64_t c = 0; c < count; ++c) to[c] = static_cast<float>(from[c]);
      std::fill(to + count, to + width, 0.0f);
    }
}

// One tile -> its transformed values.
template <class T>
void take_tile(const T* image, const Place& p, int64_t tile_row, int64_t tile_column, const Group& g, float* to) {
  const int64_t top = tile_row * kTileOut - 1, left = tile_column * kTileOut - 1;
  const bool inside = top >= 0 && left >= 0 && top + kTileIn <= p.height && left + kTileIn <= p.width;
  int64_t direct = 0;
  if constexpr (std::is_same<T, float>::value) {
    direct = inside ? p.channels / kConvLanes * kConvLanes : 0;
    for (int64_t c = 0; c < direct; c += kConvLanes)
      transform_tile(image + top * p.row + left * p.pixel + c, p.row, p.pixel, to + c, g.values_step);
  }
  if (direct == p.channels) return;
  const int64_t width = g.values_row - direct;
  copy_patch(image, p, top, left, direct, g.patch.get(), width);
  for (int64_t c = 0; c < width; c += kConvLanes)
    transform_tile(g.patch.get() + c, kTileIn * width, width, to + direct + c, g.values_step);
}

// Results of one pixel that become s x s pixels of K / s^2 channels.
struct Shuffle {
  int64_t factor, channel, row, pixel;  // the last three: steps in the image
};

template <class T>
void put_shuffled(const float* pixel, int64_t channels, const Shuffle& s, T* to) {
  for (int64_t c = 0; c < channels; c += s.factor * s.factor, to += s.channel)
    for (int64_t y = 0; y < s.factor; ++y, pixel += s.factor) {
      T* line = to + y * s.row;
      for (int64_t x = 0; x < s.factor; ++x) line[x * s.pixel] = static_cast<T>(pixel[x]);
    }
}

// One tile of products -> results at `to`, `row` and `pixel` values apart.
void put_tile(const float* sums, const Group& g, const float* bias, float slope, int64_t rows, int64_t columns,
              int64_t channels, float* to, int64_t row, int64_t pixel) {
  for (int64_t k = 0; k < channels; k += kConvLanes) {
    ConvVec results[kTileOut][kTileOut];
    transform_results(sums + k, g.sums_step, results);
    const ConvVec offset = conv_load(bias + k);
    const int64_t count = std::min<int64_t>(kConvLanes, channels - k);
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t x = 0; x < columns; ++x) {
        ConvVec value = results[y][x] + offset;
        value = value < 0.0f ? value * slope : value;
        float* at = to + y * row + x * pixel + k;
        if (count == kConvLanes) conv_store(at, value);
        else std::memcpy(at, &value, count * sizeof(float));
      }
  }
}

Place place_of(const Tensor& x) {
  TORCH_CHECK_VALUE(x.dim() == 4 && x.scalar_type() == at::kFloat && (x.size(1) == 1 || x.stride(1) == 1),
                    "conv3x3: expected float32 [B, C, H, W] with its channels side by side");
  return {x.size(2), x.size(3), x.size(1), x.stride(2), x.stride(3)};
}

// The work of one call.
template <class T>
struct Convolution {
  const T* images;
  int64_t image_step;
  Place from;
  const float *weights, *bias;
  float slope;
  T* results;
  int64_t result_step;
  Place to;  // before the shuffle
  Shuffle shuffle;

  int64_t across() const { return (to.width + kTileOut - 1) / kTileOut; }
  int64_t tiles() const { return (to.height + kTileOut - 1) / kTileOut * across(); }

  // The tiles [first, first + count) of an image.
  void compute(int64_t image, int64_t first, int64_t count, const Group& g) const {
    const int64_t columns = across(), position_step = from.channels * g.sums_row;
    for (int64_t t = 0; t < count; ++t)
      take_tile(images + image * image_step, from, (first + t) / columns, (first + t) % columns, g,
                g.values.get() + t * g.values_row);
    for (int64_t p = 0; p < kPositions; ++p)
      conv_products(g.values.get() + p * g.values_step, g.values_row, weights + p * position_step, from.channels,
                    g.sums.get() + p * g.sums_step, g.sums_row, count, whole_vectors(to.channels));
    for (int64_t t = 0; t < count; ++t)
      put(g.sums.get() + t * g.sums_row, g, (first + t) / columns * kTileOut, (first + t) % columns * kTileOut,
          results + image * result_step);
  }

  void put(const float* sums, const Group& g, int64_t top, int64_t left, T* image) const {
    const int64_t rows = std::min<int64_t>(kTileOut, to.height - top);
    const int64_t columns = std::min<int64_t>(kTileOut, to.width - left);
    if constexpr (std::is_same<T, float>::value)
      if (shuffle.factor == 1) {
        float* corner = image + top * to.row + left * to.pixel;
        return put_tile(sums, g, bias, slope, rows, columns, to.channels, corner, to.row, to.pixel);
      }
    float* patch = g.results.get();
    put_tile(sums, g, bias, slope, rows, columns, to.channels, patch, kTileOut * g.sums_row, g.sums_row);
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t x = 0; x < columns; ++x) {
        const float* pixel = patch + (y * kTileOut + x) * g.sums_row;
        if (shuffle.factor == 1) {
          T* at = image + (top + y) * to.row + (left + x) * to.pixel;
          for (int64_t k = 0; k < to.channels; ++k) at[k] = static_cast<T>(pixel[k]);
        } else {
          T* at = image + shuffle.factor * ((top + y) * shuffle.row + (left + x) * shuffle.pixel);
          put_shuffled(pixel, to.channels, shuffle, at);
        }
      }
  }
};

template <class T>
void run(const Tensor& x, const Place& from, const float* weight, const float* bias, double slope, int64_t shuffle,
         int64_t channels, const Tensor& out) {
  const Convolution<T> work{
      x.const_data_ptr<T>(), x.stride(0), from, weight, bias, static_cast<float>(slope), out.mutable_data_ptr<T>(),
      out.stride(0), {from.height, from.width, channels, out.stride(2), out.stride(3)},
      {shuffle, out.stride(1), out.stride(2), out.stride(3)}};
  const int64_t groups = (work.tiles() + kGroup - 1) / kGroup;
  at::parallel_for(0, x.size(0) * groups, 1, [&](int64_t begin, int64_t end) {
    const Group group(from.channels, channels);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % groups * kGroup;
      work.compute(task / groups, first, std::min(kGroup, work.tiles() - first), group);
    }
  });
}

// x [B, C, H, W], weight [36, panels, C, 16], bias [K] -> out [B, K / s^2, s H, s W], other memory than x.
void conv3x3_out(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, double slope,
                 int64_t shuffle, const Tensor& out) {
  const auto type = x.scalar_type();
  TORCH_CHECK_VALUE(x.dim() == 4 && (type == at::kFloat || type == at::kBFloat16) &&
                        (x.size(1) == 1 || x.stride(1) == 1),
                    "conv3x3: expected float32 or bfloat16 [B, C, H, W] with its channels side by side");
  TORCH_CHECK_VALUE(out.dim() == 4 && out.scalar_type() == type && shuffle >= 1 &&
                        (shuffle > 1 || out.size(1) == 1 || out.stride(1) == 1),
                    "conv3x3: expected results [B, K, H, W] of the type of x, channels side by side or to be shuffled");
  const Place from{x.size(2), x.size(3), x.size(1), x.stride(2), x.stride(3)};
  const int64_t channels = out.size(1) * shuffle * shuffle, padded = (channels + kPanel - 1) / kPanel * kPanel;
  TORCH_CHECK_VALUE(weight.is_contiguous() && weight.scalar_type() == at::kFloat &&
                        weight.numel() == kPositions * padded * from.channels &&
                        (!bias || bias->numel() == channels) && x.size(0) == out.size(0) &&
                        from.height * shuffle == out.size(2) && from.width * shuffle == out.size(3),
                    "conv3x3: shapes differ");
  const Buffer<float> offsets(padded);
  std::fill_n(offsets.get(), padded, 0.0f);
  if (bias) std::copy_n(bias->to(at::kFloat).contiguous().const_data_ptr<float>(), channels, offsets.get());
  const auto f = x.scalar_type() == at::kFloat ? run<float> : run<at::BFloat16>;
  f(x, from, weight.const_data_ptr<float>(), offsets.get(), slope, shuffle, channels, out);
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) { m.impl("conv3x3_out", conv3x3_out); }

}  // namespace focalsr
