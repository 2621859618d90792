// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/generator.h"

#include <algorithm>
#include <cmath>

namespace kvt::replay {
namespace {

constexpr double kFoundShare = 0.366;
/// Log-normal: its median is p50, and p99 = p50 * exp(2.326 * sigma).
constexpr double kInputMedian = 6909;
constexpr double kInputP99 = 85000;
constexpr double kNormalP99 = 2.3263;
constexpr double kOutputMedian = 350;
/// 90 % of the published outputs are below 1.75 x their median.
constexpr double kOutputSigma = 0.6;
constexpr double kTokensMax = 200000;
constexpr double kOutputMax = 2000;
/// 5,719 requests in 30 minutes.
constexpr double kGapMs = 1800.0 * 1000 / 5719;
/// Conversations that can go on. At the published rate the median gap of 114 s is 360 requests.
constexpr size_t kConversationsMax = 1024;

double log_normal(Random& random, double median, double sigma, double most) {
  return std::clamp(median * std::exp(sigma * random.normal()), 1.0, most);
}

}  // namespace

/// Begins the request with the blocks of an earlier one; recent ones are likelier (log-uniform in age).
void Generator::extend_earlier(Request& request, size_t blocks) {
  const double age = std::pow(static_cast<double>(conversations_.size()), random_.uniform()) - 1;
  const auto& earlier = conversations_[std::min(static_cast<size_t>(age), conversations_.size() - 1)];
  const size_t shared = std::min(earlier.size(), blocks);
  request.block_ids.assign(earlier.begin(), earlier.begin() + static_cast<ptrdiff_t>(shared));
}

std::optional<Request> Generator::next() {
  Request request;
  clock_ms_ += -kGapMs * std::log(1 - random_.uniform());
  request.timestamp_ms = clock_ms_;
  const double input_sigma = std::log(kInputP99 / kInputMedian) / kNormalP99;
  request.input_tokens = static_cast<uint64_t>(log_normal(random_, kInputMedian, input_sigma, kTokensMax));
  request.output_tokens = static_cast<uint64_t>(log_normal(random_, kOutputMedian, kOutputSigma, kOutputMax));

  const size_t blocks = (request.input_tokens + kTraceBlockTokens - 1) / kTraceBlockTokens;
  // The share of references that are found is steered, so that a short run has the published one too.
  const bool below = static_cast<double>(references_found_) < kFoundShare * static_cast<double>(references_);
  if (below && !conversations_.empty()) extend_earlier(request, blocks);
  if (request.block_ids.empty()) request.block_ids.push_back(0);
  references_found_ += references_ == 0 ? 0 : request.block_ids.size();
  while (request.block_ids.size() < blocks) request.block_ids.push_back(next_id_++);
  references_ += request.block_ids.size();

  conversations_.push_front(request.block_ids);
  if (conversations_.size() > kConversationsMax) conversations_.pop_back();
  return request;
}

}  // namespace kvt::replay
