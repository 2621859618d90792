// SPDX-License-Identifier: Apache-2.0
//
// This process as the kernel sees it. Any thread but the loop's: with many descriptors it takes milliseconds.
#pragma once

#include <cstdint>

namespace kvt::metrics {

struct ProcessSample {
  double cpu_seconds = 0;
  uint64_t resident_bytes = 0;
  uint64_t virtual_bytes = 0;
  uint64_t open_descriptors = 0;
  uint64_t descriptors_max = 0;
  uint64_t threads = 0;
  double start_time_seconds = 0;  ///< since 1970
};

/// What cannot be read is 0.
ProcessSample sample_process();

}  // namespace kvt::metrics
