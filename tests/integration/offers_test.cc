// SPDX-License-Identifier: Apache-2.0
//
// Pages that their readers promote, with a real kvtierd and readers in other processes; and reads that are
// balanced between the two places of a page.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "tests/support/child.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

constexpr uint64_t kPageBytes = 16384;
/// Pages that are published: more than the fast tier's 127 frames.
constexpr uint64_t kKeys = 500;
/// Of these, what the readers read in each step, in turns: all of it fits into the fast tier, none of it
/// begins there.
constexpr uint64_t kHotFirst = 200;
constexpr uint64_t kHot = 80;

World world(const char* promote = "offers") {
  World world;
  world.policy = "balance";
  world.promote = promote;
  return world;
}

struct Published {
  Client writer;
  std::vector<kvt_page> pages;
};
/// The writer holds them all, takes no offers, and reads nothing until it verifies.
void publish_all(const Daemon& daemon, Published& all) {
  kvt_attach_args args = attach_args(daemon.folder());
  args.flags = KVT_ATTACH_NO_OFFERS;
  all.writer = Client(args);
  ASSERT_EQ(all.writer.code(), KVT_OK) << kvt_last_error();
  for (uint64_t key = 0; key < kKeys; ++key) {
    all.pages.push_back(publish_page(all.writer, key_of(key), kPageBytes));
    ASSERT_NE(all.pages.back(), KVT_NO_PAGE) << kvt_last_error();
  }
}

/// Holds pages of `keys` and reads them in steps, every word, until the other side says something or `stop`
/// is true. Returns "" or what went wrong.
template <typename Stop>
std::string read_hot(kvt_session* session, const std::vector<kvt_page>& pages, uint64_t first_key,
                     const void* base, Stop&& stop) {
  std::vector<kvt_frame> frames(pages.size());
  while (!stop()) {
    kvt_step step{};
    KVT_CHILD_CHECK(kvt_step_begin(session, &step) == KVT_OK);
    KVT_CHILD_CHECK(kvt_resolve(session, &step, pages.data(), pages.size(), frames.data()) ==
                    static_cast<int>(pages.size()));
    for (size_t i = 0; i < pages.size(); ++i)
      if (wrong_words(static_cast<const char*>(base) + uint64_t{frames[i]} * kPageBytes, kPageBytes,
                      key_of(first_key + i)) != 0)
        return "page of key " + std::to_string(first_key + i) + " has wrong words in frame " +
               std::to_string(frames[i]);
    KVT_CHILD_CHECK(kvt_touch(session, pages.data(), pages.size()) == KVT_OK);
    KVT_CHILD_CHECK(kvt_step_end(session, &step) == KVT_OK);
  }
  return {};
}

std::string hold_hot(kvt_session* session, uint64_t first_key, uint64_t count, std::vector<kvt_page>& pages) {
  std::vector<kvt_key> keys;
  for (uint64_t i = 0; i < count; ++i) keys.push_back(key_of(first_key + i));
  pages.resize(count);
  KVT_CHILD_CHECK(kvt_lookup(session, keys.data(), count, KVT_LOOKUP_HOLD, pages.data()) ==
                  static_cast<int>(count));
  return {};
}

/// A process that reads the hot pages until it is told to stop. Says "offers_taken bytes_staged".
std::string reader(Lines& lines, const Daemon& daemon, uint32_t flags) {
  kvt_attach_args args = attach_args(daemon.folder());
  args.flags = flags;
  Client client(args);
  KVT_CHILD_CHECK(client.code() == KVT_OK);
  if (lines.hear() != "go") return "the writer has gone";
  std::vector<kvt_page> pages;
  if (std::string wrong = hold_hot(client, kHotFirst, kHot, pages); !wrong.empty()) return wrong;
  lines.say("reading");
  if (std::string wrong =
          read_hot(client, pages, kHotFirst, client.geometry().base, [&] { return lines.has_line(); });
      !wrong.empty())
    return wrong;
  const kvt_stats stats = client.stats();
  lines.say(std::to_string(stats.offers_taken) + " " + std::to_string(stats.bytes_staged));
  return {};
}

