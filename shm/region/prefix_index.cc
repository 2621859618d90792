// SPDX-License-Identifier: Apache-2.0
#include "shm/region/prefix_index.h"

#include <algorithm>
#include <bit>

namespace kvt {

uint64_t PrefixIndex::slots_for(uint64_t pages) {
  return std::bit_ceil(std::max<uint64_t>(pages + pages / 3, 2 * KVT_INDEX_PROBES));
}

PrefixIndex::Insert PrefixIndex::insert(Key key, PageIndex page, uint32_t generation) {
  const uint64_t home = hash(key);
  for (uint64_t probe = 0; probe < KVT_INDEX_PROBES; ++probe) {
    uint64_t& slot = slots_[(home + probe) & mask_];
    if (load_relaxed(slot) != 0) continue;
    store_release(slot, encode(home, page, generation));
    return Insert::kInserted;
  }
  return Insert::kNoSlot;
}

void PrefixIndex::clear() {
  for (uint64_t i = 0; i <= mask_; ++i) store_relaxed(slots_[i], uint64_t{0});
}

}  // namespace kvt
