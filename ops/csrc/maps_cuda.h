// Launchers for maps of queries and keys on CUDA: what happens between two products of whole windows; no CUDA header.
//
// Shapes as in cuda_types.h, B windows of one head; P is the length of a list after a selection. A map is dense [B, N, M]
// with M <= kMostKeys. What belongs to a query (lists, logits, sums of weights) is [., K], [., P] or [.] with `step` rows
// from one window to the next. Each launcher returns a cudaError_t.
#pragma once

#include "cuda_types.h"

namespace focalsr {
namespace gpu {

constexpr int64_t kMostKeys = 1024;  // of a window: a row of a map fits a warp's part of the shared memory twice

struct RowShape {
  int64_t B, N, M, K, P, step;
};

// What is added to a logit: the head's column of a table [T, columns] for windows of side x side tokens, and -100 between
// regions [images, N]. `first` is the number of the first window.
struct MapBias {
  const float* table;      // the column's first entry
  const uint8_t* regions;  // or null
  int64_t side, columns, images, first;
};

// One layer of focused attention. `products` are <grad, v>; of a layer that keeps its lists, `scores` and `kept` are null
// and `logits` those after the layer; else scores are <q, k>, which count `scale` times; without lists, every key counts.
// Results: `gradient` of the logits and `weights`, both maps with zeros elsewhere; d_logits [., K] where there are lists.
// In float, gradient may be the memory of products, and weights that of scores.
struct FocusMap {
  const float *products, *scores, *logits, *log_sum, *grad_next;  // grad_next may be null
  const void *lists, *kept;
  void *gradient, *weights;
  float* d_logits;
  MapBias bias;
  float scale;
};
int map_focus(Types, FocusMap, RowShape, void* stream);

// map[b, n, m] = sum of values[b, n, k] over the k that list m, in their order; the sums are float.
int map_spread(Types, const void* values, const void* lists, void* map, RowShape, void* stream);

// values[b, n, k] = map[b, n, lists[b, n, k]], of a map of float; 0 for what names no key.
int map_collect(Types, const float* map, const void* lists, void* values, RowShape, void* stream);

}  // namespace gpu
}  // namespace focalsr
