// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/report/file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <system_error>

namespace kvt::sim {

OutputFile::OutputFile(const std::string& path, const char* option) : path_(path) {
  if (path.empty()) return;
  std::error_code ignored;
  const bool replaced =
      !std::filesystem::exists(path, ignored) || std::filesystem::is_regular_file(path, ignored);
  partial_ = replaced ? path + ".partial" : path;
  file_.open(partial_, std::ios::binary | std::ios::trunc);
  if (!file_) throw std::invalid_argument(std::string(option) + " " + path + ": " + std::strerror(errno));
}

OutputFile::~OutputFile() {
  std::error_code ignored;
  if (partial_ != path_) std::filesystem::remove(partial_, ignored);
}

void OutputFile::finish() {
  file_.close();
  std::error_code error;
  if (file_ && partial_ != path_) std::filesystem::rename(partial_, path_, error);
  if (!file_ || error) throw std::runtime_error(path_ + ": could not be written");
}

}  // namespace kvt::sim
