// SPDX-License-Identifier: Apache-2.0
//
// A daemon that is killed, and the next one that takes over: what clients had is there, and nobody who lives notices more
// than KVT_E_AGAIN.
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <sstream>

#include "tests/support/child.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

World kept_world() {
  World world;
  world.keep = true;
  return world;
}

/// A call that the daemon's absence may cut short, until it has been served.
template <typename Call>
int patiently(Call&& call) {
  int result = KVT_E_AGAIN;
  eventually([&] { return (result = call()) != KVT_E_AGAIN; });
  return result;
}

/// Frees what nobody has any more, and looks at every row: frames that are not accounted for.
double unaccounted(const Daemon& daemon) {
  const std::string answer = R"({"command":"quiesce"})";
  return daemon.number(answer, "/arenas/0/audit/leaked");
}

TEST(Restart, KeepsPublishedHeldAndFillingPages) {
  const Daemon daemon(kept_world());
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  const uint64_t bytes = client.geometry().page_bytes;
  std::vector<kvt_page> held;
  for (uint64_t i = 0; i < 50; ++i) held.push_back(publish_page(client, key_of(i), bytes));
  const std::vector<kvt_page> filling = allocate(client, 20);
  ASSERT_EQ(filling.size(), 20u);
  for (size_t i = 0; i < filling.size(); ++i)
    fill(kvt_page_data(client, filling[i]), bytes, key_of(1000 + i));

  ASSERT_TRUE(const_cast<Daemon&>(daemon).restart());

  for (uint64_t i = 0; i < held.size(); ++i) EXPECT_EQ(verify_page(client, held[i], key_of(i), bytes), 0u);
  for (size_t i = 0; i < filling.size(); ++i) {
    EXPECT_EQ(patiently([&] { return publish_result(client, filling[i], key_of(1000 + i)); }), KVT_PUBLISHED)
        << kvt_last_error();
    EXPECT_EQ(verify_page(client, filling[i], key_of(1000 + i), bytes), 0u);
  }
  // Another session finds all of them.
  const Client other(daemon);
  std::vector<kvt_key> keys;
  for (uint64_t i = 0; i < held.size(); ++i) keys.push_back(key_of(i));
  for (const kvt_key key : keys) {
    kvt_page page = KVT_NO_PAGE;
    ASSERT_EQ(kvt_lookup(other, &key, 1, KVT_LOOKUP_HOLD, &page), 1);
    EXPECT_EQ(verify_page(other, page, key, bytes), 0u);
  }
  EXPECT_EQ(client.stats().reconnects, 1u);
}

TEST(Restart, ReadersReadOnWhileThereIsNoDaemon) {
  Daemon daemon(kept_world());
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);
  const uint64_t bytes = client.geometry().page_bytes;
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < 30; ++i) pages.push_back(publish_page(client, key_of(i), bytes));
  const pid_t before = daemon.worker();
  ASSERT_EQ(::kill(before, SIGSTOP), 0);  // it does nothing any more, and is then killed
  for (uint64_t round = 0; round < 20; ++round) {
    if (round == 10) ASSERT_EQ(::kill(before, SIGKILL), 0);
    for (uint64_t i = 0; i < pages.size(); ++i) {
      EXPECT_EQ(verify_page(client, pages[i], key_of(i), bytes), 0u);
      kvt_page found = KVT_NO_PAGE;
      const kvt_key key = key_of(i);
      EXPECT_EQ(kvt_lookup(client, &key, 1, 0, &found), 1);
    }
  }
  ASSERT_TRUE(daemon.wait_for_worker(before));
  for (uint64_t i = 0; i < pages.size(); ++i) EXPECT_EQ(verify_page(client, pages[i], key_of(i), bytes), 0u);
}

