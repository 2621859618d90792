// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/policy/annealed.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>

#include "tools/kvtiersim/model/random.h"

namespace kvt::sim {

Annealed::Annealed(const Trace& trace, AnnealedSetting setting, Start start)
    : trace_(trace), setting_(setting), start_(start), future_(trace.pages, 0) {
  if (setting.window == 0 || setting.window > AnnealedSetting::kWindowMax || setting.tenths == 0 ||
      setting.tenths > 10)
    throw std::invalid_argument("annealed: a window of 1 to 64 steps and 1 to 10 tenths are expected");
  for (size_t byte = 0; byte < worth_.size(); ++byte) {
    for (size_t bits = 0; bits < 256; ++bits) {
      worth_[byte][bits] = 0;
      for (size_t i = 0; i < 8; ++i)
        if ((bits >> i & 1) != 0) worth_[byte][bits] += 1.0F / static_cast<float>(8 * byte + i + 1);
    }
  }
}

void Annealed::look(uint32_t step, uint32_t bit) {
  if (step >= trace_.steps()) return;
  for (const uint32_t page : trace_.step(step).page) future_[page] |= uint64_t{1} << bit;
}

float Annealed::worth(uint32_t page) const {
  float sum = 0;
  for (size_t byte = 0; byte * 8 < setting_.window; ++byte)
    sum += worth_[byte][future_[page] >> (8 * byte) & 255];
  return sum;
}

void Annealed::begin(World& world) {
  for (uint32_t i = 0; i < setting_.window; ++i) look(i, i);
  if (start_ == Start::kEmpty) return;
  candidates_.clear();
  for (uint32_t page = 0; page < world.pages(); ++page)
    if (world.exists(page) && future_[page] != 0) candidates_.emplace_back(-worth(page), page);
  std::sort(candidates_.begin(), candidates_.end());
  for (size_t i = 0; i < candidates_.size() && world.room() > 0; ++i) world.place(candidates_[i].second, 0);
}

void Annealed::step(const StepView& step, World& world) {
  for (uint64_t& bits : future_) bits >>= 1;
  look(step.step + setting_.window, setting_.window - 1);
  const std::vector<uint32_t>& fast = world.members(0);
  for (size_t i = fast.size(); i-- > 0;)
    if (future_[fast[i]] == 0) world.demote(fast[i]);
  candidates_.clear();
  const auto consider = [&](uint32_t page) {
    if (!world.fast(page) && future_[page] != 0) candidates_.emplace_back(-worth(page), page);
  };
  for (const uint32_t page : step.page) consider(page);
  for (const uint32_t page : step.born)
    if (!std::binary_search(step.page.begin(), step.page.end(), page))
      consider(page);  // it passes by, being written
  const size_t count = std::min<size_t>((candidates_.size() * setting_.tenths + 9) / 10, world.room());
  if (count < candidates_.size())
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(count),
                     candidates_.end());
  for (size_t i = 0; i < count; ++i) world.promote(candidates_[i].second);
}

namespace {

constexpr uint32_t kSettle = 16;
constexpr uint32_t kMeasure = 32;

// The steps begin .. begin + kSettle + kMeasure of a trace, and those that the longest window looks ahead to.
Trace stretch(const Trace& trace, uint32_t begin, uint32_t end) {
  Trace part;
  part.name = trace.name;
  part.page_bytes = trace.page_bytes;
  part.pages = trace.pages;
  part.fixed_read_bytes = trace.fixed_read_bytes;
  part.written_bytes = trace.written_bytes;
  for (uint32_t n = begin; n < end; ++n) {
    const StepView step = trace.step(n);
    part.page.insert(part.page.end(), step.page.begin(), step.page.end());
    part.reads.insert(part.reads.end(), step.reads.begin(), step.reads.end());
    part.end_step();
  }
  for (const uint32_t born : trace.born_step) part.born_step.push_back(born > begin ? born - begin : 0);
  part.finish();
  return part;
}

double seconds_of(const Trace& part, const Machine& machine, Cost cost, AnnealedSetting setting) {
  World world(machine, part, cost);
  Annealed policy(part, setting, Annealed::Start::kFilled);
  policy.begin(world);
  double sum = 0;
  for (uint32_t n = 0; n < std::min(part.steps(), kSettle + kMeasure); ++n) {
    const StepView step = part.step(n);
    world.begin_step(step);
    policy.step(step, world);
    const double seconds = world.end_step().seconds;
    if (n >= kSettle || part.steps() <= kSettle) sum += seconds;
  }
  return sum;
}

}  // namespace

AnnealedSearch anneal(const Trace& trace, const Machine& machine, Cost cost, uint64_t seed,
                      uint32_t windows) {
  if (windows == 0) throw std::invalid_argument("anneal: at least one stretch of the trace is expected");
  std::vector<Trace> parts;
  const uint32_t length = kSettle + kMeasure + AnnealedSetting::kWindowMax;
  for (uint32_t i = 0; i < windows; ++i) {
    const uint32_t room = trace.steps() > length ? trace.steps() - length : 0;
    const uint32_t begin =
        windows == 1 ? room / 2 : static_cast<uint32_t>(uint64_t{room} * i / (windows - 1));
    parts.push_back(stretch(trace, begin, std::min(begin + length, trace.steps())));
    if (room == 0) break;  // all there is
  }
  std::map<std::pair<uint32_t, uint32_t>, double> known;
  const auto judge = [&](AnnealedSetting setting) {
    const auto [at, fresh] = known.try_emplace({setting.window, setting.tenths}, 0);
    if (fresh)
      for (const Trace& part : parts) at->second += seconds_of(part, machine, cost, setting);
    return at->second;
  };

  Random random(seed);
  const auto neighbour = [&](AnnealedSetting setting) {
    const double kind = random.uniform();
    if (kind < 0.4 || kind >= 0.8) {
      const auto by = static_cast<int64_t>(1 + random.below(2)) * (random.below(2) == 0 ? 1 : -1);
      setting.window =
          static_cast<uint32_t>(std::clamp<int64_t>(setting.window + by, 1, AnnealedSetting::kWindowMax));
    }
    if (kind >= 0.4) {
      const int64_t by = random.below(2) == 0 ? 1 : -1;
      setting.tenths = static_cast<uint32_t>(std::clamp<int64_t>(setting.tenths + by, 1, 10));
    }
    return setting;
  };

  AnnealedSetting now;
  double energy = judge(now);
  AnnealedSearch found{now, 0};
  double best = energy;
  double losses = 0;
  uint32_t counted = 0;
  for (int i = 0; i < 8; ++i) {
    const double loss = judge(neighbour(now)) - energy;
    if (loss <= 0) continue;
    losses += loss;
    ++counted;
  }
  double temperature = (counted == 0 ? energy * 1e-3 : losses / counted) / -std::log(0.8);
  constexpr int kTries = 10;  // at a temperature
  // Temperatures in a row without a gain that count as the end: it is hot at first
  constexpr int kPatience = 10;
  for (int idle = 0; idle < kPatience; temperature *= 0.9) {
    const double before = best;
    for (int i = 0; i < kTries; ++i) {
      const AnnealedSetting next = neighbour(now);
      const double change = judge(next) - energy;
      if (change > 0 && random.uniform() >= std::exp(-change / temperature)) continue;
      now = next;
      energy += change;
      if (energy < best) {
        best = energy;
        found.setting = now;
      }
    }
    idle = best < before * 0.999 ? 0 : idle + 1;
  }
  found.evaluated = static_cast<uint32_t>(known.size());
  return found;
}

}  // namespace kvt::sim
