// A GPU's threads on the CPU, so that the sources of CUDA kernels can be tested without a GPU.
//
// Each thread of a block is a fiber; blocks run one after another. A warp's fibers run in turns up to their next
// collective (a shuffle, a match, a barrier), so every run is the same. Where lanes of a warp meet in different
// collectives, or a block's warps in different barriers, the process ends with a message: on a GPU that is undefined.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __restrict__ __restrict
#define __shared__ static  // one block at a time

struct Index3 {
  unsigned x, y, z;
};
inline Index3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
enum { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };

struct __half {
  _Float16 value;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __half2float(__half x) { return static_cast<float>(x.value); }
inline __half __float2half_rn(float x) { return {static_cast<_Float16>(x)}; }
inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (std::isnan(x)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};  // nearest, ties to even
}

namespace emulate {

constexpr int kLanes = 32;

enum class State { ready, collective, barrier, done };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state;
  const char* meeting;  // the collective where it waits
  unsigned long turn;   // how many it has met in
};

struct Block {
  std::vector<Fiber> fibers;
  ucontext_t scheduler;
  int current = 0;
  std::function<void()> body;
  // What lanes hand to each other; two sets in turns, since a lane may be one collective ahead of the others.
  std::vector<uint64_t> slots[2];
};
inline Block block;

// What a launch gives to each block, and how much it may be: tests say so.
inline int shared_limit = 0;
struct alignas(16) Sixteen {
  char bytes[16];
};
struct Shared {
  std::vector<Sixteen> memory;
  char* data() { return memory.data()->bytes; }
};
inline Shared shared;

inline void fail(const char* message, const char* detail) {
  std::fprintf(stderr, "emulated kernel: %s (%s), block %u\n", message, detail, blockIdx.x);
  std::abort();
}

inline void pause(State state, const char* meeting) {
  Fiber& fiber = block.fibers[block.current];
  fiber.state = state;
  fiber.meeting = meeting;
  swapcontext(&fiber.context, &block.scheduler);
}

// Hand over a value, wait for the warp, and return the values of all lanes.
inline const uint64_t* exchange(uint64_t value, unsigned mask, const char* meeting) {
  if (mask != 0xffffffffu) fail("only whole warps are emulated", meeting);
  Fiber& fiber = block.fibers[block.current];
  std::vector<uint64_t>& slots = block.slots[fiber.turn++ % 2];
  slots[block.current] = value;
  pause(State::collective, meeting);
  return slots.data() + block.current / kLanes * kLanes;
}

inline void start() {
  block.body();
  block.fibers[block.current].state = State::done;
}

// One turn for every lane of a warp; then all that live wait at the same place.
inline void advance_warp(int first) {
  Fiber* leader = nullptr;
  bool ended = false;
  for (int i = first; i < first + kLanes; ++i) {
    Fiber& fiber = block.fibers[i];
    if (fiber.state == State::ready) {
      block.current = i;
      threadIdx = {static_cast<unsigned>(i), 0, 0};
      swapcontext(&block.scheduler, &fiber.context);
    }
    if (fiber.state == State::done) {
      ended = true;
      continue;
    }
    if (leader == nullptr) leader = &fiber;
    if (fiber.state != leader->state || std::strcmp(fiber.meeting, leader->meeting) != 0)
      fail("lanes of a warp meet in different collectives", fiber.meeting);
  }
  if (leader != nullptr && ended) fail("some lanes of a warp have ended before a collective", leader->meeting);
  if (leader != nullptr && leader->state == State::collective)
    for (int i = first; i < first + kLanes; ++i) block.fibers[i].state = State::ready;
}

inline void run_block(int threads) {
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = 65536;
    fiber.context.uc_link = &block.scheduler;
    makecontext(&fiber.context, start, 0);
    fiber.state = State::ready;
    fiber.turn = 0;
  }
  while (true) {
    int waiting = 0, done = 0;
    for (int first = 0; first < threads; first += kLanes) {
      advance_warp(first);
      waiting += block.fibers[first].state == State::barrier;
      done += block.fibers[first].state == State::done;
    }
    const int warps = threads / kLanes;
    if (done == warps) return;
    if (waiting == warps) {
      for (int i = 0; i < threads; ++i) block.fibers[i].state = State::ready;
    } else if (waiting + done == warps) {
      fail("some warps of a block have ended before a barrier", "__syncthreads");
    }
  }
}

inline void launch(int64_t blocks, int threads, int64_t bytes, std::function<void()> body) {
  if (bytes > shared_limit) fail("a block may not share so much", "launch");
  if (threads % kLanes != 0) fail("only whole warps are emulated", "launch");
  while (static_cast<int>(block.fibers.size()) < threads) {
    block.fibers.emplace_back();
    block.fibers.back().stack = std::make_unique<char[]>(65536);
  }
  for (auto& slots : block.slots) slots.resize(threads);
  block.body = std::move(body);
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  gridDim = {static_cast<unsigned>(blocks), 1, 1};
  for (int64_t i = 0; i < blocks; ++i) {
    blockIdx = {static_cast<unsigned>(i), 0, 0};
    Sixteen unknown;
    std::memset(unknown.bytes, 0xff, 16);  // no number, in every type
    shared.memory.assign(bytes / 16 + 1, unknown);
    run_block(threads);
  }
}

template <class T>
uint64_t to_slot(T value) {
  uint64_t slot = 0;
  std::memcpy(&slot, &value, sizeof(T));
  return slot;
}
template <class T>
T from_slot(uint64_t slot) {
  T value;
  std::memcpy(&value, &slot, sizeof(T));
  return value;
}
inline int lane() { return block.current % kLanes; }

}  // namespace emulate

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  const uint64_t* all = emulate::exchange(emulate::to_slot(value), mask, "__shfl_sync");
  return emulate::from_slot<T>(all[source & 31]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  const uint64_t* all = emulate::exchange(emulate::to_slot(value), mask, "__shfl_xor_sync");
  return emulate::from_slot<T>(all[emulate::lane() ^ distance]);
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  const uint64_t slot = emulate::to_slot(value);
  const uint64_t* all = emulate::exchange(slot, mask, "__match_any_sync");
  unsigned same = 0;
  for (int i = 0; i < emulate::kLanes; ++i) same |= static_cast<unsigned>(all[i] == slot) << i;
  return same;
}
inline unsigned __ballot_sync(unsigned mask, bool value) {
  const uint64_t* all = emulate::exchange(value, mask, "__ballot_sync");
  unsigned set = 0;
  for (int i = 0; i < emulate::kLanes; ++i) set |= static_cast<unsigned>(all[i] != 0) << i;
  return set;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulate::exchange(0, mask, "__syncwarp"); }
inline void __syncthreads() { emulate::pause(emulate::State::barrier, "__syncthreads"); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
