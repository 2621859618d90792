// SPDX-License-Identifier: Apache-2.0
//
// An operator of the storm: makes an arena, uses it as a client, and deletes it, again and again, beside all others.
#pragma once

#include <string>

#include "tools/kvtier-soak/board.h"
#include "tools/kvtier-soak/daemon.h"

namespace kvt::soak {

/// Runs until the board says stop, and returns the process's exit code. A refusal that cannot be right counts as a page
/// that is lost.
int run_passing(const Daemon& daemon, const std::string& page_bytes, uint64_t seed, Board& board);

}  // namespace kvt::soak
