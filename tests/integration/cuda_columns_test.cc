// SPDX-License-Identifier: Apache-2.0
//
// Two GPUs, a column each, and host memory that both read. Each session maps its own GPU's memory alone, and pages are
// placed for each column apart. Needs two GPUs: the stand-in driver alone.
#include <gtest/gtest.h>

#include "tests/integration/cuda_fixture.h"

namespace kvt::test {
namespace {

constexpr uint32_t kHost = 2;  // tiers: hbm0, hbm1, dram

class CudaColumns : public testing::Test {
 protected:
  explicit CudaColumns(const char* policy = "off")
      : daemon_(two_columns(policy)),
        first_(daemon_, KVT_ATTACH_NO_BALANCE, KVT_ACCESS_READ_WRITE, 1, {0, 0}),
        second_(daemon_, KVT_ATTACH_NO_BALANCE, KVT_ACCESS_READ_WRITE, 1, {1, 1}) {}
  void SetUp() override {
    ASSERT_TRUE(daemon_.ok());
    ASSERT_EQ(KVT_OK, first_.code());
    ASSERT_EQ(KVT_OK, second_.code());
  }
  /// Where a session reads a page now.
  static kvt_frame frame_of(GpuClient& client, kvt_page page) {
    kvt_step step{};
    kvt_frame frame = KVT_NO_FRAME;
    if (kvt_cuda_step_begin(client, client.stream(), &step) != KVT_OK) return KVT_NO_FRAME;
    kvt_resolve(client, &step, &page, 1, &frame);
    kvt_cuda_step_end(client, &step);
    return frame;
  }

