// SPDX-License-Identifier: Apache-2.0
#include "tools/bench/publisher.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "tools/bench/memory.h"
#include "tools/bench/rows.h"
#include "tools/bench/sequence.h"

namespace kvt::bench {
namespace {

/// Pages of one kvt_publish: below the ring's capacity, so that one round trip does.
constexpr uint64_t kPublishBatch = 512;
/// The daemon may be busy making an arena of 10 million pages; nothing else waits for it here.
constexpr uint32_t kTimeoutMs = 10000;
/// How often the memory of moved pages is given back: at 5 GB/s of copies half a gigabyte stays.
constexpr auto kPunchPeriod = std::chrono::milliseconds(100);

int checked(int result, const char* call) {
  if (result < 0) throw RowError(std::string(call) + ": " + kvt_last_error());
  return result;
}

/// Frees the memory behind every frame of the arena; reading one then gives zeros.
void punch_windows(const kvt_geometry& geometry) {
  for (uint32_t tier = 0; tier < geometry.tiers; ++tier) {
    const kvt_window& window = geometry.windows[tier];
    auto* const first = static_cast<std::byte*>(geometry.base) + window.first_frame * geometry.stride;
    if (window.frames != 0 && madvise(first, window.frames * geometry.stride, MADV_REMOVE) != 0)
      throw RowError(std::string("MADV_REMOVE of window ") + window.name + ": " + std::strerror(errno));
  }
}

void publish_all(kvt_session* session, uint64_t pages, kvt_page* handles, const kvt_geometry* punch) {
  std::vector<kvt_page> fresh(kPublishBatch);
  std::vector<kvt_publish_entry> entries;
  auto last_punch = std::chrono::steady_clock::now();
  auto last_line = last_punch;
  for (uint64_t done = 0; done < pages;) {
    const auto got = static_cast<uint64_t>(
        checked(kvt_allocate(session, fresh.data(), std::min(kPublishBatch, pages - done)), "kvt_allocate"));
    entries.assign(got, kvt_publish_entry{});
    for (uint64_t i = 0; i < got; ++i) {
      entries[i].page = fresh[i];
      entries[i].key = key_of(done + i);
      entries[i].parent = KVT_NO_PAGE;
      handles[done + i] = fresh[i];
    }
    checked(kvt_publish(session, entries.data(), got), "kvt_publish");
    for (const kvt_publish_entry& entry : entries)
      if (entry.result != KVT_PUBLISHED)
        throw RowError("a page was not published: result " + std::to_string(entry.result));
    done += got;

    const auto now = std::chrono::steady_clock::now();
    if (punch != nullptr && now - last_punch >= kPunchPeriod) {
      punch_windows(*punch);
      last_punch = now;
    }
    if (now - last_line >= std::chrono::seconds(2)) {
      std::fprintf(stderr, "kvt_bench: %llu of %llu pages published\n", static_cast<unsigned long long>(done),
                   static_cast<unsigned long long>(pages));
      last_line = now;
    }
  }
}

}  // namespace

int attach_bench_arena(const std::string& socket_dir, kvt_session** session, uint32_t flags,
                       uint64_t stage_bytes_max) {
  kvt_attach_args args{};
  args.size = sizeof args;
  args.socket_dir = socket_dir.c_str();
  args.arena = kArenaName;
  args.timeout_ms = kTimeoutMs;
  args.flags = flags;
  args.stage_bytes_max = stage_bytes_max;
  return kvt_attach(&args, session);
}

int publisher_main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: kvt_bench %s SOCKET_DIR PAGES still|churn\n", kPublisherFlag);
    return 2;
  }
  const std::string socket_dir = argv[2];
  const uint64_t pages = std::strtoull(argv[3], nullptr, 10);
  const bool churn = std::strcmp(argv[4], "churn") == 0;
  const SharedMemory memory(kReportFd, sizeof(Report) + pages * sizeof(kvt_page));
  auto& report = *reinterpret_cast<Report*>(memory.data());
  try {
    kvt_session* session = nullptr;
    checked(attach_bench_arena(socket_dir, &session), "kvt_attach");
    kvt_geometry geometry{};
    geometry.size = sizeof geometry;
    checked(kvt_get_geometry(session, &geometry), "kvt_get_geometry");
    publish_all(session, pages, reinterpret_cast<kvt_page*>(memory.data() + sizeof(Report)),
                churn ? &geometry : nullptr);
    report.state.store(Report::kReady, std::memory_order_release);
    // The session lives until a signal ends this process; the daemon sees that by its pidfd.
    for (;;) {
      if (!churn) pause();
      std::this_thread::sleep_for(kPunchPeriod);
      punch_windows(geometry);
    }
  } catch (const std::exception& error) {
    std::snprintf(report.error, sizeof report.error, "publisher: %s", error.what());
    report.state.store(Report::kFailed, std::memory_order_release);
    return 1;
  }
}

}  // namespace kvt::bench
