// Depth-wise k x k convolutions with GELU on the CPU, for the middle of a convolutional MLP and beside an attention:
//
//   gelu_depthwise   t = gelu(x), out = t + gelu(convolution of t + bias)
//   depthwise_gelu   out = gelu(convolution of x + bias), the pixels of x in any order
//
// A strip of columns is taken row by row, with the k rows of t that a result needs in the cache.
//
// Shapes: B images, H W pixels, C channels, the last dimension; K side of the kernel, odd; r = K / 2.
// T is the type in memory, A that of all arithmetic (float for half precision).
//
// Every result is computed alone: it depends neither on the strip that it is in nor on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "common.h"
#include "types.h"

namespace focalsr {
namespace {

using at::Tensor;

constexpr int64_t kColumns = 64;  // of a strip
constexpr int64_t kRows = 64;     // of results in a task: the rows around them are computed by its neighbours too
constexpr int kLargestSide = 63;  // of a kernel
constexpr int kPixels = 8;        // whose sums are in registers at a time

// x * Phi(x), Phi being the normal distribution: exact erf in double; in float a quotient of polynomials, found by least
// squares, within 2e-8 of it, up to where erf rounds to 1.
template <class A>
FOCALSR_INLINE Vec<A> gelu(Vec<A> x) {
  Vec<A> z = x * all<A>(A(0.70710678118654752440));
  if constexpr (std::is_same<A, float>::value) {
    constexpr float kLimit = 3.95f;
    constexpr float kOver[6] = {1.1283790062f, 0.19403618211f, 0.053207124073f, 0.0039173392281f, 2.8760117108e-4f,
                                2.0117388858e-6f};
    constexpr float kUnder[6] = {1.0f, 0.50529157655f, 0.11559095551f, 0.015270743952f, 1.1982062104e-3f,
                                 3.7839702246e-5f};
    z = z > all<A>(kLimit) ? all<A>(kLimit) : z;  // what is not a number stays so, for lack of a limit to exceed
    z = z < all<A>(-kLimit) ? all<A>(-kLimit) : z;
    const Vec<A> square = z * z;
    Vec<A> over = all<A>(kOver[5]), under = all<A>(kUnder[5]);
#pragma GCC unroll 5
    for (int i = 4; i >= 0; --i) {
      over = over * square + all<A>(kOver[i]);
      under = under * square + all<A>(kUnder[i]);
    }
    z = z * over / under;
  } else {
    for (int i = 0; i < kLanes<A>; ++i) z[i] = std::erf(z[i]);
  }
  const Vec<A> half = x * all<A>(A(0.5));
  return half + half * z;
}

struct Sizes {
  int64_t height, width, channels, step;  // step: channels of a padded pixel
};

// Where pixels come from: `step` numbers apart, in the order of an image or where `order` says.
template <class T>
struct Pixels {
  const T* data;
  const int64_t* order;  // of one image; null: as they come
  int64_t step;

