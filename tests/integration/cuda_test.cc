// SPDX-License-Identifier: Apache-2.0
//
// Device memory as a tier, seen by clients: who maps it, how pages in it are written, sealed, read and moved, and when a
// step is over that a stream ends. Runs over the stand-in driver, or over the one that KVT_CUDA_DRIVER names.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/integration/cuda_fixture.h"

namespace kvt::test {
namespace {

TEST(CudaAttach, MapsDeviceMemory) {
  const Daemon daemon(cuda_world());
  GpuClient client(daemon);
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  const kvt_geometry geometry = client.client().geometry();
  EXPECT_EQ(1u, geometry.device_tiers);
  EXPECT_EQ(0u, geometry.unreachable_tiers);
  EXPECT_STREQ("hbm0", geometry.windows[0].name);
  EXPECT_EQ(0u, geometry.windows[0].emulated);
}

/// So large that its chunks are more than the least, and a little more makes larger ones.
TEST(CudaAttach, MapsAWindowOfManyChunks) {
  const Environment memory("KVT_STANDIN_BYTES", std::to_string(2ull << 30));
  World world = cuda_world();
  world.hbm_bytes = 1088u << 20;
  world.prefault = false;
  const Daemon daemon(world);
  GpuClient client(daemon);
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  const kvt_geometry geometry = client.client().geometry();
  // The last frame's bytes arrive, too.
  const CUdeviceptr last = client.address(geometry.windows[0].first_frame + geometry.windows[0].frames - 1);
  ASSERT_EQ(CUDA_SUCCESS, client.driver().cuMemsetD8Async(last, 0x5a, kCudaPageBytes, client.stream()));
  EXPECT_EQ(CUDA_SUCCESS, client.driver().cuStreamSynchronize(client.stream()));
  const kvt_page page = client.publish(key_of(1));
  EXPECT_EQ(0u, client.wrong_page(page, key_of(1)));
}

TEST(CudaAttach, WithoutAGpuDeviceMemoryIsOutOfReach) {
  const Daemon daemon(cuda_world());
  GpuClient gpu(daemon);
  Client cpu(daemon);
  ASSERT_EQ(KVT_OK, cpu.code()) << kvt_last_error();
  EXPECT_EQ(1u, cpu.geometry().device_tiers);
  EXPECT_EQ(1u, cpu.geometry().unreachable_tiers);
  // Its own pages begin in host memory, all of them.
  for (size_t i = 0; i < kCudaPageBytes; i += 512)
    ASSERT_EQ(std::byte{0}, static_cast<const std::byte*>(cpu.geometry().base)[i]) << "the scratch frame";
  const std::vector<kvt_page> own = allocate(cpu, 100);
  ASSERT_EQ(100u, own.size());
  for (const kvt_page page : own) {
    ASSERT_EQ(1u, cpu.info(page).tier);
    fill(kvt_page_data(cpu, page), kCudaPageBytes, key_of(page));
  }
  // What lies in device memory alone it finds, and cannot read.
  const kvt_page page = gpu.publish(key_of(7));
  ASSERT_NE(KVT_NO_PAGE, page) << kvt_last_error();
  ASSERT_EQ(0u, gpu.tier(page));
  kvt_page found = KVT_NO_PAGE;
  const kvt_key key = key_of(7);
  ASSERT_EQ(1, kvt_lookup(cpu, &key, 1, KVT_LOOKUP_HOLD, &found));
  kvt_step step{};
  ASSERT_EQ(KVT_OK, kvt_step_begin(cpu, &step));
  kvt_frame frame = 0;
  EXPECT_EQ(0, kvt_resolve(cpu, &step, &found, 1, &frame));
  EXPECT_EQ(KVT_NO_FRAME, frame);
  EXPECT_EQ(KVT_OK, kvt_step_end(cpu, &step));
  // In host memory it can: the daemon moves it there.
  move_page(daemon, page, "dram");
  EXPECT_TRUE(eventually([&] { return gpu.tier(page) == 1; }));
  EXPECT_EQ(0u, verify_page(cpu, found, key, kCudaPageBytes));
}

TEST(CudaAttach, APageWithASecondPlaceIsReadThereWithoutAGpu) {
  const Daemon daemon(cuda_world());
  GpuClient gpu(daemon, KVT_ATTACH_NO_OFFERS);
  Client cpu(daemon);
  const kvt_page page = gpu.publish(key_of(7));
  move_page(daemon, page, "dram");
  ASSERT_TRUE(eventually([&] { return gpu.tier(page) == 1; }));
  move_page(daemon, page, "hbm0");  // its place in host memory becomes the second one
  ASSERT_TRUE(eventually([&] { return gpu.tier(page) == 0; }));
  ASSERT_TRUE(gets_shadow(gpu.client(), page));
  EXPECT_EQ(0u, verify_page(cpu, page, key_of(7), kCudaPageBytes));
  EXPECT_EQ(0u, gpu.wrong_page(page, key_of(7)));
}

TEST(CudaAttach, ReadersAloneGetNoDeviceMemory) {
  const Daemon daemon(cuda_world());
  GpuClient writer(daemon);
  GpuClient reader(daemon, 0, KVT_ACCESS_READ);
  ASSERT_EQ(KVT_OK, reader.code()) << kvt_last_error();
  EXPECT_EQ(1u, reader.client().geometry().unreachable_tiers);
  const kvt_page page = writer.publish(key_of(1));
  kvt_step step{};
  ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(reader, reader.stream(), &step));
  kvt_frame frame = 0;
  EXPECT_EQ(0, kvt_resolve(reader, &step, &page, 1, &frame));
  EXPECT_EQ(KVT_OK, kvt_cuda_step_end(reader, &step));
}

TEST(CudaAttach, AMemberWithoutAGpuCannotWriteDevicePages) {
  const Daemon daemon(cuda_world());
  GpuClient owner(daemon, 0, KVT_ACCESS_READ_WRITE, 2);
  uint8_t token[KVT_TOKEN_BYTES];
  ASSERT_EQ(KVT_OK, kvt_token(owner, token));
  Client member(attach_args(daemon.folder()), token);
  ASSERT_EQ(KVT_OK, member.code()) << kvt_last_error();
  kvt_page page = KVT_NO_PAGE;
  ASSERT_EQ(1, kvt_allocate(member, &page, 1));
  ASSERT_EQ(0u, member.info(page).tier);
  EXPECT_EQ(nullptr, kvt_page_data(member, page));
  EXPECT_TRUE(mentions(kvt_last_error(), {"device memory"})) << kvt_last_error();
  EXPECT_NE(nullptr, kvt_page_data(owner, page));
}

TEST(CudaAttach, NamesTheDriverThatIsNotThere) {
  const Daemon daemon(cuda_world());
  const std::string driver = "/nowhere/libcuda.so.1";
  kvt_attach_args args = cuda_args(daemon.folder(), driver);
  kvt_session* session = nullptr;
  EXPECT_EQ(KVT_E_NOT_FOUND, kvt_attach(&args, &session));
  EXPECT_TRUE(mentions(kvt_last_error(), {"/nowhere/libcuda.so.1"})) << kvt_last_error();
}

TEST(CudaAttach, NamesTheDeviceThatIsNotThere) {
  const Daemon daemon(cuda_world());
  const std::string driver = cuda_driver();
  kvt_attach_args args = cuda_args(daemon.folder(), driver);
  args.cuda_device = 99;
  kvt_session* session = nullptr;
  EXPECT_EQ(KVT_E_NOT_FOUND, kvt_attach(&args, &session));
  EXPECT_TRUE(mentions(kvt_last_error(), {"GPU 99"})) << kvt_last_error();
}

TEST(CudaAttach, AnArenaOfHostMemoryTakesAGpuToo) {
  World world;
  world.page_bytes = kCudaPageBytes;
  const Daemon daemon(world);
  GpuClient client(daemon);
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  EXPECT_EQ(0u, client.client().geometry().device_tiers);
  const kvt_page page = client.publish(key_of(3));
  EXPECT_EQ(0u, client.wrong_page(page, key_of(3)));
}

TEST(CudaAttach, ComesAndGoesManyTimes) {
  const Daemon daemon(cuda_world());
  for (int i = 0; i < 20; ++i) {
    GpuClient client(daemon);
    ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
    ASSERT_NE(KVT_NO_PAGE, client.publish(key_of(static_cast<uint64_t>(i))));
  }
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/sessions") == 0; }));
}

TEST(CudaPages, AreWrittenByOneProcessAndReadByAnother) {
  const Daemon daemon(cuda_world());
  GpuClient writer(daemon);
  GpuClient reader(daemon);
  const auto pages = writer.publish_many(100);  // 63 fit into device memory
  std::set<uint32_t> tiers;
  for (uint64_t i = 0; i < pages.size(); ++i) {
    ASSERT_NE(KVT_NO_PAGE, pages[i]) << i << ": " << kvt_last_error();
    tiers.insert(writer.tier(pages[i]));
    kvt_page found = KVT_NO_PAGE;
    const kvt_key key = key_of(i);
    ASSERT_EQ(1, kvt_lookup(reader, &key, 1, KVT_LOOKUP_HOLD, &found));
    ASSERT_EQ(0u, reader.wrong_page(found, key)) << i;
  }
  EXPECT_EQ((std::set<uint32_t>{0, 1}), tiers);
}

TEST(CudaPages, SealsFollowTheStream) {
  const Daemon daemon(cuda_world());
  GpuClient client(daemon);
  kvt_page page = KVT_NO_PAGE;
  ASSERT_EQ(1, kvt_allocate(client, &page, 1));
  {
    StreamGate gate(client);
    ASSERT_TRUE(gate.closed());
    ASSERT_EQ(KVT_OK, kvt_cuda_seal(client, &page, 1, client.stream())) << kvt_last_error();
    EXPECT_EQ(1, kvt_cuda_poll(client));
    ASSERT_EQ(KVT_OK, kvt_flush(client));
    EXPECT_EQ(uint32_t{KVT_STATE_FILLING}, client.client().info(page).state);
  }
  EXPECT_TRUE(eventually([&] { return kvt_cuda_poll(client) == 0; }));
  ASSERT_EQ(KVT_OK, kvt_flush(client));
  EXPECT_EQ(uint32_t{KVT_STATE_SEALED}, client.client().info(page).state);
}

/// PROTOCOL A6: others would see it before it is filled.
TEST(CudaPages, AreNotPublishedBeforeTheStreamHasFilledThem) {
  const Daemon daemon(cuda_world());
  GpuClient client(daemon);
  kvt_page page = KVT_NO_PAGE;
  ASSERT_EQ(1, kvt_allocate(client, &page, 1));
  kvt_publish_entry entry{};
  entry.page = page;
  entry.key = key_of(4);
  entry.parent = KVT_NO_PAGE;
  {
    StreamGate gate(client);
    ASSERT_EQ(KVT_OK, kvt_cuda_seal(client, &page, 1, client.stream())) << kvt_last_error();
    ASSERT_EQ(1, kvt_publish(client, &entry, 1));
    EXPECT_EQ(KVT_E_STATE, entry.result);
  }
  ASSERT_TRUE(eventually([&] { return kvt_cuda_poll(client) == 0; }));
  ASSERT_EQ(1, kvt_publish(client, &entry, 1)) << kvt_last_error();
  EXPECT_EQ(int{KVT_PUBLISHED}, entry.result);
}

/// PROTOCOL A5: it is given back while a stream may still write it.
TEST(CudaPages, GivenBackUnderAStreamAreNobodysUntilItPasses) {
  const Daemon daemon(cuda_world());
  GpuClient client(daemon);
  kvt_page page = KVT_NO_PAGE;
  ASSERT_EQ(1, kvt_allocate(client, &page, 1));
  const auto limbo = [&] { return daemon.number("status", "/arenas/0/limbo_frames"); };
  {
    StreamGate gate(client);
    kvt_step step{};
    ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client, client.stream(), &step));
    ASSERT_EQ(KVT_OK, kvt_cuda_step_end(client, &step));
    ASSERT_EQ(KVT_OK, kvt_release(client, &page, 1, nullptr));
    ASSERT_EQ(KVT_OK, kvt_flush(client));
    EXPECT_EQ(uint32_t{KVT_STATE_FREE}, client.client().info(page).state);
    EXPECT_EQ(1.0, limbo());
  }
  EXPECT_TRUE(eventually([&] { return kvt_cuda_poll(client) == 0 && limbo() == 0; }));
}

