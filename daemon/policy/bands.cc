// SPDX-License-Identifier: Apache-2.0
#include "daemon/policy/bands.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <numeric>

namespace kvt::policy::bands {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
/// Where the simplex stops, as a share of the value: far below what measured bandwidths are good for, far
/// above rounding.
constexpr double kStopGap = 1e-11;
/// Below this, in a problem scaled to sizes of about 1, a price or a pivot element is rounding.
constexpr double kTiny = 1e-12;
constexpr double kSmallestPivot = 1e-9;
constexpr double kResidualMax = 1e-13;  ///< of a row, before the inverse is made anew
constexpr double kSamePrice = 1e-9;     ///< prices this close make no threshold
constexpr uint32_t kPivotsBetweenInversions = 64;

bool number(double value) { return std::isfinite(value) && value >= 0; }

std::string not_a_number(const std::string& what, double value) {
  return what + " is " + std::to_string(value) + ", expected a finite number >= 0";
}

/// Empty, or what is wrong with `step`.
std::string invalid(const Step& step) {
  const auto text = [](size_t value) { return std::to_string(value); };
  if (step.tiers.empty() || step.tiers.size() > kTiersMax)
    return text(step.tiers.size()) + " tiers, expected 1 to " + text(kTiersMax);
  if (step.links.size() > kLinksMax)
    return text(step.links.size()) + " links, expected at most " + text(kLinksMax);
  if (step.groups == 0 || step.groups > kGroupsMax)
    return text(step.groups) + " groups, expected 1 to " + text(kGroupsMax);
  if (step.bins.size() > std::numeric_limits<uint32_t>::max() / kTiersMax)
    return text(step.bins.size()) + " bins, expected fewer than 2^29";
  for (size_t t = 0; t < step.tiers.size(); ++t) {
    const Tier& tier = step.tiers[t];
    if (!number(tier.capacity_bytes) && tier.capacity_bytes != kInfinity)
      return not_a_number("capacity of tier " + text(t), tier.capacity_bytes);
    if (!number(tier.read_bytes_per_second))
      return not_a_number("bandwidth of tier " + text(t), tier.read_bytes_per_second);
  }
  for (size_t l = 0; l < step.links.size(); ++l) {
    const Link& link = step.links[l];
    if (!number(link.read_bytes_per_second))
      return not_a_number("bandwidth of link " + text(l), link.read_bytes_per_second);
    if (link.tiers == 0 || link.tiers >> step.tiers.size() != 0)
      return "link " + text(l) + " has tiers " + text(link.tiers) + " (bits), expected some of the " +
             text(step.tiers.size()) + " tiers";
  }
  for (size_t i = 0; i < step.bins.size(); ++i) {
    const Bin& bin = step.bins[i];
    if (!number(bin.density)) return not_a_number("density of bin " + text(i), bin.density);
    if (!number(bin.bytes)) return not_a_number("bytes of bin " + text(i), bin.bytes);
    if (bin.group >= step.groups)
      return "bin " + text(i) + " is of group " + text(bin.group) + ", expected less than " +
             text(step.groups);
  }
  double bytes = 0;
  double reads = 0;
  for (const Bin& bin : step.bins) {
    bytes += bin.bytes;
    reads += bin.density * bin.bytes;
  }
  if (!std::isfinite(bytes) || !std::isfinite(reads))
    return "all bins have " + std::to_string(bytes) + " bytes and " + std::to_string(reads) +
           " bytes of reads, expected finite numbers";
  if (!step.fixed_bytes.empty() && step.fixed_bytes.size() != step.groups * step.tiers.size())
    return text(step.fixed_bytes.size()) + " fixed bytes, expected none or one for each group and tier: " +
           text(step.groups * step.tiers.size());
  for (size_t i = 0; i < step.fixed_bytes.size(); ++i) {
    if (!number(step.fixed_bytes[i]))
      return not_a_number(
          "fixed bytes of group " + text(i / step.tiers.size()) + " in tier " + text(i % step.tiers.size()),
          step.fixed_bytes[i]);
  }
  return {};
}

/// Bit t: tier t has bandwidth, and so have the links in front of it.
uint32_t readable_tiers(const Step& step) {
  uint32_t mask = 0;
  for (uint32_t t = 0; t < step.tiers.size(); ++t)
    if (step.tiers[t].read_bytes_per_second > 0) mask |= 1u << t;
  for (const Link& link : step.links)
    if (!(link.read_bytes_per_second > 0)) mask &= ~link.tiers;
  return mask;
}

/// Lines `slope * density + room`, one for each tier in the mask.
struct Lines {
  std::array<double, kTiersMax> slope{};
  std::array<double, kTiersMax> room{};
  uint32_t tiers = 0;  ///< bits
};
inline constexpr uint32_t kNone = kTiersMax;

/// The line that is lowest for the highest densities: where the lower envelope ends. kNone: there is no line.
uint32_t flattest(const Lines& lines) {
  uint32_t best = kNone;
  for (uint32_t t = 0; t < kTiersMax; ++t) {
    if ((lines.tiers >> t & 1) == 0) continue;
    if (best == kNone || lines.slope[t] < lines.slope[best] ||
        (lines.slope[t] == lines.slope[best] && lines.room[t] < lines.room[best]))
      best = t;
  }
  return best;
}

struct Crossing {
  uint32_t tier = kNone;  ///< kNone: no line gets below the current one
  double density = 0;
};
/// Where the envelope leaves the line `current` on the way to lower densities: at the first crossing with one
/// of less room price.
Crossing next_crossing(const Lines& lines, uint32_t current) {
  Crossing next;
  for (uint32_t t = 0; t < kTiersMax; ++t) {
    if ((lines.tiers >> t & 1) == 0 || !(lines.room[t] < lines.room[current])) continue;
    const double at = (lines.room[current] - lines.room[t]) / (lines.slope[t] - lines.slope[current]);
    if (at > next.density ||
        (at == next.density && next.tier != kNone && lines.room[t] < lines.room[next.tier]))
      next = {t, at};
  }
  return next;
}

}  // namespace

