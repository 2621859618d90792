// SPDX-License-Identifier: Apache-2.0
//
// What the next daemon has to know and no shared region says: which arenas and sessions there are, whose they are, and
// the tokens. Fixed slots in a memfd of the daemon's own; each has a word `valid` that is stored last when the slot is
// filled and cleared first when it is given up, so a daemon that is killed at any moment leaves slots that are whole or
// empty (PROTOCOL B4). One thread.
//
// Everything else follows from the regions: rows, epoch, rings, holds.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "shm/abi/limits.h"
#include "shm/base/fd.h"
#include "shm/base/mapping.h"
#include "shm/base/result.h"

namespace kvt::restart {

/// The layout of the slots. A daemon of another minor version adopts: fields are added at ends, and are zero before.
inline constexpr uint16_t kStateMajor = 1;
inline constexpr uint16_t kStateMinor = 2;

struct ArenaSlot {
  uint64_t valid;  ///< the number of the arena's slot, and 1 more; 0: empty
  uint64_t arena_id;
  uint64_t table_bytes;
  char name[KVT_ARENA_NAME_BYTES];
  uint32_t tiers;
  /// From here on what the configuration says of an arena that it names; for one that it does not.
  uint32_t mode;  ///< who may attach
  // Of minor 1:
  uint32_t weight;     ///< stored last of these, cleared first; 0: the others are not there
  uint32_t integrity;  ///< 0 off, 1 moves, 2 all
  uint32_t scrub_pages_per_second;
  uint32_t sessions_per_user;
  double least_percent;
  double fixed_read_gbps;
  char owner[40];
  char group[40];
  uint64_t pad[6];
};

struct MemberSlot {
  uint64_t valid;  ///< 0: empty
  int32_t pid;
  uint32_t owner;
  uint32_t has_device;  ///< it works with a GPU: quarantined when it dies (PROTOCOL A1)
  uint32_t device_tiers;
  uint8_t device_uuid[KVT_DEVICE_UUID_BYTES];
  uint32_t granted;  ///< a grant may have been sent: it may have the descriptors
  uint32_t minor;    ///< of the layout that its library knows
};

struct SessionSlot {
  uint64_t valid;  ///< the session's number, which is never 0; 0: empty
  uint64_t arena_id;
  uint32_t slot;  ///< in its arena
  uint32_t members_max;
  uint32_t column;
  uint32_t read_write;
  uint64_t guarantee;
  uint32_t uid;
  uint32_t device_tiers;
  uint32_t ending;  ///< its owner has gone
  uint32_t pad0;
  uint8_t token[KVT_SESSION_TOKEN_BYTES];
  MemberSlot member[KVT_MAX_MEMBERS];
  uint64_t pad[8];
};

class RestartState {
 public:
  /// An empty one.
  static Result<RestartState> create();
  /// The one that an earlier daemon has left. kMismatch: of another major version, with both; nothing has been touched.
  /// kInvalid: it is none.
  static Result<RestartState> adopt(Fd fd);
  RestartState() = default;

  [[nodiscard]] const Fd& fd() const { return fd_; }

  /// The last daemon that may have had copies under way.
  [[nodiscard]] int daemon_pid() const;
  void set_daemon_pid(int pid);
  /// A daemon may end so that the next one makes a GPU's context anew: so many times in so many seconds, or they would
  /// follow each other for ever.
  static constexpr uint64_t kRenewalsMax = 3;
  static constexpr uint64_t kRenewalsSeconds = 3600;
  /// Notes one, by a clock of seconds that goes on from daemon to daemon (CLOCK_BOOTTIME). False: there were as many.
  [[nodiscard]] bool note_renewal(uint64_t now_seconds);
  /// A number that no session of this host has had.
  uint64_t next_session_id();

  /// The slot of an arena that has one; null.
  [[nodiscard]] ArenaSlot* find_arena(const std::string& name);
  [[nodiscard]] std::vector<ArenaSlot*> arenas();
  /// An empty slot, zeroed but for its number; null: all are taken. It counts when commit() has been called.
  [[nodiscard]] ArenaSlot* new_arena();
  void commit(ArenaSlot& slot);
  /// The arena is no more: the next daemon lets go of its descriptors. REQUIRES: none of its sessions counts.
  static void clear(ArenaSlot& slot);

  /// The slot of the session that is, or will be, the `slot`th of the arena.
  [[nodiscard]] SessionSlot& session(uint64_t arena_id, uint32_t slot);
  /// Zeroes it for a new session. It counts when commit() has been called.
  SessionSlot& new_session(uint64_t arena_id, uint32_t slot);
  static void commit(SessionSlot& slot, uint64_t session_id);
  static void clear(SessionSlot& slot);
  static void commit(MemberSlot& slot);
  static void clear(MemberSlot& slot);
  /// All of the arena that count.
  [[nodiscard]] std::vector<SessionSlot*> sessions(uint64_t arena_id);

 private:
  struct Header;
  struct Contents;
  static Result<RestartState> map(Fd fd);
  [[nodiscard]] uint32_t arena_number(uint64_t arena_id) const;

  Fd fd_;
  Mapping mapping_;
  Contents* contents_ = nullptr;
};

// ---- names of what is in the descriptor store ----

inline std::string state_name() { return "state"; }
inline std::string daemon_name() { return "daemon"; }
std::string table_name(uint64_t arena_id);
/// `chunk` of device memory; 0 of a host window.
std::string window_name(uint64_t arena_id, uint32_t tier, uint64_t chunk);
std::string sums_name(uint64_t arena_id);
std::string region_name(uint64_t session_id);
std::string doorbell_name(uint64_t session_id);
std::string pidfd_name(uint64_t session_id, uint32_t member);

}  // namespace kvt::restart
