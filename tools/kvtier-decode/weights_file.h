// SPDX-License-Identifier: Apache-2.0
//
// Weights in a file. Little-endian: "KVTDECOD", u32 version, u32 vocabulary, u32 layers, width, heads,
// kv_heads, head_dim, hidden, u64 number of floats, u64 and u64 digest of shape and weights, then the floats
// in the order of WeightPlaces.
#pragma once

#include <string>

#include "tools/kvtier-decode/model.h"

namespace kvt::decode {

/// Writes them beside `path` and renames. Throws std::runtime_error.
void save_weights(const Model& model, const std::string& path);
/// Throws MissingError when there is no such file, UsageError when it is something else or damaged.
Model load_weights(const std::string& path);

}  // namespace kvt::decode
