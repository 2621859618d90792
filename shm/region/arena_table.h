// SPDX-License-Identifier: Apache-2.0
//
// The arena table: geometry, page rows, epoch. ArenaTable is a view that both sides use; ArenaWriter is the
// only code that stores into it, and the daemon's keeper loop its only user.
//
// Views are pointers into a mapping that the caller keeps alive. Reading is thread-safe; writing is for one
// thread.
//
// Orders: placement, shadow and offer words are stored with release and loaded with acquire, so that whoever
// sees a word sees the bytes of the frame that it names (the copy worker fenced them before its completion,
// PROTOCOL A6) and the key beside it. The epoch is stored with release after the log; a reader's begin loads
// it behind its fence.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "shm/abi/layout.h"
#include "shm/base/fence.h"
#include "shm/base/mapping.h"
#include "shm/base/result.h"
#include "shm/region/words.h"

namespace kvt {

struct TierWindow {
  std::string name;
  uint64_t frames = 0;  ///< usable frames wanted
  uint64_t read_bytes_per_second = 0;
  uint64_t write_bytes_per_second = 0;
  int32_t column = -1;  ///< -1: serves every column
  bool emulated = false;
  /// Memory of the GPU with this UUID, behind descriptors for `chunk_bytes` each; none: host memory
  std::optional<std::array<uint8_t, KVT_DEVICE_UUID_BYTES>> device = std::nullopt;
  uint64_t chunk_bytes = 0;
  bool device_host = false;  ///< with `device`: host memory that the GPU's driver has allocated
  bool huge_pages = false;   ///< the window is made of huge pages of 2 MiB: its size is a multiple of that
};

/// What an arena is made of. Limits: shm/abi/limits.h.
struct ArenaGeometry {
  std::string name;
  uint64_t arena_id = 0;
  uint64_t page_bytes = 0;
  uint64_t pages = 0;
  uint32_t block_tokens = 1;
  uint32_t planes = 1;
  uint32_t columns = 1;
  std::vector<TierWindow> tiers;  ///< fastest first; the order of the address range
  std::array<uint8_t, KVT_FINGERPRINT_BYTES> fingerprint{};
};

/// kInvalid or kLimit with words that name the field, if an arena cannot be made like this.
Result<void> check_geometry(const ArenaGeometry& geometry);

/// Bytes of the region that holds `geometry`. REQUIRES: check_geometry.
uint64_t arena_table_bytes(const ArenaGeometry& geometry);

/// Windows begin at multiples of this in the address range, so that huge pages fit: 2 MiB.
inline constexpr uint64_t kWindowAlignment = 2u << 20;

class ArenaTable {
 public:
  ArenaTable() = default;

  /// A view of a mapped table after checking magic, version, feature words, offsets and sizes. The table is
  /// the daemon's, so this guards against another version and against damage, not against an enemy.
  static Result<ArenaTable> open(std::byte* data, uint64_t bytes);

  [[nodiscard]] const kvt_abi_arena_header& header() const { return *header_; }
  [[nodiscard]] uint64_t pages() const { return pages_; }
  [[nodiscard]] uint64_t page_bytes() const { return header_->page_bytes; }
  [[nodiscard]] uint32_t columns() const { return header_->columns; }
  [[nodiscard]] uint32_t tiers() const { return header_->tiers; }
  [[nodiscard]] const kvt_abi_tier& tier(uint32_t index) const { return header_->tier[index]; }
  /// Whether the tier is a GPU's memory; then device() says whose.
  [[nodiscard]] bool is_device(uint32_t tier) const {
    return (header_->tier[tier].flags & KVT_TIER_DEVICE) != 0;
  }
  /// Whether it is HBM: device memory that is no host memory of the driver's.
  [[nodiscard]] bool is_hbm(uint32_t tier) const {
    return (header_->tier[tier].flags & (KVT_TIER_DEVICE | KVT_TIER_HOST)) == KVT_TIER_DEVICE;
  }
  [[nodiscard]] const kvt_abi_device& device(uint32_t tier) const { return header_->device[tier]; }
  /// Descriptors behind the tier's window: 1, or the chunks of device memory.
  [[nodiscard]] uint64_t window_descriptors(uint32_t tier) const;
  /// The tier whose window has this frame; none for the scratch frame and the gaps between windows.
  [[nodiscard]] std::optional<uint32_t> tier_of_frame(Frame frame) const;
  /// Bytes of the whole address range.
  [[nodiscard]] uint64_t range_bytes() const;
  /// Where a tier's window begins in the range, bytes.
  [[nodiscard]] uint64_t window_offset(uint32_t tier) const;

