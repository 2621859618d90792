// SPDX-License-Identifier: Apache-2.0
#include "shm/region/arena_table.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "shm/region/change_log.h"
#include "shm/region/prefix_index.h"

namespace kvt {
namespace {

constexpr uint64_t round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }
constexpr uint64_t kArrayAlignment = 4096;

/// The byte offset of every array, in the order of layout.h.
struct Offsets {
  uint64_t column_stride, placement, shadow, offer, serial, key, owner, parent, group, heat, index,
      index_slots, log, bytes;
};

Offsets offsets_of(uint64_t pages, uint64_t columns) {
  Offsets o{};
  uint64_t at = sizeof(kvt_abi_arena_header);
  const auto take = [&at](uint64_t bytes) {
    at = round_up(at, kArrayAlignment);
    const uint64_t begin = at;
    at += bytes;
    return begin;
  };
  o.column_stride = round_up(pages, 8);
  o.placement = take(o.column_stride * columns * 8);
  o.shadow = take(o.column_stride * columns * 8);
  o.offer = take(o.column_stride * columns * 8);
  o.serial = take(o.column_stride * columns * 8);
  o.key = take(pages * 16);
  o.owner = take(pages * 8);
  o.parent = take(pages * 8);
  o.group = take(pages * 2);
  o.heat = take(o.column_stride * columns);
  o.index_slots = PrefixIndex::slots_for(pages);
  o.index = take(o.index_slots * 8);
  o.log = take(KVT_LOG_ENTRIES * 8ull);
  o.bytes = round_up(at, kArrayAlignment);
  return o;
}

/// Frame numbers of each window: frame 0 is scratch, each window begins at a multiple of kWindowAlignment
/// bytes.
uint64_t place_windows(const ArenaGeometry& geometry, kvt_abi_tier* tiers) {
  const uint64_t page_bytes = geometry.page_bytes;
  // Frames between aligned addresses
  const uint64_t step = kWindowAlignment / std::gcd(page_bytes, kWindowAlignment);
  uint64_t next = 0;
  for (size_t i = 0; i < geometry.tiers.size(); ++i) {
    const TierWindow& window = geometry.tiers[i];
    next = round_up(next, step);
    kvt_abi_tier& tier = tiers[i];
    const uint64_t scratch = i == 0 ? 1 : 0;
    tier.first_frame = next + scratch;
    tier.frames = window.frames;
    tier.window_bytes = round_up((window.frames + scratch) * page_bytes,
                                 window.huge_pages || window.device ? kWindowAlignment : kArrayAlignment);
    tier.read_bytes_per_second = window.read_bytes_per_second;
    tier.write_bytes_per_second = window.write_bytes_per_second;
    tier.column = window.column;
    tier.flags = (window.emulated ? KVT_TIER_EMULATED : 0) | (window.device ? KVT_TIER_DEVICE : 0) |
                 (window.device_host ? KVT_TIER_HOST : 0);
    std::memcpy(tier.name, window.name.data(), std::min<size_t>(window.name.size(), KVT_TIER_NAME_BYTES - 1));
    next = tier.first_frame + tier.frames;
  }
  return next;
}

}  // namespace