/// One call of `solve`. Inside, bytes are shares of all bytes, reads shares of all reads (fixed ones too),
/// bandwidths shares of the largest: all are about 1, and one tolerance fits all.
class Solver {
 public:
  Solver(const Step& step, Workspace& workspace, Solution& solution)
      : step_(step), w_(workspace), out_(solution) {}
  void run();

 private:
  using Segment = Workspace::Segment;
  using Column = Workspace::Column;
  using Group = Workspace::Group;
  using Kind = Workspace::Kind;

  bool scale();
  void sort_bins();
  bool find_room();
  void fill_greedily();

  // Rows of the master problem: loads by group and resource, capacities, groups.
  [[nodiscard]] uint32_t load_row(uint32_t group, uint32_t resource) const {
    return group * resources_ + resource;
  }
  [[nodiscard]] uint32_t room_row(uint32_t tier) const { return groups_ * resources_ + tier; }
  [[nodiscard]] uint32_t group_row(uint32_t group) const { return groups_ * resources_ + tiers_ + group; }
  [[nodiscard]] double* row(uint32_t index) { return w_.inverse.data() + size_t{index} * (rows_ + 1); }
  [[nodiscard]] double bandwidth(uint32_t resource) const { return bandwidth_[resource]; }
  [[nodiscard]] bool readable(uint32_t tier) const { return (readable_ >> tier & 1) != 0; }
  [[nodiscard]] double value() { return row(rows_)[rows_]; }

  struct Entering {
    Kind kind = Kind::kSlack;
    uint32_t index = 0;
    const Column* column = nullptr;
  };
  /// Entries of a column of the master, by row.
  struct Entries {
    std::array<uint32_t, 3 * kTiersMax + kLinksMax + 1> row;
    std::array<double, 3 * kTiersMax + kLinksMax + 1> value;
    uint32_t count = 0;
    void add(uint32_t at, double x) {
      if (x == 0) return;
      row[count] = at;
      value[count++] = x;
    }
  };
  [[nodiscard]] Entries entries(const Entering& entering) const;
  double express(const Entering& entering);
  void exchange(uint32_t leaving, const Entering& entering);
  bool enter(const Entering& entering);
  void start();
  void invert();
  double residual();
  void simplex();

  double offer(uint32_t group);
  void close(Column& column, double end, uint32_t tier) const;
  void measure(Column& column) const;
  [[nodiscard]] double reads_of_hottest(const Group& group, double bytes) const;
  [[nodiscard]] double hottest_with_reads(const Group& group, double wanted) const;

  [[nodiscard]] bool has_closed_form() const;
  void two_tiers();

  void begin_result();
  void use(const Column& column, double weight);
  void keep_prices();
  void finish();

  const Step& step_;
  Workspace& w_;
  Solution& out_;
  uint32_t tiers_ = 0, resources_ = 0, groups_ = 0, rows_ = 0;
  uint32_t readable_ = 0;
  double byte_unit_ = 1, read_unit_ = 1, bandwidth_unit_ = 1;
  std::array<double, kTiersMax + kLinksMax> bandwidth_{};
  std::array<uint32_t, kTiersMax> resources_of_{};  ///< bit r: read through resource r
  std::array<double, kTiersMax> capacity_{};
  double best_bound_ = -kInfinity;
  uint32_t pivots_ = 0, since_inversion_ = 0;
};

/// Units, and everything in them but the bins. False: nothing is read, everything is free.
bool Solver::scale() {
  tiers_ = static_cast<uint32_t>(step_.tiers.size());
  resources_ = tiers_ + static_cast<uint32_t>(step_.links.size());
  groups_ = step_.groups;
  readable_ = readable_tiers(step_);
  double bytes = 0;
  double reads = 0;
  for (const Bin& bin : step_.bins) {
    bytes += bin.bytes;
    reads += bin.density * bin.bytes;
  }
  for (const double fixed : step_.fixed_bytes) reads += fixed;
  byte_unit_ = bytes > 0 ? bytes : 1;
  read_unit_ = reads > 0 ? reads : 1;
  bandwidth_unit_ = 0;
  for (uint32_t r = 0; r < resources_; ++r) {
    bandwidth_[r] =
        r < tiers_ ? step_.tiers[r].read_bytes_per_second : step_.links[r - tiers_].read_bytes_per_second;
    bandwidth_unit_ = std::max(bandwidth_unit_, bandwidth_[r]);
  }
  if (bandwidth_unit_ == 0) bandwidth_unit_ = 1;
  for (uint32_t r = 0; r < resources_; ++r) bandwidth_[r] /= bandwidth_unit_;
  for (uint32_t t = 0; t < tiers_; ++t) {
    // Room for more than there is changes nothing; so infinity stays out of the arithmetic.
    capacity_[t] = std::min(step_.tiers[t].capacity_bytes / byte_unit_, 1.0);
    resources_of_[t] = 1u << t;
    for (uint32_t l = 0; l < step_.links.size(); ++l)
      if ((step_.links[l].tiers >> t & 1) != 0) resources_of_[t] |= 1u << (tiers_ + l);
  }
  w_.fixed.assign(size_t{groups_} * resources_, 0);
  if (!step_.fixed_bytes.empty())
    for (uint32_t g = 0; g < groups_; ++g)
      for (uint32_t t = 0; t < tiers_; ++t)
        for (uint32_t r = 0; r < resources_; ++r)
          if ((resources_of_[t] >> r & 1) != 0)
            w_.fixed[g * resources_ + r] += step_.fixed_bytes[g * tiers_ + t] / read_unit_;
  return reads > 0;
}

