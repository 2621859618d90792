// SPDX-License-Identifier: Apache-2.0
//
// Two GPUs of which the driver says that one reaches the other's memory: a page that one has is copied from there to the
// other, and no byte of it comes over the link to host memory. Needs two GPUs: the stand-in driver alone.
#include <signal.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>

#include "tests/integration/cuda_fixture.h"

namespace kvt::test {
namespace {

constexpr uint32_t kHost = 2;  // tiers: hbm0, hbm1, dram

/// Where bytes have gone in the daemons that begin while this lives.
class Counts {
 public:
  [[nodiscard]] uint64_t pages(kvt_standin_direction direction) const {
    std::array<uint64_t, KVT_STANDIN_DIRECTIONS> counts{};
    std::ifstream(folder_.path() + "/counts", std::ios::binary)
        .read(reinterpret_cast<char*>(counts.data()), sizeof counts);
    EXPECT_EQ(0u, counts[direction] % kCudaPageBytes) << direction;
    return counts[direction] / kCudaPageBytes;
  }
  /// Into GPUs' memory from host memory, and from another GPU's.
  [[nodiscard]] std::pair<uint64_t, uint64_t> in() const {
    return {pages(KVT_STANDIN_HOST_TO_DEVICE), pages(KVT_STANDIN_BETWEEN_DEVICES)};
  }

 private:
  Folder folder_;
  Environment variable_{"KVT_STANDIN_COUNTS_FILE", folder_.path() + "/counts"};
};

using Pages = std::pair<uint64_t, uint64_t>;

/// A daemon with two GPUs, and a session with each.
struct Pair {
  explicit Pair(const World& world = two_columns(), uint32_t flags = 0)
      : daemon(world),
        first(daemon, KVT_ATTACH_NO_BALANCE | flags, KVT_ACCESS_READ_WRITE, 1, {0, 0}),
        second(daemon, KVT_ATTACH_NO_BALANCE | flags, KVT_ACCESS_READ_WRITE, 1, {1, 1}) {}
  [[nodiscard]] bool ok() const { return daemon.ok() && first.code() == KVT_OK && second.code() == KVT_OK; }
  /// A page that both know, in host memory.
  kvt_page publish(uint64_t number) {
    const kvt_page page = first.publish(key_of(number));
    EXPECT_EQ(page, found_by(second, key_of(number)));
    return page;
  }
  /// The column reads the page from its GPU's memory, or from host memory, from now on.
  bool move(kvt_page page, uint32_t column, bool up) {
    move_page(daemon, page, up ? "hbm" + std::to_string(column) : "dram", column);
    return eventually([&] { return client(column).tier(page) == (up ? column : kHost); });
  }
  GpuClient& client(uint32_t column) { return column == 0 ? first : second; }
  void expect_right(kvt_page page, uint64_t number) {
    EXPECT_EQ(0u, first.wrong_page(page, key_of(number)));
    EXPECT_EQ(0u, second.wrong_page(page, key_of(number)));
  }
  [[nodiscard]] double from_peers() const {
    return daemon.number("arenas", "/arenas/0/moves/promoted_from_peers");
  }
  [[nodiscard]] bool is_degraded(int tier) const {
    return daemon.text("status", "/arenas/0/tiers/" + std::to_string(tier) + "/degraded") == "true";
  }

