// SPDX-License-Identifier: Apache-2.0
//
// The copy of a move beside memcpy: random pages of one pool to random pages of another.
#include <cstring>
#include <memory>
#include <vector>

#include "daemon/mover/checksum.h"
#include "daemon/mover/copy.h"
#include "tools/bench/memory.h"
#include "tools/bench/rows.h"
#include "tools/bench/sequence.h"

namespace kvt::bench {
namespace {

constexpr uint32_t kNever = UINT32_MAX;
constexpr uint64_t kPagesVerified = 64;

/// Source and target of all copy rows. Word w of the source is mix(w).
struct Pools {
  explicit Pools(uint64_t bytes) : source(bytes / 8), target(bytes / 8) {
    for (uint64_t w = 0; w < source.size(); ++w) source[w] = mix(w);
    std::memset(target.data(), 0, bytes);
  }
  SharedArray<uint64_t> source;
  SharedArray<uint64_t> target;
};

using CopyFunction = void (*)(std::byte* target, const std::byte* source, size_t bytes);

void plain_memcpy(std::byte* target, const std::byte* source, size_t bytes) {
  std::memcpy(target, source, bytes);
}

/// A copy with integrity = "moves" or "all": the source's sum with it, then the target's.
void copy_and_check(std::byte* target, const std::byte* source, size_t bytes) {
  const uint64_t sum = mover::copy_page_summed(target, source, bytes);
  require(mover::page_sum(target, bytes) == sum, "a copy has another sum than its source");
}

/// What "all" does beside: a page is read, once behind its seal, once behind its promotion by a reader, and by the scrub.
void check_pages(benchmark::State& state, const Pools& pools, uint64_t page_bytes) {
  const uint64_t pages = pools.source.size() * 8 / page_bytes;
  const auto* const source = reinterpret_cast<const std::byte*>(pools.source.data());
  uint64_t at = 0;
  uint64_t sum = 0;
  for (auto _ : state) {
    const uint64_t page = mix(at++) % pages;
    sum = mover::page_sum(source + page * page_bytes, page_bytes);
    benchmark::DoNotOptimize(sum);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(page_bytes));
  const uint64_t last = mix(at - 1) % pages;
  require(sum == mover::page_sum(source + last * page_bytes, page_bytes), "a page has two sums");
}

void copy_pages(benchmark::State& state, const Pools& pools, uint64_t page_bytes, CopyFunction copy) {
  const uint64_t pages = pools.source.size() * 8 / page_bytes;
  // Twice as many draws as pages, from both pools independently.
  std::vector<uint32_t> from(pages * 2);
  std::vector<uint32_t> to(pages * 2);
  for (uint64_t i = 0; i < from.size(); ++i) {
    from[i] = static_cast<uint32_t>(mix(2 * i) % pages);
    to[i] = static_cast<uint32_t>(mix(2 * i + 1) % pages);
  }
  const auto* const source = reinterpret_cast<const std::byte*>(pools.source.data());
  auto* const target = reinterpret_cast<std::byte*>(pools.target.data());
  std::vector<uint32_t> holds(pages, kNever);  // target page -> source page that was copied there last
  size_t next = 0;
  for (auto _ : state) {
    copy(target + to[next] * page_bytes, source + from[next] * page_bytes, page_bytes);
    benchmark::ClobberMemory();
    holds[to[next]] = from[next];
    next = next + 1 < from.size() ? next + 1 : 0;
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(page_bytes));

  const uint64_t words = page_bytes / 8;
  uint64_t verified = 0;
  for (uint64_t page = 0; page < pages && verified < kPagesVerified; ++page) {
    if (holds[page] == kNever) continue;
    for (uint64_t w = 0; w < words; ++w)
      require(pools.target[page * words + w] == mix(holds[page] * words + w),
              "a copied page differs from its source");
    ++verified;
  }
  require(verified != 0, "nothing was copied");
}

}  // namespace

void add_copy_rows(RowList& rows, const Sizes& sizes) {
  // Made by the first copy row that runs, and shared by all.
  const auto pools = std::make_shared<std::unique_ptr<Pools>>();
  const auto add = [&](const char* name, uint64_t page_bytes, CopyFunction copy) {
    rows.add({name, page_bytes, "copy", Timing::kReal, 0,
              [pools, page_bytes, copy, bytes = sizes.copy_pool_bytes](benchmark::State& state) {
                if (*pools == nullptr) *pools = std::make_unique<Pools>(bytes);
                copy_pages(state, **pools, page_bytes, copy);
              }});
  };
  for (const uint64_t page_bytes : sizes.page_bytes) {
    add("move_copy", page_bytes, kvt::mover::copy_page);
    add("move_copy_checked", page_bytes, copy_and_check);
    add("baseline_memcpy", page_bytes, plain_memcpy);
    rows.add({"page_check", page_bytes, "copy", Timing::kReal, 0,
              [pools, page_bytes, bytes = sizes.copy_pool_bytes](benchmark::State& state) {
                if (*pools == nullptr) *pools = std::make_unique<Pools>(bytes);
                check_pages(state, **pools, page_bytes);
              }});
  }
}

}  // namespace kvt::bench
