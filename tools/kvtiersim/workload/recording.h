// SPDX-License-Identifier: Apache-2.0
//
// What `kvtierctl record` wrote (docs/recording.md): the reads as a workload, and what the daemon did with
// the pages, so that both can be compared on any machine. A period of the daemon is a step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/kvtiersim/model/machine.h"
#include "tools/kvtiersim/model/simulate.h"
#include "tools/kvtiersim/model/trace.h"

namespace kvt::sim {

/// The placement that was recorded, beside its trace.
struct Recorded {
  static constexpr uint8_t kNoTier = UINT8_MAX;
  /// A page's place from some moment of `step` on; tiers are the machine's.
  struct Change {
    uint32_t step = 0;
    uint32_t page = 0;  ///< of the trace
    float after = 0;    ///< share of the step's time that had passed, 0 to 1
    uint8_t tier = 0;
    uint8_t second = kNoTier;  ///< tier of its second frame
    bool came = false;         ///< its first: it is born, or was there from the start
    bool gone = false;         ///< it has no place any more
    bool by_reader = false;    ///< its reader copied it while reading it
  };
  Machine machine;  ///< the column's tiers with their frames as capacities (but the last: it holds all)
  std::vector<Change> changes;  ///< by step, in order
  std::string arena;
  std::string policy;  ///< of the daemon
  uint32_t column = 0;
  double wall_seconds = 0;
  uint64_t dropped_entries = 0;  ///< pages read that are not in it: the daemon's buffer was full
};

/// Whether the file begins as a recording.
[[nodiscard]] bool is_recording(const std::string& path);

/// Reads a recording. Of several columns the one with the most reads. Pages that were given up stay in the
/// trace and are not read again; an index with another content is another page. Throws std::invalid_argument
/// with the file, the place and what was expected, also for a file without its last record.
[[nodiscard]] Workload read_recording(const std::string& path);

/// What the recorded reads took from where they were, on a machine with as many tiers. `charge_moves`: with
/// what was copied, as policies are charged; else the reads alone, as kvtier-replay reckons.
[[nodiscard]] Outcome replay_recorded(const Trace& trace, const Recorded& recorded, const Machine& machine,
                                      bool charge_moves);

}  // namespace kvt::sim
