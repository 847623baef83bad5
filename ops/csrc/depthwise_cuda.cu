// The gradient of a depth-wise convolution's kernel for CUDA, in channels-last float32.
//
// A lane has a channel and all taps of its kernel. It walks along a row of the map with the K x K inputs around it in
// registers, so that each step loads a column of K inputs and one gradient. Rows are dealt out to warps; what they find
// is summed in a fixed order.

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

}  // namespace

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
