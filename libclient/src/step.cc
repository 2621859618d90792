// SPDX-License-Identifier: Apache-2.0
//
// Steps and resolving: the data path of a reader. No system call, no lock, no allocation, except where a page
// is taken that was offered.
#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdint>

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
[[gnu::noinline]] bool is_own_filling(const kvt_session& session, kvt::Handle page,
                                      kvt::Placement placement) {
  return placement.state() == kvt::PageState::kFilling && placement.generation() == page.generation() &&
         session.table.owner(page.index()) == session.geometry.session_id;
}

/// Pages from one look at a shadow word to the next, while looks are in vain. A look is a load from memory,
/// most likely; one in 16 pages costs little.
constexpr uint64_t kLooksApartMax = 16;

/// Where to read a page of the fast tier from: its shadow if it has one and the fast tier is behind the
/// shadow's, with this page on its account. Says in the state when to look again. Outside of the loop's code:
/// one page in a dozen comes here.
[[gnu::noinline]] kvt::Frame look_at_shadow(const kvt_session& session, StepState& state, kvt::PageIndex page,
                                            kvt::Placement placement) {
  const uint64_t fast = state.read_time[session.fast_tier];
  const auto first_paying = [&] {
    uint64_t first = UINT64_MAX;
    for (uint32_t tier = session.fast_tier + 1; tier < session.tiers; ++tier)
      if (session.read_time[tier] != 0)
        first = std::min(first, state.read_time[tier] + session.read_time[tier]);
    return first;
  };
  state.look_at = first_paying();
  if (fast <= state.look_at) return placement.frame();
  const kvt::Shadow shadow = session.table.shadow(session.geometry.column, page);
  // Good only with the generation of the placement that was loaded in the same step (PROTOCOL B3).
  if (shadow.valid() && shadow.generation() == placement.generation() && shadow.tier() < session.tiers &&
      session.read_time[shadow.tier()] != 0) {
    const uint64_t after = state.read_time[shadow.tier()] + session.read_time[shadow.tier()];
    if (fast > after) {
      state.read_time[shadow.tier()] = after;
      state.looks_apart = 0;
      state.look_at = first_paying();
      return shadow.frame();
    }
    state.look_at = after;
    return placement.frame();
  }
  state.looks_apart = std::min(state.looks_apart * 2 + 1, kLooksApartMax);
  state.look_at = fast + ((state.looks_apart - 1) << kvt_session::kFastPageBits);
  return placement.frame();
}

/// The balance of one step, in registers while pages are resolved. A step takes the longest of its tiers'
/// bytes / bandwidth, which is least where all take equally long. The fast tier's share never falls below
/// that of the bandwidths, because a page is read from its shadow only while the fast tier is behind.
///
/// Which tier a page is in is random: nothing here branches on it, but for pages that may be read from their
/// shadow.
class Balance {
 public:
  /// Pages between two calls of settle(), at most.
  static constexpr size_t kBlock = 128;

  Balance(const kvt_session& session, StepState& state)
      : session_(session),
        state_(state),
        fast_shift_(8 * session.fast_tier),
        fast_mask_(uint64_t{0xff} << fast_shift_) {
    settle();
  }
  Balance(const Balance&) = delete;
  Balance& operator=(const Balance&) = delete;

  /// Where to read *page from, which is followed by others up to `end`.
  kvt::Frame choose(const kvt_page* page, const kvt_page* end, kvt::Placement placement) {
    if ((counts_ & fast_mask_) >= look_at_count_) [[unlikely]] {
      if (placement.tier() == session_.fast_tier) {
        settle();
        const kvt::Frame frame = look_at_shadow(session_, state_, kvt::Handle{*page}.index(), placement);
        set_next_look();
        if (frame != placement.frame()) {
          // Where all are in the fast tier and have a shadow, the third look from here is about there.
          for (size_t ahead = session_.third_look - 1; ahead <= session_.third_look + 1; ++ahead)
            if (ahead < static_cast<size_t>(end - page))
              session_.table.prefetch_shadow(session_.geometry.column, kvt::Handle{page[ahead]}.index());
          return frame;
        }
      }
    }
    counts_ += uint64_t{1} << (8 * (placement.tier() % KVT_MAX_TIERS));
    return placement.frame();
  }
  /// A page that was copied into the fast tier is read there, besides.
  void count_fast() { counts_ += uint64_t{1} << fast_shift_; }
  /// Brings the times of all tiers up to date.
  void settle() {
    for (uint32_t tier = session_.fast_tier; tier < KVT_MAX_TIERS && counts_ >> (8 * tier) != 0; ++tier)
      state_.read_time[tier] += session_.read_time[tier] * ((counts_ >> (8 * tier)) & 0xff);
    counts_ = 0;
    set_next_look();
  }

