// SPDX-License-Identifier: Apache-2.0
//
// Whether moving pages pays, by what became of some of them: a few pages that were promoted and a few that left the
// fast tier for them are watched while they stay where they were moved, and their reads are counted.
//
//   cost    of a promotion, in reads of the page from the slower tier (policy::promotion_cost())
//   saved   reads of a promoted page while it stays: each is one less from the slower tier
//   lost    reads of a page that has left, from where it is now
//
// In bytes of the slower tier's link. At most kWatched of each kind at once, for kPeriodsMost periods: a period looks
// at 64 pages however many there are. What a watched page is read afterwards is not counted.
//
// Not thread-safe.
#pragma once

#include <array>
#include <cstdint>

#include "shm/region/words.h"

namespace kvt::keeper {

class Payback {
 public:
  struct Totals {
    uint64_t promotions = 0;  ///< watched
    uint64_t demotions = 0;
    double cost_bytes = 0;
    double saved_bytes = 0;
    double lost_bytes = 0;
  };

  /// A page has come to lie in `tier`. `cost`: in reads; 0 of a demotion.
  void moved(bool up, uint32_t column, Handle page, uint32_t tier, double cost, uint64_t page_bytes) {
    Kind& kind = kinds_[up ? 1 : 0];
    if (kind.count == kWatched) return;
    kind.watched[kind.count++] = {column, page, tier, 0};
    ++(up ? totals_.promotions : totals_.demotions);
    totals_.cost_bytes += cost * static_cast<double>(page_bytes);
  }

  /// Each period. `reads_of(column, page, tier)` tells how often the page was read in the period; below 0: it does not
  /// lie there any more.
  template <typename ReadsOf>
  void count(uint64_t page_bytes, ReadsOf&& reads_of) {
    for (size_t k = 0; k < kinds_.size(); ++k) {
      Kind& kind = kinds_[k];
      for (size_t i = 0; i < kind.count;) {
        Watched& one = kind.watched[i];
        const int64_t reads = reads_of(one.column, one.page, one.tier);
        if (reads < 0 || ++one.periods > kPeriodsMost) {
          one = kind.watched[--kind.count];
          continue;
        }
        (k == 1 ? totals_.saved_bytes : totals_.lost_bytes) +=
            static_cast<double>(reads) * static_cast<double>(page_bytes);
        ++i;
      }
    }
  }

  [[nodiscard]] const Totals& totals() const { return totals_; }

 private:
  static constexpr size_t kWatched = 32;
  static constexpr uint32_t kPeriodsMost = 4096;
  struct Watched {
    uint32_t column = 0;
    Handle page;
    uint32_t tier = 0;
    uint32_t periods = 0;
  };
  struct Kind {
    std::array<Watched, kWatched> watched{};
    size_t count = 0;
  };
  std::array<Kind, 2> kinds_{};  // those that have left, those that were promoted
  Totals totals_;
};

}  // namespace kvt::keeper
