// SPDX-License-Identifier: Apache-2.0
//
// What one client can make the daemon spend, up to the limit and beyond it. docs/limits.md has all of them.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>
#include <string>
#include <vector>

#include "tests/hostile/siege.h"
#include "tests/support/client.h"

namespace kvt::test {
namespace {

// ---- the loop's time ----

/// An arena of so many pages that looking at all of them takes long. Nothing of it is written.
class LargeArena : public Siege {
 protected:
  static constexpr uint64_t kMiB = uint64_t{1} << 20;
  static World world() {
    World world = hostile_world();
    world.prefault = false;
    world.hbm_bytes = 4 * kMiB;
    world.dram_bytes = 4096 * kMiB + 64 * kMiB;
    world.more += "bytes = { hbm0 = 2097152, dram = \"64MiB\" }\n";
    return world;
  }
  explicit LargeArena(World world = LargeArena::world()) : Siege(std::move(world)) {}

  /// Publishes all pages of the arena and holds them.
  void fill_arena(Client& client) {
    uint64_t number = 0;
    for (;;) {
      kvt_page pages[512];
      const int got = kvt_allocate(client, pages, std::size(pages));
      if (got <= 0) break;
      std::vector<kvt_publish_entry> entries(static_cast<size_t>(got));
      for (size_t i = 0; i < entries.size(); ++i)
        entries[i] = {pages[i], key_of(number++), KVT_NO_PAGE, 0, 0, 0};
      ASSERT_EQ(kvt_publish(client, entries.data(), entries.size()), got) << kvt_last_error();
    }
    ASSERT_GT(number, 200'000u);
  }
  /// Processor time of a pass of the loop, ms, while `more` gives it work; over a hundred passes.
  double ms_a_pass(const ArenaTable& table, const std::function<void()>& more) {
    const double cpu = daemon_.number("status", "/cpu_seconds");
    const uint64_t begin = load_relaxed(table.header().counters.passes);
    uint64_t now = begin;
    const auto end = Clock::now() + std::chrono::seconds(10);
    while (now < begin + 100 && Clock::now() < end) {
      more();
      now = load_relaxed(table.header().counters.passes);
    }
    return (daemon_.number("status", "/cpu_seconds") - cpu) * 1000 / static_cast<double>(now - begin + 1);
  }
};

TEST_F(LargeArena, PublishingWhereNothingCanBeEvicted) {
  RawClient client(daemon_);
  RawSession session = RawSession::attach(client, attach_message(kAttacked));
  ASSERT_TRUE(session.valid());
  const Handle page = session.take_page();
  ASSERT_FALSE(page.none());
  {
    kvt_attach_args args = attach_args(daemon_.folder());
    Client holder(args);
    ASSERT_EQ(holder.code(), KVT_OK);
    fill_arena(holder);
    args.guarantee_pages = static_cast<uint32_t>(session.table().pages());  // which nobody can have now
    const Client guaranteed(args);
    ASSERT_EQ(guaranteed.code(), KVT_OK) << kvt_last_error();
    kvt_abi_submission publishing = submission(KVT_OP_PUBLISH, page);
    publishing.key = {77, 0xffff000011112222};
    EXPECT_EQ(session.result_of(publishing), uint32_t{KVT_RESULT_FULL});
    uint64_t pushed = load_acquire(session.member().sq_head.value);
    const double ms = ms_a_pass(session.table(), [&] {
      while (pushed - load_acquire(session.member().sq_head.value) < KVT_RING_ENTRIES) {
        session.push(publishing);
        ++pushed;
      }
      session.ring();
    });
    EXPECT_LT(ms, 10) << "of a pass, in which nobody else is served";
    expect_unharmed();
  }
  EXPECT_EQ(client.detach().type, KVT_WIRE_DETACHED);
  client.close();
}

/// FLUSH looks for room. All sessions that there can be ask in every pass, and there is none.
TEST_F(LargeArena, FlushingOfManySessions) {
  kvt_attach_args args = attach_args(daemon_.folder());
  Client holder(args);
  ASSERT_EQ(holder.code(), KVT_OK);
  fill_arena(holder);
  std::vector<RawClient> clients;
  std::vector<RawSession> sessions;
  for (uint32_t i = 0; i + 2 < KVT_MAX_SESSIONS; ++i)
    sessions.push_back(RawSession::attach(clients.emplace_back(daemon_), attach_message(kAttacked)));
  ASSERT_TRUE(sessions.back().valid());
  const double ms = ms_a_pass(sessions[0].table(), [&] {
    for (RawSession& session : sessions)
      if (load_acquire(session.member().sq_tail.value) == load_acquire(session.member().sq_head.value))
        session.push(submission(KVT_OP_FLUSH));
    sessions[0].ring();
  });
  EXPECT_LT(ms, 10) << "of a pass, in which nobody else is served";
  expect_unharmed();
  for (const RawClient& client : clients) EXPECT_EQ(client.detach().type, KVT_WIRE_DETACHED);
}

/// Advice is believed for a second, for so many pages a period.
class LongPeriods : public LargeArena {
 protected:
  static World world() {
    World world = LargeArena::world();
    world.period_ms = 1000;
    return world;
  }
  LongPeriods() : LargeArena(world()) {}
};

TEST_F(LongPeriods, AdviceForEveryPage) {
  constexpr double kBelieved = 65536;  // of daemon/keeper/arena_commands.cc
  kvt_attach_args args = attach_args(daemon_.folder());
  Client holder(args);
  ASSERT_EQ(holder.code(), KVT_OK);
  fill_arena(holder);
  RawClient client(daemon_);
  kvt_wire_attach request = attach_message(kAttacked);
  request.access = KVT_WIRE_READ;  // who only reads may advise
  RawSession session = RawSession::attach(client, request);
  ASSERT_TRUE(session.valid());
  const PageIndex pages = static_cast<PageIndex>(session.table().pages());
  const auto advised = [&](PageIndex page) {
    return daemon_.text(R"({"command":"explain","page":)" + std::to_string(page) + "}", "/advised") == "true";
  };
  kvt_abi_submission advice = submission(KVT_OP_ADVISE, session.handle(pages / 2));
  advice.flags = 1;
  EXPECT_TRUE(eventually([&] { return session.result_of(advice) == KVT_RESULT_OK && advised(pages / 2); }));
  uint64_t pushed = 0;
  const uint64_t begun = load_acquire(session.member().sq_head.value);
  while (pushed < pages) {
    if (begun + pushed - load_acquire(session.member().sq_head.value) < KVT_RING_ENTRIES) {
      advice.page = session.handle(static_cast<PageIndex>(pushed)).value;
      session.push(advice);
      ++pushed;
    } else {
      session.ring();
    }
  }
  EXPECT_EQ(session.result_of(advice), uint32_t{KVT_RESULT_OK});
  double believed = 0;
  for (PageIndex page = 0; page < pages; page += 1000) believed += advised(page) ? 1 : 0;
  // It may have been the end of a period meanwhile, once.
  EXPECT_LE(believed * 1000, 2 * kBelieved + 2000) << "of " << pages;
  EXPECT_EQ(client.detach().type, KVT_WIRE_DETACHED);
}

/// Anybody may say that it works with a GPU. When it dies its session is kept, for so long and no longer.
class ClaimedGpu : public Siege {
 protected:
  static World world() {
    World world = hostile_world();
    world.more += "[cuda]\nquarantine_ms = 300\n";
    return world;
  }
  ClaimedGpu() : Siege(world()) {}
};

TEST_F(ClaimedGpu, KeepsASessionForAWhile) {
  std::vector<std::unique_ptr<Child>> children;
  for (int i = 0; i < 8; ++i) {
    children.push_back(std::make_unique<Child>([&](Lines& lines) -> std::string {
      kvt_wire_attach request = attach_message(kAttacked);
      request.has_device = 1;
      request.device_uuid[3] = 7;
      RawClient client(daemon_);
      RawSession session = RawSession::attach(client, request);
      if (!session.valid()) return "no session";
      store_release(session.member().slot[0].epoch, UINT64_MAX);  // its steps count on
      lines.say("attached");
      std::ignore = lines.hear();
      return {};
    }));
    ASSERT_EQ(children.back()->hear(), "attached");
  }
  for (const auto& child : children) child->kill();
  EXPECT_TRUE(eventually([&] { return daemon_.number("sessions", "/sessions/2/quarantined") == 1; }));
  expect_unharmed();
  EXPECT_TRUE(eventually([&] { return attackers() == 0; }));
}

class Limits : public Siege {};

/// Full rings of all members of a session. A unit test counts the commands of a pass; here all are served in the end.
TEST_F(Limits, CommandsOfAPass) {
  RawClient client(daemon_);
  kvt_wire_attach request = attach_message(kAttacked);
  request.members_max = KVT_MAX_MEMBERS;
  std::vector<RawClient> clients;
  std::vector<RawSession> members;
  members.push_back(RawSession::attach(clients.emplace_back(daemon_), request));
  ASSERT_TRUE(members[0].valid());
  auto join = wire_message<kvt_wire_join>(KVT_WIRE_JOIN);
  std::memcpy(join.token, members[0].grant().token, sizeof join.token);
  for (int i = 1; i < 16; ++i) {
    const RawClient& joining = clients.emplace_back(daemon_);
    ASSERT_TRUE(joining.greet());
    members.push_back(RawSession::of(joining.ask_with_pidfd(join)));
    ASSERT_TRUE(members.back().valid());
  }
  daemon_.signal(SIGSTOP);
  for (RawSession& member : members)
    for (uint32_t i = 0; i < KVT_RING_ENTRIES; ++i) member.push(submission(KVT_OP_ADVISE, Handle{i % 64}));
  daemon_.signal(SIGCONT);
  members[0].ring();
  const auto all_done = [&] {
    bool all = true;
    for (const RawSession& member : members)
      all = all && load_acquire(member.member().sq_head.value) == KVT_RING_ENTRIES;
    return all;
  };
  EXPECT_TRUE(eventually(all_done)) << "what was left is not forgotten";
  for (auto each = clients.rbegin(); each != clients.rend(); ++each)  // the owner last
    EXPECT_EQ(each->detach().type, KVT_WIRE_DETACHED);
}

/// All connections that there can be, each with a session of one process. It is the one that gives way.
TEST_F(Limits, ConnectionsThatAllHaveASession) {
  Child greedy([&](Lines& lines) -> std::string {
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
    const Fd pidfd = RawClient::pidfd_of(::getpid());
    const int fds[] = {pidfd.get()};
    std::vector<RawClient> clients;
    kvt_wire_attach request = attach_message(kAttacked);
    request.members_max = KVT_MAX_MEMBERS;
    const auto more = [&](const auto& message, kvt_wire_grant& grant) {
      const RawClient& client = clients.emplace_back(daemon_);
      if (!client.greet()) return false;
      const Answer answer = client.ask(message, fds);
      if (answer.type != KVT_WIRE_GRANT) return false;
      std::memcpy(&grant, answer.message.bytes.data(), sizeof grant);
      return true;
    };
    // A session less than there can be, since the witness has one; so some of the last ones are of the other arena.
    for (uint32_t i = 0; clients.size() < KVT_MAX_CONNECTIONS + 64; ++i) {
      if (i == KVT_MAX_SESSIONS - 1) request = attach_message(kOwn);
      if (i == KVT_MAX_SESSIONS - 1) request.members_max = KVT_MAX_MEMBERS;
      kvt_wire_grant grant{};
      if (!more(request, grant)) return "session " + std::to_string(i) + " is refused";
      auto join = wire_message<kvt_wire_join>(KVT_WIRE_JOIN);
      std::memcpy(join.token, grant.token, sizeof join.token);
      for (uint32_t member = 1; member < KVT_MAX_MEMBERS; ++member)
        if (!more(join, grant)) return "member " + std::to_string(member) + " is refused";
    }
    lines.say("all");
    std::ignore = lines.hear();
    return {};
  });
  ASSERT_EQ(greedy.hear(), "all");
  EXPECT_GE(daemon_.number("status", "/connections_dropped"), 64);
  kvt_attach_args args = attach_args(daemon_.folder());
  args.arena = kOwn;
  {
    const Client client(args);
    EXPECT_EQ(client.code(), KVT_OK) << kvt_last_error();
    EXPECT_NE(publish_page(client, key_of(9'000'000), kHostilePageBytes), KVT_NO_PAGE) << kvt_last_error();
  }
  expect_unharmed();
  greedy.say("end");
  EXPECT_EQ(greedy.finish(), "");
}

// ---- the table ----

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Every test, limit and file that docs/limits.md names is there.
TEST(LimitsTable, NamesWhatThereIs) {
  const std::filesystem::path root = KVTIER_SOURCE_DIR;
  const std::string table = text_of(root / "docs/limits.md");
  const std::string limits = text_of(root / "shm/abi/limits.h") + text_of(root / "shm/abi/layout.h");
  std::string tests;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root / "tests"))
    if (entry.path().extension() == ".cc") tests += text_of(entry.path());
  const auto each = [&](const char* pattern, const auto& look) {
    int found = 0;
    const std::regex what(pattern);
    for (std::sregex_iterator it(table.begin(), table.end(), what); it != std::sregex_iterator();
         ++it, ++found)
      look(*it);
    return found;
  };
  EXPECT_GT(each("\\b([A-Z][A-Za-z]+)\\.([A-Z][A-Za-z0-9]+)\\b",
                 [&](const std::smatch& name) {
                   EXPECT_NE(tests.find("(" + name.str(1) + ", " + name.str(2) + ")"), std::string::npos)
                       << name.str();
                 }),
            40);
  EXPECT_GT(each("`(KVT_[A-Z_]+)`",
                 [&](const std::smatch& name) {
                   EXPECT_NE(limits.find("#define " + name.str(1) + " "), std::string::npos) << name.str(1);
                 }),
            15);
  EXPECT_GT(each("`((daemon|shm)/[a-z_/]+\\.(cc|h))`",
                 [&](const std::smatch& name) {
                   EXPECT_TRUE(std::filesystem::exists(root / name.str(1))) << name.str(1);
                 }),
            8);
}

}  // namespace
}  // namespace kvt::test
