// SPDX-License-Identifier: Apache-2.0
//
// Steps: their limit, what waits for their end, the frames that they protect, members of one session.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "shm/abi/limits.h"
#include "tests/support/child.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

constexpr uint64_t kPageBytes = 16384;

class Steps : public ::testing::TestWithParam<uint32_t> {
 protected:
  static World world(const char* policy = "off") {
    World world;
    world.columns = GetParam();
    world.policy = policy;
    return world;
  }
};
INSTANTIATE_TEST_SUITE_P(Columns, Steps, ::testing::Values(1u, 2u),
                         [](const auto& parameter) { return std::to_string(parameter.param); });

std::string hex(const uint8_t (&token)[KVT_TOKEN_BYTES]) {
  std::string text;
  for (const uint8_t byte : token)
    text += std::string() + "0123456789abcdef"[byte / 16] + "0123456789abcdef"[byte % 16];
  return text;
}
void unhex(const std::string& text, uint8_t (&token)[KVT_TOKEN_BYTES]) {
  for (size_t i = 0; i < KVT_TOKEN_BYTES && 2 * i + 1 < text.size(); ++i)
    token[i] = static_cast<uint8_t>(std::stoul(text.substr(2 * i, 2), nullptr, 16));
}

TEST_P(Steps, LimitAndEnds) {
  Daemon daemon(world());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  std::vector<kvt_step> steps(KVT_STEP_SLOTS);
  for (kvt_step& step : steps) ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  kvt_step one_more{};
  EXPECT_EQ(kvt_step_begin(client, &one_more), KVT_E_LIMIT);
  EXPECT_TRUE(mentions(kvt_last_error(), {"64"})) << kvt_last_error();
  EXPECT_EQ(daemon.number("sessions", "/sessions/0/open_steps"), KVT_STEP_SLOTS);
  EXPECT_EQ(kvt_step_end(client, &steps[17]), KVT_OK);
  EXPECT_EQ(kvt_step_end(client, &steps[17]), KVT_E_INVALID) << "ended twice";
  EXPECT_TRUE(mentions(kvt_last_error(), {"not open"})) << kvt_last_error();
  ASSERT_EQ(kvt_step_begin(client, &one_more), KVT_OK);
  EXPECT_EQ(kvt_step_end(client, &steps[17]), KVT_E_INVALID) << "the slot is another step's now";
  EXPECT_EQ(kvt_step_end(client, &one_more), KVT_OK);
  kvt_step nowhere{};
  nowhere.slot = KVT_STEP_SLOTS;
  EXPECT_EQ(kvt_step_end(client, &nowhere), KVT_E_INVALID);
  for (size_t i = 0; i < steps.size(); ++i)
    if (i != 17) EXPECT_EQ(kvt_step_end(client, &steps[i]), KVT_OK);
  EXPECT_EQ(daemon.number("sessions", "/sessions/0/open_steps"), 0);
  EXPECT_EQ(client.stats().steps, KVT_STEP_SLOTS + 1);

  const kvt_page page = allocate(client, 1).at(0);
  kvt_frame frame = 0;
  EXPECT_EQ(kvt_resolve(client, &one_more, &page, 1, &frame), KVT_E_INVALID) << "resolve needs an open step";
}

/// What is given with a step that has ended already would wait for ever.
TEST_P(Steps, NothingWaitsForAStepThatHasEnded) {
  Daemon daemon(world());
  Client client(daemon);
  const std::vector<kvt_page> pages = allocate(client, 2);
  ASSERT_EQ(pages.size(), 2u);
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  ASSERT_EQ(kvt_step_end(client, &step), KVT_OK);
  EXPECT_EQ(kvt_seal(client, &pages[0], 1, &step), KVT_E_INVALID);
  EXPECT_EQ(kvt_release(client, &pages[1], 1, &step), KVT_E_INVALID);
  kvt_step nowhere{};
  nowhere.slot = KVT_STEP_SLOTS;
  EXPECT_EQ(kvt_seal(client, &pages[0], 1, &nowhere), KVT_E_INVALID);
  EXPECT_EQ(kvt_release(client, &pages[1], 1, &nowhere), KVT_E_INVALID);
}

