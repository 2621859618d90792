// SPDX-License-Identifier: Apache-2.0
//
// What happened over the steps of a simulation, in few enough numbers to be drawn: steps are put together in
// bins, pages in groups of neighbours.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/kvtiersim/model/simulate.h"

namespace kvt::sim {

/// Steps in bins that differ by at most one step.
struct Bins {
  uint32_t steps = 0;
  uint32_t count = 0;
  Bins() = default;
  Bins(uint32_t all_steps, uint32_t bins_max)
      : steps(all_steps), count(all_steps < bins_max ? all_steps : bins_max) {}
  /// First step of a bin; of `count`: the number of steps.
  [[nodiscard]] uint32_t first(uint32_t bin) const {
    return static_cast<uint32_t>(uint64_t{bin} * steps / count);
  }
  [[nodiscard]] uint32_t of(uint32_t step) const {
    return static_cast<uint32_t>(((uint64_t{step} + 1) * count - 1) / steps);
  }
};

/// Reads of a page a step, by group and bin.
struct HeatMap {
  Bins bins;
  uint32_t pages = 0;
  uint32_t groups = 0;
  std::vector<double> reads;  ///< [group * bins.count + bin]
  [[nodiscard]] uint32_t first_page(uint32_t group) const {
    return static_cast<uint32_t>(uint64_t{group} * pages / groups);
  }
};

[[nodiscard]] HeatMap heat_map(const Trace& trace, uint32_t groups_max = 48, uint32_t bins_max = 120);

/// How one policy fared, by bin.
struct Course {
  std::string policy;
  bool oracle = false;
  Bins bins;
  /// Of the reads, those of pages that were in the fast tier, 0 to 1; 0 where nothing was read
  std::vector<double> fast_share;
  std::vector<double> seconds;
  std::vector<double> bytes_moved;
};

/// An Observer for simulate() that fills a Course. Use: simulate(..., std::ref(recorder)); recorder.course().
class CourseRecorder {
 public:
  CourseRecorder(std::string policy, bool oracle, uint32_t steps, uint32_t bins_max = 120);
  void operator()(const StepView& step, const World& world, const StepTime& time);
  [[nodiscard]] Course course() const;

 private:
  Course course_;  // fast_share holds bytes until course()
  std::vector<double> read_;
};

/// Of one size of the fast tier and one seed.
struct History {
  double hbm_percent = 0;
  uint64_t seed = 0;
  HeatMap heat;  ///< may be empty
  std::vector<Course> courses;
};

}  // namespace kvt::sim
