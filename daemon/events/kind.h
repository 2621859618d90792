// SPDX-License-Identifier: Apache-2.0
//
// The kinds of things that happen in a daemon: one table of their names, for events, log lines and whoever counts them.
// Values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace kvt::events {

enum class Kind : uint8_t {
  kReady,
  kStopping,
  kAdoption,
  kAttach,
  kJoin,
  kLeave,
  kQuarantine,
  kSessionEnding,
  kSessionEnd,
  kRefusal,
  kDrop,
  kTierDegraded,
  kBadMemory,
  kChecksum,
  kMemoryShort,
  kMemoryBack,
  kEvictions,
  kStarved,
  kOperator,
  kPolicy,
  kLimboHeld,
  kResize,
  kReloadRefused,
  kArenaCreated,
  kArenaDeleted,
  kTierAdded,
  kTierRemoved,
  kGpuRenewal,
};

enum class Weight : uint8_t { kInfo, kWarn, kError };

struct KindRow {
  Kind kind;
  const char* name;
  Weight weight;
  bool is_logged;         ///< a line in the log as well; false: counted and summed up alone
  bool is_about_clients;  ///< clients can make many: fewer lines of them
};

/// In the order of the enumerators.
inline constexpr std::array kKinds{
    KindRow{Kind::kReady, "ready", Weight::kInfo, true, false},
    KindRow{Kind::kStopping, "stopping", Weight::kInfo, true, false},
    KindRow{Kind::kAdoption, "adoption", Weight::kInfo, true, false},
    KindRow{Kind::kAttach, "attach", Weight::kInfo, true, true},
    KindRow{Kind::kJoin, "join", Weight::kInfo, true, true},
    KindRow{Kind::kLeave, "leave", Weight::kInfo, true, true},
    KindRow{Kind::kQuarantine, "quarantine", Weight::kInfo, true, true},
    KindRow{Kind::kSessionEnding, "session_ending", Weight::kInfo, true, true},
    KindRow{Kind::kSessionEnd, "session_end", Weight::kInfo, true, true},
    KindRow{Kind::kRefusal, "refusal", Weight::kInfo, true, true},
    KindRow{Kind::kDrop, "drop", Weight::kInfo, true, true},
    KindRow{Kind::kTierDegraded, "tier_degraded", Weight::kError, true, false},
    KindRow{Kind::kBadMemory, "bad_memory", Weight::kError, true, false},
    KindRow{Kind::kChecksum, "checksum", Weight::kError, true, false},
    KindRow{Kind::kMemoryShort, "memory_short", Weight::kError, true, false},
    KindRow{Kind::kMemoryBack, "memory_back", Weight::kInfo, true, false},
    KindRow{Kind::kEvictions, "evictions", Weight::kInfo, false, false},
    KindRow{Kind::kStarved, "starved", Weight::kWarn, false, false},
    KindRow{Kind::kOperator, "operator", Weight::kInfo, true, true},
    KindRow{Kind::kPolicy, "policy", Weight::kInfo, true, false},
    KindRow{Kind::kLimboHeld, "limbo_held", Weight::kWarn, true, true},
    KindRow{Kind::kResize, "resize", Weight::kInfo, true, false},
    KindRow{Kind::kReloadRefused, "reload_refused", Weight::kError, true, false},
    KindRow{Kind::kArenaCreated, "arena_created", Weight::kInfo, true, false},
    KindRow{Kind::kArenaDeleted, "arena_deleted", Weight::kInfo, true, false},
    KindRow{Kind::kTierAdded, "tier_added", Weight::kInfo, true, false},
    KindRow{Kind::kTierRemoved, "tier_removed", Weight::kInfo, true, false},
    KindRow{Kind::kGpuRenewal, "gpu_renewal", Weight::kError, true, false},
};

constexpr const KindRow& row_of(Kind kind) { return kKinds[static_cast<size_t>(kind)]; }

namespace detail {
constexpr bool is_in_order() {
  for (size_t i = 0; i < kKinds.size(); ++i)
    if (kKinds[i].kind != static_cast<Kind>(i)) return false;
  return true;
}
}  // namespace detail
static_assert(detail::is_in_order() && kKinds.size() == static_cast<size_t>(Kind::kGpuRenewal) + 1);

}  // namespace kvt::events
