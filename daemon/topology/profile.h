// SPDX-License-Identifier: Apache-2.0
//
// Machines whose bandwidths are published (sources: docs/architecture.md). Constants; thread-safe.
#pragma once

#include <optional>
#include <string>

namespace kvt {

/// As the machine's GPU sees it, 10^9 bytes a second.
struct ProfileTier {
  double read_gbps;
  double write_gbps;
};

struct Profile {
  const char* name;
  ProfileTier hbm;   ///< the GPU's own memory
  ProfileTier host;  ///< everything behind its link
};

/// none: no such profile.
std::optional<Profile> find_profile(const std::string& name);
/// All of them, quoted, for messages.
std::string profile_names();

}  // namespace kvt
