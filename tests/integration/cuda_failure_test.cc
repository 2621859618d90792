// SPDX-License-Identifier: Apache-2.0
//
// What can go wrong with a GPU: no driver, a poorer one, copies that fail, a device that is lost, clients that die while
// their GPU works. Needs faults to order: the stand-in driver alone.
#include <gtest/gtest.h>

#include <fstream>

#include "tests/integration/cuda_fixture.h"
#include "tests/support/child.h"

namespace kvt::test {
namespace {

TEST(CudaDaemon, LeavesTheTierOutWhereThereIsNoDriver) {
  World world = cuda_world();
  world.cuda_driver = "/nowhere/libcuda.so.1";
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  EXPECT_TRUE(mentions(daemon.log(), {"hbm0", "/nowhere/libcuda.so.1", "left out"})) << daemon.log();
  EXPECT_EQ(1.0, daemon.number("status", "/tiers"));
  EXPECT_TRUE(mentions(daemon.text("status", "/cuda_driver"), {"/nowhere/libcuda.so.1"}));
  Client client(daemon);
  EXPECT_NE(KVT_NO_PAGE, publish_page(client, key_of(1), kCudaPageBytes));
}

TEST(CudaDaemon, FailsWithoutADriverWhereItIsToldTo) {
  const Folder folder;
  const std::string config = folder.write("kvtierd.toml",
                                          "[cuda]\ndriver = \"/nowhere/libcuda.so.1\"\n[[tier]]\nname = "
                                          "\"hbm\"\nkind = \"cuda\"\nbytes = \"4MiB\"\n"
                                          "without_device = \"fail\"\n[[tier]]\nname = \"dram\"\nbytes = "
                                          "\"16MiB\"\n[[arena]]\nname = \"default\"\n");
  const Outcome outcome = run_kvtierd({"--config", config, "--socket-dir", folder.path()});
  EXPECT_EQ(3, outcome.exit_code);
  EXPECT_TRUE(mentions(outcome.err, {"tier \"hbm\"", "/nowhere/libcuda.so.1"})) << outcome.err;
}

/// A driver that lacks something of the newest: the same pages, the same bytes.
class CudaPoorerDriver : public testing::TestWithParam<std::pair<const char*, const char*>> {};
INSTANTIATE_TEST_SUITE_P(Kinds, CudaPoorerDriver,
                         testing::Values(std::pair{"KVT_STANDIN_VERSION", "12020"},
                                         std::pair{"KVT_STANDIN_WITHOUT", "batch"},
                                         std::pair{"KVT_STANDIN_WITHOUT", "stream-write-64"},
                                         std::pair{"KVT_STANDIN_DELAY_US", "300"}),
                         [](const auto& parameter) {
                           std::string name = std::string(parameter.param.first) + parameter.param.second;
                           std::erase_if(name, [](char each) { return std::isalnum(each) == 0; });
                           return name;
                         });

TEST_P(CudaPoorerDriver, MovesPagesAllTheSame) {
  const Environment variable(GetParam().first, GetParam().second);
  const standin::StandIn standin(KVT_STANDIN_DRIVER);
  standin.reload();
  {
    const Daemon daemon(cuda_world("churn"));
    GpuClient client(daemon);
    ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
    const auto pages = client.publish_many(80);
    EXPECT_TRUE(eventually([&] {
      for (size_t i = 0; i < pages.size(); ++i)
        if (const uint64_t wrong = client.wrong_page(pages[i], key_of(i)); wrong != 0) {
          ADD_FAILURE() << "page " << i << ": " << wrong << " words";
          return true;
        }
      kvt_touch(client, pages.data(), pages.size());
      const kvt_stats stats = client.client().stats();
      return stats.moves_promoted > 20 && stats.moves_demoted_copy > 20;
    }));
  }
  ::unsetenv(GetParam().first);
  standin.reload();
}

class CudaUnfit : public testing::TestWithParam<std::pair<const char*, const char*>> {};
INSTANTIATE_TEST_SUITE_P(Kinds, CudaUnfit,
                         testing::Values(std::pair{"vmm", "virtual memory"},
                                         std::pair{"posix-handles", "descriptors"},
                                         std::pair{"host-pointer", "another address"}),
                         [](const auto& parameter) {
                           std::string name = parameter.param.first;
                           std::erase(name, '-');
                           return name;
                         });

TEST_P(CudaUnfit, GpusAreLeftOutWithTheReason) {
  const Environment variable("KVT_STANDIN_WITHOUT", GetParam().first);
  const Daemon daemon(cuda_world());
  ASSERT_TRUE(daemon.ok());
  EXPECT_TRUE(mentions(daemon.log(), {"cannot be a tier", GetParam().second, "left out"})) << daemon.log();
}

TEST(CudaDaemon, RefusesMoreThanTheGpuHas) {
  const Environment variable("KVT_STANDIN_BYTES", std::to_string(8u << 20));
  World world = cuda_world();
  const Folder folder;
  world.hbm_bytes = 16u << 20;
  const Outcome outcome =
      run_kvtierd({"--config", folder.write("kvtierd.toml", world.toml()), "--socket-dir", folder.path()});
  EXPECT_EQ(2, outcome.exit_code);
  EXPECT_TRUE(mentions(outcome.err, {"hbm0", "16 MiB", "8 MiB are free"})) << outcome.err;
}

TEST(CudaDaemon, TakesAShareOfWhatIsFree) {
  const Folder folder;
  const std::string config = folder.write(
      "kvtierd.toml",
      "[cuda]\nreserve_bytes = \"56MiB\"\nmeasure = false\ndriver = \"" KVT_STANDIN_DRIVER
      "\"\n[[tier]]\nname = \"hbm\"\nkind = \"cuda\"\nbytes = \"50%\"\n[[tier]]\nname = \"dram\"\nbytes = "
      "\"64MiB\"\n[[arena]]\nname = \"default\"\n");
  const Outcome outcome = run_kvtierd({"--config", config, "--socket-dir", folder.path(), "--plan"});
  EXPECT_EQ(0, outcome.exit_code) << outcome.err;
  EXPECT_TRUE(mentions(outcome.out, {"hbm", "100 MiB"})) << outcome.out;  // half of 256 - 56
}

TEST(CudaDaemon, MeasuresGpuAndLink) {
  World world = cuda_world();
  const Folder folder;
  std::string text = world.toml();
  text.replace(text.find("measure = false"), 15, "measure = true");
  const Daemon daemon(cuda_world());
  EXPECT_EQ(0.0, daemon.number("status", "/tiers/0/gpu/in_bytes_per_second"));
  const Outcome outcome =
      run_kvtierd({"--config", folder.write("kvtierd.toml", text), "--socket-dir", folder.path(), "--plan"});
  EXPECT_EQ(0, outcome.exit_code) << outcome.err;
  EXPECT_TRUE(mentions(outcome.out, {"measured"})) << outcome.out;
  EXPECT_TRUE(mentions(outcome.out, {"copies in ", "out ", "both ", "within "})) << outcome.out;
  EXPECT_EQ(KVT_HAVE_DEVICE_CODE == 1, mentions(outcome.out, {"kernels read host memory at "}))
      << outcome.out;
  EXPECT_FALSE(mentions(outcome.out, {"not measured"})) << outcome.out;
  World measuring = cuda_world();
  measuring.cuda_measure = true;
  const Daemon measured(measuring);
  for (const char* const figure : {"in", "out", "both", "copy"})
    EXPECT_GT(measured.number("status", std::string("/tiers/0/gpu/") + figure + "_bytes_per_second"), 0.0)
        << figure;
#if KVT_HAVE_DEVICE_CODE  // else there is no kernel to measure
  const double reads = measured.number("status", "/tiers/0/gpu/kernel_read_bytes_per_second");
  EXPECT_GT(reads, 0.0);
  EXPECT_EQ(reads, measured.number("status", "/tiers/1/read_bytes_per_second")) << "placement's figure";
#endif
}

/// Device code that the driver cannot load: the rest is measured, and what is read is what is copied.
TEST(CudaDaemon, WithoutAKernelTheReadsAreNotMeasured) {
  const Environment variable("KVT_STANDIN_FAIL", "cuModuleLoadData:1=209");  // CUDA_ERROR_NO_BINARY_FOR_GPU
  World world = cuda_world();
  world.cuda_measure = true;
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  EXPECT_FALSE(mentions(daemon.control("{\"command\":\"tiers\"}"), {"kernel_read_bytes_per_second"}));
  EXPECT_GT(daemon.number("status", "/tiers/0/gpu/in_bytes_per_second"), 0.0);
  EXPECT_EQ(daemon.number("status", "/tiers/0/gpu/in_bytes_per_second"),
            daemon.number("status", "/tiers/1/read_bytes_per_second"));
}

TEST(CudaFailures, ACopyThatFailsLosesNothing) {
  const Environment variable("KVT_STANDIN_FAIL",
                             "cuMemcpyAsync:1=1,cuMemcpyAsync:2=1,cuLaunchKernel:1=1,cuLaunchKernel:2=1");
  World world = cuda_world();
  const Daemon daemon(world);
  ::unsetenv("KVT_STANDIN_FAIL");
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  const kvt_page page = client.publish(key_of(3));
  ASSERT_EQ(0u, client.tier(page));
  // Twice refused, and then done.
  for (int i = 1; i <= 2; ++i) {
    move_page(daemon, page, "dram");
    EXPECT_TRUE(
        eventually([&] { return client.client().stats().moves_aborted == static_cast<uint64_t>(i); }));
    EXPECT_EQ(0u, client.tier(page));
    EXPECT_EQ(0u, client.wrong_page(page, key_of(3)));
  }
  move_page(daemon, page, "dram");
  EXPECT_TRUE(eventually([&] { return client.tier(page) == 1; }));
  EXPECT_EQ(0u, client.wrong_page(page, key_of(3)));
}

TEST(CudaFailures, ALostGpuLeavesWhatHasASecondPlace) {
  const Folder folder;
  const std::string lost = folder.path() + "/lost";
  const Environment variable("KVT_STANDIN_LOST_FILE", lost);
  const Daemon daemon(cuda_world());
  ::unsetenv("KVT_STANDIN_LOST_FILE");
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);  // its own driver is well
  Client cpu(daemon);
  const kvt_page with_second = client.publish(key_of(1));
  const kvt_page alone = client.publish(key_of(2));
  const kvt_page other = client.publish(key_of(3));
  move_page(daemon, with_second, "dram");
  ASSERT_TRUE(eventually([&] { return client.tier(with_second) == 1; }));
  move_page(daemon, with_second, "hbm0");
  ASSERT_TRUE(eventually([&] { return client.tier(with_second) == 0; }));
  ASSERT_EQ(KVT_OK, kvt_release(client, &alone, 1, nullptr));
  std::ofstream(lost) << "x";
  move_page(daemon, other, "dram");  // notices it
  EXPECT_TRUE(eventually([&] { return daemon.text("status", "/arenas/0/tiers/0/degraded") == "true"; }))
      << daemon.control("{\"command\":\"status\"}");
  EXPECT_TRUE(eventually([&] { return client.tier(with_second) == 1; }));
  EXPECT_TRUE(eventually([&] {
    return mentions(daemon.log(), {"hbm0", "does nothing any more", "2 are lost"});
  })) << daemon.log();
  EXPECT_EQ(0u, verify_page(cpu, with_second, key_of(1), kCudaPageBytes));
  kvt_page found = KVT_NO_PAGE;
  kvt_key key = key_of(2);
  EXPECT_EQ(0, kvt_lookup(cpu, &key, 1, 0, &found));
  key = key_of(1);
  EXPECT_EQ(1, kvt_lookup(cpu, &key, 1, 0, &found));
  // And it goes on, in host memory.
  EXPECT_NE(KVT_NO_PAGE, publish_page(cpu, key_of(9), kCudaPageBytes));
  EXPECT_EQ(1u, cpu.info(publish_page(cpu, key_of(10), kCudaPageBytes)).tier);
}

/// One that is held cannot go at once: nobody finds it, and it goes when it is let go.
TEST(CudaFailures, WhatIsHeldOfALostGpuLeavesLater) {
  const Folder folder;
  const std::string lost = folder.path() + "/lost";
  const Environment variable("KVT_STANDIN_LOST_FILE", lost);
  const Daemon daemon(cuda_world());
  ::unsetenv("KVT_STANDIN_LOST_FILE");
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);
  Client cpu(daemon);
  const kvt_page parent = client.publish(key_of(1));
  const kvt_page child = client.publish(key_of(2), parent);
  ASSERT_NE(KVT_NO_PAGE, child);
  const kvt_page other = client.publish(key_of(3));
  std::ofstream(lost) << "x";
  move_page(daemon, other, "dram");  // notices it
  ASSERT_TRUE(eventually([&] { return daemon.text("status", "/arenas/0/tiers/0/degraded") == "true"; }));
  for (const uint64_t each : {1, 2}) {
    kvt_page found = KVT_NO_PAGE;
    const kvt_key key = key_of(each);
    EXPECT_TRUE(eventually([&] { return kvt_lookup(cpu, &key, 1, 0, &found) == 0; })) << each;
  }
  const kvt_page pages[] = {parent, child};
  ASSERT_EQ(KVT_OK, kvt_release(client, pages, 2, nullptr));
  EXPECT_TRUE(eventually([&] {
    return client.client().info(parent).state != uint32_t{KVT_STATE_SEALED} &&
           client.client().info(child).state != uint32_t{KVT_STATE_SEALED};
  }));
}