 private:
  /// After how many more pages of the fast tier its time is more than state_.look_at.
  void set_next_look() {
    const uint64_t fast = state_.read_time[session_.fast_tier];
    const uint64_t pages =
        fast > state_.look_at ? 0 : ((state_.look_at - fast) >> kvt_session::kFastPageBits) + 1;
    look_at_count_ = std::min<uint64_t>(pages, 0xff) << fast_shift_;
  }

  const kvt_session& session_;
  StepState& state_;
  const uint32_t fast_shift_;
  const uint64_t fast_mask_;
  uint64_t counts_ = 0;         // a byte a tier: pages since settle()
  uint64_t look_at_count_ = 0;  // of the fast tier's byte
};
static_assert(KVT_MAX_TIERS * 8 == 64 && 2 * Balance::kBlock <= 256, "a byte a tier");

struct NoBalance {
  static constexpr size_t kBlock = SIZE_MAX;
  NoBalance(const kvt_session&, StepState&) {}
  static kvt::Frame choose(const kvt_page*, const kvt_page*, kvt::Placement placement) {
    return placement.frame();
  }
  static void count_fast() {}
  static void settle() {}
};

/// The loop of kvt_resolve. Without offers out it loads one word a page, and now and then a shadow. Returns
/// how many are readable.
template <typename BalanceOrNot, bool kOffers>
size_t resolve(kvt_session& session, StepState& state, const kvt_page* pages, size_t n, kvt_frame* frames) {
  const uint32_t column = session.geometry.column;
  const uint64_t* const words = session.table.placement_words(column);
  const uint64_t count = session.table.pages();
  BalanceOrNot balance(session, state);
  size_t unreadable = 0;
  const auto resolve_one = [&](size_t i) {
    const kvt::Handle handle{pages[i]};
    kvt::Placement placement{0};
    if (handle.index() < count) [[likely]]
      placement.word = kvt::load_acquire(words[handle.index()]);
    if (placement.generation() == handle.generation() && placement.readable()) [[likely]] {
      frames[i] = balance.choose(pages + i, pages + n, placement);
      if (!kOffers || placement.tier() == session.fast_tier) return;
      // Inside the step, behind its begin's fence (PROTOCOL A3).
      const kvt::Offer offer = session.table.offer(column, handle.index());
      if (!offer.valid() || offer.session_slot() != session.geometry.slot ||
          offer.generation() != handle.generation())
        return;
      frames[i] = kvt::client::take_offer(session, state, handle, placement, offer);
      if (frames[i] != placement.frame()) balance.count_fast();
    } else if (is_own_filling(session, handle, placement)) {
      frames[i] = placement.frame();
    } else {
      frames[i] = KVT_NO_FRAME;
      ++unreadable;
    }
  };
  // The words lie at random: some are on their way while others are looked at. A handle may name any address:
  // to prefetch there is harmless.
  constexpr size_t kAhead = 32;
  for (size_t at = 0; at < n;) {
    const size_t end = n - at < BalanceOrNot::kBlock ? n : at + BalanceOrNot::kBlock;
    const size_t ahead_end = n - at > kAhead ? std::min(end, n - kAhead) : at;
    for (; at < ahead_end; ++at) {
      __builtin_prefetch(&words[kvt::Handle{pages[at + kAhead]}.index()]);
      resolve_one(at);
    }
    for (; at < end; ++at) resolve_one(at);
    balance.settle();
  }
  return n - unreadable;
}

