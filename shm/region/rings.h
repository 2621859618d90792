// SPDX-License-Identifier: Apache-2.0
//
// Submission and completion rings of one member, and the magazine of fresh pages of a session.
//
// A ring has one producer and one consumer. Each keeps its own index privately and publishes it; what it
// loads of the other's index is Untrusted on the daemon's side: a distance above the capacity ends the
// session (PROTOCOL C8). A command takes effect first, then it is answered, and the head advances last, so a daemon
// that dies between does it again (B4); the member takes one answer for each tag.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>

#include "shm/base/untrusted.h"
#include "shm/region/session_region.h"

namespace kvt {

inline constexpr uint64_t kRingMask = KVT_RING_ENTRIES - 1;

namespace ring_detail {
/// Copies 64 bytes word by word with relaxed loads: the other side may be writing, and then the copy is
/// garbage of its making, but never undefined behaviour here.
template <typename Entry>
Entry copy_in(const Entry& shared) {
  static_assert(sizeof(Entry) == 64 && alignof(Entry) == 8);
  uint64_t words[8];
  const auto* const source = reinterpret_cast<const uint64_t*>(&shared);
  for (int i = 0; i < 8; ++i) words[i] = load_relaxed(source[i]);
  Entry entry;
  std::memcpy(&entry, words, sizeof entry);
  return entry;
}
template <typename Entry>
void copy_out(Entry& shared, const Entry& entry) {
  uint64_t words[8];
  std::memcpy(words, &entry, sizeof entry);
  auto* const target = reinterpret_cast<uint64_t*>(&shared);
  for (int i = 0; i < 8; ++i) store_relaxed(target[i], words[i]);
}
}  // namespace ring_detail

// ---- client side: one thread at a time (the library's lock) ----

/// Producer of submissions. `try_push` is false when the ring is full.
class SubmissionWriter {
 public:
  SubmissionWriter() = default;
  explicit SubmissionWriter(kvt_abi_member& member)
      : member_(&member), tail_(load_relaxed(member.sq_tail.value)) {}
  [[nodiscard]] uint64_t room() const {
    return KVT_RING_ENTRIES - (tail_ - load_acquire(member_->sq_head.value));
  }
  bool try_push(const kvt_abi_submission& entry) {
    if (tail_ - load_acquire(member_->sq_head.value) >= KVT_RING_ENTRIES) return false;
    ring_detail::copy_out(member_->sq[tail_ & kRingMask], entry);
    store_release(member_->sq_tail.value, ++tail_);
    return true;
  }

 private:
  kvt_abi_member* member_ = nullptr;
  uint64_t tail_ = 0;
};

/// Consumer of completions.
class CompletionReader {
 public:
  CompletionReader() = default;
  explicit CompletionReader(kvt_abi_member& member)
      : member_(&member), head_(load_relaxed(member.cq_head.value)) {}
  [[nodiscard]] bool ready() const { return load_acquire(member_->cq_tail.value) != head_; }
  std::optional<kvt_abi_completion> try_pop() {
    if (!ready()) return std::nullopt;
    const kvt_abi_completion entry = ring_detail::copy_in(member_->cq[head_ & kRingMask]);
    store_release(member_->cq_head.value, ++head_);
    return entry;
  }

 private:
  kvt_abi_member* member_ = nullptr;
  uint64_t head_ = 0;
};

// ---- daemon side ----

/// Consumer of submissions and producer of completions of one member. The keeper loop.
class MemberRings {
 public:
  MemberRings() = default;
  explicit MemberRings(kvt_abi_member& member) : member_(&member) {}
  /// After a daemon restart: go on where the published indices say.
  void resume() {
    head_ = load_relaxed(member_->sq_head.value);
    cq_tail_ = load_relaxed(member_->cq_tail.value);
  }

  enum class Look { kEmpty, kReady, kBroken };
  /// How many commands wait. kBroken: the distance is impossible; end the session.
  Look look(uint64_t& waiting) const {
    const Untrusted<uint64_t> distance(load_acquire(member_->sq_tail.value) - head_);
    const auto checked = distance.between(0, KVT_RING_ENTRIES);
    if (!checked) return Look::kBroken;
    waiting = *checked;
    return waiting == 0 ? Look::kEmpty : Look::kReady;
  }
  /// A private copy of the next command. REQUIRES: look() said so.
  [[nodiscard]] kvt_abi_submission peek() const {
    return ring_detail::copy_in(member_->sq[head_ & kRingMask]);
  }
  /// A private copy of the command after the next, for hints: it is the client's to change until its turn
  /// comes.
  [[nodiscard]] kvt_abi_submission peek_second() const {
    return ring_detail::copy_in(member_->sq[(head_ + 1) & kRingMask]);
  }
  /// After the command took effect.
  void advance() {
    store_release(member_->sq_head.value, ++head_);
    posted_ = true;
  }

