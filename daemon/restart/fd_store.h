// SPDX-License-Identifier: Apache-2.0
//
// Descriptors that outlive this process: kept under names by the service manager (systemd's FileDescriptorStore, or
// `kvtierd --keep`, which speaks the same protocol), and given back at the next start.
//
//   daemon                                        manager
//   FDSTORE=1, FDNAME, FDPOLL=0, the descriptor ->  keeps it
//   BARRIER=1, the write end of a pipe          ->  closes it, when all before it has been done
//   FDSTOREREMOVE=1, FDNAME                     ->  lets go of it
//   <- at the next start: LISTEN_FDS descriptors from 3 on, LISTEN_FDNAMES
//
// Sockets that the manager listens at come the same way, at each start.
// Messages are datagrams, no calls: only the barrier says that what was sent has been done (PROTOCOL A2). One thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "shm/base/fd.h"
#include "shm/base/result.h"

namespace kvt::restart {

class FdStore {
 public:
  /// Takes the descriptors that the manager gave to this process, and finds out whether there is one. Once a process:
  /// the variables are for this process alone and are removed. `descriptors_max`: how many the manager keeps
  /// (FileDescriptorStoreMax); a manager that says so itself (FDSTORE) is believed.
  static FdStore open(uint64_t descriptors_max);
  FdStore() = default;

  /// Whether what is stored will be given back.
  [[nodiscard]] bool is_kept() const { return !socket_path_.empty(); }
  /// The descriptor that was given back under this name, which is the caller's now, and stays stored; not valid: none.
  [[nodiscard]] Fd take(const std::string& name);
  /// The same without taking it; -1: none.
  [[nodiscard]] int peek(const std::string& name) const;
  /// The listening Unix socket of this type (SOCK_...) that the manager has opened for this process under this name: a
  /// socket unit's FileDescriptorName. It is the manager's, and no part of what is stored. Not valid: there is none.
  /// kInvalid: what has the name is something else.
  Result<Fd> take_listener(const std::string& name, int type);
  /// The manager ends a process that has not said WATCHDOG=1 for so long (WATCHDOG_USEC); none: it does not.
  [[nodiscard]] std::optional<std::chrono::microseconds> watchdog() const { return watchdog_; }
  /// Names of those that nobody has taken.
  [[nodiscard]] std::vector<std::string> left() const;

  /// Whether so many more fit.
  [[nodiscard]] bool has_room(uint64_t more) const { return !is_kept() || names_.size() + more <= max_; }
  [[nodiscard]] uint64_t stored() const { return names_.size(); }
  [[nodiscard]] uint64_t max() const { return max_; }
  /// Sends a duplicate to be kept; without a manager nothing. kAgain when the manager does not read its messages,
  /// kLimit when it has no room. REQUIRES: no other is stored under this name; no ':' and no control character in it.
  Result<void> put(const std::string& name, int fd);
  /// The manager may let go of it. Without effect for a name that is not stored.
  void remove(const std::string& name);
  /// Readable (end of file) when the manager has done all that was sent before. Not valid without a manager.
  Result<Fd> barrier();
  /// barrier(), and waits for it. kAgain when it did not come in time.
  Result<void> wait(std::chrono::milliseconds limit);
  /// Sends what the manager had no room for. False: some waits; call again soon.
  bool flush();
  /// A line of the protocol for people and watchdogs: "READY=1\nSTATUS=..."; lost when the manager does not read.
  void notify(const std::string& text);

 private:
  struct Letter {
    std::string text;
    Fd fd;
  };
  bool connect();
  Result<void> send_now(const Letter& letter);
  Result<void> send(const std::string& text, int fd);

  std::string socket_path_;  // as in the address: '\0' first for an abstract one
  Fd socket_;
  std::deque<Letter> waiting_;
  uint64_t max_ = 0;
  std::optional<std::chrono::microseconds> watchdog_;
  std::map<std::string, Fd> given_;
  std::map<std::string, uint32_t> names_;  // stored now, and how often (a manager may have kept one twice)
};

}  // namespace kvt::restart