  /// Frames at the end of the tier that are not used (layout 1.5).
  [[nodiscard]] uint32_t set_aside(uint32_t tier) const { return load_relaxed(header_->set_aside[tier]); }
  /// Of device memory: at the window's end. Acquire: no frame of them is named by a row that is read from now on.
  [[nodiscard]] uint32_t chunks_given_up(uint32_t tier) const {
    return load_acquire(header_->chunks_given_up[tier]);
  }
  [[nodiscard]] Placement placement(uint32_t column, PageIndex page) const {
    return Placement{load_acquire(placement_[column * column_stride_ + page])};
  }
  [[nodiscard]] Shadow shadow(uint32_t column, PageIndex page) const {
    return Shadow{load_acquire(shadow_[column * column_stride_ + page])};
  }
  [[nodiscard]] Offer offer(uint32_t column, PageIndex page) const {
    return Offer{load_acquire(offer_[column * column_stride_ + page])};
  }
  [[nodiscard]] uint64_t offer_serial(uint32_t column, PageIndex page) const {
    return load_acquire(serial_[column * column_stride_ + page]);
  }
  /// Torn while the daemon rewrites it: compare it under a hold, after the placement (PROTOCOL A7).
  [[nodiscard]] Key key(PageIndex page) const {
    return Key{load_acquire(key_[page].lo), load_acquire(key_[page].hi)};
  }
  [[nodiscard]] uint64_t owner(PageIndex page) const { return load_acquire(owner_[page]); }
  [[nodiscard]] Handle parent(PageIndex page) const { return Handle{load_acquire(parent_[page])}; }
  [[nodiscard]] uint16_t group(PageIndex page) const { return load_relaxed(group_[page]); }
  [[nodiscard]] uint8_t heat(uint32_t column, PageIndex page) const {
    return load_relaxed(heat_[column * column_stride_ + page]);
  }
  [[nodiscard]] uint64_t epoch() const { return load_acquire(header_->epoch); }
  [[nodiscard]] uint64_t incarnation() const { return load_relaxed(header_->incarnation); }
  [[nodiscard]] bool keeper_asleep() const { return load_relaxed(header_->keeper_asleep) != 0; }

  // Brings the row's lines near, for batches. Always inline: GCC 12 takes a function that only prefetches for
  // one without effect, and drops calls of it.
  [[gnu::always_inline]] void prefetch_placement(uint32_t column, PageIndex page) const {
    __builtin_prefetch(&placement_[column * column_stride_ + page]);
  }
  /// For any value of `page`: it may be a client's word.
  [[gnu::always_inline]] void prefetch_shadow(uint32_t column, PageIndex page) const {
    __builtin_prefetch(&shadow_[column * column_stride_ + page]);
  }
  [[gnu::always_inline]] void prefetch_heat(uint32_t column, PageIndex page) const {
    __builtin_prefetch(&heat_[column * column_stride_ + page], 1);
  }
  /// The whole row, to be written. For any value of `page`: it may be a client's word.
  [[gnu::always_inline]] void prefetch_row(PageIndex page) const {
    for (uint32_t column = 0; column < columns(); ++column) {
      const uint64_t at = column * column_stride_ + page;
      __builtin_prefetch(&placement_[at], 1);
      __builtin_prefetch(&shadow_[at]);
      __builtin_prefetch(&offer_[at]);
      __builtin_prefetch(&heat_[at]);
    }
    __builtin_prefetch(&key_[page]);
    __builtin_prefetch(&owner_[page], 1);
    __builtin_prefetch(&parent_[page], 1);
    __builtin_prefetch(&group_[page], 1);
  }
  [[gnu::always_inline]] void prefetch_key(PageIndex page) const { __builtin_prefetch(&key_[page]); }
  [[nodiscard]] const uint64_t* placement_words(uint32_t column) const {
    return placement_ + column * column_stride_;
  }

