// SPDX-License-Identifier: Apache-2.0
//
// Arenas that come and go while a real daemon serves others, with real clients in them; and a daemon that is killed
// meanwhile.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <atomic>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/support/child.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

using nlohmann::json;

/// hbm0 of 2 MiB and dram of 16, of which the arena "default" has half.
World half_world() {
  World world;
  world.more = "bytes = { hbm0 = \"1MiB\", dram = \"8MiB\" }\n";
  return world;
}

json ask(const Daemon& daemon, const json& request) {
  return json::parse(daemon.control(request.dump()), nullptr, false);
}
json create(const Daemon& daemon, const std::string& name, const json& set = json::object()) {
  return ask(daemon, {{"command", "arena-create"}, {"arena", name}, {"set", set}});
}
json remove(const Daemon& daemon, const std::string& name, bool force = false) {
  return ask(daemon, {{"command", "arena-delete"}, {"arena", name}, {"force", force}});
}
bool is_ok(const json& answer) { return answer.is_object() && answer.value("ok", false); }

std::vector<std::string> names(const Daemon& daemon) {
  std::vector<std::string> all;
  const json answer = ask(daemon, {{"command", "arenas"}});
  for (const json& arena : answer.at("arenas")) all.push_back(arena.at("name"));
  return all;
}
using Names = std::vector<std::string>;

kvt_attach_args args_of(const Daemon& daemon, const char* arena) {
  kvt_attach_args args = attach_args(daemon.folder());
  args.arena = arena;
  return args;
}

/// A client of the arena "default" that reads and checks its pages all the time, and asks the daemon for something.
class Witness {
 public:
  explicit Witness(const Daemon& daemon) : client_(daemon) {
    bytes_ = client_.geometry().page_bytes;
    for (uint64_t i = 0; i < 20; ++i) pages_.push_back(publish_page(client_, key_of(i), bytes_));
    thread_ = std::thread([this] { run(); });
  }
  ~Witness() {
    stop_ = true;
    thread_.join();
    EXPECT_EQ(wrong_, 0u) << "words of another arena";
    EXPECT_GT(rounds_, 0u);
  }
  /// Rounds in which the daemon has answered.
  [[nodiscard]] uint64_t rounds() const { return rounds_; }

 private:
  void run() {
    while (!stop_) {
      for (uint64_t i = 0; i < pages_.size(); ++i)
        wrong_ += verify_page(client_, pages_[i], key_of(i), bytes_);
      if (kvt_flush(client_) == KVT_OK) ++rounds_;
    }
  }
  Client client_;
  uint64_t bytes_ = 0;
  std::vector<kvt_page> pages_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> wrong_{0};
  std::atomic<uint64_t> rounds_{0};
  std::thread thread_;
};

TEST(Arenas, MadeUsedAndDeletedBesideAnother) {
  const Daemon daemon(half_world());
  ASSERT_TRUE(daemon.ok());
  const Witness witness(daemon);
  for (uint64_t round = 0; round < 10; ++round) {
    const json made =
        create(daemon, "chat", {{"page_bytes", "32KiB"}, {"weight", 3}, {"bytes.dram", "4MiB"}});
    ASSERT_TRUE(is_ok(made)) << made;
    EXPECT_EQ(made.at("page_bytes"), 32768);
    EXPECT_EQ(made.at("tiers").at(0).at("bytes"), 1 << 20) << "all that is free of hbm0";
    EXPECT_EQ(made.at("tiers").at(1).at("bytes"), 4 << 20);
    Client client(args_of(daemon, "chat"));
    ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
    EXPECT_EQ(client.geometry().page_bytes, 32768u);
    for (uint64_t i = 0; i < 30; ++i) {
      kvt_key key = key_of(1000 + round);
      kvt_page page = KVT_NO_PAGE;
      EXPECT_EQ(kvt_lookup(client, &key, 1, 0, &page), i == 0 ? 0 : 1)
          << "nothing of the one before is there";
      page = publish_page(client, key_of(1000 + round + (i == 0 ? 0 : 100 + i)), 32768);
      ASSERT_NE(page, KVT_NO_PAGE) << kvt_last_error();
    }
    client.detach();
    const json gone = remove(daemon, "chat");
    ASSERT_TRUE(is_ok(gone)) << gone;
    EXPECT_EQ(gone.at("keyed"), 30);
    EXPECT_EQ(gone.at("configured"), false);
    EXPECT_EQ(Client(args_of(daemon, "chat")).code(), KVT_E_NOT_FOUND);
  }
  EXPECT_EQ(names(daemon), Names{"default"});
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);
}

