// Focused attention for CUDA, layers whose queries have lists of keys: one warp per query, its logits in shared memory.
//
// The backward pass computes weights again, and sums over the queries of a key (cuda_scatter.h). Everything is
// written by one warp in a fixed order. Shapes as in focus_cuda.h.

#include "focus_cuda.h"

#include "cuda_near.h"
#include "focus_rows_cuda.h"

namespace focalsr {
namespace gpu {
namespace {

// What the table adds to the products of one query: its column, or a copy of that, entries `step` apart.
struct Bias {
  const float* entries;
  int step, first, side, inverse;
  __device__ Bias(const float* column, int64_t step, int64_t query, int64_t side)
      : entries(column), step(static_cast<int>(step)), first(table_row(query, 0, side)), side(static_cast<int>(side)),
        inverse((kOne + this->side - 1) / this->side) {}
  __device__ int place(int key) const {
    // Rounding up is right for keys below side^2 where side^3 < kOne.
    const int row = side <= 160 ? static_cast<int>(static_cast<unsigned>(key * inverse) / kOne) : key / side;
    return first - key - row * (side - 1);
  }
  __device__ float operator()(int key) const { return entries[place(key) * step]; }
  static constexpr int kOne = 1 << 22;
};

// row[j] = scale <q, key j> + logits[j] + bias, for the keys of one query's list.
template <class T, class I, class Rows>
__device__ void listed_logits(const T* q, const Rows& keys, const Bias& bias, const float* logits, const I* list,
                              const FocusShape& f, int lane, int lanes, float* row) {
  const ListShape& s = f.list;
  listed_dot<T>(
      q, keys, s.W, s.K, lane, lanes, [&](int64_t j) { return checked(list[j], s.M); },
      [&](int64_t j, float product) {
        const int key = checked(list[j], s.M);
        row[j] = f.scale * product + (logits[j] + (key < 0 ? 0 : bias(key)));
      });
  __syncwarp();
}

// Of item b; without `copy` in device memory.
__device__ inline Bias bias_of(const float* table, const float* copy, const FocusShape& f, int64_t b, int64_t n) {
  if (copy != nullptr) return {copy, 1, n, f.side};
  return {table + (f.columns == 1 ? 0 : b % f.heads), f.columns, n, f.side};
}

// The first half of a layer, for one query: the logits that it keeps, their keys and weights. Rows of shared memory.
template <class T, class I, class Rows>
__device__ void choose_keys(const FocusForward& p, const FocusShape& f, const Rows& keys, const Bias& bias, int64_t at,
                            int lane, int lanes, float* row) {
  const ListShape& s = f.list;
  const I* const list = static_cast<const I*>(p.index) + at * s.K;
  float* const next = p.next + at * f.P;
  listed_logits(static_cast<const T*>(p.q) + at * s.W, keys, bias, p.logits + at * s.K, list, f, lane, lanes, row);
  const float total = to_depths(row, s.K, lane);
  if (lane == 0) p.log_sum[at] = logf(total);
  if (f.P < s.K) {
    keep_nearest(row, s.K, f.P, total, lane, [&](int64_t j) { return list[j]; }, next,
                 static_cast<I*>(p.next_index) + at * f.P);
  } else {
    for (int64_t j = lane; j < s.K; j += kWarp) {
      next[j] = -row[j];
      row[j] = expf(-row[j]) / total;
    }
    __syncwarp();
  }
}

// The second half: the sum of values, weight(j) being that of the list's key j.
template <class T, class I, class Rows, class Weight>
__device__ void sum_values(const FocusForward& p, const FocusShape& f, const Rows& values, int64_t b, int64_t n,
                           int lane, const Weight& weight_of) {
  const ListShape& s = f.list;
  const I* const kept = static_cast<const I*>(f.P < s.K ? p.next_index : p.index) + (b * s.N + n) * f.P;
  const auto slot = [&](int64_t j, int* key, float* weight) {
    *key = checked(kept[j], s.M);
    *weight = weight_of(j);
  };
  listed_sum<T>(slot, f.P, values, s, lane, token_major(static_cast<T*>(p.out), f, s.C, b, n));
}

template <class T, class I>
__global__ void forward_kernel(FocusForward p, FocusShape f, int lanes) {
  __shared__ float rows[kWarps][kLongestList];
  const Place here = place();
  const ListShape& s = f.list;
  if (here.row >= s.B * s.N) return;
  const int64_t b = here.row / s.N, n = here.row % s.N;
  float* const row = rows[threadIdx.x / kWarp];
  const FarRows<T> keys{static_cast<const T*>(p.k) + b * s.N * s.W, s.W};
  choose_keys<T, I>(p, f, keys, bias_of(p.table, nullptr, f, b, n), here.row, here.lane, lanes, row);
  const FarRows<T> values{static_cast<const T*>(p.v) + b * s.N * s.W, s.W};
  sum_values<T, I>(p, f, values, b, n, here.lane, [&](int64_t j) { return row[j]; });
}

// A head's column of the table, behind the rows of a block; null where there was no room. Before the rows are loaded.
template <class T>
__device__ const float* copy_table(const NearBlock<T>& block, const Near& near, const float* table,
                                   const FocusShape& f) {
  const int rows = static_cast<int>((2 * f.side - 1) * (2 * f.side - 1)), columns = static_cast<int>(f.columns);
  if (near.extra == 0) return nullptr;
  table += columns == 1 ? 0 : block.b % f.heads;
  for (int r = static_cast<int>(threadIdx.x); r < rows; r += near.threads()) block.extra[r] = table[r * columns];
  return block.extra;
}

// All queries of a block with the keys, then with the values.
template <class T, class I>
__global__ void __launch_bounds__(kWarp * kFewerWarps)
    near_forward_kernel(FocusForward p, FocusShape f, int lanes, Near near) {
  const ListShape& s = f.list;
  const NearBlock<T> block(near, s);
  const float* const table = copy_table(block, near, p.table, f);
  block.load(static_cast<const T*>(p.k), s);
  block.each([&](int64_t n) {
    choose_keys<T, I>(p, f, block, bias_of(p.table, table, f, block.b, n), block.b * s.N + n, block.lane, lanes,
                      block.own);
  });
  block.load(static_cast<const T*>(p.v), s);
  block.each([&](int64_t n) {
    const int64_t at = block.b * s.N + n;
    const float* const next = p.next + at * f.P;
    const float log_sum = p.log_sum[at];
    sum_values<T, I>(p, f, block, block.b, n, block.lane, [&](int64_t j) { return expf(next[j] - log_sum); });
  });
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

// weight = the weights of a query's list before the selection.
template <class T, class I, class Rows>
__device__ void weights_again(const FocusBackward& p, const FocusShape& f, const Rows& keys, const Bias& bias,
                              int64_t at, int lane, int lanes, float* weight) {
  const ListShape& s = f.list;
  const float* const logits = p.logits + at * s.K;
  if (p.kept != nullptr) {
    const I* const list = static_cast<const I*>(p.index) + at * s.K;
    listed_logits(static_cast<const T*>(p.q) + at * s.W, keys, bias, logits, list, f, lane, lanes, weight);
    const float shift = row_maximum(weight, s.K, lane) + p.log_sum[at];
    for (int64_t j = lane; j < s.K; j += kWarp) weight[j] = expf(weight[j] - shift);
  } else {
    for (int64_t j = lane; j < s.K; j += kWarp) weight[j] = expf(logits[j] - p.log_sum[at]);
  }
  __syncwarp();
}

// The weights of the keys that are kept, and the gradient of the logits before the selection. Spoils both rows.
template <class T, class I, class Rows>
__device__ void differentiate_logits(const FocusBackward& p, const FocusShape& f, const Rows& values, int64_t at,
                                     int lane, int lanes, float* weight, float* d_weight) {
  const ListShape& s = f.list;
  const bool selects = p.kept != nullptr;
  const I* const list = static_cast<const I*>(p.index) + at * s.K;
  const I* const kept = selects ? static_cast<const I*>(p.kept) + at * f.P : list;
  listed_dot<T>(
      static_cast<const T*>(p.grad) + at * s.W, values, s.W, f.P, lane, lanes,
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

template <class T, class I>
__global__ void logits_gradient_kernel(FocusBackward p, FocusShape f, int lanes) {
  constexpr int kHere = kWarps / 2;  // warps of a block
  __shared__ float rows[kHere][2][kLongestList];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kHere + warp;
  const ListShape& s = f.list;
  if (at >= s.B * s.N) return;
  const int64_t b = at / s.N;
  float *const weight = rows[warp][0], *const d_weight = rows[warp][1];
  const FarRows<T> keys{static_cast<const T*>(p.k) + b * s.N * s.W, s.W};
  weights_again<T, I>(p, f, keys, bias_of(p.table, nullptr, f, b, at % s.N), at, lane, lanes, weight);
  const FarRows<T> values{static_cast<const T*>(p.v) + b * s.N * s.W, s.W};
  differentiate_logits<T, I>(p, f, values, at, lane, lanes, weight, d_weight);
}

// Weights of layers that select wait in d_logits while a block's rows of keys are replaced by those of values.
template <class T, class I>
__global__ void __launch_bounds__(kWarp * kFewerWarps)
    near_logits_gradient_kernel(FocusBackward p, FocusShape f, int lanes, Near near) {
  const ListShape& s = f.list;
  const NearBlock<T> block(near, s);
  float *const weight = block.own, *const d_weight = block.own + s.K;
  const auto again = [&](const float* table, int64_t n) {
    const Bias bias = bias_of(p.table, table, f, block.b, n);
    weights_again<T, I>(p, f, block, bias, block.b * s.N + n, block.lane, lanes, weight);
  };
  if (p.kept != nullptr) {
    const float* const table = copy_table(block, near, p.table, f);
    block.load(static_cast<const T*>(p.k), s);
    block.each([&](int64_t n) {
      again(table, n);
      float* const waiting = p.d_logits + (block.b * s.N + n) * s.K;
      for (int64_t j = block.lane; j < s.K; j += kWarp) waiting[j] = weight[j];
      __syncwarp();
    });
  }
  block.load(static_cast<const T*>(p.v), s);
  block.each([&](int64_t n) {
    const int64_t at = block.b * s.N + n;
    if (p.kept == nullptr) {
      again(nullptr, n);
    } else {
      for (int64_t j = block.lane; j < s.K; j += kWarp) weight[j] = p.d_logits[at * s.K + j];
      __syncwarp();
    }
    differentiate_logits<T, I>(p, f, block, at, block.lane, lanes, weight, d_weight);
    __syncwarp();
  });
}

// d_q = scale * sum of d_logits k over a query's list.
template <class T, class I, class Rows>
__device__ void query_gradient(const FocusBackward& p, const FocusShape& f, const Rows& keys, int64_t b, int64_t n,
                               int lane) {
  const ListShape& s = f.list;
  const int64_t at = (b * s.N + n) * s.K;
  const auto slot = [&](int64_t j, int* key, float* weight) {
    *key = checked(static_cast<const I*>(p.index)[at + j], s.M);
    *weight = p.d_logits[at + j];
  };
  listed_sum<T>(slot, s.K, keys, s, lane, token_major(static_cast<T*>(p.d_q), f, s.C, b, n), f.scale);
}

template <class T, class I>
__global__ void query_gradient_kernel(FocusBackward p, FocusShape f) {
  const Place here = place();
  const ListShape& s = f.list;
  if (here.row >= s.B * s.N) return;
  const int64_t b = here.row / s.N;
  const FarRows<T> keys{static_cast<const T*>(p.k) + b * s.N * s.W, s.W};
  query_gradient<T, I>(p, f, keys, b, here.row % s.N, here.lane);
}

template <class T, class I>
__global__ void __launch_bounds__(kWarp * kMostWarps)
    near_query_gradient_kernel(FocusBackward p, FocusShape f, Near near) {
  const NearBlock<T> block(near, f.list);
  block.load(static_cast<const T*>(p.k), f.list);
  block.each([&](int64_t n) { query_gradient<T, I>(p, f, block, block.b, n, block.lane); });
}

// The table's gradient by queries of a segment, one warp each. Keys of a list are distinct, so are their entries.
constexpr int kBins = 4096;  // of the table, that fit into shared memory

template <class I, bool kNear>
__global__ void table_parts_kernel(FocusBackward p, FocusShape f, int64_t segments, int64_t rows) {
  __shared__ float near_bins[kNear ? kBins : 1];
  constexpr int kAhead = 4;  // loads in flight
  const int lane = static_cast<int>(threadIdx.x);
  const ListShape& s = f.list;
  float* const bins = kNear ? near_bins : p.parts + blockIdx.x * rows;
  for (int r = lane; r < rows; r += kWarp) bins[r] = 0;
  __syncwarp();
  const int64_t b = blockIdx.x / segments, size = (s.N + segments - 1) / segments, first = blockIdx.x % segments * size;
  for (int64_t n = first; n < first + size && n < s.N; ++n) {
    const I* const list = static_cast<const I*>(p.index) + (b * s.N + n) * s.K;
    const float* const d_logits = p.d_logits + (b * s.N + n) * s.K;
    const Bias at(nullptr, 1, n, f.side);
    for (int base = lane; base - lane < s.K; base += kAhead * kWarp) {
      int key[kAhead];
      float gradient[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int j = base + i * kWarp;
        key[i] = j < s.K ? checked(list[j], s.M) : -1;
        gradient[i] = j < s.K ? d_logits[j] : 0;
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (key[i] >= 0) bins[at.place(key[i])] += gradient[i];
        __syncwarp();
      }
    }
  }
  if (!kNear) return;
  float* const parts = p.parts + blockIdx.x * rows;
  for (int r = lane; r < rows; r += kWarp) parts[r] = bins[r];
}

ListShape kept_shape(const FocusShape& f) {
  ListShape shape = f.list;
  shape.K = f.P;
  return shape;
}

// With a column of the table where that fits, else without.
template <class T>
Near plan_near_table(const FocusShape& f, int64_t own, bool table) {
  const Near with = plan_near<T>(f.list, kFewerWarps, table ? table_rows(f) : 0, own);
  return with.warps > 0 || !table ? with : plan_near<T>(f.list, kFewerWarps, 0, own);
}

template <class T, class I>
int forward(const FocusForward& p, const FocusShape& f, void* stream) {
  const int lanes = lanes_per_key(f.list.W / kPiece<T>);
  const bool pays = sizeof(T) == 4 || f.list.K >= long_list();
  const Near near = pays ? plan_near_table<T>(f, f.list.K, true) : Near{};
  if (near.warps > 0) return launch_near<T>(near_forward_kernel<T, I>, near, f.list, stream, p, f, lanes, near);
  return launch_warps(forward_kernel<T, I>, f.list.B * f.list.N, stream, p, f, lanes);
}

// Gradients of keys and values, in one workspace: on a stream one comes after the other.
template <class T, class I>
int key_side(const FocusBackward& p, const FocusShape& f, void* stream) {
  const auto rows_of = [&](void* out) { return KeyRows<T>{static_cast<T*>(out), f.list.N, f.heads, f.list.C}; };
  const I *const lists = static_cast<const I*>(p.index), *const kept = static_cast<const I*>(p.kept);
  const T *const q = static_cast<const T*>(p.q), *const grad = static_cast<const T*>(p.grad);
  const float *const d_logits = p.d_logits, *const weights = p.weights;
  const int error =
      sum_by_key<true>(lists, d_logits, q, rows_of(p.d_k), f.list, f.scale, p.workspace, false, stream);
  if (error != 0) return error;
  return sum_by_key<true>(kept == nullptr ? lists : kept, weights, grad, rows_of(p.d_v), kept_shape(f), 1.0f,
                          p.workspace, kept == nullptr, stream);
}

template <class T, class I>
int backward(const FocusBackward& p, const FocusShape& f, void* stream) {
  const ListShape& s = f.list;
  const int64_t queries = s.B * s.N, segments = table_segments(f), rows = table_rows(f);
  const int lanes = lanes_per_key(s.W / kPiece<T>);
  const int half = kWarps / 2;
  const bool is_long = s.K >= long_list(), pays = sizeof(T) == 4 || long_list() == 0;  // the products alone: in float
  const Near both = pays ? plan_near_table<T>(f, 2 * s.K, p.kept != nullptr) : Near{};
  const Near keys = is_long ? plan_near<T>(s, kMostWarps) : Near{};
  int error = both.warps > 0 ? launch_near<T>(near_logits_gradient_kernel<T, I>, both, s, stream, p, f, lanes, both)
                             : launch_blocks(logits_gradient_kernel<T, I>, (queries + half - 1) / half, half * kWarp,
                                             stream, p, f, lanes);
  if (error == 0)
    error = keys.warps > 0 ? launch_near<T>(near_query_gradient_kernel<T, I>, keys, s, stream, p, f, keys)
                           : launch_warps(query_gradient_kernel<T, I>, queries, stream, p, f);
  const auto table = rows <= kBins ? table_parts_kernel<I, true> : table_parts_kernel<I, false>;
  if (error == 0) error = launch_blocks(table, s.B * segments, kWarp, stream, p, f, segments, rows);
  if (error == 0) error = sum_table(p.parts, p.d_table, f, stream);
  return error != 0 ? error : key_side<T, I>(p, f, stream);
}

}  // namespace

int focus_sparse(Types types, FocusForward p, FocusShape f, void* stream) {
  if (f.list.K > kLongestList) return static_cast<int>(cudaErrorInvalidConfiguration);
  return by_types(types, [&](auto* t, auto* i) {
    return forward<std::remove_pointer_t<decltype(t)>, std::remove_pointer_t<decltype(i)>>(p, f, stream);
  });
}

int focus_sparse_backward(Types types, FocusBackward p, FocusShape f, void* stream) {
  if (f.list.K > kLongestList) return static_cast<int>(cudaErrorInvalidConfiguration);
  return by_types(types, [&](auto* t, auto* i) {
    return backward<std::remove_pointer_t<decltype(t)>, std::remove_pointer_t<decltype(i)>>(p, f, stream);
  });
}

int64_t focus_parts(FocusShape f) { return f.list.B * table_segments(f) * table_rows(f); }

int64_t focus_workspace(FocusShape f) {
  const int64_t own = key_workspace(f.list), kept = key_workspace(kept_shape(f));
  return own < kept ? kept : own;
}

}  // namespace gpu
}  // namespace focalsr
