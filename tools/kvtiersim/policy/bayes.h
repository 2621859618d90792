// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "tools/kvtiersim/model/policy.h"
#include "tools/kvtiersim/policy/exchange.h"

namespace kvt::sim {

/// The ceiling of an online policy on a generated trace: swaps like `reference`, but by the expectation of
/// somebody who knows the generator's law and has seen what all have seen, and with the very coldest victims.
class Bayes final : public Policy {
 public:
  enum class Until : uint8_t {
    kNoGain,    ///< as many swaps as gain more than they cost
    kBalanced,  ///< no more than keep the slow tiers as busy as balances: the better one where demand is steady, as a promotion
                ///< beyond is a write for nothing; the worse one where idle times could prepare for others
  };
  explicit Bayes(std::unique_ptr<Beliefs> beliefs, Until until = Until::kNoGain)
      : beliefs_(std::move(beliefs)), until_(until) {}
  void step(const StepView& step, World& world) override;

 private:
  // A step that the slow tiers end costs more than one that the fast tier does
  static constexpr double kOfBalance = 0.95;
  std::unique_ptr<Beliefs> beliefs_;
  Until until_;
  Exchange exchange_;
};

}  // namespace kvt::sim