  /// Room for one more completion? A client that does not read its completions is not served (no growth, no
  /// wait).
  [[nodiscard]] bool completion_room() const {
    const Untrusted<uint64_t> used(cq_tail_ - load_acquire(member_->cq_head.value));
    return used.below(KVT_RING_ENTRIES).has_value();
  }
  void complete(const kvt_abi_completion& entry) {
    ring_detail::copy_out(member_->cq[cq_tail_ & kRingMask], entry);
    store_release(member_->cq_tail.value, ++cq_tail_);
    posted_ = true;
  }
  /// Wakes the member if it waits and a command was taken since the last call. Never blocks.
  void wake_if_posted();
  /// Wakes it whatever happened (fresh pages, end of the session).
  void wake();

 private:
  kvt_abi_member* member_ = nullptr;
  uint64_t head_ = 0;
  uint64_t cq_tail_ = 0;
  bool posted_ = false;
};

/// Client: sleeps until the daemon wakes it, `wake` differs from `seen`, or the timeout. The caller loads
/// `seen` first, then announces itself (waiters), fences, looks at its condition again, and only then waits.
void wait_for_wake(kvt_abi_member& member, uint32_t seen, uint32_t timeout_ms);
inline uint32_t load_wake(const kvt_abi_member& member) { return load_acquire(member.wake); }
inline void announce_waiter(kvt_abi_member& member, int change) {
  std::atomic_ref<uint32_t>(member.waiters)
      .fetch_add(static_cast<uint32_t>(change), std::memory_order_relaxed);
  full_fence();
}

// ---- magazine ----
//
// The daemon pushes fresh FILLING pages; any member pops, and the daemon takes back what an idle session
// leaves. A member holds the page before it takes it (PROTOCOL B5), so a page is never without a claim once
// it has left the magazine.

/// Client: the next fresh page, held; kNoHandle when the magazine is empty, or what stands there is no page of
/// the arena. `left` is what it leaves.
Handle magazine_pop(const SessionRegion& region, uint64_t& left);

/// Daemon: fresh pages go in.
class MagazineWriter {
 public:
  MagazineWriter() = default;
  explicit MagazineWriter(const SessionRegion& region) : region_(region) {}
  void resume() { tail_ = load_relaxed(region_.header().magazine_tail.value); }
  /// Whether the page waits in it. Looks at every entry.
  [[nodiscard]] bool has(Handle page) const {
    for (uint64_t left = waiting(); left != 0; --left)
      if (load_relaxed(region_.magazine()[(tail_ - left) % KVT_MAGAZINE_ENTRIES]) == page.value) return true;
    return false;
  }
  /// The page that was pushed last, wherever it is by now; kNoHandle: none was.
  [[nodiscard]] Handle newest() const {
    return tail_ == 0 ? kNoHandle
                      : Handle{load_relaxed(region_.magazine()[(tail_ - 1) % KVT_MAGAZINE_ENTRIES])};
  }
  /// Pages that wait; an impossible head counts as a full magazine (the session gets no more).
  [[nodiscard]] uint64_t waiting() const {
    const Untrusted<uint64_t> distance(tail_ - load_acquire(region_.header().magazine_head.value));
    return distance.capped(KVT_MAGAZINE_ENTRIES);
  }
  [[nodiscard]] uint64_t tail() const { return tail_; }
  /// The oldest page that waits, taken back; kNoHandle when there is none or a member took it first. What it
  /// names is the client's to write: a hint, to be checked like a command. A member that has just lost the
  /// race for it may hold it for a moment.
  Handle take_back();
  /// REQUIRES: waiting() < KVT_MAGAZINE_ENTRIES.
  void push(Handle page) {
    store_relaxed(region_.magazine()[tail_ % KVT_MAGAZINE_ENTRIES], page.value);
    store_release(region_.header().magazine_tail.value, ++tail_);
  }

 private:
  SessionRegion region_;
  uint64_t tail_ = 0;
};

}  // namespace kvt
