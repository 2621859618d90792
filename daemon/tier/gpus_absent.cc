// SPDX-License-Identifier: Apache-2.0
//
// A build without the CUDA headers.
#include "daemon/tier/gpus.h"

namespace kvt::tier {

Result<std::shared_ptr<Gpus>> Gpus::open(const std::string&) {
  return fail(Code::kNotFound, "this kvtierd was built without CUDA");
}

}  // namespace kvt::tier
