// SPDX-License-Identifier: Apache-2.0
//
// Reads requests from a Mooncake-format trace: one JSON object a line with timestamp (ms), input_length,
// output_length (tokens) and hash_ids. A line that is none is reported with its number, and skipped, or ends
// the replay when strict. Reads only as far as it is asked.
#pragma once

#include <fstream>
#include <string>

#include "tools/kvtier-replay/request.h"

namespace kvt::replay {

class TraceReader : public RequestSource {
 public:
  /// Throws UsageError when the file cannot be opened.
  TraceReader(std::string path, bool strict);

  /// Throws UsageError on a bad line when strict.
  std::optional<Request> next() override;
  [[nodiscard]] uint64_t bad_lines() const { return bad_lines_; }

 private:
  void report_bad(const std::string& expected);

  std::string path_;
  bool strict_;
  std::ifstream file_;
  uint64_t line_ = 0;
  uint64_t bad_lines_ = 0;
  double last_timestamp_ms_ = 0;
};

}  // namespace kvt::replay
