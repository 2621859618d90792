// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "tools/kvtiersim/model/policy.h"
#include "tools/kvtiersim/policy/exchange.h"

namespace kvt::sim {

/// The ceiling of an online policy on a generated trace: swaps like `reference`, but by the expectation of somebody who knows the
/// generator's law and has seen what all have seen, and with the very coldest victims.
class Bayes final : public Policy {
 public:
  explicit Bayes(std::unique_ptr<Beliefs> beliefs) : beliefs_(std::move(beliefs)) {}
  void step(const StepView& step, World& world) override;

 private:
  std::unique_ptr<Beliefs> beliefs_;
  Exchange exchange_;
};

}  // namespace kvt::sim
