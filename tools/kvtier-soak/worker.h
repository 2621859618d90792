// SPDX-License-Identifier: Apache-2.0
//
// One client of the storm: it allocates, fills, seals, publishes, finds, reads and gives back pages of an arena as an
// engine does, and keeps a ledger of what it holds, in its own memory. Whatever it reads is compared word by word.
#pragma once

#include <string>

#include "tools/kvtier-soak/board.h"

namespace kvt::soak {

struct WorkerOptions {
  std::string folder;
  std::string arena = "storm";
  uint32_t index = 0;
  uint64_t seed = 1;
  uint64_t life = 0;  ///< counts the processes of this client: their keys differ
  uint32_t pages_held = 300;
};

/// Runs until the board says stop, gives everything back, and returns the process's exit code.
int run_worker(const WorkerOptions& options, Board& board);

/// Reads and extends the archive: pages that nobody holds, in an arena that is never full. Each must be found, always.
int run_archivist(const WorkerOptions& options, Board& board);

/// Looks at the whole archive once. Adds to the counters; returns how many pages are lost.
uint64_t check_archive(kvt_session* session, Board& board, Counters& counters);

/// Attaches, takes kVictimPages, half of them held sealed ones, says so on the board, and waits to be killed.
int run_victim(const std::string& folder, Board& board);

}  // namespace kvt::soak
