// Products of bfloat16 with sums in float32: by instructions for them where the compiler knows that the processor has
// some (AVX512-BF16, and AMX beside it), else by the arithmetic of float32 on the same data. No torch header.
//
// Numbers lie in pairs, the first in the low half of 32 bits: one instruction multiplies 16 pairs and adds up each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "common.h"

#if defined(__AVX512BF16__) && defined(__AVX512F__)
#define FOCALSR_BF16_PRODUCTS 1
#include <immintrin.h>
#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__linux__)
#define FOCALSR_BF16_TILES 1
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

// Everything that takes or gives a vector is inlined, so that no two compilers have to agree on how.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace focalsr::bf16 {

#ifdef FOCALSR_BF16_PRODUCTS
constexpr bool kNative = true;
#else
constexpr bool kNative = false;
#endif

constexpr int64_t kLanes = 16;
constexpr int64_t kTile = 16;     // rows of an operand are padded to so many
constexpr int64_t kPairStep = 16;  // and pairs, where tiles multiply them
inline int64_t multiple_of(int64_t step, int64_t count) { return (count + step - 1) / step * step; }

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Pairs __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef float LooseFloats __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t LoosePairs __attribute__((vector_size(64), aligned(2), may_alias));

FOCALSR_INLINE Floats load(const float* at) { return *reinterpret_cast<const LooseFloats*>(at); }
FOCALSR_INLINE void store(float* at, Floats value) { *reinterpret_cast<LooseFloats*>(at) = value; }
FOCALSR_INLINE Pairs load(const void* at) { return *static_cast<const LoosePairs*>(at); }
FOCALSR_INLINE void store(void* at, Pairs value) { *static_cast<LoosePairs*>(at) = value; }
FOCALSR_INLINE Floats load(const uint16_t* at) {
  Halves halves;
  std::memcpy(&halves, at, sizeof halves);
  const Pairs wide = __builtin_convertvector(halves, Pairs) << 16;
  Floats result;
  std::memcpy(&result, &wide, sizeof result);
  return result;
}
FOCALSR_INLINE Floats all(float value) { return value - Floats{}; }

template <class To, class From>
FOCALSR_INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// sum + the products of both halves.
FOCALSR_INLINE Floats dot(Floats sum, Pairs a, Pairs b) {
#ifdef FOCALSR_BF16_PRODUCTS
  return bits<Floats>(_mm512_dpbf16_ps(bits<__m512>(sum), bits<__m512bh>(a), bits<__m512bh>(b)));
#else
  sum += bits<Floats>(a << 16) * bits<Floats>(b << 16);
  return sum + bits<Floats>(a & 0xffff0000u) * bits<Floats>(b & 0xffff0000u);
#endif
}

