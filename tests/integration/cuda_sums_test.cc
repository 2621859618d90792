// SPDX-License-Identifier: Apache-2.0
//
// Checksums of pages in device memory: copies of a GPU in both directions, pages behind their seal, the scrub; what is
// wrong is repaired, and what a GPU does not answer any more is not called wrong. Faults of the driver need the stand-in.
#include <gtest/gtest.h>

#include <fstream>

#include "tests/integration/cuda_fixture.h"

namespace kvt::test {
namespace {

World world_with(const char* integrity, const char* policy = "off") {
  World world = cuda_world(policy);
  world.integrity = integrity;
  world.scrub_pages_per_second = 0;
  world.promote = "copies";
  return world;
}

double counted(const Daemon& daemon, const char* what) {
  return daemon.number("status", std::string("/arenas/0/") + what);
}

/// By an operator; again where the page is being checked. `hbm0` or `dram`.
void bring(const Daemon& daemon, const GpuClient& client, kvt_page page, const std::string& tier) {
  const uint32_t wanted = tier == "hbm0" ? 0 : 1;
  std::string answer;
  EXPECT_TRUE(eventually([&] {
    if (client.tier(page) == wanted) return true;
    answer = daemon.control("{\"command\":\"move\",\"page\":" + std::to_string(KVT_PAGE_INDEX(page)) +
                            ",\"tier\":\"" + tier + "\"}");
    return client.tier(page) == wanted;
  })) << answer;
}

/// Changes some bytes of a sealed page in device memory, as an engine that writes where it must not.
void scribble(const GpuClient& client, kvt_frame frame) {
  ASSERT_TRUE(client.on_device(frame));
  ASSERT_EQ(CUDA_SUCCESS,
            client.driver().cuMemsetD8Async(client.address(frame) + 5000, 0xa5, 16, client.stream()));
  ASSERT_EQ(CUDA_SUCCESS, client.driver().cuStreamSynchronize(client.stream()));
}

class CudaSums : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Modes, CudaSums, testing::Values("moves", "all"),
                         [](const auto& parameter) { return std::string(parameter.param); });

/// Pages go there and back all the time, and nothing is found that is not so.
TEST_P(CudaSums, FindNothingWhereNothingIsWrong) {
  World world = world_with(GetParam(), "churn");
  world.scrub_pages_per_second = 10'000;
  const Daemon daemon(world);
  GpuClient client(daemon);
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  EXPECT_FALSE(mentions(daemon.log(), {"covers neither"})) << daemon.log();
  const std::vector<kvt_page> pages = client.publish_many(150);
  const double checks = std::string(GetParam()) == "all" ? 500 : 0;
  EXPECT_TRUE(eventually([&] {
    return counted(daemon, "moves/promoted") > 50 && counted(daemon, "moves/demoted_copy") > 20 &&
           counted(daemon, "integrity/checked") >= checks;
  })) << daemon.control("{\"command\":\"arenas\"}");
  for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(0u, client.wrong_page(pages[i], key_of(i)));
  EXPECT_EQ(0, counted(daemon, "integrity/mismatches"));
  EXPECT_EQ(0, counted(daemon, "lost_pages"));
  if (checks == 0) EXPECT_EQ(0, counted(daemon, "integrity/checked")) << "copies alone";
}

/// Each copy comes out wrong once: each is found, made again, and right.
TEST_P(CudaSums, EachCopyIsCheckedInBothDirectionsAndMadeAgain) {
  World world = world_with(GetParam());
  world.arguments = {"--allow-injection", "--inject", "flip"};
  const Daemon daemon(world);
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  std::vector<kvt_page> pages = client.publish_many(12);
  double copies = 0;
  for (const char* const tier : {"dram", "hbm0"})
    for (size_t i = 0; i < pages.size(); ++i) {
      ASSERT_NE(client.tier(pages[i]), tier == std::string("hbm0") ? 0u : 1u);
      bring(daemon, client, pages[i], tier);
      ++copies;
      EXPECT_EQ(copies, counted(daemon, "integrity/mismatches"));
      EXPECT_EQ(copies, counted(daemon, "integrity/repaired"));
      EXPECT_EQ(0u, client.wrong_page(pages[i], key_of(i)));
    }
  EXPECT_EQ(static_cast<double>(pages.size()), counted(daemon, "moves/demoted_copy"));
  EXPECT_EQ(static_cast<double>(pages.size()), counted(daemon, "moves/promoted"));
  EXPECT_EQ(0, counted(daemon, "moves/aborted"));
  EXPECT_TRUE(mentions(daemon.log(), {"of tier hbm0 had not its checksum when it was copied there"}))
      << daemon.log();
}

/// A frame that has changed behind its seal: a copy of it is not used.
TEST(CudaScrub, ACopyOfAFrameThatHasChangedIsNotUsed) {
  const Daemon daemon(world_with("all"));
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  const kvt_page page = client.publish(key_of(1));
  ASSERT_EQ(0u, client.tier(page));
  ASSERT_TRUE(eventually([&] { return counted(daemon, "integrity/checked") == 1; })) << "behind its seal";
  scribble(client, client.client().info(page).frame);
  move_page(daemon, page, "dram");
  EXPECT_TRUE(eventually([&] { return counted(daemon, "integrity/lost") == 1; }))
      << daemon.control("{\"command\":\"arenas\"}");
  EXPECT_EQ(1, counted(daemon, "integrity/mismatches"));
  EXPECT_EQ(0, counted(daemon, "moves/demoted_copy"));
  kvt_page found = KVT_NO_PAGE;
  const kvt_key key = key_of(1);
  EXPECT_EQ(0, kvt_lookup(client, &key, 1, 0, &found));
}

TEST(CudaScrub, FindsWhatAClientHasScribbledAndRepairsIt) {
  World world = world_with("all");
  world.scrub_pages_per_second = 10'000;
  const Daemon daemon(world);
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  const std::vector<kvt_page> pages = client.publish_many(30);
  // Pages 0 and 1 lie in device memory; of the first one host memory has a second place.
  bring(daemon, client, pages[0], "dram");
  bring(daemon, client, pages[0], "hbm0");
  ASSERT_EQ(0u, client.tier(pages[1]));
  ASSERT_TRUE(gets_shadow(client.client(), pages[0]));
  ASSERT_TRUE(eventually([&] { return counted(daemon, "integrity/checked") > 100; })) << "each has its sum";
  EXPECT_EQ(0, counted(daemon, "integrity/mismatches"));

  scribble(client, client.client().info(pages[0]).frame);
  EXPECT_TRUE(eventually([&] { return counted(daemon, "integrity/repaired") == 1; }))
      << daemon.control("{\"command\":\"arenas\"}");
  EXPECT_EQ(1, counted(daemon, "integrity/mismatches"));
  EXPECT_EQ(1u, client.tier(pages[0]));
  EXPECT_EQ(0u, client.wrong_page(pages[0], key_of(0)));
  EXPECT_TRUE(mentions(daemon.log(), {"of tier hbm0 has not the page's checksum; it is read from frame"}))
      << daemon.log();
  EXPECT_EQ(0, counted(daemon, "pages_by_state/retired"));

  scribble(client, client.client().info(pages[1]).frame);
  EXPECT_TRUE(eventually([&] { return counted(daemon, "integrity/lost") == 1; }));
  kvt_page found = KVT_NO_PAGE;
  const kvt_key lost = key_of(1);
  EXPECT_EQ(0, kvt_lookup(client, &lost, 1, 0, &found));
  for (uint64_t i = 0; i < pages.size(); ++i)
    if (i != 1) EXPECT_EQ(0u, client.wrong_page(pages[i], key_of(i))) << i;
}

/// A stream writes a page, which is sealed when the stream has passed: its sum is of what was written then.
TEST(CudaScrub, APageThatAStreamWritesIsSummedBehindItsSeal) {
  World world = world_with("all");
  world.scrub_pages_per_second = 10'000;
  const Daemon daemon(world);
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  kvt_page page = KVT_NO_PAGE;
  ASSERT_EQ(1, kvt_allocate(client, &page, 1));
  ASSERT_EQ(0u, client.tier(page));
  StreamGate gate(client);
  kvt_step step{};
  ASSERT_EQ(KVT_OK, kvt_cuda_step_begin(client, client.stream(), &step));
  const auto data = reinterpret_cast<CUdeviceptr>(kvt_page_data(client, page));
  ASSERT_EQ(CUDA_SUCCESS, client.driver().cuMemsetD8Async(data, 0x42, kCudaPageBytes, client.stream()));
  ASSERT_EQ(KVT_OK, kvt_seal(client, &page, 1, &step));
  ASSERT_EQ(KVT_OK, kvt_cuda_step_end(client, &step));
  const double looked = counted(daemon, "integrity/checked");
  EXPECT_EQ(0, looked);
  gate.open();
  ASSERT_EQ(CUDA_SUCCESS, client.driver().cuStreamSynchronize(client.stream()));
  EXPECT_TRUE(eventually([&] {
    kvt_cuda_poll(client);
    return counted(daemon, "integrity/checked") > 20;
  }));
  EXPECT_EQ(0, counted(daemon, "integrity/mismatches"));
  scribble(client, client.client().info(page).frame);
  EXPECT_TRUE(eventually([&] { return counted(daemon, "integrity/mismatches") == 1; }));
}

/// Their readers' copies are none of the mover's: what they have filled is summed when it is theirs.
TEST(CudaScrub, PagesThatTheirReadersPromoteAreChecked) {
  World world = world_with("all", "balance");
  world.promote = "offers";
  world.period_ms = 5;
  const Daemon daemon(world);
  GpuClient client(daemon);
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  const std::vector<kvt_page> pages = client.publish_many(100);
  EXPECT_TRUE(eventually([&] { return counted(daemon, "integrity/checked") >= 100; }))
      << "behind their seals";
  std::vector<kvt_page> slow;
  for (const kvt_page page : pages)
    if (client.tier(page) == 1) slow.push_back(page);
  EXPECT_TRUE(eventually([&] {
    kvt_step step{};
    if (kvt_cuda_step_begin(client, client.stream(), &step) != KVT_OK) return false;
    std::vector<kvt_frame> frames(slow.size());
    kvt_resolve(client, &step, slow.data(), slow.size(), frames.data());
    kvt_touch(client, slow.data(), slow.size());
    EXPECT_EQ(KVT_OK, kvt_cuda_step_end(client, &step));
    return client.client().stats().offers_taken >= 8;
  }));
  const double taken = counted(daemon, "offers/taken");
  EXPECT_GE(taken, 8);
  EXPECT_TRUE(eventually([&] { return counted(daemon, "integrity/checked") >= 100 + taken; }))
      << daemon.control("{\"command\":\"arenas\"}");
  EXPECT_EQ(0, counted(daemon, "integrity/mismatches"));
  for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(0u, client.wrong_page(pages[i], key_of(i)));
}

// ---- what a driver can do to it ----

/// The scrub alone notices it. Nothing is said of frames and pages but that they are gone with their GPU.
TEST(CudaSumsFailures, ALostGpuSpoilsNoFrame) {
  const Folder folder;
  const std::string lost = folder.path() + "/lost";
  const Environment variable("KVT_STANDIN_LOST_FILE", lost);
  World world = world_with("all");
  world.scrub_pages_per_second = 10'000;
  const Daemon daemon(world);
  ::unsetenv("KVT_STANDIN_LOST_FILE");
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);  // its own driver is well
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  Client cpu(daemon);
  const std::vector<kvt_page> pages = client.publish_many(20);
  bring(daemon, client, pages[0], "dram");
  bring(daemon, client, pages[0], "hbm0");
  ASSERT_TRUE(gets_shadow(client.client(), pages[0]));
  std::ofstream(lost) << "x";
  EXPECT_TRUE(eventually([&] { return daemon.text("status", "/arenas/0/tiers/0/degraded") == "true"; }))
      << daemon.control("{\"command\":\"status\"}");
  EXPECT_TRUE(eventually([&] { return client.tier(pages[0]) == 1; }));
  EXPECT_EQ(0u, verify_page(cpu, pages[0], key_of(0), kCudaPageBytes));
  EXPECT_EQ(0, counted(daemon, "integrity/mismatches"));
  EXPECT_EQ(0, counted(daemon, "integrity/lost"));
  EXPECT_EQ(0, counted(daemon, "pages_by_state/retired"));
  EXPECT_EQ(0, counted(daemon, "tiers/0/retired"));
  EXPECT_TRUE(mentions(daemon.log(), {"hbm0", "does nothing any more"})) << daemon.log();
  EXPECT_FALSE(mentions(daemon.log(), {"its memory is bad"})) << daemon.log();
  // It goes on in host memory, and the lost tier is looked at no more.
  const double failed = counted(daemon, "copies_failed");
  EXPECT_GE(failed, 1);
  const double checked = counted(daemon, "integrity/checked");
  EXPECT_NE(KVT_NO_PAGE, publish_page(cpu, key_of(90), kCudaPageBytes));
  EXPECT_TRUE(eventually([&] { return counted(daemon, "integrity/checked") > checked + 100; }));
  EXPECT_EQ(failed, counted(daemon, "copies_failed"));
}

