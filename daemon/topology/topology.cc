// SPDX-License-Identifier: Apache-2.0
#include "daemon/topology/topology.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace kvt {
namespace {

constexpr std::pair<MemoryKind, const char*> kKinds[] = {
    {MemoryKind::kUnknown, "unknown"}, {MemoryKind::kDram, "dram"},   {MemoryKind::kHbm, "hbm"},
    {MemoryKind::kCxl, "cxl"},         {MemoryKind::kLpddr, "lpddr"}, {MemoryKind::kGpu, "gpu"},
    {MemoryKind::kNvm, "nvm"},
};

constexpr uint32_t kCpusMax = 65536;

}  // namespace

const char* kind_name(MemoryKind kind) {
  for (const auto& [each, name] : kKinds)
    if (each == kind) return name;
  return "unknown";
}

std::optional<MemoryKind> find_kind(std::string_view name) {
  for (const auto& [kind, each] : kKinds)
    if (each == name) return kind;
  return std::nullopt;
}

const char* source_name(FigureSource source) {
  switch (source) {
    case FigureSource::kUnknown: return "unknown";
    case FigureSource::kGuessed: return "guessed";
    case FigureSource::kProfile: return "profile";
    case FigureSource::kHmat: return "hmat";
    case FigureSource::kMeasured: return "measured";
    case FigureSource::kConfigured: return "configuration";
  }
  return "unknown";
}

const MemoryNode* Topology::find(uint32_t os_index) const {
  for (const MemoryNode& node : nodes)
    if (node.os_index == os_index) return &node;
  return nullptr;
}

MemoryNode* Topology::find(uint32_t os_index) {
  return const_cast<MemoryNode*>(std::as_const(*this).find(os_index));
}

Result<void> apply_overrides(Topology& topology, const std::vector<MemoryOverride>& overrides) {
  const Topology found = topology;  // a kind is the discovered one, whatever an override before it said
  // Figure::learn keeps the first of two equal sources; an operator's later word replaces an earlier one.
  const auto set = [](Figure& figure, double given) {
    if (given > 0) figure = {given, FigureSource::kConfigured};
  };
  for (const MemoryOverride& override_ : overrides) {
    bool any = false;
    for (MemoryNode& node : topology.nodes) {
      const MemoryNode& as_found = *found.find(node.os_index);
      // Nodes without memory are of no kind.
      const bool mine = override_.node >= 0 ? node.os_index == static_cast<uint32_t>(override_.node)
                                            : as_found.kind == override_.of_kind && as_found.bytes != 0;
      if (!mine) continue;
      any = true;
      if (override_.kind) {
        node.kind = *override_.kind;
        node.kind_from = "configuration";
      }
      set(node.figures.read_gbs, override_.read_gbps);
      set(node.figures.write_gbs, override_.write_gbps);
      set(node.figures.latency_ns, override_.latency_ns);
      if (!override_.use && node.bytes != 0) {
        topology.unused.push_back({"node" + std::to_string(node.os_index), node.kind, node.bytes,
                                   "left alone by the configuration"});
        node.bytes = 0;
      }
    }
    if (any) continue;
    if (override_.node < 0)
      return fail(Code::kNotFound, std::string("[[memory]] of kind ") + kind_name(override_.of_kind) +
                                       ": this machine has none");
    std::string indices;
    for (const MemoryNode& node : topology.nodes)
      indices += (indices.empty() ? "" : ", ") + std::to_string(node.os_index);
    return fail(Code::kNotFound, "[[memory]] of node " + std::to_string(override_.node) +
                                     ": this machine has NUMA nodes " + indices);
  }
  return {};
}

std::optional<std::vector<uint32_t>> parse_cpu_list(std::string_view text) {
  std::vector<uint32_t> cpus;
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  const auto number = [&text](uint32_t& value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || value >= kCpusMax) return false;
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    return true;
  };
  while (!text.empty()) {
    uint32_t first = 0;
    if (!number(first)) return std::nullopt;
    uint32_t last = first;
    if (!text.empty() && text.front() == '-') {
      text.remove_prefix(1);
      if (!number(last) || last < first) return std::nullopt;
    }
    for (uint32_t cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (cpus.size() > kCpusMax) return std::nullopt;
    if (text.empty()) break;
    if (text.front() != ',' || text.size() == 1) return std::nullopt;
    text.remove_prefix(1);
  }
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

std::string cpu_list(const std::vector<uint32_t>& cpus) {
  std::string text;
  for (size_t i = 0; i < cpus.size();) {
    size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(cpus[i]);
    if (last != i) text += "-" + std::to_string(cpus[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace kvt
