// 3x3 convolution of bfloat16 with zeros around the image, bias, leaky ReLU and pixel shuffle on the CPU, of images whose
// channels lie side by side: nine products of matrices, rows of pixels by the weights of a tap, added up in float32
// before anything is written. For processors that multiply matrices (AMX): on others Winograd's way is faster
// (conv3x3_cpu.cpp).
//
// Shapes: B images, H W pixels, C channels in, K channels out, s factor of the shuffle. `step` is C up to a multiple of 32.
//
// Every result is computed alone: it depends neither on the block that its pixel is in nor on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "bf16.h"

namespace focalsr::bf16 {
namespace {

using at::Tensor;

constexpr int64_t kTaps = 9;
constexpr int64_t kBlockRows = 8, kBlockColumns = 64;  // of results: what they are made of fits the second cache
constexpr int64_t kPixels = 2 * kTile, kResults = 2 * kTile;  // of one product

const uint16_t* data_of(const Tensor& x) { return reinterpret_cast<const uint16_t*>(x.const_data_ptr<at::BFloat16>()); }

struct Convolution {
  const uint16_t* images;
  int64_t image_step, height, width, channels, row, pixel;  // steps in memory, but for the sizes
  const uint32_t* weight;  // [9, step / 2, padded results]
  const float* bias;  // [padded results]
  float slope;
  int64_t results, padded_results;
  uint16_t* out;
  int64_t out_image, out_row, out_pixel;  // of results before the shuffle
  const int64_t* places;  // of each result, where they are shuffled

  int64_t step() const { return multiple_of(2 * kPairStep, channels); }
  int64_t blocks_down() const { return (height + kBlockRows - 1) / kBlockRows; }
  int64_t blocks_across() const { return (width + kBlockColumns - 1) / kBlockColumns; }

  // Rows [top - 1, bottom + 1) and columns [left - 1, left + columns + 1), zeros outside of the image.
  void take_block(const uint16_t* image, int64_t top, int64_t bottom, int64_t left, int64_t columns, uint16_t* to) const {
    for (int64_t y = top - 1; y < bottom + 1; ++y)
      for (int64_t x = left - 1; x < left + columns + 1; ++x, to += step()) {
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        if (inside) std::memcpy(to, image + y * row + x * pixel, channels * sizeof(uint16_t));
        std::fill(to + (inside ? channels : 0), to + step(), uint16_t{0});
      }
  }

  // Sums of `count` results from the k-th on -> one pixel.
  void put_pixel(const float* sums, int64_t k, int64_t count, uint16_t* to) const {
    for (int64_t i = 0; i < count; i += kLanes) {
      Floats value = load(sums + i) + load(bias + k + i);
      value = value < 0.0f ? value * slope : value;
      const Halves half = rounded(value);
      const int64_t here = std::min(kLanes, count - i);
      if (places != nullptr) {
        for (int64_t j = 0; j < here; ++j) to[places[k + i + j]] = half[j];
      } else if (here == kLanes) {
        std::memcpy(to + k + i, &half, sizeof half);
      } else {
        std::memcpy(to + k + i, &half, here * sizeof(uint16_t));
      }
    }
  }

