// SPDX-License-Identifier: Apache-2.0
//
// Reads that kernels count in device memory arrive at the daemon as those of kvt_touch do. The reader is a kernel of the
// stand-in driver; tests/gpu has the one of a card.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/integration/cuda_fixture.h"

namespace kvt::test {
namespace {

World touches_world() {
  World world = cuda_world("balance");
  world.cuda_driver = KVT_STANDIN_DRIVER;
  return world;
}

/// What the daemon notes down of an arena's reads between two moments.
class Recorder {
 public:
  explicit Recorder(const Daemon& daemon) : daemon_(daemon) {
    recording_ = daemon.number("record-start", "/recording");
  }
  struct Totals {
    uint64_t reads = 0;
    uint64_t entries = 0;  ///< pages that were read in a period
  };
  Totals stop() {
    EXPECT_EQ(0.0, daemon_.number("quiesce", "/arenas/0/audit/leaked"));  // it has taken the counters by then
    const std::string answer = daemon_.control("{\"command\":\"record-stop\",\"recording\":" +
                                               std::to_string(static_cast<uint64_t>(recording_)) + "}");
    // Records follow the first line.
    const auto said = nlohmann::json::parse(answer.substr(0, answer.find('\n')), nullptr, false);
    if (said.is_discarded() || !said.value("ok", false)) {
      ADD_FAILURE() << answer.substr(0, 200);
      return {};
    }
    return {said.at("reads").get<uint64_t>(), said.at("entries").get<uint64_t>()};
  }

 private:
  const Daemon& daemon_;
  double recording_ = 0;
};

class CudaTouches : public testing::Test {
 protected:
  CudaTouches() : daemon_(touches_world()), client_(daemon_), standin_(KVT_STANDIN_DRIVER) {}
  void SetUp() override {
    ASSERT_EQ(KVT_OK, client_.code()) << kvt_last_error();
    CUmodule module = nullptr;
    ASSERT_EQ(CUDA_SUCCESS, client_.driver().cuModuleLoadData(&module, "kernels by name"));
    ASSERT_EQ(CUDA_SUCCESS, client_.driver().cuModuleGetFunction(&reader_, module, "kvt_test_touch"));
    pages_ = client_.publish_many(100);
    void* memory = nullptr;
    ASSERT_EQ(CUDA_SUCCESS, client_.driver().cuMemHostAlloc(&memory, pages_.size() * sizeof(uint32_t),
                                                            CU_MEMHOSTALLOC_PORTABLE));
    indices_ = static_cast<uint32_t*>(memory);
    for (size_t i = 0; i < pages_.size(); ++i) indices_[i] = KVT_PAGE_INDEX(pages_[i]);
  }
  void TearDown() override {
    if (indices_ != nullptr) client_.driver().cuMemFreeHost(indices_);
  }
  void create(uint32_t pages_max = 0) {
    ASSERT_EQ(KVT_OK, kvt_cuda_touches_create(client_, pages_max, &touches_)) << kvt_last_error();
    ASSERT_NE(nullptr, kvt_cuda_touches_counters(touches_));
  }
  /// A kernel that reads `count` pages from the `first` on.
  void read(uint32_t first, uint32_t count, uint32_t reads) {
    auto counters = reinterpret_cast<CUdeviceptr>(kvt_cuda_touches_counters(touches_));
    auto indices = reinterpret_cast<CUdeviceptr>(indices_ + first);
    void* arguments[] = {&counters, &indices, &count, &reads};
    ASSERT_EQ(CUDA_SUCCESS, client_.driver().cuLaunchKernel(reader_, 1, 1, 1, 32, 1, 1, 0, client_.stream(),
                                                            arguments, nullptr));
  }
  /// The same in a step of its own, which takes what was counted.
  void step(uint32_t first, uint32_t count, uint32_t reads) {
    kvt_step step{};
    ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client_, client_.stream(), &step)) << kvt_last_error();
    if (count != 0) read(first, count, reads);
    ASSERT_EQ(KVT_OK, kvt_cuda_touches_take(touches_, &step)) << kvt_last_error();
    ASSERT_EQ(KVT_OK, kvt_cuda_step_end(client_, &step)) << kvt_last_error();
  }
  /// Until all that was counted has been taken.
  void settle_all() {
    settle();
    step(0, 0, 0);
    settle();
  }
  void settle() {
    client_.driver().cuStreamSynchronize(client_.stream());
    EXPECT_EQ(0, kvt_cuda_poll(client_));
  }

  Daemon daemon_;
  GpuClient client_;
  standin::StandIn standin_;
  CUfunction reader_ = nullptr;
  std::vector<kvt_page> pages_;
  uint32_t* indices_ = nullptr;
  kvt_cuda_touches* touches_ = nullptr;
};

TEST_F(CudaTouches, ArriveAsThoseOfTheCpu) {
  create();
  Recorder recorder(daemon_);
  for (int i = 0; i < 200; ++i) {
    step(0, 100, 3);
    if (i % 3 == 0) settle();
  }
  settle_all();
  const auto [reads, entries] = recorder.stop();
  // What races with the daemon's look may be counted later or not at all.
  EXPECT_GE(reads, 200u * 100 * 3 * 9 / 10);
  EXPECT_LE(reads, 200u * 100 * 3);
  EXPECT_GE(entries, 100u);
  kvt_cuda_touches_destroy(touches_);
}

