// SPDX-License-Identifier: Apache-2.0
//
// The placement of one step that reads everything soonest: which share of each class of pages belongs into
// which tier, exactly, with prices and a certificate. Pure and deterministic: no clock, no I/O, no threads.
//
// The linear program, for bins i (bytes s, expected reads of a byte d, group g), tiers t and resources r,
// which are the tiers' own bandwidths and the links:
//
//   least  sum_g tau_g      x[i,t] >= 0: the share of bin i in tier t;  sum_t x[i,t] = 1
//   with   fixed[g,r] + sum over i in g, t read through r of d_i s_i x[i,t]  <=  tau_g B_r     price lambda[g,r]
//          sum_i s_i x[i,t]  <=  C_t                                                           price mu[t]
//
// A group is one launch, which reads its tiers at once and takes as long as the slowest resource; groups
// follow each other, each balanced by itself, and share the capacities. With the composed price Lambda[g,t],
// the sum of lambda over the resources that tier t is read through, a byte of density d costs
//
//   cost(t) = Lambda[g,t] d + mu[t]
//
// and belongs where that is least: the lower envelope of a line for each tier. So the optimum consists of
// contiguous bands of density, the hottest in the tier that is cheapest to read, and only bins at a threshold
// are split. Where lines coincide (two tiers that neither fill up nor idle cost the same) the prices do not
// say where a page goes, only how much of the reads each of them takes: `shares` then has one of the optimal
// mixtures.
//
// Any prices >= 0 with sum_r lambda[g,r] B_r = 1 give a lower bound of sum_g tau_g (weak duality):
//
//   bound = sum lambda[g,r] fixed[g,r] - sum_t mu[t] C_t + sum_i s_i min_t cost(t)
//
// The solver is a primal simplex over the bands themselves: a column is one whole assignment of a group by
// bands, and the best one at the current prices is the envelope, read from prefix sums. The basis has a row
// for each load, capacity and group, whatever the number of bins. Two tiers of one group have a closed form.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace kvt::policy::bands {

inline constexpr uint32_t kTiersMax = 8;
inline constexpr uint32_t kLinksMax = 8;
inline constexpr uint32_t kGroupsMax =
    64;  ///< a basis inverse grows with its square: 64 groups of 8 tiers are 5 MB

/// Pages of like density, or one page. Its bytes may be spread over tiers.
struct Bin {
  double density = 0;  ///< expected reads of one of its bytes in the step
  double bytes = 0;
  uint32_t group = 0;
};

struct Tier {
  double capacity_bytes = 0;         ///< infinity: no limit
  double read_bytes_per_second = 0;  ///< as the consumer sees it; 0: can hold only what is not read
};

/// What several tiers are read through, such as the PCIe link in front of all memory of the host.
struct Link {
  double read_bytes_per_second = 0;  ///< 0: nothing behind it can be read
  uint32_t tiers = 0;                ///< bit t: tier t is read through it
};

/// Views: the caller keeps what they show.
struct Step {
  /// In any order; not sorted if by group and descending density, or of one group and ascending
  std::span<const Bin> bins;
  std::span<const Tier> tiers;  ///< 1 .. kTiersMax
  std::span<const Link> links;  ///< 0 .. kLinksMax
  uint32_t groups = 1;          ///< 1 .. kGroupsMax
  /// [group * tiers + tier]: bytes that the step reads there anyway (weights); they use the links, too.
  /// Empty: none.
  std::span<const double> fixed_bytes;
};

enum class Outcome : uint8_t {
  kSolved,
  kNoRoom,   ///< the bins do not fit: Solution::missing_bytes, `error` says of what
  kInvalid,  ///< a number that means nothing: `error` names it
};

/// At the prices, bins of `group` from `from_density` up (to the next threshold of the group) belong into
/// `tier`.
struct Threshold {
  uint32_t group = 0;
  uint32_t tier = 0;
  double from_density = 0;
};

