// SPDX-License-Identifier: Apache-2.0
//
// One pass of the keeper loop over an arena of many sealed pages, of which a share has been touched since the
// pass before: collecting counters, decaying heat, deciding. In this process, with the daemon's own objects;
// CPU time.
#include <algorithm>
#include <memory>
#include <vector>

#include "daemon/keeper/arena.h"
#include "daemon/mover/mover.h"
#include "tools/bench/rows.h"
#include "tools/bench/sequence.h"

namespace kvt::bench {
namespace {

constexpr uint64_t kPageBytes = 16384;
constexpr uint64_t kSparePages = 16384;
constexpr uint64_t kSessionId = uint64_t{1} << 62;  ///< which no daemon has given to this process

template <typename T>
T must(Result<T> result, const char* what) {
  if (!result) throw RowError(std::string(what) + ": " + result.error().text);
  return std::move(*result);
}

/// Pages with the lowest indices that are free again.
uint64_t spare_pages(uint64_t pages) { return std::min(kSparePages, pages / 16); }

/// An arena of `pages` sealed, keyed pages in two tiers, the slow one ten times the fast one, and one
/// session.
class BigArena {
 public:
  explicit BigArena(uint64_t pages) {
    ArenaGeometry geometry;
    geometry.name = "bench";
    geometry.arena_id = 1;
    geometry.page_bytes = kPageBytes;
    geometry.pages = pages + pages / 16 + 8192;  // spare: nothing has to be evicted
    TierWindow fast;
    fast.name = "hbm";
    fast.frames = pages / 10;
    fast.read_bytes_per_second = 3'728'000'000'000;
    TierWindow slow = fast;
    slow.name = "dram";
    slow.frames = geometry.pages;
    slow.read_bytes_per_second = 335'000'000'000;
    geometry.tiers = {fast, slow};
    keeper::ArenaMemory memory;
    const uint64_t bytes = arena_table_bytes(geometry);
    memory.table_fd = must(make_memfd("kvt-bench-table", bytes), "table");
    memory.table_mapping = must(Mapping::map(memory.table_fd, bytes, Access::kReadWrite), "table");
    advise_huge(memory.table_mapping.data(), bytes);
    if (auto filled = populate(memory.table_mapping.data(), bytes); !filled)
      throw RowError("table: " + filled.error().text);  // as by default
    const ArenaWriter table =
        must(ArenaWriter::create(memory.table_mapping.data(), bytes, geometry), "table");
    memory.range = must(AddressRange::reserve(table.range_bytes(), kWindowAlignment), "range");
    for (uint32_t i = 0; i < table.tiers(); ++i) {
      memory.window_fds.push_back(must(make_memfd("kvt-bench-window", table.tier(i).window_bytes), "window"));
      memory.windows.push_back(must(memory.range.map(memory.window_fds.back(), table.tier(i).window_bytes,
                                                     Access::kReadWrite, table.window_offset(i)),
                                    "window"));
    }
    keeper::ArenaSettings settings;
    // Deciding is measured, copying is not: a budget for no page at all.
    settings.move_bytes_per_second = 1;
    settings.jobs_max = 0;
    arena_ = must(keeper::Arena::create(0, std::move(memory), settings), "arena");
    mover_ = must(mover::Mover::start(1), "mover");
    session_ = must(arena_->add_session(kSessionId, 0, 1, true, 0), "session");
    must(arena_->add_member(*session_, 1), "member");
    publish_all(pages);
  }

  void touch(PageIndex page) { kvt::touch(session_->region, page); }
  void pass() { arena_->pass(*mover_, true, 0.01); }
  [[nodiscard]] uint64_t heat_of(PageIndex page) const { return arena_->table().heat(0, page); }

 private:
  /// As the library does it: pop, publish, let go.
  void publish_all(uint64_t pages) {
    SubmissionWriter submissions(session_->region.member(0));
    CompletionReader completions(session_->region.member(0));
    uint64_t done = 0;
    std::vector<Handle> spare;  // freed at the end: the fast tier has its reserve, as in a settled arena
    while (done < pages) {
      uint64_t left = 0;
      const Handle page = magazine_pop(session_->region, left);
      kvt_abi_submission command{};
      command.tag = 0;
      command.parent = UINT64_MAX;
      if (page.none()) {
        command.op = KVT_OP_FLUSH;
      } else if (spare.size() < spare_pages(pages)) {
        spare.push_back(page);
        hold_drop(session_->region, page.index());
        continue;
      } else {
        command.op = KVT_OP_PUBLISH;
        command.page = page.value;
        command.key = {mix(page.index()), 1};
        hold_drop(session_->region, page.index());
        ++done;
      }
      if (!submissions.try_push(command)) {
        arena_->pass(*mover_, false, 0);
        require(submissions.try_push(command), "the keeper does not take commands");
      }
      if (page.none()) arena_->pass(*mover_, false, 0);
    }
    for (const Handle page : spare) {
      kvt_abi_submission command{};
      command.op = KVT_OP_FREE;
      command.page = page.value;
      command.key = {UINT64_MAX, UINT64_MAX};
      command.parent = command.extra = UINT64_MAX;
      while (!submissions.try_push(command)) arena_->pass(*mover_, false, 0);
    }
    arena_->pass(*mover_, false, 0);
    require(arena_->report().keyed >= pages * 9 / 10, "too few pages were published");
  }

  std::unique_ptr<keeper::Arena> arena_;
  std::unique_ptr<mover::Mover> mover_;
  keeper::SessionState* session_ = nullptr;
};

void epoch(benchmark::State& state, BigArena& arena, uint64_t pages, uint64_t percent) {
  // 16 lists of random pages, in turn: what is hot moves on, as in real decoding.
  std::vector<std::vector<PageIndex>> lists(16);
  uint64_t draw = 0;
  for (auto& list : lists)
    for (uint64_t i = 0; i < pages * percent / 100; ++i)
      list.push_back(static_cast<PageIndex>(spare_pages(pages) + mix(++draw) % (pages - spare_pages(pages))));
  // Once untimed: memory of the keeper's own that has never been written is taken from the system then.
  for (const auto& list : lists) {
    for (const PageIndex page : list) arena.touch(page);
    arena.pass();
  }
  size_t next = 0;
  for (auto _ : state) {
    state.PauseTiming();
    for (const PageIndex page : lists[next]) arena.touch(page);
    state.ResumeTiming();
    arena.pass();
    next = (next + 1) % lists.size();
  }
  for (const auto& list : lists)
    for (const PageIndex page : list) require(arena.heat_of(page) != 0, "a touched page stayed cold");
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(pages));
  state.SetLabel("items are pages of the arena, touched or not");
}

}  // namespace

void add_keeper_rows(RowList& rows, const Sizes& sizes) {
  for (const uint64_t pages : sizes.keeper_pages) {
    // Made by the first row of this size.
    const auto arena = std::make_shared<std::unique_ptr<BigArena>>();
    for (const auto& [name, percent] : {std::pair<const char*, uint64_t>{"keeper_epoch_0pct", 0},
                                        {"keeper_epoch_1pct", 1},
                                        {"keeper_epoch_5pct", 5}})
      rows.add({name, pages, "keeper/" + std::to_string(pages), Timing::kProcessCpu, 20,
                [arena, pages, percent = percent](benchmark::State& state) {
                  if (*arena == nullptr) *arena = std::make_unique<BigArena>(pages);
                  epoch(state, **arena, pages, percent);
                }});
  }
}

}  // namespace kvt::bench
