// SPDX-License-Identifier: Apache-2.0
//
// The other process: attaches the arena, publishes N pages under key_of(0 .. N-1), and stays attached with
// all of them held, so that none can be evicted. It writes no page contents: an arena may be much larger than
// the memory.
#pragma once

#include <kvtier/kvtier.h>

#include <atomic>
#include <cstdint>
#include <string>

namespace kvt::bench {

/// What the publisher says, in a memfd that both processes map; the handles of pages 0 .. N-1 follow it.
struct Report {
  enum State : uint32_t { kWorking = 0, kReady = 1, kFailed = 2 };
  std::atomic<uint32_t> state;  ///< publisher; release: everything else was written before
  char error[508];
};
static_assert(sizeof(Report) == 512 && std::atomic<uint32_t>::is_always_lock_free);

inline constexpr const char* kPublisherFlag = "--publisher";
/// Descriptor of the memfd in the publisher.
inline constexpr int kReportFd = 3;

inline constexpr const char* kArenaName = "bench";

/// The session that every process of the bench attaches with. The result of kvt_attach.
int attach_bench_arena(const std::string& socket_dir, kvt_session** session, uint32_t flags = 0,
                       uint64_t stage_bytes_max = 0);

/// main() of the publisher: `--publisher SOCKET_DIR N still|churn`. With churn it gives the memory of the
/// arena back again and again: the daemon copies pages as fast as it can, and nothing here ever reads them.
/// Never returns before a signal ends it, unless it fails.
int publisher_main(int argc, char** argv);

}  // namespace kvt::bench
