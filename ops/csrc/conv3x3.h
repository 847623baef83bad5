// 3x3 convolutions by Winograd's minimal filtering F(4x4, 3x3): a tile of 4x4 results takes 36 multiplications for each
// pair of channels in the place of 144. No torch header.
//
// Points of the polynomials: 0, +-5/8, +-3/2, infinity. Their squares are exact, and rounding errors are twice those of
// a direct sum; with 0, +-1, +-2 they would be four times.
//
// Shapes: C channels in, K channels out; a tile is 6x6 pixels in and 4x4 results out; P = 36 positions of a transformed
// tile, T tiles of a group. Panels are kPanel channels of results wide.
//
//   transformed tiles    values[P][T][C], padded to whole vectors
//   transformed weights  weight[P][panels][C][kPanel]
//   products             sums[P][T][panels * kPanel]
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "common.h"

namespace focalsr {

#ifdef __AVX512F__
constexpr int kConvBytes = 64;
constexpr int kTileRows6 = 12;  // tiles whose sums are in registers at a time: 12 x 2 of 32, or 6 x 2 of 16 registers
#else
constexpr int kConvBytes = 32;
constexpr int kTileRows6 = 6;
#endif
constexpr int kConvLanes = kConvBytes / sizeof(float);
constexpr int kPanel = 16;
constexpr int kPanelVectors = kPanel / kConvLanes;
constexpr int kTileIn = 6, kTileOut = 4, kPositions = kTileIn * kTileIn;

typedef float ConvVec __attribute__((vector_size(kConvBytes)));
typedef float ConvLoose __attribute__((vector_size(kConvBytes), aligned(alignof(float)), may_alias));

FOCALSR_INLINE ConvVec conv_load(const float* at) { return *reinterpret_cast<const ConvLoose*>(at); }
FOCALSR_INLINE void conv_store(float* at, ConvVec value) { *reinterpret_cast<ConvLoose*>(at) = value; }

// 6 values -> 6 of the transformed tile, along one direction.
FOCALSR_INLINE void transform_values(const ConvVec* d, int64_t step, ConvVec* to, int64_t to_step) {
  constexpr float a = 0.625f, b = 1.5f, aa = a * a, bb = b * b;
  const ConvVec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  const ConvVec near = d4 - bb * d2, far = d4 - aa * d2;
  const ConvVec near_odd = a * d3 - (a * bb) * d1, far_odd = b * d3 - (b * aa) * d1;
  to[0] = aa * bb * d0 - (aa + bb) * d2 + d4;
  to[to_step] = near + near_odd;
  to[2 * to_step] = near - near_odd;
  to[3 * to_step] = far + far_odd;
  to[4 * to_step] = far - far_odd;
  to[5 * to_step] = aa * bb * d1 - (aa + bb) * d3 + d5;
}

// 6 products -> 4 results, along one direction.
FOCALSR_INLINE void transform_sums(const ConvVec* m, int64_t step, ConvVec* to, int64_t to_step) {
  constexpr float a = 0.625f, b = 1.5f;
  const ConvVec near = m[step] + m[2 * step], near_odd = m[step] - m[2 * step];
  const ConvVec far = m[3 * step] + m[4 * step], far_odd = m[3 * step] - m[4 * step];
  to[0] = m[0] + near + far;
  to[to_step] = a * near_odd + b * far_odd;
  to[2 * to_step] = (a * a) * near + (b * b) * far;
  to[3 * to_step] = (a * a * a) * near_odd + (b * b * b) * far_odd + m[5 * step];
}

// The transpose of transform_sums: gradients of 4 results -> of 6 products, along one direction.
FOCALSR_INLINE void transform_gradients(const ConvVec* d, int64_t step, ConvVec* to, int64_t to_step) {
  constexpr float a = 0.625f, b = 1.5f;
  const ConvVec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];
  const ConvVec near = d0 + (a * a) * d2, near_odd = a * d1 + (a * a * a) * d3;
  const ConvVec far = d0 + (b * b) * d2, far_odd = b * d1 + (b * b * b) * d3;
  to[0] = d0;
  to[to_step] = near + near_odd;
  to[2 * to_step] = near - near_odd;
  to[3 * to_step] = far + far_odd;
  to[4 * to_step] = far - far_odd;
  to[5 * to_step] = d3;
}

