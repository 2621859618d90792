// SPDX-License-Identifier: Apache-2.0
//
// kvtierctl as operators use it, against a real daemon with real clients: ending a session whose process is
// stopped, pinning and moving pages, what it prints where, and whether docs/kvtierctl.md names every field.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "tests/support/child.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

using nlohmann::json;

constexpr uint64_t kPageBytes = 16384;

Outcome kvtierctl(const Daemon& daemon, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"--socket-dir", daemon.folder()});
  return run_program(KVTIERCTL_PATH, arguments);
}
Outcome kvtierctl_of_page(const Daemon& daemon, const char* command, kvt_page page,
                          const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments{command, std::to_string(KVT_PAGE_INDEX(page))};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return kvtierctl(daemon, arguments);
}
std::string page_request(kvt_page page) {
  return "{\"command\":\"page\",\"page\":" + std::to_string(KVT_PAGE_INDEX(page)) + "}";
}
std::string tier_of(const Daemon& daemon, kvt_page page, int column = 0) {
  return daemon.text(page_request(page), "/columns/" + std::to_string(column) + "/tier");
}

/// The only session of this process id; "" when there is none.
std::string session_of(const Daemon& daemon, pid_t pid) {
  const json sessions = json::parse(daemon.control("{\"command\":\"sessions\"}")).at("sessions");
  for (const json& session : sessions)
    if (session.at("pid") == pid) return session.at("id").dump();
  return {};
}

// ---- evict-session ----

/// Gives unkeyed pages back for as long as `go_on` says; with an open step somewhere, each leaves a frame in
/// limbo.
void leave_frames_behind(kvt_session* session, const std::function<bool()>& go_on) {
  while (go_on()) {
    const std::vector<kvt_page> pages = allocate(session, 8);
    if (pages.empty()) return;
    ASSERT_GE(kvt_seal(session, pages.data(), pages.size(), nullptr), 0) << kvt_last_error();
    ASSERT_GE(kvt_release(session, pages.data(), pages.size(), nullptr), 0) << kvt_last_error();
    ASSERT_EQ(kvt_flush(session), KVT_OK) << kvt_last_error();
  }
}

/// What a client meets whose session an operator has ended, once it asks for something.
std::string meets_the_end(const Daemon& daemon, kvt_session* session, kvt_page filling) {
  kvt_step step{};
  // Without asking the daemon: a step would protect nothing
  KVT_CHILD_CHECK(kvt_step_begin(session, &step) == KVT_E_ENDED);
  KVT_CHILD_CHECK(mentions(kvt_last_error(), {"operator"}));
  KVT_CHILD_CHECK(eventually([&] { return kvt_flush(session) == KVT_E_ENDED; }));
  // The page is somebody else's by now, or free
  KVT_CHILD_CHECK(publish_result(session, filling, key_of(900)) == KVT_E_STALE);
  kvt_page page = KVT_NO_PAGE;
  int got = 1;
  while (got == 1) got = kvt_allocate(session, &page, 1);  // what its magazine still has
  KVT_CHILD_CHECK(got == KVT_E_ENDED);
  Client again(daemon);
  KVT_CHILD_CHECK(again.code() == KVT_OK);
  KVT_CHILD_CHECK(publish_page(again, key_of(901), kPageBytes) != KVT_NO_PAGE);
  return {};
}

TEST(EvictSession, OfAStoppedProcessWithAnOpenStep) {
  World world;
  world.more = "[[arena]]\nname = \"other\"\npage_bytes = 16384\n";
  Daemon daemon(world);
  Child stopped([&](Lines& lines) -> std::string {
    Client client(daemon);
    KVT_CHILD_CHECK(client.code() == KVT_OK);
    const kvt_page published = publish_page(client, key_of(1), kPageBytes);
    KVT_CHILD_CHECK(published != KVT_NO_PAGE);
    const std::vector<kvt_page> filling = allocate(client, 3);
    KVT_CHILD_CHECK(filling.size() == 3);
    kvt_step step{};
    KVT_CHILD_CHECK(kvt_step_begin(client, &step) == KVT_OK);
    lines.say("reading");
    if (lines.hear() != "go on") return "nobody said go on";
    KVT_CHILD_CHECK(kvt_step_end(client, &step) == KVT_E_ENDED);  // what it has read is to be thrown away
    KVT_CHILD_CHECK(kvt_step_end(client, &step) == KVT_E_INVALID);
    return meets_the_end(daemon, client, filling[0]);
  });
  ASSERT_EQ(stopped.hear(), "reading");
  kvt_attach_args args = attach_args(daemon.folder());
  Client good(args);
  args.arena = "other";
  Client elsewhere(args);
  ASSERT_EQ(good.code(), KVT_OK);
  ASSERT_EQ(elsewhere.code(), KVT_OK);
  const kvt_page mine = publish_page(good, key_of(2), kPageBytes);
  const kvt_page other = publish_page(elsewhere, key_of(2), kPageBytes);
  ::kill(stopped.pid(), SIGSTOP);

  const auto limbo = [&] { return daemon.number("status", "/arenas/0/limbo_frames"); };
  leave_frames_behind(good, [&] { return limbo() < 100; });
  EXPECT_GE(limbo(), 100);
  const std::string id = session_of(daemon, stopped.pid());
  ASSERT_NE(id, "");
  const Outcome shown = kvtierctl(daemon, {"sessions"});
  EXPECT_TRUE(mentions(shown.out, {id.c_str(), std::to_string(stopped.pid()).c_str()})) << shown.out;

  // Without a terminal it does nothing of its own will.
  const Outcome asks = kvtierctl(daemon, {"evict-session", id});
  EXPECT_EQ(asks.exit_code, 2);
  EXPECT_TRUE(mentions(asks.err, {"--yes"})) << asks.err;
  EXPECT_EQ(session_of(daemon, stopped.pid()), id);

  const Outcome evicted = kvtierctl(daemon, {"evict-session", id, "--yes"});
  EXPECT_EQ(evicted.exit_code, 0) << evicted.err;
  EXPECT_EQ(session_of(daemon, stopped.pid()), "");
  EXPECT_TRUE(eventually([&] { return limbo() == 0; })) << "its step keeps nothing any more";
  EXPECT_TRUE(
      mentions(daemon.log(),
               {("session " + id + " ended: an operator has evicted it; 1 of its processes live").c_str()}))
      << daemon.log();
  const Outcome again = kvtierctl(daemon, {"evict-session", id, "--yes"});
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_TRUE(mentions(again.err, {("there is no session " + id).c_str()})) << again.err;

  // What it had published is there, what it was filling is not its own any more; the others have noticed
  // nothing.
  const kvt_key key = key_of(1);
  kvt_page found = KVT_NO_PAGE;
  ASSERT_EQ(kvt_lookup(good, &key, 1, KVT_LOOKUP_HOLD, &found), 1);
  EXPECT_EQ(verify_page(good, found, key, kPageBytes), 0u);
  EXPECT_EQ(verify_page(good, mine, key_of(2), kPageBytes), 0u);
  EXPECT_EQ(verify_page(elsewhere, other, key_of(2), kPageBytes), 0u);
  EXPECT_NE(publish_page(good, key_of(3), kPageBytes), KVT_NO_PAGE) << kvt_last_error();
  EXPECT_NE(publish_page(elsewhere, key_of(3), kPageBytes), KVT_NO_PAGE) << kvt_last_error();
  EXPECT_EQ(good.stats().reconnects + elsewhere.stats().reconnects, 0u);

  ::kill(stopped.pid(), SIGCONT);
  stopped.say("go on");
  EXPECT_EQ(stopped.finish(), "");
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);
  EXPECT_EQ(daemon.number("status", "/sessions"), 2);
}

