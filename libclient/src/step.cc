// SPDX-License-Identifier: Apache-2.0
//
// Steps and resolving: the data path of a reader. No system call, no lock, no allocation.
#include "libclient/src/session.h"

using kvt::client::is_open;
using kvt::client::set_error;
using kvt::client::StepState;

namespace {

thread_local uint32_t slot_hint = 0;

/// Whether the daemon has ended the session, as an operator asked: its steps protect nothing any more.
bool has_ended(kvt_session& session) {
  if (kvt::load_acquire(session.region.header().ended) == 0) return false;
  session.ended.store(true, std::memory_order_relaxed);
  return true;
}

/// A FILLING page is its own session's to read.
[[gnu::noinline]] bool is_own_filling(const kvt_session& session, kvt::Handle page, kvt::Placement placement) {
  return placement.state() == kvt::PageState::kFilling && placement.generation() == page.generation() && session.table.owner(page.index()) == session.geometry.session_id;
}

}  // namespace

extern "C" {

int kvt_step_begin(kvt_session* session, kvt_step* step) noexcept {
  KVT_ENTER(session);
  if (step == nullptr) return set_error(KVT_E_INVALID, "step is NULL");
  for (uint32_t i = 0; i < KVT_STEP_SLOTS; ++i) {
    const uint32_t slot = (slot_hint + i) % KVT_STEP_SLOTS;
    StepState& state = session->steps[slot];
    if (state.busy.load(std::memory_order_relaxed) != 0 || state.busy.exchange(1, std::memory_order_acquire) != 0) continue;
    kvt_abi_step_slot& shared = session->member->slot[slot];
    if (kvt::load_acquire(shared.epoch) != 0) {  // its ender (a stream) has not cleared it yet (PROTOCOL B6)
      state.busy.store(0, std::memory_order_release);
      continue;
    }
    const uint64_t epoch = session->table.epoch();
    kvt::step_publish(shared, epoch);
    if (has_ended(*session)) {  // behind the fence: from a step that begins later nobody is kept
      kvt::step_clear(shared);
      state.busy.store(0, std::memory_order_release);
      return set_error(KVT_E_ENDED, "an operator has ended this session; attach again");
    }
    // Behind the same fence: did the keeper go to sleep before it could see this slot?
    if (session->table.keeper_asleep()) kvt::client::ring_doorbell(*session, true);
    slot_hint = slot;
    kvt::store_relaxed(state.serial, state.serial + 1);
    *step = kvt_step{epoch, slot, state.serial};
    return KVT_OK;
  }
  return set_error(KVT_E_LIMIT, "all " + std::to_string(KVT_STEP_SLOTS) + " steps of this process are open");
}

int kvt_step_end(kvt_session* session, const kvt_step* step) noexcept {
  KVT_ENTER(session);
  return kvt::client::guarded([&]() -> int {
    if (!is_open(*session, step)) return set_error(KVT_E_INVALID, "the step is not open");
    StepState& state = session->steps[step->slot];
    std::atomic_thread_fence(std::memory_order_acquire);  // the step's reads | ended; pairs with the fence of Arena::end_session
    const bool cut_short = has_ended(*session);
    kvt::step_clear(session->member->slot[step->slot]);
    if (state.has_deferred.load(std::memory_order_relaxed)) {
      std::vector<kvt::client::Deferred> deferred;
      {
        const std::lock_guard guard(state.lock);
        deferred.swap(state.deferred);
        state.has_deferred.store(false, std::memory_order_relaxed);
      }
      state.busy.store(0, std::memory_order_release);
      int result = KVT_OK;
      kvt::client::FreeBatch freed(*session);
      for (const kvt::client::Deferred& entry : deferred) {
        const int one = entry.kind == kvt::client::Deferred::Kind::kSeal ? kvt::client::seal_now(*session, entry.page)
                                                                         : kvt::client::release_now(*session, entry.page, freed);
        if (one < 0 && result == KVT_OK) result = one;
      }
      if (!cut_short) return result;
    }
    state.busy.store(0, std::memory_order_release);
    if (cut_short) return set_error(KVT_E_ENDED, "an operator has ended this session while the step was open: what it has read may be wrong");
    return KVT_OK;
  });
}

int kvt_resolve(kvt_session* session, const kvt_step* step, const kvt_page* pages, size_t n, kvt_frame* frames) noexcept {
  KVT_ENTER(session);
  if (!is_open(*session, step)) return set_error(KVT_E_INVALID, "resolve needs an open step");
  if (n != 0 && (pages == nullptr || frames == nullptr)) return set_error(KVT_E_INVALID, "pages or frames is NULL");
  const uint64_t* const words = session->table.placement_words(session->geometry.column);
  const uint64_t count = session->table.pages();
  size_t unreadable = 0;
  const auto resolve_one = [&](size_t i) {
    const kvt::Handle handle{pages[i]};
    kvt::Placement placement{0};
    if (handle.index() < count) [[likely]] placement.word = kvt::load_acquire(words[handle.index()]);
    if (placement.generation() == handle.generation() && placement.readable()) [[likely]] {
      frames[i] = placement.frame();
    } else if (is_own_filling(*session, handle, placement)) {
      frames[i] = placement.frame();
    } else {
      frames[i] = KVT_NO_FRAME;
      ++unreadable;
    }
  };
  // The words lie at random: some are on their way while others are looked at. A handle may name any address: to
  // prefetch there is harmless.
  constexpr size_t kAhead = 32;
  size_t at = 0;
  for (; at + kAhead < n; ++at) {
    __builtin_prefetch(&words[kvt::Handle{pages[at + kAhead]}.index()]);
    resolve_one(at);
  }
  for (; at < n; ++at) resolve_one(at);
  return static_cast<int>(n - unreadable);
}

int kvt_resolve_addresses(kvt_session* session, const kvt_step* step, const kvt_page* pages, size_t n, const void** addresses) noexcept {
  if (n != 0 && addresses == nullptr) return set_error(KVT_E_INVALID, "addresses is NULL");
  constexpr size_t kBlock = 256;
  kvt_frame frames[kBlock];
  int readable = 0;
  for (size_t at = 0; at < n || n == 0; at += kBlock) {
    const size_t count = n - at < kBlock ? n - at : kBlock;
    const int found = kvt_resolve(session, step, n == 0 ? nullptr : pages + at, count, frames);
    if (found < 0) return found;
    readable += found;
    for (size_t i = 0; i < count; ++i)
      addresses[at + i] = frames[i] == KVT_NO_FRAME ? nullptr : session->frame_address(frames[i]);
    if (n == 0) break;
  }
  return readable;
}

}  // extern "C"
