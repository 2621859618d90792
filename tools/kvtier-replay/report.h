// SPDX-License-Identifier: Apache-2.0
//
// What came of a replay, for people and for programs. The names in the JSON are a contract.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/kvtier-replay/control.h"
#include "tools/kvtier-replay/reads.h"
#include "tools/kvtier-replay/totals.h"

namespace kvt::replay {

struct Outcome {
  std::string source;  ///< "file F" or "the built-in generator, seed S"
  uint64_t planned_requests = 0;
  double planned_reuse = 0;
  double source_seconds = 0;
  uint64_t bad_lines = 0;
  uint64_t prompts_cut = 0;
  ReadModel read_model = ReadModel::kSparse;
  std::string gates;  ///< file, or "built-in gates"
  std::string inject;
  std::string integrity = "off";
  bool cuda = false;      ///< pages are read and written by a GPU
  std::string driver;     ///< its driver as CudaChoice::text says; empty: none
  bool stand_in = false;  ///< that is no real one: HBM is ordinary memory
  std::string socket_dir;
  std::string arena;
  std::vector<int64_t> pids;
  double wall_seconds = 0;
  int interrupted_by = 0;
  std::vector<std::string> failures;
  Totals totals;
  DaemonStatus before;
  DaemonStatus after;  ///< after quiesce; pages and frames are final
  bool after_known = false;

  /// Frames that no word accounts for, FILLING pages without a session, sealed pages that nobody can find.
  [[nodiscard]] uint64_t leaked() const;
  [[nodiscard]] bool good() const;
};

void print_report(const Outcome& outcome);
/// Throws std::runtime_error when the file cannot be written.
void write_json(const Outcome& outcome, const std::string& path);

/// The counters of `after` less those of `before`.
Moves moves_between(const Moves& before, const Moves& after);
/// "12.3 GiB"
std::string bytes_text(uint64_t bytes);
/// "1.23 G"
std::string count_text(uint64_t count);

}  // namespace kvt::replay
