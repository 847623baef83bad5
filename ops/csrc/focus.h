// What the kernels of focused attention for the CPU share: tensors and sizes, the bias table and its gradient, checks.
//
// Shapes: W windows, h heads, n windows of an image, w side of a window, N = w * w tokens, D width of a head, S width of
// joined queries and keys, K length of the list so far, P of the list after the selection, T = (2w-1)^2 rows of the table.
// T is also the type in memory where a template says so, A that of all arithmetic (float for half precision).
//
// One task is one head of one window and owns whatever it writes, sums over queries in their order, and leaves its part
// of the table's gradient to be added in the order of windows: no result depends on the number of threads.
//
// The table is used backwards: in it the entries for keys of one row of the window lie side by side, ascending. With
// position p(t) = (t / w) (2w-1) + t % w the entry for query i and key j is at base - p(i) + p(j), base = 2 w (w - 1).
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <atomic>
#include <cmath>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "focus_rows.h"

namespace focalsr {
namespace focus {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;


// [W, h, N, channels] of any strides.
template <class T>
struct View {
  explicit View(const Tensor& x)
      : data(const_cast<T*>(x.const_data_ptr<T>())), channels(x.size(3)),
        window(x.stride(0)), head(x.stride(1)), token(x.stride(2)), channel(x.stride(3)) {}
  T* at(int64_t item_window, int64_t item_head) const { return data + item_window * window + item_head * head; }
  template <class A>
  void pack(int64_t w, int64_t h, int64_t rows, A* to) const {
    pack_rows<A>(at(w, h), token, channel, rows, channels, to);
  }
  // Rows of one head from `first` on, multiplied, from padded rows.
  template <class A>
  void unpack(const A* from, int64_t w, int64_t h, int64_t first, int64_t rows, A factor) const {
    T* to = at(w, h) + first * token;
    const int64_t width = padded<A>(channels);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t c = 0; c < channels; ++c)
        to[row * token + c * channel] = static_cast<T>(from[row * width + c] * factor);
  }
  T* data;
  int64_t channels, window, head, token, channel;
};

struct Sizes {
  int64_t windows, heads, tokens, width, side;
  int64_t items() const { return windows * heads; }
  int64_t rows() const { return (2 * side - 1) * (2 * side - 1); }
  int64_t position(int64_t token) const { return token / side * (2 * side - 1) + token % side; }
  int64_t base() const { return 2 * side * (side - 1); }
};

inline Sizes sizes_of(const Tensor& q, int64_t side) {
  TORCH_CHECK_VALUE(q.dim() == 4, "focused attention: q has ", q.dim(), " dimensions, expected [windows, heads, tokens, width]");
  TORCH_CHECK_VALUE(side > 0 && side <= 1024 && q.size(2) == side * side, "focused attention: ", q.size(2),
                    " tokens are no window of ", side, " x ", side);
  return {q.size(0), q.size(1), q.size(2), q.size(3), side};
}

inline void check_like(const Tensor& x, const Tensor& q, const char* name) {
  TORCH_CHECK_VALUE(x.dim() == 4 && x.size(0) == q.size(0) && x.size(1) == q.size(1) && x.size(2) == q.size(2) &&
                        x.scalar_type() == q.scalar_type() && x.device().is_cpu(),
                    "focused attention: ", name, " is ", x.sizes(), " of ", x.scalar_type(),
                    ", expected the windows, heads, tokens and type of q, ", q.sizes(), " of ", q.scalar_type());
}

// The table [T, h or 1] backwards, by head; and where the entries of a query begin.
template <class A>
class Table {
 public:
  Table(const Tensor& table, const Sizes& s) : sizes_(s), columns_(table.size(1)), rows_(s.rows()), back_(columns_ * rows_) {
    TORCH_CHECK_VALUE(table.dim() == 2 && table.size(0) == s.rows() && (columns_ == 1 || columns_ == s.heads),
                      "focused attention: the table is ", table.sizes(), ", expected [", s.rows(), ", ", s.heads, " or 1]");
    const Tensor dense = table.contiguous();
    const A* from = dense.const_data_ptr<A>();
    for (int64_t c = 0; c < columns_; ++c)
      for (int64_t r = 0; r < rows_; ++r) back_[c * rows_ + rows_ - 1 - r] = from[r * columns_ + c];
    for (int64_t t = 0; t < s.tokens; ++t) positions_.push_back(static_cast<int32_t>(s.position(t)));
  }
  const A* of_query(int64_t head, int64_t query) const {
    return back_.get() + (columns_ == 1 ? 0 : head) * rows_ + offset(query);
  }
  int64_t offset(int64_t query) const { return sizes_.base() - positions_[query]; }
  const int32_t* positions() const { return positions_.data(); }

