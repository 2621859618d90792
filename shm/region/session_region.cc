// SPDX-License-Identifier: Apache-2.0
#include "shm/region/session_region.h"

#include <algorithm>

namespace kvt {
namespace {

constexpr uint64_t round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

struct Offsets {
  uint64_t magazine, counters, touched, holds, held, members, summary_words, bytes;
};

Offsets offsets_of(const SessionGeometry& geometry) {
  Offsets o{};
  uint64_t at = sizeof(kvt_abi_session_header);
  const auto take = [&at](uint64_t bytes, uint64_t alignment) {
    at = round_up(at, alignment);
    const uint64_t begin = at;
    at += bytes;
    return begin;
  };
  o.summary_words = (geometry.pages + KVT_SUMMARY_PAGES * 64 - 1) / (KVT_SUMMARY_PAGES * 64);
  o.magazine = take(KVT_MAGAZINE_ENTRIES * 8ull, 64);
  o.touched = take(o.summary_words * 8, 64);
  o.held = take(o.summary_words * 8, 64);
  o.members = take(sizeof(kvt_abi_member) * geometry.members_max, 4096);
  // Read in groups
  o.counters = take(round_up(geometry.pages, KVT_SUMMARY_PAGES) * sizeof(kvt_abi_counter), 4096);
  o.holds = take(geometry.pages * 2, 4096);
  o.bytes = round_up(at, 4096);
  return o;
}

}  // namespace

uint64_t session_region_bytes(const SessionGeometry& geometry) { return offsets_of(geometry).bytes; }

SessionRegion SessionRegion::view(std::byte* data, const SessionGeometry& geometry) {
  const Offsets o = offsets_of(geometry);
  SessionRegion region;
  region.header_ = reinterpret_cast<kvt_abi_session_header*>(data);
  region.members_ = reinterpret_cast<kvt_abi_member*>(data + o.members);
  region.counters_ = reinterpret_cast<kvt_abi_counter*>(data + o.counters);
  region.touched_ = reinterpret_cast<uint64_t*>(data + o.touched);
  region.holds_ = reinterpret_cast<uint16_t*>(data + o.holds);
  region.held_ = reinterpret_cast<uint64_t*>(data + o.held);
  region.magazine_ = reinterpret_cast<uint64_t*>(data + o.magazine);
  region.summary_words_ = o.summary_words;
  region.pages_ = geometry.pages;
  return region;
}

SessionRegion SessionRegion::create(std::byte* data, const SessionGeometry& geometry) {
  const Offsets o = offsets_of(geometry);
  auto& header = *reinterpret_cast<kvt_abi_session_header*>(data);
  header.region.major = KVT_ABI_MAJOR;
  header.region.minor = KVT_ABI_MINOR;
  header.region.header_bytes = sizeof header;
  header.region.region_bytes = o.bytes;
  header.session_id = geometry.session_id;
  header.arena_id = geometry.arena_id;
  header.pages = geometry.pages;
  header.slot = geometry.slot;
  header.members_max = geometry.members_max;
  header.column = geometry.column;
  header.access = geometry.access;
  header.counters_offset = o.counters;
  header.touched_offset = o.touched;
  header.holds_offset = o.holds;
  header.held_offset = o.held;
  header.magazine_offset = o.magazine;
  header.members_offset = o.members;
  header.member_stride = sizeof(kvt_abi_member);
  store_release(header.region.magic, uint64_t{KVT_SESSION_MAGIC});
  return view(data, geometry);
}

Result<SessionRegion> SessionRegion::open(std::byte* data, uint64_t bytes, SessionGeometry& geometry) {
  if (bytes < sizeof(kvt_abi_session_header))
    return fail(Code::kMismatch, "the session region is shorter than its header");
  const auto& header = *reinterpret_cast<const kvt_abi_session_header*>(data);
  if (load_acquire(header.region.magic) != KVT_SESSION_MAGIC)
    return fail(Code::kMismatch, "this is no session region: wrong magic");
  if (header.region.major != KVT_ABI_MAJOR)
    return fail(Code::kMismatch, "session region layout " + std::to_string(header.region.major) +
                                     ", this program knows " + std::to_string(KVT_ABI_MAJOR));
  geometry.session_id = header.session_id;
  geometry.arena_id = header.arena_id;
  geometry.pages = header.pages;
  geometry.slot = header.slot;
  geometry.members_max = header.members_max;
  geometry.column = header.column;
  geometry.access = header.access;
  if (geometry.pages == 0 || geometry.pages > KVT_MAX_PAGES || geometry.members_max == 0 ||
      geometry.members_max > KVT_MAX_MEMBERS || offsets_of(geometry).bytes != bytes ||
      header.member_stride != sizeof(kvt_abi_member))
    return fail(Code::kMismatch, "the session region's size does not follow from its geometry");
  return view(data, geometry);
}

uint64_t oldest_open_step(const kvt_abi_member& member) {
  uint64_t oldest = UINT64_MAX;
  for (const kvt_abi_step_slot& slot : member.slot) {
    const uint64_t epoch = load_acquire(slot.epoch);
    if (epoch != 0) oldest = std::min(oldest, epoch);
  }
  return oldest;
}

HoldDrop hold_drop(const SessionRegion& region, PageIndex page) {
  std::atomic_ref<uint16_t> count(region.holds()[page]);
  uint16_t now = count.load(std::memory_order_relaxed);
  do {
    if (now == 0) return HoldDrop::kNotHeld;
  } while (!count.compare_exchange_weak(now, static_cast<uint16_t>(now - 1), std::memory_order_release,
                                        std::memory_order_relaxed));
  return now == 1 ? HoldDrop::kLast : HoldDrop::kStillHeld;
}

void touch_range(const SessionRegion& region, PageIndex first, uint32_t count) {
  if (count == 0) return;
  for (uint32_t i = 0; i < count; ++i) {
    std::atomic_ref<uint16_t> counter(region.counters()[first + i].count);
    counter.store(static_cast<uint16_t>(counter.load(std::memory_order_relaxed) + 1),
                  std::memory_order_relaxed);
  }
  const uint64_t last_bit = (uint64_t{first} + count - 1) / KVT_SUMMARY_PAGES;
  for (uint64_t bit = first / KVT_SUMMARY_PAGES; bit <= last_bit;) {
    // All bits of one word at once.
    const uint64_t word = bit / 64;
    const uint64_t end = std::min(last_bit, word * 64 + 63);
    const uint64_t width = end - bit + 1;
    const uint64_t mask = (width == 64 ? ~uint64_t{0} : ((uint64_t{1} << width) - 1)) << (bit % 64);
    std::atomic_ref<uint64_t> summary(region.touched()[word]);
    if ((summary.load(std::memory_order_relaxed) & mask) != mask)
      summary.fetch_or(mask, std::memory_order_release);
    bit = end + 1;
  }
}

bool any_touched(const SessionRegion& region) {
  for (uint64_t word = 0; word < region.summary_words(); ++word)
    if (load_relaxed(region.touched()[word]) != 0) return true;
  return false;
}

bool any_sequence_touched(const kvt_abi_member& member) {
  for (const uint64_t& word : member.sequences_touched)
    if (load_relaxed(word) != 0) return true;
  return false;
}

}  // namespace kvt