// 16 numbers, rounded to even.
FOCALSR_INLINE Halves rounded(Floats x) {
#ifdef FOCALSR_BF16_PRODUCTS
  return bits<Halves>(_mm512_cvtneps_pbh(bits<__m512>(x)));
#else
  const Pairs raw = bits<Pairs>(x);
  const Pairs up = (raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16;
  return __builtin_convertvector(x == x ? up : up * 0u + 0x7fc0u, Halves);
#endif
}

// 32 numbers in the order of memory: first those of `low`.
FOCALSR_INLINE Pairs rounded(Floats low, Floats high) {
#ifdef FOCALSR_BF16_PRODUCTS
  return bits<Pairs>(_mm512_cvtne2ps_pbh(bits<__m512>(high), bits<__m512>(low)));
#else
  const Halves first = rounded(low), second = rounded(high);
  Pairs both;
  std::memcpy(&both, &first, sizeof first);
  std::memcpy(reinterpret_cast<char*>(&both) + sizeof first, &second, sizeof second);
  return both;
#endif
}

// 16 pairs: a number of each vector.
FOCALSR_INLINE Pairs paired(Floats first, Floats second) {
  const Pairs low = __builtin_convertvector(rounded(first), Pairs);
  return low | __builtin_convertvector(rounded(second), Pairs) << 16;
}

FOCALSR_INLINE Pairs pair_everywhere(const uint16_t* at) {
  uint32_t pair;
  std::memcpy(&pair, at, sizeof pair);
  return pair - Pairs{};
}

// All lanes joined by `f`, a half with the other: one after another they would wait for each other.
template <class F>
FOCALSR_INLINE float joined(Floats x, F&& f) {
  typedef float Eight __attribute__((vector_size(32)));
  typedef float Four __attribute__((vector_size(16)));
  struct Eights {
    Eight first, second;
  };
  struct Fours {
    Four first, second;
  };
  const Eights eights = bits<Eights>(x);
  const Fours fours = bits<Fours>(f(eights.first, eights.second));
  const Four last = f(fours.first, fours.second);
  return f(f(last[0], last[2]), f(last[1], last[3]));
}
FOCALSR_INLINE float sum_of_lanes(Floats x) {
  return joined(x, [](auto a, auto b) { return a + b; });
}
FOCALSR_INLINE float largest_lane(Floats x) {
  return joined(x, [](auto a, auto b) { return a > b ? a : b; });
}

// 2^x for x <= 0, to one part in 13000: what is rounded to 8 bits needs no more. At least 2^-125.
FOCALSR_INLINE Floats power_of_two(Floats x) {
  const float kRounder = 12582912.0f;  // leaves an integer in the lowest bits of a sum
  x = x < all(-125.0f) ? all(-125.0f) : x;
  const Floats shifted = x + all(kRounder);
  const Floats rest = x - (shifted - all(kRounder));
  Floats series = all(0.05517166493f) * rest + all(0.24261112188f);
  series = series * rest + all(0.69326098622f);
  series = series * rest + all(0.99992807358f);
  return bits<Floats>(bits<Pairs>(series) + (bits<Pairs>(shifted) << 23));
}

// ---------------------------------------------------------------------------------------------------------------------
// c = a b, or c += a b where it is added; several products are added up before c is written.

// `terms` matrices a [rows, 2 * pairs] numbers, `a_row` from one row to the next, and as many b [pairs, columns] pairs,
// `b_step` apart and `b_row` from one row to the next. Rows and columns are multiples of 16.
struct Operands {
  const uint16_t* const* a;
  int64_t terms, a_row;
  const uint32_t* b;
  int64_t b_step, b_row, pairs;
};

namespace detail {

template <int V>
FOCALSR_INLINE void panel(const Operands& o, int64_t row, int64_t column, float* c, int64_t c_row, bool add) {
  constexpr int R = 8;
  Floats sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[r][v] = add ? load(c + r * c_row + v * kLanes) : Floats{};
  for (int64_t term = 0; term < o.terms; ++term) {
    const uint16_t* const a = o.a[term] + row * o.a_row;
    const uint32_t* const b = o.b + term * o.b_step + column;
    for (int64_t k = 0; k < o.pairs; ++k) {
      Pairs right[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) right[v] = load(static_cast<const void*>(b + k * o.b_row + v * kLanes));
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Pairs left = pair_everywhere(a + r * o.a_row + 2 * k);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] = dot(sum[r][v], left, right[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(c + r * c_row + v * kLanes, sum[r][v]);
}

inline void product_by_vectors(
    const Operands& o, float* c, int64_t c_row, int64_t rows, int64_t columns, bool add) {
  int64_t column = 0;
  for (; column + 2 * kLanes <= columns; column += 2 * kLanes)
    for (int64_t r = 0; r < rows; r += 8) panel<2>(o, r, column, c + r * c_row + column, c_row, add);
  for (; column < columns; column += kLanes)
    for (int64_t r = 0; r < rows; r += 8) panel<1>(o, r, column, c + r * c_row + column, c_row, add);
}

}  // namespace detail

#ifdef FOCALSR_BF16_TILES

// Whether the system lets this process use AMX; it has to be asked.
inline bool tiles_allowed() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
}

namespace detail {

// R x V tiles of c, 16 x 16 each. Compilers do not know that loads and stores of tiles touch memory.
template <int R, int V>
inline void tiles(const Operands& o, int64_t row, int64_t column, float* c, int64_t c_row, bool add) {
  asm volatile("" ::: "memory");
  if (add) {
    _tile_loadd(0, c, 4 * c_row);
    if constexpr (V > 1) _tile_loadd(1, c + kTile, 4 * c_row);
    if constexpr (R > 1) _tile_loadd(2, c + kTile * c_row, 4 * c_row);
    if constexpr (R > 1 && V > 1) _tile_loadd(3, c + kTile * c_row + kTile, 4 * c_row);
  } else {
    _tile_zero(0);
    if constexpr (V > 1) _tile_zero(1);
    if constexpr (R > 1) _tile_zero(2);
    if constexpr (R > 1 && V > 1) _tile_zero(3);
  }
  for (int64_t term = 0; term < o.terms; ++term) {
    const uint16_t* const a = o.a[term] + row * o.a_row;
    const uint32_t* const b = o.b + term * o.b_step + column;
    for (int64_t k = 0; k < o.pairs; k += kPairStep) {
      _tile_loadd(4, a + 2 * k, 2 * o.a_row);
      if constexpr (R > 1) _tile_loadd(5, a + kTile * o.a_row + 2 * k, 2 * o.a_row);
      _tile_loadd(6, b + k * o.b_row, 4 * o.b_row);
      if constexpr (V > 1) _tile_loadd(7, b + k * o.b_row + kTile, 4 * o.b_row);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (V > 1) _tile_dpbf16ps(1, 4, 7);
      if constexpr (R > 1) _tile_dpbf16ps(2, 5, 6);
      if constexpr (R > 1 && V > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, 4 * c_row);
  if constexpr (V > 1) _tile_stored(1, c + kTile, 4 * c_row);
  if constexpr (R > 1) _tile_stored(2, c + kTile * c_row, 4 * c_row);
  if constexpr (R > 1 && V > 1) _tile_stored(3, c + kTile * c_row + kTile, 4 * c_row);
  asm volatile("" ::: "memory");
}

inline void product_by_tiles(const Operands& o, float* c, int64_t c_row, int64_t rows, int64_t columns, bool add) {
  int64_t r = 0;
  for (int64_t height; r < rows; r += height) {
    height = std::min<int64_t>(rows - r, 2 * kTile);
    for (int64_t column = 0, width; column < columns; column += width) {
      width = std::min<int64_t>(columns - column, 2 * kTile);
      const auto multiply = height == kTile ? (width == kTile ? tiles<1, 1> : tiles<1, 2>)
                                            : (width == kTile ? tiles<2, 1> : tiles<2, 2>);
      multiply(o, r, column, c + r * c_row + column, c_row, add);
    }
  }
}

}  // namespace detail

// How this thread multiplies; what its tiles hold is gone after that.
class Multiplier {
 public:
  Multiplier() : tiles_(tiles_allowed()) {
    if (!tiles_) return;
    alignas(64) uint8_t configuration[64] = {1};  // 16 rows of 64 bytes in each of eight tiles
    for (int tile = 0; tile < 8; ++tile) {
      configuration[16 + 2 * tile] = 64;
      configuration[48 + tile] = kTile;
    }
    asm volatile("" ::: "memory");
    _tile_loadconfig(configuration);
  }
  ~Multiplier() {
    if (tiles_) _tile_release();
  }
  Multiplier(const Multiplier&) = delete;
  Multiplier& operator=(const Multiplier&) = delete;

  // Of pairs, with zeros in both operands where there are none.
  int64_t padded(int64_t pairs) const { return tiles_ ? (pairs + kPairStep - 1) / kPairStep * kPairStep : pairs; }

  void products(const Operands& o, float* c, int64_t c_row, int64_t rows, int64_t columns, bool add = false) const {
    (tiles_ ? detail::product_by_tiles : detail::product_by_vectors)(o, c, c_row, rows, columns, add);
  }

  void product(
      const uint16_t* a, int64_t a_row, const uint32_t* b, int64_t b_row, float* c, int64_t c_row, int64_t rows,
      int64_t columns, int64_t pairs, bool add = false) const {
    products({&a, 1, a_row, b, 0, b_row, pairs}, c, c_row, rows, columns, add);
  }

 private:
  const bool tiles_;
};

#else

class Multiplier {
 public:
  Multiplier() {}
  int64_t padded(int64_t pairs) const { return pairs; }
  void products(const Operands& o, float* c, int64_t c_row, int64_t rows, int64_t columns, bool add = false) const {
    detail::product_by_vectors(o, c, c_row, rows, columns, add);
  }
  void product(
      const uint16_t* a, int64_t a_row, const uint32_t* b, int64_t b_row, float* c, int64_t c_row, int64_t rows,
      int64_t columns, int64_t pairs, bool add = false) const {
    products({&a, 1, a_row, b, 0, b_row, pairs}, c, c_row, rows, columns, add);
  }
};

#endif

}  // namespace focalsr::bf16
