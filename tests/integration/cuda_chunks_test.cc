// SPDX-License-Identifier: Apache-2.0
//
// HBM that an arena gives back while clients have it mapped, and takes again: in chunks, with every process that has them.
#include <signal.h>

#include <atomic>
#include <fstream>
#include <optional>
#include <random>
#include <thread>

#include "tests/integration/cuda_fixture.h"

namespace kvt::test {
namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr uint64_t kChunk = 64 * kMiB;
/// Frames that the first chunk has, and the window: one is nobody's.
constexpr int kFramesOfOne = kChunk / kCudaPageBytes - 1;
constexpr int kFramesOfAll = 3 * kChunk / kCudaPageBytes - 1;
const std::string kOneChunk = std::to_string(kFramesOfOne * kCudaPageBytes);

/// Three chunks of HBM, and host memory for all that was in them.
World chunks_world(const char* policy = "off") {
  World world = cuda_world(policy);
  world.page_bytes = kCudaPageBytes;
  world.hbm_bytes = 3 * kChunk;
  world.dram_bytes = 64 * kMiB;
  return world;
}

std::string resize(const Daemon& daemon, const std::string& bytes, const std::string& arena = "default") {
  return daemon.control(R"({"command":"resize","arena":")" + arena + R"(","tier":"hbm0","bytes":)" + bytes +
                        "}");
}

/// Of the tier, in status.
double number(const Daemon& daemon, const std::string& field) {
  return daemon.number("status", "/arenas/0/tiers/0/" + field);
}

/// What a daemon with the stand-in has taken of it: the rest can be had.
std::string create(const Daemon& daemon, const std::string& hbm) {
  return daemon.control(R"({"command":"arena-create","arena":"chat","set":{"page_bytes":)" +
                        std::to_string(kCudaPageBytes) + R"(,"bytes.hbm0":")" + hbm +
                        R"(","bytes.dram":0}})");
}

TEST(CudaChunks, AreGivenBackWhenEveryProcessHasUnmappedThem) {
  World world = chunks_world();
  world.more = "bytes = { hbm0 = \"192MiB\", dram = \"48MiB\" }\n";
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  GpuClient first(daemon);
  GpuClient second(daemon);
  Client cpu(daemon);  // has none of it, and nobody waits for it
  ASSERT_EQ(first.code(), KVT_OK) << kvt_last_error();
  ASSERT_EQ(second.code(), KVT_OK) << kvt_last_error();
  std::vector<kvt_page> pages = first.publish_many(100);
  EXPECT_EQ(first.tier(pages[0]), 0u);
  EXPECT_TRUE(mentions(create(daemon, "64MiB"), {"tier \\\"hbm0\\\" has no room"}));

  ASSERT_TRUE(is_done(daemon, resize(daemon, kOneChunk)));
  ASSERT_TRUE(eventually([&] { return number(daemon, "waits_for") == 2; })) << daemon.log();
  EXPECT_EQ(number(daemon, "given_back_bytes"), 0);
  EXPECT_GE(kvt_cuda_poll(first), 0);
  ASSERT_TRUE(eventually([&] { return number(daemon, "waits_for") == 1; }));
  EXPECT_EQ(number(daemon, "given_back_bytes"), 0) << "not before all have";
  EXPECT_TRUE(mentions(resize(daemon, kOneChunk), {"\"done\":false"}));
  // Who comes in between has never had them.
  GpuClient third(daemon);
  ASSERT_EQ(third.code(), KVT_OK) << kvt_last_error();
  EXPECT_EQ(number(daemon, "waits_for"), 1);
  EXPECT_GE(kvt_cuda_poll(second), 0);
  ASSERT_TRUE(eventually([&] { return mentions(daemon.log(), {"128 MiB of memory were given back"}); }))
      << daemon.log();
  for (GpuClient* const client : {&first, &second, &third})
    for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(client->wrong_page(pages[i], key_of(i)), 0u) << i;

  // It is another arena's, and not to be had again before that has gone.
  ASSERT_TRUE(is_done(daemon, create(daemon, "128MiB")));
  ASSERT_TRUE(is_done(daemon, resize(daemon, "\"all\"")));
  EXPECT_TRUE(eventually([&] {
    return mentions(daemon.log(), {"stays at 1023 of", "other arenas have"});
  })) << daemon.log();
  ASSERT_TRUE(is_done(daemon, daemon.control(R"({"command":"arena-delete","arena":"chat"})")));
  ASSERT_TRUE(is_done(daemon, resize(daemon, "\"all\"")));
  ASSERT_TRUE(eventually([&] { return number(daemon, "waits_for") == 3; })) << daemon.log();
  for (GpuClient* const client : {&first, &second, &third}) {
    EXPECT_EQ(number(daemon, "usable"), kFramesOfOne);
    EXPECT_GE(kvt_cuda_poll(*client), 0);
  }
  ASSERT_TRUE(eventually([&] { return number(daemon, "usable") == kFramesOfAll; })) << daemon.log();
  // All of it can be written and read by all.
  const std::vector<kvt_page> more = [&] {
    std::vector<kvt_page> all;
    for (uint64_t i = 100; i < 2500; ++i) all.push_back(second.publish(key_of(i)));
    return all;
  }();
  for (uint64_t i = 0; i < more.size(); i += 7) {
    ASSERT_NE(more[i], KVT_NO_PAGE) << i;
    EXPECT_EQ(first.wrong_page(more[i], key_of(100 + i)), 0u) << i;
    EXPECT_EQ(third.wrong_page(more[i], key_of(100 + i)), 0u) << i;
  }
}

