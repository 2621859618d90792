// SPDX-License-Identifier: Apache-2.0
//
// Files that a command writes: opened before it works, so that a path that cannot be written shows before the
// minutes.
#pragma once

#include <fstream>
#include <string>

namespace kvt::sim {

/// Throws std::invalid_argument with the option and the reason.
[[nodiscard]] std::ofstream open_file(const std::string& path, const char* option);
/// Throws std::runtime_error when not all has been written.
void close_file(std::ofstream& file, const std::string& path);

}  // namespace kvt::sim
