// SPDX-License-Identifier: Apache-2.0
#include "daemon/topology/tiers.h"

#include <algorithm>
#include <map>

namespace kvt {
namespace {

/// Nodes of one kind whose bandwidths differ by more than this are different tiers.
constexpr double kSameSpeed = 1.25;
/// The part of ordinary memory that stands for HBM where there is none: as 96 of 96 + 480 GB on a GH200, and
/// a little less.
constexpr uint64_t kEmulatedPart = 8;

bool is_host(MemoryKind kind) { return kind != MemoryKind::kGpu && kind != MemoryKind::kHbm; }

bool has_kind(const Topology& topology, MemoryKind kind) {
  return std::any_of(topology.nodes.begin(), topology.nodes.end(),
                     [kind](const MemoryNode& node) { return node.kind == kind && node.bytes != 0; });
}

/// Kinds from fast to slow, where no figure says otherwise.
int rank(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kGpu: return 0;
    case MemoryKind::kHbm: return 1;
    case MemoryKind::kDram:
    case MemoryKind::kLpddr: return 2;
    case MemoryKind::kUnknown: return 3;
    case MemoryKind::kCxl: return 4;
    case MemoryKind::kNvm: return 5;
  }
  return 6;
}

/// Of a node, for comparing: the tier's sum would let many slow nodes pass for a fast one.
double speed_of(const Topology& topology, const TierProposal& tier) {
  double sum = 0;
  for (const uint32_t index : tier.nodes) {
    const Figure& read = topology.find(index)->figures.read_gbs;
    if (!read.known()) return 0;
    sum += read.value;
  }
  return tier.nodes.empty() ? 0 : sum / static_cast<double>(tier.nodes.size());
}

bool same_speed(const Figure& a, const Figure& b) {
  if (!a.known() || !b.known()) return true;
  return std::max(a.value, b.value) <= kSameSpeed * std::min(a.value, b.value);
}

void add(Figure& sum, const Figure& part, bool first) {
  if (first) {
    sum = part;
  } else if (!sum.known() || !part.known()) {
    sum = Figure{};
  } else {
    sum.source = std::min(sum.source, part.source);  // as weak as its weakest part
    if (sum.source == FigureSource::kProfile)
      sum.value = std::max(sum.value, part.value);
    else
      sum.value += part.value;
  }
}

/// "cxl" where there is one of the kind, else "cxl0", "cxl1"; GPUs are always counted.
void name_tiers(std::vector<TierProposal>& tiers) {
  std::map<std::string, int> count;
  const auto base = [](const TierProposal& tier) {
    return std::string(tier.kind == MemoryKind::kUnknown ? "other" : kind_name(tier.kind));
  };
  for (const TierProposal& tier : tiers) ++count[base(tier)];
  std::map<std::string, int> next;
  for (TierProposal& tier : tiers) {
    tier.name = base(tier);
    if (count[tier.name] > 1 || tier.kind == MemoryKind::kGpu) tier.name += std::to_string(next[tier.name]++);
  }
}

}  // namespace

std::optional<Profile> recognise_profile(const Topology& topology) {
  for (const char* other : {"GB200", "GB300"})  // Grace, too, with other GPUs
    if (topology.machine.find(other) != std::string::npos) return std::nullopt;
  return has_kind(topology, MemoryKind::kGpu) && has_kind(topology, MemoryKind::kLpddr)
             ? find_profile("gh200")
             : std::nullopt;
}

void learn_figures(Topology& topology, const Calibration* calibration, const Profile* profile) {
  const bool gpus_read = has_kind(topology, MemoryKind::kGpu);
  for (MemoryNode& node : topology.nodes) {
    if (node.bytes == 0) continue;
    // Firmware and calibrate say what CPUs see. Of a GPU's own memory that says nothing, and where a GPU
    // reads the rest through its link, its profile knows better.
    if (node.kind == MemoryKind::kGpu ||
        (gpus_read && profile != nullptr && node.kind != MemoryKind::kUnknown)) {
      for (Figure* const figure : {&node.figures.read_gbs, &node.figures.write_gbs, &node.figures.latency_ns})
        if (figure->source != FigureSource::kConfigured) *figure = {};
    } else if (const auto measured =
                   calibration == nullptr ? std::nullopt : calibration->best_of(node.os_index)) {
      node.figures.read_gbs.learn(measured->read_gbs, FigureSource::kMeasured);
      node.figures.write_gbs.learn(measured->write_gbs, FigureSource::kMeasured);
      node.figures.latency_ns.learn(measured->latency_ns, FigureSource::kMeasured);
    }
    if (profile != nullptr && node.kind != MemoryKind::kUnknown) {
      const ProfileTier& published = is_host(node.kind) ? profile->host : profile->hbm;
      node.figures.read_gbs.learn(published.read_gbps, FigureSource::kProfile);
      node.figures.write_gbs.learn(published.write_gbps, FigureSource::kProfile);
    }
  }
  // The last resort: as the node of the same kind that is most nearly as far away, in proportion.
  const Topology known = topology;
  for (MemoryNode& node : topology.nodes) {
    if (node.bytes == 0 || node.distance == 0 || node.kind == MemoryKind::kUnknown) continue;
    std::vector<const MemoryNode*> others;
    for (const MemoryNode& other : known.nodes)
      if (other.kind == node.kind && other.distance != 0 && other.os_index != node.os_index)
        others.push_back(&other);
    std::stable_sort(others.begin(), others.end(), [&](const MemoryNode* a, const MemoryNode* b) {
      const auto apart = [&](const MemoryNode* other) {
        return other->distance > node.distance ? other->distance - node.distance
                                               : node.distance - other->distance;
      };
      return apart(a) < apart(b);
    });
    for (const MemoryNode* const other : others) {  // the first one that knows the figure speaks
      const double further = static_cast<double>(node.distance) / other->distance;
      node.figures.read_gbs.learn(other->figures.read_gbs.value / further, FigureSource::kGuessed);
      node.figures.write_gbs.learn(other->figures.write_gbs.value / further, FigureSource::kGuessed);
      node.figures.latency_ns.learn(other->figures.latency_ns.value * further, FigureSource::kGuessed);
    }
  }
}

