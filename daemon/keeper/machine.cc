// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "daemon/keeper/page_sums.h"
#include "daemon/tier/budget.h"
#include "shm/abi/limits.h"

namespace kvt::keeper {
namespace {

constexpr const char* kEmulated = "emulated-hbm";
constexpr const char* kCuda = "cuda";
constexpr const char* kCudaHost = "cuda-host";
/// What a daemon takes of discovered memory; the rest is the machine's, beside the margin that is never
/// taken.
constexpr double kDiscoveredPercent = 80;

std::string nodes_text(const Topology& topology) {
  std::string text;
  for (const MemoryNode& node : topology.nodes)
    text += fmt::format("{}{}", text.empty() ? "" : ", ", node.os_index);
  return text;
}

/// Tiers as discovery proposes them, as if somebody had written them down.
std::vector<TierConfig> discovered(Topology& topology, const Profile* profile) {
  const std::vector<TierProposal> proposals = propose_tiers(topology, profile);
  std::vector<TierConfig> tiers;
  for (const TierProposal& proposal : proposals) {
    TierConfig tier;
    tier.name = proposal.name;
    tier.kind = proposal.emulated ? kEmulated : kind_name(proposal.kind);
    tier.nodes = proposal.nodes;
    tier.column = proposal.column;
    // Two tiers in the same memory share it as proposed.
    double same = 0;
    for (const TierProposal& other : proposals)
      if (other.nodes == proposal.nodes) same += static_cast<double>(other.bytes);
    tier.percent = kDiscoveredPercent * static_cast<double>(proposal.bytes) / same;
    tiers.push_back(std::move(tier));
  }
  return tiers;
}

/// GPUs whose memory is no NUMA node: each a tier and a column before the host's, in place of what stands for HBM.
void add_gpus(Machine& machine, const Topology& topology) {
  std::vector<TierConfig> tiers;
  for (const tier::GpuMemory& gpu : machine.gpus->list()) {
    if (!gpu.unfit.empty()) {
      machine.notes.push_back(fmt::format("GPU {} ({}) is no tier: {}", gpu.ordinal, gpu.name, gpu.unfit));
      continue;
    }
    if (std::any_of(topology.nodes.begin(), topology.nodes.end(),
                    [](const MemoryNode& node) { return node.kind == MemoryKind::kGpu && node.bytes != 0; }))
      continue;  // it has a node, which is the faster way in
    TierConfig tier;
    tier.name = fmt::format("gpu{}", gpu.ordinal);
    tier.kind = kCuda;
    tier.device = gpu.uuid_text;
    tier.percent = kDiscoveredPercent;
    tier.column = static_cast<int32_t>(tiers.size());
    tiers.push_back(std::move(tier));
  }
  if (tiers.empty()) return;
  // What stood for HBM gives its share of a node to who has the rest of it.
  for (const TierConfig& emulated : machine.config.tiers)
    for (TierConfig& tier : machine.config.tiers)
      if (emulated.kind == kEmulated && tier.kind != kEmulated && tier.nodes == emulated.nodes)
        tier.percent += emulated.percent;
  std::erase_if(machine.config.tiers, [](const TierConfig& tier) { return tier.kind == kEmulated; });
  if (tiers.size() > KVT_MAX_TIERS - machine.config.tiers.size())
    tiers.resize(KVT_MAX_TIERS - machine.config.tiers.size());
  machine.config.tiers.insert(machine.config.tiers.begin(), tiers.begin(), tiers.end());
}

/// Discovered tiers of consumers that no arena has a column for.
void leave_out_columns(Machine& machine) {
  uint32_t columns = 1;
  for (const ArenaConfig& arena : machine.config.arenas) columns = std::max(columns, arena.columns);
  std::erase_if(machine.config.tiers, [&](const TierConfig& tier) {
    if (tier.column < static_cast<int32_t>(columns)) return false;
    machine.notes.push_back(fmt::format(
        "tier \"{}\" is left out: it is of column {}, and no arena has more than {} (arena.columns)",
        tier.name, tier.column, columns));
    return true;
  });
}

/// What forbids a tier to have memory of a node.
Result<void> check_node(const TierConfig& tier, uint32_t index, const Topology& topology) {
  const MemoryNode* const node = topology.find(index);
  if (node == nullptr)
    return fail(Code::kNotFound, fmt::format("tier \"{}\" wants NUMA node {}; this machine has {}", tier.name,
                                             index, nodes_text(topology)));
  if (node->bytes == 0)
    return fail(Code::kNotFound,
                fmt::format("tier \"{}\" wants NUMA node {}, which has no memory, or is not to be used",
                            tier.name, index));
  if (!tier::node_is_allowed(index))
    return fail(Code::kNotFound, fmt::format("tier \"{}\" wants NUMA node {}, which this process may not "
                                             "use (cpuset.mems, AllowedMemoryNodes)",
                                             tier.name, index));
  return {};
}

/// OS indices of the tier's nodes; empty: any.
Result<std::vector<uint32_t>> nodes_of(const TierConfig& tier, const Topology& topology, TierOnMachine& plan,
                                       std::vector<std::string>& notes) {
  const std::optional<MemoryKind> kind = find_kind(tier.kind);
  std::vector<uint32_t> nodes = tier.nodes;
  if (nodes.empty() && kind) {
    for (const MemoryNode& node : topology.nodes)
      if (node.kind == *kind && node.bytes != 0) nodes.push_back(node.os_index);
    if (nodes.empty() && tier.adopted_bytes == 0) {
      std::string kinds;
      for (const MemoryNode& node : topology.nodes)
        kinds += fmt::format("{}node {} {}", kinds.empty() ? "" : ", ", node.os_index, kind_name(node.kind));
      return fail(Code::kNotFound, fmt::format("tier \"{}\" wants nodes of kind {}; this machine has {}",
                                               tier.name, tier.kind, kinds));
    }
  }
  std::optional<Error> first;
  std::erase_if(nodes, [&](uint32_t index) {
    const auto checked = check_node(tier, index, topology);
    if (checked) return false;
    if (!first) first = checked.error();
    if (tier.adopted_bytes == 0) return false;
    // Windows that were made there are somewhere: no reason to leave their arenas alone.
    plan.gone.push_back(index);
    notes.push_back(checked.error().text + "; windows that an earlier daemon has made stay");
    return true;
  });
  if (first && tier.adopted_bytes == 0) return tl::unexpected<Error>(*first);
  return nodes;
}

/// What a node can give. A machine with one node is looked at as a whole: some virtual machines count their
/// node wrong.
Result<uint64_t> available_on(const Topology& topology, uint32_t node) {
  KVT_TRY_ASSIGN(const uint64_t machine, tier::available_memory_bytes());
  return topology.nodes.size() == 1 ? machine : std::min(machine, tier::available_on_node(node));
}

/// What all nodes together can give this process: less than the machine's where its cpuset leaves nodes out.
Result<uint64_t> available_anywhere(const Topology& topology) {
  KVT_TRY_ASSIGN(const uint64_t machine, tier::available_memory_bytes());
  uint64_t allowed = 0;
  bool all = true;
  for (const MemoryNode& node : topology.nodes) {
    if (tier::node_is_allowed(node.os_index))
      allowed += tier::available_on_node(node.os_index);
    else
      all = false;
  }
  return all ? machine : std::min(machine, allowed);
}

/// What `bytes` of windows take beside themselves: page tables of small OS pages, and the arenas' tables.
uint64_t with_overhead(uint64_t bytes, const Config& config) {
  uint64_t page_bytes = KVT_MAX_PAGE_BYTES;
  for (const ArenaConfig& arena : config.arenas) page_bytes = std::min(page_bytes, arena.page_bytes);
  constexpr uint64_t kRowBytes = 96;
  const bool has_sums = std::any_of(config.arenas.begin(), config.arenas.end(),
                                    [](const ArenaConfig& arena) { return arena.integrity != "off"; });
  return bytes + bytes / 512 + bytes / page_bytes * (kRowBytes + (has_sums ? PageSums::bytes(1) : 0));
}

/// Whose memory, and how much of it. What percent say is taken together later.
Result<void> plan_bytes(TierConfig& tier, TierOnMachine& plan, const std::vector<uint32_t>& nodes,
                        const Config& config, const Topology& topology) {
  KVT_TRY_ASSIGN(uint64_t available, available_anywhere(topology));
  uint64_t on_nodes = 0;
  for (const uint32_t index : nodes) {
    KVT_TRY_ASSIGN(const uint64_t bytes, available_on(topology, index));
    on_nodes += bytes;
    plan.parts.push_back({index, std::max<uint64_t>(1, bytes)});
  }
  if (!nodes.empty()) available = std::min(available, on_nodes);
  if (tier.adopted_bytes != 0 && tier.percent > 0) {
    tier.bytes = std::max(tier.adopted_bytes, tier.windows_bytes);  // a share of what could be had then
    tier.percent = 0;
  }
  if (tier.percent > 0) {
    const double share = static_cast<double>(available) * tier.percent / 100;
    tier.bytes = static_cast<uint64_t>(
        share * share / static_cast<double>(with_overhead(static_cast<uint64_t>(share) + 1, config)));
  }
  return {};
}

/// Tiers in percent of nodes can together be more than the machine, or its cgroup, has: then each gets less
/// of it.
Result<void> fit_percent(Machine& machine, const Topology& topology, bool discovered) {
  uint64_t fixed = 0;
  uint64_t shared = 0;
  for (const TierConfig& tier : machine.config.tiers)
    if (tier.kind != kCuda)
      (tier.percent > 0 ? shared : fixed) += with_overhead(tier.bytes - tier.adopted_bytes, machine.config);
  if (shared == 0) return {};
  KVT_TRY_ASSIGN(const uint64_t available, available_anywhere(topology));
  const auto left = static_cast<double>(available > fixed ? available - fixed : 0) *
                    (discovered ? kDiscoveredPercent / 100 : 1);
  const double factor = std::min(1.0, left / static_cast<double>(shared));
  if (factor < 0.99)  // free memory changes a little between two looks
    machine.notes.push_back(
        fmt::format("tiers in percent would be {} MiB together, and {:.0f} MiB can be had: each is smaller",
                    shared >> 20, left / (1 << 20)));
  for (TierConfig& tier : machine.config.tiers) {
    if (tier.percent <= 0 || tier.kind == kCuda) continue;
    tier.bytes = static_cast<uint64_t>(static_cast<double>(tier.bytes) * factor) / tier::kHugePageBytes *
                 tier::kHugePageBytes;
    if (tier.bytes == 0)
      return fail(Code::kFull, fmt::format("tier \"{}\" gets {:g} % of {} MiB that can be had: nothing",
                                           tier.name, tier.percent, available >> 20));
  }
  return {};
}

/// Chooses OS pages for a whole tier of `windows` windows; `spare_huge` is what earlier tiers have left of
/// each node's (nothing: of the machine's).
Result<void> plan_pages(const TierConfig& tier, uint64_t windows, TierOnMachine& plan,
                        std::map<std::optional<uint32_t>, uint64_t>& spare_huge) {
  const auto spare = [&](std::optional<uint32_t> node) -> uint64_t& {
    const auto [at, fresh] = spare_huge.try_emplace(node, 0);
    if (fresh) at->second = tier::free_huge_bytes(node);
    return at->second;
  };
  if (tier.huge_pages == "auto" || tier.huge_pages == "hugetlb") {
    // Each window ends with a whole huge page
    const uint64_t wanted = tier.bytes == tier.adopted_bytes
                                ? 0
                                : tier.bytes - tier.adopted_bytes + windows * tier::kHugePageBytes;
    std::vector<tier::NodePart> parts = plan.parts;
    for (tier::NodePart& part : parts) part.weight = std::max<uint64_t>(1, spare(part.node));
    std::map<uint32_t, uint64_t> by_node;
    for (const tier::Chunk& chunk : tier::divide(wanted, parts))
      if (chunk.node >= 0) by_node[static_cast<uint32_t>(chunk.node)] += chunk.bytes;
    bool enough = spare(std::nullopt) >= wanted;
    std::string where;
    for (const auto& [node, bytes] : by_node) {
      if (spare(node) >= bytes) continue;
      enough = false;
      where = fmt::format(" on node {}", node);
    }
    if (enough) {
      spare(std::nullopt) -= wanted;
      for (const auto& [node, bytes] : by_node) spare(node) -= bytes;
      plan.parts = std::move(parts);
      plan.pages = OsPages::kHuge2M;
      plan.pages_note = "huge pages of 2 MiB (hugetlb)";
      return {};
    }
    if (tier.huge_pages == "hugetlb" && tier.adopted_bytes != 0) {
      plan.pages = OsPages::kHuge2M;
      plan.pages_note = "huge pages of 2 MiB (hugetlb)";
      return {};
    }
    if (tier.huge_pages == "hugetlb")
      return fail(Code::kFull,
                  fmt::format("tier \"{}\" wants {} huge pages of 2 MiB; fewer are free{} (vm.nr_hugepages, "
                              "or nr_hugepages of the node)",
                              tier.name, (wanted + tier::kHugePageBytes - 1) / tier::kHugePageBytes, where));
  }
  std::string why;
  if (tier.huge_pages == "off") {
    plan.pages = OsPages::kSmall;
    plan.pages_note = "no huge pages, as configured";
  } else if (tier::shmem_gets_huge_pages(why)) {
    plan.pages_note = "transparent huge pages where the kernel finds some";
  } else {
    plan.pages_note = "no huge pages: " + why;
  }
  return {};
}

bool rank_is_host(MemoryKind kind) { return kind != MemoryKind::kHbm && kind != MemoryKind::kGpu; }

/// What is configured comes before all else.
void settle_figures(TierConfig& tier, TierOnMachine& plan, const PolicyConfig& policy) {
  plan.read_gbs.learn(tier.read_gbps, FigureSource::kConfigured);
  plan.write_gbs.learn(tier.write_gbps, FigureSource::kConfigured);
  plan.figures_from = source_name(plan.read_gbs.source);
  if (plan.read_gbs.source == FigureSource::kProfile) plan.figures_from += " " + policy.profile;
  tier.read_gbps = plan.read_gbs.value;
  tier.write_gbps = plan.write_gbs.value;
}

/// The strongest word on how fast a tier is, `slowest_known`: the slowest figure that another tier has of
/// this machine, 0 where none has. Beside an emulated tier all others are the profile's, too: the machine
/// that is modelled is that one.
void plan_figures(TierConfig& tier, TierOnMachine& plan, const Topology& topology,
                  const std::vector<uint32_t>& nodes, const Calibration* calibration,
                  const PolicyConfig& policy, bool modelled, double slowest_known) {
  plan.profile = profile_of(plan.kind, policy);
  std::vector<uint32_t> of = nodes;
  if (of.empty())
    for (const MemoryNode& node : topology.nodes)
      if (node.bytes != 0) of.push_back(node.os_index);
  if (calibration != nullptr) {
    Topology measured = topology;
    for (MemoryNode& node : measured.nodes) node.figures = {};
    learn_figures(measured, calibration, nullptr);
    plan.measured = tier_figures(measured, of);
    for (Figure* const figure :
         {&plan.measured.read_gbs, &plan.measured.write_gbs, &plan.measured.latency_ns})
      if (figure->source != FigureSource::kMeasured) *figure = {};  // a guess beside what was measured
  }
  if (!modelled && !nodes.empty()) {
    const Figures figures = tier_figures(topology, of);
    plan.read_gbs = figures.read_gbs;
    plan.write_gbs = figures.write_gbs.known() ? figures.write_gbs : figures.read_gbs;
  }
  // Beside figures of this machine the host figure of a profile would make what nobody knows the fastest.
  if (slowest_known > 0 && rank_is_host(plan.kind)) {
    plan.read_gbs.learn(slowest_known, FigureSource::kGuessed);
    plan.write_gbs.learn(slowest_known, FigureSource::kGuessed);
  }
  if (!plan.read_gbs.known()) plan.read_gbs.learn(plan.profile.read_gbps, FigureSource::kProfile);
  if (!plan.write_gbs.known()) plan.write_gbs.learn(plan.profile.write_gbps, FigureSource::kProfile);
  settle_figures(tier, plan, policy);
}

/// Without the driver, or without the GPU, a tier of its memory is left out, or nothing begins. What an earlier daemon has
/// left is taken over in any case, also from a GPU that is there and gives no context.
Result<void> leave_out_missing_gpus(Machine& machine) {
  std::optional<Error> first;
  std::erase_if(machine.config.tiers, [&](const TierConfig& tier) {
    if (!tier.is_cuda() || first) return false;
    Error why{Code::kNotFound, 0, machine.cuda_text.empty() ? "no GPU was looked for" : machine.cuda_text};
    if (machine.gpus != nullptr) {
      auto found = machine.gpus->find(tier.device);
      const auto context =
          found && tier.adopted_bytes != 0 ? machine.gpus->free_bytes(found->ordinal) : Result<uint64_t>(0);
      if (found && context) return false;
      why = found ? context.error() : found.error();
      if (why.code == Code::kInvalid) {  // not missing: it says too little
        first = why;
        first->text = fmt::format("tier \"{}\": {}", tier.name, why.text);
        return false;
      }
      why.code = Code::kNotFound;
    }
    why.text = fmt::format("tier \"{}\": {}", tier.name, why.text);
    if (tier.without_device == "fail" && tier.adopted_bytes == 0) {
      first = why;
      return false;
    }
    machine.notes.push_back(why.text + "; the tier is left out, pages lie in host memory alone");
    machine.left_out[tier.name] = why.text;
    for (ArenaConfig& arena : machine.config.arenas)
      std::erase_if(arena.bytes, [&](const auto& entry) { return entry.first == tier.name; });
    return true;
  });
  if (first) return tl::unexpected<Error>(*first);
  if (machine.config.tiers.empty()) return fail(Code::kNotFound, "no tier is left: " + machine.notes.back());
  return {};
}

/// Whose memory, and how much of what is free now.
Result<void> plan_gpu(TierConfig& tier, TierOnMachine& plan, const CudaConfig& cuda, tier::Gpus& gpus,
                      std::vector<std::string>& notes) {
  KVT_TRY_ASSIGN(plan.gpu, gpus.find(tier.device));
  plan.kind = MemoryKind::kGpu;
  plan.pages_note = plan.gpu->name + " " + plan.gpu->uuid_text;
  KVT_TRY_ASSIGN(const uint64_t free, gpus.free_bytes(plan.gpu->ordinal));
  const uint64_t most = free > cuda.reserve_bytes ? free - cuda.reserve_bytes : 0;
  if (tier.percent > 0)
    tier.bytes = tier.adopted_bytes != 0
                     ? std::max(tier.adopted_bytes, tier.windows_bytes)
                     : static_cast<uint64_t>(static_cast<double>(most) * tier.percent / 100) /
                           tier::kHugePageBytes * tier::kHugePageBytes;
  if (tier.bytes == 0 || tier.bytes - tier.adopted_bytes > free) {
    const std::string lack = fmt::format(
        "tier \"{}\" wants {} MiB of {}: {} MiB are free, of which {} MiB are "
        "kept for contexts (cuda.reserve_bytes)",
        tier.name, tier.bytes >> 20, plan.gpu->name, free >> 20, cuda.reserve_bytes >> 20);
    if (tier.adopted_bytes == 0) return fail(Code::kFull, lack);
    notes.push_back(lack);
  }
  if (cuda.measure) {
    if (auto measured = gpus.measure(plan.gpu->ordinal))
      plan.gpu_figures = *measured;
    else
      notes.push_back(fmt::format("tier \"{}\": not measured, the profile's figures do: {}", tier.name,
                                  measured.error().text));
  }
  return {};
}

/// The node: as configured, or the one that the GPU is nearest to. Its memory is host memory, and counted as such.
Result<void> plan_gpu_host(TierConfig& tier, TierOnMachine& plan, const Config& config,
                           const Topology& topology, tier::Gpus& gpus) {
  KVT_TRY_ASSIGN(plan.gpu, gpus.find(tier.device));
  plan.gpu_host = true;
  if (!plan.gpu->allocates_host)
    return fail(Code::kMismatch,
                fmt::format("tier \"{}\": the driver of {} allocates no host memory that can be shared "
                            "(CU_MEM_LOCATION_TYPE_HOST_NUMA); expected kind = \"numa\"",
                            tier.name, plan.gpu->name));
  if (tier.nodes.empty())
    tier.nodes = {plan.gpu->numa_node >= 0 ? static_cast<uint32_t>(plan.gpu->numa_node)
                                           : topology.nodes.front().os_index};
  if (auto checked = check_node(tier, tier.nodes.front(), topology); !checked && tier.adopted_bytes == 0)
    return checked;
  const MemoryNode* const node = topology.find(tier.nodes.front());
  plan.kind = node != nullptr && node->kind != MemoryKind::kUnknown ? node->kind : MemoryKind::kDram;
  plan.pages_note = fmt::format("allocated by the driver of {} {}", plan.gpu->name, plan.gpu->uuid_text);
  return plan_bytes(tier, plan, tier.nodes, config, topology);
}

/// A kernel reads a GPU's memory at least as fast as a copy reads and writes it.
void plan_gpu_figures(TierConfig& tier, TierOnMachine& plan, const PolicyConfig& policy) {
  plan.profile = profile_of(plan.kind, policy);
  plan.read_gbs.learn(plan.profile.read_gbps, FigureSource::kProfile);
  plan.write_gbs.learn(plan.profile.write_gbps, FigureSource::kProfile);
  plan.read_gbs.learn(plan.gpu_figures.copy_gbs, FigureSource::kMeasured);
  plan.write_gbs.learn(plan.gpu_figures.copy_gbs, FigureSource::kMeasured);
  settle_figures(tier, plan, policy);
}

/// Beside a GPU's memory, what host memory can do is what the link lets through. Pages there are read by kernels, not by
/// the copy engine, whose figure stands in where the kernels' is not known.
void plan_links(Machine& machine) {
  const auto gpu = std::find_if(machine.tiers.begin(), machine.tiers.end(), [](const TierOnMachine& tier) {
    return tier.gpu && !tier.gpu_host && tier.gpu_figures.in_gbs > 0;
  });
  if (gpu == machine.tiers.end()) return;
  for (size_t i = 0; i < machine.tiers.size(); ++i) {
    TierOnMachine& tier = machine.tiers[i];
    if ((tier.gpu && !tier.gpu_host) || tier.read_gbs.source == FigureSource::kConfigured) continue;
    const tier::GpuFigures& figures = gpu->gpu_figures;
    tier.read_gbs.learn(figures.read_gbs > 0 ? figures.read_gbs : figures.in_gbs, FigureSource::kMeasured);
    tier.write_gbs.learn(figures.out_gbs, FigureSource::kMeasured);
    tier.figures_from = source_name(tier.read_gbs.source);
    machine.config.tiers[i].read_gbps = tier.read_gbs.value;
    machine.config.tiers[i].write_gbps = tier.write_gbs.value;
  }
}

/// Refuses what this machine cannot hold, before the first byte is touched. Huge pages have been counted
/// already.
Result<void> check_memory(const Machine& machine, const Topology& topology) {
  uint64_t wanted = 0;
  std::map<uint32_t, uint64_t> by_node;
  for (size_t i = 0; i < machine.tiers.size(); ++i) {
    const TierOnMachine& tier = machine.tiers[i];
    if (tier.pages == OsPages::kHuge2M || (tier.gpu && !tier.gpu_host)) continue;
    const uint64_t bytes = machine.config.tiers[i].bytes - machine.config.tiers[i].adopted_bytes;
    if (bytes == 0) continue;
    wanted += with_overhead(bytes, machine.config);
    for (const tier::Chunk& chunk : tier::divide(bytes, tier.parts))
      if (chunk.node >= 0)
        by_node[static_cast<uint32_t>(chunk.node)] += with_overhead(chunk.bytes, machine.config);
  }
  if (!machine.config.prefault) return {};
  // A cgroup's limit first: what it leaves is no property of a node.
  KVT_TRY_ASSIGN(const uint64_t available_together, available_anywhere(topology));
  const bool limited = tier::cgroup_limits_memory();
  const auto too_much = [&] {
    return fail(Code::kFull,
                fmt::format("the tiers want {} MiB, tables included; {} MiB can be had {}. Make them smaller "
                            "(or set prefault = false, for tests)",
                            wanted >> 20, available_together >> 20,
                            limited ? "within the limit of the daemon's cgroup (memory.max, MemoryMax)"
                                    : "on this machine"));
  };
  if (wanted > available_together && limited) return too_much();
  for (const auto& [node, bytes] : by_node) {
    KVT_TRY_ASSIGN(const uint64_t available, available_on(topology, node));
    if (bytes > available)
      return fail(
          Code::kFull,
          fmt::format("the tiers on NUMA node {} want {} MiB, tables included; {} MiB can be had there", node,
                      bytes >> 20, available >> 20));
  }
  if (wanted > available_together) return too_much();
  return {};
}

}  // namespace

ProfileTier profile_of(MemoryKind kind, const PolicyConfig& policy) {
  const Profile profile = find_profile(policy.profile).value_or(*find_profile("gh200"));
  return rank_is_host(kind) ? profile.host : profile.hbm;
}

MemoryKind named_kind(const TierConfig& tier) {
  if (tier.kind == kCuda) return MemoryKind::kGpu;
  return tier.kind == kEmulated ? MemoryKind::kHbm : find_kind(tier.kind).value_or(MemoryKind::kUnknown);
}

namespace {

/// Tiers and arenas of an earlier daemon are there, whatever the configuration says now.
void add_adopted(Config& config, const std::vector<AdoptedArena>& adopted, std::vector<std::string>& notes) {
  for (const AdoptedArena& before : adopted) {
    for (const TierConfig& window : before.windows) {
      auto tier = std::find_if(config.tiers.begin(), config.tiers.end(),
                               [&](const TierConfig& each) { return each.name == window.name; });
      if (tier == config.tiers.end()) {
        notes.push_back(fmt::format("tier \"{}\" is not configured any more; arena \"{}\" has memory of it",
                                    window.name, before.arena.name));
        tier = config.tiers.insert(config.tiers.end(), window);
        tier->bytes = tier->windows_bytes = 0;
        tier->is_configured = false;
        config.given["tier." + window.name + ".name"] = Config::kKept;
      }
      tier->adopted_bytes += window.bytes;
      tier->windows_bytes += window.windows_bytes;
    }
    const auto arena = std::find_if(config.arenas.begin(), config.arenas.end(),
                                    [&](const ArenaConfig& each) { return each.name == before.arena.name; });
    if (arena == config.arenas.end()) {
      notes.push_back(fmt::format(
          "arena \"{}\" is not in the configuration; it stays (kvtierctl arena delete gives it up)",
          before.arena.name));
      config.arenas.push_back(before.arena);
      config.given["arena." + before.arena.name + ".name"] = Config::kKept;
      continue;
    }
    const auto stays = [&](const char* what, auto& configured, uint64_t has) {
      if (configured != 0 && configured != has)
        notes.push_back(fmt::format("arena \"{}\" stays as it is: {} {}, though {} is configured",
                                    arena->name, what, has, configured));
      configured = static_cast<std::remove_reference_t<decltype(configured)>>(has);
    };
    stays("page_bytes", arena->page_bytes, before.arena.page_bytes);
    stays("block_tokens", arena->block_tokens, before.arena.block_tokens);
    stays("planes", arena->planes, before.arena.planes);
    stays("columns", arena->columns, before.arena.columns);
    stays("pages", arena->pages, before.arena.pages);
    arena->bytes = before.arena.bytes;
  }
  // It has nothing of a tier in which it never had a window; and no tier is smaller than its windows.
  for (TierConfig& tier : config.tiers) {
    for (const AdoptedArena& before : adopted)
      for (ArenaConfig& arena : config.arenas)
        if (arena.name == before.arena.name &&
            std::none_of(arena.bytes.begin(), arena.bytes.end(),
                         [&](const auto& entry) { return entry.first == tier.name; }))
          arena.bytes.emplace_back(tier.name, 0);
    if (tier.percent <= 0) tier.bytes = std::max({tier.bytes, tier.adopted_bytes, tier.windows_bytes});
  }
}

/// A session reads with one GPU: who reads through a column can reach one GPU's memory (decision 0027).
Result<void> check_columns_of_gpus(const Machine& machine) {
  for (size_t i = 0; i < machine.tiers.size(); ++i)
    for (size_t j = 0; j < i; ++j) {
      if (!machine.tiers[i].gpu || !machine.tiers[j].gpu ||
          machine.tiers[i].gpu->ordinal == machine.tiers[j].gpu->ordinal)
        continue;
      const TierConfig& one = machine.config.tiers[j];
      const TierConfig& other = machine.config.tiers[i];
      if (one.column >= 0 && other.column >= 0 && one.column != other.column) continue;
      return fail(
          Code::kInvalid,
          fmt::format("tiers \"{}\" and \"{}\" are two GPUs' memory for one column; expected a column of its "
                      "own for each GPU (column = 0, column = 1, ...)",
                      one.name, other.name));
    }
  return {};
}

/// Said once, at start: it is no setting, and not to be seen from what is configured.
void note_peers(Machine& machine) {
  std::string text;
  for (size_t i = 0; i < machine.tiers.size(); ++i)
    if (const std::vector<std::string> peers = peers_of(machine, i); !peers.empty())
      text += fmt::format("{}{} from {}", text.empty() ? "" : "; ", machine.config.tiers[i].name,
                          fmt::join(peers, ", "));
  if (!text.empty())
    machine.notes.push_back("pages that another GPU has are copied from its memory: " + text);
}

}  // namespace

bool are_peers(const Machine& machine, int ordinal, int peer) {
  return machine.config.cuda.peers && machine.gpus->can_access(ordinal, peer);
}

std::vector<std::string> peers_of(const Machine& machine, size_t tier) {
  std::vector<std::string> names;
  const auto& gpu = machine.tiers[tier].gpu;
  for (size_t i = 0; gpu && i < machine.tiers.size(); ++i)
    if (machine.tiers[i].gpu && are_peers(machine, gpu->ordinal, machine.tiers[i].gpu->ordinal))
      names.push_back(machine.config.tiers[i].name);
  return names;
}

Result<Machine> plan_machine(const Config& config, Topology topology, const Calibration* calibration,
                             std::shared_ptr<tier::Gpus> gpus, const std::string& no_gpus,
                             const std::vector<AdoptedArena>& adopted) {
  Machine machine;
  machine.config = config;
  machine.gpus = std::move(gpus);
  machine.cuda_text = machine.gpus != nullptr ? machine.gpus->driver_text() : no_gpus;
  KVT_TRY(apply_overrides(topology, config.memory));
  const std::optional<Profile> published = recognise_profile(topology);
  learn_figures(topology, calibration, published ? &*published : nullptr);
  if (config.discover_tiers) {
    const std::optional<Profile> profile = find_profile(config.policy.profile);
    machine.config.tiers = discovered(topology, profile ? &*profile : nullptr);
    machine.config.discover_tiers = false;
    if (machine.gpus != nullptr) add_gpus(machine, topology);
    leave_out_columns(machine);
  }
  add_adopted(machine.config, adopted, machine.notes);
  KVT_TRY(leave_out_missing_gpus(machine));
  for (const ArenaConfig& arena : machine.config.arenas)
    for (const auto& [name, bytes] : arena.bytes)
      if (std::none_of(machine.config.tiers.begin(), machine.config.tiers.end(),
                       [&name = name](const TierConfig& tier) { return tier.name == name; }))
        return fail(
            Code::kInvalid,
            fmt::format(
                "arena \"{}\" wants bytes of tier \"{}\", which this machine has not (kvtierctl topology)",
                arena.name, name));
  // Beside a GPU's memory the others' figures are what the GPU sees, which no CPU can measure.
  const bool modelled =
      std::any_of(machine.config.tiers.begin(), machine.config.tiers.end(),
                  [](const TierConfig& tier) { return tier.kind == kEmulated || tier.is_cuda(); });
  for (TierConfig& tier : machine.config.tiers) {
    TierOnMachine plan;
    if (tier.kind == kCuda) {
      KVT_TRY(plan_gpu(tier, plan, config.cuda, *machine.gpus, machine.notes));
      machine.tiers.push_back(std::move(plan));
      continue;
    }
    if (tier.kind == kCudaHost) {
      KVT_TRY(plan_gpu_host(tier, plan, config, topology, *machine.gpus));
      machine.tiers.push_back(std::move(plan));
      continue;
    }
    plan.emulated = tier.kind == kEmulated;
    KVT_TRY_ASSIGN(tier.nodes, nodes_of(tier, topology, plan, machine.notes));
    plan.kind = named_kind(tier);
    if (!find_kind(tier.kind) && !plan.emulated)
      plan.kind = tier.nodes.empty() ? MemoryKind::kDram : topology.find(tier.nodes.front())->kind;
    KVT_TRY(plan_bytes(tier, plan, tier.nodes, config, topology));
    machine.tiers.push_back(std::move(plan));
  }
  KVT_TRY(check_columns_of_gpus(machine));
  note_peers(machine);
  KVT_TRY(fit_percent(machine, topology, config.discover_tiers));
  double slowest_known = 0;
  for (const TierConfig& tier : machine.config.tiers) {
    const Figure read = tier_figures(topology, tier.nodes).read_gbs;
    if (!modelled && read.known() && (slowest_known == 0 || read.value < slowest_known))
      slowest_known = read.value;
  }
  std::map<std::optional<uint32_t>, uint64_t> spare_huge;
  for (size_t i = 0; i < machine.tiers.size(); ++i) {
    TierConfig& tier = machine.config.tiers[i];
    if (machine.tiers[i].gpu && !machine.tiers[i].gpu_host) {
      plan_gpu_figures(tier, machine.tiers[i], config.policy);
      continue;
    }
    if (!machine.tiers[i].gpu)
      KVT_TRY(plan_pages(tier, machine.config.arenas.size(), machine.tiers[i], spare_huge));
    plan_figures(tier, machine.tiers[i], topology, tier.nodes, calibration, config.policy, modelled,
                 tier.nodes.empty() ? 0 : slowest_known);
  }
  plan_links(machine);
  machine.config.drop_sources_of_changed(config);
  machine.nodes = topology.nodes.size();
  if (auto fits = check_memory(machine, topology); !fits) {
    if (adopted.empty() || fits.error().code != Code::kFull) return tl::unexpected<Error>(fits.error());
    machine.lack = fits.error().text;
    machine.notes.push_back(machine.lack + ". Arenas that are there go on");
  }
  return machine;
}

Result<Machine> plan_this_machine(const Config& config, const std::function<void(const std::string&)>& note,
                                  const std::vector<AdoptedArena>& adopted,
                                  std::shared_ptr<tier::Gpus> gpus) {
  KVT_TRY_ASSIGN(Topology topology, discover_topology());
  std::optional<Calibration> calibration;
  if (auto loaded = load_calibration(calibration_path(config.state_dir), topology))
    calibration = std::move(*loaded);
  else if (loaded.error().code != Code::kNotFound)
    note("calibration is not used: " + loaded.error().text);
  std::string no_gpus;
  bool wanted = std::any_of(config.tiers.begin(), config.tiers.end(),
                            [](const TierConfig& tier) { return tier.is_cuda(); });
  for (const AdoptedArena& before : adopted)
    for (const TierConfig& window : before.windows) wanted = wanted || window.is_cuda();
  if (gpus == nullptr && (wanted || config.discover_tiers)) {
    if (auto opened = tier::Gpus::open(config.cuda.driver))
      gpus = std::move(*opened);
    else
      no_gpus = opened.error().text;
  }
  return plan_machine(config, std::move(topology), calibration ? &*calibration : nullptr, std::move(gpus),
                      no_gpus, adopted);
}

}  // namespace kvt::keeper