/// A page whose place is not mapped here: its second place may be. Returns how many of the frames stay readable.
size_t keep_reachable(const kvt_session& session, const kvt_page* pages, size_t n, kvt_frame* frames) {
  size_t readable = 0;
  const auto reachable = [&](kvt::Frame frame) {
    const auto tier = session.table.tier_of_frame(frame);
    return tier && (session.unreachable_tiers & 1u << *tier) == 0;
  };
  for (size_t i = 0; i < n; ++i) {
    if (frames[i] == KVT_NO_FRAME) continue;
    if (!reachable(frames[i])) {
      const kvt::Handle page{pages[i]};
      const kvt::Shadow shadow = session.table.shadow(session.geometry.column, page.index());
      // Its generation is the handle's, which the placement had (PROTOCOL B3).
      const bool good =
          shadow.valid() && shadow.generation() == page.generation() && reachable(shadow.frame());
      frames[i] = good ? shadow.frame() : KVT_NO_FRAME;
    }
    if (frames[i] != KVT_NO_FRAME) ++readable;
  }
  return readable;
}

}  // namespace

namespace kvt::client {

uint64_t StepClock::now_ns() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

void StepClock::count(kvt_abi_member& member) {
  const uint64_t took = now_ns() - begun_ns;
  count_step(member, took, uint64_t{unmeasured} + 1);
  begun_ns = 0;
  unmeasured = 0;
  left_out = took < kShortStepNs ? kShortStepsApart - 1 : 0;
}

int begin_step(kvt_session& session, void* stream, kvt_step& step) {
  if (session.ending_steps.load(std::memory_order_relaxed) != 0) settle_steps(session);
  notice_restart(session);
  for (uint32_t i = 0; i < KVT_STEP_SLOTS; ++i) {
    const uint32_t slot = (slot_hint + i) % KVT_STEP_SLOTS;
    StepState& state = session.steps[slot];
    if (state.busy.load(std::memory_order_relaxed) != 0 ||
        state.busy.exchange(1, std::memory_order_acquire) != 0)
      continue;
    kvt_abi_step_slot& shared = session.member->slot[slot];
    const uint64_t epoch = session.table.epoch();
    kvt::step_publish(shared, epoch);
    if (has_ended(session)) {  // behind the fence: from a step that begins later nobody is kept
      kvt::step_clear(shared);
      state.busy.store(0, std::memory_order_release);
      return set_error(KVT_E_ENDED, "an operator has ended this session; attach again");
    }
    // Behind the same fence: did the keeper go to sleep before it could see this slot?
    if (session.table.keeper_asleep()) ring_doorbell(session, true);
    slot_hint = slot;
    kvt::store_relaxed(state.serial, state.serial + 1);
    state.stream = stream;
    state.begin_reads();
    if (stream == nullptr) state.clock.begin();
    step = kvt_step{epoch, slot, state.serial};
    return KVT_OK;
  }
  return set_error(KVT_E_LIMIT, "all " + std::to_string(KVT_STEP_SLOTS) + " steps of this process are open");
}

int finish_step(kvt_session& session, StepState& state, bool cut_short) {
  if (state.touches != nullptr) settle_touches(session, state, cut_short);
  if (!state.staged.empty()) {
    if (cut_short)
      state.staged.clear();
    else
      report_staged(session, state);
  }
  int result = KVT_OK;
  if (state.has_deferred.load(std::memory_order_relaxed)) {
    std::vector<Deferred> deferred;
    {
      const std::lock_guard guard(state.lock);
      deferred.swap(state.deferred);
      state.has_deferred.store(false, std::memory_order_relaxed);
    }
    FreeBatch freed(session);
    for (const Deferred& entry : deferred) {
      if (entry.kind == Deferred::Kind::kSeal) untell(session, Handle{entry.page}.index(), kSealWaits);
      const int one = entry.kind == Deferred::Kind::kSeal ? seal_now(session, entry.page)
                                                          : release_now(session, entry.page, freed);
      if (one < 0 && result == KVT_OK) result = one;
    }
  }
  if (cut_short)
    return set_error(
        KVT_E_ENDED,
        "an operator has ended this session while the step was open: what it has read may be wrong");
  return result;
}

int settle_steps(kvt_session& session) {
  int open = 0;
  for (uint64_t left = session.ending_steps.load(std::memory_order_acquire); left != 0; left &= left - 1) {
    const auto slot = static_cast<uint32_t>(std::countr_zero(left));
    const uint64_t bit = uint64_t{1} << slot;
    // Claimed before it is looked at: when another thread has settled it, the slot may be a later step's by now.
    if ((session.ending_steps.fetch_and(~bit, std::memory_order_acq_rel) & bit) == 0) continue;
    // Acquire: what the device has written before its last store is there (PROTOCOL A6).
    if (kvt::load_acquire(session.member->slot[slot].epoch) != 0) {
      session.ending_steps.fetch_or(bit, std::memory_order_release);
      ++open;
      continue;
    }
    StepState& state = session.steps[slot];
    if (const int result = finish_step(session, state, has_ended(session)); result < 0) {
      int none = KVT_OK;
      session.late_result.compare_exchange_strong(none, result, std::memory_order_relaxed);
    }
    state.busy.store(0, std::memory_order_release);
  }
  return open;
}

size_t resolve_in_step(kvt_session& session, StepState& state, std::span<const kvt_page> pages,
                       kvt_frame* frames, bool stage) {
  const size_t n = pages.size();
  const bool plain = session.keeps_tables.load(std::memory_order_relaxed);
  // A hint: an offer that is not seen yet is taken by a later step.
  const bool offers = !plain && stage && load_relaxed(session.region.header().offers) != 0;
  size_t readable = 0;
  if (session.balances && !plain)
    readable = offers ? resolve<Balance, true>(session, state, pages.data(), n, frames)
                      : resolve<Balance, false>(session, state, pages.data(), n, frames);
  else
    readable = offers ? resolve<NoBalance, true>(session, state, pages.data(), n, frames)
                      : resolve<NoBalance, false>(session, state, pages.data(), n, frames);
  if (session.blind_tiers != 0) [[unlikely]]
    readable = keep_reachable(session, pages.data(), n, frames);
  // Behind the rows: where an operator has ended the session they may name device memory that it has unmapped (PROTOCOL A9).
  if (session.device_tiers != 0 && load_acquire(session.region.header().ended) != 0) [[unlikely]] {
    std::fill_n(frames, n, KVT_NO_FRAME);
    return 0;
  }
  return readable;
}

}  // namespace kvt::client

