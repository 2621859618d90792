// SPDX-License-Identifier: Apache-2.0
//
// Holding, looking up and releasing pages (PROTOCOL A7, B1, B2, B5): one add and, for a whole batch, one
// fence.
#include <array>

#include "libclient/src/session.h"

namespace kvt::client {
namespace {

/// What a page is asked to be, under the hold.
bool is_sealed(const kvt_session& session, Handle page) {
  const Placement now = session.table.placement(session.geometry.column, page.index());
  return now.generation() == page.generation() && now.state() == PageState::kSealed;
}
bool has_key(const kvt_session& session, Handle page, Key key) {
  const Placement now = session.table.placement(session.geometry.column, page.index());
  return now.generation() == page.generation() && now.state() == PageState::kSealed && now.keyed() &&
         session.table.key(page.index()) == key;
}

/// The careful way for one key: every entry with its tag, one after another.
Handle lookup_one(kvt_session& session, Key key, uint64_t hash, bool hold) {
  Handle found = kNoHandle;
  session.index.find(hash, [&](PageIndex page, uint32_t generation) {
    if (page >= session.table.pages()) return false;
    const Handle candidate = Handle::of(page, generation);
    if (!hold) {
      if (has_key(session, candidate, key)) found = candidate;
      return !found.none();
    }
    if (hold_add(session.region, page) != HoldAdd::kAdded) return false;
    full_fence();  // the hold | the row (PROTOCOL A7, B1)
    if (has_key(session, candidate, key))
      found = candidate;
    else
      hold_drop(session.region, page);
    return !found.none();
  });
  return found;
}

}  // namespace

int hold_checked(kvt_session& session, Handle page) {
  if (page.index() >= session.table.pages()) return 0;
  if (hold_add(session.region, page.index()) != HoldAdd::kAdded)
    return set_error(KVT_E_LIMIT, "page " + std::to_string(page.index()) + " has " +
                                      std::to_string(KVT_MAX_HOLDS) + " holds of this session");
  full_fence();  // the hold | the row (PROTOCOL B1)
  if (is_sealed(session, page)) return 1;
  hold_drop(session.region, page.index());
  return 0;
}

int release_now(kvt_session& session, kvt_page raw, FreeBatch& freed) {
  const Handle page{raw};
  if (page.index() >= session.table.pages())
    return set_error(KVT_E_INVALID, "page " + std::to_string(page.index()) + " is not in this arena");
  const Placement before = session.table.placement(session.geometry.column, page.index());
  if (before.generation() != page.generation() || before.state() == PageState::kFree)
    return set_error(KVT_E_STALE, "page " + std::to_string(page.index()) + " has generation " +
                                      std::to_string(before.generation()) + ", the handle " +
                                      std::to_string(page.generation()));
  const bool filling = before.state() == PageState::kFilling;
  if (filling && session.table.owner(page.index()) != session.geometry.session_id)
    return set_error(KVT_E_PERMISSION,
                     "page " + std::to_string(page.index()) + " is being filled by another session");
  switch (hold_drop(session.region, page.index())) {
    case HoldDrop::kNotHeld:
      return set_error(KVT_E_NOT_HELD,
                       "page " + std::to_string(page.index()) + " is not held by this session");
    case HoldDrop::kStillHeld: return KVT_OK;
    case HoldDrop::kLast: break;
  }
  if (filling) {
    // One whose seal is in the ring goes behind it, back to the daemon; so does one that a stream may still write: the
    // daemon keeps its frame until the steps that are open have ended (PROTOCOL A5).
    const bool to_daemon =
        told(session, page.index()) != 0 || session.ending_steps.load(std::memory_order_relaxed) != 0;
    if (to_daemon || !return_to_stock(session, page)) freed.add_filling(page);
  } else if (!before.keyed() && session.access == KVT_ACCESS_READ_WRITE) {
    freed.add(page);  // an unkeyed page that nobody holds is of no use
  }
  return KVT_OK;
}

}  // namespace kvt::client

using kvt::Handle;
using kvt::Key;
using kvt::client::set_error;

