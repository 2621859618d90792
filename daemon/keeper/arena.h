// SPDX-License-Identifier: Apache-2.0
//
// One arena as the keeper loop sees it: the only writer of its table. Everything here runs on the loop's
// thread.
//
// The life of a page, with the functions that do it:
//   1 refill_magazines()  takes an index and a frame, FILLING, owner written before; the client pops and
//   holds it 2 on_seal()/on_publish()  SEALED; the key is written before the KEYED flag; the index gets its
//   hint 3 collect()  counters become heat
//   4 decide()   snapshot -> policy -> plan;  issue(): target frames reserved, copies to the mover, free demotions done;
//                offer(): a target frame for the page's reader, who copies it while it reads it
//   5 commit()   a completed copy, on_offer_done() a reader's: SEALED and the same generation? the row names the new
//                frame, the old one is shadow or leaves
//   6 evict()    EVICTING, fence, holds; then FREE with the next generation
// All frames leave through withdraw(): words stored, log appended, then flush_withdrawals(): fence, R :=
// epoch++, limbo; drain_limbo() frees them when no open step is as old as R (PROTOCOL A5).
#pragma once

#include <array>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "daemon/events/kind.h"
#include "daemon/keeper/durations.h"
#include "daemon/keeper/frame_table.h"
#include "daemon/keeper/lazy_array.h"
#include "daemon/keeper/page_sums.h"
#include "daemon/keeper/payback.h"
#include "daemon/keeper/recorder.h"
#include "daemon/mover/mover.h"
#include "daemon/policy/explain.h"
#include "daemon/policy/heat.h"
#include "daemon/policy/histogram.h"
#include "daemon/policy/policy.h"
#include "daemon/policy/predictor.h"
#include "daemon/policy/share.h"
#include "daemon/tier/gpus.h"
#include "shm/base/mapping.h"
#include "shm/region/arena_table.h"
#include "shm/region/change_log.h"
#include "shm/region/prefix_index.h"
#include "shm/region/rings.h"
#include "shm/region/session_region.h"
#include "shm/region/step_times.h"

