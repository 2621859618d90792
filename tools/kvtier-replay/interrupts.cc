// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/interrupts.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>

namespace kvt::replay {

Interrupts::Interrupts() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&set, number);
  struct sigaction hangup {};
  // Under nohup it stays ignored: a blocked signal would be seen all the same.
  if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN) sigaddset(&set, SIGHUP);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "signalfd");
}

Interrupts::~Interrupts() { close(fd_); }

void Interrupts::wait(int timeout_ms) {
  pollfd waiting{fd_, POLLIN, 0};
  poll(&waiting, 1, timeout_ms);
  signalfd_siginfo info{};
  while (read(fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    if (info.ssi_signo == SIGCHLD) continue;
    if (signal_ == 0) signal_ = static_cast<int>(info.ssi_signo);
    ++count_;
  }
}

pid_t spawn(const ChildSpec& spec) {
  std::vector<char*> argv;
  for (const std::string& argument : spec.arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (child > 0) return child;
  if (spec.death_signal != 0) {
    prctl(PR_SET_PDEATHSIG, spec.death_signal);
    if (getppid() != parent) _exit(127);  // it died before prctl
  }
  if (spec.own_group) setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (spec.output_fd >= 0) {
    dup2(spec.output_fd, STDOUT_FILENO);
    dup2(spec.output_fd, STDERR_FILENO);
  }
  execv(spec.program.c_str(), argv.data());
  _exit(127);
}

std::string describe_exit(int wait_status) {
  if (WIFEXITED(wait_status)) return fmt::format("exited with {}", WEXITSTATUS(wait_status));
  if (WIFSIGNALED(wait_status))
    return fmt::format("was killed by signal {} ({})", WTERMSIG(wait_status),
                       strsignal(WTERMSIG(wait_status)));
  return "stopped";
}

}  // namespace kvt::replay
