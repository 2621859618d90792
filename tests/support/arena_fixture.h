// SPDX-License-Identifier: Apache-2.0
//
// An arena in this process, without sockets: memfds, table, windows, keeper::Arena and a Mover, driven by
// hand; and TestSession, which writes a session region the way the library does.
//
// TestArena is the keeper's: one thread. A TestSession is its client's: one thread, another one if the test
// wants. Both use the keeper's own mapping, so that tsan, which keys on addresses, sees every race.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/keeper/arena.h"
#include "daemon/mover/mover.h"

namespace kvt::test {

struct ArenaOptions {
  uint64_t page_bytes = 16384;
  uint32_t columns = 1;
  uint64_t fast_frames = 16;   ///< of each emulated HBM tier; there is one a column
  uint64_t middle_frames = 0;  ///< of a tier between them that every column reads; 0: there is none
  uint64_t slow_frames = 64;   ///< of the tier that every column reads
  uint64_t pages = 0;          ///< 0: as many as new pages can have frames, less the tiers' reserves
  uint64_t fast_bytes_per_second = 3'000'000'000'000;
  uint64_t middle_bytes_per_second = 900'000'000'000;
  uint64_t slow_bytes_per_second = 300'000'000'000;
  /// Policy off; a test that wants moves sets it. No cooldown.
  keeper::ArenaSettings settings = quiet_settings();
  uint32_t copy_workers = 1;

  static keeper::ArenaSettings quiet_settings();
};

class TestSession;

class TestArena {
 public:
  /// Aborts when the memory cannot be had: a test has no other plan.
  explicit TestArena(const ArenaOptions& options = {});
  ~TestArena();

  [[nodiscard]] keeper::Arena& arena() { return *arena_; }
  [[nodiscard]] ArenaWriter& table() { return arena_->table(); }
  [[nodiscard]] mover::Mover& mover() { return *mover_; }
  [[nodiscard]] const ArenaOptions& options() const { return options_; }
  [[nodiscard]] Placement placement(Handle page, uint32_t column = 0) {
    return table().placement(column, page.index());
  }
  [[nodiscard]] Shadow shadow(Handle page, uint32_t column = 0) {
    return table().shadow(column, page.index());
  }
  [[nodiscard]] std::byte* frame_data(Frame frame) {
    return arena_->memory().range.data() + uint64_t{frame} * options_.page_bytes;
  }
  /// Writes into the page's frame what no other page has, and whether a frame has it.
  void fill(Handle page);
  [[nodiscard]] bool is_intact(Handle page, Frame frame);
  /// Index of the slowest tier, which every column reads.
  [[nodiscard]] uint32_t slow_tier() { return table().tiers() - 1; }

  /// A session with one member, on the keeper's thread.
  std::unique_ptr<TestSession> attach(uint32_t column = 0, bool read_write = true, uint64_t guarantee = 0,
                                      uint32_t members_max = 1);
  void end(TestSession& session);
  /// The keeper is gone without a word, and another one takes over what lies in shared memory, from duplicates of the
  /// descriptors. `sessions` are all that go on; of the others nothing is known any more. What it did is returned.
  keeper::Adoption restart(const std::vector<TestSession*>& sessions);
  /// The same, where it may be refused; then the object is good for nothing any more.
  Result<keeper::Adoption> try_restart(const std::vector<TestSession*>& sessions);

  /// Commands are served, magazines filled, limbo drained; no period.
  void pass();
  /// A pass that ends a period (10 ms of it): collects, decides, issues. Copies are left under way.
  void period();
  /// Waits until every copy under way has been done; the completions are returned, not committed.
  std::vector<mover::Job> finish_copies(size_t count);
  /// Takes what has been copied, and commits it.
  size_t commit_done();
  /// A period, and all of its copies to the end.
  void period_and_copies();
  /// Passes until nothing waits any more (for as long as no step is open).
  void settle();

  /// Everything that must hold at any time, of rows, frames, index and counters; empty, or what is wrong.
  [[nodiscard]] std::string inconsistency();

