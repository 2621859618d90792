// SPDX-License-Identifier: Apache-2.0
//
// Host memory that the GPU's driver allocates, as a tier: pages move between it and HBM as between HBM and memory of the
// kernel, nobody registers it, and who has no GPU does not reach it.
#include <gtest/gtest.h>

#include "tests/integration/cuda_fixture.h"

namespace kvt::test {
namespace {

World host_world(const char* policy = "off") {
  World world = cuda_world(policy);
  world.cuda_host = true;
  return world;
}

/// Where the driver does not do it, the daemon says so, and there is nothing else to see.
bool is_refused() {
  const auto gpu = cuda::Gpu::open(*cuda::Driver::load(cuda_driver()), 0);
  EXPECT_TRUE(gpu) << gpu.error().text;
  if (!gpu || (*gpu)->info().allocates_host) return false;
  const Folder folder;
  const Outcome outcome = run_kvtierd(
      {"--config", folder.write("kvtierd.toml", host_world().toml()), "--socket-dir", folder.path()});
  EXPECT_TRUE(mentions(outcome.err, {"allocates no host memory"})) << outcome.err;
  return true;
}

TEST(CudaHost, PagesMoveThereAndBack) {
  if (is_refused()) return;
  World world = host_world("churn");
  world.keep = true;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  EXPECT_EQ(daemon.log().find("registered with the GPU"), std::string::npos) << daemon.log();
  GpuClient client(daemon);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  EXPECT_EQ(client.client().geometry().device_tiers, 3u);
  EXPECT_EQ(client.client().geometry().unreachable_tiers, 0u);
  std::vector<kvt_page> pages = client.publish_many(150);
  EXPECT_TRUE(eventually([&] {
    return daemon.number("status", "/arenas/0/moves/promoted") > 50 &&
           daemon.number("status", "/arenas/0/moves/demoted_copy") > 10;
  })) << daemon.control(R"({"command":"arenas"})");
  for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(client.wrong_page(pages[i], key_of(i)), 0u) << i;
  // The next daemon has it by its descriptors, and moves pages there, too.
  ASSERT_TRUE(daemon.restart()) << daemon.log();
  EXPECT_EQ(daemon.log().find("its memory is lost"), std::string::npos) << daemon.log();
  for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(client.wrong_page(pages[i], key_of(i)), 0u) << i;
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/moves/promoted") > 200; }));
  GpuClient other(daemon);
  ASSERT_EQ(other.code(), KVT_OK) << kvt_last_error();
  for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(other.wrong_page(pages[i], key_of(i)), 0u) << i;
}

TEST(CudaHost, WithoutAGpuItIsOutOfReach) {
  if (is_refused()) return;
  const Daemon daemon(host_world());
  ASSERT_TRUE(daemon.ok());
  GpuClient gpu(daemon, KVT_ATTACH_NO_OFFERS);
  const std::vector<kvt_page> pages = gpu.publish_many(100);
  kvt_attach_args args = attach_args(daemon.folder());
  args.timeout_ms = 200;
  Client cpu(args);
  ASSERT_EQ(cpu.code(), KVT_OK) << kvt_last_error();
  EXPECT_EQ(cpu.geometry().unreachable_tiers, 3u);
  const GpuClient reader(daemon, 0, KVT_ACCESS_READ);
  ASSERT_EQ(reader.code(), KVT_OK) << kvt_last_error();
  EXPECT_EQ(reader.client().geometry().unreachable_tiers, 3u) << "it carries write access, like HBM";
  kvt_page found = KVT_NO_PAGE;
  const kvt_key key = key_of(99);
  ASSERT_EQ(kvt_lookup(cpu, &key, 1, KVT_LOOKUP_HOLD, &found), 1);
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(cpu, &step), KVT_OK);
  kvt_frame frame = 0;
  EXPECT_EQ(kvt_resolve(cpu, &step, &found, 1, &frame), 0);
  EXPECT_EQ(frame, KVT_NO_FRAME);
  EXPECT_EQ(kvt_step_end(cpu, &step), KVT_OK);
  kvt_page own = KVT_NO_PAGE;
  EXPECT_NE(kvt_allocate(cpu, &own, 1), 1) << "there is no place for its pages";
}

/// Kernels that read a page there fill its frame in HBM, as with registered memory.
TEST(CudaHost, PagesAreOfferedToTheirReaders) {
  if (is_refused()) return;
  World world = host_world("balance");
  world.period_ms = 5;
  const Daemon daemon(world);
  GpuClient client(daemon);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  std::vector<kvt_page> slow;
  std::vector<uint64_t> keys;
  const std::vector<kvt_page> pages = client.publish_many(100);
  for (uint64_t i = 0; i < pages.size(); ++i)
    if (client.tier(pages[i]) == 1) {
      slow.push_back(pages[i]);
      keys.push_back(i);
    }
  ASSERT_FALSE(slow.empty());
  uint64_t filled = 0;
  EXPECT_TRUE(eventually([&] {
    kvt_step step{};
    if (kvt_cuda_step_begin(client, client.stream(), &step) != KVT_OK) return false;
    std::vector<kvt_frame> frames(slow.size());
    std::vector<kvt_frame> targets(slow.size());
    EXPECT_EQ(kvt_cuda_resolve(client, &step, slow.data(), slow.size(), frames.data(), targets.data()),
              static_cast<int>(slow.size()));
    kvt_touch(client, slow.data(), slow.size());
    for (size_t i = 0; i < slow.size(); ++i) {
      EXPECT_EQ(client.wrong(frames[i], key_of(keys[i])), 0u);
      if (targets[i] == KVT_NO_FRAME) continue;
      EXPECT_EQ(client.tier_of(targets[i]), 0u);
      EXPECT_EQ(client.tier_of(frames[i]), 1u);
      EXPECT_EQ(client.driver().cuMemcpyAsync(client.address(targets[i]), client.address(frames[i]),
                                              kCudaPageBytes, client.stream()),
                CUDA_SUCCESS);
      ++filled;
    }
    EXPECT_EQ(kvt_cuda_step_end(client, &step), KVT_OK);
    client.driver().cuStreamSynchronize(client.stream());
    kvt_cuda_poll(client);
    return client.client().stats().offers_taken >= 8;
  }));
  EXPECT_GE(filled, 8u);
  for (size_t i = 0; i < slow.size(); ++i) EXPECT_EQ(client.wrong_page(slow[i], key_of(keys[i])), 0u) << i;
}

TEST(CudaFailures, ADriverThatAllocatesNoHostMemoryIsNamed) {
  const Environment variable("KVT_STANDIN_WITHOUT", "host-numa");
  const Folder folder;
  const Outcome outcome = run_kvtierd(
      {"--config", folder.write("kvtierd.toml", host_world().toml()), "--socket-dir", folder.path()});
  EXPECT_EQ(outcome.exit_code, 1) << outcome.err;
  EXPECT_TRUE(
      mentions(outcome.err, {"tier \"dram\"", "allocates no host memory", "expected kind = \"numa\""}))
      << outcome.err;
}

TEST(CudaHost, IsOfOneNode) {
  if (is_refused()) return;
  const Folder folder;
  World world = host_world();
  std::string text = world.toml();
  const auto with = [&](const std::string& nodes) {
    std::string changed = text;
    changed.insert(changed.find("kind = \"cuda-host\""), "nodes = " + nodes + "\n");
    return run_kvtierd(
        {"--config", folder.write("kvtierd.toml", changed), "--socket-dir", folder.path(), "--plan"});
  };
  EXPECT_EQ(with("[0]").exit_code, 0);
  EXPECT_TRUE(mentions(with("[0, 1]").err, {"cuda-host has several nodes"}));
  EXPECT_TRUE(mentions(with("[1000]").err, {"NUMA node 1000"}));
}

}  // namespace
}  // namespace kvt::test
