// The CUDA kernels of focused attention, run by tests/ops/emulate.h; plain functions for ctypes.
#include "focus_sparse_cuda.cu"

using namespace focalsr::gpu;

namespace {
FocusShape shape(const int64_t* s, float scale) {
  return {{s[0], s[1], s[2], s[3], s[4], s[5]}, s[6], s[7], s[8], s[9], scale};
}
float* floats(void* x) { return static_cast<float*>(x); }
}  // namespace

extern "C" {
void set_shared_limit(int bytes) { emulate::shared_limit = bytes; }
int forward(int value, int entry, void** p, const int64_t* s, float scale) {
  const FocusForward pointers{p[0], p[1], p[2], floats(p[3]), floats(p[4]), p[5], p[6], floats(p[7]), p[8], floats(p[9])};
  return focus_sparse({Value(value), Entry(entry)}, pointers, shape(s, scale), nullptr);
}
int backward(int value, int entry, void** p, const int64_t* s, float scale) {
  const FocusBackward pointers{p[0], p[1], p[2], p[3], floats(p[4]), floats(p[5]), floats(p[6]), floats(p[7]), p[8],
                               p[9], p[10], p[11], p[12], floats(p[13]), floats(p[14]), floats(p[15]), floats(p[16]),
                               static_cast<int32_t*>(p[17])};
  return focus_sparse_backward({Value(value), Entry(entry)}, pointers, shape(s, scale), nullptr);
}
int64_t parts(const int64_t* s) { return focus_parts(shape(s, 1)); }
int64_t workspace(const int64_t* s) { return focus_workspace(shape(s, 1)); }
}
