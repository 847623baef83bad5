// smm_qmk and smm_amv for the CPU: forward and backward as three products over listed rows.
//
// Shapes: B batch items, N queries, M keys, K slots per query, C channels; index [B, N, K] with entries in [0, M).
// Keys and values are packed into padded rows (M x C of one batch item fit the second-level cache). Rows of the result
// belong to one thread each; where results are summed over queries, a thread owns a range of keys and walks all queries
// in order, so the sums do not depend on the number of threads.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <atomic>
#include <optional>
#include <tuple>

#include "common.h"

namespace focalsr {
namespace {

using at::Tensor;

// One operand [B, rows, columns] of any layout.
template <class T>
struct View {
  const T* data;
  int64_t batch_step, row_step, step;

  explicit View(const Tensor& x)
      : data(x.const_data_ptr<T>()), batch_step(x.stride(0)), row_step(x.stride(1)), step(x.stride(2)) {}
  const T* item(int64_t b) const { return data + b * batch_step; }
  const T* row(int64_t b, int64_t n) const { return item(b) + n * row_step; }
};

// The lists of all queries, checked while they are read.
class Lists {
 public:
  explicit Lists(const Tensor& index, int64_t keys) : index_(index), keys_(keys) {}

  // K entries of one query.
  void read(int64_t b, int64_t n, int32_t* to) const {
    const int64_t at = b * index_.stride(0) + n * index_.stride(1);
    bool good = true;
    switch (index_.scalar_type()) {
      case at::kShort: good = decode(index_.const_data_ptr<int16_t>() + at, to); break;
      case at::kInt: good = decode(index_.const_data_ptr<int32_t>() + at, to); break;
      default: good = decode(index_.const_data_ptr<int64_t>() + at, to);
    }
    if (!good) outside_.store(true, std::memory_order_relaxed);
  }

  // After all threads are done.
  void check() const {
    if (!outside_.load()) return;
    const auto [low, high] = at::aminmax(index_);
    TORCH_CHECK_INDEX(false, "index holds ", low.item<int64_t>(), " to ", high.item<int64_t>(), ", expected 0 to ",
                      keys_ - 1, " for ", keys_, " keys");
  }

 private:
  template <class I>
  bool decode(const I* from, int32_t* to) const {
    return decode_index(from, index_.stride(2), index_.size(2), keys_, to);
  }

  const Tensor& index_;
  const int64_t keys_;
  mutable std::atomic<bool> outside_{false};
};

// Rows of keys or values as the products want them: packed, or in place where they are that already.
template <class A, class T>
class Rows {
 public:
  Rows(const View<T>& from, int64_t rows, int64_t channels)
      : from_(from), rows_(rows), channels_(channels), direct_(in_place(from, channels)),
        packed_(direct_ ? 0 : rows * padded<A>(channels)) {}

  // The rows of a batch item; valid until the next call.
  const A* item(int64_t b) {
    if constexpr (std::is_same_v<A, T>)
      if (direct_) return from_.item(b);
    if (b != held_) pack_rows(from_.item(b), from_.row_step, from_.step, rows_, channels_, packed_.get());
    held_ = b;
    return packed_.get();
  }
  int64_t stride() const { return direct_ ? from_.row_step : padded<A>(channels_); }

 private:
  static bool in_place(const View<T>& from, int64_t channels) {
    return std::is_same_v<A, T> && from.step == 1 && channels % kLanes<A> == 0;
  }

