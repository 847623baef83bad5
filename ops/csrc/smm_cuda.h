// Launchers of the CUDA kernels in smm_cuda.cu, on raw pointers and a stream.
//
// Shapes as in cuda_types.h: rows that are read are x [B, N, W] and y [B, M, W]. Each function returns a cudaError_t.
#pragma once

#include "cuda_types.h"

namespace focalsr {
namespace gpu {

// out[b, n, k] = <x[b, n], y[b, index[b, n, k]]>
int smm_dot(Types, const void* x, const void* y, const void* index, void* out, ListShape, void* stream);

// out[b, n] = sum_k w[b, n, k] y[b, index[b, n, k]]
int smm_sum(Types, const void* w, const void* y, const void* index, void* out, ListShape, void* stream);

// out[b, m] = sum of w[b, n, k] x[b, n] over all (n, k) that list m, in their order; N * K < 2^31
int smm_scatter(Types, const void* w, const void* x, const void* index, void* out, ListShape, int32_t* workspace,
                void* stream);

// int32 numbers in the workspace of smm_scatter.
int64_t smm_scatter_workspace(ListShape);

}  // namespace gpu
}  // namespace focalsr
