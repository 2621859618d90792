// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/control.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace kvt::replay {
namespace {

/// An answer is a few KiB.
constexpr size_t kAnswerBytesMax = size_t{64} << 20;

class Connection {
 public:
  Connection(const std::string& path, int timeout_ms) : path_(path) {
    fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd_ < 0) fail("socket");
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) throw std::runtime_error(path + ": too long for a socket");
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    timeval timeout{};
    timeout.tv_sec = timeout_ms / 1000;
    timeout.tv_usec = timeout_ms % 1000 * 1000;
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    if (connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      const int error = errno;
      close(fd_);
      errno = error;
      fail("connect");
    }
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() { close(fd_); }

  void send_all(const std::string& text) const {
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t n = send(fd_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail("send");
      sent += static_cast<size_t>(n);
    }
  }
  /// Until the newline or the end.
  [[nodiscard]] std::string read_line() const {
    std::string text;
    char part[16384];
    while (text.size() < kAnswerBytesMax) {
      const ssize_t n = recv(fd_, part, sizeof part, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("recv");
      text.append(part, static_cast<size_t>(n));
      if (n == 0 || text.find('\n') != std::string::npos) break;
    }
    return text.substr(0, text.find('\n'));
  }

 private:
  [[noreturn]] void fail(const char* call) const {
    throw std::runtime_error(fmt::format("{}: {}: {}", path_, call, std::strerror(errno)));
  }

  std::string path_;
  int fd_ = -1;
};

/// Only the answer to "quiesce" has an audit; there it has to be.
ArenaStatus parse_arena(const nlohmann::json& from, bool audited) {
  ArenaStatus arena;
  arena.name = from.at("name").get<std::string>();
  arena.pages = from.at("pages").get<uint64_t>();
  arena.page_bytes = from.at("page_bytes").get<uint64_t>();
  const auto& states = from.at("pages_by_state");
  arena.filling = states.at("filling").get<uint64_t>();
  arena.sealed = states.at("sealed").get<uint64_t>();
  arena.keyed = from.at("keyed").get<uint64_t>();
  arena.evicted = from.at("evicted").get<uint64_t>();
  arena.mismatches = from.at("integrity").at("mismatches").get<uint64_t>();
  arena.repaired = from.at("integrity").at("repaired").get<uint64_t>();
  if (audited) {
    // Negative: a frame is accounted for twice, which is no better.
    const auto leaked = from.at("audit").at("leaked").get<int64_t>();
    arena.frames_leaked = static_cast<uint64_t>(leaked < 0 ? -leaked : leaked);
  }
  for (const auto& tier : from.at("tiers"))
    arena.tiers.push_back({tier.at("name").get<std::string>(), tier.at("frames").get<uint64_t>()});
  const auto& moves = from.at("moves");
  arena.moves.promoted = moves.at("promoted").get<uint64_t>();
  arena.moves.promoted_by_readers = from.at("offers").at("taken").get<uint64_t>();
  arena.moves.demoted_copy = moves.at("demoted_copy").get<uint64_t>();
  arena.moves.demoted_free = moves.at("demoted_free").get<uint64_t>();
  arena.moves.aborted = moves.at("aborted").get<uint64_t>();
  return arena;
}

DaemonStatus parse_status(const nlohmann::json& from, bool audited) {
  DaemonStatus status;
  status.emulated = from.at("emulated").get<bool>();
  status.profile = from.at("profile").get<std::string>();
  status.policy = from.at("policy").get<std::string>();
  status.pid = from.at("pid").get<int64_t>();
  status.cpu_seconds = from.at("cpu_seconds").get<double>();
  status.uptime_seconds = from.at("uptime_seconds").get<double>();
  status.rss_bytes = from.at("rss_bytes").get<uint64_t>();
  status.sessions = from.at("sessions").size();
  for (const auto& tier : from.at("tiers")) {
    status.tiers.push_back({tier.at("name").get<std::string>(), tier.at("emulated").get<bool>(),
                            tier.at("bytes").get<uint64_t>(), tier.at("read_bytes_per_second").get<double>(),
                            tier.at("bandwidth_from").get<std::string>()});
  }
  for (const auto& arena : from.at("arenas")) status.arenas.push_back(parse_arena(arena, audited));
  return status;
}

}  // namespace

bool DaemonStatus::by_profile() const {
  return std::all_of(tiers.begin(), tiers.end(),
                     [](const TierStatus& tier) { return tier.bandwidth_from.starts_with("profile"); });
}

const ArenaStatus& DaemonStatus::arena(const std::string& name) const {
  for (const ArenaStatus& arena : arenas)
    if (arena.name == name) return arena;
  throw std::runtime_error(fmt::format("the daemon has no arena \"{}\"", name));
}

DaemonStatus ask_daemon(const std::string& socket_dir, const std::string& command, int timeout_ms) {
  const Connection connection(socket_dir + "/control.sock", timeout_ms);
  connection.send_all(nlohmann::json{{"command", command}}.dump() + "\n");
  const std::string answer = connection.read_line();
  try {
    return parse_status(nlohmann::json::parse(answer), command == "quiesce");
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("{}/control.sock: the answer to \"{}\" is not understood ({}): {}",
                                         socket_dir, command, error.what(), answer.substr(0, 200)));
  }
}

}  // namespace kvt::replay