TEST_P(Steps, SealAndReleaseWaitForTheEnd) {
  Daemon daemon(world());
  Client client(daemon);
  const std::vector<kvt_page> pages = allocate(client, 3);
  ASSERT_EQ(pages.size(), 3u);
  const uint64_t free_before = kvt_free_count(client);
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  ASSERT_EQ(kvt_seal(client, &pages[0], 1, &step), KVT_OK);
  ASSERT_EQ(kvt_release(client, &pages[1], 1, &step), KVT_OK);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(client.info(pages[0]).state, static_cast<uint32_t>(KVT_STATE_FILLING));
  EXPECT_EQ(client.info(pages[1]).own_holds, 1u);
  void* const data = kvt_page_data(client, pages[0]);
  ASSERT_NE(data, nullptr) << "it may still be written: " << kvt_last_error();
  fill(data, kPageBytes, key_of(1));
  ASSERT_EQ(kvt_step_end(client, &step), KVT_OK);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(client.info(pages[0]).state, static_cast<uint32_t>(KVT_STATE_SEALED));
  EXPECT_EQ(kvt_page_data(client, pages[0]), nullptr);
  EXPECT_EQ(verify_page(client, pages[0], key_of(1), kPageBytes), 0u);
  EXPECT_EQ(client.info(pages[1]).own_holds, 0u);
  EXPECT_EQ(kvt_free_count(client), free_before + 1) << "a FILLING page goes back to the stock";

  // The release of a page that has gone meanwhile is told by the end of the step.
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  ASSERT_EQ(kvt_release(client, &pages[2], 1, &step), KVT_OK);
  ASSERT_EQ(kvt_release(client, &pages[2], 1, &step), KVT_OK);
  EXPECT_EQ(kvt_step_end(client, &step), KVT_E_NOT_HELD);
  EXPECT_EQ(kvt_step_end(client, &step), KVT_E_INVALID) << "it has ended all the same";
}

/// A frame that a step resolved is not given out again before the step ends, whatever happens to its page.
TEST_P(Steps, AnOpenStepKeepsFrames) {
  Daemon daemon(world());
  Client client(daemon);
  const kvt_key key = key_of(1);
  const kvt_page page = publish_page(client, key, kPageBytes);
  ASSERT_NE(page, KVT_NO_PAGE);
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  const void* address = nullptr;
  ASSERT_EQ(kvt_resolve_addresses(client, &step, &page, 1, &address), 1);
  ASSERT_EQ(kvt_unpublish(client, page), KVT_OK);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  ASSERT_EQ(kvt_release(client, &page, 1, nullptr), KVT_OK);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(client.info(page).state, static_cast<uint32_t>(KVT_STATE_FREE));
  // All that can be had is overwritten; the old bytes stay.
  size_t written = 0;
  for (;;) {
    kvt_page fresh = KVT_NO_PAGE;
    if (kvt_free_count(client) == 0 || kvt_allocate(client, &fresh, 1) != 1) break;
    std::memset(kvt_page_data(client, fresh), 0xee, kPageBytes);
    ++written;
    if (written + 1 == client.geometry().pages) break;
  }
  EXPECT_EQ(written + 1, client.geometry().pages);
  EXPECT_EQ(wrong_words(address, kPageBytes, key), 0u);
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/limbo_frames"), 1);
  EXPECT_GE(daemon.number("sessions", "/sessions/0/oldest_step_epochs"), 1);
  ASSERT_EQ(kvt_step_end(client, &step), KVT_OK);
  kvt_page fresh = KVT_NO_PAGE;
  EXPECT_EQ(kvt_allocate(client, &fresh, 1), 1) << kvt_last_error();
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/limbo_frames"), 0);
}

