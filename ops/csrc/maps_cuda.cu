// What happens to maps between two products of whole windows: one warp per query, whose row it keeps in shared memory.
//
// Shapes as in maps_cuda.h. Everything is written by one warp in a fixed order.

#include "maps_cuda.h"

#include "focus_rows_cuda.h"

namespace focalsr {
namespace gpu {
namespace {

constexpr int kRowWarps = kWarps / 2;  // of a block, each with two rows
constexpr float kHidden = -100.0f;     // between regions, as ops/window/region_mask.py

// A query, and where it is in maps and in what belongs to queries.
struct Query {
  int lane, warp;
  int64_t window, n, row, at;
  bool exists;
  __device__ explicit Query(const RowShape& s)
      : lane(static_cast<int>(threadIdx.x) % kWarp), warp(static_cast<int>(threadIdx.x) / kWarp) {
    const int64_t number = static_cast<int64_t>(blockIdx.x) * kRowWarps + warp;
    exists = number < s.B * s.N;
    window = number / s.N;
    n = number % s.N;
    row = number * s.M;
    at = window * s.step + n;
  }
};

template <class... Parameters, class... Arguments>
int launch_queries(void (*kernel)(Parameters...), const RowShape& s, void* stream, Arguments... arguments) {
  return launch_blocks(kernel, (s.B * s.N + kRowWarps - 1) / kRowWarps, kRowWarps * kWarp, stream, arguments...);
}

__device__ inline float added(const MapBias& bias, const Query& query, int64_t tokens, int key) {
  float sum = bias.table[table_row(query.n, key, bias.side) * bias.columns];
  if (bias.regions != nullptr) {
    const uint8_t* const regions = bias.regions + (bias.first + query.window) % bias.images * tokens;
    if (regions[query.n] != regions[key]) sum += kHidden;
  }
  return sum;
}

__device__ inline void clear(float* row, int64_t count, int lane) {
  for (int64_t m = lane; m < count; m += kWarp) row[m] = 0;
  __syncwarp();
}

template <class T>
__device__ void write_row(const float* row, int64_t count, int lane, T* out) {
  for (int64_t m = lane; m < count; m += kWarp) out[m] = from_float<T>(row[m]);
}

// A weight that is marked as kept has its sign set, also where it is 0.
__device__ inline bool is_marked(float x) {
  union {
    float number;
    unsigned bits;
  } both;
  both.number = x;
  return (both.bits >> 31) != 0;
}

// A layer that keeps its lists.
template <class T, class I>
__global__ void keep_kernel(FocusMap p, RowShape s) {
  __shared__ float rows[kRowWarps][2][kMostKeys];
  const Query query(s);
  if (!query.exists) return;
  const int lane = query.lane;
  float *const weights = rows[query.warp][0], *const gradient = rows[query.warp][1];
  clear(weights, s.M, lane);
  clear(gradient, s.M, lane);
  const I* const list = static_cast<const I*>(p.lists) + query.at * s.K;
  const float log_sum = p.log_sum[query.at];
  float mean = 0;
  for (int64_t j = lane; j < s.K; j += kWarp) {
    const int key = checked(list[j], s.M);
    if (key < 0) continue;
    const float weight = expf(p.logits[query.at * s.K + j] - log_sum);
    weights[key] = weight;
    gradient[key] = weight * p.products[query.row + key];
    mean += gradient[key];
  }
  mean = warp_sum(mean);
  for (int64_t j = lane; j < s.K; j += kWarp) {
    const int key = checked(list[j], s.M);
    float d = key < 0 ? 0 : gradient[key] - mean * weights[key];
    if (p.grad_next != nullptr) d += p.grad_next[query.at * s.K + j];
    if (key >= 0) gradient[key] = d;
    p.d_logits[query.at * s.K + j] = d;
  }
  __syncwarp();
  write_row(gradient, s.M, lane, static_cast<T*>(p.gradient) + query.row);
  write_row(weights, s.M, lane, static_cast<T*>(p.weights) + query.row);
}

// A layer that shortens its lists, or that sees every key.
template <class T, class I, bool kLists>
__global__ void choose_kernel(FocusMap p, RowShape s) {
  __shared__ float rows[kRowWarps][2][kMostKeys];
  const Query query(s);
  if (!query.exists) return;
  const int lane = query.lane;
  float *const weights = rows[query.warp][0], *const gradient = rows[query.warp][1];
  if (kLists) clear(weights, s.M, lane);
  clear(gradient, s.M, lane);
  const int64_t count = kLists ? s.K : s.M;
  const auto key_of = [&](int64_t j) {
    return kLists ? checked(static_cast<const I*>(p.lists)[query.at * s.K + j], s.M) : static_cast<int>(j);
  };
  float most = -__builtin_huge_valf();
  for (int64_t j = lane; j < count; j += kWarp) {
    const int key = key_of(j);
    if (key < 0) continue;
    float logit = p.scale * p.scores[query.row + key] + added(p.bias, query, s.N, key);
    if (kLists) logit += p.logits[query.at * s.K + j];
    weights[key] = logit;
    most = fmaxf(most, logit);
  }
  const float shift = warp_maximum(most) + p.log_sum[query.at];
  for (int64_t j = lane; j < count; j += kWarp)
    if (const int key = key_of(j); key >= 0) weights[key] = expf(weights[key] - shift);
  __syncwarp();
  float mean = 0;
  for (int64_t j = lane; j < s.P; j += kWarp) {
    const int key = checked(static_cast<const I*>(p.kept)[query.at * s.P + j], s.M);
    if (key < 0) continue;
    const float d = weights[key] * p.products[query.row + key];
    mean += d;
    gradient[key] = p.grad_next == nullptr ? d : d + p.grad_next[query.at * s.P + j];
    weights[key] = -weights[key];
  }
  mean = warp_sum(mean);
  __syncwarp();
  for (int64_t j = lane; j < count; j += kWarp) {
    const int key = key_of(j);
    const float weight = key < 0 ? 0 : fabsf(weights[key]), d = key < 0 ? 0 : gradient[key] - mean * weight;
    if (kLists) p.d_logits[query.at * s.K + j] = d;
    if (key < 0) continue;
    gradient[key] = d;
    weights[key] = is_marked(weights[key]) ? weight : 0;
  }
  __syncwarp();
  write_row(gradient, s.M, lane, static_cast<T*>(p.gradient) + query.row);
  write_row(weights, s.M, lane, static_cast<T*>(p.weights) + query.row);
}

template <class T, class I>
__global__ void spread_kernel(const T* values, const I* lists, T* map, RowShape s) {
  __shared__ float rows[kRowWarps][kMostKeys];
  const Query query(s);
  if (!query.exists) return;
  float* const row = rows[query.warp];
  clear(row, s.M, query.lane);
  for (int64_t base = 0; base < s.K; base += kWarp) {
    const int64_t j = base + query.lane, at = query.at * s.K + j;
    const int key = j < s.K ? checked(lists[at], s.M) : -1;
    const float value = j < s.K ? to_float(values[at]) : 0;
    const unsigned same = __match_any_sync(kAll, key);
    float sum = value;
    if (__ballot_sync(kAll, key >= 0 && __popc(same) > 1) != 0) {  // some key is listed twice
      sum = 0;
      for (int other = 0; other < kWarp; ++other) {
        const float theirs = __shfl_sync(kAll, value, other);
        if ((same >> other & 1u) != 0) sum += theirs;
      }
    }
    if (key >= 0 && __ffs(static_cast<int>(same)) - 1 == query.lane) row[key] += sum;
    __syncwarp();
  }
  write_row(row, s.M, query.lane, map + query.row);
}

template <class T, class I>
__global__ void collect_kernel(const float* map, const I* lists, T* values, RowShape s) {
  const Query query(s);
  if (!query.exists) return;
  for (int64_t j = query.lane; j < s.K; j += kWarp) {
    const int key = checked(lists[query.at * s.K + j], s.M);
    values[query.at * s.K + j] = from_float<T>(key < 0 ? 0 : map[query.row + key]);
  }
}

}  // namespace

int map_focus(Types types, FocusMap p, RowShape s, void* stream) {
  if (s.M > kMostKeys) return static_cast<int>(cudaErrorInvalidConfiguration);
  return by_types(types, [&](auto* t, auto* i) {
    using T = std::remove_pointer_t<decltype(t)>;
    using I = std::remove_pointer_t<decltype(i)>;
    if (p.kept == nullptr) return launch_queries(keep_kernel<T, I>, s, stream, p, s);
    if (p.lists != nullptr) return launch_queries(choose_kernel<T, I, true>, s, stream, p, s);
    return launch_queries(choose_kernel<T, I, false>, s, stream, p, s);
  });
}

int map_spread(Types types, const void* values, const void* lists, void* map, RowShape s, void* stream) {
  if (s.M > kMostKeys) return static_cast<int>(cudaErrorInvalidConfiguration);
  return by_types(types, [&](auto* t, auto* i) {
    using T = std::remove_pointer_t<decltype(t)>;
    using I = std::remove_pointer_t<decltype(i)>;
    return launch_queries(spread_kernel<T, I>, s, stream, as(t, values), as(i, lists), as(t, map), s);
  });
}

int map_collect(Types types, const float* map, const void* lists, void* values, RowShape s, void* stream) {
  return by_types(types, [&](auto* t, auto* i) {
    using T = std::remove_pointer_t<decltype(t)>;
    using I = std::remove_pointer_t<decltype(i)>;
    return launch_queries(collect_kernel<T, I>, s, stream, map, as(i, lists), as(t, values), s);
  });
}

}  // namespace gpu
}  // namespace focalsr