TEST_F(CudaTouches, OfPagesBeyondTheLimitAreDropped) {
  create(10);
  Recorder recorder(daemon_);
  for (int i = 0; i < 50; ++i) step(0, 100, 1);  // the first ten of each step
  settle_all();
  for (int i = 0; i < 50; ++i) step(50, 5, 1);  // were dropped before, and count now
  settle_all();
  const auto [reads, entries] = recorder.stop();
  EXPECT_GE(reads, 50u * 15 * 9 / 10);
  EXPECT_LE(reads, 50u * 15);
  EXPECT_GE(entries, 15u);
  kvt_cuda_touches_destroy(touches_);
}

TEST_F(CudaTouches, OfOnePageAreCapped) {
  create();
  Recorder recorder(daemon_);
  step(0, 1, 1'000'000);
  settle();
  EXPECT_EQ(4096u, recorder.stop().reads);
  kvt_cuda_touches_destroy(touches_);
}

TEST_F(CudaTouches, WaitForALaterStepWhereTooManyAreOnTheirWay) {
  create();
  Recorder recorder(daemon_);
  {
    StreamGate gate(client_);
    for (int i = 0; i < 40; ++i) step(0, 100, 1);
    EXPECT_EQ(40, kvt_cuda_poll(client_));
  }
  settle_all();
  const auto [reads, entries] = recorder.stop();
  EXPECT_GE(reads, 40u * 100 * 9 / 10);
  EXPECT_LE(reads, 40u * 100);
  kvt_cuda_touches_destroy(touches_);
}

TEST_F(CudaTouches, WaitForALaterStepWhereTheDriverRefuses) {
  create();
  Recorder recorder(daemon_);
  ASSERT_TRUE(standin_.fail("cuLaunchKernel", 2, CUDA_ERROR_OUT_OF_MEMORY));  // the reader is the first
  step(0, 10, 1);
  settle_all();
  EXPECT_EQ(10u, recorder.stop().reads);
  kvt_cuda_touches_destroy(touches_);
}

TEST_F(CudaTouches, AreTakenFromStepsThatSaySoAlone) {
  create();
  Recorder recorder(daemon_);
  kvt_step plain{};
  ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client_, client_.stream(), &plain));
  read(0, 100, 1);
  ASSERT_EQ(KVT_OK, kvt_cuda_step_end(client_, &plain));
  settle();
  EXPECT_EQ(0u, recorder.stop().reads);
  kvt_cuda_touches_destroy(touches_);
}

TEST_F(CudaTouches, SurviveTheirHandle) {
  create();
  Recorder recorder(daemon_);
  {
    StreamGate gate(client_);
    step(0, 100, 1);
    kvt_cuda_touches_destroy(touches_);
  }
  settle();
  EXPECT_EQ(100u, recorder.stop().reads);
  // A step that nobody ends, at the session's end.
  create();
  kvt_step open{};
  ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client_, client_.stream(), &open));
  ASSERT_EQ(KVT_OK, kvt_cuda_touches_take(touches_, &open));
  kvt_cuda_touches_destroy(touches_);
}

TEST_F(CudaTouches, MovePagesWithoutAWordOfTheCpu) {
  create();
  std::vector<uint32_t> slow;
  for (uint32_t i = 0; i < pages_.size(); ++i)
    if (client_.tier(pages_[i]) == 1) slow.push_back(i);
  ASSERT_GE(slow.size(), 8u);
  for (size_t i = 0; i < 8; ++i) indices_[i] = KVT_PAGE_INDEX(pages_[slow[i]]);
  EXPECT_TRUE(eventually([&] {
    step(0, 8, 4);
    settle();
    size_t fast = 0;
    for (size_t i = 0; i < 8; ++i) fast += client_.tier(pages_[slow[i]]) == 0 ? 1 : 0;
    return fast == 8;
  }));
  kvt_cuda_touches_destroy(touches_);
}

TEST_F(CudaTouches, SayWhatIsWrong) {
  Client cpu(daemon_);
  kvt_cuda_touches* none = touches_;
  EXPECT_EQ(KVT_E_STATE, kvt_cuda_touches_create(cpu, 0, &none));
  EXPECT_EQ(KVT_E_INVALID, kvt_cuda_touches_create(client_, 0, nullptr));
  EXPECT_EQ(KVT_E_INVALID, kvt_cuda_touches_take(nullptr, nullptr));
  EXPECT_EQ(nullptr, kvt_cuda_touches_counters(nullptr));
  kvt_cuda_touches_destroy(nullptr);
  create();
  kvt_cuda_touches* const first = touches_;
  create();
  kvt_step step{};
  EXPECT_EQ(KVT_E_INVALID, kvt_cuda_touches_take(first, &step));
  ASSERT_EQ(KVT_OK, kvt_step_begin(client_, &step));
  EXPECT_EQ(KVT_E_INVALID, kvt_cuda_touches_take(first, &step)) << "no stream ends it";
  ASSERT_EQ(KVT_OK, kvt_step_end(client_, &step));
  ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client_, client_.stream(), &step));
  EXPECT_EQ(KVT_OK, kvt_cuda_touches_take(first, &step));
  EXPECT_EQ(KVT_OK, kvt_cuda_touches_take(first, &step));
  EXPECT_EQ(KVT_E_STATE, kvt_cuda_touches_take(touches_, &step));
  EXPECT_EQ(KVT_OK, kvt_cuda_step_end(client_, &step));
  settle();
  kvt_cuda_touches_destroy(first);
  kvt_cuda_touches_destroy(touches_);
}

}  // namespace
}  // namespace kvt::test
