// SPDX-License-Identifier: Apache-2.0
//
// sparse-slow, sparse-fast: each page is read by chance, with a log odds that is a constant and an AR(1)
// process.
#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "tools/kvtiersim/workload/family_makers.h"

namespace kvt::sim {

namespace {

constexpr double kBaseSigma = 1.2;
constexpr double kProcessWeight = 1.5;
constexpr double kThreshold = 1.5;
constexpr double kSlope = 2;

double read_probability(double score) { return 1 / (1 + std::exp(-kSlope * (score - kThreshold))); }

/// Nodes and weights of sum w f(x) = E[f(X)], X standard normal: the midpoints of a fine grid, which for
/// smooth f is as good as any rule and has no table to get wrong.
struct Quadrature {
  static constexpr size_t kNodes = 15;
  std::array<double, kNodes> at{};
  std::array<double, kNodes> weight{};
  Quadrature() {
    double sum = 0;
    for (size_t i = 0; i < kNodes; ++i) {
      at[i] = (static_cast<double>(i) - (kNodes - 1) / 2.0) * .55;
      weight[i] = std::exp(-at[i] * at[i] / 2);
      sum += weight[i];
    }
    for (double& w : weight) w /= sum;
  }
};

/// Base b and process z of a page are taken to be jointly normal; a read or its absence tells of b + 1.5 z
/// alone, whose first two moments are matched.
class SparseBeliefs final : public Beliefs {
 public:
  explicit SparseBeliefs(double rho) : rho_(rho), pages_(kFamilyPages), next_(kFamilyPages) {
    for (uint32_t i = 0; i < kFamilyPages; ++i) expect(i);
  }

  void observe(const StepView& step) override {
    size_t i = 0;
    for (uint32_t page = 0; page < kFamilyPages; ++page) {
      const bool read = i < step.page.size() && step.page[i] == page;
      i += read;
      update(pages_[page], read);
      expect(page);
    }
  }
  [[nodiscard]] std::span<const float> next() const override { return next_; }

 private:
  struct Page {
    double b = 0, z = 0;                                  // means
    double bb = kBaseSigma * kBaseSigma, bz = 0, zz = 1;  // covariances
  };

  static double score_variance(const Page& p) {
    return p.bb + 2 * kProcessWeight * p.bz + kProcessWeight * kProcessWeight * p.zz;
  }

  void update(Page& p, bool read) const {
    const double mean = p.b + kProcessWeight * p.z;
    const double variance = score_variance(p);
    const double sigma = std::sqrt(variance);
    double mass = 0, first = 0, second = 0;  // of (score - mean) / sigma, given what was seen
    for (size_t k = 0; k < Quadrature::kNodes; ++k) {
      const double chance = read_probability(mean + sigma * normal_.at[k]);
      const double w = normal_.weight[k] * (read ? chance : 1 - chance);
      mass += w;
      first += w * normal_.at[k];
      second += w * normal_.at[k] * normal_.at[k];
    }
    first /= mass;
    const double shrink = 1 - (second / mass - first * first);  // share of the score's variance that is gone
    const double gain_b = (p.bb + kProcessWeight * p.bz) / variance;
    const double gain_z = (p.bz + kProcessWeight * p.zz) / variance;
    p.b += gain_b * sigma * first;
    p.z += gain_z * sigma * first;
    p.bb -= gain_b * gain_b * variance * shrink;
    p.bz -= gain_b * gain_z * variance * shrink;
    p.zz -= gain_z * gain_z * variance * shrink;
    // The process goes on.
    p.z *= rho_;
    p.bz *= rho_;
    p.zz = rho_ * rho_ * p.zz + 1 - rho_ * rho_;
  }

  void expect(uint32_t page) {
    const Page& p = pages_[page];
    const double mean = p.b + kProcessWeight * p.z;
    const double sigma = std::sqrt(score_variance(p));
    double chance = 0;
    for (size_t k = 0; k < Quadrature::kNodes; ++k)
      chance += normal_.weight[k] * read_probability(mean + sigma * normal_.at[k]);
    next_[page] = static_cast<float>(chance);
  }

  double rho_;
  Quadrature normal_;
  std::vector<Page> pages_;
  std::vector<float> next_;
};

Workload make(Random& random, double rho) {
  std::vector<double> base(kFamilyPages), process(kFamilyPages);
  for (double& b : base) b = kBaseSigma * random.normal();
  for (double& z : process) z = random.normal();
  const double innovation = std::sqrt(1 - rho * rho);
  Workload workload;
  Trace& trace = workload.trace;
  trace.page_bytes = kFamilyPageBytes;
  trace.pages = kFamilyPages;
  for (uint32_t n = 0; n < kFamilySteps; ++n) {
    for (uint32_t page = 0; page < kFamilyPages; ++page) {
      if (n != 0) process[page] = rho * process[page] + innovation * random.normal();
      if (random.uniform() < read_probability(base[page] + kProcessWeight * process[page]))
        trace.page.push_back(page);
    }
    trace.end_step();
  }
  workload.beliefs = [rho] { return std::make_unique<SparseBeliefs>(rho); };
  return workload;
}

}  // namespace

Workload make_sparse_slow(Random& random) { return make(random, .995); }
Workload make_sparse_fast(Random& random) { return make(random, .90); }

}  // namespace kvt::sim