namespace kvt::keeper {

/// Faults to order for tests (--inject, refused without --allow-injection).
enum class Inject : uint8_t { kNone, kFlip, kEarlyReuse, kLostPublish, kLeak, kPoison };

enum class PolicyName : uint8_t { kBalance, kOff, kChurn };

/// How a page gets into a faster tier.
enum class Promote : uint8_t {
  kOffers,  ///< its reader copies it while it reads it anyway, where there is one; else a worker
  kCopies,  ///< always a worker
};

/// What is checked by checksums (arena_damage.cc).
enum class Integrity : uint8_t {
  kOff,
  kMoves,  ///< every copy that the daemon makes, source and target
  kAll,    ///< and pages when they are sealed, when their reader has promoted them, and a few all the time
};

struct ArenaSettings {
  PolicyName policy = PolicyName::kBalance;
  policy::Settings plan;
  policy::PredictorSettings predictor;
  uint64_t move_bytes_per_second = 2ull << 30;  ///< in each direction
  /// By each column's consumer, from its fast tier, beside the pages
  double fixed_read_bytes_per_second = 0;
  double idle_credit = 1;  ///< see policy::TokenBucket
  uint32_t period_ms = 10;
  uint32_t cooldown_ms = 0;
  uint64_t jobs_max = 256;  ///< copies under way at once
  Promote promote = Promote::kOffers;
  uint64_t offers_max = 1024;  ///< offers out at once: what a short step takes of small pages
  /// After this an offer that nobody took is withdrawn, but not before four periods: a decode step (10 to 50
  /// ms) that begins after the offer has ended by then. Until then the offer costs a frame that nothing else
  /// can use.
  uint32_t offer_ms = 80;
  Integrity integrity = Integrity::kOff;
  uint32_t scrub_pages_per_second = 100;  ///< with Integrity::kAll, within the budget of moves
  bool prefault = true;                   ///< memory is taken before its frames are used
  /// kFull: so many bytes cannot be had now. Empty: nobody asks.
  std::function<Result<void>(uint64_t bytes)> has_memory;
  Inject inject = Inject::kNone;
};

/// The memory of an arena, mapped in the daemon.
struct ArenaMemory {
  Fd table_fd;            ///< writable; never leaves the daemon
  Fd table_read_only_fd;  ///< what clients get
  Mapping table_mapping;
  AddressRange range;
  std::vector<Fd> window_fds;            ///< writable
  std::vector<Fd> window_read_only_fds;  ///< for read-only grants
  std::vector<Mapping> windows;          ///< not valid for device memory
  std::vector<tier::Kept> kept;          ///< what keeps host memory registered
  std::vector<std::shared_ptr<tier::DeviceMemory>>
      devices;  ///< by tier; null for host memory, and where it is lost
  std::vector<std::vector<int>>
      device_fds;  ///< by tier, of device memory: the descriptors of chunks that can be granted, which `devices` has
  /// Checksums of the pages, PageSums::bytes() of them; not valid where the arena keeps none
  Fd sums_fd;
  Mapping sums;
  std::vector<int> tier_gpu;  ///< by tier: ordinal of the GPU whose memory it is; -1: host memory
  std::vector<std::vector<int>> tier_peers;  ///< by tier: ordinals of other GPUs whose copies reach it
};

struct Member {
  bool joined = false;  ///< its slots count and its rings are read
  bool orphan = false;  ///< its socket is gone, its process lives (PROTOCOL A1): no new commands
  bool broken = false;  ///< its ring made no sense: no new commands, ever
  int pid = 0;
  uint32_t device_tiers = 0;    ///< bit t: it was granted the device memory of tier t
  bool follows_chunks = false;  ///< its library unmaps and maps what is given up of it
  MemberRings rings;
  ReadsCursor sequences;  ///< where its touched sequences are looked at next
  StepTimes steps_seen;   ///< of its counts of steps
};

struct SessionState {
  SessionGeometry geometry;
  Fd region_fd;
  Mapping mapping;
  SessionRegion region;
  bool read_write = true;
  bool ending =
      false;  ///< nothing begins in it any more: its owner has gone, or its region was lost at a restart
  uint32_t uid = 0;
  uint64_t guarantee = 0;
  bool is_fresh = true;  ///< nobody has had its region yet: all of it but its header is zero
  bool has_gpu = false;  ///< a process of it has registered the host windows with its GPU: they are pinned
  uint32_t device_tiers =
      0;  ///< bit t: it has the device memory of tier t; its pages and offers lie there too
  std::array<Member, KVT_MAX_MEMBERS> members;
  MagazineWriter magazine;
  uint64_t magazine_target = 0;  ///< pages to keep ready; doubles when it was empty, small after idleness
  uint64_t magazine_taken = 0;   ///< head when last looked at
  uint32_t idle_periods = 0;     ///< since a page was taken
  uint64_t flushed_in = 0;       ///< the pass of its last FLUSH
  uint64_t offers_out = 0;       ///< offers that name it
  uint32_t offers_lapsed = 0;    ///< since it took one
  ReadsCursor reads;             ///< where its counters are looked at next
  /// Pages that this session owns and that have no key: FILLING (magazine and stock included) or SEALED.
  std::vector<PageIndex> owned;
};

/// Frames of a tier that are kept free ahead of demand: for new pages in the fast tier, for pages that leave
/// it in the others. 1/32, at most 4096.
uint64_t reserve_of(uint64_t frames);

/// Pages of the arena that operators may pin: half of them, so that there is always something to evict and to
/// move.
constexpr uint64_t pins_max(uint64_t pages) { return pages / 2; }

/// What people and metrics ask of an arena.
struct ArenaCounts {
  /// How many of a tier's frames are used: less than its window has while an operator has closed some.
  struct Resize {
    uint64_t wanted = 0;
    uint64_t usable = 0;
    uint64_t leaving = 0;  ///< closed frames that are not empty yet
    uint64_t stuck =
        0;  ///< of them, as last seen: pages that are being filled, or pinned, or have nowhere to go
    uint64_t given_back_bytes = 0;
    /// Of device memory: sessions of which a process has still mapped what is given up, or not yet what is to be used
    std::vector<uint64_t> waits_for;
    /// All of it: closed frames are empty, and their memory has been given back, unless a GPU has it
    bool done = true;
  };
  struct TierFrames {
    uint64_t frames = 0;
    FrameTable::Counts counts;
    Resize resize;
    double bytes_read_per_second = 0;  ///< smoothed, from the counters
    uint64_t bytes_read = 0;           ///< since the start, from the counters
  };
  std::vector<TierFrames> tiers;
  uint64_t free = 0, filling = 0, sealed = 0, evicting = 0, keyed = 0, shadows = 0, retired = 0, pinned = 0;
  uint64_t frames = 0;  ///< usable frames of all tiers
  uint64_t limbo = 0;
  /// Whose open step the oldest frame in limbo waits for; 0: nobody's for longer than a tenth of a second.
  struct LimboHolder {
    uint64_t session_id = 0;
    int pid = 0;
    bool stops_moves = false;
  };
  LimboHolder limbo_holder;
  uint64_t copies = 0;         ///< under way
  uint64_t copies_failed = 0;  ///< since the start
  uint64_t lost_pages = 0;     ///< the same: no frame had them any more
  uint64_t starved = 0;        ///< the same: a session without a fresh page asked for one, and there was none
  struct Checks {
    uint64_t pages = 0;       ///< read to be checked, copies not counted
    uint64_t mismatches = 0;  ///< a frame or a copy had another checksum than its page
    uint64_t repaired = 0;    ///< of them: copied again, or left for a frame that is right
    uint64_t lost = 0;        ///< pages of which no frame was right; part of lost_pages
  };
  Checks checks;
  struct Offers {
    uint64_t out = 0;  ///< now; of the others: since the start
    uint64_t made = 0;
    uint64_t taken = 0;   ///< pages that a reader has promoted
    uint64_t lapsed = 0;  ///< nobody took them in time
    /// For another reason: page or session gone, frame needed, moved or pinned by an operator
    uint64_t withdrawn = 0;
    uint64_t refused = 0;  ///< reports that matched no offer: late ones, mostly. No part of `made`
  };
  Offers offers;
  /// Moves that have been made, since this daemon's start.
  struct Moved {
    uint64_t up_by_copy = 0;
    uint64_t up_by_reader = 0;
    uint64_t down_by_copy = 0;
    uint64_t down_free = 0;
    uint64_t up_from_peer = 0;  ///< part of up_by_copy: from another GPU's memory
  };
  Moved moved;
  /// Since the start: moves begun by the policy, each by its reason, and plans by what kept the hottest page back.
  std::array<uint64_t, policy::kReasons> begun{};
  std::array<uint64_t, policy::kHeldBacks> held_back{};
  /// How long the reads that were counted take where their pages were: at the bandwidths of the tiers, those of a
  /// period and group together, all tiers at once.
  struct Modelled {
    double seconds = 0;
    double best_seconds = 0;  ///< with which all tiers would have been busy all the time
  };
  Modelled modelled;
  Payback::Totals payback;
  bool nothing_evictable = false;   ///< when room was looked for last
  uint64_t periods_cut_short = 0;   ///< in which reads were left for the next (kReadsMax)
  double limbo_oldest_seconds = 0;  ///< that the frame that is in limbo longest has waited
  /// From the end of a process, as the daemon heard of it, until every frame that this has freed can be used again
  Durations reclaims;
  StepTimes steps;  ///< as the clients have measured them, since the start
  policy::Plan last_plan;
};

/// The same, found by looking at every row and walking every free list; and what they add up to.
struct ArenaReport : ArenaCounts {
  uint64_t accounted = 0;  ///< frames found in a free list, in limbo, reserved, or named by a row
};

/// Pages that a session holds.
struct HeldPages {
  uint64_t pages = 0;
  bool exact = true;  ///< false: an estimate, from some of the groups of pages that may hold any
};

/// What became of an operator's request to move a page.
enum class MoveRequest : uint8_t {
  kThere,   ///< it is in that tier
  kMoved,   ///< its shadow there has become its place: no copy
  kQueued,  ///< a worker copies it; when that is committed, the row names the new frame
  kNotSealed,
  kPinned,
  kBusy,  ///< a copy of it is under way
  kManyCopies,
  kNoFrame,      ///< the tier has none that is free
  kDamaged,      ///< a frame of it is bad; it is read from another one soon, or lost
  kNotOfColumn,  ///< the column does not read from that tier
};

/// What the policy would do, if it were asked now.
struct DryRun {
  /// Of the last period in which a page of a slow tier was read, with pages where they are now
  policy::Snapshot snapshot;
  policy::Plan plan;
  std::vector<uint32_t> tiers;  ///< the arena's tier of each of the snapshot's
  uint32_t periods_ago = 0;     ///< when these pages were read
};

/// Why a page is where it is.
struct PageReason {
  policy::Explanation why;
  policy::Features heat;  ///< what the expectation is made from
  bool advised = false;
  uint32_t cooling = 0;         ///< periods
  double stay_periods = 0;      ///< that a page stays in the fast tier, in the mean
  std::vector<uint32_t> tiers;  ///< as in DryRun
};

/// What became of an operator's pin.
enum class PinRequest : uint8_t { kPinned, kNotSealed, kBusy, kTooMany };

/// Not the index's hash, which clients know: keys made to collide would make every reservation a walk.
struct KeyHash {
  uint64_t seed = (uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  size_t operator()(const Key& key) const {
    uint64_t hash = (key.lo ^ seed) * 0x9e3779b97f4a7c15ull;
    hash = (hash ^ (hash >> 29) ^ key.hi) * 0xbf58476d1ce4e5b9ull;
    return hash ^ (hash >> 32);
  }
};

/// A session as an earlier daemon has left it.
struct SessionRecord {
  SessionGeometry geometry;  ///< id, slot, members_max, column
  bool read_write = true;
  uint32_t uid = 0;
  uint64_t guarantee = 0;
  uint32_t device_tiers = 0;
  bool ending = false;                      ///< its owner has gone
  Fd region_fd;                             ///< not valid: it is lost
  std::array<int, KVT_MAX_MEMBERS> pids{};  ///< of its members; 0: nobody
};

/// What an adoption has found and done, of all arenas together.
struct Adoption {
  uint64_t arenas = 0;
  uint64_t pages = 0;
  uint64_t keyed = 0;
  uint64_t filling = 0;
  uint64_t sessions = 0;
  uint64_t filling_freed = 0;     ///< their sessions had gone, or had never seen them
  uint64_t evictions_undone = 0;  ///< EVICTING became SEALED again
  uint64_t offers_cleared = 0;
  uint64_t shadows_dropped = 0;
  uint64_t damaged = 0;  ///< rows that no daemon leaves: freed
  uint64_t regions_lost =
      0;  ///< of sessions whose processes live: nothing of their arena is used again until they end
  uint64_t unindexed = 0;  ///< keyed pages that found no slot in the index
  bool index_rebuilt = false;
  double seconds = 0;
  std::vector<std::string> notes;
};

class Arena {
 public:
  /// `memory` is mapped and the table laid out.
  static Result<std::unique_ptr<Arena>> create(uint32_t number, ArenaMemory memory,
                                               const ArenaSettings& settings);
  /// Takes over what a daemon that is dead has left (arena_adopt.cc; PROTOCOL A2): the regions of all sessions that it
  /// may have granted, dead or alive, are in `sessions`. One that does not fit gets the id 0 and a note. kMismatch: the
  /// table is of another major version, or damaged; nothing has been changed.
  static Result<std::unique_ptr<Arena>> adopt(uint32_t number, ArenaMemory memory,
                                              const ArenaSettings& settings,
                                              std::vector<SessionRecord>& sessions, Adoption& adoption);

