// SPDX-License-Identifier: Apache-2.0
//
// `kvtierctl topology` and `kvtierctl calibrate`: the machine's memory, which tiers follow from it, and how
// fast it is. They need no daemon: they link daemon/topology itself. No state.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace kvt::ctl {

/// The machine cannot be read or measured. what() names the thing and says what was expected.
class NoTopology : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct TopologyOptions {
  std::string xml;     ///< a file of hwloc's instead of this machine
  std::string fsroot;  ///< a folder with another machine's /sys and /proc
  /// A published machine whose figures fill gaps; empty: only where the machine is recognised
  std::string profile;
  std::string state_dir;  ///< where calibrate keeps its result; looked at for this machine alone
  bool json = false;
};
/// What was found, how each figure is known, and the tiers that follow. Ends with a newline. Throws
/// NoTopology.
std::string topology_report(const TopologyOptions& options);

struct CalibrateOptions {
  std::string state_dir;
  uint64_t bytes = 0;  ///< of each buffer; 0: larger than the caches
  uint32_t repetitions = 5;
  std::vector<uint32_t> nodes;  ///< OS indices; empty: all
  bool keep = true;             ///< write the result into state_dir
  bool json = false;
};
/// Measures, keeps the result, and renders it. `progress` gets a line before each measurement. Throws
/// NoTopology.
std::string calibrate_report(const CalibrateOptions& options,
                             const std::function<void(const std::string&)>& progress);

/// $KVTIER_STATE_DIR, else /var/lib/kvtier.
std::string default_state_dir();

}  // namespace kvt::ctl