/// Its owner has gone: nothing new begins in the session.
TEST(CudaDeath, NobodyJoinsAQuarantinedSession) {
  World world = cuda_world();
  world.quarantine_ms = 600'000;
  const Daemon daemon(world);
  Child child([&](Lines& lines) -> std::string {
    GpuClient client(daemon, 0, KVT_ACCESS_READ_WRITE, 2);
    KVT_CHILD_CHECK(client.code() == KVT_OK);
    uint8_t token[KVT_TOKEN_BYTES];
    KVT_CHILD_CHECK(kvt_token(client, token) == KVT_OK);
    KVT_CHILD_CHECK(allocate(client, 20).size() == 20);
    std::string text;
    for (const uint8_t byte : token)
      text += "0123456789abcdef"[byte >> 4], text += "0123456789abcdef"[byte & 15];
    lines.say(text);
    (void)lines.hear();
    return {};
  });
  const std::string text = child.hear();
  ASSERT_EQ(2u * KVT_TOKEN_BYTES, text.size());
  uint8_t token[KVT_TOKEN_BYTES];
  for (size_t i = 0; i < sizeof token; ++i)
    token[i] = static_cast<uint8_t>(std::stoul(text.substr(2 * i, 2), nullptr, 16));
  child.kill();
  ASSERT_TRUE(eventually([&] { return mentions(daemon.log(), {"until its GPU work has ended"}); }));
  const kvt_attach_args args = attach_args(daemon.folder());
  kvt_session* session = nullptr;
  EXPECT_EQ(KVT_E_ENDED, kvt_join(&args, token, &session));
  EXPECT_GE(daemon.number("status", "/arenas/0/pages_by_state/filling"), 20.0);
  EXPECT_EQ(1.0, daemon.number("sessions", "/sessions/0/quarantined"));
}

