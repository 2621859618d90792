// SPDX-License-Identifier: Apache-2.0
//
// The KV data of a real transformer in a real arena: while pages move, while two processes share them, in two
// columns, over the death of the daemon. Every token and every bit of every logit must be that of private
// memory.
#include "tests/decode/caches.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/child.h"
#include "tests/support/client.h"
#include "tools/kvtier-decode/keys.h"

namespace kvt::test {
namespace {

using decode::CacheCounts;
using decode::DecodeResult;
using decode::KvCache;
using decode::KvLayout;
using decode::KvView;
using decode::Place;
using decode::Reference;
using decode::Run;
using decode::RunOptions;
using decode::StepEvent;
using decode::Token;

INSTANTIATE_TEST_SUITE_P(All, Caches, all_cases(), name_of_case);

TEST_P(Caches, WhileChurnMovesEveryPage) { churn(); }

#ifndef KVT_ON_DEVICE  // a fork of a process that uses CUDA cannot use it
/// The other process of two: computes or finds the prompt, says so, goes on when it is told to.
std::string decode_in_child(Lines& lines,
                            const std::function<Run(const std::function<void(const StepEvent&)>&)>& run,
                            const decode::Digest& expected) {
  bool told = false;
  const Run done = run([&](const StepEvent& event) {
    if (!event.decoding || told) return;
    told = true;
    lines.say("prompt");
    if (lines.hear() != "go") throw std::runtime_error("the test has gone");
  });
  if (done.result.logits != expected) return "other logits than on private memory";
  lines.say(std::to_string(done.counts.blocks_found) + " " + std::to_string(done.counts.blocks_moved));
  return "";
}

class TwoProcesses : public Caches {
 protected:
  void share(World world, uint32_t second_column) {
    Daemon daemon(std::move(world));
    ASSERT_TRUE(daemon.ok());
    RunOptions run = options(daemon.folder());
    Child child([&](Lines& lines) {
      return decode_in_child(
          lines, [&](const auto& on_step) { return decode::run_once(test_model(), prompt_, run, on_step); },
          expected_.result.logits);
    });
    ASSERT_EQ(child.hear(), "prompt");
    RunOptions second = run;
    second.arena.column = second_column;
    const auto mine = cache(second);
    bool told = false;
    decode_and_compare(*mine, second, [&](const StepEvent& event) {
      if (event.decoding && !told) child.say("go");  // both decode at the same time
      told |= event.decoding;
      if (event.decoding && event.position % 16 == 8 && moving_) wait_for_moves(daemon, 6 * kPromptBlocks);
    });
    EXPECT_EQ(child.hear().substr(0, 2), "0 ") << "the first has found nothing";
    EXPECT_EQ(child.finish(), "");
    EXPECT_EQ(mine->counts().blocks_found, kPromptBlocks) << "the second has found the prompt of the first";
    if (moving_ && native()) EXPECT_GE(mine->counts().blocks_moved, kPromptBlocks);
    // One set of pages for both: what the two have decoded is there once, too.
    EXPECT_LE(daemon.number("status", "/arenas/0/keyed"),
              static_cast<double>((kPromptBytes + 1 + kTokens) / 16));
  }
  bool moving_ = false;
};
INSTANTIATE_TEST_SUITE_P(All, TwoProcesses, all_cases(), name_of_case);

TEST_P(TwoProcesses, ShareAPrompt) { share(decode_world("balance"), 0); }

TEST_P(TwoProcesses, OneInEachColumn) {
  World world = decode_world("churn");
  world.columns = 2;
  moving_ = true;
  share(world, 1);
}
#endif

/// Both compute the same blocks, in one process: who is second reads what the first has published.
TEST_P(Caches, BothComputeTheSame) {
  Daemon daemon(decode_world("churn"));
  const RunOptions run = options(daemon.folder());
  const auto outer = cache(run);
  bool nested = false;
  decode_and_compare(*outer, run, [&](const StepEvent& event) {
    if (nested || event.position != 5) return;
    nested = true;
    const auto inner = cache(run);
    decode_and_compare(*inner, run);
    EXPECT_EQ(inner->counts().blocks_found, 0u);
  });
  EXPECT_TRUE(nested);
  // What was computed twice is given back: a sealed page without a key would be the outer's own.
  EXPECT_TRUE(eventually([&] {
    return daemon.number("status", "/arenas/0/pages_by_state/sealed") ==
           daemon.number("status", "/arenas/0/keyed");
  }));
  EXPECT_EQ(outer->counts().blocks_published, 0u);
  EXPECT_GE(outer->counts().blocks_present, kPromptBlocks + kTokens / 16 - 1);
  EXPECT_TRUE(eventually([&] { return daemon.number("quiesce", "/arenas/0/audit/leaked") == 0; }));
}

/// What the daemon hears of reads is what was read: the heat of the pages is in proportion.
class NativeTouches : public Caches {};  // connector mode reads its own memory
INSTANTIATE_TEST_SUITE_P(All, NativeTouches,
                         ::testing::Values(Case{"dense", Place::kNative}, Case{"topk:4", Place::kNative}),
                         name_of_case);

TEST_P(NativeTouches, AreWhatWasRead) {
  World world = decode_world();
  world.period_ms = 1000;  // the decoding in one period or two
  Daemon daemon(world);
  const RunOptions run = options(daemon.folder());
  RunOptions stores = run;  // the prompt, without reading it in the arena
  stores.place = Place::kConnector;
  decode_and_compare(*cache(stores), stores);
  const auto mine = cache(run);
  Client observer(daemon);
  std::vector<double> reads(kPromptBlocks);
  decode_and_compare(*mine, run, [&](const StepEvent& event) {
    std::vector<uint32_t> blocks;
    event.reads.collect(blocks);
    for (const uint32_t block : blocks)
      if (block < kPromptBlocks) ++reads[block];
    if (event.tokens.size() < prompt_.size() + kTokens) return;
    decode::KeyChain chain(run.attention, 16, 0, decode::arithmetic_of(run.device.get()));
    const auto keys = chain.keys(event.tokens, kPromptBlocks);
    std::vector<kvt_page> pages(kPromptBlocks);
    ASSERT_EQ(kvt_lookup(observer, keys.data(), keys.size(), 0, pages.data()),
              static_cast<int>(kPromptBlocks));
    const auto heat = [&](size_t block) {
      return daemon.number(
          "{\"command\":\"page\",\"page\":" + std::to_string(KVT_PAGE_INDEX(pages[block])) + "}",
          "/columns/0/reads_per_period");
    };
    // A read weighs 1/8 in its period, and less in later ones.
    ASSERT_TRUE(eventually([&] { return heat(0) > 0.08 * reads[0]; })) << heat(0) << " of " << reads[0];
    const double first = heat(0);
    for (size_t block = 1; block < kPromptBlocks; ++block) {
      EXPECT_GT(heat(block) / first, 0.6 * reads[block] / reads[0]) << block;
      EXPECT_LT(heat(block) / first, 1.6 * reads[block] / reads[0]) << block;
    }
  });
  if (run.attention.top_k)
    EXPECT_LT(*std::min_element(reads.begin(), reads.end()), reads[0] / 3) << "not all alike";
}

/// Another session takes every page that it can get, and writes it: what a sequence holds stays.
TEST_P(Caches, HeldPagesStayWhenOthersNeedRoom) {
  World world = decode_world("churn");
  world.pages = 80;
  Daemon daemon(world);
  const RunOptions run = options(daemon.folder());
  decode_and_compare(*cache(run), run);
  const auto mine = cache(run);
  Client other(daemon);
  size_t taken = 0;
  decode_and_compare(*mine, run, [&](const StepEvent& event) {
    // Within one block: the sequence needs no page in between, and has published none that holds its chain.
    if (event.position == kPromptBlocks * 16 + 1) {
      // A page that is being moved cannot be evicted at that moment: full may mean "not now".
      const bool evicted = eventually([&] {
        kvt_page page = KVT_NO_PAGE;
        while (kvt_allocate(other, &page, 1) == 1)
          if (void* const data = kvt_page_data(other, page); data != nullptr)
            fill(data, 16384, key_of(++taken));
        return daemon.number("status", "/arenas/0/evicted") > 0;
      });
      EXPECT_TRUE(evicted);
    }
    if (event.position == kPromptBlocks * 16 + 14) other.detach();
  });
  EXPECT_EQ(mine->counts().blocks_found, kPromptBlocks);
  EXPECT_GT(daemon.number("status", "/arenas/0/evicted"), 0);
  EXPECT_GE(taken, 30u);
}

/// A run whose daemon goes away at one decoding step and comes back, as another, at a later one.
class Restart : public Caches {
 protected:
  static constexpr size_t kGone = kPromptBytes + 20;
  static constexpr size_t kBack = kPromptBytes + 60;
  /// `when_back`: after another daemon serves, and before this run knows.
  void restart(const std::function<void(Daemon&)>& end, const std::function<void(Daemon&)>& when_back = {}) {
    Daemon daemon(decode_world("churn"));
    ASSERT_TRUE(daemon.ok());
    const RunOptions run = options(daemon.folder());
    const auto mine = cache(run);
    bool gone = false;
    bool back = false;
    result_ = decode_and_compare(*mine, run, [&](const StepEvent& event) {
      if (event.position == kGone && !gone) {
        gone = true;
        end(daemon);
      }
      if (event.position == kBack && !back) {
        back = true;
        EXPECT_EQ(mine->counts().sessions_lost, 0u) << "decoding went on without a daemon";
        daemon.start();
        ASSERT_TRUE(daemon.ok());
        if (when_back) when_back(daemon);
      }
    });
    EXPECT_TRUE(gone && back);
    counts_ = mine->counts();
    EXPECT_GE(counts_.daemon_away, 1u);
    EXPECT_EQ(counts_.sessions_lost, 1u);
    // The new daemon has every full block under its key.
    const auto next = cache(run);
    decode_and_compare(*next, run);
    EXPECT_EQ(next->counts().blocks_found, kPromptBlocks);
    EXPECT_EQ(daemon.number("status", "/arenas/0/keyed"), static_cast<double>((kPromptBytes + kTokens) / 16));
  }
  void expect_computed_again() const {
    // Native: everything up to where it was. Connector: its own blocks are still there.
    if (native())
      EXPECT_GE(result_.steps_again, kBack);
    else
      EXPECT_EQ(result_.steps_again, 0u);
  }
  DecodeResult result_;
  CacheCounts counts_;
};
INSTANTIATE_TEST_SUITE_P(All, Restart, all_cases(), name_of_case);

TEST_P(Restart, TheDaemonIsKilled) {
  restart([](Daemon& daemon) { daemon.kill(); });
  expect_computed_again();
}

TEST_P(Restart, TheDaemonIsStopped) {
  restart([](Daemon& daemon) { EXPECT_EQ(daemon.stop(), 0); });
  expect_computed_again();
}

TEST_P(Restart, OthersHaveComputedThePromptMeanwhile) {
  restart([](Daemon& daemon) { daemon.kill(); },
          [&](Daemon& daemon) {
            const RunOptions run = options(daemon.folder());
            const auto other = cache(run);
            decode_and_compare(*other, run);
          });
  if (!native()) return;
  EXPECT_GE(counts_.blocks_found, kPromptBlocks);
  EXPECT_LT(result_.steps_again, size_t{16}) << "all full blocks were found";
}

/// A daemon that is away and comes back with its sessions: nothing is lost, and what was not published
/// meanwhile is.
TEST_P(Caches, TheDaemonIsAwayAndComesBack) {
  Daemon daemon(decode_world("churn"));
  RunOptions run = options(daemon.folder());
  run.arena.timeout_ms = 30;
  const auto mine = cache(run);
  const DecodeResult result = decode_and_compare(*mine, run, [&](const StepEvent& event) {
    if (event.position == kPromptBytes + 20) daemon.signal(SIGSTOP);
    if (event.position == kPromptBytes + 60) {
      EXPECT_GE(mine->counts().daemon_away, 2u);
      daemon.signal(SIGCONT);
      EXPECT_TRUE(eventually([&] { return daemon.number("status", "/sessions") == 1; }));
    }
  });
  EXPECT_EQ(mine->counts().sessions_lost, 0u);
  EXPECT_EQ(result.steps_again, 0u);
  // Published, or taken by the daemon when nobody waited for its answer any more.
  EXPECT_EQ(daemon.number("status", "/arenas/0/keyed"), static_cast<double>((kPromptBytes + kTokens) / 16));
}

/// The comparison notices when a bit of a page is not what was written.
TEST_P(Caches, AFlippedBitIsNoticed) {
  World world = decode_world("churn");
  world.arguments = {"--allow-injection", "--inject", "flip"};
  Daemon daemon(world);
  const RunOptions run = options(daemon.folder());
  const auto first = cache(run);
  std::string difference;
  for (int round = 0; round < 20 && difference.empty(); ++round) {
    Comparison comparison(reference_);
    decode::DecodeOptions decode_options;
    decode_options.attention = run.attention;
    decode_options.count = run.tokens;
    decode_options.on_step = [&](const StepEvent& event) {
      comparison(event);
      if (event.decoding && event.position % 16 == 8) wait_for_moves(daemon, kPromptBlocks);
    };
    // Native reads pages that were hit; connector loads them in the next round.
    const auto mine = cache(run);
    decode::decode(test_model(), layout(), *mine, prompt_, decode_options);
    difference = comparison.difference();
  }
  EXPECT_NE(difference, "");
}

TEST_P(Caches, NoDaemonIsAnError) {
  const Folder folder;
  try {
    const auto none = cache(options(folder.path()));
    FAIL() << "there is no daemon";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find(folder.path()), std::string::npos) << error.what();
  }
}

/// Native mode needs a page for each block; connector mode decodes on without.
TEST_P(Caches, AnArenaThatIsTooSmall) {
  World world = decode_world();
  world.pages = 16;
  Daemon daemon(world);
  const RunOptions run = options(daemon.folder());
  const auto mine = cache(run);
  if (!native()) {
    decode_and_compare(*mine, run);
    EXPECT_LE(mine->counts().blocks_published, 16u);
    return;
  }
  try {
    decode_and_compare(*mine, run);
    FAIL() << "there is no room";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("arena \"default\""), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace kvt::test