TEST(CudaSteps, AreNotOfEachThreadsOwnStream) {
  const Daemon daemon(cuda_world());
  GpuClient client(daemon);
  kvt_step step{};
  EXPECT_EQ(KVT_E_INVALID, kvt_cuda_step_begin(client, CU_STREAM_PER_THREAD, &step));
  EXPECT_TRUE(mentions(kvt_last_error(), {"cudaStreamPerThread"})) << kvt_last_error();
}

TEST(CudaSteps, EndWhenTheStreamPasses) {
  const Daemon daemon(cuda_world());
  GpuClient client(daemon);
  kvt_step step{};
  ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client, client.stream(), &step));
  EXPECT_EQ(KVT_E_INVALID, kvt_step_end(client, &step));  // the stream ends it
  kvt_step by_cpu{};
  ASSERT_EQ(KVT_OK, kvt_step_begin(client, &by_cpu));
  EXPECT_EQ(KVT_E_INVALID, kvt_cuda_drop_targets(client, &by_cpu));
  ASSERT_EQ(KVT_OK, kvt_step_end(client, &by_cpu));
  {
    StreamGate gate(client);
    ASSERT_EQ(KVT_OK, kvt_cuda_step_end(client, &step)) << kvt_last_error();
    EXPECT_EQ(KVT_E_INVALID, kvt_cuda_step_end(client, &step));
    EXPECT_EQ(1, kvt_cuda_poll(client));
    // Another one gets another slot.
    kvt_step second{};
    ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client, client.stream(), &second));
    EXPECT_NE(step.slot, second.slot);
    ASSERT_EQ(KVT_OK, kvt_cuda_step_end(client, &second));
    EXPECT_EQ(2, kvt_cuda_poll(client));
  }
  EXPECT_TRUE(eventually([&] { return kvt_cuda_poll(client) == 0; }));
}