TEST(Arenas, SayWhyNot) {
  const Daemon daemon(half_world());
  ASSERT_TRUE(daemon.ok());
  const auto error = [](const json& answer) { return answer.value("error", std::string("it was done")); };
  EXPECT_EQ(error(create(daemon, "default")), "there is an arena \"default\"");
  EXPECT_TRUE(mentions(error(create(daemon, "a", {{"bytes.dram", "9MiB"}})),
                       {"tier \"dram\" has no room", "9437184", "8388608 of 16777216 are free"}));
  EXPECT_TRUE(mentions(error(create(daemon, "a", {{"page_bytes", "1000"}})), {"arena.page_bytes", "16384"}));
  EXPECT_TRUE(mentions(error(create(daemon, "a", {{"page_bytes", 20001}})), {"multiple of 512"}));
  EXPECT_TRUE(mentions(error(create(daemon, "a", {{"speed", 1}})), {"unknown key arena.speed"}));
  EXPECT_TRUE(mentions(error(create(daemon, "a", {{"name", "b"}})), {"expected a key"}));
  EXPECT_TRUE(mentions(error(create(daemon, "a", {{"weight", true}})), {"expected a key"}));
  EXPECT_TRUE(mentions(error(create(daemon, "a", {{"bytes", "1MiB"}})), {"bytes.TIER"}));
  EXPECT_TRUE(mentions(error(create(daemon, "a", {{"bytes.cxl", "1MiB"}})), {"tier \"cxl\"", "not there"}));
  EXPECT_TRUE(mentions(error(create(daemon, "a", {{"owner", "nobody at all"}})), {"no user"}));
  EXPECT_TRUE(mentions(error(create(daemon, "a", {{"owner", "x\ny"}})), {"printable"}));
  EXPECT_TRUE(mentions(error(create(daemon, std::string(64, 'a'))), {"1 to 63 bytes"}));
  EXPECT_TRUE(mentions(error(create(daemon, "")), {"1 to 63 bytes"}));
  EXPECT_TRUE(mentions(error(ask(daemon, {{"command", "arena-create"}})), {"name of an arena"}));
  EXPECT_TRUE(
      mentions(error(ask(daemon, {{"command", "arena-create"}, {"arena", "a"}, {"set", 1}})), {"object"}));
  EXPECT_TRUE(mentions(error(ask(daemon, {{"command", "arena-delete"}})), {"name of an arena"}));
  EXPECT_TRUE(mentions(error(remove(daemon, "b")), {"no arena \"b\""}));
  EXPECT_EQ(names(daemon), Names{"default"});
  ASSERT_TRUE(is_ok(create(daemon, "a")));
  EXPECT_TRUE(mentions(error(create(daemon, "b")),
                       {"no tier has room", "0 of 2097152 of \"hbm0\"", "0 of 16777216 of \"dram\""}));
}

/// Of a tier in which nothing is left, an arena that does not name it gets nothing.
TEST(Arenas, GetNothingOfAFullTierThatTheyDoNotName) {
  const Daemon daemon(half_world());
  ASSERT_TRUE(daemon.ok());
  ASSERT_TRUE(is_ok(create(daemon, "fast", {{"page_bytes", "32KiB"}, {"bytes.dram", "1MiB"}})));
  const json made = create(daemon, "slow", {{"page_bytes", "32KiB"}, {"bytes.dram", "2MiB"}});
  ASSERT_TRUE(is_ok(made)) << made;
  ASSERT_EQ(made.at("tiers").size(), 1u) << made;
  EXPECT_EQ(made.at("tiers").at(0).at("name"), "dram");
  Client client(args_of(daemon, "slow"));
  EXPECT_EQ(client.code(), KVT_OK) << kvt_last_error();
  EXPECT_NE(publish_page(client, key_of(1), 32768), KVT_NO_PAGE) << kvt_last_error();
}

/// One that is younger than a minute is judged as well.
TEST(Arenas, ThatAreFullAtOnceAreNotHealthy) {
  const Daemon daemon(half_world());
  ASSERT_TRUE(daemon.ok());
  ASSERT_TRUE(is_ok(ask(daemon, {{"command", "status"}})));  // it has looked before there is the arena
  ASSERT_TRUE(
      is_ok(create(daemon, "small", {{"page_bytes", "64KiB"}, {"bytes.hbm0", 0}, {"bytes.dram", "1MiB"}})));
  Client client(args_of(daemon, "small"));
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  EXPECT_TRUE(eventually(
      [&] {
        kvt_page page = KVT_NO_PAGE;
        while (kvt_allocate(client, &page, 1) > 0) {
        }
        return ask(daemon, {{"command", "status"}}).at("problems").dump().find("arena_full") !=
               std::string::npos;
      },
      std::chrono::seconds(20)));
}

