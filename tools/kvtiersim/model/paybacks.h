// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvt::sim {

struct MoveCounts {
  uint64_t promoted_in_read = 0;
  uint64_t promoted_copy = 0;
  uint64_t demoted_free = 0;
  uint64_t demoted_copy = 0;
  uint64_t not_paid_back = 0;  ///< promotions: see Paybacks
  uint64_t lost_by_swap = 0;   ///< the same, stricter
  [[nodiscard]] uint64_t moves() const { return promoted_in_read + promoted_copy + demoted_copy; }
};

/// Whether promotions paid back: one has when the reads that the faster tier served are worth its cost, in
/// reads of the slow one. Settled when the page leaves, or at the end. Stricter, and counted apart: less the
/// reads of the page that it replaced (the demotion before it in the same step) in the same time.
class Paybacks {
 public:
  Paybacks(uint32_t pages, MoveCounts& counts) : promotion_(pages), reads_(pages, 0), counts_(counts) {}
  void read(uint32_t page, double reads) { reads_[page] += reads; }
  void begin_step() {
    left_.clear();
    paired_ = 0;
  }
  void promoted(uint32_t page, double cost) {
    settle(page);
    Promotion& promotion = promotion_[page];
    promotion = {cost, reads_[page], UINT32_MAX, 0};
    if (paired_ == left_.size()) return;
    promotion.replaced = left_[paired_++];
    promotion.replaced_reads = reads_[promotion.replaced];
  }
  void demoted(uint32_t page) {
    settle(page);
    left_.push_back(page);
  }
  void settle(uint32_t page) {
    Promotion& promotion = promotion_[page];
    if (promotion.cost < 0) return;
    const double replaced =
        promotion.replaced == UINT32_MAX ? 0 : reads_[promotion.replaced] - promotion.replaced_reads;
    if (reads_[page] - promotion.reads < promotion.cost) ++counts_.not_paid_back;
    if (reads_[page] - promotion.reads - replaced < promotion.cost) ++counts_.lost_by_swap;
    promotion.cost = -1;
  }
  void settle_all() {
    for (uint32_t page = 0; page < promotion_.size(); ++page) settle(page);
  }

 private:
  struct Promotion {
    double cost = -1;  ///< in reads of the slow tier; below 0: none
    double reads = 0;
    uint32_t replaced = UINT32_MAX;
    double replaced_reads = 0;
  };
  std::vector<Promotion> promotion_;
  std::vector<double> reads_;
  std::vector<uint32_t> left_;
  size_t paired_ = 0;
  MoveCounts& counts_;
};

}  // namespace kvt::sim