double offers(const Daemon& daemon, const char* which) {
  return daemon.number("status", std::string("/arenas/0/offers/") + which);
}
double promoted(const Daemon& daemon) { return daemon.number("status", "/arenas/0/moves/promoted"); }

/// Every page, by another session, and no frame that nobody accounts for.
void expect_all_intact(const Daemon& daemon, const Published& all) {
  for (uint64_t key = 0; key < kKeys; ++key)
    ASSERT_EQ(verify_page(all.writer, all.pages[key], key_of(key), kPageBytes), 0u) << "key " << key;
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);
  EXPECT_EQ(daemon.number("status", "/arenas/0/offers/out"), 0);
}

TEST(Offers, AReaderPromotesWhatItReads) {
  Daemon daemon(world());
  ASSERT_TRUE(daemon.ok());
  Child child([&](Lines& lines) { return reader(lines, daemon, 0); });
  Published all;
  publish_all(daemon, all);
  ASSERT_FALSE(HasFatalFailure());
  child.say("go");
  ASSERT_EQ(child.hear(), "reading");
  EXPECT_TRUE(eventually([&] { return offers(daemon, "taken") >= 40; }))
      << daemon.control("{\"command\":\"arenas\"}");
  child.say("stop");
  const std::string line = child.hear();
  EXPECT_EQ(child.finish(), "");
  unsigned long reported = 0;
  unsigned long bytes = 0;
  ASSERT_EQ(std::sscanf(line.c_str(), "%lu %lu", &reported, &bytes), 2) << line;
  const double taken = offers(daemon, "taken");
  EXPECT_LE(taken, static_cast<double>(reported));
  EXPECT_GE(bytes, reported * kPageBytes) << "what was reported was copied";
  // Workers promote only what a reader let lapse, or had taken from it.
  EXPECT_LE(promoted(daemon) - taken, offers(daemon, "lapsed") + offers(daemon, "withdrawn"));
  EXPECT_EQ(all.writer.stats().offers_taken, 0u);
  expect_all_intact(daemon, all);
}

TEST(Offers, AreNotMadeToWhoDoesNotWantThem) {
  Daemon daemon(world());
  ASSERT_TRUE(daemon.ok());
  Child child([&](Lines& lines) { return reader(lines, daemon, KVT_ATTACH_NO_OFFERS); });
  Published all;
  publish_all(daemon, all);
  ASSERT_FALSE(HasFatalFailure());
  child.say("go");
  ASSERT_EQ(child.hear(), "reading");
  EXPECT_TRUE(eventually([&] { return promoted(daemon) >= 40; })) << "workers copy instead";
  child.say("stop");
  EXPECT_EQ(child.hear(), "0 0");
  EXPECT_EQ(child.finish(), "");
  EXPECT_EQ(offers(daemon, "made"), 0);
  expect_all_intact(daemon, all);
}

TEST(Offers, AreNotMadeWhereCopiesAreOrdered) {
  Daemon daemon(world("copies"));
  ASSERT_TRUE(daemon.ok());
  Child child([&](Lines& lines) { return reader(lines, daemon, 0); });
  Published all;
  publish_all(daemon, all);
  ASSERT_FALSE(HasFatalFailure());
  child.say("go");
  ASSERT_EQ(child.hear(), "reading");
  EXPECT_TRUE(eventually([&] { return promoted(daemon) >= 40; }));
  child.say("stop");
  EXPECT_EQ(child.hear(), "0 0");
  EXPECT_EQ(child.finish(), "");
  EXPECT_EQ(offers(daemon, "made"), 0);
}

