// SPDX-License-Identifier: Apache-2.0
//
// Touching memory that may not be there: a bad piece of DRAM (the kernel calls it poisoned), a window of huge pages
// when none is left. The kernel answers with SIGBUS, which ends a process that says nothing else. Here it ends the
// touching alone. A SIGBUS anywhere else is as fatal as ever.
//
// Thread-safe: each thread guards its own.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvt::mover {

/// Of the two stretches that a guarded piece of work touches.
enum class BadSide : uint8_t { kNone, kSource, kTarget };

/// Catches SIGBUS of guarded work from now on, in the whole process. Once is enough.
void catch_sigbus();

/// Runs `work(argument)`, which touches `bytes` of source and, where it is not null, of target. kNone: it has ended. Else
/// it was left where it was, at the first touch of memory that is not there. REQUIRES: catch_sigbus() before; the work
/// takes no lock, owns nothing that must be destroyed, and guards nothing itself.
[[nodiscard]] BadSide touch_guarded(void (*work)(void*), void* argument, const std::byte* source,
                                    const std::byte* target, size_t bytes);

/// For tests: 64 MiB of addresses, each of which answers with SIGBUS.
std::byte* missing_memory();

}  // namespace kvt::mover