TEST_P(Steps, Members) {
  Daemon daemon(world());
  const kvt_key key = key_of(1);
  const auto join = [&](Lines& lines, Client& member) {
    uint8_t token[KVT_TOKEN_BYTES] = {};
    unhex(lines.hear(), token);
    member = Client(attach_args(daemon.folder()), token);
    return member.code();
  };
  // Takes pages, lets some go into its own stock, opens a step on the owner's page, and is killed.
  Child reader([&](Lines& lines) -> std::string {
    Client member;
    KVT_CHILD_CHECK(join(lines, member) == KVT_OK);
    KVT_CHILD_CHECK(member.geometry().member == 1);
    kvt_page page = KVT_NO_PAGE;
    KVT_CHILD_CHECK(kvt_lookup(member, &key, 1, 0, &page) == 1);
    const std::vector<kvt_page> own = allocate(member, 20);
    KVT_CHILD_CHECK(own.size() == 20);
    KVT_CHILD_CHECK(kvt_release(member, own.data(), own.size(), nullptr) == KVT_OK);
    kvt_step step{};
    KVT_CHILD_CHECK(kvt_step_begin(member, &step) == KVT_OK);
    const void* address = nullptr;
    KVT_CHILD_CHECK(kvt_resolve_addresses(member, &step, &page, 1, &address) == 1);
    lines.say("reading");
    if (lines.hear() != "check") return "the owner has gone";
    KVT_CHILD_CHECK(wrong_words(address, kPageBytes, key) == 0);
    lines.say("right");
    std::ignore = lines.hear();
    return "not killed";
  });
  Child third([&](Lines& lines) -> std::string {
    Client member;
    KVT_CHILD_CHECK(join(lines, member) == KVT_E_LIMIT);
    KVT_CHILD_CHECK(mentions(kvt_last_error(), {"2 members"}));
    return {};
  });
  Child wrong([&](Lines& lines) -> std::string {
    uint8_t token[KVT_TOKEN_BYTES] = {};
    unhex(lines.hear(), token);
    token[KVT_TOKEN_BYTES - 1] = static_cast<uint8_t>(token[KVT_TOKEN_BYTES - 1] ^ 1);
    Client member(attach_args(daemon.folder()), token);
    KVT_CHILD_CHECK(member.code() == KVT_E_ENDED);
    KVT_CHILD_CHECK(mentions(kvt_last_error(), {"token"}));
    return {};
  });

  kvt_attach_args args = attach_args(daemon.folder());
  args.members_max = 2;
  Client owner(args);
  ASSERT_EQ(owner.code(), KVT_OK) << kvt_last_error();
  uint8_t token[KVT_TOKEN_BYTES];
  ASSERT_EQ(kvt_token(owner, token), KVT_OK);
  const kvt_page page = publish_page(owner, key, kPageBytes);
  ASSERT_NE(page, KVT_NO_PAGE);
  reader.say(hex(token));
  ASSERT_EQ(reader.hear(), "reading");
  third.say(hex(token));
  EXPECT_EQ(third.finish(), "");
  wrong.say(hex(token));
  EXPECT_EQ(wrong.finish(), "");
  EXPECT_EQ(daemon.number("sessions", "/sessions/0/members"), 2);
  EXPECT_EQ(daemon.number("sessions", "/sessions"), 1);

  // The member's step protects the frame of a page that the owner lets go.
  ASSERT_EQ(kvt_unpublish(owner, page), KVT_OK);
  ASSERT_EQ(kvt_flush(owner), KVT_OK);
  ASSERT_EQ(kvt_release(owner, &page, 1, nullptr), KVT_OK);
  ASSERT_EQ(kvt_flush(owner), KVT_OK);
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/limbo_frames"), 1);
  EXPECT_EQ(daemon.number("sessions", "/sessions/0/open_steps"), 1);
  reader.say("check");
  EXPECT_EQ(reader.hear(), "right");

  // Its death ends its step and gives its stock back.
  const double unkeyed = daemon.number("sessions", "/sessions/0/unkeyed_pages");
  reader.kill();
  EXPECT_TRUE(eventually([&] { return daemon.number("sessions", "/sessions/0/members") == 1; }));
  EXPECT_EQ(daemon.number("sessions", "/sessions/0/open_steps"), 0);
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/limbo_frames") == 0; }));
  EXPECT_LE(daemon.number("sessions", "/sessions/0/unkeyed_pages"), unkeyed - 20);
  EXPECT_EQ(daemon.number("audit", "/arenas/0/audit/leaked"), 0);
  // Nothing of what the owner had is lost: the arena can be taken whole.
  EXPECT_EQ(allocate(owner, owner.geometry().pages).size(), owner.geometry().pages) << kvt_last_error();
}

