// A linear layer of rows on the CPU, with what lies around it: y[r] = after[r] + (norm(x[from[r]]) + added[r]) weight^T +
// bias. A block of rows is gathered, normalised and multiplied while it is in the cache.
//
// Shapes: R rows of x, M rows of the result, K channels in, C channels out. A is the type of everything.
//
// Every row is computed alone: it depends neither on the block that it is in nor on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>

#include "common.h"
#include "tiles.h"

namespace focalsr {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kBlock = 48;  // rows in the first-level cache, a multiple of those of a tile and of the lanes

// A vector of numbers as padded ones.
template <class A>
Buffer<A> padded_copy(const OptionalTensor& x, int64_t count) {
  Buffer<A> to(padded<A>(count));
  std::fill_n(to.get(), padded<A>(count), A(0));
  if (x) {
    const Tensor dense = x->contiguous();
    std::copy_n(dense.const_data_ptr<A>(), count, to.get());
  }
  return to;
}

// weight [C, K] -> its transpose [K, padded C].
template <class A>
Buffer<A> transposed(const Tensor& weight) {
  const int64_t out = weight.size(0), in = weight.size(1), step = padded<A>(out);
  const Tensor dense = weight.contiguous();
  const A* from = dense.const_data_ptr<A>();
  Buffer<A> to(in * step);
  for (int64_t k = 0; k < in; ++k) {
    for (int64_t c = 0; c < out; ++c) to[k * step + c] = from[c * in + k];
    std::fill(to.get() + k * step + out, to.get() + (k + 1) * step, A(0));
  }
  return to;
}

// As many rows as a vector has lanes, of `count` channels padded with zeros -> normalised, in their place. What a row
// needs of all its channels is found for these rows at once: for one it is a chain of operations that wait.
template <class A>
FOCALSR_INLINE void normalise(A* rows, int64_t count, const A* weight, const A* bias, A eps) {
  constexpr int kRows = kLanes<A>;
  const int64_t width = padded<A>(count), last = width - kLanes<A>;
  Vec<A> parts[kRows], in_row{};
  for (int i = 0; i < kLanes<A>; ++i) in_row[i] = last + i < count ? A(1) : A(0);
  for (int r = 0; r < kRows; ++r) {
    parts[r] = load(rows + r * width);
    for (int64_t c = kLanes<A>; c < width; c += kLanes<A>) parts[r] += load(rows + r * width + c);
  }
  const Vec<A> mean = detail::sums(parts) / all<A>(static_cast<A>(count));
  for (int r = 0; r < kRows; ++r) {
    const Vec<A> middle = all<A>(mean[r]), end = (load(rows + r * width + last) - middle) * in_row;
    parts[r] = end * end;
    for (int64_t c = 0; c < last; c += kLanes<A>) {
      const Vec<A> d = load(rows + r * width + c) - middle;
      parts[r] += d * d;
    }
  }
  const Vec<A> variance = detail::sums(parts) / all<A>(static_cast<A>(count)) + all<A>(eps);
  for (int r = 0; r < kRows; ++r) {
    const Vec<A> middle = all<A>(mean[r]), factor = all<A>(A(1) / std::sqrt(variance[r]));
    for (int64_t c = 0; c < width; c += kLanes<A>) {
      A* const at = rows + r * width + c;
      store(at, (load(at) - middle) * factor * load(weight + c) + load(bias + c));
    }
  }
}

template <class A>
struct Work {
  const A* x;
  int64_t x_rows, x_step, in, out, rows;
  const int64_t* from;  // null: row after row
  const A *added, *norm_weight, *norm_bias, *weight, *bias, *after;  // null where there is none
  A eps;
  A* y;
};

// Rows [first, first + count) of the result. False if there is no such row of x.
template <class A>
bool block(const Work<A>& work, int64_t first, int64_t count, A* rows, A* results) {
  const int64_t width = padded<A>(work.in), step = padded<A>(work.out);
  bool good = true;
  for (int64_t r = 0; r < count; ++r) {
    int64_t source = work.from == nullptr ? first + r : work.from[first + r];
    if (source < 0 || source >= work.x_rows) {
      good = false;
      source = 0;
    }
    A* row = rows + r * width;
    std::memcpy(row, work.x + source * work.x_step, sizeof(A) * static_cast<std::size_t>(work.in));
    std::fill(row + work.in, row + width, A(0));
  }
  if (work.norm_weight != nullptr)
    for (int64_t r = 0; r < count; r += kLanes<A>)  // those behind the last are of no account
      normalise(rows + r * width, work.in, work.norm_weight, work.norm_bias, work.eps);
  for (int64_t r = 0; r < count && work.added != nullptr; ++r) {
    const A* more = work.added + (first + r) * work.in;
    for (int64_t c = 0; c < work.in; ++c) rows[r * width + c] += more[c];
  }
  product<A>(rows, width, 1, work.weight, step, results, step, count, step, work.in, work.bias, 0);
  for (int64_t r = 0; r < count; ++r) {
    const A* result = results + r * step;
    A* to = work.y + (first + r) * work.out;
    if (work.after == nullptr) {
      std::memcpy(to, result, sizeof(A) * static_cast<std::size_t>(work.out));
    } else {
      const A* other = work.after + (first + r) * work.out;
      for (int64_t c = 0; c < work.out; ++c) to[c] = other[c] + result[c];
    }
  }
  return good;
}

template <class A>
bool run(const Work<A>& work) {
  std::atomic<bool> good{true};
  const int64_t blocks = (work.rows + kBlock - 1) / kBlock;
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    Buffer<A> rows(kBlock * padded<A>(work.in)), results(kBlock * padded<A>(work.out));
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kBlock;
      if (!block(work, first, std::min(kBlock, work.rows - first), rows.get(), results.get())) good = false;
    }
  });
  return good;
}