TEST(CudaSteps, KeepFramesUntilTheStreamPasses) {
  const Daemon daemon(cuda_world());
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);
  const kvt_page page = client.publish(key_of(5));
  ASSERT_EQ(0u, client.tier(page));
  kvt_step step{};
  ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client, client.stream(), &step));
  kvt_frame frame = KVT_NO_FRAME;
  ASSERT_EQ(1, kvt_resolve(client, &step, &page, 1, &frame));
  {
    StreamGate gate(client);
    ASSERT_EQ(KVT_OK, kvt_cuda_step_end(client, &step));
    move_page(daemon, page, "dram");
    ASSERT_TRUE(eventually([&] { return client.tier(page) == 1; }));
    EXPECT_EQ(1.0, daemon.number("status", "/arenas/0/limbo_frames"));
  }
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/limbo_frames") == 0; }));
  EXPECT_EQ(0u, client.wrong_page(page, key_of(5)));
}

TEST(CudaSteps, AreNoPartOfACapturedGraph) {
  const Daemon daemon(cuda_world());
  GpuClient client(daemon);
  kvt_step before{};
  ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client, client.stream(), &before));
  ASSERT_EQ(CUDA_SUCCESS,
            client.driver().cuStreamBeginCapture(client.stream(), CU_STREAM_CAPTURE_MODE_RELAXED));
  kvt_step step{};
  EXPECT_EQ(KVT_E_STATE, kvt_cuda_step_begin(client, client.stream(), &step));
  EXPECT_TRUE(mentions(kvt_last_error(), {"captured"})) << kvt_last_error();
  EXPECT_EQ(KVT_E_STATE, kvt_cuda_step_end(client, &before));
  CUgraph graph = nullptr;
  ASSERT_EQ(CUDA_SUCCESS, client.driver().cuStreamEndCapture(client.stream(), &graph));
  client.driver().cuGraphDestroy(graph);
  EXPECT_EQ(KVT_OK, kvt_cuda_step_end(client, &before)) << kvt_last_error();
}

