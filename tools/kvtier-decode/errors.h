// SPDX-License-Identifier: Apache-2.0
//
// What ends the program early, by exit code: any other std::exception is 1.
#pragma once

#include <stdexcept>

namespace kvt::decode {

inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitMissing = 3;

/// An option, a file or an arena that is not as it must be: exit 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A file or an arena that must be there is not: exit 3.
struct MissingError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace kvt::decode
