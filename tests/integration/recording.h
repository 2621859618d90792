// SPDX-License-Identifier: Apache-2.0
//
// A kvtierctl that records while a test goes on. One thread.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/daemon.h"

namespace kvt::test {

class Recording {
 public:
  /// Returns when the daemon records. `out`: the file.
  Recording(const Daemon& daemon, std::string out) : out_(std::move(out)), said_(out_ + ".said") {
    pid_ = ::fork();
    if (pid_ == 0) {
      const int said = ::open(said_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      ::dup2(said, STDOUT_FILENO);
      ::execl(KVTIERCTL_PATH, "kvtierctl", "--socket-dir", daemon.folder().c_str(), "--json", "record",
              "--out", out_.c_str(), "--seconds", "3600", nullptr);
      ::_exit(127);
    }
    EXPECT_TRUE(eventually([&] { return read(out_).find('\n') != std::string::npos; }))
        << "the first line is written once the daemon records";
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  ~Recording() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  /// Ends it as Ctrl-C does; what it printed.
  nlohmann::json finish() {
    ::kill(pid_, SIGINT);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    return nlohmann::json::parse(read(said_), nullptr, false);
  }
  [[nodiscard]] const std::string& path() const { return out_; }
  [[nodiscard]] static std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  std::string out_;
  std::string said_;
  pid_t pid_ = -1;
};

}  // namespace kvt::test