/// A kernel that the driver refuses says nothing of the frame either; the next look does.
TEST(CudaSumsFailures, ACheckThatIsRefusedIsMadeLater) {
  const Environment variable("KVT_STANDIN_FAIL", "cuLaunchKernel:1=1");
  World world = world_with("all");
  world.scrub_pages_per_second = 10'000;
  const Daemon daemon(world);
  ::unsetenv("KVT_STANDIN_FAIL");
  GpuClient client(daemon, KVT_ATTACH_NO_OFFERS);
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  const kvt_page page = client.publish(key_of(1));
  ASSERT_EQ(0u, client.tier(page));
  EXPECT_TRUE(eventually([&] { return counted(daemon, "integrity/checked") > 20; }));
  EXPECT_EQ(1, counted(daemon, "copies_failed"));
  EXPECT_EQ(0, counted(daemon, "tiers/0/retired"));
  EXPECT_EQ(0, counted(daemon, "lost_pages"));
  EXPECT_EQ(0u, client.wrong_page(page, key_of(1)));
  scribble(client, client.client().info(page).frame);
  EXPECT_TRUE(eventually([&] { return counted(daemon, "integrity/mismatches") == 1; }));
}

/// A driver that takes no such code: it is said once, and pages go there and back as ever.
TEST(CudaSumsFailures, WithoutTheirKernelDeviceMemoryIsLeftAlone) {
  const Environment variable("KVT_STANDIN_FAIL", "cuModuleLoadData:2=209");
  World world = world_with("all", "churn");
  world.scrub_pages_per_second = 10'000;
  const Daemon daemon(world);
  ::unsetenv("KVT_STANDIN_FAIL");
  GpuClient client(daemon);
  ASSERT_EQ(KVT_OK, client.code()) << kvt_last_error();
  EXPECT_TRUE(mentions(daemon.log(), {"GPU 0", "covers neither its memory nor the copies from and to it"}))
      << daemon.log();
  const std::vector<kvt_page> pages = client.publish_many(150);
  EXPECT_TRUE(eventually([&] {
    return counted(daemon, "moves/promoted") > 20 &&
           counted(daemon, "moves/demoted_copy") + counted(daemon, "moves/demoted_free") > 20 &&
           counted(daemon, "integrity/checked") > 100;
  })) << daemon.control("{\"command\":\"arenas\"}");
  for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(0u, client.wrong_page(pages[i], key_of(i)));
  EXPECT_EQ(0, counted(daemon, "integrity/mismatches"));
  EXPECT_EQ(0, counted(daemon, "lost_pages"));
}

}  // namespace
}  // namespace kvt::test
