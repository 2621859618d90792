// SPDX-License-Identifier: Apache-2.0
//
// SIGINT, SIGTERM, SIGHUP and SIGCHLD as events to wait for, so that an interrupt ends the replay in order:
// workers detach, the daemon stops, the folder goes. One for the process; made before any child; the main
// thread's.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace kvt::replay {

class Interrupts {
 public:
  Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;
  ~Interrupts();

  /// Returns after an event, or after the time.
  void wait(int timeout_ms);
  /// The first interrupting signal so far, or 0.
  [[nodiscard]] int signal() const { return signal_; }
  /// Interrupting signals so far: whoever sends a second one does not want to wait.
  [[nodiscard]] int count() const { return count_; }

 private:
  int fd_;
  int signal_ = 0;
  int count_ = 0;
};

struct ChildSpec {
  std::string program;
  std::vector<std::string> arguments;  ///< argv, the name first
  int output_fd = -1;                  ///< for stdout and stderr; -1: the parent's
  bool own_group = false;              ///< the terminal's interrupt does not reach it
  int death_signal = 0;                ///< sent to it when this process dies; 0: none
};
/// Starts a process. Throws std::system_error when there can be none; a program that cannot be run ends with
/// 127.
pid_t spawn(const ChildSpec& spec);

/// "exited with 3", "was killed by signal 11 (Segmentation fault)".
std::string describe_exit(int wait_status);

}  // namespace kvt::replay
