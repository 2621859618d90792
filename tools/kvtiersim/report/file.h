// SPDX-License-Identifier: Apache-2.0
//
// Files that a command writes: opened before it works, so that a path that cannot be written shows before the
// minutes; and there when all is in them, so that what was there before is not lost to a command that fails.
#pragma once

#include <fstream>
#include <string>

namespace kvt::sim {

class OutputFile {
 public:
  /// `path` empty: none. Throws std::invalid_argument with the option and the reason.
  OutputFile(const std::string& path, const char* option);
  ~OutputFile();  ///< without finish() nothing has been written
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  [[nodiscard]] bool wanted() const { return !path_.empty(); }
  [[nodiscard]] std::ostream& stream() { return file_; }
  /// Throws std::runtime_error when not all could be written.
  void finish();

 private:
  std::string path_;
  std::string partial_;  ///< what is written until then; `path_` itself where that is a device or a pipe
  std::ofstream file_;
};

}  // namespace kvt::sim
