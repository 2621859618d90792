// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/bound/single_steps.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>

namespace kvt::sim {

double ub0_seconds(const Trace& trace, const Machine& machine) {
  double bandwidth = machine.tiers[0].read_bytes_per_second;
  std::vector<double> behind(machine.links.size(), 0);
  for (size_t i = 1; i < machine.tiers.size(); ++i) {
    if (machine.tiers[i].link < 0)
      bandwidth += machine.tiers[i].read_bytes_per_second;
    else
      behind[static_cast<size_t>(machine.tiers[i].link)] += machine.tiers[i].read_bytes_per_second;
  }
  for (size_t i = 0; i < behind.size(); ++i)
    bandwidth += std::min(behind[i], machine.links[i].in_bytes_per_second);
  const double bytes = static_cast<double>(trace.asked()) * static_cast<double>(trace.page_bytes) +
                       trace.fixed_read_bytes * trace.steps();
  // What is read whatever the placement is comes from the fastest tier alone.
  return std::max(bytes / bandwidth,
                  trace.fixed_read_bytes * trace.steps() / machine.tiers[0].read_bytes_per_second);
}

SingleSteps single_steps(const Trace& trace, const Machine& machine, const std::vector<StartState>& start) {
  if (machine.tiers.size() != 2 || !machine.links.empty())
    throw std::invalid_argument("bounds are for machines of two tiers without shared links; \"" +
                                machine.name + "\" has " + std::to_string(machine.tiers.size()) +
                                " tiers and " + std::to_string(machine.links.size()) + " links");
  if (machine.kappa < 0 || machine.kappa > 1)
    throw std::invalid_argument("kappa of \"" + machine.name + "\" is " + std::to_string(machine.kappa) +
                                "; expected 0 to 1");
  if (start.size() != 1 && start.size() != trace.pages)
    throw std::invalid_argument("a start for each page, or one for all, is expected");
  const bool free_start = std::find(start.begin(), start.end(), StartState::kAny) != start.end();
  const double kappa = machine.kappa;
  const double b1 = machine.tiers[0].read_bytes_per_second;
  const double b2 = machine.tiers[1].read_bytes_per_second;
  const double fixed = trace.fixed_read_bytes;
  const auto bytes = static_cast<double>(trace.page_bytes);
  const double written =
      trace.written_bytes > 0 ? trace.written_bytes / machine.tiers[1].write_bytes_per_second : 0;
  const auto room = static_cast<size_t>(std::min<uint64_t>(machine.tiers[0].capacity_pages, trace.pages));
  SingleSteps result;
  std::vector<uint32_t> reads;
  for (uint32_t n = 0; n < trace.steps(); ++n) {
    const StepView step = trace.step(n);
    const bool given = n == 0 && !free_start;
    reads.clear();
    double asked = 0;
    double most = 0;    // reads that the fast tier can serve
    double margin = 0;  // reads of the best page that finds no room
    for (size_t i = 0; i < step.page.size(); ++i) {
      asked += step.reads_of(i);
      if (!trace.born_step.empty() && n != 0 && trace.born_step[step.page[i]] == n)
        continue;  // begins in the slow tier
      if (!given)
        reads.push_back(step.reads_of(i));
      else if ((start.size() == 1 ? start[0] : start[step.page[i]]) == StartState::kFast)
        most += step.reads_of(i);
    }
    if (room < reads.size()) {
      if (!trace.reads.empty())
        std::nth_element(reads.begin(), reads.begin() + static_cast<ptrdiff_t>(room), reads.end(),
                         std::greater<>());
      margin = reads[room];
      reads.resize(room);
    }
    most += std::accumulate(reads.begin(), reads.end(), 0.0);

    // max(fast, slow, written) + kappa * the second of fast and the other two, over the bytes that come from
    // the fast tier: convex and made of lines, so the best is at an end or where two of them meet.
    const double all = asked * bytes;
    const auto slow_at = [&](double from_fast) { return (all - from_fast) / b2; };
    const auto seconds_at = [&](double from_fast) {
      const double fast = (fixed + from_fast) / b1, other = std::max(slow_at(from_fast), written);
      return std::max(fast, other) + kappa * std::min(fast, other);
    };
    double best = 0;
    for (const double meet : {most * bytes, (all * b1 - fixed * b2) / (b1 + b2), all - written * b2})
      if (const double here = std::clamp(meet, 0.0, most * bytes); seconds_at(here) < seconds_at(best))
        best = here;
    result.seconds += seconds_at(best);

    // Weight where the time is; where both tiers take equally long, shared so that a read costs the same in
    // both.
    const double fast = (fixed + best) / b1, slow = slow_at(best);
    const double near = 1e-12 * std::max({fast, slow, written});
    const double fast_weight = fast > std::max(slow, written) + near ? 1
                               : fast < slow - near                  ? kappa
                                                    : std::clamp(b1 * (1 + kappa) / (b1 + b2), kappa, 1.0);
    const double written_weight = written > slow + near ? 1 + kappa - fast_weight : 0;
    const double slow_read = (1 + kappa - fast_weight - written_weight) * bytes / b2;
    result.fast_weight.push_back(fast_weight);
    result.written_weight.push_back(written_weight);
    result.room_price.push_back(margin * std::max(0.0, slow_read - fast_weight * bytes / b1));
  }
  return result;
}

}  // namespace kvt::sim
