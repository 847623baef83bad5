// Launchers of the CUDA kernels in depthwise_cuda.cu, on raw pointers and a stream. Each returns a cudaError_t.
#pragma once

#include <cstdint>

#include "cuda_types.h"

namespace focalsr {
namespace gpu {

// Maps [B, H, W, C].
struct MapShape {
  int64_t B, H, W, C;
};

// K is 3, 5 or 7; around x there are zeros.

// out[b, h, w, c] = bias[c] + the sum of weight[c, i, j] x[b, h + i - K / 2, w + j - K / 2, c]. `bias` may be null;
// `turned`: the kernel is turned by 180 degrees, which gives the gradient of x.
int depthwise_convolve(Value, const void* x, const void* weight, const void* bias, void* out, MapShape, int64_t K,
                       bool turned, void* stream);

// parts[s, i * K + j, c] = the sum of grad[b, h, w, c] x[b, h + i - K / 2, w + j - K / 2, c] over the rows of segment s.
int depthwise_weight_parts(const float* x, const float* grad, float* parts, MapShape, int64_t K, void* stream);

// Segments of depthwise_weight_parts.
int64_t depthwise_segments(MapShape);

}  // namespace gpu
}  // namespace focalsr
