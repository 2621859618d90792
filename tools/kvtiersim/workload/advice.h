// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "tools/kvtiersim/model/trace.h"

namespace kvt::sim {

/// Clients that know what comes: each read of step n+1 is announced in step n with this chance, by draws of
/// `seed`, unless its page is not born yet. Replaces advice
/// that is there. REQUIRES: 0 <= share <= 1.
void announce(Trace& trace, double share, uint64_t seed);

}  // namespace kvt::sim
