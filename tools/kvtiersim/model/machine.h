// SPDX-License-Identifier: Apache-2.0
//
// The machine that is simulated, and how long a step takes on it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace kvt::sim {

inline constexpr uint32_t kTiersMax = 8;

struct Tier {
  std::string name;
  double read_bytes_per_second = 0;  ///< as the consumer reads it
  /// What it takes beside being read at full speed; of tier 0: reads and writes share read_bytes_per_second
  double write_bytes_per_second = 0;
  uint64_t capacity_pages = UINT64_MAX;  ///< of tier 0 set for each run
  int32_t link = -1;                     ///< index into Machine::links, -1: a path of its own
};

/// A link that several tiers are behind.
struct Link {
  std::string name;
  double in_bytes_per_second = 0;  ///< towards the consumer
  double out_bytes_per_second = 0;
};

/// tiers[0] is the fast tier; the last one holds a copy of every page (inclusive), so leaving a tier for it
/// is free.
struct Machine {
  std::string name;
  std::vector<Tier> tiers;
  std::vector<Link> links;
  /// 0: kernels read all tiers at once; 1: first fetched, then computed. step = largest + kappa * second
  /// largest.
  double kappa = 0;

  [[nodiscard]] uint32_t last() const { return static_cast<uint32_t>(tiers.size() - 1); }
  /// Share of reads that the slow tiers get when all finish together.
  [[nodiscard]] double balanced_slow_share() const;
};

/// How a page gets up: what a promotion of a page costs that is read in the same step anyway.
enum class Cost : uint8_t {
  kOffers,  ///< one write of the fast tier
  kCopies,  ///< a read of the slow tier as well, out of band
};

/// Bytes of one step.
struct Traffic {
  std::array<double, kTiersMax> read{};  ///< by the consumer, by the tier where the page has its place
  double also_in_last = 0;               ///< of read[0 .. last-1]: of pages that the last tier has too
  std::array<double, kTiersMax> copied_out_of{};  ///< read by copies, out of band
  std::array<double, kTiersMax> written{};        ///< by copies, by promotions in passing, for new tokens
  // What the sums are made of, for reports:
  double promoted_in_read = 0;
  double promoted_copy = 0;
  double demoted_copy = 0;
};

/// Where the consumer read in the end, and how long the step took.
struct StepTime {
  double seconds = 0;
  std::array<double, kTiersMax> read{};
};

/// Seconds of a step with `traffic` and `fixed_read_bytes` from tier 0. The reader balances: of
/// `also_in_last`, it reads as much from the last tier as makes the step shortest.
/// POLICY: t_fast = (fixed + read + written) / B, t_slow = max((read + copied) / B_read, written / B_write),
/// links likewise.
[[nodiscard]] StepTime step_time(const Machine& machine, const Traffic& traffic, double fixed_read_bytes);

/// paper, gh200, h200-pcie5, h100-pcie5, families; or a JSON file with the fields of Machine
/// (docs/kvtiersim.md). Throws std::invalid_argument with what was expected.
[[nodiscard]] Machine find_machine(const std::string& name_or_file);
[[nodiscard]] std::string machine_names();

}  // namespace kvt::sim
