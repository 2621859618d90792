// SPDX-License-Identifier: Apache-2.0
//
// kvtier/cuda.hpp: a C++ program's session with a GPU.
#include <kvtier/cuda.hpp>
#include <stdexcept>

#include "tests/integration/cuda_fixture.h"

namespace kvt::test {
namespace {

class CudaHpp : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(daemon_.ok());
    ASSERT_EQ(gpu_.code(), KVT_OK) << kvt_last_error();
    const std::string driver = cuda_driver();
    session_ = Session::attach(cuda_args(daemon_.folder(), driver));
  }
  void TearDown() override { EXPECT_EQ(gpu_.driver().cuStreamSynchronize(gpu_.stream()), CUDA_SUCCESS); }
  /// Until the stream has passed, and the daemon has done what waited for it.
  void pass() {
    ASSERT_EQ(gpu_.driver().cuStreamSynchronize(gpu_.stream()), CUDA_SUCCESS);
    ASSERT_TRUE(eventually([&] { return kvt::poll(session_) == 0; }));
    ASSERT_EQ(kvt_flush(session_.get()), KVT_OK) << kvt_last_error();
  }
  /// Enqueues a copy of a page that `gpu_` has published into a FILLING page of the session.
  void enqueue_copy(kvt_page from, kvt_page to) {
    kvt_step step{};
    kvt_frame frame = KVT_NO_FRAME;
    ASSERT_EQ(kvt_cuda_step_begin(gpu_, gpu_.stream(), &step), KVT_OK);
    ASSERT_EQ(kvt_resolve(gpu_, &step, &from, 1, &frame), 1);
    ASSERT_EQ(gpu_.driver().cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(session_.data(to)),
                                          gpu_.address(frame), kCudaPageBytes, gpu_.stream()),
              CUDA_SUCCESS);
    ASSERT_EQ(kvt_cuda_step_end(gpu_, &step), KVT_OK);
  }
  /// A page of the session with the words of `key`, published under `as`.
  Hold publish(kvt_key key, kvt_key as) {
    Hold page = session_.allocate(1);
    {
      const CudaStep step(session_, gpu_.stream());
      enqueue_copy(gpu_.publish(key), page[0]);
      check(kvt_seal(session_.get(), page.pages().data(), 1, step.get()));
    }
    pass();
    std::vector<kvt_publish_entry> entries{{page[0], as, KVT_NO_PAGE, 0, 0, KVT_NO_PAGE}};
    session_.publish(entries);
    EXPECT_EQ(entries[0].result, KVT_PUBLISHED);
    return page;
  }

  Daemon daemon_{cuda_world()};
  GpuClient gpu_{daemon_};
  Session session_;
};

TEST_F(CudaHpp, AStreamWritesSealsAndReads) {
  const Hold page = publish(key_of(1), key_of(2));
  EXPECT_EQ(session_.hold_prefix({key_of(2)}).pages(), page.pages());
  kvt_frame frame = KVT_NO_FRAME;
  {
    CudaStep step(session_, gpu_.stream());
    frame = step.resolve(page.pages())[0];
    session_.touch(page.pages());
    EXPECT_EQ(gpu_.wrong(frame, key_of(1)), 0u);
    step.end();
  }
  pass();
  const Hold more = session_.allocate(1);
  enqueue_copy(gpu_.publish(key_of(3)), more[0]);
  kvt::seal(session_, more.pages(), gpu_.stream());
  pass();
  kvt_page_info info{};
  info.size = sizeof info;
  check(kvt_get_page_info(session_.get(), KVT_PAGE_INDEX(more[0]), &info));
  EXPECT_EQ(info.state, KVT_STATE_SEALED);
}

TEST_F(CudaHpp, AScopeThatAnExceptionLeavesEndsItsStep) {
  const Hold page = publish(key_of(1), key_of(2));
  for (int i = 0; i < 100; ++i) {  // more than steps are
    EXPECT_THROW(
        {
          const CudaStep step(session_, gpu_.stream());
          const CudaStep::Targets found = step.resolve_targets(page.pages());
          ASSERT_EQ(found.frames.size(), 1u);
          EXPECT_EQ(found.targets[0], KVT_NO_FRAME) << "it is in device memory";
          throw std::runtime_error("of the engine");
        },
        std::runtime_error);
    pass();
  }
}