// ---- health ----

/// The codes of the problems that status tells of.
std::set<std::string> problem_codes(const Daemon& daemon) {
  std::set<std::string> codes;
  const json status = json::parse(daemon.control("{\"command\":\"status\"}"));
  for (const json& problem : status.at("problems")) codes.insert(problem.at("code").get<std::string>());
  return codes;
}

TEST(Health, AStoppedReaderAndARefusedAttach) {
  World world;
  world.policy = "balance";
  Daemon daemon(world);
  Child stopped([&](Lines& lines) -> std::string {
    Client client(daemon);
    KVT_CHILD_CHECK(client.code() == KVT_OK);
    kvt_step step{};
    KVT_CHILD_CHECK(kvt_step_begin(client, &step) == KVT_OK);
    lines.say("reading");
    return lines.hear() == "go on" ? "" : "nobody said go on";
  });
  ASSERT_EQ(stopped.hear(), "reading");
  const Outcome before = kvtierctl(daemon, {"status", "--check"});
  EXPECT_EQ(before.exit_code, 0) << before.out;
  EXPECT_TRUE(before.out.starts_with("healthy\n  note ")) << before.out;  // nothing keeps its descriptors
  EXPECT_EQ(problem_codes(daemon), std::set<std::string>{"not_kept"});

  Client good(daemon);
  ASSERT_EQ(good.code(), KVT_OK);
  ::kill(stopped.pid(), SIGSTOP);
  const auto limbo = [&] { return daemon.number("status", "/arenas/0/limbo_frames"); };
  leave_frames_behind(good, [&] { return limbo() < 16; });
  ASSERT_TRUE(eventually([&] { return problem_codes(daemon).contains("limbo_held"); }));
  EXPECT_GE(daemon.number("status", "/arenas/0/limbo_seconds"), 5);
  const Outcome held = kvtierctl(daemon, {"status", "--check"});
  EXPECT_EQ(held.exit_code, 3) << held.out;
  const std::string process = "(process " + std::to_string(stopped.pid()) + ",";
  EXPECT_TRUE(held.out.starts_with("NOT HEALTHY: 1 problem\n  WARN ")) << held.out;
  EXPECT_TRUE(mentions(held.out, {process.c_str(), "stopped)", "evict-session"})) << held.out;
  EXPECT_EQ(kvtierctl(daemon, {"status"}).exit_code, 0);
  EXPECT_EQ(kvtierctl(daemon, {"status", "--check", "--json"}).exit_code, 3);
  leave_frames_behind(good, [&] { return limbo() < daemon.number("status", "/arenas/0/pages") / 3; });
  EXPECT_EQ(kvtierctl(daemon, {"status", "--check"}).exit_code, 4);
  EXPECT_TRUE(kvtierctl(daemon, {"status"}).out.starts_with("NOT HEALTHY: 1 problem\n  BAD "));
  ::kill(stopped.pid(), SIGCONT);
  stopped.say("go on");
  EXPECT_EQ(stopped.finish(), "");
  EXPECT_TRUE(eventually([&] { return kvtierctl(daemon, {"status", "--check"}).exit_code == 0; }));

  kvt_attach_args args = attach_args(daemon.folder());
  args.arena = "nowhere";
  Client refused(args);
  EXPECT_EQ(refused.code(), KVT_E_NOT_FOUND);
  EXPECT_EQ(problem_codes(daemon), (std::set<std::string>{"attach_refused", "not_kept"}));
  daemon.stop();
  EXPECT_EQ(kvtierctl(daemon, {"status", "--check"}).exit_code, 1);
  daemon.start();
}

// ---- events ----

/// Texts of the events of a kind.
std::vector<std::string> events_of(const Daemon& daemon, const std::string& kind) {
  std::vector<std::string> texts;
  const json answer = json::parse(daemon.control("{\"command\":\"events\"}"));
  for (const json& event : answer.at("events"))
    if (event.at("kind") == kind) texts.push_back(event.at("text").get<std::string>());
  return texts;
}

