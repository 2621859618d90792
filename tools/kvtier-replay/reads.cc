// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/reads.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <sstream>

#include "tools/kvtier-replay/errors.h"

namespace kvt::replay {
namespace {

/// 1,024 tokens: the window that streaming heads keep.
constexpr uint32_t kRecentBlocks = 2;
/// What a head with gate 1 reads in a sparse step, as a share of the context.
constexpr double kContentShare = 0.3;
/// Chances in one step that a point of interest moves on, and that it jumps elsewhere.
constexpr double kDrift = 0.05;
constexpr double kJump = 0.004;

Gates quantiles(std::vector<float> values) {
  std::sort(values.begin(), values.end());
  Gates gates{};
  for (size_t i = 0; i < gates.size(); ++i) gates[i] = values[i * (values.size() - 1) / (gates.size() - 1)];
  return gates;
}

}  // namespace

Gates builtin_gates() { return quantiles({0, 0, 0.5F, 0.75F, 0.9F, 0.95F, 1, 1}); }

Gates load_gates(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw UsageError(fmt::format("{}: cannot be opened", path));
  std::vector<float> values;
  std::string line;
  for (size_t number = 1; std::getline(file, line); ++number) {
    std::istringstream cells(line);
    for (std::string cell; cells >> cell;) {
      size_t used = 0;
      float gate = -1;
      try {
        gate = std::stof(cell, &used);
      } catch (const std::exception&) {
        used = 0;
      }
      // Learned gates lie a little outside of [0,1].
      if (used != cell.size() || !(gate > -0.5F && gate < 1.5F))
        throw UsageError(fmt::format("{}:{}: expected gates from 0 to 1, separated by tabs", path, number));
      values.push_back(std::clamp(gate, 0.0F, 1.0F));
    }
  }
  if (values.empty())
    throw UsageError(fmt::format("{}:1: expected gates from 0 to 1, separated by tabs", path));
  return quantiles(std::move(values));
}

ReadPattern::ReadPattern(ReadModel model, const Gates& gates, uint64_t seed)
    : model_(model), gates_(gates), random_(seed) {}

void ReadPattern::drift(uint32_t n) {
  for (uint32_t& focus : focus_) {
    if (!placed_ || random_.chance(kJump)) {
      focus = static_cast<uint32_t>(random_.below(n));
    } else if (random_.chance(kDrift)) {
      focus = static_cast<uint32_t>((focus + n + random_.below(7) - 3) % n);
    }
  }
  placed_ = true;
}

void ReadPattern::next(uint32_t n, std::vector<uint32_t>& blocks) {
  blocks.clear();
  if (model_ == ReadModel::kDense) {
    blocks.resize(n);
    std::iota(blocks.begin(), blocks.end(), 0U);
    return;
  }
  drift(n);
  blocks.push_back(0);
  for (uint32_t i = n > kRecentBlocks ? n - kRecentBlocks : 0; i < n; ++i) blocks.push_back(i);
  const double gate = gates_[random_.below(gates_.size())];
  const auto content = static_cast<uint32_t>(gate * kContentShare * n + 0.5);
  for (uint32_t i = 0; i < content; ++i) {
    const uint32_t around = focus_[i % kFoci] % n;
    blocks.push_back(static_cast<uint32_t>((uint64_t{around} + i / kFoci) % n));
  }
  std::sort(blocks.begin(), blocks.end());
  blocks.erase(std::unique(blocks.begin(), blocks.end()), blocks.end());
}

}  // namespace kvt::replay
