// Sizes and types that launchers of CUDA kernels take; no CUDA header.
#pragma once

#include <cstdint>

namespace focalsr {
namespace gpu {

// B batch items, N queries, M keys, K slots per query, C channels. Rows that are read are W >= C values apart, zero beyond
// C, and aligned to 16 bytes; all else is dense. Entries of a list outside [0, M) count nothing and read nothing.
struct ListShape {
  int64_t B, N, M, K, C, W;
};
enum class Value { kFloat, kHalf, kBFloat16 };
enum class Entry { kShort, kInt };
struct Types {
  Value value;
  Entry entry;
};

}  // namespace gpu
}  // namespace focalsr
