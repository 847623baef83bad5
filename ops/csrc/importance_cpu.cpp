// The two full-resolution passes of PlainUSR's local importance attention on the CPU: a pointwise convolution with soft
// pooling behind it, and the product of features, map and gate.
//
// Shapes: B images, H W pixels, C channels, side by side (images may be the first channels of wider ones); F pooled
// channels, `width` of them with padding; K side of a window, S steps between windows, h w windows; h' w' pixels of
// a map.
//
// T is the type of images in memory, float or bfloat16; all arithmetic is float. Every result is computed alone: it
// does not depend on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <type_traits>
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
  const V below = exponential<float>(x < 0.0f ? x : -x);
  return (x < 0.0f ? below : all<float>(1)) / (all<float>(1) + below);
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
    const V v = load(values + i), size = v < 0.0f ? -v : v;
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
  const auto type = x.scalar_type();
  TORCH_CHECK_VALUE(x.dim() == 4 && (type == at::kFloat || type == at::kBFloat16) &&
                        (x.size(1) == 1 || x.stride(1) == 1), name,
                    ": expected float32 or bfloat16 [B, C, H, W] with its channels side by side");
}

// weight [F, C] -> panels of results [panels][C][kPanel], the last one padded.
void pack_panels(const float* weight, int64_t results, int64_t channels, float* to) {
  for (int64_t first = 0; first < results; first += kPanel)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t f = first; f < first + kPanel; ++f) *to++ = f < results ? weight[f * channels + c] : 0.0f;
}

// One row of pixels -> results of the pointwise convolution, [pixels][width]; wide: memory for kPixels pixels.
template <class T>
void convolve_row(const T* line, int64_t pixel, int64_t channels, const float* taps, const float* offset,
                  const Pooling& p, float* wide, float* values) {
  for (int64_t start = 0; start < p.pixels; start += kPixels) {
    const int64_t count = std::min(kPixels, p.pixels - start);
    const T* from = line + start * pixel;
    float* to = values + start * p.width;
    if constexpr (std::is_same<T, float>::value) {
      conv_products(from, pixel, taps, channels, to, p.width, count, p.width / kConvLanes);
    } else {
      for (int64_t i = 0; i < count; ++i)
        for (int64_t c = 0; c < channels; ++c) wide[i * channels + c] = static_cast<float>(from[i * pixel + c]);
      conv_products(wide, channels, taps, channels, to, p.width, count, p.width / kConvLanes);
    }
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < p.width; c += kLanes8)
        store(to + i * p.width + c, load(to + i * p.width + c) + load(offset + c));
  }
}

// out [B, h, w, F], float.
template <class T>
void pool(const Tensor& x, const float* taps, const float* offset, const Pooling& p, const Tensor& out) {
  const int64_t images = x.size(0), rows = out.size(1), results = out.size(3), bands = (rows + kBand - 1) / kBand;
  const T* from = x.const_data_ptr<T>();
  float* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, images * bands, 1, [&](int64_t begin, int64_t end) {
    const Buffer<float> values(p.pixels * p.width), weights(p.pixels * p.width), wide(kPixels * x.size(1));
    std::vector<RowSums> sums;
    for (int64_t i = 0; i < p.side; ++i) sums.emplace_back(p.windows * p.width);
    std::vector<const RowSums*> window(p.side);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / bands, first = task % bands * kBand, last = std::min(rows, first + kBand);
      for (int64_t row = first * p.step; row < (last - 1) * p.step + p.side; ++row) {
        const T* line = from + image * x.stride(0) + row * x.stride(2);
        convolve_row(line, x.stride(3), x.size(1), taps, offset, p, wide.get(), values.get());
        sum_row(values.get(), p, weights.get(), sums[row % p.side]);
        const int64_t top = row - p.side + 1;  // of the window that ends here
        if (top < first * p.step || top % p.step != 0) continue;
        for (int64_t i = 0; i < p.side; ++i) window[i] = &sums[(top + i) % p.side];
        join_rows(window, p, results, to + (image * rows + top / p.step) * p.windows * results);
      }
    }
  });
}

// x [B, C, H, W], weight [F, C], bias [F] -> [B, F, h, w], channels side by side, in the type of x.
Tensor pointwise_soft_pool(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t side, int64_t step) {
  check_image(x, "pointwise_soft_pool");
  const int64_t channels = x.size(1), height = x.size(2), pixels = x.size(3), results = weight.size(0);
  const int64_t width = (results + kPanel - 1) / kPanel * kPanel;
  TORCH_CHECK_VALUE(weight.numel() == results * channels && bias.numel() == results && height >= side &&
                        pixels >= side && side >= 1 && step >= 1, "pointwise_soft_pool: shapes differ");
  const Tensor rows = weight.to(at::kFloat).contiguous(), offsets = bias.to(at::kFloat).contiguous();
  const Buffer<float> taps(width * channels), offset(width);
  pack_panels(rows.const_data_ptr<float>(), results, channels, taps.get());
  pack_panels(offsets.const_data_ptr<float>(), results, 1, offset.get());
  const Pooling p{pixels, width, (pixels - side) / step + 1, side, step};
  const auto options = x.options().dtype(at::kFloat);
  const Tensor out = at::empty({x.size(0), (height - side) / step + 1, p.windows, results}, options);
  const auto f = x.scalar_type() == at::kFloat ? pool<float> : pool<at::BFloat16>;
  f(x, taps.get(), offset.get(), p, out);
  return out.to(x.scalar_type()).permute({0, 3, 1, 2});
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
template <class T>
void multiply_row(T* row, int64_t pixel, int64_t pixels, int64_t channels, const float* line,
                  const std::vector<Between>& across, float* gate) {
  for (int64_t i = 0; i < pixels; i += kLanes8) {
    V first{};
    for (int64_t j = 0; j < std::min(kLanes8, pixels - i); ++j) first[j] = static_cast<float>(row[(i + j) * pixel]);
    store(gate + i, sigmoid(first));
  }
  for (int64_t i = 0; i < pixels; ++i) {
    const Between& b = across[i];
    const float *left = line + b.first * channels, *right = line + b.second * channels;
    const float near = (1 - b.share) * gate[i], far = b.share * gate[i];
    T* x = row + i * pixel;
    int64_t c = 0;
    if constexpr (std::is_same<T, float>::value)
      for (; c + kLanes8 <= channels; c += kLanes8)
        store(x + c, load(x + c) * (near * load(left + c) + far * load(right + c)));
    for (; c < channels; ++c) x[c] = static_cast<T>(static_cast<float>(x[c]) * (near * left[c] + far * right[c]));
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

// map: float.
template <class T>
void multiply(const Tensor& x, const Tensor& map, bool logits) {
  const int64_t images = x.size(0), channels = x.size(1), height = x.size(2), pixels = x.size(3);
  const int64_t lines = map.size(2), columns = map.size(3);
  std::vector<Between> across;
  for (int64_t i = 0; i < pixels; ++i) across.push_back(between(i, pixels, columns));
  T* to = x.mutable_data_ptr<T>();
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
  const Tensor wide = map.to(at::kFloat);
  const auto f = x.scalar_type() == at::kFloat ? multiply<float> : multiply<at::BFloat16>;
  f(x, wide, logits);
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("pointwise_soft_pool", pointwise_soft_pool);
  m.impl("importance_gate", importance_gate);
}

}  // namespace focalsr
