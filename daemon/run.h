// SPDX-License-Identifier: Apache-2.0
//
// The daemon from its configuration to its end: makes the arenas, opens the sockets, and runs the keeper loop
// until SIGTERM or SIGINT. SIGHUP: it reads its configuration again. The only place that logs.
#pragma once

#include <functional>
#include <string>

#include "daemon/config/config.h"
#include "daemon/keeper/arena.h"

namespace kvt {

inline constexpr int kExitRuntime = 1;
inline constexpr int kExitConfiguration = 2;
inline constexpr int kExitMissing = 3;

struct RunOptions {
  keeper::Inject inject = keeper::Inject::kNone;
  bool allow_injection = false;  ///< points can be armed over control.sock, too
  /// The configuration as its file is now, checked wholly; empty: it has none.
  std::function<Result<Config>()> read_again;
  std::string point_file;  ///< looked at once, at start (restart::arm_from_file); empty: none
};

/// Returns the exit code: 0, or one of the above after a line on stderr. Once a process.
int run(const Config& config, const RunOptions& options);

}  // namespace kvt
