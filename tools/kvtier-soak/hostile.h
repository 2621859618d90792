// SPDX-License-Identifier: Apache-2.0
//
// Clients that mean harm, in an arena of their own, and what a good client does beside them.
#pragma once

#include <cstdint>
#include <string>

namespace kvt::soak {

/// Attaches, scribbles over its own session region, floods its rings and the socket, and begins anew, for ever.
int run_hostile(const std::string& folder, uint64_t seed);

/// What a good client does beside two hostile ones, over what it does beside two that burn the same CPU in private
/// memory: median of rounds that take turns. `corrupt` gets words that were wrong.
double throughput_ratio(const std::string& folder, uint64_t seed, uint64_t& corrupt);

}  // namespace kvt::soak
