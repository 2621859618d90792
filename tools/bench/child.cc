// SPDX-License-Identifier: Apache-2.0
#include "tools/bench/child.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "tools/bench/rows.h"

namespace kvt::bench {
namespace {

constexpr int kStopTimeoutMs = 20000;
constexpr size_t kLogTailBytes = 600;

std::string tail_of(const std::string& file) {
  std::ifstream in(file);
  std::stringstream text;
  text << in.rdbuf();
  std::string all = text.str();
  if (all.size() > kLogTailBytes) all.erase(0, all.size() - kLogTailBytes);
  return all;
}

bool accepts(const std::string& path, int type) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    throw RowError("the path of " + path + " is too long for a socket");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool connected = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return connected;
}

}  // namespace

TemporaryFolder::TemporaryFolder(const std::string& parent) {
  const char* const environment = std::getenv("TMPDIR");
  std::string name = !parent.empty() ? parent : environment != nullptr ? environment : "/tmp";
  name += "/kvt-bench-XXXXXX";
  if (mkdtemp(name.data()) == nullptr) throw RowError("mkdtemp " + name + ": " + std::strerror(errno));
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Child::Child(std::vector<std::string> argv, const std::string& output, std::vector<int> inherit) {
  std::vector<char*> pointers;
  for (std::string& argument : argv) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  int log = -1;
  if (!output.empty()) {
    log = open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0) throw RowError("open " + output + ": " + std::strerror(errno));
  }
  // Copies above the numbers that they will get in the child, so that no dup2 there overwrites one that is
  // still to be moved.
  for (int& fd : inherit) fd = fcntl(fd, F_DUPFD_CLOEXEC, 64);

  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {
    // Only async-signal-safe calls until exec.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(127);
    if (log >= 0) {
      dup2(log, STDOUT_FILENO);
      dup2(log, STDERR_FILENO);
    }
    for (size_t i = 0; i < inherit.size(); ++i) dup2(inherit[i], 3 + static_cast<int>(i));
    execvp(pointers[0], pointers.data());
    _exit(127);
  }
  const int error = errno;
  for (const int fd : inherit) close(fd);
  if (log >= 0) close(log);
  if (pid_ < 0) throw RowError("fork: " + std::string(std::strerror(error)));
}

bool Child::running() {
  siginfo_t info{};
  return pid_ > 0 && waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0;
}

bool Child::stop() {
  if (pid_ <= 0) return true;
  const bool alive = running();
  kill(pid_, SIGTERM);
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  pollfd wait{pidfd, POLLIN, 0};
  int ready = 0;
  do ready = poll(&wait, 1, kStopTimeoutMs);
  while (ready < 0 && errno == EINTR);
  if (ready <= 0) kill(pid_, SIGKILL);
  if (pidfd >= 0) close(pidfd);
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return alive && ((WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
                   (WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM));
}

void wait_for_socket(const std::string& path, int type, Child& server, const std::string& log,
                     int timeout_ms) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (!accepts(path, type)) {
    if (!server.running()) throw RowError("the server of " + path + " did not start: " + tail_of(log));
    if (std::chrono::steady_clock::now() > end)
      throw RowError("nothing accepts on " + path + " after " + std::to_string(timeout_ms) +
                     " ms: " + tail_of(log));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace kvt::bench
