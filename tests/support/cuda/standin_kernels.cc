// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <kvtier/device.cuh>
#include <utility>

#include "daemon/mover/device/page_sums.h"
#include "tests/support/cuda/kernels.h"
#include "tests/support/cuda/standin.h"
#include "tests/support/cuda/state.h"
#include "tools/kvtier-replay/device/verify.h"

namespace kvt::standin {
namespace {

uint64_t mix(uint64_t x) {
  uint64_t z = x + 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

struct Change {
  uint32_t page;
  uint32_t frame;
};

// Words of a map are read and written one by one, as a GPU does, while other streams use others of them.

/// kvt_map_apply(uint32_t* map, const uint2* changes, uint32_t count)
void map_apply(KernelCall& call) {
  const auto map = call.argument<uint64_t>(0);
  const auto count = call.argument<uint32_t>(2);
  const Change* const changes = call.memory<Change>(call.argument<uint64_t>(1), count, Use::kRead);
  for (uint32_t i = 0; changes != nullptr && i < count; ++i) {
    auto* const word = call.memory<uint32_t>(map + uint64_t{4} * changes[i].page, 1, Use::kWrite);
    if (word == nullptr) return;
    __atomic_store_n(word, changes[i].frame, __ATOMIC_RELAXED);
  }
}

/// kvt_translate(const uint32_t* map, const int32_t* pages, int32_t* frames, uint32_t count, uint32_t length)
void translate(KernelCall& call) {
  const auto map = call.argument<uint64_t>(0);
  const auto count = call.argument<uint32_t>(3);
  const auto length = call.argument<uint32_t>(4);
  const auto* const pages = call.memory<int32_t>(call.argument<uint64_t>(1), count, Use::kRead);
  auto* const frames = call.memory<int32_t>(call.argument<uint64_t>(2), count, Use::kWrite);
  for (uint32_t i = 0; pages != nullptr && frames != nullptr && i < count; ++i) {
    if (static_cast<uint32_t>(pages[i]) >= length) {
      frames[i] = 0;
      continue;
    }
    auto* const word =
        call.memory<uint32_t>(map + uint64_t{4} * static_cast<uint32_t>(pages[i]), 1, Use::kRead);
    if (word == nullptr) return;
    const uint32_t frame = __atomic_load_n(word, __ATOMIC_RELAXED);
    frames[i] = frame == UINT32_MAX ? 0 : static_cast<int32_t>(frame);
  }
}

/// The counters that a launch uses, with what follows them.
device::Touches* touches_of(KernelCall& call, uint64_t address) {
  const auto* const header = call.memory<device::Touches>(address, 1, Use::kWrite);
  if (header == nullptr) return nullptr;
  const uint64_t words = sizeof *header / 4 + header->pages + header->capacity;
  return reinterpret_cast<device::Touches*>(call.memory<uint32_t>(address, words, Use::kWrite));
}

/// kvt_touches_take(Touches* touches, Touched* taken, uint32_t* count)
void touches_take(KernelCall& call) {
  device::Touches* const touches = touches_of(call, call.argument<uint64_t>(0));
  if (touches == nullptr) return;
  const uint32_t length = std::min(touches->length, touches->capacity);
  auto* const taken = call.memory<device::Touched>(call.argument<uint64_t>(1), length, Use::kWrite);
  auto* const count = call.memory<uint32_t>(call.argument<uint64_t>(2), 1, Use::kWrite);
  if (taken == nullptr || count == nullptr) return;
  for (uint32_t i = 0; i < length; ++i) {
    const uint32_t page = touches->list()[i];
    taken[i] = {page, std::exchange(touches->counts()[page], 0u)};
  }
  touches->length = 0;
  *count = length;
}

/// kvt_test_touch(Touches* touches, const uint32_t* pages, uint32_t count, uint32_t reads): a reader that counts.
void test_touch(KernelCall& call) {
  device::Touches* const touches = touches_of(call, call.argument<uint64_t>(0));
  const auto count = call.argument<uint32_t>(2);
  const auto* const pages = call.memory<uint32_t>(call.argument<uint64_t>(1), count, Use::kRead);
  for (uint32_t i = 0; touches != nullptr && pages != nullptr && i < count; ++i) {
    if (pages[i] >= touches->pages) continue;
    uint32_t& counted = touches->counts()[pages[i]];
    const uint32_t before = std::exchange(counted, counted + call.argument<uint32_t>(3));
    if (before != 0) continue;
    if (touches->length < touches->capacity)
      touches->list()[touches->length++] = pages[i];
    else
      counted = 0;
  }
}

/// kvt_fill(uint64_t* data, uint64_t words, uint64_t seed)
void fill(KernelCall& call) {
  const auto words = call.argument<uint64_t>(1);
  const auto seed = call.argument<uint64_t>(2);
  auto* const data = call.memory<uint64_t>(call.argument<uint64_t>(0), words, Use::kWrite);
  for (uint64_t i = 0; data != nullptr && i < words; ++i) data[i] = mix(seed + i);
}

/// kvt_count_wrong(const uint64_t* data, uint64_t words, uint64_t seed, unsigned long long* wrong)
void count_wrong(KernelCall& call) {
  const auto words = call.argument<uint64_t>(1);
  const auto seed = call.argument<uint64_t>(2);
  const auto* const data = call.memory<uint64_t>(call.argument<uint64_t>(0), words, Use::kRead);
  auto* const wrong = call.memory<uint64_t>(call.argument<uint64_t>(3), 1, Use::kWrite);
  if (data == nullptr || wrong == nullptr) return;
  uint64_t found = 0;
  for (uint64_t i = 0; i < words; ++i) found += data[i] != mix(seed + i) ? 1 : 0;
  __atomic_fetch_add(wrong, found, __ATOMIC_RELAXED);
}

/// kvt_copy_pages(const uint64_t* pairs, uint32_t count, uint64_t bytes)
void copy_pages(KernelCall& call) {
  const auto count = call.argument<uint32_t>(1);
  const auto bytes = call.argument<uint64_t>(2);
  const auto* const pairs =
      call.memory<uint64_t>(call.argument<uint64_t>(0), uint64_t{2} * count, Use::kRead);
  for (uint32_t i = 0; pairs != nullptr && i < count; ++i) call.copy(pairs[2 * i + 1], pairs[2 * i], bytes);
}

/// kvt_page_sums(const uint64_t* pages, uint64_t* sums, uint32_t count, uint64_t bytes)
void page_sums(KernelCall& call) {
  const auto count = call.argument<uint32_t>(2);
  const auto bytes = call.argument<uint64_t>(3);
  const auto* const pages = call.memory<uint64_t>(call.argument<uint64_t>(0), count, Use::kRead);
  auto* const sums = call.memory<uint64_t>(call.argument<uint64_t>(1), count, Use::kWrite);
  for (uint32_t i = 0; pages != nullptr && sums != nullptr && i < count; ++i) {
    const auto* const words =
        call.memory<mover::device::Pair>(pages[i], bytes / sizeof(mover::device::Pair), Use::kRead);
    if (words == nullptr) return;
    sums[i] = mover::device::sum_by_tiles(reinterpret_cast<const std::byte*>(words), bytes);
  }
}

/// kvt_replay_verify(const PageCheck* checks, PageResult* results, uint32_t count, uint64_t words)
void replay_verify(KernelCall& call) {
  const auto count = call.argument<uint32_t>(2);
  const auto words = call.argument<uint64_t>(3);
  const auto* const checks = call.memory<replay::PageCheck>(call.argument<uint64_t>(0), count, Use::kRead);
  auto* const results = call.memory<replay::PageResult>(call.argument<uint64_t>(1), count, Use::kWrite);
  for (uint32_t page = 0; checks != nullptr && results != nullptr && page < count; ++page) {
    const replay::PageCheck check = checks[page];
    replay::PageResult& result = results[page];
    const auto* const data = call.memory<uint64_t>(check.address, words, Use::kRead);
    if (data == nullptr) return;
    // A page that is right, as nearly all are, takes the loop without a branch, which is several times faster.
    uint64_t difference = 0;
    for (uint64_t i = 0; i < words; ++i)
      difference |= data[i] ^ replay::content_word(check.start, check.stride, i);
    result.words_read += words;
    for (uint64_t i = 0; difference != 0 && i < words; ++i) {
      const uint64_t found = data[i];
      if (found == replay::content_word(check.start, check.stride, i)) continue;
      if (result.words_wrong++ != 0) continue;
      result.first_wrong_to_end = words - i;
      result.found = found;
    }
  }
}

/// kvt_replay_fill(uint64_t* data, uint64_t words, uint64_t start, uint64_t stride)
void replay_fill(KernelCall& call) {
  const auto words = call.argument<uint64_t>(1);
  const auto start = call.argument<uint64_t>(2);
  const auto stride = call.argument<uint64_t>(3);
  auto* const data = call.memory<uint64_t>(call.argument<uint64_t>(0), words, Use::kWrite);
  for (uint64_t i = 0; data != nullptr && i < words; ++i) data[i] = replay::content_word(start, stride, i);
}

// Never destroyed, as State.
const std::vector<Kernel>& kKernels = *new std::vector<Kernel>{
    {"kvt_map_apply", {8, 8, 4}, map_apply},
    {"kvt_translate", {8, 8, 8, 4, 4}, translate},
    {"kvt_touches_take", {8, 8, 8}, touches_take},
    {"kvt_test_touch", {8, 8, 4, 4}, test_touch},
    {"kvt_fill", {8, 8, 8}, fill},
    {"kvt_count_wrong", {8, 8, 8, 8}, count_wrong},
    {"kvt_copy_pages", {8, 4, 8}, copy_pages},
    {"kvt_page_sums", {8, 8, 4, 8}, page_sums},
    {"kvt_replay_verify", {8, 8, 4, 8}, replay_verify},
    {"kvt_replay_fill", {8, 8, 8, 8}, replay_fill},
    {"kvt_decode_store", {8, 8, 8, 4, 4, 4, 4, 4, 8, 8}, decode_store},
    {"kvt_decode_attend", {8, 8, 8, 8, 8, 4, 4, 4, 4, 4, 4, 8, 8, 8, 8}, decode_attend},
};

}  // namespace

const Kernel* find_kernel(const char* name) {
  for (const Kernel& kernel : kKernels)
    if (std::strcmp(kernel.name, name) == 0) return &kernel;
  return nullptr;
}

KernelCall::~KernelCall() {
  State& state = State::get();
  const Lock lock(state.mutex);
  unpin(state, pins_);
}

void* KernelCall::find(uint64_t address, uint64_t bytes, uint64_t alignment, Use use) {
  if (result_ != CUDA_SUCCESS) return nullptr;
  if (address % alignment != 0) {
    result_ = CUDA_ERROR_MISALIGNED_ADDRESS;
    return nullptr;
  }
  static uint64_t nothing;
  if (bytes == 0) return &nothing;
  State& state = State::get();
  const Lock lock(state.mutex);
  Place place;
  const size_t before = pins_.size();
  result_ = state.memory.find(address, bytes, use, device_, pins_, place);
  if (result_ != CUDA_SUCCESS) return nullptr;
  // Kernels look at the same memory again and again: one pin of each is enough.
  for (size_t i = before; i < pins_.size();) {
    bool known = false;
    for (size_t j = 0; j < before && !known; ++j) known = pins_[j] == pins_[i];
    if (!known) {
      ++i;
      continue;
    }
    --*pins_[i];
    pins_.erase(pins_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  place_ = place;
  return place.pointer;
}

void KernelCall::copy(uint64_t target, uint64_t source, uint64_t bytes) {
  const void* const from = find(source, bytes, 1, Use::kRead);
  const Place source_place = place_;
  void* const to = find(target, bytes, 1, Use::kWrite);
  if (from == nullptr || to == nullptr) return;
  std::memmove(to, from, bytes);
  State& state = State::get();
  const Lock lock(state.mutex);
  state.count_bytes(source_place, place_, bytes);
}

}  // namespace kvt::standin