Result<void> check_geometry(const ArenaGeometry& g) {
  const std::string arena = "arena \"" + g.name + "\": ";
  if (g.name.empty() || g.name.size() >= KVT_ARENA_NAME_BYTES)
    return fail(Code::kInvalid,
                arena + "a name has 1 to " + std::to_string(KVT_ARENA_NAME_BYTES - 1) + " bytes");
  if (g.page_bytes < KVT_MIN_PAGE_BYTES || g.page_bytes > KVT_MAX_PAGE_BYTES ||
      g.page_bytes % KVT_PAGE_BYTES_STEP != 0)
    return fail(Code::kInvalid, arena + "page_bytes " + std::to_string(g.page_bytes) +
                                    " is not a multiple of " + std::to_string(KVT_PAGE_BYTES_STEP) +
                                    " from 16 KiB to 64 MiB");
  if (g.pages == 0 || g.pages > KVT_MAX_PAGES)
    return fail(Code::kLimit, arena + std::to_string(g.pages) + " pages; 1 to " +
                                  std::to_string(KVT_MAX_PAGES) + " are possible");
  if (g.columns == 0 || g.columns > KVT_MAX_COLUMNS)
    return fail(Code::kLimit, arena + std::to_string(g.columns) + " columns; 1 to " +
                                  std::to_string(KVT_MAX_COLUMNS) + " are possible");
  if (g.tiers.empty() || g.tiers.size() > KVT_MAX_TIERS)
    return fail(Code::kLimit, arena + std::to_string(g.tiers.size()) + " tiers; 1 to " +
                                  std::to_string(KVT_MAX_TIERS) + " are possible");
  if (g.block_tokens == 0 || g.planes == 0)
    return fail(Code::kInvalid, arena + "block_tokens and planes are at least 1");
  if (g.page_bytes % g.planes != 0)
    return fail(Code::kInvalid, arena + "page_bytes " + std::to_string(g.page_bytes) +
                                    " is not a multiple of planes " + std::to_string(g.planes));
  uint64_t frames = 0;
  for (const TierWindow& tier : g.tiers) {
    if (tier.name.empty() || tier.name.size() >= KVT_TIER_NAME_BYTES)
      return fail(Code::kInvalid, arena + "tier name \"" + tier.name + "\" has not 1 to " +
                                      std::to_string(KVT_TIER_NAME_BYTES - 1) + " bytes");
    if (tier.frames == 0)
      return fail(Code::kInvalid, arena + "tier " + tier.name + " has no room for one page");
    if (tier.frames > KVT_MAX_FRAMES)
      return fail(Code::kLimit, arena + "tier " + tier.name + " has " + std::to_string(tier.frames) +
                                    " frames; frame numbers are int32");
    if (tier.device && tier.chunk_bytes == 0)
      return fail(Code::kInvalid, arena + "tier " + tier.name + " is device memory in chunks of 0 bytes");
    if (tier.column >= static_cast<int32_t>(g.columns))
      return fail(Code::kInvalid, arena + "tier " + tier.name + " serves column " +
                                      std::to_string(tier.column) + " of " + std::to_string(g.columns));
    frames += tier.frames;
  }
  if (g.pages > frames)
    return fail(Code::kInvalid,
                arena + std::to_string(g.pages) + " pages but only " + std::to_string(frames) + " frames");
  kvt_abi_tier tiers[KVT_MAX_TIERS]{};
  const uint64_t last = place_windows(g, tiers);
  for (size_t i = 0; i < g.tiers.size(); ++i)
    if (g.tiers[i].device && tiers[i].window_bytes > g.tiers[i].chunk_bytes * KVT_WINDOW_CHUNKS)
      return fail(Code::kLimit, arena + "tier " + g.tiers[i].name + ": " +
                                    std::to_string(tiers[i].window_bytes) + " bytes in chunks of " +
                                    std::to_string(g.tiers[i].chunk_bytes) + " are more than " +
                                    std::to_string(KVT_WINDOW_CHUNKS));
  if (last > KVT_MAX_FRAMES / g.block_tokens)
    return fail(Code::kLimit,
                arena + std::to_string(last) + " frames of " + std::to_string(g.block_tokens) +
                    " tokens: block id x tokens passes int32; use larger pages or a smaller arena");
  return {};
}

uint64_t arena_table_bytes(const ArenaGeometry& geometry) {
  return offsets_of(geometry.pages, geometry.columns).bytes;
}

