// SPDX-License-Identifier: Apache-2.0
//
// Spans of time for rows with manual timing. Values; thread-safe.
#pragma once

#include <time.h>

#include <cstdint>

namespace kvt::bench {

/// Seconds since it was made, by a POSIX clock: CLOCK_MONOTONIC for wall time, CLOCK_THREAD_CPUTIME_ID for
/// the CPU time of this thread.
class Stopwatch {
 public:
  explicit Stopwatch(clockid_t clock = CLOCK_MONOTONIC) : clock_(clock), start_(now()) {}
  [[nodiscard]] double seconds() const { return static_cast<double>(now() - start_) * 1e-9; }

 private:
  [[nodiscard]] int64_t now() const {
    timespec t{};
    clock_gettime(clock_, &t);
    return int64_t{t.tv_sec} * 1000000000 + t.tv_nsec;
  }
  clockid_t clock_;
  int64_t start_;
};

}  // namespace kvt::bench