  // row[j] += bias of query and key j, for all keys.
  void add(int64_t head, int64_t query, A* row) const {
    const A* bias = of_query(head, query);
    const int64_t w = sizes_.side;
    for (int64_t y = 0; y < w; ++y)
      for (int64_t x = 0; x < w; ++x) row[y * w + x] += bias[y * (2 * w - 1) + x];
  }

 private:
  Sizes sizes_;
  int64_t columns_, rows_;
  Buffer<A> back_;
  std::vector<int32_t> positions_;
};

// The gradient of a table: a backward row of each task, added up window by window.
template <class A>
class TableGradient {
 public:
  TableGradient(const Sizes& s, const Tensor& table)
      : sizes_(s), parts_(at::zeros({s.items(), s.rows()}, table.options())) {}
  A* part(int64_t item) { return parts_.mutable_data_ptr<A>() + item * sizes_.rows(); }
  Tensor total(int64_t columns) {
    const int64_t rows = sizes_.rows();
    Tensor result = at::zeros({rows, columns}, parts_.options());
    A* to = result.mutable_data_ptr<A>();
    for (int64_t item = 0; item < sizes_.items(); ++item) {
      const A* from = part(item);
      const int64_t column = columns == 1 ? 0 : item % sizes_.heads;
      for (int64_t r = 0; r < rows; ++r) to[(rows - 1 - r) * columns + column] += from[r];
    }
    return result;
  }

 private:
  Sizes sizes_;
  Tensor parts_;
};

inline Tensor token_major(const Tensor& q, int64_t width) {
  return at::empty({q.size(0), q.size(2), q.size(1), width}, q.options()).transpose(1, 2);
}

// Asks for pages of megabytes under a new tensor that is large: the system clears and maps them several times faster.
inline void in_large_pages(const Tensor& x) {
#if defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kPage = 1 << 21;
  const auto begin = reinterpret_cast<std::uintptr_t>(x.const_data_ptr());
  const std::uintptr_t first = (begin + kPage - 1) / kPage * kPage, end = (begin + x.nbytes()) / kPage * kPage;
  if (first + kPage <= end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);  // or else small ones
#endif
}

template <class A>
Tensor numbers(const Tensor& q, at::IntArrayRef sizes) {
  return at::empty(sizes, q.options().dtype(c10::CppTypeToScalarType<A>::value));
}

inline at::ScalarType list_type(int64_t tokens) { return tokens <= 32768 ? at::kShort : at::kInt; }

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// f(T, A, I) for the type in memory, of arithmetic, and of lists.
template <class F>
auto dispatch(const Tensor& q, at::ScalarType list, F&& f) {
  const auto with = [&](auto stored, auto arithmetic) {
    if (list == at::kShort) return f(stored, arithmetic, int16_t{});
    TORCH_CHECK_TYPE(list == at::kInt, "focused attention: lists are ", list, ", expected int16 or int32");
    return f(stored, arithmetic, int32_t{});
  };
  switch (q.scalar_type()) {
    case at::kFloat: return with(float{}, float{});
    case at::kDouble: return with(double{}, double{});
    case at::kBFloat16: return with(at::BFloat16{}, float{});
    case at::kHalf: return with(at::Half{}, float{});
    default: TORCH_CHECK_TYPE(false, "focused attention: no kernels for ", q.scalar_type());
  }
}

template <class A>
void check_numbers(const Tensor& x, const char* name) {
  TORCH_CHECK_TYPE(x.scalar_type() == c10::CppTypeToScalarType<A>::value, "focused attention: ", name, " is ",
                   x.scalar_type(), ", expected ", c10::CppTypeToScalarType<A>::value);
}

inline void check_list(const Tensor& index, const Tensor& logits, const Sizes& s) {
  TORCH_CHECK_VALUE(index.dim() == 4 && index.size(0) == s.windows && index.size(1) == s.heads &&
                        index.size(2) == s.tokens && index.size(3) > 0 && logits.sizes() == index.sizes(),
                    "focused attention: lists are ", index.sizes(), " and logits ", logits.sizes(),
                    ", expected twice [", s.windows, ", ", s.heads, ", ", s.tokens, ", keys]");
}

}  // namespace focus
}  // namespace focalsr
