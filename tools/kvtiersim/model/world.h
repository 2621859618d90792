// SPDX-License-Identifier: Apache-2.0
//
// Where the pages are, while a policy moves them, and what that costs. It keeps the books and enforces the
// rules: a policy that breaks one (no room, no such page, a page that is not born) gets std::logic_error.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/kvtiersim/model/machine.h"
#include "tools/kvtiersim/model/paybacks.h"
#include "tools/kvtiersim/model/trace.h"

namespace kvt::sim {

class World {
 public:
  /// All pages are in the last tier.
  World(const Machine& machine, const Trace& trace, Cost cost);

  // ---- for policies ----

  [[nodiscard]] uint32_t tier(uint32_t page) const { return tier_[page]; }
  [[nodiscard]] bool fast(uint32_t page) const { return tier_[page] == 0; }
  [[nodiscard]] uint64_t capacity(uint32_t tier = 0) const { return machine_.tiers[tier].capacity_pages; }
  [[nodiscard]] uint64_t used(uint32_t tier = 0) const { return used_[tier]; }
  [[nodiscard]] uint64_t room(uint32_t tier = 0) const { return capacity(tier) - used_[tier]; }
  [[nodiscard]] const Machine& machine() const { return machine_; }
  [[nodiscard]] Cost cost() const { return cost_; }
  [[nodiscard]] uint32_t pages() const { return static_cast<uint32_t>(tier_.size()); }
  [[nodiscard]] bool exists(uint32_t page) const { return exists_[page] != 0; }
  /// Pages of a tier in an order that moves shuffle: for random samples. O(1) a move.
  [[nodiscard]] const std::vector<uint32_t>& members(uint32_t tier) const { return members_[tier]; }
  /// Reads or writes of this step's new tokens pass by anyway: a promotion now costs one write
  /// (Cost::kOffers).
  [[nodiscard]] bool passes_now(uint32_t page) const { return touched_step_[page] == step_ + 1; }
  /// What a promotion of the page would cost now, in reads of one page from the last tier.
  [[nodiscard]] double promotion_cost(uint32_t page) const;
  /// Bytes that this step read from tiers other than the fastest.
  [[nodiscard]] double slow_bytes() const;
  [[nodiscard]] double read_bytes() const;
  /// Bytes that each step reads from the fastest tier beside pages: weights.
  [[nodiscard]] double fixed_read_bytes() const { return trace_.fixed_read_bytes; }
  [[nodiscard]] double page_bytes() const { return static_cast<double>(trace_.page_bytes); }

  /// Moves the page, charged to this step.
  void move(uint32_t page, uint32_t tier);
  void promote(uint32_t page) { move(page, 0); }
  void demote(uint32_t page) { move(page, machine_.last()); }

  // ---- for simulate() ----

  /// Serves the reads of a step; born pages come to be, in the last tier.
  void begin_step(const StepView& step);
  /// Its time, migrations included.
  StepTime end_step();
  [[nodiscard]] const Traffic& traffic() const { return traffic_; }
  /// Places a page at no cost, before the first step.
  void place(uint32_t page, uint32_t tier);
  /// Settles which promotions have paid back.
  void finish();
  [[nodiscard]] const MoveCounts& counts() const { return counts_; }
  [[nodiscard]] uint64_t hits() const { return hits_; }

 private:
  void set_tier(uint32_t page, uint32_t tier);

  const Machine& machine_;
  const Trace& trace_;
  Cost cost_;
  uint32_t step_ = 0;
  Traffic traffic_;
  MoveCounts counts_;
  uint64_t hits_ = 0;
  std::vector<uint8_t> tier_;
  std::vector<uint8_t> exists_;
  std::vector<uint32_t> touched_step_;  // step + 1 in which it was last read or born
  std::vector<uint32_t> slot_;          // position in members_
  std::vector<std::vector<uint32_t>> members_;
  std::vector<uint64_t> used_;
  Paybacks paybacks_;
};

}  // namespace kvt::sim