/// A process that does not come by is waited for until it has gone, or an operator has evicted its session.
TEST(CudaChunks, WhoDoesNotComeByIsWaitedForOrEvicted) {
  const Daemon daemon(chunks_world());
  ASSERT_TRUE(daemon.ok());
  GpuClient idle(daemon);
  ASSERT_EQ(idle.code(), KVT_OK) << kvt_last_error();
  std::optional<GpuClient> leaves(std::in_place, daemon);
  ASSERT_EQ(leaves->code(), KVT_OK) << kvt_last_error();
  ASSERT_TRUE(is_done(daemon, resize(daemon, "1048576")));
  ASSERT_TRUE(eventually([&] { return number(daemon, "waits_for") == 2; })) << daemon.log();
  leaves.reset();
  ASSERT_TRUE(eventually([&] { return number(daemon, "waits_for") == 1; })) << daemon.log();
  const auto session = static_cast<uint64_t>(number(daemon, "waits_for/0"));
  // Who has asked for it is told, and does not wait for ever.
  const Outcome waited = run_program(
      KVTIERCTL_PATH, {"--socket-dir", daemon.folder(), "resize", "default", "hbm0", "1MiB", "--yes"});
  EXPECT_EQ(waited.exit_code, 1);
  EXPECT_TRUE(mentions(waited.err, {"processes of sessions [", "have not unmapped the GPU's memory yet"}))
      << waited.out << waited.err;
  ASSERT_TRUE(is_done(
      daemon, daemon.control(R"({"command":"evict-session","session":)" + std::to_string(session) + "}")));
  EXPECT_TRUE(eventually([&] { return mentions(daemon.log(), {"MiB of memory were given back"}); }))
      << daemon.log();
  // Its kernels may read it still: it keeps what it has mapped.
  kvt_cuda_poll(idle);
  EXPECT_NE(idle.wrong(kFramesOfAll, key_of(0)), UINT64_MAX) << kvt_last_error();
}

/// What a process has mapped is not what the next daemon has made, though their words are the same again.
TEST(CudaChunks, WordsThatAgreeByChanceAreNoAnswer) {
  World world = chunks_world();
  world.keep = true;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  GpuClient idle(daemon);
  GpuClient writer(daemon);
  ASSERT_EQ(idle.code(), KVT_OK) << kvt_last_error();
  ASSERT_EQ(writer.code(), KVT_OK) << kvt_last_error();
  ASSERT_TRUE(is_done(daemon, resize(daemon, kOneChunk)));
  ASSERT_TRUE(eventually([&] { return number(daemon, "waits_for") == 2; })) << daemon.log();
  EXPECT_GE(kvt_cuda_poll(writer), 0);
  ASSERT_TRUE(eventually([&] { return number(daemon, "waits_for") == 1; })) << daemon.log();
  ASSERT_TRUE(daemon.restart()) << daemon.log();
  ASSERT_TRUE(is_done(daemon, resize(daemon, "\"all\"")));
  EXPECT_FALSE(eventually(
      [&] {
        kvt_cuda_poll(writer);
        return number(daemon, "usable") != kFramesOfOne;
      },
      std::chrono::milliseconds(1000)));
  EXPECT_EQ(number(daemon, "usable"), kFramesOfOne) << "the idle one has the old chunks";
  EXPECT_EQ(number(daemon, "waits_for"), 1);
  EXPECT_TRUE(eventually([&] {
    kvt_cuda_poll(idle);
    kvt_cuda_poll(writer);
    return number(daemon, "usable") == kFramesOfAll;
  })) << daemon.log();
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < 2500; ++i) pages.push_back(writer.publish(key_of(i)));
  for (uint64_t i = 0; i < pages.size(); i += 7) EXPECT_EQ(idle.wrong_page(pages[i], key_of(i)), 0u) << i;
}