/// Groups, order and prefix sums.
void Solver::sort_bins() {
  const auto bins = step_.bins;
  const auto count = static_cast<uint32_t>(bins.size());
  const auto less = [bins](uint32_t a, uint32_t b) {
    if (bins[a].group != bins[b].group) return bins[a].group < bins[b].group;
    if (bins[a].density != bins[b].density) return bins[a].density > bins[b].density;
    return false;
  };
  w_.order.resize(count);
  std::iota(w_.order.begin(), w_.order.end(), 0u);
  if (!std::is_sorted(w_.order.begin(), w_.order.end(), less)) {
    std::reverse(w_.order.begin(), w_.order.end());  // histograms ascend
    if (!std::is_sorted(w_.order.begin(), w_.order.end(), less))
      std::sort(w_.order.begin(), w_.order.end(), less);
  }

  w_.density.resize(count);
  w_.byte_sums.resize(count + groups_);
  w_.read_sums.resize(count + groups_);
  w_.groups.assign(groups_, Group{});
  uint32_t at = 0;
  for (uint32_t g = 0; g < groups_; ++g) {
    Group& group = w_.groups[g];
    group.first = group.cold = at;
    double bytes = 0;
    double reads = 0;
    w_.byte_sums[at + g] = w_.read_sums[at + g] = 0;
    for (; at < count && bins[w_.order[at]].group == g; ++at) {
      const Bin& bin = bins[w_.order[at]];
      w_.density[at] = bin.density;
      if (bin.density > 0) group.cold = at + 1;
      bytes += bin.bytes / byte_unit_;
      reads += bin.density * bin.bytes / read_unit_;
      w_.byte_sums[at + g + 1] = bytes;
      w_.read_sums[at + g + 1] = reads;
    }
    group.end = at;
  }
}

/// False when the bins do not fit, which is said.
bool Solver::find_room() {
  double hot = 0;
  double all = 0;
  for (const Bin& bin : step_.bins) {
    all += bin.bytes;
    if (bin.density > 0) hot += bin.bytes;
  }
  double hot_room = 0;
  double room = 0;
  for (uint32_t t = 0; t < tiers_; ++t) {
    room += step_.tiers[t].capacity_bytes;
    if (readable(t)) hot_room += step_.tiers[t].capacity_bytes;
    for (uint32_t g = 0; g < groups_ && !step_.fixed_bytes.empty(); ++g)
      if (step_.fixed_bytes[g * tiers_ + t] > 0 && !readable(t)) {
        out_.outcome = Outcome::kInvalid;
        out_.error = "fixed bytes of group " + std::to_string(g) + " in tier " + std::to_string(t) +
                     ", which has no bandwidth or is behind a link without: expected 0";
        return false;
      }
  }
  // Sums of many bins may miss a capacity that they fill exactly.
  const double slack = 1e-12 * all;
  out_.missing_bytes = std::max({all - room, hot - hot_room, 0.0});
  if (out_.missing_bytes <= slack) {
    out_.missing_bytes = 0;
    return true;
  }
  out_.outcome = Outcome::kNoRoom;
  out_.error = hot - hot_room >= all - room
                   ? "bins that are read have " + std::to_string(hot) + " bytes, expected at most the " +
                         std::to_string(hot_room) + " of tiers with bandwidth"
                   : "bins have " + std::to_string(all) + " bytes, expected at most the " +
                         std::to_string(room) + " of all tiers";
  return false;
}

// ---- columns ----

/// Appends the segment up to `end`.
void Solver::close(Column& column, double end, uint32_t tier) const {
  const double begin = column.count == 0 ? 0 : column.segments[column.count - 1].end;
  if (end > begin) column.segments[column.count++] = Segment{end, tier};
}

/// Reads of the hottest `bytes` of the group.
double Solver::reads_of_hottest(const Group& group, double bytes) const {
  const uint32_t count = group.end - group.first;
  const size_t first = group.first + static_cast<size_t>(&group - w_.groups.data());
  const double* const sums = w_.byte_sums.data() + first;
  const double* const reads = w_.read_sums.data() + first;
  const auto bin = static_cast<uint32_t>(std::lower_bound(sums + 1, sums + count + 1, bytes) - (sums + 1));
  if (bin == count) return reads[count];
  return std::min(reads[bin + 1], reads[bin] + std::max(0.0, bytes - sums[bin]) *
                                                   w_.density[group.first + bin] * (byte_unit_ / read_unit_));
}

/// The inverse: how many of the hottest bytes have these reads.
double Solver::hottest_with_reads(const Group& group, double wanted) const {
  const uint32_t count = group.end - group.first;
  const size_t first = group.first + static_cast<size_t>(&group - w_.groups.data());
  const double* const sums = w_.byte_sums.data() + first;
  const double* const reads = w_.read_sums.data() + first;
  const auto bin =
      static_cast<uint32_t>(std::lower_bound(reads + 1, reads + count + 1, wanted) - (reads + 1));
  if (bin == count) return sums[count];
  const double inside = reads[bin + 1] - reads[bin];
  return sums[bin] + (inside > 0
                          ? (sums[bin + 1] - sums[bin]) * std::clamp((wanted - reads[bin]) / inside, 0.0, 1.0)
                          : 0);
}

