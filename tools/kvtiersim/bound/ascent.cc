// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/bound/ascent.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

namespace kvt::sim {

namespace {

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum[4] = {};
  const size_t whole = a.size() & ~size_t{3};
  for (size_t i = 0; i < whole; i += 4)
    for (size_t j = 0; j < 4; ++j) sum[j] += a[i + j] * b[i + j];
  for (size_t i = whole; i < a.size(); ++i) sum[0] += a[i] * b[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/// Onto the simplex: the nearest weights that are not negative and of sum 1.
void project_weights(std::vector<double>& weights, std::vector<double>& sorted) {
  sorted = weights;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  double sum = 0, level = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    sum += sorted[i];
    const double here = (sum - 1) / static_cast<double>(i + 1);
    if (sorted[i] > here) level = here;
  }
  for (double& weight : weights) weight = std::max(0.0, weight - level);
}

struct Plane {
  double at_centre;  // value of the plane at the centre
  Prices slope;
  Loads loads;
  double weight = 0;
  std::vector<std::pair<std::shared_ptr<const Prices>, double>> made_of;
};

class Bundle {
 public:
  Bundle(Relaxation& relaxation, const AscentOptions& options)
      : relaxation_(relaxation),
        options_(options),
        planes_max_(options.planes_max != 0      ? options.planes_max
                    : relaxation.steps() <= 1000 ? 60
                                                 : 20) {}

  Ascent run();

 private:
  /// Counts a round, keeps the best.
  double evaluate(const Prices& prices, Loads& loads);
  void start();
  void add_plane(const Prices& prices, double value, Loads&& loads);
  void merge_planes();
  /// Finds the weights of the planes that meet in the next prices, and these.
  void solve();
  /// The next prices of the weights as they are.
  void move_by_weights();
  void note_mixture();
  [[nodiscard]] double value_at(const Plane& plane, const Prices& move) const {
    return plane.at_centre + dot(plane.slope, move);
  }

