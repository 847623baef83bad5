// The CUDA kernels of the sparse products, run by tests/ops/emulate.h; plain functions for ctypes.
#include "smm_cuda.cu"

using namespace focalsr::gpu;

extern "C" {
void set_shared_limit(int bytes) { emulate::shared_limit = bytes; }
int dot(int value, int entry, const void* x, const void* y, const void* index, void* out, const int64_t* s) {
  return smm_dot({Value(value), Entry(entry)}, x, y, index, out, {s[0], s[1], s[2], s[3], s[4], s[5]}, nullptr);
}
int sum(int value, int entry, const void* w, const void* y, const void* index, void* out, const int64_t* s) {
  return smm_sum({Value(value), Entry(entry)}, w, y, index, out, {s[0], s[1], s[2], s[3], s[4], s[5]}, nullptr);
}
int scatter(int value, int entry, const void* w, const void* x, const void* index, void* out, const int64_t* s,
            int32_t* workspace) {
  return smm_scatter({Value(value), Entry(entry)}, w, x, index, out, {s[0], s[1], s[2], s[3], s[4], s[5]}, workspace,
                     nullptr);
}
int64_t workspace(const int64_t* s) { return smm_scatter_workspace({s[0], s[1], s[2], s[3], s[4], s[5]}); }
}
