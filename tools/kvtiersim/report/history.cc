// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/report/history.h"

#include <algorithm>
#include <utility>

namespace kvt::sim {

HeatMap heat_map(const Trace& trace, uint32_t groups_max, uint32_t bins_max) {
  HeatMap map;
  map.bins = Bins(trace.steps(), bins_max);
  map.pages = trace.pages;
  map.groups = std::min(trace.pages, groups_max);
  map.reads.assign(size_t{map.groups} * map.bins.count, 0);
  for (uint32_t n = 0; n < trace.steps(); ++n) {
    const StepView step = trace.step(n);
    const uint32_t bin = map.bins.of(n);
    for (size_t i = 0; i < step.page.size(); ++i) {
      // The group that first_page() gives this page to.
      const auto group = static_cast<uint32_t>(((uint64_t{step.page[i]} + 1) * map.groups - 1) / map.pages);
      map.reads[size_t{group} * map.bins.count + bin] += step.reads_of(i);
    }
  }
  for (uint32_t group = 0; group < map.groups; ++group)
    for (uint32_t bin = 0; bin < map.bins.count; ++bin)
      map.reads[size_t{group} * map.bins.count + bin] /= double{1} *
                                                         (map.first_page(group + 1) - map.first_page(group)) *
                                                         (map.bins.first(bin + 1) - map.bins.first(bin));
  return map;
}

CourseRecorder::CourseRecorder(std::string policy, bool oracle, uint32_t steps, uint32_t bins_max) {
  course_.policy = std::move(policy);
  course_.oracle = oracle;
  course_.bins = Bins(steps, bins_max);
  course_.fast_share.resize(course_.bins.count);
  course_.seconds.resize(course_.bins.count);
  course_.bytes_moved.resize(course_.bins.count);
  read_.resize(course_.bins.count);
}

void CourseRecorder::operator()(const StepView& step, const World& world, const StepTime& time) {
  const uint32_t bin = course_.bins.of(step.step);
  const Traffic& traffic = world.traffic();
  course_.fast_share[bin] += traffic.read[0];
  read_[bin] += world.read_bytes();
  course_.seconds[bin] += time.seconds;
  course_.bytes_moved[bin] += traffic.promoted_in_read + traffic.promoted_copy + traffic.demoted_copy;
}

Course CourseRecorder::course() const {
  Course course = course_;
  for (size_t bin = 0; bin < read_.size(); ++bin)
    if (read_[bin] > 0) course.fast_share[bin] /= read_[bin];
  return course;
}

}  // namespace kvt::sim