  void compute(int64_t task, const Multiplier& multiplier, uint16_t* block) const {
    const int64_t left = task % blocks_across() * kBlockColumns;
    const int64_t top = task / blocks_across() % blocks_down() * kBlockRows;
    const int64_t image = task / blocks_across() / blocks_down();
    const int64_t bottom = std::min(height, top + kBlockRows);
    const int64_t columns = multiple_of(kTile, std::min(kBlockColumns, width - left));
    take_block(images + image * image_step, top, bottom, left, columns, block);
    alignas(64) float sums[kPixels * kResults];
    for (int64_t k = 0; k < padded_results; k += kResults) {
      const int64_t here = std::min(kResults, padded_results - k), kept = std::min(here, results - k);
      for (int64_t y = top; y < bottom; ++y)
        for (int64_t x = 0; x < columns; x += kPixels) {
          const uint16_t* taps[kTaps];
          for (int64_t tap = 0; tap < kTaps; ++tap)
            taps[tap] = block + ((y - top + tap / 3) * (columns + 2) + x + tap % 3) * step();
          const int64_t taps_step = step() / 2 * padded_results;
          multiplier.products({taps, kTaps, step(), weight + k, taps_step, padded_results, step() / 2}, sums, kResults,
                              std::min(kPixels, columns - x), here);
          uint16_t* to = out + image * out_image + y * out_row + (left + x) * out_pixel;
          const int64_t pixels = std::min(kPixels, width - left - x);
          for (int64_t p = 0; p < pixels; ++p) put_pixel(sums + p * kResults, k, kept, to + p * out_pixel);
        }
    }
  }
};

// x [B, C, H, W], weight [9, step / 2, padded K] pairs, bias [K] -> out [B, K / s^2, s H, s W], other memory than x.
void conv3x3_matrices_out(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, double slope, int64_t shuffle,
    const Tensor& out) {
  TORCH_CHECK_VALUE(x.dim() == 4 && x.scalar_type() == at::kBFloat16 && (x.size(1) == 1 || x.stride(1) == 1),
                    "conv3x3: expected bfloat16 [B, C, H, W] with its channels side by side");
  TORCH_CHECK_VALUE(out.dim() == 4 && out.scalar_type() == at::kBFloat16 && shuffle >= 1 &&
                        (shuffle > 1 || out.size(1) == 1 || out.stride(1) == 1),
                    "conv3x3: expected results [B, K, H, W] of the type of x, channels side by side or to be shuffled");
  const int64_t results = out.size(1) * shuffle * shuffle, padded = multiple_of(kTile, results);
  const int64_t pairs = multiple_of(kPairStep, (x.size(1) + 1) / 2);
  TORCH_CHECK_VALUE(weight.is_contiguous() && weight.scalar_type() == at::kInt && weight.numel() == kTaps * pairs * padded &&
                        (!bias || bias->numel() == results) && x.size(0) == out.size(0) &&
                        x.size(2) * shuffle == out.size(2) && x.size(3) * shuffle == out.size(3),
                    "conv3x3: shapes differ");
  std::vector<float> offsets(padded, 0.0f);
  if (bias) std::copy_n(bias->to(at::kFloat).contiguous().const_data_ptr<float>(), results, offsets.begin());
  std::vector<int64_t> places;
  for (int64_t k = 0; shuffle > 1 && k < results; ++k)
    places.push_back(k / (shuffle * shuffle) * out.stride(1) + k / shuffle % shuffle * out.stride(2) +
                     k % shuffle * out.stride(3));
  const Convolution work{
      data_of(x), x.stride(0), x.size(2), x.size(3), x.size(1), x.stride(2), x.stride(3),
      reinterpret_cast<const uint32_t*>(weight.const_data_ptr<int32_t>()), offsets.data(), static_cast<float>(slope),
      results, padded, reinterpret_cast<uint16_t*>(out.mutable_data_ptr<at::BFloat16>()), out.stride(0),
      shuffle * out.stride(2), shuffle * out.stride(3), places.empty() ? nullptr : places.data()};
  const int64_t tasks = x.size(0) * work.blocks_down() * work.blocks_across();
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    const Multiplier multiplier;
    const Buffer<uint16_t> block((kBlockRows + 2) * (kBlockColumns + 2) * work.step());
    for (int64_t task = begin; task < end; ++task) work.compute(task, multiplier, block.get());
  });
}

// weight [K, C, 3, 3] -> [9, step / 2, K up to a multiple of 16] int32: the weights of two channels in each.
Tensor conv3x3_matrices(const Tensor& weight) {
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 &&
                        weight.scalar_type() == at::kBFloat16,
                    "conv3x3_matrices: expected bfloat16 [K, C, 3, 3]");
  const Tensor from = weight.contiguous();
  const int64_t results = from.size(0), channels = from.size(1), padded = multiple_of(kTile, results);
  const int64_t pairs = multiple_of(kPairStep, (channels + 1) / 2);
  const Tensor out = at::zeros({kTaps, pairs, padded}, weight.options().dtype(at::kInt));
  const uint16_t* const data = data_of(from);
  auto* const to = reinterpret_cast<uint16_t*>(out.mutable_data_ptr<int32_t>());
  for (int64_t k = 0; k < results; ++k)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t tap = 0; tap < kTaps; ++tap)
        to[((tap * pairs + c / 2) * padded + k) * 2 + c % 2] = data[(k * channels + c) * kTaps + tap];
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("conv3x3_matrices_out", conv3x3_matrices_out);
  m.impl("conv3x3_matrices", conv3x3_matrices);
}

}  // namespace focalsr::bf16