TEST(Restart, AStepThatWasOpenKeepsWhatItMayRead) {
  Daemon daemon(kept_world());
  ASSERT_TRUE(daemon.ok());
  Client reader(daemon);
  Client writer(daemon);
  const uint64_t bytes = reader.geometry().page_bytes;
  const kvt_page page = publish_page(writer, key_of(1), bytes);
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(reader, &step), KVT_OK);
  const void* address = nullptr;
  ASSERT_EQ(kvt_resolve_addresses(reader, &step, &page, 1, &address), 1u);
  ASSERT_TRUE(daemon.restart());
  // The page goes, and its frame must not come back while the step is open.
  ASSERT_EQ(patiently([&] { return kvt_unpublish(writer, page); }), KVT_OK) << kvt_last_error();
  ASSERT_EQ(kvt_release(writer, &page, 1, nullptr), KVT_OK);
  for (uint64_t i = 0; i < 900; ++i) {
    const kvt_page other = publish_page(writer, key_of(100 + i), bytes);
    if (other == KVT_NO_PAGE) break;
    kvt_release(writer, &other, 1, nullptr);
  }
  EXPECT_EQ(wrong_words(address, bytes, key_of(1)), 0u);
  EXPECT_EQ(kvt_step_end(reader, &step), KVT_OK);
}

TEST(Restart, ASessionWhoseProcessDiesMeanwhileEnds) {
  Daemon daemon(kept_world());
  ASSERT_TRUE(daemon.ok());
  Child child([&](Lines& lines) -> std::string {
    const Client client(daemon);
    KVT_CHILD_CHECK(client.code() == KVT_OK);
    KVT_CHILD_CHECK(allocate(client, 100).size() == 100);
    lines.say("ready");
    (void)lines.hear();
    return "";
  });
  ASSERT_EQ(child.hear(), "ready");
  const pid_t before = daemon.worker();
  ASSERT_EQ(::kill(before, SIGSTOP), 0);
  child.kill();
  ASSERT_EQ(::kill(before, SIGKILL), 0);
  ASSERT_TRUE(daemon.wait_for_worker(before));
  EXPECT_TRUE(eventually([&] { return daemon.number(R"({"command":"sessions"})", "/sessions") == 0; }));
  EXPECT_EQ(daemon.number(R"({"command":"quiesce"})", "/arenas/0/pages_by_state/filling"), 0);
  EXPECT_EQ(unaccounted(daemon), 0);
}

TEST(Restart, WhoDetachesWhileThereIsNoDaemonHasGone) {
  Daemon daemon(kept_world());
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);
  ASSERT_EQ(allocate(client, 10).size(), 10u);
  const pid_t before = daemon.worker();
  daemon.signal(SIGSTOP);  // the parent: nothing is started again
  ASSERT_EQ(::kill(before, SIGKILL), 0);
  client.detach();
  daemon.signal(SIGCONT);
  ASSERT_TRUE(daemon.wait_for_worker(before));
  EXPECT_TRUE(eventually([&] { return daemon.number(R"({"command":"sessions"})", "/sessions") == 0; }));
  EXPECT_EQ(unaccounted(daemon), 0);
}

TEST(Restart, MembersComeBackEachForItself) {
  Daemon daemon(kept_world());
  ASSERT_TRUE(daemon.ok());
  kvt_attach_args args = attach_args(daemon.folder());
  args.members_max = 2;
  Client owner(args);
  ASSERT_EQ(owner.code(), KVT_OK);
  uint8_t token[KVT_TOKEN_BYTES];
  ASSERT_EQ(kvt_token(owner, token), KVT_OK);
  Child member([&](Lines& lines) -> std::string {
    const Client joined(args, token);
    KVT_CHILD_CHECK(joined.code() == KVT_OK);
    const std::vector<kvt_page> pages = allocate(joined, 5);
    KVT_CHILD_CHECK(pages.size() == 5);
    lines.say("joined");
    (void)lines.hear();
    KVT_CHILD_CHECK(patiently([&] { return kvt_flush(joined); }) == KVT_OK);
    for (const kvt_page page : pages) KVT_CHILD_CHECK(kvt_page_data(joined, page) != nullptr);
    return "";
  });
  ASSERT_EQ(member.hear(), "joined");
  ASSERT_TRUE(daemon.restart());
  member.say("go");
  EXPECT_EQ(member.finish(), "");
  EXPECT_EQ(patiently([&] { return kvt_flush(owner); }), KVT_OK) << kvt_last_error();
  EXPECT_EQ(daemon.number(R"({"command":"sessions"})", "/sessions/0/members"), 1);
}

