// SPDX-License-Identifier: Apache-2.0
//
// What the programs of this folder say when something is not as it should be. A program's exit code is `failed`. One
// thread.
#pragma once

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <utility>

#include "shm/base/result.h"

namespace kvt::gpu_test {

using Clock = std::chrono::steady_clock;

inline bool failed = false;

/// A result that there has to be: without it the program ends, with its words.
template <typename T>
T must(Result<T> result) {
  if (!result) {
    std::printf("FAILED: %s\n", result.error().text.c_str());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

inline void expect(bool good, const std::string& what) {
  if (good) return;
  failed = true;
  std::printf("WRONG: %s\n", what.c_str());
}

inline double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace kvt::gpu_test
