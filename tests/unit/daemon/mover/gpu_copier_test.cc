// SPDX-License-Identifier: Apache-2.0
//
// The copy engines of a GPU under the mover: every byte of random jobs in both directions, who copies small pages, and
// what comes back when copies fail, now or while they run, and what checksums find of them. Over the stand-in driver.
#include "daemon/mover/gpu_copier.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "daemon/mover/checksum.h"
#include "daemon/mover/mover.h"
#include "shm/cuda/gpu.h"
#include "tests/support/cuda/standin.h"
#include "tests/support/random.h"

namespace kvt::mover {
namespace {

constexpr uint64_t kBytes = 32u << 20;

class GpuCopierTest : public testing::Test {
 protected:
  void SetUp() override {
    gpu_ = *cuda::Gpu::open(*cuda::Driver::load(KVT_STANDIN_DRIVER), 0);
    range_ = *cuda::reserve_addresses(gpu_, 2 * kBytes, 2u << 20);
    device_.emplace(*cuda::DeviceWindow::create(gpu_, range_.data(), kBytes, kBytes));
    host_ = *range_.map(*make_memfd("kvt-copier", kBytes), kBytes, Access::kReadWrite, kBytes);
    registered_ = *cuda::HostRegistration::make(gpu_, host_.data(), kBytes, kBytes, Access::kReadWrite, {});
    mover_ = *Mover::start(1);
    const auto added = mover_->add_gpu(0, gpu_);
    ASSERT_TRUE(added) << added.error().text;
  }
  void TearDown() override {
    mover_.reset();
    registered_ = {};
    device_.reset();
    host_ = {};
  }
  std::byte* device(uint64_t offset) { return range_.data() + offset; }

