// SPDX-License-Identifier: Apache-2.0
//
// Closes the descriptors that clients have sent and the daemon does not want. What they are is the client's choice: closing
// a file of a FUSE server waits for that server, for ever if it does not answer. So threads do it, one for each user that
// has sent some: the loop does not wait, nor do other users' descriptors.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "shm/base/fd.h"

namespace kvt::server {

/// Used by the loop's thread alone.
class Closer {
 public:
  Closer();
  /// Waits for what can be closed within a second; what hangs is left to the end of the process.
  ~Closer();
  Closer(const Closer&) = delete;
  Closer& operator=(const Closer&) = delete;

  /// Never blocks.
  void close(std::vector<Fd> fds, uint32_t uid);
  /// Waits until nothing is left to close, at most so long. For orderly ends and tests.
  void finish(std::chrono::milliseconds limit) const;
  /// Whether a second was not enough to close one of the user's, and kStuckMost of them wait.
  [[nodiscard]] bool is_stuck(uint32_t uid) const;
  static constexpr size_t kStuckMost = 64;

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;  ///< with the threads, which may outlive this
};

}  // namespace kvt::server
