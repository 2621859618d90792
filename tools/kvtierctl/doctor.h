// SPDX-License-Identifier: Apache-2.0
//
// `kvtierctl doctor`: what of this machine works against kvtierd, and what to do. Works with and without a daemon. What
// it knows comes from files below a root, which may be another machine's or a test's; only of this machine it also tries
// what the kernel can. One thread.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace kvt::ctl {

enum class Verdict : uint8_t { kOk, kWarn, kBad };

struct Finding {
  std::string code;  ///< for programs
  Verdict verdict = Verdict::kOk;
  std::string seen;
  std::string why;     ///< it matters
  std::string action;  ///< what to do; empty when it is well
};

/// What the daemon that answers has said of itself.
struct DaemonSeen {
  bool answers = false;
  std::string words;  ///< its version and pid, or why it does not answer
  int pid = 0;
};

/// A machine as its files show it.
class Host {
 public:
  /// `root` is "" for this machine.
  explicit Host(std::string root) : root_(std::move(root)) {}
  [[nodiscard]] bool is_this() const { return root_.empty(); }
  [[nodiscard]] std::string path(const std::string& of) const { return root_ + of; }
  /// The file's text without the newline at its end; "" where it cannot be read.
  [[nodiscard]] std::string text(const std::string& of) const;
  [[nodiscard]] bool exists(const std::string& of) const;
  /// A number at the beginning of a file; `otherwise` where there is none.
  [[nodiscard]] int64_t number(const std::string& of, int64_t otherwise) const;
  /// "NAME:   NUMBER" of /proc/meminfo and the like.
  [[nodiscard]] int64_t field(const std::string& of, const std::string& name, int64_t otherwise) const;

 private:
  std::string root_;
};

// Each looks at one thing (doctor_checks.cc). `pid` is the daemon's, or "self".

Finding look_at_kernel(const Host& host);
Finding look_at_huge_pages(const Host& host);
Finding look_at_memlock(const Host& host, const std::string& pid);
Finding look_at_files(const Host& host, const std::string& pid);
Finding look_at_numa_balancing(const Host& host);
Finding look_at_zone_reclaim(const Host& host);
Finding look_at_overcommit(const Host& host);
Finding look_at_swap(const Host& host);
Finding look_at_cgroup(const Host& host, const std::string& pid);
Finding look_at_nodes(const Host& host, const std::string& pid);
Finding look_at_clock(const Host& host);
Finding look_at_gpu(const Host& host);
Finding look_at_sockets(const Host& host, const std::string& socket_dir, const DaemonSeen& daemon);

}  // namespace kvt::ctl
