// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/adopt.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "daemon/keeper/new_arena.h"
#include "daemon/tier/budget.h"
#include "shm/base/uuid.h"

namespace kvt::keeper {
namespace {

constexpr int kCudaErrorNoDevice = 100;
/// Ordinals of GPUs that are not here any more: one for each tier of theirs.
constexpr int kLostGpu = 1 << 20;

Result<Fd> take(restart::Kept& kept, const std::string& arena, const std::string& name, uint64_t bytes) {
  Fd fd = kept.store.take(name);
  if (!fd.valid())
    return fail(Code::kNotFound,
                fmt::format("arena \"{}\": the service manager has no descriptor \"{}\"; stopping the "
                            "service gives up what is left of it",
                            arena, name));
  if (bytes == 0) return fd;
  KVT_TRY_ASSIGN(const uint64_t has, file_bytes(fd));
  if (has != bytes)
    return fail(Code::kMismatch, fmt::format("arena \"{}\": descriptor \"{}\" has {} bytes; expected {}",
                                             arena, name, has, bytes));
  return fd;
}

bool is_huge(const Fd& fd) {
  struct stat status {};
  return ::fstat(fd.get(), &status) == 0 && static_cast<uint64_t>(status.st_blksize) >= tier::kHugePageBytes;
}

const TierOnMachine* find_tier(const Machine& machine, const char* name) {
  for (size_t i = 0; i < machine.config.tiers.size(); ++i)
    if (machine.config.tiers[i].name == name) return &machine.tiers[i];
  return nullptr;
}

/// The chunks of a window of device memory, mapped again. False: the GPU or its memory is not there any more.
bool import_window(const Machine& machine, restart::Kept& kept, const ArenaWriter& table, uint32_t tier,
                   const std::vector<int>& gpus, ArenaMemory& memory, const Progress& progress) {
  const kvt_abi_device& device = table.device(tier);
  const auto lost = [&](const std::string& why) {
    progress(fmt::format("arena \"{}\", tier {}: its memory is lost: {}", table.header().name,
                         table.tier(tier).name, why));
    return false;
  };
  if (machine.gpus == nullptr) return lost(machine.cuda_text);
  const auto& list = machine.gpus->list();
  const auto gpu = std::find_if(list.begin(), list.end(), [&](const tier::GpuMemory& each) {
    return std::equal(each.uuid.begin(), each.uuid.end(), std::begin(device.uuid));
  });
  if (gpu == list.end()) return lost("its GPU is not there");
  tier::WindowRequest request;
  request.name = fmt::format("{}-{}", table.header().name, table.tier(tier).name);
  request.bytes = table.tier(tier).window_bytes;
  request.chunk_bytes = device.chunk_bytes;
  request.range = &memory.range;
  request.offset = table.window_offset(tier);
  request.peers = peers_among(machine, gpus, gpu->ordinal);
  std::vector<Fd> chunks;
  const uint64_t all = table.window_descriptors(tier);
  const uint64_t given_up = table.chunks_given_up(tier);
  if (given_up >= all) return lost(fmt::format("{} of {} chunks are given up", given_up, all));
  for (uint64_t chunk = 0; chunk < all - given_up; ++chunk) {
    chunks.push_back(kept.store.take(restart::window_name(table.header().arena_id, tier, chunk)));
    if (!chunks.back().valid()) return lost(fmt::format("chunk {} is missing", chunk));
  }
  request.adopt = std::make_shared<std::vector<Fd>>(std::move(chunks));
  if (!table.is_hbm(tier)) {  // as the table says: the configuration may name another kind by now
    const TierOnMachine* const plan = find_tier(machine, table.tier(tier).name);
    if (plan != nullptr && plan->gpu_host)
      request.nodes = plan->parts;
    else
      request.nodes.push_back({static_cast<uint32_t>(std::max(0, gpu->numa_node)), 1});
  }
  const auto backend = machine.gpus->backend(gpu->ordinal);
  if (!backend) return lost(backend.error().text);
  auto window = (*backend)->make_window(request);
  if (!window) return lost(window.error().text);
  take_peers(*window, table.header().name, table.tier(tier).name, memory.tier_peers[tier], progress);
  memory.device_fds[tier] = window->device->fds();
  memory.devices[tier] = std::move(window->device);
  memory.tier_gpu[tier] = gpu->ordinal;
  return true;
}

/// The pages' checksums, where the arena keeps some now: those of before, or none yet.
Result<void> map_sums(restart::Kept& kept, const restart::ArenaSlot& slot, uint64_t pages,
                      ArenaMemory& memory) {
  const uint64_t bytes = PageSums::bytes(pages);
  const std::string name = restart::sums_name(slot.arena_id);
  memory.sums_fd = kept.store.take(name);
  if (const auto has = memory.sums_fd.valid() ? file_bytes(memory.sums_fd) : Result<uint64_t>(0);
      !has || *has != bytes) {
    kept.store.remove(name);
    KVT_TRY_ASSIGN(memory.sums_fd, make_memfd("kvt-sums-" + std::string(slot.name), bytes));
    KVT_TRY(kept.store.put(name, memory.sums_fd.get()));
  }
  KVT_TRY_ASSIGN(memory.sums, Mapping::map(memory.sums_fd, bytes, Access::kReadWrite));
  return {};
}

Result<ArenaMemory> map_memory(const Machine& machine, restart::Kept& kept, const restart::ArenaSlot& slot,
                               bool with_sums, std::vector<int>& lost_gpus, const Progress& progress) {
  ArenaMemory memory;
  const std::string name = slot.name;
  KVT_TRY_ASSIGN(memory.table_fd, take(kept, name, restart::table_name(slot.arena_id), slot.table_bytes));
  KVT_TRY_ASSIGN(memory.table_mapping, Mapping::map(memory.table_fd, slot.table_bytes, Access::kReadWrite));
  advise_huge(memory.table_mapping.data(), slot.table_bytes);
  KVT_TRY_ASSIGN(const ArenaWriter table, ArenaWriter::adopt(memory.table_mapping.data(), slot.table_bytes));
  if (table.header().arena_id != slot.arena_id || name != table.header().name || table.tiers() != slot.tiers)
    return fail(Code::kMismatch, fmt::format("arena \"{}\": its table is of another arena", name));
  KVT_TRY_ASSIGN(memory.table_read_only_fd, reopen_read_only(memory.table_fd));
  std::vector<int> gpus;
  memory.tier_gpu.assign(table.tiers(), -1);
  memory.device_fds.resize(table.tiers());
  memory.devices.resize(table.tiers());
  memory.tier_peers.resize(table.tiers());
  for (uint32_t i = 0; i < table.tiers(); ++i)
    if (const TierOnMachine* const plan = find_tier(machine, table.tier(i).name);
        table.is_device(i) && plan != nullptr && plan->gpu)
      gpus.push_back(plan->gpu->ordinal);
  if (gpus.empty()) {
    KVT_TRY_ASSIGN(memory.range, AddressRange::reserve(table.range_bytes(), kWindowAlignment));
  } else {
    KVT_TRY_ASSIGN(memory.range,
                   machine.gpus->reserve_addresses(gpus.front(), table.range_bytes(), kWindowAlignment));
  }
  for (uint32_t i = 0; i < table.tiers(); ++i) {
    if (table.is_device(i)) {
      memory.window_fds.emplace_back();
      memory.window_read_only_fds.emplace_back();
      memory.windows.emplace_back();
      if (import_window(machine, kept, table, i, gpus, memory, progress)) continue;
      memory.tier_gpu[i] = kLostGpu + static_cast<int>(i);
      lost_gpus.push_back(memory.tier_gpu[i]);
      continue;
    }
    const uint64_t bytes = table.tier(i).window_bytes;
    KVT_TRY_ASSIGN(Fd fd, take(kept, name, restart::window_name(slot.arena_id, i, 0), bytes));
    KVT_TRY_ASSIGN(Fd read_only, reopen_read_only(fd));
    const OsPages pages = is_huge(fd) ? OsPages::kHuge2M : OsPages::kUsual;
    KVT_TRY_ASSIGN(Mapping window, memory.range.map(fd, bytes, Access::kReadWrite, table.window_offset(i)));
    const TierOnMachine* const plan = find_tier(machine, table.tier(i).name);
    if (plan != nullptr) advise_pages(window.data(), bytes, pages == OsPages::kHuge2M ? pages : plan->pages);
    if (wants_lock(machine.config, pages)) {
      const auto chunks = tier::divide(bytes, plan != nullptr ? plan->parts : std::vector<tier::NodePart>{});
      if (const auto locked =
              tier::lock_window(window, chunks, std::max(1u, std::thread::hardware_concurrency()));
          !locked)
        progress(fmt::format("arena \"{}\", tier {}: not locked, it may be swapped out: {}", name,
                             table.tier(i).name, locked.error().text));
    }
    if (!gpus.empty()) {
      auto registered =
          machine.gpus->register_host(gpus.front(), window, table.page_bytes(), [](uint64_t) {});
      if (!registered) return tl::unexpected<Error>(registered.error());
      memory.kept.push_back(std::move(*registered));
    }
    memory.window_fds.push_back(std::move(fd));
    memory.window_read_only_fds.push_back(std::move(read_only));
    memory.windows.push_back(std::move(window));
  }
  if (with_sums) KVT_TRY(map_sums(kept, slot, table.pages(), memory));
  return memory;
}

/// The sessions that may have been granted. What nobody can have is not taken over: its slot and names go.
std::vector<SessionRecord> session_records(restart::Kept& kept, uint64_t arena_id) {
  std::vector<SessionRecord> records;
  for (restart::SessionSlot* const slot : kept.state.sessions(arena_id)) {
    SessionRecord record;
    bool any = false;
    for (uint32_t i = 0; i < slot->members_max; ++i) {
      restart::MemberSlot& member = slot->member[i];
      if (member.valid == 0) continue;
      if (member.granted == 0) {  // it got nothing, and is told nothing
        restart::RestartState::clear(member);
        kept.store.remove(restart::pidfd_name(slot->valid, i));
        continue;
      }
      record.pids[i] = member.pid;
      any = true;
    }
    if (!any) {
      const uint64_t id = slot->valid;
      restart::RestartState::clear(*slot);
      kept.store.remove(restart::region_name(id));
      kept.store.remove(restart::doorbell_name(id));
      continue;
    }
    record.geometry.session_id = slot->valid;
    record.geometry.slot = slot->slot;
    record.geometry.members_max = slot->members_max;
    record.geometry.column = slot->column;
    record.read_write = slot->read_write != 0;
    record.uid = slot->uid;
    record.guarantee = slot->guarantee;
    record.device_tiers = slot->device_tiers;
    record.ending = slot->ending != 0;
    record.region_fd = kept.store.take(restart::region_name(slot->valid));
    records.push_back(std::move(record));
  }
  return records;
}

constexpr std::array<const char*, 3> kIntegrityNames{"off", "moves", "all"};

/// What the daemon that made the arena was told of it.
void take_config(const restart::ArenaSlot& slot, ArenaConfig& arena) {
  arena.mode = slot.mode;
  if (slot.weight == 0) return;  // it kept no more
  arena.weight = slot.weight;
  arena.least_percent = slot.least_percent;
  arena.fixed_read_gbps = slot.fixed_read_gbps;
  arena.integrity = kIntegrityNames[std::min<size_t>(slot.integrity, kIntegrityNames.size() - 1)];
  arena.scrub_pages_per_second = slot.scrub_pages_per_second;
  if (slot.sessions_per_user != 0) arena.sessions_per_user = slot.sessions_per_user;
  arena.owner = std::string(slot.owner, ::strnlen(slot.owner, sizeof slot.owner));
  arena.group = std::string(slot.group, ::strnlen(slot.group, sizeof slot.group));
}

/// All that is stored of an arena, by name.
std::vector<std::pair<std::string, int>> descriptors_of(uint64_t id, const ArenaMemory& memory) {
  std::vector<std::pair<std::string, int>> all{{restart::table_name(id), memory.table_fd.get()}};
  for (uint32_t tier = 0; tier < memory.window_fds.size(); ++tier) {
    if (memory.window_fds[tier].valid())
      all.emplace_back(restart::window_name(id, tier, 0), memory.window_fds[tier].get());
    for (size_t chunk = 0; chunk < memory.device_fds[tier].size(); ++chunk)
      all.emplace_back(restart::window_name(id, tier, chunk), memory.device_fds[tier][chunk]);
  }
  if (memory.sums_fd.valid()) all.emplace_back(restart::sums_name(id), memory.sums_fd.get());
  return all;
}

}  // namespace

bool wants_lock(const Config& config, OsPages pages) {
  if (config.lock_memory == "never" || !config.prefault || pages == OsPages::kHuge2M) return false;
  return config.lock_memory == "always" || tier::has_swap();
}

AdoptedArena as_adopted(const ArenaTable& table, ArenaConfig config) {
  const kvt_abi_arena_header& header = table.header();
  AdoptedArena adopted{std::move(config), {}};
  adopted.arena.page_bytes = header.page_bytes;
  adopted.arena.pages = header.pages;
  adopted.arena.block_tokens = header.block_tokens;
  adopted.arena.planes = header.planes;
  adopted.arena.columns = header.columns;
  adopted.arena.bytes.clear();
  for (uint32_t i = 0; i < header.tiers; ++i) {
    TierConfig window;
    window.name = header.tier[i].name;
    window.kind = (header.tier[i].flags & KVT_TIER_EMULATED) != 0 ? "emulated-hbm" : "numa";
    if (table.is_device(i)) {
      window.kind = table.is_hbm(i) ? "cuda" : "cuda-host";
      window.device = gpu_uuid_text(header.device[i].uuid);
    }
    window.bytes = window.windows_bytes = header.tier[i].window_bytes;
    if (const uint64_t given_up = table.chunks_given_up(i); table.is_device(i) && given_up != 0)
      window.bytes = (table.window_descriptors(i) - std::min(given_up, table.window_descriptors(i))) *
                     table.device(i).chunk_bytes;
    window.column = header.tier[i].column;
    window.read_gbps = static_cast<double>(header.tier[i].read_bytes_per_second) / 1e9;
    window.write_gbps = static_cast<double>(header.tier[i].write_bytes_per_second) / 1e9;
    adopted.arena.bytes.emplace_back(window.name, window.bytes);
    adopted.windows.push_back(std::move(window));
  }
  return adopted;
}

Result<std::vector<AdoptedArena>> adopted_arenas(restart::Kept& kept) {
  std::vector<AdoptedArena> all;
  if (!kept.is_adopted) return all;
  for (restart::ArenaSlot* const slot : kept.state.arenas()) {
    const std::string stored = restart::table_name(slot->arena_id);
    const int fd = kept.store.peek(stored);
    if (fd < 0)
      return fail(Code::kNotFound,
                  fmt::format("arena \"{}\": the service manager has no descriptor \"{}\"; stopping "
                              "the service gives up what is left of it",
                              slot->name, stored));
    const Fd table_fd(::dup(fd));
    KVT_TRY_ASSIGN(const uint64_t bytes, file_bytes(table_fd));
    if (bytes != slot->table_bytes)
      return fail(Code::kMismatch, fmt::format("arena \"{}\": its table has {} bytes; expected {}",
                                               slot->name, bytes, slot->table_bytes));
    KVT_TRY_ASSIGN(const Mapping mapping, Mapping::map(table_fd, bytes, Access::kReadOnly));
    auto table = ArenaWriter::adopt(mapping.data(), bytes);
    if (!table)
      return fail(table.error().code,
                  fmt::format("arena \"{}\", left by an earlier kvtierd: {}; nothing of it has been "
                              "touched",
                              slot->name, table.error().text));
    ArenaConfig config;
    config.name = slot->name;
    take_config(*slot, config);
    all.push_back(as_adopted(*table, std::move(config)));
  }
  return all;
}

void wait_for_copies_before(const Machine& machine, const restart::Kept& kept, const Progress& progress) {
  if (kept.daemon_before == 0 || machine.gpus == nullptr) return;
  using Clock = std::chrono::steady_clock;
  const auto limit = std::chrono::milliseconds(machine.config.cuda.quarantine_ms);
  const auto end = Clock::now() + limit;
  const auto lists_it = [&]() -> std::optional<bool> {
    const auto users = machine.gpus->processes();
    if (!users) return std::nullopt;
    return users->contains(kept.daemon_before);
  };
  std::optional<bool> listed = lists_it();
  if (listed == false) return;
  progress(fmt::format("waiting for the copies of process {}, the kvtierd before this one, to end",
                       kept.daemon_before));
  while (Clock::now() < end && listed != false) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    listed = lists_it();
  }
}

