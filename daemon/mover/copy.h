// SPDX-License-Identifier: Apache-2.0
//
// Copies one page between two frames with the CPU. Thread-safe; no state.
#pragma once

#include <cstddef>

namespace kvt::mover {

/// Copies `bytes` (a multiple of 512) between frames that do not overlap, past the caches, and orders all
/// stores before whatever the caller publishes next (sfence, or dmb on arm64; PROTOCOL A6). Both are 64-byte
/// aligned.
void copy_page(std::byte* target, const std::byte* source, size_t bytes);
/// What copy_page() ends with: for a copy that was left in the middle.
void order_copied();

}  // namespace kvt::mover
