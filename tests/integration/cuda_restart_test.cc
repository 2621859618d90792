// SPDX-License-Identifier: Apache-2.0
//
// A daemon with a GPU's memory is killed, and the next takes it over by the descriptors.
#include "tests/integration/cuda_fixture.h"

namespace kvt::test {
namespace {

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

}  // namespace
}  // namespace kvt::test
