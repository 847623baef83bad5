// Rows that the queries of a block list, in shared memory, on CUDA. Shapes as in cuda_types.h.
//
// Every listed row is read once per entry of a list. Where all rows of a batch item fit into shared memory, a block loads
// them and works on some hundred queries of the item, one per warp at a time. A warp writes down where 32 rows begin, and
// then reads them without asking for anything else. Rows are as wide as those of PFT and PFT-light; elsewhere the kernels
// for rows that are far serve.
#pragma once

#include "cuda_lists.h"

namespace focalsr {
namespace gpu {

constexpr int kNearQueries = 256;  // of a block: what it loads for them should not count
constexpr int kNearWarps = 24;     // of a block: threads have 80 registers, for many loads at once
constexpr int kWide = 40, kNarrow = 16;  // W of the rows that there are kernels for

// Where the row of an entry begins, and its weight. Nothing is listed: a row of zeros.
struct alignas(8) Waiting {
  int offset;
  float weight;
};
constexpr int kWaiting = kWarp + 4;  // of a warp, in steps of up to 16

// Rows of an item as a block keeps them, `stride` values apart, a row of zeros behind them, with `extra` floats for all and
// `own` for each warp.
struct Near {
  bool fits;  // and there is enough work for blocks that large
  int stride, rows, extra, own;
  int segments;  // blocks of an item
};

template <class T>
int64_t near_bytes(const Near& near) {
  const int64_t numbers = near.extra + int64_t{kNearWarps} * (near.own + 2 * kWaiting);
  return (near.rows + int64_t{1}) * near.stride * static_cast<int64_t>(sizeof(T)) + 4 * numbers;
}

template <class T, class I>
Near plan_near(ListShape s, int64_t extra = 0, int64_t own = 0) {
  const Device device = this_device();
  const int64_t segments = (s.N + kNearQueries - 1) / kNearQueries, pieces = s.W / kPiece<T>;
  const Near none{false, 0, 0, 0, 0, 0};
  if ((s.W != kWide && s.W != kNarrow) || !std::is_same_v<I, int16_t>) return none;
  if (s.M * s.W > device.bytes || extra > device.bytes || own > device.bytes || s.M == 0) return none;
  if (2 * s.B * segments < device.processors) return none;
  const auto padded = [](int64_t numbers) { return static_cast<int>((numbers + 3) / 4 * 4); };
  for (const int64_t stride : {pieces | 1, pieces}) {  // odd: rows begin in any bank
    const Near near{true,        static_cast<int>(stride) * kPiece<T>, static_cast<int>(s.M), padded(extra),
                    padded(own), static_cast<int>(segments)};
    if (near_bytes<T>(near) <= device.bytes) return near;
  }
  return none;
}

// What a thread of such a block sees.
template <class T>
struct NearBlock {
  T* data;
  float *extra, *own;
  Waiting* waiting;
  int b, first, last;  // its item, and its queries
  int stride, nothing, lane, warp;
  __device__ NearBlock(const Near& near, ListShape s)
      : data(reinterpret_cast<T*>(shared_bytes())),
        extra(reinterpret_cast<float*>(data + (near.rows + 1) * near.stride)),
        b(static_cast<int>(blockIdx.x) / near.segments),
        first(static_cast<int>(blockIdx.x) % near.segments * kNearQueries), stride(near.stride),
        nothing(near.rows * near.stride), lane(static_cast<int>(threadIdx.x) % kWarp),
        warp(static_cast<int>(threadIdx.x) / kWarp) {
    own = extra + near.extra + warp * (near.own + 2 * kWaiting);
    waiting = reinterpret_cast<Waiting*>(own + near.own);
    last = first + kNearQueries < s.N ? first + kNearQueries : static_cast<int>(s.N);
    if (lane < kWaiting - kWarp) waiting[kWarp + lane] = {nothing, 0};
    for (int c = static_cast<int>(threadIdx.x); c < stride; c += kNearWarps * kWarp) data[nothing + c] = from_float<T>(0);
  }
  // The rows of its item out of x [B, M, W]. Begins and ends with the whole block at one place.
  __device__ void load(const T* __restrict__ x, ListShape s) const {
    const int pieces = static_cast<int>(s.W / kPiece<T>), all = static_cast<int>(s.M) * pieces;
    x += static_cast<int64_t>(b) * s.M * s.W;
    __syncthreads();
#pragma unroll 4
    for (int at = warp * kWarp + lane; at < all; at += kNearWarps * kWarp)
      *reinterpret_cast<uint4*>(data + at / pieces * stride + at % pieces * kPiece<T>) =
          *reinterpret_cast<const uint4*>(x + static_cast<int64_t>(at) * kPiece<T>);
    __syncthreads();
  }
  // f(query) for the queries of its warp.
  template <class F>
  __device__ void each(const F& f) const {
    for (int n = first + warp; n < last; n += kNearWarps) f(static_cast<int64_t>(n));
  }
};

// An entry of a list on its way into the warp's notes.
struct Entry32 {
  int row;
  float number;
};
template <class Slot>
__device__ inline Entry32 entry_at(const Slot& slot, int k, int count) {
  Entry32 entry{-1, 0};
  if (k < count) slot(static_cast<int64_t>(k), &entry.row, &entry.number);
  return entry;
}

// As listed_dot: sink(k, row, number, product) with what slot(k, &row, &number) gave.
template <int kWidth, class T, class Slot, class Sink>
__device__ void near_dot(const NearBlock<T>& block, const T* query, int64_t length, const Slot& slot, const Sink& sink) {
  constexpr int kPieces = kWidth / kPiece<T>, kLanes = kPieces > 4 ? 8 : kPieces, kHere = (kPieces + kLanes - 1) / kLanes;
  constexpr int kKeys = kWarp / kLanes;  // at once; kLanes times make 32
  const int lane = block.lane, sub = lane % kLanes, group = lane / kLanes, count = static_cast<int>(length);
  const int mine = sub * kKeys + group;  // of 32: the entry whose product this lane is going to have
  Piece<T> q[kHere];
  const T* rows[kHere];
#pragma unroll
  for (int j = 0; j < kHere; ++j) {
    const int piece = j * kLanes + sub;
    q[j] = piece < kPieces ? Piece<T>(query + piece * kPiece<T>) : Piece<T>();
    rows[j] = block.data + (piece < kPieces ? piece : kPieces - 1) * kPiece<T>;
  }
  Entry32 next = entry_at(slot, mine, count);
  for (int base = 0; base < count; base += kWarp) {
    const Entry32 entry = next;
    next = entry_at(slot, base + kWarp + mine, count);
    block.waiting[mine].offset = entry.row < 0 ? block.nothing : entry.row * block.stride;
    __syncwarp();
    float sum[kLanes] = {};
    const auto add = [&](int step) {
      const int offset = block.waiting[step * kKeys + group].offset;
#pragma unroll
      for (int j = 0; j < kHere; ++j) {  // beyond the row, q is zero
        const Piece<T> part(rows[j] + offset);
#pragma unroll
        for (int i = 0; i < kPiece<T>; ++i) sum[step] += q[j][i] * part[i];
      }
    };
    if (base + kWarp <= count) {
#pragma unroll
      for (int step = 0; step < kLanes; ++step) add(step);
    } else {
#pragma unroll
      for (int step = 0; step < kLanes; ++step)
        if (base + step * kKeys < count) add(step);
    }
    // Lanes of a key hand each other halves of what they have, until each has the sum of one step.
#pragma unroll
    for (int width = kLanes / 2; width > 0; width /= 2)
#pragma unroll
      for (int i = 0; i < width; ++i) {
        const bool upper = (sub & width) != 0;
        const float given = upper ? sum[i] : sum[i + width], kept = upper ? sum[i + width] : sum[i];
        sum[i] = kept + __shfl_xor_sync(kAll, given, width);
      }
    if (base + mine < count) sink(static_cast<int64_t>(base + mine), entry.row, entry.number, sum[0]);
    __syncwarp();
  }
}

// As listed_sum.
template <int kWidth, class T, class Slot>
__device__ void near_sum(const NearBlock<T>& block, const Slot& slot, int64_t length, ListShape s, T* out,
                         float factor = 1) {
  constexpr int kPieces = kWidth / kPiece<T>, kGroups = kWarp / kPieces, kSteps = (kWarp + kGroups - 1) / kGroups;
  static_assert(kSteps * kGroups <= kWaiting, "notes of a warp");
  const int lane = block.lane, group = lane / kPieces < kGroups ? lane / kPieces : 0, count = static_cast<int>(length);
  const int start = lane % kPieces * kPiece<T>;  // my channels
  const T* const rows = block.data + start;
  float sum[kPiece<T>] = {};
  Entry32 next = entry_at(slot, lane, count);
  for (int base = 0; base < count; base += kWarp) {
    block.waiting[lane] = {next.row < 0 ? block.nothing : next.row * block.stride, next.row < 0 ? 0 : next.number};
    next = entry_at(slot, base + kWarp + lane, count);
    __syncwarp();
    const auto add = [&](int step) {
      const Waiting entry = block.waiting[step * kGroups + group];
      const Piece<T> part(rows + entry.offset);
#pragma unroll
      for (int i = 0; i < kPiece<T>; ++i) sum[i] += entry.weight * part[i];
    };
    if (base + kWarp <= count) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) add(step);
    } else {
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
        if (base + step * kGroups < count) add(step);
    }
    __syncwarp();
  }
  Piece<T> result;
#pragma unroll
  for (int i = 0; i < kPiece<T>; ++i) {
    float total = sum[i];
    if (kPieces * kGroups == kWarp) {
      for (int other = kWarp / 2; other >= kPieces; other /= 2) total += __shfl_xor_sync(kAll, total, other);
    } else {
#pragma unroll
      for (int g = 1; g < kGroups; ++g) total += __shfl_sync(kAll, sum[i], (lane + g * kPieces) % kWarp);
    }
    result.values[i] = from_float<T>(factor * total);
  }
  if (lane >= kPieces) return;
  if (s.C % kPiece<T> == 0) {
    *reinterpret_cast<uint4*>(out + start) = result.raw;
    return;
  }
#pragma unroll
  for (int i = 0; i < kPiece<T>; ++i)
    if (start + i < s.C) out[start + i] = result.values[i];
}

// f(number that is W) for the widths that there are kernels for; lists are int16.
template <class I, class F>
int near_width(int64_t width, const F& f) {
  if constexpr (std::is_same_v<I, int16_t>)
    return width == kWide ? f(std::integral_constant<int, kWide>()) : f(std::integral_constant<int, kNarrow>());
  return static_cast<int>(cudaErrorInvalidConfiguration);
}

template <class T, class... Parameters, class... Arguments>
int launch_near(void (*kernel)(Parameters...), const Near& near, ListShape s, void* stream, Arguments... arguments) {
  return launch_sharing(kernel, s.B * near.segments, kNearWarps * kWarp, near_bytes<T>(near), stream, arguments...);
}

}  // namespace gpu
}  // namespace focalsr
