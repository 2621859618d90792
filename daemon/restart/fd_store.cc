// SPDX-License-Identifier: Apache-2.0
#include "daemon/restart/fd_store.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace kvt::restart {
namespace {

constexpr int kFirstFd = 3;  // SD_LISTEN_FDS_START
/// Messages that wait for a manager that is busy. Beyond that, attaching is refused.
constexpr size_t kWaitingMax = 4096;

/// The number in a variable of the environment, which is removed.
std::optional<uint64_t> take_number(const char* variable) {
  const char* const text = std::getenv(variable);
  if (text == nullptr) return std::nullopt;
  char* end = nullptr;
  errno = 0;
  const unsigned long long value = std::strtoull(text, &end, 10);
  const bool good = errno == 0 && end != text && *end == '\0';
  ::unsetenv(variable);
  if (!good) return std::nullopt;
  return value;
}

std::vector<std::string> split_names(const std::string& text) {
  std::vector<std::string> names(1);
  for (const char each : text) {
    if (each == ':')
      names.emplace_back();
    else
      names.back() += each;
  }
  return names;
}

}  // namespace

FdStore FdStore::open(uint64_t descriptors_max) {
  FdStore store;
  store.max_ = take_number("FDSTORE").value_or(descriptors_max);
  const std::optional<uint64_t> pid = take_number("LISTEN_PID");
  const std::optional<uint64_t> count = take_number("LISTEN_FDS");
  const char* const named = std::getenv("LISTEN_FDNAMES");
  const std::vector<std::string> names = split_names(named != nullptr ? named : "");
  ::unsetenv("LISTEN_FDNAMES");
  if (pid && count && *pid == static_cast<uint64_t>(::getpid()) && *count < 1u << 20) {
    for (uint64_t i = 0; i < *count; ++i) {
      Fd fd(kFirstFd + static_cast<int>(i));
      if (::fcntl(fd.get(), F_SETFD, FD_CLOEXEC) != 0) {
        (void)fd.release();  // not there
        continue;
      }
      const std::string name = i < names.size() ? names[i] : "";
      ++store.names_[name];
      store.given_.insert_or_assign(name, std::move(fd));
    }
  }
  const std::optional<uint64_t> watched = take_number("WATCHDOG_PID");
  const std::optional<uint64_t> watchdog_us = take_number("WATCHDOG_USEC");
  if (watchdog_us && *watchdog_us > 0 && *watchdog_us < uint64_t{1} << 50 &&
      (!watched || *watched == static_cast<uint64_t>(::getpid())))
    store.watchdog_ = std::chrono::microseconds(*watchdog_us);
  const char* const path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr || (path[0] != '/' && path[0] != '@')) return store;
  store.socket_path_ = path;
  if (path[0] == '@') store.socket_path_[0] = '\0';
  ::unsetenv("NOTIFY_SOCKET");
  store.socket_ = Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!store.socket_.valid() || store.socket_path_.size() >= sizeof(sockaddr_un{}.sun_path) ||
      !store.connect())
    store.socket_path_.clear();
  return store;
}

/// Connected, so that poll() tells when the manager's queue has room.
bool FdStore::connect() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_path_.data(), socket_path_.size());
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_path_.size() +
                                            (socket_path_[0] == '\0' ? 0 : 1));
  return ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), bytes) == 0;
}

Fd FdStore::take(const std::string& name) {
  const auto found = given_.find(name);
  if (found == given_.end()) return {};
  Fd fd = std::move(found->second);
  given_.erase(found);
  return fd;
}

int FdStore::peek(const std::string& name) const {
  const auto found = given_.find(name);
  return found == given_.end() ? -1 : found->second.get();
}

Result<Fd> FdStore::take_listener(const std::string& name, int type) {
  Fd fd = take(name);
  if (!fd.valid()) return fd;
  names_.erase(name);
  const auto option = [&fd](int which) {
    int value = -1;
    socklen_t bytes = sizeof value;
    return ::getsockopt(fd.get(), SOL_SOCKET, which, &value, &bytes) == 0 ? value : -1;
  };
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (option(SO_DOMAIN) != AF_UNIX || option(SO_TYPE) != type || option(SO_ACCEPTCONN) != 1 || flags < 0 ||
      ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0)
    return fail(Code::kInvalid,
                "the descriptor \"" + name + "\" of the service manager: expected a listening " +
                    (type == SOCK_SEQPACKET ? "sequential-packet" : "stream") + " Unix socket");
  return fd;
}

