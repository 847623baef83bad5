// The two full-resolution passes of PlainUSR's local importance attention on the CPU: a pointwise convolution with soft
// pooling behind it, and the product of features, map and gate.
//
// Shapes: B images, H W pixels, C channels, side by side (images may be the first channels of wider ones); F pooled
// channels, `width` of them with padding; K side of a window, S steps between windows, h w windows; h' w' pixels of
// a map.
//
// Every result is computed alone: it does not depend on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "conv3x3.h"
#include "tiles.h"

namespace focalsr {
namespace {

using at::Tensor;
using V = Vec<float>;

constexpr int64_t kLanes8 = kLanes<float>;
constexpr float kPlain = 60;    // values whose exponentials, and sums of them, are normal numbers of float
constexpr int64_t kBand = 8;    // rows of windows in a task; pixels around them are read by its neighbours too
constexpr int64_t kPixels = 48; // of a row that are multiplied at a time

FOCALSR_INLINE V largest(V a, V b) { return a > b ? a : b; }

FOCALSR_INLINE V sigmoid(V x) {
  const V below = exponential<float>(x < 0 ? x : -x);
  return (x < 0 ? below : all<float>(1)) / (all<float>(1) + below);
}

// What a row of pixels is to the windows that it is in, of each window along the row and each channel: the sum of the
// weights exp(v - depth) and of weighted values, and the depth. Rows of moderate values have depths of 0.
struct RowSums {
  explicit RowSums(int64_t count) : weight(count), value(count), depth(count) {}
  Buffer<float> weight, value, depth;
  bool plain = true;
};

struct Pooling {
  int64_t pixels, width, windows, side, step;
};

bool moderate(const float* values, int64_t count) {
  V most{};
  for (int64_t i = 0; i < count; i += kLanes8) {
    const V v = load(values + i), size = v < 0 ? -v : v;
    most = size <= most ? most : size;  // what is not a number stays
  }
  bool found = true;
  for (int i = 0; i < kLanes8; ++i) found = found && most[i] <= kPlain;
  return found;
}

// values: [pixels][width]; weights: memory for as many.
void sum_row(const float* values, const Pooling& p, float* weights, RowSums& to) {
  to.plain = moderate(values, p.pixels * p.width);
  if (to.plain)
    for (int64_t i = 0; i < p.pixels * p.width; i += kLanes8)
      store(weights + i, exponential<float, true>(load(values + i)));
  for (int64_t n = 0; n < p.windows; ++n)
    for (int64_t c = 0; c < p.width; c += kLanes8) {
      const float* first = values + n * p.step * p.width + c;
      const float* weight = weights + n * p.step * p.width + c;
      V depth{}, weight_sum{}, value_sum{};
      if (to.plain) {
        for (int64_t i = 0; i < p.side; ++i) {
          const V w = load(weight + i * p.width);
          weight_sum += w;
          value_sum += w * load(first + i * p.width);
        }
      } else {
        depth = load(first);
        for (int64_t i = 1; i < p.side; ++i) depth = largest(depth, load(first + i * p.width));
        for (int64_t i = 0; i < p.side; ++i) {
          const V v = load(first + i * p.width), w = exponential<float>(v - depth);
          weight_sum += w;
          value_sum += w * v;
        }
      }
      const int64_t at = n * p.width + c;
      store(to.weight.get() + at, weight_sum);
      store(to.value.get() + at, value_sum);
      store(to.depth.get() + at, depth);
    }
}

// The results of one row of windows from the sums of its K rows of pixels; to: [windows][channels].
void join_rows(const std::vector<const RowSums*>& rows, const Pooling& p, int64_t channels, float* to) {
  bool plain = true;
  for (const RowSums* row : rows) plain = plain && row->plain;
  for (int64_t n = 0; n < p.windows; ++n)
    for (int64_t c = 0; c < channels; c += kLanes8) {
      const int64_t at = n * p.width + c;
      V weight_sum{}, value_sum{}, depth{};
      if (!plain) {
        depth = load(rows[0]->depth.get() + at);
        for (const RowSums* row : rows) depth = largest(depth, load(row->depth.get() + at));
      }
      for (const RowSums* row : rows) {
        V weight = load(row->weight.get() + at), value = load(row->value.get() + at);
        if (!plain) {
          const V factor = exponential<float>(load(row->depth.get() + at) - depth);
          weight *= factor, value *= factor;
        }
        weight_sum += weight;
        value_sum += value;
      }
      const V result = value_sum / weight_sum;
      std::memcpy(to + n * channels + c, &result, std::min(kLanes8, channels - c) * sizeof(float));
    }
}

void check_image(const Tensor& x, const char* name) {
  TORCH_CHECK_VALUE(x.dim() == 4 && x.scalar_type() == at::kFloat && (x.size(1) == 1 || x.stride(1) == 1), name,
                    ": expected float32 [B, C, H, W] with its channels side by side");
}

// weight [F, C] -> panels of results [panels][C][kPanel], the last one padded.
void pack_panels(const float* weight, int64_t results, int64_t channels, float* to) {
  for (int64_t first = 0; first < results; first += kPanel)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t f = first; f < first + kPanel; ++f) *to++ = f < results ? weight[f * channels + c] : 0.0f;
}

// x [B, C, H, W], weight [F, C], bias [F] -> [B, F, h, w], channels side by side.
Tensor pointwise_soft_pool(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t side, int64_t step) {
  check_image(x, "pointwise_soft_pool");
  const int64_t images = x.size(0), channels = x.size(1), height = x.size(2), pixels = x.size(3);
  const int64_t results = weight.size(0), width = (results + kPanel - 1) / kPanel * kPanel;
  TORCH_CHECK_VALUE(weight.numel() == results * channels && bias.numel() == results && height >= side &&
                        pixels >= side && side >= 1 && step >= 1, "pointwise_soft_pool: shapes differ");
  const Buffer<float> taps(width * channels), offset(width);
  pack_panels(weight.contiguous().const_data_ptr<float>(), results, channels, taps.get());
  pack_panels(bias.contiguous().const_data_ptr<float>(), results, 1, offset.get());
  const int64_t rows = (height - side) / step + 1, bands = (rows + kBand - 1) / kBand;
  const Pooling p{pixels, width, (pixels - side) / step + 1, side, step};
  const Tensor out = at::empty({images, rows, p.windows, results}, x.options());
  const float* from = x.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, images * bands, 1, [&](int64_t begin, int64_t end) {
    const Buffer<float> values(pixels * width), weights(pixels * width);
    std::vector<RowSums> sums;
    for (int64_t i = 0; i < side; ++i) sums.emplace_back(p.windows * width);
    std::vector<const RowSums*> window(side);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / bands, first = task % bands * kBand, last = std::min(rows, first + kBand);
      for (int64_t row = first * step; row < (last - 1) * step + side; ++row) {
        const float* line = from + image * x.stride(0) + row * x.stride(2);
        for (int64_t start = 0; start < pixels; start += kPixels)
          conv_products(line + start * x.stride(3), x.stride(3), taps.get(), channels, values.get() + start * width,
                        width, std::min(kPixels, pixels - start), width / kConvLanes);
        for (int64_t i = 0; i < pixels; ++i)
          for (int64_t c = 0; c < width; c += kLanes8)
            store(values.get() + i * width + c, load(values.get() + i * width + c) + load(offset.get() + c));
        sum_row(values.get(), p, weights.get(), sums[row % side]);
        const int64_t top = row - side + 1;  // of the window that ends here
        if (top < first * step || top % step != 0) continue;
        for (int64_t i = 0; i < side; ++i) window[i] = &sums[(top + i) % side];
        join_rows(window, p, results, to + (image * rows + top / step) * p.windows * results);
      }
    }
  });
  return out.permute({0, 3, 1, 2});
}

