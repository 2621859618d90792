// SPDX-License-Identifier: Apache-2.0
//
// The page reads of a run as JSON lines, for a placement simulator. The format is a contract: docs/decode.md.
// Not thread-safe.
#pragma once

#include <fstream>
#include <string>

#include "tools/kvtier-decode/decoder.h"
#include "tools/kvtier-decode/keys.h"

namespace kvt::decode {

struct RecordHeader {
  Shape shape;
  std::array<uint64_t, 2> weights{};
  KvLayout layout;
  AttentionKind attention;
  uint64_t seed = 0;
  uint64_t salt = 0;
  size_t prompt_tokens = 0;
  size_t tokens = 0;
};

class Record {
 public:
  /// Writes the header. Throws UsageError when the file cannot be made.
  Record(const std::string& path, const RecordHeader& header);
  /// One step, and the key of the page that it has filled.
  void write(const StepEvent& event);
  /// Throws std::runtime_error when not all could be written.
  void close();

 private:
  std::string path_;
  std::ofstream file_;
  KvLayout layout_;
  KeyChain keys_;
  size_t steps_ = 0;
  size_t pages_named_ = 0;
};

}  // namespace kvt::decode
