// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/ledger.h"

namespace kvt::replay {
namespace {

constexpr uint64_t kGenerationMask = 0xffffff;
constexpr int kFrameShift = 24;
constexpr uint64_t kFrameMask = 0x7fffffff;
constexpr int kWorkerShift = 55;
constexpr uint64_t kWorkerMask = 0xff;
constexpr uint64_t kStaticFast = uint64_t{1} << 63;

constexpr uint64_t generation_of(kvt_page page) { return (page >> 32) & kGenerationMask; }

}  // namespace

void Ledger::record(kvt_page page, kvt_frame frame, uint32_t worker) {
  const uint32_t index = KVT_PAGE_INDEX(page);
  if (index >= rows_.size()) return;
  // A FILLING page has one writer, so nobody else stores this word now.
  const uint64_t before = rows_[index].load(std::memory_order_relaxed);
  uint64_t fast = before & kStaticFast;
  if (before == 0 && static_fast_frames_->fetch_sub(1, std::memory_order_relaxed) > 0) fast = kStaticFast;
  // Relaxed is enough: the page reaches its readers through publish and lookup, which order more than this
  // word.
  rows_[index].store(generation_of(page) | (uint64_t{frame} & kFrameMask) << kFrameShift |
                         uint64_t{worker + 1} << kWorkerShift | fast,
                     std::memory_order_relaxed);
}

Ledger::Entry Ledger::find(kvt_page page) const {
  const uint32_t index = KVT_PAGE_INDEX(page);
  if (index >= rows_.size()) return {};
  const uint64_t word = rows_[index].load(std::memory_order_relaxed);
  const uint64_t worker = (word >> kWorkerShift) & kWorkerMask;
  Entry entry;
  entry.known = worker != 0 && (word & kGenerationMask) == generation_of(page);
  entry.static_fast = (word & kStaticFast) != 0;
  entry.worker = static_cast<uint32_t>(worker - 1);
  entry.frame = static_cast<kvt_frame>((word >> kFrameShift) & kFrameMask);
  return entry;
}

}  // namespace kvt::replay