  Job job(bool out, uint64_t device_at, uint64_t host_at, uint64_t bytes) {
    Job made;
    made.gpu = 0;
    made.out = out;
    made.bytes = bytes;
    made.source = out ? device(device_at) : host_.data() + host_at;
    made.target = out ? host_.data() + host_at : device(device_at);
    return made;
  }
  /// All completions of `count` jobs.
  std::vector<Job> wait_for(size_t count) {
    std::vector<Job> all;
    while (all.size() < count) {
      pollfd waiting{mover_->completion_fd().get(), POLLIN, 0};
      if (::poll(&waiting, 1, 60'000) != 1) break;
      for (const Job& each : mover_->take_completions()) all.push_back(each);
    }
    EXPECT_EQ(all.size(), count);
    return all;
  }
  std::vector<Job> run(const std::vector<Job>& jobs) {
    for (const Job& each : jobs) mover_->submit(each);
    return wait_for(jobs.size());
  }
  uint64_t* words(uint64_t host_at) { return reinterpret_cast<uint64_t*>(host_.data() + host_at); }

  standin::StandIn standin_{KVT_STANDIN_DRIVER};
  std::shared_ptr<cuda::Gpu> gpu_;
  AddressRange range_;
  std::optional<cuda::DeviceWindow> device_;
  Mapping host_;
  cuda::HostRegistration registered_;
  std::unique_ptr<Mover> mover_;
};

TEST_F(GpuCopierTest, EveryByteGoesInAndComesBack) {
  test::Random random;
  for (const uint64_t bytes :
       {uint64_t{16384}, uint64_t{16896}, uint64_t{65536}, uint64_t{262144}, uint64_t{2} << 20}) {
    const uint64_t count = std::min<uint64_t>(300, kBytes / 2 / bytes);
    for (uint64_t i = 0; i < count * bytes / 8; ++i) words(0)[i] = random.next();
    std::fill_n(words(kBytes / 2), count * bytes / 8, 0);
    std::vector<uint64_t> places(count);
    std::iota(places.begin(), places.end(), 0);
    for (uint64_t i = count; i > 1; --i) std::swap(places[i - 1], places[random.below(i)]);
    std::vector<Job> in;
    std::vector<Job> out;
    for (uint64_t i = 0; i < count; ++i) {
      in.push_back(job(false, places[i] * bytes, i * bytes, bytes));
      out.push_back(job(true, places[i] * bytes, kBytes / 2 + i * bytes, bytes));
    }
    for (const Job& each : run(in)) ASSERT_FALSE(each.failed);
    for (const Job& each : run(out)) ASSERT_FALSE(each.failed);
    ASSERT_TRUE(std::equal(words(0), words(0) + count * bytes / 8, words(kBytes / 2))) << bytes;
  }
}

TEST_F(GpuCopierTest, SmallPagesAreAKernelsAndLargeOnesTheEngines) {
  const uint64_t kernels = standin_.count("cuLaunchKernel");
  const auto engines = [&] { return standin_.count("cuMemcpyAsync") + standin_.count("cuMemcpyBatchAsync"); };
  const uint64_t copies = engines();
  run({job(false, 0, 0, 16384), job(true, 65536, 65536, 16384)});  // the directions have no order
  EXPECT_GE(standin_.count("cuLaunchKernel"), kernels + 1);
  EXPECT_EQ(engines(), copies);
  const uint64_t after = standin_.count("cuLaunchKernel");
  run({job(false, 0, 0, 1u << 20), job(true, 1u << 20, 1u << 20, 1u << 20)});
  EXPECT_EQ(standin_.count("cuLaunchKernel"), after);
  EXPECT_GE(engines(), copies + 2);
}

/// Of another GPU that this one reaches, by kernel and by engine, among copies from host memory.
TEST_F(GpuCopierTest, ReadsAnotherGpusMemory) {
  ::setenv("KVT_STANDIN_DEVICES", "2", 1);
  standin_.reload();
  ::unsetenv("KVT_STANDIN_DEVICES");
  const auto other = *cuda::Gpu::open(gpu_->shared_driver(), 1);
  const AddressRange there = *cuda::reserve_addresses(other, kBytes, 2u << 20);
  auto window = *cuda::DeviceWindow::create(other, there.data(), kBytes, kBytes);
  ASSERT_TRUE(window.allow_peer(0));
  test::Random random;
  for (uint64_t i = 0; i < kBytes / 2 / 8; ++i) words(0)[i] = random.next();
  {
    const cuda::Current current(other->driver(), other->context());
    const auto at = [](std::byte* data) { return reinterpret_cast<CUdeviceptr>(data); };
    ASSERT_EQ(CUDA_SUCCESS,
              other->driver().cuMemcpyAsync(at(there.data()), at(host_.data()), kBytes / 2, nullptr));
    ASSERT_EQ(CUDA_SUCCESS, other->driver().cuStreamSynchronize(nullptr));
  }
  for (const uint64_t bytes : {uint64_t{16384}, uint64_t{262144}}) {
    std::fill_n(words(kBytes / 2), kBytes / 2 / 8, 0);
    const uint64_t from_host = standin_.bytes(KVT_STANDIN_HOST_TO_DEVICE);
    const uint64_t from_peer = standin_.bytes(KVT_STANDIN_BETWEEN_DEVICES);
    std::vector<Job> in;
    std::vector<Job> out;
    for (uint64_t i = 0; i < 60; ++i) {
      in.push_back(job(false, i * bytes, i * bytes, bytes));
      in.back().peer = i % 3 != 0;
      if (in.back().peer) in.back().source = there.data() + i * bytes;
      out.push_back(job(true, i * bytes, kBytes / 2 + i * bytes, bytes));
    }
    for (const Job& each : run(in)) ASSERT_FALSE(each.failed);
    for (const Job& each : run(out)) ASSERT_FALSE(each.failed);
    EXPECT_TRUE(std::equal(words(0), words(0) + 60 * bytes / 8, words(kBytes / 2))) << bytes;
    EXPECT_EQ(standin_.bytes(KVT_STANDIN_HOST_TO_DEVICE) - from_host, 20 * bytes);
    EXPECT_EQ(standin_.bytes(KVT_STANDIN_BETWEEN_DEVICES) - from_peer, 40 * bytes);
  }
}

TEST_F(GpuCopierTest, WhatTheDriverRefusesComesBackAsFailed) {
  // One job each time, so that it is known which call is refused.
  for (const auto& [call, bytes] : {std::pair<const char*, uint64_t>{"cuMemcpyAsync", 1u << 20},
                                    {"cuLaunchKernel", 16384},
                                    {"cuEventRecord", 16384},
                                    {"cuStreamWaitEvent", 16384},
                                    {"cuLaunchHostFunc", 16384}}) {
    ASSERT_TRUE(standin_.fail(call, 1, CUDA_ERROR_INVALID_VALUE));
    const std::vector<Job> refused = run({job(true, 0, 0, bytes)});
    ASSERT_EQ(refused.size(), 1u);
    EXPECT_TRUE(refused[0].failed) << call;
    EXPECT_FALSE(refused[0].lost_device) << call;
    EXPECT_EQ(refused[0].driver_error, CUDA_ERROR_INVALID_VALUE) << call;
    const std::vector<Job> again = run({job(true, 0, 0, bytes)});
    EXPECT_FALSE(again[0].failed) << call;
  }
}

TEST_F(GpuCopierTest, ALostContextGivesBackAllThatIsUnderWay) {
  ASSERT_TRUE(standin_.fail_async("copy", 1, CUDA_ERROR_ILLEGAL_ADDRESS));
  std::vector<Job> jobs;
  for (uint64_t i = 0; i < 24; ++i)
    jobs.push_back(job(i % 2 == 0, (i % 8) << 20, (16 + i % 8) << 20, 1u << 20));
  const std::vector<Job> done = run(jobs);
  EXPECT_TRUE(
      std::any_of(done.begin(), done.end(), [](const Job& each) { return each.failed && each.lost_device; }));
  // From now on at once.
  const std::vector<Job> after = run({job(true, 0, 0, 1u << 20), job(false, 0, 0, 16384)});
  for (const Job& each : after) {
    EXPECT_TRUE(each.failed);
    EXPECT_TRUE(each.lost_device);
  }
}

// ---- checksums ----

class GpuSums : public GpuCopierTest {
 protected:
  enum class Way { kIn, kOut, kWithin, kLook };
  static constexpr std::array kWays{Way::kIn, Way::kOut, Way::kWithin, Way::kLook};
  static constexpr uint64_t kHostTarget = kBytes / 2;  // sources lie before it
  static constexpr uint64_t kPagesMax = 8u << 20;

  void SetUp() override {
    GpuCopierTest::SetUp();
    ASSERT_TRUE(mover_->can_sum(0));
    EXPECT_FALSE(mover_->can_sum(1));
    test::Random random;
    for (uint64_t i = 0; i < kPagesMax / 8; ++i) words(0)[i] = random.next();
  }
  /// Page `i` of `bytes`, whose source has the bytes of host memory at i * bytes. Each way has targets of its own.
  Job summed(Way way, uint64_t i, uint64_t bytes, bool known) {
    const uint64_t at = i * bytes;
    Job made =
        way == Way::kIn ? job(false, kPagesMax + at, at, bytes) : job(true, at, kHostTarget + at, bytes);
    if (way == Way::kWithin || way == Way::kLook) {
      made.out = false;
      made.within = way == Way::kWithin;
      made.target = way == Way::kWithin ? device(kBytes / 2 + at) : nullptr;
    }
    made.sums = true;
    if (known) made.expected = page_sum(host_.data() + at, bytes);
    return made;
  }
  void put(uint64_t count, uint64_t bytes) {
    std::vector<Job> in;
    for (uint64_t i = 0; i < count; ++i) in.push_back(job(false, i * bytes, i * bytes, bytes));
    for (const Job& each : run(in)) ASSERT_FALSE(each.failed);
  }
  /// Changes a bit of HBM, past the mover.
  void spoil(uint64_t device_at) {
    const cuda::Current current(gpu_->driver(), gpu_->context());
    const auto place = reinterpret_cast<CUdeviceptr>(device(device_at));
    uint8_t* const byte = reinterpret_cast<uint8_t*>(host_.data() + kBytes - 4096);
    ASSERT_EQ(CUDA_SUCCESS,
              gpu_->driver().cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(byte), place, 1, nullptr));
    ASSERT_EQ(CUDA_SUCCESS, gpu_->driver().cuStreamSynchronize(nullptr));
    ASSERT_EQ(CUDA_SUCCESS,
              gpu_->driver().cuMemsetD8Async(place, static_cast<unsigned char>(*byte ^ 4), 1, nullptr));
    ASSERT_EQ(CUDA_SUCCESS, gpu_->driver().cuStreamSynchronize(nullptr));
  }
};

TEST_F(GpuSums, OfEveryPageThatIsCopiedOrLookedAt) {
  for (const uint64_t bytes : {uint64_t{16384}, uint64_t{16896}, uint64_t{65536}, uint64_t{655360}}) {
    const uint64_t count = std::min<uint64_t>(100, kPagesMax / bytes);
    put(count, bytes);
    std::vector<Job> jobs;
    for (uint64_t i = 0; i < count; ++i)
      for (const Way way : kWays) jobs.push_back(summed(way, i, bytes, i % 2 == 0));
    for (size_t i = 0; i < jobs.size(); ++i)
      jobs[i].page = Handle::of(static_cast<PageIndex>(i / kWays.size()), 1);
    for (const Job& each : run(jobs)) {
      ASSERT_FALSE(each.failed);
      ASSERT_EQ(each.finding, Finding::kRight);
      ASSERT_EQ(each.mismatches, 0u);
      ASSERT_EQ(each.sum, page_sum(host_.data() + each.page.index() * bytes, bytes));
    }
    EXPECT_TRUE(std::equal(words(0), words(0) + count * bytes / 8, words(kHostTarget))) << bytes;
  }
}

/// What it is for: the link carries nothing more than the copies.
TEST_F(GpuSums, TakeNothingOfTheLink) {
  constexpr uint64_t kPage = 1u << 20;
  put(4, kPage);
  const uint64_t in = standin_.bytes(KVT_STANDIN_HOST_TO_DEVICE);
  const uint64_t out = standin_.bytes(KVT_STANDIN_DEVICE_TO_HOST);
  std::vector<Job> jobs;
  for (uint64_t i = 0; i < 4; ++i)
    for (const Way way : kWays) jobs.push_back(summed(way, i, kPage, true));
  run(jobs);
  EXPECT_EQ(standin_.bytes(KVT_STANDIN_HOST_TO_DEVICE), in + 4 * kPage);
  EXPECT_EQ(standin_.bytes(KVT_STANDIN_DEVICE_TO_HOST), out + 4 * kPage);
}

/// A whole batch in one launch for each side.
TEST_F(GpuSums, AreOneLaunchABatch) {
  constexpr uint64_t kPage = 65536;
  put(64, kPage);
  std::vector<Job> jobs;
  for (uint64_t i = 0; i < 64; ++i) jobs.push_back(summed(Way::kLook, i, kPage, true));
  const uint64_t launches = standin_.count("cuLaunchKernel");
  const uint64_t batches = standin_.count("cuEventRecord");  // one behind each
  run(jobs);
  EXPECT_EQ(standin_.count("cuLaunchKernel") - launches, standin_.count("cuEventRecord") - batches);
}

TEST_F(GpuSums, CopiesThatAreWrongAreMadeAgain) {
  for (const uint64_t bytes : {uint64_t{16384}, uint64_t{1} << 20}) {
    for (uint64_t i = 0; i < kWays.size(); ++i)  // the byte that a flip sets
      host_.data()[i * bytes + bytes / 2] = std::byte{1};
    put(kWays.size(), bytes);
    for (const Way way : {Way::kIn, Way::kOut, Way::kWithin})
      for (const bool known : {false, true})
        for (uint8_t flips = 0; flips <= kCopiesAgain + 1; ++flips) {
          Job flipped = summed(way, static_cast<uint64_t>(way), bytes, known);
          flipped.flip = flips;
          const Job done = run({flipped}).at(0);
          const bool never = flips > kCopiesAgain;
          EXPECT_FALSE(done.failed);
          EXPECT_EQ(done.mismatches, flips);
          EXPECT_EQ(done.finding, never ? Finding::kTargetWrong : Finding::kRight);
          if (never) continue;
          EXPECT_EQ(done.sum, page_sum(host_.data() + static_cast<uint64_t>(way) * bytes, bytes));
          // What the copy left is right: brought back, where it is in HBM.
          const Job look = summed(Way::kLook, 0, bytes, false);
          if (way != Way::kOut) {
            Job target = look;
            target.source = done.target;
            EXPECT_EQ(run({target}).at(0).sum, done.sum);
          } else {
            EXPECT_EQ(page_sum(done.target, bytes), done.sum);
          }
        }
  }
}

TEST_F(GpuSums, ASourceThatIsWrongIsSaidToBe) {
  constexpr uint64_t kPage = 65536;
  put(kWays.size(), kPage);
  for (uint64_t i = 0; i < kWays.size(); ++i) {
    Job each = summed(kWays[i], i, kPage, true);
    if (kWays[i] == Way::kIn)
      host_.data()[i * kPage + 77] ^= std::byte{4};
    else
      spoil(i * kPage + 77);
    const Job done = run({each}).at(0);
    EXPECT_FALSE(done.failed);
    EXPECT_EQ(done.finding, Finding::kSourceWrong) << i;
    EXPECT_EQ(done.mismatches, 0u) << i;
    EXPECT_NE(done.sum, done.expected) << i;
  }
}

TEST_F(GpuSums, WhatTheDriverRefusesComesBackAsFailed) {
  constexpr uint64_t kPage = 1u << 20;  // so that the engines copy
  put(kWays.size(), kPage);
  for (uint64_t i = 0; i < kWays.size(); ++i) {
    ASSERT_TRUE(standin_.fail("cuLaunchKernel", 1, CUDA_ERROR_INVALID_VALUE));
    const Job refused = run({summed(kWays[i], i, kPage, true)}).at(0);
    EXPECT_TRUE(refused.failed) << i;
    EXPECT_FALSE(refused.lost_device) << i;
    EXPECT_EQ(refused.bad, BadSide::kNone) << i;
    EXPECT_FALSE(run({summed(kWays[i], i, kPage, true)}).at(0).failed) << i;
  }
}

TEST_F(GpuSums, ALostContextGivesBackAllThatIsUnderWay) {
  constexpr uint64_t kPage = 65536;
  put(32, kPage);
  ASSERT_TRUE(standin_.fail_async("kernel", 2, CUDA_ERROR_ILLEGAL_ADDRESS));
  std::vector<Job> jobs;
  for (uint64_t i = 0; i < 32; ++i)
    for (const Way way : kWays) jobs.push_back(summed(way, i, kPage, i % 2 == 0));
  const std::vector<Job> done = run(jobs);
  EXPECT_TRUE(
      std::any_of(done.begin(), done.end(), [](const Job& each) { return each.failed && each.lost_device; }));
  for (const Job& each : done) EXPECT_EQ(each.finding, Finding::kRight) << "nothing is said of the bytes";
  const Job after = run({summed(Way::kLook, 0, kPage, true)}).at(0);
  EXPECT_TRUE(after.failed && after.lost_device);
}

TEST_F(GpuSums, EndWithJobsUnderWay) {
  for (uint64_t i = 0; i < 32; ++i)
    for (const Way way : kWays) mover_->submit(summed(way, i, 65536, false));
  mover_.reset();
  SUCCEED();
}

/// A driver that takes no such code: copies as ever, without sums.
TEST_F(GpuCopierTest, WithoutTheirKernelThereAreNoSums) {
  mover_ = *Mover::start(1);
  ASSERT_TRUE(standin_.fail("cuModuleLoadData", 2, CUDA_ERROR_NO_BINARY_FOR_GPU));
  ASSERT_TRUE(mover_->add_gpu(0, gpu_));
  EXPECT_FALSE(mover_->can_sum(0));
  EXPECT_FALSE(run({job(false, 0, 0, 16384)}).at(0).failed);
  EXPECT_FALSE(run({job(true, 0, 0, 1u << 20)}).at(0).failed);
}

TEST_F(GpuCopierTest, EndsWithCopiesUnderWay) {
  for (uint64_t i = 0; i < 24; ++i)
    mover_->submit(job(i % 2 == 0, (i % 8) << 20, (16 + i % 8) << 20, 1u << 20));
  mover_.reset();  // waits: the frames are somebody else's after this
  SUCCEED();
}

}  // namespace
}  // namespace kvt::mover
