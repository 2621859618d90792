// SPDX-License-Identifier: Apache-2.0
//
// Pages that move under their readers: every word of every page, in other processes than the writer's, while
// the churn policy moves what it can; and the balance policy doing what it is for.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/child.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

constexpr uint64_t kPageBytes = 16384;

class Moves : public ::testing::TestWithParam<uint32_t> {
 protected:
  static World world(const char* policy) {
    World world;
    world.columns = GetParam();
    world.policy = policy;
    return world;
  }
};
INSTANTIATE_TEST_SUITE_P(Columns, Moves, ::testing::Values(1u, 2u),
                         [](const auto& parameter) { return std::to_string(parameter.param); });

/// Holds what it finds of keys [0, keys), verifies every word in steps, counts pages whose frame changed
/// within the step, until enough of them did. Says "words corrupt moved".
std::string verify_under_moves(Lines& lines, const Daemon& daemon, uint32_t column, uint64_t keys,
                               uint64_t moved_wanted) {
  Client client(daemon, column, KVT_ACCESS_READ);
  KVT_CHILD_CHECK(client.code() == KVT_OK);
  if (lines.hear() != "go") return "the writer has gone";
  uint64_t words = 0;
  uint64_t corrupt = 0;
  uint64_t moved = 0;
  uint64_t at = column * 37;
  const auto end = Clock::now() + kPatience;
  while (Clock::now() < end && moved < moved_wanted && corrupt == 0) {
    constexpr size_t kBatch = 64;
    std::vector<kvt_key> asked;
    for (size_t i = 0; i < kBatch; ++i) asked.push_back(key_of((at += 7) % keys));
    std::vector<kvt_page> pages(kBatch);
    KVT_CHILD_CHECK(kvt_lookup(client, asked.data(), kBatch, KVT_LOOKUP_HOLD, pages.data()) >= 0);
    kvt_step step{};
    KVT_CHILD_CHECK(kvt_step_begin(client, &step) == KVT_OK);
    std::vector<kvt_frame> frames(kBatch);
    std::vector<kvt_frame> later(kBatch);
    KVT_CHILD_CHECK(kvt_resolve(client, &step, pages.data(), kBatch, frames.data()) >= 0);
    const auto* const base = static_cast<const char*>(client.geometry().base);
    for (size_t i = 0; i < kBatch; ++i) {
      if (pages[i] == KVT_NO_PAGE) continue;
      if (frames[i] == KVT_NO_FRAME) return "a page that is held cannot be resolved";
      corrupt += wrong_words(base + uint64_t{frames[i]} * kPageBytes, kPageBytes, asked[i]);
      words += kPageBytes / 8;
    }
    KVT_CHILD_CHECK(kvt_resolve(client, &step, pages.data(), kBatch, later.data()) >= 0);
    for (size_t i = 0; i < kBatch; ++i) {
      if (later[i] == frames[i] || pages[i] == KVT_NO_PAGE) continue;
      // It moved while it was read: where it was, it is still right, and so it is where it went.
      ++moved;
      corrupt += wrong_words(base + uint64_t{frames[i]} * kPageBytes, kPageBytes, asked[i]);
      corrupt += wrong_words(base + uint64_t{later[i]} * kPageBytes, kPageBytes, asked[i]);
    }
    KVT_CHILD_CHECK(kvt_step_end(client, &step) == KVT_OK);
    for (const kvt_page page : pages)
      if (page != KVT_NO_PAGE) KVT_CHILD_CHECK(kvt_release(client, &page, 1, nullptr) == KVT_OK);
  }
  lines.say(std::to_string(words) + " " + std::to_string(corrupt) + " " + std::to_string(moved));
  return {};
}

