// SPDX-License-Identifier: Apache-2.0
//
// What is in a page: word i is a function of the page's key, its version (the handle's generation) and i, so
// every reader can compute and compare every word, and no two pages agree. Pure functions.
#pragma once

#include <kvtier/kvtier.h>

#include <cstddef>
#include <cstdint>

#include "tools/kvtier-replay/device/verify.h"

namespace kvt::replay {

/// The generation in a handle: a new one for each life of a page index.
constexpr uint32_t version_of(kvt_page page) { return static_cast<uint32_t>(page >> 32); }

/// The words of one page.
class Content {
 public:
  Content(kvt_key key, uint32_t version);

  [[nodiscard]] uint64_t start() const { return start_; }
  [[nodiscard]] uint64_t stride() const { return stride_; }
  [[nodiscard]] uint64_t word(uint64_t offset) const { return content_word(start_, stride_, offset); }
  /// REQUIRES: `to` is aligned to 8 bytes (frames are).
  void write(void* to, size_t words) const;
  /// Reads every word; true when each is as it must be.
  [[nodiscard]] bool matches(const void* from, size_t words) const;
  /// How many words of `from` are wrong, and the first of them.
  struct Difference {
    size_t words_wrong = 0;
    size_t offset = 0;
    uint64_t found = 0;
    uint64_t expected = 0;
  };
  [[nodiscard]] Difference compare(const void* from, size_t words) const;

 private:
  uint64_t start_;
  uint64_t stride_;
};

}  // namespace kvt::replay
