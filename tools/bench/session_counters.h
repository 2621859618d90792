// SPDX-License-Identifier: Apache-2.0
//
// A second look at the access counters that this process's session publishes: the checksum of the touch rows.
// The C interface does not show them, so they are read from the session region, found among this process's
// own mappings.
#pragma once

#include <cstdint>

namespace kvt::bench {

/// Sum of all counters of this process's session `session_id`, modulo 65,536: each counter is one 16-bit word
/// that only grows. Throws RowError when there is no region of that session, or more than one.
uint16_t sum_of_counters(uint64_t session_id);

}  // namespace kvt::bench
