// Images to another size on the CPU: weighted sums of rows, then of columns, without an image between the two passes.
//
// Shapes: A images, H W pixels in and h w out, C channels, the last dimension; S and T taps of a row and of a column.
// In is the type of the input, R that of the sums of rows, Q that of the sums of columns.
//
// A task is a tile of results. Its input rows are brought to R and summed by vectors of neighbouring values, a piece at a
// time, and turned, so that the sums of columns run along vectors of rows. Every result is summed alone, in the order of its taps: it depends
// neither on the tile that it is in nor on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common.h"

namespace focalsr {
namespace {

using at::Tensor;

constexpr int kRows = 16;              // of results in a tile: the length of a turned line
constexpr int64_t kColumns = 64;       // of results in a tile
constexpr int kPiece = 80;             // at most: values of rows that are summed at a time, those of all taps in the cache
constexpr double kHalf = 0.5 + 1e-10;  // rounding errors of a sum stay below the second part: ties go up

enum Rounding : int64_t { kNone, kLast, kEach };

// What the results of one axis are made of: n of them, `taps` each.
template <class A>
struct Taps {
  const int64_t* source;
  const A* weight;
  int64_t n, taps;

  // The smallest range of inputs that results first .. last - 1 see.
  void range(int64_t first, int64_t last, int64_t& low, int64_t& high) const {
    const auto ends = std::minmax_element(source + first * taps, source + last * taps);
    low = *ends.first;
    high = *ends.second + 1;
  }

  // The most inputs that so many neighbouring results see.
  int64_t widest(int64_t results) const {
    int64_t most = 1, low, high;
    for (int64_t first = 0; first < n; first += results) {
      range(first, std::min(n, first + results), low, high);
      most = std::max(most, high - low);
    }
    return most;
  }
};

#ifdef __AVX512F__
constexpr int kBytes = 64;
#else
constexpr int kBytes = kVectorBytes;
#endif

template <class A>
struct WideOf {
  typedef A type __attribute__((vector_size(kBytes)));
  typedef int whole __attribute__((vector_size(kBytes / sizeof(A) * sizeof(int))));
};
template <class A>
using Wide = typename WideOf<A>::type;
template <class A>
constexpr int kWide = kBytes / sizeof(A);

// 0 .. 255, rounded half up.
FOCALSR_INLINE WideOf<double>::whole to_levels(Wide<double> values) {
  values += kHalf;
  values = values > 0.0 ? values : Wide<double>{};
  values = values < 255.0 ? values : Wide<double>{} + 255.0;
  return __builtin_convertvector(values, WideOf<double>::whole);
}

// To another type: a number of values that the compiler knows.
template <int kCount, class In, class R>
FOCALSR_INLINE void widen(const In* from, R* to) {
  for (int i = 0; i < kCount; ++i) to[i] = R(from[i]);
}

// A sum of rows over so many vectors.
template <int kVectors, class R>
FOCALSR_INLINE void sum_row(const R* const* rows, int64_t start, const R* weight, int64_t taps, R* to) {
  Wide<R> sums[kVectors] = {};
  for (int64_t t = 0; t < taps; ++t) {
    const Wide<R>* row = reinterpret_cast<const Wide<R>*>(rows[t] + start);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) sums[v] += weight[t] * row[v];
  }
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) reinterpret_cast<Wide<R>*>(to)[v] = sums[v];
}

// kRows sums of rows over `count` values of a piece of them, turned: to[i * kRows + r]. rows: T pieces for each sum.
template <class R, class Q>
void sum_rows(const R* const* rows, const R* weight, int64_t taps, int64_t count, Q* to) {
  alignas(64) R block[kRows][kPiece];
  constexpr int kFew = 4;  // vectors: as many sums as have to be under way at a time
  const int64_t vectors = (count + kWide<R> - 1) / kWide<R>;
  for (int r = 0; r < kRows; ++r, rows += taps, weight += taps) {
    int64_t v = 0;
    for (; v + kFew <= vectors; v += kFew) sum_row<kFew>(rows, v * kWide<R>, weight, taps, block[r] + v * kWide<R>);
    for (; v < vectors; ++v) sum_row<1>(rows, v * kWide<R>, weight, taps, block[r] + v * kWide<R>);
  }
  for (int64_t i = 0; i < count; ++i, to += kRows) {
#pragma GCC unroll 32
    for (int r = 0; r < kRows; ++r) to[r] = Q(block[r][i]);
  }
}

// The results of kRows rows at one column: sums of turned lines, which begin at pixel `first` and are `pixel` values
// apart for neighbouring ones.
template <class Q>
FOCALSR_INLINE void sum_columns(const Q* lines, int64_t pixel, int64_t first, const int64_t* source, const Q* weight,
                                int64_t taps, Wide<Q>* to) {
  constexpr int kVectors = kRows / kWide<Q>;
  Wide<Q> sums[kVectors] = {};
  for (int64_t t = 0; t < taps; ++t) {
    const Wide<Q>* line = reinterpret_cast<const Wide<Q>*>(lines + (source[t] - first) * pixel);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[v] += weight[t] * line[v];
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) to[v] = sums[v];
}

