// SPDX-License-Identifier: Apache-2.0
//
// What the soak's processes share: an anonymous shared mapping that is made before they are forked. A client that is
// killed leaves here what it knew; nothing in it is locked. Counters are each written by one process, but for `recent`.
#pragma once

#include <kvtier/kvtier.h>

#include <atomic>
#include <cstdint>

namespace kvt::soak {

inline constexpr uint32_t kWorkersMax = 16;
inline constexpr uint32_t kRecent = 4096;
inline constexpr uint32_t kArchiveMax = 1u << 16;
inline constexpr uint32_t kVictimPages = 1000;

/// Of one client, over all of its processes.
struct Counters {
  std::atomic<uint64_t> words_verified{0};
  std::atomic<uint64_t> words_verified_moved{0};  ///< in another frame than the one that they were written to
  std::atomic<uint64_t> corrupt{0};               ///< words
  std::atomic<uint64_t> lost{0};                  ///< pages
  std::atomic<uint64_t> ledger_pages{0};          ///< now
  std::atomic<uint64_t> checked_after_restart{0};
  std::atomic<uint64_t> published{0};
  std::atomic<uint64_t> found{0};
  std::atomic<uint64_t> missed{0};
  std::atomic<uint64_t> away{0};  ///< calls that the daemon's absence cut short
  std::atomic<uint64_t> full{0};
  std::atomic<uint64_t> steps{0};
  std::atomic<uint64_t> attached{0};
  std::atomic<uint32_t> running{0};
  std::atomic<uint32_t> left{0};  ///< it has given back all that it had
};

struct Token {
  std::atomic<uint32_t> valid{0};
  uint8_t bytes[KVT_TOKEN_BYTES];
};

struct Victim {
  std::atomic<uint32_t> ready{0};
  uint32_t pages = 0;
  kvt_page page[kVictimPages];
};

struct Board {
  std::atomic<uint32_t> stop{0};
  std::atomic<uint64_t> restarts{0};  ///< daemons that have come up after the first
  Counters worker[kWorkersMax];
  Counters passing;  ///< of who makes and deletes an arena
  Token token;
  std::atomic<uint64_t> recent[kRecent];  ///< numbers of keys that were published lately; 0: none
  std::atomic<uint64_t> recent_next{0};
  std::atomic<uint64_t> archived{0};  ///< keys 1 .. archived are in the archive, which is never evicted from
  Victim victim;
};

}  // namespace kvt::soak