TEST(Arenas, WithSessionsOnlyByForce) {
  const Daemon daemon(half_world());
  ASSERT_TRUE(daemon.ok());
  const Witness witness(daemon);
  ASSERT_TRUE(is_ok(create(daemon, "chat", {{"page_bytes", "16KiB"}})));
  Child reader([&](Lines& lines) -> std::string {
    Client client(args_of(daemon, "chat"));
    KVT_CHILD_CHECK(client.code() == KVT_OK);
    const kvt_page page = publish_page(client, key_of(5), 16384);
    KVT_CHILD_CHECK(page != KVT_NO_PAGE);
    kvt_step step{};
    const void* address = nullptr;
    KVT_CHILD_CHECK(kvt_step_begin(client, &step) == KVT_OK);
    KVT_CHILD_CHECK(kvt_resolve_addresses(client, &step, &page, 1, &address) == 1);
    lines.say("reading");
    if (lines.hear() != "deleted") return "nobody said deleted";
    // Its own mapping keeps the memory, in which nobody writes any more.
    KVT_CHILD_CHECK(wrong_words(address, 16384, key_of(5)) == 0);
    KVT_CHILD_CHECK(kvt_step_end(client, &step) == KVT_E_ENDED);
    KVT_CHILD_CHECK(kvt_step_begin(client, &step) == KVT_E_ENDED);
    KVT_CHILD_CHECK(eventually([&] { return kvt_flush(client) == KVT_E_ENDED; }));
    KVT_CHILD_CHECK(Client(args_of(daemon, "chat")).code() == KVT_E_NOT_FOUND);
    return {};
  });
  ASSERT_EQ(reader.hear(), "reading");
  const json refused = remove(daemon, "chat");
  EXPECT_FALSE(is_ok(refused));
  EXPECT_EQ(refused.at("reason"), "sessions");
  EXPECT_TRUE(mentions(refused.at("error"), {"1 session", std::to_string(reader.pid()).c_str(), "--force"}))
      << refused;
  const json gone = remove(daemon, "chat", true);
  ASSERT_TRUE(is_ok(gone)) << gone;
  EXPECT_EQ(gone.at("sessions_evicted"), 1);
  reader.say("deleted");
  EXPECT_EQ(reader.finish(), "");
  ASSERT_TRUE(is_ok(create(daemon, "chat")));
}

TEST(Arenas, ASocketThatWasForOneUserOpens) {
  const Daemon daemon(half_world());
  ASSERT_TRUE(daemon.ok());
  const auto mode = [&] {
    struct stat status {};
    EXPECT_EQ(::stat((daemon.folder() + "/attach.sock").c_str(), &status), 0);
    return status.st_mode & 0777;
  };
  EXPECT_EQ(mode(), 0600u);
  ASSERT_TRUE(is_ok(create(daemon, "a", {{"bytes.hbm0", "512KiB"}, {"bytes.dram", "1MiB"}})));
  EXPECT_EQ(mode(), 0600u);
  ASSERT_TRUE(
      is_ok(create(daemon, "b", {{"bytes.hbm0", "512KiB"}, {"bytes.dram", "1MiB"}, {"mode", "0660"}})));
  EXPECT_EQ(mode(), 0666u) << "the arenas' own modes decide";
}

/// A gigabyte takes a thread a good part of a second. The loop goes round meanwhile.
TEST(Arenas, CommandsAreServedWhileMemoryIsMade) {
  World world = half_world();
  world.dram_bytes = 1u << 30;
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  const Witness witness(daemon);
  std::atomic<bool> over{false};
  json made;
  std::thread operator_([&] {
    made = create(daemon, "large", {{"page_bytes", "1MiB"}, {"bytes.hbm0", 0}});
    over = true;
  });
  const uint64_t before = witness.rounds();
  uint64_t answers = 0;
  uint64_t attached = 0;
  while (!over) {
    answers += is_ok(ask(daemon, {{"command", "tiers"}})) ? 1 : 0;
    attached += Client(daemon).code() == KVT_OK ? 1 : 0;
  }
  operator_.join();
  ASSERT_TRUE(is_ok(made)) << made;
  EXPECT_GT(witness.rounds() - before, 10u);
  EXPECT_GT(answers, 10u);
  EXPECT_GT(attached, 10u);
  EXPECT_EQ(names(daemon), (Names{"default", "large"}));
  EXPECT_EQ(made.at("tiers").size(), 1u);
  EXPECT_TRUE(is_ok(remove(daemon, "large")));
}