Result<ArenaTable> ArenaTable::open(std::byte* data, uint64_t bytes) {
  if (bytes < sizeof(kvt_abi_arena_header))
    return fail(Code::kMismatch, "the arena table is shorter than its header");
  auto* const header = reinterpret_cast<kvt_abi_arena_header*>(data);
  if (load_acquire(header->region.magic) != KVT_ARENA_MAGIC)
    return fail(Code::kMismatch, "this is no arena table: wrong magic");
  if (header->region.major != KVT_ABI_MAJOR)
    return fail(Code::kMismatch, "arena table layout " + std::to_string(header->region.major) + "." +
                                     std::to_string(header->region.minor) + ", this program knows " +
                                     std::to_string(KVT_ABI_MAJOR) + "." + std::to_string(KVT_ABI_MINOR));
  if ((header->region.incompat & ~KVT_INCOMPAT_KNOWN) != 0)
    return fail(Code::kMismatch, "arena table needs feature bits " + std::to_string(header->region.incompat) +
                                     ", this program knows " + std::to_string(KVT_INCOMPAT_KNOWN));
  if (header->columns == 0 || header->columns > KVT_MAX_COLUMNS || header->tiers == 0 ||
      header->tiers > KVT_MAX_TIERS || header->pages == 0 || header->pages > KVT_MAX_PAGES ||
      header->log_entries != KVT_LOG_ENTRIES)
    return fail(Code::kMismatch, "the arena table's geometry passes a limit");
  // A table of a minor version before device windows has no such fields, and no such bit.
  if ((header->region.incompat & KVT_INCOMPAT_DEVICE_WINDOWS) != 0)
    for (uint32_t i = 0; i < header->tiers; ++i)
      if ((header->tier[i].flags & KVT_TIER_DEVICE) != 0 &&
          (header->device[i].chunk_bytes == 0 ||
           (header->tier[i].window_bytes - 1) / header->device[i].chunk_bytes >= KVT_WINDOW_CHUNKS))
        return fail(Code::kMismatch, "the arena table's device windows pass a limit");
  const Offsets o = offsets_of(header->pages, header->columns);
  if (o.bytes > bytes || header->region.region_bytes != o.bytes || header->placement_offset != o.placement ||
      header->shadow_offset != o.shadow || header->offer_offset != o.offer ||
      header->serial_offset != o.serial || header->key_offset != o.key || header->owner_offset != o.owner ||
      header->parent_offset != o.parent || header->group_offset != o.group || header->heat_offset != o.heat ||
      header->index_offset != o.index || header->index_slots != o.index_slots ||
      header->log_offset != o.log || header->column_stride != o.column_stride)
    return fail(Code::kMismatch, "the arena table's offsets do not follow from its geometry");
  ArenaTable table;
  table.data_ = data;
  table.header_ = header;
  table.pages_ = header->pages;
  table.column_stride_ = o.column_stride;
  table.placement_ = reinterpret_cast<uint64_t*>(data + o.placement);
  table.shadow_ = reinterpret_cast<uint64_t*>(data + o.shadow);
  table.offer_ = reinterpret_cast<uint64_t*>(data + o.offer);
  table.serial_ = reinterpret_cast<uint64_t*>(data + o.serial);
  table.key_ = reinterpret_cast<kvt_abi_key*>(data + o.key);
  table.owner_ = reinterpret_cast<uint64_t*>(data + o.owner);
  table.parent_ = reinterpret_cast<uint64_t*>(data + o.parent);
  table.group_ = reinterpret_cast<uint16_t*>(data + o.group);
  table.heat_ = reinterpret_cast<uint8_t*>(data + o.heat);
  return table;
}

std::optional<uint32_t> ArenaTable::tier_of_frame(Frame frame) const {
  for (uint32_t i = 0; i < header_->tiers; ++i) {
    const kvt_abi_tier& tier = header_->tier[i];
    if (frame >= tier.first_frame && frame - tier.first_frame < tier.frames) return i;
  }
  return std::nullopt;
}

uint64_t ArenaTable::window_offset(uint32_t tier) const {
  const uint64_t first = header_->tier[tier].first_frame - (tier == 0 ? 1 : 0);
  return first * header_->page_bytes;
}

uint64_t ArenaTable::window_descriptors(uint32_t tier) const {
  if (!is_device(tier)) return 1;
  const uint64_t chunk = device(tier).chunk_bytes;
  return (header_->tier[tier].window_bytes - 1) / chunk + 1;
}

uint64_t ArenaTable::range_bytes() const {
  uint64_t end = 0;
  for (uint32_t i = 0; i < header_->tiers; ++i)
    end = std::max(end, window_offset(i) + header_->tier[i].window_bytes);
  return end;
}

Result<ArenaWriter> ArenaWriter::create(std::byte* data, uint64_t bytes, const ArenaGeometry& geometry) {
  KVT_TRY(check_geometry(geometry));
  const Offsets o = offsets_of(geometry.pages, geometry.columns);
  KVT_CHECK(bytes >= o.bytes);
  auto& header = *reinterpret_cast<kvt_abi_arena_header*>(data);
  header.region.major = KVT_ABI_MAJOR;
  header.region.minor = KVT_ABI_MINOR;
  header.region.header_bytes = sizeof header;
  header.region.region_bytes = o.bytes;
  std::memcpy(header.name, geometry.name.data(), geometry.name.size());
  std::copy(geometry.fingerprint.begin(), geometry.fingerprint.end(), header.fingerprint);
  header.arena_id = geometry.arena_id;
  header.page_bytes = geometry.page_bytes;
  header.pages = geometry.pages;
  header.block_tokens = geometry.block_tokens;
  header.planes = geometry.planes;
  header.columns = geometry.columns;
  header.tiers = static_cast<uint32_t>(geometry.tiers.size());
  header.placement_offset = o.placement;
  header.shadow_offset = o.shadow;
  header.offer_offset = o.offer;
  header.serial_offset = o.serial;
  header.key_offset = o.key;
  header.owner_offset = o.owner;
  header.parent_offset = o.parent;
  header.group_offset = o.group;
  header.heat_offset = o.heat;
  header.index_offset = o.index;
  header.index_slots = o.index_slots;
  header.log_offset = o.log;
  header.log_entries = KVT_LOG_ENTRIES;
  header.column_stride = o.column_stride;
  header.frames = place_windows(geometry, header.tier);
  for (size_t i = 0; i < geometry.tiers.size(); ++i) {
    if (!geometry.tiers[i].device) continue;
    header.region.incompat |= KVT_INCOMPAT_DEVICE_WINDOWS;
    std::copy(geometry.tiers[i].device->begin(), geometry.tiers[i].device->end(), header.device[i].uuid);
    header.device[i].chunk_bytes = geometry.tiers[i].chunk_bytes;
  }
  header.epoch = 1;
  header.changing = UINT64_MAX;
  store_release(header.region.magic, uint64_t{KVT_ARENA_MAGIC});
  return open(data, bytes);
}

