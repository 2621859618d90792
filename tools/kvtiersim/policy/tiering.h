// SPDX-License-Identifier: Apache-2.0
//
// Static and random placement, and the ideas of published systems for tiered memory. Theirs sample accesses
// and move pages in the background; here all of them see every read and move at the end of each step, so they
// are their ideas at their best.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tools/kvtiersim/model/policy.h"
#include "tools/kvtiersim/model/random.h"
#include "tools/kvtiersim/policy/exchange.h"
#include "tools/kvtiersim/policy/ranked.h"

namespace kvt::sim {

inline constexpr double kTieringRate = 1.0 / 8;

/// Fills free frames with the pages of lowest number that pass by, and moves nothing else.
class Static final : public Policy {
 public:
  void step(const StepView& step, World& world) override;

 private:
  Exchange exchange_;
};

/// Every miss takes the place of a random page of the fast tier.
class RandomReplacement final : public Policy {
 public:
  explicit RandomReplacement(uint64_t seed) : random_(seed) {}
  void step(const StepView& step, World& world) override;

 private:
  Random random_;
};

/// After MEMTIS (SOSP 2023): counts that are halved now and then, a histogram of their logarithms, and a
/// threshold so that the pages above it just fit. Those are hot and get up; the bin below is warm and stays
/// where it is while cold pages can go.
class Memtis final : public Policy {
 public:
  void begin(World& world) override;
  void step(const StepView& step, World& world) override;

 private:
  static constexpr uint32_t kBins = 32;
  static constexpr uint32_t kCoolingSteps = 16;
  static constexpr uint32_t kReadHeat = 16;  // so that halving leaves something

  struct Page {
    uint32_t heat = 0;
    uint32_t cooled = 0;  // coolings that `heat` has seen
  };
  [[nodiscard]] uint32_t heat(uint32_t page) const;
  [[nodiscard]] static uint32_t bin(uint32_t heat);

  std::vector<Page> pages_;
  std::array<uint64_t, kBins + 1> histogram_{};  // pages that have been read, by bin
  uint32_t coolings_ = 0;
  Exchange exchange_;
};

/// After Colloid (SOSP 2024): the tiers' loaded latencies are to be equal, here the times that they take for
/// the step; hot pages move only as far as evens them out.
class Colloid final : public Policy {
 public:
  void begin(World& world) override { heat_.begin(world); }
  void step(const StepView& step, World& world) override;

 private:
  MovingAverage heat_{kTieringRate};
  Exchange exchange_;
};

/// After BATMAN (MEMSYS 2017): each tier is to serve its share of the bandwidth. While the fast one serves
/// less, pages that are accessed move there, in place of those that were accessed longest ago.
class Batman final : public Policy {
 public:
  void begin(World& world) override { recency_.begin(world); }
  void step(const StepView& step, World& world) override;

 private:
  static constexpr double kGuardBand = .02;

  Recency recency_;
  double slow_share_ = 1;
  Exchange exchange_;
};

}  // namespace kvt::sim