/// PROTOCOL A1: what a dead process's GPU may still write is nobody else's before the quarantine is over.
TEST(CudaDeath, PagesAreKeptUntilTheQuarantineIsOver) {
  World world = cuda_world();
  world.quarantine_ms = 1500;
  const Daemon daemon(world);
  Child child([&](Lines& lines) -> std::string {
    GpuClient client(daemon);
    KVT_CHILD_CHECK(client.code() == KVT_OK);
    KVT_CHILD_CHECK(allocate(client, 20).size() == 20);
    kvt_step step{};
    KVT_CHILD_CHECK(kvt_cuda_step_begin(client, client.stream(), &step) == KVT_OK);
    lines.say("filling");
    (void)lines.hear();
    return {};
  });
  ASSERT_EQ("filling", child.hear());
  const double filling = daemon.number("status", "/arenas/0/pages_by_state/filling");
  EXPECT_GE(filling, 20.0);
  const auto begin = Clock::now();
  child.kill();
  ASSERT_TRUE(eventually([&] { return mentions(daemon.log(), {"until its GPU work has ended"}); }))
      << daemon.log();
  const double still_filling = daemon.number("status", "/arenas/0/pages_by_state/filling");
  const double quarantined = daemon.number("sessions", "/sessions/0/quarantined");
  if (Clock::now() - begin <
      std::chrono::milliseconds(1400)) {  // else this machine was too slow to look in time
    EXPECT_EQ(filling, still_filling);
    EXPECT_EQ(1.0, quarantined);
  }
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/sessions") == 0; }));
  EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(1400));
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/pages_by_state/filling") == 0; }));
}

TEST(CudaDeath, WithoutAGpuNothingWaits) {
  World world = cuda_world();
  world.quarantine_ms = 60'000;
  const Daemon daemon(world);
  Child child([&](Lines& lines) -> std::string {
    Client client(daemon);
    KVT_CHILD_CHECK(allocate(client, 20).size() == 20);
    lines.say("filling");
    (void)lines.hear();
    return {};
  });
  ASSERT_EQ("filling", child.hear());
  const auto begin = Clock::now();
  child.kill();
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/pages_by_state/filling") == 0; }));
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(30));
}

}  // namespace
}  // namespace kvt::test
