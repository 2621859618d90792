// SPDX-License-Identifier: Apache-2.0
//
// Kernels of tools/kvtier-decode/device on a CPU: each thread of a launch is a fiber, and the instructions of
// primitives.cuh are functions here. A test includes this, then the .cu file. One launch at a time, on one thread.
//
// What it shows: indices, layouts of matrices, order of work, waiting between warps. Warps go ahead at random speeds.
// Asynchronous copies read their source and write their target as late as the kernel allows. What it does not show:
// the memory model (one thread runs it all) and time.
#pragma once

#include <ucontext.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/support/short_floats.h"

// The words of CUDA. Static shared memory is one block's: kernels that have some run block by block.
#define __device__
#define __global__
#define __grid_constant__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct uint4 {
  uint32_t x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

namespace kvt::warps {

inline constexpr size_t kStackBytes = 128 << 10;

struct Index {
  unsigned x = 0;
};
struct Warp {
  std::array<std::array<uint64_t, 32>, 2> values{};  ///< of two rounds: no lane is further ahead
  int arrived = 0;
  uint64_t round = 0;
};
struct Block {
  std::vector<char> shared;
  unsigned threads = 0;
  unsigned arrived = 0;
  uint64_t round = 0;
};
struct Copy {
  uint32_t to;
  const char* from;
  int bytes;
};
/// Where a stack of calls goes on. Kernel calls of swapcontext() would take most of the time: it makes a stack's first
/// frame alone.
struct Place {
  void* words[5];  ///< of __builtin_setjmp
};
struct Fiber {
  ucontext_t context{};
  Place place{};
  bool begun = false;
  char* stack = nullptr;
  Index thread, block;
  Warp* warp = nullptr;
  Block* shared = nullptr;
  bool done = false;
  std::vector<Copy> copies;              ///< of the group that is open
  std::deque<std::vector<Copy>> groups;  ///< closed, and not waited for
};
struct Machine {
  Fiber* current = nullptr;
  ucontext_t unused{};  ///< nobody returns to where a fiber was first entered
  Place scheduler{};
  Index block_size, grid_size;
  std::function<void()> kernel;
  std::vector<std::unique_ptr<char[]>> stacks;  ///< kept for the launches to come
};
inline Machine machine;

[[noreturn, gnu::noinline]] inline void jump(Place& to) { __builtin_longjmp(to.words, 1); }
[[gnu::noinline]] inline void yield() {
  if (__builtin_setjmp(machine.current->place.words) == 0) jump(machine.scheduler);
}
/// Goes on with `machine.current`, until it yields.
[[gnu::noinline]] inline void resume() {
  if (__builtin_setjmp(machine.scheduler.words) != 0) return;
  if (machine.current->begun) jump(machine.current->place);
  machine.current->begun = true;
  ::swapcontext(&machine.unused, &machine.current->context);
}
inline int lane() { return static_cast<int>(machine.current->thread.x % 32); }

/// What every lane of the warp gave.
inline std::array<uint64_t, 32> all_lanes(uint64_t value) {
  Warp& warp = *machine.current->warp;
  const uint64_t round = warp.round;
  auto& values = warp.values[round % 2];
  values[lane()] = value;
  if (++warp.arrived == 32) {
    warp.arrived = 0;
    ++warp.round;
  }
  while (warp.round == round) yield();
  return values;
}
template <typename T>
uint64_t pack(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <typename T>
T unpack(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void fiber_main() {
  machine.kernel();
  machine.current->done = true;
  yield();
}

/// Apart, for getcontext() could return twice.
[[gnu::noinline]] inline void prepare(Fiber& fiber) {
  ::getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  ::makecontext(&fiber.context, fiber_main, 0);
}

/// Runs a launch to its end; throws when it does not come to one. `seed` chooses who goes ahead.
inline void launch(unsigned blocks, unsigned threads, size_t shared_bytes, uint64_t seed,
                   const std::function<void()>& kernel, unsigned first_block = 0, unsigned grid = 0) {
  machine.kernel = kernel;
  machine.block_size.x = threads;
  machine.grid_size.x = grid != 0 ? grid : blocks;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<std::unique_ptr<Warp>> warps;
  std::vector<std::unique_ptr<Block>> places;
  for (unsigned b = 0; b < blocks; ++b) {
    places.push_back(std::make_unique<Block>());
    places.back()->shared.assign(shared_bytes, static_cast<char>(0xff));
    places.back()->threads = threads;
    for (unsigned t = 0; t < threads; ++t) {
      if (t % 32 == 0) warps.push_back(std::make_unique<Warp>());
      auto fiber = std::make_unique<Fiber>();
      const size_t number = b * size_t{threads} + t;
      if (number == machine.stacks.size())
        machine.stacks.push_back(std::unique_ptr<char[]>(new char[kStackBytes]));  // NOLINT: not to be zeroed
      fiber->stack = machine.stacks[number].get();
      fiber->thread.x = t;
      fiber->block.x = first_block + b;
      fiber->warp = warps.back().get();
      fiber->shared = places.back().get();
      prepare(*fiber);
      fibers.push_back(std::move(fiber));
    }
  }
  size_t left = fibers.size();
  for (uint64_t round = 0; left != 0; ++round) {
    if (round == 10'000'000) throw std::runtime_error("the kernel comes to no end");
    left = 0;
    for (size_t first = 0; first < fibers.size(); first += 32) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      const bool waits = seed >> 62 == 0;
      for (size_t i = first; i < first + 32; ++i) {
        if (fibers[i]->done) continue;
        ++left;
        if (waits) continue;
        machine.current = fibers[i].get();
        resume();
      }
    }
  }
}
/// For kernels with static shared memory.
inline void launch_by_block(unsigned blocks, unsigned threads, const std::function<void()>& kernel) {
  for (unsigned b = 0; b < blocks; ++b) launch(1, threads, 0, b, kernel, b, blocks);
}

}  // namespace kvt::warps

#define threadIdx (kvt::warps::machine.current->thread)
#define blockIdx (kvt::warps::machine.current->block)
#define blockDim (kvt::warps::machine.block_size)
#define gridDim (kvt::warps::machine.grid_size)

template <typename T>
T __shfl_sync(unsigned, T value, int from) {
  return kvt::warps::unpack<T>(kvt::warps::all_lanes(kvt::warps::pack(value))[from & 31]);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return kvt::warps::unpack<T>(kvt::warps::all_lanes(kvt::warps::pack(value))[kvt::warps::lane() ^ mask]);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int by) {
  const int lane = kvt::warps::lane();
  return kvt::warps::unpack<T>(kvt::warps::all_lanes(kvt::warps::pack(value))[lane >= by ? lane - by : lane]);
}
inline unsigned __ballot_sync(unsigned, bool value) {
  const auto all = kvt::warps::all_lanes(value ? 1 : 0);
  unsigned bits = 0;
  for (unsigned i = 0; i < 32; ++i) bits |= static_cast<unsigned>(all[i]) << i;
  return bits;
}
inline bool __any_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) != 0; }
inline int __reduce_add_sync(unsigned, int value) {
  int sum = 0;
  for (const uint64_t one : kvt::warps::all_lanes(kvt::warps::pack(value)))
    sum += kvt::warps::unpack<int>(one);
  return sum;
}
inline void __syncwarp() { kvt::warps::all_lanes(0); }
inline void __syncthreads() {
  kvt::warps::Block& block = *kvt::warps::machine.current->shared;
  const uint64_t round = block.round;
  if (++block.arrived == block.threads) {
    block.arrived = 0;
    ++block.round;
  }
  while (block.round == round) kvt::warps::yield();
}
inline void __nanosleep(unsigned) { kvt::warps::yield(); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int atomicAdd(int* p, int by) {
  const int before = *p;
  *p += by;
  return before;
}
inline int min(int a, int b) { return a < b ? a : b; }

namespace kvt::decode {
namespace {

constexpr uint32_t kSharedBase = 1024;  ///< no address of shared memory is 0

inline char* shared_at(uint32_t address) {
  return warps::machine.current->shared->shared.data() + (address - kSharedBase);
}
inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const char*>(p) - warps::machine.current->shared->shared.data()) +
         kSharedBase;
}
inline char* dynamic_shared() { return warps::machine.current->shared->shared.data(); }

inline uint32_t load_relaxed(const void* p) { return *static_cast<const volatile uint32_t*>(p); }
inline uint32_t load_acquire(const void* p) { return load_relaxed(p); }
inline void add_release(uint32_t* p) { ++*p; }
inline void store_global(char* to, uint4 v) { std::memcpy(to, &v, sizeof v); }
inline uint4 shared_load(uint32_t from) {
  uint4 v;
  std::memcpy(&v, shared_at(from), sizeof v);
  return v;
}
inline void copy_async_or_zero(uint32_t to, const char* from, int bytes) {
  if (to % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0)
    throw std::runtime_error("a copy is not aligned");
  warps::machine.current->copies.push_back({to, from, bytes});
}
inline void copy_async(uint32_t to, const char* from) { copy_async_or_zero(to, from, 16); }
inline void copy_async_link(uint32_t to, const char* from) { copy_async_or_zero(to, from, 16); }
inline void copies_commit() {
  warps::machine.current->groups.push_back(std::move(warps::machine.current->copies));
  warps::machine.current->copies.clear();
}
template <int kLeft>
void copies_wait() {
  auto& groups = warps::machine.current->groups;
  for (; groups.size() > kLeft; groups.pop_front())
    for (const warps::Copy& copy : groups.front()) {
      std::memset(shared_at(copy.to), 0, 16);
      std::memcpy(shared_at(copy.to), copy.from, static_cast<size_t>(copy.bytes));
    }
}

/// Lane 8 * i + r names row r of matrix i; a lane gets two neighbours of row lane / 4, or of column lane / 4.
inline void load_matrices(uint32_t (&m)[4], uint32_t from, bool transposed) {
  const auto rows = warps::all_lanes(from);
  const int major = warps::lane() / 4;
  const int minor = warps::lane() % 4 * 2;
  for (int i = 0; i < 4; ++i) {
    uint16_t two[2];
    for (int j = 0; j < 2; ++j) {
      const int row = transposed ? minor + j : major;
      const int column = transposed ? major : minor + j;
      std::memcpy(&two[j], shared_at(static_cast<uint32_t>(rows[8 * i + row])) + 2 * column, 2);
    }
    std::memcpy(&m[i], two, 4);
  }
}
inline void matrices(uint32_t (&m)[4], uint32_t from) { load_matrices(m, from, false); }
inline void matrices_transposed(uint32_t (&m)[4], uint32_t from) { load_matrices(m, from, true); }

inline float to_float(__half v) { return test::from_half(v.bits); }
inline float to_float(__nv_bfloat16 v) { return test::from_bfloat(v.bits); }

template <typename T>
struct Element {
  static T from(float value) {
    if constexpr (std::is_same_v<T, __half>)
      return T{test::to_half(value)};
    else
      return T{test::to_bfloat(value)};
  }
  static uint32_t pack(float low, float high) { return from(low).bits | uint32_t{from(high).bits} << 16; }
  static float half_of(uint32_t word, int which) {
    return to_float(T{static_cast<uint16_t>(which != 0 ? word >> 16 : word)});
  }
  /// A: element [r][k] is in register (r >= 8) + 2 * (k >= 8) of lane r % 8 * 4 + k % 8 / 2; B: [k][c] in register
  /// (k >= 8) of lane c * 4 + k % 8 / 2; D: [r][c] in register (r >= 8) * 2 + c % 2 of lane r % 8 * 4 + c / 2.
  static void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const auto a_low = warps::all_lanes(a[0] | uint64_t{a[1]} << 32);
    const auto a_high = warps::all_lanes(a[2] | uint64_t{a[3]} << 32);
    const auto b = warps::all_lanes(b0 | uint64_t{b1} << 32);
    for (int i = 0; i < 4; ++i) {
      const int row = warps::lane() / 4 + i / 2 * 8;
      const int column = warps::lane() % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k) {
        const int pair = k % 8 / 2;
        const uint64_t left = (k < 8 ? a_low : a_high)[row % 8 * 4 + pair] >> (row < 8 ? 0 : 32);
        const uint64_t right = b[column * 4 + pair] >> (k < 8 ? 0 : 32);
        d[i] += half_of(static_cast<uint32_t>(left), k % 2) * half_of(static_cast<uint32_t>(right), k % 2);
      }
    }
  }
};

inline float power2(float x) { return std::exp2(x); }

}  // namespace
}  // namespace kvt::decode
