// Depth-wise k x k convolutions with GELU on the CPU, for the middle of a convolutional MLP and beside an attention:
//
//   gelu_depthwise   t = gelu(x), out = t + gelu(convolution of t + bias)
//   depthwise_gelu   out = gelu(convolution of x + bias), the pixels of x in any order
//
// and their gradients, which are in gelu_depthwise_gradient.h.
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
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <vector>

#include "gelu.h"
#include "gelu_depthwise_gradient.h"
#include "types.h"

namespace focalsr {
namespace {

using at::Tensor;

constexpr int64_t kColumns = 64;  // of a strip
constexpr int64_t kRows = 64;     // of results in a task: the rows around them are computed by its neighbours too
constexpr int kLargestSide = 63;  // of a kernel
constexpr int kPixels = 8;        // whose sums are in registers at a time

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

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// d_x has the pixels of x, which are P, `order` those of the images of grad [B, H, W, C], or null where they are the same.
// What the operator itself gives is written to `out` if that is defined.
template <bool kBefore>
Gradients gradients(const Tensor& grad, const Tensor& x, const int64_t* order, const Tensor& weight, const Tensor& bias,
                    const Tensor& d_x, const Tensor& out) {
  const Tensor upstream = grad.contiguous();
  const int64_t images = grad.size(0), height = grad.size(1), width = grad.size(2), channels = grad.size(3);
  const int64_t side = weight.size(3), places = side * side, pixels = height * width;
  const int64_t step = order == nullptr ? channels : x.stride(0);
  Tensor d_weight = at::empty_like(weight, at::MemoryFormat::Contiguous), d_bias = at::empty_like(bias);
  by_type("gelu_depthwise", x.scalar_type(), [&](auto a, auto t) {
    using A = decltype(a);
    using T = decltype(t);
    const int64_t blocks = vectors_of<A>(channels), size = (places + 1) * kLanes<A>;
    const Tensor taps = weight.to(x.scalar_type()).contiguous(), offsets = bias.to(x.scalar_type()).contiguous();
    const Tensor sums = at::zeros({places + 1, channels}, weight.options().dtype(c10::CppTypeToScalarType<A>::value));
    const Buffer<A> parts(images * blocks * size), weights(blocks * size);
    std::fill_n(weights.get(), blocks * size, A(0));
    for (int64_t c = 0; c < channels; ++c) {
      A* const to = weights.get() + c / kLanes<A> * size + c % kLanes<A>;
      for (int64_t i = 0; i < places; ++i)
        to[i * kLanes<A>] = static_cast<A>(taps.const_data_ptr<T>()[c * places + i]);
      to[places * kLanes<A>] = static_cast<A>(offsets.const_data_ptr<T>()[c]);
    }
    at::parallel_for(0, images * blocks, 1, [&](int64_t begin, int64_t end) {
      GeluDepthwiseGradient<kBefore, A> gradient(height, width, side);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t c = task % blocks * kLanes<A>, count = std::min<int64_t>(kLanes<A>, channels - c);
        const int64_t first = task / blocks * pixels, moved = order == nullptr ? first : 0;
        const int64_t* const here = order == nullptr ? nullptr : order + first;
        const ChannelsOf<const T> from{x.const_data_ptr<T>() + moved * step + c, here, step};
        const ChannelsOf<const T> up{upstream.const_data_ptr<T>() + first * channels + c, nullptr, channels};
        const ChannelsOf<T> to{d_x.mutable_data_ptr<T>() + moved * channels + c, here, channels};
        T* const again = out.defined() ? out.mutable_data_ptr<T>() + first * channels + c : nullptr;
        gradient(from, up, to, ChannelsOf<T>{again, nullptr, channels}, count, weights.get() + task % blocks * size, parts.get() + task * size);
      }
    });
    A* const total = sums.mutable_data_ptr<A>();
    for (int64_t task = 0; task < images * blocks; ++task)
      for (int64_t i = 0; i <= places; ++i)
        for (int64_t c = task % blocks * kLanes<A>, lane = 0; lane < kLanes<A> && c < channels; ++lane, ++c)
          total[i * channels + c] += parts[task * size + i * kLanes<A> + lane];
    d_weight.copy_(sums.narrow(0, 0, places).t().reshape(weight.sizes()));
    d_bias.copy_(sums.select(0, places));
  });
  return {d_x, d_weight, d_bias};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gelu_depthwise_gradients(const Tensor& grad, const Tensor& x,
                                                                    const Tensor& weight, const Tensor& bias,
                                                                    bool again) {
  TORCH_CHECK_VALUE(x.dim() == 4 && grad.sizes() == x.sizes(), "gelu_depthwise: shapes differ");
  check_kernel(weight, x.size(3));
  const Tensor from = x.contiguous(), out = again ? at::empty_like(from) : Tensor();
  const auto [d_x, d_weight, d_bias] = gradients<true>(grad, from, nullptr, weight, bias, at::empty_like(from), out);
  return {d_x, d_weight, d_bias, again ? out : at::empty({0}, from.options())};
}

// The order names no pixel twice: it is the only one that writes to its gradient.
Gradients depthwise_gelu_gradients(const Tensor& grad, const Tensor& x, const Tensor& order, const Tensor& weight,
                                   const Tensor& bias) {
  TORCH_CHECK_VALUE(x.dim() == 2 && grad.dim() == 4 && grad.size(3) == x.size(1) &&
                        order.numel() == grad.size(0) * grad.size(1) * grad.size(2) && order.scalar_type() == at::kLong,
                    "depthwise_gelu: x is ", x.sizes(), ", the order ", order.sizes(), ", the gradient ", grad.sizes());
  check_kernel(weight, x.size(1));
  const Tensor from = x.stride(1) == 1 ? x : x.contiguous(), places = order.contiguous();
  std::vector<bool> taken(static_cast<std::size_t>(x.size(0)), false);
  for (int64_t i = 0; i < places.numel(); ++i) {
    const int64_t place = places.const_data_ptr<int64_t>()[i];
    TORCH_CHECK_INDEX(place >= 0 && place < x.size(0), "depthwise_gelu: the order names pixels outside 0 to ", x.size(0) - 1);
    TORCH_CHECK_VALUE(!taken[place], "depthwise_gelu: for a gradient the order may name each pixel once, and names ",
                      place, " again");
    taken[place] = true;
  }
  const bool whole = places.numel() == x.size(0);
  const Tensor d_x = whole ? at::empty(x.sizes(), x.options()) : at::zeros(x.sizes(), x.options());
  return gradients<false>(grad, from, places.const_data_ptr<int64_t>(), weight, bias, d_x, Tensor());
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("gelu_depthwise", gelu_depthwise);
  m.impl("depthwise_gelu", depthwise_gelu);
  m.impl("gelu_depthwise_backward", gelu_depthwise_gradients);
  m.impl("depthwise_gelu_backward", depthwise_gelu_gradients);
}

}  // namespace focalsr
