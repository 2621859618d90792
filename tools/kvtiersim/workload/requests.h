// SPDX-License-Identifier: Apache-2.0
//
// Request traces: who asked for how many tokens, and which blocks of the prompt others had, too.
//
// - Mooncake and agent traces: a JSON object a line with input_length, output_length (tokens) and hash_ids,
//   the chained ids of the prompt's blocks. How many tokens a block has is told by the lengths (512; 16),
//   rounded to a power of two.
// - Azure: a CSV of TIMESTAMP,ContextTokens,GeneratedTokens. It has no blocks: each request is given its own,
//   of 16 tokens, so nothing is ever read again by another request.
//
// Such traces say which blocks a request reuses; which pages a decoding step reads, they do not say. Both
// readings are models:
//
// - kRequests: a request is a step and reads every block of its prompt once, as prefix reuse does; blocks
//   that no request had before are born in it, and read too (so that misses of first sight count for every
//   policy alike).
// - kDecode: `concurrency` requests are decoded at a time, in their order (arrival times are not used: the
//   server is full). A step is a token of each: dense attention, every block once; output fills new blocks
//   that nobody shares. A request whose output is through makes way for the next.
//
// Pages count as 128 KiB a token (8 KV heads of 128, 32 layers, two bytes), which scales seconds and no
// share.
#pragma once

#include <cstdint>
#include <string>

#include "tools/kvtiersim/model/trace.h"

namespace kvt::sim {

enum class RequestsAs : uint8_t { kRequests, kDecode };

struct RequestOptions {
  RequestsAs as = RequestsAs::kRequests;
  uint32_t concurrency = 16;
  uint32_t steps_max = 0;  ///< 0: all there are
};

/// True when the first line looks like that of a request trace.
[[nodiscard]] bool is_request_trace(const std::string& path);

/// Throws std::invalid_argument with the file, the line and what was expected.
[[nodiscard]] Workload read_requests(const std::string& path, const RequestOptions& options);

}  // namespace kvt::sim