/// Who asks may go; and the daemon stops in order while memory is being made.
TEST(Arenas, NobodyHasToWait) {
  World world = half_world();
  world.dram_bytes = 2u << 30;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  Child impatient([&](Lines& lines) -> std::string {
    std::thread asks([&] { (void)create(daemon, "large", {{"page_bytes", "1MiB"}, {"bytes.hbm0", 0}}); });
    asks.detach();
    lines.say("asked");
    (void)lines.hear();
    return "";
  });
  ASSERT_EQ(impatient.hear(), "asked");
  ASSERT_TRUE(eventually([&] {
    return create(daemon, "large").value("error", std::string()).find("large") != std::string::npos;
  }));
  impatient.kill();
  EXPECT_EQ(daemon.stop(), 0);
}

/// Half of the connections may wait: others are answered.
TEST(Arenas, OnlySoManyWait) {
  World world = half_world();
  world.dram_bytes = 1u << 30;
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  std::atomic<int> made{0};
  std::vector<std::thread> askers;
  const auto ask_for = [&](const std::string& name, const char* bytes) {
    askers.emplace_back([&, name, bytes] {
      made += is_ok(create(daemon, name, {{"bytes.hbm0", 0}, {"bytes.dram", bytes}})) ? 1 : 0;
    });
  };
  ask_for("large", "900MiB");
  ASSERT_TRUE(eventually([&] { return daemon.number("tiers", "/tiers/1/unassigned_bytes") < 200 << 20; }));
  for (int i = 0; i < 15; ++i) ask_for("small " + std::to_string(i), "1MiB");
  json refused;
  EXPECT_TRUE(eventually([&] {
    refused = create(daemon, "default");  // refused anyhow
    return refused.value("reason", std::string()) == "busy" || made > 0;
  }));
  EXPECT_TRUE(mentions(refused.at("error"), {"16 requests for arenas wait already"})) << refused;
  EXPECT_TRUE(is_ok(ask(daemon, {{"command", "status"}})));
  for (std::thread& asker : askers) asker.join();
  EXPECT_EQ(made, 16);
  EXPECT_EQ(names(daemon).size(), 17u);
}

// ---- restarts ----

TEST(ArenasRestart, WhatWasMadeIsTakenOver) {
  World world = half_world();
  world.keep = true;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  ASSERT_TRUE(is_ok(create(daemon, "chat",
                           {{"page_bytes", "32KiB"},
                            {"weight", 7},
                            {"least_percent", 12.5},
                            {"fixed_read_gbps", 100},
                            {"integrity", "moves"},
                            {"scrub_pages_per_second", 9},
                            {"sessions_per_user", 5},
                            {"mode", "0640"},
                            {"owner", "0"},
                            {"group", "0"},
                            {"bytes.dram", "4MiB"}})));
  Client client(args_of(daemon, "chat"));
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  const kvt_page page = publish_page(client, key_of(3), 32768);
  const auto values = [&] {
    std::map<std::string, json> all;
    const json answer = ask(daemon, {{"command", "config"}});
    for (const json& value : answer.at("values"))
      if (value.at("name") == "chat" && value.at("key") != "pages") all[value.at("key")] = value.at("value");
    return all;
  };
  const auto before = values();
  EXPECT_EQ(before.at("bytes").dump(), R"({"dram":"4MiB","hbm0":"1MiB"})");
  ASSERT_TRUE(daemon.restart());
  EXPECT_EQ(names(daemon), (Names{"default", "chat"}));
  EXPECT_EQ(values(), before);
  EXPECT_EQ(verify_page(client, page, key_of(3), 32768), 0u);
  EXPECT_TRUE(eventually([&] { return kvt_flush(client) == KVT_OK; }));
  EXPECT_NE(daemon.log().find("arena \"chat\" is not in the configuration; it stays"), std::string::npos);

  // Deleted, it is so for good; and what is configured comes back, empty.
  ASSERT_TRUE(is_ok(remove(daemon, "chat", true)));
  const json gone = remove(daemon, "default");
  ASSERT_TRUE(is_ok(gone));
  EXPECT_EQ(gone.at("configured"), true);
  EXPECT_EQ(names(daemon), Names{});
  ASSERT_TRUE(daemon.restart());
  EXPECT_EQ(names(daemon), Names{"default"});
  EXPECT_EQ(daemon.number(R"({"command":"status"})", "/restart/descriptors"), 5)
      << "its own two, and the arena's";

  // Where somebody else has its room meanwhile, it does not come back, and the others go on.
  ASSERT_TRUE(is_ok(remove(daemon, "default")));
  ASSERT_TRUE(is_ok(create(daemon, "large", {{"page_bytes", "16KiB"}})));
  ASSERT_TRUE(daemon.restart());
  EXPECT_EQ(names(daemon), Names{"large"});
  EXPECT_NE(daemon.log().find("arena \"default\" is not made: "), std::string::npos);
}

