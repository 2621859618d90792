// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/plan.h"

#include <algorithm>
#include <unordered_set>

#include "tools/kvtier-replay/random.h"

namespace kvt::replay {
namespace {

/// A trace's clock has steps of 3 s: requests arrive some time within theirs.
constexpr double kTimestampStepMs = 3000;
/// The last request arrives here, so that it can be decoded.
constexpr double kArrivalShare = 0.92;
/// Requests that go to another worker than the rest of their conversation: there they read what others wrote.
constexpr double kElsewhere = 0.5;

uint32_t pick_worker(const Request& request, uint32_t workers, uint64_t seed, Random& random) {
  const uint64_t conversation = request.block_ids[request.block_ids.size() > 1 ? 1 : 0];
  const auto home = static_cast<uint32_t>(mix64(conversation ^ seed) % workers);
  if (workers == 1 || !random.chance(kElsewhere)) return home;
  return static_cast<uint32_t>((home + 1 + random.below(workers - 1)) % workers);
}

/// Jitters within the trace's clock steps and scales; the order of the requests stays.
void set_arrivals(Plan& plan, std::vector<double> times_ms, double seconds, Random& random) {
  for (double& time : times_ms) time += random.uniform() * kTimestampStepMs;
  std::sort(times_ms.begin(), times_ms.end());
  const double first = times_ms.front();
  const double span = std::max(times_ms.back() - first, 1.0);
  plan.source_seconds = span / 1000;
  for (size_t i = 0; i < times_ms.size(); ++i)
    plan.requests[i].arrival_ns =
        static_cast<int64_t>((times_ms[i] - first) / span * seconds * kArrivalShare * 1e9);
}

}  // namespace

double Plan::reuse() const {
  if (block_ids.empty()) return 0;
  return 1 - static_cast<double>(distinct_blocks) / static_cast<double>(block_ids.size());
}

Plan make_plan(RequestSource& source, const PlanLimits& limits) {
  Plan plan;
  Random random(limits.seed);
  std::unordered_set<uint64_t> seen;
  std::vector<double> times_ms;
  const auto distinct_max = static_cast<uint64_t>(static_cast<double>(limits.pages) * limits.unique_share);
  while (limits.requests_max == 0 || plan.requests.size() < limits.requests_max) {
    std::optional<Request> request = source.next();
    if (!request) break;
    const bool cut = request->block_ids.size() > limits.request_blocks;
    if (cut) request->block_ids.resize(limits.request_blocks);
    const auto fresh =
        static_cast<uint64_t>(std::count_if(request->block_ids.begin(), request->block_ids.end(),
                                            [&](uint64_t id) { return !seen.contains(id); }));
    if (!plan.requests.empty() && seen.size() + fresh > distinct_max) break;
    seen.insert(request->block_ids.begin(), request->block_ids.end());
    plan.prompts_cut += cut ? 1 : 0;

    PlannedRequest planned;
    planned.first_block = plan.block_ids.size();
    planned.blocks = static_cast<uint32_t>(request->block_ids.size());
    planned.output_tokens = static_cast<uint32_t>(std::clamp<uint64_t>(request->output_tokens, 1, 1U << 20));
    planned.worker = pick_worker(*request, limits.workers, limits.seed, random);
    plan.requests.push_back(planned);
    plan.block_ids.insert(plan.block_ids.end(), request->block_ids.begin(), request->block_ids.end());
    times_ms.push_back(request->timestamp_ms);
  }
  plan.distinct_blocks = seen.size();
  if (!plan.requests.empty()) set_arrivals(plan, std::move(times_ms), limits.seconds, random);
  return plan;
}

}  // namespace kvt::replay
