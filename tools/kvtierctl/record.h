// SPDX-License-Identifier: Apache-2.0
//
// `kvtierctl record`: has a running kvtierd write down what is read and where it is, and keeps it in a file
// (docs/recording.md). The daemon holds what was not fetched yet; this fetches it a few times a second. One
// thread.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace kvt::ctl {

struct RecordOptions {
  std::string socket_dir;
  std::string arena;  ///< empty: the daemon's first
  std::string out;
  double seconds = 10;
  bool json = false;
};

/// The file cannot be written. what() names it.
class NoFile : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Records for `seconds`, or until SIGINT or SIGTERM, and returns what to print. Throws NoFile, NoAnswer,
/// BadAnswer; the file then has no end, and readers say so.
std::string record(const RecordOptions& options);

}  // namespace kvt::ctl
