// SPDX-License-Identifier: Apache-2.0
//
// What a session is: geometry, statistics, the fork word.
#include "libclient/src/session.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace kvt::client {

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

ForkWord::ForkWord() {
  static volatile uint32_t always = 1;  // where the kernel has no MADV_WIPEONFORK: the check is off
  void* const page =
      ::mmap(nullptr, os_page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) {
    word_ = &always;
    return;
  }
  word_ = static_cast<volatile uint32_t*>(page);
  ::madvise(page, os_page_bytes(), MADV_WIPEONFORK);
  *word_ = 1;
}

ForkWord::~ForkWord() { ::munmap(const_cast<uint32_t*>(word_), os_page_bytes()); }

}  // namespace kvt::client

using kvt::client::set_error;

extern "C" {

int kvt_get_geometry(kvt_session* session, kvt_geometry* out) noexcept {
  KVT_ENTER(session);
  if (out == nullptr || out->size < offsetof(kvt_geometry, windows))
    return set_error(KVT_E_INVALID, "out is NULL or its size is not set");
  kvt_geometry geometry{};
  const kvt_abi_arena_header& header = session->table.header();
  geometry.size = out->size;
  geometry.base = session->range.data();
  geometry.stride = header.page_bytes;
  geometry.page_bytes = header.page_bytes;
  geometry.pages = header.pages;
  geometry.frames = header.frames;
  geometry.block_tokens = header.block_tokens;
  geometry.planes = header.planes;
  geometry.columns = header.columns;
  geometry.column = session->geometry.column;
  geometry.scratch_frame = kvt::kScratchFrame;
  geometry.access = session->access;
  geometry.session_id = session->geometry.session_id;
  geometry.member = session->member_index;
  geometry.tiers = header.tiers;
  static_assert(KVT_TIERS_MAX == KVT_MAX_TIERS && sizeof(kvt_window::name) == KVT_TIER_NAME_BYTES);
  for (uint32_t i = 0; i < header.tiers; ++i) {
    const kvt_abi_tier& tier = header.tier[i];
    kvt_window& window = geometry.windows[i];
    std::memcpy(window.name, tier.name, sizeof window.name);
    window.first_frame = static_cast<uint32_t>(tier.first_frame);
    window.frames = static_cast<uint32_t>(tier.frames);
    window.emulated = (tier.flags & KVT_TIER_EMULATED) != 0 ? 1 : 0;
    window.column = tier.column;
    window.read_bytes_per_second = tier.read_bytes_per_second;
  }
  geometry.device_tiers = session->device_tiers | session->unreachable_tiers;
  geometry.unreachable_tiers = session->unreachable_tiers;
  std::memcpy(out, &geometry, std::min(out->size, sizeof geometry));
  return KVT_OK;
}

int kvt_get_stats(kvt_session* session, kvt_stats* out) noexcept {
  KVT_ENTER(session);
  if (out == nullptr || out->size < 2 * sizeof(uint64_t))
    return set_error(KVT_E_INVALID, "out is NULL or its size is not set");
  kvt_stats stats{};
  const kvt_abi_arena_counters& counters = session->table.header().counters;
  stats.size = out->size;
  stats.epoch = session->table.epoch();
  for (const kvt::client::StepState& step : session->steps) stats.steps += kvt::load_relaxed(step.serial);
  stats.allocated = session->stat_allocated.load(std::memory_order_relaxed);
  stats.lookups = session->stat_lookups.load(std::memory_order_relaxed);
  stats.lookup_hits = session->stat_hits.load(std::memory_order_relaxed);
  stats.moves_promoted = kvt::load_relaxed(counters.promoted);
  stats.moves_demoted_copy = kvt::load_relaxed(counters.demoted_copy);
  stats.moves_demoted_free = kvt::load_relaxed(counters.demoted_free);
  stats.moves_aborted = kvt::load_relaxed(counters.aborted);
  stats.evictions = kvt::load_relaxed(counters.evicted);
  stats.reconnects = session->reconnects.load(std::memory_order_relaxed);
  stats.offers_taken = session->stat_offers_taken.load(std::memory_order_relaxed);
  stats.bytes_staged = session->stat_bytes_staged.load(std::memory_order_relaxed);
  stats.connected = kvt::client::check_connection(*session) == KVT_OK ? 1 : 0;
  std::memcpy(out, &stats, std::min(out->size, sizeof stats));
  return KVT_OK;
}

int kvt_token(kvt_session* session, uint8_t token[KVT_TOKEN_BYTES]) noexcept {
  KVT_ENTER(session);
  if (token == nullptr) return set_error(KVT_E_INVALID, "token is NULL");
  std::memcpy(token, session->token, KVT_TOKEN_BYTES);
  return KVT_OK;
}

int kvt_get_page_info(kvt_session* session, uint32_t index, kvt_page_info* out) noexcept {
  KVT_ENTER(session);
  if (out == nullptr || out->size < 2 * sizeof(uint64_t))
    return set_error(KVT_E_INVALID, "out is NULL or its size is not set");
  const kvt::ArenaTable& table = session->table;
  if (index >= table.pages())
    return set_error(KVT_E_INVALID, "page index " + std::to_string(index) + " of an arena of " +
                                        std::to_string(table.pages()) + " pages");
  const kvt::Placement placement = table.placement(session->geometry.column, index);
  const kvt::Shadow shadow = table.shadow(session->geometry.column, index);
  const kvt::Key key = table.key(index);
  kvt_page_info info{};
  info.size = out->size;
  info.page = kvt::Handle::of(index, placement.generation()).value;
  info.state = static_cast<uint32_t>(placement.state());
  info.tier = placement.tier();
  info.frame = placement.state() == kvt::PageState::kFree ? KVT_NO_FRAME : placement.frame();
  info.shadow_frame =
      shadow.valid() && shadow.generation() == placement.generation() ? shadow.frame() : KVT_NO_FRAME;
  info.keyed = placement.keyed() ? 1 : 0;
  info.group = table.group(index);
  info.key = kvt_key{key.lo, key.hi};
  info.owner_session = table.owner(index);
  info.parent = table.parent(index).value;
  info.own_holds = kvt::load_relaxed(session->region.holds()[index]);
  std::memcpy(out, &info, std::min(out->size, sizeof info));
  return KVT_OK;
}

}  // extern "C"
