// SPDX-License-Identifier: Apache-2.0
//
// kvtierd's own policy in the simulator: the objects of daemon/policy, fed as the daemon feeds them. What
// differs is said in docs/kvtiersim.md: nothing is limited but by its price, and a new page is a candidate
// (the daemon's begins in a fast tier).
#pragma once

#include <vector>

#include "daemon/policy/policy.h"
#include "daemon/policy/predictor.h"
#include "tools/kvtiersim/model/policy.h"
#include "tools/kvtiersim/model/random.h"

namespace kvt::sim {

struct KvtierSettings {
  policy::Settings plan;
  policy::PredictorSettings predictor;
  uint32_t learn_pages = 256;  ///< random pages that the predictor looks at in each step
  // Parts that can be left out, to see what they are worth:
  bool lasting = true;         ///< copies are paid from Measure::kLasting, not kNext
  bool see_cold_again = true;  ///< pages that were cold in the last plan's sample are in the next one again
};

class Kvtier : public Policy {
 public:
  Kvtier(const KvtierSettings& settings, double fixed_read_bytes, uint64_t seed);
  void begin(World& world) override;
  void step(const StepView& step, World& world) override;

 private:
  [[nodiscard]] policy::PageSample sample_of(uint32_t page, const World& world) const;

  KvtierSettings settings_;
  double fixed_read_bytes_;
  Random random_;
  policy::Predictor predictor_;
  policy::Measure measure_ = policy::Measure::kNext;
  std::vector<policy::PageHeat> heat_;
  policy::Snapshot snapshot_;
  std::vector<uint32_t> drawn_;
  std::vector<uint32_t> cold_;  // residents of the last plan that are to be looked at again
  std::vector<uint32_t> born_;  // in the step before
  uint64_t arrived_ = 0;        // in HBM, in the step before
  float newborn_ = 0;           // reads of a page in the step after its birth
};

}  // namespace kvt::sim
