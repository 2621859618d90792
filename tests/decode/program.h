// SPDX-License-Identifier: Apache-2.0
//
// The program, run to its end. Nothing here keeps state.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace kvt::test {

using nlohmann::json;

struct Said {
  int exit_code = -1;
  std::string text;  ///< stdout and stderr
};

/// `environment`: "NAME=value ...".
inline Said run_program(const std::string& arguments, const std::string& environment = "") {
  Said said;
  std::FILE* const pipe =
      ::popen(("env " + environment + " " + KVTIER_DECODE_PATH + " " + arguments + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return said;
  char buffer[4096];
  for (size_t n = 0; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) said.text.append(buffer, n);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) said.exit_code = WEXITSTATUS(status);
  return said;
}

inline json json_of(const std::string& path) {
  std::ifstream file(path);
  return json::parse(file, nullptr, false);
}

inline void expect_refusal(const std::string& arguments, int exit_code, const std::string& words,
                           const std::string& environment = "") {
  const Said said = run_program(arguments, environment);
  EXPECT_EQ(said.exit_code, exit_code) << arguments << "\n" << said.text;
  EXPECT_NE(said.text.find(words), std::string::npos) << arguments << "\n" << said.text;
}

}  // namespace kvt::test
