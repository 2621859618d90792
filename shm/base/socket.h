// SPDX-License-Identifier: Apache-2.0
//
// One message with descriptors over a Unix SOCK_SEQPACKET socket. Used by both ends of attach.sock.
// Functions only; a socket belongs to one thread at a time.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "shm/base/fd.h"

namespace kvt {

struct Message {
  std::vector<std::byte> bytes;
  std::vector<Fd> fds;
  bool truncated =
      false;  ///< more bytes or descriptors came than a message may have (the descriptors are all in `fds`)
  bool end = false;  ///< the other side has closed
};

/// Sends one message, never blocking. kAgain when the other side does not take it.
Result<void> send_message(const Fd& socket, std::span<const std::byte> bytes, std::span<const int> fds);
/// Receives one message if there is one (kAgain if not). Descriptors arrive close-on-exec.
Result<Message> receive_message(const Fd& socket);

/// A listening SOCK_SEQPACKET or SOCK_STREAM socket at `path` with `mode`; replaces a dead one, refuses a
/// live one.
Result<Fd> listen_unix(const std::string& path, int type, mode_t mode);
Result<Fd> connect_unix(const std::string& path, int type);

}  // namespace kvt
