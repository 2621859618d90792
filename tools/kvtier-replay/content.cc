// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/content.h"

#include "tools/kvtier-replay/random.h"

namespace kvt::replay {

// Odd stride: offsets of one page never repeat a word. Both depend on all of key and version.
Content::Content(kvt_key key, uint32_t version)
    : start_(mix64(key.lo ^ mix64(key.hi + version))), stride_(mix64(start_ ^ key.hi) | 1) {}

void Content::write(void* to, size_t words) const {
  auto* const out = static_cast<uint64_t*>(to);
  for (size_t i = 0; i < words; ++i) out[i] = word(i);
}

// No early end: the loop without a branch is several times faster, and nearly every page is right.
bool Content::matches(const void* from, size_t words) const {
  const auto* const in = static_cast<const uint64_t*>(from);
  uint64_t difference = 0;
  uint64_t x = start_;
  for (size_t i = 0; i < words; ++i) {
    difference |= in[i] ^ (x ^ (x >> 29));
    x += stride_;
  }
  return difference == 0;
}

Content::Difference Content::compare(const void* from, size_t words) const {
  const auto* const in = static_cast<const uint64_t*>(from);
  Difference difference;
  for (size_t i = 0; i < words; ++i) {
    const uint64_t found = in[i];
    if (found == word(i)) continue;
    if (difference.words_wrong++ == 0) {
      difference.offset = i;
      difference.found = found;
      difference.expected = word(i);
    }
  }
  return difference;
}

}  // namespace kvt::replay
