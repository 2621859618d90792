// SPDX-License-Identifier: Apache-2.0
//
// The replay's part of CUDA; nothing of CUDA is in this header. Which driver, and a Device that is a GPU.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tools/kvtier-replay/device.h"

namespace kvt::replay {

/// The GPU that a replay is on.
struct CudaChoice {
  std::string path;  ///< of the driver
  int ordinal = 0;
  bool stand_in = false;  ///< the driver that takes a real one's place where there is no GPU
  std::string text;       ///< "stand-in", or "libcuda.so.1, CUDA 13.0 on NVIDIA H200"
};

/// `driver`: a path, "stand-in" for the library that is built beside this program, or empty: $KVTIER_CUDA_DRIVER, else
/// libcuda.so.1. A stand-in's device gets `device_bytes` of memory, in this process's children as well, unless the
/// environment says how much. Throws MissingError, which names what is not there.
CudaChoice choose_cuda(const std::string& driver, int ordinal, uint64_t device_bytes);

/// REQUIRES: the client has attached with KVT_ATTACH_CUDA.
std::unique_ptr<Device> make_cuda_device(const BoardHeader& board, Client& client);

}  // namespace kvt::replay
