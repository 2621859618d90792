// SPDX-License-Identifier: Apache-2.0
#include "shm/region/rings.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace kvt {

void MemberRings::wake_if_posted() {
  if (!posted_) return;
  posted_ = false;
  full_fence();  // the completion | the waiters word; pairs with announce_waiter()
  if (load_relaxed(member_->waiters) != 0) wake();
}

void MemberRings::wake() {
  std::atomic_ref<uint32_t>(member_->wake).fetch_add(1, std::memory_order_release);
  ::syscall(SYS_futex, &member_->wake, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void wait_for_wake(kvt_abi_member& member, uint32_t seen, uint32_t timeout_ms) {
  timespec timeout{};
  timeout.tv_sec = timeout_ms / 1000;
  timeout.tv_nsec = static_cast<long>(timeout_ms % 1000) * 1'000'000;
  ::syscall(SYS_futex, &member.wake, FUTEX_WAIT, seen, &timeout, nullptr, 0);
}

Handle magazine_pop(const SessionRegion& region, uint64_t& left) {
  std::atomic_ref<uint64_t> head(region.header().magazine_head.value);
  uint64_t at = head.load(std::memory_order_relaxed);
  for (;;) {
    const uint64_t tail = load_acquire(region.header().magazine_tail.value);
    left = 0;
    // Empty; or a head that is newer than the tail: where loads pass each other, both can be seen (arm64).
    if (tail - at - 1 >= KVT_MAGAZINE_ENTRIES) return kNoHandle;
    const Handle page{load_relaxed(region.magazine()[at % KVT_MAGAZINE_ENTRIES])};
    // What another member of the session has scribbled there: its holds are as many as there are pages.
    if (page.index() >= region.pages()) return kNoHandle;
    // Held first (PROTOCOL B5, C3): between the two a death leaves a hold too many, which dies with the session, never one too
    // few.
    if (hold_add(region, page.index()) != HoldAdd::kAdded) return kNoHandle;
    // Release: who sees that it has left the magazine sees the hold.
    if (head.compare_exchange_weak(at, at + 1, std::memory_order_release, std::memory_order_relaxed)) {
      left = tail - at - 1;
      return page;
    }
    hold_drop(region, page.index());
  }
}

Handle MagazineWriter::take_back() {
  if (waiting() == 0) return kNoHandle;
  std::atomic_ref<uint64_t> head(region_.header().magazine_head.value);
  uint64_t at = head.load(std::memory_order_relaxed);
  if (tail_ - at - 1 >= KVT_MAGAZINE_ENTRIES) return kNoHandle;
  const Handle page{load_relaxed(region_.magazine()[at % KVT_MAGAZINE_ENTRIES])};
  return head.compare_exchange_strong(at, at + 1, std::memory_order_relaxed) ? page : kNoHandle;
}

}  // namespace kvt
