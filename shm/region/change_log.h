// SPDX-License-Identifier: Apache-2.0
//
// The change log: which pages got another placement, in order. The keeper loop appends before it advances the
// epoch that makes the change final; engines apply it to the block table that they keep (DESIGN, "Resolving
// costs moves"). One writer, any number of readers, no waiting.
//
// An entry carries the low 24 bits of its position, so a reader that was overtaken in the middle of a read
// notices.
#pragma once

#include <cstdint>

#include "shm/region/arena_table.h"

namespace kvt {

class ChangeLog {
 public:
  ChangeLog() = default;
  explicit ChangeLog(const ArenaTable& table)
      : tail_(const_cast<uint64_t*>(&table.header().log_tail)),
        entries_(reinterpret_cast<uint64_t*>(table.data() + table.header().log_offset)) {}

  static constexpr uint64_t kCapacity = KVT_LOG_ENTRIES;

  /// Position behind the last entry. Load it inside a step, after the begin fence.
  [[nodiscard]] uint64_t tail() const { return load_acquire(*tail_); }

  /// REQUIRES: the caller is the keeper loop.
  void append(uint32_t column, PageIndex page) {
    const uint64_t position = load_relaxed(*tail_);
    store_release(entries_[position % kCapacity], encode(position, column, page));
    store_release(*tail_, position + 1);
  }

  /// Everybody resolves all pages again: a daemon that was killed may have stored a placement and not logged it.
  /// REQUIRES: the caller is the keeper loop, before it advances the epoch.
  void overrun_all() { store_release(*tail_, load_relaxed(*tail_) + kCapacity + 1); }

  enum class Read { kEntry, kOverrun };
  struct Entry {
    PageIndex page;
    uint32_t column;
  };
  /// The entry at `position`, which is below tail(). kOverrun: it has been overwritten; resolve everything
  /// again.
  Read read(uint64_t position, Entry& entry) const {
    const uint64_t word = load_acquire(entries_[position % kCapacity]);
    if ((word >> 40) != (position & 0xffffff)) return Read::kOverrun;
    entry.page = static_cast<PageIndex>(word);
    entry.column = static_cast<uint32_t>(word >> 32) & 0xff;
    return Read::kEntry;
  }

 private:
  static constexpr uint64_t encode(uint64_t position, uint32_t column, PageIndex page) {
    return ((position & 0xffffff) << 40) | (static_cast<uint64_t>(column) << 32) | page;
  }

  uint64_t* tail_ = nullptr;
  uint64_t* entries_ = nullptr;
};
// The 24 bits repeat after 2^24 entries; tail() - position > kCapacity is an overrun before that matters.
static_assert(KVT_LOG_ENTRIES < (1u << 24));

}  // namespace kvt
