// SPDX-License-Identifier: Apache-2.0
#include "tests/support/child.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "tests/support/daemon.h"

namespace kvt::test {

void Lines::say(const std::string& line) const {
  const std::string whole = line + "\n";
  for (size_t at = 0; at < whole.size();) {
    const ssize_t sent = ::send(out_, whole.data() + at, whole.size() - at, MSG_NOSIGNAL);
    if (sent <= 0) return;  // the other side has gone
    at += static_cast<size_t>(sent);
  }
}

std::string Lines::hear() {
  const auto end = Clock::now() + 2 * kPatience;
  for (;;) {
    if (const size_t newline = buffer_.find('\n'); newline != std::string::npos) {
      const std::string line = buffer_.substr(0, newline);
      buffer_.erase(0, newline + 1);
      return line;
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    pollfd waiting{in_, POLLIN, 0};
    if (left <= 0 || ::poll(&waiting, 1, static_cast<int>(left)) <= 0) return {};
    char bytes[1024];
    const ssize_t got = ::recv(in_, bytes, sizeof bytes, 0);
    if (got <= 0) return {};
    buffer_.append(bytes, static_cast<size_t>(got));
  }
}

bool Lines::has_line() const {
  pollfd waiting{in_, POLLIN, 0};
  return buffer_.find('\n') != std::string::npos || ::poll(&waiting, 1, 0) > 0;
}

Child::Child(const Body& body) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    ADD_FAILURE() << "socketpair";
    return;
  }
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    ::close(pair[0]);
    Lines lines(pair[1], pair[1]);
    const std::string wrong = body(lines);
    if (!wrong.empty()) lines.say("wrong: " + wrong);
    ::_exit(wrong.empty() ? 0 : 1);
  }
  ::close(pair[1]);
  in_ = out_ = pair[0];
  lines_ = Lines(in_, out_);
}

Child::~Child() {
  kill();
  if (in_ >= 0) ::close(in_);
}

std::string Child::finish() {
  if (pid_ <= 0) return "there is no child";
  std::string wrong;
  for (std::string line = hear(); !line.empty(); line = hear())
    if (line.starts_with("wrong: ")) wrong = line;
  int status = 0;
  if (!eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; })) {
    kill();
    return "the child did not end";
  }
  pid_ = -1;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return wrong.empty() ? "the child ended with wait status " + std::to_string(status) : wrong;
}

void Child::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
}

}  // namespace kvt::test
