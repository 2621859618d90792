// SPDX-License-Identifier: Apache-2.0
//
// What a client pays for each call, against a real daemon in another process. Times are per page (or per
// change, or per step): rows count batches with KeepRunningBatch.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tools/bench/daemon_fixture.h"
#include "tools/bench/rows.h"
#include "tools/bench/sequence.h"
#include "tools/bench/session_counters.h"
#include "tools/bench/stopwatch.h"

namespace kvt::bench {
namespace {

/// Pages of one touched range: the blocks of a sequence of 4,096 tokens at 16 a block.
constexpr uint64_t kTouchRun = 256;
/// Four times the magazine: most of a batch has to come from the daemon.
constexpr uint64_t kAllocateBatch = 16384;
constexpr size_t kChangesAtOnce = 1024;
constexpr int kTouchedBatches = 4;
constexpr int kVerifyAttempts = 5;
constexpr auto kChangesTimeout = std::chrono::seconds(60);

int64_t items(const benchmark::State& state) { return static_cast<int64_t>(state.iterations()); }

/// A failed call of the library as a row error with the library's own words.
void succeeded(bool good, const char* call) {
  if (!good) [[unlikely]]
    throw RowError(std::string(call) + ": " + kvt_last_error());
}

// ---- reading ----

void resolve(benchmark::State& state, Host& host) {
  const std::vector<uint64_t>& expected = host.batch_frame_sums();
  const std::vector<kvt_page>& pages = host.visited_handles();
  BatchCursor cursor(pages.size());
  std::vector<kvt_frame> frames(kBatch);
  uint64_t sum = 0;
  uint64_t bad = 0;
  uint64_t batches = 0;
  while (state.KeepRunningBatch(kBatch)) {
    // A step for each batch, as a decode step does it.
    kvt_step step;
    bad |= kvt_step_begin(host.session(), &step) != KVT_OK;
    bad |= kvt_resolve(host.session(), &step, &pages[cursor.next()], kBatch, frames.data()) != int{kBatch};
    for (uint64_t i = 0; i < kBatch; ++i) sum += frames[i];
    bad |= kvt_step_end(host.session(), &step) != KVT_OK;
    ++batches;
  }
  state.SetItemsProcessed(items(state));
  require(bad == 0, "a call failed or a published page was not readable");
  require(sum == sum_of_batches(expected, 0, batches), "the sum of frames is not that of kvt_get_page_info");
}

void step(benchmark::State& state, Host& host) {
  const auto steps = [&host] {
    kvt_stats stats{};
    stats.size = sizeof stats;
    succeeded(kvt_get_stats(host.session(), &stats) == KVT_OK, "kvt_get_stats");
    return stats.steps;
  };
  const uint64_t before = steps();
  int bad = 0;
  for (auto _ : state) {
    kvt_step open;
    bad |= kvt_step_begin(host.session(), &open);
    bad |= kvt_step_end(host.session(), &open);
  }
  state.SetItemsProcessed(items(state));
  require(bad == KVT_OK, "a step did not begin or end");
  require(steps() - before == static_cast<uint64_t>(items(state)),
          "the library counted another number of steps");
}

/// The keys of a batch are looked up and held, timed; compared and released, not timed.
void lookup_hold(benchmark::State& state, Host& host) {
  const std::vector<kvt_page>& expected = host.visited_handles();
  const std::vector<kvt_key>& keys = host.visited_keys();
  BatchCursor cursor(keys.size());
  std::vector<kvt_page> found(kBatch);
  double seconds = 0;
  const auto batch = [&] {
    const uint64_t first = cursor.next();
    const Stopwatch watch;
    const int count = kvt_lookup(host.session(), &keys[first], kBatch, KVT_LOOKUP_HOLD, found.data());
    seconds = watch.seconds();
    succeeded(count >= 0, "kvt_lookup");
    require(count == int{kBatch}, "a key that another process published was not found");
    require(std::memcmp(found.data(), &expected[first], kBatch * sizeof(kvt_page)) == 0,
            "a key gave another page than its publisher reported");
    succeeded(kvt_release(host.session(), found.data(), kBatch, nullptr) == KVT_OK, "kvt_release");
  };
  // Once round, so that the first touch of this session's hold counters is not in it.
  do batch();
  while (cursor.batch() != 0);
  while (state.KeepRunningBatch(kBatch)) {
    batch();
    state.SetIterationTime(seconds);
  }
  state.SetItemsProcessed(items(state));
  state.SetLabel("keys of another process; release not timed");
}

// ---- counting ----

/// Touches every page once: the memory of the counters is there, and the daemon awake, before the time
/// begins.
void touch_all(Host& host) {
  for (const kvt_page page : host.handles())
    succeeded(kvt_touch_range(host.session(), KVT_PAGE_INDEX(page), 1) == KVT_OK, "kvt_touch_range");
}

uint16_t counted(Host& host) {
  kvt_geometry geometry{};
  geometry.size = sizeof geometry;
  succeeded(kvt_get_geometry(host.session(), &geometry) == KVT_OK, "kvt_get_geometry");
  return sum_of_counters(geometry.session_id);
}

void require_touches(Host& host, uint16_t before, uint64_t touches) {
  require(static_cast<uint16_t>(counted(host) - before) == static_cast<uint16_t>(touches),
          "the counters grew by another number than that of the touches");
}

void touch_range(benchmark::State& state, Host& host) {
  touch_all(host);
  const uint64_t last_start = host.pages() - kTouchRun;
  std::vector<uint32_t> starts;
  for (const uint32_t number : host.visited_numbers())
    starts.push_back(static_cast<uint32_t>(std::min(number / kTouchRun * kTouchRun, last_start)));
  const uint16_t before = counted(host);
  size_t next = 0;
  int bad = 0;
  while (state.KeepRunningBatch(kTouchRun)) {
    bad |= kvt_touch_range(host.session(), starts[next], kTouchRun);
    next = next + 1 < starts.size() ? next + 1 : 0;
  }
  state.SetItemsProcessed(items(state));
  state.SetLabel("runs of " + std::to_string(kTouchRun) + " at random places");
  require(bad == KVT_OK, "kvt_touch_range failed");
  require_touches(host, before, static_cast<uint64_t>(items(state)));
}

void touch_random(benchmark::State& state, Host& host) {
  touch_all(host);
  const uint16_t before = counted(host);
  const std::vector<kvt_page>& pages = host.visited_handles();
  BatchCursor cursor(pages.size());
  int bad = 0;
  while (state.KeepRunningBatch(kBatch)) bad |= kvt_touch(host.session(), &pages[cursor.next()], kBatch);
  state.SetItemsProcessed(items(state));
  require(bad >= 0, "kvt_touch failed");
  require_touches(host, before, static_cast<uint64_t>(items(state)));
}

// ---- allocating ----

/// Checks that no page was given out twice, by a bit for each index.
class Distinct {
 public:
  explicit Distinct(uint64_t pages) : taken_(pages) {}
  void check(const std::vector<kvt_page>& given) {
    for (const kvt_page page : given) {
      require(KVT_PAGE_INDEX(page) < taken_.size(), "allocate gave an index outside the arena");
      require(!taken_[KVT_PAGE_INDEX(page)], "allocate gave one page twice");
      taken_[KVT_PAGE_INDEX(page)] = true;
    }
    for (const kvt_page page : given) taken_[KVT_PAGE_INDEX(page)] = false;
  }

