// SPDX-License-Identifier: Apache-2.0
//
// How often will a page be read? One linear predictor for all pages of a column, learned while they are read:
//
//   expected = w0 + w1 reads + w2 fast + w3 slow + w4 mean + w5 last + w6 often + w7 reuse      (PageHeat, Features, ReuseTimes)
//
// by least squares over a few hundred random pages a period, old ones forgotten, each weighted by 1/(expected
// + 1/20): reads that come at random vary by their mean, so that the many cold pages teach as exactly as the
// few hot ones. Of the pages that were read there is a sample of its own, weighted for what it stands for:
// where one in thousands is, random pages would hardly meet any.
//
// Two measures of the same kind. `kNext`: reads in the next period, what matters where a promotion costs next
// to nothing. `kLasting`: the mean of the next periods, the k-th with weight (1-g) g^(k-1), g = 3/4, which is
// what a copy must be paid from; it is solved for by the same sums, with the features of the next period
// standing for all that follow (least-squares temporal differences, Bradtke and Barto 1996).
//
// And a third thing: the probability of being read at all while the page would stay in the fast tier
// (reuse.h). It is what counts where pages are read once in hundreds of periods, and no page is expected to
// be read less often than it says.
//
// Where the reads of all pages change their law at once (another task, another set of requests), the averages
// are of no use, and the fast tier serving far less than it used to says so: a shift. Averages then begin
// anew.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "daemon/policy/heat.h"
#include "daemon/policy/reuse.h"

namespace kvt::policy {

struct PredictorSettings {
  float memory = 128;            ///< periods that the least squares remember
  float prior = 1;               ///< weight of what is believed before anything is seen
  float lasting_prior = 10;      ///< the same, of kLasting
  float least_variance = 0.05f;  ///< reads a period
  float discount = 0.75f;        ///< g of kLasting
  bool detect_shifts = true;
  // Parts that can be left out, to see what they are worth:
  bool use_last_and_often = true;
  bool use_reuse_times = true;
  uint32_t advice_periods = 1;  ///< for which clients' advice is believed; < 128
};

enum class Measure : uint8_t { kNext, kLasting };

/// Copyable; not thread-safe.
class Predictor {
 public:
  static constexpr size_t kFeatures = 8;
  using Weights = std::array<float, kFeatures>;

  explicit Predictor(const PredictorSettings& settings = {}) : settings_(settings) {}

  /// Reads a period expected of the page. >= 0. REQUIRES: heat.known().
  [[nodiscard]] float expect(const PageHeat& heat, uint32_t period, Measure measure = Measure::kNext) const {
    const float p = expect_unadvised(heat, period, measure);
    return is_advised(heat, period, settings_.advice_periods) ? std::max(p, advice_) : p;
  }
  /// The mean over the next `periods`, > 0, of which advice speaks for advice_periods at most: what a copy
  /// that it asks for has to be paid from.
  [[nodiscard]] float expect_over(const PageHeat& heat, uint32_t period, Measure measure,
                                  float periods) const {
    const float p = expect_unadvised(heat, period, measure);
    if (!is_advised(heat, period, settings_.advice_periods)) return p;
    const float advised = std::min(periods, static_cast<float>(settings_.advice_periods));
    return p + std::max(0.0f, advice_ - p) * advised / periods;
  }

  /// Probability of being read while the page stays in the fast tier, a period of the stay. REQUIRES:
  /// heat.known().
  [[nodiscard]] float expect_in_stay(const PageHeat& heat, uint32_t period) const {
    return reuse_.in_stay(reuse_cell(heat, period + 1));
  }
  /// How long a page stays in the fast tier, in the mean of the last ones: periods, 1 and more; 0: nobody has
  /// told. As far as it can be told: a quarter of the periods that were seen at most.
  [[nodiscard]] float stay() const { return stay_; }

