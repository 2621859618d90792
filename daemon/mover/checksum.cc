// SPDX-License-Identifier: Apache-2.0
#include "daemon/mover/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

#include "daemon/mover/copy.h"

namespace kvt::mover {
namespace {

/// Stays in the first two caches between being summed and being copied; a multiple of 512.
constexpr size_t kPiece = 16 << 10;

uint64_t known(uint64_t sum) { return sum == 0 ? 1 : sum; }

}  // namespace

uint64_t page_sum(const std::byte* data, size_t bytes) { return known(XXH3_64bits(data, bytes)); }

uint64_t copy_page_summed(std::byte* target, const std::byte* source, size_t bytes) {
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (size_t at = 0; at < bytes; at += kPiece) {
    const size_t piece = std::min(kPiece, bytes - at);
    XXH3_64bits_update(&state, source + at, piece);
    copy_page(target + at, source + at, piece);
  }
  return known(XXH3_64bits_digest(&state));
}

}  // namespace kvt::mover