/// Two readers against one writer that replaces contents all the time. With `inject`, corruption is what must
/// come.
void churn(World world, uint32_t columns, bool must_be_right) {
  constexpr uint64_t kKeys = 900;
  constexpr uint64_t kMoved = 200;
  Daemon daemon(std::move(world));
  ASSERT_TRUE(daemon.ok());
  Child first([&](Lines& lines) {
    return verify_under_moves(lines, daemon, 0, kKeys, must_be_right ? kMoved : UINT64_MAX);
  });
  Child second([&](Lines& lines) {
    return verify_under_moves(lines, daemon, columns - 1, kKeys, must_be_right ? kMoved : UINT64_MAX);
  });
  Client writer(daemon);
  ASSERT_EQ(writer.code(), KVT_OK);
  uint64_t published = 0;
  const auto publish_next = [&] {
    // Keys come back after they were evicted: frames and indices are used again for other contents.
    const kvt_key key = key_of(published++ % kKeys);
    kvt_page page = KVT_NO_PAGE;
    if (kvt_allocate(writer, &page, 1) != 1) return;
    void* const data = kvt_page_data(writer, page);
    ASSERT_NE(data, nullptr) << kvt_last_error();
    fill(data, kPageBytes, key);
    const int result = publish_result(writer, page, key);
    ASSERT_TRUE(result == KVT_PUBLISHED || result == KVT_PRESENT) << result << ": " << kvt_last_error();
    ASSERT_EQ(kvt_release(writer, &page, 1, nullptr), KVT_OK) << kvt_last_error();
  };
  for (int i = 0; i < 400; ++i) publish_next();
  uint64_t words[2] = {};
  uint64_t corrupt[2] = {};
  uint64_t moved[2] = {};
  Child* const readers[] = {&first, &second};
  for (Child* const reader : readers) reader->say("go");
  for (int i = 0; i < 2; ++i) {
    // The writer goes on until this reader has ended.
    std::string line;
    while (line.empty() && !::testing::Test::HasFatalFailure()) {
      for (int n = 0; n < 20; ++n) publish_next();
      if (readers[i]->has_line()) line = readers[i]->hear();
    }
    EXPECT_EQ(std::sscanf(line.c_str(), "%lu %lu %lu", &words[i], &corrupt[i], &moved[i]), 3) << line;
    EXPECT_EQ(readers[i]->finish(), "");
  }
  if (!must_be_right) {
    EXPECT_GT(corrupt[0] + corrupt[1], 0u);
    return;
  }
  for (int i = 0; i < 2; ++i) {
    EXPECT_GT(words[i], 0u);
    EXPECT_EQ(corrupt[i], 0u);
    EXPECT_GE(moved[i], kMoved) << "pages moved while they were read";
  }
  EXPECT_GT(daemon.number("status", "/arenas/0/moves/promoted"), 0);
  EXPECT_GT(daemon.number("status", "/arenas/0/moves/demoted_copy") +
                daemon.number("status", "/arenas/0/moves/demoted_free"),
            0);
  EXPECT_GT(daemon.number("status", "/arenas/0/evicted"), 0);
  writer.detach();
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/sessions") == 0; }));
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);
}

TEST_P(Moves, EveryWordIsRightUnderChurn) {
  // Fewer pages than keys, so that keys are evicted, and fewer than frames, so that there is room to move.
  World tight = world("churn");
  tight.pages = 700;
  churn(tight, GetParam(), true);
}

/// The same readers notice what is wrong when something is.
TEST_P(Moves, AFlippedBitIsNoticed) {
  World flip = world("churn");
  flip.pages = 700;
  flip.arguments = {"--allow-injection", "--inject", "flip"};
  churn(flip, GetParam(), false);
}

/// With checksums it never reaches them.
TEST_P(Moves, AFlippedBitIsRepairedByChecksums) {
  World flip = world("churn");
  flip.pages = 700;
  flip.promote = "copies";
  flip.arguments = {"--allow-injection", "--inject", "flip"};
  flip.integrity = "moves";
  churn(flip, GetParam(), true);
}

