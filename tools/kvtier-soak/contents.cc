// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-soak/contents.h"

namespace kvt::soak {

uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
  return value ^ (value >> 31);
}

kvt_key key_of(uint64_t number) { return kvt_key{mix(number) | 1, mix(number + 0x9e3779b97f4a7c15ull)}; }

namespace {
struct Line {
  uint64_t base;
  uint64_t step;
};
Line line_of(uint64_t number) { return {mix(number * 3 + 1), mix(number * 3 + 2) | 1}; }
}  // namespace

void write_words(void* page, uint64_t bytes, uint64_t number) {
  auto* const words = static_cast<uint64_t*>(page);
  const auto [base, step] = line_of(number);
  uint64_t value = base;
  for (uint64_t i = 0; i < bytes / 8; ++i, value += step) words[i] = value;
}

uint64_t wrong_words(const void* page, uint64_t bytes, uint64_t number) {
  const auto* const words = static_cast<const uint64_t*>(page);
  const auto [base, step] = line_of(number);
  const uint64_t count = bytes / 8;
  uint64_t difference = 0;
  // Four lines of words at once: pages are multiples of 512 bytes.
  uint64_t value[8];
  for (uint64_t i = 0; i < 8; ++i) value[i] = base + i * step;
  for (uint64_t at = 0; at < count; at += 8)
    for (uint64_t i = 0; i < 8; ++i) {
      difference |= words[at + i] ^ value[i];
      value[i] += 8 * step;
    }
  if (difference == 0) return 0;
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < count; ++i) wrong += words[i] != base + i * step ? 1 : 0;
  // It has changed between the two looks: wrong all the same.
  return wrong == 0 ? 1 : wrong;
}

}  // namespace kvt::soak