TEST(Restart, AnUpgradeKeepsEverything) {
  Daemon daemon(kept_world());
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);
  const uint64_t bytes = client.geometry().page_bytes;
  const kvt_page page = publish_page(client, key_of(7), bytes);
  const pid_t before = daemon.worker();
  daemon.signal(SIGHUP);
  ASSERT_TRUE(daemon.wait_for_worker(before));
  EXPECT_EQ(verify_page(client, page, key_of(7), bytes), 0u);
  EXPECT_EQ(patiently([&] { return kvt_flush(client); }), KVT_OK);
  EXPECT_NE(daemon.log().find("took over 1 arena(s)"), std::string::npos);
}

TEST(Restart, AnotherConfigurationDoesNotTouchWhatIsThere) {
  World world = kept_world();
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);
  const uint64_t bytes = client.geometry().page_bytes;
  const kvt_page page = publish_page(client, key_of(7), bytes);
  world.page_bytes = 32768;
  world.hbm_bytes = 1u << 20;
  std::ofstream(daemon.folder() + "/kvtierd.toml") << world.toml();
  ASSERT_TRUE(daemon.restart());
  EXPECT_EQ(verify_page(client, page, key_of(7), bytes), 0u);
  EXPECT_NE(daemon.log().find("page_bytes 16384, though 32768 is configured"), std::string::npos);
  // A configuration without the arena.
  world.more = "";
  std::string text = world.toml();
  text.replace(text.find("\"default\""), 9, "\"another\"");
  std::ofstream(daemon.folder() + "/kvtierd.toml") << text;
  ASSERT_TRUE(daemon.restart());
  EXPECT_EQ(verify_page(client, page, key_of(7), bytes), 0u);
  EXPECT_EQ(patiently([&] { return kvt_flush(client); }), KVT_OK);
}

