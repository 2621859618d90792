// SPDX-License-Identifier: Apache-2.0
//
// Where something listens, as the configuration says it: "unix:NAME" or "ADDRESS:PORT". Values; no state.
#pragma once

#include <cstdint>
#include <string>

#include "shm/base/result.h"

namespace kvt {

struct ListenAddress {
  std::string path;     ///< of a Unix socket, as it was given; empty: the next two
  std::string address;  ///< a number, such as 127.0.0.1 or ::1
  uint16_t port = 0;
  bool is_ipv6 = false;
  bool is_loopback = false;  ///< only processes of this host reach it

  [[nodiscard]] bool is_unix() const { return !path.empty(); }
};

/// kInvalid: the text is neither "unix:" and a path, nor a numeric address and a port from 1 to 65535, an IPv6 address
/// in brackets.
Result<ListenAddress> parse_listen_address(const std::string& text);

}  // namespace kvt