extern "C" {

int kvt_step_begin(kvt_session* session, kvt_step* step) noexcept {
  KVT_ENTER(session);
  if (step == nullptr) return set_error(KVT_E_INVALID, "step is NULL");
  return kvt::client::guarded([&] { return kvt::client::begin_step(*session, nullptr, *step); });
}

int kvt_step_end(kvt_session* session, const kvt_step* step) noexcept {
  KVT_ENTER(session);
  return kvt::client::guarded([&]() -> int {
    if (!is_open(*session, step)) return set_error(KVT_E_INVALID, "the step is not open");
    StepState& state = session->steps[step->slot];
    if (state.stream != nullptr)
      return set_error(KVT_E_INVALID, "a stream ends this step: kvt_cuda_step_end");
    std::atomic_thread_fence(
        std::memory_order_acquire);  // the step's reads | ended; pairs with the fence of Arena::end_session
    const bool cut_short = has_ended(*session);
    kvt::step_clear(session->member->slot[step->slot]);
    state.clock.end(*session->member);
    int result = KVT_OK;
    if (!state.staged.empty() || state.has_deferred.load(std::memory_order_relaxed) || cut_short)
      result = kvt::client::finish_step(*session, state, cut_short);
    state.busy.store(0, std::memory_order_release);
    return result;
  });
}

int kvt_resolve(kvt_session* session, const kvt_step* step, const kvt_page* pages, size_t n,
                kvt_frame* frames) noexcept {
  KVT_ENTER(session);
  if (!is_open(*session, step)) return set_error(KVT_E_INVALID, "resolve needs an open step");
  if (n != 0 && (pages == nullptr || frames == nullptr))
    return set_error(KVT_E_INVALID, "pages or frames is NULL");
  return static_cast<int>(kvt::client::resolve_in_step(*session, session->steps[step->slot],
                                                       std::span(pages, n), frames, session->takes_offers));
}

int kvt_resolve_addresses(kvt_session* session, const kvt_step* step, const kvt_page* pages, size_t n,
                          const void** addresses) noexcept {
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
