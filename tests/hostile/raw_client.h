// SPDX-License-Identifier: Apache-2.0
//
// A client that speaks the wire without libkvtier: any bytes, any descriptors, any words in its region. It
// checks nothing that it is told to write. One thread, unless a word is said to be raced for.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "shm/abi/wire.h"
#include "shm/base/mapping.h"
#include "shm/base/socket.h"
#include "shm/region/arena_table.h"
#include "shm/region/rings.h"
#include "shm/region/session_region.h"
#include "tests/support/daemon.h"

namespace kvt::test {

/// A wire message with its head filled in.
template <typename Struct>
Struct wire_message(uint16_t type) {
  Struct message{};
  message.header = {KVT_WIRE_MAGIC, type, sizeof(Struct)};
  return message;
}
kvt_wire_hello hello_message();
/// For reading and writing, one member, whatever geometry the arena has.
kvt_wire_attach attach_message(const std::string& arena);

/// What came back.
struct Answer {
  uint16_t type = 0;    ///< of kvt_wire_type; 0: the connection has ended, or nothing came in time
  uint32_t status = 0;  ///< of a REFUSED
  std::string text;     ///< of a REFUSED
  Message message;
  [[nodiscard]] bool ended() const { return message.end; }
};

class RawClient {
 public:
  /// Connects; see connected().
  explicit RawClient(const std::string& socket_dir);
  explicit RawClient(const Daemon& daemon) : RawClient(daemon.folder()) {}
  explicit RawClient(Fd socket) : socket_(std::move(socket)) {}

  [[nodiscard]] bool connected() const { return socket_.valid(); }
  [[nodiscard]] const Fd& socket() const { return socket_; }
  Fd take_socket() { return std::move(socket_); }
  void close() { socket_.reset(); }

  /// One message, as it is. Waits while the daemon takes none. false: the connection has ended.
  bool send(std::span<const std::byte> bytes, std::span<const int> fds = {}) const;
  template <typename Struct>
  bool send(const Struct& message, std::span<const int> fds = {}) const {
    return send(std::as_bytes(std::span(&message, 1)), fds);
  }
  [[nodiscard]] Answer receive() const;

  template <typename Struct>
  Answer ask(const Struct& message, std::span<const int> fds = {}) const {
    return send(message, fds) ? receive() : Answer{};
  }
  Answer ask_bytes(std::span<const std::byte> bytes, std::span<const int> fds = {}) const {
    return send(bytes, fds) ? receive() : Answer{};
  }
  /// HELLO; whether it was welcome.
  [[nodiscard]] bool greet() const;
  /// With the own pidfd.
  template <typename Struct>
  Answer ask_with_pidfd(const Struct& message) const {
    const Fd pidfd = pidfd_of(::getpid());
    const int fds[] = {pidfd.get()};
    return ask(message, fds);
  }
  Answer detach() const { return ask(wire_message<kvt_wire_empty>(KVT_WIRE_DETACH)); }

  static Fd pidfd_of(pid_t pid, unsigned flags = 0);

 private:
  Fd socket_;
};

/// A GRANT, mapped. Its process has raw access to the region; the table is read-only.
class RawSession {
 public:
  RawSession() = default;
  /// Empty (see valid()): the answer is no GRANT, or something in it cannot be mapped.
  static RawSession of(Answer answer);
  /// Connects, greets and attaches.
  static RawSession attach(RawClient& client, const kvt_wire_attach& request);

  [[nodiscard]] bool valid() const { return table_mapping_.valid(); }
  [[nodiscard]] const kvt_wire_grant& grant() const { return grant_; }
  [[nodiscard]] const std::vector<Fd>& fds() const { return fds_; }
  [[nodiscard]] const Fd& doorbell() const { return fds_[2]; }
  [[nodiscard]] const ArenaTable& table() const { return table_; }
  [[nodiscard]] const SessionRegion& region() const { return region_; }
  [[nodiscard]] kvt_abi_member& member() const { return region_.member(grant_.member); }
  [[nodiscard]] uint64_t* words() const { return reinterpret_cast<uint64_t*>(session_mapping_.data()); }
  [[nodiscard]] uint64_t word_count() const { return session_mapping_.bytes() / 8; }
  [[nodiscard]] Handle handle(PageIndex page) const {
    return Handle::of(page, table_.placement(0, page).generation());
  }
  /// A word of the region at a byte offset, of 1 to 8 bytes.
  void poke(uint64_t offset, uint64_t value, uint32_t bytes) const {
    std::memcpy(session_mapping_.data() + offset, &value, bytes);
  }

  /// Wakes the daemon.
  void ring() const;
  /// Puts a command where the daemon reads next; does not ring.
  void push(const kvt_abi_submission& command);
  /// Pushes, rings and waits for this command's completion. None: it did not come before `limit`.
  std::optional<kvt_abi_completion> command(kvt_abi_submission command,
                                            std::chrono::milliseconds limit = kPatience);
  /// The result of a command; UINT32_MAX: none came.
  uint32_t result_of(const kvt_abi_submission& command);
  /// Takes a fresh page from the magazine, held; kNoHandle: none came.
  Handle take_page();
  /// Takes, seals and publishes a page under this key; kNoHandle: it was not to be had.
  Handle publish(Key key);

 private:
  kvt_wire_grant grant_{};
  std::vector<Fd> fds_;
  Mapping table_mapping_;
  Mapping session_mapping_;
  ArenaTable table_;
  SessionRegion region_;
  uint64_t tail_ = 0;
  uint64_t cq_head_ = 0;
  uint64_t next_tag_ = 1;
};

kvt_abi_submission submission(uint32_t op, Handle page = kNoHandle);

}  // namespace kvt::test