/// Readers that are killed wherever they are: in the middle of a copy, most of the time, because the pages
/// change places all the time. What they had half filled is not seen by anybody.
TEST(Offers, AReaderThatIsKilledWhileItCopiesLeavesNothingWrong) {
  World churn = world();
  churn.policy = "churn";
  churn.pages = 600;
  churn.cooldown_ms = 2;
  Daemon daemon(churn);
  ASSERT_TRUE(daemon.ok());
  Published all;
  publish_all(daemon, all);
  ASSERT_FALSE(HasFatalFailure());
  // It cannot be forked once this process has threads, and the library starts none.
  double taken = 0;
  for (int round = 0; round < 12; ++round) {
    Child child([&](Lines& lines) -> std::string {
      Client client(daemon);
      KVT_CHILD_CHECK(client.code() == KVT_OK);
      std::vector<kvt_page> pages;
      if (std::string wrong = hold_hot(client, 0, kKeys, pages); !wrong.empty()) return wrong;
      std::vector<kvt_frame> frames(kKeys);
      lines.say("reading");
      for (;;) {
        kvt_step step{};
        KVT_CHILD_CHECK(kvt_step_begin(client, &step) == KVT_OK);
        KVT_CHILD_CHECK(kvt_resolve(client, &step, pages.data(), kKeys, frames.data()) ==
                        static_cast<int>(kKeys));
        KVT_CHILD_CHECK(kvt_touch(client, pages.data(), kKeys) == KVT_OK);
        KVT_CHILD_CHECK(kvt_step_end(client, &step) == KVT_OK);
      }
    });
    ASSERT_EQ(child.hear(), "reading");
    EXPECT_TRUE(eventually([&] { return offers(daemon, "taken") > taken + 5; }))
        << daemon.control("{\"command\":\"arenas\"}");
    taken = offers(daemon, "taken");
    child.kill();
    EXPECT_TRUE(eventually([&] { return daemon.number("status", "/sessions") == 1; }));
    for (uint64_t key = 0; key < kKeys; key += 7)
      ASSERT_EQ(verify_page(all.writer, all.pages[key], key_of(key), kPageBytes), 0u) << "key " << key;
  }
  expect_all_intact(daemon, all);
}

TEST(Offers, AStepCopiesNoMoreThanItMay) {
  Daemon daemon(world());
  ASSERT_TRUE(daemon.ok());
  Published all;
  publish_all(daemon, all);
  ASSERT_FALSE(HasFatalFailure());
  kvt_attach_args args = attach_args(daemon.folder());
  args.stage_bytes_max = 3 * kPageBytes;
  Client client(args);
  ASSERT_EQ(client.code(), KVT_OK);
  std::vector<kvt_page> pages;
  ASSERT_EQ(hold_hot(client, kHotFirst, kHot, pages), "");
  std::vector<kvt_frame> frames(kHot);
  uint64_t before = 0;
  EXPECT_TRUE(eventually([&] {
    kvt_step step{};
    EXPECT_EQ(kvt_step_begin(client, &step), KVT_OK);
    EXPECT_EQ(kvt_touch(client, pages.data(), kHot), KVT_OK);
    EXPECT_EQ(kvt_step_end(client, &step), KVT_OK);
    // It reads without resolving until more is offered than one step may copy. What lapses meanwhile is
    // offered again.
    if (offers(daemon, "out") < 6) return false;
    EXPECT_EQ(kvt_step_begin(client, &step), KVT_OK);
    for (int twice = 0; twice < 2; ++twice)
      EXPECT_EQ(kvt_resolve(client, &step, pages.data(), kHot, frames.data()), static_cast<int>(kHot));
    EXPECT_EQ(kvt_step_end(client, &step), KVT_OK);
    const uint64_t staged = client.stats().bytes_staged - before;
    before += staged;
    EXPECT_LE(staged, args.stage_bytes_max);
    return staged == args.stage_bytes_max || ::testing::Test::HasFailure();
  }));
}

