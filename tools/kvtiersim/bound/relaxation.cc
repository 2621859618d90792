// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/bound/relaxation.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <unordered_map>

namespace kvt::sim {

namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// How a path came to an event. kStayed, kPassed and kCopied: to be in the fast tier there; kFromFast, one bit
// beside them: the cheaper state at the event before was fast.
constexpr uint8_t kStayed = 0;
constexpr uint8_t kPassed = 1;
constexpr uint8_t kCopied = 2;
constexpr uint8_t kHow = 3;
constexpr uint8_t kFromFast = 4;

uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
  return hash ^ (hash >> 29);
}

}  // namespace

void Loads::scale(double by) {
  for (std::vector<double>* const each : {&fast_reads, &promoted, &copied, &resident})
    for (double& value : *each) value *= by;
}

void Loads::add(const Loads& other, double weight) {
  const auto sum = [weight](std::vector<double>& to, const std::vector<double>& from) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += weight * from[i];
  };
  sum(fast_reads, other.fast_reads);
  sum(promoted, other.promoted);
  sum(copied, other.copied);
  sum(resident, other.resident);
}

Relaxation::Relaxation(const Trace& trace, const Machine& machine, Cost cost,
                       const std::vector<StartState>& start)
    : trace_(trace),
      machine_(machine),
      cost_(cost),
      single_(single_steps(trace, machine, start)),
      steps_(trace.steps()),
      asked_(steps_),
      group_of_(trace.pages, UINT32_MAX) {
  const auto starts = [&](uint32_t page) { return start.size() == 1 ? start[0] : start[page]; };
  free_start_ = std::find(start.begin(), start.end(), StartState::kAny) != start.end();
  const auto bytes = static_cast<double>(trace.page_bytes);
  fast_page_ = bytes / machine.tiers[0].read_bytes_per_second;
  slow_page_ = bytes / machine.tiers[1].read_bytes_per_second;
  room_ = static_cast<double>(std::min<uint64_t>(machine.tiers[0].capacity_pages, trace.pages));

  // The trace by page.
  std::vector<uint64_t> page_first(trace.pages + size_t{1}, 0);
  for (const uint32_t page : trace.page) ++page_first[page + size_t{1}];
  std::partial_sum(page_first.begin(), page_first.end(), page_first.begin());
  std::vector<uint32_t> step_of(trace.page.size());
  std::vector<uint16_t> reads_of(trace.page.size());
  std::vector<uint64_t> at(page_first.begin(), page_first.end() - 1);
  for (uint32_t n = 0; n < steps_; ++n) {
    const StepView step = trace.step(n);
    for (size_t i = 0; i < step.page.size(); ++i) {
      const auto to = static_cast<size_t>(at[step.page[i]]++);
      step_of[to] = n;
      reads_of[to] = static_cast<uint16_t>(step.reads_of(i));
      asked_[n] += step.reads_of(i);
    }
  }

  // Groups: pages that are alike in all that matters. Few in dense traces, where a sequence's pages are read
  // together.
  first_.push_back(0);
  std::unordered_multimap<uint64_t, uint32_t> known;
  for (uint32_t page = 0; page < trace.pages; ++page) {
    const auto begin = static_cast<size_t>(page_first[page]);
    const size_t count = static_cast<size_t>(page_first[page + size_t{1}]) - begin;
    if (count == 0) continue;  // costs nothing wherever it is
    const uint32_t born = trace.born_step.empty() ? 0 : trace.born_step[page];
    const Begin kind = born != 0                           ? Begin::kBorn
                       : starts(page) == StartState::kSlow ? Begin::kSlow
                                                           : Begin::kFast;
    const bool birth_alone = born != 0 && step_of[begin] != born;
    uint64_t hash = mix(static_cast<uint64_t>(kind), born);
    for (size_t i = begin; i < begin + count; ++i) hash = mix(hash, uint64_t{step_of[i]} << 16 | reads_of[i]);
    const auto [low, high] = known.equal_range(hash);
    const auto same = std::find_if(low, high, [&](const auto& entry) {
      const uint32_t group = entry.second;
      const auto events = static_cast<size_t>(first_[group]) + (birth_alone ? 1 : 0);
      return begin_[group] == kind && first_[group + size_t{1}] - events == count &&
             (!birth_alone || event_step_[events - 1] == born) &&
             std::equal(step_of.begin() + static_cast<ptrdiff_t>(begin),
                        step_of.begin() + static_cast<ptrdiff_t>(begin + count),
                        event_step_.begin() + static_cast<ptrdiff_t>(events)) &&
             std::equal(reads_of.begin() + static_cast<ptrdiff_t>(begin),
                        reads_of.begin() + static_cast<ptrdiff_t>(begin + count),
                        event_reads_.begin() + static_cast<ptrdiff_t>(events));
    });
    if (same != high) {
      group_of_[page] = same->second;
      ++pages_of_[same->second];
      continue;
    }
    group_of_[page] = static_cast<uint32_t>(pages_of_.size());
    known.emplace(hash, group_of_[page]);
    pages_of_.push_back(1);
    begin_.push_back(kind);
    if (birth_alone) {
      event_step_.push_back(born);
      event_reads_.push_back(0);
    }
    event_step_.insert(event_step_.end(), step_of.begin() + static_cast<ptrdiff_t>(begin),
                       step_of.begin() + static_cast<ptrdiff_t>(begin + count));
    event_reads_.insert(event_reads_.end(), reads_of.begin() + static_cast<ptrdiff_t>(begin),
                        reads_of.begin() + static_cast<ptrdiff_t>(begin + count));
    first_.push_back(event_step_.size());
  }
  cost_of_.resize(steps_);
  copy_less_rent_.resize(steps_);
  came_from_.resize(steps_ + size_t{1});
  for (uint32_t span = 1; span <= std::max(1u, steps_); span *= 2) cheapest_.emplace_back(steps_);
}

