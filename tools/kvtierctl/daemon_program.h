// SPDX-License-Identifier: Apache-2.0
//
// kvtierd as a program: what it says of a configuration without serving anybody. No state.
#pragma once

#include <string>
#include <vector>

namespace kvt::ctl {

struct Ran {
  int exit_code = -1;  ///< -1: it could not be run, or a signal ended it; `words` say which
  std::string
      words;  ///< its stdout, or stderr when it failed; without "kvtierd: " and the newline at the end
};

/// $KVTIERD; else kvtierd beside this program, as installed or built; else as the shell finds it.
std::string kvtierd_program();
/// Runs it until it ends.
Ran run_kvtierd(const std::vector<std::string>& arguments);

}  // namespace kvt::ctl