  Daemon daemon;
  GpuClient first;
  GpuClient second;
};

TEST(CudaPeers, TheSecondColumnsPageComesFromTheFirsts) {
  const TwoGpus gpus;
  const Counts counts;
  Pair pair;
  ASSERT_TRUE(pair.ok()) << kvt_last_error();
  EXPECT_TRUE(mentions(pair.daemon.log(), {"copied from its memory", "hbm0 from hbm1", "hbm1 from hbm0"}))
      << pair.daemon.log();
  EXPECT_EQ("hbm1", pair.daemon.text("tiers", "/tiers/0/gpu/peers/0"));
  EXPECT_EQ("hbm0", pair.daemon.text("tiers", "/tiers/1/gpu/peers/0"));
  const kvt_page page = pair.publish(5);
  ASSERT_TRUE(pair.move(page, 0, true));
  EXPECT_EQ((Pages{1, 0}), counts.in()) << "nobody else has it";
  ASSERT_TRUE(pair.move(page, 1, true));
  EXPECT_EQ((Pages{1, 1}), counts.in());
  EXPECT_EQ(1.0, pair.from_peers());
  pair.expect_right(page, 5);
  // The first column's frame goes, and the second's is its own. Its second place is where it read the page before.
  ASSERT_TRUE(pair.move(page, 0, false));
  pair.expect_right(page, 5);
  ASSERT_TRUE(gets_shadow(pair.second.client(), page));
  EXPECT_EQ(kHost, pair.second.tier_of(pair.second.client().info(page).shadow_frame));
  // Back from the other one.
  ASSERT_TRUE(pair.move(page, 0, true));
  EXPECT_EQ((Pages{1, 2}), counts.in());
  ASSERT_TRUE(pair.move(page, 1, false));
  pair.expect_right(page, 5);
  EXPECT_EQ(0u, counts.pages(KVT_STANDIN_DEVICE_TO_HOST)) << "no demotion took a copy";
}

/// The driver says that there is no way, or the configuration does.
class CudaNoPeers : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(, CudaNoPeers, testing::Bool(),
                         [](const auto& which) { return which.param ? "Configured" : "Driver"; });

TEST_P(CudaNoPeers, PagesComeFromHostMemory) {
  const TwoGpus gpus;
  const Counts counts;
  World world = two_columns();
  std::optional<Environment> peers;
  if (GetParam())
    world.cuda_peers = false;
  else
    peers.emplace("KVT_STANDIN_PEERS", "none");
  Pair pair(world);
  ASSERT_TRUE(pair.ok()) << kvt_last_error();
  EXPECT_FALSE(mentions(pair.daemon.log(), {"copied from its memory"})) << pair.daemon.log();
  EXPECT_EQ(0.0, pair.daemon.number("tiers", "/tiers/0/gpu/peers"));
  const kvt_page page = pair.publish(5);
  ASSERT_TRUE(pair.move(page, 0, true));
  ASSERT_TRUE(pair.move(page, 1, true));
  EXPECT_EQ((Pages{2, 0}), counts.in());
  EXPECT_EQ(0.0, pair.from_peers());
  pair.expect_right(page, 5);
}

TEST(CudaPeers, AccessMayBeOneWay) {
  const TwoGpus gpus;
  const Counts counts;
  const Environment peers("KVT_STANDIN_PEERS", "1:0");
  Pair pair;
  ASSERT_TRUE(pair.ok()) << kvt_last_error();
  const kvt_page page = pair.publish(5);
  const kvt_page other = pair.publish(6);
  ASSERT_TRUE(pair.move(page, 0, true));
  ASSERT_TRUE(pair.move(page, 1, true));
  EXPECT_EQ((Pages{1, 1}), counts.in());
  ASSERT_TRUE(pair.move(other, 1, true));
  ASSERT_TRUE(pair.move(other, 0, true));
  EXPECT_EQ((Pages{3, 1}), counts.in()) << "GPU 0 does not reach GPU 1";
  pair.expect_right(page, 5);
  pair.expect_right(other, 6);
}

/// The driver says that they are peers, and gives no access to one's window: a line, and nothing else.
TEST(CudaPeers, AWindowWithoutAccessIsAsGoodForAllElse) {
  const TwoGpus gpus;
  const Counts counts;
  const Environment refused("KVT_STANDIN_FAIL", "cuMemSetAccess:2=801");  // of window 0: its own, its peer's
  Pair pair;
  ASSERT_TRUE(pair.ok()) << kvt_last_error();
  EXPECT_TRUE(mentions(pair.daemon.log(), {"tier hbm0: other GPUs do not copy from it", "access of GPU 1"}))
      << pair.daemon.log();
  EXPECT_FALSE(mentions(pair.daemon.log(), {"tier hbm1: other GPUs do not copy from it"}));
  const kvt_page page = pair.publish(5);
  const kvt_page other = pair.publish(6);
  ASSERT_TRUE(pair.move(page, 0, true));
  ASSERT_TRUE(pair.move(page, 1, true));
  EXPECT_EQ((Pages{2, 0}), counts.in());
  ASSERT_TRUE(pair.move(other, 1, true));
  ASSERT_TRUE(pair.move(other, 0, true));
  EXPECT_EQ((Pages{3, 1}), counts.in());
  pair.expect_right(page, 5);
  pair.expect_right(other, 6);
}

TEST(CudaPeers, TheNextDaemonsWindowsAllowItToo) {
  const TwoGpus gpus;
  const Counts counts;
  World world = two_columns();
  world.keep = true;
  Pair pair(world);
  ASSERT_TRUE(pair.ok()) << kvt_last_error();
  const kvt_page page = pair.publish(5);
  ASSERT_TRUE(pair.move(page, 0, true));
  for (const int ends_by : {SIGKILL, SIGTERM}) {
    ASSERT_TRUE(pair.daemon.restart(ends_by));
    ASSERT_TRUE(eventually([&] { return kvt_flush(pair.second) == KVT_OK; })) << kvt_last_error();
    const Pages before = counts.in();
    ASSERT_TRUE(pair.move(page, 1, true));
    EXPECT_EQ((Pages{before.first, before.second + 1}), counts.in()) << ends_by;
    pair.expect_right(page, 5);
    ASSERT_TRUE(pair.move(page, 1, false));
  }
}

/// A copy that the driver refuses costs the pair, not a GPU: the page comes from host memory the next time.
TEST(CudaPeers, ACopyThatIsRefusedIsMadeFromHostMemory) {
  const TwoGpus gpus;
  const Counts counts;
  const Environment refused("KVT_STANDIN_FAIL", "cuMemcpyAsync:2=801");
  Pair pair;
  ASSERT_TRUE(pair.ok()) << kvt_last_error();
  const kvt_page page = pair.publish(5);
  const kvt_page other = pair.publish(6);
  ASSERT_TRUE(pair.move(page, 0, true));
  move_page(pair.daemon, page, "hbm1", 1);
  ASSERT_TRUE(eventually([&] { return pair.first.client().stats().moves_aborted == 1; }));
  EXPECT_TRUE(eventually([&] {
    return mentions(pair.daemon.log(), {"tier hbm0 are not copied to tier hbm1 any more", "801"});
  })) << pair.daemon.log();
  EXPECT_EQ(kHost, pair.second.tier(page));
  ASSERT_TRUE(pair.move(page, 1, true));
  EXPECT_EQ((Pages{2, 0}), counts.in());
  ASSERT_TRUE(pair.move(other, 1, true));
  ASSERT_TRUE(pair.move(other, 0, true));
  EXPECT_EQ((Pages{3, 1}), counts.in()) << "the other way it has not been refused";
  EXPECT_FALSE(pair.is_degraded(0));
  EXPECT_FALSE(pair.is_degraded(1));
  pair.expect_right(page, 5);
  pair.expect_right(other, 6);
}

/// One of two GPUs does nothing any more, in the daemon.
class OneLost {
 public:
  explicit OneLost(int device) : device_("KVT_STANDIN_LOST_DEVICE", std::to_string(device)) {}
  void lose() const { std::ofstream(path_) << "x"; }

