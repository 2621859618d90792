// SPDX-License-Identifier: Apache-2.0
//
// One question to kvtierd over control.sock: a line of JSON out, a line of JSON back. No state; thread-safe.
#pragma once

#include <stdexcept>
#include <string>

namespace kvt::ctl {

/// Nobody answers, or not in time. what() names the socket and says what to do.
class NoAnswer : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// $KVTIER_SOCKET_DIR, else /run/kvtier.
std::string default_socket_dir();

/// Sends `request` (one line, without its newline) to socket_dir/control.sock and returns everything that
/// comes back until the daemon closes. Waits at most `timeout_ms` for each piece. Throws NoAnswer.
std::string ask(const std::string& socket_dir, const std::string& request, int timeout_ms);

}  // namespace kvt::ctl
