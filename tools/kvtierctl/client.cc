// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtierctl/client.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace kvt::ctl {
namespace {

/// The daemon's answers are some KiB, a few hundred with many sessions.
constexpr size_t kAnswerBytesMax = size_t{64} << 20;

constexpr const char* kWhatToDo =
    "Start kvtierd, or name the folder of a running one with --socket-dir or KVTIER_SOCKET_DIR.";

class Socket {
 public:
  explicit Socket(int number) : number_(number) {}
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() {
    if (number_ >= 0) ::close(number_);
  }
  [[nodiscard]] int get() const { return number_; }

 private:
  int number_;
};

[[noreturn]] void fail_connect(const std::string& path, int error) {
  switch (error) {
    case ENOENT: throw NoAnswer("no kvtierd answers: there is no " + path + ". " + kWhatToDo);
    case ECONNREFUSED:
      throw NoAnswer("no kvtierd answers: " + path + " is there, but its daemon has gone. " + kWhatToDo);
    case EACCES:
      throw NoAnswer("no permission to use " + path +
                     ": it is for the daemon's own user. Run kvtierctl as that user or as root.");
    default: throw NoAnswer("cannot connect to " + path + ": " + std::strerror(error));
  }
}

[[noreturn]] void fail_wait(const std::string& path, int error, int timeout_ms) {
  if (error == EAGAIN || error == EWOULDBLOCK)
    throw NoAnswer("kvtierd does not answer at " + path + " within " + std::to_string(timeout_ms / 1000) +
                   " s. It may be busy or stopped; look at its log.");
  throw NoAnswer("talking to kvtierd at " + path + " failed: " + std::strerror(error));
}

}  // namespace

std::string default_socket_dir() {
  const char* const variable = std::getenv("KVTIER_SOCKET_DIR");
  return variable != nullptr && variable[0] != '\0' ? variable : "/run/kvtier";
}

std::string ask(const std::string& socket_dir, const std::string& request, int timeout_ms) {
  const std::string path = socket_dir + "/control.sock";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    throw NoAnswer(path + " is too long for a socket: at most " +
                   std::to_string(sizeof address.sun_path - 1) + " bytes");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);

  const Socket socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) throw NoAnswer(std::string("cannot make a socket: ") + std::strerror(errno));
  timeval timeout{};
  timeout.tv_sec = timeout_ms / 1000;
  timeout.tv_usec = static_cast<suseconds_t>(timeout_ms % 1000) * 1000;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    fail_connect(path, errno);

  const std::string line = request + "\n";
  for (size_t sent = 0; sent < line.size();) {
    const ssize_t n = ::send(socket.get(), line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_wait(path, errno, timeout_ms);
    sent += static_cast<size_t>(n);
  }

  std::string answer;
  char part[16384];
  while (answer.size() < kAnswerBytesMax) {
    const ssize_t n = ::recv(socket.get(), part, sizeof part, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_wait(path, errno, timeout_ms);
    if (n == 0) break;
    answer.append(part, static_cast<size_t>(n));
  }
  if (answer.empty())
    throw NoAnswer("kvtierd closed " + path +
                   " without an answer: it has too many connections, or stops. Try again.");
  return answer;
}

}  // namespace kvt::ctl
