// Sizes that launchers of focused attention on CUDA take; no CUDA header.
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

}  // namespace gpu
}  // namespace focalsr
