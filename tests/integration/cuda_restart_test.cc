// SPDX-License-Identifier: Apache-2.0
//
// A daemon with a GPU's memory is killed, and the next takes it over by the descriptors; arenas of it come and go.
#include <signal.h>

#include <fstream>

#include "tests/integration/cuda_fixture.h"

namespace kvt::test {
namespace {

bool does(const Daemon& daemon, const std::string& request) {
  return is_done(daemon, daemon.control(request));
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

/// An error that leaves the daemon's context of no use costs nobody a page: the next daemon has another context.
TEST(CudaFailures, AContextIsMadeAnew) {
  World world = cuda_world();
  world.keep = true;
  constexpr uint64_t kFails = 5;  // the copy that does, of each daemon
  const Environment variable("KVT_STANDIN_FAIL_ASYNC", "copy:" + std::to_string(kFails) + "=700");
  Daemon daemon(world);
  ::unsetenv("KVT_STANDIN_FAIL_ASYNC");
  ASSERT_TRUE(daemon.ok());
  Client cpu(daemon);
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  // In host memory first: a session without a GPU has written them.
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < 8; ++i) pages.push_back(publish_page(cpu, key_of(i), kCudaPageBytes));
  const kvt_page on_device = client.publish(key_of(100));  // and this one nowhere else
  ASSERT_EQ(client.tier(on_device), 0u);
  const auto reaches = [&](kvt_page page) {
    move_page(daemon, page, "hbm0");
    return eventually([&] { return client.tier(page) == 0; });
  };
  const pid_t before = daemon.worker();
  for (uint64_t i = 0; i < kFails - 1; ++i) ASSERT_TRUE(reaches(pages[i])) << i;
  move_page(daemon, pages[kFails - 1], "hbm0");
  ASSERT_TRUE(daemon.wait_for_worker(before)) << daemon.log();
  EXPECT_TRUE(mentions(daemon.log(), {"the next one makes its context anew", "took over 1 arena(s)"}))
      << daemon.log();
  EXPECT_EQ(daemon.log().find("are lost"), std::string::npos) << daemon.log();
  EXPECT_EQ(daemon.text("status", "/arenas/0/tiers/0/degraded"), "false");
  EXPECT_EQ(client.tier(pages[kFails - 1]), 1u) << "where it was";
  // The sessions go on, and so do the engines of the GPU.
  ASSERT_TRUE(eventually([&] { return kvt_flush(client) == KVT_OK; })) << kvt_last_error();
  ASSERT_TRUE(reaches(pages[kFails - 1]));
  for (uint64_t i = 0; i < kFails; ++i) EXPECT_EQ(client.wrong_page(pages[i], key_of(i)), 0u) << i;
  EXPECT_EQ(client.wrong_page(on_device, key_of(100)), 0u);
}

/// It is no matter who finds out: with checksums it is the kernel that reads pages, all the time.
TEST(CudaFailures, AContextIsMadeAnewThatACheckHasFoundToFail) {
  World world = cuda_world();
  world.keep = true;
  world.integrity = "all";
  world.scrub_pages_per_second = 10'000;
  const Environment variable("KVT_STANDIN_FAIL_ASYNC", "kernel:40=700");
  Daemon daemon(world);
  ::unsetenv("KVT_STANDIN_FAIL_ASYNC");
  ASSERT_TRUE(daemon.ok());
  const pid_t before = daemon.worker();
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < 20; ++i) pages.push_back(client.publish(key_of(i)));  // nowhere else
  ASSERT_EQ(kvt_release(client, pages.data(), pages.size(), nullptr), KVT_OK);
  ASSERT_TRUE(daemon.wait_for_worker(before)) << daemon.log();
  EXPECT_TRUE(mentions(daemon.log(), {"the next one makes its context anew"})) << daemon.log();
  ASSERT_TRUE(eventually([&] { return kvt_flush(client) == KVT_OK; })) << kvt_last_error();
  for (uint64_t i = 0; i < pages.size(); ++i) {
    const kvt_key key = key_of(i);
    kvt_page found = KVT_NO_PAGE;
    ASSERT_EQ(kvt_lookup(client, &key, 1, KVT_LOOKUP_HOLD, &found), 1) << i;
    EXPECT_EQ(client.wrong_page(found, key_of(i)), 0u) << i;
  }
  EXPECT_EQ(daemon.log().find("are lost"), std::string::npos) << daemon.log();
}

/// A GPU that fails again and again is given up, as it is where no daemon would follow.
TEST(CudaFailures, AContextIsNotMadeAnewForEver) {
  World world = cuda_world();
  world.keep = true;
  const Environment variable("KVT_STANDIN_FAIL_ASYNC", "copy:1=700");
  Daemon daemon(world);
  ::unsetenv("KVT_STANDIN_FAIL_ASYNC");
  ASSERT_TRUE(daemon.ok());
  Client cpu(daemon);
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);
  const kvt_page page = publish_page(cpu, key_of(1), kCudaPageBytes);
  const kvt_page on_device = client.publish(key_of(2));
  ASSERT_EQ(kvt_release(client, &on_device, 1, nullptr), KVT_OK);
  for (int round = 0; round < 3; ++round) {
    const pid_t before = daemon.worker();
    move_page(daemon, page, "hbm0");
    ASSERT_TRUE(daemon.wait_for_worker(before)) << round << daemon.log();
    EXPECT_EQ(client.tier(on_device), 0u) << round;
  }
  const pid_t last = daemon.worker();
  move_page(daemon, page, "hbm0");
  EXPECT_TRUE(eventually([&] { return daemon.text("status", "/arenas/0/tiers/0/degraded") == "true"; }));
  EXPECT_EQ(daemon.worker(), last);
  EXPECT_TRUE(eventually([&] {
    return mentions(daemon.log(), {"was made anew 3 times within 60 minutes", "1 are lost"});
  })) << daemon.log();
  EXPECT_EQ(verify_page(cpu, page, key_of(1), kCudaPageBytes), 0u);
}

