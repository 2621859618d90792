// SPDX-License-Identifier: Apache-2.0
//
// The paper's policy that knows the next step and moves blocks of 16 tokens. An oracle: it is given the
// trace.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/kvtiersim/model/policy.h"

namespace kvt::sim {

class PageOracle : public Policy {
 public:
  enum class Gate : uint8_t {
    kNone,  ///< every block that the next step reads comes; the longest there of those that it does not read
            ///< goes
    kPays,  ///< a block replaces the least read one where the next step's reads pay for bringing it at once
  };
  /// `block_pages`: pages of a block. `trace` outlives the policy.
  PageOracle(const Trace& trace, uint32_t block_pages, Gate gate);
  void step(const StepView& step, World& world) override;

 private:
  void bring(uint32_t block, World& world);
  void drop(uint32_t block, World& world);
  [[nodiscard]] double cost(uint32_t block, const World& world) const;

  const Trace& trace_;
  uint32_t block_pages_;
  Gate gate_;
  std::vector<uint32_t> next_;      // reads of the next step, by block
  std::vector<uint8_t> in_;         // block is fast
  std::vector<uint32_t> resident_;  // those blocks, the longest there first
  std::vector<uint32_t> candidates_, victims_;
};

}  // namespace kvt::sim