  // ---- sessions (called by the server, on the loop's thread) ----

  /// Makes a session with its region. kLimit: too many sessions; kFull: the guarantee cannot be given.
  Result<SessionState*> add_session(uint64_t session_id, uint32_t column, uint32_t members_max,
                                    bool read_write, uint64_t guarantee, uint32_t device_tiers = 0);
  /// The member's block is wiped and its rings are read from now on. kLimit: all members are there.
  Result<uint32_t> add_member(SessionState& session, int pid);
  /// Of a session that was taken over: the member's process has not taken what it was granted, and now never will, or it
  /// has detached. False: it may be using it. For members whose library knows of this (layout 1.4).
  static bool take_back_grant(SessionState& session, uint32_t member);
  /// A member's process has died: its steps are over, what lay in its stock is the daemon's again.
  void end_member(SessionState& session, uint32_t member);
  /// The owner has gone and members live: what they hold, fill and read stays theirs, and nothing new begins.
  void begin_end(SessionState& session);
  /// Who has the session can see that it has ended: no step begins from here on, and one that was open says so. A process
  /// of it may live (Server::evict_session). REQUIRES: end_session() follows.
  static void tell_ended(SessionState& session);
  [[nodiscard]] static bool has_told_ended(const SessionState& session);
  /// All of the session's processes have died or detached: its claims are gone.
  void end_session(SessionState& session);
  /// Of end_member() or end_session(), just called: the process had died at `died`. Counts until what was freed can be
  /// used again (ArenaCounts::reclaims).
  void watch_reclaim(std::chrono::steady_clock::time_point died);
  /// Commands that a member left behind when it detached. One ring's worth.
  void serve_last(SessionState& session, uint32_t member) {
    spent_ = 0;
    serve(session, member);
  }
  [[nodiscard]] SessionState* find_session(uint64_t session_id);
  [[nodiscard]] uint32_t session_count() const;
  template <typename Visit>
  void for_each_session(Visit&& visit) const {
    for (SessionState* const session : active_) visit(static_cast<const SessionState&>(*session));
  }

  // ---- one pass of the loop ----