  TwoGpus gpus_;
  Daemon daemon_;
  GpuClient first_;
  GpuClient second_;
};

TEST_F(CudaColumns, EachSessionMapsItsOwnGpu) {
  const kvt_geometry first = first_.client().geometry();
  const kvt_geometry second = second_.client().geometry();
  EXPECT_EQ(3u, first.tiers);
  EXPECT_EQ(3u, first.device_tiers);
  EXPECT_EQ(3u, second.device_tiers);
  EXPECT_EQ(2u, first.unreachable_tiers);
  EXPECT_EQ(1u, second.unreachable_tiers);
  EXPECT_EQ(0, first.windows[0].column);
  EXPECT_EQ(1, first.windows[1].column);
  EXPECT_EQ(-1, first.windows[kHost].column);
  // The driver knows the addresses of the own one alone.
  uint64_t word = 0;
  const auto home = reinterpret_cast<CUdeviceptr>(&word);
  const auto read = [&](const GpuClient& client, uint32_t tier) {
    const cuda::Current current(client.driver(), client.context());
    const CUdeviceptr at = client.address(client.client().geometry().windows[tier].first_frame);
    const CUresult result = client.driver().cuMemcpyAsync(home, at, sizeof word, client.stream());
    return result == CUDA_SUCCESS ? client.driver().cuStreamSynchronize(client.stream()) : result;
  };
  EXPECT_EQ(CUDA_SUCCESS, read(first_, 0));
  EXPECT_EQ(CUDA_SUCCESS, read(second_, 1));
  EXPECT_EQ(CUDA_ERROR_ILLEGAL_ADDRESS, read(first_, 1));
  EXPECT_EQ(CUDA_ERROR_ILLEGAL_ADDRESS, read(second_, 0));
}

TEST_F(CudaColumns, PagesBeginInHostMemoryAndArePromotedForEachColumn) {
  const kvt_key key = key_of(5);
  const kvt_page page = first_.publish(key);
  ASSERT_NE(KVT_NO_PAGE, page) << kvt_last_error();
  const kvt_page found = found_by(second_, key);
  ASSERT_EQ(page, found);
  EXPECT_EQ(kHost, first_.tier(page));
  EXPECT_EQ(kHost, second_.tier(page));
  EXPECT_EQ(0u, first_.wrong_page(page, key));
  EXPECT_EQ(0u, second_.wrong_page(page, key));

  move_page(daemon_, page, "hbm0", 0);
  ASSERT_TRUE(eventually([&] { return first_.tier(page) == 0; }));
  EXPECT_EQ(kHost, second_.tier(page)) << "the other column's place is its own";
  EXPECT_EQ(0u, first_.tier_of(frame_of(first_, page)));
  EXPECT_EQ(kHost, second_.tier_of(frame_of(second_, page)));
  EXPECT_EQ(0u, first_.wrong_page(page, key));
  EXPECT_EQ(0u, second_.wrong_page(page, key));

  move_page(daemon_, page, "hbm1", 1);
  ASSERT_TRUE(eventually([&] { return second_.tier(page) == 1; }));
  EXPECT_EQ(0u, first_.tier(page));
  EXPECT_EQ(1u, second_.tier_of(frame_of(second_, page)));
  EXPECT_EQ(0u, first_.wrong_page(page, key));
  EXPECT_EQ(0u, second_.wrong_page(page, key));

  move_page(daemon_, page, "dram", 0);
  ASSERT_TRUE(eventually([&] { return first_.tier(page) == kHost; }));
  EXPECT_EQ(1u, second_.tier(page));
  EXPECT_EQ(0u, first_.wrong_page(page, key));
  EXPECT_EQ(0u, second_.wrong_page(page, key));
}

TEST_F(CudaColumns, AnotherColumnsTierIsRefused) {
  const kvt_page page = first_.publish(key_of(5));
  const std::string answer =
      daemon_.control("{\"command\":\"move\",\"page\":" + std::to_string(KVT_PAGE_INDEX(page)) +
                      ",\"tier\":\"hbm1\",\"column\":0}");
  EXPECT_TRUE(mentions(answer, {"hbm1", "column 1 alone"})) << answer;
}

/// Who reads column 0 with GPU 1 reaches host memory alone.
TEST_F(CudaColumns, ReadersOfAnotherGpusColumnReachHostMemoryAlone) {
  GpuClient crossed(daemon_, KVT_ATTACH_NO_BALANCE, KVT_ACCESS_READ_WRITE, 1, {1, 0});
  ASSERT_EQ(KVT_OK, crossed.code()) << kvt_last_error();
  EXPECT_EQ(1u, crossed.client().geometry().unreachable_tiers & 1u);
  const kvt_key key = key_of(5);
  const kvt_page page = first_.publish(key);
  ASSERT_EQ(page, found_by(crossed, key));
  EXPECT_EQ(0u, crossed.wrong_page(page, key)) << "in host memory it can be read";
  move_page(daemon_, page, "hbm0", 0);
  ASSERT_TRUE(eventually([&] { return first_.tier(page) == 0; }));
  EXPECT_TRUE(gets_shadow(crossed.client(), page));
  EXPECT_EQ(kHost, crossed.tier_of(frame_of(crossed, page))) << "its second place is in host memory";
  EXPECT_EQ(0u, crossed.wrong_page(page, key));
  // For its own column the GPU's memory is there, and of no use to this session.
  move_page(daemon_, page, "hbm1", 1);
  ASSERT_TRUE(eventually([&] { return second_.tier(page) == 1; }));
  EXPECT_EQ(kHost, crossed.tier_of(frame_of(crossed, page)));
  EXPECT_EQ(0u, first_.wrong_page(page, key));
}

/// Pages move in both columns at once while both read them.
class CudaColumnsChurn : public CudaColumns {
 protected:
  CudaColumnsChurn() : CudaColumns("churn") {}
};

TEST_F(CudaColumnsChurn, BothReadTheRightBytesWhilePagesMove) {
  const auto pages = first_.publish_many(100);
  for (uint64_t i = 0; i < pages.size(); ++i) ASSERT_EQ(pages[i], found_by(second_, key_of(i)));
  uint64_t on_device[2] = {};
  uint64_t moved[2] = {};
  std::vector<kvt_frame> before[2] = {std::vector<kvt_frame>(pages.size()),
                                      std::vector<kvt_frame>(pages.size())};
  const auto end = Clock::now() + kPatience;
  while ((moved[0] < 100 || moved[1] < 100) && Clock::now() < end) {
    for (uint32_t column = 0; column < 2; ++column) {
      GpuClient& client = column == 0 ? first_ : second_;
      const cuda::Current current(client.driver(), client.context());
      kvt_step step{};
      ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client, client.stream(), &step)) << kvt_last_error();
      std::vector<kvt_frame> frames(pages.size());
      ASSERT_EQ(static_cast<int>(pages.size()),
                kvt_resolve(client, &step, pages.data(), pages.size(), frames.data()));
      kvt_touch(client, pages.data(), pages.size());
      for (size_t i = 0; i < pages.size(); ++i) {
        const uint32_t tier = client.tier_of(frames[i]);
        ASSERT_TRUE(tier == column || tier == kHost) << "column " << column << ", tier " << tier;
        if (tier == column) ++on_device[column];
        if (before[column][i] != 0 && before[column][i] != frames[i]) ++moved[column];
        before[column][i] = frames[i];
        ASSERT_EQ(0u, client.wrong(frames[i], key_of(i))) << "column " << column << ", page " << i;
      }
      ASSERT_EQ(KVT_OK, kvt_cuda_step_end(client, &step));
    }
  }
  for (const uint32_t column : {0, 1}) {
    EXPECT_GE(moved[column], 100u) << column;
    EXPECT_GT(on_device[column], 0u) << column;
  }
}