// Where a row or column of the image lies in the map: two neighbours and the share of the second.
struct Between {
  int64_t first, second;
  float share;
};

Between between(int64_t place, int64_t length, int64_t map_length) {
  const float scale = static_cast<float>(map_length) / static_cast<float>(length);
  const float at = std::max(0.0f, (static_cast<float>(place) + 0.5f) * scale - 0.5f);
  const int64_t first = std::min(static_cast<int64_t>(at), map_length - 1);
  return {first, std::min(first + 1, map_length - 1), at - static_cast<float>(first)};
}

// One row of pixels times its gate and its map. line: [w'][channels] of the map; gate: memory for W.
void multiply_row(float* row, int64_t pixel, int64_t pixels, int64_t channels, const float* line,
                  const std::vector<Between>& across, float* gate) {
  for (int64_t i = 0; i < pixels; i += kLanes8) {
    V first{};
    for (int64_t j = 0; j < std::min(kLanes8, pixels - i); ++j) first[j] = row[(i + j) * pixel];
    store(gate + i, sigmoid(first));
  }
  for (int64_t i = 0; i < pixels; ++i) {
    const Between& b = across[i];
    const float *left = line + b.first * channels, *right = line + b.second * channels;
    const float near = (1 - b.share) * gate[i], far = b.share * gate[i];
    float* x = row + i * pixel;
    int64_t c = 0;
    for (; c + kLanes8 <= channels; c += kLanes8)
      store(x + c, load(x + c) * (near * load(left + c) + far * load(right + c)));
    for (; c < channels; ++c) x[c] *= near * left[c] + far * right[c];
  }
}

