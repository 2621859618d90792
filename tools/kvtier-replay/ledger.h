// SPDX-License-Identifier: Apache-2.0
//
// Who wrote each page and where: one word a page index in memory that all workers share. The writer records a
// page before it publishes it, so whoever found the page finds its record. Thread-safe.
//
//   bits 0-23 generation   24-54 frame it was written to   55-62 worker + 1 (0: never written)   63 static
//   HBM
//
// The last bit simulates a static placement: the first page indices that are written fill the fast tier's
// frames and stay there for good, so a later page of the same index takes its predecessor's place.
#pragma once

#include <kvtier/kvtier.h>

#include <atomic>
#include <cstdint>
#include <span>

namespace kvt::replay {

inline constexpr uint32_t kWorkersMax = 64;

class Ledger {
 public:
  Ledger(std::span<std::atomic<uint64_t>> rows, std::atomic<int64_t>& static_fast_frames)
      : rows_(rows), static_fast_frames_(&static_fast_frames) {}

  void record(kvt_page page, kvt_frame frame, uint32_t worker);

  struct Entry {
    bool known = false;  ///< of this very generation; else the other fields say nothing, static_fast excepted
    bool static_fast = false;
    uint32_t worker = 0;
    kvt_frame frame = 0;
  };
  [[nodiscard]] Entry find(kvt_page page) const;

 private:
  std::span<std::atomic<uint64_t>> rows_;
  std::atomic<int64_t>* static_fast_frames_;
};

}  // namespace kvt::replay
