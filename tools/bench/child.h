// SPDX-License-Identifier: Apache-2.0
//
// A child process that cannot outlive this one, and a private folder that is removed again.
// Movable, not copyable; one thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

namespace kvt::bench {

class TemporaryFolder {
 public:
  /// Under `parent`, or $TMPDIR, or /tmp; mode 0700.
  explicit TemporaryFolder(const std::string& parent = "");
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class Child {
 public:
  Child() = default;
  /// Starts argv[0] (searched in $PATH). `output`: file for stdout and stderr; empty: this process's own.
  /// Descriptors `inherit[i]` arrive as 3 + i. The kernel ends the child with SIGTERM when this process dies.
  /// Throws RowError.
  Child(std::vector<std::string> argv, const std::string& output, std::vector<int> inherit = {});
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Child& operator=(Child&& other) noexcept {
    std::swap(pid_, other.pid_);
    return *this;
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { stop(); }

  [[nodiscard]] bool running();
  /// SIGTERM, and SIGKILL after 20 s. Returns whether the child was alive and left in order (exit status 0,
  /// or ended by that SIGTERM). Nothing to do: true.
  bool stop();

 private:
  pid_t pid_ = -1;
};

/// Waits until the Unix socket `path` of `type` accepts connections, while `server` runs. Throws RowError
/// that names `log` and ends with its last lines when the server died or `timeout_ms` passed.
void wait_for_socket(const std::string& path, int type, Child& server, const std::string& log,
                     int timeout_ms);

}  // namespace kvt::bench
