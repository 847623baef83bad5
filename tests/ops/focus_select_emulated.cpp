// The CUDA kernels of focused attention that select, run by tests/ops/emulate.h; plain functions for ctypes.
#include "focus_select_cuda.cu"

using namespace focalsr::gpu;

namespace {
SelectShape shape(const int64_t* s) {
  const FocusShape focus{{s[0], s[1], s[1], s[2], s[3], s[4]}, s[2], s[5], s[6], s[7], 1.0f};
  return {focus, s[8], s[9], s[10], s[11]};
}
float* floats(void* x) { return static_cast<float*>(x); }
SelectOperands operands(void** p) {
  return {p[0], p[1], p[2], p[3], p[4], floats(p[5]), static_cast<const uint8_t*>(p[6])};
}
}  // namespace

extern "C" {
int forward(int value, int, void** p, const int64_t* s) {
  const SelectForward pointers{operands(p), p[7], floats(p[8]), static_cast<int16_t*>(p[9]), floats(p[10])};
  return focus_select(Value(value), pointers, shape(s), nullptr);
}
int backward(int value, int, void** p, const int64_t* s) {
  const SelectBackward pointers{operands(p), p[7], floats(p[8]), floats(p[9]), static_cast<const int16_t*>(p[10]), p[11],
                                p[12], p[13], floats(p[14]), floats(p[15]), floats(p[16]), floats(p[17]), floats(p[18]),
                                floats(p[19]), static_cast<int32_t*>(p[20])};
  return focus_select_backward(Value(value), pointers, shape(s), nullptr);
}
int64_t parts(const int64_t* s) { return focus_select_parts(shape(s)); }
int64_t workspace(const int64_t* s) { return focus_select_workspace(shape(s)); }
}
