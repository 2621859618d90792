// SPDX-License-Identifier: Apache-2.0
//
// What the environment says about the stand-in driver; the variables are in standin.h. A value.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace kvt::standin {

/// A failure to come: "NAME:NTH=RESULT".
struct Fault {
  std::string name;  ///< an entry point, or a kind of work
  uint64_t nth = 0;
  CUresult result = CUDA_SUCCESS;
};

struct Settings {
  int devices = 1;
  uint64_t device_bytes = uint64_t{256} << 20;
  int version = 13000;
  int capability_major = 9;
  int capability_minor = 0;
  bool vmm = true;
  bool posix_handles = true;
  bool stream_write_64 = true;
  bool read_only_register = true;
  bool host_numa = true;
  bool batch = true;
  bool host_pointer = true;
  uint64_t delay_us = 0;
  uint64_t seed = 1;
  std::vector<Fault> faults;
  std::vector<Fault> async_faults;
  std::string lost_file;
  int lost_device = -1;  ///< that the file is about; -1: all of them
  std::string counts_file;
  /// Device and peer, whose memory it reaches; nothing: all reach each other's.
  std::optional<std::vector<std::pair<int, int>>> peers;

  [[nodiscard]] bool can_access(int device, int peer) const;

  /// Aborts with words on stderr when a variable cannot be read: a test that is not what it says is worse than none.
  static Settings from_environment();
};

}  // namespace kvt::standin