  /// Which of its GPUs sum pages is the mover's to say. Before the first pass, where there are GPUs.
  void learn_gpus(const mover::Mover& mover);
  /// Serves commands, commits copies, and when `period` is true collects, decides and issues. `seconds` since
  /// the last period. Returns whether there was anything to do.
  bool pass(mover::Mover& mover, bool period, double seconds);
  /// Before sleeping without a timeout: is there work that nobody would ring for?
  [[nodiscard]] bool has_work() const;
  /// Commands were left for the next pass, because this one had done enough: it comes at once.
  [[nodiscard]] bool has_more() const { return more_; }
  /// Limbo that waits for steps, copies under way, or offers that may lapse: look again after a while.
  [[nodiscard]] bool waits() const { return is_unsettled() || scrubs() || is_resizing(); }
  /// The same, but for what never ends.
  [[nodiscard]] bool is_unsettled() const {
    return !limbo_.empty() || jobs_ != 0 || !offers_.empty() || !to_mend_.empty() || !to_check_.empty();
  }
  /// Copies and checks that workers have, or have done and that were not committed yet.
  [[nodiscard]] uint64_t copies() const { return jobs_; }
  /// A copy has been completed.
  void commit(const mover::Job& job);
  /// Its tiers are used no more; `driver_error` as the driver said. Their pages leave in the next pass.
  void lose_gpu(int gpu, int driver_error);
  /// It has failed, whether it is lost or not: what copies of other GPUs have read there is not used, and none is begun.
  void distrust(int gpu);
  /// Bytes a second of each direction that the arena could use now; and the share of
  /// settings.move_bytes_per_second that it gets.
  [[nodiscard]] uint64_t wanted_budget() const;
  /// From now on its policy, promote, budget and cooldown are these; the rest of `settings` is not looked at. Copies and
  /// offers that are under way end as they are.
  void set_policy(const ArenaSettings& settings);
  void set_budget_share(double share) { budget_share_ = share; }
  [[nodiscard]] double budget_share() const { return budget_share_; }
  void set_asleep(bool asleep) { table_.set_asleep(asleep); }
  void set_closing() { table_.set_closing(); }

  // ---- looking ----

  [[nodiscard]] const ArenaWriter& table() const { return table_; }
  [[nodiscard]] ArenaWriter& table() { return table_; }
  [[nodiscard]] const ArenaMemory& memory() const { return memory_; }
  /// Of this keeper's arenas no other has it, now or later.
  [[nodiscard]] uint32_t number() const { return number_; }
  /// Counted while the keeper works; the cost does not depend on the number of pages.
  [[nodiscard]] ArenaCounts counts() const;
  /// Walks all rows and free lists: milliseconds for a million pages, in which nobody is served. For tests,
  /// and for operators who ask for it.
  [[nodiscard]] ArenaReport report() const;
  /// Pages that the session holds, from the summary bitmap and the counts that it names. Looks at
  /// `groups_max` groups of 64 pages at most; where more are named, at that many, evenly spread. REQUIRES:
  /// groups_max > 0.
  [[nodiscard]] static HeldPages held_pages(const SessionState& session, uint64_t groups_max);
  [[nodiscard]] const policy::PageHeat& heat(uint32_t column, PageIndex page) const {
    return heat_[column][page];
  }
  /// Reads of the page in its next period, as far as its past and its clients' advice tell.
  [[nodiscard]] float expected_reads(uint32_t column, PageIndex page) const {
    return columns_[column].predictor.expect(heat_[column][page], period_, measure_);
  }
  /// By tier: how dense the reads of its pages are. Empty where the column reads from two tiers.
  [[nodiscard]] std::span<const policy::DensityHistogram> densities(uint32_t column) const {
    return columns_[column].densities;
  }
  [[nodiscard]] uint32_t period() const { return period_; }
  /// Whether somebody holds the page.
  [[nodiscard]] bool is_held(PageIndex page) const;
  [[nodiscard]] uint64_t free_pages() const { return free_pages_; }
  /// Copies that failed since the start; and whether the tier's GPU does nothing any more.
  [[nodiscard]] uint64_t copies_failed() const { return copies_failed_; }
  /// Pages of which no frame is left: they lay in the memory of a lost GPU alone, or in frames that have gone bad.
  [[nodiscard]] uint64_t lost_pages() const { return lost_pages_; }
  /// ArenaCounts::starved.
  [[nodiscard]] uint64_t starved() const { return starved_; }
  /// What has happened since the last call, for the log.
  struct Note {
    events::Kind kind;
    std::string text;
  };
  std::vector<Note> take_notes();
  [[nodiscard]] bool is_degraded(uint32_t tier) const { return (degraded_ & 1u << tier) != 0; }
  [[nodiscard]] bool is_distrusted(uint32_t tier) const { return (distrusted_ & 1u << tier) != 0; }
  /// A NUMA node of the tier of this name has lost its memory, or has it again. Where the tier has none left on any of its
  /// nodes it is closed, and opened by an operator alone (resize()).
  void on_node(const std::string& tier_name, uint32_t node, bool is_gone, bool all_gone);
  [[nodiscard]] bool has_lost_nodes(uint32_t tier) const { return (nodes_lost_ & 1u << tier) != 0; }
  /// Bits of the tiers that are memory of the GPU with this UUID.
  [[nodiscard]] uint32_t tiers_of_gpu(std::span<const uint8_t, KVT_DEVICE_UUID_BYTES> uuid) const;
  /// Whether a session that maps these device tiers reaches the tier's frames.
  [[nodiscard]] bool reaches(uint32_t device_tiers, uint32_t tier) const {
    return memory_.tier_gpu.empty() || memory_.tier_gpu[tier] < 0 || (device_tiers & 1u << tier) != 0;
  }
  /// Whether a frame of the page has gone bad, and the page is not mended yet, or lost and held by somebody.
  [[nodiscard]] bool is_damaged(PageIndex page) const { return !damaged_.empty() && damaged_.contains(page); }
  /// Whether a copy of the page is under way.
  [[nodiscard]] bool is_moving(PageIndex page) const { return busy_.contains(page); }
  [[nodiscard]] bool is_pinned(PageIndex page) const { return pages_[page].pinned; }
  /// Whether a reader may be copying the page into a frame that it was offered.
  [[nodiscard]] bool is_offered(PageIndex page) const { return offers_.contains(page); }