void Relaxation::make_costs(const Prices& prices) {
  double rent = 0;
  for (uint32_t n = 0; n < steps_; ++n) {
    const double fast = prices[n] * fast_page_;
    const double slow = slow_weight(prices, n) * slow_page_;
    rent += prices[2 * size_t{steps_} + n];
    cost_of_[n] = {slow, std::min(fast, slow), cost_ == Cost::kOffers ? fast : fast + slow, fast + slow,
                   rent};
    copy_less_rent_[n] = fast + slow - rent;
    cheapest_[0][n] = n;
  }
  for (size_t level = 1; level < cheapest_.size(); ++level) {
    const uint32_t half = 1u << (level - 1);
    for (uint32_t n = 0; n + 2 * half <= steps_; ++n) {
      const uint32_t a = cheapest_[level - 1][n], b = cheapest_[level - 1][n + half];
      cheapest_[level][n] = copy_less_rent_[b] < copy_less_rent_[a] ? b : a;
    }
  }
}

uint32_t Relaxation::cheapest_copy(uint32_t begin, uint32_t end) const {
  const auto level = static_cast<size_t>(std::bit_width(end - begin) - 1);
  const uint32_t a = cheapest_[level][begin], b = cheapest_[level][end - (1u << level)];
  return copy_less_rent_[b] < copy_less_rent_[a] ? b : a;
}

