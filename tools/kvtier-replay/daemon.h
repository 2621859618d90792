// SPDX-License-Identifier: Apache-2.0
//
// A kvtierd of the replay's own: configuration, sockets and log in a private folder; gone, process and
// folder, with the object. The main thread's.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "tools/kvtier-replay/interrupts.h"

namespace kvt::replay {

struct DaemonOptions {
  std::string program;
  uint64_t hbm_bytes = 0;
  uint64_t host_bytes = 0;
  uint64_t page_bytes = 0;
  std::string arena;
  std::string policy;
  std::string promote = "offers";
  std::string profile;
  std::string integrity = "off";  ///< of its arena
  std::string inject;             ///< a fault to order; empty: none
  bool cuda = false;              ///< HBM is a GPU's, not emulated; then also:
  std::string cuda_driver;
  int cuda_device = 0;
  bool stand_in = false;  ///< the driver is: its figures mean nothing
};

class Daemon {
 public:
  /// Returns when attach.sock takes connections. Throws MissingError without the program, InterruptedError
  /// when an interrupt comes first, std::runtime_error with the end of its log when it does not come up.
  Daemon(const DaemonOptions& options, Interrupts& interrupts);
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  ~Daemon();

  [[nodiscard]] const std::string& socket_dir() const { return folder_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  /// True, once, when it has ended without being asked; then `how` says how.
  bool ended(std::string& how);
  /// Asks it to end and waits; "" when it ended as it should, else how it ended and the end of its log.
  std::string stop();

 private:
  void wait_until_ready(Interrupts& interrupts);
  [[nodiscard]] std::string log_tail() const;
  void remove_folder();

  std::string folder_;
  pid_t pid_ = -1;
};

}  // namespace kvt::replay
