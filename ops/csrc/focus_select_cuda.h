// Launchers of the CUDA kernels in focus_select_cuda.cu: layers of focused attention that see all keys and keep some.
//
// Shapes as in focus_cuda.h with K = P and `scale` 1: queries are scaled already. S is the width of joined queries and
// keys, R the values from one of their rows to the next, A the values from one channel to the next where they lie channel
// by channel; A and R are multiples of 4, and there are zeros beyond N. `images` is the number of windows of an image.
#pragma once

#include "focus_cuda.h"

namespace focalsr {
namespace gpu {

// N: a row of it for each warp of a block fits its shared memory. Lists are int16.
constexpr int64_t kMostTokens = 1024;

struct SelectShape {
  FocusShape focus;
  int64_t S, R, A, images;
};

// q, k [B, N, R]; q_t, k_t [B, S, A]; v, grad [B, N, W]; table [T, columns]; regions [images, N], or null.
struct SelectOperands {
  const void *q, *k, *q_t, *k_t, *v;
  const float* table;
  const uint8_t* regions;
};

// Results: out [B, N, C], logits and index [B, N, P], log_sum [B, N].
struct SelectForward {
  SelectOperands x;  // without k and q_t
  void* out;
  float* logits;
  int16_t* index;
  float* log_sum;
};
int focus_select(Value, SelectForward, SelectShape, void* stream);

// grad_logits [B, N, P] may be null. Results: d_q, d_k [B, N, S], d_v [B, N, C], d_table [T, columns].
// shift, mean [B, N], weights, extra [B, N, P], parts (focus_select_parts numbers) and workspace
// (focus_select_workspace numbers) are scratch.
struct SelectBackward {
  SelectOperands x;
  const void* grad;
  const float *grad_logits, *log_sum;
  const int16_t* index;
  void *d_q, *d_k, *d_v;
  float *d_table, *shift, *mean, *weights, *extra, *parts;
  int32_t* workspace;
};
int focus_select_backward(Value, SelectBackward, SelectShape, void* stream);
int64_t focus_select_parts(SelectShape);
int64_t focus_select_workspace(SelectShape);

}  // namespace gpu
}  // namespace focalsr
