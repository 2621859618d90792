// SPDX-License-Identifier: Apache-2.0
//
// Keeper: arenas that come and go while the loop runs. What takes long is a thread's (background.h).
//
//   create_arena: its share of the tiers is taken -> thread: memory made, prefaulted
//                 -> descriptors to the store -> thread: waits for the barrier
//                 -> slot of the restart state -> it is there, and can be attached
//   delete_arena: slot cleared, nobody finds it -> its copies end -> descriptors removed from the store
//                 -> thread: unmapped -> its share is free again
//   chunks of device memory: an arena's ChunkWork -> removed from the store -> thread: unmapped
//                            -> thread: made -> to the store -> thread: waits for the barrier
//
// So a daemon that is killed anywhere leaves an arena that is whole, or descriptors that no slot speaks of, which the next
// one lets go of (drop_unnamed).
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <thread>

#include "daemon/keeper/adopt.h"
#include "daemon/keeper/keeper.h"
#include "daemon/keeper/size_text.h"
#include "daemon/restart/points.h"

namespace kvt::keeper {
namespace {

using restart::Point;
using restart::reach;

/// The service manager has so long to say that it keeps the arena.
constexpr std::chrono::milliseconds kStorePatience{10'000};
/// Between two looks at whether the daemon is to stop.
constexpr int kLookMs = 100;

/// Half of the processors: engines have need of the others.
uint32_t prefault_threads() { return std::max(1u, std::thread::hardware_concurrency() / 2); }

/// Of a configuration: its bytes of a tier; 0 where it names none.
uint64_t bytes_of(const ArenaConfig& arena, const std::string& tier) {
  for (const auto& [name, bytes] : arena.bytes)
    if (name == tier) return bytes;
  return 0;
}

/// The windows as they are, as a configuration has them; of device memory what has not been given up.
std::vector<std::pair<std::string, uint64_t>> windows_of(const Arena& arena) {
  std::vector<std::pair<std::string, uint64_t>> windows;
  for (uint32_t tier = 0; tier < arena.table().tiers(); ++tier)
    windows.emplace_back(arena.table().tier(tier).name, arena.device_bytes(tier));
  return windows;
}

std::string windows_text(const std::vector<std::pair<std::string, uint64_t>>& windows) {
  std::string text;
  for (const auto& [name, bytes] : windows)
    text += fmt::format("{}{} of {}", text.empty() ? "" : ", ", size_text(bytes), name);
  return text;
}

/// Whether the store has done what was sent before the barrier. By the thread.
bool wait_for_barrier(const Fd& barrier, const std::atomic<bool>& stop) {
  const auto end = std::chrono::steady_clock::now() + kStorePatience;
  while (!stop.load(std::memory_order_relaxed) && std::chrono::steady_clock::now() < end) {
    pollfd wait{barrier.get(), POLLIN, 0};
    if (::poll(&wait, 1, kLookMs) > 0) return true;
  }
  return false;
}

}  // namespace

size_t Keeper::place_of(const Arena& arena) const {
  const auto found =
      std::find_if(arenas_.begin(), arenas_.end(), [&](const auto& each) { return each.get() == &arena; });
  KVT_CHECK(found != arenas_.end());
  return static_cast<size_t>(found - arenas_.begin());
}

/// Whose copy it is: the memory of an arena does not go before its copies have ended.
Arena& Keeper::arena_of(const mover::Job& job) {
  for (const auto& arena : arenas_)
    if (arena->number() == job.arena) return *arena;
  const auto found = std::find_if(going_.begin(), going_.end(), [&](const Going& going) {
    return going.arena != nullptr && going.arena->number() == job.arena;
  });
  KVT_CHECK(found != going_.end());
  return *found->arena;
}

bool Keeper::is_coming_or_going(const std::string& name) const {
  const auto has_name = [&](const auto& each) { return each.config.name == name; };
  return std::any_of(coming_.begin(), coming_.end(), has_name) ||
         std::any_of(going_.begin(), going_.end(), has_name);
}

uint64_t Keeper::free_bytes(const TierConfig& tier) const {
  uint64_t taken = 0;
  for (const auto& arena : arenas_)
    for (const auto& [name, bytes] : windows_of(*arena)) taken += name == tier.name ? bytes : 0;
  for (const Coming& coming : coming_) taken += bytes_of(coming.config, tier.name);
  for (const Going& going : going_) taken += bytes_of(going.config, tier.name);
  return tier.bytes > taken && tier.is_configured ? tier.bytes - taken : 0;
}

/// What the arena gets of each tier: of one that it does not name all that is free, or nothing where that is no page. kFull:
/// which has no room, and how much of it is free.
Result<std::map<std::string, uint64_t>> Keeper::take_share(const ArenaConfig& arena) const {
  std::map<std::string, uint64_t> share;
  std::string full;  // tiers of which it would have taken what is free
  bool first = true;
  for (const TierConfig& tier : machine_.config.tiers) {
    if (tier.column >= static_cast<int32_t>(arena.columns)) continue;
    const uint64_t free = free_bytes(tier);
    const auto named = std::find_if(arena.bytes.begin(), arena.bytes.end(),
                                    [&](const auto& entry) { return entry.first == tier.name; });
    const bool is_named = named != arena.bytes.end();
    const uint64_t least = arena.page_bytes * (first ? 2 : 1);  // the first frame is nobody's
    if (!is_named && free < least) {
      share[tier.name] = 0;
      full += fmt::format("{}{} of {} of \"{}\"", full.empty() ? "" : ", ", free, tier.bytes, tier.name);
      continue;
    }
    share[tier.name] = is_named ? named->second : free;
    if (share[tier.name] == 0) continue;
    first = false;
    if (share[tier.name] <= free) continue;
    return fail(Code::kFull,
                fmt::format("tier \"{}\" has no room: arena \"{}\" wants {} bytes, and {} of {} are free",
                            tier.name, arena.name, named->second, free, tier.bytes));
  }
  if (first && !full.empty())
    return fail(Code::kFull,
                fmt::format("no tier has room: arena \"{}\" wants at least {} bytes, and these are free: {}",
                            arena.name, 2 * arena.page_bytes, full));
  return share;
}

Result<void> Keeper::create_arena(ArenaConfig arena, const std::map<std::string, std::string>& sources,
                                  Made made) {
  if (is_coming_or_going(arena.name))
    return fail(Code::kAgain,
                fmt::format("an arena \"{}\" is being made, or its memory given back", arena.name));
  if (find_arena(arena.name) != nullptr)
    return fail(Code::kInvalid, fmt::format("there is an arena \"{}\"", arena.name));
  if (arenas_.size() + coming_.size() + going_.size() >= KVT_MAX_ARENAS)
    return fail(Code::kLimit, fmt::format("{} arenas are all that can be", KVT_MAX_ARENAS));
  constexpr size_t kNameMax = sizeof restart::ArenaSlot{}.owner - 1;
  if (arena.owner.size() > kNameMax || arena.group.size() > kNameMax)
    return fail(Code::kInvalid,
                fmt::format("arena \"{}\": owner and group have up to {} bytes", arena.name, kNameMax));
  KVT_TRY_ASSIGN(const auto share, take_share(arena));
  arena.bytes.clear();
  for (const TierConfig& tier : machine_.config.tiers)  // with all tiers named it is the same again
    arena.bytes.emplace_back(tier.name, share.contains(tier.name) ? share.at(tier.name) : 0);
  KVT_TRY_ASSIGN(ArenaGeometry geometry, geometry_on(machine_, arena, share));
  const bool with_sums = arena.integrity != "off";
  if (!kept_.store.has_room(geometry.tiers.size() + 1 + (with_sums ? 1 : 0)))
    return fail(Code::kLimit,
                fmt::format("the service manager keeps {} of {} descriptors, and the arena needs more "
                            "(daemon.descriptors_max, FileDescriptorStoreMax)",
                            kept_.store.stored(), kept_.store.max()));
  const uint64_t id = geometry.arena_id;
  coming_.push_back({std::move(arena), sources, id, nullptr, std::move(made)});
  // By the thread: values of its own, since policy and arenas of machine_ change meanwhile.
  struct Work {
    Machine machine;
    ArenaGeometry geometry;
    std::vector<std::string> lines;
    Result<ArenaMemory> memory = fail(Code::kAgain, "not made");
  };
  const auto work = std::make_shared<Work>();
  work->machine = machine_;
  work->geometry = std::move(geometry);
  const std::atomic<bool>* const stop = &background_->should_stop();
  auto begun = background_->submit([this, work, id, with_sums, stop]() -> Background::Then {
    work->memory = [&]() -> Result<ArenaMemory> {
      KVT_TRY(check_memory_for(work->machine, work->geometry, with_sums));
      return make_memory(
          work->machine, work->geometry, with_sums,
          [&](const std::string& line) { work->lines.push_back(line); }, Pace{prefault_threads(), stop});
    }();
    if (work->memory) reach(Point::kCreateMade);
    return [this, work, id] { on_made(id, std::move(work->memory), work->lines); };
  });
  if (!begun) coming_.pop_back();
  return begun;
}

/// The thread has made its memory, or there is none.
void Keeper::on_made(uint64_t arena_id, Result<ArenaMemory> memory, const std::vector<std::string>& lines) {
  for (const std::string& line : lines) progress_(line);
  if (!memory) return give_up(arena_id, memory.error());
  Coming& coming = *std::find_if(coming_.begin(), coming_.end(),
                                 [&](const Coming& each) { return each.arena_id == arena_id; });
  auto arena = Arena::create(next_number_++, std::move(*memory), settings_for(coming.config));
  if (!arena) return give_up(arena_id, arena.error());
  coming.arena = std::move(*arena);
  if (auto stored = store(coming); !stored) return give_up(arena_id, stored.error());
}

/// Before anybody is granted any of it (PROTOCOL A2).
Result<void> Keeper::store(Coming& coming) {
  const uint64_t id = coming.arena_id;
  KVT_TRY(store_arena(kept_, coming.config, id, coming.arena->memory()));
  KVT_TRY_ASSIGN(Fd barrier, kept_.store.barrier());
  const std::atomic<bool>* const stop = &background_->should_stop();
  // Without a manager there is nothing to wait for.
  return background_->submit(
      [this, id, stop, wait = std::make_shared<const Fd>(std::move(barrier))]() -> Background::Then {
        const bool is_stored = !wait->valid() || wait_for_barrier(*wait, *stop);
        return [this, id, is_stored] { on_stored(id, is_stored); };
      });
}

void Keeper::on_stored(uint64_t arena_id, bool is_stored) {
  if (!is_stored) return give_up(arena_id, {Code::kAgain, 0, "the service manager does not answer"});
  reach(Point::kCreateStored);
  const auto found = std::find_if(coming_.begin(), coming_.end(),
                                  [&](const Coming& each) { return each.arena_id == arena_id; });
  if (auto noted = note_arena(kept_, found->config, arena_id, found->arena->memory()); !noted)
    return give_up(arena_id, noted.error());
  reach(Point::kCreateRecorded);
  Coming come = std::move(*found);
  coming_.erase(found);
  come.arena->set_policy(settings_for(come.config));  // it may have changed while this waited
  for (const auto& [key, source] : come.sources)
    machine_.config.given["arena." + come.config.name + "." + key] = source;
  machine_.config.arenas.push_back(std::move(come.config));
  arenas_.push_back(std::move(come.arena));
  Arena& arena = *arenas_.back();
  arena.learn_gpus(*mover_);
  idle_periods_ = 0;
  notes_.push_back({events::Kind::kArenaCreated,
                    fmt::format("arena \"{}\" is there: {} pages of {}; {}", arena.table().header().name,
                                arena.table().pages(), size_text(arena.table().page_bytes()),
                                windows_text(windows_of(arena)))});
  come.made(&arena);
}

/// There will be no such arena; its share is free again when its memory is.
void Keeper::give_up(uint64_t arena_id, const Error& error) {
  const auto found = std::find_if(coming_.begin(), coming_.end(),
                                  [&](const Coming& each) { return each.arena_id == arena_id; });
  Coming lost = std::move(*found);
  coming_.erase(found);
  if (lost.arena != nullptr) going_.push_back({std::move(lost.arena), std::move(lost.config), arena_id, {}});
  lost.made(tl::unexpected<Error>(error));
}

void Keeper::delete_arena(Arena& arena, std::function<void()> done) {
  KVT_CHECK(arena.session_count() == 0);
  const size_t place = place_of(arena);
  const auto at = static_cast<std::ptrdiff_t>(place);
  Going going{std::move(arenas_[place]), std::move(machine_.config.arenas[place]),
              arena.table().header().arena_id, std::move(done)};
  arenas_.erase(arenas_.begin() + at);
  machine_.config.arenas.erase(machine_.config.arenas.begin() + at);
  const std::string of = "arena." + going.config.name + ".";
  std::erase_if(machine_.config.given, [&](const auto& entry) {
    return entry.first.starts_with(of) && entry.first.find('.', of.size()) == std::string::npos;
  });
  going.config.bytes = windows_of(arena);
  // First of all: from here on the next daemon knows of none.
  if (restart::ArenaSlot* const slot = kept_.state.find_arena(going.config.name); slot != nullptr)
    restart::RestartState::clear(*slot);
  reach(Point::kDeleteRecorded);
  if (arenas_.size() == 1) arenas_.front()->set_budget_share(1);  // share_budget() leaves one alone
  going_.push_back(std::move(going));
}

/// Of arenas whose copies have ended the memory goes.
void Keeper::give_back_deleted() {
  for (Going& going : going_) {
    if (going.arena == nullptr || going.arena->copies() != 0) continue;
    remove_arena(kept_, going.arena_id, going.arena->memory());
    reach(Point::kDeleteRemoved);
    const uint64_t id = going.arena_id;
    auto memory = std::make_shared<std::unique_ptr<Arena>>(std::move(going.arena));
    auto begun = background_->submit([this, id, memory]() -> Background::Then {
      memory->reset();
      return [this, id] { on_gone(id); };
    });
    if (begun) continue;
    memory->reset();  // no thread can be had: the loop does it
    return on_gone(id);
  }
}

void Keeper::on_gone(uint64_t arena_id) {
  const auto found = std::find_if(going_.begin(), going_.end(),
                                  [&](const Going& each) { return each.arena_id == arena_id; });
  const Going gone = std::move(*found);
  going_.erase(found);
  if (!gone.done) return;  // it never was there for anybody
  notes_.push_back(
      {events::Kind::kArenaDeleted, fmt::format("arena \"{}\" is deleted: {} are free again",
                                                gone.config.name, windows_text(gone.config.bytes))});
  gone.done();
}

/// Device memory that an arena gives up, or takes again.
void Keeper::do_chunk_work(Arena& arena) {
  for (const Arena::ChunkWork& work : arena.take_chunk_work()) {
    if (work.chunks < work.before)
      unmap_chunks(arena, work);
    else if (auto begun = make_chunks(arena, work); !begun)
      arena.on_chunks(work.tier, begun);
  }
}

/// Nobody has them mapped any more but this process.
void Keeper::unmap_chunks(Arena& arena, const Arena::ChunkWork& work) {
  const uint64_t id = arena.table().header().arena_id;
  for (size_t chunk = work.chunks; chunk < work.before; ++chunk)
    kept_.store.remove(restart::window_name(id, work.tier, chunk));
  auto device = std::make_shared<std::shared_ptr<tier::DeviceMemory>>(arena.memory().devices[work.tier]);
  const auto unmap = [this, number = arena.number(), work, device] {
    (*device)->shrink(work.chunks);
    device->reset();  // the arena may be the next to go
    return [this, number, work] { on_chunks(number, work.tier, {}); };
  };
  // Where no thread can be had the loop does it: the next daemon knows of none any more.
  if (!background_->submit([unmap]() -> Background::Then { return unmap(); })) unmap()();
}

Result<void> Keeper::make_chunks(Arena& arena, const Arena::ChunkWork& work) {
  const char* const name = arena.table().tier(work.tier).name;
  const uint64_t bytes = (work.chunks - work.before) * arena.table().device(work.tier).chunk_bytes;
  for (const TierConfig& tier : machine_.config.tiers) {
    if (tier.name != name) continue;
    uint64_t taken = 0;  // its own part of it, too
    for (const auto& each : arenas_)
      for (const auto& [of, has] : windows_of(*each)) taken += of == tier.name ? has : 0;
    for (const Coming& coming : coming_) taken += bytes_of(coming.config, tier.name);
    for (const Going& going : going_) taken += bytes_of(going.config, tier.name);
    if (taken > std::max(tier.bytes, tier.adopted_bytes))
      return fail(Code::kFull, fmt::format("{} of it are wanted, and other arenas have what was given up",
                                           size_text(bytes)));
  }
  if (!arena.table().is_hbm(work.tier)) KVT_TRY(settings_for(arena_config(arena)).has_memory(bytes));
  if (!kept_.store.has_room(work.chunks - work.before))
    return fail(Code::kLimit, "the service manager keeps no more descriptors");
  auto device = std::make_shared<std::shared_ptr<tier::DeviceMemory>>(arena.memory().devices[work.tier]);
  auto made = std::make_shared<Result<void>>();
  return background_->submit([this, number = arena.number(), work, device, made]() -> Background::Then {
    *made = (*device)->grow(work.chunks);
    device->reset();
    return [this, number, work, made] {
      if (!*made) return on_chunks(number, work.tier, *made);
      if (auto stored = store_chunks(number, work); !stored) undo_chunks(number, work, stored.error());
    };
  });
}

/// Before a member is told of them (PROTOCOL A2).
Result<void> Keeper::store_chunks(uint32_t number, const Arena::ChunkWork& work) {
  Arena* const arena = arena_by_number(number);
  if (arena == nullptr) return {};
  const std::vector<int> fds = arena->memory().devices[work.tier]->fds();
  for (size_t chunk = work.before; chunk < work.chunks; ++chunk)
    KVT_TRY(kept_.store.put(restart::window_name(arena->table().header().arena_id, work.tier, chunk),
                            fds[chunk]));
  KVT_TRY_ASSIGN(Fd barrier, kept_.store.barrier());
  const std::atomic<bool>* const stop = &background_->should_stop();
  return background_->submit([this, number, work, stop,
                              wait = std::make_shared<const Fd>(std::move(barrier))]() -> Background::Then {
    const bool is_stored = !wait->valid() || wait_for_barrier(*wait, *stop);
    return [this, number, work, is_stored] {
      if (is_stored) return on_chunks(number, work.tier, {});
      undo_chunks(number, work, {Code::kAgain, 0, "the service manager does not answer"});
    };
  });
}

/// They are there, and not stored: a daemon after this one would not have them.
void Keeper::undo_chunks(uint32_t number, const Arena::ChunkWork& work, const Error& error) {
  Arena* const arena = arena_by_number(number);
  if (arena == nullptr) return;
  for (size_t chunk = work.before; chunk < work.chunks; ++chunk)
    kept_.store.remove(restart::window_name(arena->table().header().arena_id, work.tier, chunk));
  auto device = std::make_shared<std::shared_ptr<tier::DeviceMemory>>(arena->memory().devices[work.tier]);
  const auto undo = [this, number, work, error, device] {
    if (*device != nullptr) (*device)->shrink(work.before);
    device->reset();
    return [this, number, work, error] { on_chunks(number, work.tier, tl::unexpected<Error>(error)); };
  };
  if (!background_->submit([undo]() -> Background::Then { return undo(); })) undo()();
}

void Keeper::on_chunks(uint32_t number, uint32_t tier, const Result<void>& done) {
  idle_periods_ = 0;
  if (Arena* const arena = arena_by_number(number); arena != nullptr) arena->on_chunks(tier, done);
}

/// Null: it is being deleted.
Arena* Keeper::arena_by_number(uint32_t number) {
  for (const auto& arena : arenas_)
    if (arena->number() == number) return arena.get();
  return nullptr;
}

}  // namespace kvt::keeper
