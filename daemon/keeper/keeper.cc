// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/keeper.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "daemon/keeper/adopt.h"
#include "daemon/restart/points.h"
#include "daemon/tier/backend.h"
#include "daemon/tier/budget.h"

namespace kvt::keeper {
namespace {

/// Periods without work after which the loop sleeps without a timeout.
constexpr uint32_t kIdlePeriods = 20;

/// The service manager has so long to say that it keeps all arenas.
constexpr std::chrono::milliseconds kStorePatience{10'000};

/// While memory is prefaulted a line says so this often.
constexpr uint64_t kReportBytes = 4ull << 30;

/// What each arena gets of each tier: what it names, else an even part of what is left.
Result<std::vector<std::map<std::string, uint64_t>>> share_tiers(const Config& config) {
  std::vector<std::map<std::string, uint64_t>> shares(config.arenas.size());
  for (const TierConfig& tier : config.tiers) {
    uint64_t named = 0;
    uint64_t unnamed = 0;
    for (size_t i = 0; i < config.arenas.size(); ++i) {
      const auto& bytes = config.arenas[i].bytes;
      const auto found = std::find_if(bytes.begin(), bytes.end(),
                                      [&](const auto& entry) { return entry.first == tier.name; });
      if (found == bytes.end()) {
        ++unnamed;
        continue;
      }
      shares[i][tier.name] = found->second;
      named += found->second;
    }
    if (named > tier.bytes)
      return fail(Code::kInvalid, fmt::format("the arenas want {} bytes of tier \"{}\", which has {}", named,
                                              tier.name, tier.bytes));
    for (size_t i = 0; i < config.arenas.size(); ++i)
      if (!shares[i].contains(tier.name)) shares[i][tier.name] = (tier.bytes - named) / unnamed;
  }
  return shares;
}

/// Frames that fit into `bytes` of a window, the scratch frame of the first window included.
uint64_t frames_of(uint64_t bytes, uint64_t page_bytes, bool first) {
  const uint64_t frames = bytes / page_bytes;
  return first && frames != 0 ? frames - 1 : frames;
}

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
    if (tier.kind == "cuda") {
      window.device.emplace();  // whose: known on the machine
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
  return fmt::format("{}, {} descriptors", plan.pages_note, window.device_fds.size());
}

/// Makes a host window reachable for the copy engines of the arena's GPUs.
Result<void> register_window(const Machine& machine, const ArenaGeometry& geometry, uint32_t tier,
                             const std::vector<int>& gpus, ArenaMemory& memory,
                             const Keeper::Progress& progress) {
  if (gpus.empty()) return {};
  const Mapping& window = memory.windows[tier];
  const auto begin = Keeper::Clock::now();
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
  const double seconds = std::chrono::duration<double>(Keeper::Clock::now() - begin).count();
  progress(fmt::format("arena \"{}\", tier {}: registered with the GPU in {:.2f} s ({:.2f} s a GiB)",
                       geometry.name, geometry.tiers[tier].name, seconds,
                       seconds * static_cast<double>(1 << 30) / static_cast<double>(window.bytes())));
  memory.kept.push_back(std::move(*kept));
  return {};
}

/// The memory of the pages' checksums.
Result<void> make_sums(const ArenaGeometry& geometry, bool prefault, ArenaMemory& memory,
                       const Keeper::Progress& progress) {
  const uint64_t bytes = PageSums::bytes(geometry.pages);
  KVT_TRY_ASSIGN(memory.sums_fd, make_memfd("kvt-sums-" + geometry.name, bytes));
  KVT_TRY_ASSIGN(memory.sums, Mapping::map(memory.sums_fd, bytes, Access::kReadWrite));
  if (prefault)
    if (auto filled = populate(memory.sums.data(), bytes); !filled)
      return fail(Code::kFull, "checksums of arena \"" + geometry.name + "\": " + filled.error().text);
  for (const TierWindow& window : geometry.tiers)
    if (window.device)
      progress(fmt::format(
          "arena \"{}\", tier {}: integrity does not cover pages in a GPU's memory, nor the copies "
          "from and to it",
          geometry.name, window.name));
  return {};
}

Result<ArenaMemory> make_memory(const Machine& machine, const ArenaGeometry& geometry,
                                const Keeper::Progress& progress) {
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
    request.threads = std::max(1u, std::thread::hardware_concurrency());
    request.range = &memory.range;
    request.offset = table.window_offset(i);
    const auto begin = Keeper::Clock::now();
    uint64_t next_report = kReportBytes;
    request.progress = [&](uint64_t bytes) {
      if (bytes < next_report) return;
      next_report = bytes + kReportBytes;
      progress(fmt::format("arena \"{}\", tier {}: {} of {} MiB prefaulted", geometry.name,
                           geometry.tiers[i].name, bytes >> 20, request.bytes >> 20));
    };
    if (plan.gpu) {
      request.chunk_bytes = table.device(i).chunk_bytes;
      KVT_TRY_ASSIGN(const auto device, machine.gpus->backend(plan.gpu->ordinal));
      KVT_TRY_ASSIGN(tier::Window window, device->make_window(request));
      const double seconds = std::chrono::duration<double>(Keeper::Clock::now() - begin).count();
      progress(window_text(geometry, i, plan, pages_note_of(plan, window), window, true, seconds));
      memory.device_fds[i] = window.device_fds;
      memory.kept.push_back(std::move(window.device));
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
    const double seconds = std::chrono::duration<double>(Keeper::Clock::now() - begin).count();
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
  return memory;
}

/// For frames that are to be used again (Arena::resize).
Result<void> has_memory(uint64_t bytes) {
  KVT_TRY_ASSIGN(const uint64_t there, tier::available_memory_bytes());
  if (bytes > there)
    return fail(Code::kFull,
                fmt::format("{} MiB can be had, of the machine or of the service's cgroup", there >> 20));
  return {};
}

/// Whose memory a tier has, or had.
std::vector<uint32_t> nodes_of(const TierOnMachine& tier) {
  std::vector<uint32_t> nodes = tier.gone;
  for (const tier::NodePart& part : tier.parts) nodes.push_back(part.node);
  return nodes;
}

ArenaSettings settings_of(const PolicyConfig& policy) {
  ArenaSettings settings;
  settings.policy = policy.name == "balance" ? PolicyName::kBalance
                    : policy.name == "churn" ? PolicyName::kChurn
                                             : PolicyName::kOff;
  settings.promote = policy.promote == "offers" ? Promote::kOffers : Promote::kCopies;
  settings.move_bytes_per_second = policy.move_bytes_per_second;
  settings.idle_credit = policy.idle_credit;
  settings.cooldown_ms = policy.cooldown_ms;
  return settings;
}

}  // namespace

Result<void> check_plan(const Config& config) {
  if (config.discover_tiers || std::any_of(config.tiers.begin(), config.tiers.end(),
                                           [](const TierConfig& tier) { return tier.percent > 0; }))
    return {};
  KVT_TRY_ASSIGN(const auto shares, share_tiers(config));
  for (size_t i = 0; i < config.arenas.size(); ++i) KVT_TRY(geometry_of(config, config.arenas[i], shares[i]));
  return {};
}

Result<std::unique_ptr<Keeper>> Keeper::create(const Machine& machine, Inject inject,
                                               const Progress& progress, restart::Kept given) {
  std::unique_ptr<Keeper> keeper(new Keeper());
  keeper->machine_ = machine;
  keeper->kept_ = std::move(given);
  restart::Kept& kept = keeper->kept_;
  const Config& config = machine.config;
  KVT_TRY_ASSIGN(const auto shares, share_tiers(config));
  ArenaSettings settings = settings_of(config.policy);
  settings.predictor.advice_periods = std::clamp<uint32_t>(1000 / config.period_ms, 1, 127);  // a second
  settings.period_ms = config.period_ms;
  settings.inject = inject;
  if (kept.is_adopted) wait_for_copies_before(machine, kept, progress);
  // Not before: the next one waits for the copies of one daemon alone, and this one has had none yet.
  kept.state.set_daemon_pid(static_cast<int>(::getpid()));
  const auto sums_of = [&](const ArenaConfig& arena, const ArenaGeometry& geometry, ArenaMemory& memory) {
    return arena.integrity == "off" ? Result<void>() : make_sums(geometry, config.prefault, memory, progress);
  };
  std::random_device random;
  const auto make_new = [&](size_t i, uint32_t index) -> Result<std::unique_ptr<Arena>> {
    KVT_TRY_ASSIGN(ArenaGeometry geometry, geometry_of(config, config.arenas[i], shares[i]));
    for (TierWindow& window : geometry.tiers)
      for (size_t tier = 0; tier < config.tiers.size(); ++tier)
        if (config.tiers[tier].name == window.name) {
          window.huge_pages = machine.tiers[tier].pages == OsPages::kHuge2M;
          if (machine.tiers[tier].gpu) window.device = machine.tiers[tier].gpu->uuid;
        }
    geometry.arena_id = (uint64_t{random()} << 32) | random() | 1;
    KVT_TRY_ASSIGN(ArenaMemory memory, make_memory(machine, geometry, progress));
    KVT_TRY(sums_of(config.arenas[i], geometry, memory));
    KVT_TRY(keep_arena(kept, config.arenas[i], geometry, memory));
    return Arena::create(index, std::move(memory), settings);
  };
  std::vector<ArenaConfig> made;
  for (size_t i = 0; i < config.arenas.size(); ++i) {
    settings.integrity = config.arenas[i].integrity == "all"     ? Integrity::kAll
                         : config.arenas[i].integrity == "moves" ? Integrity::kMoves
                                                                 : Integrity::kOff;
    settings.scrub_pages_per_second = config.arenas[i].scrub_pages_per_second;
    settings.prefault = config.prefault;
    settings.has_memory = has_memory;
    settings.fixed_read_bytes_per_second = config.arenas[i].fixed_read_gbps * 1e9;
    const auto index = static_cast<uint32_t>(made.size());
    restart::ArenaSlot* const slot = kept.state.find_arena(config.arenas[i].name);
    auto arena = slot != nullptr
                     ? adopt_arena(machine, kept, *slot, index, settings, keeper->adoption_, progress)
                     : make_new(i, index);
    if (!arena) {
      // Beside arenas that are in use a new one may have no room: they go on.
      if (slot != nullptr || !kept.is_adopted || arena.error().code == Code::kSystem)
        return tl::unexpected<Error>(arena.error());
      progress(fmt::format("arena \"{}\" is not made: {}", config.arenas[i].name, arena.error().text));
      continue;
    }
    keeper->arenas_.push_back(std::move(*arena));
    made.push_back(config.arenas[i]);
  }
  keeper->machine_.config.arenas = std::move(made);
  KVT_TRY(kept.store.wait(kStorePatience));  // before anybody is granted any of it (PROTOCOL A2)
  if (kept.is_adopted) restart::reach(restart::Point::kAdoptDone);
  KVT_TRY_ASSIGN(keeper->mover_, mover::Mover::start(config.copy_workers));
  std::set<int> gpus;
  for (const TierOnMachine& tier : machine.tiers)
    if (tier.gpu) gpus.insert(tier.gpu->ordinal);
  for (const int ordinal : gpus) {
    KVT_TRY_ASSIGN(auto gpu, machine.gpus->gpu(ordinal));
    KVT_TRY(keeper->mover_->add_gpu(ordinal, std::move(gpu)));
  }
  std::set<uint32_t> nodes;
  for (const TierOnMachine& tier : machine.tiers)
    for (const uint32_t node : nodes_of(tier)) nodes.insert(node);
  keeper->nodes_ = NodeWatch(nodes);
  keeper->last_period_ = Clock::now();
  return keeper;
}

void Keeper::pass(Clock::time_point now) {
  bool worked = false;
  for (const mover::Job& job : mover_->take_completions()) {
    arenas_[job.arena]->commit(job);
    // What one arena has learnt is true for all.
    if (job.lost_device)
      for (const auto& arena : arenas_) arena->lose_gpu(job.gpu, job.driver_error);
    worked = true;
  }
  const auto elapsed = now - last_period_;
  const bool period = elapsed >= std::chrono::milliseconds(machine_.config.period_ms);
  // A period that was slept through is one period: heat does not age while nobody reads.
  const double seconds = std::min(std::chrono::duration<double>(elapsed).count(), 0.1);
  if (period) {
    look_at_nodes(now);
    share_budget();
  }
  for (const auto& arena : arenas_) worked |= arena->pass(*mover_, period, seconds);
  if (period) {
    last_period_ = now;
    idle_periods_ = worked ? 0 : idle_periods_ + 1;
  } else if (worked) {
    idle_periods_ = 0;
  }
}

/// Of a tier that has no memory on its nodes any more nothing new is used, and what is there leaves it: the kernel has moved
/// it to wherever it found room.
void Keeper::look_at_nodes(Clock::time_point now) {
  for (const NodeWatch::Change& change : nodes_.look(now)) {
    for (size_t i = 0; i < machine_.tiers.size(); ++i) {
      const std::vector<uint32_t> nodes = nodes_of(machine_.tiers[i]);
      if (std::find(nodes.begin(), nodes.end(), change.node) == nodes.end()) continue;
      const bool all_gone =
          std::all_of(nodes.begin(), nodes.end(), [&](uint32_t node) { return nodes_.is_gone(node); });
      for (const auto& arena : arenas_)
        arena->on_node(machine_.config.tiers[i].name, change.node, change.is_gone, all_gone);
    }
  }
}

/// What arenas may move, of all that may be moved: by weight, among those that want to.
void Keeper::share_budget() {
  if (arenas_.size() < 2) return;
  const uint64_t all = machine_.config.policy.move_bytes_per_second;
  std::vector<policy::Claim> claims;
  for (size_t i = 0; i < arenas_.size(); ++i) {
    const ArenaConfig& config = machine_.config.arenas[i];
    claims.push_back({config.weight,
                      static_cast<uint64_t>(static_cast<double>(all) * config.least_percent / 100),
                      arenas_[i]->wanted_budget()});
  }
  const std::vector<uint64_t> parts = policy::divide(all, claims);
  for (size_t i = 0; i < arenas_.size(); ++i)
    arenas_[i]->set_budget_share(static_cast<double>(parts[i]) / static_cast<double>(all));
}

void Keeper::set_policy(const PolicyConfig& policy) {
  PolicyConfig& now = machine_.config.policy;
  const std::string profile = now.profile;
  now = policy;
  now.profile = profile;
  const ArenaSettings settings = settings_of(now);
  for (const auto& arena : arenas_) arena->set_policy(settings);
}

void Keeper::set_sources(const std::string& prefix, const std::map<std::string, std::string>& given) {
  auto& now = machine_.config.given;
  std::erase_if(now, [&](const auto& entry) { return entry.first.starts_with(prefix); });
  for (const auto& [key, source] : given)
    if (key.starts_with(prefix)) now[key] = source;
}

bool Keeper::set_weight(const ArenaConfig& arena) {
  for (ArenaConfig& now : machine_.config.arenas) {
    if (now.name != arena.name) continue;
    now.weight = arena.weight;
    now.least_percent = arena.least_percent;
    return true;
  }
  return false;
}

int Keeper::sleep_ms(Clock::time_point now) {
  for (const auto& arena : arenas_)
    if (arena->has_more()) return 0;
  const auto until_period = std::chrono::milliseconds(machine_.config.period_ms) -
                            std::chrono::duration_cast<std::chrono::milliseconds>(now - last_period_);
  const int soon = static_cast<int>(std::clamp<int64_t>(until_period.count(), 0, machine_.config.period_ms));
  if (idle_periods_ < kIdlePeriods) return soon;
  bool waits = false;
  for (const auto& arena : arenas_) waits = waits || arena->waits();
  if (waits)
    return static_cast<int>(10 *
                            machine_.config.period_ms);  // a step that stays open does not ring when it ends
  for (const auto& arena : arenas_) arena->set_asleep(true);
  asleep_ = true;
  full_fence();  // asleep | clients' rings and counters; pairs with the fence before a client looks at keeper_asleep
  for (const auto& arena : arenas_)
    if (arena->has_work()) return 0;
  return -1;
}

void Keeper::awake() {
  if (!asleep_) return;
  asleep_ = false;
  idle_periods_ = 0;
  for (const auto& arena : arenas_) arena->set_asleep(false);
}

void Keeper::quiesce(std::chrono::milliseconds limit) {
  const auto end = Clock::now() + limit;
  for (;;) {
    pass(Clock::now());
    bool waits = false;
    for (const auto& arena : arenas_) waits = waits || arena->is_unsettled() || arena->has_work();
    if (!waits || Clock::now() >= end) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

Arena* Keeper::find_arena(const std::string& name) {
  for (size_t i = 0; i < arenas_.size(); ++i)
    if (machine_.config.arenas[i].name == name) return arenas_[i].get();
  return nullptr;
}

bool Keeper::emulated() const {
  return std::any_of(machine_.config.tiers.begin(), machine_.config.tiers.end(),
                     [](const TierConfig& tier) { return tier.kind == "emulated-hbm"; });
}

}  // namespace kvt::keeper