/// Page by page nothing is told; a burst is one event, when it is over.
TEST(Events, WhatIsMuchIsSummedUp) {
  World world;
  world.pages = 16;
  Daemon daemon(world);
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  for (uint64_t key = 1; key <= 100; ++key) {
    const kvt_page page = publish_page(client, key_of(key), kPageBytes);
    ASSERT_NE(page, KVT_NO_PAGE) << kvt_last_error();
    kvt_release(client, &page, 1, nullptr);
  }
  ASSERT_TRUE(eventually([&] { return !events_of(daemon, "evictions").empty(); }));
  const auto evicted = static_cast<uint64_t>(daemon.number("status", "/arenas/0/evicted"));
  EXPECT_GE(evicted, 84u);
  const std::vector<std::string> told = events_of(daemon, "evictions");
  EXPECT_LE(told.size(), 3u) << "not one for each page";
  EXPECT_TRUE(mentions(told.front(), {"arena \"default\": ", "pages were evicted in"})) << told.front();
  EXPECT_EQ(daemon.log().find("evicted"), std::string::npos) << "counters say it, not the log";

  // Now all pages are somebody's.
  while (!allocate(client, 8).empty()) {
  }
  ASSERT_TRUE(eventually([&] {
    kvt_page page = KVT_NO_PAGE;
    EXPECT_EQ(kvt_allocate(client, &page, 1), KVT_E_FULL);
    return problem_codes(daemon).contains("arena_full");
  }));
  EXPECT_GT(daemon.number("status", "/arenas/0/starved"), 0);
  EXPECT_EQ(kvtierctl(daemon, {"status", "--check"}).exit_code, 4);
  ASSERT_TRUE(eventually([&] { return !events_of(daemon, "starved").empty(); }));
  EXPECT_TRUE(mentions(events_of(daemon, "starved").front(), {"asked for a page and there was none"}));
}

TEST(EvictSession, AllOfItsProcesses) {
  Daemon daemon;
  kvt_attach_args args = attach_args(daemon.folder());
  args.members_max = 2;
  Child owner([&](Lines& lines) -> std::string {
    Client client(args);
    KVT_CHILD_CHECK(client.code() == KVT_OK);
    uint8_t token[KVT_TOKEN_BYTES];
    KVT_CHILD_CHECK(kvt_token(client, token) == KVT_OK);
    Child member([&](Lines& inner) -> std::string {
      Client joined(args, token);
      KVT_CHILD_CHECK(joined.code() == KVT_OK);
      kvt_step step{};
      KVT_CHILD_CHECK(kvt_step_begin(joined, &step) == KVT_OK);
      inner.say("reading");
      if (inner.hear() != "go on") return "nobody said go on";
      KVT_CHILD_CHECK(eventually([&] { return kvt_flush(joined) == KVT_E_ENDED; }));
      return {};
    });
    if (member.hear() != "reading") return "the member did not come up";
    const std::vector<kvt_page> filling = allocate(client, 1);
    lines.say("reading");
    if (lines.hear() != "go on") return "nobody said go on";
    member.say("go on");
    std::string wrong = member.finish();
    return wrong.empty() ? meets_the_end(daemon, client, filling.at(0)) : wrong;
  });
  ASSERT_EQ(owner.hear(), "reading");
  const std::string id = session_of(daemon, owner.pid());
  EXPECT_EQ(daemon.number("sessions", "/sessions/0/members"), 2);
  EXPECT_EQ(daemon.number("sessions", "/sessions/0/open_steps"), 1);
  EXPECT_EQ(kvtierctl(daemon, {"evict-session", id, "--yes"}).exit_code, 0);
  EXPECT_EQ(daemon.number("status", "/sessions"), 0);
  owner.say("go on");
  EXPECT_EQ(owner.finish(), "");
}

/// kvtierctl with a terminal; what it showed, until it ends.
Outcome on_a_terminal(const Daemon& daemon, const std::vector<std::string>& arguments,
                      const std::string& typed) {
  int terminal = -1;
  Outcome outcome;
  const pid_t pid = ::forkpty(&terminal, nullptr, nullptr, nullptr);
  if (pid == 0) {
    std::vector<std::string> all{"kvtierctl", "--socket-dir", daemon.folder()};
    all.insert(all.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& argument : all) argv.push_back(argument.data());
    argv.push_back(nullptr);
    ::execv(KVTIERCTL_PATH, argv.data());
    ::_exit(127);
  }
  bool answered = false;
  char bytes[4096];
  pollfd waiting{terminal, POLLIN, 0};
  while (::poll(&waiting, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())) > 0) {
    const ssize_t got = ::read(terminal, bytes, sizeof bytes);
    if (got <= 0) break;
    outcome.out.append(bytes, static_cast<size_t>(got));
    if (answered || outcome.out.find("[y/N]") == std::string::npos) continue;
    answered = true;
    EXPECT_EQ(::write(terminal, typed.data(), typed.size()), static_cast<ssize_t>(typed.size()));
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  ::close(terminal);
  return outcome;
}

TEST(EvictSession, AsksOnATerminal) {
  Daemon daemon;
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  ASSERT_EQ(allocate(client, 5).size(), 5u);
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  const std::string id = session_of(daemon, ::getpid());
  for (const char* const no : {"n\n", "\n", "maybe\n"}) {
    const Outcome kept = on_a_terminal(daemon, {"evict-session", id}, no);
    EXPECT_EQ(kept.exit_code, 1);
    EXPECT_TRUE(
        mentions(kept.out, {std::to_string(::getpid()).c_str(), "user", "open steps 1", "pages held 5",
                            "unpublished pages", "arena default", "nothing was done"}))
        << kept.out;
    EXPECT_EQ(session_of(daemon, ::getpid()), id);
  }
  EXPECT_EQ(kvt_flush(client), KVT_OK);
  const Outcome unknown = on_a_terminal(daemon, {"evict-session", "777"}, "y\n");
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_TRUE(mentions(unknown.out, {"there is no session 777"})) << unknown.out;
  EXPECT_EQ(on_a_terminal(daemon, {"evict-session", id}, "y\n").exit_code, 0);
  EXPECT_EQ(session_of(daemon, ::getpid()), "");
}

// ---- pages ----

TEST(PageCommands, MoveAndBack) {
  World world;
  world.columns = 2;
  Daemon daemon(world);
  Client client(daemon, 1);
  ASSERT_EQ(client.code(), KVT_OK);
  const kvt_page page = publish_page(client, key_of(1), kPageBytes);
  ASSERT_NE(page, KVT_NO_PAGE);
  ASSERT_EQ(tier_of(daemon, page, 1), "dram");
  const Outcome moved = kvtierctl_of_page(daemon, "move", page, {"hbm1", "--column", "1"});
  EXPECT_EQ(moved.exit_code, 0) << moved.err;
  EXPECT_TRUE(mentions(moved.out, {"is in tier hbm1"})) << moved.out;
  EXPECT_EQ(tier_of(daemon, page, 1), "hbm1") << "when it answers, it is there";
  EXPECT_EQ(tier_of(daemon, page, 0), "dram");
  EXPECT_EQ(verify_page(client, page, key_of(1), kPageBytes), 0u);
  EXPECT_TRUE(mentions(kvtierctl_of_page(daemon, "move", page, {"hbm1", "--column", "1"}).out, {"already"}));
  const Outcome back =
      kvtierctl_of_page(daemon, "move", page, {"dram", "--column", "1", "--arena", "default"});
  EXPECT_EQ(back.exit_code, 0) << back.err;
  EXPECT_EQ(tier_of(daemon, page, 1), "dram");
  EXPECT_EQ(daemon.number("status", "/arenas/0/moves/demoted_free"), 1) << "its shadow was there";
  EXPECT_EQ(verify_page(client, page, key_of(1), kPageBytes), 0u);
}

