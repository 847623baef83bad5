// 3x3 convolution with zeros around the image, bias, leaky ReLU and pixel shuffle on the CPU, of images whose channels
// lie side by side. Tiles are transformed, multiplied and transformed back in groups that fit the cache (conv3x3.h).
//
// Shapes: B images, H W pixels, C channels in, K channels out. Images may be the first channels of wider ones.
// T is the type of images in memory, float or bfloat16; all arithmetic is float.
//
// Every result is computed alone: it depends neither on the group that its tile is in nor on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>
#include <type_traits>

#include "conv3x3_tiles.h"

namespace focalsr {
namespace {

using at::Tensor;

constexpr int64_t kGroup = 24;  // tiles

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

  // The tiles [first, first + count) of an image.
  void compute(int64_t image, int64_t first, int64_t count, const Group& g) const {
    const int64_t columns = to.across(), position_step = from.channels * g.sums_row;
    for (int64_t t = 0; t < count; ++t)
      take_tile(images + image * image_step, from, first + t, g.patch.get(), g.values.get() + t * g.values_row,
                g.values_step);
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
  const int64_t groups = (work.to.tiles() + kGroup - 1) / kGroup;
  at::parallel_for(0, x.size(0) * groups, 1, [&](int64_t begin, int64_t end) {
    const Group group(from.channels, channels);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % groups * kGroup;
      work.compute(task / groups, first, std::min(kGroup, work.to.tiles() - first), group);
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

// ---------------------------------------------------------------------------------------------------------------------
// What the gradients need beside the convolution itself: transformed weights, and transformed tiles of images and of
// gradients of results. The gradient of the weights at a position of a tile is a product of two matrices of tiles.

// A quadratic polynomial's values at the points of conv3x3.h, each divided by the product of distances to the others.
struct Points {
  Points() {
    const double at[5] = {0, 0.625, -0.625, 1.5, -1.5};
    for (int i = 0; i < 5; ++i) {
      double distance = 1;
      for (int j = 0; j < 5; ++j) distance *= i == j ? 1 : at[i] - at[j];
      row[i][0] = 1 / distance;
      row[i][1] = at[i] / distance;
      row[i][2] = at[i] * at[i] / distance;
    }
    row[5][0] = row[5][1] = 0;
    row[5][2] = 1;
  }
  double row[kTileIn][3];
};

// kPanel kernels of 3x3, by tap -> 36 positions, `step` apart.
void transform_kernels(const Points& points, const double (&taps)[9][kPanel], float* to, int64_t step) {
  double half[kTileIn][3][kPanel];
  for (int i = 0; i < kTileIn; ++i)
    for (int b = 0; b < 3; ++b)
      for (int k = 0; k < kPanel; ++k)
        half[i][b][k] =
            points.row[i][0] * taps[b][k] + points.row[i][1] * taps[3 + b][k] + points.row[i][2] * taps[6 + b][k];
  for (int i = 0; i < kTileIn; ++i)
    for (int j = 0; j < kTileIn; ++j, to += step)
      for (int k = 0; k < kPanel; ++k)
        to[k] = static_cast<float>(
            points.row[j][0] * half[i][0][k] + points.row[j][1] * half[i][1][k] + points.row[j][2] * half[i][2][k]);
}

// weight [K, C, 3, 3] -> [36, panels, C, 16]; turned: of the convolution that takes gradients of results to those of x,
// whose kernels are turned by 180 degrees, from K channels to C.
Tensor conv3x3_weight(const Tensor& weight, bool turned) {
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 && weight.scalar_type() == at::kFloat,
                    "conv3x3_weight: expected float32 [K, C, 3, 3]");
  const Tensor from = weight.contiguous();
  const int64_t inputs = from.size(turned ? 0 : 1), results = from.size(turned ? 1 : 0);
  const int64_t input_step = turned ? from.stride(0) : 9, result_step = turned ? 9 : from.stride(0);
  const int64_t panels = (results + kPanel - 1) / kPanel;
  const Tensor out = at::empty({kPositions, panels, inputs, kPanel}, weight.options());
  const float* const data = from.const_data_ptr<float>();
  float* const to = out.mutable_data_ptr<float>();
  const Points points;
  at::parallel_for(0, panels * inputs, 64, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task / inputs * kPanel, input = task % inputs;
      double taps[9][kPanel];
      for (int k = 0; k < kPanel; ++k)
        for (int tap = 0; tap < 9; ++tap)
          taps[tap][k] = first + k < results
                             ? data[input * input_step + (first + k) * result_step + (turned ? 8 - tap : tap)]
                             : 0.0;
      transform_kernels(points, taps, to + task * kPanel, panels * inputs * kPanel);
    }
  });
  return out;
}

// Tiles [first, first + count) of all images -> [36, count, channels], padded in memory to whole vectors.
// transform(image, place, tile of the image, patch, to, step).
template <class F>
Tensor all_tiles(const Tensor& x, int64_t first, int64_t count, F&& transform) {
  TORCH_CHECK_VALUE(x.dim() == 4 && x.scalar_type() == at::kFloat && (x.size(1) == 1 || x.stride(1) == 1),
                    "conv3x3: expected float32 [B, C, H, W] with its channels side by side");
  const Place place{x.size(2), x.size(3), x.size(1), x.stride(2), x.stride(3)};
  TORCH_CHECK_INDEX(first >= 0 && count > 0 && first + count <= x.size(0) * place.tiles(), "conv3x3: no such tiles");
  const int64_t width = whole_vectors(place.channels) * kConvLanes;
  const Tensor out = at::empty({kPositions, count, width}, x.options());
  const float* const data = x.const_data_ptr<float>();
  float* const to = out.mutable_data_ptr<float>();
  at::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
    const Buffer<float> patch(kPositions * width);
    for (int64_t t = begin; t < end; ++t) {
      const float* const image = data + (first + t) / place.tiles() * x.stride(0);
      transform(image, place, (first + t) % place.tiles(), patch.get(), to + t * width, count * width);
    }
  });
  return out.narrow(2, 0, place.channels);
}

Tensor conv3x3_tiles(const Tensor& x, int64_t first, int64_t count) {
  return all_tiles(x, first, count, [](auto... arguments) { take_tile(arguments...); });
}

Tensor conv3x3_gradient_tiles(const Tensor& grad, int64_t first, int64_t count) {
  return all_tiles(
      grad, first, count,
      [](const float* image, const Place& p, int64_t tile, float* patch, float* to, int64_t step) {
        const int64_t top = tile / p.across() * kTileOut, left = tile % p.across() * kTileOut;
        for_vectors(image, p, top, left, kTileOut, patch, [&](int64_t c, const float* from, int64_t row, int64_t pixel) {
          transform_gradient_tile(from, row, pixel, to + c, step);
        });
      });
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("conv3x3_out", conv3x3_out);
  m.impl("conv3x3_weight", conv3x3_weight);
  m.impl("conv3x3_tiles", conv3x3_tiles);
  m.impl("conv3x3_gradient_tiles", conv3x3_gradient_tiles);
}

}  // namespace focalsr