  const View<T>& from_;
  const int64_t rows_, channels_;
  const bool direct_;
  Buffer<A> packed_;
  int64_t held_ = -1;
};

// One row of a few numbers as A: where it lies, or in a buffer, padded with zeros.
template <class A, class T>
const A* row_of(const T* from, int64_t step, int64_t count, int64_t width, A* buffer) {
  if constexpr (std::is_same_v<A, T>)
    if (step == 1 && count == width) return from;
  for (int64_t i = 0; i < count; ++i) buffer[i] = static_cast<A>(from[i * step]);
  for (int64_t i = count; i < width; ++i) buffer[i] = A(0);
  return buffer;
}

// Calls f(each) on every thread, which has its buffers and calls each(g); then g(b, part, parts) is called for some parts
// of each of B items: one if there are items enough, else more, `most` at the utmost. Who is ready takes the next: where
// other programs hold up a thread, the rest does its share.
template <class F>
void for_parts(int64_t B, int64_t most, F&& f) {
  const int64_t threads = at::get_num_threads();
  const int64_t wanted = threads == 1 ? 1 : (4 * threads + B - 1) / std::max<int64_t>(B, 1);
  const int64_t parts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, most)), tasks = B * parts;
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min(tasks, threads), 1, [&](int64_t, int64_t) {
    f([&](const auto& g) {
      for (int64_t task = next++; task < tasks; task = next++) g(task / parts, task % parts, parts);
    });
  });
}

struct Range {
  int64_t first, last;
};
Range range_of(int64_t rows, int64_t part, int64_t parts) {
  const int64_t size = (rows + parts - 1) / parts, first = std::min(rows, part * size);
  return {first, std::min(rows, first + size)};
}

// Both products, and their sums by key below, are made by objects of one thread each, which write disjoint rows of `out`.

// kDot: x [B, N, C], y [B, M, C] -> [B, N, K], products with listed rows. Otherwise: weights x [B, N, K] -> [B, N, C],
// sums of listed rows.
template <class A, class T, bool kDot>
class Listed {
 public:
  Listed(const Tensor& x, const Tensor& y, const Lists& lists, const Tensor& out)
      : x_(x), y_(y), lists_(lists), N_(x.size(1)), C_(y.size(2)), K_(kDot ? out.size(2) : x.size(2)),
        across_(out.size(2)), width_(kDot ? padded<A>(C_) : K_), to_(out.mutable_data_ptr<T>()), rows_(y_, y.size(1), C_), left_(width_),
        result_(padded<A>(across_)), list_(K_) {}

  // Of some queries.
  void operator()(int64_t b, Range range) {
    for (int64_t n = range.first; n < range.last; ++n) {
      lists_.read(b, n, list_.get());
      const A* left = row_of<A>(x_.row(b, n), x_.step, kDot ? C_ : K_, width_, left_.get());
      const int64_t vectors = vectors_of<A>(C_);
      if constexpr (kDot) {
        gather_dot(left, rows_.item(b), rows_.stride(), vectors, list_.get(), K_, result_.get());
      } else {
        gather_sum(left, rows_.item(b), rows_.stride(), vectors, list_.get(), K_, result_.get());
      }
      unpack_rows(result_.get(), 1, across_, to_ + (b * N_ + n) * across_);
    }
  }

 private:
  const View<T> x_, y_;
  const Lists& lists_;
  const int64_t N_, C_, K_, across_, width_;
  T* const to_;
  Rows<A, T> rows_;
  Buffer<A> left_, result_;
  Buffer<int32_t> list_;
};
template <class A, class T>
using Dot = Listed<A, T, true>;
template <class A, class T>
using Sum = Listed<A, T, false>;

// Keeps the slots of keys first to last of a list, counted from first; returns how many.
template <class A>
int64_t keep_range(const A* weight, int32_t first, int32_t last, int64_t slots, int32_t* list, A* kept) {
  int64_t count = 0;
  for (int64_t k = 0; k < slots; ++k) {
    const uint32_t key = static_cast<uint32_t>(list[k] - first);
    const A w = weight[k];
    list[count] = static_cast<int32_t>(key);
    kept[count] = w;
    count += key < static_cast<uint32_t>(last - first);
  }
  return count;
}

// w [B, N, K], x [B, N, C] -> [B, M, C]: row m is the sum of w[n, k] x[n] over all slots that list m, in their order.
template <class A, class T>
class Scatter {
 public:
  Scatter(const Tensor& w, const Tensor& x, const Lists& lists, const Tensor& out)
      : weights_(w), queries_(x), lists_(lists), C_(x.size(2)), K_(w.size(2)), N_(x.size(1)), M_(out.size(1)),
        to_(out.mutable_data_ptr<T>()), sums_(M_ * padded<A>(C_)), query_(padded<A>(C_)), weight_(K_), kept_(K_),
        list_(K_) {}

