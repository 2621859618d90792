// SPDX-License-Identifier: Apache-2.0
//
// The memory of arenas from one daemon to the next: what is noted and stored of a new one, and how it is mapped again.
// What lies in it is arena_adopt.cc's. Adopting is for the start only.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/keeper/arena.h"
#include "daemon/keeper/machine.h"
#include "daemon/restart/kept.h"

namespace kvt::keeper {

/// An arena as its table says; of `config` the rest: who may have it, weight, integrity.
AdoptedArena as_adopted(const ArenaTable& table, ArenaConfig config);
/// The arenas that an earlier daemon has left, by their tables, of which only the headers are read. kMismatch: a table of
/// another major version; both are named.
Result<std::vector<AdoptedArena>> adopted_arenas(restart::Kept& kept);

/// Waits until the GPUs' copies of the daemon before this one have ended (PROTOCOL A2.1), as far as that can be known.
void wait_for_copies_before(const Machine& machine, const restart::Kept& kept,
                            const std::function<void(const std::string&)>& progress);

/// Maps what an earlier daemon has left of an arena and of its sessions, and takes it over. Errors name what is missing;
/// then nothing has been changed. A tier whose GPU is gone is degraded.
Result<std::unique_ptr<Arena>> adopt_arena(const Machine& machine, restart::Kept& kept,
                                           restart::ArenaSlot& slot, uint32_t number,
                                           const ArenaSettings& settings, Adoption& adoption,
                                           const std::function<void(const std::string&)>& progress);

/// Stores the descriptors of a new arena. On an error none of them is stored.
Result<void> store_arena(restart::Kept& kept, const ArenaConfig& config, uint64_t arena_id,
                         const ArenaMemory& memory);
/// Notes it: from here on the next daemon takes it over. REQUIRES: the store has them, as its barrier has said.
Result<void> note_arena(restart::Kept& kept, const ArenaConfig& config, uint64_t arena_id,
                        const ArenaMemory& memory);
/// What the next daemon is to know of an arena that its configuration may not name.
void note_config(restart::ArenaSlot& slot, const ArenaConfig& config);
/// The store may let go of them. The arena's slot does not count, or not yet.
void remove_arena(restart::Kept& kept, uint64_t arena_id, const ArenaMemory& memory);

/// Whether windows are locked into memory. Reserved huge pages are never swapped.
bool wants_lock(const Config& config, OsPages pages);

/// Descriptors that no slot speaks of: of a start or an attach that was cut off. Let go.
void drop_unnamed(restart::Kept& kept);

}  // namespace kvt::keeper