TEST(CudaSteps, AllSlotsCanBeInTheHandsOfStreams) {
  const Daemon daemon(cuda_world());
  GpuClient client(daemon);
  {
    StreamGate gate(client);
    kvt_step step{};
    for (int i = 0; i < 64; ++i) {
      ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client, client.stream(), &step)) << i;
      ASSERT_EQ(KVT_OK, kvt_cuda_step_end(client, &step)) << i;
    }
    EXPECT_EQ(KVT_E_LIMIT, kvt_cuda_step_begin(client, client.stream(), &step));
  }
  EXPECT_TRUE(eventually([&] { return kvt_cuda_poll(client) == 0; }));
  EXPECT_EQ(0u, client.wrong_page(client.publish(key_of(1)), key_of(1)));
}

TEST(CudaSteps, NeedASessionWithAGpu) {
  const Daemon daemon(cuda_world());
  Client cpu(daemon);
  kvt_step step{};
  EXPECT_EQ(KVT_E_STATE, kvt_cuda_step_begin(cpu, nullptr, &step));
  EXPECT_TRUE(mentions(kvt_last_error(), {"KVT_ATTACH_CUDA"})) << kvt_last_error();
}

/// Pages move between device and host memory while steps read them; where a step resolved them they stay right.
TEST(CudaMoves, PagesMoveUnderTheirReaders) {
  const Daemon daemon(cuda_world("churn"));
  GpuClient client(daemon);
  const auto pages = client.publish_many(100);
  uint64_t moved = 0;
  const auto end = Clock::now() + kPatience;
  while (moved < 200 && Clock::now() < end) {
    kvt_step step{};
    ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client, client.stream(), &step));
    std::vector<kvt_frame> frames(pages.size());
    ASSERT_EQ(static_cast<int>(pages.size()),
              kvt_resolve(client, &step, pages.data(), pages.size(), frames.data()));
    kvt_touch(client, pages.data(), pages.size());
    for (size_t i = 0; i < pages.size(); ++i) ASSERT_EQ(0u, client.wrong(frames[i], key_of(i)));
    std::vector<kvt_frame> later(pages.size());
    kvt_resolve(client, &step, pages.data(), pages.size(), later.data());
    for (size_t i = 0; i < pages.size(); ++i) {
      if (later[i] == frames[i]) continue;
      ++moved;
      ASSERT_EQ(0u, client.wrong(frames[i], key_of(i)));
      ASSERT_EQ(0u, client.wrong(later[i], key_of(i)));
    }
    ASSERT_EQ(KVT_OK, kvt_cuda_step_end(client, &step));
  }
  EXPECT_GE(moved, 200u);
  const kvt_stats stats = client.client().stats();
  EXPECT_GT(stats.moves_promoted, 0u);
  EXPECT_GT(stats.moves_demoted_copy + stats.moves_demoted_free, 0u);
}

