// SPDX-License-Identifier: Apache-2.0
//
// What has happened lately, for operators: so many events of each kind, in memory that never grows. Each kind has a ring
// of its own, so whoever can make many of one kind pushes out none of another. One thread.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/events/kind.h"

namespace kvt::events {

struct Event {
  uint64_t serial = 0;  ///< from 1 on, of all kinds
  std::chrono::steady_clock::time_point at;
  Kind kind = Kind::kReady;
  uint8_t bytes = 0;
  std::array<char, 231> words;  ///< the first `bytes` of them

  [[nodiscard]] std::string_view text() const { return {words.data(), bytes}; }
};

class EventLog {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kEach = 64;

  EventLog() : events_(kKinds.size() * kEach) {}
  /// A longer text is cut off, and ends in "..".
  void add(Kind kind, std::string_view text, Clock::time_point now);
  /// The newest `most` of those behind `serial` that are still here, in their order. Valid until the next add().
  [[nodiscard]] std::vector<const Event*> since(uint64_t serial, size_t most) const;
  /// The serial of the last one; 0: none.
  [[nodiscard]] uint64_t last() const { return last_; }
  /// So many of this kind, since the start.
  [[nodiscard]] uint64_t count(Kind kind) const { return counts_[static_cast<size_t>(kind)]; }

 private:
  std::vector<Event> events_;  // a ring of kEach for each kind, one behind the other
  std::array<uint64_t, kKinds.size()> counts_{};
  uint64_t last_ = 0;
};

}  // namespace kvt::events
