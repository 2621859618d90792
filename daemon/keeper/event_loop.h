// SPDX-License-Identifier: Apache-2.0
//
// epoll with a callback for each descriptor. One thread. A callback may add and remove descriptors, its own
// too.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <unordered_map>

#include "shm/base/fd.h"
#include "shm/base/result.h"

namespace kvt::keeper {

class EventLoop {
 public:
  static Result<EventLoop> create();

  enum class Trigger : uint8_t {
    kLevel,  ///< called while there is something
    kEdge,   ///< called once for each change; for descriptors that are never read
  };
  /// Calls `on_ready` when `fd` has something to read or has been closed by the other side. Not owned.
  Result<void> add(int fd, Trigger trigger, std::function<void()> on_ready);
  /// From now on `on_ready` is called when `fd` can be written to or has been closed, and for nothing else.
  Result<void> expect_writable(int fd);
  void remove(int fd);
  /// Waits at most `timeout_ms` (-1: without end) and calls what is ready.
  void wait(int timeout_ms);
  /// When the last wait() had something to call, or its time was over.
  [[nodiscard]] std::chrono::steady_clock::time_point woke_at() const { return woke_at_; }

 private:
  struct Entry {
    uint64_t serial;
    std::function<void()> on_ready;
  };
  Fd epoll_;
  uint64_t next_serial_ = 1;
  std::chrono::steady_clock::time_point woke_at_;
  std::unordered_map<int, Entry> entries_;
};

}  // namespace kvt::keeper