/// Bytes and reads by tier, from the segments.
void Solver::measure(Column& column) const {
  column.bytes.fill(0);
  column.read.fill(0);
  const Group& group = w_.groups[column.group];
  double begin = 0;
  double reads = 0;
  for (uint32_t s = 0; s < column.count; ++s) {
    const Segment& segment = column.segments[s];
    const double to = reads_of_hottest(group, segment.end);
    column.bytes[segment.tier] += segment.end - begin;
    column.read[segment.tier] += to - reads;
    begin = segment.end;
    reads = to;
  }
}

/// The best column of a group at the prices of the basis, into w_.offered; its cost there.
double Solver::offer(uint32_t g) {
  const double* const dual = row(rows_);
  Lines lines{{}, {}, readable_};
  for (uint32_t t = 0; t < tiers_; ++t) {
    for (uint32_t r = 0; r < resources_; ++r)
      if ((resources_of_[t] >> r & 1) != 0) lines.slope[t] += std::max(0.0, -dual[load_row(g, r)]);
    lines.room[t] = std::max(0.0, -dual[room_row(t)]);
  }
  const Group& group = w_.groups[g];
  Column& column = w_.offered[g];
  column.group = g;
  column.count = 0;
  column.bytes.fill(0);
  column.read.fill(0);
  const double* const bytes = w_.byte_sums.data() + group.first + g;
  const double* const reads = w_.read_sums.data() + group.first + g;
  double cost = 0;
  uint32_t from = 0;
  const auto take = [&](uint32_t to, uint32_t tier) {
    if (to == from) return;
    const double part = bytes[to] - bytes[from];
    const double part_reads = reads[to] - reads[from];
    if (part > 0) column.segments[column.count++] = Segment{bytes[to], tier};
    column.bytes[tier] += part;
    column.read[tier] += part_reads;
    cost += lines.room[tier] * part + lines.slope[tier] * part_reads;
    from = to;
  };
  const uint32_t hot = group.cold - group.first;
  // In these units a byte of density d has d * ratio reads.
  const double ratio = byte_unit_ / read_unit_;
  const double* const density = w_.density.data() + group.first;
  for (uint32_t tier = hot == 0 ? kNone : flattest(lines); tier != kNone;) {
    const Crossing next = next_crossing(lines, tier);
    const double until = next.density / ratio;
    take(next.tier == kNone
             ? hot
             : static_cast<uint32_t>(
                   std::lower_bound(density + from, density + hot, until, std::greater<>()) - density),
         tier);
    tier = from == hot ? kNone : next.tier;
  }
  // What is not read costs only its room.
  uint32_t cheapest = 0;
  for (uint32_t t = 1; t < tiers_; ++t)
    if (lines.room[t] < lines.room[cheapest] ||
        (lines.room[t] == lines.room[cheapest] && readable(cheapest) && !readable(t)))
      cheapest = t;
  take(group.end - group.first, cheapest);
  return cost;
}

/// A feasible column for each group, in w_.offered: its share of every tier, the hottest in the fastest.
void Solver::fill_greedily() {
  double hot_all = 0;
  double cold_all = 0;
  const auto hot_of = [&](uint32_t g) { return w_.byte_sums[w_.groups[g].cold + g]; };
  const auto all_of = [&](uint32_t g) { return w_.byte_sums[w_.groups[g].end + g]; };
  for (uint32_t g = 0; g < groups_; ++g) {
    hot_all += hot_of(g);
    cold_all += all_of(g) - hot_of(g);
  }
  std::array<uint32_t, kTiersMax> by_speed{};
  std::array<double, kTiersMax> speed{};
  for (uint32_t t = 0; t < tiers_; ++t) {
    if (readable(t)) {
      speed[t] = kInfinity;
      for (uint32_t r = 0; r < resources_; ++r)
        if ((resources_of_[t] >> r & 1) != 0) speed[t] = std::min(speed[t], bandwidth(r));
    }
    uint32_t place = t;
    for (; place > 0 && speed[by_speed[place - 1]] < speed[t]; --place) by_speed[place] = by_speed[place - 1];
    by_speed[place] = t;
  }
  // What is read takes the fast tiers, what is not the slow end of the rest.
  std::array<double, kTiersMax> hot_part{};  ///< by place in by_speed
  std::array<double, kTiersMax> cold_part{};
  double hot_left = hot_all;
  double cold_left = cold_all;
  for (uint32_t k = 0; k < tiers_; ++k) {
    if (!readable(by_speed[k])) continue;
    hot_part[k] = std::min(hot_left, capacity_[by_speed[k]]);
    hot_left -= hot_part[k];
  }
  for (uint32_t k = tiers_; k-- > 0;) {
    cold_part[k] = std::min(cold_left, capacity_[by_speed[k]] - hot_part[k]);
    cold_left -= cold_part[k];
  }
  for (uint32_t g = 0; g < groups_; ++g) {
    Column& column = w_.offered[g];
    column.group = g;
    column.count = 0;
    const auto lay = [&](double begin, double share, const std::array<double, kTiersMax>& parts, double end) {
      uint32_t last = 0;
      for (uint32_t k = 0; k < tiers_; ++k)
        if (parts[k] > 0) last = k;
      double at = begin;
      for (uint32_t k = 0; k <= last; ++k) {
        at += share * parts[k];
        close(column, k == last ? end : std::min(at, end), by_speed[k]);
      }
    };
    if (hot_all > 0) lay(0, hot_of(g) / hot_all, hot_part, hot_of(g));
    if (cold_all > 0) lay(hot_of(g), (all_of(g) - hot_of(g)) / cold_all, cold_part, all_of(g));
    measure(column);
  }
}

