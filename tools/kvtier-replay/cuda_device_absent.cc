// SPDX-License-Identifier: Apache-2.0
//
// A build without the CUDA headers.
#include "tools/kvtier-replay/cuda_device.h"
#include "tools/kvtier-replay/errors.h"

namespace kvt::replay {
namespace {

[[noreturn]] void fail() {
  throw MissingError("--device cuda: this build has no CUDA (cuda.h was not found, or not wanted)");
}

}  // namespace

CudaChoice choose_cuda(const std::string&, int, uint64_t) { fail(); }
std::unique_ptr<Device> make_cuda_device(const BoardHeader&, Client&) { fail(); }

}  // namespace kvt::replay