  // ---- promotion by readers (arena_offers.cc; PROTOCOL A3) ----

  /// Offers the session in `session_slot` a frame of `tier`, faster than where the page is read from now: its
  /// next step that resolves the page may copy it there. false, and nothing has changed: the page is not
  /// sealed, pinned, being copied or offered already; the session is not there, reads another column, may not
  /// write or takes no offers; the budget, the offers or the tier's free frames are at an end. REQUIRES:
  /// page, column and tier exist.
  bool offer(uint32_t column, PageIndex page, uint32_t tier, uint32_t session_slot);
  /// Takes the page's offer back, through limbo. false: it had none. The next pass advances the epoch.
  bool withdraw_offer(PageIndex page);

  // ---- what operators ask for (arena_operator.cc). REQUIRES of all: the page, column and tier exist ----

  /// The page is neither evicted nor moved until unpin(), or until its owner gives its content up: the pin is
  /// of this generation. Its shadows may go. Pinning twice is pinning once. Ancestors of a keyed page stay as
  /// well, since only leaves of a prefix are evicted.
  PinRequest pin(PageIndex page);
  /// false: it was not pinned.
  bool unpin(PageIndex page);
  /// One move, now: as if the policy had planned it, and whatever the budget is, which pays for it
  /// afterwards.
  MoveRequest move(mover::Mover& mover, uint32_t column, PageIndex page, uint32_t tier);
  /// The tier has so many frames from now on, of those of its window: pages leave the others, then their memory is given
  /// back, or taken again. 0 drains it. resize_state() says how far it is. kLimit: more than the window has; kFull: too few
  /// for what sessions are guaranteed.
  Result<void> resize(uint32_t tier, uint64_t frames);
  [[nodiscard]] ArenaCounts::Resize resize_state(uint32_t tier) const;
  // Device memory of closed frames (arena_chunks.cc): what of it takes long is for the caller.
  struct ChunkWork {
    uint32_t tier = 0;
    size_t chunks = 0;  ///< so many are to be there
    size_t before = 0;
  };
  /// What is to be done since the last call; each is followed by on_chunks(), and until then by none for its tier.
  std::vector<ChunkWork> take_chunk_work();
  /// REQUIRES: what is there now is stored for the next daemon. An error: nothing has changed.
  void on_chunks(uint32_t tier, const Result<void>& done);
  /// Of a tier's window: what it takes of the tier, less what has been given up.
  [[nodiscard]] uint64_t device_bytes(uint32_t tier) const;
  /// Memory of closed frames is not given back any more: somebody may have it pinned, nobody knows for how long.
  void keep_memory() { memory_is_kept_ = true; }
  /// Whether the column reads the page from a frame that is closed.
  [[nodiscard]] bool is_leaving(uint32_t column, PageIndex page) const {
    const Placement now = table_.placement(column, page);
    return now.state() != kvt::PageState::kFree && !frames_.is_usable(now.frame());
  }
  /// What would be moved now, and why. Nothing is moved. REQUIRES: the column reads from two tiers or more.
  DryRun dry_run(uint32_t column);
  /// REQUIRES: the same, and the page is not FREE.
  PageReason explain(uint32_t column, PageIndex page);
  /// How many tiers a column reads from.
  [[nodiscard]] size_t tiers_of(uint32_t column) const { return column_tiers(column).size(); }
  /// Begins to write down reads and places, in place of a recording that is there. Its number, never used
  /// again while the daemon runs; 0: there is no memory for it. Who records takes what there is; when nobody
  /// does, it ends by itself.
  uint64_t start_recording() {
    recorder_.reset();
    if (!LazyArray<uint32_t>::can_have(table_.pages() * table_.columns())) return 0;
    recorder_ = std::make_unique<Recorder>(table_);
    return ++recording_;
  }
  void forget_recording() { recorder_.reset(); }
  /// Null: nobody records.
  [[nodiscard]] Recorder* recorder() { return recorder_.get(); }
  [[nodiscard]] uint64_t recording() const { return recording_; }

 private:
  /// Private state of a page, beside its row.
  struct PageState {
    uint32_t link = 0;      // FREE: next free page; unkeyed: position in its owner's list
    uint16_t moved = 0;     // low bits of the period in which it moved
    bool pinned = false;    // by an operator, in this generation
    uint32_t children = 0;  // keyed pages whose parent it is
  };
  static_assert(sizeof(PageState) == 12);
  struct LimboEntry {
    uint64_t epoch;
    Frame frame;
    uint32_t since_ms;  // see now_ms()
  };
  /// Of a clock that never jumps, the low bits: differences are right up to 49 days.
  static uint32_t now_ms() {
    return static_cast<uint32_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                     std::chrono::steady_clock::now().time_since_epoch())
                                     .count());
  }
  /// The keeper's own record of an offer: what a report is compared with.
  struct OfferRecord {
    uint64_t session_id = 0;
    uint64_t serial = 0;  // the epoch in which it was made
    uint32_t session_slot = 0;
    uint32_t column = 0;
    uint32_t generation = 0;
    Frame frame = kNoFrame;
    uint32_t tier = 0;
    uint32_t from_tier = 0;
    uint32_t lapses = 0;  // in this period
  };

  /// What is wrong with a page: frames that do not have its bytes.
  struct Damage {
    std::vector<Frame> frames;
    Frame good = kNoFrame;  // one that has them
    bool lost = false;      // there is none, and somebody holds the page
    bool by_sum = false;    // checksums say so
    std::string what;       // for the log
  };

  Arena(uint32_t number, ArenaMemory memory, const ArenaSettings& settings);
  static std::unique_ptr<Arena> make(uint32_t number, ArenaMemory memory, const ArenaWriter& table,
                                     const ArenaSettings& settings);