TEST(Restart, AGrantThatNobodyTookIsTakenBack) {
  World world = kept_world();
  world.arguments = {"--allow-injection"};
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  for (const char* const point : {"attach.recorded", "attach.stored", "attach.barrier", "attach.granting"}) {
    const pid_t before = daemon.worker();
    ASSERT_NE(
        daemon.control(std::string(R"({"command":"point","action":"kill","point":")") + point + R"("})"), "");
    EXPECT_EQ(Client(daemon).code(), KVT_E_AGAIN) << point;
    ASSERT_TRUE(daemon.wait_for_worker(before)) << point;
    // This process lives: nothing but the grant's being taken back ends the session.
    EXPECT_TRUE(eventually([&] { return daemon.number(R"({"command":"sessions"})", "/sessions") == 0; }))
        << point;
    EXPECT_EQ(daemon.number(R"({"command":"status"})", "/restart/descriptors"), 5) << point;
  }
}

/// The session of this process is evicted, and the daemon killed meanwhile.
void evict_and_kill_at(const char* point, const Daemon& daemon) {
  const auto id = static_cast<uint64_t>(daemon.number(R"({"command":"sessions"})", "/sessions/0/id"));
  const pid_t before = daemon.worker();
  ASSERT_NE(daemon.control(std::string(R"({"command":"point","action":"kill","point":")") + point + R"("})"),
            "");
  (void)daemon.control(R"({"command":"evict-session","session":)" + std::to_string(id) + "}");
  ASSERT_TRUE(daemon.wait_for_worker(before)) << point;
}

TEST(Restart, AnEvictionThatIsCutShortIsSeen) {
  World world = kept_world();
  world.arguments = {"--allow-injection"};
  for (const char* const point : {"end.told", "end.recorded", "end.freed"}) {
    const Daemon daemon(world);
    ASSERT_TRUE(daemon.ok());
    Client client(daemon);
    ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
    ASSERT_EQ(allocate(client, 10).size(), 10u);
    kvt_step step;
    ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
    evict_and_kill_at(point, daemon);
    // The next daemon may not count the step; then it must not have read what is good.
    EXPECT_EQ(kvt_step_end(client, &step), KVT_E_ENDED) << point;
    EXPECT_EQ(kvt_step_begin(client, &step), KVT_E_ENDED) << point;
    client.detach();
    EXPECT_TRUE(eventually([&] { return daemon.number(R"({"command":"sessions"})", "/sessions") == 0; }))
        << point;
    EXPECT_EQ(daemon.number(R"({"command":"quiesce"})", "/arenas/0/pages_by_state/filling"), 0) << point;
    EXPECT_EQ(unaccounted(daemon), 0) << point;
  }
}

TEST(Restart, ASessionWhoseOwnerHasGoneEndsThoughTheDaemonIsKilled) {
  World world = kept_world();
  world.arguments = {"--allow-injection"};
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  kvt_attach_args args = attach_args(daemon.folder());
  args.members_max = 2;
  Child owner([&](Lines& lines) -> std::string {
    const Client client(args);
    KVT_CHILD_CHECK(client.code() == KVT_OK);
    uint8_t token[KVT_TOKEN_BYTES];
    KVT_CHILD_CHECK(kvt_token(client, token) == KVT_OK);
    std::string text;
    for (const uint8_t byte : token) text += std::to_string(byte) + " ";
    lines.say(text);
    (void)lines.hear();
    return "";
  });
  std::istringstream text(owner.hear());
  uint8_t token[KVT_TOKEN_BYTES];
  for (uint8_t& byte : token) {
    int value = 0;
    ASSERT_TRUE(text >> value);
    byte = static_cast<uint8_t>(value);
  }
  Client member(args, token);
  ASSERT_EQ(member.code(), KVT_OK) << kvt_last_error();
  const pid_t before = daemon.worker();
  ASSERT_NE(daemon.control(R"({"command":"point","action":"kill","point":"leave.forgotten"})"), "");
  owner.kill();
  ASSERT_TRUE(daemon.wait_for_worker(before));
  EXPECT_EQ(patiently([&] { return kvt_flush(member); }), KVT_E_ENDED);
  EXPECT_EQ(daemon.number(R"({"command":"sessions"})", "/sessions/0/members"), 1);
  member.detach();
  EXPECT_TRUE(eventually([&] { return daemon.number(R"({"command":"sessions"})", "/sessions") == 0; }));
}

TEST(Restart, WhatTheStoreHasNoRoomForIsRefused) {
  World world = kept_world();
  world.descriptors_max = 16;  // the daemon's 2, the arena's 3, and three sessions
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  std::vector<Client> clients;
  for (int i = 0; i < 3; ++i) clients.emplace_back(daemon);
  for (const Client& client : clients) EXPECT_EQ(client.code(), KVT_OK);
  const Client more(daemon);
  EXPECT_EQ(more.code(), KVT_E_LIMIT);
  EXPECT_NE(std::string(kvt_last_error()).find("descriptors_max"), std::string::npos) << kvt_last_error();
  EXPECT_EQ(daemon.number(R"({"command":"status"})", "/restart/descriptors"), 14);
  clients.pop_back();
  EXPECT_TRUE(eventually([&] { return Client(daemon).code() == KVT_OK; }));
}

TEST(Restart, ADaemonThatCannotStartAgainLosesNothing) {
  Daemon daemon(kept_world());
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);
  const uint64_t bytes = client.geometry().page_bytes;
  const kvt_page page = publish_page(client, key_of(7), bytes);
  std::ifstream file(daemon.folder() + "/kvtierd.toml");
  const std::string good((std::istreambuf_iterator<char>(file)), {});
  std::ofstream(daemon.folder() + "/kvtierd.toml") << "nonsense";
  const pid_t before = daemon.worker();
  ASSERT_EQ(::kill(before, SIGKILL), 0);
  ASSERT_TRUE(eventually([&] { return daemon.log().find("ended with code 2") != std::string::npos; }));
  EXPECT_EQ(verify_page(client, page, key_of(7), bytes), 0u);
  std::ofstream(daemon.folder() + "/kvtierd.toml") << good;
  ASSERT_TRUE(daemon.wait_for_worker(before));
  EXPECT_EQ(patiently([&] { return kvt_flush(client); }), KVT_OK) << kvt_last_error();
  EXPECT_EQ(verify_page(client, page, key_of(7), bytes), 0u);
}

}  // namespace
}  // namespace kvt::test