Result<std::unique_ptr<Arena>> adopt_arena(const Machine& machine, restart::Kept& kept,
                                           restart::ArenaSlot& slot, uint32_t number,
                                           const ArenaSettings& settings, Adoption& adoption,
                                           const Progress& progress) {
  std::vector<int> lost_gpus;
  KVT_TRY_ASSIGN(ArenaMemory memory,
                 map_memory(machine, kept, slot, settings.integrity != Integrity::kOff, lost_gpus, progress));
  std::vector<SessionRecord> records = session_records(kept, slot.arena_id);
  KVT_TRY_ASSIGN(auto arena, Arena::adopt(number, std::move(memory), settings, records, adoption));
  for (const int gpu : lost_gpus) arena->lose_gpu(gpu, kCudaErrorNoDevice);
  ++adoption.arenas;
  return arena;
}

Result<void> store_arena(restart::Kept& kept, const ArenaConfig& config, uint64_t arena_id,
                         const ArenaMemory& memory) {
  for (const auto& [name, fd] : descriptors_of(arena_id, memory))
    if (auto stored = kept.store.put(name, fd); !stored) {
      remove_arena(kept, arena_id, memory);
      return fail(stored.error().code, fmt::format("arena \"{}\": {}", config.name, stored.error().text));
    }
  return {};
}

