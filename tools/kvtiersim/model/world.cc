// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/model/world.h"

#include <stdexcept>
#include <string>

namespace kvt::sim {

World::World(const Machine& machine, const Trace& trace, Cost cost)
    : machine_(machine),
      trace_(trace),
      cost_(cost),
      tier_(trace.pages, static_cast<uint8_t>(machine.last())),
      exists_(trace.pages, 0),
      touched_step_(trace.pages, 0),
      slot_(trace.pages, 0),
      members_(machine.tiers.size()),
      used_(machine.tiers.size(), 0),
      paybacks_(trace.pages, counts_) {
  if (machine.tiers.size() < 2 || machine.tiers.size() > kTiersMax)
    throw std::invalid_argument("a machine has 2 to 8 tiers");
  for (uint32_t page = 0; page < trace.pages; ++page) {
    if (!trace.born_step.empty() && trace.born_step[page] != 0) continue;
    exists_[page] = 1;
    slot_[page] = static_cast<uint32_t>(members_[machine.last()].size());
    members_[machine.last()].push_back(page);
    ++used_[machine.last()];
  }
}

double World::promotion_cost(uint32_t page) const {
  const double write =
      machine_.tiers[machine_.last()].read_bytes_per_second / machine_.tiers[0].read_bytes_per_second;
  return passes_now(page) && cost_ == Cost::kOffers ? write : 1 + write;
}

double World::read_bytes() const {
  double sum = 0;
  for (uint32_t i = 0; i <= machine_.last(); ++i) sum += traffic_.read[i];
  return sum;
}
double World::slow_bytes() const { return read_bytes() - traffic_.read[0]; }

void World::set_tier(uint32_t page, uint32_t tier) {
  std::vector<uint32_t>& from = members_[tier_[page]];
  const uint32_t other = from.back();
  from[slot_[page]] = other;
  slot_[other] = slot_[page];
  from.pop_back();
  --used_[tier_[page]];
  tier_[page] = static_cast<uint8_t>(tier);
  slot_[page] = static_cast<uint32_t>(members_[tier].size());
  members_[tier].push_back(page);
  ++used_[tier];
}

void World::move(uint32_t page, uint32_t tier) {
  const auto refuse = [&](const char* why) {
    throw std::logic_error("step " + std::to_string(step_) + ": page " + std::to_string(page) +
                           " cannot go to tier " + std::to_string(tier) + ": " + why);
  };
  if (page >= tier_.size() || tier > machine_.last()) refuse("no such page or tier");
  if (exists_[page] == 0) refuse("it is not born yet");
  const uint32_t from = tier_[page];
  if (from == tier) refuse("it is there");
  if (used_[tier] >= machine_.tiers[tier].capacity_pages) refuse("no room");
  const auto bytes = static_cast<double>(trace_.page_bytes);
  if (tier < from) {
    paybacks_.promoted(page, promotion_cost(page));
    traffic_.written[tier] += bytes;
    if (cost_ == Cost::kOffers && passes_now(page)) {
      traffic_.promoted_in_read += bytes;
      ++counts_.promoted_in_read;
    } else {
      traffic_.copied_out_of[from] += bytes;
      traffic_.promoted_copy += bytes;
      ++counts_.promoted_copy;
    }
  } else {
    paybacks_.demoted(page);
    if (tier == machine_.last()) {
      ++counts_.demoted_free;
    } else {
      traffic_.copied_out_of[from] += bytes;
      traffic_.written[tier] += bytes;
      traffic_.demoted_copy += bytes;
      ++counts_.demoted_copy;
    }
  }
  set_tier(page, tier);
}

void World::begin_step(const StepView& step) {
  step_ = step.step;
  traffic_ = {};
  paybacks_.begin_step();
  const auto bytes = static_cast<double>(trace_.page_bytes);
  const uint32_t last = machine_.last();
  for (const uint32_t page : step.born) {
    exists_[page] = 1;
    touched_step_[page] = step_ + 1;
    slot_[page] = static_cast<uint32_t>(members_[last].size());
    members_[last].push_back(page);
    ++used_[last];
  }
  std::array<uint64_t, kTiersMax> pages{};
  for (size_t i = 0; i < step.page.size(); ++i) {
    const uint32_t page = step.page[i];
    const uint32_t reads = step.reads_of(i);
    touched_step_[page] = step_ + 1;
    paybacks_.read(page, reads);
    pages[tier_[page]] += reads;
  }
  for (uint32_t i = 0; i <= last; ++i) {
    traffic_.read[i] = static_cast<double>(pages[i]) * bytes;
    if (i != last) traffic_.also_in_last += traffic_.read[i];
  }
  hits_ += pages[0];
  traffic_.written[last] += trace_.written_bytes;
}

StepTime World::end_step() { return step_time(machine_, traffic_, trace_.fixed_read_bytes); }

void World::place(uint32_t page, uint32_t tier) {
  if (used_[tier] >= machine_.tiers[tier].capacity_pages) throw std::logic_error("no room to place a page");
  if (tier_[page] != tier) set_tier(page, tier);
}

void World::finish() { paybacks_.settle_all(); }

}  // namespace kvt::sim
