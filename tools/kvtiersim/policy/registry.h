// SPDX-License-Identifier: Apache-2.0
//
// Policies by name. What each is: docs/kvtiersim.md.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tools/kvtiersim/model/machine.h"
#include "tools/kvtiersim/model/policy.h"
#include "tools/kvtiersim/model/trace.h"

namespace kvt::sim {

struct PolicyContext {
  /// Of which only oracles see the trace, and `bayes` the beliefs; has to outlive the policy
  const Workload& workload;
  const Machine& machine;
  Cost cost = Cost::kOffers;
  uint64_t seed = 1;  ///< of a policy's own draws
};

/// Throws std::invalid_argument: no such policy (with the names that there are), or one that this workload
/// does not allow.
[[nodiscard]] std::unique_ptr<Policy> make_policy(const std::string& name, const PolicyContext& context);
[[nodiscard]] std::vector<std::string> policy_names();
/// Those of which `workload` allows a run (`bayes` needs beliefs), without the variants of kvtier that lack a
/// part.
[[nodiscard]] std::vector<std::string> policy_names(const Workload& workload);
/// True for policies that see the future. REQUIRES: a name of policy_names().
[[nodiscard]] bool is_oracle(const std::string& name);

}  // namespace kvt::sim
