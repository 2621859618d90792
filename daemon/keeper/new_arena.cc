// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/new_arena.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "daemon/keeper/adopt.h"
#include "daemon/tier/backend.h"
#include "daemon/tier/budget.h"

namespace kvt::keeper {
namespace {

using Clock = std::chrono::steady_clock;

/// While memory is prefaulted a line says so this often.
constexpr uint64_t kReportBytes = 4ull << 30;

/// Whether the arena is to have no window in the tier.
bool is_left_out(const ArenaConfig& arena, const std::string& tier) {
  return std::any_of(arena.bytes.begin(), arena.bytes.end(),
                     [&](const auto& entry) { return entry.first == tier && entry.second == 0; });
}

/// Frames that fit into `bytes` of a window, the scratch frame of the first window included.
uint64_t frames_of(uint64_t bytes, uint64_t page_bytes, bool first) {
  const uint64_t frames = bytes / page_bytes;
  return first && frames != 0 ? frames - 1 : frames;
}

/// What there is to say of a window that has been made.
std::string window_text(const ArenaGeometry& geometry, uint32_t tier, const TierOnMachine& plan,
                        const std::string& pages_note, const tier::Window& window, bool prefaulted,
                        double seconds) {
  std::string text =
      fmt::format("arena \"{}\", tier {}{}: {} MiB {} in {:.2f} s", geometry.name, geometry.tiers[tier].name,
                  geometry.tiers[tier].emulated ? " (emulated)" : "", window.bytes >> 20,
                  prefaulted ? "prefaulted" : "reserved", seconds);
  if (prefaulted)
    text +=
        fmt::format(" ({:.2f} s a GiB), {}",
                    seconds * static_cast<double>(1 << 30) / static_cast<double>(window.bytes), pages_note);
  if (window.verified_os_pages == 0) return text;
  std::string nodes;
  for (const tier::NodePart& part : plan.parts)
    nodes += fmt::format("{}{}", nodes.empty() ? "" : ", ", part.node);
  return text + fmt::format(", {} of {} OS pages looked at are on node{} {}",
                            window.verified_os_pages - window.misplaced_os_pages, window.verified_os_pages,
                            plan.parts.size() == 1 ? "" : "s", nodes);
}

std::string pages_note_of(const TierOnMachine& plan, const tier::Window& window) {
  return fmt::format("{}, {} descriptors", plan.pages_note, window.device->fds().size());
}

/// Makes a host window reachable for the copy engines of the arena's GPUs.
Result<void> register_window(const Machine& machine, const ArenaGeometry& geometry, uint32_t tier,
                             const std::vector<int>& gpus, ArenaMemory& memory, const Progress& progress) {
  if (gpus.empty()) return {};
  const Mapping& window = memory.windows[tier];
  const auto begin = Clock::now();
  uint64_t next_report = kReportBytes;
  // Once for all of them: what one context has registered is registered for all.
  auto kept = machine.gpus->register_host(gpus.front(), window, geometry.page_bytes, [&](uint64_t bytes) {
    if (bytes < next_report) return;
    next_report = bytes + kReportBytes;
    progress(fmt::format("arena \"{}\", tier {}: {} of {} MiB registered", geometry.name,
                         geometry.tiers[tier].name, bytes >> 20, window.bytes() >> 20));
  });
  if (!kept)
    return fail(kept.error().code, fmt::format("arena \"{}\", tier {}: {}", geometry.name,
                                               geometry.tiers[tier].name, kept.error().text));
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  progress(fmt::format("arena \"{}\", tier {}: registered with the GPU in {:.2f} s ({:.2f} s a GiB)",
                       geometry.name, geometry.tiers[tier].name, seconds,
                       seconds * static_cast<double>(1 << 30) / static_cast<double>(window.bytes())));
  memory.kept.push_back(std::move(*kept));
  return {};
}

/// The memory of the pages' checksums.
Result<void> make_sums(const ArenaGeometry& geometry, bool prefault, ArenaMemory& memory) {
  const uint64_t bytes = PageSums::bytes(geometry.pages);
  KVT_TRY_ASSIGN(memory.sums_fd, make_memfd("kvt-sums-" + geometry.name, bytes));
  KVT_TRY_ASSIGN(memory.sums, Mapping::map(memory.sums_fd, bytes, Access::kReadWrite));
  if (prefault)
    if (auto filled = populate(memory.sums.data(), bytes); !filled)
      return fail(Code::kFull, "checksums of arena \"" + geometry.name + "\": " + filled.error().text);
  return {};
}

/// What the windows of one tier take of its nodes, in usual OS pages.
void add_by_node(const TierOnMachine& plan, uint64_t bytes, std::map<uint32_t, uint64_t>& by_node) {
  for (const tier::Chunk& chunk : tier::divide(bytes, plan.parts))
    if (chunk.node >= 0) by_node[static_cast<uint32_t>(chunk.node)] += chunk.bytes;
}

}  // namespace

Result<ArenaGeometry> geometry_of(const Config& config, const ArenaConfig& arena,
                                  const std::map<std::string, uint64_t>& share) {
  ArenaGeometry geometry;
  geometry.name = arena.name;
  geometry.page_bytes = arena.page_bytes;
  geometry.block_tokens = arena.block_tokens;
  geometry.planes = arena.planes;
  geometry.columns = arena.columns;
  if (arena.fingerprint) geometry.fingerprint = *arena.fingerprint;
  uint64_t frames = 0;
  uint64_t shared_frames = 0;
  uint64_t reserve = 0;
  for (const TierConfig& tier : config.tiers) {
    if (tier.column >= static_cast<int32_t>(arena.columns))
      continue;  // of a consumer that this arena has not
    if (is_left_out(arena, tier.name)) continue;
    TierWindow window;
    window.name = tier.name;
    window.frames = frames_of(share.at(tier.name), arena.page_bytes, geometry.tiers.empty());
    if (window.frames == 0)
      return fail(Code::kInvalid, fmt::format("arena \"{}\" gets {} bytes of tier \"{}\": not one page of {}",
                                              arena.name, share.at(tier.name), tier.name, arena.page_bytes));
    const ProfileTier profile = profile_of(named_kind(tier), config.policy);
    window.read_bytes_per_second =
        static_cast<uint64_t>((tier.read_gbps > 0 ? tier.read_gbps : profile.read_gbps) * 1e9);
    window.write_bytes_per_second =
        static_cast<uint64_t>((tier.write_gbps > 0 ? tier.write_gbps : profile.write_gbps) * 1e9);
    window.column = tier.column;
    window.emulated = tier.kind == "emulated-hbm";
    if (tier.is_cuda()) {
      window.device.emplace();  // whose: known on the machine
      window.device_host = tier.kind == "cuda-host";
      window.chunk_bytes = tier::device_chunk_bytes(window.frames * arena.page_bytes + 2 * kWindowAlignment);
    }
    frames += window.frames;
    if (tier.column < 0) shared_frames += window.frames;
    if (tier.column < 0 || arena.columns == 1) reserve += reserve_of(window.frames);
    geometry.tiers.push_back(window);
  }
  // With several columns a new page lies where all of them read it.
  const uint64_t most = arena.columns > 1 ? shared_frames : frames;
  if (most == 0)
    return fail(Code::kInvalid,
                fmt::format("arena \"{}\" with {} columns needs a tier that serves all of them (column = -1)",
                            arena.name, arena.columns));
  // Frames beyond the pages let two pages change places when all pages are in use.
  geometry.pages =
      arena.pages == 0 ? std::min<uint64_t>(most > reserve ? most - reserve : 1, KVT_MAX_PAGES) : arena.pages;
  if (geometry.pages > most)
    return fail(Code::kInvalid, fmt::format("arena \"{}\": {} pages, but its tiers have room for {}",
                                            arena.name, geometry.pages, most));
  KVT_TRY(check_geometry(geometry));
  return geometry;
}

Result<ArenaGeometry> geometry_on(const Machine& machine, const ArenaConfig& arena,
                                  const std::map<std::string, uint64_t>& share) {
  KVT_TRY_ASSIGN(ArenaGeometry geometry, geometry_of(machine.config, arena, share));
  for (TierWindow& window : geometry.tiers)
    for (size_t tier = 0; tier < machine.config.tiers.size(); ++tier)
      if (machine.config.tiers[tier].name == window.name) {
        window.huge_pages = machine.tiers[tier].pages == OsPages::kHuge2M;
        if (machine.tiers[tier].gpu) window.device = machine.tiers[tier].gpu->uuid;
      }
  std::random_device random;
  geometry.arena_id = (uint64_t{random()} << 32) | random() | 1;
  return geometry;
}

Result<void> check_memory_for(const Machine& machine, const ArenaGeometry& geometry, bool with_sums) {
  if (!machine.config.prefault) return {};
  uint64_t wanted = arena_table_bytes(geometry) + (with_sums ? PageSums::bytes(geometry.pages) : 0);
  std::map<uint32_t, uint64_t> by_node;
  for (size_t i = 0; i < machine.tiers.size(); ++i) {
    const TierOnMachine& plan = machine.tiers[i];
    // A GPU's memory and reserved huge pages say themselves that there is none.
    if ((plan.gpu && !plan.gpu_host) || plan.pages == OsPages::kHuge2M) continue;
    for (const TierWindow& window : geometry.tiers) {
      if (window.name != machine.config.tiers[i].name) continue;
      const uint64_t bytes = (window.frames + 1) * geometry.page_bytes;
      wanted += bytes + bytes / 512;  // page tables of small OS pages
      add_by_node(plan, bytes, by_node);
    }
  }
  const auto lacks = [&](uint64_t bytes, uint64_t there, const std::string& where) {
    return fail(Code::kFull,
                fmt::format("arena \"{}\" wants {} MiB{}, tables included; {} MiB can be had, of the "
                            "machine or of the service's cgroup",
                            geometry.name, bytes >> 20, where, there >> 20));
  };
  KVT_TRY_ASSIGN(const uint64_t there, tier::available_memory_bytes());
  if (wanted > there) return lacks(wanted, there, "");
  if (machine.nodes < 2) return {};  // some virtual machines count their only node wrong
  for (const auto& [node, bytes] : by_node)
    if (const uint64_t on_node = tier::available_on_node(node); bytes > on_node)
      return lacks(bytes, on_node, fmt::format(" of NUMA node {}", node));
  return {};
}

std::vector<int> peers_among(const Machine& machine, const std::vector<int>& gpus, int gpu) {
  std::vector<int> peers;
  for (const int other : gpus)
    if (are_peers(machine, other, gpu) && std::find(peers.begin(), peers.end(), other) == peers.end())
      peers.push_back(other);
  return peers;
}

void take_peers(tier::Window& window, const std::string& arena, const std::string& tier,
                std::vector<int>& tier_peers, const Progress& progress) {
  tier_peers = std::move(window.peers);
  if (!window.peers_left_out.empty())
    progress(fmt::format("arena \"{}\", tier {}: other GPUs do not copy from it: {}", arena, tier,
                         window.peers_left_out));
}

Result<ArenaMemory> make_memory(const Machine& machine, const ArenaGeometry& geometry, bool with_sums,
                                const Progress& progress, const Pace& pace) {
  const Config& config = machine.config;
  ArenaMemory memory;
  const uint64_t table_bytes = arena_table_bytes(geometry);
  KVT_TRY_ASSIGN(memory.table_fd, make_memfd("kvt-table-" + geometry.name, table_bytes));
  KVT_TRY_ASSIGN(memory.table_mapping, Mapping::map(memory.table_fd, table_bytes, Access::kReadWrite));
  advise_huge(memory.table_mapping.data(), table_bytes);
  if (config.prefault)
    if (auto filled = populate(memory.table_mapping.data(), table_bytes); !filled)
      return fail(Code::kFull, "arena table of \"" + geometry.name + "\": " + filled.error().text);
  KVT_TRY_ASSIGN(const ArenaWriter table,
                 ArenaWriter::create(memory.table_mapping.data(), table_bytes, geometry));
  KVT_TRY_ASSIGN(memory.table_read_only_fd, reopen_read_only(memory.table_fd));
  const auto index_of = [&](uint32_t i) {
    const auto found = std::find_if(config.tiers.begin(), config.tiers.end(), [&](const TierConfig& tier) {
      return tier.name == geometry.tiers[i].name;
    });
    return static_cast<size_t>(found - config.tiers.begin());
  };
  std::vector<int> gpus;  // whose memory this arena has, each once
  for (uint32_t i = 0; i < table.tiers(); ++i) {
    const auto& gpu = machine.tiers[index_of(i)].gpu;
    memory.tier_gpu.push_back(gpu ? gpu->ordinal : -1);
    if (gpu && std::find(gpus.begin(), gpus.end(), gpu->ordinal) == gpus.end()) gpus.push_back(gpu->ordinal);
  }
  if (gpus.empty()) {
    KVT_TRY_ASSIGN(memory.range, AddressRange::reserve(table.range_bytes(), kWindowAlignment));
  } else {
    KVT_TRY_ASSIGN(memory.range,
                   machine.gpus->reserve_addresses(gpus.front(), table.range_bytes(), kWindowAlignment));
  }
  memory.device_fds.resize(table.tiers());
  memory.devices.resize(table.tiers());
  memory.tier_peers.resize(table.tiers());
  tier::NumaBackend backend;
  for (uint32_t i = 0; i < table.tiers(); ++i) {
    const auto found = config.tiers.begin() + static_cast<std::ptrdiff_t>(index_of(i));
    const TierOnMachine& plan = machine.tiers[index_of(i)];
    tier::WindowRequest request;
    request.name = geometry.name + "-" + geometry.tiers[i].name;
    request.bytes = table.tier(i).window_bytes;
    request.nodes = plan.parts;
    request.pages = plan.pages;
    request.prefault = config.prefault;
    request.threads = pace.threads;
    request.stop = pace.stop;
    request.range = &memory.range;
    request.offset = table.window_offset(i);
    const auto begin = Clock::now();
    uint64_t next_report = kReportBytes;
    request.progress = [&](uint64_t bytes) {
      if (bytes < next_report) return;
      next_report = bytes + kReportBytes;
      progress(fmt::format("arena \"{}\", tier {}: {} of {} MiB prefaulted", geometry.name,
                           geometry.tiers[i].name, bytes >> 20, request.bytes >> 20));
    };
    if (plan.gpu) {
      request.chunk_bytes = table.device(i).chunk_bytes;
      if (!plan.gpu_host) request.nodes.clear();
      request.peers = peers_among(machine, gpus, plan.gpu->ordinal);
      KVT_TRY_ASSIGN(const auto device, machine.gpus->backend(plan.gpu->ordinal));
      KVT_TRY_ASSIGN(tier::Window window, device->make_window(request));
      const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      progress(window_text(geometry, i, plan, pages_note_of(plan, window), window, true, seconds));
      take_peers(window, geometry.name, geometry.tiers[i].name, memory.tier_peers[i], progress);
      memory.device_fds[i] = window.device->fds();
      memory.devices[i] = std::move(window.device);
      memory.window_fds.emplace_back();
      memory.window_read_only_fds.emplace_back();
      memory.windows.emplace_back();
      continue;
    }
    auto made = backend.make_window(request);
    std::string pages_note = plan.pages_note;
    if (!made && plan.pages == OsPages::kHuge2M && found->huge_pages == "auto") {
      // A limit that no file tells of: usual pages do, where they fit.
      KVT_TRY_ASSIGN(const uint64_t available, tier::available_memory_bytes());
      if (request.bytes > available) return tl::unexpected<Error>(made.error());
      pages_note = "no huge pages: " + made.error().text;
      request.pages = OsPages::kUsual;
      made = backend.make_window(request);
    }
    if (!made) return tl::unexpected<Error>(made.error());
    tier::Window window = std::move(*made);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    progress(window_text(geometry, i, plan, pages_note, window, config.prefault, seconds));
    KVT_TRY_ASSIGN(Fd read_only, reopen_read_only(window.fd));
    if (wants_lock(config, request.pages))
      if (const auto locked = tier::lock_window(window.mapping, window.chunks, request.threads); !locked)
        progress(fmt::format("arena \"{}\", tier {}: not locked, it may be swapped out: {}", geometry.name,
                             geometry.tiers[i].name, locked.error().text));
    memory.window_fds.push_back(std::move(window.fd));
    memory.window_read_only_fds.push_back(std::move(read_only));
    memory.windows.push_back(std::move(window.mapping));
    KVT_TRY(register_window(machine, geometry, i, gpus, memory, progress));
  }
  if (with_sums) KVT_TRY(make_sums(geometry, config.prefault, memory));
  return memory;
}

}  // namespace kvt::keeper
