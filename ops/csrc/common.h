// Rows of channels, padded with zeros to whole vectors, and the three products over listed rows that everything sparse
// is made of. Used by the CPU kernels; no torch header.
//
// Shapes: N query rows x, M key rows y, K slots of a list, `vectors` of kLanes<A> channels each in a padded row.
//
//   gather_dot     out[k]  = <x, y[index[k]]>
//   gather_sum     out     = sum_k w[k] y[index[k]]
//   scatter_outer  y[index[k]] += w[k] x        for each k, in order: entries may repeat
//
// A is the type of accumulation, float or double. Every result depends on its operands alone, not on the position of a
// slot in the list or on the number of threads (gather_sum: on the order of the list). Indices are taken as they are:
// check them first (see decode_index).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>

#define FOCALSR_INLINE inline __attribute__((always_inline))

namespace focalsr {

constexpr int kVectorBytes = 32;

// Vectors of the compiler (GCC, Clang): arithmetic on them is elementwise, and products with sums become FMA.
template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kVectorBytes)));
  typedef A loose __attribute__((vector_size(kVectorBytes), aligned(alignof(A)), may_alias));  // in memory, anywhere
};
template <class A>
using Vec = typename VectorOf<A>::type;

template <class A>
constexpr int kLanes = kVectorBytes / sizeof(A);

// Channels of a padded row, and the vectors in it.
template <class A>
constexpr int64_t vectors_of(int64_t channels) {
  return (channels + kLanes<A> - 1) / kLanes<A>;
}
template <class A>
constexpr int64_t padded(int64_t channels) {
  return vectors_of<A>(channels) * kLanes<A>;
}

template <class A>
FOCALSR_INLINE Vec<A> load(const A* at) {
  return *reinterpret_cast<const typename VectorOf<A>::loose*>(at);
}
template <class A>
FOCALSR_INLINE void store(A* at, Vec<A> value) {
  *reinterpret_cast<typename VectorOf<A>::loose*>(at) = value;
}
template <class A>
FOCALSR_INLINE Vec<A> all(A value) {
  return value - Vec<A>{};  // minus zero: keeps the sign of a zero
}

// Memory of one thread, aligned to cache lines; contents undefined.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count) {
    const std::size_t bytes = (std::max<int64_t>(count, 1) * sizeof(T) + 63) / 64 * 64;
    memory_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (!memory_) throw std::bad_alloc();
  }
  T* get() const { return memory_.get(); }
  T& operator[](int64_t i) const { return memory_.get()[i]; }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Rows in and out

// Rows of channels that lie side by side, in whole vectors; what follows the last row must be memory of the same tensor.
template <class A>
FOCALSR_INLINE void pack_dense_rows(const A* from, int64_t row_step, int64_t rows, int64_t channels, A* to) {
  typedef typename std::conditional<sizeof(A) == 4, int32_t, int64_t>::type Integer;
  typedef Integer Bits __attribute__((vector_size(kVectorBytes)));
  const int64_t width = padded<A>(channels), last = width - kLanes<A>;
  Bits mask;
  for (int i = 0; i < kLanes<A>; ++i) mask[i] = last + i < channels ? Integer(-1) : Integer(0);
  for (int64_t row = 0; row < rows; ++row) {
    const A* at = from + row * row_step;
    for (int64_t c = 0; c < last; c += kLanes<A>) store(to + row * width + c, load(at + c));
    store(to + row * width + last, (Vec<A>)((Bits)load(at + last) & mask));
  }
}

// rows x channels values of any layout (steps in elements) -> padded rows of A.
template <class A, class T>
void pack_rows(const T* from, int64_t row_step, int64_t channel_step, int64_t rows, int64_t channels, A* to) {
  const int64_t width = padded<A>(channels);
  if constexpr (std::is_same<A, T>::value) {
    if (channel_step == 1 && rows > 1 && channels > 0 && row_step + channels >= width) {
      pack_dense_rows(from, row_step, rows - 1, channels, to);
      from += (rows - 1) * row_step;
      to += (rows - 1) * width;
      rows = 1;
    }
  }
  constexpr int64_t kBlock = 16;  // rows at a time: a cache line of a channel-major source serves all of them
  for (int64_t start = 0; start < rows; start += kBlock) {
    const int64_t stop = std::min(rows, start + kBlock);
    if (channel_step == 1) {
      for (int64_t row = start; row < stop; ++row)
        for (int64_t c = 0; c < channels; ++c) to[row * width + c] = static_cast<A>(from[row * row_step + c]);
    } else {
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t row = start; row < stop; ++row)
          to[row * width + c] = static_cast<A>(from[row * row_step + c * channel_step]);
    }
    if (width != channels)
      for (int64_t row = start; row < stop; ++row)
        for (int64_t c = channels; c < width; ++c) to[row * width + c] = A(0);
  }
}

