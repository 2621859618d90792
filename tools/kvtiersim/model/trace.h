// SPDX-License-Identifier: Apache-2.0
//
// What was read: steps, and the pages that each step read. The one form that all generators and readers of
// files make and that all policies and bounds are measured on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace kvt::sim {

/// What happened in one step: views into a trace.
struct StepView {
  uint32_t step = 0;
  std::span<const uint32_t> page;   ///< pages read, each once, ascending
  std::span<const uint16_t> reads;  ///< parallel to `page`; empty: one read each
  std::span<const uint32_t> born;   ///< pages that are written in this step and exist from then on, ascending
  /// Pages that clients announced, in this step, for the next one, ascending
  std::span<const uint32_t> advised;
  [[nodiscard]] uint32_t reads_of(size_t i) const { return reads.empty() ? 1 : reads[i]; }
};

struct Trace {
  std::string name;
  uint64_t page_bytes = 0;
  uint32_t pages = 0;  ///< ids are 0 .. pages-1
  /// Bytes that each step moves whatever the placement is: weights, read from the fastest tier; and those
  /// that it writes for new tokens.
  double fixed_read_bytes = 0;
  double written_bytes = 0;

  // Reads of step n: page[first[n]] .. page[first[n+1]].
  std::vector<uint64_t> first{0};
  std::vector<uint32_t> page;
  std::vector<uint16_t> reads;  ///< parallel to `page`; empty: one each

  std::vector<uint32_t> born_step;  ///< [pages]; empty: all pages are there from the start
  /// [pages], UINT32_MAX: none; empty: no page has one. A page is useful only with its parent
  std::vector<uint32_t> parent;
  std::vector<uint64_t> advised_first;  ///< as `first`, over `advised`; empty: no advice
  std::vector<uint32_t> advised;

  [[nodiscard]] uint32_t steps() const { return static_cast<uint32_t>(first.size() - 1); }
  [[nodiscard]] StepView step(uint32_t n) const;
  /// Ends the step whose reads have been appended to `page` (and `reads`).
  void end_step() { first.push_back(page.size()); }
  /// To be called when all steps are there: orders pages by birth for StepView::born. Throws
  /// std::invalid_argument where a step reads a page twice, out of order, before its birth, or one that does
  /// not exist.
  void finish();
  /// Total reads.
  [[nodiscard]] uint64_t asked() const;

 private:
  std::vector<uint32_t> birth_order_;  // pages with a birth after step 0's beginning, by step
  std::vector<uint64_t> birth_first_;  // as `first`, over birth_order_
};

/// What a generator knows and a policy does not: the expected reads of every page in the next step, given
/// what has been read so far and nothing else. observe() is called once a step, in order.
class Beliefs {
 public:
  virtual ~Beliefs() = default;
  virtual void observe(const StepView& step) = 0;
  /// Expected reads of each page in the step after the one observed last. Valid until the next observe().
  [[nodiscard]] virtual std::span<const float> next() const = 0;
};

struct Recorded;

/// A trace and, where it was generated, who knows its law.
struct Workload {
  Trace trace;
  std::function<std::unique_ptr<Beliefs>()> beliefs;  ///< empty: nobody knows
  /// Of a recording: the machine and the placement it had (workload/recording.h)
  std::shared_ptr<const Recorded> recorded;
};

}  // namespace kvt::sim