Figures tier_figures(const Topology& topology, const std::vector<uint32_t>& nodes) {
  Figures sum;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const MemoryNode* const node = topology.find(nodes[i]);
    if (node == nullptr) return {};
    add(sum.read_gbs, node->figures.read_gbs, i == 0);
    add(sum.write_gbs, node->figures.write_gbs, i == 0);
    const Figure& latency = node->figures.latency_ns;
    if (i == 0 || !latency.known())
      sum.latency_ns = latency;
    else if (sum.latency_ns.known())
      sum.latency_ns = {std::max(sum.latency_ns.value, latency.value),
                        std::min(sum.latency_ns.source, latency.source)};
  }
  return sum;
}

std::vector<TierProposal> propose_tiers(Topology& topology, const Profile* profile) {
  std::vector<TierProposal> tiers;
  int32_t columns = 0;
  // GPUs in the order of their PCI addresses, as nvidia-smi counts them; the rest by OS index.
  std::vector<const MemoryNode*> nodes;
  for (const MemoryNode& node : topology.nodes)
    if (node.bytes != 0) nodes.push_back(&node);
  std::stable_sort(nodes.begin(), nodes.end(),
                   [](const MemoryNode* a, const MemoryNode* b) { return a->gpu < b->gpu; });
  for (const MemoryNode* const each : nodes) {
    const MemoryNode& node = *each;
    const auto found = std::find_if(tiers.begin(), tiers.end(), [&](const TierProposal& tier) {
      return tier.kind == node.kind && node.kind != MemoryKind::kGpu &&
             same_speed(topology.find(tier.nodes.front())->figures.read_gbs, node.figures.read_gbs);
    });
    TierProposal& tier = found == tiers.end() ? tiers.emplace_back() : *found;
    tier.kind = node.kind;
    tier.nodes.push_back(node.os_index);
    tier.bytes += node.bytes;
    if (node.kind == MemoryKind::kGpu) tier.column = columns++;
  }
  if (columns == 1)
    for (TierProposal& tier : tiers) tier.column = -1;
  for (TierProposal& tier : tiers) tier.figures = tier_figures(topology, tier.nodes);
  const auto faster = [&](const TierProposal& a, const TierProposal& b) {
    const double speed_a = speed_of(topology, a);
    const double speed_b = speed_of(topology, b);
    if (rank(a.kind) <= 1 || rank(b.kind) <= 1 || speed_a == 0 || speed_b == 0) {
      if (rank(a.kind) != rank(b.kind)) return rank(a.kind) < rank(b.kind);
      return false;
    }
    return speed_a > speed_b;
  };
  // Few, and the order is no strict weak one where figures are missing: insertion keeps it predictable.
  for (size_t i = 1; i < tiers.size(); ++i)
    for (size_t at = i; at > 0 && faster(tiers[at], tiers[at - 1]); --at) std::swap(tiers[at], tiers[at - 1]);
  if (tiers.size() == 1 && is_host(tiers[0].kind)) {
    TierProposal hbm;
    hbm.kind = MemoryKind::kHbm;
    hbm.nodes = tiers[0].nodes;
    hbm.emulated = true;
    hbm.bytes = tiers[0].bytes / kEmulatedPart;
    tiers[0].bytes -= hbm.bytes;
    if (profile != nullptr) {
      hbm.figures.read_gbs.learn(profile->hbm.read_gbps, FigureSource::kProfile);
      hbm.figures.write_gbs.learn(profile->hbm.write_gbps, FigureSource::kProfile);
    }
    tiers.insert(tiers.begin(), hbm);
  }
  // The slowest goes first, but for the last that all consumers share.
  while (tiers.size() > kTiersMax) {
    const auto shared = std::count_if(tiers.begin(), tiers.end(),
                                      [](const TierProposal& tier) { return is_host(tier.kind); });
    auto last = tiers.end() - 1;
    while (shared == 1 && is_host(last->kind) && last != tiers.begin()) --last;
    for (const uint32_t index : last->nodes)
      topology.unused.push_back({"node" + std::to_string(index), last->kind, topology.find(index)->bytes,
                                 "an arena has at most 8 tiers; name it in a [[tier]]"});
    tiers.erase(last);
  }
  name_tiers(tiers);
  return tiers;
}

}  // namespace kvt
