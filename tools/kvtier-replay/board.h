// SPDX-License-Identifier: Apache-2.0
//
// The memory that the replay's own processes share (one memfd, inherited over exec): what to do, when to
// stop, what each worker has counted, and the ledger. It is not part of kvtier's contract; the writer of each
// part is named.
//
//   header | statistics[workers] | windows[workers] | requests | block ids | ledger[pages]
#pragma once

#include <kvtier/kvtier.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "tools/kvtier-replay/ledger.h"
#include "tools/kvtier-replay/reads.h"

namespace kvt::replay {

/// A request as a worker sees it. Written by the parent before any worker starts.
struct PlannedRequest {
  uint64_t first_block = 0;  ///< in the board's block ids
  uint32_t blocks = 0;
  uint32_t output_tokens = 0;
  int64_t arrival_ns = 0;  ///< since the start
  uint32_t worker = 0;
  uint32_t reserved = 0;
};

/// What reads and writes pages.
enum class DeviceKind : uint32_t { kCpu = 0, kCuda = 1 };

enum class WorkerState : uint32_t { kStarting = 0, kAttached = 1, kDone = 2 };

/// What one worker has counted. Written by that worker alone, read by the parent any time.
struct alignas(64) WorkerStatistics {
  std::atomic<WorkerState> state;
  std::atomic<uint64_t> requests;
  std::atomic<uint64_t> requests_cut;        ///< ended before their output was complete, to make room
  std::atomic<uint64_t> requests_shortened;  ///< the arena was full: the rest of the prompt was left out
  std::atomic<uint64_t> blocks_asked;
  std::atomic<uint64_t> blocks_found;
  std::atomic<uint64_t> blocks_written;
  std::atomic<uint64_t> publish_present;  ///< another worker was first
  std::atomic<uint64_t> pages_appended;
  std::atomic<uint64_t> steps;
  std::atomic<uint64_t> words_verified_own;
  std::atomic<uint64_t> words_verified;
  std::atomic<uint64_t> words_verified_moved;
  std::atomic<uint64_t> pages_verified_in_move;
  std::atomic<uint64_t> corrupt;
  std::atomic<uint64_t> lost;
  std::array<std::atomic<uint64_t>, KVT_TIERS_MAX> bytes_read;
  std::atomic<double> seconds_kvtier;
  std::atomic<double> seconds_static;
  std::atomic<double> seconds_best;
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<double>::is_always_lock_free,
              "statistics are shared between processes");

/// Adds to a counter that only the caller writes.
template <class T>
void count(std::atomic<T>& counter, T amount) {
  counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
}
inline void count(std::atomic<uint64_t>& counter) { count(counter, uint64_t{1}); }

/// Bytes that one worker read in a stretch of time. Written by that worker alone, read when it has ended.
using WindowBytes = std::array<uint64_t, KVT_TIERS_MAX>;

struct BoardHeader {
  // Written by the parent before any worker starts.
  uint64_t bytes;
  uint64_t pages;
  uint64_t page_bytes;
  uint64_t seed;
  uint64_t requests;
  uint64_t block_ids;
  uint64_t held_pages_max;  ///< by one worker
  int64_t duration_ns;
  int64_t window_ns;
  uint64_t windows;  ///< of each worker; the last one has whatever comes later
  uint32_t workers;
  ReadModel read_model;
  uint32_t open_steps_max;  ///< of one worker, that stay open while others run
  int32_t parent_pid;
  uint32_t no_balance;  ///< 1: a page that lies in two tiers is read from the faster one
  DeviceKind device;
  int32_t cuda_device;  ///< as the driver counts them
  uint32_t reserved;
  std::array<char, 112> socket_dir;
  std::array<char, 64> arena;
  std::array<char, 1024> cuda_driver;  ///< path; "" for the CPU
  Gates gates;
  // Written by the parent while workers run.
  std::atomic<int64_t> start_ns;  ///< CLOCK_MONOTONIC; 0: not yet
  std::atomic<uint32_t> stop;
  // Written by all.
  std::atomic<int64_t> static_fast_frames;
};

/// Maps a board; thread-safe as its parts are. The descriptor lives as long as the Board.
class Board {
 public:
  struct Sizes {
    uint32_t workers = 0;
    uint64_t requests = 0;
    uint64_t block_ids = 0;
    uint64_t pages = 0;
    uint64_t windows = 0;
  };
  /// A new one, all zero but its sizes. The descriptor passes over exec.
  static Board create(const Sizes& sizes);
  /// One that was created by the parent process.
  static Board open(int fd);

  Board(Board&& other) noexcept;
  Board& operator=(Board&&) = delete;
  ~Board();

  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] BoardHeader& header() const { return *static_cast<BoardHeader*>(memory_); }
  [[nodiscard]] std::span<WorkerStatistics> statistics() const;
  [[nodiscard]] std::span<WindowBytes> windows(uint32_t worker) const;
  [[nodiscard]] std::span<PlannedRequest> requests() const;
  [[nodiscard]] std::span<uint64_t> block_ids() const;
  [[nodiscard]] Ledger ledger() const;

 private:
  Board(int fd, void* memory, size_t bytes) : fd_(fd), memory_(memory), bytes_(bytes) {}
  [[nodiscard]] std::byte* at(size_t offset) const { return static_cast<std::byte*>(memory_) + offset; }

  int fd_;
  void* memory_;
  size_t bytes_;
};

/// CLOCK_MONOTONIC, the same in all processes.
int64_t now_ns();

}  // namespace kvt::replay
