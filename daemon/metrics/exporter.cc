// SPDX-License-Identifier: Apache-2.0
#include "daemon/metrics/exporter.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <string_view>
#include <system_error>
#include <utility>

#include "daemon/config/listen_address.h"
#include "daemon/server/access.h"
#include "shm/base/socket.h"

namespace kvt::metrics {
namespace {

void ring(const Fd& bell) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(bell.get(), &one, sizeof one);
}
void silence(const Fd& bell) {
  uint64_t rung = 0;
  [[maybe_unused]] const ssize_t got = ::read(bell.get(), &rung, sizeof rung);
}

Result<Fd> listen_tcp(const ListenAddress& listen) {
  const std::string what = "listen at " + listen.address + ":" + std::to_string(listen.port);
  Fd socket(::socket(listen.is_ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return fail_errno(what);
  const int on = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);  // after a restart, too
  sockaddr_in four{};
  sockaddr_in6 six{};
  four.sin_family = AF_INET;
  four.sin_port = htons(listen.port);
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(listen.port);
  const int parsed = listen.is_ipv6 ? ::inet_pton(AF_INET6, listen.address.c_str(), &six.sin6_addr)
                                    : ::inet_pton(AF_INET, listen.address.c_str(), &four.sin_addr);
  if (parsed != 1) return fail(Code::kInvalid, what + ": no address");
  const int bound = listen.is_ipv6
                        ? ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&six), sizeof six)
                        : ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&four), sizeof four);
  if (bound != 0 || ::listen(socket.get(), SOMAXCONN) != 0) return fail_errno(what);
  return socket;
}

std::string reply_of(const char* status, const char* type, std::string_view body, bool with_body = true) {
  return fmt::format("HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
                     status, type, body.size(), with_body ? body : std::string_view());
}

constexpr const char* kPlain = "text/plain; charset=utf-8";
constexpr const char* kExposition = "text/plain; version=0.0.4; charset=utf-8";

/// The first line of a request, taken apart.
struct RequestLine {
  std::string_view method;
  std::string_view path;  // without what follows a question mark
};

/// Nothing that is not HTTP has both.
RequestLine request_line(std::string_view request) {
  const std::string_view line = request.substr(0, request.find_first_of("\r\n"));
  const size_t first = line.find(' ');
  const size_t second = line.find(' ', first == std::string_view::npos ? first : first + 1);
  if (second == std::string_view::npos || !line.substr(second + 1).starts_with("HTTP/1.")) return {};
  const std::string_view target = line.substr(first + 1, second - first - 1);
  return {line.substr(0, first), target.substr(0, target.find('?'))};
}

bool is_whole(const std::string& request) {
  return request.find("\r\n\r\n") != std::string::npos || request.find("\n\n") != std::string::npos;
}

}  // namespace

Result<std::unique_ptr<Exporter>> Exporter::start(keeper::EventLoop& loop, const Config& config, Take take,
                                                  Clock::duration patience) {
  std::unique_ptr<Exporter> exporter(new Exporter(loop, std::move(take), patience));
  for (Fd* const bell : {&exporter->wanted_, &exporter->taken_, &exporter->stop_}) {
    *bell = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!bell->valid()) return fail_errno("an eventfd for the metrics");
  }
  exporter->last_ = std::make_shared<const Snapshot>(exporter->take_());
  KVT_TRY(exporter->listen(config));
  KVT_TRY(loop.add(exporter->wanted_.get(), keeper::EventLoop::Trigger::kLevel,
                   [raw = exporter.get()] { raw->on_wanted(); }));
  try {
    exporter->thread_ = std::thread([raw = exporter.get()] { raw->run(); });
  } catch (const std::system_error& error) {
    return fail(Code::kSystem, std::string("a thread for the metrics: ") + error.what());
  }
  return exporter;
}

Exporter::~Exporter() {
  if (wanted_.valid()) loop_.remove(wanted_.get());
  if (thread_.joinable()) {
    stopping_.store(true, std::memory_order_release);
    ring(stop_);
    thread_.join();
  }
  for (const std::string& path : paths_) ::unlink(path.c_str());
}

Result<void> Exporter::listen(const Config& config) {
  for (const std::string& text : config.metrics.listen) {
    KVT_TRY_ASSIGN(const ListenAddress listen, parse_listen_address(text));
    if (!listen.is_unix()) {
      KVT_TRY_ASSIGN(Fd socket, listen_tcp(listen));
      listeners_.push_back(std::move(socket));
      continue;
    }
    const std::string path =
        listen.path.starts_with('/') ? listen.path : config.socket_dir + "/" + listen.path;
    KVT_TRY_ASSIGN(Fd socket, listen_unix(path, SOCK_STREAM, 0600));
    paths_.push_back(path);
    listeners_.push_back(std::move(socket));
    if (config.metrics.socket_group.empty()) continue;
    KVT_TRY_ASSIGN(const uint32_t gid, server::find_group(config.metrics.socket_group));
    if (::chown(path.c_str(), static_cast<uid_t>(-1), gid) != 0 || ::chmod(path.c_str(), 0660) != 0)
      return fail_errno("chown " + path + " to group " + config.metrics.socket_group);
  }
  return {};
}

/// The loop's part: counters are copied, nothing is formatted.
void Exporter::on_wanted() {
  silence(wanted_);
  auto snapshot = std::make_shared<const Snapshot>(take_());
  {
    const std::lock_guard lock(mutex_);
    std::swap(last_, snapshot);
  }
  ring(taken_);
}

std::shared_ptr<const Snapshot> Exporter::last() const {
  const std::lock_guard lock(mutex_);
  return last_;
}

