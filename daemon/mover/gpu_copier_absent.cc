// SPDX-License-Identifier: Apache-2.0
//
// A build without the CUDA headers.
#include "daemon/mover/gpu_copier.h"
#include "daemon/mover/mover.h"

namespace kvt::mover {

Result<std::unique_ptr<GpuCopier>> GpuCopier::start(std::shared_ptr<cuda::Gpu>, Done) {
  return fail(Code::kNotFound, "this kvtierd was built without CUDA");
}

}  // namespace kvt::mover
