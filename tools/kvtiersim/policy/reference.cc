// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/policy/reference.h"

namespace kvt::sim {

namespace {

constexpr uint32_t kLearnt = 250;  // pages a step
constexpr float kLearningRate = .05f;
constexpr float kTiny = 1e-3f;     // of |x|^2; x has a constant 1, so this only keeps the form
constexpr uint32_t kVictims = 16;  // of which the coldest is taken
constexpr uint32_t kMeanSteps = 128;

}  // namespace

double swap_gate(const World& world) {
  const Machine& machine = world.machine();
  const double write =
      machine.tiers[machine.last()].read_bytes_per_second / machine.tiers[0].read_bytes_per_second;
  const double gate = (world.cost() == Cost::kOffers ? write : 1 + write) / 4;
  const bool slow_is_idle = world.slow_bytes() < .75 * machine.balanced_slow_share() *
                                                     (world.read_bytes() + world.fixed_read_bytes());
  return slow_is_idle ? std::max(gate, .75) : gate;
}

void Reference::begin(World& world) {
  pages_.assign(world.pages(), {});
  scores_.assign(world.pages(), {});
  reads_now_.assign(world.pages(), 0);
}

float Reference::mean_decay(const Page& page, uint32_t now) const {
  // A running mean of n values counts n/(n+1) of itself in the next: over a gap that telescopes, until the
  // window is full.
  const uint32_t from = page.last - page.born + 1;  // values so far
  const uint32_t to = now - page.born + 1;
  if (from >= kMeanSteps) return mean_decay_.over(to - from);
  const uint32_t young = std::min(to, kMeanSteps);
  return static_cast<float>(from) / static_cast<float>(young) * mean_decay_.over(to - young);
}

Reference::Features Reference::features(const Page& page, uint32_t now) const {
  const uint32_t gap = now - page.last;
  return {1, gap == 0 ? page.reads : 0, page.fast * fast_decay_.over(gap), page.slow * slow_decay_.over(gap),
          page.mean * mean_decay(page, now)};
}

float Reference::predict(const Features& x) const {
  float sum = 0;
  for (size_t i = 0; i < kFeatures; ++i) sum += weights_[i] * x[i];
  return sum;
}

double Reference::score(uint32_t page, uint32_t now) {
  Score& known = scores_[page];
  if (known.made != now + 1)
    known = {now + 1, pages_[page].born == kUnseen ? 0 : predict(features(pages_[page], now))};
  return static_cast<double>(known.value);
}

void Reference::learn(const StepView& step) {
  if (step.step == 0 || seen_.empty()) return;
  for (size_t i = 0; i < step.page.size(); ++i)
    reads_now_[step.page[i]] = static_cast<float>(step.reads_of(i));
  for (uint32_t i = 0; i < kLearnt; ++i) {
    const uint32_t page = seen_[random_.below(seen_.size())];
    const Features x = features(pages_[page], step.step - 1);
    float norm = kTiny;
    for (const float value : x) norm += value * value;
    const float pull = kLearningRate * (reads_now_[page] - predict(x)) / norm;
    for (size_t k = 0; k < kFeatures; ++k) weights_[k] += pull * x[k];
  }
  for (const uint32_t page : step.page) reads_now_[page] = 0;
}

void Reference::observe(const StepView& step) {
  const auto see = [&](uint32_t id) -> Page& {
    Page& page = pages_[id];
    if (page.born == kUnseen) {
      page.born = page.last = step.step;
      seen_.push_back(id);
    }
    return page;
  };
  for (const uint32_t id : step.born) see(id);
  for (size_t i = 0; i < step.page.size(); ++i) {
    Page& page = see(step.page[i]);
    const auto reads = static_cast<float>(step.reads_of(i));
    const uint32_t now = step.step;
    const uint32_t gap = now - page.last;
    const uint32_t values = now - page.born + 1;
    page.fast = page.fast * fast_decay_.over(gap) + reads / 4;
    page.slow = page.slow * slow_decay_.over(gap) + reads / 32;
    page.mean = page.mean * mean_decay(page, now) + reads / static_cast<float>(std::min(values, kMeanSteps));
    page.last = now;
    page.reads = reads;
  }
}

void Reference::step(const StepView& step, World& world) {
  learn(step);
  observe(step);
  const auto its_score = [&](uint32_t page) { return score(page, step.step); };
  exchange_.collect(step, world, its_score);
  std::vector<Exchange::Scored>& candidates = exchange_.candidates();
  std::sort(candidates.begin(), candidates.end(), Exchange::hotter);
  const double gate = swap_gate(world);
  for (const Exchange::Scored& candidate : candidates) {
    if (world.room() != 0) {
      world.promote(candidate.page);
      continue;
    }
    const std::vector<uint32_t>& fast = world.members(0);
    if (fast.empty()) return;
    Exchange::Scored victim{INFINITY, 0};
    for (uint32_t i = 0; i < kVictims; ++i) {
      const uint32_t page = fast[random_.below(fast.size())];
      const Exchange::Scored other{its_score(page), page};
      if (Exchange::colder(other, victim)) victim = other;
    }
    if (!(candidate.score - victim.score > gate)) continue;
    world.demote(victim.page);
    world.promote(candidate.page);
  }
}

}  // namespace kvt::sim