  // arena_adopt.cc
  static Result<void> stand_in_for_region(SessionState& session);
  Result<void> adopt_session(SessionRecord& record, Adoption& adoption);
  void adopt_free(PageIndex page, uint32_t generation);
  [[nodiscard]] bool can_adopt_place(uint32_t column, PageIndex page, uint32_t tier, Frame frame) const;
  void adopt_row(PageIndex page, Handle changing, Adoption& adoption);
  [[nodiscard]] bool is_known_to(const SessionState& session, Handle page) const;
  [[nodiscard]] bool index_agrees() const;
  void adopt_keys(Adoption& adoption);

  // arena.cc
  void withdraw(Frame frame);
  void flush_withdrawals();
  void drain_limbo();
  void watch_limbo();
  /// That the frame that is in limbo longest has waited.
  [[nodiscard]] double limbo_seconds() const {
    return limbo_.empty() ? 0 : (now_ms() - limbo_.front().since_ms) / 1e3;
  }
  /// Somebody has been in a step for a second, and much waits for it: nothing more is moved in this arena until it ends,
  /// since each move would leave another frame there.
  [[nodiscard]] bool limbo_is_held() const { return limbo_holder_.stops_moves; }
  void settle_reclaims();
  [[nodiscard]] uint64_t oldest_step() const;
  void set_state_all(PageIndex page, kvt::PageState state, bool keyed);
  void set_shadow(uint32_t column, PageIndex page, Shadow shadow);
  PageIndex take_page();
  void free_page(PageIndex page);
  std::vector<PageIndex>& owned_list(uint64_t owner);
  void own(std::vector<PageIndex>& list, PageIndex page);
  void disown(std::vector<PageIndex>& list, PageIndex page);
  void unlink_parent(PageIndex page);
  void take_stock_back(SessionState& session, uint32_t member);
  std::byte* frame_address(Frame frame) const {
    return memory_.range.data() + uint64_t{frame} * table_.page_bytes();
  }

  // arena_operator.cc
  void record_places();

  // arena_resize.cc
  struct TierLimit {
    uint64_t wanted = 0;            // frames
    uint64_t filled = 0;            // of those from here on the memory was given back
    bool chunks_under_way = false;  // of device memory: a thread makes or unmaps some
    uint64_t chunks_coming = 0;     // so many will be there then
    uint64_t hand = 0;
    uint64_t stuck = 0;
    uint64_t stuck_in_round = 0;
    bool told = true;  // it is done, and the log says so
  };
  enum class Leaves : uint8_t { kYes, kLater, kNoRoom, kStays };
  void adopt_limits();
  void tiers_changed();
  /// Pages that could have a frame, if no page had a second one.
  [[nodiscard]] uint64_t room_for_pages() const;
  [[nodiscard]] bool is_resizing() const;
  bool resize_some(mover::Mover& mover);
  bool clear_out(mover::Mover& mover, uint32_t tier);
  Leaves move_out(mover::Mover& mover, PageIndex page);
  [[nodiscard]] uint32_t tier_for(uint32_t column, uint32_t from) const;
  [[nodiscard]] uint64_t window_offset(uint32_t tier, uint64_t at) const;
  [[nodiscard]] bool stays_pinned(uint32_t tier) const;
  bool give_back(uint32_t tier);
  bool open_some(uint32_t tier);

  // arena_chunks.cc
  [[nodiscard]] uint64_t first_frame_offset(uint32_t tier) const;
  [[nodiscard]] uint64_t chunks_for(uint32_t tier, uint64_t frames) const;
  [[nodiscard]] uint64_t frames_in_chunks(uint32_t tier, uint64_t chunks) const;
  [[nodiscard]] bool has_chunks(uint32_t tier) const;
  [[nodiscard]] std::vector<uint64_t> members_behind(uint32_t tier) const;
  [[nodiscard]] static bool is_old(const Member& member, uint32_t tier);
  [[nodiscard]] std::vector<uint64_t> sessions_behind(uint32_t tier) const;
  bool give_up_chunks(uint32_t tier);
  uint64_t take_chunks(uint32_t tier);

  // arena_damage.cc
  void note(events::Kind kind, std::string text);
  [[nodiscard]] std::string frame_text(Frame frame) const;
  [[nodiscard]] std::string page_text(PageIndex page) const;
  void copy_failed(const mover::Job& job);
  void leave_peer(const mover::Job& job);
  void damage(Handle page, Frame frame, const std::string& what, bool by_sum = false);
  bool mend(mover::Mover& mover);
  bool mend_page(mover::Mover& mover, PageIndex page);
  void move_to(uint32_t column, PageIndex page, Frame frame);
  bool lose_page(PageIndex page);

  // arena_checks.cc
  [[nodiscard]] bool scrubs() const {
    return settings_.integrity == Integrity::kAll && settings_.scrub_pages_per_second != 0 &&
           pages_in(kvt::PageState::kSealed) != 0;
  }
  void want_check(PageIndex page, Frame frame);
  void check_sealed(PageIndex page);
  bool start_check(mover::Mover& mover, PageIndex page, Frame frame);
  bool start_checks(mover::Mover& mover);
  void scrub(double seconds);
  void checked(const mover::Job& job);
  bool judge(const mover::Job& job);
  /// Whether somebody sums pages in the tier's memory: a worker, or its GPU.
  [[nodiscard]] bool can_sum(uint32_t tier) const {
    return memory_.tier_gpu.empty() || memory_.tier_gpu[tier] < 0 || (summed_by_gpu_ & 1u << tier) != 0;
  }
  [[nodiscard]] bool can_check(Frame frame) const {
    const uint32_t tier = frames_.tier_of(frame);
    return sums_.on() && can_sum(tier) && !is_degraded(tier);
  }

  // arena_commands.cc
  bool serve(SessionState& session, uint32_t member);
  void prefetch_for(const kvt_abi_submission& command) const;
  uint32_t execute(SessionState& session, const kvt_abi_submission& command, uint64_t& page_out);
  uint32_t on_seal(SessionState& session, Handle page);
  uint32_t on_publish(SessionState& session, const kvt_abi_submission& command, uint64_t& page_out);
  uint32_t on_free(SessionState& session, Handle page);
  uint32_t on_unpublish(SessionState& session, Handle page);
  uint32_t on_reserve(SessionState& session, Handle page, Key key, uint64_t& page_out);
  uint32_t on_advise(Handle page, uint32_t advice);
  void lapse_advice();
  uint32_t on_group(SessionState& session, Handle page, uint32_t group);
  uint32_t check_owned(const SessionState& session, Handle page, Placement& placement) const;
  void forget_reservation(PageIndex page);
  Handle find_key(Key key) const;

