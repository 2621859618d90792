// SPDX-License-Identifier: Apache-2.0
//
// Other processes for the wire fuzzer, at the price of a thread: each has a pid of its own, connects to the
// server under it, and dies when it is told to. It shares memory and descriptors with this process, so what
// it has connected is ours to use. One thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <string>

#include "shm/base/fd.h"

namespace kvt::fuzz {

class Puppet {
 public:
  static constexpr size_t kConnections = 2;

  Puppet() = default;
  Puppet(const Puppet&) = delete;
  Puppet& operator=(const Puppet&) = delete;
  ~Puppet() { kill(); }

  /// Begins the process, which connects kConnections times to the SOCK_SEQPACKET socket at `path` and then
  /// waits for its end. False: it got no process or no connection (the listener's queue is full, no
  /// descriptors), and is gone.
  bool start(const std::string& path);
  /// SIGKILL, and waits for the end; the connections stay open. Nothing when it does not live.
  void kill();

  [[nodiscard]] bool alive() const { return pid_ > 0; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  /// Names the process, dead or alive, that was started last.
  [[nodiscard]] const Fd& pidfd() const { return pidfd_; }
  [[nodiscard]] Fd take_connection(size_t index) { return std::move(connections_[index]); }

 private:
  pid_t pid_ = -1;
  Fd pidfd_;
  std::array<Fd, kConnections> connections_;
  alignas(64) std::array<std::byte, 16384> stack_{};
};

}  // namespace kvt::fuzz
