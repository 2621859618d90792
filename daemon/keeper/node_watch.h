// SPDX-License-Identifier: Apache-2.0
//
// Whether the NUMA nodes of the tiers still have memory. It can be taken offline while it is used: the kernel then moves what
// lies there to other nodes, and nobody is told. Looked at once a second at most, while the loop works. One thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace kvt::keeper {

class NodeWatch {
 public:
  using Clock = std::chrono::steady_clock;

  NodeWatch() = default;
  /// OS indices. Where /sys says nothing of nodes none is watched. `root`: "/" but in tests.
  explicit NodeWatch(const std::set<uint32_t>& nodes, std::string root = "/");

  struct Change {
    uint32_t node;
    bool is_gone;  ///< false: it has memory again
  };
  /// What has changed since the last look; in the first one, which nodes have none.
  std::vector<Change> look(Clock::time_point now);
  [[nodiscard]] bool is_gone(uint32_t node) const;
  /// These as well, from the next look on.
  void watch(const std::set<uint32_t>& nodes);

 private:
  std::string root_ = "/";
  std::map<uint32_t, bool> gone_;  ///< by node
  Clock::time_point next_{};
};

}  // namespace kvt::keeper
