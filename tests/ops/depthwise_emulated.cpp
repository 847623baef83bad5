// The CUDA kernel of a depth-wise convolution's gradient, run by tests/ops/emulate.h; plain functions for ctypes.
#include "depthwise_cuda.cu"

using namespace focalsr::gpu;

extern "C" {
int64_t segments(const int64_t* s) { return depthwise_segments({s[0], s[1], s[2], s[3]}); }
int parts(int, int, void* const* buffers, const int64_t* s, int64_t side) {
  return depthwise_weight_parts(static_cast<const float*>(buffers[0]), static_cast<const float*>(buffers[1]),
                                static_cast<float*>(buffers[2]), {s[0], s[1], s[2], s[3]}, side, nullptr);
}
}
