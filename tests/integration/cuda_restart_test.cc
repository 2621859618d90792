// SPDX-License-Identifier: Apache-2.0
//
// A daemon with a GPU's memory is killed, and the next takes it over by the descriptors; arenas of it come and go.
#include <signal.h>

#include <fstream>

#include "tests/integration/cuda_fixture.h"

namespace kvt::test {
namespace {

bool is_done(const Daemon& daemon, const std::string& request) {
  const std::string answer = daemon.control(request);
  EXPECT_NE(answer.find("\"ok\":true"), std::string::npos) << answer;
  return answer.find("\"ok\":true") != std::string::npos;
}

TEST(CudaRestart, PagesInDeviceMemoryStayAndMove) {
  World world = cuda_world();
  world.keep = true;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  GpuClient client(daemon);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < 100; ++i) pages.push_back(client.publish(key_of(i)));
  uint64_t on_device = 0;
  for (const kvt_page page : pages) on_device += client.client().info(page).tier == 0 ? 1 : 0;
  ASSERT_GT(on_device, 10u);

  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(daemon.restart());
    for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(client.wrong_page(pages[i], key_of(i)), 0u) << i;
  }
  ASSERT_TRUE(eventually([&] { return kvt_flush(client) == KVT_OK; })) << kvt_last_error();
  // The new daemon's engines reach it, both ways.
  for (const uint64_t i : {0, 1, 2}) {
    const std::string page = std::to_string(KVT_PAGE_INDEX(pages[i]));
    for (const char* const tier : {"dram", "hbm0"}) {
      EXPECT_NE(daemon.control(R"({"command":"move","page":)" + page + R"(,"tier":")" + tier + R"("})"), "");
      EXPECT_TRUE(eventually([&] {
        return client.client().info(pages[i]).tier == (tier[0] == 'd' ? 1u : 0u);
      })) << daemon.control(R"({"command":"page","page":)" + page + "}");
      EXPECT_EQ(client.wrong_page(pages[i], key_of(i)), 0u);
    }
  }
  // And another client maps what is there.
  GpuClient other(daemon);
  ASSERT_EQ(other.code(), KVT_OK) << kvt_last_error();
  for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(other.wrong_page(pages[i], key_of(i)), 0u);
}

/// Of a daemon that has ended in order all copies have ended. Of one that was killed nobody can tell, where nobody says which
/// processes a GPU has.
TEST(CudaRestart, OnlyOfAKilledDaemonTheCopiesAreWaitedFor) {
  World world = cuda_world();
  world.keep = true;
  world.quarantine_ms = 700;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  const auto waits = [&] {
    size_t count = 0;
    for (size_t at = 0;
         (at = daemon.log().find("waiting for the copies of process", at)) != std::string::npos; ++at)
      ++count;
    return count;
  };
  ASSERT_TRUE(daemon.restart(SIGTERM));
  EXPECT_EQ(waits(), 0u) << daemon.log();
  ASSERT_TRUE(daemon.restart(SIGKILL));
  EXPECT_EQ(waits(), 1u) << daemon.log();
  ASSERT_TRUE(daemon.restart(SIGTERM));
  EXPECT_EQ(waits(), 1u) << daemon.log();
}

/// Its memory is made, mapped and registered by a thread, while copy engines move the pages of another arena.
TEST(CudaRestart, ArenasComeAndGo) {
  World world = cuda_world("churn");
  world.keep = true;
  world.more = "bytes = { hbm0 = \"2MiB\", dram = \"8MiB\" }\n";
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  const auto create = [&](const std::string& name) {
    return is_done(daemon, R"({"command":"arena-create","arena":")" + name + R"(","set":{"page_bytes":)" +
                               std::to_string(kCudaPageBytes) +
                               R"(,"bytes.hbm0":"2MiB","bytes.dram":"8MiB"}})");
  };
  const auto remove = [&](const std::string& name) {
    return is_done(daemon, R"({"command":"arena-delete","arena":")" + name + R"(","force":true})");
  };
  std::vector<kvt_page> pages;
  {
    GpuClient client(daemon);
    ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
    for (uint64_t i = 0; i < 100; ++i) pages.push_back(client.publish(key_of(i)));
    for (int round = 0; round < 5; ++round) {
      ASSERT_TRUE(create("chat"));
      for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(client.wrong_page(pages[i], key_of(i)), 0u) << i;
      ASSERT_TRUE(remove("chat"));
    }
  }
  // The very arena, made while the daemon runs, is as good.
  ASSERT_TRUE(create("chat"));
  ASSERT_TRUE(remove("default"));
  ASSERT_TRUE(create("default"));
  GpuClient client(daemon);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  pages.clear();
  for (uint64_t i = 0; i < 100; ++i) pages.push_back(client.publish(key_of(1000 + i)));
  ASSERT_TRUE(eventually([&] { return daemon.number("arenas", "/arenas/1/moves/promoted") > 20; }));
  ASSERT_TRUE(daemon.restart());
  EXPECT_EQ(daemon.number("arenas", "/arenas"), 2);
  for (uint64_t i = 0; i < pages.size(); ++i)
    EXPECT_EQ(client.wrong_page(pages[i], key_of(1000 + i)), 0u) << i;
  ASSERT_TRUE(eventually([&] { return kvt_flush(client) == KVT_OK; })) << kvt_last_error();
}

