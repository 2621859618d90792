// SPDX-License-Identifier: Apache-2.0
//
// The copy engines of a GPU under the mover: every byte of random jobs in both directions, who copies small pages, and
// what comes back when copies fail, now or while they run. Over the stand-in driver.
#include "daemon/mover/gpu_copier.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

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

TEST_F(GpuCopierTest, EndsWithCopiesUnderWay) {
  for (uint64_t i = 0; i < 24; ++i)
    mover_->submit(job(i % 2 == 0, (i % 8) << 20, (16 + i % 8) << 20, 1u << 20));
  mover_.reset();  // waits: the frames are somebody else's after this
  SUCCEED();
}

}  // namespace
}  // namespace kvt::mover
