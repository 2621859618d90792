// SPDX-License-Identifier: Apache-2.0
//
// Which pages of its context a decode step reads. Traces do not say it, so it is modelled, and every report
// says so:
//   dense   all of them
//   sparse  the first block (attention sink), the most recent ones, and as many content blocks as a head
//   gate, drawn
//           for each step, asks for; they lie around points of interest that drift through the context
// Deterministic for a seed. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/kvtier-replay/random.h"

namespace kvt::replay {

enum class ReadModel : uint32_t { kSparse = 0, kDense = 1 };

/// Quantiles of the gates of a model's heads, each in [0,1]: 1 = a head that reads everything.
using Gates = std::array<float, 32>;

/// A mix like those published for 8B models: some streaming heads, most between, some that read everything.
Gates builtin_gates();
/// From a file of layers x heads, separated by tabs. Throws UsageError with file:line.
Gates load_gates(const std::string& path);

class ReadPattern {
 public:
  ReadPattern(ReadModel model, const Gates& gates, uint64_t seed);

  /// The blocks that the next step reads, of a context of n >= 1 blocks: ascending, none twice.
  void next(uint32_t n, std::vector<uint32_t>& blocks);

 private:
  static constexpr size_t kFoci = 3;
  void drift(uint32_t n);

  ReadModel model_;
  const Gates& gates_;
  Random random_;
  std::array<uint32_t, kFoci> focus_{};
  bool placed_ = false;
};

}  // namespace kvt::replay
