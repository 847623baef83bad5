// Launchers of the CUDA kernels in focus_sparse_cuda.cu: layers of focused attention whose queries have lists of keys.
//
// Shapes as in focus_cuda.h; q, k, v, grad [B, N, W].
#pragma once

#include "focus_cuda.h"

namespace focalsr {
namespace gpu {

constexpr int64_t kLongestList = 512;  // K: two rows of it for each warp of a block fit its shared memory

// Results: out [B, N, C], next [B, N, P], next_index [B, N, P] (where P < K), log_sum [B, N].
struct FocusForward {
  const void *q, *k, *v;
  const float *table, *logits;
  const void* index;
  void* out;
  float* next;
  void* next_index;
  float* log_sum;
};
int focus_sparse(Types, FocusForward, FocusShape, void* stream);

// kept [B, N, P] is the list after the selection, or null where all keys are kept: logits are then those after the layer.
// grad_next [B, N, P] may be null. Results: d_q, d_k, d_v [B, N, C], d_table [T, columns], d_logits [B, N, K].
// weights [B, N, P], parts (focus_parts numbers) and workspace (focus_workspace numbers) are scratch.
struct FocusBackward {
  const void *grad, *q, *k, *v;
  const float *grad_next, *table, *logits, *log_sum;
  const void *index, *kept;
  void *d_q, *d_k, *d_v;
  float *d_table, *d_logits, *weights, *parts;
  int32_t* workspace;
};
int focus_sparse_backward(Types, FocusBackward, FocusShape, void* stream);
int64_t focus_parts(FocusShape);
int64_t focus_workspace(FocusShape);

}  // namespace gpu
}  // namespace focalsr
