// SPDX-License-Identifier: Apache-2.0
#include "daemon/restart/fd_store.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace kvt::restart {
namespace {

constexpr int kFirstFd = 3;  // SD_LISTEN_FDS_START
/// A manager that is busy gets so long to read, twenty times at most while the loop waits for it.
constexpr int kSendPatienceMs = 20;

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
  const char* const path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr || (path[0] != '/' && path[0] != '@')) return store;
  store.socket_path_ = path;
  if (path[0] == '@') store.socket_path_[0] = '\0';
  ::unsetenv("NOTIFY_SOCKET");
  store.socket_ = Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!store.socket_.valid() || store.socket_path_.size() >= sizeof(sockaddr_un{}.sun_path))
    store.socket_path_.clear();
  return store;
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

std::vector<std::string> FdStore::left() const {
  std::vector<std::string> names;
  for (const auto& [name, fd] : given_) names.push_back(name);
  return names;
}

Result<void> FdStore::send(const std::string& text, std::span<const int> fds) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_path_.data(), socket_path_.size());
  iovec vector{const_cast<char*>(text.data()), text.size()};
  msghdr header{};
  header.msg_name = &address;
  header.msg_namelen = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_path_.size() +
                                              (socket_path_[0] == '\0' ? 0 : 1));
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  KVT_CHECK(fds.size() <= 1);
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(sizeof(int));
    cmsghdr* const item = CMSG_FIRSTHDR(&header);
    item->cmsg_level = SOL_SOCKET;
    item->cmsg_type = SCM_RIGHTS;
    item->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(item), fds.data(), sizeof(int));
  }
  for (int tries = 0; tries < 2; ++tries) {
    if (::sendmsg(socket_.get(), &header, MSG_NOSIGNAL) >= 0) return {};
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return fail_errno("tell the service manager");
    pollfd wait{socket_.get(), POLLOUT, 0};
    ::poll(&wait, 1, kSendPatienceMs);
  }
  return fail(Code::kAgain, "the service manager does not read its messages");
}

Result<void> FdStore::put(const std::string& name, int fd) {
  if (!is_kept()) return {};
  if (!has_room(1))
    return fail(Code::kLimit, "the service manager keeps " + std::to_string(max_) +
                                  " descriptors and all are used (FileDescriptorStoreMax)");
  KVT_TRY(send("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, std::span(&fd, 1)));
  ++names_[name];
  return {};
}

void FdStore::remove(const std::string& name) {
  given_.erase(name);
  if (!is_kept() || names_.erase(name) == 0) return;
  // One that is not removed is given back at the next start, and let go of then.
  [[maybe_unused]] const auto sent = send("FDSTOREREMOVE=1\nFDNAME=" + name, {});
}

Result<Fd> FdStore::barrier() {
  if (!is_kept()) return Fd{};
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno("a pipe for the service manager");
  Fd ours(ends[0]);
  const Fd theirs(ends[1]);
  const int fd = theirs.get();
  KVT_TRY(send("BARRIER=1", std::span(&fd, 1)));
  return ours;
}

Result<void> FdStore::wait(std::chrono::milliseconds limit) {
  if (!is_kept()) return {};
  KVT_TRY_ASSIGN(const Fd done, barrier());
  pollfd wait{done.get(), POLLIN, 0};
  int ready = 0;
  do {
    ready = ::poll(&wait, 1, static_cast<int>(limit.count()));
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) return fail(Code::kAgain, "the service manager does not answer");
  return {};
}

void FdStore::notify(const std::string& text) {
  if (!is_kept()) return;
  [[maybe_unused]] const auto sent = send(text, {});
}

}  // namespace kvt::restart