/// Killed anywhere: the arena is whole, or there is nothing of it.
TEST(ArenasRestart, AtEachPoint) {
  World world = half_world();
  world.keep = true;
  world.arguments = {"--allow-injection"};
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  const Witness witness(daemon);
  const auto kill_at = [&](const char* point, const json& request) {
    const pid_t before = daemon.worker();
    ASSERT_TRUE(is_ok(ask(daemon, {{"command", "point"}, {"point", point}, {"action", "kill"}}))) << point;
    EXPECT_FALSE(is_ok(ask(daemon, request))) << point;
    ASSERT_TRUE(daemon.wait_for_worker(before)) << point;
  };
  const auto descriptors = [&] { return daemon.number(R"({"command":"status"})", "/restart/descriptors"); };
  const double alone = descriptors();
  const json made{{"command", "arena-create"}, {"arena", "chat"}, {"set", {{"integrity", "all"}}}};
  const json gone{{"command", "arena-delete"}, {"arena", "chat"}};
  for (const char* const point : {"create.made", "create.stored", "create.recorded"}) {
    kill_at(point, made);
    const bool is_there = std::string(point) == "create.recorded";
    EXPECT_EQ(names(daemon), is_there ? (Names{"default", "chat"}) : Names{"default"}) << point;
    EXPECT_EQ(descriptors(), alone + (is_there ? 4 : 0)) << point;
    if (!is_there) ASSERT_TRUE(is_ok(ask(daemon, made))) << point;
    {
      Client client(args_of(daemon, "chat"));
      ASSERT_EQ(client.code(), KVT_OK) << point << ": " << kvt_last_error();
      const kvt_page page = publish_page(client, key_of(1), client.geometry().page_bytes);
      EXPECT_EQ(verify_page(client, page, key_of(1), client.geometry().page_bytes), 0u) << point;
    }
    ASSERT_TRUE(is_ok(ask(daemon, gone))) << point;
    EXPECT_EQ(descriptors(), alone) << point;
  }
  for (const char* const point : {"delete.recorded", "delete.removed"}) {
    ASSERT_TRUE(is_ok(ask(daemon, made))) << point;
    kill_at(point, gone);
    EXPECT_EQ(names(daemon), Names{"default"}) << point;
    EXPECT_EQ(descriptors(), alone) << point;
  }
  ASSERT_TRUE(is_ok(ask(daemon, made)));
}

// ---- SIGHUP ----

TEST(ArenasReload, ANewOneIsMadeAndNoneIsDeleted) {
  World world = half_world();
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  const Witness witness(daemon);
  const auto reload = [&](const std::string& more) {
    std::ofstream(daemon.folder() + "/kvtierd.toml") << world.toml() << more;
    daemon.signal(SIGHUP);
  };
  const auto has_said = [&](const std::string& words) {
    return eventually([&] { return daemon.log().find(words) != std::string::npos; });
  };
  reload(
      "[[arena]]\nname = \"chat\"\npage_bytes = \"32KiB\"\nbytes = { hbm0 = \"512KiB\", dram = \"4MiB\" }\n");
  ASSERT_TRUE(has_said("arena \"chat\" is there: ")) << daemon.log();
  EXPECT_TRUE(has_said("SIGHUP: the configuration was read again, 1 value(s) taken over"));
  Client client(args_of(daemon, "chat"));
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  EXPECT_EQ(client.geometry().page_bytes, 32768u);

  reload("");
  ASSERT_TRUE(has_said(
      "SIGHUP: arena 'chat' is not named any more; it stays. kvtierctl arena delete 'chat' gives it up"))
      << daemon.log();
  EXPECT_EQ(names(daemon), (Names{"default", "chat"}));
  EXPECT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(daemon.log().find("waits for the next start"), std::string::npos) << daemon.log();

  reload("[[arena]]\nname = \"huge\"\nbytes = { dram = \"64MiB\" }\n");
  EXPECT_TRUE(has_said("the arenas want")) << "the file is checked as a whole: " << daemon.log();
  reload("[[arena]]\nname = \"late\"\nbytes = { dram = \"8MiB\" }\n");
  EXPECT_TRUE(has_said("SIGHUP: arena 'late' is not made: tier \"dram\" has no room")) << daemon.log();
  EXPECT_EQ(names(daemon), (Names{"default", "chat"}));
}

}  // namespace
}  // namespace kvt::test