  Relaxation& relaxation_;
  const AscentOptions& options_;
  const size_t planes_max_;
  std::vector<double> metric_;  // square of how far each price goes for the same effect
  double reach_ = 1;            // how far the next prices may be: the penalty is distance^2 / (2 * reach)
  Prices centre_;               // the best prices that ended a serious step
  double centre_value_ = 0;
  std::vector<Plane> planes_;
  Prices next_;
  Prices mixed_slope_;
  Ascent best_;
};

double Bundle::evaluate(const Prices& prices, Loads& loads) {
  const double value = relaxation_.bound(prices, loads);
  if (best_.rounds++ == 0 || value > best_.bound) {
    best_.bound = value;
    best_.prices = prices;
  }
  return value;
}

void Bundle::add_plane(const Prices& prices, double value, Loads&& loads) {
  Plane plane;
  plane.slope = relaxation_.slope(prices, loads);
  plane.at_centre = value + dot(plane.slope, centre_) - dot(plane.slope, prices);
  plane.loads = std::move(loads);
  plane.made_of.emplace_back(std::make_shared<const Prices>(prices), 1.0);
  planes_.push_back(std::move(plane));
}

void Bundle::merge_planes() {
  if (planes_.size() > planes_max_ / 2)
    std::erase_if(planes_, [](const Plane& plane) { return plane.weight < 1e-9; });
  while (planes_.size() > planes_max_) {
    std::stable_sort(planes_.begin(), planes_.end(),
                     [](const Plane& a, const Plane& b) { return a.weight > b.weight; });
    Plane& to = planes_[planes_.size() - 2];
    const Plane& from = planes_.back();
    const double weight = to.weight + from.weight;
    const double share = to.weight / weight;
    to.at_centre = share * to.at_centre + (1 - share) * from.at_centre;
    for (size_t i = 0; i < to.slope.size(); ++i)
      to.slope[i] = share * to.slope[i] + (1 - share) * from.slope[i];
    to.loads.scale(share);
    to.loads.add(from.loads, 1 - share);
    for (auto& part : to.made_of) part.second *= share;
    for (const auto& part : from.made_of) to.made_of.emplace_back(part.first, part.second * (1 - share));
    // Of no plane, but of the schedule that is rounded from them.
    std::erase_if(to.made_of, [](const auto& part) { return part.second < 1e-5; });
    to.weight = weight;
    planes_.pop_back();
  }
}

void Bundle::move_by_weights() {
  std::fill(mixed_slope_.begin(), mixed_slope_.end(), 0);
  for (const Plane& plane : planes_)
    if (plane.weight > 0)
      for (size_t i = 0; i < mixed_slope_.size(); ++i) mixed_slope_[i] += plane.weight * plane.slope[i];
  for (size_t i = 0; i < next_.size(); ++i) next_[i] = centre_[i] + reach_ * metric_[i] * mixed_slope_[i];
  relaxation_.project(next_);
}

// Minimises over the weights the highest value under their plane (convex), by accelerated projected
// gradients.
void Bundle::solve() {
  const size_t count = planes_.size();
  std::vector<double> weights(count), ahead(count), before(count), gradient(count), trial(count), sorted;
  for (size_t j = 0; j < count; ++j) weights[j] = planes_[j].weight;
  double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (sum <= 0) {
    weights.back() = 1;
    sum = 1;
  }
  for (double& weight : weights) weight /= sum;
  double curvature = 0;
  for (const Plane& plane : planes_) {
    double square = 0;
    for (size_t i = 0; i < metric_.size(); ++i) square += plane.slope[i] * plane.slope[i] * metric_[i];
    curvature = std::max(curvature, reach_ * square);
  }
  curvature = std::max(curvature / 8, 1e-300);
  std::vector<double> move(next_.size());
  const auto value_and_gradient = [&](const std::vector<double>& at) {
    for (size_t j = 0; j < count; ++j) planes_[j].weight = at[j];
    move_by_weights();
    double penalty = 0;
    for (size_t i = 0; i < move.size(); ++i) {
      move[i] = next_[i] - centre_[i];
      penalty += move[i] * move[i] / metric_[i];
    }
    double value = -penalty / (2 * reach_);
    for (size_t j = 0; j < count; ++j) {
      gradient[j] = planes_[j].at_centre + dot(planes_[j].slope, move);
      value += at[j] * gradient[j];
    }
    return value;
  };
  ahead = weights;
  double momentum = 1;
  for (int round = 0; round < 200; ++round) {
    const double value = value_and_gradient(ahead);
    // How far from optimal: the planes' spread where the weights are.
    double mixed = 0, lowest = std::numeric_limits<double>::infinity();
    for (size_t j = 0; j < count; ++j) {
      mixed += ahead[j] * gradient[j];
      lowest = std::min(lowest, gradient[j]);
    }
    if (mixed - lowest <= 0.02 * std::max(mixed - centre_value_, 1e-9 * std::abs(centre_value_))) {
      weights = ahead;
      break;
    }
    const std::vector<double> slope = gradient;
    for (;;) {
      trial = ahead;
      for (size_t j = 0; j < count; ++j) trial[j] -= slope[j] / curvature;
      project_weights(trial, sorted);
      double linear = 0, square = 0;
      for (size_t j = 0; j < count; ++j) {
        linear += slope[j] * (trial[j] - ahead[j]);
        square += (trial[j] - ahead[j]) * (trial[j] - ahead[j]);
      }
      if (value_and_gradient(trial) <= value + linear + curvature / 2 * square + 1e-14 * std::abs(value))
        break;
      curvature *= 2;
    }
    before = weights;
    weights = trial;
    double along = 0;  // restart when the momentum leads uphill
    for (size_t j = 0; j < count; ++j) along += slope[j] * (weights[j] - before[j]);
    const double larger = along > 0 ? 1 : (1 + std::sqrt(1 + 4 * momentum * momentum)) / 2;
    const double carry = along > 0 ? 0 : (momentum - 1) / larger;
    momentum = larger;
    for (size_t j = 0; j < count; ++j)
      ahead[j] = std::max(0.0, weights[j] + carry * (weights[j] - before[j]));
    const double total = std::accumulate(ahead.begin(), ahead.end(), 0.0);
    for (double& weight : ahead) weight /= total;
  }
  for (size_t j = 0; j < count; ++j) planes_[j].weight = weights[j];
  move_by_weights();
}

// The mixture of paths that the planes' weights stand for, made to fit.
void Bundle::note_mixture() {
  Loads loads(relaxation_.steps());
  for (const Plane& plane : planes_)
    if (plane.weight > 0) loads.add(plane.loads, plane.weight);
  const double seconds = relaxation_.seconds(relaxation_.fitted(loads));
  if (!best_.mixture.empty() && seconds >= best_.mixture_seconds) return;
  best_.mixture_seconds = seconds;
  best_.mixture.clear();
  double sum = 0;
  for (const Plane& plane : planes_) {
    for (const auto& [prices, share] : plane.made_of) {
      if (share * plane.weight <= 1e-5)
        continue;  // hundreds of those would be a percent together, and cost a walk each
      best_.mixture.push_back({*prices, share * plane.weight});
      sum += share * plane.weight;
    }
  }
  for (Ascent::Part& part : best_.mixture) part.weight /= sum;
}

// From the best of: steps on their own, and prices that are the same in all steps.
void Bundle::start() {
  const size_t steps = relaxation_.steps();
  const SingleSteps& single = relaxation_.single();
  const auto join = [&](auto fast, auto written, auto room) {
    Prices prices(3 * steps);
    for (size_t n = 0; n < steps; ++n) {
      prices[n] = fast(n);
      prices[steps + n] = written(n);
      prices[2 * steps + n] = room(n);
    }
    relaxation_.project(prices);
    return prices;
  };
  // Prices that are moved by their scale change the bound by something like the time of a step.
  const double scale = single.seconds / static_cast<double>(steps) / std::max(1.0, relaxation_.room());
  metric_.assign(3 * steps, 1);
  std::fill(metric_.begin() + static_cast<ptrdiff_t>(2 * steps), metric_.end(), scale * scale);
  Loads loads;
  evaluate(join([&](size_t n) { return single.fast_weight[n]; },
                [&](size_t n) { return single.written_weight[n]; },
                [&](size_t n) { return single.room_price[n]; }),
           loads);
  for (const double fast : {0.1, 0.3, 0.6, 0.85})
    for (const double room : {0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8})
      evaluate(join([&](size_t) { return fast; }, [](size_t) { return 0.0; },
                    [&](size_t) { return room * scale; }),
               loads);
  centre_ = best_.prices;
  centre_value_ = relaxation_.bound(centre_, loads);
  add_plane(centre_, centre_value_, std::move(loads));
  planes_.back().weight = 1;
  next_.resize(centre_.size());
  mixed_slope_.resize(centre_.size());
  // At first, prices move by a tenth of their scale in the mean.
  double square = 0;
  for (size_t i = 0; i < metric_.size(); ++i)
    square += planes_.back().slope[i] * planes_.back().slope[i] * metric_[i];
  if (square > 0) reach_ = 0.1 * std::sqrt(static_cast<double>(steps) / square);
}

Ascent Bundle::run() {
  if (relaxation_.steps() == 0 || relaxation_.single().seconds <= 0) return best_;  // nothing is read
  start();
  solve();
  note_mixture();
  int idle = 0;
  while (best_.rounds < options_.rounds_max &&
         best_.mixture_seconds - best_.bound > options_.gap * best_.bound) {
    Prices move(next_.size());
    for (size_t i = 0; i < move.size(); ++i) move[i] = next_[i] - centre_[i];
    double hoped = -centre_value_;  // what the planes that meet there promise
    for (const Plane& plane : planes_)
      if (plane.weight > 0) hoped += plane.weight * value_at(plane, move);
    if (hoped <= 1e-12 * centre_value_) {  // nothing better within reach
      if (++idle == 40) break;
      reach_ *= 4;
      solve();
      note_mixture();
      continue;
    }
    merge_planes();
    Loads loads;
    const double value = evaluate(next_, loads);
    add_plane(next_, value, std::move(loads));
    // Too careful: what a step may gain is little of what may be missing, and the mixture is far from one
    // that fits.
    const bool careful = hoped < 0.05 * (best_.mixture_seconds - best_.bound);
    const double gained = value - centre_value_;
    if (gained >= 0.1 * hoped) {
      for (Plane& plane : planes_) plane.at_centre = value_at(plane, move);
      centre_ = next_;
      centre_value_ = value;
      reach_ *= gained >= 0.5 * hoped ? 1.5 : careful ? 1.3 : 1;
    } else if (careful) {
      reach_ *= 1.1;
    } else if (planes_.back().at_centre - centre_value_ > 5 * hoped) {
      reach_ *= 0.8;
    }
    solve();
    note_mixture();
  }
  return best_;
}

}  // namespace

Ascent maximise(Relaxation& relaxation, const AscentOptions& options) {
  return Bundle(relaxation, options).run();
}

}  // namespace kvt::sim
