// SPDX-License-Identifier: Apache-2.0
//
// What a new arena is made of: its geometry, from its configuration and what it gets of each tier, and its memory. Values
// in, values out: memory is made by whichever thread asks, at start the loop's, later keeper::Background's.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "daemon/keeper/arena.h"
#include "daemon/keeper/machine.h"

namespace kvt::keeper {

/// Lines for people while memory is being prefaulted. Called by the thread that makes it.
using Progress = std::function<void(const std::string&)>;

/// The geometry of an arena that gets `share` of each tier of `config`; of a tier of which it names 0 bytes nothing.
/// kInvalid, kLimit with the tier or field.
Result<ArenaGeometry> geometry_of(const Config& config, const ArenaConfig& arena,
                                  const std::map<std::string, uint64_t>& share);
/// The same on a machine: with its OS pages and GPUs, and an id that no other arena has.
Result<ArenaGeometry> geometry_on(const Machine& machine, const ArenaConfig& arena,
                                  const std::map<std::string, uint64_t>& share);

/// Whether the memory can be had now, before any of it is taken: kFull with what is wanted and what is there.
Result<void> check_memory_for(const Machine& machine, const ArenaGeometry& geometry, bool with_sums);

/// How hard the machine is worked meanwhile.
struct Pace {
  uint32_t threads = 1;                     ///< that prefault
  const std::atomic<bool>* stop = nullptr;  ///< true: it is given up (kAgain)
};

/// Of `gpus` (ordinals) those that reach the memory of this one: what a window of it asks for.
std::vector<int> peers_among(const Machine& machine, const std::vector<int>& gpus, int gpu);
/// What a window of device memory got of it; without, pages are copied from host memory.
void take_peers(tier::Window& window, const std::string& arena, const std::string& tier,
                std::vector<int>& tier_peers, const Progress& progress);

/// Table, windows and, where wanted, checksums of a new arena, mapped and prefaulted. kFull: the memory is not there.
Result<ArenaMemory> make_memory(const Machine& machine, const ArenaGeometry& geometry, bool with_sums,
                                const Progress& progress, const Pace& pace);

}  // namespace kvt::keeper