TEST_F(CudaHpp, CopiesInTheOrderOfAStream) {
  const Hold page = publish(key_of(1), key_of(2));
  CUdeviceptr memory = 0;
  ASSERT_EQ(gpu_.driver().cuMemAlloc(&memory, kCudaPageBytes), CUDA_SUCCESS);
  kvt_copy rows{};
  rows.page = page[0];
  rows.memory = reinterpret_cast<void*>(memory);
  rows.rows = 1;
  rows.row_bytes = kCudaPageBytes;
  kvt::copy(session_, KVT_COPY_LOAD, {rows}, gpu_.stream());
  const Hold second = session_.allocate(1);
  rows.page = second[0];
  kvt::copy(session_, KVT_COPY_STORE, {rows}, gpu_.stream());
  kvt::seal(session_, second.pages(), gpu_.stream());
  pass();
  {
    const CudaStep step(session_, gpu_.stream());
    EXPECT_EQ(gpu_.wrong(step.resolve(second.pages())[0], key_of(1)), 0u);
  }
  EXPECT_THROW(kvt::copy(session_, 7, {rows}, gpu_.stream()), Exception);
  ASSERT_EQ(gpu_.driver().cuMemFree(memory), CUDA_SUCCESS);
}

TEST_F(CudaHpp, TheDeviceKnowsWherePagesAre) {
  const Hold page = publish(key_of(1), key_of(2));
  {
    const CudaMap map(session_);
    const CudaTouches touches(session_, 10);
    EXPECT_NE(touches.counters(), nullptr);
    const CudaStep step(session_, gpu_.stream());
    touches.take(step);
    EXPECT_EQ(map.update(step, page.pages()), 1);
    const kvt_frame expected = step.resolve(page.pages())[0];
    kvt_frame found = KVT_NO_FRAME;
    const auto at = reinterpret_cast<CUdeviceptr>(map.frames() + KVT_PAGE_INDEX(page[0]));
    ASSERT_EQ(
        gpu_.driver().cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(&found), at, sizeof found, gpu_.stream()),
        CUDA_SUCCESS);
    ASSERT_EQ(gpu_.driver().cuStreamSynchronize(gpu_.stream()), CUDA_SUCCESS);
    EXPECT_EQ(found, expected);
  }
  pass();
}

TEST_F(CudaHpp, WhatCannotBeIsAnException) {
  const Session without = Session::attach(attach_args(daemon_.folder()));
  EXPECT_THROW(CudaStep(without, gpu_.stream()), Exception);
  EXPECT_THROW(CudaMap{without}, Exception);
  EXPECT_THROW(CudaTouches{without}, Exception);
  EXPECT_THROW((void)kvt::poll(without), Exception);
  EXPECT_THROW(kvt::seal(without, {}, gpu_.stream()), Exception);
  // The code is that of what is wrong.
  Hold hold = session_.allocate(1);
  const kvt_page page = hold[0];
  const auto code_of_data = [&](kvt_page of) -> int {
    try {
      return session_.data(of) != nullptr ? KVT_OK : KVT_E_STATE;
    } catch (const Exception& error) {
      return error.code();
    }
  };
  EXPECT_EQ(code_of_data(page), KVT_OK);
  hold.release();
  EXPECT_EQ(code_of_data(page), KVT_E_STALE) << "it may be the next that is allocated";
  EXPECT_EQ(code_of_data(publish(key_of(1), key_of(2))[0]), KVT_E_STATE);
  EXPECT_EQ(code_of_data(gpu_.publish(key_of(3))), KVT_E_PERMISSION);
  EXPECT_EQ(code_of_data(KVT_NO_PAGE), KVT_E_INVALID);
}

}  // namespace
}  // namespace kvt::test
