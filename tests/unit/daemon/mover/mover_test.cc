// SPDX-License-Identifier: Apache-2.0
#include "daemon/mover/mover.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "daemon/mover/bad_memory.h"
#include "daemon/mover/checksum.h"
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
    job.flip = i == 7 ? 1 : 0;
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

/// A mapping of a file whose second half has been cut off: touching it is a SIGBUS, as poisoned memory is.
class HalfThere {
 public:
  HalfThere() {
    const Fd file(::memfd_create("half-there", MFD_CLOEXEC));
    KVT_CHECK(::ftruncate(file.get(), kBytes) == 0);
    data_ =
        static_cast<std::byte*>(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
    KVT_CHECK(data_ != MAP_FAILED);
    std::memset(data_, 7, kBytes);
    KVT_CHECK(::ftruncate(file.get(), kBytes / 2) == 0);
  }
  HalfThere(const HalfThere&) = delete;
  HalfThere& operator=(const HalfThere&) = delete;
  ~HalfThere() { ::munmap(data_, kBytes); }
  [[nodiscard]] std::byte* data() const { return data_; }
  static constexpr size_t kBytes = 128 << 10;

 private:
  std::byte* data_ = nullptr;
};

std::vector<Job> jobs_done(Mover& mover, size_t count) {
  std::vector<Job> all;
  while (all.size() < count) {
    pollfd ready{mover.completion_fd().get(), POLLIN, 0};
    KVT_CHECK(::poll(&ready, 1, 30'000) == 1);
    for (const Job& job : mover.take_completions()) all.push_back(job);
  }
  return all;
}

TEST(Mover, MemoryThatIsNotThereFailsTheCopyAndSaysWhose) {
  const HalfThere half;
  const auto good = aligned_bytes(HalfThere::kBytes);
  auto mover = *Mover::start(1);  // so that the thread goes on after each
  const auto outcome = [&](std::byte* target, const std::byte* source, size_t bytes) {
    Job job;
    job.source = source;
    job.target = target;
    job.bytes = bytes;
    mover->submit(job);
    const Job done = jobs_done(*mover, 1).front();
    EXPECT_EQ(done.failed, done.bad != BadSide::kNone);
    return done.bad;
  };
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(outcome(good.get(), half.data(), HalfThere::kBytes), BadSide::kSource);
    EXPECT_EQ(outcome(half.data(), good.get(), HalfThere::kBytes), BadSide::kTarget);
    std::memset(good.get(), 0, HalfThere::kBytes);
    EXPECT_EQ(outcome(good.get(), half.data(), HalfThere::kBytes / 2), BadSide::kNone);
    EXPECT_EQ(std::memcmp(good.get(), half.data(), HalfThere::kBytes / 2), 0);
  }
}

TEST(Mover, PoisonThatIsOrderedIsMet) {
  const auto bytes = aligned_bytes(2 << 20);
  auto mover = *Mover::start(1);
  for (const BadSide side : {BadSide::kSource, BadSide::kTarget}) {
    Job job;
    job.source = bytes.get();
    job.target = bytes.get() + (1 << 20);
    job.bytes = 1 << 20;
    job.poison = side;
    mover->submit(job);
    const Job done = jobs_done(*mover, 1).front();
    EXPECT_TRUE(done.failed);
    EXPECT_EQ(done.bad, side);
  }
}

TEST(PageSum, IsOfEveryBitAndTheSameWhileCopied) {
  test::Random random;
  for (const size_t bytes : {512ul, 16384ul, 16896ul, 65536ul, 655360ul}) {
    const auto source = aligned_bytes(bytes);
    const auto target = aligned_bytes(bytes);
    for (size_t at = 0; at < bytes; at += 8) {
      const uint64_t word = random.next();
      std::memcpy(source.get() + at, &word, 8);
    }
    const uint64_t sum = page_sum(source.get(), bytes);
    EXPECT_NE(sum, 0u);
    EXPECT_EQ(copy_page_summed(target.get(), source.get(), bytes), sum) << bytes;
    EXPECT_EQ(std::memcmp(target.get(), source.get(), bytes), 0) << bytes;
    for (int i = 0; i < 50; ++i) {
      const size_t at = random.below(bytes);
      const auto bit = static_cast<std::byte>(1 << random.below(8));
      target.get()[at] ^= bit;
      EXPECT_NE(page_sum(target.get(), bytes), sum) << bytes << ", byte " << at;
      target.get()[at] ^= bit;
    }
  }
}

TEST(Mover, ChecksumsFindWhatIsWrongAndCopyItAgain) {
  constexpr size_t kBytes = 65536;
  const auto source = aligned_bytes(kBytes);
  const auto target = aligned_bytes(kBytes);
  std::memset(source.get(), 3, kBytes);
  const uint64_t sum = page_sum(source.get(), kBytes);
  auto mover = *Mover::start(1);
  const auto run = [&](uint64_t expected, uint8_t flips, std::byte* to) {
    Job job;
    job.source = source.get();
    job.target = to;
    job.bytes = kBytes;
    job.sums = true;
    job.expected = expected;
    job.flip = flips;
    mover->submit(job);
    const Job done = jobs_done(*mover, 1).front();
    EXPECT_FALSE(done.failed);
    EXPECT_EQ(done.sum, sum) << "the source's";
    return done;
  };
  for (const uint64_t expected : {uint64_t{0}, sum})
    for (uint8_t flips = 0; flips <= kCopiesAgain; ++flips) {
      std::memset(target.get(), 0, kBytes);
      const Job done = run(expected, flips, target.get());
      EXPECT_EQ(done.finding, Finding::kRight);
      EXPECT_EQ(done.mismatches, flips);
      EXPECT_EQ(std::memcmp(target.get(), source.get(), kBytes), 0);
    }
  const Job never = run(sum, kCopiesAgain + 1, target.get());
  EXPECT_EQ(never.finding, Finding::kTargetWrong);
  EXPECT_EQ(never.mismatches, kCopiesAgain + 1);
  EXPECT_EQ(run(sum + 1, 0, target.get()).finding, Finding::kSourceWrong);
  EXPECT_EQ(run(sum, 0, nullptr).finding, Finding::kRight) << "without a target: looked at";
  EXPECT_EQ(run(sum + 1, 0, nullptr).finding, Finding::kSourceWrong);
}

/// A fault of the daemon's own is none of the copies': it ends the process.
TEST(MoverDeathTest, MemoryThatNoCopyTouchesIsFatal) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const auto mover = *Mover::start(1);
        const HalfThere half;
        half.data()[HalfThere::kBytes - 1] = std::byte{1};
      },
      testing::KilledBySignal(SIGBUS), "");
  EXPECT_EXIT(
      {
        const auto mover = *Mover::start(1);
        ::raise(SIGBUS);
      },
      testing::KilledBySignal(SIGBUS), "");
  // Guarded work that touches something else: not the copy's memory, not the copy's fault.
  EXPECT_EXIT(
      {
        const HalfThere half;
        const auto good = aligned_bytes(64);
        catch_sigbus();
        (void)touch_guarded([](void* raw) { *static_cast<volatile std::byte*>(raw) = std::byte{1}; },
                            half.data() + HalfThere::kBytes - 1, good.get(), nullptr, 64);
      },
      testing::KilledBySignal(SIGBUS), "");
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
