// The CUDA kernels between products of whole windows, run by tests/ops/emulate.h; plain functions for ctypes.
#include "maps_cuda.cu"

using namespace focalsr::gpu;

namespace {
float* floats(void* x) { return static_cast<float*>(x); }
RowShape shape(const int64_t* s) { return {s[0], s[1], s[2], s[3], s[4], s[5]}; }
}  // namespace

extern "C" {
int focus(int value, int entry, void** p, const int64_t* s, float scale) {
  const MapBias bias{floats(p[7]), static_cast<const uint8_t*>(p[8]), s[6], s[7], s[8], s[9]};
  const FocusMap layer{floats(p[0]), floats(p[1]), floats(p[2]), floats(p[3]), floats(p[4]), p[5],
                       p[6],         p[10],        p[11],        floats(p[9]), bias,         scale};
  return map_focus({Value(value), Entry(entry)}, layer, shape(s), nullptr);
}
int spread(int value, int entry, void** p, const int64_t* s) {
  return map_spread({Value(value), Entry(entry)}, p[0], p[1], p[2], shape(s), nullptr);
}
int collect(int value, int entry, void** p, const int64_t* s) {
  return map_collect({Value(value), Entry(entry)}, floats(p[0]), p[1], p[2], shape(s), nullptr);
}
}
