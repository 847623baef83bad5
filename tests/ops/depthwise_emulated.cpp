// The CUDA kernels of a depth-wise convolution, run by tests/ops/emulate.h; plain functions for ctypes.
#include "depthwise_cuda.cu"

using namespace focalsr::gpu;

extern "C" {
int convolve(int value, int, void* const* p, const int64_t* s, int64_t side, int turned) {
  return depthwise_convolve(Value(value), p[0], p[1], p[2], p[3], {s[0], s[1], s[2], s[3]}, side, turned != 0, nullptr);
}
int64_t segments(const int64_t* s) { return depthwise_segments({s[0], s[1], s[2], s[3]}); }
int parts(int, int, void* const* buffers, const int64_t* s, int64_t side) {
  return depthwise_weight_parts(static_cast<const float*>(buffers[0]), static_cast<const float*>(buffers[1]),
                                static_cast<float*>(buffers[2]), {s[0], s[1], s[2], s[3]}, side, nullptr);
}
}