Result<ArenaWriter> ArenaWriter::open(std::byte* data, uint64_t bytes) {
  KVT_TRY_ASSIGN(const ArenaTable table, ArenaTable::open(data, bytes));
  ArenaWriter writer;
  static_cast<ArenaTable&>(writer) = table;
  return writer;
}

Result<ArenaWriter> ArenaWriter::adopt(std::byte* data, uint64_t bytes) {
  KVT_TRY_ASSIGN(const ArenaWriter table, open(data, bytes));
  const kvt_abi_arena_header& header = table.header();
  const auto damaged = [](const std::string& what) {
    return fail(Code::kMismatch, "the arena table is damaged: " + what);
  };
  if (header.name[0] == '\0' || header.name[sizeof header.name - 1] != '\0') return damaged("its name");
  if (header.page_bytes < KVT_MIN_PAGE_BYTES || header.page_bytes > KVT_MAX_PAGE_BYTES ||
      header.page_bytes % KVT_PAGE_BYTES_STEP != 0)
    return damaged("page_bytes " + std::to_string(header.page_bytes));
  if (header.epoch == 0 || header.epoch >= UINT64_MAX / 2) return damaged("its epoch");
  uint64_t next = 1;
  for (uint32_t i = 0; i < header.tiers; ++i) {
    const kvt_abi_tier& tier = header.tier[i];
    const std::string name = "tier " + std::to_string(i);
    if (tier.name[0] == '\0' || tier.name[sizeof tier.name - 1] != '\0')
      return damaged("the name of " + name);
    if (tier.first_frame < next || tier.first_frame > KVT_MAX_FRAMES || tier.frames == 0 ||
        tier.frames > KVT_MAX_FRAMES - tier.first_frame)
      return damaged("the frames of " + name);
    const uint64_t scratch = i == 0 ? 1 : 0;
    if (tier.window_bytes < (tier.frames + scratch) * header.page_bytes || tier.window_bytes >> 48 != 0 ||
        table.window_offset(i) % kWindowAlignment != 0)
      return damaged("the window of " + name);
    if (tier.column < -1 || tier.column >= static_cast<int32_t>(header.columns))
      return damaged("the column of " + name);
    next = tier.first_frame + tier.frames;
  }
  if (header.frames != next) return damaged("the number of frames");
  for (uint32_t column = 0; column < header.columns; ++column)
    if (std::none_of(header.tier, header.tier + header.tiers, [&](const kvt_abi_tier& tier) {
          return tier.column < 0 || tier.column == static_cast<int32_t>(column);
        }))
      return damaged("column " + std::to_string(column) + " has no tier");
  return table;
}

void ArenaWriter::set_adopted() {
  // Fields that an older minor version does not have lie in the gap behind its header, which is zero.
  if (header_->region.minor < KVT_ABI_MINOR) {
    header_->region.minor = KVT_ABI_MINOR;
    header_->region.header_bytes = sizeof *header_;
  }
  store_relaxed(header_->keeper_asleep, 0u);
  store_relaxed(header_->closing, 0u);
  set_changing(kNoHandle);
  store_release(header_->incarnation, load_relaxed(header_->incarnation) + 1);
}

void ArenaWriter::set_fingerprint(std::span<const uint8_t, KVT_FINGERPRINT_BYTES> fingerprint) {
  std::copy(fingerprint.begin(), fingerprint.end(), header_->fingerprint);
}

uint64_t ArenaWriter::advance_epoch() {
  full_fence();  // all words that named the frames, and the log | the steps' slots (PROTOCOL A5, B1)
  const uint64_t before = load_relaxed(header_->epoch);
  store_release(header_->epoch, before + 1);
  return before;
}

}  // namespace kvt