 private:
  std::vector<bool> taken_;
};

uint64_t arena_pages(Host& host) {
  kvt_geometry geometry{};
  geometry.size = sizeof geometry;
  succeeded(kvt_get_geometry(host.session(), &geometry) == KVT_OK, "kvt_get_geometry");
  return geometry.pages;
}

void require_fresh(Host& host, kvt_page page) {
  kvt_page_info info{};
  info.size = sizeof info;
  succeeded(kvt_get_page_info(host.session(), KVT_PAGE_INDEX(page), &info) == KVT_OK, "kvt_get_page_info");
  require(info.page == page && info.state == KVT_STATE_FILLING && info.own_holds == 1,
          "an allocated page is not FILLING and held once");
}

void allocate(benchmark::State& state, Host& host) {
  Distinct distinct(arena_pages(host));
  std::vector<kvt_page> pages(kAllocateBatch);
  while (state.KeepRunningBatch(kAllocateBatch)) {
    const Stopwatch allocating;
    for (uint64_t have = 0; have < kAllocateBatch;) {
      const int got = kvt_allocate(host.session(), &pages[have], kAllocateBatch - have);
      succeeded(got > 0, "kvt_allocate");
      have += static_cast<uint64_t>(got);
    }
    const double allocated = allocating.seconds();
    distinct.check(pages);
    require_fresh(host, pages.back());
    const Stopwatch releasing;
    const int released = kvt_release(host.session(), pages.data(), pages.size(), nullptr);
    state.SetIterationTime(allocated + releasing.seconds());
    succeeded(released == KVT_OK, "kvt_release");
  }
  state.SetItemsProcessed(items(state));
  state.SetLabel("batches of " + std::to_string(kAllocateBatch) +
                 ": refill by the daemon and release are in it");
}

void allocate_local(benchmark::State& state, Host& host) {
  kvt_page page = KVT_NO_PAGE;
  succeeded(kvt_allocate(host.session(), &page, 1) == 1, "kvt_allocate");
  succeeded(kvt_release(host.session(), &page, 1, nullptr) == KVT_OK, "kvt_release");
  // The stock is last in, first out: the same page comes back each time, and comparing it is the checksum.
  const kvt_page expected = page;
  uint64_t bad = 0;
  for (auto _ : state) {
    bad |= kvt_allocate(host.session(), &page, 1) != 1;
    bad |= page ^ expected;
    bad |= kvt_release(host.session(), &page, 1, nullptr) != KVT_OK;
  }
  state.SetItemsProcessed(items(state));
  require(bad == 0, "a call failed, or the page released last did not come back first");
  succeeded(kvt_allocate(host.session(), &page, 1) == 1, "kvt_allocate");
  require_fresh(host, page);
  succeeded(kvt_release(host.session(), &page, 1, nullptr) == KVT_OK, "kvt_release");
}

// ---- following moves ----

/// A translated block table of all pages, kept up to date with the change log as an engine does it.
class BlockTable {
 public:
  explicit BlockTable(Host& host)
      : host_(host), changes_(kChangesAtOnce), frames_(arena_pages(host), KVT_NO_FRAME) {
    rebuild();
  }