// The tile of results whose first one is (top, left), in the memory of one thread.
template <class In, class R, class Q>
class Tile {
 public:
  Tile(const Taps<R>& down, const Taps<Q>& across, int64_t channels, int64_t most_rows, int64_t most_columns)
      : down_(down), across_(across), channels_(channels), values_(most_rows * kPiece),
        lines_((most_columns * channels + kPiece) * kRows), rows_(kRows * down.taps), weights_(kRows * down.taps) {}

  // Where the next tiles are: the results from (top, left) on.
  void place(int64_t top, int64_t left) {
    if (top == top_ && left == left_) return;
    top_ = top, left_ = left;
    bottom_ = std::min(down_.n, top + kRows), right_ = std::min(across_.n, left + kColumns);
    down_.range(top, bottom_, first_, last_);
    across_.range(left, right_, near_, far_);
    for (int64_t r = 0; r < kRows; ++r) {  // rows beyond the last one repeat it
      const int64_t tap = std::min(top + r, bottom_ - 1) * down_.taps;
      for (int64_t t = 0; t < down_.taps; ++t) {
        rows_[r * down_.taps + t] = values_.get() + (down_.source[tap + t] - first_) * kPiece;
        weights_[r * down_.taps + t] = down_.weight[tap + t];
      }
    }
  }

  // from: the first pixel of the image. to: its first result.
  template <class Out>
  void compute(const In* from, int64_t row_step, bool round_rows, Out* to) {
    const In* corner = from + first_ * row_step + near_ * channels_;
    const int64_t count = (far_ - near_) * channels_;
    for (int64_t start = 0, part; start < count; start += part) {
      part = count - start <= kPiece ? count - start : 64;
      take_piece(corner + start, row_step, part);
      sum_rows<R, Q>(rows_.get(), weights_.get(), down_.taps, part, lines_.get() + start * kRows);
    }
    if constexpr (std::is_same<Q, double>::value)
      if (round_rows) round_lines(count);
    for (int64_t column = left_; column < right_; ++column) {
      Out* result = to + (top_ * across_.n + column) * channels_;
      for (int64_t c = 0; c < channels_; ++c) put_column(lines_.get() + c * kRows, column, bottom_ - top_, result + c);
    }
  }

 private:
  void round_lines(int64_t count) {
    Wide<double>* lines = reinterpret_cast<Wide<double>*>(lines_.get());
    for (int64_t i = 0; i < count * kRows / kWide<double>; ++i)
      lines[i] = __builtin_convertvector(to_levels(lines[i]), Wide<double>);
  }

  // One column of results, in one channel.
  template <class Out>
  FOCALSR_INLINE void put_column(const Q* lines, int64_t column, int64_t rows, Out* to) {
    constexpr int kVectors = kRows / kWide<Q>;
    Wide<Q> sums[kVectors];
    const int64_t tap = column * across_.taps, step = across_.n * channels_;
    sum_columns<Q>(lines, channels_ * kRows, near_, across_.source + tap, across_.weight + tap, across_.taps, sums);
    if constexpr (std::is_same<Out, uint8_t>::value) {
      typename WideOf<Q>::whole levels[kVectors];
      for (int v = 0; v < kVectors; ++v) levels[v] = to_levels(sums[v]);
      const int* level = reinterpret_cast<const int*>(levels);
      for (int64_t r = 0; r < rows; ++r) to[r * step] = Out(level[r]);
    } else {
      const Q* sum = reinterpret_cast<const Q*>(sums);
      for (int64_t r = 0; r < rows; ++r) to[r * step] = sum[r];
    }
  }

  // A piece of each row. What is behind it is summed too, and not looked at.
  void take_piece(const In* from, int64_t row_step, int64_t count) {
    constexpr int kValues = 16;
    R* to = values_.get();
    for (int64_t row = first_; row < last_; ++row, from += row_step, to += kPiece) {
      int64_t i = 0;
      __builtin_prefetch(from + count);  // the next piece of this row: too far apart for the processor to foresee
      __builtin_prefetch(from + count + 63 / sizeof(In));
      for (; i + kValues <= count; i += kValues) widen<kValues>(from + i, to + i);
      for (; i < count; ++i) to[i] = R(from[i]);
    }
  }

  int64_t top_ = -1, left_ = -1, bottom_, right_, first_, last_, near_, far_;
  const Taps<R>& down_;
  const Taps<Q>& across_;
  const int64_t channels_;
  const Buffer<R> values_;
  const Buffer<Q> lines_;
  const Buffer<const R*> rows_;
  const Buffer<R> weights_;
};

