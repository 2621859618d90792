// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/policy/page_oracle.h"

#include <algorithm>
#include <stdexcept>

namespace kvt::sim {

PageOracle::PageOracle(const Trace& trace, uint32_t block_pages, Gate gate)
    : trace_(trace), block_pages_(block_pages), gate_(gate) {
  if (block_pages == 0) throw std::invalid_argument("page oracle: blocks of at least one page are expected");
  next_.resize((trace.pages + block_pages - 1) / block_pages);
  in_.resize(next_.size(), 0);
}

double PageOracle::cost(uint32_t block, const World& world) const {
  double sum = 0;
  const uint32_t end = std::min((block + 1) * block_pages_, world.pages());
  for (uint32_t page = block * block_pages_; page < end; ++page)
    if (world.exists(page) && !world.fast(page)) sum += world.promotion_cost(page);
  return sum;
}

void PageOracle::bring(uint32_t block, World& world) {
  const uint32_t end = std::min((block + 1) * block_pages_, world.pages());
  for (uint32_t page = block * block_pages_; page < end && world.room() > 0; ++page)
    if (world.exists(page) && !world.fast(page)) world.promote(page);
  if (in_[block] == 0) resident_.push_back(block);
  in_[block] = 1;
}

void PageOracle::drop(uint32_t block, World& world) {
  const uint32_t end = std::min((block + 1) * block_pages_, world.pages());
  for (uint32_t page = block * block_pages_; page < end; ++page)
    if (world.fast(page)) world.demote(page);
  in_[block] = 0;
}

void PageOracle::step(const StepView& step, World& world) {
  if (step.step + 1 >= trace_.steps()) return;
  std::fill(next_.begin(), next_.end(), 0);
  const StepView next = trace_.step(step.step + 1);
  for (size_t i = 0; i < next.page.size(); ++i) next_[next.page[i] / block_pages_] += next.reads_of(i);
  // A block that is still being written grows where it is.
  if (!step.born.empty())
    for (const uint32_t page : step.born)
      if (in_[page / block_pages_] != 0 && world.room() > 0) world.promote(page);

  candidates_.clear();
  for (uint32_t block = 0; block < next_.size(); ++block)
    if (in_[block] == 0 && next_[block] != 0 && world.exists(block * block_pages_))
      candidates_.push_back(block);
  std::stable_sort(candidates_.begin(), candidates_.end(),
                   [&](uint32_t a, uint32_t b) { return next_[a] > next_[b]; });
  victims_ = resident_;
  if (gate_ == Gate::kPays)
    std::stable_sort(victims_.begin(), victims_.end(),
                     [&](uint32_t a, uint32_t b) { return next_[a] < next_[b]; });
  size_t victim = 0;
  for (const uint32_t block : candidates_) {
    if (world.room() < block_pages_) {
      if (gate_ == Gate::kNone)
        while (victim < victims_.size() && next_[victims_[victim]] != 0) ++victim;
      if (victim == victims_.size()) break;
      if (gate_ == Gate::kPays) {
        if (next_[block] <= next_[victims_[victim]]) break;  // so is all that follows
        if (next_[block] - next_[victims_[victim]] <= cost(block, world)) continue;
      }
      drop(victims_[victim++], world);
      if (world.room() < block_pages_) break;  // a block that is not yet whole
    }
    bring(block, world);
  }
  std::erase_if(resident_, [&](uint32_t block) { return in_[block] == 0; });
}

}  // namespace kvt::sim
