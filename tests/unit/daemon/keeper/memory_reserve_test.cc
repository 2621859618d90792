// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/memory_reserve.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <new>
#include <vector>

namespace kvt::keeper {
namespace {

uint64_t address_space() {
  std::ifstream statm("/proc/self/statm");
  uint64_t pages = 0;
  statm >> pages;
  return pages * 4096;
}

void limit_address_space(uint64_t bytes) {
  rlimit limit{};
  ::getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = bytes;
  ::setrlimit(RLIMIT_AS, &limit);
}

[[noreturn]] void fail_with(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::_Exit(1);
}

/// In a process of its own: takes blocks until there are no more, with the reserve in between.
[[noreturn]] void use_it_up() {
  constexpr size_t kReserve = 8 << 20;
  constexpr size_t kBlock = 1 << 20;
  if (!MemoryReserve::keep(kReserve) || MemoryReserve::is_used()) fail_with("no reserve to begin with");
  limit_address_space(address_space() + 4 * kBlock);
  std::vector<std::unique_ptr<char[]>> blocks;
  blocks.reserve(100);
  size_t before = 0;
  try {
    for (;;) {
      blocks.push_back(std::make_unique<char[]>(kBlock));
      if (!MemoryReserve::is_used()) before = blocks.size();
    }
  } catch (const std::bad_alloc&) {
  }
  if (!MemoryReserve::is_used()) fail_with("bad_alloc, and the reserve is there");
  if (before == 0 || before > 5) fail_with("the limit was not met");
  if (blocks.size() - before < kReserve / kBlock / 2) fail_with("the reserve has not helped");
  if (MemoryReserve::refill()) fail_with("it cannot be had back yet");
  blocks.clear();
  if (!MemoryReserve::refill() || MemoryReserve::is_used()) fail_with("it can be had back");
  std::_Exit(0);
}

TEST(MemoryReserveDeathTest, HelpsOutAndComesBack) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer takes address space as it likes";
#endif
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(use_it_up(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace kvt::keeper