/// Offers go to who reaches the frame. Not of what could be copied from the other GPU: here it cannot.
struct NoPeers {
  Environment peers{"KVT_STANDIN_PEERS", "none"};
};
class CudaColumnsOffers : NoPeers, public CudaColumns {
 protected:
  CudaColumnsOffers() : CudaColumns("balance") {}
};

TEST_F(CudaColumnsOffers, AreOfTheOwnGpusMemory) {
  const auto pages = first_.publish_many(40);
  for (uint64_t i = 0; i < pages.size(); ++i) ASSERT_EQ(pages[i], found_by(second_, key_of(i)));
  uint64_t offered[2] = {};
  EXPECT_TRUE(eventually([&] {
    for (uint32_t column = 0; column < 2; ++column) {
      GpuClient& client = column == 0 ? first_ : second_;
      const cuda::Current current(client.driver(), client.context());
      kvt_step step{};
      if (kvt_cuda_step_begin(client, client.stream(), &step) != KVT_OK) return false;
      std::vector<kvt_frame> frames(pages.size());
      std::vector<kvt_frame> targets(pages.size());
      kvt_cuda_resolve(client, &step, pages.data(), pages.size(), frames.data(), targets.data());
      kvt_touch(client, pages.data(), pages.size());
      for (size_t i = 0; i < pages.size(); ++i) {
        EXPECT_EQ(0u, client.wrong(frames[i], key_of(i)));
        if (targets[i] == KVT_NO_FRAME) continue;
        ++offered[column];
        EXPECT_EQ(column, client.tier_of(targets[i]));
        EXPECT_EQ(CUDA_SUCCESS,
                  client.driver().cuMemcpyAsync(client.address(targets[i]), client.address(frames[i]),
                                                kCudaPageBytes, client.stream()));
      }
      EXPECT_EQ(KVT_OK, kvt_cuda_step_end(client, &step));
      client.driver().cuStreamSynchronize(client.stream());
      kvt_cuda_poll(client);
    }
    return first_.client().stats().offers_taken >= 4 && second_.client().stats().offers_taken >= 4;
  }));
  EXPECT_GT(offered[0], 0u);
  EXPECT_GT(offered[1], 0u);
  for (size_t i = 0; i < pages.size(); ++i) {
    EXPECT_EQ(0u, first_.wrong_page(pages[i], key_of(i)));
    EXPECT_EQ(0u, second_.wrong_page(pages[i], key_of(i)));
  }
}