// `visit` has: read(step, reads) of a page in the fast tier; promoted(step, by copy); fast(from, to), steps
// inclusive, all three for the group of the last group(g).
template <typename Visitor>
double Relaxation::walk(const Prices& prices, Visitor&& visit) {
  make_costs(prices);
  double sum = 0;
  for (size_t group = 0; group < groups(); ++group) {
    const auto begin = static_cast<size_t>(first_[group]);
    const size_t events = static_cast<size_t>(first_[group + 1]) - begin;
    const uint32_t* const step_of = event_step_.data() + begin;
    const uint16_t* const reads_of = event_reads_.data() + begin;
    const Begin kind = begin_[group];

    // Forward: the cheapest way to be fast and to be slow when each event is read.
    uint32_t step = step_of[0];
    double slow = 0;
    double fast = kNever;
    came_from_[0] = kStayed;
    if (kind == Begin::kFast) fast = cost_of_[step].rent;
    if (kind != Begin::kBorn && step != 0) {
      const double copied = copy_less_rent_[cheapest_copy(0, step)] + cost_of_[step].rent;
      if (copied < fast) {
        fast = copied;
        came_from_[0] = kCopied;
      }
    }
    for (size_t i = 0;;) {
      const StepCost& here = cost_of_[step];
      fast += reads_of[i] * here.fast;
      slow += reads_of[i] * here.slow;
      if (++i == events) break;
      const uint32_t next = step_of[i];
      const double low = std::min(fast, slow);
      uint8_t from = fast <= slow ? kFromFast : 0;
      double best = fast - here.rent;
      const double passed = slow + here.pass - here.rent;
      if (passed < best) {
        best = passed;
        from |= kPassed;
      }
      if (next > step + 1) {
        const double copied = low + copy_less_rent_[cheapest_copy(step + 1, next)];
        if (copied < best) {
          best = copied;
          from = static_cast<uint8_t>((from & ~kHow) | kCopied);
        }
      }
      came_from_[i] = from;
      step = next;
      fast = best + cost_of_[next].rent;
      slow = low;
    }
    sum += pages_of_[group] * std::min(fast, slow);

    // Backward: what that path does.
    visit.group(group);
    bool is_fast = fast <= slow;
    uint32_t until = step;
    for (size_t i = events; i-- > 0;) {
      if (is_fast) {
        visit.read(step_of[i], reads_of[i]);
        const uint8_t how = came_from_[i] & kHow;
        if (i == 0) {
          uint32_t from = 0;
          if (how == kCopied) {
            const uint32_t when = cheapest_copy(0, step_of[0]);
            visit.promoted(when, true);
            from = when + 1;
          }
          visit.fast(from, until);
          break;
        }
        const uint32_t before = step_of[i - 1];
        if (how == kStayed) continue;
        const uint32_t when = how == kPassed ? before : cheapest_copy(before + 1, step_of[i]);
        visit.promoted(when, how == kCopied || cost_ == Cost::kCopies);
        visit.fast(when + 1, until);
        is_fast = how == kCopied && (came_from_[i] & kFromFast) != 0;
        until = before;
      } else if (i != 0) {
        is_fast = (came_from_[i] & kFromFast) != 0;
        until = step_of[i - 1];
      }
    }
  }
  return sum;
}

double Relaxation::bound(const Prices& prices, Loads& loads) {
  struct Sums {
    const Relaxation& relaxation;
    Loads& loads;
    double pages = 0;
    void group(size_t which) { pages = relaxation.pages_of_[which]; }
    void read(uint32_t step, uint32_t reads) { loads.fast_reads[step] += pages * reads; }
    void promoted(uint32_t step, bool copied) {
      loads.promoted[step] += pages;
      if (copied) loads.copied[step] += pages;
    }
    void fast(uint32_t from, uint32_t to) {  // differences, summed up below
      loads.resident[from] += pages;
      if (to + 1 < relaxation.steps_) loads.resident[to + 1] -= pages;
    }
  };
  loads = Loads(steps_);
  double sum = walk(prices, Sums{*this, loads});
  std::partial_sum(loads.resident.begin(), loads.resident.end(), loads.resident.begin());
  for (uint32_t n = 0; n < steps_; ++n) {
    sum += prices[n] * trace_.fixed_read_bytes / machine_.tiers[0].read_bytes_per_second;
    if (trace_.written_bytes > 0)
      sum += prices[steps_ + n] * trace_.written_bytes / machine_.tiers[1].write_bytes_per_second;
    sum -= prices[2 * size_t{steps_} + n] * room_;
  }
  return sum;
}

