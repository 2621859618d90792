// SPDX-License-Identifier: Apache-2.0
//
// The daemon from its configuration to its end: makes the arenas, opens the sockets, and runs the keeper loop
// until SIGTERM or SIGINT. The only place that logs.
#pragma once

#include "daemon/config/config.h"
#include "daemon/keeper/arena.h"

namespace kvt {

inline constexpr int kExitRuntime = 1;
inline constexpr int kExitConfiguration = 2;
inline constexpr int kExitMissing = 3;

/// Returns the exit code: 0, or one of the above after a line on stderr. Once a process.
int run(const Config& config, keeper::Inject inject);

}  // namespace kvt