// kConvLanes channels of the gradients of a tile's results, `row` and `pixel` values apart -> of its products [P], `step`
// apart.
FOCALSR_INLINE void transform_gradient_tile(const float* at, int64_t row, int64_t pixel, float* to, int64_t step) {
  ConvVec half[kTileOut][kTileIn];  // [column][row]
  for (int x = 0; x < kTileOut; ++x) {
    ConvVec column[kTileOut];
#pragma GCC unroll 4
    for (int y = 0; y < kTileOut; ++y) column[y] = conv_load(at + y * row + x * pixel);
    transform_gradients(column, 1, half[x], 1);
  }
  for (int y = 0; y < kTileIn; ++y) {
    ConvVec out[kTileIn];
    transform_gradients(&half[0][y], kTileIn, out, 1);
#pragma GCC unroll 6
    for (int x = 0; x < kTileIn; ++x) conv_store(to + (y * kTileIn + x) * step, out[x]);
  }
}

// kConvLanes channels of a tile of pixels, `row` and `pixel` values apart -> values[P], `step` apart.
FOCALSR_INLINE void transform_tile(const float* at, int64_t row, int64_t pixel, float* to, int64_t step) {
  ConvVec half[kTileIn][kTileIn];  // [column][row]
  for (int x = 0; x < kTileIn; ++x) {
    ConvVec column[kTileIn];
#pragma GCC unroll 6
    for (int y = 0; y < kTileIn; ++y) column[y] = conv_load(at + y * row + x * pixel);
    transform_values(column, 1, half[x], 1);
  }
  for (int y = 0; y < kTileIn; ++y) {
    ConvVec out[kTileIn];
    transform_values(&half[0][y], kTileIn, out, 1);
#pragma GCC unroll 6
    for (int x = 0; x < kTileIn; ++x) conv_store(to + (y * kTileIn + x) * step, out[x]);
  }
}

// sums[P], `step` apart -> 4x4 results, to[row][column].
FOCALSR_INLINE void transform_results(const float* from, int64_t step, ConvVec (*to)[kTileOut]) {
  ConvVec half[kTileIn][kTileOut];  // [column][row]
  for (int x = 0; x < kTileIn; ++x) {
    ConvVec column[kTileIn];
#pragma GCC unroll 6
    for (int y = 0; y < kTileIn; ++y) column[y] = conv_load(from + (y * kTileIn + x) * step);
    transform_sums(column, 1, half[x], 1);
  }
#pragma GCC unroll 4
  for (int y = 0; y < kTileOut; ++y) transform_sums(&half[0][y], kTileOut, to[y], 1);
}

// sums[r, :] = values[r, :] weight for R tiles and V vectors of a panel (or of two), all sums in registers.
template <int R, int V>
FOCALSR_INLINE void conv_tile(const float* values, int64_t values_row, const float* weight, int64_t panel_step,
                              int64_t channels, float* sums, int64_t sums_row) {
  ConvVec sum[R][V];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[r][v] = ConvVec{};
  for (int64_t c = 0; c < channels; ++c) {
    ConvVec right[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v)
      right[v] = conv_load(weight + c * kPanel + v / kPanelVectors * panel_step + v % kPanelVectors * kConvLanes);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const ConvVec left = values[r * values_row + c] - ConvVec{};
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) conv_store(sums + r * sums_row + v * kConvLanes, sum[r][v]);
}

template <int R, int V>
void conv_last_rows(const float* values, int64_t values_row, const float* weight, int64_t panel_step, int64_t channels,
                    float* sums, int64_t sums_row, int64_t rows) {
  if constexpr (R > 0) {
    if (rows == R) return conv_tile<R, V>(values, values_row, weight, panel_step, channels, sums, sums_row);
    conv_last_rows<R - 1, V>(values, values_row, weight, panel_step, channels, sums, sums_row, rows);
  }
}

template <int V>
void conv_panel(const float* values, int64_t values_row, const float* weight, int64_t panel_step, int64_t channels,
                float* sums, int64_t sums_row, int64_t rows) {
  constexpr int R = kTileRows6;
  for (; rows >= R; rows -= R, values += R * values_row, sums += R * sums_row)
    conv_tile<R, V>(values, values_row, weight, panel_step, channels, sums, sums_row);
  conv_last_rows<R - 1, V>(values, values_row, weight, panel_step, channels, sums, sums_row, rows);
}

// All products of a group of tiles at one position. weight: [panels][C][kPanel]; vectors: of results.
inline void conv_products(const float* values, int64_t values_row, const float* weight, int64_t channels, float* sums,
                          int64_t sums_row, int64_t rows, int64_t vectors) {
  const int64_t panel_step = channels * kPanel;
  int64_t done = 0;
  for (; done + 2 <= vectors; done += 2)
    conv_panel<2>(values, values_row, weight + done / kPanelVectors * panel_step, panel_step, channels,
                  sums + done * kConvLanes, sums_row, rows);
  if (done < vectors)
    conv_panel<1>(values, values_row, weight + done / kPanelVectors * panel_step, panel_step, channels,
                  sums + done * kConvLanes, sums_row, rows);
}

}  // namespace focalsr
