// SPDX-License-Identifier: Apache-2.0
//
// A piece of memory that the process keeps for the day on which the system gives it none: then it is given up, and what
// was asked for is had (docs/decisions/0018). As long as it is gone, nothing new is begun for clients.
//
// One for the process. is_used() and refill() are for one thread; the reserve itself may be used by any.
#pragma once

#include <cstddef>

namespace kvt::keeper {

class MemoryReserve {
 public:
  /// Takes `bytes` of address space and asks operator new to give them up when it has nothing else. false: they cannot be
  /// had. Once.
  static bool keep(size_t bytes);
  /// It was given up, and refill() has not got it back.
  [[nodiscard]] static bool is_used();
  /// Takes it again. false: the system has not as much yet.
  static bool refill();
};

}  // namespace kvt::keeper
