// SPDX-License-Identifier: Apache-2.0
#include "daemon/policy/share.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace kvt::policy {

namespace {

double positive(double value) { return std::isfinite(value) && value > 0 ? value : 0; }

/// One claimant in one filling: gets between `low` and `high`.
struct Part {
  size_t index = 0;
  double weight = 0;
  uint64_t low = 0, high = 0;
};

double at_level(const Part& part, double level) {
  return std::clamp(level * part.weight, static_cast<double>(part.low), static_cast<double>(part.high));
}

/// Fills `parts` to `level` such that they add up to `amount`. REQUIRES: sum of low <= amount <= sum of high,
/// weights > 0.
void fill(uint64_t amount, const std::vector<Part>& parts, std::vector<uint64_t>& result) {
  if (parts.empty()) return;
  // The sum is piecewise linear in the level, with a bend where a part leaves its lower end or reaches its
  // upper one.
  std::vector<double> bends = {0};
  for (const Part& part : parts) {
    bends.push_back(static_cast<double>(part.low) / part.weight);
    bends.push_back(static_cast<double>(part.high) / part.weight);
  }
  std::sort(bends.begin(), bends.end());
  const auto sum = [&](double level) {
    double total = 0;
    for (const Part& part : parts) total += at_level(part, level);
    return total;
  };
  const auto wanted = static_cast<double>(amount);
  size_t low = 0;
  size_t high = bends.size() - 1;
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    (sum(bends[middle]) <= wanted ? low : high) = middle;
  }
  const double below = sum(bends[low]);
  const double above = sum(bends[high]);
  const double level = above > below
                           ? bends[low] + (bends[high] - bends[low]) * (wanted - below) / (above - below)
                           : bends[low];

  // Whole units: rounded down, the rest to the largest remainders.
  std::vector<double> remainder(parts.size());
  uint64_t given = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const double exact = at_level(parts[i], level);
    const auto whole = static_cast<uint64_t>(exact);
    remainder[i] = exact - static_cast<double>(whole);
    result[parts[i].index] = whole;
    given += whole;
  }
  std::vector<size_t> order(parts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return remainder[a] != remainder[b] ? remainder[a] > remainder[b] : a < b;
  });
  for (size_t k = 0; given < amount; k = (k + 1) % order.size(), ++given) ++result[parts[order[k]].index];
}

}  // namespace

TokenBucket::TokenBucket(const Limits& limits) {
  set_limits(limits);
  bytes_ = limits_.capacity_bytes;
}

void TokenBucket::set_limits(const Limits& limits) {
  limits_ = {positive(limits.bytes_per_second), positive(limits.capacity_bytes),
             positive(limits.idle_credit)};
  bytes_ = std::min(bytes_, limits_.capacity_bytes);
}

void TokenBucket::add(double seconds, double utilisation) {
  const double idle = utilisation >= 0 && utilisation <= 1 ? 1 - utilisation : 0;
  bytes_ = std::min(limits_.capacity_bytes,
                    bytes_ + positive(seconds) * limits_.bytes_per_second * (1 + limits_.idle_credit * idle));
}

void TokenBucket::give_back(double bytes) { bytes_ = std::min(limits_.capacity_bytes, bytes_ + bytes); }

std::vector<uint64_t> divide(uint64_t budget, std::span<const Claim> claims) {
  std::vector<uint64_t> result(claims.size(), 0);
  uint64_t due = 0;       // the minimums
  uint64_t weighted = 0;  // and what may be had by weight
  uint64_t without_weight = 0;
  for (const Claim& claim : claims) {
    due += std::min(claim.minimum, claim.wanted);
    (claim.weight > 0 ? weighted : without_weight) += claim.wanted;
  }
  std::vector<Part> parts;
  if (budget < due) {
    for (size_t i = 0; i < claims.size(); ++i)
      if (const uint64_t minimum = std::min(claims[i].minimum, claims[i].wanted); minimum > 0)
        parts.push_back({i, static_cast<double>(minimum), 0, minimum});
    fill(budget, parts, result);
    return result;
  }
  // Who has no weight has the minimum for now, and shares evenly what is left when the others have all that
  // they want.
  uint64_t due_without_weight = 0;
  for (size_t i = 0; i < claims.size(); ++i) {
    const uint64_t minimum = std::min(claims[i].minimum, claims[i].wanted);
    if (claims[i].weight > 0) {
      parts.push_back({i, static_cast<double>(claims[i].weight), minimum, claims[i].wanted});
    } else {
      due_without_weight += minimum;
    }
  }
  const uint64_t first = std::min(budget - due_without_weight, weighted);
  fill(first, parts, result);
  parts.clear();
  for (size_t i = 0; i < claims.size(); ++i)
    if (claims[i].weight == 0)
      parts.push_back({i, 1, std::min(claims[i].minimum, claims[i].wanted), claims[i].wanted});
  fill(std::min(budget - first, without_weight), parts, result);
  return result;
}

}  // namespace kvt::policy
