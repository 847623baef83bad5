// Launchers of the CUDA kernels in depthwise_cuda.cu, on raw pointers and a stream. Each returns a cudaError_t.
#pragma once

#include <cstdint>

namespace focalsr {
namespace gpu {

// Maps [B, H, W, C] of float32.
struct MapShape {
  int64_t B, H, W, C;
};

// parts[s, i * K + j, c] = the sum of grad[b, h, w, c] x[b, h + i - K / 2, w + j - K / 2, c] over the rows of segment s,
// zeros around x; K is 3, 5 or 7.
int depthwise_weight_parts(const float* x, const float* grad, float* parts, MapShape, int64_t K, void* stream);

// Segments of depthwise_weight_parts.
int64_t depthwise_segments(MapShape);

}  // namespace gpu
}  // namespace focalsr
