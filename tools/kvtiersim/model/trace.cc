// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/model/trace.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace kvt::sim {

StepView Trace::step(uint32_t n) const {
  StepView view;
  view.step = n;
  const auto begin = static_cast<size_t>(first[n]);
  const size_t count = static_cast<size_t>(first[n + 1]) - begin;
  view.page = std::span(page).subspan(begin, count);
  if (!reads.empty()) view.reads = std::span(reads).subspan(begin, count);
  if (!birth_first_.empty())
    view.born = std::span(birth_order_)
                    .subspan(static_cast<size_t>(birth_first_[n]),
                             static_cast<size_t>(birth_first_[n + 1] - birth_first_[n]));
  if (!advised_first.empty())
    view.advised = std::span(advised).subspan(static_cast<size_t>(advised_first[n]),
                                              static_cast<size_t>(advised_first[n + 1] - advised_first[n]));
  return view;
}

void Trace::finish() {
  const auto bad = [&](uint32_t n, uint32_t which, const char* what) {
    throw std::invalid_argument("trace \"" + name + "\", step " + std::to_string(n) + ": page " +
                                std::to_string(which) + " " + what);
  };
  if (!reads.empty() && reads.size() != page.size())
    throw std::invalid_argument("trace \"" + name + "\": reads and pages differ in number");
  if (!born_step.empty() && born_step.size() != pages)
    throw std::invalid_argument("trace \"" + name + "\": a step of birth for each page is expected");
  if (!parent.empty() && parent.size() != pages)
    throw std::invalid_argument("trace \"" + name + "\": a parent for each page is expected");
  for (uint32_t n = 0; n < steps(); ++n) {
    for (auto i = static_cast<size_t>(first[n]); i < first[n + 1]; ++i) {
      if (page[i] >= pages) bad(n, page[i], "does not exist");
      if (i > first[n] && page[i] <= page[i - 1]) bad(n, page[i], "is read twice or out of order");
      if (!born_step.empty() && born_step[page[i]] > n) bad(n, page[i], "is read before its birth");
    }
  }
  birth_order_.clear();
  birth_first_.clear();
  if (born_step.empty()) return;
  birth_first_.assign(steps() + size_t{1}, 0);
  for (const uint32_t n : born_step)
    if (n != 0 && n < steps()) ++birth_first_[n + size_t{1}];
  std::partial_sum(birth_first_.begin(), birth_first_.end(), birth_first_.begin());
  birth_order_.resize(static_cast<size_t>(birth_first_.back()));
  std::vector<uint64_t> at(birth_first_.begin(), birth_first_.end() - 1);
  for (uint32_t i = 0; i < pages; ++i)
    if (const uint32_t n = born_step[i]; n != 0 && n < steps())
      birth_order_[static_cast<size_t>(at[n]++)] = i;
}

uint64_t Trace::asked() const {
  return reads.empty() ? page.size() : std::accumulate(reads.begin(), reads.end(), uint64_t{0});
}

}  // namespace kvt::sim
