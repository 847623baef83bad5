// Depth-wise convolutions for CUDA, channels last, and the gradient of their kernels in float32.
//
// A lane has a channel and all taps of its kernel. A convolution walks along kStrip rows of the map at once: each step
// loads a column of inputs and adds it to the results of the K columns that see it, all of them in registers.
//
// The gradient walks along a row with the K x K inputs around it in registers, so that each step loads a column of K
// inputs and one gradient. Rows are dealt out to warps; what they find is summed in a fixed order.

#include "depthwise_cuda.h"

#include "cuda_common.h"

namespace focalsr {
namespace gpu {
namespace {

constexpr int64_t kBlocks = 1056;  // wanted, to fill a large GPU

template <int K>
__global__ void weight_parts_kernel(const float* x, const float* grad, float* parts, MapShape s, int64_t segments) {
  __shared__ float found[kWarps][kWarp];
  constexpr int kReach = K / 2;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t groups = (s.C + kWarp - 1) / kWarp, segment = blockIdx.x / groups;
  const int64_t c = blockIdx.x % groups * kWarp + lane;
  const bool real = c < s.C;
  float sum[K][K] = {};
  for (int64_t row = segment * kWarps + warp; row < s.B * s.H; row += segments * kWarps) {
    const int64_t h = row % s.H;
    const float* const own = x + row * s.W * s.C + c;  // of the map's row `row`
    const auto at = [&](int i, int64_t w) {
      const bool inside = real && h + i >= kReach && h + i - kReach < s.H && w < s.W;
      return inside ? own[((i - kReach) * s.W + w) * s.C] : 0.0f;
    };
    float near[K][K] = {};  // columns w - kReach to w + kReach
#pragma unroll
    for (int i = 0; i < K; ++i)
#pragma unroll
      for (int j = 0; j < kReach; ++j) near[i][kReach + 1 + j] = at(i, j);
#pragma unroll 4
    for (int64_t w = 0; w < s.W; ++w) {
      const float up = real ? grad[(row * s.W + w) * s.C + c] : 0.0f;
#pragma unroll
      for (int i = 0; i < K; ++i) {
#pragma unroll
        for (int j = 0; j + 1 < K; ++j) near[i][j] = near[i][j + 1];
        near[i][K - 1] = at(i, w + kReach);
#pragma unroll
        for (int j = 0; j < K; ++j) sum[i][j] += up * near[i][j];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < K; ++i)
#pragma unroll
    for (int j = 0; j < K; ++j) {
      found[warp][lane] = sum[i][j];
      __syncthreads();
      if (warp == 0 && real) {
        float total = 0;
        for (int other = 0; other < kWarps; ++other) total += found[other][lane];
        parts[(segment * K * K + i * K + j) * s.C + c] = total;
      }
      __syncthreads();
    }
}

template <int K>
int start(const float* x, const float* grad, float* parts, MapShape s, void* stream) {
  const int64_t segments = depthwise_segments(s), groups = (s.C + kWarp - 1) / kWarp;
  return launch_blocks(weight_parts_kernel<K>, groups * segments, kWarp * kWarps, stream, x, grad, parts, s, segments);
}

// ---------------------------------------------------------------------------------------------------------------------
// The convolution

constexpr int kStrip = 4;

template <class T, int K>
__global__ void __launch_bounds__(kWarp * kWarps, 2)
    convolution_kernel(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias,
                       T* __restrict__ out, MapShape s, int columns, bool turned) {
  constexpr int kReach = K / 2, kTaps = K * K, kInputs = kStrip + K - 1;
  __shared__ float taps[kWarp * kTaps];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int groups = static_cast<int>((s.C + kWarp - 1) / kWarp), group = static_cast<int>(blockIdx.x) % groups;
  const int64_t first = static_cast<int64_t>(group) * kWarp * kTaps;  // of the group's taps, which lie side by side
  for (int at = static_cast<int>(threadIdx.x); at < kWarp * kTaps; at += kWarp * kWarps)
    taps[at] = first + at < s.C * kTaps ? to_float(weight[first + at]) : 0;
  __syncthreads();
  const int64_t strips = (s.H + kStrip - 1) / kStrip, cuts = (s.W + columns - 1) / columns;
  const int64_t tile = static_cast<int64_t>(blockIdx.x / groups) * kWarps + warp, c = group * kWarp + lane;
  if (tile >= s.B * strips * cuts || c >= s.C) return;
  const int height = static_cast<int>(s.H), width = static_cast<int>(s.W);
  const int start = static_cast<int>(tile % cuts) * columns, top = static_cast<int>(tile / cuts % strips) * kStrip;
  const int stop = start + columns < width ? start + columns : width;
  const int64_t image = tile / cuts / strips * s.H;
  const int channels = static_cast<int>(s.C), row_step = width * channels;
  float own[kTaps];
#pragma unroll
  for (int i = 0; i < kTaps; ++i) own[i] = taps[lane * kTaps + (turned ? kTaps - 1 - i : i)];
  const float base = bias == nullptr ? 0 : to_float(bias[c]);
  // The inputs of the first row, which may be above the map, and column; the result that is complete with that column.
  const T* from = x + ((image + top - kReach) * width + start - kReach) * channels + c;
  T* to = out + ((image + top) * width + start - 2 * kReach) * channels + c;
  const int above = top < kReach ? kReach - top : 0, below = height - top + kReach;  // rows of inputs from and to
  const auto load = [&](int w, T (&inputs)[kInputs]) {
    const bool inside = w >= 0 && w < width;
#pragma unroll
    for (int i = 0; i < kInputs; ++i)
      inputs[i] = inside && i >= above && i < below ? from[i * row_step] : from_float<T>(0);
    from += channels;
  };
  float sum[kStrip][K];  // of the columns w - kReach to w + kReach
#pragma unroll
  for (int r = 0; r < kStrip; ++r)
#pragma unroll
    for (int j = 0; j < K; ++j) sum[r][j] = base;
  T inputs[kInputs], following[kInputs];
  load(start - kReach, following);
#pragma unroll 1
  for (int w = start - kReach; w < stop + kReach; ++w) {
#pragma unroll
    for (int i = 0; i < kInputs; ++i) inputs[i] = following[i];
    load(w + 1, following);
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      const float input = to_float(inputs[i]);
#pragma unroll
      for (int r = 0; r < kStrip; ++r)
#pragma unroll
        for (int j = 0; j < K; ++j)
          if (i >= r && i < r + K) sum[r][K - 1 - j] += input * own[(i - r) * K + j];
    }
#pragma unroll
    for (int r = 0; r < kStrip; ++r) {
      if (w - kReach >= start && top + r < height) to[r * row_step] = from_float<T>(sum[r][0]);
#pragma unroll
      for (int j = 0; j + 1 < K; ++j) sum[r][j] = sum[r][j + 1];
      sum[r][K - 1] = base;
    }
    to += channels;
  }
}

template <class T, int K>
int convolve(const void* x, const void* weight, const void* bias, void* out, MapShape s, bool turned, void* stream) {
  const int64_t groups = (s.C + kWarp - 1) / kWarp, strips = s.B * ((s.H + kStrip - 1) / kStrip);
  const auto blocks = [&](int columns) {
    const int64_t tiles = strips * ((s.W + columns - 1) / columns);
    return groups * ((tiles + kWarps - 1) / kWarps);
  };
  int columns = 32;  // at the ends of a cut, a part of the work is lost
  while (columns > 8 && blocks(columns) < this_device().processors) columns /= 2;
  return launch_blocks(convolution_kernel<T, K>, blocks(columns), kWarp * kWarps, stream, static_cast<const T*>(x),
                       static_cast<const T*>(weight), static_cast<const T*>(bias), static_cast<T*>(out), s, columns,
                       turned);
}

}  // namespace

int depthwise_convolve(Value value, const void* x, const void* weight, const void* bias, void* out, MapShape s,
                       int64_t K, bool turned, void* stream) {
  return by_value(value, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    switch (K) {
      case 3: return convolve<T, 3>(x, weight, bias, out, s, turned, stream);
      case 5: return convolve<T, 5>(x, weight, bias, out, s, turned, stream);
      case 7: return convolve<T, 7>(x, weight, bias, out, s, turned, stream);
      default: return static_cast<int>(cudaErrorInvalidConfiguration);
    }
  });
}

int64_t depthwise_segments(MapShape s) {
  const int64_t rows = (s.B * s.H + kWarps - 1) / kWarps, groups = (s.C + kWarp - 1) / kWarp;
  const int64_t wanted = (kBlocks + groups - 1) / (groups < 1 ? 1 : groups);
  return rows < 1 ? 1 : rows < wanted ? rows : wanted;
}

int depthwise_weight_parts(const float* x, const float* grad, float* parts, MapShape s, int64_t K, void* stream) {
  switch (K) {
    case 3: return start<3>(x, grad, parts, s, stream);
    case 5: return start<5>(x, grad, parts, s, stream);
    case 7: return start<7>(x, grad, parts, s, stream);
    default: return static_cast<int>(cudaErrorInvalidConfiguration);
  }
}

}  // namespace gpu
}  // namespace focalsr
