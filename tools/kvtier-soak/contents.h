// SPDX-License-Identifier: Apache-2.0
//
// Page contents that follow from a key alone, so that whoever finds the page can check every word of it. Word i is
// base + i * step: another page's, another frame's or a shifted word differs.
#pragma once

#include <kvtier/kvtier.h>

#include <cstdint>

namespace kvt::soak {

/// Of the number of a key, never 0.
kvt_key key_of(uint64_t number);
void write_words(void* page, uint64_t bytes, uint64_t number);
/// How many of the page's words are wrong.
uint64_t wrong_words(const void* page, uint64_t bytes, uint64_t number);

uint64_t mix(uint64_t value);

}  // namespace kvt::soak