  /// The page is read in `period`, for the first time then, and add_reads() follows: some of these show what
  /// was known of pages that are read.
  void see_read(uint32_t page, const PageHeat& heat, uint32_t period) {
    if ((reads_seen_++ & read_stride_) == 0) draw_read(page, heat, period);
  }
  /// Looks at what became of the pages that the last call drew, and at those that were read, and learns; then
  /// draws `pages` (random ones, of `population`; those that were never read are left out) for the next. Call
  /// it once a period in which something was read, when all its reads have been added. `heats` are indexed by
  /// page.
  void learn(std::span<const PageHeat> heats, std::span<const uint32_t> pages, uint64_t population,
             uint32_t period);
  /// Once for each period in which something was read, before learn(): so many pages, new ones among them,
  /// have come into the fast tier, which has `frames`.
  void see_arrivals(uint64_t pages, uint64_t frames);

  /// Once for each period in which something was read: the share of it that the fast tier served. Where it
  /// falls far below what it used to be, what all pages are read for has changed, and averages begin anew in
  /// `period`: the one after, where its reads have been added already.
  void see_share(float share, uint32_t period);

  /// Period of the last shift, or one long ago if there was none lately. For add_reads() and features_at().
  [[nodiscard]] uint32_t shift() const { return shift_; }
  [[nodiscard]] const Weights& weights(Measure measure) const {
    return model_[static_cast<size_t>(measure)].weight;
  }

 private:
  static constexpr Weights kStart{0, 0.2f, 0.27f, 0.27f, 0.27f, 0, 0, 0};
  /// Of the pages read in a period, at least so many are kept, at most twice as many
  static constexpr size_t kReadsDrawn = 64;
  struct Drawn {
    uint32_t page;
    ReuseTimes::Cell cell;  ///< in the period after
    bool advised;
    Weights x;
  };
  struct Model {
    Weights weight = kStart;
    /// Sum of weighted x (x - g x')^T, x' a period later
    std::array<double, kFeatures * kFeatures> product{};
    std::array<double, kFeatures> target{};  ///< sum of weighted x (1 - g) reads
  };
  void draw_read(uint32_t page, const PageHeat& heat, uint32_t period);
  /// What the page's reads were at the end of `period`, as the models take it.
  [[nodiscard]] Drawn drawn_at(uint32_t page, const PageHeat& heat, uint32_t period) const;
  [[nodiscard]] Weights vector_at(const PageHeat& heat, uint32_t period) const;
  void learn_from(const Drawn& drawn, std::span<const PageHeat> heats, float stands_for, uint32_t period);
  void solve(Model& model, float prior) const;
  [[nodiscard]] ReuseTimes::Cell reuse_cell(const PageHeat& heat, uint32_t period) const {
    return settings_.use_reuse_times ? ReuseTimes::cell_of(heat, period, shift_) : ReuseTimes::kNone;
  }
  [[nodiscard]] float expect_unadvised(const PageHeat& heat, uint32_t period, Measure measure) const {
    const Weights& w = model_[static_cast<size_t>(measure)].weight;
    const Features x = features_at(heat, period, shift_);
    const ReuseTimes::Cell cell = reuse_cell(heat, period + 1);
    const float p = w[0] + w[1] * x.reads + w[2] * x.fast + w[3] * x.slow + w[4] * x.mean + w[5] * x.last +
                    w[6] * x.often + w[7] * reuse_.next(cell);
    // However counts have jumped: no page can be read more often than is counted.
    return std::min(std::max(p, reuse_.in_stay(cell)), static_cast<float>(kReadsMost));
  }

  PredictorSettings settings_;
  std::array<Model, 2> model_;  ///< by Measure
  float advice_ = 1;            ///< reads, in the next period, of a page that clients announced
  ReuseTimes reuse_;
  float stay_ = 0;
  float arrivals_ = 0;       ///< a period, in frames of the fast tier
  uint32_t stays_seen_ = 0;  ///< periods
  std::vector<Drawn> drawn_;
  uint32_t drawn_in_ = 0;
  float drawn_share_ = 0;           ///< of all pages
  std::vector<Drawn> reads_drawn_;  ///< every (read_stride_ + 1)-th of the reads_seen_ pages
  uint64_t reads_seen_ = 0, read_stride_ = 0;
  uint32_t shift_ = 0;
  // The share that the fast tier served: mean and variance over the periods since the last shift.
  float share_mean_ = 0, share_variance_ = 0;
  uint32_t shares_ = 0;
};

}  // namespace kvt::policy