  template <class A>
  void pack(int64_t first, int64_t count, int64_t channels, A* to) const {
    if (order == nullptr) return pack_rows<A>(data + first * step, step, 1, count, channels, to);
    const int64_t width = padded<A>(channels);
    for (int64_t p = 0; p < count; ++p, to += width) {
      const T* from = data + order[first + p] * step;
      std::copy_n(from, channels, to);
      std::fill(to + channels, to + width, A(0));
    }
  }
};

// The pixels [first, last) of a row -> padded pixels, of gelu where kBefore; zeros outside of the image.
template <bool kBefore, class A, class T>
void activate(const Pixels<T>& image, const Sizes& s, int64_t row, int64_t first, int64_t last, A* to) {
  const int64_t begin = std::clamp<int64_t>(first, 0, s.width), end = std::clamp<int64_t>(last, 0, s.width);
  if (row < 0 || row >= s.height) {
    std::fill(to, to + (last - first) * s.step, A(0));
    return;
  }
  A* inside = to + (begin - first) * s.step;
  std::fill(to, inside, A(0));
  std::fill(to + (end - first) * s.step, to + (last - first) * s.step, A(0));
  image.pack(row * s.width + begin, end - begin, s.channels, inside);
  if constexpr (kBefore)
    for (A* at = inside; at < to + (end - first) * s.step; at += kLanes<A>) store(at, gelu<A>(load(at)));
}

// Rounded to even as a vector: one by one it takes as long as the convolution.
FOCALSR_INLINE void store_rounded(Vec<float> value, at::BFloat16* to) {
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
  typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
  Bits raw;
  std::memcpy(&raw, &value, sizeof raw);
  const Bits up = (raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16;
  const Halves halves = __builtin_convertvector(value == value ? up : Bits{} + 0x7fc0u, Halves);
  std::memcpy(to, &halves, sizeof halves);
}

template <class A, class T>
FOCALSR_INLINE void put(Vec<A> value, int64_t count, T* to) {
  if constexpr (std::is_same<A, T>::value)
    if (count == kLanes<A>) return store(to, value);
  if constexpr (std::is_same<T, at::BFloat16>::value)
    if (count == kLanes<A>) return store_rounded(value, to);
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(value[i]);
}

// kPixels results side by side, kLanes channels of each; `wanted` and `count` of them are written. rows: the K rows of t,
// from the column of the first result minus r.
template <bool kBefore, class A, class T>
FOCALSR_INLINE void results(
    const A* const* rows, int64_t side, const A* weight, Vec<A> bias, int64_t step, int64_t wanted, int64_t count, T* to,
    int64_t to_step) {
  Vec<A> sum[kPixels];
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) sum[p] = bias;
  for (int64_t down = 0; down < side; ++down) {
    const A* at = rows[down];
    for (int64_t across = 0; across < side; ++across, at += step, weight += step) {
      const Vec<A> tap = load(weight);
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) sum[p] += tap * load(at + p * step);
    }
  }
  const A* centre = rows[side / 2] + side / 2 * step;
  for (int p = 0; p < wanted; ++p)
    put<A>(kBefore ? load(centre + p * step) + gelu<A>(sum[p]) : gelu<A>(sum[p]), count, to + p * to_step);
}

// One row of results: `columns` of them. rows: the K rows of t, from the first column minus r.
template <bool kBefore, class A, class T>
void row_of_results(
    const A* const* rows, int64_t side, const A* weight, const A* bias, const Sizes& s, int64_t columns, T* to) {
  const A* here[kLargestSide];
  for (int64_t c = 0; c < s.channels; c += kLanes<A>) {
    const int64_t count = std::min<int64_t>(kLanes<A>, s.channels - c);
    // The last results may lie beyond the strip; a kernel for fewer might round differently.
    for (int64_t column = 0; column < columns; column += kPixels) {
      const int64_t wanted = std::min<int64_t>(kPixels, columns - column);
      for (int64_t i = 0; i < side; ++i) here[i] = rows[i] + column * s.step + c;
      T* first = to + column * s.channels + c;
      results<kBefore, A>(here, side, weight + c, load(bias + c), s.step, wanted, count, first, s.channels);
    }
  }
}

// weight: [K * K, C] of A, padded.
template <bool kBefore, class A, class T>
void run(const Pixels<T>& x, const Sizes& s, int64_t images, int64_t side, const A* weight, const A* bias, T* out) {
  const int64_t radius = side / 2;
  const int64_t strips = (s.width + kColumns - 1) / kColumns, pieces = (s.height + kRows - 1) / kRows;
  at::parallel_for(0, images * strips * pieces, 1, [&](int64_t begin, int64_t end) {
    const int64_t row_size = (kColumns + 2 * radius) * s.step;
    const Buffer<A> memory(side * row_size);
    std::fill_n(memory.get(), side * row_size, A(0));
    const A* rows[kLargestSide];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / (strips * pieces), strip = task / pieces % strips, piece = task % pieces;
      const int64_t pixels = image * s.height * s.width;
      const Pixels<T> from = x.order == nullptr ? Pixels<T>{x.data + pixels * x.step, nullptr, x.step}
                                                : Pixels<T>{x.data, x.order + pixels, x.step};
      T* to = out + pixels * s.channels;
      const int64_t left = strip * kColumns, right = std::min(s.width, left + kColumns);
      const int64_t top = piece * kRows, bottom = std::min(s.height, top + kRows);
      const auto place = [&](int64_t row) { return memory.get() + (row - top + radius) % side * row_size; };
      for (int64_t row = top - radius; row < bottom + radius; ++row) {
        activate<kBefore>(from, s, row, left - radius, right + radius, place(row));
        const int64_t result = row - radius;
        if (result < top) continue;
        for (int64_t i = 0; i < side; ++i) rows[i] = place(result - radius + i);
        row_of_results<kBefore>(rows, side, weight, bias, s, right - left, to + (result * s.width + left) * s.channels);
      }
    }
  });
}

