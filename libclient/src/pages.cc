// SPDX-License-Identifier: Apache-2.0
//
// Fresh pages, sealing, publishing, reserving: what a session does with pages of its own.
#include <algorithm>
#include <chrono>

#include "libclient/src/session.h"

namespace kvt::client {
namespace {

/// The next page of this member's stock, held; kNoHandle when it is empty. Entries are hints: a page that is
/// no longer this session's FILLING page is passed over.
Handle stock_pop(kvt_session& session) {
  kvt_abi_member& member = *session.member;
  for (;;) {
    Handle page = kNoHandle;
    {
      const std::lock_guard guard(session.stock_lock);
      const uint64_t count = load_relaxed(member.stock_count);
      if (count == 0 || count > KVT_STOCK_ENTRIES) return kNoHandle;
      page = Handle{load_relaxed(member.stock[count - 1])};
      if (page.index() >= session.table.pages() || hold_add(session.region, page.index()) != HoldAdd::kAdded)
        page = kNoHandle;
      store_relaxed(member.stock_count, count - 1);
    }
    if (page.none()) continue;
    const Placement now = session.table.placement(session.geometry.column, page.index());
    if (now.generation() == page.generation() && now.state() == PageState::kFilling) return page;
    hold_drop(session.region, page.index());
  }
}

Handle take_page(kvt_session& session) {
  Handle page = stock_pop(session);
  if (!page.none()) return page;
  uint64_t left = 0;
  page = magazine_pop(session.region, left);
  if (page.none()) return page;
  untell(session, page.index());
  if (left == load_relaxed(session.region.header().low_water)) ring_doorbell(session, false);
  return page;
}

kvt_abi_submission command_of(uint32_t op, Handle page) {
  kvt_abi_submission command{};
  command.op = op;
  command.page = page.value;
  command.parent = UINT64_MAX;
  return command;
}

int result_code(uint32_t result, Handle page) {
  const std::string name = "page " + std::to_string(page.index());
  switch (result) {
    case KVT_RESULT_OK: return KVT_OK;
    case KVT_RESULT_STALE: return set_error(KVT_E_STALE, name + ": the handle is stale");
    case KVT_RESULT_STATE: return set_error(KVT_E_STATE, name + " is in another state, or has another key");
    case KVT_RESULT_PERMISSION: return set_error(KVT_E_PERMISSION, name + " is not this session's");
    case KVT_RESULT_FULL:
      return set_error(
          KVT_E_FULL,
          name + " stays unpublished: the arena's room is guaranteed to others, or too many keys collide");
    case KVT_RESULT_INVALID: return set_error(KVT_E_INVALID, name + ": the daemon refused the command");
    default: return set_error(KVT_E_PROTOCOL, "result " + std::to_string(result) + " is not known");
  }
}

}  // namespace

int check_own(kvt_session& session, Handle page, bool sealed_too) {
  if (page.index() >= session.table.pages())
    return set_error(KVT_E_INVALID, "page " + std::to_string(page.index()) + " is not in this arena");
  const Placement now = session.table.placement(session.geometry.column, page.index());
  const std::string name = "page " + std::to_string(page.index());
  if (now.generation() != page.generation() || now.state() == PageState::kFree)
    return set_error(KVT_E_STALE, name + ": the handle is stale");
  if (session.table.owner(page.index()) != session.geometry.session_id)
    return set_error(KVT_E_PERMISSION, name + " is another session's");
  // In a stock, or on its way out: it may be the next that is allocated.
  if (now.state() == PageState::kFilling && !held(session.region, page.index()))
    return set_error(KVT_E_STALE, name + " was released");
  if (!sealed_too && (now.state() != PageState::kFilling || (told(session, page.index()) & kSealSent) != 0))
    return set_error(KVT_E_STATE, name + " is sealed already");
  return KVT_OK;
}

bool return_to_stock(kvt_session& session, Handle page) {
  const std::lock_guard guard(session.stock_lock);
  kvt_abi_member& member = *session.member;
  const uint64_t count = load_relaxed(member.stock_count);
  if (count >= KVT_STOCK_ENTRIES) return false;
  store_relaxed(member.stock[count], page.value);
  store_relaxed(member.stock_count, count + 1);
  return true;
}

void FreeBatch::add(Handle page) {
  pages_[count_++] = page.value;
  if (count_ == KVT_FREE_HANDLES) flush();
}

void FreeBatch::flush() {
  if (count_ == 0) return;
  kvt_abi_submission command{};
  command.op = KVT_OP_FREE;
  const auto at = [&](size_t i) { return i < count_ ? pages_[i] : UINT64_MAX; };
  command.page = at(0);
  command.key = {at(1), at(2)};
  command.parent = at(3);
  command.extra = at(4);
  count_ = 0;
  // The daemon is away: freed when the session ends. One wait is enough to learn that.
  if (must_arrive_ && !away_) away_ = submit(session_, std::span(&command, 1)) != KVT_OK;
  // Full: the daemon's slow sweep finds them
  else
    try_submit(session_, std::span(&command, 1));
  must_arrive_ = false;
}

int seal_now(kvt_session& session, kvt_page raw) {
  const Handle page{raw};
  if (const int own = check_own(session, page, false); own != KVT_OK) return own;
  const uint8_t before = told(session, page.index());
  tell(session, page.index(), kSealSent);
  const kvt_abi_submission command = command_of(KVT_OP_SEAL, page);
  const int submitted = submit(session, std::span(&command, 1));
  if (submitted != KVT_OK) {  // not told after all: it can be said again
    untell(session, page.index());
    tell(session, page.index(), before);
  }
  return submitted;
}

}  // namespace kvt::client

