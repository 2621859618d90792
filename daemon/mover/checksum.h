// SPDX-License-Identifier: Apache-2.0
//
// Checksums of pages (XXH3, 64 bits). They find bits that memory or a link has changed, not somebody's intent.
// Thread-safe; no state.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvt::mover {

/// Never 0, which stands for a sum that nobody knows.
uint64_t page_sum(const std::byte* data, size_t bytes);

/// copy_page(), and the source's sum, of the very bytes that are copied: each piece is read from memory once.
uint64_t copy_page_summed(std::byte* target, const std::byte* source, size_t bytes);

}  // namespace kvt::mover