TEST(CudaColumnsCrossed, IsOfferedNothingAndReadsNothingOfTheOthersMemory) {
  const TwoGpus gpus;
  World world = two_columns("balance");
  world.dram_bytes = 4u << 20;
  const Daemon daemon(world);
  GpuClient crossed(daemon, 0, KVT_ACCESS_READ_WRITE, 1, {1, 0});
  ASSERT_EQ(KVT_OK, crossed.code()) << kvt_last_error();
  const auto pages = crossed.publish_many(40);
  for (const kvt_page page : pages) ASSERT_NE(KVT_NO_PAGE, page) << kvt_last_error();
  // Touched until the daemon has moved some: it copies them, for it cannot offer them to this session. What it moves
  // keeps a second place in host memory while there is room.
  uint64_t on_device = 0;
  EXPECT_TRUE(eventually([&] {
    kvt_step step{};
    if (kvt_cuda_step_begin(crossed, crossed.stream(), &step) != KVT_OK) return false;
    std::vector<kvt_frame> frames(pages.size());
    std::vector<kvt_frame> targets(pages.size());
    kvt_cuda_resolve(crossed, &step, pages.data(), pages.size(), frames.data(), targets.data());
    kvt_touch(crossed, pages.data(), pages.size());
    on_device = 0;
    for (size_t i = 0; i < pages.size(); ++i) {
      EXPECT_EQ(KVT_NO_FRAME, targets[i]);
      if (crossed.tier(pages[i]) == 0) ++on_device;
      if (frames[i] == KVT_NO_FRAME) continue;
      EXPECT_EQ(kHost, crossed.tier_of(frames[i]));
      EXPECT_EQ(0u, crossed.wrong(frames[i], key_of(i)));
    }
    EXPECT_EQ(KVT_OK, kvt_cuda_step_end(crossed, &step));
    crossed.driver().cuStreamSynchronize(crossed.stream());
    kvt_cuda_poll(crossed);
    return on_device >= 4;
  }));
  EXPECT_EQ(0.0, daemon.number("status", "/arenas/0/offers/made"));
  EXPECT_EQ(0u, crossed.client().stats().offers_taken);
}

/// With one column fresh pages begin in device memory, which has no second place.
TEST(CudaColumnsCrossed, CannotReadWhatLiesInTheOthersMemoryAlone) {
  const TwoGpus gpus;
  World world = cuda_world();
  world.cuda_driver = KVT_STANDIN_DRIVER;
  const Daemon daemon(world);
  GpuClient owner(daemon, 0, KVT_ACCESS_READ_WRITE, 1, {0, 0});
  GpuClient crossed(daemon, 0, KVT_ACCESS_READ_WRITE, 1, {1, 0});
  ASSERT_EQ(KVT_OK, crossed.code()) << kvt_last_error();
  EXPECT_EQ(1u, crossed.client().geometry().unreachable_tiers);
  const kvt_key key = key_of(5);
  const kvt_page page = owner.publish(key);
  ASSERT_EQ(0u, owner.tier(page));
  kvt_page found = KVT_NO_PAGE;
  ASSERT_EQ(1, kvt_lookup(crossed, &key, 1, KVT_LOOKUP_HOLD, &found));
  kvt_step step{};
  ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(crossed, crossed.stream(), &step));
  kvt_frame frame = 0;
  EXPECT_EQ(0, kvt_resolve(crossed, &step, &found, 1, &frame));
  EXPECT_EQ(KVT_NO_FRAME, frame);
  ASSERT_EQ(KVT_OK, kvt_cuda_step_end(crossed, &step));
  // Its own pages begin in host memory, where both read them.
  const kvt_page own = crossed.publish(key_of(6));
  EXPECT_EQ(1u, crossed.tier(own));
  EXPECT_EQ(0u, crossed.wrong_page(own, key_of(6)));
  EXPECT_EQ(0u, owner.wrong_page(own, key_of(6)));
  move_page(daemon, page, "dram");
  ASSERT_TRUE(eventually([&] { return owner.tier(page) == 1; }));
  EXPECT_EQ(0u, crossed.wrong_page(found, key));
}

TEST(CudaDiscovered, GpusTakeThePlaceOfEmulatedMemory) {
  const TwoGpus gpus;
  for (const uint32_t columns : {1u, 2u}) {
    const Folder folder;
    const std::string config = folder.write(
        "kvtierd.toml",
        "[daemon]\ntiers = \"discovered\"\nprefault = false\n[cuda]\nmeasure = false\nreserve_bytes = "
        "\"0MiB\"\ndriver = \"" KVT_STANDIN_DRIVER "\"\n[[arena]]\nname = \"default\"\ncolumns = " +
            std::to_string(columns) + "\n");
    const Outcome outcome = run_kvtierd({"--config", config, "--socket-dir", folder.path(), "--plan"});
    ASSERT_EQ(0, outcome.exit_code) << outcome.err;
    EXPECT_TRUE(mentions(outcome.out, {"tier gpu0:", "tier dram:"})) << outcome.out;
    EXPECT_EQ(columns == 2, mentions(outcome.out, {"tier gpu1:"})) << outcome.out;
    EXPECT_FALSE(mentions(outcome.out, {"emulated"})) << outcome.out;
  }
}

