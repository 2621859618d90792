// SPDX-License-Identifier: Apache-2.0
//
// What the machine does without kvtier: the same work on plain arrays of the same size, visited in the same
// order.
#include <cstring>
#include <memory>
#include <vector>

#include "tools/bench/memory.h"
#include "tools/bench/rows.h"
#include "tools/bench/sequence.h"

namespace kvt::bench {
namespace {

void baseline_load(benchmark::State& state, uint64_t pages) {
  const SharedArray<uint64_t> words(pages);
  for (uint64_t i = 0; i < pages; ++i) words[i] = mix(i);
  const std::vector<uint32_t> order = visits(pages);
  std::vector<uint64_t> expected(order.size() / kBatch);
  for (uint64_t i = 0; i < order.size(); ++i) expected[i / kBatch] += mix(order[i]);
  BatchCursor cursor(order.size());
  uint64_t sum = 0;
  uint64_t batches = 0;
  while (state.KeepRunningBatch(kBatch)) {
    const uint32_t* const batch = &order[cursor.next()];
    uint64_t batch_sum = 0;
    for (uint64_t i = 0; i < kBatch; ++i) batch_sum += words[batch[i]];
    benchmark::DoNotOptimize(batch_sum);
    sum += batch_sum;
    ++batches;
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
  require(sum == sum_of_batches(expected, 0, batches), "the sum of the words is wrong");
}

void baseline_increment(benchmark::State& state, uint64_t pages) {
  const SharedArray<uint32_t> counters(pages);
  std::memset(counters.data(), 0, pages * sizeof(uint32_t));  // memory there before the time begins
  const std::vector<uint32_t> order = visits(pages);
  BatchCursor cursor(order.size());
  while (state.KeepRunningBatch(kBatch)) {
    const uint32_t* const batch = &order[cursor.next()];
    for (uint64_t i = 0; i < kBatch; ++i) ++counters[batch[i]];
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
  uint64_t sum = 0;
  for (uint64_t i = 0; i < pages; ++i) sum += counters[i];
  require(sum == static_cast<uint64_t>(state.iterations()), "the counters do not add up to the increments");
}

/// Open addressing with linear probing: key and page side by side, as a program without readers in other
/// processes and without removal would do it. Filled to 3/4 at most, as the prefix index is.
class PlainTable {
 public:
  explicit PlainTable(uint64_t keys) {
    uint64_t slots = 64;
    while (slots * 3 < keys * 4) slots *= 2;
    slots_ = SharedArray<Slot>(slots);
    mask_ = slots - 1;
    std::memset(static_cast<void*>(slots_.data()), 0, slots * sizeof(Slot));
  }
  void insert(kvt_key key, uint64_t page) {
    uint64_t at = home(key);
    while (slots_[at].key.lo != 0 || slots_[at].key.hi != 0) at = (at + 1) & mask_;
    slots_[at] = {key, page};
  }
  [[nodiscard]] uint64_t find(kvt_key key) const {
    for (uint64_t at = home(key);; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.key.lo == key.lo && slot.key.hi == key.hi) return slot.page;
      if (slot.key.lo == 0 && slot.key.hi == 0) return KVT_NO_PAGE;
    }
  }

 private:
  struct Slot {
    kvt_key key;
    uint64_t page;
  };
  [[nodiscard]] uint64_t home(kvt_key key) const { return (key.lo ^ key.hi) & mask_; }
  SharedArray<Slot> slots_;
  uint64_t mask_ = 0;
};

void baseline_hash_probe(benchmark::State& state, uint64_t pages) {
  PlainTable table(pages);
  for (uint64_t number = 0; number < pages; ++number) table.insert(key_of(number), number);
  const std::vector<uint32_t> order = visits(pages);
  std::vector<kvt_key> keys(order.size());
  std::vector<uint64_t> expected(order.size() / kBatch);
  for (uint64_t i = 0; i < order.size(); ++i) {
    keys[i] = key_of(order[i]);
    expected[i / kBatch] += order[i];
  }
  BatchCursor cursor(order.size());
  uint64_t sum = 0;
  uint64_t batches = 0;
  while (state.KeepRunningBatch(kBatch)) {
    const kvt_key* const batch = &keys[cursor.next()];
    uint64_t batch_sum = 0;
    for (uint64_t i = 0; i < kBatch; ++i) batch_sum += table.find(batch[i]);
    benchmark::DoNotOptimize(batch_sum);
    sum += batch_sum;
    ++batches;
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
  state.SetLabel("no hold, no recheck, no prefetch");
  require(sum == sum_of_batches(expected, 0, batches), "a probe found another page");
}

}  // namespace

void add_baseline_rows(RowList& rows, const Sizes& sizes) {
  for (const uint64_t pages : sizes.pages) {
    const auto add = [&](const char* name, void (*function)(benchmark::State&, uint64_t)) {
      rows.add({name, pages, still_group(pages), Timing::kThreadCpu, 0,
                [function, pages](benchmark::State& state) { function(state, pages); }});
    };
    add("baseline_load", baseline_load);
    add("baseline_increment", baseline_increment);
    add("baseline_hash_probe", baseline_hash_probe);
  }
}

}  // namespace kvt::bench
