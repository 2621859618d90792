// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/puppet.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

namespace kvt::fuzz {
namespace {

struct Errand {
  sockaddr_un address{};
  std::array<int, Puppet::kConnections> connections;
  int done = -1;  ///< write end of the pipe whose reader waits for it
};

/// The whole life of a puppet. It has the memory and the thread-local storage of its parent, who waits
/// meanwhile: system calls only, nothing that a sanitizer looks at.
__attribute__((no_sanitize("address", "undefined", "coverage"))) int live(void* argument) {
  auto* const errand = static_cast<Errand*>(argument);
  ::syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  for (size_t i = 0; i < Puppet::kConnections; ++i) {
    const long fd = ::syscall(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && ::syscall(SYS_connect, fd, &errand->address, sizeof errand->address) != 0) {
      ::syscall(SYS_close, fd);
      errand->connections[i] = -1;
    } else {
      errand->connections[i] = static_cast<int>(fd);
    }
  }
  const char byte = 1;
  ::syscall(SYS_write, errand->done, &byte, sizeof byte);
  for (;;) ::syscall(SYS_pause);
}

}  // namespace

bool Puppet::start(const std::string& path) {
  kill();
  Errand errand;
  errand.address.sun_family = AF_UNIX;
  if (path.size() >= sizeof errand.address.sun_path) return false;
  std::memcpy(errand.address.sun_path, path.data(), path.size());
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return false;
  const Fd reader(ends[0]);
  const Fd writer(ends[1]);
  errand.done = writer.get();
  pid_ = ::clone(live, stack_.data() + stack_.size(), CLONE_VM | CLONE_FILES | SIGCHLD, &errand);
  if (pid_ <= 0) return false;
  char byte = 0;
  while (::read(reader.get(), &byte, sizeof byte) < 0 && errno == EINTR) {
  }
  pidfd_ = Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  bool connected = pidfd_.valid();
  for (size_t i = 0; i < kConnections; ++i) {
    connections_[i] = Fd(errand.connections[i]);
    connected = connected && connections_[i].valid();
  }
  if (connected) return true;
  kill();
  for (Fd& each : connections_) each.reset();
  return false;
}

void Puppet::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

}  // namespace kvt::fuzz
