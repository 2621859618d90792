// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtierctl/daemon_program.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

namespace kvt::ctl {
namespace {

/// What comes through both pipes, until both are closed.
void read_both(const std::array<int, 2>& ends, std::array<std::string, 2>& texts) {
  std::array<pollfd, 2> waiting{pollfd{ends[0], POLLIN, 0}, pollfd{ends[1], POLLIN, 0}};
  while (waiting[0].fd >= 0 || waiting[1].fd >= 0) {
    if (::poll(waiting.data(), waiting.size(), -1) < 0 && errno != EINTR) return;
    for (size_t i = 0; i < 2; ++i) {
      if (waiting[i].fd < 0 || waiting[i].revents == 0) continue;
      char bytes[4096];
      const ssize_t got = ::read(waiting[i].fd, bytes, sizeof bytes);
      if (got > 0)
        texts[i].append(bytes, static_cast<size_t>(got));
      else if (got == 0 || errno != EINTR)
        waiting[i].fd = -1;
    }
  }
}

}  // namespace

std::string kvtierd_program() {
  if (const char* const named = std::getenv("KVTIERD"); named != nullptr && named[0] != '\0') return named;
  char self[PATH_MAX] = {};
  if (::readlink("/proc/self/exe", self, sizeof self - 1) > 0) {
    const std::string folder = std::string(self).substr(0, std::string(self).rfind('/'));
    // bin and sbin of one prefix; or a build folder
    for (const char* const at : {"/kvtierd", "/../sbin/kvtierd", "/../../daemon/kvtierd"})
      if (::access((folder + at).c_str(), X_OK) == 0) return folder + at;
  }
  return "kvtierd";
}

Ran run_kvtierd(const std::vector<std::string>& arguments) {
  const std::string program = kvtierd_program();
  std::array<int, 2> out{};
  std::array<int, 2> err{};
  if (::pipe2(out.data(), O_CLOEXEC) != 0) return {-1, std::string("pipe: ") + std::strerror(errno)};
  if (::pipe2(err.data(), O_CLOEXEC) != 0) {
    ::close(out[0]);
    ::close(out[1]);
    return {-1, std::string("pipe: ") + std::strerror(errno)};
  }
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(out[1], STDOUT_FILENO);
    ::dup2(err[1], STDERR_FILENO);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(out[1]);
  ::close(err[1]);
  std::array<std::string, 2> texts;
  if (pid > 0) read_both({out[0], err[0]}, texts);
  ::close(out[0]);
  ::close(err[0]);
  if (pid < 0) return {-1, std::string("fork: ") + std::strerror(errno)};
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  Ran ran;
  if (WIFEXITED(status)) ran.exit_code = WEXITSTATUS(status);
  ran.words = ran.exit_code == 0 || texts[1].empty() ? texts[0] : texts[1];
  while (!ran.words.empty() && ran.words.back() == '\n') ran.words.pop_back();
  if (ran.words.starts_with("kvtierd: ")) ran.words.erase(0, 9);
  if (ran.exit_code == 127) ran = {-1, program + " is not there, or is no program; KVTIERD names it"};
  if (!WIFEXITED(status)) ran.words = program + " was ended by a signal";
  return ran;
}

}  // namespace kvt::ctl