// A row of the map between two: [w'][channels]; logits: of its logistic function.
void take_line(const float* first, const float* second, float share, int64_t count, bool logits, float* to) {
  int64_t i = 0;
  for (; i + kLanes8 <= count; i += kLanes8) {
    const V value = (1 - share) * load(first + i) + share * load(second + i);
    store(to + i, logits ? sigmoid(value) : value);
  }
  for (; i < count; ++i) {
    const float value = (1 - share) * first[i] + share * second[i];
    to[i] = logits ? sigmoid(all<float>(value))[0] : value;
  }
}

// x [B, C, H, W] *= map [B, C, h', w'], stretched bilinearly, * sigmoid(x[:, 0]); logits: the logistic function of a
// map that is as large as x.
void importance_gate(const Tensor& x, const Tensor& map, bool logits) {
  check_image(x, "importance_gate");
  check_image(map, "importance_gate");
  const int64_t images = x.size(0), channels = x.size(1), height = x.size(2), pixels = x.size(3);
  const int64_t lines = map.size(2), columns = map.size(3);
  TORCH_CHECK_VALUE(map.size(0) == images && map.size(1) == channels && (columns == 1 || map.stride(3) == channels) &&
                        (!logits || (lines == height && columns == pixels)), "importance_gate: shapes differ");
  if (x.numel() == 0) return;
  std::vector<Between> across;
  for (int64_t i = 0; i < pixels; ++i) across.push_back(between(i, pixels, columns));
  float* to = x.mutable_data_ptr<float>();
  const float* maps = map.const_data_ptr<float>();
  at::parallel_for(0, images * height, 1, [&](int64_t begin, int64_t end) {
    const Buffer<float> line(columns * channels), gate(pixels + kLanes8);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / height, row = task % height;
      const Between b = between(row, height, lines);
      const float* from = maps + image * map.stride(0);
      take_line(from + b.first * map.stride(2), from + b.second * map.stride(2), b.share, columns * channels, logits,
                line.get());
      multiply_row(to + image * x.stride(0) + row * x.stride(2), x.stride(3), pixels, channels, line.get(), across,
                   gate.get());
    }
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("pointwise_soft_pool", pointwise_soft_pool);
  m.impl("importance_gate", importance_gate);
}

}  // namespace focalsr