/// What a member asked for just before it detached is done: its reservations do not stay, its pages come
/// back.
TEST_P(Steps, AMemberThatDetachesLeavesNothing) {
  Daemon daemon(world());
  kvt_attach_args args = attach_args(daemon.folder());
  args.members_max = 2;
  Client owner(args);
  ASSERT_EQ(owner.code(), KVT_OK) << kvt_last_error();
  uint8_t token[KVT_TOKEN_BYTES];
  ASSERT_EQ(kvt_token(owner, token), KVT_OK);
  std::vector<kvt_key> keys;
  for (uint64_t number = 0; number < 32; ++number) keys.push_back(key_of(number));
  for (int round = 0; round < 10; ++round) {
    Client member(attach_args(daemon.folder()), token);
    ASSERT_EQ(member.code(), KVT_OK) << kvt_last_error();
    std::vector<kvt_page> pages(keys.size());
    std::vector<uint8_t> results(keys.size());
    ASSERT_EQ(kvt_reserve(member, keys.data(), keys.size(), pages.data(), results.data()),
              static_cast<int>(keys.size()))
        << kvt_last_error();
    for (const uint8_t result : results) ASSERT_EQ(result, KVT_RESERVE_NEW) << "round " << round;
    ASSERT_EQ(kvt_release(member, pages.data(), pages.size(), nullptr), KVT_OK);
  }
  EXPECT_TRUE(eventually([&] { return daemon.number("quiesce", "/arenas/0/pages_by_state/filling") <= 64; }))
      << daemon.number("quiesce", "/arenas/0/pages_by_state/filling");
}

/// The owner dies while a member reads and fills: its claims count until it has gone too (PROTOCOL A1).
TEST_P(Steps, TheOwnersDeathEndsTheSessionWhenItsMembersHaveGone) {
  Daemon daemon(world());
  const kvt_key key = key_of(1);
  Child owner([&](Lines& lines) -> std::string {
    kvt_attach_args args = attach_args(daemon.folder());
    args.members_max = 2;
    Client client(args);
    KVT_CHILD_CHECK(client.code() == KVT_OK);
    uint8_t token[KVT_TOKEN_BYTES];
    KVT_CHILD_CHECK(kvt_token(client, token) == KVT_OK);
    KVT_CHILD_CHECK(publish_page(client, key, kPageBytes) != KVT_NO_PAGE);
    KVT_CHILD_CHECK(allocate(client, 5).size() == 5);
    lines.say(hex(token));
    std::ignore = lines.hear();
    return "not killed";
  });
  uint8_t token[KVT_TOKEN_BYTES] = {};
  unhex(owner.hear(), token);
  kvt_attach_args args = attach_args(daemon.folder());
  args.timeout_ms = 200;
  auto member = std::make_unique<Client>(args, token);
  ASSERT_EQ(member->code(), KVT_OK) << kvt_last_error();
  kvt_page page = KVT_NO_PAGE;
  ASSERT_EQ(kvt_lookup(*member, &key, 1, 0, &page), 1);
  const std::vector<kvt_page> mine = allocate(*member, 20);
  ASSERT_EQ(mine.size(), 20u);
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(*member, &step), KVT_OK);
  std::vector<unsigned char*> memory;
  for (const kvt_page one : mine) memory.push_back(static_cast<unsigned char*>(kvt_page_data(*member, one)));
  owner.kill();
  EXPECT_TRUE(eventually([&] { return kvt_flush(*member) == KVT_E_ENDED; }, std::chrono::seconds(10)))
      << kvt_flush(*member) << ": " << kvt_last_error();
  EXPECT_EQ(daemon.number("status", "/sessions"), 1) << "a member lives";
  EXPECT_GE(daemon.number("status", "/arenas/0/pages_by_state/filling"), 20);
  // Others use all that is free; what the member still writes goes to nobody else's page.
  Client other(daemon);
  ASSERT_EQ(other.code(), KVT_OK) << kvt_last_error();
  std::vector<kvt_page> others;
  for (uint64_t number = 100;; ++number) {
    const kvt_page one = publish_page(other, key_of(number), kPageBytes);
    if (one == KVT_NO_PAGE) break;
    others.push_back(one);
  }
  EXPECT_GT(others.size(), 500u);
  for (unsigned char* const at : memory) std::memset(at, 0xee, kPageBytes);
  for (size_t i = 0; i < others.size(); ++i)
    ASSERT_EQ(verify_page(other, others[i], key_of(100 + i), kPageBytes), 0u) << i;
  EXPECT_EQ(verify_page(*member, page, key, kPageBytes), 0u)
      << "its mapping is still there: what it reads is";
  EXPECT_EQ(kvt_step_end(*member, &step), KVT_OK);
  member.reset();
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/sessions") == 1; }))
      << "it has detached: only the other's is left";
  EXPECT_TRUE(eventually([&] { return daemon.number("quiesce", "/arenas/0/pages_by_state/filling") <= 64; }));
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);
}

