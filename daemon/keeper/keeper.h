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
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/config/config.h"
#include "daemon/keeper/arena.h"
#include "daemon/keeper/machine.h"
#include "daemon/keeper/node_watch.h"
#include "daemon/mover/mover.h"
#include "daemon/restart/kept.h"

namespace kvt::keeper {

class Keeper {
 public:
  using Clock = std::chrono::steady_clock;
  /// Lines for people while memory is being prefaulted.
  using Progress = std::function<void(const std::string&)>;

  /// Makes all arenas on a machine as planned, and takes over those that an earlier daemon has left in `kept`, where the
  /// new ones are noted, too. Errors name the tier or arena: kFull (no such memory), kNotFound (node), kInvalid;
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
  void set_log_level(const std::string& level) { machine_.config.log_level = level; }
  [[nodiscard]] Arena* find_arena(const std::string& name);
  [[nodiscard]] const std::vector<std::unique_ptr<Arena>>& arenas() const { return arenas_; }
  /// As planned: tiers are listed, their bytes and bandwidths are numbers.
  [[nodiscard]] const Config& config() const { return machine_.config; }
  [[nodiscard]] const Machine& machine() const { return machine_; }
  [[nodiscard]] const ArenaConfig& arena_config(const Arena& arena) const {
    return machine_.config.arenas[arena.index()];
  }
  [[nodiscard]] const Fd& completion_fd() const { return mover_->completion_fd(); }
  [[nodiscard]] bool emulated() const;
  [[nodiscard]] restart::Kept& kept() { return kept_; }
  [[nodiscard]] const restart::Kept& kept() const { return kept_; }
  /// What was taken over at the start; no arenas: nothing was there.
  [[nodiscard]] const Adoption& adoption() const { return adoption_; }

 private:
  Keeper() = default;
  void share_budget();
  void look_at_nodes(Clock::time_point now);

  Machine machine_;
  restart::Kept kept_;
  Adoption adoption_;
  std::vector<std::unique_ptr<Arena>> arenas_;
  std::unique_ptr<mover::Mover> mover_;  // ends first: its workers copy in the arenas' windows
  NodeWatch nodes_;
  Clock::time_point last_period_{};
  uint32_t idle_periods_ = 0;
  bool asleep_ = false;
};

/// What create() would refuse for the configuration's sake alone: shares, geometries. A configuration whose
/// tiers depend on the machine (discovered, or a share of what can be had) is looked at on the machine.
Result<void> check_plan(const Config& config);

}  // namespace kvt::keeper