  [[nodiscard]] std::byte* data() const { return data_; }

 protected:
  std::byte* data_ = nullptr;
  kvt_abi_arena_header* header_ = nullptr;
  uint64_t pages_ = 0;
  uint64_t column_stride_ = 0;
  uint64_t* placement_ = nullptr;
  uint64_t* shadow_ = nullptr;
  uint64_t* offer_ = nullptr;
  uint64_t* serial_ = nullptr;
  kvt_abi_key* key_ = nullptr;
  uint64_t* owner_ = nullptr;
  uint64_t* parent_ = nullptr;
  uint16_t* group_ = nullptr;
  uint8_t* heat_ = nullptr;
};

/// The stores. One thread. What a store means for others is said where the keeper calls it.
class ArenaWriter : public ArenaTable {
 public:
  ArenaWriter() = default;
  /// Lays out an empty table in zeroed memory of arena_table_bytes(geometry). Epoch 1; every row FREE.
  static Result<ArenaWriter> create(std::byte* data, uint64_t bytes, const ArenaGeometry& geometry);
  static Result<ArenaWriter> open(std::byte* data, uint64_t bytes);
  /// A table that an earlier daemon has left, which may be damaged: open(), and windows that lie in order, do not
  /// overlap and end where the header says. kMismatch with what is wrong.
  static Result<ArenaWriter> adopt(std::byte* data, uint64_t bytes);

  void set_placement(uint32_t column, PageIndex page, Placement value) {
    store_release(placement_[column * column_stride_ + page], value.word);
  }
  void set_shadow(uint32_t column, PageIndex page, Shadow value) {
    store_release(shadow_[column * column_stride_ + page], value.word);
  }
  void set_offer(uint32_t column, PageIndex page, Offer value, uint64_t serial) {
    store_release(serial_[column * column_stride_ + page], serial);
    store_release(offer_[column * column_stride_ + page], value.word);
  }
  void set_key(PageIndex page, Key key) {
    store_release(key_[page].lo, key.lo);
    store_release(key_[page].hi, key.hi);
  }
  void set_owner(PageIndex page, uint64_t session) { store_release(owner_[page], session); }
  void set_parent(PageIndex page, Handle parent) { store_release(parent_[page], parent.value); }
  void set_group(PageIndex page, uint16_t group) { store_relaxed(group_[page], group); }
  void set_heat(uint32_t column, PageIndex page, uint8_t heat) {
    store_relaxed(heat_[column * column_stride_ + page], heat);
  }
  void set_fingerprint(std::span<const uint8_t, KVT_FINGERPRINT_BYTES> fingerprint);
  void set_asleep(bool asleep) { store_relaxed(header_->keeper_asleep, asleep ? 1u : 0u); }
  void set_closing() { store_release(header_->closing, 1u); }
  /// This daemon has the table now: it is its version's, awake, and members that look see that it is another.
  void set_adopted();
  /// A row that is being changed in several stores, of which a restart must not see a part (kNoHandle: none).
  void set_set_aside(uint32_t tier, uint32_t frames) { store_relaxed(header_->set_aside[tier], frames); }
  /// REQUIRES: their frames are nobody's.
  void set_chunks_given_up(uint32_t tier, uint32_t chunks) {
    store_release(header_->chunks_given_up[tier], static_cast<uint16_t>(chunks));
  }
  void set_changing(Handle page) { store_release(header_->changing, page.value); }
  [[nodiscard]] Handle changing() const {
    return header_->region.minor < 4 ? kNoHandle : Handle{load_acquire(header_->changing)};
  }

  /// After all stores of a withdrawal and its log entries: full fence, then R := epoch++ (PROTOCOL A5).
  /// Returns R.
  uint64_t advance_epoch();

  [[nodiscard]] kvt_abi_arena_counters& counters() { return header_->counters; }
  static void count(uint64_t& counter, uint64_t add = 1) {
    store_relaxed(counter, load_relaxed(counter) + add);
  }
};

}  // namespace kvt