// Pixels x, `step` apart, in an order of their own or as they come -> out [B, H, W, C].
template <bool kBefore>
void convolve(const Tensor& x, int64_t step, const int64_t* order, const Tensor& weight, const Tensor& bias,
              const Tensor& out) {
  const int64_t side = weight.size(3), channels = out.size(3);
  by_type("gelu_depthwise", x.scalar_type(), [&](auto a, auto t) {
    using A = decltype(a);
    using T = decltype(t);
    const Sizes s{out.size(1), out.size(2), channels, padded<A>(channels)};
    const Tensor taps = weight.to(x.scalar_type()).contiguous(), offsets = bias.to(x.scalar_type()).contiguous();
    const Buffer<A> rows(side * side * s.step), start(s.step);
    pack_rows<A>(taps.const_data_ptr<T>(), 1, side * side, side * side, channels, rows.get());
    pack_rows<A>(offsets.const_data_ptr<T>(), channels, 1, 1, channels, start.get());
    run<kBefore, A, T>({x.const_data_ptr<T>(), order, step}, s, out.size(0), side, rows.get(), start.get(),
                       out.mutable_data_ptr<T>());
  });
}

void check_kernel(const Tensor& weight, int64_t channels) {
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.size(0) == channels, "gelu_depthwise: shapes differ");
  const int64_t side = weight.size(3);
  TORCH_CHECK_VALUE(side == weight.size(2) && side % 2 == 1 && side <= kLargestSide, "gelu_depthwise: side ", side);
}

// x [B, H, W, C], weight [C, 1, K, K], bias [C] -> [B, H, W, C].
Tensor gelu_depthwise(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  TORCH_CHECK_VALUE(x.dim() == 4, "gelu_depthwise: shapes differ");
  check_kernel(weight, x.size(3));
  const Tensor from = x.contiguous();
  const Tensor out = at::empty_like(from);
  if (out.numel() > 0) convolve<true>(from, x.size(3), nullptr, weight, bias, out);
  return out;
}

// x [P, C], order [B * H * W] int64 of pixels of x, weight [C, 1, K, K], bias [C] -> [B, H, W, C].
Tensor depthwise_gelu(const Tensor& x, const Tensor& order, const Tensor& weight, const Tensor& bias, int64_t height,
                      int64_t width) {
  TORCH_CHECK_VALUE(x.dim() == 2 && order.dim() == 1 && order.scalar_type() == at::kLong && height > 0 && width > 0 &&
                        order.size(0) % (height * width) == 0,
                    "depthwise_gelu: x is ", x.sizes(), ", the order ", order.sizes(), ", an image ", height, " x ", width);
  check_kernel(weight, x.size(1));
  const Tensor from = x.stride(1) == 1 ? x : x.contiguous(), places = order.contiguous();
  const Tensor out = at::empty({order.size(0) / (height * width), height, width, x.size(1)}, x.options());
  if (out.numel() == 0) return out;
  const int64_t* const data = places.const_data_ptr<int64_t>();
  const auto [least, most] = std::minmax_element(data, data + places.numel());
  TORCH_CHECK_INDEX(*least >= 0 && *most < x.size(0), "depthwise_gelu: the order names pixels outside 0 to ", x.size(0) - 1);
  convolve<false>(from, from.stride(0), data, weight, bias, out);
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("gelu_depthwise", gelu_depthwise);
  m.impl("depthwise_gelu", depthwise_gelu);
}

}  // namespace focalsr
