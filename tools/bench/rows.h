// SPDX-License-Identifier: Apache-2.0
//
// The list of rows: what each is called, how it is timed, and the function that runs it. Rows are handed to
// Google Benchmark in random order, but those that need the same daemon stay together, so that it starts
// once.
//
// A row throws when it cannot run or its checksum is wrong. That is caught in one place, becomes an error of
// the row (never a figure), and makes the program exit with 1.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace kvt::bench {

class RowError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
/// Throws RowError with `text` unless `condition`.
inline void require(bool condition, const char* text) {
  if (!condition) [[unlikely]]
    throw RowError(text);
}

/// Sizes of this run: the real ones, or those of --small.
struct Sizes {
  std::vector<uint64_t> pages = {1000000, 10000000};
  std::vector<uint64_t> keeper_pages = {1000000, 3000000, 10000000};
  uint64_t copy_pool_bytes = uint64_t{1} << 30;  ///< a side
  std::vector<uint64_t> page_bytes = {16384, 65536, 262144, 2097152};
  uint64_t changes = 262144;  ///< in each run of apply_changes
  uint64_t prefault_bytes = uint64_t{2} << 30;
  int64_t prefault_runs = 5;       ///< in each repetition
  uint64_t promoted_pages = 2048;  ///< of 64 KiB
  static Sizes small() {
    return {{20000, 50000},
            {20000, 50000},
            uint64_t{64} << 20,
            {16384, 65536, 262144, 2097152},
            4096,
            uint64_t{64} << 20,
            2,
            256};
  }
};

enum class Timing {
  kThreadCpu,   ///< CPU time of the row's thread beside wall time: for work without waiting
  kReal,        ///< wall time
  kManual,      ///< what the row says with SetIterationTime
  kProcessCpu,  ///< CPU time of all threads
};

struct Row {
  std::string name;
  std::optional<uint64_t> argument;
  std::string group;  ///< rows of one group run one after another
  Timing timing = Timing::kThreadCpu;
  int64_t iterations = 0;  ///< 0: as many as Google Benchmark finds necessary
  std::function<void(benchmark::State&)> run;
};

class RowList {
 public:
  void add(Row row) { rows_.push_back(std::move(row)); }
  /// Registers all rows in an order that `seed` gives. REQUIRES: this list outlives the run.
  void register_shuffled(uint64_t seed);
  [[nodiscard]] bool failed() const { return failed_; }

 private:
  std::vector<Row> rows_;
  bool failed_ = false;
};

class DaemonFixture;
void add_client_rows(RowList& rows, const Sizes& sizes, DaemonFixture& fixture);
void add_place_rows(RowList& rows, const Sizes& sizes, DaemonFixture& fixture);
void add_baseline_rows(RowList& rows, const Sizes& sizes);
void add_boost_rows(RowList& rows, const Sizes& sizes);
void add_copy_rows(RowList& rows, const Sizes& sizes);
void add_keeper_rows(RowList& rows, const Sizes& sizes);
void add_prefault_rows(RowList& rows, const Sizes& sizes);
void add_policy_rows(RowList& rows, const Sizes& sizes);
void add_peer_rows(RowList& rows, const Sizes& sizes);

/// Name of the group of rows on a daemon with `pages` that moves nothing; the baselines of those rows are in
/// it too.
std::string still_group(uint64_t pages);

}  // namespace kvt::bench
