// Launchers of focused attention on CUDA, and the sizes that they take; no CUDA header.
//
// Shapes as in cuda_types.h with B = windows * heads, N = M tokens of a window, K the length of the list so far; besides
// P <= K its length after the selection, T = (2 side - 1)^2 rows of the table, which has `columns` = 1 or heads columns.
// Lists are ascending, their keys distinct. Results of C channels are [windows, N, heads, C]. Numbers that are not values
// (logits, tables, sums of weights) are float. Each launcher returns a cudaError_t.
#pragma once

#include "cuda_types.h"

namespace focalsr {
namespace gpu {

struct FocusShape {
  ListShape list;
  int64_t P, side, heads, columns;
  float scale;
};

// ---------------------------------------------------------------------------------------------------------------------
// focus_select_cuda.cu: layers that see all keys and keep some.
//
// K = P and `scale` 1: queries are scaled already. S is the width of joined queries and keys, R the values from one of
// their rows to the next, A the values from one channel to the next where they lie channel by channel; A and R are
// multiples of 4, and there are zeros beyond N. `images` is the number of windows of an image.

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

// ---------------------------------------------------------------------------------------------------------------------
// focus_sparse_cuda.cu: layers whose queries have lists of keys; q, k, v, grad are [B, N, W].

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
