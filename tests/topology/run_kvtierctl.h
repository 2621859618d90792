// SPDX-License-Identifier: Apache-2.0
//
// Runs the kvtierctl that was built, with nothing of the caller's environment that it looks at.
#pragma once

#include <string>
#include <vector>

namespace kvt::test {

struct Outcome {
  int code = -1;  ///< exit code; -1: it was ended by a signal
  std::string out;
  std::string err;
};

/// `state_dir`: $KVTIER_STATE_DIR; its socket folder is one that is not there.
Outcome run_kvtierctl(const std::vector<std::string>& arguments, const std::string& state_dir);

}  // namespace kvt::test
