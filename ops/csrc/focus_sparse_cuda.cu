// Focused attention for CUDA, layers whose queries have lists of keys: one warp per query, its logits in shared memory.
//
// The backward pass computes weights again, and sums over queries through transposed lists (cuda_lists.h). Everything is
// written by one warp in a fixed order. Shapes as in focus_cuda.h.

#include "focus_cuda.h"

#include "focus_rows_cuda.h"

namespace focalsr {
namespace gpu {
namespace {

// row[j] = scale <q, key j> + logits[j] + bias, for the keys of one query's list.
template <class T, class I>
__device__ void listed_logits(const T* q, const T* k, const float* table, const float* logits, const I* list,
                              const FocusShape& f, int64_t b, int64_t n, int lane, int lanes, float* row) {
  const ListShape& s = f.list;
  const int64_t column = f.columns == 1 ? 0 : b % f.heads;
  listed_dot<T>(
      q + (b * s.N + n) * s.W, k + b * s.N * s.W, s.W, s.K, lane, lanes,
      [&](int64_t j) { return checked(list[j], s.M); },
      [&](int64_t j, float product) {
        const int key = checked(list[j], s.M);
        const float bias = key < 0 ? 0 : table[table_row(n, key, f.side) * f.columns + column];
        row[j] = f.scale * product + (logits[j] + bias);
      });
  __syncwarp();
}

template <class T, class I>
__global__ void forward_kernel(FocusForward p, FocusShape f, int lanes) {
  __shared__ float rows[kWarps][kLongestList];
  const Place here = place();
  const ListShape& s = f.list;
  if (here.row >= s.B * s.N) return;
  const int lane = here.lane;
  const int64_t b = here.row / s.N, n = here.row % s.N;
  float* const row = rows[threadIdx.x / kWarp];
  const I* const list = static_cast<const I*>(p.index) + here.row * s.K;
  float* const next = p.next + here.row * f.P;
  listed_logits(static_cast<const T*>(p.q), static_cast<const T*>(p.k), p.table, p.logits + here.row * s.K, list, f, b,
                n, lane, lanes, row);
  const float total = to_depths(row, s.K, lane);
  if (lane == 0) p.log_sum[here.row] = logf(total);
  const I* kept = list;
  if (f.P < s.K) {
    I* const chosen = static_cast<I*>(p.next_index) + here.row * f.P;
    kept = chosen;
    keep_nearest(row, s.K, f.P, total, lane, [&](int64_t j) { return list[j]; }, next, chosen);
  } else {
    for (int64_t j = lane; j < s.K; j += kWarp) {
      next[j] = -row[j];
      row[j] = expf(-row[j]) / total;
    }
    __syncwarp();
  }
  const auto slot = [&](int64_t j, int* key, float* weight) {
    *key = checked(kept[j], s.M);
    *weight = row[j];
  };
  listed_sum<T>(slot, f.P, static_cast<const T*>(p.v) + b * s.N * s.W, s, lane,
                token_major(static_cast<T*>(p.out), f, s.C, b, n));
}

// Where a key is in an ascending list, or -1.
template <class I>
__device__ inline int find(const I* list, int64_t count, I key) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (list[middle] < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < count && list[low] == key ? static_cast<int>(low) : -1;
}

// Weights after the selection and the gradient of the logits before it.
template <class T, class I>
__global__ void logits_gradient_kernel(FocusBackward p, FocusShape f, int lanes) {
  constexpr int kHere = kWarps / 2;  // warps of a block
  __shared__ float rows[kHere][2][kLongestList];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kHere + warp;
  const ListShape& s = f.list;
  if (at >= s.B * s.N) return;
  const int64_t b = at / s.N, n = at % s.N;
  float *const weight = rows[warp][0], *const d_weight = rows[warp][1];
  const bool selects = p.kept != nullptr;
  const I* const list = static_cast<const I*>(p.index) + at * s.K;
  const I* const kept = selects ? static_cast<const I*>(p.kept) + at * f.P : list;
  const float* const logits = p.logits + at * s.K;
  if (selects) {
    listed_logits(static_cast<const T*>(p.q), static_cast<const T*>(p.k), p.table, logits, list, f, b, n, lane, lanes,
                  weight);
    const float shift = row_maximum(weight, s.K, lane) + p.log_sum[at];
    for (int64_t j = lane; j < s.K; j += kWarp) weight[j] = expf(weight[j] - shift);
  } else {
    for (int64_t j = lane; j < s.K; j += kWarp) weight[j] = expf(logits[j] - p.log_sum[at]);
  }
  __syncwarp();
  listed_dot<T>(
      static_cast<const T*>(p.grad) + at * s.W, static_cast<const T*>(p.v) + b * s.N * s.W, s.W, f.P, lane, lanes,
      [&](int64_t j) { return checked(kept[j], s.M); }, [&](int64_t j, float product) { d_weight[j] = product; });
  __syncwarp();
  float mean = 0;
  for (int64_t j = lane; j < f.P; j += kWarp) {
    const int place = selects ? find(list, s.K, kept[j]) : static_cast<int>(j);
    const float own = place < 0 ? 0 : weight[place];
    p.weights[at * f.P + j] = own;
    d_weight[j] *= own;
    mean += d_weight[j];
  }
  mean = warp_sum(mean);
  for (int64_t j = lane; j < s.K; j += kWarp) weight[j] *= -mean;
  __syncwarp();
  for (int64_t j = lane; j < f.P; j += kWarp) {
    const int place = selects ? find(list, s.K, kept[j]) : static_cast<int>(j);
    if (place >= 0) weight[place] += d_weight[j] + (p.grad_next == nullptr ? 0 : p.grad_next[at * f.P + j]);
  }
  __syncwarp();
  for (int64_t j = lane; j < s.K; j += kWarp) p.d_logits[at * s.K + j] = weight[j];
}

// d_q = scale * sum of d_logits k over each query's list.
template <class T, class I>
__global__ void query_gradient_kernel(FocusBackward p, FocusShape f) {
  const Place here = place();
  const ListShape& s = f.list;
  if (here.row >= s.B * s.N) return;
  const int64_t b = here.row / s.N, at = here.row * s.K;
  const auto slot = [&](int64_t j, int* key, float* weight) {
    *key = checked(static_cast<const I*>(p.index)[at + j], s.M);
    *weight = p.d_logits[at + j];
  };
  listed_sum<T>(slot, s.K, static_cast<const T*>(p.k) + b * s.N * s.W, s, here.lane,
                token_major(static_cast<T*>(p.d_q), f, s.C, b, here.row % s.N), f.scale);
}

template <class I>
__global__ void table_parts_kernel(FocusBackward p, FocusShape f, int64_t segments, int64_t rows) {
  const Place here = place();
  const ListShape& s = f.list;
  if (here.row >= s.B * segments) return;
  float* const bins = p.parts + here.row * rows;
  for (int64_t r = here.lane; r < rows; r += kWarp) bins[r] = 0;
  __syncwarp();
  const int64_t b = here.row / segments, size = (s.N + segments - 1) / segments, first = here.row % segments * size;
  for (int64_t n = first; n < first + size && n < s.N; ++n) {
    const int64_t at = (b * s.N + n) * s.K;
    for (int64_t base = 0; base < s.K; base += kWarp) {  // keys of a list are distinct, so are their entries
      const int64_t j = base + here.lane;
      const int key = j < s.K ? checked(static_cast<const I*>(p.index)[at + j], s.M) : -1;
      if (key >= 0) bins[table_row(n, key, f.side)] += p.d_logits[at + j];
      __syncwarp();
    }
  }
}

ListShape kept_shape(const FocusShape& f) {
  ListShape shape = f.list;
  shape.K = f.P;
  return shape;
}

template <class T, class I>
int backward(const FocusBackward& p, const FocusShape& f, void* stream) {
  const ListShape& s = f.list;
  const int64_t queries = s.B * s.N, segments = table_segments(f), rows = table_rows(f);
  const int lanes = lanes_per_key(s.W / kPiece<T>);
  const auto as_values = [](const void* x) { return static_cast<const T*>(x); };
  const int half = kWarps / 2;
  int error = launch_blocks(logits_gradient_kernel<T, I>, (queries + half - 1) / half, half * kWarp, stream, p, f, lanes);
  if (error == 0) error = launch_warps(query_gradient_kernel<T, I>, queries, stream, p, f);
  if (error == 0) error = launch_warps(table_parts_kernel<I>, s.B * segments, stream, p, f, segments, rows);
  if (error == 0) error = sum_table(p.parts, p.d_table, f, stream);
  const Transposed lists = lay_out(s, p.workspace);
  if (error == 0) error = transpose_lists(static_cast<const I*>(p.index), s, lists, stream);
  if (error == 0)
    error = launch_warps(key_gradient_kernel<T>, queries, stream, p.d_logits, as_values(p.q), static_cast<T*>(p.d_k), f,
                         s, lists, f.scale);
  Transposed kept = lists;
  if (p.kept != nullptr) {
    kept = lay_out(kept_shape(f), p.workspace);  // in the same place: one stream, one after the other
    if (error == 0) error = transpose_lists(static_cast<const I*>(p.kept), kept_shape(f), kept, stream);
  }
  if (error == 0)
    error = launch_warps(key_gradient_kernel<T>, queries, stream, p.weights, as_values(p.grad), static_cast<T*>(p.d_v),
                         f, kept_shape(f), kept, 1.0f);
  return error;
}

}  // namespace

int focus_sparse(Types types, FocusForward p, FocusShape f, void* stream) {
  if (f.list.K > kLongestList) return static_cast<int>(cudaErrorInvalidConfiguration);
  return by_types(types, [&](auto* t, auto* i) {
    using T = std::remove_pointer_t<decltype(t)>;
    using I = std::remove_pointer_t<decltype(i)>;
    return launch_warps(forward_kernel<T, I>, f.list.B * f.list.N, stream, p, f, lanes_per_key(f.list.W / kPiece<T>));
  });
}

int focus_sparse_backward(Types types, FocusBackward p, FocusShape f, void* stream) {
  if (f.list.K > kLongestList) return static_cast<int>(cudaErrorInvalidConfiguration);
  return by_types(types, [&](auto* t, auto* i) {
    return backward<std::remove_pointer_t<decltype(t)>, std::remove_pointer_t<decltype(i)>>(p, f, stream);
  });
}

int64_t focus_parts(FocusShape f) { return f.list.B * table_segments(f) * table_rows(f); }

// The longer of the two lists decides about the last two parts of the workspace, and never about fewer segments.
int64_t focus_workspace(FocusShape f) { return workspace_of(f.list); }

}  // namespace gpu
}  // namespace focalsr
