// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/policy/kvtier.h"

#include <algorithm>

namespace kvt::sim {
namespace {

constexpr uint64_t kReserve = 1u << 30;

}  // namespace

Kvtier::Kvtier(const KvtierSettings& settings, double fixed_read_bytes, uint64_t seed)
    : settings_(settings),
      fixed_read_bytes_(fixed_read_bytes),
      random_(seed ^ 0x6b767469657221ull),
      predictor_(settings.predictor) {
  settings_.plan.moves_max = UINT64_MAX;
}

void Kvtier::begin(World& world) {
  measure_ = world.cost() == Cost::kOffers || !settings_.lasting ? policy::Measure::kNext
                                                                 : policy::Measure::kLasting;
  heat_.assign(world.pages(), {});
  for (uint32_t page = 0; page < world.pages(); ++page)
    if (world.exists(page)) heat_[page] = policy::heat_at_birth(0);
  snapshot_.page_bytes = 1;
  for (uint32_t i = 0; i <= world.machine().last(); ++i) {
    policy::TierState tier;
    tier.read_bytes_per_second = world.machine().tiers[i].read_bytes_per_second;
    // Writes of the fast tier share its bandwidth with reads.
    tier.write_bytes_per_second =
        i == 0 ? tier.read_bytes_per_second : world.machine().tiers[i].write_bytes_per_second;
    snapshot_.tiers.push_back(tier);
  }
  for (const Link& link : world.machine().links) snapshot_.links.push_back({link.in_bytes_per_second, 0});
  for (uint32_t i = 0; i <= world.machine().last(); ++i)
    if (const int32_t link = world.machine().tiers[i].link; link >= 0)
      snapshot_.links[static_cast<size_t>(link)].tiers |= 1u << i;
  snapshot_.groups.resize(1);
}

policy::PageSample Kvtier::sample_of(uint32_t page, const World& world) const {
  policy::PageSample sample;
  sample.page = page;
  sample.tier = static_cast<uint8_t>(world.tier(page));
  // The last tier has every page; a middle one has not
  sample.has_shadow = world.machine().tiers.size() == 2;
  return sample;
}

void Kvtier::step(const StepView& step, World& world) {
  const uint32_t period = step.step + 1;
  for (const uint32_t page : step.born) heat_[page] = policy::heat_at_birth(period);
  for (size_t i = 0; i < step.page.size(); ++i) {
    policy::PageHeat& heat = heat_[step.page[i]];
    if (heat.period != period) predictor_.see_read(step.page[i], heat, period);
    policy::add_reads(heat, period, predictor_.shift(), step.reads_of(i));
  }
  if (world.read_bytes() > 0)
    predictor_.see_share(static_cast<float>(1 - world.slow_bytes() / world.read_bytes()), period + 1);
  for (const uint32_t page : step.advised) policy::advise(heat_[page], period);
  drawn_.clear();
  for (uint32_t i = 0; i < settings_.learn_pages; ++i)
    drawn_.push_back(static_cast<uint32_t>(random_.below(heat_.size())));
  predictor_.see_arrivals(arrived_, world.capacity(0));
  predictor_.learn(heat_, drawn_, heat_.size(), period);
  for (const uint32_t page : born_)
    newborn_ +=
        0.05f * ((heat_[page].period == period ? static_cast<float>(heat_[page].reads) : 0) - newborn_);
  born_.assign(step.born.begin(), step.born.end());

  policy::Snapshot& s = snapshot_;
  s.candidates.clear();
  s.stay_periods = static_cast<double>(predictor_.stay());
  const auto add = [&](uint32_t page, float expected) {
    policy::PageSample sample = sample_of(page, world);
    sample.expected = expected;
    sample.in_stay = predictor_.expect_in_stay(heat_[page], period);
    sample.can_offer = world.cost() == Cost::kOffers && world.passes_now(page);
    s.candidates.push_back(sample);
  };
  for (const uint32_t page : step.page)
    if (!world.fast(page)) add(page, predictor_.expect(heat_[page], period, measure_));
  for (const uint32_t page : step.advised)
    if (!world.fast(page) && world.exists(page) && !world.passes_now(page))
      add(page, predictor_.expect_over(heat_[page], period, measure_, settings_.plan.horizon));
  for (const uint32_t page : step.born)
    if (!world.fast(page) && heat_[page].reads == 0) add(page, newborn_);

  s.residents.clear();
  for (uint32_t tier = 0; tier < world.machine().last(); ++tier) {
    const std::vector<uint32_t>& members = world.members(tier);
    if (members.empty()) continue;
    const uint64_t looks = s.candidates.size() * settings_.plan.sample;
    const auto look = [&](uint32_t page) {
      policy::PageSample sample = sample_of(page, world);
      sample.expected = predictor_.expect(heat_[page], period, measure_);
      sample.in_stay = predictor_.expect_in_stay(heat_[page], period);
      s.residents.push_back(sample);
    };
    if (2 * looks >= members.size()) {
      for (const uint32_t page : members) look(page);
    } else {
      for (uint64_t i = 0; i < looks; ++i) look(members[random_.below(members.size())]);
      for (const uint32_t page : cold_)
        if (world.tier(page) == tier) look(page);
    }
  }
  for (uint32_t i = 0; i <= world.machine().last(); ++i) {
    s.tiers[i].frames = world.capacity(i);
    // A frame that is left is free at once here: as if there were as many more in reserve.
    s.tiers[i].reserve_frames = kReserve;
    s.tiers[i].free_frames = std::min(world.room(i), UINT64_MAX / 2) + kReserve;
  }
  s.groups[0].bytes_read.assign(world.traffic().read.begin(),
                                world.traffic().read.begin() + static_cast<std::ptrdiff_t>(s.tiers.size()));
  s.groups[0].fixed_fast_bytes = fixed_read_bytes_;
  const policy::Plan plan = policy::plan(s, settings_.plan);
  if (settings_.see_cold_again) cold_ = plan.cold;
  arrived_ = 0;
  for (const policy::Move& move : plan.moves) {
    arrived_ += move.target_tier == 0 ? 1 : 0;
    world.move(move.page, move.target_tier);
  }
}

}  // namespace kvt::sim