extern "C" {

int kvt_lookup(kvt_session* session, const kvt_key* keys, size_t n, uint32_t flags,
               kvt_page* pages) noexcept {
  KVT_ENTER(session);
  if (n != 0 && (keys == nullptr || pages == nullptr))
    return set_error(KVT_E_INVALID, "keys or pages is NULL");
  if ((flags & ~uint32_t{KVT_LOOKUP_HOLD | KVT_LOOKUP_CHAIN}) != 0)
    return set_error(KVT_E_INVALID, "lookup flags " + std::to_string(flags) +
                                        ": only KVT_LOOKUP_HOLD and KVT_LOOKUP_CHAIN are known");
  const bool hold = (flags & KVT_LOOKUP_HOLD) != 0;
  const bool chain = (flags & KVT_LOOKUP_CHAIN) != 0;
  // Blocks of keys go through the stages together, so that the cache misses of one stage overlap.
  constexpr size_t kBlock = 32;
  std::array<uint64_t, kBlock> hashes;
  std::array<Handle, kBlock> candidates;
  size_t found = 0;
  size_t at = 0;
  bool stopped = false;
  for (; at < n && !stopped; at += kBlock) {
    const size_t count = n - at < kBlock ? n - at : kBlock;
    for (size_t i = 0; i < count; ++i) {
      hashes[i] = kvt::PrefixIndex::hash(Key{keys[at + i].lo, keys[at + i].hi});
      session->index.prefetch(hashes[i]);
    }
    for (size_t i = 0; i < count; ++i) {
      candidates[i] = kvt::kNoHandle;
      session->index.find(hashes[i], [&](kvt::PageIndex page, uint32_t generation) {
        if (page >= session->table.pages()) return false;
        candidates[i] = Handle::of(page, generation);
        session->table.prefetch_placement(session->geometry.column, page);
        session->table.prefetch_key(page);
        if (hold) __builtin_prefetch(&session->region.holds()[page], 1);
        return true;
      });
    }
    if (hold) {
      for (size_t i = 0; i < count; ++i)
        if (!candidates[i].none() &&
            kvt::hold_add(session->region, candidates[i].index()) != kvt::HoldAdd::kAdded)
          candidates[i] = kvt::kNoHandle;
      kvt::full_fence();  // all of these holds | their rows (PROTOCOL A7, B1)
    }
    for (size_t i = 0; i < count; ++i) {
      const Key key{keys[at + i].lo, keys[at + i].hi};
      Handle page = candidates[i];
      if (stopped) {
        if (hold && !page.none()) kvt::hold_drop(session->region, page.index());
        pages[at + i] = KVT_NO_PAGE;
        continue;
      }
      if (!page.none() && !kvt::client::has_key(*session, page, key)) {
        // Another key with the same tag, or a page on its way out: undo and look more carefully.
        if (hold) kvt::hold_drop(session->region, page.index());
        page = kvt::client::lookup_one(*session, key, hashes[i], hold);
      }
      pages[at + i] = page.value;
      if (!page.none())
        ++found;
      else if (chain)
        stopped = true;
    }
  }
  for (; at < n; ++at) pages[at] = KVT_NO_PAGE;
  session->stat_lookups.fetch_add(n, std::memory_order_relaxed);
  session->stat_hits.fetch_add(found, std::memory_order_relaxed);
  return static_cast<int>(found);
}

int kvt_hold(kvt_session* session, const kvt_page* pages, size_t n, uint8_t* ok) noexcept {
  KVT_ENTER(session);
  if (n != 0 && pages == nullptr) return set_error(KVT_E_INVALID, "pages is NULL");
  int count = 0;
  for (size_t i = 0; i < n; ++i) {
    const int held = kvt::client::hold_checked(*session, Handle{pages[i]});
    if (held < 0) return held;
    if (ok != nullptr) ok[i] = static_cast<uint8_t>(held);
    count += held;
  }
  return count;
}

int kvt_release(kvt_session* session, const kvt_page* pages, size_t n, const kvt_step* step) noexcept {
  KVT_ENTER(session);
  return kvt::client::guarded([&]() -> int {
    if (n != 0 && pages == nullptr) return set_error(KVT_E_INVALID, "pages is NULL");
    if (step != nullptr) {
      if (!kvt::client::is_open(*session, step)) return set_error(KVT_E_INVALID, "the step is not open");
      kvt::client::StepState& state = session->steps[step->slot];
      const std::lock_guard guard(state.lock);
      for (size_t i = 0; i < n; ++i)
        state.deferred.push_back({kvt::client::Deferred::Kind::kRelease, pages[i]});
      state.has_deferred.store(true, std::memory_order_relaxed);
      return KVT_OK;
    }
    int result = KVT_OK;
    kvt::client::FreeBatch freed(*session);
    for (size_t i = 0; i < n; ++i) {
      const int one = kvt::client::release_now(*session, pages[i], freed);
      if (one < 0 && result == KVT_OK) result = one;
    }
    return result;
  });
}

}  // extern "C"