/// The GPU is not there for the next daemon either: then what has a second place is read there.
TEST(CudaFailures, AGpuThatStaysAwayCostsWhatLiesInItAlone) {
  const Folder folder;
  const std::string lost = folder.path() + "/lost";
  World world = cuda_world();
  world.keep = true;
  const Environment variable("KVT_STANDIN_LOST_FILE", lost);
  Daemon daemon(world);
  ::unsetenv("KVT_STANDIN_LOST_FILE");
  ASSERT_TRUE(daemon.ok());
  Client cpu(daemon);
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);
  const kvt_page with_second = publish_page(cpu, key_of(1), kCudaPageBytes);
  move_page(daemon, with_second, "hbm0");
  ASSERT_TRUE(eventually([&] { return client.tier(with_second) == 0; }));
  const kvt_page alone = client.publish(key_of(2));
  ASSERT_EQ(kvt_release(client, &alone, 1, nullptr), KVT_OK);
  const pid_t before = daemon.worker();
  std::ofstream(lost) << "x";
  move_page(daemon, alone, "dram");  // notices it
  ASSERT_TRUE(daemon.wait_for_worker(before)) << daemon.log();
  EXPECT_TRUE(eventually([&] { return client.tier(with_second) == 1; })) << daemon.log();
  EXPECT_TRUE(eventually([&] {
    return mentions(daemon.log(), {"its memory is lost", "1 are lost"});
  })) << daemon.log();
  EXPECT_EQ(verify_page(cpu, with_second, key_of(1), kCudaPageBytes), 0u);
  const kvt_key key = key_of(2);
  kvt_page found = KVT_NO_PAGE;
  EXPECT_EQ(kvt_lookup(cpu, &key, 1, 0, &found), 0);
  EXPECT_NE(publish_page(cpu, key_of(9), kCudaPageBytes), KVT_NO_PAGE);
  // Who has the GPU all the same, as its own driver says, gets none of the memory that is not there.
  const pid_t after = daemon.worker();
  GpuClient another(daemon, KVT_ATTACH_NO_OFFERS);
  ASSERT_EQ(another.code(), KVT_OK) << kvt_last_error();
  EXPECT_EQ(another.client().geometry().unreachable_tiers, 1u);
  EXPECT_EQ(another.tier(another.publish(key_of(10))), 1u);
  EXPECT_EQ(daemon.worker(), after);
}

/// Its memory is made, mapped and registered by a thread, while copy engines move the pages of another arena.
TEST(CudaRestart, ArenasComeAndGo) {
  World world = cuda_world("churn");
  world.keep = true;
  world.more = "bytes = { hbm0 = \"2MiB\", dram = \"8MiB\" }\n";
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  const auto create = [&](const std::string& name) {
    return does(daemon, R"({"command":"arena-create","arena":")" + name + R"(","set":{"page_bytes":)" +
                            std::to_string(kCudaPageBytes) + R"(,"bytes.hbm0":"2MiB","bytes.dram":"8MiB"}})");
  };
  const auto remove = [&](const std::string& name) {
    return does(daemon, R"({"command":"arena-delete","arena":")" + name + R"(","force":true})");
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
    ASSERT_TRUE(does(
        daemon, R"({"command":"tier-add","tier":"gpu","set":{"kind":"cuda","device":"0","bytes":"4MiB"}})"));
    ASSERT_TRUE(does(daemon, R"({"command":"arena-delete","arena":"default"})"));
    ASSERT_TRUE(does(daemon, R"({"command":"arena-create","arena":"default","set":{"page_bytes":)" +
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
    ASSERT_TRUE(does(daemon, R"({"command":"arena-delete","arena":"default","force":true})"));
    ASSERT_TRUE(does(daemon, R"({"command":"tier-remove","tier":"gpu"})"));
    ASSERT_TRUE(does(daemon, R"({"command":"arena-create","arena":"default","set":{"bytes.hbm0":0}})"));
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
  ASSERT_TRUE(does(daemon, R"({"command":"tier-add","tier":"spare","set":{"bytes":"1MiB"}})"));
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