/// A shadow in another tier than the one that was asked for is not what was asked for.
TEST(PageCommands, ThreeTiers) {
  World world;
  world.more = "[[tier]]\nname = \"cxl\"\nbytes = 16777216\n";
  Daemon daemon(world);
  Client client(daemon);
  const kvt_page page = publish_page(client, key_of(1), kPageBytes);
  ASSERT_NE(page, KVT_NO_PAGE);
  const std::vector<std::string> way{"dram", "hbm0", "cxl", "dram", "cxl", "hbm0", "dram", "cxl"};
  for (const std::string& tier : way) {
    const Outcome moved = kvtierctl_of_page(daemon, "move", page, {tier, "--timeout", "20000"});
    EXPECT_EQ(moved.exit_code, 0) << moved.err;
    EXPECT_EQ(tier_of(daemon, page), tier);
    EXPECT_EQ(verify_page(client, page, key_of(1), kPageBytes), 0u);
  }
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);
}

TEST(PageCommands, SayWhyNot) {
  Daemon daemon;
  Client client(daemon);
  const kvt_page page = publish_page(client, key_of(1), kPageBytes);
  ASSERT_NE(page, KVT_NO_PAGE);
  const kvt_page filling = allocate(client, 1).at(0);
  const auto refused = [&](const Outcome& outcome, int code, std::initializer_list<const char*> words) {
    EXPECT_EQ(outcome.exit_code, code) << outcome.err;
    EXPECT_TRUE(mentions(outcome.err, words)) << outcome.err;
  };
  refused(kvtierctl_of_page(daemon, "move", page, {"cxl"}), 1, {"no tier \"cxl\"", "hbm0, dram"});
  refused(kvtierctl_of_page(daemon, "move", page, {"dram", "--column", "3"}), 1,
          {"column is a number from 0 to 0"});
  refused(kvtierctl_of_page(daemon, "move", filling, {"dram"}), 1, {"filling", "only a sealed page"});
  refused(kvtierctl_of_page(daemon, "pin", filling), 1, {"filling", "only a sealed page"});
  refused(kvtierctl(daemon, {"move", "4000000", "dram"}), 1, {"page is a number from 0 to 1115"});
  refused(kvtierctl(daemon, {"pin", "0", "--arena", "elsewhere"}), 1, {"no arena \"elsewhere\""});
  refused(kvtierctl(daemon, {"pin", "-1"}), 2, {"PAGE"});
  refused(kvtierctl(daemon, {"move", "1"}), 2, {"TIER"});
  refused(kvtierctl(daemon, {"page"}), 2, {"PAGE"});
  refused(kvtierctl(daemon, {"evict-session", "first"}), 2, {"ID"});
  refused(kvtierctl(daemon, {}), 2, {"command", "--help"});
  refused(kvtierctl(daemon, {"stat"}), 2, {"stat"});
  ASSERT_EQ(kvtierctl_of_page(daemon, "pin", page).exit_code, 0);
  refused(kvtierctl_of_page(daemon, "move", page, {"dram"}), 1, {"pinned", "unpin it first"});
  const Outcome as_json = kvtierctl_of_page(daemon, "move", page, {"dram", "--json"});
  EXPECT_EQ(as_json.exit_code, 1);
  EXPECT_EQ(json::parse(as_json.out).at("reason"), "pinned");
  EXPECT_NE(as_json.err, "") << "people see it, too";

  // Another generation is another page.
  refused(Outcome{1, "",
                  daemon.control("{\"command\":\"pin\",\"page\":" + std::to_string(KVT_PAGE_INDEX(page)) +
                                 ",\"generation\":77}")},
          1, {"generation 77", "\"ok\":false"});
  daemon.stop();
  refused(kvtierctl(daemon, {"status"}), 1, {"no kvtierd answers"});
  daemon.start();
}

TEST(PageCommands, APinnedPageStays) {
  World world;
  world.policy = "churn";
  world.cooldown_ms = 2;
  world.pages = 200;
  Daemon daemon(world);
  Client client(daemon);
  const kvt_page page = publish_page(client, key_of(1), kPageBytes);
  ASSERT_NE(page, KVT_NO_PAGE);
  kvt_page others = publish_page(client, key_of(2), kPageBytes);
  ASSERT_NE(others, KVT_NO_PAGE);
  const Outcome pinned = kvtierctl_of_page(daemon, "pin", page, {"--tier", "hbm0", "--timeout", "20000"});
  ASSERT_EQ(pinned.exit_code, 0) << pinned.err;
  EXPECT_EQ(tier_of(daemon, page), "hbm0");
  EXPECT_EQ(daemon.text(page_request(page), "/pinned"), "true");
  EXPECT_EQ(daemon.number("status", "/arenas/0/pinned"), 1);
  EXPECT_TRUE(mentions(kvtierctl_of_page(daemon, "page", page).out, {"pinned"}));
  const kvt_frame frame = client.info(page).frame;
  kvt_release(client, &page, 1, nullptr);
  kvt_release(client, &others, 1, nullptr);
  // Everything else goes through the arena more than once, and moves about meanwhile.
  const double moves = daemon.number("status", "/arenas/0/moves/promoted");
  for (uint64_t key = 10; key < 700 || daemon.number("status", "/arenas/0/moves/promoted") < moves + 20;
       ++key) {
    kvt_page next = publish_page(client, key_of(key), kPageBytes);
    if (next == KVT_NO_PAGE) continue;  // nothing to be had for a moment
    kvt_release(client, &next, 1, nullptr);
  }
  kvt_page found = KVT_NO_PAGE;
  const kvt_key key = key_of(1);
  ASSERT_EQ(kvt_lookup(client, &key, 1, KVT_LOOKUP_HOLD, &found), 1);
  EXPECT_EQ(found, page);
  EXPECT_EQ(client.info(page).frame, frame);
  EXPECT_EQ(verify_page(client, page, key, kPageBytes), 0u);
  kvt_release(client, &page, 1, nullptr);
  const Outcome unpinned = kvtierctl_of_page(daemon, "unpin", page);
  EXPECT_EQ(unpinned.exit_code, 0) << unpinned.err;
  EXPECT_TRUE(mentions(unpinned.out, {"not pinned any more", "arena: 0"})) << unpinned.out;
  EXPECT_TRUE(eventually([&] {
    kvt_page next = publish_page(
        client, key_of(daemon.pid() + static_cast<uint64_t>(client.stats().allocated)), kPageBytes);
    if (next != KVT_NO_PAGE) kvt_release(client, &next, 1, nullptr);
    return kvt_lookup(client, &key, 1, 0, &found) == 0;
  })) << "now it is evicted like any other";
}