  /// One step of an engine: applies up to `most` changes, and returns how many there were. `seconds` grows by
  /// the CPU time of this thread: nothing here waits, and on a machine with fewer cores than movers wall time
  /// would count them.
  uint64_t follow(uint64_t most, double& seconds) {
    uint64_t applied = 0;
    const Stopwatch watch(CLOCK_THREAD_CPUTIME_ID);
    kvt_step step;
    succeeded(kvt_step_begin(host_.session(), &step) == KVT_OK, "kvt_step_begin");
    bool overrun = false;
    while (applied < most) {
      const int got = kvt_changes(host_.session(), &step, &cursor_, changes_.data(),
                                  std::min<size_t>(kChangesAtOnce, most - applied));
      if (got == 0) break;
      overrun = got == KVT_E_OVERRUN;
      if (overrun) break;
      succeeded(got > 0, "kvt_changes");
      for (int i = 0; i < got; ++i)
        frames_[changes_[static_cast<size_t>(i)].index] = changes_[static_cast<size_t>(i)].frame;
      applied += static_cast<uint64_t>(got);
    }
    succeeded(kvt_step_end(host_.session(), &step) == KVT_OK, "kvt_step_end");
    if (applied != 0) seconds += watch.seconds();
    if (overrun) rebuild();
    return applied;
  }

  /// The checksum: inside one step, everything that no change names must be where kvt_resolve says.
  void verify() {
    for (int attempt = 0; attempt < kVerifyAttempts; ++attempt) {
      if (try_verify()) return;
      rebuild();
    }
    throw RowError("the change log ran over each time that it was to be compared");
  }

 private:
  /// false: the change log ran over.
  bool try_verify() {
    kvt_step step;
    succeeded(kvt_step_begin(host_.session(), &step) == KVT_OK, "kvt_step_begin");
    const bool overrun = !apply(step, nullptr);
    const std::vector<kvt_page>& pages = host_.visited_handles();
    const size_t checked = std::min<size_t>(pages.size(), size_t{64} * kBatch);
    std::vector<kvt_frame> resolved(checked);
    succeeded(kvt_resolve(host_.session(), &step, pages.data(), checked, resolved.data()) >= 0,
              "kvt_resolve");
    // Moves go on: pages that moved after the table was brought up to date may differ. Their log entries
    // follow the words at once, but the daemon may lose its core between the two.
    std::vector<bool> moved(frames_.size());
    const std::vector<kvt_frame> table = frames_;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const bool overrun_again = !apply(step, &moved);
    succeeded(kvt_step_end(host_.session(), &step) == KVT_OK, "kvt_step_end");
    if (overrun || overrun_again) return false;
    uint64_t compared = 0;
    for (size_t i = 0; i < checked; ++i) {
      const uint32_t index = KVT_PAGE_INDEX(pages[i]);
      if (moved[index]) continue;
      require(table[index] == resolved[i], "the table that follows the change log differs from kvt_resolve");
      ++compared;
    }
    require(compared != 0, "every page moved within 50 ms: nothing could be compared");
    return true;
  }

