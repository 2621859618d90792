// SPDX-License-Identifier: Apache-2.0
//
// The keeper loop's state: all arenas and the copy workers. It owns every byte that the daemon changes while
// it runs; nothing else writes it. One thread.
//
// While anybody reads, it passes over the arenas every period; when nothing has happened for a while it
// sleeps without a timeout until a doorbell rings (arena_header.keeper_asleep has the handshake).
#pragma once

#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/config/config.h"
#include "daemon/keeper/arena.h"
#include "daemon/keeper/background.h"
#include "daemon/keeper/machine.h"
#include "daemon/keeper/new_arena.h"
#include "daemon/keeper/node_watch.h"
#include "daemon/mover/mover.h"
#include "daemon/restart/kept.h"

namespace kvt::keeper {

class Keeper {
 public:
  using Clock = std::chrono::steady_clock;
  using Progress = keeper::Progress;

  /// Makes all arenas on a machine as planned, and takes over those that an earlier daemon has left in `kept`, where the
  /// new ones are noted, too. `progress` is told of arenas that are made later as well, on the loop's thread. Errors name
  /// the tier or arena: kFull (no such memory), kNotFound (node), kInvalid;
  /// kMismatch: what was left is of another major version, or damaged: nothing has been touched.
  static Result<std::unique_ptr<Keeper>> create(const Machine& machine, Inject inject,
                                                const Progress& progress, restart::Kept kept);

  /// One pass: completions, commands, and each period a round of placement. Call after every wake-up.
  void pass(Clock::time_point now);
  /// How long the loop may sleep, milliseconds; -1: until something rings. Publishes the sleep to clients
  /// first.
  int sleep_ms(Clock::time_point now);
  /// After the sleep.
  void awake();
  /// Lets all limbo drain and all copies end, as far as open steps allow, at most `limit`. For orderly ends
  /// and tests.
  void quiesce(std::chrono::milliseconds limit);

  /// An operator's move, by this keeper's workers. REQUIRES: the arena is this keeper's; column, page and
  /// tier exist.
  MoveRequest move(Arena& arena, uint32_t column, PageIndex page, uint32_t tier) {
    return arena.move(*mover_, column, page, tier);
  }

  /// From now on placement obeys this policy, but for its profile, which stays: bandwidths are in the arenas' tables.
  /// REQUIRES: it has been checked (parse_config, changed_policy).
  void set_policy(const PolicyConfig& policy);
  /// The same of an arena's part of the budget: weight and least_percent. False: no such arena.
  bool set_weight(const ArenaConfig& arena);
  /// What config() says of where values are from, of keys that begin with `prefix`: as in `given` from now on.
  void set_sources(const std::string& prefix, const std::map<std::string, std::string>& given);
  /// Of all values, as of a file that was read again.
  void take_sources(const Config& read) { machine_.config.take_sources(read); }
  void set_log_level(const std::string& level) { machine_.config.log_level = level; }
  [[nodiscard]] Arena* find_arena(const std::string& name);

  // ---- arenas that come and go while the loop runs (keeper_arenas.cc) ----

  /// Told when it is over: the arena, or why there is none.
  using Made = std::function<void(Result<Arena*>)>;
  /// An arena takes its share of the tiers now, a thread makes its memory, and when that is stored for the next daemon it
  /// can be attached, and `made` is told, in a pass(). Of a tier that `arena` does not name it gets what no other arena
  /// has. `sources`: where its values come from, by key. Errors, of which `made` is not told: kInvalid (the name is taken,
  /// or it cannot be made like this), kFull (a tier has no room; which, wanted and free), kLimit.
  Result<void> create_arena(ArenaConfig arena, const std::map<std::string, std::string>& sources, Made made);
  /// From now on nobody finds the arena, and the next daemon will not. Its memory goes when its copies have ended; then
  /// `done` is told. REQUIRES: it is this keeper's, and has no session.
  void delete_arena(Arena& arena, std::function<void()> done);
  /// Whether an arena of this name is being made, or given back.
  [[nodiscard]] bool is_coming_or_going(const std::string& name) const;
  /// Of a tier: what no arena has.
  [[nodiscard]] uint64_t free_bytes(const TierConfig& tier) const;
  // ---- tiers that come and go while the loop runs (keeper_tiers.cc) ----

  /// Told when it is over: nothing, or why there are none of them.
  using Added = std::function<void(Result<void>)>;
  /// The machine has these tiers, too, each before the first that is slower: a thread looks whose memory they are and how
  /// fast, and `added` is told, in a pass(). Arenas that are made from then on can have some of them; those that are there
  /// keep their windows (decision 0019). `sources`: where their values come from, by key, "tier.NAME.bytes". Errors, of
  /// which `added` is not told: kInvalid (a name is taken), kLimit, kAgain (others are being added).
  Result<void> add_tiers(const std::vector<TierConfig>& tiers,
                         const std::map<std::string, std::string>& sources, Added added);
  /// Forgets a tier. kNotFound; kInvalid: arenas have memory of it, which are named, or it is the last one.
  Result<void> remove_tier(const std::string& name);

