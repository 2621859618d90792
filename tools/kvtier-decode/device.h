// SPDX-License-Identifier: Apache-2.0
//
// Runs whose KV data is read and written by a GPU, as the rest of the program sees them. Needs no CUDA header; in a build
// without CUDA there is no device.
#pragma once

#include <memory>
#include <string>

#include "tools/kvtier-decode/run.h"

namespace kvt::decode {

/// `driver`: path of the CUDA driver; empty: $KVTIER_CUDA_DRIVER, else libcuda.so.1. Throws MissingError when there is no
/// driver, no such device, or nothing in this build that runs on it.
std::shared_ptr<Device> open_device(const std::string& driver, int ordinal);

/// "NVIDIA H200, compute capability 9.0, driver 13.0 (libcuda.so.1)"
std::string device_text(const Device& device);

/// What KeyChain calls its arithmetic; "" for null, the CPU.
std::string arithmetic_of(const Device* device);

/// As make_cache. REQUIRES: options.device.
std::unique_ptr<KvCache> make_device_cache(const Model& model, const RunOptions& options, size_t tokens_max);

}  // namespace kvt::decode