/// Reads of pages in host memory until the daemon has offered some of them a frame of device memory.
class CudaOffers : public testing::Test {
 protected:
  CudaOffers() : daemon_(world()), client_(daemon_) {}
  static World world() {
    World world = cuda_world("balance");
    world.period_ms = 5;
    return world;
  }
  void SetUp() override {
    ASSERT_EQ(KVT_OK, client_.code()) << kvt_last_error();
    pages_ = client_.publish_many(100);
    for (size_t i = 0; i < pages_.size(); ++i)
      if (client_.tier(pages_[i]) == 1) slow_.push_back(i);
    ASSERT_FALSE(slow_.empty());
  }
  std::vector<kvt_page> slow_pages() const {
    std::vector<kvt_page> pages;
    for (const size_t i : slow_) pages.push_back(pages_[i]);
    return pages;
  }
  Daemon daemon_;
  GpuClient client_;
  std::vector<kvt_page> pages_;
  std::vector<size_t> slow_;
};

TEST_F(CudaOffers, AreStagedInTheOrderOfTheStream) {
  const auto wanted = slow_pages();
  uint64_t staged = 0;
  EXPECT_TRUE(eventually([&] {
    kvt_step step{};
    if (kvt_cuda_step_begin(client_, client_.stream(), &step) != KVT_OK) return false;
    std::vector<kvt_frame> frames(wanted.size());
    kvt_resolve(client_, &step, wanted.data(), wanted.size(), frames.data());
    kvt_touch(client_, wanted.data(), wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (client_.on_device(frames[i]) && client_.tier(wanted[i]) == 1) ++staged;
      EXPECT_EQ(0u, client_.wrong(frames[i], key_of(slow_[i])));
    }
    EXPECT_EQ(KVT_OK, kvt_cuda_step_end(client_, &step));
    return client_.client().stats().offers_taken >= 8;
  }));
  EXPECT_GT(staged, 0u);
  EXPECT_GT(daemon_.number("status", "/arenas/0/offers/taken"), 0);
}

