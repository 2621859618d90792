// SPDX-License-Identifier: Apache-2.0
//
// dense, shared, burst: sequences that are on or off, each with a Markov chain of its own.
#include <cmath>
#include <memory>
#include <vector>

#include "tools/kvtiersim/workload/family_makers.h"

namespace kvt::sim {

namespace {

constexpr uint32_t kSequences = 80;
constexpr uint32_t kPagesMin = 20;
constexpr uint32_t kPagesRange = 100;
constexpr double kOnAtFirst = .3;
constexpr double kOnToOff = 1.0 / 40;
constexpr double kOffToOn = 1.0 / 93;
constexpr double kIdleRead = .05;
constexpr double kPrefillRead = .08;

/// With what probability a sequence is read in a step, by its state.
struct Visible {
  double on = 1;
  double off = 0;
};

Visible always(uint32_t) { return {}; }
Visible in_phases(uint32_t step) {
  const uint32_t at = step % 50;
  if (at < 20) return {.on = kIdleRead, .off = 0};
  if (at < 30) return {.on = 1, .off = kPrefillRead};
  return {};
}

struct Sequences {
  std::vector<uint32_t> first;    // [kSequences + 1], pages
  std::vector<uint16_t> readers;  // [kSequences]
  bool readers_vary = false;
  Visible (*visible)(uint32_t step) = always;
};

class SequenceBeliefs final : public Beliefs {
 public:
  explicit SequenceBeliefs(std::shared_ptr<const Sequences> law)
      : law_(std::move(law)),
        on_(kSequences, kOnAtFirst),
        readers_(kSequences, 1),
        next_(law_->first.back()) {
    if (law_->readers_vary) {
      double mean = 1;
      for (int i = 1; i < 6; ++i) mean += 1 - std::pow(i / 6.0, .25);
      readers_.assign(kSequences, mean);
    }
    for (uint32_t s = 0; s < kSequences; ++s) expect(s, law_->visible(0));
  }

  void observe(const StepView& step) override {
    const Visible now = law_->visible(step.step);
    const Visible then = law_->visible(step.step + 1);
    size_t i = 0;
    for (uint32_t s = 0; s < kSequences; ++s) {
      while (i < step.page.size() && step.page[i] < law_->first[s]) ++i;
      const bool read = i < step.page.size() && step.page[i] < law_->first[s + 1];
      if (read) readers_[s] = step.reads_of(i);
      // Bayes, then a step of the chain.
      const double if_on = read ? now.on : 1 - now.on;
      const double if_off = read ? now.off : 1 - now.off;
      const double on = on_[s] * if_on / (on_[s] * if_on + (1 - on_[s]) * if_off);
      on_[s] = on * (1 - kOnToOff) + (1 - on) * kOffToOn;
      expect(s, then);
    }
  }
  [[nodiscard]] std::span<const float> next() const override { return next_; }

 private:
  void expect(uint32_t s, Visible visible) {
    const double reads = (on_[s] * visible.on + (1 - on_[s]) * visible.off) * readers_[s];
    for (uint32_t page = law_->first[s]; page < law_->first[s + 1]; ++page)
      next_[page] = static_cast<float>(reads);
  }

  std::shared_ptr<const Sequences> law_;
  std::vector<double> on_;       // probability, before the next step
  std::vector<double> readers_;  // expected, or as counted
  std::vector<float> next_;
};

Workload make(Random& random, bool readers_vary, Visible (*visible)(uint32_t)) {
  auto law = std::make_shared<Sequences>();
  law->readers_vary = readers_vary;
  law->visible = visible;
  law->first.push_back(0);
  for (uint32_t s = 0; s < kSequences; ++s) {
    law->first.push_back(law->first.back() + kPagesMin + static_cast<uint32_t>(random.below(kPagesRange)));
    law->readers.push_back(
        readers_vary ? static_cast<uint16_t>(1 + std::floor(6 * std::pow(random.uniform(), 4))) : 1);
  }
  std::vector<bool> on(kSequences);
  for (uint32_t s = 0; s < kSequences; ++s) on[s] = random.uniform() < kOnAtFirst;

  Workload workload;
  Trace& trace = workload.trace;
  trace.page_bytes = kFamilyPageBytes;
  trace.pages = law->first.back();
  for (uint32_t n = 0; n < kFamilySteps; ++n) {
    const Visible now = visible(n);
    for (uint32_t s = 0; s < kSequences; ++s) {
      if (n != 0) on[s] = random.uniform() < (on[s] ? 1 - kOnToOff : kOffToOn);
      if (!(random.uniform() < (on[s] ? now.on : now.off))) continue;
      for (uint32_t page = law->first[s]; page < law->first[s + 1]; ++page) {
        trace.page.push_back(page);
        if (readers_vary) trace.reads.push_back(law->readers[s]);
      }
    }
    trace.end_step();
  }
  workload.beliefs = [law = std::shared_ptr<const Sequences>(law)] {
    return std::make_unique<SequenceBeliefs>(law);
  };
  return workload;
}

}  // namespace

Workload make_dense(Random& random) { return make(random, false, always); }
Workload make_shared(Random& random) { return make(random, true, always); }
Workload make_burst(Random& random) { return make(random, false, in_phases); }

}  // namespace kvt::sim