// ---- simplex ----

Solver::Entries Solver::entries(const Entering& entering) const {
  Entries found;
  switch (entering.kind) {
    case Kind::kSlack: found.add(entering.index, 1); break;
    case Kind::kTime:
      for (uint32_t r = 0; r < resources_; ++r) found.add(load_row(entering.index, r), -bandwidth(r));
      break;
    case Kind::kColumn: {
      const Column& column = *entering.column;
      for (uint32_t r = 0; r < resources_; ++r) {
        double load = 0;
        for (uint32_t t = 0; t < tiers_; ++t)
          if ((resources_of_[t] >> r & 1) != 0) load += column.read[t];
        found.add(load_row(column.group, r), load);
      }
      for (uint32_t t = 0; t < tiers_; ++t) found.add(room_row(t), column.bytes[t]);
      found.add(group_row(column.group), 1);
      break;
    }
  }
  return found;
}

/// Fills alpha; returns the reduced cost, which is also minus alpha of the cost row.
double Solver::express(const Entering& entering) {
  const Entries column = entries(entering);
  for (uint32_t i = 0; i < rows_; ++i) {
    const double* const from = row(i);
    double sum = 0;
    for (uint32_t k = 0; k < column.count; ++k) sum += from[column.row[k]] * column.value[k];
    w_.alpha[i] = sum;
  }
  const double* const dual = row(rows_);
  double reduced = entering.kind == Kind::kTime ? 1 : 0;
  for (uint32_t k = 0; k < column.count; ++k) reduced -= dual[column.row[k]] * column.value[k];
  w_.alpha[rows_] = -reduced;
  return reduced;
}

/// Puts what `express` was called for into the basis at row `leaving`.
void Solver::exchange(uint32_t leaving, const Entering& entering) {
  double* const pivot = row(leaving);
  const double factor = 1 / w_.alpha[leaving];
  for (uint32_t k = 0; k <= rows_; ++k) pivot[k] *= factor;
  for (uint32_t i = 0; i <= rows_; ++i) {
    const double by = w_.alpha[i];
    if (i == leaving || by == 0) continue;
    double* const to = row(i);
    for (uint32_t k = 0; k <= rows_; ++k) to[k] -= by * pivot[k];
  }
  w_.basic[leaving] = {entering.kind, entering.index};
  if (entering.kind == Kind::kColumn) w_.columns[leaving] = *entering.column;
}

/// The ratio test and the exchange. False: it would not help, or nothing may leave.
bool Solver::enter(const Entering& entering) {
  if (express(entering) >= -kTiny) return false;
  // Times stay: they are what is sought, and not below 0 since loads are not. Of rows that reach 0 together
  // (many do: bins of equal size, tiers of equal speed) the largest pivot leaves, else the inverse loses its
  // digits.
  const auto may_leave = [&](uint32_t i) {
    return w_.basic[i].kind != Kind::kTime && w_.alpha[i] > kSmallestPivot;
  };
  double least = kInfinity;
  for (uint32_t i = 0; i < rows_; ++i)
    if (may_leave(i)) least = std::min(least, (std::max(0.0, row(i)[rows_]) + kTiny) / w_.alpha[i]);
  uint32_t leaving = rows_;
  for (uint32_t i = 0; i < rows_; ++i) {
    if (!may_leave(i) || std::max(0.0, row(i)[rows_]) / w_.alpha[i] > least) continue;
    if (leaving == rows_ || w_.alpha[i] > w_.alpha[leaving]) leaving = i;
  }
  if (leaving == rows_) return false;
  exchange(leaving, entering);
  ++pivots_;
  ++since_inversion_;
  return true;
}

/// The basis of the greedy columns: each group's time, given by its slowest resource.
void Solver::start() {
  rows_ = groups_ * resources_ + tiers_ + groups_;
  w_.inverse.assign(size_t{rows_ + 1} * (rows_ + 1), 0);
  w_.right.assign(rows_, 0);
  w_.alpha.assign(rows_ + 1, 0);
  w_.basic.assign(rows_, {});
  w_.columns.resize(rows_);
  w_.basic_before.resize(rows_);
  w_.columns_before.resize(rows_);
  for (uint32_t g = 0; g < groups_; ++g) {
    for (uint32_t r = 0; r < resources_; ++r) w_.right[load_row(g, r)] = -w_.fixed[g * resources_ + r];
    w_.right[group_row(g)] = 1;
  }
  for (uint32_t t = 0; t < tiers_; ++t) w_.right[room_row(t)] = capacity_[t];
  for (uint32_t i = 0; i < rows_; ++i) {
    row(i)[i] = 1;
    row(i)[rows_] = w_.right[i];
    w_.basic[i] = {Kind::kSlack, i};
  }
  for (uint32_t g = 0; g < groups_; ++g) {
    const Entering column{Kind::kColumn, g, &w_.offered[g]};
    express(column);
    exchange(group_row(g), column);
    uint32_t slowest = resources_;
    double longest = -1;
    for (uint32_t r = 0; r < resources_; ++r) {
      if (!(bandwidth(r) > 0)) continue;
      const double time = -row(load_row(g, r))[rows_] / bandwidth(r);
      if (time > longest) {
        longest = time;
        slowest = r;
      }
    }
    const Entering time{Kind::kTime, g, nullptr};
    express(time);
    exchange(load_row(g, slowest), time);
  }
}

