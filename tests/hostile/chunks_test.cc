// SPDX-License-Identifier: Apache-2.0
//
// Device memory that is given up and comes back, and a member that asks for what is not its, or says what is not so.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/hostile/raw_client.h"

namespace kvt::test {
namespace {

constexpr uint64_t kChunk = 64u << 20;

struct GpuSession {
  RawClient client;
  kvt_wire_grant grant{};
  size_t chunks = 0;
  Fd region;
};

/// As a process that works with the GPU of the arena's first tier, whether it does or not.
GpuSession attach_with_gpu(const Daemon& daemon) {
  RawClient plain(daemon);
  const RawSession first = RawSession::attach(plain, attach_message("default"));
  GpuSession session{RawClient(daemon), {}, 0, {}};
  kvt_wire_attach request = attach_message("default");
  request.has_device = 1;
  std::copy_n(first.table().device(0).uuid, KVT_DEVICE_UUID_BYTES, request.device_uuid);
  EXPECT_TRUE(session.client.greet());
  Answer answer = session.client.ask_with_pidfd(request);
  EXPECT_EQ(answer.type, KVT_WIRE_GRANT) << answer.text;
  if (answer.message.bytes.size() != sizeof session.grant) return session;
  std::memcpy(&session.grant, answer.message.bytes.data(), sizeof session.grant);
  session.chunks = answer.message.fds.size() - 4;  // table, region, doorbell, and the window of host memory
  session.region = std::move(answer.message.fds[1]);
  return session;
}

Answer ask(const GpuSession& session, uint32_t tier, uint32_t first, uint32_t count) {
  auto request = wire_message<kvt_wire_chunks>(KVT_WIRE_CHUNKS);
  request.tier = tier;
  request.first = first;
  request.count = count;
  return session.client.ask(request);
}

TEST(MaliciousChunks, OnlyThoseThatAreThereAreGranted) {
  World world;
  world.cuda_driver = KVT_STANDIN_DRIVER;
  world.page_bytes = 65536;
  world.hbm_bytes = 3 * kChunk;
  world.dram_bytes = 16u << 20;
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  const GpuSession all = attach_with_gpu(daemon);
  EXPECT_EQ(all.chunks, 3u);
  const auto status = [](const Answer& answer) {
    EXPECT_EQ(answer.type, KVT_WIRE_REFUSED);
    EXPECT_TRUE(answer.message.fds.empty());
    return answer.status;
  };
  constexpr auto kNotFound = static_cast<uint32_t>(KVT_WIRE_E_NOT_FOUND);
  constexpr auto kPermission = static_cast<uint32_t>(KVT_WIRE_E_PERMISSION);
  EXPECT_EQ(status(ask(all, 0, 0, 0)), kNotFound);
  EXPECT_EQ(status(ask(all, 0, 0, 4)), kNotFound);
  EXPECT_EQ(status(ask(all, 0, 3, 1)), kNotFound);
  EXPECT_EQ(status(ask(all, 0, 4, 1)), kNotFound);
  EXPECT_EQ(status(ask(all, 0, UINT32_MAX, 2)), kNotFound);
  EXPECT_EQ(status(ask(all, 0, 1, UINT32_MAX)), kNotFound);
  for (const uint32_t tier : {1u, 2u, 7u, 8u, 31u, 32u, UINT32_MAX})
    EXPECT_EQ(status(ask(all, tier, 0, 1)), kPermission) << tier;
  // Four times: whoever does not read its answers would have the daemon's descriptors wait in its socket.
  for (int i = 0; i < 4; ++i) EXPECT_EQ(ask(all, 0, 0, 3).message.fds.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(status(ask(all, 0, 1, 2)), static_cast<uint32_t>(KVT_WIRE_E_LIMIT));

  // Given up: nobody is granted them any more, also before everybody has unmapped them.
  EXPECT_NE(daemon.control(R"({"command":"resize","arena":"default","tier":"hbm0","bytes":1048576})"), "");
  ASSERT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/tiers/0/waits_for") == 1; }));
  EXPECT_EQ(status(ask(all, 0, 1, 1)), kNotFound);
  EXPECT_EQ(ask(all, 0, 0, 1).message.fds.size(), 1u);
  const GpuSession late = attach_with_gpu(daemon);
  EXPECT_EQ(late.chunks, 1u);
  EXPECT_EQ(late.grant.chunks_given_up[0], 2u);
  // What a member says of itself is no number that anything is reckoned with.
  const auto bytes = late.grant.session_bytes;
  const auto region = Mapping::map(late.region, bytes, Access::kReadWrite);
  ASSERT_TRUE(region);
  for (uint64_t at = 0; at + 2 <= bytes; at += 2)
    if (const auto word = reinterpret_cast<uint16_t*>(region->data() + at); *word == 2) *word = UINT16_MAX;
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/tiers/0/waits_for") == 2; }));
  EXPECT_EQ(daemon.number("status", "/arenas/0/tiers/0/given_back_bytes"), 0);
}

}  // namespace
}  // namespace kvt::test