TEST(PageCommands, NoMoreThanHalfOfThePages) {
  World world;
  world.pages = 8;
  Daemon daemon(world);
  Client client(daemon);
  std::vector<kvt_page> pages;
  for (uint64_t key = 1; key <= 5; ++key) pages.push_back(publish_page(client, key_of(key), kPageBytes));
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(kvtierctl_of_page(daemon, "pin", pages[i]).exit_code, 0);
  const Outcome fifth = kvtierctl_of_page(daemon, "pin", pages[4]);
  EXPECT_EQ(fifth.exit_code, 1);
  EXPECT_TRUE(mentions(fifth.err, {"4 pages of arena \"default\" are pinned", "half of its 8"})) << fifth.err;
}

// ---- what it prints ----

/// Every view, one text each.
std::map<std::string, std::string> all_views(const Daemon& daemon) {
  std::map<std::string, std::string> views;
  for (const std::vector<std::string>& command : {std::vector<std::string>{"status"},
                                                  {"tiers"},
                                                  {"arenas"},
                                                  {"arenas", "--audit"},
                                                  {"sessions"},
                                                  {"page", "0"},
                                                  {"page", "400"},
                                                  {"plan"},
                                                  {"explain", "0"},
                                                  {"heat"},
                                                  {"top", "--once", "--interval", "0.2"},
                                                  {"top", "--help"},
                                                  {"events", "--help"},
                                                  {"config", "show", "--help"},
                                                  {"doctor", "--help"},
                                                  {"plan", "--help"},
                                                  {"explain", "--help"},
                                                  {"--help"},
                                                  {"evict-session", "--help"},

                                                  {"unpin", "--help"},
                                                  {"move", "--help"},
                                                  {"drain", "--help"},
                                                  {"resize", "--help"},
                                                  {"arenas", "--help"},
                                                  {"page", "--help"},
                                                  {"status", "--help"},
                                                  {"record", "--help"},
                                                  {"pin", "0"},
                                                  {"unpin", "0"}}) {
    std::string name;
    for (const std::string& word : command) name += word + " ";
    const Outcome outcome = kvtierctl(daemon, command);
    EXPECT_EQ(outcome.exit_code, 0) << name << outcome.err;
    views[name] = outcome.out;
  }
  return views;
}

// ---- drain and resize ----

TEST(Tiers, DrainWhileAClientReads) {
  Daemon daemon{World{}};
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  std::vector<kvt_page> pages;
  for (uint64_t number = 1; number <= 200; ++number) {
    pages.push_back(publish_page(client, key_of(number), kPageBytes));
    ASSERT_NE(pages.back(), KVT_NO_PAGE);
  }
  const auto in_hbm = [&] {
    return std::count_if(pages.begin(), pages.end(),
                         [&](kvt_page page) { return tier_of(daemon, page) == "hbm0"; });
  };
  ASSERT_GT(in_hbm(), 10);
  std::atomic<bool> stop = false;
  uint64_t wrong = 0;
  uint64_t rounds = 0;
  std::thread reader([&] {
    for (; !stop; ++rounds)
      for (size_t at = 0; at < pages.size(); ++at)
        wrong += verify_page(client, pages[at], key_of(at + 1), kPageBytes);
  });
  EXPECT_EQ(kvtierctl(daemon, {"drain", "hbm0"}).exit_code, 2) << "there is no terminal to ask on";
  const Outcome drained = kvtierctl(daemon, {"drain", "hbm0", "--yes"});
  EXPECT_EQ(drained.exit_code, 0) << drained.err;
  EXPECT_TRUE(mentions(drained.out, {"uses 0 B of 1.98 MiB", "tier hbm0"})) << drained.out;
  EXPECT_EQ(in_hbm(), 0);
  EXPECT_EQ(daemon.number("status", "/arenas/0/tiers/0/leaving"), 0);
  EXPECT_GT(daemon.number("status", "/arenas/0/tiers/0/given_back_bytes"), 0);
  const Outcome why = kvtierctl_of_page(daemon, "explain", pages[0]);
  EXPECT_EQ(why.exit_code, 1);
  EXPECT_TRUE(mentions(why.err, {"reads from one tier"})) << why.err;
  const Outcome undone = kvtierctl(daemon, {"drain", "hbm0", "--undo"});
  EXPECT_EQ(undone.exit_code, 0) << undone.err;
  EXPECT_EQ(daemon.number("status", "/arenas/0/tiers/0/given_back_bytes"), 0);
  const Outcome less = kvtierctl(daemon, {"resize", "default", "dram", "8MiB", "--yes"});
  EXPECT_EQ(less.exit_code, 0) << less.err;
  EXPECT_TRUE(mentions(less.out, {"uses 8 MiB of 16 MiB", "tier dram"})) << less.out;
  stop = true;
  reader.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(rounds, 0u);
  EXPECT_EQ(kvtierctl(daemon, {"resize", "default", "dram", "100GiB", "--yes"}).exit_code, 1);
  EXPECT_EQ(kvtierctl(daemon, {"resize", "default", "dram", "much", "--yes"}).exit_code, 2);
  EXPECT_EQ(kvtierctl(daemon, {"drain", "nowhere", "--yes"}).exit_code, 1);
}

// ---- arenas ----

