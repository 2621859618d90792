// SPDX-License-Identifier: Apache-2.0
#include "daemon/mover/mover.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>

#include "daemon/mover/copy.h"
#include "tests/support/random.h"

namespace kvt::mover {
namespace {

struct FreeBytes {
  void operator()(std::byte* bytes) const { std::free(bytes); }
};
std::unique_ptr<std::byte, FreeBytes> aligned_bytes(size_t bytes) {
  return std::unique_ptr<std::byte, FreeBytes>(
      static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
}

TEST(CopyPage, CopiesEveryByteAndNoMore) {
  test::Random random;
  for (const size_t bytes : {512ul, 1024ul, 16384ul, 16896ul, 65536ul, 655360ul, 2561024ul}) {
    const auto source = aligned_bytes(bytes);
    const auto target = aligned_bytes(bytes + 1024);
    for (size_t at = 0; at < bytes; at += 8) {
      const uint64_t word = random.next();
      std::memcpy(source.get() + at, &word, 8);
    }
    std::memset(target.get(), 0x5a, bytes + 1024);
    copy_page(target.get() + 512, source.get(), bytes);
    ASSERT_EQ(std::memcmp(target.get() + 512, source.get(), bytes), 0) << bytes;
    for (size_t i = 0; i < 512; ++i) {
      ASSERT_EQ(target.get()[i], std::byte{0x5a}) << "before it";
      ASSERT_EQ(target.get()[512 + bytes + i], std::byte{0x5a}) << "behind it";
    }
  }
}

TEST(Mover, DoesEveryJobOnceAndTellsSo) {
  constexpr uint32_t kJobs = 200;
  constexpr size_t kBytes = 4096;
  const auto source = aligned_bytes(kJobs * kBytes);
  const auto target = aligned_bytes(kJobs * kBytes);
  for (size_t i = 0; i < kJobs * kBytes; ++i) source.get()[i] = static_cast<std::byte>(i * 31 + i / kBytes);
  std::memset(target.get(), 0, kJobs * kBytes);
  auto mover = Mover::start(3);
  ASSERT_TRUE(mover.has_value()) << mover.error().text;
  for (uint32_t i = 0; i < kJobs; ++i) {
    Job job;
    job.page = Handle::of(i, 1);
    job.source = source.get() + i * kBytes;
    job.target = target.get() + i * kBytes;
    job.bytes = kBytes;
    job.flip = i == 7;
    (*mover)->submit(job);
  }
  std::set<PageIndex> done;
  while (done.size() < kJobs) {
    pollfd ready{(*mover)->completion_fd().get(), POLLIN, 0};
    ASSERT_EQ(::poll(&ready, 1, 30'000), 1) << "a completion that nobody was told of";
    for (const Job& job : (*mover)->take_completions()) ASSERT_TRUE(done.insert(job.page.index()).second);
  }
  pollfd ready{(*mover)->completion_fd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&ready, 1, 0), 0) << "taking the completions clears it";
  size_t different = 0;
  for (size_t i = 0; i < kJobs * kBytes; ++i) different += source.get()[i] != target.get()[i] ? 1 : 0;
  EXPECT_EQ(different, 1u) << "the one bit that was ordered";
  EXPECT_NE(target.get()[7 * kBytes + kBytes / 2], source.get()[7 * kBytes + kBytes / 2]);
}

TEST(Mover, EndsWithJobsInItsQueue) {
  const auto bytes = aligned_bytes(2 << 20);
  auto mover = Mover::start(1);
  ASSERT_TRUE(mover.has_value());
  for (int i = 0; i < 100; ++i) {
    Job job;
    job.source = bytes.get();
    job.target = bytes.get() + (1 << 20);
    job.bytes = 1 << 20;
    (*mover)->submit(job);
  }
  mover->reset();
}

}  // namespace
}  // namespace kvt::mover
