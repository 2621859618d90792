// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/control.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <vector>

#include "shm/base/socket.h"

namespace kvt::control {
namespace {

constexpr size_t kRequestBytesMax = 4096;
/// For the request to come, and again for the answer to be taken.
constexpr std::chrono::seconds kPatience{10};

/// Who has connected, as the kernel says.
std::string peer_text(const Fd& socket) {
  ucred peer{};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) return "somebody";
  return "user " + std::to_string(peer.uid) + ", process " + std::to_string(peer.pid);
}

}  // namespace

Result<std::unique_ptr<Control>> Control::start(keeper::EventLoop& loop, keeper::Keeper& keeper,
                                                server::Server& server, const events::EventLog& events,
                                                Tell tell, Fd given) {
  std::unique_ptr<Control> control(new Control(loop, keeper, server, events, std::move(tell)));
  control->spare_ = Fd(::eventfd(0, EFD_CLOEXEC));
  control->timer_ = Fd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!control->timer_.valid()) return fail_errno("timerfd_create");
  KVT_TRY(loop.add(control->timer_.get(), keeper::EventLoop::Trigger::kLevel,
                   [raw = control.get()] { raw->on_tick(); }));
  if (given.valid()) {
    control->listener_ = std::move(given);
  } else {
    control->path_ = keeper.config().socket_dir + "/control.sock";
    KVT_TRY_ASSIGN(control->listener_, listen_unix(control->path_, SOCK_STREAM, 0600));
  }
  KVT_TRY(loop.add(control->listener_.get(), keeper::EventLoop::Trigger::kLevel,
                   [raw = control.get()] { raw->on_accept(); }));
  return control;
}

Control::~Control() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

void Control::on_accept() {
  Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.valid() &&
      (errno == EMFILE || errno == ENFILE)) {  // or the loop would be woken for it for ever
    spare_.reset();
    Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)).reset();
    spare_ = Fd(::eventfd(0, EFD_CLOEXEC));
  }
  if (!socket.valid() || connections_.size() >= KVT_MAX_CONTROL_CONNECTIONS) return;
  auto connection = std::make_unique<Connection>();
  connection->who = peer_text(socket);
  connection->socket = std::move(socket);
  connection->deadline = Clock::now() + kPatience;
  connection->serial = next_serial_++;
  const int fd = connection->socket.get();
  Connection* const raw = connection.get();
  if (!loop_.add(fd, keeper::EventLoop::Trigger::kLevel, [this, raw] { on_ready(*raw); })) return;
  if (connections_.empty()) set_tick(true);
  connections_[fd] = std::move(connection);
}

void Control::on_ready(Connection& connection) {
  const bool done = connection.reply.empty() ? receive(connection) : send_more(connection);
  if (done) close(connection.socket.get());
}

bool Control::receive(Connection& connection) {
  char buffer[1024];
  const ssize_t got = ::recv(connection.socket.get(), buffer, sizeof buffer, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (got > 0) connection.request.append(buffer, static_cast<size_t>(got));
  const size_t end = connection.request.find('\n');
  if (end == std::string::npos && got > 0 && connection.request.size() < kRequestBytesMax) return false;
  if (connection.request.empty()) return true;
  const int fd = connection.socket.get();
  answers_.answer(
      connection.request.substr(0, end), connection.who,
      [this, fd, serial = connection.serial](const std::string& text) { take_answer(fd, serial, text); });
  if (connection.reply.empty()) {
    connection.waits = true;
    connection.deadline = Clock::time_point::max();
    loop_.remove(fd);  // who has closed its end would wake the loop until then
    return false;
  }
  connection.deadline = Clock::now() + kPatience;
  if (send_more(connection)) return true;
  return !loop_.expect_writable(fd);
}

void Control::take_answer(int fd, uint64_t serial, const std::string& text) {
  const auto found = connections_.find(fd);
  if (found == connections_.end() || found->second->serial != serial) return;
  Connection& connection = *found->second;
  connection.reply = text + "\n";
  if (!connection.waits) return;  // receive() goes on with it
  connection.waits = false;
  connection.deadline = Clock::now() + kPatience;
  const bool is_sent = send_more(connection);
  if (is_sent ||
      !loop_.add(fd, keeper::EventLoop::Trigger::kLevel, [this, &connection] { on_ready(connection); }) ||
      !loop_.expect_writable(fd))
    close(fd);
}

bool Control::send_more(Connection& connection) {
  while (connection.sent < connection.reply.size()) {
    const ssize_t n = ::send(connection.socket.get(), connection.reply.data() + connection.sent,
                             connection.reply.size() - connection.sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno != EAGAIN;
    connection.sent += static_cast<size_t>(n);
  }
  return true;
}

void Control::on_tick() {
  uint64_t ticks = 0;
  [[maybe_unused]] const ssize_t got = ::read(timer_.get(), &ticks, sizeof ticks);
  const Clock::time_point now = Clock::now();
  std::vector<int> late;
  for (const auto& [fd, connection] : connections_)
    if (now >= connection->deadline) late.push_back(fd);
  for (const int fd : late) close(fd);
}

void Control::set_tick(bool on) {
  itimerspec each{};
  if (on) each.it_value.tv_sec = each.it_interval.tv_sec = 1;
  // If that fails, who hangs is hung up on when somebody else comes and goes.
  [[maybe_unused]] const int set = ::timerfd_settime(timer_.get(), 0, &each, nullptr);
}

void Control::close(int fd) {
  loop_.remove(fd);
  connections_.erase(fd);
  if (connections_.empty()) set_tick(false);
}

}  // namespace kvt::control