  /// Applies all changes; false after an overrun.
  bool apply(const kvt_step& step, std::vector<bool>* moved) {
    for (;;) {
      const int got = kvt_changes(host_.session(), &step, &cursor_, changes_.data(), changes_.size());
      if (got == 0) return true;
      if (got == KVT_E_OVERRUN) return false;
      succeeded(got > 0, "kvt_changes");
      for (size_t i = 0; i < static_cast<size_t>(got); ++i) {
        frames_[changes_[i].index] = changes_[i].frame;
        if (moved != nullptr) (*moved)[changes_[i].index] = true;
      }
    }
  }

  void rebuild() {
    kvt_step step;
    succeeded(kvt_step_begin(host_.session(), &step) == KVT_OK, "kvt_step_begin");
    succeeded(kvt_changes_begin(host_.session(), &step, &cursor_) == KVT_OK, "kvt_changes_begin");
    std::vector<kvt_frame> frames(kBatch);
    const std::span<const kvt_page> pages = host_.handles();
    for (size_t first = 0; first < pages.size(); first += kBatch) {
      const size_t n = std::min<size_t>(kBatch, pages.size() - first);
      succeeded(kvt_resolve(host_.session(), &step, &pages[first], n, frames.data()) >= 0, "kvt_resolve");
      for (size_t i = 0; i < n; ++i) frames_[KVT_PAGE_INDEX(pages[first + i])] = frames[i];
    }
    succeeded(kvt_step_end(host_.session(), &step) == KVT_OK, "kvt_step_end");
  }

  Host& host_;
  uint64_t cursor_ = 0;
  std::vector<kvt_change> changes_;
  std::vector<kvt_frame> frames_;
};

void apply_changes(benchmark::State& state, Host& host, uint64_t changes) {
  BlockTable table(host);
  BatchCursor cursor(host.visited_handles().size());
  const auto end = std::chrono::steady_clock::now() + kChangesTimeout;
  while (state.KeepRunningBatch(static_cast<int64_t>(changes))) {
    double seconds = 0;
    for (uint64_t applied = 0; applied < changes;) {
      // Reads of random pages keep the daemon awake, and give the policy pages to move. Then a decode step's
      // worth of moves.
      for (int i = 0; i < kTouchedBatches; ++i)
        succeeded(kvt_touch(host.session(), &host.visited_handles()[cursor.next()], kBatch) >= 0,
                  "kvt_touch");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      applied += table.follow(changes - applied, seconds);
      require(std::chrono::steady_clock::now() < end,
              "the daemon moves too little: not enough changes in 60 s");
    }
    state.SetIterationTime(seconds);
  }
  state.SetItemsProcessed(items(state));
  state.SetLabel("one step every 5 ms, its begin and end included; CPU time of the thread");
  table.verify();
}

}  // namespace

void add_client_rows(RowList& rows, const Sizes& sizes, DaemonFixture& fixture) {
  using RowFunction = void (*)(benchmark::State&, Host&);
  struct Named {
    const char* name;
    RowFunction function;
    Timing timing;
  };
  static constexpr Named kRows[] = {
      {"resolve", resolve, Timing::kThreadCpu},
      {"touch_range", touch_range, Timing::kThreadCpu},
      {"touch_random", touch_random, Timing::kThreadCpu},
      {"lookup_hold", lookup_hold, Timing::kManual},
      {"allocate", allocate, Timing::kManual},
      {"allocate_local", allocate_local, Timing::kThreadCpu},
  };
  for (const uint64_t pages : sizes.pages) {
    for (const Named& row : kRows) {
      rows.add({row.name, pages, still_group(pages), row.timing, 0,
                [&fixture, pages, row](benchmark::State& state) {
                  row.function(state, fixture.host(Traffic::kStill, pages));
                }});
    }
    const uint64_t changes = sizes.changes;
    rows.add({"apply_changes", pages, "churn/" + std::to_string(pages), Timing::kManual,
              static_cast<int64_t>(changes), [&fixture, pages, changes](benchmark::State& state) {
                apply_changes(state, fixture.host(Traffic::kChurn, pages), changes);
              }});
  }
  const uint64_t smallest = sizes.pages.front();
  rows.add(
      {"step", std::nullopt, still_group(smallest), Timing::kThreadCpu, 0,
       [&fixture, smallest](benchmark::State& state) { step(state, fixture.any_still_host(smallest)); }});
}

}  // namespace kvt::bench