std::vector<std::string> FdStore::left() const {
  std::vector<std::string> names;
  for (const auto& [name, fd] : given_) names.push_back(name);
  return names;
}

/// One datagram; kAgain: the manager's queue is full.
Result<void> FdStore::send_now(const Letter& letter) {
  iovec vector{const_cast<char*>(letter.text.data()), letter.text.size()};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  if (letter.fd.valid()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(sizeof(int));
    cmsghdr* const item = CMSG_FIRSTHDR(&header);
    item->cmsg_level = SOL_SOCKET;
    item->cmsg_type = SCM_RIGHTS;
    item->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = letter.fd.get();
    std::memcpy(CMSG_DATA(item), &fd, sizeof fd);
  }
  bool reconnected = false;
  for (;;) {
    if (::sendmsg(socket_.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return {};
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return fail(Code::kAgain, "the service manager does not read its messages");
    // A manager that was executed anew has another socket under the same name.
    if ((errno != ECONNREFUSED && errno != ENOTCONN) || reconnected || !connect())
      return fail_errno("tell the service manager");
    reconnected = true;
  }
}

/// In order, and without waiting: what the manager has no room for yet goes with flush().
Result<void> FdStore::send(const std::string& text, int fd) {
  Letter letter{text, Fd(fd < 0 ? -1 : ::fcntl(fd, F_DUPFD_CLOEXEC, 3))};
  if (fd >= 0 && !letter.fd.valid()) return fail_errno("a descriptor for the service manager");
  if (waiting_.empty()) {
    auto sent = send_now(letter);
    if (sent || sent.error().code != Code::kAgain) return sent;
  }
  if (waiting_.size() >= kWaitingMax)
    return fail(Code::kAgain, "the service manager does not read its messages");
  waiting_.push_back(std::move(letter));
  return {};
}

bool FdStore::flush() {
  while (!waiting_.empty()) {
    const auto sent = send_now(waiting_.front());
    if (!sent && sent.error().code == Code::kAgain) return false;
    waiting_.pop_front();  // sent; or there is no manager any more, as the barrier's end will show
  }
  return true;
}

Result<void> FdStore::put(const std::string& name, int fd) {
  if (!is_kept()) return {};
  if (!has_room(1))
    return fail(Code::kLimit, "the service manager keeps " + std::to_string(max_) +
                                  " descriptors and all are used (FileDescriptorStoreMax)");
  KVT_TRY(send("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, fd));
  ++names_[name];
  return {};
}

void FdStore::remove(const std::string& name) {
  given_.erase(name);
  if (!is_kept() || names_.erase(name) == 0) return;
  // One that is not removed is given back at the next start, and let go of then.
  [[maybe_unused]] const auto sent = send("FDSTOREREMOVE=1\nFDNAME=" + name, -1);
}

Result<Fd> FdStore::barrier() {
  if (!is_kept()) return Fd{};
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno("a pipe for the service manager");
  Fd ours(ends[0]);
  const Fd theirs(ends[1]);
  KVT_TRY(send("BARRIER=1", theirs.get()));
  return ours;
}

Result<void> FdStore::wait(std::chrono::milliseconds limit) {
  if (!is_kept()) return {};
  KVT_TRY_ASSIGN(const Fd done, barrier());
  const auto end = std::chrono::steady_clock::now() + limit;
  for (;;) {
    const bool all = flush();
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd wait[] = {{done.get(), POLLIN, 0}, {socket_.get(), POLLOUT, 0}};
    const int ready = ::poll(wait, all ? 1 : 2, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (ready > 0 && wait[0].revents != 0) return {};
    if (ready == 0 || (ready < 0 && errno != EINTR))
      return fail(Code::kAgain, "the service manager does not answer");
  }
}

void FdStore::notify(const std::string& text) {
  if (!is_kept()) return;
  [[maybe_unused]] const auto sent = send(text, -1);
}

}  // namespace kvt::restart
