// SPDX-License-Identifier: Apache-2.0
#include "shm/base/socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "shm/abi/limits.h"

namespace kvt {
namespace {

/// Descriptors of one message, as the kernel has it (SCM_MAX_FD). It closes itself what it cannot hand over, and that
/// may wait.
constexpr size_t kDescriptorsMax = 253;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return fail(Code::kInvalid,
                "socket path " + path + " is longer than " + std::to_string(sizeof address.sun_path - 1));
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

Result<void> send_message(const Fd& socket, std::span<const std::byte> bytes, std::span<const int> fds) {
  iovec vector{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * KVT_WIRE_MAX_FDS)> control{};
  KVT_CHECK(fds.size() <= KVT_WIRE_MAX_FDS);
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* const item = CMSG_FIRSTHDR(&header);
    item->cmsg_level = SOL_SOCKET;
    item->cmsg_type = SCM_RIGHTS;
    item->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(item), fds.data(), sizeof(int) * fds.size());
  }
  for (;;) {
    const ssize_t sent = ::sendmsg(socket.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) return {};
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return fail(Code::kAgain, "the other side does not read its messages");
    return fail_errno("sendmsg");
  }
}

Result<Message> receive_message(const Fd& socket) {
  Message message;
  message.bytes.resize(KVT_WIRE_MAX_BYTES);
  iovec vector{message.bytes.data(), message.bytes.size()};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kDescriptorsMax)> control{};
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t received = 0;
  do {
    received = ::recvmsg(socket.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0) {
    if (errno == EAGAIN) return fail(Code::kAgain, "no message");
    return fail_errno("recvmsg");
  }
  for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
    if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (item->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(item) + i * sizeof(int), sizeof number);
      message.fds.emplace_back(number);
    }
  }
  message.truncated =
      (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || message.fds.size() > KVT_WIRE_MAX_FDS;
  message.end = received == 0;
  message.bytes.resize(static_cast<size_t>(received));
  return message;
}

Result<Fd> listen_unix(const std::string& path, int type, mode_t mode) {
  KVT_TRY_ASSIGN(const sockaddr_un address, address_of(path));
  if (auto alive = connect_unix(path, type); alive)
    return fail(Code::kInvalid, path + " is in use: another kvtierd serves this folder");
  ::unlink(path.c_str());
  Fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno("socket");
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail_errno("bind " + path);
  const auto ready = [&]() -> Result<void> {
    if (::chmod(path.c_str(), mode) != 0) return fail_errno("chmod " + path);
    if (::listen(fd.get(), 128) != 0) return fail_errno("listen " + path);
    return {};
  }();
  if (!ready) {
    ::unlink(path.c_str());
    return tl::unexpected<Error>(ready.error());
  }
  return fd;
}

Result<Fd> connect_unix(const std::string& path, int type) {
  KVT_TRY_ASSIGN(const sockaddr_un address, address_of(path));
  Fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno("socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int error_number = errno;
    if (error_number == ECONNREFUSED || error_number == ENOENT || error_number == EAGAIN)
      return fail(Code::kAgain, "no kvtierd answers at " + path);
    if (error_number == EACCES) return fail(Code::kPermission, path + " is not open to this user");
    return fail_errno("connect " + path, error_number);
  }
  return fd;
}

}  // namespace kvt