/// Resources: the tiers, then the links. Numbers other than outcome, error and missing_bytes mean something
/// after kSolved alone.
struct Solution {
  Outcome outcome = Outcome::kInvalid;
  std::string error;         ///< empty when solved
  double missing_bytes = 0;  ///< room that lacks, when kNoRoom
  double seconds = 0;        ///< sum of group_seconds: what `shares` takes
  double bound_seconds = 0;  ///< no placement takes less: `bound` of the prices here
  std::vector<double> group_seconds;
  std::vector<double> shares;          ///< [bin * tiers + tier], in the order of Step::bins; sum 1 for a bin
  std::vector<double> bytes;           ///< [tier]; at most its capacity but for rounding, 1e-9 of all bytes
  std::vector<double> read_bytes;      ///< [group * tiers + tier], without what is fixed
  std::vector<double> resource_price;  ///< [group * resources + resource]: lambda, seconds a byte read
  std::vector<double> read_price;      ///< [group * tiers + tier]: Lambda; infinity where nothing can be read
  std::vector<double> room_price;      ///< [tier]: mu, seconds a byte of capacity
  std::vector<Threshold> thresholds;   ///< by group, ascending; a tier without a band is not in it
  uint32_t pivots = 0;  ///< of the simplex; 0: the closed form of two tiers, or nothing is read

  /// Seconds that a byte of `density` costs in `tier`.
  [[nodiscard]] double cost(uint32_t group, uint32_t tier, double density) const {
    const double read = density > 0 ? density * read_price[group * room_price.size() + tier] : 0;
    return read + room_price[tier];
  }
  /// Certified distance from the optimum as a share of it. Below 1e-10; more says that rounding got in the
  /// way.
  [[nodiscard]] double gap() const {
    return seconds > bound_seconds ? (seconds - bound_seconds) / seconds : 0;
  }
};

/// Memory of the solver, kept by the caller between calls so that a call of the same size allocates nothing.
/// Holds no state that a result depends on.
class Workspace {
 private:
  friend class Solver;
  /// Bytes of a group, hottest first, from the end of the segment before up to `end` lie in `tier`.
  struct Segment {
    double end = 0;
    uint32_t tier = 0;
  };
  /// One assignment of a whole group.
  struct Column {
    uint32_t group = 0;
    uint32_t count = 0;
    std::array<Segment, 2 * kTiersMax> segments;  ///< of bins that are read, then of the others
    std::array<double, kTiersMax> bytes;          ///< by tier
    std::array<double, kTiersMax> read;           ///< by tier
  };
  /// Bins of one group: [first, end) of `order`; its sums begin at first + group, since each has one more.
  struct Group {
    uint32_t first = 0, cold = 0, end = 0;  ///< `cold`: the first that is not read
  };
  enum class Kind : uint8_t { kSlack, kTime, kColumn };
  struct Basic {
    Kind kind = Kind::kSlack;
    uint32_t index = 0;  ///< of the row whose slack it is, or of the group
  };

  std::vector<uint32_t> order;  ///< bins by group, then the hottest first: there a byte weighs most
  std::vector<double> density;  ///< in that order
  std::vector<double> byte_sums, read_sums;
  std::vector<Group> groups;
  /// [rows + 1][rows + 1]: of the basis; last column: values; last row: dual values
  std::vector<double> inverse;
  std::vector<double> right;        ///< right-hand side
  std::vector<double> alpha;        ///< the entering column in terms of the basis
  std::vector<Basic> basic;         ///< by row
  std::vector<Column> columns;      ///< by row, where a column is basic
  std::vector<Basic> basic_before;  ///< while the basis is inverted anew
  std::vector<Column> columns_before;
  std::vector<Column> offered;  ///< by group: the best one at the prices
  std::vector<double> fixed;    ///< [group * resources + resource]
  std::vector<uint8_t> taken;   ///< rows, while the basis is inverted anew
};

/// Solves `step` into `solution`. Thread-safe with a workspace and a solution for each thread.
void solve(const Step& step, Workspace& workspace, Solution& solution);

/// A lower bound of the seconds of `step`, by any prices: resource_price as in Solution, of any scale (each
/// group's are scaled so that they add up to one second; all 0: the group counts for nothing), room_price in
/// the unit after that. Negative ones count as 0. REQUIRES: sizes as in Solution, a step that `solve` does
/// not refuse.
double bound(const Step& step, std::span<const double> resource_price, std::span<const double> room_price);

}  // namespace kvt::policy::bands
