// SPDX-License-Identifier: Apache-2.0
//
// Checksums of an arena's pages, in memory of the daemon's own (a memfd that no client gets, so that a daemon that is
// started again can take it over). A sum belongs to one generation of its page: it needs no clearing. Keeper loop only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shm/base/fence.h"
#include "shm/region/words.h"

namespace kvt::keeper {

class PageSums {
 public:
  /// Bytes of the memory for so many pages. All 0: no sum is known.
  static constexpr uint64_t bytes(uint64_t pages) { return pages * sizeof(Record); }

  PageSums() = default;
  /// `data`: bytes(pages), or null where the arena keeps no sums.
  explicit PageSums(std::byte* data) : records_(reinterpret_cast<Record*>(data)) {}

  [[nodiscard]] bool on() const { return records_ != nullptr; }
  /// 0: not known.
  [[nodiscard]] uint64_t find(Handle page) const {
    const Record& record = records_[page.index()];
    return record.generation == uint64_t{page.generation()} + 1 ? record.sum : 0;
  }
  /// A daemon that is killed in between leaves no sum, rather than a wrong one.
  void set(Handle page, uint64_t sum) {
    Record& record = records_[page.index()];
    store_release(record.generation, uint64_t{0});
    store_release(record.sum, sum);
    store_release(record.generation, uint64_t{page.generation()} + 1);
  }

 private:
  struct Record {
    uint64_t sum;
    uint64_t generation;  // and 1; 0: there is none
  };
  static_assert(sizeof(Record) == 16);
  Record* records_ = nullptr;
};

}  // namespace kvt::keeper
