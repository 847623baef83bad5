// Products over listed rows on CUDA, one warp per row of the result. Shapes as in cuda_types.h.
//
// Products are summed in float. Every result is written by one warp, which adds in a fixed order; where rows are summed
// over queries, the lists are transposed first (a stable counting sort, without atomics), so that each key finds the
// slots that list it in their order. Blocks next to each other work on one batch item, whose keys stay in the caches.
#pragma once

#include "cuda_common.h"
#include "cuda_types.h"

namespace focalsr {
namespace gpu {

// ---------------------------------------------------------------------------------------------------------------------
// Products with listed rows: `lanes` lanes (a power of two) share a key, four pieces of its row each

constexpr int kHeld = 4;

// Rows in device memory, of `width` values.
template <class T>
struct FarRows {
  const T* data;
  int64_t width;
  __device__ const T* operator()(int row) const { return data + row * width; }
};

inline int lanes_per_key(int64_t pieces) {
  int lanes = 1;
  while (lanes < kWarp && kHeld * lanes < pieces) lanes *= 2;
  return lanes;
}

// sink(k, <query, keys(key(k))>) for k < count, each by one lane, which also asks for the key; -1 gives 0.
template <class T, class Rows, class Key, class Sink>
__device__ void listed_dot(const T* query, const Rows& keys, int64_t width, int64_t count, int lane, int lanes,
                           const Key& key_of, const Sink& sink) {
  const int pieces = static_cast<int>(width / kPiece<T>);
  const int sub = lane % lanes, group = lane / lanes, groups = kWarp / lanes;
  const bool once = pieces <= kHeld * lanes;  // the query stays in registers
  Piece<T> q[kHeld];
  for (int64_t base = 0; base < count; base += kWarp) {
    const int many = static_cast<int>(count - base < kWarp ? count - base : kWarp);
    const int mine = lane < many ? key_of(base + lane) : -1;
    float result = 0;
    for (int step = 0; step * groups < many; ++step) {
      const int key = __shfl_sync(kAll, mine, step * groups + group);
      float sum = 0;
      for (int first = 0; first < pieces; first += kHeld * lanes) {
        if (!once || (base == 0 && step == 0)) {
#pragma unroll
          for (int j = 0; j < kHeld; ++j) {
            const int piece = first + j * lanes + sub;
            q[j] = piece < pieces ? Piece<T>(query + piece * kPiece<T>) : Piece<T>();
          }
        }
        if (key < 0) continue;
        const T* const row = keys(key);
#pragma unroll
        for (int j = 0; j < kHeld; ++j) {
          const int piece = first + j * lanes + sub;
          if (piece >= pieces) continue;
          const Piece<T> part(row + piece * kPiece<T>);
#pragma unroll
          for (int i = 0; i < kPiece<T>; ++i) sum += q[j][i] * part[i];
        }
      }
      for (int other = lanes / 2; other > 0; other /= 2) sum += __shfl_xor_sync(kAll, sum, other);
      // Slot step * groups + g lies with group g; lane step * groups + g keeps it, for one dense write.
      const float got = __shfl_sync(kAll, sum, lane % groups * lanes);
      if (lane / groups == step) result = got;
    }
    if (lane < many) sink(base + lane, result);
  }
}

template <class T, class Key, class Sink>
__device__ void listed_dot(const T* query, const T* keys, int64_t width, int64_t count, int lane, int lanes,
                           const Key& key_of, const Sink& sink) {
  listed_dot<T>(query, FarRows<T>{keys, width}, width, count, lane, lanes, key_of, sink);
}

// ---------------------------------------------------------------------------------------------------------------------
// Weighted sums of listed rows: the pieces of a row lie beside each other in the warp, as many rows at once as fit

// `slot(k, &row, &weight)` gives entry k of a list; row -1 counts nothing. Writes C channels.
template <class T, class Slot, class Rows>
__device__ void listed_sum(const Slot& slot, int64_t count, const Rows& rows, ListShape s, int lane, T* out,
                           float factor = 1) {
  const int pieces = static_cast<int>(s.W / kPiece<T>);
  for (int first = 0; first < pieces; first += kWarp) {
    const int here = pieces - first < kWarp ? pieces - first : kWarp;
    const int group = lane / here, groups = kWarp / here;
    const int start = (first + lane % here) * kPiece<T>;  // my channels
    float sum[kPiece<T>] = {};
    for (int64_t base = 0; base < count; base += kWarp) {
      const int many = static_cast<int>(count - base < kWarp ? count - base : kWarp);
      int mine = -1;
      float weight = 0;
      if (lane < many) slot(base + lane, &mine, &weight);
      for (int step = 0; step * groups < many; ++step) {
        const int at = step * groups + group;
        const int row = __shfl_sync(kAll, mine, at % kWarp);
        const float w = __shfl_sync(kAll, weight, at % kWarp);
        if (group >= groups || at >= many || row < 0) continue;
        const Piece<T> part(rows(row) + start);
#pragma unroll
        for (int i = 0; i < kPiece<T>; ++i) sum[i] += w * part[i];
      }
    }
#pragma unroll
    for (int i = 0; i < kPiece<T>; ++i) {
      float total = sum[i];
      for (int g = 1; g < groups; ++g) {
        const float other = __shfl_sync(kAll, sum[i], (lane + g * here) % kWarp);
        total += other;
      }
      if (group == 0 && start + i < s.C) out[start + i] = from_float<T>(factor * total);
    }
  }
}

template <class T, class Slot>
__device__ void listed_sum(const Slot& slot, int64_t count, const T* rows, ListShape s, int lane, T* out,
                           float factor = 1) {
  listed_sum<T>(slot, count, FarRows<T>{rows, s.W}, s, lane, out, factor);
}

// ---------------------------------------------------------------------------------------------------------------------
// Transposed lists. The N * K slots of a batch item are cut into segments of one warp each:
//   cursors [B, S, M]  how many slots of a segment list a key; then where the next of them goes
//   starts [B, M + 1]  where the slots of a key begin in
//   order [B, N * K]   the slots n * K + k by key, and in their order

struct Transposed {
  int32_t *cursors, *starts, *order;
  int64_t segments;
};

inline int64_t segments_of(ListShape s) {
  const int64_t wanted = s.N * s.K / 2048;
  return wanted < 1 ? 1 : wanted < 64 ? wanted : 64;
}

inline int64_t workspace_of(ListShape s) { return s.B * (segments_of(s) * s.M + s.M + 1 + s.N * s.K); }

inline Transposed lay_out(ListShape s, int32_t* workspace) {
  const int64_t segments = segments_of(s);
  int32_t* starts = workspace + s.B * segments * s.M;
  return {workspace, starts, starts + s.B * (s.M + 1), segments};
}

// f(slot, key, lanes of the warp with this key) for the slots of a segment, 32 at a time and in order; key -1: none.
template <class I, class F>
__device__ void walk_segment(const I* index, ListShape s, const Transposed& t, Place here, const F& f) {
  const int64_t b = here.row / t.segments, all = s.N * s.K, size = (all + t.segments - 1) / t.segments;
  const int64_t first = here.row % t.segments * size, last = first + size < all ? first + size : all;
  for (int64_t base = first; base < last; base += kWarp) {
    const int64_t slot = base + here.lane;
    const int key = slot < last ? checked(index[b * all + slot], s.M) : -1;
    f(slot, key, __match_any_sync(kAll, key));
    __syncwarp();
  }
}

template <class I>
__global__ void count_kernel(const I* index, ListShape s, Transposed t) {
  const Place here = place();
  if (here.row >= s.B * t.segments) return;
  int32_t* cursors = t.cursors + here.row * s.M;
  for (int64_t m = here.lane; m < s.M; m += kWarp) cursors[m] = 0;
  __syncwarp();
  walk_segment(index, s, t, here, [&](int64_t, int key, unsigned same) {
    if (key >= 0 && __ffs(static_cast<int>(same)) - 1 == here.lane) cursors[key] += __popc(same);
  });
}

// One block per batch item: running sums over keys, and over the segments of each key.
static __global__ void start_kernel(ListShape s, Transposed t) {
  __shared__ int32_t sums[kWarp * kWarps];
  const int thread = static_cast<int>(threadIdx.x), threads = kWarp * kWarps;
  const int64_t b = blockIdx.x;
  int32_t* cursors = t.cursors + b * t.segments * s.M;
  int32_t* starts = t.starts + b * (s.M + 1);
  int32_t before = 0;
  for (int64_t base = 0; base < s.M; base += threads) {
    const int64_t m = base + thread;
    int32_t total = 0;
    for (int64_t segment = 0; m < s.M && segment < t.segments; ++segment) total += cursors[segment * s.M + m];
    sums[thread] = total;
    __syncthreads();
    for (int reach = 1; reach < threads; reach *= 2) {
      const int32_t left = thread >= reach ? sums[thread - reach] : 0;
      __syncthreads();
      sums[thread] += left;
      __syncthreads();
    }
    int32_t next = before + sums[thread] - total;
    before += sums[threads - 1];
    if (m < s.M) {
      starts[m] = next;
      for (int64_t segment = 0; segment < t.segments; ++segment) {
        const int32_t count = cursors[segment * s.M + m];
        cursors[segment * s.M + m] = next;
        next += count;
      }
    }
    __syncthreads();
  }
  if (thread == 0) starts[s.M] = before;
}

template <class I>
__global__ void fill_kernel(const I* index, ListShape s, Transposed t) {
  const Place here = place();
  if (here.row >= s.B * t.segments) return;
  int32_t* cursors = t.cursors + here.row * s.M;
  int32_t* order = t.order + here.row / t.segments * s.N * s.K;
  walk_segment(index, s, t, here, [&](int64_t slot, int key, unsigned same) {
    const int32_t next = key < 0 ? 0 : cursors[key];
    if (key >= 0) order[next + __popc(same & ((1u << here.lane) - 1))] = static_cast<int32_t>(slot);
    __syncwarp();
    if (key >= 0 && __ffs(static_cast<int>(same)) - 1 == here.lane) cursors[key] = next + __popc(same);
  });
}

// The slots of one key in their order, for listed_sum: the query of each, and its weight out of w [B, N * K].
template <class U>
struct KeySlots {
  const int32_t* order;
  const U* w;
  int64_t K;
  __device__ void operator()(int64_t k, int* row, float* weight) const {
    *row = static_cast<int>(order[k] / K);
    *weight = to_float(w[order[k]]);
  }
};

// out = factor * the sum of w x over the slots that list key m of batch item b.
template <class T, class U>
__device__ void key_sum(const U* w, const T* x, ListShape s, const Transposed& t, int64_t b, int64_t m, int lane, T* out,
                        float factor = 1) {
  const int32_t* starts = t.starts + b * (s.M + 1) + m;
  const int64_t all = s.N * s.K;
  const KeySlots<U> slots{t.order + b * all + starts[0], w + b * all, s.K};
  listed_sum<T>(slots, starts[1] - starts[0], x + b * s.N * s.W, s, lane, out, factor);
}

template <class I>
int transpose_lists(const I* index, ListShape s, const Transposed& t, void* stream) {
  int error = launch_warps(count_kernel<I>, s.B * t.segments, stream, index, s, t);
  if (error == 0) error = launch_blocks(start_kernel, s.B, kWarp * kWarps, stream, s, t);
  if (error == 0) error = launch_warps(fill_kernel<I>, s.B * t.segments, stream, index, s, t);
  return error;
}

}  // namespace gpu
}  // namespace focalsr