  // arena_offers.cc
  uint32_t on_offer_done(SessionState& session, const kvt_abi_submission& command);
  bool promote(mover::Mover& mover, uint32_t column, PageIndex page, uint32_t tier);
  [[nodiscard]] uint32_t reader_of(uint32_t column, PageIndex page);
  void forget_offer(PageIndex page);
  bool lapse_offers();
  void withdraw_offers_to(uint32_t session_slot);
  uint64_t withdraw_offers_of(uint32_t tier, uint64_t wanted);
  void note_advised(PageIndex page);

  // arena_memory.cc
  bool refill_magazines();
  bool refill(SessionState& session);
  void trim_magazine(SessionState& session);
  void take_back_waiting(SessionState& session, uint64_t keep);
  Frame take_frame_for_new_page(const SessionState& session, uint32_t& tier);
  [[nodiscard]] uint64_t unmet_guarantees(const SessionState* except) const;
  void publish_allowances();
  bool evict(PageIndex page);
  bool can_evict(PageIndex page) const;
  uint64_t evict_some(uint64_t wanted);
  bool keep_room();
  bool merge_copies(uint32_t column, PageIndex page);
  uint64_t drop_spare_frames(uint32_t tier, uint64_t wanted);
  void sweep_unkeyed(uint64_t looks);

  // arena_moves.cc
  using Reads = PageReads;
  struct ColumnState;
  void take_steps(SessionState& session);
  bool collect();
  template <typename Visit>
  void collect_session(SessionState& session, uint64_t& budget, Visit&& visit);
  void count_reads(const ColumnState& column);
  void count_payback();
  void note_reads(uint32_t column, std::span<const Reads> batch);
  static void add_candidate(ColumnState& state, PageIndex page, uint32_t tier, float expected);
  /// In the row's byte, when the octave changes: so the byte is right within a factor of two, and seldom
  /// stored.
  void publish_heat(uint32_t column, PageIndex page, float before, float rate) {
    if (policy::octave(rate) != policy::octave(before))
      table_.set_heat(column, page, policy::heat_byte(rate));
  }
  void learn(uint32_t column);
  /// A page has come to be in `tier`, or has come into it.
  void count_arrival(uint32_t column, uint32_t tier) {
    if (tier == columns_[column].fast_tier) ++columns_[column].arrived;
  }
  static constexpr uint32_t kNowhere = UINT32_MAX;
  void count_density(uint32_t column, uint32_t tier, const policy::PageHeat& heat, int by);
  void change_density(uint32_t column, PageIndex page, uint32_t from, uint32_t to);
  [[nodiscard]] uint32_t group_index(PageIndex page);
  [[nodiscard]] policy::TokenBucket::Limits budget_limits() const;
  void add_budget(double seconds);
  /// Of `bytes` upwards or downwards; an operator's move may owe.
  void pay(bool up, uint64_t bytes);
  [[nodiscard]] double budget(bool up) const { return (up ? budget_.in : budget_.out).available(); }
  [[nodiscard]] policy::Snapshot snapshot(uint32_t column, std::span<const policy::PageSample> candidates);
  [[nodiscard]] policy::PageSample sample_of(uint32_t column, PageIndex page, uint32_t position);
  [[nodiscard]] uint32_t cooling(PageIndex page) const;
  bool decide_and_issue(mover::Mover& mover, uint32_t column, bool read_now);
  void leave_degraded();
  bool issue(mover::Mover& mover, uint32_t column, PageIndex page, uint32_t tier);
  [[nodiscard]] bool can_copy(uint32_t from, uint32_t to) const;
  [[nodiscard]] Frame source_for(uint32_t column, PageIndex page, uint32_t tier) const;
  void start_copy(mover::Mover& mover, uint32_t column, PageIndex page, uint32_t tier, Frame target,
                  Frame source = kNoFrame);
  void place(uint32_t column, PageIndex page, uint32_t tier, Frame frame, bool from_peer = false);
  void watch_move(uint32_t column, PageIndex page, Placement from, uint32_t tier, bool costs_no_read);
  static constexpr uint32_t kAnyTier = UINT32_MAX;
  static constexpr uint64_t kMagazineStart = 16;
  bool demote_free(uint32_t column, PageIndex page, uint32_t only_tier = kAnyTier);
  void drop_shadow(uint32_t column, PageIndex page);
  [[nodiscard]] bool movable(uint32_t column, PageIndex page, Placement placement) const;
  /// Those that it reads from and that are not drained.
  [[nodiscard]] std::vector<uint32_t> column_tiers(uint32_t column) const;