void check(const OptionalTensor& x, const Tensor& like, at::IntArrayRef sizes, const char* name) {
  if (x)
    TORCH_CHECK_VALUE(x->sizes() == sizes && x->scalar_type() == like.scalar_type() && x->device().is_cpu(),
                      "linear_rows: ", name, " is ", x->sizes(), " of ", x->scalar_type(), ", expected ", sizes, " of ",
                      like.scalar_type());
}

// x [R, K], from [M] int64, weight [C, K] -> [M, C].
Tensor linear_rows(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& from,
                   const OptionalTensor& norm_weight, const OptionalTensor& norm_bias, double eps,
                   const OptionalTensor& added, const OptionalTensor& after) {
  TORCH_CHECK_VALUE(x.dim() == 2 && weight.dim() == 2 && weight.size(1) == x.size(1) && x.device().is_cpu(),
                    "linear_rows: x is ", x.sizes(), ", the weight ", weight.sizes());
  TORCH_CHECK_VALUE(!from || (from->dim() == 1 && from->scalar_type() == at::kLong), "linear_rows: from is no int64 list");
  const int64_t in = x.size(1), out = weight.size(0), rows = from ? from->size(0) : x.size(0);
  check(weight, x, {out, in}, "the weight");
  check(bias, x, {out}, "the bias");
  check(norm_weight, x, {in}, "the weight of the normalisation");
  check(norm_bias, x, {in}, "the bias of the normalisation");
  check(added, x, {rows, in}, "what is added before");
  check(after, x, {rows, out}, "what is added after");
  const Tensor source = x.stride(1) == 1 || in == 1 ? x : x.contiguous();
  const auto dense = [](const OptionalTensor& t) { return t ? OptionalTensor(t->contiguous()) : t; };
  const OptionalTensor order = dense(from), before = dense(added), later = dense(after);
  Tensor y = at::empty({rows, out}, x.options());
  if (y.numel() == 0) return y;
  const auto with = [&](auto a) {
    using A = decltype(a);
    const auto data = [](const OptionalTensor& t) { return t ? t->const_data_ptr<A>() : nullptr; };
    const Buffer<A> matrix = transposed<A>(weight), start = padded_copy<A>(bias, out);
    const Buffer<A> factor = padded_copy<A>(norm_weight, in), shift = padded_copy<A>(norm_bias, in);
    const Work<A> work{source.const_data_ptr<A>(), x.size(0), source.stride(0), in, out, rows,
                       order ? order->const_data_ptr<int64_t>() : nullptr, data(before),
                       norm_weight ? factor.get() : nullptr, shift.get(), matrix.get(), start.get(), data(later),
                       static_cast<A>(eps), y.mutable_data_ptr<A>()};
    return run(work);
  };
  const bool good = x.scalar_type() == at::kDouble ? with(double{}) : with(float{});
  TORCH_CHECK_INDEX(good, "linear_rows: from names rows outside 0 to ", x.size(0) - 1);
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) { m.impl("linear_rows", linear_rows); }

}  // namespace focalsr
