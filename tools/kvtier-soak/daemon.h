// SPDX-License-Identifier: Apache-2.0
//
// The kvtierd of a soak: `kvtierd --keep` in a private folder, and its control.sock. One thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace kvt::soak {

struct DaemonOptions {
  std::string program;
  std::string inject;  ///< a fault to order; empty: none
  std::string page_bytes = "16KiB";
  std::string huge_pages = "auto";
  uint64_t storm_hbm_mib = 8;
  uint64_t storm_host_mib = 24;
};

class Daemon {
 public:
  /// Starts it and waits until it answers. Throws std::runtime_error.
  explicit Daemon(const DaemonOptions& options);
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  [[nodiscard]] const std::string& folder() const { return folder_; }
  /// The daemon itself, not its parent; -1: there is none now.
  [[nodiscard]] pid_t worker() const;
  /// The answer's JSON; nothing when the daemon is away.
  [[nodiscard]] std::optional<nlohmann::json> ask(const std::string& request) const;
  /// Waits until a daemon that is not `before` answers; its PID, or -1 after a minute.
  [[nodiscard]] pid_t wait_for_other(pid_t before) const;
  /// Whether the daemon is stopped by a signal.
  [[nodiscard]] bool is_stopped() const;
  [[nodiscard]] std::string log() const;
  /// All points that it lists.
  [[nodiscard]] std::vector<std::string> points() const;

 private:
  std::string folder_;
  std::string program_;
  pid_t pid_ = -1;
};

}  // namespace kvt::soak
