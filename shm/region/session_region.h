// SPDX-License-Identifier: Apache-2.0
//
// The session region: everything that one session writes, and so everything that it could leak. When the
// session ends, the daemon drops the region and every claim in it is gone.
//
// SessionRegion is a view of pointers; both sides use it. The daemon takes geometry from its own record,
// never from the header in the region, and treats every value as Untrusted.
#pragma once

#include <cstdint>

#include "shm/abi/layout.h"
#include "shm/base/fence.h"
#include "shm/base/mapping.h"
#include "shm/base/result.h"
#include "shm/region/words.h"

namespace kvt {

struct SessionGeometry {
  uint64_t session_id = 0;
  uint64_t arena_id = 0;
  uint64_t pages = 0;
  uint32_t slot = 0;
  uint32_t members_max = 1;
  uint32_t column = 0;
  uint32_t access = 2;
};

uint64_t session_region_bytes(const SessionGeometry& geometry);

class SessionRegion {
 public:
  SessionRegion() = default;
  /// Writes the header into zeroed memory. The daemon.
  static SessionRegion create(std::byte* data, const SessionGeometry& geometry);
  /// The daemon's view: geometry from its own record.
  static SessionRegion view(std::byte* data, const SessionGeometry& geometry);
  /// A client's view, after checking the header against the size of the file.
  static Result<SessionRegion> open(std::byte* data, uint64_t bytes, SessionGeometry& geometry);

  [[nodiscard]] kvt_abi_session_header& header() const { return *header_; }
  [[nodiscard]] kvt_abi_member& member(uint32_t index) const { return members_[index]; }
  [[nodiscard]] kvt_abi_counter* counters() const { return counters_; }
  [[nodiscard]] uint64_t* touched() const { return touched_; }
  [[nodiscard]] uint16_t* holds() const { return holds_; }
  [[nodiscard]] uint64_t* held() const { return held_; }
  [[nodiscard]] uint64_t* magazine() const { return magazine_; }
  [[nodiscard]] uint64_t summary_words() const { return summary_words_; }
  [[nodiscard]] uint64_t pages() const { return pages_; }

