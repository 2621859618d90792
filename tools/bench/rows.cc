// SPDX-License-Identifier: Apache-2.0
#include "tools/bench/rows.h"

#include <algorithm>
#include <map>
#include <random>

namespace kvt::bench {

std::string still_group(uint64_t pages) { return "still/" + std::to_string(pages); }

void RowList::register_shuffled(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::shuffle(rows_.begin(), rows_.end(), random);
  std::vector<std::string> order;
  for (const Row& row : rows_)
    if (std::find(order.begin(), order.end(), row.group) == order.end()) order.push_back(row.group);
  std::shuffle(order.begin(), order.end(), random);
  std::stable_sort(rows_.begin(), rows_.end(), [&](const Row& a, const Row& b) {
    return std::find(order.begin(), order.end(), a.group) < std::find(order.begin(), order.end(), b.group);
  });

  for (const Row& row : rows_) {
    auto* const registered =
        benchmark::RegisterBenchmark(row.name.c_str(), [this, &row](benchmark::State& state) {
          try {
            row.run(state);
          } catch (const std::exception& error) {
            failed_ = true;
            state.SkipWithError(error.what());
          }
        });
    if (row.argument) registered->Arg(static_cast<int64_t>(*row.argument));
    if (row.iterations != 0) registered->Iterations(row.iterations);
    switch (row.timing) {
      case Timing::kThreadCpu: break;
      case Timing::kReal: registered->UseRealTime(); break;
      case Timing::kManual: registered->UseManualTime(); break;
      case Timing::kProcessCpu: registered->MeasureProcessCPUTime(); break;
    }
  }
}

}  // namespace kvt::bench