/// What was given up is the tier's for the next daemon, too, where the tier is a share of what could be had.
TEST(CudaChunks, AShareOfTheGpuIsWhatItWas) {
  World world = chunks_world();
  world.keep = true;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  GpuClient client(daemon);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  std::string text = world.toml();
  const std::string bytes = "bytes = " + std::to_string(world.hbm_bytes);
  text.replace(text.find(bytes), bytes.size(), "bytes = \"75%\"");
  std::ofstream(daemon.folder() + "/kvtierd.toml") << text;
  ASSERT_TRUE(is_done(daemon, resize(daemon, kOneChunk)));
  ASSERT_TRUE(eventually([&] {
    kvt_cuda_poll(client);
    return number(daemon, "given_back_bytes") == 2.0 * kChunk;
  })) << daemon.log();
  ASSERT_TRUE(daemon.restart()) << daemon.log();
  EXPECT_EQ(daemon.number("status", "/tiers/0/unassigned_bytes"), 2.0 * kChunk);
  ASSERT_TRUE(is_done(daemon, resize(daemon, "\"all\"")));
  EXPECT_TRUE(eventually([&] {
    kvt_cuda_poll(client);
    return number(daemon, "usable") == kFramesOfAll;
  })) << daemon.log();
}

/// Killed at any moment of it, the daemon is followed by one that goes on, and every page is right.
TEST(CudaChunks, ADaemonThatIsKilledMeanwhileIsFollowedByOneThatGoesOn) {
  World world = chunks_world("churn");
  world.keep = true;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  GpuClient client(daemon);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  const std::vector<kvt_page> pages = client.publish_many(200);
  std::minstd_rand random(::testing::UnitTest::GetInstance()->random_seed());
  std::atomic<bool> stop{false};
  // Commands while daemons come and go: what is not answered is asked for again.
  std::thread operator_thread([&] {
    for (int i = 0; !stop; ++i) {
      resize(daemon, i % 2 == 0 ? "1048576" : "\"all\"");
      std::this_thread::sleep_for(std::chrono::milliseconds(40));
    }
  });
  for (int round = 0; round < 12; ++round) {
    const auto until = Clock::now() + std::chrono::milliseconds(random() % 120);
    while (Clock::now() < until) kvt_cuda_poll(client);
    ASSERT_TRUE(daemon.restart()) << daemon.log();
    for (uint64_t i = 0; i < pages.size(); i += 9) EXPECT_EQ(client.wrong_page(pages[i], key_of(i)), 0u) << i;
  }
  stop = true;
  operator_thread.join();
  for (const auto& [bytes, usable] :
       {std::pair{kOneChunk, kFramesOfOne}, std::pair{std::string("\"all\""), kFramesOfAll}}) {
    ASSERT_TRUE(is_done(daemon, resize(daemon, bytes)));
    ASSERT_TRUE(eventually([&, usable = usable] {
      kvt_cuda_poll(client);
      return number(daemon, "usable") == usable && number(daemon, "leaving") == 0 &&
             number(daemon, "waits_for") == 0 &&
             number(daemon, "given_back_bytes") == (usable == kFramesOfAll ? 0.0 : 2.0 * kChunk);
    })) << daemon.control(R"({"command":"status"})");
    ASSERT_TRUE(daemon.restart()) << daemon.log();
    for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(client.wrong_page(pages[i], key_of(i)), 0u) << i;
    EXPECT_EQ(number(daemon, "usable"), usable);
  }
}

}  // namespace
}  // namespace kvt::test
