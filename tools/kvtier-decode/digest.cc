// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/digest.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace kvt::decode {

Digest digest_of(const void* data, size_t bytes, const Digest& before) {
  const XXH128_hash_t own = XXH3_128bits(data, bytes);
  const uint64_t words[] = {before.lo, before.hi, own.low64, own.high64};
  const XXH128_hash_t chained = XXH3_128bits(words, sizeof words);
  return {chained.low64, chained.high64};
}

}  // namespace kvt::decode