TEST_F(CudaOffers, AreFilledByKernelsThatReadThePageAnyway) {
  const auto wanted = slow_pages();
  uint64_t filled = 0;
  EXPECT_TRUE(eventually([&] {
    kvt_step step{};
    if (kvt_cuda_step_begin(client_, client_.stream(), &step) != KVT_OK) return false;
    std::vector<kvt_frame> frames(wanted.size());
    std::vector<kvt_frame> targets(wanted.size());
    EXPECT_EQ(static_cast<int>(wanted.size()),
              kvt_cuda_resolve(client_, &step, wanted.data(), wanted.size(), frames.data(), targets.data()));
    kvt_touch(client_, wanted.data(), wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_EQ(0u, client_.wrong(frames[i], key_of(slow_[i])));
      if (targets[i] == KVT_NO_FRAME) continue;
      EXPECT_TRUE(client_.on_device(targets[i]));
      EXPECT_EQ(CUDA_SUCCESS,
                client_.driver().cuMemcpyAsync(client_.address(targets[i]), client_.address(frames[i]),
                                               kCudaPageBytes, client_.stream()));
      ++filled;
    }
    EXPECT_EQ(KVT_OK, kvt_cuda_step_end(client_, &step));
    client_.driver().cuStreamSynchronize(client_.stream());
    kvt_cuda_poll(client_);
    return client_.client().stats().offers_taken >= 8;
  }));
  EXPECT_GE(filled, 8u);
  for (const size_t i : slow_) EXPECT_EQ(0u, client_.wrong_page(pages_[i], key_of(i)));
}

/// Steps in flight: what one fills the next one of the stream reads, and fills it not again.
TEST_F(CudaOffers, AreReadByTheStreamsNextStepsBeforeTheyAreCommitted) {
  const auto wanted = slow_pages();
  uint64_t filled = 0;
  uint64_t read_early = 0;
  std::vector<kvt_frame> target_of(wanted.size(), KVT_NO_FRAME);
  EXPECT_TRUE(eventually([&] {
    kvt_step steps[2]{};
    StreamGate gate(client_);  // nothing of what follows is done, or reported, before it opens
    for (kvt_step& step : steps) {
      if (kvt_cuda_step_begin(client_, client_.stream(), &step) != KVT_OK) return false;
      std::vector<kvt_frame> frames(wanted.size());
      std::vector<kvt_frame> targets(wanted.size());
      kvt_cuda_resolve(client_, &step, wanted.data(), wanted.size(), frames.data(), targets.data());
      kvt_touch(client_, wanted.data(), wanted.size());
      for (size_t i = 0; i < wanted.size(); ++i) {
        if (targets[i] != KVT_NO_FRAME) {
          ++filled;
          target_of[i] = targets[i];
          EXPECT_EQ(CUDA_SUCCESS,
                    client_.driver().cuMemcpyAsync(client_.address(targets[i]), client_.address(frames[i]),
                                                   kCudaPageBytes, client_.stream()));
        } else if (&step == &steps[1] && frames[i] == target_of[i]) {
          ++read_early;
        }
      }
      EXPECT_EQ(KVT_OK, kvt_cuda_step_end(client_, &step));
    }
    gate.open();
    client_.driver().cuStreamSynchronize(client_.stream());
    kvt_cuda_poll(client_);
    return client_.client().stats().offers_taken >= 8;
  }));
  EXPECT_GE(filled, 8u);
  EXPECT_GT(read_early, 0u);
  for (const size_t i : slow_) EXPECT_EQ(0u, client_.wrong_page(pages_[i], key_of(i)));
}

TEST_F(CudaOffers, CountForNothingWhenTheyAreDropped) {
  const auto wanted = slow_pages();
  uint64_t offered = 0;
  EXPECT_TRUE(eventually([&] {
    kvt_step step{};
    if (kvt_cuda_step_begin(client_, client_.stream(), &step) != KVT_OK) return false;
    std::vector<kvt_frame> frames(wanted.size());
    std::vector<kvt_frame> targets(wanted.size());
    kvt_cuda_resolve(client_, &step, wanted.data(), wanted.size(), frames.data(), targets.data());
    kvt_touch(client_, wanted.data(), wanted.size());
    offered += static_cast<uint64_t>(
        std::count_if(targets.begin(), targets.end(), [](kvt_frame frame) { return frame != KVT_NO_FRAME; }));
    EXPECT_EQ(KVT_OK, kvt_cuda_drop_targets(client_, &step));
    EXPECT_EQ(KVT_OK, kvt_cuda_step_end(client_, &step));
    return offered >= 8;
  }));
  client_.driver().cuStreamSynchronize(client_.stream());
  kvt_cuda_poll(client_);
  ASSERT_EQ(KVT_OK, kvt_flush(client_));
  EXPECT_EQ(0u, client_.client().stats().offers_taken);
  EXPECT_EQ(0.0, daemon_.number("status", "/arenas/0/offers/taken"));
}

