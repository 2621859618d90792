// SPDX-License-Identifier: Apache-2.0
//
// `kvtierd --keep`: a small parent for hosts without a service manager that keeps descriptors (containers). It holds
// what the daemon stores, by systemd's protocol (fd_store.h), and starts the daemon again when it ends.
//
//   SIGTERM, SIGINT   the daemon ends in order, and so does this process; what was kept is gone
//   SIGHUP            the daemon ends in order and is started again from its file: an upgrade
//
// Single-threaded; touches no memory of arenas.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvt::restart {

/// Runs `program` with `arguments` (without argv[0]) until a signal ends it. `socket_path`: where the daemon tells what to
/// keep; made with mode 0600, removed at the end. Returns the exit code: of the daemon where it has never been ready
/// or was told to end, 1 where this process itself cannot work.
int keep(const std::string& program, const std::vector<std::string>& arguments,
         const std::string& socket_path, uint64_t descriptors_max);

}  // namespace kvt::restart
