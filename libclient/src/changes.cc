// SPDX-License-Identifier: Apache-2.0
//
// The change log as engines see it: what moved since the last step.
#include "libclient/src/session.h"

using kvt::client::set_error;

extern "C" {

int kvt_changes_begin(kvt_session* session, const kvt_step* step, uint64_t* cursor) noexcept {
  KVT_ENTER(session);
  if (step == nullptr || cursor == nullptr) return set_error(KVT_E_INVALID, "step or cursor is NULL");
  // Second places, which are all that such a session can read of some pages, come and go without a change in the log.
  if (session->blind_tiers != 0)
    return set_error(
        KVT_E_STATE,
        "pages may lie in device memory that this session has not mapped: resolve them in each step");
  if (!session->keeps_tables.exchange(true, std::memory_order_relaxed) && session->takes_offers)
    kvt::store_relaxed(session->region.header().takes_offers, uint64_t{0});
  *cursor = session->log.tail();
  return KVT_OK;
}

int kvt_changes(kvt_session* session, const kvt_step* step, uint64_t* cursor, kvt_change* changes,
                size_t capacity) noexcept {
  KVT_ENTER(session);
  if (step == nullptr || cursor == nullptr || (capacity != 0 && changes == nullptr))
    return set_error(KVT_E_INVALID, "step, cursor or changes is NULL");
  const uint64_t tail = session->log.tail();
  if (*cursor > tail || tail - *cursor > kvt::ChangeLog::kCapacity)
    return set_error(KVT_E_OVERRUN, "more than " + std::to_string(kvt::ChangeLog::kCapacity) +
                                        " changes since the last step: resolve all pages again");
  const uint64_t* const words = session->table.placement_words(session->geometry.column);
  size_t written = 0;
  uint64_t at = *cursor;
  for (; at < tail && written < capacity; ++at) {
    kvt::ChangeLog::Entry entry{};
    if (session->log.read(at, entry) == kvt::ChangeLog::Read::kOverrun)
      return set_error(KVT_E_OVERRUN,
                       "the change log was overrun while it was read: resolve all pages again");
    if (entry.column != session->geometry.column || entry.page >= session->table.pages()) continue;
    // The row may be newer than the entry: then a later entry says the same again.
    const kvt::Placement placement{kvt::load_acquire(words[entry.page])};
    changes[written++] = kvt_change{entry.page, placement.readable() ? placement.frame() : KVT_NO_FRAME,
                                    kvt::Handle::of(entry.page, placement.generation()).value};
  }
  *cursor = at;
  return static_cast<int>(written);
}

}  // extern "C"