/// A GPU that nobody was to use: its memory becomes a tier, its engines copy, and it is given up again.
TEST(CudaRestart, ATierOfAGpuComesAndGoes) {
  World world = cuda_world("churn");
  world.cuda_gpus = 0;  // its driver is configured, and hbm0 is emulated
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(is_done(
        daemon, R"({"command":"tier-add","tier":"gpu","set":{"kind":"cuda","device":"0","bytes":"4MiB"}})"));
    ASSERT_TRUE(is_done(daemon, R"({"command":"arena-delete","arena":"default"})"));
    ASSERT_TRUE(is_done(daemon, R"({"command":"arena-create","arena":"default","set":{"page_bytes":)" +
                                    std::to_string(kCudaPageBytes) +
                                    R"(,"bytes.hbm0":0,"bytes.gpu":"2MiB","bytes.dram":"8MiB"}})"));
    {
      GpuClient client(daemon);
      ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
      std::vector<kvt_page> pages;
      for (uint64_t i = 0; i < 100; ++i) pages.push_back(client.publish(key_of(i)));
      ASSERT_TRUE(eventually([&] { return daemon.number("arenas", "/arenas/0/moves/promoted") > 20; }));
      for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(client.wrong_page(pages[i], key_of(i)), 0u) << i;
    }
    const std::string stays = daemon.control(R"({"command":"tier-remove","tier":"gpu"})");
    EXPECT_NE(stays.find("stays"), std::string::npos) << stays;
    ASSERT_TRUE(is_done(daemon, R"({"command":"arena-delete","arena":"default","force":true})"));
    ASSERT_TRUE(is_done(daemon, R"({"command":"tier-remove","tier":"gpu"})"));
    ASSERT_TRUE(is_done(daemon, R"({"command":"arena-create","arena":"default","set":{"bytes.hbm0":0}})"));
  }
}

/// A daemon that has lost its GPU, and an arena with windows there, still gets other tiers, by command and by reload.
TEST(CudaRestart, WithoutTheGpuOtherTiersAreAdded) {
  World world = cuda_world();
  world.keep = true;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  world.cuda_driver = "/nonexistent/libcuda.so.1";
  const auto write = [&](const std::string& more) {
    std::ofstream(daemon.folder() + "/kvtierd.toml") << world.toml() << more;
  };
  write("");
  ASSERT_TRUE(daemon.restart());
  ASSERT_TRUE(is_done(daemon, R"({"command":"tier-add","tier":"spare","set":{"bytes":"1MiB"}})"));
  const std::string taken = daemon.control(R"({"command":"tier-add","tier":"hbm0","set":{"bytes":"1MiB"}})");
  EXPECT_NE(taken.find("arena \\\"default\\\" has a window in a tier \\\"hbm0\\\""), std::string::npos)
      << taken;
  write("bytes = { more = 0 }\n[[tier]]\nname = \"more\"\nbytes = \"1MiB\"\n");
  ::kill(daemon.worker(), SIGHUP);
  EXPECT_TRUE(eventually([&] { return daemon.log().find("tier \"more\" is there") != std::string::npos; }))
      << daemon.log();
  EXPECT_EQ(daemon.log().find("is not added"), std::string::npos) << daemon.log();
}

}  // namespace
}  // namespace kvt::test