/// A block table kept by the change log is the one that resolving gives, while pages move as fast as they
/// can.
TEST_P(Steps, ChangesKeepABlockTable) {
  Daemon daemon(world("churn"));
  Client client(daemon);
  Client watcher(daemon, GetParam() - 1);
  ASSERT_EQ(watcher.code(), KVT_OK);
  constexpr size_t kPages = 200;
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < kPages; ++i) {
    pages.push_back(publish_page(client, key_of(i), kPageBytes));
    ASSERT_NE(pages.back(), KVT_NO_PAGE) << kvt_last_error();
  }
  std::vector<size_t> position(watcher.geometry().pages, SIZE_MAX);
  for (size_t i = 0; i < kPages; ++i) position[KVT_PAGE_INDEX(pages[i])] = i;
  const auto* const base = static_cast<const char*>(watcher.geometry().base);

  std::vector<kvt_frame> table(kPages);
  uint64_t cursor = 0;
  uint64_t applied = 0;
  std::string wrong;
  const auto apply = [&](const kvt_step& step) {
    kvt_change changes[64];
    for (;;) {
      const int count = kvt_changes(watcher, &step, &cursor, changes, std::size(changes));
      if (count <= 0) return count;
      for (int i = 0; i < count; ++i) {
        const size_t at = position[changes[i].index];
        if (at == SIZE_MAX) continue;
        if (changes[i].page != pages[at]) wrong = "a change has another generation";
        table[at] = changes[i].frame;
        ++applied;
      }
    }
  };
  const auto rebuild = [&](const kvt_step& step) {
    EXPECT_EQ(kvt_changes_begin(watcher, &step, &cursor), KVT_OK);
    EXPECT_EQ(kvt_resolve(watcher, &step, pages.data(), kPages, table.data()), static_cast<int>(kPages));
  };
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(watcher, &step), KVT_OK);
  rebuild(step);
  ASSERT_EQ(kvt_step_end(watcher, &step), KVT_OK);
  uint64_t corrupt = 0;
  EXPECT_TRUE(eventually([&] {
    for (int round = 0; round < 20; ++round) {
      EXPECT_EQ(kvt_step_begin(watcher, &step), KVT_OK);
      if (apply(step) == KVT_E_OVERRUN) rebuild(step);
      // What the kept table names is good for this step, even if the page has moved on meanwhile.
      for (size_t i = 0; i < kPages; ++i)
        corrupt += wrong_words(base + uint64_t{table[i]} * kPageBytes, 1024, key_of(i));
      EXPECT_EQ(kvt_step_end(watcher, &step), KVT_OK);
    }
    return applied > 2000 || corrupt != 0;
  })) << applied;
  EXPECT_EQ(corrupt, 0u);
  EXPECT_EQ(wrong, "");

  // With the daemon held, the table is exactly the rows. It may be held between a row's store and its log
  // entry.
  bool equal = false;
  for (int attempt = 0; attempt < 20 && !equal; ++attempt) {
    daemon.signal(SIGSTOP);
    ASSERT_TRUE(eventually([&] { return client.stats().epoch == watcher.stats().epoch; }));
    std::vector<kvt_frame> rows(kPages);
    equal = eventually(
        [&] {
          EXPECT_EQ(kvt_step_begin(watcher, &step), KVT_OK);
          if (apply(step) == KVT_E_OVERRUN) rebuild(step);
          EXPECT_EQ(kvt_resolve(watcher, &step, pages.data(), kPages, rows.data()), static_cast<int>(kPages));
          EXPECT_EQ(kvt_step_end(watcher, &step), KVT_OK);
          return rows == table;
        },
        std::chrono::milliseconds(200));
    daemon.signal(SIGCONT);
  }
  EXPECT_TRUE(equal) << "a change is missing in the log";
}