TEST(ArenaCommand, MakesAndDeletes) {
  World world;
  world.more = "bytes = { hbm0 = \"1MiB\", dram = \"8MiB\" }\n";
  Daemon daemon(world);
  const Outcome made =
      kvtierctl(daemon, {"arena", "create", "chat", "page_bytes=32KiB", "mode=0660", "bytes.dram=4MiB"});
  EXPECT_EQ(made.exit_code, 0) << made.err;
  EXPECT_EQ(made.out, "arena chat is there: 154 pages of 32 KiB; 1 MiB of emulated hbm0, 4 MiB of dram\n");
  const Outcome again = kvtierctl(daemon, {"arena", "create", "chat"});
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_EQ(again.err, "kvtierctl: there is an arena \"chat\"\n");
  const Outcome wrong = kvtierctl(daemon, {"arena", "create", "b", "page_bytes"});
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_TRUE(mentions(wrong.err, {"expected KEY=VALUE", "bytes.dram=8GiB"})) << wrong.err;
  EXPECT_EQ(kvtierctl(daemon, {"arena", "make", "b"}).exit_code, 2);
  EXPECT_EQ(kvtierctl(daemon, {"arena", "create"}).exit_code, 2);

  // What is used is what would have to be written down.
  const Outcome shown = kvtierctl(daemon, {"config", "show"});
  const Folder folder;
  const std::string file = folder.write("shown.toml", shown.out);
  EXPECT_EQ(kvtierctl(daemon, {"config", "check", file}).exit_code, 0);
  EXPECT_TRUE(mentions(shown.out, {"name = \"chat\"", "# arena create", "mode = \"0660\"",
                                   "{ \"dram\" = \"4MiB\", \"hbm0\" = \"1MiB\" }"}))
      << shown.out;

  kvt_attach_args args = attach_args(daemon.folder());
  args.arena = "chat";
  Client client(args);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  ASSERT_NE(publish_page(client, key_of(1), 32768), KVT_NO_PAGE);
  EXPECT_EQ(kvtierctl(daemon, {"arena", "delete", "chat"}).exit_code, 2) << "it asks on a terminal";
  const Outcome busy = kvtierctl(daemon, {"arena", "delete", "chat", "--yes"});
  EXPECT_EQ(busy.exit_code, 1);
  EXPECT_TRUE(mentions(busy.err, {"has 1 session", "--force"})) << busy.err;
  const Outcome refused = on_a_terminal(daemon, {"arena", "delete", "chat"}, "y\n");
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_TRUE(mentions(refused.out, {"has sessions: 1", "--force"})) << refused.out;
  const Outcome kept = on_a_terminal(daemon, {"arena", "delete", "chat", "--force"}, "n\n");
  EXPECT_EQ(kept.exit_code, 1);
  EXPECT_TRUE(mentions(
      kept.out,
      {"Arena chat is given up. Published pages: 1. Sessions that are evicted: 1. ", "nothing was done"}))
      << kept.out;
  EXPECT_EQ(kvt_flush(client), KVT_OK);
  const Outcome gone = on_a_terminal(daemon, {"arena", "delete", "chat", "--force"}, "y\n");
  EXPECT_EQ(gone.exit_code, 0) << gone.out;
  EXPECT_TRUE(
      mentions(gone.out, {"arena chat is deleted; free again: 1 MiB of emulated hbm0, 4 MiB of dram"}))
      << gone.out;
  EXPECT_EQ(kvt_flush(client), KVT_E_ENDED);
  const Outcome last = kvtierctl(daemon, {"arena", "delete", "default", "--yes"});
  EXPECT_TRUE(
      mentions(last.out, {"the configuration names it: a reload or the next start makes it anew, empty"}))
      << last.out;
  for (const char* const command : {"status", "arenas", "sessions", "tiers"})
    EXPECT_EQ(kvtierctl(daemon, {command}).exit_code, 0) << command << " without an arena";
  EXPECT_EQ(kvtierctl(daemon, {"top", "--once", "--interval", "0.2"}).exit_code, 0);
  EXPECT_EQ(kvtierctl(daemon, {"heat"}).err, "kvtierctl: there is no arena\n");
}

TEST(Output, FitsAScreenAndHasNoColours) {
  World world;
  world.columns = 2;
  world.more = "[[arena]]\nname = \"" + std::string(63, 'a') + "\"\npage_bytes = 16384\n";
  Daemon daemon(world);
  kvt_attach_args args = attach_args(daemon.folder());
  Client client(args);
  ASSERT_NE(publish_page(client, key_of(1), kPageBytes), KVT_NO_PAGE);
  const std::string name(63, 'a');
  args.arena = name.c_str();
  Client second(args);
  ASSERT_EQ(second.code(), KVT_OK) << kvt_last_error();
  for (const auto& [view, text] : all_views(daemon)) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (view == "--help " || line.find("--socket-dir") != std::string::npos) continue;  // CLI11's columns
      if (line.starts_with("arena aaa")) continue;  // the whole name is said once
      EXPECT_LE(line.size(), 80u) << view << ": " << line;
    }
    EXPECT_EQ(text.find('\x1b'), std::string::npos) << view;
    EXPECT_TRUE(text.empty() || text.back() == '\n') << view;
  }
  EXPECT_TRUE(mentions(kvtierctl(daemon, {"status"}).out, {"hbm0 (emulated)", "default", "aaa.."}));
}

