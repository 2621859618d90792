// SPDX-License-Identifier: Apache-2.0
//
// Runs the workers, each a process of its own, from start to end: tells them when to begin and when to stop,
// shows progress, and says how each that did not end well died. The main thread's.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "tools/kvtier-replay/board.h"
#include "tools/kvtier-replay/interrupts.h"

namespace kvt::replay {

class Supervisor {
 public:
  Supervisor(const Board& board, Interrupts& interrupts) : board_(board), interrupts_(interrupts) {}
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;
  /// No worker outlives it.
  ~Supervisor();

  /// Returns when all workers have ended. `tick` is called each second with the seconds since the start; when
  /// it answers false the workers are told to stop.
  void run(const std::function<bool(double seconds)>& tick);

  [[nodiscard]] const std::vector<pid_t>& pids() const { return pids_; }
  /// One sentence for each worker that died or failed.
  [[nodiscard]] const std::vector<std::string>& failures() const { return failures_; }
  [[nodiscard]] double wall_seconds() const { return wall_seconds_; }

 private:
  void start_workers();
  void reap();
  void kill_all();
  void wait_until_attached();
  void stop() const;

  const Board& board_;
  Interrupts& interrupts_;
  std::vector<pid_t> pids_;
  std::vector<bool> running_;
  size_t left_ = 0;
  std::vector<std::string> failures_;
  double wall_seconds_ = 0;
};

}  // namespace kvt::replay
