// Structural similarity on the CPU: both images, the sum of their squares and their product are blurred, along rows and
// then along columns, and compared, in float64; no blurred image exists as a whole.
//
// Shapes: P planes, H W pixels, T taps of the window; results lie where the window covers fully.
//
// A task is a strip of columns of a plane: what has been blurred along the last T rows stays in the first cache. Each
// strip is summed by itself, and strips in their order: the sum does not depend on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "common.h"

namespace focalsr {
namespace {

using at::Tensor;
using Vector = Vec<double>;

constexpr int64_t kStep = kLanes<double>;
constexpr int64_t kColumns = 16 * kStep;  // of results in a strip
constexpr int kMaps = 4;

struct Constants {
  double first, second;
};

// One strip: the taps are read from `taps`, T of them.
class Strip {
 public:
  Strip(const double* taps, int64_t count, Constants constants)
      : taps_(taps), count_(count), constants_(constants), wide_(multiple(kColumns + count - 1)), row_(kMaps * wide_),
        ring_(count * kMaps * kColumns) {
    std::fill_n(row_.get(), kMaps * wide_, 0.0);
  }

  // The sum of the similarities of results in columns first .. last - 1 of all rows.
  double sum(const float* a, const float* b, int64_t H, int64_t W, int64_t first, int64_t last) {
    double total = 0;
    for (int64_t y = 0; y < H; ++y) {
      blur_row(a + y * W + first, b + y * W + first, last - first, ring_.get() + y % count_ * kMaps * kColumns);
      if (y + 1 >= count_) total += similarities(y + 1 - count_, last - first);
    }
    return total;
  }

 private:
  static int64_t multiple(int64_t count) { return (count + kStep - 1) / kStep * kStep; }

  void blur_row(const float* a, const float* b, int64_t columns, double* to) {
    const int64_t needed = columns + count_ - 1;
    double* const row = row_.get();
    for (int64_t x = 0; x < needed; ++x) {
      const double left = a[x], right = b[x];
      row[x] = left;
      row[wide_ + x] = right;
      row[2 * wide_ + x] = left * left + right * right;
      row[3 * wide_ + x] = left * right;
    }
    for (int64_t map = 0; map < kMaps; ++map)
      for (int64_t x = 0; x < columns; x += kStep) {
        const double* from = row + map * wide_ + x;
        Vector sum{};
        for (int64_t t = 0; t < count_; ++t) sum += all<double>(taps_[t]) * load(from + t);
        store(to + map * kColumns + x, sum);
      }
  }

  // Of a row of results, whose first blurred row is `top`.
  double similarities(int64_t top, int64_t columns) const {
    Vector total{};
    for (int64_t x = 0; x < columns; x += kStep) {
      Vector blurred[kMaps] = {};
      for (int64_t t = 0; t < count_; ++t) {
        const double* row = ring_.get() + (top + t) % count_ * kMaps * kColumns + x;
        const Vector tap = all<double>(taps_[t]);
#pragma GCC unroll 4
        for (int map = 0; map < kMaps; ++map) blurred[map] += tap * load(row + map * kColumns);
      }
      const Vector mean_product = blurred[0] * blurred[1];
      const Vector mean_squares = blurred[0] * blurred[0] + blurred[1] * blurred[1];
      const Vector c1 = all<double>(constants_.first), c2 = all<double>(constants_.second);
      Vector value = (mean_product + mean_product + c1) * ((blurred[3] - mean_product) * all<double>(2.0) + c2);
      value /= (mean_squares + c1) * (blurred[2] - mean_squares + c2);
      for (int64_t i = columns - x; i < kStep; ++i) value[i] = 0;  // beyond the image
      total += value;
    }
    double sum = 0;
    for (int64_t i = 0; i < kStep; ++i) sum += total[i];
    return sum;
  }

  const double* taps_;
  const int64_t count_;
  const Constants constants_;
  const int64_t wide_;
  const Buffer<double> row_;   // of the four maps, as wide as a strip sees
  const Buffer<double> ring_;  // [T, maps, columns]: blurred along rows
};

// a, b [P, H, W] float32, taps [T] float64 -> the sum over all results of each plane, [P] float64.
Tensor ssim_sums(const Tensor& a, const Tensor& b, const Tensor& taps, double first, double second) {
  TORCH_CHECK(
      a.dim() == 3 && a.sizes() == b.sizes() && a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat &&
          taps.dim() == 1 && taps.scalar_type() == at::kDouble && a.size(1) >= taps.size(0) && a.size(2) >= taps.size(0),
      "ssim_sums: the planes or the window do not fit");
  const Tensor left = a.contiguous(), right = b.contiguous(), window = taps.contiguous();
  const int64_t P = a.size(0), H = a.size(1), W = a.size(2), count = taps.size(0), results = W - count + 1;
  const int64_t strips = (results + kColumns - 1) / kColumns;
  std::vector<double> sums(P * strips);
  at::parallel_for(0, P * strips, 1, [&](int64_t begin, int64_t end) {
    Strip strip(window.const_data_ptr<double>(), count, {first, second});
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task / strips * H * W, start = task % strips * kColumns;
      sums[task] = strip.sum(
          left.const_data_ptr<float>() + plane, right.const_data_ptr<float>() + plane, H, W, start,
          std::min(results, start + kColumns));
    }
  });
  Tensor out = at::empty({P}, taps.options());
  for (int64_t p = 0; p < P; ++p) {
    double total = 0;
    for (int64_t s = 0; s < strips; ++s) total += sums[p * strips + s];
    out.mutable_data_ptr<double>()[p] = total;
  }
  return out;
}

// image [H, W, 3] uint8, tables [3, 256] float64 of what each level adds -> [H, W] float32 in 0 .. 255, with the steps
// and roundings of metrics/color.py.
Tensor luma_of_levels(const Tensor& image, const Tensor& tables, double offset) {
  TORCH_CHECK(
      image.dim() == 3 && image.size(2) == 3 && image.scalar_type() == at::kByte && image.stride(2) == 1 &&
          image.stride(1) == 3 && tables.dim() == 2 && tables.size(0) == 3 && tables.size(1) == 256 &&
          tables.scalar_type() == at::kDouble && tables.is_contiguous(),
      "luma_of_levels: the image or the tables do not fit");
  const int64_t H = image.size(0), W = image.size(1);
  Tensor out = at::empty({H, W}, image.options().dtype(at::kFloat));
  const double* red = tables.const_data_ptr<double>();
  const double *green = red + 256, *blue = green + 256;
  const uint8_t* from = image.const_data_ptr<uint8_t>();
  float* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, H, std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(W, 1)), [&](int64_t begin, int64_t end) {
    const Buffer<double> sums(W);
    for (int64_t y = begin; y < end; ++y) {
      const uint8_t* row = from + y * image.stride(0);
      for (int64_t x = 0; x < W; ++x) sums[x] = red[row[3 * x]] + green[row[3 * x + 1]] + blue[row[3 * x + 2]];
      for (int64_t x = 0; x < W; ++x) to[y * W + x] = static_cast<float>((sums[x] + offset) / 255.0) * 255.0f;
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("ssim_sums", ssim_sums);
  m.impl("luma_of_levels", luma_of_levels);
}

}  // namespace focalsr