  // Of some keys: reads all lists.
  void operator()(int64_t b, Range range) {
    const auto [first, last] = range;
    const int64_t width = padded<A>(C_);
    std::fill_n(sums_.get(), (last - first) * width, A(0));
    for (int64_t n = 0; n < N_ && first < last; ++n) {
      lists_.read(b, n, list_.get());
      const A* factors = row_of<A>(weights_.row(b, n), weights_.step, K_, K_, weight_.get());
      const A* q = row_of<A>(queries_.row(b, n), queries_.step, C_, width, query_.get());
      int64_t count = K_;
      if (last - first < M_) {
        count = keep_range(factors, first, last, K_, list_.get(), kept_.get());
        factors = kept_.get();
      }
      scatter_outer(factors, q, sums_.get(), width, vectors_of<A>(C_), list_.get(), count);
    }
    unpack_rows(sums_.get(), last - first, C_, to_ + (b * M_ + first) * C_);
  }

 private:
  const View<T> weights_, queries_;
  const Lists& lists_;
  const int64_t C_, K_, N_, M_;
  T* const to_;
  Buffer<A> sums_, query_, weight_, kept_;
  Buffer<int32_t> list_;
};

template <class Product>
Tensor forward(const Tensor& x, const Tensor& y, const Tensor& index, at::IntArrayRef sizes) {
  const int64_t N = index.size(1);
  Tensor out = at::empty(sizes, x.options());
  const Lists lists(index, y.size(1));
  for_parts(index.size(0), N / 16, [&](const auto& each) {
    Product product(x, y, lists, out);
    each([&](int64_t b, int64_t part, int64_t parts) { product(b, range_of(N, part, parts)); });
  });
  lists.check();
  return out;
}

// Both gradients of a product in one go over the batch, so that threads wait for each other once: Product of x and y for
// each query, and Scatter of w and z for each key. What is not wanted is empty.
template <class Product, class A, class T>
std::tuple<Tensor, Tensor> backward(const Tensor& x, const Tensor& y, const Tensor& w, const Tensor& z,
                                    const Tensor& index, at::IntArrayRef query_sizes, bool query_wanted,
                                    bool key_wanted) {
  const int64_t B = index.size(0), N = index.size(1), M = y.size(1);
  const Tensor by_query = at::empty(query_wanted ? query_sizes : at::IntArrayRef{0}, x.options());
  const Tensor by_key = at::empty(key_wanted ? y.sizes() : at::IntArrayRef{0}, x.options());
  const Lists lists(index, M);
  for_parts(B, std::min(N, M) / 16, [&](const auto& each) {
    std::optional<Product> product;
    std::optional<Scatter<A, T>> scatter;
    if (query_wanted) product.emplace(x, y, lists, by_query);
    if (key_wanted) scatter.emplace(w, z, lists, by_key);
    each([&](int64_t b, int64_t part, int64_t parts) {
      if (product) (*product)(b, range_of(N, part, parts));
      if (scatter) (*scatter)(b, range_of(M, part, parts));
    });
  });
  lists.check();
  return {by_query, by_key};
}

// ---------------------------------------------------------------------------------------------------------------------
// Checks that keep every access in bounds; the messages for people are in ops/sparse/arguments.py

void check(const Tensor& narrow, const Tensor& rows, const Tensor& index, int64_t N, int64_t M) {
  TORCH_CHECK_VALUE(narrow.dim() == 3 && rows.dim() == 3 && index.dim() == 3, "expected three dimensions each");
  TORCH_CHECK_VALUE(narrow.size(0) == index.size(0) && rows.size(0) == index.size(0) && index.size(1) == N,
                    "batch sizes or numbers of queries differ");
  TORCH_CHECK_VALUE(narrow.scalar_type() == rows.scalar_type(), "operands of two types");
  TORCH_CHECK_VALUE(index.scalar_type() == at::kShort || index.scalar_type() == at::kInt || index.scalar_type() == at::kLong,
                    "index must be int16, int32 or int64");
  TORCH_CHECK_VALUE(narrow.is_cpu() && rows.is_cpu() && index.is_cpu(), "expected tensors on the CPU");
  TORCH_CHECK_VALUE(M < (int64_t{1} << 31), "too many keys");
  TORCH_CHECK_INDEX(M > 0 || index.numel() == 0, "there are no keys to list");
}

