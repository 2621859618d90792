// SPDX-License-Identifier: Apache-2.0
//
// What is the same with and without CUDA.
#include "daemon/tier/gpus.h"

#include <algorithm>
#include <charconv>

#include "daemon/tier/budget.h"
#include "shm/abi/limits.h"

namespace kvt::tier {
namespace {

constexpr uint64_t kChunkBytesMin = 64ull << 20;

std::string names(const std::vector<GpuMemory>& gpus) {
  std::string text;
  for (const GpuMemory& gpu : gpus)
    text += (text.empty() ? "" : ", ") + std::to_string(gpu.ordinal) + " " + gpu.name + " " + gpu.uuid_text;
  return text;
}

}  // namespace

Result<GpuMemory> Gpus::find(const std::string& which) const {
  std::vector<GpuMemory> found;
  int ordinal = -1;
  const char* const last = which.data() + which.size();
  const auto [end, error] = std::from_chars(which.data(), last, ordinal);
  const bool number = error == std::errc() && end == last;
  for (const GpuMemory& gpu : list())
    if (number ? gpu.ordinal == ordinal : !which.empty() && gpu.uuid_text.starts_with(which))
      found.push_back(gpu);
  if (found.empty()) return fail(Code::kNotFound, "no GPU \"" + which + "\"; there is " + names(list()));
  if (found.size() > 1) return fail(Code::kInvalid, "GPU \"" + which + "\" names several: " + names(found));
  if (!found.front().unfit.empty())
    return fail(Code::kMismatch,
                "GPU " + which + " (" + found.front().name + ") cannot be a tier: " + found.front().unfit);
  return found.front();
}

uint64_t device_chunk_bytes(uint64_t window_bytes) {
  const uint64_t least = std::max(kChunkBytesMin, (window_bytes + KVT_WINDOW_CHUNKS - 1) / KVT_WINDOW_CHUNKS);
  return (least + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
}

}  // namespace kvt::tier