/// The inverse of the same basis from scratch: rounding of many exchanges goes.
void Solver::invert() {
  std::vector<Workspace::Basic>& basic = w_.basic_before;
  std::vector<Column>& columns = w_.columns_before;
  basic.swap(w_.basic);
  columns.swap(w_.columns);
  std::fill(w_.inverse.begin(), w_.inverse.end(), 0.0);
  std::vector<uint8_t>& taken = w_.taken;
  taken.assign(rows_, 0);
  for (uint32_t i = 0; i < rows_; ++i) {
    row(i)[i] = 1;
    row(i)[rows_] = w_.right[i];
    w_.basic[i] = {Kind::kSlack, i};
  }
  // Slacks are their own rows; the others take the row where they weigh most.
  for (uint32_t i = 0; i < rows_; ++i)
    if (basic[i].kind == Kind::kSlack) taken[basic[i].index] = 1;
  for (uint32_t i = 0; i < rows_; ++i) {
    if (basic[i].kind == Kind::kSlack) continue;
    const Entering entering{basic[i].kind, basic[i].index, &columns[i]};
    express(entering);
    uint32_t at = rows_;
    for (uint32_t k = 0; k < rows_; ++k)
      if (taken[k] == 0 && (at == rows_ || std::abs(w_.alpha[k]) > std::abs(w_.alpha[at]))) at = k;
    taken[at] = 1;
    exchange(at, entering);
  }
  since_inversion_ = 0;
}

/// The largest miss of the rows' equations by the values of the basis.
double Solver::residual() {
  std::copy(w_.right.begin(), w_.right.end(), w_.alpha.begin());
  for (uint32_t i = 0; i < rows_; ++i) {
    const Entries column = entries({w_.basic[i].kind, w_.basic[i].index, &w_.columns[i]});
    for (uint32_t k = 0; k < column.count; ++k) w_.alpha[column.row[k]] -= column.value[k] * row(i)[rows_];
  }
  double most = 0;
  for (uint32_t i = 0; i < rows_; ++i) most = std::max({most, std::abs(w_.alpha[i]), -row(i)[rows_]});
  return most;
}

void Solver::simplex() {
  start();
  const uint32_t limit = 1000 + 200 * rows_;
  while (pivots_ < limit) {
    if (since_inversion_ >= kPivotsBetweenInversions) invert();
    // A negative price is an inequality that need not be tight: its slack enters before prices mean anything.
    const double* const dual = row(rows_);
    uint32_t slack = rows_;
    double most = kTiny;
    for (uint32_t i = 0; i < group_row(0); ++i) {
      const double gain = i < room_row(0) ? dual[i] * bandwidth(i % resources_) : dual[i];
      if (gain > most) {
        most = gain;
        slack = i;
      }
    }
    if (slack != rows_ && enter({Kind::kSlack, slack, nullptr})) continue;

    double now = 0;
    for (uint32_t g = 0; g < groups_; ++g) {
      now += offer(g);
      for (uint32_t r = 0; r < resources_; ++r)
        now += std::max(0.0, -dual[load_row(g, r)]) * w_.fixed[g * resources_ + r];
    }
    for (uint32_t t = 0; t < tiers_; ++t) now -= std::max(0.0, -dual[room_row(t)]) * capacity_[t];
    if (now > best_bound_) {
      best_bound_ = now;
      keep_prices();
    }
    bool entered = false;
    if (value() - best_bound_ > kStopGap * value())
      for (uint32_t g = 0; g < groups_; ++g) entered |= enter({Kind::kColumn, g, &w_.offered[g]});
    if (entered) continue;
    if (since_inversion_ == 0 || residual() <= kResidualMax) break;
    invert();
    best_bound_ = -kInfinity;  // the prices before were of the inexact inverse
  }
  begin_result();
  for (uint32_t i = 0; i < rows_; ++i)
    if (w_.basic[i].kind == Kind::kColumn) use(w_.columns[i], std::max(0.0, row(i)[rows_]));
}

/// The prices of the basis, in the units of the step.
void Solver::keep_prices() {
  const double* const dual = row(rows_);
  for (uint32_t g = 0; g < groups_; ++g)
    for (uint32_t r = 0; r < resources_; ++r)
      out_.resource_price[g * resources_ + r] = std::max(0.0, -dual[load_row(g, r)]) / bandwidth_unit_;
  for (uint32_t t = 0; t < tiers_; ++t)
    out_.room_price[t] = std::max(0.0, -dual[room_row(t)]) * (read_unit_ / bandwidth_unit_) / byte_unit_;
}

// ---- two tiers ----

bool Solver::has_closed_form() const {
  if (tiers_ != 2 || groups_ != 1 || readable_ != 3) return false;
  return std::none_of(step_.links.begin(), step_.links.end(),
                      [](const Link& link) { return link.tiers == 3; });
}