 private:
  ArenaOptions options_;
  std::unique_ptr<keeper::Arena> arena_;
  std::unique_ptr<mover::Mover> mover_;
  uint64_t next_session_ = 1;
};

/// One member's end of a session region.
class TestSession {
 public:
  TestSession(keeper::SessionState& state, uint32_t member, uint64_t pages);
  /// Another keeper has the same region: this is its state.
  void follow(keeper::SessionState& state);

  [[nodiscard]] uint64_t id() const { return id_; }
  [[nodiscard]] keeper::SessionState& state() { return *state_; }
  [[nodiscard]] const SessionRegion& region() const { return region_; }
  [[nodiscard]] kvt_abi_member& member() { return *member_; }
  [[nodiscard]] uint64_t free_count() const;

  /// The next fresh page, held, as kvt_allocate takes it; kNoHandle when the magazine is empty.
  Handle pop() {
    uint64_t left = 0;
    return magazine_pop(region_, left);
  }
  /// Pushes a command; its tag, 0 when the ring is full.
  uint64_t submit(uint32_t op, Handle page, Key key = {}, Handle parent = kNoHandle, uint32_t flags = 0);
  uint64_t submit(kvt_abi_submission command);
  std::optional<kvt_abi_completion> completion() { return completions_.try_pop(); }

  /// hold_add, fence, look: as kvt_hold.
  bool hold(const ArenaTable& table, Handle page);
  HoldDrop release(Handle page) { return hold_drop(region_, page.index()); }
  /// Index, hold, key under the hold: as kvt_lookup with KVT_LOOKUP_HOLD.
  Handle lookup(const ArenaTable& table, Key key, bool keep_hold = true);
  void begin_step(const ArenaTable& table, uint32_t slot = 0) {
    step_publish(member_->slot[slot], table.epoch());
  }
  void end_step(uint32_t slot = 0) { step_clear(member_->slot[slot]); }
  /// As the library does at attach: the daemon makes offers from now on.
  void take_offers() { store_relaxed(region_.header().takes_offers, uint64_t{1}); }
  /// An offer of the page to this session, with its serial, as a step loads them.
  struct SeenOffer {
    Offer offer;
    uint64_t serial = 0;
  };
  [[nodiscard]] std::optional<SeenOffer> offered(const ArenaTable& table, Handle page) const {
    const uint32_t column = state_->geometry.column;
    const Offer offer = table.offer(column, page.index());
    if (!offer.valid() || offer.session_slot() != state_->geometry.slot ||
        offer.generation() != page.generation())
      return std::nullopt;
    return SeenOffer{offer, table.offer_serial(column, page.index())};
  }
  static kvt_abi_submission report_of(Handle page, Frame frame, uint64_t serial);
  void read(Handle page, uint32_t times = 1) {
    for (uint32_t i = 0; i < times; ++i) touch(region_, page.index());
  }

  // ---- with the keeper driven by the same thread ----

  /// Submits, passes, and takes the answer. Aborts when there is none.
  kvt_abi_completion ask(TestArena& arena, uint32_t op, Handle page, Key key = {}, Handle parent = kNoHandle,
                         uint32_t flags = 0);
  kvt_abi_completion ask(TestArena& arena, const kvt_abi_submission& command);
  /// pop(), with a flush when the magazine is empty; kNoHandle when there is no page.
  Handle allocate(TestArena& arena);
  /// An allocated page, its first word written, sealed and published under `key` (held).
  Handle publish_new(TestArena& arena, Key key, Handle parent = kNoHandle);
  /// As kvt_release of a sealed page: drop, and the hint when it was the last hold of an unkeyed one.
  void let_go(TestArena& arena, Handle page);

 private:
  keeper::SessionState* state_;
  uint32_t member_index_ = 0;
  uint64_t id_;
  uint64_t pages_;
  SessionRegion region_;
  kvt_abi_member* member_;
  SubmissionWriter submissions_;
  CompletionReader completions_;
  uint64_t next_tag_ = 1;
};

/// From now on touching these OS pages is a SIGBUS: there is no file behind their addresses.
void spoil(std::byte* data, uint64_t bytes);

inline Key key_of(uint64_t number) { return Key{number * 0x9e3779b97f4a7c15ull + 1, ~number}; }

}  // namespace kvt::test
