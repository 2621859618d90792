// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/keeper.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <thread>

#include "daemon/keeper/adopt.h"
#include "daemon/restart/points.h"
#include "daemon/tier/budget.h"

namespace kvt::keeper {
namespace {

/// Periods without work after which the loop sleeps without a timeout.
constexpr uint32_t kIdlePeriods = 20;

/// The service manager has so long to say that it keeps all arenas.
constexpr std::chrono::milliseconds kStorePatience{10'000};

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

/// For frames that are to be used again (Arena::resize).
Result<void> has_memory(uint64_t bytes) {
  KVT_TRY_ASSIGN(const uint64_t there, tier::available_memory_bytes());
  if (bytes > there)
    return fail(Code::kFull,
                fmt::format("{} MiB can be had, of the machine or of the service's cgroup", there >> 20));
  return {};
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

/// Beside arenas that are in use new ones may have no room: those that do not fit are left out, the last first.
void leave_out_new(Config& config, restart::Kept& kept, const Progress& progress) {
  while (true) {
    const auto shares = share_tiers(config);
    if (shares) return;
    const auto last =
        std::find_if(config.arenas.rbegin(), config.arenas.rend(),
                     [&](const ArenaConfig& arena) { return kept.state.find_arena(arena.name) == nullptr; });
    if (last == config.arenas.rend()) return;
    progress(fmt::format("arena \"{}\" is not made: {}", last->name, shares.error().text));
    config.arenas.erase(std::next(last).base());
  }
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

ArenaSettings Keeper::settings_for(const ArenaConfig& arena) const {
  const Config& config = machine_.config;
  ArenaSettings settings = settings_of(config.policy);
  settings.predictor.advice_periods = std::clamp<uint32_t>(1000 / config.period_ms, 1, 127);  // a second
  settings.period_ms = config.period_ms;
  settings.inject = inject_;
  settings.integrity = arena.integrity == "all"     ? Integrity::kAll
                       : arena.integrity == "moves" ? Integrity::kMoves
                                                    : Integrity::kOff;
  settings.scrub_pages_per_second = arena.scrub_pages_per_second;
  settings.prefault = config.prefault;
  settings.has_memory = has_memory;
  settings.fixed_read_bytes_per_second = arena.fixed_read_gbps * 1e9;
  return settings;
}

Result<std::unique_ptr<Keeper>> Keeper::create(const Machine& planned, Inject inject,
                                               const Progress& progress, restart::Kept given) {
  std::unique_ptr<Keeper> keeper(new Keeper());
  keeper->machine_ = planned;
  keeper->kept_ = std::move(given);
  keeper->inject_ = inject;
  keeper->progress_ = progress;
  restart::Kept& kept = keeper->kept_;
  const Machine& machine = keeper->machine_;
  if (kept.is_adopted) leave_out_new(keeper->machine_.config, kept, progress);
  const Config& config = machine.config;
  KVT_TRY_ASSIGN(const auto shares, share_tiers(config));
  if (kept.is_adopted) wait_for_copies_before(machine, kept, progress);
  // Not before: the next one waits for the copies of one daemon alone, and this one has had none yet.
  kept.state.set_daemon_pid(static_cast<int>(::getpid()));
  const Pace pace{std::max(1u, std::thread::hardware_concurrency()), nullptr};
  const auto make_new = [&](size_t i, uint32_t number) -> Result<std::unique_ptr<Arena>> {
    const ArenaConfig& arena = config.arenas[i];
    const bool with_sums = arena.integrity != "off";
    KVT_TRY_ASSIGN(const ArenaGeometry geometry, geometry_on(machine, arena, shares[i]));
    // Nobody has looked whether there is memory beside what is in use.
    if (kept.is_adopted) KVT_TRY(check_memory_for(machine, geometry, with_sums));
    KVT_TRY_ASSIGN(ArenaMemory memory, make_memory(machine, geometry, with_sums, progress, pace));
    KVT_TRY(store_arena(kept, arena, geometry.arena_id, memory));
    KVT_TRY(kept.store.wait(kStorePatience));  // a slot that counts has its descriptors
    KVT_TRY(note_arena(kept, arena, geometry.arena_id, memory));
    return Arena::create(number, std::move(memory), keeper->settings_for(arena));
  };
  std::vector<ArenaConfig> made;
  for (size_t i = 0; i < config.arenas.size(); ++i) {
    const uint32_t number = keeper->next_number_++;
    restart::ArenaSlot* const slot = kept.state.find_arena(config.arenas[i].name);
    auto arena = slot != nullptr
                     ? adopt_arena(machine, kept, *slot, number, keeper->settings_for(config.arenas[i]),
                                   keeper->adoption_, progress)
                     : make_new(i, number);
    if (!arena) {
      // Beside arenas that are in use a new one may have no room: they go on.
      if (slot != nullptr || !kept.is_adopted || arena.error().code == Code::kSystem)
        return tl::unexpected<Error>(arena.error());
      progress(fmt::format("arena \"{}\" is not made: {}", config.arenas[i].name, arena.error().text));
      continue;
    }
    if (slot != nullptr) note_config(*slot, config.arenas[i]);
    keeper->arenas_.push_back(std::move(*arena));
    made.push_back(config.arenas[i]);
  }
  keeper->machine_.config.arenas = std::move(made);
  KVT_TRY(kept.store.wait(kStorePatience));  // before anybody is granted any of it (PROTOCOL A2)
  if (kept.is_adopted) restart::reach(restart::Point::kAdoptDone);
  KVT_TRY_ASSIGN(keeper->mover_, mover::Mover::start(config.copy_workers));
  KVT_TRY_ASSIGN(keeper->background_, Background::create());
  std::set<int> gpus;
  for (const TierOnMachine& tier : machine.tiers)
    if (tier.gpu) gpus.insert(tier.gpu->ordinal);
  for (const int ordinal : gpus) {
    KVT_TRY_ASSIGN(auto gpu, machine.gpus->gpu(ordinal));
    KVT_TRY(keeper->add_gpu(ordinal, std::move(gpu)));
  }
  for (const auto& arena : keeper->arenas_) arena->learn_gpus(*keeper->mover_);
  std::set<uint32_t> nodes;
  for (const TierOnMachine& tier : machine.tiers)
    for (const uint32_t node : tier.all_nodes()) nodes.insert(node);
  keeper->nodes_ = NodeWatch(nodes);
  keeper->last_period_ = Clock::now();
  return keeper;
}

Result<void> Keeper::add_gpu(int ordinal, std::shared_ptr<cuda::Gpu> gpu) {
  KVT_TRY(mover_->add_gpu(ordinal, std::move(gpu)));
  if (!mover_->can_sum(ordinal))
    progress_(fmt::format(
        "GPU {}: no kernel for checksums (this kvtierd has none, or the driver refuses it); integrity covers "
        "neither its memory nor the copies from and to it",
        ordinal));
  return {};
}

void Keeper::pass(Clock::time_point now) {
  bool worked = background_->finish();
  const std::vector<mover::Job> completions = mover_->take_completions();
  // Before any of them counts: what was read of a GPU that has failed may be anything.
  for (const mover::Job& job : completions)
    if (job.lost_device)
      for (const auto& arena : arenas_) arena->distrust(job.gpu);
  for (const mover::Job& job : completions) {
    arena_of(job).commit(job);
    if (job.lost_device) on_lost_gpu(job.gpu, job.driver_error);
    worked = true;
  }
  if (wants_restart_) return;  // the next one goes on
  give_back_deleted();
  const auto elapsed = now - last_period_;
  const bool period = elapsed >= std::chrono::milliseconds(machine_.config.period_ms);
  // A period that was slept through is one period: heat does not age while nobody reads.
  const double seconds = std::min(std::chrono::duration<double>(elapsed).count(), 0.1);
  if (period) {
    look_at_nodes(now);
    share_budget();
  }
  for (const auto& arena : arenas_) {
    worked |= arena->pass(*mover_, period, seconds);
    do_chunk_work(*arena);
  }
  if (period) {
    last_period_ = now;
    idle_periods_ = worked ? 0 : idle_periods_ + 1;
  } else if (worked) {
    idle_periods_ = 0;
  }
}

/// Nothing brings a context back but another process, in which the GPU may be as well as its memory is: so this one ends
/// where another follows it and takes all over (decision 0028). Not for ever, and not where nothing is kept: then the GPU
/// is lost, to all arenas.
void Keeper::on_lost_gpu(int gpu, int driver_error) {
  if (wants_restart_) return;
  const bool is_kept = kept_.store.is_kept();
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  if (is_kept && kept_.state.note_renewal(static_cast<uint64_t>(now.tv_sec))) {
    wants_restart_ = true;
    notes_.push_back(
        {events::Kind::kGpuRenewal,
         fmt::format("GPU {} does nothing any more in this process (CUDA error {}): kvtierd ends, and the "
                     "next one makes its context anew. No page is moved or lost by that",
                     gpu, driver_error)});
    return;
  }
  if (is_kept && lost_gpus_.insert(gpu).second)
    notes_.push_back({events::Kind::kGpuRenewal,
                      fmt::format("GPU {} does nothing any more (CUDA error {}), and its context was made "
                                  "anew {} times within {} minutes: kvtierd goes on without it",
                                  gpu, driver_error, restart::RestartState::kRenewalsMax,
                                  restart::RestartState::kRenewalsSeconds / 60)});
  for (const auto& arena : arenas_) arena->lose_gpu(gpu, driver_error);
}

/// Of a tier that has no memory on its nodes any more nothing new is used, and what is there leaves it: the kernel has moved
/// it to wherever it found room.
void Keeper::look_at_nodes(Clock::time_point now) {
  for (const NodeWatch::Change& change : nodes_.look(now)) {
    for (size_t i = 0; i < machine_.tiers.size(); ++i) {
      const std::vector<uint32_t> nodes = machine_.tiers[i].all_nodes();
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

void Keeper::end_copies() {
  if (mover_->stop_gpus()) kept_.state.set_daemon_pid(0);
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