TEST(Output, AReaderThatHasGoneIsNoError) {
  Daemon daemon;
  for (const bool ignored : {false, true}) {
    std::array<int, 2> out{};
    std::array<int, 2> err{};
    ASSERT_EQ(::pipe2(out.data(), O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(err.data(), O_CLOEXEC), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::signal(SIGPIPE, ignored ? SIG_IGN : SIG_DFL);
      ::close(out[0]);
      ::dup2(out[1], STDOUT_FILENO);
      ::dup2(err[1], STDERR_FILENO);
      ::execl(KVTIERCTL_PATH, "kvtierctl", "--socket-dir", daemon.folder().c_str(), "status", nullptr);
      ::_exit(127);
    }
    ::close(out[0]);
    ::close(out[1]);
    ::close(err[1]);
    std::string said;
    char bytes[256];
    for (ssize_t got = 0; (got = ::read(err[0], bytes, sizeof bytes)) > 0;)
      said.append(bytes, static_cast<size_t>(got));
    ::close(err[0]);
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_EQ(said, "");
  }
  const Outcome full = run_program("/bin/sh", {"-c", std::string(KVTIERCTL_PATH) + " --socket-dir " +
                                                         daemon.folder() + " status > /dev/full"});
  EXPECT_EQ(full.exit_code, 1);
  EXPECT_TRUE(mentions(full.err, {"writing the output"})) << full.err;
}

// ---- the fields of --json, as documented ----

/// Paths of all values: "tiers[].free".
void add_fields(const json& value, const std::string& path, std::set<std::string>& fields) {
  if (value.is_object()) {
    for (const auto& [key, inner] : value.items())
      add_fields(inner, path.empty() ? key : path + "." + key, fields);
  } else if (value.is_array()) {
    for (const json& inner : value) add_fields(inner, path + "[]", fields);
    if (value.empty()) fields.insert(path + "[]");
  } else {
    fields.insert(path);
  }
}

/// First cells of the table below "### NAME" in docs/kvtierctl.md; a field that is not always there has a *
/// behind it.
std::map<std::string, std::set<std::string>> documented() {
  std::map<std::string, std::set<std::string>> tables;
  std::ifstream file(KVTIER_SOURCE_DIR "/docs/kvtierctl.md");
  std::string table;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("#")) table = line.starts_with("### `") ? line.substr(5, line.rfind('`') - 5) : "";
    if (table.empty() || !line.starts_with("| `")) continue;
    tables[table].insert(line.substr(3, line.find('`', 3) - 3) +
                         (line.find("` *", 3) != std::string::npos ? "*" : ""));
  }
  return tables;
}

/// The policy is off, so what would be moved is not, and the plan keeps its moves.
json plan_with_moves() {
  Daemon daemon;
  Client client(daemon);
  const kvt_page page = publish_page(client, key_of(1), kPageBytes);
  EXPECT_EQ(kvtierctl_of_page(daemon, "move", page, {"dram"}).exit_code, 0);
  EXPECT_GE(kvt_touch(client, &page, 1), 0);
  json plan;
  EXPECT_TRUE(eventually([&] {
    plan = json::parse(daemon.control("{\"command\":\"plan\"}"));
    return !plan.at("moves").empty();
  }));
  const std::string number = std::to_string(KVT_PAGE_INDEX(page));
  const Outcome planned = kvtierctl(daemon, {"plan"});
  EXPECT_TRUE(mentions(planned.out, {"off: what follows is not done", "emulated hbm0",
                                     (number + "  dram").c_str(), "free frame"}))
      << planned.out;
  const Outcome why = kvtierctl_of_page(daemon, "explain", page);
  EXPECT_TRUE(mentions(why.out, {"sealed, in tier dram", "it would go to hbm0 now (free frame)"})) << why.out;
  EXPECT_EQ(tier_of(daemon, page), "dram") << "nothing was moved";
  return plan;
}

TEST(Json, EveryFieldIsDocumentedAndThere) {
  World world;
  world.policy = "balance";
  world.more = "bytes = { hbm0 = \"2MiB\", dram = \"15MiB\" }\n";
  Daemon daemon(world);
  Client client(daemon);
  const kvt_page page = publish_page(client, key_of(1), kPageBytes);
  const kvt_page second = publish_page(client, key_of(2), kPageBytes, page);
  ASSERT_NE(second, KVT_NO_PAGE);
  kvt_step step{};
  for (int i = 0; i < 2; ++i) {  // one that has been counted, and one that is open
    ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
    if (i == 0) ASSERT_EQ(kvt_step_end(client, &step), KVT_OK);
  }
  ASSERT_GE(kvt_touch(client, &page, 1), 0);
  ASSERT_TRUE(eventually([&] { return daemon.number("arenas", "/arenas/0/steps/count") == 1; }));
  const auto answer = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "--json");
    const Outcome outcome = kvtierctl(daemon, arguments);
    json parsed = json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(parsed.is_object()) << outcome.out << outcome.err;
    EXPECT_EQ(outcome.exit_code == 0, parsed.value("ok", false));
    return parsed;
  };
  std::map<std::string, std::set<std::string>> real;
  const auto add = [&](const std::string& table, const json& value) { add_fields(value, "", real[table]); };
  const auto add_list = [&](const std::string& table, json& from, const std::string& key) {
    ASSERT_FALSE(from.at(key).empty()) << table;
    for (const json& each : from.at(key)) add(table, each);
    from[key] = json::array();
  };
  const std::string number = std::to_string(KVT_PAGE_INDEX(second));
  ASSERT_EQ(kvtierctl(daemon, {"move", number, "dram"}).exit_code, 0);
  ASSERT_EQ(kvtierctl(daemon, {"move", number, "hbm0"}).exit_code, 0);  // has a shadow now
  add("page", answer({"page", number}));
  add("page", answer({"page", std::to_string(client.geometry().pages - 1)}));
  for (const char* const command : {"status", "tiers", "arenas", "sessions"}) {
    json whole = answer({command});
    for (const auto& [list, table] : {std::pair<std::string, std::string>{"tiers", "a tier"},
                                      {"arenas", "an arena"},
                                      {"sessions", "a session"}})
      if (whole.contains(list)) add_list(table, whole, list);
    add(command, whole);
  }
  json audited = answer({"arenas", "--audit"});
  add_list("an arena", audited, "arenas");
  add("arenas", audited);
  add("plan", answer({"plan"}));
  add("plan", plan_with_moves());
  add("explain", answer({"explain", number}));
  add("heat", answer({"heat"}));
  add("events", answer({"events"}));
  json used = answer({"config", "show"});
  for (json& value : used.at("values"))  // of quotas the keys are tiers
    if (value.at("value").is_object()) value["value"] = value.at("value").dump();
  add("config", used);
  for (const json& value : used.at("values"))
    EXPECT_TRUE(value.at("source") == "default" || value.at("source") == "machine" ||
                value.at("source") == "--socket-dir" ||
                value.at("source").get<std::string>().find(".toml:") != std::string::npos)
        << value;
  add("config-check", answer({"config", "check", daemon.folder() + "/kvtierd.toml"}));
  add("top", answer({"top", "--interval", "0.2"}));
  const Outcome looked = kvtierctl(daemon, {"--json", "doctor"});
  add("doctor", json::parse(looked.out));
  EXPECT_EQ(looked.exit_code == 0, json::parse(looked.out).at("ok").get<bool>());
  add("policy", answer({"policy", "show"}));
  add("policy", answer({"policy", "set", "cooldown_ms=1"}));
  add("move", answer({"move", number, "dram"}));
  add("pin", answer({"pin", number}));
  add("a refusal", answer({"move", number, "hbm0"}));
  add("a refusal", answer({"page", "123456789"}));
  add("unpin", answer({"unpin", number}));
  const Folder folder;
  add("resize", answer({"resize", "default", "dram", "all", "--yes"}));
  add("resize", answer({"drain", "hbm0", "--undo"}));
  json added = answer({"tier", "add", "spare", "bytes=1MiB"});
  add_list("a tier", added, "tiers");
  add("tier-add", added);
  add("tier-remove", answer({"tier", "remove", "spare"}));
  add("arena-create", answer({"arena", "create", "chat", "bytes.hbm0=0"}));
  add("arena-delete", answer({"arena", "delete", "chat", "--yes"}));
  add("a refusal", answer({"arena", "delete", "default", "--yes"}));
  add("record", answer({"record", "--out", folder.path() + "/now.rec", "--seconds", "0.1"}));
  add("evict-session", answer({"evict-session", session_of(daemon, ::getpid()), "--yes"}));

  const auto documents = documented();
  for (const auto& [table, fields] : real) {
    const auto found = documents.find(table);
    ASSERT_NE(found, documents.end()) << "docs/kvtierctl.md has no table ### `" << table << "`";
    std::set<std::string> written;
    for (const std::string& field : found->second) {
      const bool optional = field.ends_with("*");
      written.insert(optional ? field.substr(0, field.size() - 1) : field);
      EXPECT_TRUE(optional || fields.contains(field))
          << table << ": " << field << " is documented, and in no answer";
    }
    for (const std::string& field : fields)
      EXPECT_TRUE(written.contains(field))
          << table << ": " << field << " is in the answer, and not documented";
  }
  for (const auto& [table, fields] : documents)
    EXPECT_TRUE(real.contains(table)) << "### `" << table << "` is no answer";
}

