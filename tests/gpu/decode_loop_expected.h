// SPDX-License-Identifier: Apache-2.0
//
// What the simulator expects of the loop's runs: kvtiersim's own model and policies (tools/kvtiersim) on the same reads, with
// the same HBM and the speeds that were measured in the same run. Values; thread-safe.
//
// What a kvtierd does is decided once a period, and a period has as many steps as fit into it. So its reads are put
// together by periods, as a recording of a kvtierd has them (docs/recording.md); how many steps that are follows from
// the time that the simulator expects of a step, not from the time that was measured.
#pragma once

#include <cstdint>
#include <string>

#include "tests/gpu/decode_loop_reads.h"

namespace kvt::loop {

struct SimulatedMachine {
  double hbm_bytes_per_second = 0;
  double link_bytes_per_second = 0;
  uint64_t page_bytes = 0;
  uint64_t hbm_frames = 0;
  double period_s = 0;      ///< of kvtierd
  double least_step_s = 0;  ///< steps do not begin faster than that
};

struct Expected {
  double step_s = 0;      ///< mean
  double hbm_share = 0;   ///< of the reads: pages that were in HBM when the step began, and were read there
  double link_bytes = 0;  ///< a step: read from host memory, and copied from there
  uint32_t period_steps = 1;
};

/// `run` is one of the loop's. All of its steps before `end` are simulated; the figures are of those from `first` on.
/// REQUIRES: first < end <= the steps of `reads`.
[[nodiscard]] Expected simulate_run(const std::string& run, const Reads& reads,
                                    const SimulatedMachine& machine, uint32_t first, uint32_t end);

/// What a kvtierd is told of its memories that does not measure them.
[[nodiscard]] SimulatedMachine machine_of_profile(const std::string& profile);

}  // namespace kvt::loop
