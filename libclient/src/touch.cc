// SPDX-License-Identifier: Apache-2.0
//
// Counting reads: pages, ranges, registered sequences.
#include <algorithm>

#include "libclient/src/session.h"

using kvt::client::set_error;

extern "C" {

int kvt_touch(kvt_session* session, const kvt_page* pages, size_t n) noexcept {
  KVT_ENTER(session);
  if (n != 0 && pages == nullptr) return set_error(KVT_E_INVALID, "pages is NULL");
  const uint64_t count = session->table.pages();
  for (size_t i = 0; i < n; ++i) {
    const kvt::PageIndex index = kvt::Handle{pages[i]}.index();
    if (index >= count) [[unlikely]]
      return set_error(KVT_E_INVALID, "page " + std::to_string(index) + " is not in this arena");
    kvt::touch(session->region, index);
  }
  return KVT_OK;
}

int kvt_touch_range(kvt_session* session, uint32_t first, uint32_t n) noexcept {
  KVT_ENTER(session);
  const uint64_t count = session->table.pages();
  if (first > count || n > count - first)
    return set_error(KVT_E_INVALID, "pages " + std::to_string(first) + " and " + std::to_string(n) +
                                        " more of an arena of " + std::to_string(count));
  kvt::touch_range(session->region, first, n);
  return KVT_OK;
}

int kvt_sequence_create(kvt_session* session, uint32_t pages_max, uint32_t* sequence) noexcept {
  KVT_ENTER(session);
  return kvt::client::guarded([&]() -> int {
    if (pages_max == 0 || pages_max > KVT_SEQUENCE_POOL || sequence == nullptr)
      return set_error(KVT_E_INVALID,
                       "pages_max is 1 to " + std::to_string(KVT_SEQUENCE_POOL) + ", and sequence not NULL");
    const std::lock_guard guard(session->sequence_mutex);
    if (session->sequences.size() >= KVT_SEQUENCES)
      return set_error(KVT_E_LIMIT,
                       "all " + std::to_string(KVT_SEQUENCES) + " sequences of this process are in use");
    auto& extents = session->free_extents;
    const auto fit = std::find_if(extents.begin(), extents.end(),
                                  [&](const auto& extent) { return extent.length >= pages_max; });
    if (fit == extents.end())
      return set_error(KVT_E_LIMIT, "no room for a sequence of " + std::to_string(pages_max) + " pages");
    uint32_t id = 0;
    while (session->sequences.contains(id)) ++id;
    kvt_abi_sequence& shared = session->member->sequence[id];
    kvt::store_relaxed(shared.first, fit->first);
    kvt::store_release(shared.length, 0u);
    session->sequences[id] = {fit->first, pages_max};
    fit->first += pages_max;
    fit->length -= pages_max;
    if (fit->length == 0) extents.erase(fit);
    *sequence = id;
    return KVT_OK;
  });
}

int kvt_sequence_append(kvt_session* session, uint32_t sequence, const kvt_page* pages, size_t n) noexcept {
  KVT_ENTER(session);
  if (n != 0 && pages == nullptr) return set_error(KVT_E_INVALID, "pages is NULL");
  const std::lock_guard guard(session->sequence_mutex);
  const auto found = session->sequences.find(sequence);
  if (found == session->sequences.end())
    return set_error(KVT_E_INVALID, "no sequence " + std::to_string(sequence));
  kvt_abi_sequence& shared = session->member->sequence[sequence];
  const uint32_t length = kvt::load_relaxed(shared.length);
  if (n > found->second.length - length)
    return set_error(KVT_E_LIMIT,
                     "the sequence was made for " + std::to_string(found->second.length) + " pages");
  for (size_t i = 0; i < n; ++i) {
    const kvt::PageIndex index = kvt::Handle{pages[i]}.index();
    if (index >= session->table.pages())
      return set_error(KVT_E_INVALID, "page " + std::to_string(index) + " is not in this arena");
    kvt::store_relaxed(session->member->sequence_pool[found->second.first + length + i], index);
  }
  kvt::store_release(shared.length, static_cast<uint32_t>(length + n));
  return KVT_OK;
}

int kvt_sequence_touch(kvt_session* session, uint32_t sequence) noexcept {
  KVT_ENTER(session);
  if (sequence >= KVT_SEQUENCES) return set_error(KVT_E_INVALID, "no sequence " + std::to_string(sequence));
  kvt_abi_sequence& shared = session->member->sequence[sequence];
  kvt::store_relaxed(shared.count, kvt::load_relaxed(shared.count) + 1);
  const uint64_t bit = uint64_t{1} << (sequence % 64);
  std::atomic_ref<uint64_t> summary(session->member->sequences_touched[sequence / 64]);
  if ((summary.load(std::memory_order_relaxed) & bit) == 0) summary.fetch_or(bit, std::memory_order_release);
  return KVT_OK;
}

int kvt_sequence_destroy(kvt_session* session, uint32_t sequence) noexcept {
  KVT_ENTER(session);
  return kvt::client::guarded([&]() -> int {
    const std::lock_guard guard(session->sequence_mutex);
    const auto found = session->sequences.find(sequence);
    if (found == session->sequences.end())
      return set_error(KVT_E_INVALID, "no sequence " + std::to_string(sequence));
    kvt::store_release(session->member->sequence[sequence].length, 0u);
    auto& extents = session->free_extents;
    extents.push_back({found->second.first, found->second.length});
    std::sort(extents.begin(), extents.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 0; i + 1 < extents.size();) {
      if (extents[i].first + extents[i].length != extents[i + 1].first) {
        ++i;
        continue;
      }
      extents[i].length += extents[i + 1].length;
      extents.erase(extents.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    }
    session->sequences.erase(found);
    return KVT_OK;
  });
}

}  // extern "C"