// f(type of accumulation, type of storage), each as a null pointer of the type.
template <class F>
auto by_type(const Tensor& x, F&& f) {
  switch (x.scalar_type()) {
    case at::kDouble: return f((double*)nullptr, (double*)nullptr);
    case at::kFloat: return f((float*)nullptr, (float*)nullptr);
    case at::kBFloat16: return f((float*)nullptr, (at::BFloat16*)nullptr);
    case at::kHalf: return f((float*)nullptr, (at::Half*)nullptr);
    default: TORCH_CHECK_VALUE(false, "type ", x.scalar_type(), " is not supported");
  }
}

#define FOCALSR_TYPES(accumulation, storage)                   \
  using A = std::remove_pointer_t<decltype(accumulation)>;     \
  using T = std::remove_pointer_t<decltype(storage)>

Tensor qmk(const Tensor& q, const Tensor& k_t, const Tensor& index) {
  check(q, k_t, index, q.dim() == 3 ? q.size(1) : 0, k_t.size(-1));
  TORCH_CHECK_VALUE(q.size(2) == k_t.size(1), "widths differ");
  return by_type(q, [&](auto* a, auto* t) {
    FOCALSR_TYPES(a, t);
    return forward<Dot<A, T>>(q, k_t.transpose(1, 2), index, index.sizes());
  });
}

Tensor amv(const Tensor& attn, const Tensor& v, const Tensor& index) {
  check(attn, v, index, attn.dim() == 3 ? attn.size(1) : 0, v.dim() == 3 ? v.size(1) : 0);
  TORCH_CHECK_VALUE(attn.size(2) == index.size(2), "weights and list differ in length");
  return by_type(attn, [&](auto* a, auto* t) {
    FOCALSR_TYPES(a, t);
    return forward<Sum<A, T>>(attn, v, index, {attn.size(0), attn.size(1), v.size(2)});
  });
}

std::tuple<Tensor, Tensor> qmk_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k_t, const Tensor& index, bool q_wanted, bool k_wanted) {
  check(q, k_t, index, q.dim() == 3 ? q.size(1) : 0, k_t.size(-1));
  TORCH_CHECK_VALUE(q.size(2) == k_t.size(1), "widths differ");
  TORCH_CHECK_VALUE(grad.sizes() == index.sizes() && grad.scalar_type() == q.scalar_type(), "the gradient does not fit");
  return by_type(q, [&](auto* a, auto* t) {
    FOCALSR_TYPES(a, t);
    const Tensor k = k_t.transpose(1, 2);
    auto [d_q, d_k] = backward<Sum<A, T>, A, T>(grad, k, grad, q, index, q.sizes(), q_wanted, k_wanted);
    return std::make_tuple(d_q, k_wanted ? d_k.transpose(1, 2) : d_k);
  });
}

std::tuple<Tensor, Tensor> amv_backward(
    const Tensor& grad, const Tensor& attn, const Tensor& v, const Tensor& index, bool attn_wanted, bool v_wanted) {
  check(attn, v, index, attn.dim() == 3 ? attn.size(1) : 0, v.dim() == 3 ? v.size(1) : 0);
  check(grad, v, index, attn.size(1), v.size(1));
  TORCH_CHECK_VALUE(attn.size(2) == index.size(2), "weights and list differ in length");
  TORCH_CHECK_VALUE(grad.size(1) == attn.size(1) && grad.size(2) == v.size(2), "the gradient does not fit");
  return by_type(attn, [&](auto* a, auto* t) {
    FOCALSR_TYPES(a, t);
    return backward<Dot<A, T>, A, T>(grad, v, attn, grad, index, attn.sizes(), attn_wanted, v_wanted);
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("smm_qmk", qmk);
  m.impl("smm_amv", amv);
  m.impl("smm_qmk_backward", qmk_backward);
  m.impl("smm_amv_backward", amv_backward);
}

}  // namespace focalsr