// Padded rows of A -> dense rows of T.
template <class A, class T>
void unpack_rows(const A* from, int64_t rows, int64_t channels, T* to) {
  const int64_t width = padded<A>(channels);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t c = 0; c < channels; ++c) to[row * channels + c] = static_cast<T>(from[row * width + c]);
}

// A list of any integer type and step -> int32. Entries outside [0, keys) become 0, so that nothing is read wildly;
// returns false if there were any. keys > 0.
template <class I>
inline bool decode_index(const I* from, int64_t step, int64_t count, int64_t keys, int32_t* to) {
  using U = std::make_unsigned_t<I>;  // negative entries are the largest
  const U last = static_cast<U>(std::min<int64_t>(keys, std::numeric_limits<I>::max()) - 1 +
                                (keys > std::numeric_limits<I>::max() ? 1 : 0));
  U outside = 0;
  if (step == 1) {
    for (int64_t k = 0; k < count; ++k) {
      const U entry = static_cast<U>(from[k]);
      outside |= static_cast<U>(entry > last);
      to[k] = static_cast<int32_t>(entry > last ? U(0) : entry);
    }
  } else {
    for (int64_t k = 0; k < count; ++k) {
      const U entry = static_cast<U>(from[k * step]);
      outside |= static_cast<U>(entry > last);
      to[k] = static_cast<int32_t>(entry > last ? U(0) : entry);
    }
  }
  return outside == 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// The three products for V vectors per row, V known to the compiler

namespace detail {

// Sums of the lanes of eight (float) or four (double) vectors, each summed in the same order.
FOCALSR_INLINE Vec<float> sums(const Vec<float> (&a)[8]) {
  Vec<float> pairs[4], quads[2];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    pairs[i] = __builtin_shufflevector(a[2 * i], a[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13) +
               __builtin_shufflevector(a[2 * i], a[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    quads[i] = __builtin_shufflevector(pairs[2 * i], pairs[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
               __builtin_shufflevector(pairs[2 * i], pairs[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
  return __builtin_shufflevector(quads[0], quads[1], 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(quads[0], quads[1], 4, 5, 6, 7, 12, 13, 14, 15);
}
FOCALSR_INLINE Vec<double> sums(const Vec<double> (&a)[4]) {
  Vec<double> result;
  for (int i = 0; i < 4; ++i) result[i] = (a[i][0] + a[i][1]) + (a[i][2] + a[i][3]);
  return result;
}

// One vector of products: <query, rows[index[i]]> for as many keys as a vector has lanes.
template <class A, int V, class I, class S>
FOCALSR_INLINE Vec<A> dots(const Vec<A> (&query)[V], const A* rows, S stride, const I* index) {
  Vec<A> partial[kLanes<A>];
#pragma GCC unroll 8
  for (int i = 0; i < kLanes<A>; ++i) {
    const A* row = rows + static_cast<int64_t>(index[i]) * stride;
    partial[i] = query[0] * load(row);
#pragma GCC unroll 8
    for (int v = 1; v < V; ++v) partial[i] += query[v] * load(row + v * kLanes<A>);
  }
  return sums(partial);
}

template <class A, int V, class I, class S>
void gather_dot(const A* x, const A* rows, S stride, const I* index, int64_t count, A* out, bool add) {
  Vec<A> query[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) query[v] = load(x + v * kLanes<A>);
  int64_t k = 0;
  for (; k + kLanes<A> <= count; k += kLanes<A>) {
    Vec<A> result = dots<A, V>(query, rows, stride, index + k);
    if (add) result += load(out + k);
    store(out + k, result);
  }
  if (k == count) return;
  I rest[kLanes<A>];  // the last key again where the list has ended
  for (int64_t i = 0; i < kLanes<A>; ++i) rest[i] = index[std::min(k + i, count - 1)];
  const Vec<A> result = dots<A, V>(query, rows, stride, rest);
  for (int64_t i = 0; k + i < count; ++i) out[k + i] = add ? out[k + i] + result[i] : result[i];
}

template <class A, int V, class I, class S>
void gather_sum(const A* weight, const A* rows, S stride, const I* index, int64_t count, A* out) {
  constexpr int kChains = V >= 7 ? 1 : 12 / V;  // independent sums in twelve registers: an FMA takes four cycles
  Vec<A> sum[kChains][V] = {};
  int64_t k = 0;
  for (; k + kChains <= count; k += kChains) {
#pragma GCC unroll 8
    for (int chain = 0; chain < kChains; ++chain) {
      const A* row = rows + static_cast<int64_t>(index[k + chain]) * stride;
      const Vec<A> w = all<A>(weight[k + chain]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[chain][v] += w * load(row + v * kLanes<A>);
    }
  }
  for (; k < count; ++k) {
    const A* row = rows + static_cast<int64_t>(index[k]) * stride;
    const Vec<A> w = all<A>(weight[k]);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[0][v] += w * load(row + v * kLanes<A>);
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    Vec<A> total = sum[0][v];
#pragma GCC unroll 8
    for (int chain = 1; chain < kChains; ++chain) total += sum[chain][v];
    store(out + v * kLanes<A>, total);
  }
}

template <class A, int V, class I, class S>
void scatter_outer(const A* weight, const A* x, A* rows, S stride, const I* index, int64_t count) {
  Vec<A> value[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) value[v] = load(x + v * kLanes<A>);
  for (int64_t k = 0; k < count; ++k) {
    A* row = rows + static_cast<int64_t>(index[k]) * stride;
    const Vec<A> w = all<A>(weight[k]);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(row + v * kLanes<A>, load(row + v * kLanes<A>) + w * value[v]);
  }
}

// Calls f(stride), as a constant where rows of V vectors follow each other, or where a list says at which number a row
// begins: shifts are faster than products, and sums than both.
template <class A, int V, class F>
FOCALSR_INLINE void with_stride(int64_t stride, F&& f) {
  if (stride == 1) return f(std::integral_constant<int64_t, 1>{});
  if (stride == V * kLanes<A>) return f(std::integral_constant<int64_t, V * kLanes<A>>{});
  f(stride);
}

// Calls f(std::integral_constant<int, V>, first vector) for pieces of at most eight vectors that make up a row.
template <class F>
FOCALSR_INLINE void for_pieces(int64_t vectors, F&& f) {
  int64_t first = 0;
  for (; vectors - first > 8; first += 8) f(std::integral_constant<int, 8>{}, first);
  switch (vectors - first) {
    case 1: return f(std::integral_constant<int, 1>{}, first);
    case 2: return f(std::integral_constant<int, 2>{}, first);
    case 3: return f(std::integral_constant<int, 3>{}, first);
    case 4: return f(std::integral_constant<int, 4>{}, first);
    case 5: return f(std::integral_constant<int, 5>{}, first);
    case 6: return f(std::integral_constant<int, 6>{}, first);
    case 7: return f(std::integral_constant<int, 7>{}, first);
    case 8: return f(std::integral_constant<int, 8>{}, first);
    default: return;
  }
}

}  // namespace detail

// ---------------------------------------------------------------------------------------------------------------------
// The three products for rows of any width: `vectors` vectors each, `stride` channels from one listed row to the next

template <class A, class I>
FOCALSR_INLINE void gather_dot(
    const A* x, const A* rows, int64_t stride, int64_t vectors, const I* index, int64_t count, A* out) {
  if (vectors == 0) std::fill_n(out, count, A(0));
  detail::for_pieces(vectors, [&](auto size, int64_t first) {
    constexpr int V = decltype(size)::value;
    const int64_t at = first * kLanes<A>;
    detail::with_stride<A, V>(stride, [&](auto step) {
      detail::gather_dot<A, V>(x + at, rows + at, step, index, count, out, first > 0);
    });
  });
}

template <class A, class I>
FOCALSR_INLINE void gather_sum(
    const A* weight, const A* rows, int64_t stride, int64_t vectors, const I* index, int64_t count, A* out) {
  detail::for_pieces(vectors, [&](auto size, int64_t first) {
    constexpr int V = decltype(size)::value;
    const int64_t at = first * kLanes<A>;
    detail::with_stride<A, V>(stride, [&](auto step) {
      detail::gather_sum<A, V>(weight, rows + at, step, index, count, out + at);
    });
  });
}

template <class A, class I>
FOCALSR_INLINE void scatter_outer(
    const A* weight, const A* x, A* rows, int64_t stride, int64_t vectors, const I* index, int64_t count) {
  detail::for_pieces(vectors, [&](auto size, int64_t first) {
    constexpr int V = decltype(size)::value;
    const int64_t at = first * kLanes<A>;
    detail::with_stride<A, V>(stride, [&](auto step) {
      detail::scatter_outer<A, V>(weight, x + at, rows + at, step, index, count);
    });
  });
}

}  // namespace focalsr
