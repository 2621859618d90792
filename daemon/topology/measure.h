// SPDX-License-Identifier: Apache-2.0
//
// How fast the memory of each node is for the cores of each package: what `kvtierctl calibrate` runs. It
// allocates on the nodes, starts threads and keeps the machine busy for some seconds; one call at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "daemon/topology/calibration.h"
#include "daemon/topology/topology.h"

namespace kvt {

struct MeasureOptions {
  /// Of each buffer; less where a node has not four times as much free. 0: 256 MiB, or four times the
  /// last-level caches of the package where that is more, and a failure where a node has not that much.
  uint64_t bytes = 0;
  uint32_t repetitions = 5;                          ///< the median counts
  std::vector<uint32_t> nodes;                       ///< OS indices; empty: all with memory
  std::function<void(const std::string&)> progress;  ///< a line before each measurement; may be empty
};

/// Reads (sums of all words), writes (without reading the lines first, where the processor can) and copies
/// from the node to memory near the cores; latency by a chain of dependent loads over random cache lines.
/// kNotFound: a node that is not there; kFull: no memory on it; kPermission: this process may not bind memory
/// to nodes, or not run on a package.
Result<Calibration> measure(const Topology& topology, const MeasureOptions& options);

}  // namespace kvt