template <class In, class R, class Q, class Out>
void run(const Tensor& x, const Taps<R>& down, const Taps<Q>& across, bool round_rows, Out* out) {
  const int64_t bands = (down.n + kRows - 1) / kRows, strips = (across.n + kColumns - 1) / kColumns;
  const int64_t images = x.size(0), channels = x.size(3), image_step = x.stride(0), row_step = x.stride(1);
  const int64_t most_rows = down.widest(kRows), most_columns = across.widest(kColumns);
  const In* from = x.const_data_ptr<In>();
  at::parallel_for(0, images * bands * strips, 1, [&](int64_t begin, int64_t end) {
    Tile<In, R, Q> tile(down, across, channels, most_rows, most_columns);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t band = task / (strips * images), strip = task / images % strips, image = task % images;
      tile.place(band * kRows, strip * kColumns);
      tile.compute(from + image * image_step, row_step, round_rows, out + image * down.n * across.n * channels);
    }
  });
}

template <class A>
Taps<A> taps_of(const Tensor& source, const Tensor& weight, int64_t length, const char* name) {
  TORCH_CHECK_VALUE(
      source.dim() == 2 && weight.sizes() == source.sizes() && source.scalar_type() == at::kLong,
      "resample: ", name, ": expected int64 sources [n, taps] and as many weights");
  const Taps<A> taps{source.const_data_ptr<int64_t>(), weight.const_data_ptr<A>(), source.size(0), source.size(1)};
  if (source.numel() > 0) {
    int64_t low, high;
    taps.range(0, taps.n, low, high);
    TORCH_CHECK_INDEX(low >= 0 && high <= length, "resample: ", name, " names input ", low < 0 ? low : high - 1,
                      " of ", length);
  }
  return taps;
}

// x [A, H, W, C], its rows dense -> [A, h, w, C] of Q, or of 8 bit where results are rounded.
template <class In, class R, class Q>
Tensor resample_as(const Tensor& x, const Tensor& row_source, const Tensor& row_weight, const Tensor& column_source,
                   const Tensor& column_weight, int64_t rounding) {  // of taps, dense
  const Taps<R> down = taps_of<R>(row_source, row_weight, x.size(1), "rows");
  const Taps<Q> across = taps_of<Q>(column_source, column_weight, x.size(2), "columns");
  const auto kind = rounding == kNone ? column_weight.scalar_type() : at::kByte;
  Tensor out = at::empty({x.size(0), down.n, across.n, x.size(3)}, x.options().dtype(kind));
  if (out.numel() == 0) return out;
  if (down.taps == 0 || across.taps == 0) return out.zero_();
  if (rounding == kNone)
    run<In, R, Q>(x, down, across, false, out.mutable_data_ptr<Q>());
  else if constexpr (std::is_same<Q, double>::value)
    run<In, R, Q>(x, down, across, rounding == kEach, out.mutable_data_ptr<uint8_t>());
  return out;
}

template <class In>
Tensor resample_from(const Tensor& x, const Tensor& row_source, const Tensor& row_weight, const Tensor& column_source,
                     const Tensor& column_weight, int64_t rounding) {
  const bool wide_rows = row_weight.scalar_type() == at::kDouble, wide = column_weight.scalar_type() == at::kDouble;
  const auto f = wide_rows ? resample_as<In, double, double>
                 : wide    ? resample_as<In, float, double>
                           : resample_as<In, float, float>;
  return f(x, row_source, row_weight, column_source, column_weight, rounding);
}

Tensor resample(const Tensor& x, const Tensor& row_source, const Tensor& row_weight, const Tensor& column_source,
                const Tensor& column_weight, int64_t rounding) {
  TORCH_CHECK_VALUE(x.dim() == 4, "resample: expected x [A, H, W, C], got ", x.sizes());
  const bool wide_rows = row_weight.scalar_type() == at::kDouble, wide = column_weight.scalar_type() == at::kDouble;
  TORCH_CHECK_VALUE((wide_rows || row_weight.scalar_type() == at::kFloat) &&
                        (wide || (!wide_rows && column_weight.scalar_type() == at::kFloat)),
                    "resample: expected weights in float32 or float64, of columns no narrower than of rows");
  TORCH_CHECK_VALUE(rounding == kNone || (wide && (rounding == kLast || rounding == kEach)),
                    "resample: rounding ", rounding, " needs weights of columns in float64");
  const bool dense = x.stride(3) == 1 && x.stride(2) == x.size(3);
  const Tensor from = dense ? x : x.contiguous();
  const Tensor down = row_source.contiguous(), across = column_source.contiguous();
  const Tensor by_row = row_weight.contiguous(), by_column = column_weight.contiguous();
  switch (x.scalar_type()) {
    case at::kByte: return resample_from<uint8_t>(from, down, by_row, across, by_column, rounding);
    case at::kFloat: return resample_from<float>(from, down, by_row, across, by_column, rounding);
    case at::kDouble: return resample_from<double>(from, down, by_row, across, by_column, rounding);
    default: TORCH_CHECK(false, "resample: ", x.scalar_type(), " is not supported");
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) { m.impl("resample", resample); }

}  // namespace focalsr
