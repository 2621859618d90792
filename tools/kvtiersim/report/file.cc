// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/report/file.h"

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace kvt::sim {

std::ofstream open_file(const std::string& path, const char* option) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  if (!file) throw std::invalid_argument(std::string(option) + " " + path + ": " + std::strerror(errno));
  return file;
}

void close_file(std::ofstream& file, const std::string& path) {
  file.close();
  if (!file) throw std::runtime_error(path + ": could not be written");
}

}  // namespace kvt::sim
