// SPDX-License-Identifier: Apache-2.0
//
// What `kvtier-decode --record` wrote (docs/decode.md): the page reads of a real transformer, as a workload.
#pragma once

#include <string>

#include "tools/kvtiersim/model/trace.h"

namespace kvt::sim {

/// Whether the file begins as one that kvtier-decode recorded.
[[nodiscard]] bool is_decode_reads(const std::string& path);

/// A step of the decoder is a step. A page is a block of all layers, and is read once in a step in which any
/// layer reads any of it: what the daemon would count. Throws std::invalid_argument with the file, the line
/// and what was expected.
[[nodiscard]] Workload read_decode_reads(const std::string& path);

}  // namespace kvt::sim