  uint64_t random() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_;
  }

  uint32_t number_;
  ArenaMemory memory_;
  ArenaSettings settings_;
  ArenaWriter table_;
  PrefixIndex prefix_index_;
  ChangeLog log_;
  FrameTable frames_;
  LazyArray<PageState> pages_;
  std::vector<LazyArray<policy::PageHeat>> heat_;  // by column
  std::array<std::unique_ptr<SessionState>, KVT_MAX_SESSIONS> sessions_;
  std::vector<SessionState*> active_;  // the same, without the empty slots
  std::unordered_map<uint64_t, uint32_t> session_slots_;
  std::vector<PageIndex> unowned_;  // unkeyed pages whose session has ended

  uint64_t free_pages_ = 0;
  uint64_t never_used_pages_ = 0;  // pages from here on were never taken
  PageIndex free_head_ = UINT32_MAX;
  uint64_t keyed_pages_ = 0;
  // For counts(), beside the two above: kept by all who change a row.
  std::array<uint64_t, 4> pages_in_state_{};  // kFree: the retired ones too
  uint64_t& pages_in(kvt::PageState state) { return pages_in_state_[static_cast<size_t>(state)]; }
  [[nodiscard]] uint64_t pages_in(kvt::PageState state) const {
    return pages_in_state_[static_cast<size_t>(state)];
  }
  uint64_t retired_pages_ = 0;
  uint64_t shadows_ = 0;  // of all columns
  uint64_t pinned_pages_ = 0;

  std::vector<Frame> leaving_;  // withdrawn, waiting for flush_withdrawals()
  uint64_t spent_ = 0;          // by commands, in this pass: rows looked at, and as good as that
  bool more_ = false;
  bool logged_ = false;
  std::deque<LimboEntry> limbo_;
  static constexpr double kLimboPatience = 1;                   // seconds
  static constexpr uint64_t kLimboPart = 16, kLimboLeast = 64;  // of all frames, or so many
  ArenaCounts::LimboHolder limbo_holder_;
  struct Reclaim {
    uint64_t epoch;  // the last that its frames may have in limbo
    std::chrono::steady_clock::time_point died;
  };
  std::deque<Reclaim> reclaims_waiting_;  // in the order of their epochs
  Durations reclaims_;

  std::unordered_map<Key, Handle, KeyHash> reservations_;
  std::unordered_map<PageIndex, Key> reserved_key_;

  std::unordered_map<PageIndex, OfferRecord> offers_;  // one a page, whichever its column
  ArenaCounts::Offers offer_counts_;
  // Pages whose offer nobody took, and the period in which it lapsed
  std::unordered_map<PageIndex, uint32_t> passed_over_;
  std::array<std::vector<PageIndex>, 128> believed_;  // pages advised in each of the last periods, modulo 128
  std::unordered_set<PageIndex> advised_;             // wanted soon, by advice since the last period
  uint32_t offer_turn_ = 0;

  std::unordered_set<PageIndex> busy_;  // pages with a copy under way
  uint64_t jobs_ = 0;
  uint64_t copies_failed_ = 0;
  uint64_t starved_ = 0;
  std::array<uint64_t, KVT_MAX_TIERS> bytes_read_{};  // by tier, since the start
  std::array<TierLimit, KVT_MAX_TIERS> limits_{};
  std::vector<ChunkWork> chunk_work_;
  bool memory_is_kept_ = false;
  uint32_t degraded_ = 0;     // bits of tiers
  uint32_t distrusted_ = 0;   // bits of tiers: degraded, or their GPU has failed in this process
  uint32_t nodes_lost_ = 0;   // bits of tiers: none of their nodes has memory
  uint32_t left_ = 0;         // of those, the ones whose pages have been taken elsewhere
  uint32_t left_period_ = 0;  // when they were last looked at
  bool left_behind_ = false;  // some could not go yet
  static constexpr uint32_t kLeavePeriods = 64;
  uint64_t lost_pages_ = 0;
  int driver_error_ = 0;  // of the last copy that failed
  std::vector<Note> notes_;
  uint64_t notes_left_out_ = 0;
  std::unordered_map<PageIndex, Damage> damaged_;
  std::vector<PageIndex> to_mend_;  // of them, those that something can be done for
  uint32_t poisonings_ = 0;         // copies since the start, with Inject::kPoison
  PageSums sums_;
  uint32_t summed_by_gpu_ = 0;  // bits of tiers
  ArenaCounts::Checks checks_;
  struct Check {
    Handle page;
    Frame frame;
  };
  std::deque<Check> to_check_;
  std::unordered_set<PageIndex> checking_;  // a frame of theirs is being read, and is pinned
  double scrub_credit_ = 0;                 // pages
  uint64_t scrub_hand_ = 0;
  // Of a page's reads: what its promotion has to be paid from
  policy::Measure measure_ = policy::Measure::kNext;
  policy::LinkBudget budget_{policy::TokenBucket({}), policy::TokenBucket({})};
  double budget_share_ = 1;  // of settings_.move_bytes_per_second

  uint32_t period_ = 1;
  uint64_t passes_ = 1;
  struct ColumnState {
    uint32_t fast_tier = 0;
    policy::Predictor predictor;
    std::vector<policy::PageSample> candidates;  // read this period or advised, not in the fast tier
    uint64_t arrived = 0;  // pages, into the fast tier, since the last period with reads
    float threshold = 0;   // expected reads up to which a slow page is no candidate
    /// A period with few candidates lets colder ones in the next time.
    void forget_candidates(uint32_t period);
    std::vector<policy::PageSample> last_candidates;  // of the last period that had some: for who asks why
    uint32_t last_candidates_period = 0;
    std::vector<std::array<double, KVT_MAX_TIERS>> bytes_read;  // [group index][tier], this period
    std::vector<double> bytes_smoothed;                         // a period, by tier, for people
    std::vector<uint32_t> drawn;                                // pages to learn from
    std::vector<uint32_t> cold;  // residents of the fast tiers that the last plan wants to see again
    // By tier, of PageHeat::slow; empty where a column has two tiers
    std::vector<policy::DensityHistogram> densities;
  };
  std::vector<ColumnState> columns_;
  policy::Plan last_plan_;  // of column 0
  // For counts(), from here on.
  std::array<uint64_t, policy::kReasons> begun_{};
  std::array<uint64_t, policy::kHeldBacks> held_back_{};
  ArenaCounts::Moved moved_;
  ArenaCounts::Modelled modelled_;
  Payback payback_;
  bool groups_tagged_ = false;          // some page has a group other than 0
  bool groups_in_use_ = false;          // since the last period
  std::vector<uint16_t> groups_{0};     // KV-cache groups in use; bytes are counted by position here
  std::unique_ptr<Recorder> recorder_;  // null but for the minutes in which somebody records
  uint64_t recording_ = 0;              // the number of the last one

  uint64_t evict_hand_ = 0;
  uint64_t evict_misses_ = 0;  // rows looked at since the last eviction
  bool nothing_evictable_ = false;
  uint64_t periods_cut_short_ = 0;
  StepTimes steps_;
  uint32_t evict_retry_period_ = 0;
  uint64_t sweep_hand_ = 0;
  uint64_t random_ = 0x9e3779b97f4a7c15ull;
};

}  // namespace kvt::keeper