/// A block of layers in device memory, rows apart, to pages and back.
TEST(CudaCopies, StridedRowsComeAndGoInTheOrderOfTheStream) {
  const Daemon daemon(cuda_world());
  GpuClient client(daemon);
  const auto pages = allocate(client, 80);  // in both tiers
  ASSERT_EQ(80u, pages.size());
  constexpr uint64_t kRows = 8;
  constexpr uint64_t kRowBytes = kCudaPageBytes / kRows / 2;
  const uint64_t own_bytes = kRowBytes * kRows * 2;
  CUdeviceptr own = 0;
  ASSERT_EQ(CUDA_SUCCESS, client.driver().cuMemAlloc(&own, 2 * own_bytes));
  std::vector<uint64_t> words(own_bytes / 8);
  for (size_t i = 0; i < words.size(); ++i) words[i] = word_of(key_of(9), i);
  ASSERT_EQ(CUDA_SUCCESS, client.driver().cuMemcpyAsync(own, reinterpret_cast<CUdeviceptr>(words.data()),
                                                        own_bytes, client.stream()));
  for (const kvt_page page : {pages.front(), pages.back()}) {
    kvt_copy copy{};
    copy.page = page;
    copy.memory = reinterpret_cast<void*>(own);
    copy.page_offset = 512;
    copy.page_stride = kCudaPageBytes / kRows;
    copy.memory_stride = 2 * kRowBytes;
    copy.row_bytes = kRowBytes;
    copy.rows = kRows - 1;
    ASSERT_EQ(KVT_OK, kvt_cuda_copy(client, KVT_COPY_STORE, &copy, 1, client.stream())) << kvt_last_error();
    ASSERT_EQ(KVT_OK, kvt_cuda_seal(client, &page, 1, client.stream()));
    copy.memory = reinterpret_cast<void*>(own + own_bytes);
    ASSERT_TRUE(eventually([&] { return kvt_cuda_poll(client) == 0; }));
    ASSERT_EQ(KVT_OK, kvt_flush(client));
    ASSERT_EQ(KVT_OK, kvt_cuda_copy(client, KVT_COPY_LOAD, &copy, 1, client.stream())) << kvt_last_error();
    std::vector<uint64_t> back(words.size(), 1);
    ASSERT_EQ(CUDA_SUCCESS, client.driver().cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(back.data()),
                                                          own + own_bytes, own_bytes, client.stream()));
    ASSERT_EQ(CUDA_SUCCESS, client.driver().cuStreamSynchronize(client.stream()));
    for (uint64_t row = 0; row < copy.rows; ++row)
      for (uint64_t i = 0; i < kRowBytes / 8; ++i)
        ASSERT_EQ(words[row * kRowBytes / 4 + i], back[row * kRowBytes / 4 + i]) << row << " " << i;
  }
  EXPECT_EQ(client.tier(pages.front()) + 1, client.tier(pages.back()));
  client.driver().cuMemFree(own);
}