/// One GPU's memory has other bytes than the page, and what is right lies in the other's alone: from there it comes back,
/// straight where the one reaches the other (`peers`), else into host memory.
void repair_from_the_other_gpu(const char* peers) {
  const TwoGpus gpus;
  const Environment reach("KVT_STANDIN_PEERS", peers);
  World world = two_columns();
  world.integrity = "all";
  world.scrub_pages_per_second = 10'000;
  world.pages = world.dram_bytes /
                kCudaPageBytes;  // as many as host memory has frames: a second place of one gives way
  const Daemon daemon(world);
  GpuClient first(daemon, KVT_ATTACH_NO_OFFERS, KVT_ACCESS_READ_WRITE, 1, {0, 0});
  GpuClient second(daemon, KVT_ATTACH_NO_OFFERS, KVT_ACCESS_READ_WRITE, 1, {1, 1});
  ASSERT_EQ(KVT_OK, first.code());
  ASSERT_EQ(KVT_OK, second.code());
  const kvt_page page = first.publish(key_of(0));
  kvt_page found = KVT_NO_PAGE;
  const kvt_key key = key_of(0);
  ASSERT_EQ(1, kvt_lookup(second, &key, 1, KVT_LOOKUP_HOLD, &found));
  for (const uint32_t column : {0u, 1u}) {
    const GpuClient& client = column == 0 ? first : second;
    EXPECT_TRUE(eventually([&] {  // again where the page is being checked
      if (client.tier(page) == column) return true;
      (void)daemon.control("{\"command\":\"move\",\"page\":" + std::to_string(KVT_PAGE_INDEX(page)) +
                           ",\"tier\":\"hbm" + std::to_string(column) +
                           "\",\"column\":" + std::to_string(column) + "}");
      return client.tier(page) == column;
    }));
  }
  // Until host memory is wanted for others, which are held.
  std::vector<kvt_page> others;
  EXPECT_TRUE(eventually([&] {
    if (const kvt_page other = first.publish(key_of(1 + others.size())); other != KVT_NO_PAGE)
      others.push_back(other);
    return first.client().info(page).shadow_frame == KVT_NO_FRAME &&
           second.client().info(page).shadow_frame == KVT_NO_FRAME;
  })) << others.size();
  ASSERT_EQ(KVT_OK, kvt_release(first, others.data(), others.size(), nullptr));
  ASSERT_EQ(0u, first.tier(page));
  ASSERT_EQ(1u, second.tier(page));
  const CUdeviceptr data = first.address(first.client().info(page).frame);
  ASSERT_EQ(CUDA_SUCCESS, first.driver().cuCtxSetCurrent(first.context()));
  ASSERT_EQ(CUDA_SUCCESS, first.driver().cuMemsetD8Async(data + 5000, 0xa5, 16, first.stream()));
  ASSERT_EQ(CUDA_SUCCESS, first.driver().cuStreamSynchronize(first.stream()));
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/integrity/repaired") == 1; }))
      << daemon.control("{\"command\":\"arenas\"}");
  EXPECT_EQ(1.0, daemon.number("status", "/arenas/0/integrity/mismatches"));
  EXPECT_EQ(0.0, daemon.number("status", "/arenas/0/copies_failed"));
  EXPECT_EQ(std::string(peers) == "none" ? kHost : 0u, first.tier(page));
  EXPECT_EQ(1u, second.tier(page));
  EXPECT_EQ(0u, second.wrong_page(page, key_of(0)));
  ASSERT_EQ(CUDA_SUCCESS, first.driver().cuCtxSetCurrent(first.context()));
  EXPECT_EQ(0u, first.wrong_page(page, key_of(0)));
}

TEST(CudaColumnsSums, APageIsRepairedFromTheOtherGpusMemory) { repair_from_the_other_gpu("none"); }
TEST(CudaColumnsSums, AndStraightFromAPeers) { repair_from_the_other_gpu("0:1,1:0"); }

}  // namespace
}  // namespace kvt::test
