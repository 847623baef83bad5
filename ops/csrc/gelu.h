// GELU, x * Phi(x) with Phi the normal distribution, and its slope. No torch header.
#pragma once

#include <cmath>
#include <type_traits>

#include "tiles.h"

namespace focalsr {

namespace detail {

// erf(x / sqrt 2): exact in double; in float a quotient of polynomials, found by least squares, within 2e-8 of it, up to
// where erf rounds to 1.
template <class A>
FOCALSR_INLINE Vec<A> error_function(Vec<A> x) {
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
    return z * over / under;
  } else {
    for (int i = 0; i < kLanes<A>; ++i) z[i] = std::erf(z[i]);
    return z;
  }
}

}  // namespace detail

template <class A>
FOCALSR_INLINE Vec<A> gelu(Vec<A> x) {
  const Vec<A> half = x * all<A>(A(0.5));
  return half + half * detail::error_function<A>(x);
}

template <class A>
struct GeluParts {
  Vec<A> value, slope;
};

// The slope is Phi(x) + x times the density at x.
template <class A>
FOCALSR_INLINE GeluParts<A> gelu_parts(Vec<A> x) {
  const Vec<A> half = all<A>(A(0.5)), part = half * detail::error_function<A>(x);
  const Vec<A> density = exponential<A>(x * x * all<A>(A(-0.5))) * all<A>(A(0.39894228040143267794));
  return {half * x + x * part, half + part + x * density};
}

}  // namespace focalsr