TEST(CudaCopies, JobsOfHostMemoryReachDevicePages) {
  const Daemon daemon(cuda_world());
  GpuClient client(daemon);
  kvt_page page = KVT_NO_PAGE;
  ASSERT_EQ(1, kvt_allocate(client, &page, 1));
  ASSERT_EQ(0u, client.tier(page));
  std::vector<uint64_t> words(kCudaPageBytes / 8);
  fill(words.data(), kCudaPageBytes, key_of(4));
  kvt_copy copy{};
  copy.page = page;
  copy.memory = words.data();
  copy.row_bytes = kCudaPageBytes;
  copy.rows = 1;
  uint64_t job = 0;
  ASSERT_EQ(KVT_OK, kvt_copy_submit(client, KVT_COPY_STORE, &copy, 1, &job));
  ASSERT_EQ(KVT_OK, kvt_copy_wait(client, job)) << kvt_last_error();
  ASSERT_EQ(KVT_OK, kvt_seal(client, &page, 1, nullptr));
  ASSERT_EQ(KVT_OK, kvt_flush(client));
  EXPECT_EQ(0u, client.wrong_page(page, key_of(4)));
  std::vector<uint64_t> back(words.size());
  copy.memory = back.data();
  ASSERT_EQ(KVT_OK, kvt_copy_submit(client, KVT_COPY_LOAD, &copy, 1, &job));
  ASSERT_EQ(KVT_OK, kvt_copy_wait(client, job)) << kvt_last_error();
  EXPECT_EQ(words, back);
}

TEST(CudaCopies, RefuseWhatLeavesThePage) {
  const Daemon daemon(cuda_world());
  GpuClient client(daemon);
  kvt_page page = KVT_NO_PAGE;
  ASSERT_EQ(1, kvt_allocate(client, &page, 1));
  kvt_copy copy{};
  copy.page = page;
  copy.memory = &copy;
  copy.page_offset = kCudaPageBytes - 8;
  copy.row_bytes = 16;
  copy.rows = 1;
  EXPECT_EQ(KVT_E_INVALID, kvt_cuda_copy(client, KVT_COPY_STORE, &copy, 1, client.stream()));
  EXPECT_TRUE(mentions(kvt_last_error(), {"leaves its page"})) << kvt_last_error();
}

/// The device's page table says what kvt_resolve says, while pages move.
TEST(CudaMap, FollowsPagesThatMove) {
  const Daemon daemon(cuda_world("churn"));
  GpuClient client(daemon);
  const auto first = client.publish_many(60);
  kvt_cuda_map* map = nullptr;
  ASSERT_EQ(KVT_OK, kvt_cuda_map_create(client, &map)) << kvt_last_error();
  auto pages = first;
  for (uint64_t i = 60; i < 100; ++i) pages.push_back(client.publish(key_of(i)));
  void* memory = nullptr;
  const size_t n = pages.size() + 1;
  ASSERT_EQ(CUDA_SUCCESS, client.driver().cuMemHostAlloc(&memory, 2 * n * 4, CU_MEMHOSTALLOC_PORTABLE));
  auto* const ids = static_cast<int32_t*>(memory);
  int32_t* const found = ids + n;
  for (size_t i = 0; i < pages.size(); ++i) ids[i] = static_cast<int32_t>(KVT_PAGE_INDEX(pages[i]));
  ids[pages.size()] = -1;
  bool told = false;
  uint64_t changes = 0;
  std::vector<kvt_frame> before(pages.size());
  uint64_t moved = 0;
  const auto end = Clock::now() + kPatience;
  while (moved < 100 && Clock::now() < end) {
    kvt_step step{};
    ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client, client.stream(), &step));
    const int updated = told ? kvt_cuda_map_update(map, &step, nullptr, 0)
                             : kvt_cuda_map_update(map, &step, pages.data() + 60, pages.size() - 60);
    ASSERT_GE(updated, 0) << kvt_last_error();
    changes += static_cast<uint64_t>(updated);
    told = true;
    ASSERT_EQ(KVT_OK, kvt_cuda_translate(map, ids, found, n, client.stream())) << kvt_last_error();
    kvt_touch(client, pages.data(), pages.size());
    ASSERT_EQ(CUDA_SUCCESS, client.driver().cuStreamSynchronize(client.stream()));
    // The page may have moved since; where the table says, it is right until the step ends.
    for (size_t i = 0; i < pages.size(); ++i) {
      const auto frame = static_cast<kvt_frame>(found[i]);
      ASSERT_EQ(0u, client.wrong(frame, key_of(i))) << i;
      if (before[i] != 0 && before[i] != frame) ++moved;
      before[i] = frame;
    }
    EXPECT_EQ(0, found[pages.size()]);
    ASSERT_EQ(KVT_OK, kvt_cuda_step_end(client, &step));
  }
  EXPECT_GE(moved, 100u);
  EXPECT_GE(changes, moved);
  kvt_cuda_map_destroy(map);
  client.driver().cuMemFreeHost(memory);
}

}  // namespace
}  // namespace kvt::test