/// tau(H) = max((w0 + H) / B0, (w1 + A - H) / B1) for H of the A reads from tier 0: least where both take as
/// long, unless the hottest bytes that fit into a tier have fewer reads than that.
void Solver::two_tiers() {
  const Group& group = w_.groups[0];
  std::array<double, 2> speed{};
  std::array<uint32_t, 2> through{};  ///< the slowest resource on the way to the tier
  for (uint32_t t = 0; t < 2; ++t) {
    through[t] = t;
    for (uint32_t r = 2; r < resources_; ++r)
      if ((resources_of_[t] >> r & 1) != 0 && bandwidth(r) < bandwidth(through[t])) through[t] = r;
    speed[t] = bandwidth(through[t]);
  }
  const double all_bytes = w_.byte_sums[group.end];
  const double all_reads = w_.read_sums[group.end];
  const double hot_bytes = w_.byte_sums[group.cold];
  const std::array<double, 2> most = {std::min(capacity_[0], all_bytes), std::min(capacity_[1], all_bytes)};
  const double fixed0 = w_.fixed[0];
  const double fixed1 = w_.fixed[1];
  const double balanced = (speed[0] * (all_reads + fixed1) - speed[1] * fixed0) / (speed[0] + speed[1]);
  const double highest = reads_of_hottest(group, most[0]);
  const double lowest = all_reads - reads_of_hottest(group, most[1]);
  std::array<double, 2> read_price{};
  std::array<double, 2> room_price{};
  Column& column = w_.offered[0];
  column.group = 0;
  column.count = 0;
  const auto fill = [&](uint32_t full) {
    // `full` takes the hottest that fit, and what has no room in the other.
    const uint32_t other = 1 - full;
    close(column, std::max(std::min(most[full], hot_bytes), all_bytes - most[other]), full);
    close(column, all_bytes, other);
    read_price[other] = 1 / speed[other];
    if (most[full] < hot_bytes) {
      // The coldest byte in there would cost as much outside.
      const double* const sums = w_.byte_sums.data();
      const auto bin =
          static_cast<uint32_t>(std::lower_bound(sums + 1, sums + group.cold, most[full]) - (sums + 1));
      room_price[full] = read_price[other] * w_.density[bin] * (byte_unit_ / read_unit_);
    }
  };
  if (balanced >= highest) {
    fill(0);
  } else if (balanced <= lowest) {
    fill(1);
  } else {
    // Tier 0 takes a window of the bytes, by density, with just these reads: the hottest that have them, if
    // the rest fits into tier 1; else as many bytes as do not, from further down.
    const double narrow = hottest_with_reads(group, balanced);
    const double width = std::max(narrow, all_bytes - most[1]);
    double begin = 0;
    if (width > narrow) {
      double high = all_bytes - width;
      double low = 0;
      for (int i = 0; i < 60; ++i) {  // to 2^-60 of the bytes
        begin = low + (high - low) / 2;
        (reads_of_hottest(group, begin + width) - reads_of_hottest(group, begin) > balanced ? low : high) =
            begin;
      }
    }
    close(column, begin, 1);
    close(column, std::min(begin + width, all_bytes), 0);
    close(column, all_bytes, 1);
    read_price = {1 / (speed[0] + speed[1]), 1 / (speed[0] + speed[1])};
  }
  measure(column);
  for (uint32_t t = 0; t < 2; ++t) {
    out_.resource_price[through[t]] = read_price[t] / bandwidth_unit_;
    out_.room_price[t] = room_price[t] * (read_unit_ / bandwidth_unit_) / byte_unit_;
  }
  begin_result();
  use(column, 1);
}

// ---- the result ----

void Solver::begin_result() {
  out_.shares.assign(step_.bins.size() * tiers_, 0);
  out_.read_bytes.assign(size_t{groups_} * tiers_, 0);
  out_.bytes.assign(tiers_, 0);
}

/// Adds `weight` of the column's assignment.
void Solver::use(const Column& column, double weight) {
  if (!(weight > 0)) return;
  for (uint32_t t = 0; t < tiers_; ++t) {
    out_.bytes[t] += weight * column.bytes[t] * byte_unit_;
    out_.read_bytes[column.group * tiers_ + t] += weight * column.read[t] * read_unit_;
  }
  const Group& group = w_.groups[column.group];
  const double* const sums = w_.byte_sums.data() + column.group;
  uint32_t at = group.first;
  double begin = 0;
  for (uint32_t s = 0; s < column.count; ++s) {
    const Segment& segment = column.segments[s];
    while (at < group.end) {
      const double size = sums[at + 1] - sums[at];
      const double part = std::min(sums[at + 1], segment.end) - std::max(sums[at], begin);
      if (size > 0 && part > 0)
        out_.shares[size_t{w_.order[at]} * tiers_ + segment.tier] +=
            weight * (part == size ? 1 : part / size);
      if (sums[at + 1] > segment.end) break;
      ++at;
    }
    begin = segment.end;
  }
}

