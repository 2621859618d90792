// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "tools/kvtiersim/model/policy.h"
#include "tools/kvtiersim/policy/exchange.h"

namespace kvt::sim {

/// Belady's rule with bypass, an oracle: a page that passes by stays where it is read again sooner than
/// another. The most hits where each read counts one; it knows nothing of costs.
class Belady final : public Policy {
 public:
  explicit Belady(const Trace& trace);
  void step(const StepView& step, World& world) override;

 private:
  static constexpr uint32_t kNever = UINT32_MAX;

  const Trace& trace_;
  std::vector<uint32_t> next_of_;  // parallel to Trace::page: the page's next step after this one
  std::vector<uint32_t> next_;     // [pages]
  Exchange exchange_;
};

}  // namespace kvt::sim
