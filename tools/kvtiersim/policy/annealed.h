// SPDX-License-Identifier: Apache-2.0
//
// The paper's near-optimum, SA: a schedule that knows the future, of two numbers that simulated annealing
// tunes for the whole trace. An oracle: it is given the trace. A feasible schedule, so no bound.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "tools/kvtiersim/model/policy.h"

namespace kvt::sim {

struct AnnealedSetting {
  uint32_t window = 8;  ///< steps of look-ahead, 1 to kWindowMax
  uint32_t tenths = 5;  ///< of the candidates, that are promoted: 1 to 10
  static constexpr uint32_t kWindowMax = 64;
};

/// In each step: what is not read within the window leaves the fast tier; of the pages that are read now, are
/// not in the fast tier and are read within the window, the share `tenths` comes that has the largest sum of
/// 1 / offset over the window's reads, as far as there is room.
class Annealed : public Policy {
 public:
  enum class Start : uint8_t {
    kFilled,  ///< the pages of largest sum are there at no cost, as published
    kEmpty,
  };
  /// `trace` outlives the policy.
  Annealed(const Trace& trace, AnnealedSetting setting, Start start);
  void begin(World& world) override;
  void step(const StepView& step, World& world) override;

 private:
  void look(uint32_t step, uint32_t bit);
  [[nodiscard]] float worth(uint32_t page) const;

  const Trace& trace_;
  AnnealedSetting setting_;
  Start start_;
  std::vector<uint64_t> future_;  // bit i: read in the (i + 1)-th step from now
  std::array<std::array<float, 256>, AnnealedSetting::kWindowMax / 8> worth_;
  std::vector<std::pair<float, uint32_t>> candidates_;
};

struct AnnealedSearch {
  AnnealedSetting setting;
  uint32_t evaluated = 0;  ///< settings
};

/// Moves of +-1 or 2 steps, +-1 tenth, or both with probability .4, .4, .2; Metropolis; first temperature
/// such that a usual loss is accepted with probability .8; cooled by .9; ends where that gains less than 0.1
/// percent. A setting is judged on `windows` stretches of the trace, 16 steps to settle and 32 to measure
/// each.
[[nodiscard]] AnnealedSearch anneal(const Trace& trace, const Machine& machine, Cost cost, uint64_t seed,
                                    uint32_t windows = 4);

}  // namespace kvt::sim
