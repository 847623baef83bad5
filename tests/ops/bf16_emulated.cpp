// ops/csrc/bf16.h with the instructions for tiles emulated, so that it is tested on every processor.
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kRows = 16, kBytes = 64;  // of a tile
alignas(64) unsigned char tiles_held[8][kRows][kBytes];

void load_tile(int tile, const void* from, int64_t step) {
  for (int r = 0; r < kRows; ++r) std::memcpy(tiles_held[tile][r], static_cast<const char*>(from) + r * step, kBytes);
}

void store_tile(int tile, void* to, int64_t step) {
  for (int r = 0; r < kRows; ++r) std::memcpy(static_cast<char*>(to) + r * step, tiles_held[tile][r], kBytes);
}

float value_of(const unsigned char* row, int place) {
  uint16_t half;
  std::memcpy(&half, row + 2 * place, sizeof half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void multiply_tiles(int to, int a, int b) {
  for (int m = 0; m < kRows; ++m)
    for (int n = 0; n < kBytes / 4; ++n) {
      float sum;
      std::memcpy(&sum, tiles_held[to][m] + 4 * n, sizeof sum);
      for (int k = 0; k < kRows; ++k)
        for (int half = 0; half < 2; ++half)
          sum += value_of(tiles_held[a][m], 2 * k + half) * value_of(tiles_held[b][k], 2 * n + half);
      std::memcpy(tiles_held[to][m] + 4 * n, &sum, sizeof sum);
    }
}

}  // namespace

#define FOCALSR_BF16_TILES 1
#define _tile_loadconfig(from) static_cast<void>(from)
#define _tile_release() static_cast<void>(0)
#define _tile_zero(tile) std::memset(tiles_held[tile], 0, sizeof tiles_held[tile])
#define _tile_loadd(tile, from, step) load_tile(tile, from, step)
#define _tile_stored(tile, to, step) store_tile(tile, to, step)
#define _tile_dpbf16ps(to, a, b) multiply_tiles(to, a, b)

#include "bf16.h"

using namespace focalsr;

extern "C" {

// a: `terms` matrices one after the other, b too.
void product(
    int tiles, int64_t terms, const uint16_t* a, int64_t a_row, const uint32_t* b, int64_t b_row, float* c, int64_t c_row,
    int64_t rows, int64_t columns, int64_t pairs, int add) {
  std::vector<const uint16_t*> each;
  for (int64_t term = 0; term < terms; ++term) each.push_back(a + term * rows * a_row);
  const bf16::Operands operands{each.data(), terms, a_row, b, pairs * b_row, b_row, pairs};
  const auto multiply = tiles ? bf16::detail::product_by_tiles : bf16::detail::product_by_vectors;
  multiply(operands, c, c_row, rows, columns, add != 0);
}

void round_values(const float* from, int64_t count, uint16_t* to) {  // `count` a multiple of 32
  for (int64_t i = 0; i < count; i += 32)
    bf16::store(static_cast<void*>(to + i), bf16::rounded(bf16::load(from + i), bf16::load(from + i + 16)));
}

void powers_of_two(const float* from, int64_t count, float* to) {  // `count` a multiple of 16
  for (int64_t i = 0; i < count; i += 16) bf16::store(to + i, bf16::power_of_two(bf16::load(from + i)));
}

}