TEST_P(Steps, AreMeasured) {
  Daemon daemon(world());
  constexpr uint32_t kLong = 20;
  constexpr uint32_t kShort = 10'000;
  constexpr uint32_t kApart = 128;  // from a short step that is measured to the next
  {
    Client client(daemon);
    kvt_step step{};
    for (uint32_t i = 0; i < kLong; ++i) {
      ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      ASSERT_EQ(kvt_step_end(client, &step), KVT_OK);
    }
    ASSERT_TRUE(eventually([&] { return daemon.number("arenas", "/arenas/0/steps/count") == kLong; }))
        << "each of these is measured, and the daemon looks while the client lives";
    EXPECT_GE(daemon.number("arenas", "/arenas/0/steps/seconds"), 2e-3 * kLong);
    EXPECT_GE(daemon.number("arenas", "/arenas/0/steps/buckets/0/to_seconds"), 2e-3);
    for (uint32_t i = 0; i < kShort; ++i) {
      ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
      ASSERT_EQ(kvt_step_end(client, &step), KVT_OK);
    }
  }
  // Of short ones one in some is measured, which counts for all; the last of them may be before such a one.
  const auto counted = [&] { return daemon.number("arenas", "/arenas/0/steps/count"); };
  EXPECT_TRUE(eventually([&] { return counted() > kLong + kShort - kApart; })) << counted();
  EXPECT_LE(counted(), kLong + kShort);
}

TEST_P(Steps, ChangesSayThatTheyWereOverrun) {
  Daemon daemon(world());
  Client client(daemon);
  Client watcher(daemon);
  ASSERT_EQ(watcher.code(), KVT_OK);
  kvt_step step{};
  uint64_t cursor = 0;
  ASSERT_EQ(kvt_step_begin(watcher, &step), KVT_OK);
  ASSERT_EQ(kvt_changes_begin(watcher, &step, &cursor), KVT_OK);
  ASSERT_EQ(kvt_step_end(watcher, &step), KVT_OK);
  const auto churn = [&](uint64_t frees) {
    for (uint64_t done = 0; done < frees;) {
      const std::vector<kvt_page> pages = allocate(client, 64);
      if (pages.empty()) return false;
      if (kvt_seal(client, pages.data(), pages.size(), nullptr) != KVT_OK) return false;
      if (kvt_release(client, pages.data(), pages.size(), nullptr) != KVT_OK) return false;
      done += pages.size();
    }
    return kvt_flush(client) == KVT_OK;
  };
  std::vector<kvt_change> changes(KVT_LOG_ENTRIES);
  ASSERT_TRUE(churn(KVT_LOG_ENTRIES / 4 / GetParam())) << kvt_last_error();
  ASSERT_EQ(kvt_step_begin(watcher, &step), KVT_OK);
  EXPECT_GT(kvt_changes(watcher, &step, &cursor, changes.data(), changes.size()),
            static_cast<int>(KVT_LOG_ENTRIES / 8 / GetParam()));
  EXPECT_EQ(kvt_changes(watcher, &step, &cursor, changes.data(), changes.size()), 0);
  ASSERT_EQ(kvt_step_end(watcher, &step), KVT_OK);
  ASSERT_TRUE(churn(KVT_LOG_ENTRIES + 1000)) << kvt_last_error();
  ASSERT_EQ(kvt_step_begin(watcher, &step), KVT_OK);
  EXPECT_EQ(kvt_changes(watcher, &step, &cursor, changes.data(), changes.size()), KVT_E_OVERRUN);
  EXPECT_TRUE(mentions(kvt_last_error(), {"65536"})) << kvt_last_error();
  ASSERT_EQ(kvt_changes_begin(watcher, &step, &cursor), KVT_OK);
  EXPECT_EQ(kvt_changes(watcher, &step, &cursor, changes.data(), changes.size()), 0);
  ASSERT_EQ(kvt_step_end(watcher, &step), KVT_OK);
}

}  // namespace
}  // namespace kvt::test