// ---- completion ----

/// What bash offers for a line, whose last word is being typed.
std::set<std::string> completions(const Daemon& daemon, const std::vector<std::string>& line) {
  std::string words;
  for (const std::string& word : line) words += " '" + word + "'";
  const std::string script =
      std::string("set -u; source '" KVTIER_SOURCE_DIR
                  "/tools/kvtierctl/completion.bash'; COMP_WORDS=('" KVTIERCTL_PATH "'") +
      words + "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); export KVTIER_SOCKET_DIR='" + daemon.folder() +
      "'; _kvtierctl; for each in ${COMPREPLY[@]+\"${COMPREPLY[@]}\"}; do printf '%s\\n' \"$each\"; done";
  const Outcome outcome = run_program("/bin/bash", {"--norc", "-c", script});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  std::set<std::string> offered;
  std::istringstream lines(outcome.out);
  for (std::string word; std::getline(lines, word);) offered.insert(word);
  return offered;
}

TEST(Completion, CommandsOptionsAndNames) {
  World world;
  world.more = "[[arena]]\nname = \"a second one\"\npage_bytes = 16384\n";
  Daemon daemon(world);
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  using Words = std::set<std::string>;
  const Words commands = completions(daemon, {""});
  const Outcome help = kvtierctl(daemon, {"--help"});
  for (const std::string& command : commands)
    EXPECT_NE(help.out.find("\n  " + command + " "), std::string::npos) << command;
  for (const char* const command : {"status", "evict-session", "pin", "move"})
    EXPECT_TRUE(commands.contains(command)) << command;
  EXPECT_EQ(completions(daemon, {"st"}), Words{"status"});
  EXPECT_EQ(completions(daemon, {"--json", "un"}), Words{"unpin"});
  EXPECT_EQ(completions(daemon, {"zzz"}), Words{});
  const Words options = completions(daemon, {"pin", "--"});
  for (const char* const option :
       {"--tier", "--arena", "--column", "--timeout", "--json", "--socket-dir", "--help"})
    EXPECT_TRUE(options.contains(option)) << option;
  EXPECT_FALSE(options.contains("--yes"));
  EXPECT_EQ(completions(daemon, {"evict-session", "--y"}), Words{"--yes"});
  EXPECT_EQ(completions(daemon, {"evict-session", ""}), Words{session_of(daemon, ::getpid())});
  EXPECT_EQ(completions(daemon, {"page", "3", "--arena", ""}), (Words{"default", "a\\ second\\ one"}));
  EXPECT_EQ(completions(daemon, {"page", "3", "--arena", "d"}), Words{"default"});
  EXPECT_EQ(completions(daemon, {"move", "3", ""}), (Words{"hbm0", "dram"}));
  EXPECT_EQ(completions(daemon, {"pin", "3", "--tier", "=", "h"}), Words{"hbm0"});
  EXPECT_EQ(completions(daemon, {"top", "--view", "s"}), Words{"sessions"});
  EXPECT_EQ(completions(daemon, {"config", ""}), (Words{"check", "show"}));
  EXPECT_EQ(completions(daemon, {"arena", ""}), (Words{"create", "delete"}));
  EXPECT_EQ(completions(daemon, {"arena", "delete", "d"}), Words{"default"});
  EXPECT_EQ(completions(daemon, {"arena", "create", ""}), Words{}) << "a new name";
  EXPECT_EQ(completions(daemon, {"events", "--kind", ""}), (Words{"attach", "ready"}));
  EXPECT_EQ(completions(daemon, {"--socket-dir", "/nowhere", "page", "3", "--arena", ""}), Words{})
      << "another folder, no daemon";
  EXPECT_EQ(completions(daemon, {"--socket-dir", daemon.folder(), "move", "3", "d"}), Words{"dram"});
  // A daemon that does not answer is not waited for, and nothing is said.
  daemon.signal(SIGSTOP);
  const auto begin = Clock::now();
  EXPECT_EQ(completions(daemon, {"evict-session", ""}), Words{});
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(10));
  EXPECT_EQ(completions(daemon, {"st"}), Words{"status"});
  daemon.signal(SIGCONT);
}

}  // namespace
}  // namespace kvt::test