Result<void> note_arena(restart::Kept& kept, const ArenaConfig& config, uint64_t arena_id,
                        const ArenaMemory& memory) {
  restart::ArenaSlot* const slot = kept.state.new_arena();
  if (slot == nullptr)
    return fail(Code::kLimit, fmt::format("{} arenas are all that can be", KVT_MAX_ARENAS));
  slot->arena_id = arena_id;
  slot->table_bytes = memory.table_mapping.bytes();
  std::memcpy(slot->name, config.name.data(), std::min(config.name.size(), sizeof slot->name - 1));
  slot->tiers = static_cast<uint32_t>(memory.window_fds.size());
  note_config(*slot, config);
  kept.state.commit(*slot);
  return {};
}

void note_config(restart::ArenaSlot& slot, const ArenaConfig& config) {
  // A daemon that is killed meanwhile leaves a mode, and nobody but the daemon's user as owner.
  store_release(slot.weight, uint32_t{0});
  slot.mode = config.mode;
  if (config.owner.size() >= sizeof slot.owner || config.group.size() >= sizeof slot.group) return;
  for (uint32_t i = 0; i < kIntegrityNames.size(); ++i)
    if (config.integrity == kIntegrityNames[i]) slot.integrity = i;
  slot.scrub_pages_per_second = config.scrub_pages_per_second;
  slot.sessions_per_user = config.sessions_per_user;
  slot.least_percent = config.least_percent;
  slot.fixed_read_gbps = config.fixed_read_gbps;
  std::memset(slot.owner, 0, sizeof slot.owner);
  std::memset(slot.group, 0, sizeof slot.group);
  std::memcpy(slot.owner, config.owner.data(), config.owner.size());
  std::memcpy(slot.group, config.group.data(), config.group.size());
  store_release(slot.weight, config.weight);
}

void remove_arena(restart::Kept& kept, uint64_t arena_id, const ArenaMemory& memory) {
  for (const auto& [name, fd] : descriptors_of(arena_id, memory)) kept.store.remove(name);
  // Chunks that were being taken again are among them, too.
  for (uint32_t tier = 0; tier < memory.window_fds.size(); ++tier)
    for (uint64_t chunk = memory.device_fds[tier].size(); chunk < KVT_WINDOW_CHUNKS; ++chunk)
      kept.store.remove(restart::window_name(arena_id, tier, chunk));
}

void drop_unnamed(restart::Kept& kept) {
  for (const std::string& name : kept.store.left()) kept.store.remove(name);
}

}  // namespace kvt::keeper