/// What one resolve of a step has given, the next gives too: the copy is made once.
TEST(Offers, AStepCopiesAPageOnce) {
  Daemon daemon(world());
  ASSERT_TRUE(daemon.ok());
  Published all;
  publish_all(daemon, all);
  ASSERT_FALSE(HasFatalFailure());
  kvt_attach_args args = attach_args(daemon.folder());
  args.flags = KVT_ATTACH_NO_BALANCE;
  Client client(args);
  ASSERT_EQ(client.code(), KVT_OK);
  std::vector<kvt_page> pages;
  ASSERT_EQ(hold_hot(client, kHotFirst, kHot, pages), "");
  std::vector<kvt_frame> first(kHot);
  std::vector<kvt_frame> second(kHot);
  bool seen = false;
  EXPECT_TRUE(eventually([&] {
    kvt_step step{};
    EXPECT_EQ(kvt_step_begin(client, &step), KVT_OK);
    std::vector<bool> was_slow;
    for (const kvt_page page : pages) was_slow.push_back(client.info(page).tier == 1);
    const uint64_t before = client.stats().bytes_staged;
    EXPECT_EQ(kvt_resolve(client, &step, pages.data(), kHot, first.data()), static_cast<int>(kHot));
    const uint64_t staged = client.stats().bytes_staged - before;
    if (staged != 0) {
      EXPECT_EQ(kvt_resolve(client, &step, pages.data(), kHot, second.data()), static_cast<int>(kHot));
      // In the slow tier before and after, and read from the fast one: from the copy, which the row does not
      // name yet.
      uint64_t copied = 0;
      for (size_t i = 0; i < kHot; ++i) {
        if (!was_slow[i] || client.info(pages[i]).tier != 1 ||
            first[i] >= client.geometry().windows[1].first_frame)
          continue;
        ++copied;
        EXPECT_EQ(first[i], second[i]) << "page " << i;
      }
      seen = copied != 0;
    }
    EXPECT_EQ(kvt_touch(client, pages.data(), kHot), KVT_OK);
    EXPECT_EQ(kvt_step_end(client, &step), KVT_OK);
    return seen;
  }));
}

/// Two members of one session see the same offers; both fill a frame with the same bytes.
/// Its slot is another's by then, and so are the offers in it.
TEST(Offers, AnEvictedReaderTakesNoneOfWhoGetsItsSlot) {
  Daemon daemon(world());
  ASSERT_TRUE(daemon.ok());
  Published all;
  publish_all(daemon, all);
  ASSERT_FALSE(HasFatalFailure());
  Client evicted(daemon);
  ASSERT_EQ(evicted.code(), KVT_OK);
  std::vector<kvt_page> pages;
  ASSERT_EQ(hold_hot(evicted, kHotFirst, kHot, pages), "");
  // Offers are out when it is evicted; it has seen that there are some.
  ASSERT_TRUE(eventually([&] {
    EXPECT_EQ(kvt_touch(evicted, pages.data(), pages.size()), KVT_OK);
    return offers(daemon, "out") > 0;
  })) << daemon.control("{\"command\":\"arenas\"}");
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(evicted, &step), KVT_OK);
  const std::string id = std::to_string(evicted.geometry().session_id);
  ASSERT_NE(daemon.control("{\"command\":\"evict-session\",\"session\":" + id + "}").find("\"ok\":true"),
            std::string::npos);
  Client next(daemon);
  ASSERT_EQ(next.code(), KVT_OK);
  ASSERT_EQ(hold_hot(next, kHotFirst, kHot, pages), "");
  std::vector<kvt_frame> frames(pages.size());
  // It counts reads and resolves nothing, so what it is offered stays out for a while.
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(kvt_touch(next, pages.data(), pages.size()), KVT_OK);
    const bool out = offers(daemon, "out") > 0;
    EXPECT_EQ(kvt_resolve(evicted, &step, pages.data(), pages.size(), frames.data()),
              static_cast<int>(pages.size()));
    return out;
  }));
  EXPECT_GT(offers(daemon, "made"), 0);
  EXPECT_EQ(evicted.stats().bytes_staged, 0u);
  EXPECT_EQ(kvt_step_end(evicted, &step), KVT_E_ENDED);
  expect_all_intact(daemon, all);
}