void Exporter::run() {
  ::pthread_setname_np(::pthread_self(), "metrics");
  while (!stopping_.load(std::memory_order_acquire)) {
    try {
      turn();
    } catch (const std::bad_alloc&) {  // the system gives no memory: who is here asks again
      dropped_ += connections_.size();
      connections_.clear();
      body_ = {};
    }
  }
}

void Exporter::turn() {
  const Clock::time_point now = Clock::now();
  std::vector<pollfd> polled{{stop_.get(), POLLIN, 0}, {taken_.get(), POLLIN, 0}};
  const bool accepts = now >= accepts_from_;
  for (const Fd& listener : listeners_) polled.push_back({accepts ? listener.get() : -1, POLLIN, 0});
  const size_t first = polled.size();
  for (const auto& connection : connections_) {
    const bool waits = connection->wants_metrics && connection->reply.empty();
    const int events = waits ? 0 : connection->reply.empty() ? POLLIN : POLLOUT;
    polled.push_back({connection->socket.get(), static_cast<short>(events), 0});
  }
  if (::poll(polled.data(), polled.size(), timeout_ms(now)) < 0) return;  // a signal, or no memory: again
  if (polled[0].revents != 0) return;
  const bool has_news = polled[1].revents != 0;
  if (has_news) silence(taken_);

  const size_t before = connections_.size();
  for (size_t i = 0; i < before; ++i)
    if (!serve(*connections_[i], polled[first + i].revents, has_news)) connections_[i].reset();
  std::erase(connections_, nullptr);
  for (size_t i = 0; i < listeners_.size(); ++i)
    if (polled[2 + i].revents != 0) accept_from(listeners_[i]);
}

/// false: it is over.
bool Exporter::serve(Connection& connection, short events, bool has_news) {
  const Clock::time_point now = Clock::now();
  if (connection.wants_metrics && connection.reply.empty() && (has_news || now >= connection.loop_deadline)) {
    if (!answer(connection)) return false;
  } else if ((events & (POLLIN | POLLOUT)) != 0) {
    if (connection.reply.empty() ? !receive(connection) : !send_more(connection)) return false;
  } else if (events != 0) {  // it has gone
    return false;
  }
  if (now < connection.deadline) return true;
  ++dropped_;
  return false;
}

int Exporter::timeout_ms(Clock::time_point now) const {
  Clock::time_point until = now + patience_;
  if (now < accepts_from_) until = std::min(until, accepts_from_);
  for (const auto& connection : connections_) {
    until = std::min(until, connection->deadline);
    if (connection->wants_metrics && connection->reply.empty())
      until = std::min(until, connection->loop_deadline);
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - now);
  return static_cast<int>(std::max<int64_t>(0, left.count()));
}

void Exporter::accept_from(const Fd& listener) {
  for (size_t i = 0; i < kConnectionsMax; ++i) {
    Fd socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid()) {
      // Without descriptors it would be called for it for ever.
      if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        accepts_from_ = Clock::now() + kFreshFor;
      return;
    }
    if (connections_.size() >= kConnectionsMax) {
      ++dropped_;
      connections_.erase(connections_.begin());
    }
    auto connection = std::make_unique<Connection>();
    connection->socket = std::move(socket);
    connection->deadline = Clock::now() + patience_;
    connections_.push_back(std::move(connection));
  }
}

bool Exporter::receive(Connection& connection) {
  char buffer[2048];
  const ssize_t got = ::recv(connection.socket.get(), buffer, sizeof buffer, 0);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0) return false;
  connection.request.append(buffer, static_cast<size_t>(got));
  if (!is_whole(connection.request)) {
    if (connection.request.size() < kRequestBytesMax) return true;
    connection.reply = reply_of("431 Request Header Fields Too Large", kPlain, "the request is too long\n");
    return send_more(connection);
  }
  connection.deadline = Clock::now() + patience_;
  const RequestLine line = request_line(connection.request);
  if (line.method.empty()) {
    connection.reply = reply_of("400 Bad Request", kPlain, "expected: GET /metrics HTTP/1.1\n");
  } else if (line.method != "GET" && line.method != "HEAD") {
    connection.reply = reply_of("405 Method Not Allowed", kPlain, "expected GET\n");
  } else if (line.path != "/metrics") {
    connection.reply = reply_of("404 Not Found", kPlain, "expected /metrics\n", line.method == "GET");
  } else {
    connection.wants_metrics = true;
    const Clock::time_point now = Clock::now();
    if (now - last()->taken <= kFreshFor) return answer(connection);
    connection.loop_deadline = now + kLoopPatience;
    ring(wanted_);
    return true;
  }
  return send_more(connection);
}

/// The exposition of the last snapshot, made once for all that ask within kFreshFor.
const std::string& Exporter::body() {
  const std::shared_ptr<const Snapshot> snapshot = last();
  const Clock::time_point now = Clock::now();
  if (!body_.empty() && body_made_ >= snapshot->taken && now - body_made_ <= kFreshFor) return body_;
  ExporterCounts counts;
  counts.snapshot_age_seconds = std::chrono::duration<double>(now - snapshot->taken).count();
  counts.requests = requests_;
  counts.connections_dropped = dropped_;
  body_ = exposition(families(*snapshot, sample_process(), counts));
  body_made_ = now;
  return body_;
}

bool Exporter::answer(Connection& connection) {
  ++requests_;
  connection.reply = reply_of("200 OK", kExposition, body(), !connection.request.starts_with("HEAD"));
  return send_more(connection);
}

bool Exporter::send_more(Connection& connection) {
  while (connection.sent < connection.reply.size()) {
    const ssize_t sent = ::send(connection.socket.get(), connection.reply.data() + connection.sent,
                                connection.reply.size() - connection.sent, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno == EAGAIN;
    connection.sent += static_cast<size_t>(sent);
  }
  return false;
}

}  // namespace kvt::metrics