TEST_P(Moves, BalanceKeepsWhatIsReadInTheFastTier) {
  Daemon daemon(world("balance"));
  ASSERT_TRUE(daemon.ok());
  Client client(daemon, GetParam() - 1);
  ASSERT_EQ(client.code(), KVT_OK);
  const kvt_geometry geometry = client.geometry();
  uint32_t fast = 0;
  while (geometry.windows[fast].column != static_cast<int32_t>(geometry.column)) ++fast;
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < 500; ++i) {
    pages.push_back(publish_page(client, key_of(i), kPageBytes));
    ASSERT_NE(pages.back(), KVT_NO_PAGE) << kvt_last_error();
  }
  const auto in_tier = [&](const std::vector<kvt_page>& some, uint32_t tier) {
    return std::count_if(some.begin(), some.end(),
                         [&](kvt_page page) { return client.info(page).tier == tier; });
  };
  const auto reads = [&](const std::vector<kvt_page>& hot) {
    for (int i = 0; i < 20; ++i) {
      kvt_step step{};
      EXPECT_EQ(kvt_step_begin(client, &step), KVT_OK);
      EXPECT_EQ(kvt_touch(client, hot.data(), hot.size()), KVT_OK);
      EXPECT_EQ(kvt_step_end(client, &step), KVT_OK);
    }
  };
  // More than the fast tier has, one set after the other: what is hot comes up, what has become cold makes
  // room.
  for (const size_t begin : {200, 300, 400}) {
    const std::vector<kvt_page> hot(pages.begin() + static_cast<std::ptrdiff_t>(begin),
                                    pages.begin() + static_cast<std::ptrdiff_t>(begin) + 90);
    EXPECT_TRUE(eventually([&] {
      reads(hot);
      return in_tier(hot, fast) >= 70;
    })) << in_tier(hot, fast)
        << " of 90 in the fast tier; " << daemon.control("{\"command\":\"arenas\"}");
  }
  EXPECT_GE(daemon.number("status", "/arenas/0/moves/promoted"), 3 * 70 - 127);
  EXPECT_GT(daemon.number("status", "/arenas/0/moves/demoted_copy") +
                daemon.number("status", "/arenas/0/moves/demoted_free"),
            0);
  // New pages find room in the fast tier, kept free ahead of demand.
  EXPECT_TRUE(eventually(
      [&] { return daemon.number("quiesce", "/arenas/0/tiers/" + std::to_string(fast) + "/free") >= 1; }));
  for (uint64_t i = 0; i < pages.size(); ++i)
    EXPECT_EQ(verify_page(client, pages[i], key_of(i), kPageBytes), 0u);
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);
}

/// Sessions that never allocate keep no fast frames from those who read.
TEST_P(Moves, IdleSessionsLeaveTheFastTierToReaders) {
  Daemon daemon(world("balance"));
  std::vector<Client> idle;
  for (int i = 0; i < 4; ++i) idle.emplace_back(daemon);
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < 60; ++i) {
    pages.push_back(publish_page(client, key_of(i), kPageBytes));
    ASSERT_NE(pages.back(), KVT_NO_PAGE) << kvt_last_error();
  }
  const auto fast_ones = [&] {
    return std::count_if(pages.begin(), pages.end(),
                         [&](kvt_page page) { return client.info(page).tier == 0; });
  };
  EXPECT_TRUE(eventually(
      [&] {
        for (int i = 0; i < 20; ++i) {
          kvt_step step{};
          EXPECT_EQ(kvt_step_begin(client, &step), KVT_OK);
          EXPECT_EQ(kvt_touch(client, pages.data(), pages.size()), KVT_OK);
          EXPECT_EQ(kvt_step_end(client, &step), KVT_OK);
        }
        std::ignore = daemon.control("{\"command\":\"status\"}");
        return fast_ones() >= 45;
      },
      std::chrono::seconds(5)))
      << fast_ones() << " of 60 hot pages are in a fast tier of 127 frames";
}

TEST_P(Moves, OffMovesNothing) {
  Daemon daemon(world("off"));
  Client client(daemon, GetParam() - 1);
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < 300; ++i) pages.push_back(publish_page(client, key_of(i), kPageBytes));
  for (int i = 0; i < 100; ++i) {
    kvt_step step{};
    ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
    ASSERT_EQ(kvt_touch(client, pages.data(), pages.size()), KVT_OK);
    ASSERT_EQ(kvt_step_end(client, &step), KVT_OK);
    ASSERT_EQ(kvt_flush(client), KVT_OK);
  }
  for (const char* const what : {"promoted", "demoted_copy", "demoted_free", "aborted"})
    EXPECT_EQ(daemon.number("quiesce", std::string("/arenas/0/moves/") + what), 0);
}

}  // namespace
}  // namespace kvt::test