Prices Relaxation::slope(const Prices& prices, const Loads& loads) const {
  Prices slope(3 * size_t{steps_});
  const double fixed = trace_.fixed_read_bytes / machine_.tiers[0].read_bytes_per_second;
  const double written =
      trace_.written_bytes > 0 ? trace_.written_bytes / machine_.tiers[1].write_bytes_per_second : 0;
  for (uint32_t n = 0; n < steps_; ++n) {
    // Where reading from the slow tier is cheaper, pages that are in both are read there.
    const bool from_slow = slow_weight(prices, n) * slow_page_ < prices[n] * fast_page_;
    const double fast = fixed + ((from_slow ? 0 : loads.fast_reads[n]) + loads.promoted[n]) * fast_page_;
    const double slow = (asked_[n] - (from_slow ? 0 : loads.fast_reads[n]) + loads.copied[n]) * slow_page_;
    slope[n] = fast - slow;
    slope[steps_ + n] = written - slow;
    slope[2 * size_t{steps_} + n] = loads.resident[n] - room_;
  }
  return slope;
}

void Relaxation::project(Prices& prices) const {
  const double kappa = machine_.kappa;
  for (uint32_t n = 0; n < steps_; ++n) {
    double& fast = prices[n];
    double& written = prices[steps_ + n];
    double& room = prices[2 * size_t{steps_} + n];
    fast = std::clamp(fast, kappa, 1.0);
    written = trace_.written_bytes > 0 ? std::max(written, 0.0) : 0;
    if (const double over = fast + written - 1 - kappa; over > 0) {
      // Onto the edge fast + written = 1 + kappa, and to its ends.
      fast = std::clamp(fast - over / 2, kappa, 1.0);
      written = 1 + kappa - fast;
    }
    room = std::max(room, 0.0);
  }
  // Where the start is given there is nothing to be had by paying for room in step 0.
  if (!free_start_ && steps_ != 0) prices[2 * size_t{steps_}] = 0;
}

double Relaxation::seconds(const Loads& loads) const {
  const auto bytes = static_cast<double>(trace_.page_bytes);
  double sum = 0;
  for (uint32_t n = 0; n < steps_; ++n) {
    Traffic traffic;
    traffic.read[0] = loads.fast_reads[n] * bytes;
    traffic.read[1] = (asked_[n] - loads.fast_reads[n]) * bytes;
    traffic.also_in_last = traffic.read[0];
    traffic.copied_out_of[1] = loads.copied[n] * bytes;
    traffic.written[0] = loads.promoted[n] * bytes;
    traffic.written[1] = trace_.written_bytes;
    sum += step_time(machine_, traffic, trace_.fixed_read_bytes).seconds;
  }
  return sum;
}

Loads Relaxation::fitted(const Loads& loads) const {
  Loads best;
  double best_seconds = kNever;
  // A share that grows is promotions, out of band where nothing else is known; so it grows slowly, at one of
  // these rates.
  for (const double rate : {1.0, 0.03, 0.01, 0.003, 0.001, 0.0}) {
    Loads fit = loads;
    double share = 1;
    for (uint32_t n = 0; n < steps_; ++n) {
      const bool given = n == 0 && !free_start_;
      const double fits = given || loads.resident[n] <= room_ ? 1 : room_ / loads.resident[n];
      const double before = share;
      share = n == 0 ? fits : std::min(fits, share + rate);
      fit.fast_reads[n] *= share;
      fit.resident[n] *= share;
      if (n == 0) continue;
      const double more = std::max(0.0, share - before) * loads.resident[n - 1];
      fit.promoted[n - 1] = loads.promoted[n - 1] * share + more;
      fit.copied[n - 1] = loads.copied[n - 1] * share + more;
    }
    if (const double here = seconds(fit); here < best_seconds) {
      best_seconds = here;
      best = std::move(fit);
    }
  }
  return best;
}

void Relaxation::add_paths(const Prices& prices, double weight, std::vector<float>& share) {
  struct Shares {
    std::vector<float>& share;
    size_t steps;
    float weight;
    float* row = nullptr;
    void group(size_t which) { row = share.data() + which * steps; }
    void read(uint32_t, uint32_t) {}
    void promoted(uint32_t, bool) {}
    void fast(uint32_t from, uint32_t to) {
      for (uint32_t n = from; n <= to; ++n) row[n] += weight;
    }
  };
  walk(prices, Shares{share, steps_, static_cast<float>(weight)});
}

}  // namespace kvt::sim
