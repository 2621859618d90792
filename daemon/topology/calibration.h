// SPDX-License-Identifier: Apache-2.0
//
// What `kvtierctl calibrate` has measured on this machine, and the file that keeps it. A value; the file is
// replaced as a whole, so a reader sees the old one or the new one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/topology/topology.h"
#include "shm/base/result.h"

namespace kvt {

/// One node's memory as one consumer's cores see it. 10^9 bytes a second and nanoseconds; medians.
struct NodeSpeed {
  uint32_t package = 0;  ///< OS index of the consumer: a CPU package
  uint32_t node = 0;
  uint32_t threads = 1;  ///< cores that worked at once: all of the package, or one
  double read_gbs = 0;
  double write_gbs = 0;
  double copy_gbs = 0;    ///< bytes copied a second from the node to memory near the consumer
  double latency_ns = 0;  ///< of a dependent load; measured with one thread
  double spread = 0;      ///< (largest - smallest) / median of the read bandwidth
};

struct Calibration {
  std::string machine;      ///< fingerprint_of() the topology it was measured on
  std::string measured_at;  ///< UTC, "2026-11-26T17:30:00Z"
  std::vector<NodeSpeed> speeds;

  /// The highest bandwidths and the lowest latency that any consumer sees of the node; nothing: not measured.
  [[nodiscard]] std::optional<NodeSpeed> best_of(uint32_t node) const;
};

/// Says whether two topologies are of the same machine: its processor, its nodes and their CPUs. Sizes change
/// a little with each kernel.
std::string fingerprint_of(const Topology& topology);

/// "/var/lib/kvtier/calibration.json", or in another folder.
std::string calibration_path(const std::string& state_dir);

/// kNotFound: there is no file; kInvalid: the file makes no sense (file and what was expected); kMismatch:
/// measured on another machine.
Result<Calibration> load_calibration(const std::string& path, const Topology& topology);
/// Makes the file's folder when its parent is there.
Result<void> save_calibration(const std::string& path, const Calibration& calibration);

}  // namespace kvt
