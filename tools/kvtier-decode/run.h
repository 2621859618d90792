// SPDX-License-Identifier: Apache-2.0
//
// One run: the same prompt decoded over one of the caches, and what came of it. Not thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tools/kvtier-decode/arena_session.h"
#include "tools/kvtier-decode/decoder.h"
#include "tools/kvtier-decode/reference.h"

namespace kvt::decode {

class Device;

enum class Place { kPrivate, kNative, kConnector };
std::string_view name_of(Place place);

struct RunOptions {
  Place place = Place::kNative;
  ArenaOptions arena;  ///< the fingerprint is filled in
  uint32_t block_tokens = 16;
  AttentionKind attention;
  uint64_t salt = 0;
  size_t tokens = 64;
  std::shared_ptr<Device> device;  ///< that reads and writes the KV data; null: this CPU
  uint32_t mass_pages = 0;         ///< measure the attention in the pages of top-k with this K; 0: do not
};

struct Run {
  Place place = Place::kNative;
  DecodeResult result;
  CacheCounts counts;
  AttentionMass mass;
};

/// For sequences of at most `tokens_max` tokens. Throws what the caches throw.
std::unique_ptr<KvCache> make_cache(const Model& model, const RunOptions& options, size_t tokens_max);

/// Decodes, calling `on_step` (may be empty) after each step.
Run run_once(const Model& model, const std::vector<Token>& prompt, const RunOptions& options,
             const std::function<void(const StepEvent&)>& on_step);

/// Thrown by a verified run at the first bit that differs.
struct Difference : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The same on private memory, to compare with.
Run run_reference(const Model& model, const std::vector<Token>& prompt, RunOptions options,
                  Reference& reference);

}  // namespace kvt::decode
