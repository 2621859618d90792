// SPDX-License-Identifier: Apache-2.0
//
// A build without the CUDA headers: there is no device.
#include "tools/kvtier-decode/device.h"
#include "tools/kvtier-decode/errors.h"

namespace kvt::decode {

std::shared_ptr<Device> open_device(const std::string& /*driver*/, int /*ordinal*/) {
  throw MissingError("--device cuda: this kvtier-decode was built without CUDA");
}

std::string device_text(const Device& /*device*/) { return {}; }

std::string arithmetic_of(const Device* /*device*/) { return {}; }

std::unique_ptr<KvCache> make_device_cache(const Model& /*model*/, const RunOptions& /*options*/,
                                           size_t /*tokens_max*/) {
  return nullptr;
}

}  // namespace kvt::decode
