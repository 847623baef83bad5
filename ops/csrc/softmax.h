// Rows of logits -> exponentials, weights and gradients, for kernels of attention on the CPU. No torch header.
#pragma once

#include <cstdint>

#include "tiles.h"

namespace focalsr {

// What is subtracted from a row of `count` numbers, whole vectors, before exponentials are taken: the largest, or 0 with
// kNear, where no logit is further from 0 than kNearLimit.
template <class A, bool kNear>
FOCALSR_INLINE Vec<A> largest_of_row(const A* row, int64_t count) {
  if constexpr (kNear) return Vec<A>{};
  Vec<A> most = load(row);
  for (int64_t m = kLanes<A>; m < count; m += kLanes<A>) {
    const Vec<A> x = load(row + m);
    most = x > most ? x : most;
  }
  return all<A>(largest_lane<A>(most));
}

// A row of logits becomes its exponentials, up to a factor; returns one over their sum.
template <class A, bool kNear>
A exponentials(A* row, int64_t count) {
  const Vec<A> largest = largest_of_row<A, kNear>(row, count);
  const A sum = exponentials_of_row<A, kNear>(
      count, [&](int64_t m) { return load(row + m) - largest; }, [&](int64_t m, Vec<A> weight) { store(row + m, weight); });
  return A(1) / sum;
}

template <class A>
A exponentials_of(bool near, A* row, int64_t count) {
  return near ? exponentials<A, true>(row, count) : exponentials<A, false>(row, count);
}

// A row of logits becomes weights, and the gradients of the weights, `d_row`, those of the logits.
template <class A, bool kNear>
void weights_and_gradients(A* row, A* d_row, int64_t count) {
  const Vec<A> largest = largest_of_row<A, kNear>(row, count);
  Vec<A> products{};
  const A sum = exponentials_of_row<A, kNear>(
      count, [&](int64_t m) { return load(row + m) - largest; },
      [&](int64_t m, Vec<A> weight) {
        store(row + m, weight);
        products += weight * load(d_row + m);
      });
  const A norm = A(1) / sum;
  const Vec<A> factor = all<A>(norm), mean = all<A>(sum_of_lanes<A>(products) * norm);
  for (int64_t m = 0; m < count; m += kLanes<A>) {
    const Vec<A> weight = load(row + m) * factor;
    store(row + m, weight);
    store(d_row + m, weight * (load(d_row + m) - mean));
  }
}

template <class A>
void softmax_gradient(bool near, A* row, A* d_row, int64_t count) {
  near ? weights_and_gradients<A, true>(row, d_row, count) : weights_and_gradients<A, false>(row, d_row, count);
}

}  // namespace focalsr