/// Everything that follows from prices and shares.
void Solver::finish() {
  out_.read_price.assign(size_t{groups_} * tiers_, kInfinity);
  for (uint32_t g = 0; g < groups_; ++g)
    for (uint32_t t = 0; t < tiers_; ++t) {
      if (!readable(t)) continue;
      double price = 0;
      for (uint32_t r = 0; r < resources_; ++r)
        if ((resources_of_[t] >> r & 1) != 0) price += out_.resource_price[g * resources_ + r];
      out_.read_price[g * tiers_ + t] = price;
    }

  out_.seconds = 0;
  out_.group_seconds.assign(groups_, 0);
  for (uint32_t g = 0; g < groups_; ++g) {
    double& seconds = out_.group_seconds[g];
    for (uint32_t r = 0; r < resources_; ++r) {
      if (!(bandwidth(r) > 0)) continue;
      double load = w_.fixed[g * resources_ + r] * read_unit_;
      for (uint32_t t = 0; t < tiers_; ++t)
        if ((resources_of_[t] >> r & 1) != 0) load += out_.read_bytes[g * tiers_ + t];
      seconds = std::max(seconds, load / (bandwidth(r) * bandwidth_unit_));
    }
    out_.seconds += seconds;
  }

  out_.thresholds.clear();
  for (uint32_t g = 0; g < groups_; ++g) {
    Lines lines{{}, {}, readable_};
    for (uint32_t t = 0; t < tiers_; ++t) {
      if (!readable(t)) continue;
      // Prices that are 0 or the same but for rounding are: nothing crosses.
      if (out_.read_price[g * tiers_ + t] * step_.tiers[t].read_bytes_per_second > kSamePrice)
        lines.slope[t] = out_.read_price[g * tiers_ + t];
      if (out_.room_price[t] * byte_unit_ > kSamePrice * out_.seconds) lines.room[t] = out_.room_price[t];
      for (uint32_t u = 0; u < t; ++u) {
        if (!readable(u)) continue;
        if (std::abs(lines.slope[t] - lines.slope[u]) <= kSamePrice * lines.slope[u])
          lines.slope[t] = lines.slope[u];
        if (std::abs(lines.room[t] - lines.room[u]) <= kSamePrice * lines.room[u])
          lines.room[t] = lines.room[u];
      }
    }
    const auto begin = static_cast<std::ptrdiff_t>(out_.thresholds.size());
    double end = kInfinity;
    for (uint32_t tier = flattest(lines); tier != kNone;) {
      const Crossing next = next_crossing(lines, tier);
      // Where three lines meet, the one in the middle has no band.
      if (next.density < end * (1 - kSamePrice)) out_.thresholds.push_back({g, tier, next.density});
      end = next.density;
      tier = next.tier;
    }
    std::reverse(out_.thresholds.begin() + begin, out_.thresholds.end());
  }

  // A bin without bytes goes where one byte of it would.
  for (size_t i = 0; i < step_.bins.size(); ++i) {
    double* const shares = out_.shares.data() + i * tiers_;
    double sum = 0;
    for (uint32_t t = 0; t < tiers_; ++t) sum += shares[t];
    if (sum > 0) {
      if (sum != 1)
        for (uint32_t t = 0; t < tiers_; ++t) shares[t] /= sum;
      continue;
    }
    const Bin& bin = step_.bins[i];
    uint32_t best = 0;
    for (uint32_t t = 1; t < tiers_; ++t)
      if (out_.cost(bin.group, t, bin.density) < out_.cost(bin.group, best, bin.density)) best = t;
    shares[best] = 1;
  }

  out_.bound_seconds = bound(step_, out_.resource_price, out_.room_price);
  out_.pivots = pivots_;
}

void Solver::run() {
  out_.error.clear();
  out_.missing_bytes = out_.seconds = out_.bound_seconds = 0;
  out_.pivots = 0;
  if (std::string error = invalid(step_); !error.empty()) {
    out_.outcome = Outcome::kInvalid;
    out_.error = std::move(error);
    return;
  }
  const bool reads = scale();
  if (!find_room()) return;
  sort_bins();
  out_.outcome = Outcome::kSolved;
  out_.resource_price.assign(size_t{groups_} * resources_, 0);
  out_.room_price.assign(tiers_, 0);
  w_.offered.resize(groups_);
  if (!reads) {
    fill_greedily();
    begin_result();
    for (const Column& column : w_.offered) use(column, 1);
  } else if (has_closed_form()) {
    two_tiers();
  } else {
    fill_greedily();
    simplex();
  }
  finish();
}

void solve(const Step& step, Workspace& workspace, Solution& solution) {
  Solver(step, workspace, solution).run();
}

double bound(const Step& step, std::span<const double> resource_price, std::span<const double> room_price) {
  const size_t tiers = step.tiers.size();
  const size_t resources = tiers + step.links.size();
  const uint32_t readable = readable_tiers(step);
  const auto positive = [](double price) { return std::max(0.0, price); };
  std::array<std::array<double, kTiersMax>, kGroupsMax> slope{};
  double sum = 0;
  for (size_t g = 0; g < step.groups; ++g) {
    const auto price = resource_price.subspan(g * resources, resources);
    double scale = 0;
    for (size_t r = 0; r < resources; ++r)
      scale += positive(price[r]) * (r < tiers ? step.tiers[r].read_bytes_per_second
                                               : step.links[r - tiers].read_bytes_per_second);
    for (size_t t = 0; t < tiers; ++t) {
      double through = positive(price[t]);
      for (size_t l = 0; l < step.links.size(); ++l)
        if ((step.links[l].tiers >> t & 1) != 0) through += positive(price[tiers + l]);
      slope[g][t] = (readable >> t & 1) == 0 ? kInfinity : scale > 0 ? through / scale : 0;
      if (!step.fixed_bytes.empty() && step.fixed_bytes[g * tiers + t] > 0)
        sum += slope[g][t] * step.fixed_bytes[g * tiers + t];
    }
  }
  double all = 0;
  for (const Bin& bin : step.bins) {
    double least = kInfinity;
    for (size_t t = 0; t < tiers; ++t)
      least = std::min(least,
                       (bin.density > 0 ? slope[bin.group][t] * bin.density : 0) + positive(room_price[t]));
    if (bin.bytes > 0) sum += bin.bytes * least;
    all += bin.bytes;
  }
  for (size_t t = 0; t < tiers; ++t)
    sum -= positive(room_price[t]) * std::min(step.tiers[t].capacity_bytes, all);
  return sum;
}

}  // namespace kvt::policy::bands