  /// Readable when the next pass() has something to do for them.
  [[nodiscard]] const Fd& background_fd() const { return background_->fd(); }
  /// What has happened since the last call, for the log.
  std::vector<Arena::Note> take_notes() { return std::exchange(notes_, {}); }

  [[nodiscard]] const std::vector<std::unique_ptr<Arena>>& arenas() const { return arenas_; }
  /// As planned: tiers are listed, their bytes and bandwidths are numbers.
  [[nodiscard]] const Config& config() const { return machine_.config; }
  [[nodiscard]] const Machine& machine() const { return machine_; }
  [[nodiscard]] const ArenaConfig& arena_config(const Arena& arena) const {
    return machine_.config.arenas[place_of(arena)];
  }
  [[nodiscard]] const Fd& completion_fd() const { return mover_->completion_fd(); }
  [[nodiscard]] bool emulated() const;
  [[nodiscard]] restart::Kept& kept() { return kept_; }
  /// A GPU can be had again by another process alone, and one will follow: the loop is to end.
  [[nodiscard]] bool wants_restart() const { return wants_restart_; }
  /// The last: waits for the copies of GPUs. When they have ended, the next daemon need not wait for them.
  void end_copies();
  [[nodiscard]] const restart::Kept& kept() const { return kept_; }
  /// What was taken over at the start; no arenas: nothing was there.
  [[nodiscard]] const Adoption& adoption() const { return adoption_; }

 private:
  /// An arena that is being made.
  struct Coming {
    ArenaConfig config;
    std::map<std::string, std::string> sources;
    uint64_t arena_id = 0;
    std::unique_ptr<Arena> arena;  // its memory is there, and being stored
    Made made;
  };
  /// One whose memory is to go.
  struct Going {
    std::unique_ptr<Arena> arena;  // null: it goes now
    ArenaConfig config;            // its bytes are its windows'
    uint64_t arena_id = 0;
    std::function<void()> done;
  };

  Keeper() = default;
  void share_budget();
  void look_at_nodes(Clock::time_point now);
  void on_lost_gpu(int gpu, int driver_error);
  [[nodiscard]] ArenaSettings settings_for(const ArenaConfig& arena) const;
  [[nodiscard]] size_t place_of(const Arena& arena) const;
  [[nodiscard]] Arena& arena_of(const mover::Job& job);
  [[nodiscard]] Result<std::map<std::string, uint64_t>> take_share(const ArenaConfig& arena) const;
  void on_made(uint64_t arena_id, Result<ArenaMemory> memory, const std::vector<std::string>& lines);
  Result<void> store(Coming& coming);
  void on_stored(uint64_t arena_id, bool is_stored);
  void give_up(uint64_t arena_id, const Error& error);
  void give_back_deleted();
  Result<void> take_tiers(const std::vector<TierConfig>& tiers,
                          const std::map<std::string, std::string>& sources, Result<Machine> planned);
  void on_gone(uint64_t arena_id);
  void do_chunk_work(Arena& arena);
  void unmap_chunks(Arena& arena, const Arena::ChunkWork& work);
  Result<void> make_chunks(Arena& arena, const Arena::ChunkWork& work);
  Result<void> store_chunks(uint32_t number, const Arena::ChunkWork& work);
  void undo_chunks(uint32_t number, const Arena::ChunkWork& work, const Error& error);
  void on_chunks(uint32_t number, uint32_t tier, const Result<void>& done);
  [[nodiscard]] Arena* arena_by_number(uint32_t number);
  Result<void> add_gpu(int ordinal, std::shared_ptr<cuda::Gpu> gpu);

  Machine machine_;
  restart::Kept kept_;
  Adoption adoption_;
  Inject inject_ = Inject::kNone;
  Progress progress_;
  std::vector<std::unique_ptr<Arena>> arenas_;  // in the order of machine_.config.arenas
  uint32_t next_number_ = 0;                    // of an arena; none is used again
  std::list<Coming> coming_;
  std::list<Going> going_;
  bool tiers_coming_ = false;  ///< a thread looks for some
  std::vector<Arena::Note> notes_;
  std::unique_ptr<mover::Mover> mover_;  // ends before the arenas: its workers copy in their windows
  std::unique_ptr<Background> background_;
  NodeWatch nodes_;
  Clock::time_point last_period_{};
  uint32_t idle_periods_ = 0;
  bool asleep_ = false;
  bool wants_restart_ = false;
  std::set<int> lost_gpus_;  // that nobody tries to bring back any more
};

/// What create() would refuse for the configuration's sake alone: shares, geometries. A configuration whose
/// tiers depend on the machine (discovered, or a share of what can be had) is looked at on the machine.
Result<void> check_plan(const Config& config);

}  // namespace kvt::keeper
