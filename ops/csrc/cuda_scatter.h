// Sums of rows over the queries that list each key, on CUDA. Shapes as in cuda_types.h.
//
// Lists of a sixteenth of the keys and more are written out in shared memory as rows of weights, zeros where nothing is
// listed, and multiplied with the queries' rows as matrices are; 32 keys that a query does not list are passed over.
// Shorter lists are transposed first (cuda_lists.h). Either way one owner adds up a key's queries in their order.
#pragma once

#include "cuda_lists.h"

namespace focalsr {
namespace gpu {

// Rows of keys in [B / heads, M, heads, C].
template <class T>
struct KeyRows {
  T* data;
  int64_t M, heads, C;
  __device__ T* at(int64_t b, int64_t m) const { return data + ((b / heads * M + m) * heads + b % heads) * C; }
};

// ---------------------------------------------------------------------------------------------------------------------
// By matrices: a block has kKeysHere keys and 4 kEach channels, a warp 32 of the keys, a lane 4 keys and kEach channels

constexpr int kKeysHere = kWarp * kWarps;
constexpr int kTile = kWarp;              // queries whose lists are written out at once
constexpr int kMine = kTile / kWarps;     // of them, by one warp

// Measured on an H100 with 1024 keys: lists of 256 are summed 3.2 times as fast as through transposed lists, of 64 1.26
// times, of 32 and of 16 in 1.1 and 1.4 times the time.
inline bool by_matrices(ListShape s) { return s.K * 16 >= s.M; }

// Numbers in one load.
template <int n>
struct alignas(4 * n) Numbers {
  float values[n];
};

// Adds an entry of a list to a row, lanes with the same key one after the other. For the whole warp.
__device__ inline void add_in_turns(float* row, int key, float weight, int lane) {
  const unsigned same = __match_any_sync(kAll, key);
  const int turn = __popc(same & ((1u << lane) - 1));
  for (int now = 0; __ballot_sync(kAll, key >= 0 && turn >= now) != 0; ++now) {
    if (key >= 0 && turn == now) row[key] += weight;
    __syncwarp();
  }
}

// The lists of kMine queries from `first` on as rows of the tile, for keys `start` to start + kKeysHere; each row's
// 32s of keys that have entries go to `filled`. One warp.
template <bool kDistinct, class U, class I>
__device__ void write_lists(const I* __restrict__ index, const U* __restrict__ w, ListShape s, int64_t b, int64_t first,
                            int64_t start, int lane, float (*rows)[kKeysHere], unsigned* filled) {
#pragma unroll
  for (int r = 0; r < kMine; ++r)
#pragma unroll
    for (int i = 0; i < kKeysHere; i += 4 * kWarp) *reinterpret_cast<Numbers<4>*>(&rows[r][i + 4 * lane]) = {};
  __syncwarp();
  const int count = static_cast<int>(s.K), left = static_cast<int>(s.N - first < kMine ? s.N - first : kMine);
  index += (b * s.N + first) * s.K;
  w += (b * s.N + first) * s.K;
  unsigned found[kMine] = {};
#pragma unroll 1
  for (int base = 0; base < count; base += kWarp) {
    int keys[kMine];
    float weights[kMine];
#pragma unroll
    for (int r = 0; r < kMine; ++r) {  // loads for all rows first
      const bool inside = base + lane < count && r < left;
      keys[r] = inside ? checked(index[r * count + base + lane], s.M) - static_cast<int>(start) : -1;
      weights[r] = inside ? to_float(w[r * count + base + lane]) : 0;
    }
#pragma unroll
    for (int r = 0; r < kMine; ++r) {
      const int key = keys[r] >= 0 && keys[r] < kKeysHere ? keys[r] : -1;
      if (key >= 0) found[r] |= 1u << (key / kWarp);
      if (!kDistinct) {
        add_in_turns(rows[r], key, weights[r], lane);
      } else if (key >= 0) {
        rows[r][key] = weights[r];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kMine; ++r) {
    for (int other = kWarp / 2; other > 0; other /= 2) found[r] |= __shfl_xor_sync(kAll, found[r], other);
    if (lane == 0) filled[r] = found[r];
  }
}

// kDistinct: no list holds a key twice.
template <bool kDistinct, int kEach, class T, class U, class I>
__global__ void __launch_bounds__(kWarp * kWarps, 3)
    key_matrix_kernel(const I* __restrict__ index, const U* __restrict__ w, const T* __restrict__ x, KeyRows<T> out,
                      ListShape s, float factor) {
  constexpr int kWide = 4 * kEach, kPart = kEach % 4 == 0 ? 4 : 2;  // channels of a block; numbers of a load
  alignas(16) __shared__ float tile[kTile][kKeysHere];
  alignas(16) __shared__ float rows[kTile][kWide];
  __shared__ unsigned filled[kTile];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int64_t slices = (s.M + kKeysHere - 1) / kKeysHere, widths = (s.C + kWide - 1) / kWide;
  const int64_t b = blockIdx.x / (slices * widths), start = blockIdx.x / widths % slices * kKeysHere;
  const int64_t channel = blockIdx.x % widths * kWide;
  const int key = warp * kWarp + lane / 4 * 4, own = lane % 4 * kEach, channels = static_cast<int>(s.C - channel);
  float sum[4][kEach] = {};
  for (int64_t first = 0; first < s.N; first += kTile) {
    __syncthreads();
    write_lists<kDistinct>(index, w, s, b, first + warp * kMine, start, lane, tile + warp * kMine,
                           filled + warp * kMine);
#pragma unroll
    for (int r = 0; r < kMine; ++r) {
      const int64_t n = first + warp * kMine + r;
      const T* const from = x + (b * s.N + n) * s.W + channel;
#pragma unroll
      for (int c = lane; c < kWide; c += kWarp)
        rows[warp * kMine + r][c] = n < s.N && c < channels ? to_float(from[c]) : 0;
    }
    __syncthreads();
    for (unsigned todo = __ballot_sync(kAll, (filled[lane] >> warp & 1) != 0); todo != 0; todo &= todo - 1) {
      const int n = __ffs(static_cast<int>(todo)) - 1;
      const auto weights = *reinterpret_cast<const Numbers<4>*>(&tile[n][key]);
#pragma unroll
      for (int c = 0; c < kEach; c += kPart) {
        const auto part = *reinterpret_cast<const Numbers<kPart>*>(&rows[n][own + c]);
#pragma unroll
        for (int i = 0; i < kPart; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[j][c + i] += weights.values[j] * part.values[i];
      }
    }
  }
  T* const to = out.at(b, start + key) + channel + own;
  const int step = static_cast<int>(out.heads * out.C), keys = static_cast<int>(s.M - start) - key;
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int c = 0; c < kEach; ++c)
      if (j < keys && own + c < channels) to[j * step + c] = from_float<T>(factor * sum[j][c]);
}

template <bool kDistinct, int kEach, class T, class U, class I>
int sum_by_matrices(const I* index, const U* w, const T* x, KeyRows<T> out, ListShape s, float factor, void* stream) {
  const int64_t slices = (s.M + kKeysHere - 1) / kKeysHere, widths = (s.C + 4 * kEach - 1) / (4 * kEach);
  return launch_blocks(key_matrix_kernel<kDistinct, kEach, T, U, I>, s.B * slices * widths, kWarp * kWarps, stream,
                       index, w, x, out, s, factor);
}

// ---------------------------------------------------------------------------------------------------------------------

template <class T, class U>
__global__ void key_sum_kernel(const U* w, const T* x, KeyRows<T> out, ListShape s, Transposed t, float factor) {
  const Place here = place();
  if (here.row >= s.B * s.M) return;
  const int64_t b = here.row / s.M, m = here.row % s.M;
  key_sum<T>(w, x, s, t, b, m, here.lane, out.at(b, m), factor);
}

inline int64_t key_workspace(ListShape s) { return by_matrices(s) ? 0 : workspace_of(s); }

// out[b, m] = factor * the sum of w[b, n, k] x[b, n] over all (n, k) that list m. `workspace`: key_workspace numbers;
// `again`: it still is what it was after a call with the same lists.
template <bool kDistinct, class T, class U, class I>
int sum_by_key(const I* index, const U* w, const T* x, KeyRows<T> out, ListShape s, float factor, int32_t* workspace,
               bool again, void* stream) {
  if (by_matrices(s)) {
    if (s.C <= 16) return sum_by_matrices<kDistinct, 4>(index, w, x, out, s, factor, stream);
    return sum_by_matrices<kDistinct, 10>(index, w, x, out, s, factor, stream);
  }
  const Transposed t = lay_out(s, workspace);
  const int error = again ? 0 : transpose_lists(index, s, t, stream);
  if (error != 0) return error;
  return launch_warps(key_sum_kernel<T, U>, s.B * s.M, stream, w, x, out, s, t, factor);
}

}  // namespace gpu
}  // namespace focalsr
