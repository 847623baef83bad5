// What the CUDA kernels of focused attention share: a row of logits that a warp keeps in shared memory, the choice of its
// largest, sums by key, and the gradient of the table. Shapes as in focus_cuda.h.
#pragma once

#include "cuda_scatter.h"
#include "focus_cuda.h"

namespace focalsr {
namespace gpu {

__device__ inline float warp_sum(float x) {
  for (int other = kWarp / 2; other > 0; other /= 2) x += __shfl_xor_sync(kAll, x, other);
  return x;
}
__device__ inline int warp_sum(int x) {
  for (int other = kWarp / 2; other > 0; other /= 2) x += __shfl_xor_sync(kAll, x, other);
  return x;
}
__device__ inline float warp_maximum(float x) {
  for (int other = kWarp / 2; other > 0; other /= 2) x = fmaxf(x, __shfl_xor_sync(kAll, x, other));
  return x;
}

// Where a query's entry for a key is in the table: rows of the window are 2 side - 1 entries apart.
__device__ inline int table_row(int64_t query, int64_t key, int64_t side) {
  const int q = static_cast<int>(query), k = static_cast<int>(key), w = static_cast<int>(side);
  return (q / w - k / w + w - 1) * (2 * w - 1) + q % w - k % w + w - 1;
}

// Row `n` of item `b` in [windows, N, heads, channels].
template <class T>
__device__ T* token_major(T* x, const FocusShape& f, int64_t channels, int64_t b, int64_t n) {
  return x + ((b / f.heads * f.list.N + n) * f.heads + b % f.heads) * channels;
}

// Numbers that are none are passed over.
__device__ inline float row_maximum(const float* row, int64_t count, int lane) {
  float most = -__builtin_huge_valf();
  for (int64_t j = lane; j < count; j += kWarp) most = fmaxf(most, row[j]);
  return warp_maximum(most);
}

// The row becomes depths below its maximum; returns the sum of their weights exp(-depth).
__device__ inline float to_depths(float* row, int64_t count, int lane) {
  const float most = row_maximum(row, count, lane);
  float total = 0;
  for (int64_t j = lane; j < count; j += kWarp) {
    row[j] = most - row[j];
    total += expf(-row[j]);
  }
  total = warp_sum(total);
  __syncwarp();
  return total;
}

// Bits of a number that is not negative have the order of the numbers, and those of what is no number come last.
__device__ inline unsigned bits_of(float x) {
  union {
    float number;
    unsigned bits;
  } both;
  both.number = x;
  return both.bits & 0x7fffffffu;
}

// The bits of the largest of the `wanted` smallest depths, and how many of those with just these bits belong to them
// (or a larger number, if all do).
__device__ inline unsigned threshold(const float* depth, int64_t count, int wanted, int lane, int* equal) {
  const auto up_to = [&](unsigned limit) {
    int found = 0;
    for (int64_t j = lane; j < count; j += kWarp) found += bits_of(depth[j]) <= limit;
    return warp_sum(found);
  };
  unsigned low = 0, high = 0x7fffffffu;
  *equal = wanted;
  while (low < high) {
    const unsigned middle = low + (high - low) / 2;
    const int found = up_to(middle);
    if (found == wanted) return middle;
    if (found > wanted) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  if (high > 0) *equal -= up_to(high - 1);
  return high;
}

// Keeps the `wanted` < count smallest depths of a row, of equal ones the first: slot by slot in their order their logits
// go to `next`, their keys key_of(j) to `chosen`, and their weights, as shares of `total`, to the front of the row.
template <class I, class Key>
__device__ void keep_nearest(float* row, int64_t count, int64_t wanted, float total, int lane, const Key& key_of,
                             float* next, I* chosen) {
  int equal = 0, written = 0;
  const unsigned limit = threshold(row, count, static_cast<int>(wanted), lane, &equal);
  for (int64_t base = 0; base < count; base += kWarp) {
    const bool inside = base + lane < count;
    const float depth = inside ? row[base + lane] : 0;
    const unsigned bits = bits_of(depth), before = (1u << lane) - 1;
    const unsigned ties = __ballot_sync(kAll, inside && bits == limit);
    const bool tie = inside && bits == limit && __popc(ties & before) < equal;
    equal -= __popc(ties);  // below zero: none is left
    const bool keep = tie || (inside && bits < limit);
    const unsigned kept_here = __ballot_sync(kAll, keep);
    const int slot = written + __popc(kept_here & before);
    if (keep) {
      row[slot] = expf(-depth) / total;  // not beyond what has been read
      next[slot] = -depth;
      chosen[slot] = key_of(base + lane);
    }
    written += __popc(kept_here);
    __syncwarp();
  }
}

// out = factor * sum of w x over the queries that list each key; rows of `out` have C channels.
template <class T>
__global__ void key_gradient_kernel(const float* w, const T* x, T* out, FocusShape f, ListShape s, Transposed t,
                                    float factor) {
  const Place here = place();
  if (here.row >= s.B * s.M) return;
  const int64_t b = here.row / s.M, m = here.row % s.M;
  key_sum<T>(w, x, s, t, b, m, here.lane, token_major(out, f, s.C, b, m), factor);
}

// ---------------------------------------------------------------------------------------------------------------------
// The table: queries of an item in segments, whose sums parts [B, segments, T] are then added in order

inline int64_t table_segments(const FocusShape& f) { return f.list.N < 64 ? 1 : 16; }
inline int64_t table_rows(const FocusShape& f) { return (2 * f.side - 1) * (2 * f.side - 1); }

// One thread per entry of the table.
static __global__ void table_sum_kernel(const float* parts, float* d_table, FocusShape f, int64_t segments,
                                        int64_t rows) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * (kWarp * kWarps) + threadIdx.x;
  if (at >= rows * f.columns) return;
  const int64_t row = at / f.columns, step = f.columns == 1 ? 1 : f.heads;
  float total = 0;
  for (int64_t b = f.columns == 1 ? 0 : at % f.columns; b < f.list.B; b += step)
    for (int64_t segment = 0; segment < segments; ++segment) total += parts[(b * segments + segment) * rows + row];
  d_table[at] = total;
}

inline int sum_table(const float* parts, float* d_table, const FocusShape& f, void* stream) {
  const int64_t threads = kWarp * kWarps, rows = table_rows(f), blocks = (rows * f.columns + threads - 1) / threads;
  return launch_blocks(table_sum_kernel, blocks, static_cast<int>(threads), stream, parts, d_table, f,
                       table_segments(f), rows);
}

}  // namespace gpu
}  // namespace focalsr