 private:
  Folder folder_;
  std::string path_ = folder_.path() + "/lost";
  Environment device_;
  Environment file_{"KVT_STANDIN_LOST_FILE", path_};
};

TEST(CudaPeers, OfALostGpuNothingIsCopied) {
  const TwoGpus gpus;
  const Counts counts;
  const OneLost gpu(0);
  Pair pair;
  ASSERT_TRUE(pair.ok()) << kvt_last_error();
  const kvt_page page = pair.publish(5);
  const kvt_page other = pair.publish(6);
  ASSERT_TRUE(pair.move(page, 0, true));
  gpu.lose();
  move_page(pair.daemon, other, "hbm0", 0);  // notices it
  ASSERT_TRUE(eventually([&] { return pair.is_degraded(0); }));
  ASSERT_TRUE(eventually([&] { return pair.first.tier(page) == kHost; }));
  ASSERT_TRUE(pair.move(page, 1, true));
  EXPECT_EQ((Pages{2, 0}), counts.in());
  EXPECT_FALSE(pair.is_degraded(1));
  pair.expect_right(page, 5);
}

/// Before anybody knows: the copy fails, and with it the context of the GPU that copies. Whose fault it was the driver does
/// not say; the page is where it was.
TEST(CudaPeers, ACopyFromAGpuThatHasJustGoneFailsWhoCopies) {
  const TwoGpus gpus;
  const OneLost gpu(0);
  Pair pair;
  ASSERT_TRUE(pair.ok()) << kvt_last_error();
  const kvt_page page = pair.publish(5);
  ASSERT_TRUE(pair.move(page, 0, true));
  gpu.lose();
  move_page(pair.daemon, page, "hbm1", 1);
  ASSERT_TRUE(eventually([&] { return pair.is_degraded(1); }));
  EXPECT_FALSE(pair.is_degraded(0)) << "its own next copy says so";
  EXPECT_EQ(kHost, pair.second.tier(page));
  EXPECT_EQ(0u, pair.second.wrong_page(page, key_of(5)));
  move_page(pair.daemon, pair.publish(6), "hbm0", 0);
  ASSERT_TRUE(eventually([&] { return pair.is_degraded(0); }));
  ASSERT_TRUE(eventually([&] { return pair.first.tier(page) == kHost; }));
  EXPECT_EQ(0u, pair.second.wrong_page(page, key_of(5)));
}

/// A session that takes offers gets none of what the other GPU has.
TEST(CudaPeers, WhatAPeerHasIsCopiedAndNotOffered) {
  const TwoGpus gpus;
  const Counts counts;
  Pair pair(two_columns("balance"));
  ASSERT_TRUE(pair.ok()) << kvt_last_error();
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < 20; ++i) pages.push_back(pair.publish(i));
  for (const kvt_page page : pages) ASSERT_TRUE(pair.move(page, 0, true));
  ASSERT_EQ((Pages{20, 0}), counts.in());
  EXPECT_TRUE(eventually([&] {
    for (size_t i = 0; i < pages.size(); ++i)
      if (pair.second.wrong_page(pages[i], key_of(i)) != 0) return false;
    kvt_touch(pair.second, pages.data(), pages.size());
    return std::all_of(pages.begin(), pages.end(),
                       [&](kvt_page page) { return pair.second.tier(page) == 1; });
  }));
  EXPECT_EQ((Pages{20, 20}), counts.in());
  EXPECT_EQ(0.0, pair.daemon.number("status", "/arenas/0/offers/made"));
  for (size_t i = 0; i < pages.size(); ++i) pair.expect_right(pages[i], i);
}

/// Late copies, in a memory that a third of the pages fill: each place is another page's again and again.
TEST(CudaPeers, BothReadTheRightBytesWhilePagesComeFromEachOther) {
  const TwoGpus gpus;
  World world = two_columns("churn");
  world.hbm_bytes = 2u << 20;
  const Environment late("KVT_STANDIN_DELAY_US", "1000");
  Pair pair(world, KVT_ATTACH_NO_OFFERS);
  ASSERT_TRUE(pair.ok()) << kvt_last_error();
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < 100; ++i) pages.push_back(pair.publish(i));
  const auto end = Clock::now() + kPatience;
  while (pair.from_peers() < 300 && Clock::now() < end) {
    for (const uint32_t column : {0u, 1u}) {
      GpuClient& client = pair.client(column);
      const cuda::Current current(client.driver(), client.context());
      kvt_step step{};
      ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client, client.stream(), &step)) << kvt_last_error();
      std::vector<kvt_frame> frames(pages.size());
      ASSERT_EQ(static_cast<int>(pages.size()),
                kvt_resolve(client, &step, pages.data(), pages.size(), frames.data()));
      kvt_touch(client, pages.data(), pages.size());
      for (size_t i = 0; i < pages.size(); ++i)
        ASSERT_EQ(0u, client.wrong(frames[i], key_of(i))) << "column " << column << ", page " << i;
      ASSERT_EQ(KVT_OK, kvt_cuda_step_end(client, &step));
    }
  }
  EXPECT_GE(pair.from_peers(), 300.0) << pair.daemon.control("{\"command\":\"arenas\"}");
}

}  // namespace
}  // namespace kvt::test