TEST(Offers, MembersOfOneSessionShareThem) {
  Daemon daemon(world());
  ASSERT_TRUE(daemon.ok());
  Child member([&](Lines& lines) -> std::string {
    const std::string hex = lines.hear();
    uint8_t token[KVT_TOKEN_BYTES];
    for (size_t i = 0; i < sizeof token; ++i)
      token[i] = static_cast<uint8_t>(std::stoul(hex.substr(2 * i, 2), nullptr, 16));
    const kvt_attach_args args = attach_args(daemon.folder());
    Client joined(args, token);
    KVT_CHILD_CHECK(joined.code() == KVT_OK);
    std::vector<kvt_page> pages;
    if (std::string wrong = hold_hot(joined, kHotFirst, kHot, pages); !wrong.empty()) return wrong;
    lines.say("reading");
    return read_hot(joined, pages, kHotFirst, joined.geometry().base, [&] { return lines.has_line(); });
  });
  Published all;
  publish_all(daemon, all);
  ASSERT_FALSE(HasFatalFailure());
  kvt_attach_args args = attach_args(daemon.folder());
  args.members_max = 2;
  Client owner(args);
  ASSERT_EQ(owner.code(), KVT_OK);
  uint8_t token[KVT_TOKEN_BYTES];
  ASSERT_EQ(kvt_token(owner, token), KVT_OK);
  std::string hex;
  for (const uint8_t byte : token) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", byte);
    hex += digits;
  }
  std::vector<kvt_page> pages;
  ASSERT_EQ(hold_hot(owner, kHotFirst, kHot, pages), "");
  member.say(hex);
  ASSERT_EQ(member.hear(), "reading");
  const auto end = Clock::now() + kPatience;
  EXPECT_EQ(read_hot(owner, pages, kHotFirst, owner.geometry().base,
                     [&] { return offers(daemon, "taken") >= 40 || Clock::now() > end; }),
            "");
  EXPECT_GE(offers(daemon, "taken"), 40);
  member.say("stop");
  EXPECT_EQ(member.finish(), "");
  expect_all_intact(daemon, all);
}

TEST(Offers, UnknownFlagsAreRefused) {
  Daemon daemon(world());
  ASSERT_TRUE(daemon.ok());
  kvt_attach_args args = attach_args(daemon.folder());
  args.flags = 1u << 31;
  EXPECT_EQ(Client(args).code(), KVT_E_INVALID);
  EXPECT_TRUE(mentions(kvt_last_error(), {"flags", "2147483648"})) << kvt_last_error();
}

// ---- the reader's balance ----

/// Pages in the fast tier that have their slow copy as shadow, made by an operator's moves; nothing else
/// moves.
class Balance : public ::testing::Test {
 protected:
  Balance() : daemon(off()) {}
  static World off() {
    World world;
    world.policy = "off";
    return world;
  }
  void SetUp() override {
    ASSERT_TRUE(daemon.ok());
    client = Client(daemon);
    ASSERT_EQ(client.code(), KVT_OK);
    for (uint64_t key = 0; key < kKeys; ++key) {
      pages.push_back(publish_page(client, key_of(key), kPageBytes));
      ASSERT_NE(pages.back(), KVT_NO_PAGE) << kvt_last_error();
    }
    fast = client.geometry().windows[0].read_bytes_per_second;
    slow = client.geometry().windows[1].read_bytes_per_second;
    ASSERT_GT(fast, slow);
  }
  void move(kvt_page page, const char* tier) {
    const std::string request = "{\"command\":\"move\",\"page\":" + std::to_string(KVT_PAGE_INDEX(page)) +
                                ",\"tier\":\"" + tier + "\"}";
    const uint32_t wanted = tier == std::string("hbm0") ? 0 : 1;
    ASSERT_TRUE(eventually([&] {
      std::ignore = daemon.control(request);
      return client.info(page).tier == wanted;
    })) << daemon.control(request);
  }
  /// The first pages go down, later ones come up: `count` pages of the fast tier with a shadow.
  void make_shadowed(size_t count) {
    for (size_t i = 0; i < count; ++i) ASSERT_NO_FATAL_FAILURE(move(pages[i], "dram"));
    for (size_t i = 0; i < count; ++i) {
      ASSERT_NO_FATAL_FAILURE(move(pages[kHotFirst + i], "hbm0"));
      ASSERT_TRUE(gets_shadow(client, pages[kHotFirst + i]));
      shadowed.push_back(pages[kHotFirst + i]);
    }
  }
  /// One step of `session` that resolves each list in a call; the frames of all.
  static std::vector<kvt_frame> resolve(const Client& session,
                                        const std::vector<std::vector<kvt_page>>& calls) {
    std::vector<kvt_frame> frames;
    kvt_step step{};
    EXPECT_EQ(kvt_step_begin(session, &step), KVT_OK);
    for (const auto& call : calls) {
      const size_t at = frames.size();
      frames.resize(at + call.size());
      EXPECT_EQ(kvt_resolve(session, &step, call.data(), call.size(), frames.data() + at),
                static_cast<int>(call.size()));
    }
    EXPECT_EQ(kvt_step_end(session, &step), KVT_OK);
    return frames;
  }
  bool in_slow(kvt_frame frame) const { return frame >= client.geometry().windows[1].first_frame; }

