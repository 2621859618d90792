// SPDX-License-Identifier: Apache-2.0
//
// The tiers that follow from a machine's memory: nodes of one kind and one speed are one tier, each GPU's
// memory is a tier and a column of its own, and where all memory is of one kind a part of it stands for HBM.
// Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daemon/topology/calibration.h"
#include "daemon/topology/profile.h"
#include "daemon/topology/topology.h"

namespace kvt {

/// Tiers of an arena. KVT_MAX_TIERS is out of sight here; tests/unit/daemon/keeper/machine_test.cc compares
/// them.
inline constexpr size_t kTiersMax = 8;

struct TierProposal {
  /// "hbm", "dram", "cxl"; with a number where there are several of a kind: "gpu0", "cxl1"
  std::string name;
  MemoryKind kind = MemoryKind::kUnknown;
  std::vector<uint32_t> nodes;  ///< OS indices
  uint64_t bytes = 0;           ///< all of it: what a daemon may take is less
  Figures figures;              ///< of all nodes together, as their consumers see them
  bool emulated = false;        ///< ordinary memory that stands for `kind`
  int32_t column = -1;          ///< the only column that it serves; -1: all
};

/// The published machine that this one is: "gh200" for a Grace CPU with GPU memory as nodes, else nothing.
std::optional<Profile> recognise_profile(const Topology& topology);

/// Completes what is known of each node: measured, then firmware's (there already), then the profile's, then
/// a guess from the node of the same kind whose distance is the nearest. Measured and firmware's are what
/// CPUs see: a GPU's own memory never takes them, and beside GPU memory the profile's count before them.
/// `calibration` and `profile` may be null.
void learn_figures(Topology& topology, const Calibration* calibration, const Profile* profile);

/// What a tier of these nodes can do: the sum of its nodes' figures, each as its own consumers see it, and
/// the longest latency; unknown as soon as one node's is. Host memory by profile is all behind one link: the
/// largest, not a sum.
Figures tier_figures(const Topology& topology, const std::vector<uint32_t>& nodes);

/// Fastest first; at most 8, as an arena has: the slowest are left over and added to topology.unused, but
/// never all that the GPUs share. Columns count GPUs by PCI address. `profile`, for the tier that stands for
/// HBM, may be null.
std::vector<TierProposal> propose_tiers(Topology& topology, const Profile* profile);

}  // namespace kvt
