// SPDX-License-Identifier: Apache-2.0
//
// One request to replay, and where requests come from. Values; a source belongs to one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace kvt::replay {

/// Tokens of one block of a Mooncake trace.
inline constexpr uint32_t kTraceBlockTokens = 512;

struct Request {
  double timestamp_ms = 0;
  uint64_t input_tokens = 0;
  uint64_t output_tokens = 0;
  std::vector<uint64_t> block_ids;  ///< of the prompt; equal ids mean equal prefixes
};

class RequestSource {
 public:
  virtual ~RequestSource() = default;
  /// The next request in order, or none at the end.
  virtual std::optional<Request> next() = 0;
};

}  // namespace kvt::replay
