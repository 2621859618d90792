// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/raw_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace kvt::test {
namespace {

constexpr size_t kScmMaxFds = 253;  // the kernel's, a message

bool wait_for(int fd, short events) {
  pollfd waiting{fd, events, 0};
  return ::poll(&waiting, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())) > 0;
}

template <typename Struct>
std::optional<Struct> as(const std::vector<std::byte>& bytes, size_t at_least = sizeof(Struct)) {
  if (bytes.size() < at_least || bytes.size() > sizeof(Struct)) return std::nullopt;
  Struct value{};
  std::memcpy(&value, bytes.data(), bytes.size());
  return value;
}

}  // namespace

kvt_wire_hello hello_message() {
  auto hello = wire_message<kvt_wire_hello>(KVT_WIRE_HELLO);
  hello.abi_major = KVT_ABI_MAJOR;
  hello.abi_minor = KVT_ABI_MINOR;
  return hello;
}

kvt_wire_attach attach_message(const std::string& arena) {
  auto request = wire_message<kvt_wire_attach>(KVT_WIRE_ATTACH);
  std::memcpy(request.arena, arena.data(), std::min(arena.size(), sizeof request.arena - 1));
  request.access = KVT_WIRE_READ_WRITE;
  request.members_max = 1;
  return request;
}

RawClient::RawClient(const std::string& socket_dir) {
  // The listener's queue is short, and who floods it waits.
  eventually([&] {
    auto socket = connect_unix(socket_dir + "/attach.sock", SOCK_SEQPACKET);
    if (socket) socket_ = std::move(*socket);
    return socket.has_value() || socket.error().code != Code::kAgain;
  });
}

bool RawClient::send(std::span<const std::byte> bytes, std::span<const int> fds) const {
  iovec vector{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kScmMaxFds)> control{};
  if (fds.size() > kScmMaxFds) return false;
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
    if (::sendmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return true;
    if (errno == EINTR) continue;
    if ((errno != EAGAIN && errno != ETOOMANYREFS) || !wait_for(socket_.get(), POLLOUT)) return false;
  }
}

Answer RawClient::receive() const {
  Answer answer;
  if (!wait_for(socket_.get(), POLLIN)) return answer;
  auto message = receive_message(socket_);
  if (!message) {  // reset: it was closed with something of ours unread
    answer.message.end = true;
    return answer;
  }
  answer.message = std::move(*message);
  if (answer.message.end || answer.message.bytes.size() < sizeof(kvt_wire_header)) return answer;
  kvt_wire_header header{};
  std::memcpy(&header, answer.message.bytes.data(), sizeof header);
  answer.type = header.type;
  if (const auto refused = as<kvt_wire_refused>(answer.message.bytes);
      refused && header.type == KVT_WIRE_REFUSED) {
    answer.status = refused->status;
    answer.text = refused->text;
  }
  return answer;
}

bool RawClient::greet() const { return ask(hello_message()).type == KVT_WIRE_WELCOME; }

Fd RawClient::pidfd_of(pid_t pid, unsigned flags) {
  return Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, flags)));
}

RawSession RawSession::of(Answer answer) {
  RawSession session;
  const auto grant = as<kvt_wire_grant>(answer.message.bytes, KVT_WIRE_GRANT_BYTES_MIN);
  if (answer.type != KVT_WIRE_GRANT || !grant || answer.message.fds.size() < 3) return {};
  session.grant_ = *grant;
  session.fds_ = std::move(answer.message.fds);
  auto table = Mapping::map(session.fds_[0], grant->table_bytes, Access::kReadOnly);
  auto region = Mapping::map(session.fds_[1], grant->session_bytes, Access::kReadWrite);
  if (!table || !region) return {};
  auto view = ArenaTable::open(table->data(), table->bytes());
  SessionGeometry geometry;
  auto words = SessionRegion::open(region->data(), region->bytes(), geometry);
  if (!view || !words) return {};
  session.table_ = *view;
  session.region_ = *words;
  session.table_mapping_ = std::move(*table);
  session.session_mapping_ = std::move(*region);
  return session;
}

RawSession RawSession::attach(RawClient& client, const kvt_wire_attach& request) {
  if (!client.connected() || !client.greet()) return {};
  return of(client.ask_with_pidfd(request));
}

void RawSession::ring() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(doorbell().get(), &one, sizeof one);
}

void RawSession::push(const kvt_abi_submission& command) {
  ring_detail::copy_out(member().sq[tail_ & kRingMask], command);
  store_release(member().sq_tail.value, ++tail_);
}

std::optional<kvt_abi_completion> RawSession::command(kvt_abi_submission command,
                                                      std::chrono::milliseconds limit) {
  command.tag = next_tag_++;
  push(command);
  const auto end = Clock::now() + limit;
  kvt_abi_member& own = member();
  announce_waiter(own, 1);
  ring();
  std::optional<kvt_abi_completion> found;
  while (!found && Clock::now() < end) {
    const uint32_t seen = load_wake(own);
    while (!found && load_acquire(own.cq_tail.value) != cq_head_) {
      const kvt_abi_completion each = ring_detail::copy_in(own.cq[cq_head_ & kRingMask]);
      store_release(own.cq_head.value, ++cq_head_);
      if (each.tag == command.tag) found = each;
    }
    if (!found) wait_for_wake(own, seen, 20);
  }
  announce_waiter(own, -1);
  return found;
}

uint32_t RawSession::result_of(const kvt_abi_submission& each) {
  const auto completion = command(each);
  return completion ? completion->result : UINT32_MAX;
}

Handle RawSession::take_page() {
  Handle page = kNoHandle;
  eventually([&] {
    uint64_t left = 0;
    page = magazine_pop(region_, left);
    return !page.none() || !command(submission(KVT_OP_FLUSH));
  });
  return page;
}

Handle RawSession::publish(Key key) {
  const Handle page = take_page();
  if (page.none()) return kNoHandle;
  kvt_abi_submission publishing = submission(KVT_OP_PUBLISH, page);
  publishing.key = {key.lo, key.hi};
  publishing.parent = UINT64_MAX;
  return result_of(publishing) == KVT_RESULT_OK ? page : kNoHandle;
}

kvt_abi_submission submission(uint32_t op, Handle page) {
  kvt_abi_submission command{};
  command.op = op;
  command.page = page.value;
  if (op == KVT_OP_FREE) command.key = {UINT64_MAX, UINT64_MAX};
  if (op == KVT_OP_FREE || op == KVT_OP_PUBLISH) command.parent = UINT64_MAX;
  if (op == KVT_OP_FREE) command.extra = UINT64_MAX;
  return command;
}

}  // namespace kvt::test