  Daemon daemon;
  Client client;
  std::vector<kvt_page> pages;
  std::vector<kvt_page> shadowed;
  uint64_t fast = 0;
  uint64_t slow = 0;
};

TEST_F(Balance, TheTimesOfAStepsTiersAreEven) {
  make_shadowed(100);
  const std::vector<kvt_frame> frames = resolve(client, {shadowed});
  uint64_t fast_pages = 0;
  uint64_t slow_pages = 0;
  for (size_t i = 0; i < shadowed.size(); ++i) {
    // A page is read from its shadow exactly when the fast tier is behind, this page on the other's account.
    const bool expected = fast_pages * slow > (slow_pages + 1) * fast;
    EXPECT_EQ(in_slow(frames[i]), expected)
        << "page " << i << ": " << fast_pages << " fast, " << slow_pages << " slow";
    const kvt_page_info info = client.info(shadowed[i]);
    EXPECT_EQ(frames[i], in_slow(frames[i]) ? info.shadow_frame : info.frame);
    EXPECT_EQ(wrong_words(static_cast<const char*>(client.geometry().base) + uint64_t{frames[i]} * kPageBytes,
                          kPageBytes, key_of(kHotFirst + i)),
              0u);
    ++(in_slow(frames[i]) ? slow_pages : fast_pages);
  }
  EXPECT_GT(slow_pages, 5u) << "one in twelve, at 3728 to 335";
  EXPECT_GE(static_cast<double>(fast_pages) / 100,
            static_cast<double>(fast) / static_cast<double>(fast + slow))
      << "never below the share of the bandwidths";
}

TEST_F(Balance, GoesOnFromCallToCallAndBeginsAnewWithAStep) {
  make_shadowed(60);
  const std::vector<kvt_frame> at_once = resolve(client, {shadowed});
  std::vector<std::vector<kvt_page>> calls;
  for (const kvt_page page : shadowed) calls.push_back({page});
  EXPECT_EQ(resolve(client, calls), at_once);
  EXPECT_EQ(resolve(client, {shadowed}), at_once);
}

TEST_F(Balance, WhatIsReadFromTheSlowTierAnywayComesFirst) {
  make_shadowed(60);
  // Slow pages that take as long as all of the fast ones: nothing more is read from there.
  const std::vector<kvt_page> slow_ones(pages.begin() + 400, pages.begin() + 406);
  const std::vector<kvt_frame> frames = resolve(client, {slow_ones, shadowed});
  for (size_t i = slow_ones.size(); i < frames.size(); ++i) EXPECT_FALSE(in_slow(frames[i])) << i;
}

