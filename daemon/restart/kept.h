// SPDX-License-Identifier: Apache-2.0
//
// What this daemon keeps for the next one, and has from the one before: descriptors and the restart state.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "daemon/restart/fd_store.h"
#include "daemon/restart/state.h"

namespace kvt::restart {

struct Kept {
  FdStore store;
  RestartState state;
  bool is_adopted = false;  ///< an earlier daemon has left it
  int daemon_before = 0;    ///< its PID: dead, and its GPU's copies may go on; 0: there was none
};

/// One without a manager: nothing outlives this process.
Result<Kept> new_kept();

/// Takes what the service manager gave. An earlier daemon's death is waited for, at most `patience`: until then its
/// workers write (PROTOCOL A2.1). Then this process is the one whose death the next waits for; whose copies it waits for is
/// said when those of before have ended (RestartState::set_daemon_pid). kMismatch: the state is of
/// another major version, both are named, and nothing has been touched; kAgain: it lives.
Result<Kept> open_kept(uint64_t descriptors_max, std::chrono::milliseconds patience);

}  // namespace kvt::restart
