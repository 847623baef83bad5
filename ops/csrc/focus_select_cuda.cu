// Focused attention for CUDA, layers that see all keys and keep some: logits exist for one query per warp of a block.
//
// A block multiplies a tile of rows (queries, or keys in the second pass backward) with all rows of the other side; each
// thread owns four columns of it. Then a warp has a row of the tile. The backward pass computes logits twice: queries own
// d_q and what they add to the table, keys own d_k; d_v is summed through transposed lists. Everything is written by one
// owner in a fixed order. Shapes as in focus_cuda.h.

#include "focus_cuda.h"

#include "focus_rows_cuda.h"

namespace focalsr {
namespace gpu {
namespace {

constexpr int kThreads = kWarp * kWarps;
constexpr int kColumns = static_cast<int>(kMostTokens) / kThreads;
static_assert(kColumns == 4, "a thread loads its columns at once");
constexpr float kHidden = -100.0f;  // between regions, as ops/window/region_mask.py

// A block's rows of logits, or of their gradients.
using Tile = float[kWarps][kMostTokens];

// Four neighbours, in one load.
template <class T>
struct alignas(4 * sizeof(T)) Four {
  T values[4];
};
template <class T>
__device__ inline Four<T> four(const T* at) {
  return *reinterpret_cast<const Four<T>*>(at);
}

// tile[r][j] = <row first + r of `own` [N, R], row j of what is `other` channel by channel [S, A]>; zeros from row `last`
// on, and behind column N. Begins and ends with the whole block at one place.
template <class T>
__device__ void multiply_rows(const T* own, int64_t first, int64_t last, const T* other, const SelectShape& s,
                              Tile& tile) {
  alignas(16) __shared__ float part[kWarp][kWarps];  // some channels of the tile's own rows
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t column = static_cast<int64_t>(threadIdx.x) * kColumns;
  float sum[kWarps][kColumns] = {};
  for (int64_t base = 0; base < s.S; base += kWarp) {
    const int many = static_cast<int>(s.S - base < kWarp ? s.S - base : kWarp);
    __syncthreads();
    part[lane][warp] = lane < many && first + warp < last ? to_float(own[(first + warp) * s.R + base + lane]) : 0;
    __syncthreads();
    if (column >= s.A) continue;
    for (int c = 0; c < many; ++c) {
      const Four<T> right = four(other + (base + c) * s.A + column);
#pragma unroll
      for (int r = 0; r < kWarps; ++r)
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[r][j] += part[c][r] * to_float(right.values[j]);
    }
  }
  __syncthreads();
  if (column < s.A)
#pragma unroll
    for (int r = 0; r < kWarps; ++r)
#pragma unroll
      for (int j = 0; j < kColumns; ++j) tile[r][column + j] = column + j < s.focus.list.N ? sum[r][j] : 0;
  __syncthreads();
}

// out(r, c, sum over j of tile[r][j] rows[j][c]) for rows r < count and channels c < S of `rows` [N, R]. Threads share
// the columns of the tile in groups, whose sums are then added in order. Spoils the tile; begins and ends as the above.
template <class T, class Out>
__device__ void sum_rows(Tile& tile, int count, const T* rows, const SelectShape& s, const Out& out) {
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t pieces = (s.S + 3) / 4;
  for (int64_t base = 0; base < pieces; base += kThreads) {
    const int here = static_cast<int>(pieces - base < kThreads ? pieces - base : kThreads);
    const int group = thread / here, groups = kThreads / here, mine = thread % here;
    const int64_t channel = (base + mine) * 4;
    float sum[kWarps][4] = {};
    for (int64_t j = 4 * group; j < s.focus.list.N && group < groups; j += 4 * groups) {
      Four<T> right[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)  // the tile has zeros behind the last
        right[i] = four(rows + (j + i < s.focus.list.N ? j + i : j) * s.R + channel);
#pragma unroll
      for (int r = 0; r < kWarps; ++r) {
        const Four<float> weight = four(&tile[r][j]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c) sum[r][c] += weight.values[i] * to_float(right[i].values[c]);
      }
    }
    if (groups == 1) {
#pragma unroll
      for (int r = 0; r < kWarps; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          if (r < count && channel + c < s.S) out(r, channel + c, sum[r][c]);
      continue;
    }
    __syncthreads();  // this is the last turn: nobody needs the tile any more
    float* const shared = &tile[0][0];
    const int width = 4 * here;
    if (group < groups)
#pragma unroll
      for (int r = 0; r < kWarps; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c) shared[(group * kWarps + r) * width + 4 * mine + c] = sum[r][c];
    __syncthreads();
    for (int at = thread; at < count * width; at += kThreads) {
      float total = 0;
      for (int g = 0; g < groups; ++g) total += shared[g * kWarps * width + at];
      if (4 * base + at % width < s.S) out(at / width, 4 * base + at % width, total);
    }
  }
  __syncthreads();
}

// What is added to the logit of a query and a key of item b.
struct Additions {
  const float* table;
  const uint8_t* regions;  // of the window, or null
  int64_t side, columns, column;
  __device__ Additions(const SelectOperands& x, const SelectShape& s, int64_t b)
      : table(x.table), regions(x.regions), side(s.focus.side), columns(s.focus.columns),
        column(s.focus.columns == 1 ? 0 : b % s.focus.heads) {
    if (regions != nullptr) regions += b / s.focus.heads % s.images * s.focus.list.N;
  }
  __device__ float to(float logit, int64_t query, int64_t key) const {
    logit += table[table_row(query, key, side) * columns + column];
    return regions == nullptr || regions[query] == regions[key] ? logit : logit + kHidden;
  }
};

template <class T>
__global__ void select_kernel(SelectForward p, SelectShape s) {
  alignas(16) __shared__ Tile tile;
  const ListShape& list = s.focus.list;
  const int64_t tiles = (list.N + kWarps - 1) / kWarps, b = blockIdx.x / tiles, first = blockIdx.x % tiles * kWarps;
  multiply_rows(static_cast<const T*>(p.x.q) + b * list.N * s.R, first, list.N,
                static_cast<const T*>(p.x.k_t) + b * s.S * s.A, s, tile);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t n = first + warp, at = b * list.N + n;
  if (n >= list.N) return;
  float* const row = tile[warp];
  const Additions add(p.x, s, b);
  for (int64_t j = lane; j < list.N; j += kWarp) row[j] = add.to(row[j], n, j);
  __syncwarp();
  const float total = to_depths(row, list.N, lane);
  if (lane == 0) p.log_sum[at] = logf(total);
  int16_t* const chosen = p.index + at * list.K;
  keep_nearest(row, list.N, list.K, total, lane, [](int64_t j) { return static_cast<int16_t>(j); }, p.logits + at * list.K,
               chosen);
  const auto slot = [&](int64_t j, int* key, float* weight) {
    *key = chosen[j];
    *weight = row[j];
  };
  listed_sum<T>(slot, list.K, static_cast<const T*>(p.x.v) + b * list.N * list.W, list, lane,
                token_major(static_cast<T*>(p.out), s.focus, list.C, b, n));
}

// A row of logits becomes the row of their gradients; what later passes need is noted. One warp.
template <class T>
__device__ void differentiate_row(float* row, const SelectBackward& p, const ListShape& list, int64_t at, int lane,
                                  int lanes) {
  const float shift = row_maximum(row, list.N, lane) + p.log_sum[at];
  for (int64_t j = lane; j < list.N; j += kWarp) row[j] = expf(row[j] - shift);
  __syncwarp();
  const int16_t* const kept = p.index + at * list.K;
  float* const extra = p.extra + at * list.K;
  listed_dot<T>(
      static_cast<const T*>(p.grad) + at * list.W, static_cast<const T*>(p.x.v) + at / list.N * list.N * list.W, list.W,
      list.K, lane, lanes, [&](int64_t j) { return checked(kept[j], list.N); },
      [&](int64_t j, float product) { extra[j] = product; });
  __syncwarp();
  float mean = 0;
  for (int64_t j = lane; j < list.K; j += kWarp) {
    const int key = checked(kept[j], list.N);
    const float weight = key < 0 ? 0 : row[key];
    p.weights[at * list.K + j] = weight;
    extra[j] *= weight;
    mean += extra[j];
    if (p.grad_logits != nullptr) extra[j] += p.grad_logits[at * list.K + j];
  }
  mean = warp_sum(mean);
  for (int64_t j = lane; j < list.N; j += kWarp) row[j] *= -mean;
  __syncwarp();
  for (int64_t j = lane; j < list.K; j += kWarp) {
    const int key = checked(kept[j], list.N);
    if (key >= 0) row[key] += extra[j];
  }
  if (lane == 0) {
    p.shift[at] = shift;
    p.mean[at] = mean;
  }
  __syncwarp();
}

// d_q, and what the queries of a segment add to the gradient of the table. One block per segment.
template <class T>
__global__ void query_pass_kernel(SelectBackward p, SelectShape s, int64_t segments, int64_t table, int lanes) {
  alignas(16) __shared__ Tile tile;
  const ListShape& list = s.focus.list;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int64_t b = blockIdx.x / segments, size = (list.N + segments - 1) / segments;
  const int64_t start = blockIdx.x % segments * size, last = start + size < list.N ? start + size : list.N;
  float* const bins = p.parts + blockIdx.x * table;
  for (int64_t r = thread; r < table; r += kThreads) bins[r] = 0;
  const Additions add(p.x, s, b);
  for (int64_t first = start; first < last; first += kWarps) {
    multiply_rows(static_cast<const T*>(p.x.q) + b * list.N * s.R, first, last,
                  static_cast<const T*>(p.x.k_t) + b * s.S * s.A, s, tile);
    const int64_t n = first + warp;
    if (n < last) {
      for (int64_t j = lane; j < list.N; j += kWarp) tile[warp][j] = add.to(tile[warp][j], n, j);
      __syncwarp();
      differentiate_row<T>(tile[warp], p, list, b * list.N + n, lane, lanes);
    }
    __syncthreads();
    const int count = static_cast<int>(last - first < kWarps ? last - first : kWarps);
    for (int r = 0; r < count; ++r) {  // the entries of one query are distinct
      for (int64_t j = thread; j < list.N; j += kThreads) bins[table_row(first + r, j, s.focus.side)] += tile[r][j];
      __syncthreads();
    }
    sum_rows(tile, count, static_cast<const T*>(p.x.k) + b * list.N * s.R, s, [&](int r, int64_t c, float total) {
      token_major(static_cast<T*>(p.d_q), s.focus, s.S, b, first + r)[c] = from_float<T>(total);
    });
  }
}

// d_k, after the queries' pass. One block per tile of keys.
template <class T>
__global__ void key_pass_kernel(SelectBackward p, SelectShape s, Transposed t) {
  alignas(16) __shared__ Tile tile;
  const ListShape& list = s.focus.list;
  const int64_t tiles = (list.N + kWarps - 1) / kWarps, b = blockIdx.x / tiles, first = blockIdx.x % tiles * kWarps;
  multiply_rows(static_cast<const T*>(p.x.k) + b * list.N * s.R, first, list.N,
                static_cast<const T*>(p.x.q_t) + b * s.S * s.A, s, tile);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t m = first + warp;
  if (m < list.N) {
    float* const row = tile[warp];  // of one key, by query
    const Additions add(p.x, s, b);
    for (int64_t n = lane; n < list.N; n += kWarp)
      row[n] = expf(add.to(row[n], n, m) - p.shift[b * list.N + n]) * -p.mean[b * list.N + n];
    __syncwarp();
    const int32_t* const starts = t.starts + b * (list.N + 1) + m;
    const int32_t* const order = t.order + b * list.N * list.K;
    for (int32_t k = starts[0] + lane; k < starts[1]; k += kWarp)  // a query lists a key once
      row[order[k] / list.K] += p.extra[b * list.N * list.K + order[k]];
  }
  __syncthreads();
  const int count = static_cast<int>(list.N - first < kWarps ? list.N - first : kWarps);
  sum_rows(tile, count, static_cast<const T*>(p.x.q) + b * list.N * s.R, s, [&](int r, int64_t c, float total) {
    token_major(static_cast<T*>(p.d_k), s.focus, s.S, b, first + r)[c] = from_float<T>(total);
  });
}

template <class T>
int backward(const SelectBackward& p, const SelectShape& s, void* stream) {
  const ListShape& list = s.focus.list;
  const int64_t segments = table_segments(s.focus), tiles = (list.N + kWarps - 1) / kWarps;
  const int lanes = lanes_per_key(list.W / kPiece<T>);
  const Transposed t = lay_out(list, p.workspace);
  int error = launch_blocks(query_pass_kernel<T>, list.B * segments, kThreads, stream, p, s, segments,
                            table_rows(s.focus), lanes);
  if (error == 0) error = sum_table(p.parts, p.d_table, s.focus, stream);
  if (error == 0) error = transpose_lists(p.index, list, t, stream);
  if (error == 0) error = launch_blocks(key_pass_kernel<T>, list.B * tiles, kThreads, stream, p, s, t);
  if (error == 0)
    error = launch_warps(key_gradient_kernel<T>, list.B * list.N, stream, p.weights, static_cast<const T*>(p.grad),
                         static_cast<T*>(p.d_v), s.focus, list, t, 1.0f);
  return error;
}

bool fits(const SelectShape& s) {
  const ListShape& list = s.focus.list;
  return list.N <= kMostTokens && list.K > 0 && list.K < list.N;
}

}  // namespace

int focus_select(Value value, SelectForward p, SelectShape s, void* stream) {
  if (!fits(s)) return static_cast<int>(cudaErrorInvalidConfiguration);
  return by_value(value, [&](auto* t) {
    const int64_t tiles = (s.focus.list.N + kWarps - 1) / kWarps;
    return launch_blocks(select_kernel<std::remove_pointer_t<decltype(t)>>, s.focus.list.B * tiles, kThreads, stream, p, s);
  });
}

int focus_select_backward(Value value, SelectBackward p, SelectShape s, void* stream) {
  if (!fits(s)) return static_cast<int>(cudaErrorInvalidConfiguration);
  return by_value(value, [&](auto* t) { return backward<std::remove_pointer_t<decltype(t)>>(p, s, stream); });
}

int64_t focus_select_parts(SelectShape s) { return s.focus.list.B * table_segments(s.focus) * table_rows(s.focus); }

int64_t focus_select_workspace(SelectShape s) { return workspace_of(s.focus.list); }

}  // namespace gpu
}  // namespace focalsr
