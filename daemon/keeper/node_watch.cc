// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/node_watch.h"

#include <filesystem>

#include "daemon/tier/budget.h"

namespace kvt::keeper {

NodeWatch::NodeWatch(const std::set<uint32_t>& nodes, std::string root) : root_(std::move(root)) {
  watch(nodes);
}

void NodeWatch::watch(const std::set<uint32_t>& nodes) {
  std::error_code none;
  if (!std::filesystem::is_directory(root_ + "sys/devices/system/node", none)) return;
  for (const uint32_t node : nodes) gone_.emplace(node, false);
}

std::vector<NodeWatch::Change> NodeWatch::look(Clock::time_point now) {
  std::vector<Change> changes;
  if (gone_.empty() || now < next_) return changes;
  next_ = now + std::chrono::seconds(1);
  for (auto& [node, gone] : gone_) {
    const auto bytes = tier::memory_of_node(node, root_);
    if (!bytes || (*bytes == 0) == gone) continue;
    gone = *bytes == 0;
    changes.push_back({node, gone});
  }
  return changes;
}

bool NodeWatch::is_gone(uint32_t node) const {
  const auto found = gone_.find(node);
  return found != gone_.end() && found->second;
}

}  // namespace kvt::keeper