 private:
  kvt_abi_session_header* header_ = nullptr;
  kvt_abi_member* members_ = nullptr;
  kvt_abi_counter* counters_ = nullptr;
  uint64_t* touched_ = nullptr;
  uint16_t* holds_ = nullptr;
  uint64_t* held_ = nullptr;
  uint64_t* magazine_ = nullptr;
  uint64_t summary_words_ = 0;
  uint64_t pages_ = 0;
};

// ---- steps (DESIGN "Step", PROTOCOL A5, A8, B1, B6) ----

/// Publishes `epoch` as this step's and orders it before every load of the step. The epoch is loaded before:
/// a stale one is smaller and only delays reuse. Client.
inline void step_publish(kvt_abi_step_slot& slot, uint64_t epoch) {
  store_relaxed(slot.epoch, epoch);
  full_fence();
}
/// Ends the step: release, so that no load of the step passes it (PROTOCOL B1). Client (a GPU stream stores the same 0).
inline void step_clear(kvt_abi_step_slot& slot) { store_release(slot.epoch, uint64_t{0}); }

/// The smallest non-zero epoch that a member has open, or UINT64_MAX. Frames with R < this are free of it.
/// Daemon, behind the fence of advance_epoch().
uint64_t oldest_open_step(const kvt_abi_member& member);

// ---- holds (PROTOCOL A7, B1, C5) ----

enum class HoldAdd : uint8_t { kAdded, kSaturated };
/// Adds one hold and sets the summary bit. The caller fences and then looks at the row again. Client.
inline HoldAdd hold_add(const SessionRegion& region, PageIndex page) {
  std::atomic_ref<uint16_t> count(region.holds()[page]);
  if (count.fetch_add(1, std::memory_order_relaxed) >= KVT_MAX_HOLDS) {
    count.fetch_sub(1, std::memory_order_release);
    return HoldAdd::kSaturated;
  }
  const uint64_t bit = uint64_t{1} << ((page / KVT_SUMMARY_PAGES) % 64);
  std::atomic_ref<uint64_t> summary(region.held()[page / KVT_SUMMARY_PAGES / 64]);
  if ((summary.load(std::memory_order_relaxed) & bit) == 0) summary.fetch_or(bit, std::memory_order_relaxed);
  return HoldAdd::kAdded;
}
enum class HoldDrop : uint8_t { kStillHeld, kLast, kNotHeld };
/// Takes one hold back, with release: reads under the hold stay before it. Never below zero. Client.
HoldDrop hold_drop(const SessionRegion& region, PageIndex page);
/// Non-zero = held. Daemon: acquire.
inline bool held(const SessionRegion& region, PageIndex page) {
  return load_acquire(region.holds()[page]) != 0;
}

// ---- access counters (PROTOCOL C7) ----

/// Counts reads, at most KVT_MAX_READS_PERIOD; racing increments may be lost. The summary bit is tested first: a
/// touch lost in that race with the daemon's exchange is statistics. Client.
inline void touch(const SessionRegion& region, PageIndex page, uint32_t reads = 1) {
  const uint32_t capped = reads < KVT_MAX_READS_PERIOD ? reads : KVT_MAX_READS_PERIOD;
  std::atomic_ref<uint16_t> count(region.counters()[page].count);
  count.store(static_cast<uint16_t>(count.load(std::memory_order_relaxed) + capped),
              std::memory_order_relaxed);
  const uint64_t bit = uint64_t{1} << ((page / KVT_SUMMARY_PAGES) % 64);
  std::atomic_ref<uint64_t> summary(region.touched()[page / KVT_SUMMARY_PAGES / 64]);
  if ((summary.load(std::memory_order_relaxed) & bit) == 0) summary.fetch_or(bit, std::memory_order_release);
}
/// The same for pages first .. first+count-1. REQUIRES: they exist.
void touch_range(const SessionRegion& region, PageIndex first, uint32_t count);

namespace region_detail {
/// Which of a group's 64 pages were read since the last look: pages 0, 2, 4 .. in the low half of the result,
/// 1, 3, 5 .. in the high half. Two counters a load and no branch: which of them were read is random.
inline uint64_t read_since(const kvt_abi_counter* group) {
  static_assert(KVT_SUMMARY_PAGES == 64 && sizeof(kvt_abi_counter) == 4);
  constexpr uint64_t kLow = 0x0000ffff0000ffff;
  const auto* const pairs = reinterpret_cast<const uint64_t*>(group);
  uint64_t mask = 0;
#pragma GCC unroll 32
  for (uint32_t i = 0; i < 32; ++i) {
    const uint64_t pair = load_relaxed(pairs[i]);
    const uint64_t difference = (pair ^ (pair >> 16)) & kLow;           // count against seen
    const uint64_t carries = (difference + kLow) & 0x0001000000010000;  // where it is not 0
    mask |= i < 16 ? carries >> (16 - i) : carries << (i - 16);
  }
  return mask;
}
}  // namespace region_detail

/// How much one look at a client's counts may take, and where it goes on: what is left out is there the next time. A page
/// that was read costs 1, a group of counters that has to be looked at kGroupCost, whatever a client says of it.
struct ReadsCursor {
  static constexpr uint64_t kGroupCost = 8;
  uint64_t word = 0;  ///< of the summary, to begin with
  uint64_t budget = UINT64_MAX;
  void spend(uint64_t cost) { budget -= cost < budget ? cost : budget; }
  void next_of(uint64_t words) { word = word + 1 < words ? word + 1 : 0; }
};

/// Calls `visit(page, reads)` for every page that was touched since the last call, and takes the counts.
/// Reads only what the summary bitmap names. `reads` is capped at KVT_MAX_READS_PERIOD. The budget ends it between two words
/// of the summary: it may take one word's cost (KVT_SUMMARY_PAGES * 64 pages) more. Daemon.
template <typename Visit>
void collect_counters(const SessionRegion& region, uint64_t pages, ReadsCursor& cursor, Visit&& visit) {
  constexpr uint32_t kAhead = 3;  // groups of four lines that are on their way
  kvt_abi_counter* const counters = region.counters();
  // Always inline: as ArenaTable::prefetch_placement.
  const auto prefetch = [&](uint64_t group) __attribute__((always_inline)) {
    for (uint32_t line = 0; line < 4; ++line)
      __builtin_prefetch(&counters[group * KVT_SUMMARY_PAGES + line * 16], 1);
  };
  const uint64_t words = region.summary_words();
  if (cursor.word >= words) cursor.word = 0;
  for (uint64_t looked = 0; looked < words && cursor.budget != 0; ++looked, cursor.next_of(words)) {
    const uint64_t word = cursor.word;
    std::atomic_ref<uint64_t> summary(region.touched()[word]);
    if (summary.load(std::memory_order_relaxed) == 0) continue;
    uint64_t bits = summary.exchange(0, std::memory_order_acquire);
    uint64_t coming = bits;
    const auto prefetch_next = [&] {
      if (coming == 0) return;
      prefetch(word * 64 + static_cast<uint64_t>(__builtin_ctzll(coming)));
      coming &= coming - 1;
    };
    for (uint32_t i = 0; i < kAhead; ++i) prefetch_next();
    for (; bits != 0; bits &= bits - 1) {
      prefetch_next();
      const uint64_t first = (word * 64 + static_cast<uint64_t>(__builtin_ctzll(bits))) * KVT_SUMMARY_PAGES;
      if (first >= pages) break;
      uint64_t mask = region_detail::read_since(&counters[first]);
      cursor.spend(ReadsCursor::kGroupCost + static_cast<uint64_t>(__builtin_popcountll(mask)));
      for (; mask != 0; mask &= mask - 1) {
        const auto at = static_cast<uint32_t>(__builtin_ctzll(mask));
        const uint64_t page = first + (at % 32) * 2 + at / 32;
        if (page >= pages) continue;
        // `seen` is stored alone, so that a racing increment of `count` is not overwritten.
        kvt_abi_counter& counter = counters[page];
        const uint16_t count = load_relaxed(counter.count);
        const auto reads = static_cast<uint16_t>(count - load_relaxed(counter.seen));
        store_relaxed(counter.seen, count);
        if (reads != 0)
          visit(static_cast<PageIndex>(page),
                reads < KVT_MAX_READS_PERIOD ? uint32_t{reads} : uint32_t{KVT_MAX_READS_PERIOD});
      }
    }
  }
}
/// Whether any summary bit is set: is there work for collect_counters? Daemon.
bool any_touched(const SessionRegion& region);

/// Calls `visit(page, reads)` for every page of every touched sequence of a member. All bounds are checked:
/// at most KVT_SEQUENCE_POOL visits a call, and the budget ends it between two words of the summary. Daemon.
template <typename Visit>
void collect_sequences(kvt_abi_member& member, uint64_t pages, ReadsCursor& cursor, Visit&& visit) {
  constexpr uint64_t kWords = KVT_SEQUENCES / 64;
  uint64_t visits = 0;
  if (cursor.word >= kWords) cursor.word = 0;
  for (uint64_t looked = 0; looked < kWords && cursor.budget != 0; ++looked, cursor.next_of(kWords)) {
    const uint64_t word = cursor.word;
    std::atomic_ref<uint64_t> summary(member.sequences_touched[word]);
    if (summary.load(std::memory_order_relaxed) == 0) continue;
    uint64_t bits = summary.exchange(0, std::memory_order_acquire);
    while (bits != 0) {
      const auto bit = static_cast<uint32_t>(__builtin_ctzll(bits));
      bits &= bits - 1;
      cursor.spend(1);
      kvt_abi_sequence& sequence = member.sequence[word * 64 + bit];
      const uint32_t count = load_relaxed(sequence.count);
      const uint32_t reads = count - load_relaxed(sequence.seen);
      store_relaxed(sequence.seen, count);
      const uint32_t first = load_relaxed(sequence.first);
      const uint32_t length = load_acquire(sequence.length);
      if (reads == 0 || first >= KVT_SEQUENCE_POOL || length > KVT_SEQUENCE_POOL - first) continue;
      cursor.spend(length);
      for (uint32_t i = 0; i < length && visits < KVT_SEQUENCE_POOL; ++i, ++visits) {
        const uint32_t page = load_relaxed(member.sequence_pool[first + i]);
        if (page < pages) visit(page, reads < KVT_MAX_READS_PERIOD ? reads : KVT_MAX_READS_PERIOD);
      }
    }
  }
}
bool any_sequence_touched(const kvt_abi_member& member);

}  // namespace kvt
