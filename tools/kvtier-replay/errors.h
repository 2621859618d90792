// SPDX-License-Identifier: Apache-2.0
//
// What ends a replay early, by exit code: any other std::exception is 1.
#pragma once

#include <stdexcept>

namespace kvt::replay {

inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitMissing = 3;

/// An option, a trace or a gate file that is not as it must be: exit 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Something that must be there is not: exit 3.
struct MissingError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A signal asked the replay to end before there was anything to report: exit 128 + signal.
struct InterruptedError : std::runtime_error {
  InterruptedError(const char* text, int by) : std::runtime_error(text), signal(by) {}
  int signal;
};

}  // namespace kvt::replay