TEST_F(Balance, LooksAtShadowsThatAreFewAgainLater) {
  make_shadowed(10);
  // Pages of the fast tier without a shadow, and then those with one: they are found although looks were in
  // vain.
  const std::vector<kvt_page> without(pages.begin() + 20, pages.begin() + 120);
  const std::vector<kvt_frame> frames = resolve(client, {without, shadowed, shadowed, shadowed});
  for (size_t i = 0; i < without.size(); ++i) EXPECT_FALSE(in_slow(frames[i])) << i;
  // 100 fast pages take as long as 8 slow ones; at most 15 of the 30 are passed by until the next look.
  EXPECT_GE(
      std::count_if(frames.begin() + 100, frames.end(), [&](kvt_frame frame) { return in_slow(frame); }), 8);
}

TEST_F(Balance, CanBeLeftOut) {
  make_shadowed(60);
  kvt_attach_args args = attach_args(daemon.folder());
  args.flags = KVT_ATTACH_NO_BALANCE;
  const Client plain(args);
  ASSERT_EQ(plain.code(), KVT_OK);
  for (const kvt_frame frame : resolve(plain, {shadowed})) EXPECT_FALSE(in_slow(frame));
}

TEST_F(Balance, ChangesGiveThePlaceThatTheRowNames) {
  kvt_step step{};
  uint64_t cursor = 0;
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  ASSERT_EQ(kvt_changes_begin(client, &step, &cursor), KVT_OK);
  ASSERT_EQ(kvt_step_end(client, &step), KVT_OK);
  make_shadowed(30);
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  std::vector<kvt_change> changes(256);
  const int n = kvt_changes(client, &step, &cursor, changes.data(), changes.size());
  ASSERT_GE(n, 60);
  for (int i = 0; i < n; ++i)
    EXPECT_EQ(changes[static_cast<size_t>(i)].frame, client.info(changes[static_cast<size_t>(i)].page).frame);
  EXPECT_EQ(kvt_step_end(client, &step), KVT_OK);
}

/// Second places go without a change in the log: who keeps a block table over steps is not given them.
TEST_F(Balance, WhoFollowsChangesGetsFirstPlaces) {
  make_shadowed(60);
  const std::vector<kvt_frame> before = resolve(client, {shadowed});
  ASSERT_TRUE(std::any_of(before.begin(), before.end(), [&](kvt_frame frame) { return in_slow(frame); }));
  kvt_step step{};
  uint64_t cursor = 0;
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  ASSERT_EQ(kvt_changes_begin(client, &step, &cursor), KVT_OK);
  ASSERT_EQ(kvt_step_end(client, &step), KVT_OK);
  for (int steps = 0; steps < 2; ++steps)
    for (const kvt_frame frame : resolve(client, {shadowed})) EXPECT_FALSE(in_slow(frame));
}

/// Nor is it offered anything: a withdrawn offer is in no log either.
TEST(Offers, WhoFollowsChangesIsOfferedNothing) {
  Daemon daemon(world());
  ASSERT_TRUE(daemon.ok());
  Published all;
  publish_all(daemon, all);
  ASSERT_FALSE(HasFatalFailure());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  kvt_step step{};
  uint64_t cursor = 0;
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  ASSERT_EQ(kvt_changes_begin(client, &step, &cursor), KVT_OK);
  ASSERT_EQ(kvt_step_end(client, &step), KVT_OK);
  std::vector<kvt_page> pages;
  ASSERT_EQ(hold_hot(client, kHotFirst, kHot, pages), "");
  const auto end = Clock::now() + kPatience;
  EXPECT_EQ(read_hot(client, pages, kHotFirst, client.geometry().base,
                     [&] { return promoted(daemon) >= 40 || Clock::now() > end; }),
            "");
  EXPECT_GE(promoted(daemon), 40);
  EXPECT_EQ(offers(daemon, "made"), 0);
  EXPECT_EQ(client.stats().bytes_staged, 0u);
}

}  // namespace
}  // namespace kvt::test
