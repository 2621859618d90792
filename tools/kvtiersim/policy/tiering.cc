// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/policy/tiering.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace kvt::sim {

void Static::step(const StepView& step, World& world) {
  if (world.room() == 0) return;
  exchange_.run(step, world, INFINITY, INFINITY, [](uint32_t page) { return -static_cast<double>(page); });
}

void RandomReplacement::step(const StepView& step, World& world) {
  const auto take = [&](uint32_t page) {
    if (world.fast(page) || world.capacity() == 0) return;
    if (world.room() == 0) world.demote(world.members(0)[random_.below(world.members(0).size())]);
    world.promote(page);
  };
  for (const uint32_t page : step.page) take(page);
  for (const uint32_t page : step.born) take(page);
}

void Memtis::begin(World& world) { pages_.assign(world.pages(), {}); }

uint32_t Memtis::heat(uint32_t page) const {
  const uint32_t halvings = coolings_ - pages_[page].cooled;
  return halvings < 32 ? pages_[page].heat >> halvings : 0;
}

uint32_t Memtis::bin(uint32_t heat) { return static_cast<uint32_t>(std::bit_width(heat)); }

void Memtis::step(const StepView& step, World& world) {
  if (step.step != 0 && step.step % kCoolingSteps == 0) {
    ++coolings_;
    histogram_[0] += histogram_[1];
    for (uint32_t i = 1; i < kBins; ++i) histogram_[i] = histogram_[i + 1];
    histogram_[kBins] = 0;
  }
  for (size_t i = 0; i < step.page.size(); ++i) {
    const uint32_t page = step.page[i];
    const uint32_t before = heat(page);
    // A page that has cooled out is in bin 0, as is one that was never read: only the latter is not counted
    // yet.
    if (pages_[page].heat != 0) --histogram_[bin(before)];
    pages_[page] = {before + kReadHeat * step.reads_of(i), coolings_};
    ++histogram_[bin(pages_[page].heat)];
  }
  uint32_t hot = kBins + 1;  // lowest bin such that it and all above fit
  uint64_t above = 0;
  while (hot > 1 && above + histogram_[hot - 1] <= world.capacity()) above += histogram_[--hot];
  // A hot page may replace a warm or a cold one, the cold ones first; a warm page replaces nobody.
  exchange_.run(step, world, 1.5, INFINITY, [&](uint32_t page) {
    const uint32_t its = bin(heat(page));
    return its >= hot ? 3.0 : its + 1 == hot ? 1.0 : 0.0;
  });
}

void Colloid::step(const StepView& step, World& world) {
  heat_.observe(step, world);
  const double surplus = world.slow_bytes() - world.machine().balanced_slow_share() * world.read_bytes();
  if (world.room() == 0 && surplus <= 0) return;
  double reads = 0;
  for (size_t i = 0; i < step.page.size(); ++i) reads += step.reads_of(i);
  const double surplus_reads = world.read_bytes() == 0 ? 0 : surplus / world.read_bytes() * reads;
  exchange_.run(step, world, 0, std::max(0.0, surplus_reads), heat_);
}

void Batman::step(const StepView& step, World& world) {
  recency_.observe(step, world);
  if (world.read_bytes() > 0)
    slow_share_ += kTieringRate * (world.slow_bytes() / world.read_bytes() - slow_share_);
  if (world.room() == 0 && slow_share_ < world.machine().balanced_slow_share() + kGuardBand) return;
  exchange_.run(step, world, 0, INFINITY, recency_);
}

}  // namespace kvt::sim