using kvt::Handle;
using kvt::client::set_error;

extern "C" {

int kvt_allocate(kvt_session* session, kvt_page* pages, size_t n) noexcept {
  KVT_ENTER_WRITE(session);
  if (n == 0 || pages == nullptr) return set_error(KVT_E_INVALID, "n is 0 or pages is NULL");
  n = std::min<size_t>(n, INT32_MAX);
  size_t have = 0;
  while (have < n) {
    const Handle page = kvt::client::take_page(*session);
    if (page.none()) break;
    pages[have++] = page.value;
  }
  if (have == 0) {
    // The stock is empty. A flush makes the daemon refill it before it answers.
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(session->timeout_ms);
    for (;;) {
      if (const int flushed = kvt_flush(session); flushed != KVT_OK) return flushed;
      const Handle page = kvt::client::take_page(*session);
      if (!page.none()) {
        pages[have++] = page.value;
        break;
      }
      const uint64_t allowance = kvt::load_acquire(session->region.header().allowance.value);
      if (allowance == kvt::load_acquire(session->region.header().magazine_head.value))
        return set_error(KVT_E_FULL,
                         "no page can be had in arena \"" + std::string(session->table.header().name) + "\"");
      if (std::chrono::steady_clock::now() > end)
        return set_error(KVT_E_FULL, "pages of the arena are being freed, but open steps keep them");
      // Pages are on their way through limbo: wait for the daemon's next pass.
      const uint32_t seen = kvt::load_wake(*session->member);
      kvt::announce_waiter(*session->member, 1);
      kvt::wait_for_wake(*session->member, seen, 1);
      kvt::announce_waiter(*session->member, -1);
    }
    while (have < n) {
      const Handle page = kvt::client::take_page(*session);
      if (page.none()) break;
      pages[have++] = page.value;
    }
  }
  session->stat_allocated.fetch_add(have, std::memory_order_relaxed);
  return static_cast<int>(have);
}

uint64_t kvt_free_count(kvt_session* session) noexcept {
  if (session == nullptr || !session->fork_word.here()) return 0;
  const uint64_t allowance = kvt::load_acquire(session->region.header().allowance.value);
  const uint64_t head = kvt::load_acquire(session->region.header().magazine_head.value);
  const uint64_t stock =
      std::min<uint64_t>(kvt::load_relaxed(session->member->stock_count), KVT_STOCK_ENTRIES);
  return (allowance > head ? allowance - head : 0) + stock;
}

void* kvt_page_data(kvt_session* session, kvt_page raw) noexcept {
  const auto enter = [&]() -> int {
    KVT_ENTER_WRITE(session);
    return KVT_OK;
  };
  if (enter() != KVT_OK) return nullptr;
  const Handle page{raw};
  if (kvt::client::check_own(*session, page, false) != KVT_OK) return nullptr;
  const kvt::Placement placement = session->table.placement(session->geometry.column, page.index());
  if ((session->unreachable_tiers & 1u << placement.tier()) != 0) {
    set_error(KVT_E_PERMISSION, "the page lies in device memory, which this session has not mapped");
    return nullptr;
  }
  return session->frame_address(placement.frame());
}

int kvt_seal(kvt_session* session, const kvt_page* pages, size_t n, const kvt_step* step) noexcept {
  KVT_ENTER_WRITE(session);
  return kvt::client::guarded([&]() -> int {
    if (n != 0 && pages == nullptr) return set_error(KVT_E_INVALID, "pages is NULL");
    if (step != nullptr) {
      if (!kvt::client::is_open(*session, step)) return set_error(KVT_E_INVALID, "the step is not open");
      for (size_t i = 0; i < n; ++i)
        if (const int own = kvt::client::check_own(*session, Handle{pages[i]}, false); own != KVT_OK)
          return own;
      kvt::client::StepState& state = session->steps[step->slot];
      const std::lock_guard guard(state.lock);
      state.deferred.reserve(state.deferred.size() + n);
      for (size_t i = 0; i < n; ++i) {
        state.deferred.push_back({kvt::client::Deferred::Kind::kSeal, pages[i]});
        kvt::client::tell(*session, Handle{pages[i]}.index(), kvt::client::kSealWaits);
      }
      state.has_deferred.store(true, std::memory_order_relaxed);
      return KVT_OK;
    }
    for (size_t i = 0; i < n; ++i)
      if (const int one = kvt::client::seal_now(*session, pages[i]); one != KVT_OK) return one;
    return KVT_OK;
  });
}

int kvt_publish(kvt_session* session, kvt_publish_entry* entries, size_t n) noexcept {
  KVT_ENTER_WRITE(session);
  return kvt::client::guarded([&]() -> int {
    if (n == 0) return 0;
    if (entries == nullptr) return set_error(KVT_E_INVALID, "entries is NULL");
    std::vector<kvt_abi_submission> commands;
    std::vector<size_t> positions;
    for (size_t i = 0; i < n; ++i) {
      kvt_publish_entry& entry = entries[i];
      const Handle page{entry.page};
      entry.present = KVT_NO_PAGE;
      if (entry.key.lo == 0 && entry.key.hi == 0)
        entry.result = set_error(KVT_E_INVALID, "the key {0,0} is no key");
      else if (entry.group > UINT16_MAX)
        entry.result = set_error(KVT_E_INVALID, "a group is 0 to 65535");
      else
        entry.result = kvt::client::check_own(*session, page, true);
      // Seen by others before it is filled, otherwise (PROTOCOL A6).
      if (entry.result == KVT_OK &&
          (kvt::client::told(*session, page.index()) & kvt::client::kSealWaits) != 0)
        entry.result =
            set_error(KVT_E_STATE, "page " + std::to_string(page.index()) +
                                       " is sealed by a step that is not over: publish it after that");
      if (entry.result != KVT_OK) continue;
      kvt::client::tell(*session, page.index(), kvt::client::kSealSent);
      kvt_abi_submission command = kvt::client::command_of(KVT_OP_PUBLISH, page);
      command.flags = entry.group;
      command.key = {entry.key.lo, entry.key.hi};
      command.parent = entry.parent;
      commands.push_back(command);
      positions.push_back(i);
    }
    std::vector<kvt_abi_completion> results(commands.size());
    if (const int waited = kvt::client::submit_and_wait(*session, commands, results.data()); waited != KVT_OK)
      return waited;
    for (size_t i = 0; i < commands.size(); ++i) {
      kvt_publish_entry& entry = entries[positions[i]];
      const Handle page{entry.page};
      if (results[i].result == KVT_RESULT_OK) {
        entry.result = KVT_PUBLISHED;
      } else if (results[i].result == KVT_RESULT_PRESENT) {
        entry.result = KVT_PRESENT;
        entry.present = results[i].page;
      } else {
        entry.result = kvt::client::result_code(results[i].result, page);
      }
    }
    return static_cast<int>(n);
  });
}

int kvt_unpublish(kvt_session* session, kvt_page page) noexcept {
  KVT_ENTER_WRITE(session);
  if (const int own = kvt::client::check_own(*session, Handle{page}, true); own != KVT_OK) return own;
  const kvt_abi_submission command = kvt::client::command_of(KVT_OP_UNPUBLISH, Handle{page});
  return kvt::client::submit(*session, std::span(&command, 1));
}

int kvt_reserve(kvt_session* session, const kvt_key* keys, size_t n, kvt_page* pages,
                uint8_t* results) noexcept {
  KVT_ENTER_WRITE(session);
  return kvt::client::guarded([&]() -> int {
    if (n == 0) return 0;
    if (keys == nullptr || pages == nullptr || results == nullptr)
      return set_error(KVT_E_INVALID, "keys, pages or results is NULL");
    std::vector<kvt_abi_submission> commands;
    std::vector<size_t> positions;
    if (const int found = kvt_lookup(session, keys, n, KVT_LOOKUP_HOLD, pages); found < 0) return found;
    for (size_t i = 0; i < n; ++i) {
      results[i] = KVT_RESERVE_PRESENT;
      if (pages[i] != KVT_NO_PAGE) continue;
      if (kvt_page fresh = KVT_NO_PAGE; kvt_allocate(session, &fresh, 1) == 1) {
        kvt_abi_submission command = kvt::client::command_of(KVT_OP_RESERVE, Handle{fresh});
        command.key = {keys[i].lo, keys[i].hi};
        commands.push_back(command);
        positions.push_back(i);
      } else {
        results[i] = KVT_RESERVE_FULL;
      }
    }
    std::vector<kvt_abi_completion> answers(commands.size());
    kvt::client::FreeBatch freed(*session);
    const int waited = kvt::client::submit_and_wait(*session, commands, answers.data());
    for (size_t i = 0; i < commands.size(); ++i) {
      const size_t at = positions[i];
      const Handle fresh{commands[i].page};
      if (waited == KVT_OK && answers[i].result == KVT_RESULT_OK) {
        kvt::client::tell(*session, fresh.index(), kvt::client::kReserved);
        pages[at] = fresh.value;
        results[at] = KVT_RESERVE_NEW;
        continue;
      }
      results[at] = KVT_RESERVE_PENDING;
      // PRESENT since the lookup: held now, or it is on its way out again and the caller may ask once more.
      if (waited == KVT_OK && answers[i].result == KVT_RESULT_PRESENT &&
          kvt::client::hold_checked(*session, Handle{answers[i].page}) == 1) {
        pages[at] = answers[i].page;
        results[at] = KVT_RESERVE_PRESENT;
      }
      // Not answered: the command may yet be done. The page goes back behind it, so that no reservation
      // stays.
      if (waited != KVT_OK) kvt::client::tell(*session, fresh.index(), kvt::client::kReserved);
      kvt::client::release_now(*session, fresh.value, freed);
    }
    if (waited == KVT_OK) return static_cast<int>(n);
    for (size_t i = 0; i < n; ++i) {  // a call that fails holds nothing
      if (pages[i] == KVT_NO_PAGE) continue;
      kvt::client::release_now(*session, pages[i], freed);
      pages[i] = KVT_NO_PAGE;
    }
    return waited;
  });
}

int kvt_advise(kvt_session* session, const kvt_page* pages, size_t n, uint32_t advice) noexcept {
  KVT_ENTER(session);
  return kvt::client::guarded([&]() -> int {
    if (n != 0 && pages == nullptr) return set_error(KVT_E_INVALID, "pages is NULL");
    if (advice != KVT_ADVISE_PREFETCH && advice != KVT_ADVISE_DEMOTE)
      return set_error(KVT_E_INVALID, "advice is KVT_ADVISE_PREFETCH or KVT_ADVISE_DEMOTE");
    std::vector<kvt_abi_submission> commands;
    commands.reserve(n);
    for (size_t i = 0; i < n; ++i) {
      commands.push_back(kvt::client::command_of(KVT_OP_ADVISE, Handle{pages[i]}));
      commands.back().flags = advice;
    }
    return static_cast<int>(kvt::client::try_submit(*session, commands));
  });
}

int kvt_set_group(kvt_session* session, const kvt_page* pages, size_t n, uint32_t group) noexcept {
  KVT_ENTER_WRITE(session);
  return kvt::client::guarded([&]() -> int {
    if (n != 0 && pages == nullptr) return set_error(KVT_E_INVALID, "pages is NULL");
    if (group > UINT16_MAX) return set_error(KVT_E_INVALID, "a group is 0 to 65535");
    std::vector<kvt_abi_submission> commands;
    commands.reserve(n);
    for (size_t i = 0; i < n; ++i) {
      if (const int own = kvt::client::check_own(*session, Handle{pages[i]}, true); own != KVT_OK) return own;
      commands.push_back(kvt::client::command_of(KVT_OP_GROUP, Handle{pages[i]}));
      commands.back().flags = group;
    }
    return kvt::client::submit(*session, commands);
  });
}

}  // extern "C"
