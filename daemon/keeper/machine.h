// SPDX-License-Identifier: Apache-2.0
//
// The configuration's tiers on this machine: which nodes, how many bytes, what kind of OS pages, how fast and
// how that is known. Made once at start, before any memory is taken; a value.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/config/config.h"
#include "daemon/tier/backend.h"
#include "daemon/tier/gpus.h"
#include "daemon/topology/tiers.h"
#include "daemon/topology/topology.h"

namespace kvt::keeper {

struct TierOnMachine {
  MemoryKind kind = MemoryKind::kUnknown;  ///< what it stands for; of an emulated tier HBM
  bool emulated = false;
  std::vector<tier::NodePart> parts;  ///< whose memory; empty: any node's
  std::vector<uint32_t>
      gone;  ///< nodes of an adopted tier that have no memory any more, or are not to be used
  OsPages pages = OsPages::kUsual;
  std::string pages_note;  ///< "huge pages of 2 MiB (hugetlb)", or why there are none
  Figure read_gbs;         ///< what placement reckons with, 10^9 bytes a second
  Figure write_gbs;
  std::string figures_from;  ///< "configuration", "measured", "hmat", "profile gh200", "guessed"
  Figures measured;          ///< of its memory, by kvtierctl calibrate; unknown where it was not measured
  ProfileTier profile{};     ///< what the profile says of such a tier
  std::optional<tier::GpuMemory> gpu;  ///< whose memory it is, of kind "cuda", or whose driver allocates it
  bool gpu_host = false;               ///< it is host memory, of the one node in `parts`
  tier::GpuFigures gpu_figures;        ///< as measured at this start; zeros: not

  /// Whose memory it has, or had.
  [[nodiscard]] std::vector<uint32_t> all_nodes() const {
    std::vector<uint32_t> nodes = gone;
    for (const tier::NodePart& part : parts) nodes.push_back(part.node);
    return nodes;
  }
};

struct Machine {
  Config config;                     ///< with all tiers listed, their bytes and bandwidths numbers
  std::vector<TierOnMachine> tiers;  ///< one for each of config.tiers
  std::vector<std::string> notes;    ///< for the log: what was decided otherwise than one may expect
  std::map<std::string, std::string> left_out;  ///< tiers that are configured and not there, and why
  std::string lack;  ///< of memory, beside arenas that are there and go on; empty: there is enough
  std::shared_ptr<tier::Gpus> gpus;  ///< null where no tier is a GPU's memory
  size_t nodes = 0;                  ///< that it has
  std::string cuda_text;             ///< the driver, or why there is none; empty where nobody asked
};

/// An arena that an earlier daemon has made and this one takes over, as its table says.
struct AdoptedArena {
  ArenaConfig arena;                ///< its bytes are its windows'
  std::vector<TierConfig> windows;  ///< by tier: name, kind, column, figures, and the window's bytes
};

/// Whether one GPU's copies may read another's memory: the driver says that they can, and nobody has forbidden it (cuda.peers).
bool are_peers(const Machine& machine, int ordinal, int peer);
/// Names of the tiers of other GPUs whose memory this tier's GPU reads: pages that lie there are copied from there. None for
/// host memory.
std::vector<std::string> peers_of(const Machine& machine, size_t tier);

/// What the profile says of a tier that is, or stands for, this kind of memory.
ProfileTier profile_of(MemoryKind kind, const PolicyConfig& policy);
/// The kind that a tier's configuration names: of "emulated-hbm" HBM, of "numa" none.
MemoryKind named_kind(const TierConfig& tier);

/// Makes the tiers concrete and refuses what this machine cannot hold. `calibration` may be null. Errors name
/// the tier: kNotFound (node, kind, or node that this process may not use), kFull (not so much memory),
/// kInvalid (shares that give nothing, more than the limits). Looks at free memory now; takes none.
/// kMismatch: a GPU that cannot be a tier.
/// `gpus` is null where there are none, then `no_gpus` says why.
/// `adopted` is there already: nothing is looked for that it has, and tiers and arenas that only it has come last. Beside
/// it a lack of memory is a note: what is there goes on, and new arenas find out for themselves.
Result<Machine> plan_machine(const Config& config, Topology topology, const Calibration* calibration,
                             std::shared_ptr<tier::Gpus> gpus = nullptr, const std::string& no_gpus = "",
                             const std::vector<AdoptedArena>& adopted = {});

/// plan_machine() with what the daemon keeps on disk: `note` gets a line about a calibration that is not
/// used. `gpus`: those that it has opened before; null: they are looked for where a tier is a GPU's memory.
Result<Machine> plan_this_machine(const Config& config, const std::function<void(const std::string&)>& note,
                                  const std::vector<AdoptedArena>& adopted = {},
                                  std::shared_ptr<tier::Gpus> gpus = nullptr);

}  // namespace kvt::keeper
