// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "daemon/keeper/memory_reserve.h"
#include "daemon/restart/points.h"
#include "daemon/server/access.h"
#include "daemon/server/request.h"

namespace kvt::server {
namespace {

using events::Kind;
using restart::Point;
using restart::reach;

using Clock = std::chrono::steady_clock;

/// How often a quarantine is looked at.
constexpr long kQuarantineLookNs = 20'000'000;

template <typename Struct>
Struct message_of(uint16_t type) {
  Struct message{};
  message.header.magic = KVT_WIRE_MAGIC;
  message.header.type = type;
  message.header.bytes = sizeof(Struct);
  return message;
}

/// Libraries before minor 7 map whole windows: tiers whose device memory is given up in part are not for them.
uint32_t tiers_it_cannot_have(const keeper::Arena& arena, uint32_t minor) {
  uint32_t tiers = 0;
  for (uint32_t tier = 0; minor < 7 && tier < arena.table().tiers(); ++tier)
    if (arena.table().chunks_given_up(tier) != 0) tiers |= 1u << tier;
  return tiers;
}

void note_device_tiers(keeper::Member& member, uint32_t tiers, uint32_t minor) {
  member.device_tiers = tiers;
  member.follows_chunks = minor >= 7;
}

template <typename Struct>
bool send_struct(const Fd& socket, const Struct& message, std::span<const int> fds = {}) {
  return send_message(socket, std::as_bytes(std::span(&message, 1)), fds).has_value();
}

uint32_t status_of(Code code) {
  switch (code) {
    case Code::kNotFound: return KVT_WIRE_E_NOT_FOUND;
    case Code::kPermission: return KVT_WIRE_E_PERMISSION;
    case Code::kMismatch: return KVT_WIRE_E_MISMATCH;
    case Code::kLimit: return KVT_WIRE_E_LIMIT;
    case Code::kFull: return KVT_WIRE_E_FULL;
    case Code::kEnded: return KVT_WIRE_E_ENDED;
    case Code::kSystem: return KVT_WIRE_E_SYSTEM;
    case Code::kInvalid:
    case Code::kAgain: return KVT_WIRE_E_PROTOCOL;
  }
  return KVT_WIRE_E_PROTOCOL;
}

Peer peer_of(const Fd& socket, uint32_t uid, uint32_t gid) {
  Peer peer{uid, gid, {}};
  std::vector<uint32_t> groups(256);
  auto bytes = static_cast<socklen_t>(groups.size() * sizeof(uint32_t));
  int got = ::getsockopt(socket.get(), SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes);
  if (got != 0 && errno == ERANGE) {  // `bytes` says how many there are
    groups.resize(bytes / sizeof(uint32_t));
    got = ::getsockopt(socket.get(), SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes);
  }
  if (got == 0) {
    groups.resize(bytes / sizeof(uint32_t));
    peer.groups = std::move(groups);
  }
  return peer;
}

Result<Ownership> ownership_of(const ArenaConfig& arena) {
  Ownership ownership{::geteuid(), ::getegid(), arena.mode};
  if (!arena.owner.empty()) {
    KVT_TRY_ASSIGN(ownership.uid, find_user(arena.owner));
  }
  if (!arena.group.empty()) {
    KVT_TRY_ASSIGN(ownership.gid, find_group(arena.group));
  }
  return ownership;
}

/// A session's region, its doorbell and its owner's pidfd.
constexpr uint64_t kSessionDescriptors = 3;

std::string store_is_full(const restart::FdStore& store) {
  return fmt::format(
      "the service manager keeps {} of {} descriptors, and a session needs {} more (daemon.descriptors_max, "
      "FileDescriptorStoreMax)",
      store.stored(), store.max(), kSessionDescriptors);
}

/// The last close of a socket that lingers waits for its peer, for as long as its sender has said: not here.
void do_not_linger(const Message& message) {
  const linger none{};
  for (const Fd& fd : message.fds) ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

/// Its number may be another process's by now.
bool is_dead(const Fd& pidfd) {
  pollfd ask{pidfd.get(), POLLIN, 0};
  return pidfd.valid() && ::poll(&ask, 1, 0) > 0;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::create(keeper::EventLoop& loop, keeper::Keeper& keeper, Log log,
                                               const AttachTurns& turns) {
  std::unique_ptr<Server> server(new Server(loop, keeper, std::move(log), turns));
  for (const ArenaConfig& arena : keeper.config().arenas) {
    KVT_TRY_ASSIGN(server->ownership_[keeper.find_arena(arena.name)], ownership_of(arena));
  }
  server->spare_ = Fd(::eventfd(0, EFD_CLOEXEC));
  server->timer_ = Fd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!server->timer_.valid()) return fail_errno("a timer for quarantines");
  KVT_TRY(loop.add(server->timer_.get(), keeper::EventLoop::Trigger::kLevel,
                   [raw = server.get()] { raw->end_quarantines(); }));
  server->turns_timer_ = Fd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!server->turns_timer_.valid()) return fail_errno("a timer for requests to attach");
  KVT_TRY(loop.add(server->turns_timer_.get(), keeper::EventLoop::Trigger::kLevel,
                   [raw = server.get()] { raw->serve_waiting(); }));
  server->adopt_sessions();
  server->end_gone();
  return server;
}

Result<void> Server::listen(Fd given) {
  const auto begin = [this] {
    return loop_.add(listener_.get(), keeper::EventLoop::Trigger::kLevel, [this] { on_accept(); });
  };
  const Config& config = keeper_.config();
  if (given.valid()) {
    listener_ = std::move(given);
    return begin();
  }
  path_ = config.socket_dir + "/attach.sock";
  const bool shared = !config.socket_group.empty() ||
                      std::any_of(config.arenas.begin(), config.arenas.end(),
                                  [](const ArenaConfig& arena) { return (arena.mode & 066) != 0; });
  KVT_TRY_ASSIGN(listener_, listen_unix(path_, SOCK_SEQPACKET, shared ? 0666 : 0600));
  if (!config.socket_group.empty()) {
    KVT_TRY_ASSIGN(const uint32_t gid, find_group(config.socket_group));
    if (::chown(path_.c_str(), static_cast<uid_t>(-1), gid) != 0 || ::chmod(path_.c_str(), 0660) != 0)
      return fail_errno("chown " + path_ + " to group " + config.socket_group);
  }
  return begin();
}

Server::~Server() {
  if (timer_.valid()) loop_.remove(timer_.get());
  if (turns_timer_.valid()) loop_.remove(turns_timer_.get());
  if (!path_.empty()) ::unlink(path_.c_str());
}

/// Closes a connection. What has not been read of it may carry descriptors, too.
void Server::hang_up(Fd socket, uint32_t uid) {
  ::shutdown(socket.get(), SHUT_RD);
  for (auto rest = receive_message(socket); rest && !rest->end; rest = receive_message(socket)) {
    do_not_linger(*rest);
    closer_.close(std::move(rest->fds), uid);
  }
}

void Server::on_accept() {
  for (int i = 0; i < 16; ++i) {  // a flood of connections does not keep the loop
    Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid() && (errno == EMFILE || errno == ENFILE)) {
      // Who waits is turned away, or the loop would be woken for it for ever.
      ++dropped_;
      spare_.reset();
      Fd waiting(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      ucred sender{};
      socklen_t sender_bytes = sizeof sender;
      if (waiting.valid() &&
          ::getsockopt(waiting.get(), SOL_SOCKET, SO_PEERCRED, &sender, &sender_bytes) == 0)
        hang_up(std::move(waiting), sender.uid);  // what it has sent is nobody else's
      spare_ = Fd(::eventfd(0, EFD_CLOEXEC));
      return;
    }
    if (!socket.valid()) return;
    ucred credentials{};
    socklen_t bytes = sizeof credentials;
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0) continue;
    if (closer_.is_stuck(credentials.uid) || (connections_.size() >= KVT_MAX_CONNECTIONS && !make_room())) {
      ++dropped_;
      hang_up(std::move(socket), credentials.uid);
      continue;
    }
    auto connection = std::make_unique<Connection>();
    connection->pid = credentials.pid;
    connection->uid = credentials.uid;
    connection->gid = credentials.gid;
    connection->socket = std::move(socket);
    connection->serial = next_serial_++;
    const int fd = connection->socket.get();
    Connection* const raw = connection.get();
    if (loop_.add(fd, keeper::EventLoop::Trigger::kLevel, [this, raw] { on_message(*raw); }))
      connections_[fd] = std::move(connection);
  }
}

/// The oldest connection without a session gives way: those that say nothing lock nobody out. Where all have one, the
/// oldest of the process that has the most, of the user that has the most: it can resume, and nobody else has to.
bool Server::make_room() {
  Connection* oldest = nullptr;
  for (const auto& [fd, connection] : connections_)
    if (connection->process == nullptr && (oldest == nullptr || connection->serial < oldest->serial))
      oldest = connection.get();
  if (oldest == nullptr) {
    std::unordered_map<uint32_t, size_t> of_user;
    std::unordered_map<int, size_t> of_process;
    for (const auto& [fd, connection] : connections_) {
      ++of_user[connection->uid];
      ++of_process[connection->pid];
    }
    const auto rank = [&](const Connection& each) {
      return std::tuple(of_user[each.uid], of_process[each.pid], UINT64_MAX - each.serial);
    };
    for (const auto& [fd, connection] : connections_)
      if (oldest == nullptr || rank(*connection) > rank(*oldest)) oldest = connection.get();
  }
  if (oldest == nullptr) return false;
  ++dropped_;
  close(*oldest);
  return true;
}

/// To the log, without what a client may have put in to look like other lines.
void Server::note(events::Kind kind, const std::string& text) {
  std::string clean = text;
  for (char& each : clean)
    if (static_cast<unsigned char>(each) < 0x20 || static_cast<unsigned char>(each) >= 0x7f) each = '?';
  log_(kind, clean);
}

void Server::on_message(Connection& connection) {
  auto message = receive_message(connection.socket);
  if (!message) {
    if (message.error().code != Code::kAgain) close(connection);
    return;
  }
  if (message->end) return close(connection);
  do_not_linger(*message);
  const uint32_t uid = connection.uid;
  if (!message->fds.empty() && closer_.is_stuck(uid))
    drop(connection, "descriptors that its user has sent before do not close");
  else
    handle(connection, *message);
  closer_.close(std::move(message->fds), uid);
}

void Server::handle(Connection& connection, Message& message) {
  if (message.truncated) return drop(connection, "half a message");
  const auto request = parse_request(message.bytes);
  if (!request) return drop(connection, request.error().text);
  if (const auto* const hello = std::get_if<kvt_wire_hello>(&*request)) return on_hello(connection, *hello);
  if (!connection.greeted) return drop(connection, "a request before HELLO");
  if (const auto* const attach = std::get_if<kvt_wire_attach>(&*request)) {
    if (turns_.may_begin(Clock::now())) return on_attach(connection, *attach, message.fds);
    // Read on when it has had its turn.
    loop_.remove(connection.socket.get());
    turns_.wait(connection.uid, connection.serial);
    connection.waiting = Waiting{*attach, std::move(message.fds)};
    return set_turns_timer();
  }
  if (const auto* const join = std::get_if<kvt_wire_join>(&*request))
    return on_join(connection, *join, message.fds);
  if (const auto* const resume = std::get_if<kvt_wire_resume>(&*request))
    return on_resume(connection, *resume, message.fds);
  if (const auto* const chunks = std::get_if<kvt_wire_chunks>(&*request))
    return on_chunks(connection, *chunks);
  on_detach(connection);
}

void Server::on_hello(Connection& connection, const kvt_wire_hello& hello) {
  if (auto agreed = check_versions(hello); !agreed)
    return refuse(connection, KVT_WIRE_E_VERSION, agreed.error().text);
  auto welcome = message_of<kvt_wire_welcome>(KVT_WIRE_WELCOME);
  welcome.abi_major = KVT_ABI_MAJOR;
  welcome.abi_minor = KVT_ABI_MINOR;
  welcome.daemon_pid = static_cast<uint32_t>(::getpid());
  connection.greeted = true;
  connection.minor = hello.abi_minor;
  if (!send_struct(connection.socket, welcome)) close(connection);
}

/// Requests that wait, as far as there is time for them.
void Server::serve_waiting() {
  uint64_t fired = 0;
  [[maybe_unused]] const ssize_t got =
      ::read(turns_timer_.get(), &fired, sizeof fired);  // ours alone, non-blocking
  while (const auto serial = turns_.next(Clock::now())) {
    const auto found = std::find_if(connections_.begin(), connections_.end(),
                                    [&](const auto& entry) { return entry.second->serial == *serial; });
    if (found == connections_.end()) continue;
    Connection& connection = *found->second;
    const uint32_t uid = connection.uid;
    Waiting waiting = std::move(*connection.waiting);
    connection.waiting.reset();
    // Who has not waited wants no session.
    char none = 0;
    const bool gone = ::recv(connection.socket.get(), &none, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
    if (gone || !loop_.add(connection.socket.get(), keeper::EventLoop::Trigger::kLevel,
                           [this, raw = &connection] { on_message(*raw); }))
      close(connection);
    else
      on_attach(connection, waiting.request, waiting.fds);
    closer_.close(std::move(waiting.fds), uid);
  }
  set_turns_timer();
}

void Server::set_turns_timer() {
  itimerspec when{};
  if (const auto wait = turns_.until_next(Clock::now())) {
    const auto ns = std::max<int64_t>(1'000'000, std::chrono::nanoseconds(*wait).count());
    when.it_value = {ns / 1'000'000'000, ns % 1'000'000'000};
  }
  ::timerfd_settime(turns_timer_.get(), 0, &when, nullptr);
}

/// The one descriptor of a request: the sender's own pidfd, which must agree with what the kernel says of the
/// peer.
Result<Fd> Server::take_pidfd(const Connection& connection, std::vector<Fd>& fds) const {
  if (fds.size() != 1)
    return fail(Code::kInvalid,
                fmt::format("the request came with {} descriptors; one pidfd was expected", fds.size()));
  if (connection.pid == 0)
    return fail(
        Code::kPermission,
        "the sender is in a PID namespace that kvtierd does not see: kvtierd has to run in the same one, or "
        "in the host's");
  KVT_TRY_ASSIGN(const int pid, pidfd_pid(fds[0]));
  if (pid != connection.pid)
    return fail(Code::kPermission,
                fmt::format("the pidfd is of process {}, the sender is {}", pid, connection.pid));
  return std::move(fds[0]);
}

Server::Process& Server::add_process(Session& session, Connection& connection, uint32_t member, bool owner,
                                     Fd pidfd) {
  Process& process = session.processes.emplace_back();
  process.session = &session;
  process.member = member;
  process.owner = owner;
  process.pid = connection.pid;
  process.pidfd = std::move(pidfd);
  process.connection = &connection;
  process.serial = next_serial_++;
  process.layout_minor = connection.minor;
  connection.process = &process;
  // pidfd: readable when the process is dead. Never read.
  if (!loop_.add(process.pidfd.get(), keeper::EventLoop::Trigger::kLevel,
                 [this, raw = &process] { on_death(*raw); }))
    process.is_watched = false;
  return process;
}

uint64_t Server::session_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [id, session] : sessions_)
    if (const keeper::SessionState* const state = session->arena->find_session(id))
      bytes += state->mapping.bytes();
  return bytes;
}

/// Limits of what all sessions, and those of one user in one arena, may have. The error is a client's to read.
Result<void> Server::has_room_for(const kvt_wire_attach& request, const keeper::Arena& arena,
                                  uint32_t uid) const {
  const auto of_user = std::count_if(sessions_.begin(), sessions_.end(), [&](const auto& entry) {
    return entry.second->arena == &arena && entry.second->uid == uid;
  });
  const ArenaConfig& config = keeper_.arena_config(arena);
  if (of_user >= static_cast<std::ptrdiff_t>(config.sessions_per_user))
    return fail(Code::kLimit,
                fmt::format("user {} has {} sessions of arena \"{}\", as many as a user may have "
                            "(sessions_per_user)",
                            uid, of_user, config.name));
  SessionGeometry geometry;
  geometry.pages = arena.table().pages();
  geometry.members_max = request.members_max;
  const uint64_t more = session_region_bytes(geometry);
  const uint64_t now = session_bytes();
  const uint64_t most = keeper_.config().session_bytes_max;
  if (more > most || now > most - more)
    return fail(Code::kLimit, fmt::format("the session needs {} KiB; all sessions together have {} of {} KiB "
                                          "(daemon.session_bytes_max)",
                                          more >> 10, now >> 10, most >> 10));
  return {};
}

void Server::on_attach(Connection& connection, const kvt_wire_attach& request, std::vector<Fd>& fds) {
  const Clock::time_point begin = Clock::now();
  const uint32_t uid = connection.uid;
  serve_attach(connection, request, fds);
  turns_.spend(uid, Clock::now() - begin, Clock::now());
}

void Server::serve_attach(Connection& connection, const kvt_wire_attach& request, std::vector<Fd>& fds) {
  if (connection.process != nullptr)
    return refuse(connection, KVT_WIRE_E_PROTOCOL, "this connection has a session already");
  auto pidfd = take_pidfd(connection, fds);
  if (!pidfd) return refuse(connection, status_of(pidfd.error().code), pidfd.error().text);
  keeper::Arena* const arena = keeper_.find_arena(request.arena);
  if (arena == nullptr)
    return refuse(connection, KVT_WIRE_E_NOT_FOUND, fmt::format("no arena \"{:.63}\" here", request.arena));
  const ArenaConfig& config = keeper_.arena_config(*arena);
  const Ownership& ownership = ownership_.at(arena);
  const Wanted wanted = request.access == KVT_WIRE_READ ? Wanted::kRead : Wanted::kReadWrite;
  if (!may_attach(peer_of(connection.socket, connection.uid, connection.gid), ownership, wanted))
    return refuse(connection, KVT_WIRE_E_PERMISSION,
                  fmt::format("arena \"{}\" has mode {:04o} and is not open to user {} for {}", config.name,
                              config.mode, connection.uid,
                              wanted == Wanted::kRead ? "reading" : "reading and writing"));
  if (auto fits = check_attach(request, arena->table().header()); !fits)
    return refuse(connection, status_of(fits.error().code), fits.error().text);
  if (auto room = has_room_for(request, *arena, connection.uid); !room)
    return refuse(connection, status_of(room.error().code), room.error().text);
  restart::Kept& kept = keeper_.kept();
  if (!kept.store.has_room(kSessionDescriptors))
    return refuse(connection, KVT_WIRE_E_LIMIT, store_is_full(kept.store));
  if (keeper::MemoryReserve::is_used())
    return refuse(connection, KVT_WIRE_E_FULL, "the system gives the daemon no memory: no session can begin");
  Fd doorbell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!doorbell.valid()) return refuse(connection, KVT_WIRE_E_SYSTEM, "the daemon is out of descriptors");
  const uint64_t id = kept.state.next_session_id();
  // Who has device memory can write it, whatever was meant: a session that reads alone gets none.
  const uint32_t device_tiers =
      request.has_device != 0 && wanted == Wanted::kReadWrite
          ? arena->tiers_of_gpu(request.device_uuid) & ~tiers_it_cannot_have(*arena, connection.minor)
          : 0;
  auto made =
      arena->add_session(id, request.column, request.members_max, request.access == KVT_WIRE_READ_WRITE,
                         request.guarantee_pages, device_tiers);
  if (!made) return refuse(connection, status_of(made.error().code), made.error().text);
  (*made)->uid = connection.uid;
  auto session = std::make_unique<Session>();
  session->id = id;
  session->arena = arena;
  session->uid = connection.uid;
  session->doorbell = std::move(doorbell);
  if (::getrandom(session->token.data(), session->token.size(), 0) !=
          static_cast<ssize_t>(session->token.size()) ||
      !loop_.add(session->doorbell.get(), keeper::EventLoop::Trigger::kEdge,
                 [] {})) {  // the pass after the wake-up serves
    arena->end_session(**made);
    return refuse(connection, KVT_WIRE_E_SYSTEM, "the daemon could not make the session's doorbell");
  }
  if (request.has_fingerprint != 0 && request.access == KVT_WIRE_READ_WRITE &&
      has_no_fingerprint(arena->table().header()))
    arena->table().set_fingerprint(std::span<const uint8_t, KVT_FINGERPRINT_BYTES>(request.fingerprint));
  Session& made_session = *session;
  sessions_[id] = std::move(session);
  reach(Point::kAttachSession);
  const auto member = arena->add_member(**made, connection.pid);
  KVT_CHECK(member.has_value());
  Process& process = add_process(made_session, connection, *member, true, std::move(*pidfd));
  process.has_device = request.has_device != 0;
  (*made)->has_gpu = process.has_device;
  process.device_listed = lists_gpu(request.device_uuid);
  process.device_tiers = device_tiers;
  note_device_tiers((*made)->members[*member], device_tiers, connection.minor);
  note(Kind::kAttach, fmt::format("session {}: process {} (user {}) attached arena \"{}\"", id,
                                  connection.pid, connection.uid, config.name));
  restart::SessionSlot& slot =
      kept.state.new_session(arena->table().header().arena_id, (*made)->geometry.slot);
  slot.members_max = request.members_max;
  slot.column = request.column;
  slot.read_write = request.access == KVT_WIRE_READ_WRITE ? 1 : 0;
  slot.guarantee = request.guarantee_pages;
  slot.uid = connection.uid;
  slot.device_tiers = device_tiers;
  std::memcpy(slot.token, made_session.token.data(), sizeof slot.token);
  note_process(made_session, process, request.device_uuid);
  restart::RestartState::commit(slot, id);
  reach(Point::kAttachRecorded);
  store_and_grant(made_session, process, true);
}

restart::SessionSlot& Server::slot_of(const Session& session) {
  const keeper::SessionState* const state = session.arena->find_session(session.id);
  return keeper_.kept().state.session(session.arena->table().header().arena_id, state->geometry.slot);
}

/// What the next daemon has to know of a process. It counts with the session's slot, or at once.
void Server::note_process(Session& session, const Process& process,
                          const uint8_t (&uuid)[KVT_DEVICE_UUID_BYTES]) {
  restart::MemberSlot& slot = slot_of(session).member[process.member];
  restart::RestartState::clear(slot);
  slot.pid = process.pid;
  slot.owner = process.owner ? 1 : 0;
  slot.has_device = process.has_device ? 1 : 0;
  slot.device_tiers = process.device_tiers;
  std::memcpy(slot.device_uuid, uuid, sizeof slot.device_uuid);
  slot.granted = 0;
  slot.minor = process.layout_minor;
  restart::RestartState::commit(slot);
}

/// Before a process gets its descriptors, the store has them (PROTOCOL A2): what it then holds or reads is known to
/// whichever daemon comes next.
void Server::store_and_grant(Session& session, Process& process, bool first) {
  restart::FdStore& store = keeper_.kept().store;
  if (!store.is_kept()) return grant(session, process);
  auto done = [&]() -> Result<Fd> {
    if (first) {
      const keeper::SessionState& state = *session.arena->find_session(session.id);
      KVT_TRY(store.put(restart::region_name(session.id), state.region_fd.get()));
      KVT_TRY(store.put(restart::doorbell_name(session.id), session.doorbell.get()));
    }
    KVT_TRY(store.put(restart::pidfd_name(session.id, process.member), process.pidfd.get()));
    reach(Point::kAttachStored);
    return store.barrier();
  }();
  const int fd = done ? done->get() : -1;
  if (!done || !loop_.add(fd, keeper::EventLoop::Trigger::kLevel, [this, fd] { on_stored(fd); })) {
    Connection* const connection = process.connection;
    const std::string why = done ? "the daemon is out of descriptors" : done.error().text;
    end_process(process);
    if (connection != nullptr) refuse(*connection, KVT_WIRE_E_SYSTEM, why);
    return;
  }
  pending_[fd] = Pending{std::move(*done), session.id, process.serial};
}

/// The store has what was sent for a grant.
void Server::on_stored(int fd) {
  const auto found = pending_.find(fd);
  const Pending pending = std::move(found->second);
  pending_.erase(found);
  loop_.remove(fd);
  const auto session = sessions_.find(pending.session);
  if (session == sessions_.end()) return;
  for (Process& process : session->second->processes) {
    if (process.serial != pending.process) continue;
    reach(Point::kAttachBarrier);
    if (process.connection == nullptr) return end_process(process);  // it did not wait, and got nothing
    return grant(*session->second, process);
  }
}

/// Sessions that the keeper has taken over. Their processes come back over new connections, or are dead by now, as their
/// pidfds say in the loop's first turn.
void Server::adopt_sessions() {
  restart::Kept& kept = keeper_.kept();
  if (!kept.is_adopted) return;
  for (const auto& arena : keeper_.arenas()) {
    const uint64_t arena_id = arena->table().header().arena_id;
    for (restart::SessionSlot* const slot : kept.state.sessions(arena_id)) {
      if (arena->find_session(slot->valid) == nullptr) {
        note(Kind::kAdoption, fmt::format("session {} is not taken over", slot->valid));
        restart::RestartState::clear(*slot);
        continue;
      }
      auto session = std::make_unique<Session>();
      session->id = slot->valid;
      session->arena = arena.get();
      session->uid = slot->uid;
      std::memcpy(session->token.data(), slot->token, session->token.size());
      session->ending = slot->ending != 0 || arena->find_session(slot->valid)->ending;
      store_release(slot->ending, uint32_t{session->ending});
      session->doorbell = kept.store.take(restart::doorbell_name(session->id));
      if (!session->doorbell.valid() ||
          !loop_.add(session->doorbell.get(), keeper::EventLoop::Trigger::kEdge, [] {}))
        note(
            Kind::kAdoption,
            fmt::format("session {}: its doorbell is lost; it is served when something else wakes the daemon",
                        session->id));
      Session& adopted = *session;
      sessions_[adopted.id] = std::move(session);
      adopt_processes(adopted, *slot);
    }
  }
}

void Server::adopt_processes(Session& session, restart::SessionSlot& slot) {
  keeper::SessionState& state = *session.arena->find_session(session.id);
  for (uint32_t i = 0; i < slot.members_max; ++i) {
    const restart::MemberSlot& member = slot.member[i];
    if (member.valid == 0) continue;
    Process& process = session.processes.emplace_back();
    process.session = &session;
    process.member = i;
    process.owner = member.owner != 0;
    process.pid = member.pid;
    process.has_device = member.has_device != 0;
    state.has_gpu = state.has_gpu || process.has_device;
    process.device_listed = lists_gpu(member.device_uuid);
    process.device_tiers = member.device_tiers;
    note_device_tiers(state.members[i], member.device_tiers, member.minor);
    process.serial = next_serial_++;
    process.layout_minor = member.minor;
    process.pidfd = keeper_.kept().store.take(restart::pidfd_name(session.id, i));
    // A grant that was on its way when the daemon died is taken back, if nobody has taken it; and who detached while there
    // was none has gone.
    const bool withdrawn = process.layout_minor >= 4 && keeper::Arena::take_back_grant(state, i);
    const bool watched =
        process.pidfd.valid() && loop_.add(process.pidfd.get(), keeper::EventLoop::Trigger::kLevel,
                                           [this, raw = &process] { on_death(*raw); });
    if (!watched && !withdrawn)
      note(Kind::kAdoption,
           fmt::format("session {}: the end of process {} will not be noticed", session.id, process.pid));
    if (withdrawn) gone_.emplace_back(session.id, process.serial);
  }
  note(Kind::kAdoption,
       fmt::format("session {}: taken over, {} processes", session.id, session.processes.size()));
}

/// Once, when all sessions are there: those of them that nobody has.
void Server::end_gone() {
  for (const auto& [session_id, serial] : std::exchange(gone_, {})) {
    const auto session = sessions_.find(session_id);
    if (session == sessions_.end()) continue;
    for (Process& process : session->second->processes) {
      if (process.serial != serial) continue;
      end_process(process);
      break;
    }
  }
  // And those whose members had been told that they end: nothing of them is counted on any more.
  std::vector<Session*> told;
  for (const auto& [id, session] : sessions_)
    if (session->ending && keeper::Arena::has_told_ended(*session->arena->find_session(id)))
      told.push_back(session.get());
  for (Session* const session : told) {
    if (session->arena->find_session(session->id)->has_gpu) session->arena->keep_memory();
    end_session(*session, "the daemon before this one was ending it");
  }
}

Server::Session* Server::find_by_token(const uint8_t* token) {
  for (const auto& [id, session] : sessions_) {
    // Compared in constant time: a token cannot be found byte by byte.
    uint8_t difference = 0;
    for (size_t i = 0; i < session->token.size(); ++i)
      difference |= static_cast<uint8_t>(session->token[i] ^ token[i]);
    if (difference == 0) return session.get();
  }
  return nullptr;
}

void Server::on_join(Connection& connection, const kvt_wire_join& request, std::vector<Fd>& fds) {
  if (connection.process != nullptr)
    return refuse(connection, KVT_WIRE_E_PROTOCOL, "this connection has a session already");
  auto pidfd = take_pidfd(connection, fds);
  if (!pidfd) return refuse(connection, status_of(pidfd.error().code), pidfd.error().text);
  Session* const session = find_by_token(request.token);
  if (session == nullptr || session->uid != connection.uid || session->ending)
    return refuse(connection, KVT_WIRE_E_ENDED, "no session has this token");
  keeper::SessionState* const state = session->arena->find_session(session->id);
  // A member without a GPU, such as a scheduler, knows pages by handle and reads none. Another GPU is another column.
  const uint32_t device_tiers =
      request.has_device != 0 && state->read_write ? session->arena->tiers_of_gpu(request.device_uuid) : 0;
  if ((device_tiers & ~state->device_tiers) != 0)
    return refuse(connection, KVT_WIRE_E_MISMATCH,
                  fmt::format("session {} reads with another GPU; a session has one", session->id));
  if ((device_tiers & tiers_it_cannot_have(*session->arena, connection.minor)) != 0)
    return refuse(connection, KVT_WIRE_E_MISMATCH,
                  fmt::format("some of the session's device memory is given up: expected a library that "
                              "knows layout 1.7, and this one knows 1.{}",
                              connection.minor));
  if (!keeper_.kept().store.has_room(1))
    return refuse(connection, KVT_WIRE_E_LIMIT, store_is_full(keeper_.kept().store));
  const auto member = session->arena->add_member(*state, connection.pid);
  if (!member) return refuse(connection, status_of(member.error().code), member.error().text);
  Process& process = add_process(*session, connection, *member, false, std::move(*pidfd));
  process.has_device = request.has_device != 0;
  state->has_gpu = state->has_gpu || process.has_device;
  process.device_listed = lists_gpu(request.device_uuid);
  process.device_tiers = device_tiers;
  note_device_tiers(state->members[*member], device_tiers, connection.minor);
  note(Kind::kJoin,
       fmt::format("session {}: process {} joined as member {}", session->id, connection.pid, *member));
  note_process(*session, process, request.device_uuid);
  reach(Point::kJoinRecorded);
  store_and_grant(*session, process, false);
}

void Server::on_resume(Connection& connection, const kvt_wire_resume& request, std::vector<Fd>& fds) {
  if (connection.process != nullptr)
    return refuse(connection, KVT_WIRE_E_PROTOCOL, "this connection has a session already");
  auto pidfd = take_pidfd(connection, fds);
  if (!pidfd) return refuse(connection, status_of(pidfd.error().code), pidfd.error().text);
  Session* const session = find_by_token(request.token);
  if (session == nullptr || session->id != request.session_id)
    return refuse(connection, KVT_WIRE_E_ENDED, "the session has ended; attach again");
  for (Process& process : session->processes) {
    if (process.member != request.member || process.pid != connection.pid || is_dead(process.pidfd)) continue;
    if (process.connection != nullptr) process.connection->process = nullptr;
    process.connection = &connection;
    connection.process = &process;
    // It may still detach over this connection, which ends its claims.
    if (session->ending)
      return refuse(connection, KVT_WIRE_E_ENDED, "the session's owner has gone; attach again");
    keeper::Member& member = session->arena->find_session(session->id)->members[process.member];
    member.orphan = member.broken;
    if (!send_struct(connection.socket, message_of<kvt_wire_empty>(KVT_WIRE_RESUMED))) close(connection);
    return;
  }
  refuse(connection, KVT_WIRE_E_ENDED, "this process is no member of the session");
}

/// The chunks of a window that are there. What the member has not mapped from then on is what it was not granted.
void Server::add_chunks(Session& session, const Process& process, uint32_t tier, kvt_wire_grant& grant,
                        std::vector<int>& fds) {
  const ArenaTable& table = session.arena->table();
  const std::vector<int>& chunks = session.arena->memory().device_fds[tier];
  grant.chunks_given_up[tier] = static_cast<uint16_t>(table.chunks_given_up(tier));
  const uint64_t there = table.window_descriptors(tier) - grant.chunks_given_up[tier];
  fds.insert(fds.end(), chunks.begin(),
             chunks.begin() + static_cast<std::ptrdiff_t>(std::min<uint64_t>(there, chunks.size())));
  const keeper::SessionState& state = *session.arena->find_session(session.id);
  store_release(state.region.member(process.member).chunks_unmapped[tier], grant.chunks_given_up[tier]);
}

/// Chunks that are there again, for a member that had mapped the window without them. So often each time that the table's
/// word has changed, whatever connection it comes by: descriptors that nobody takes out of a socket count as the daemon's.
void Server::on_chunks(Connection& connection, const kvt_wire_chunks& request) {
  if (connection.process == nullptr ||
      slot_of(*connection.process->session).member[connection.process->member].granted == 0)
    return refuse(connection, KVT_WIRE_E_PROTOCOL, "this connection has no session");
  Process& process = *connection.process;
  const keeper::Arena& arena = *process.session->arena;
  if (request.tier >= arena.table().tiers() || (process.device_tiers & 1u << request.tier) == 0)
    return refuse(connection, KVT_WIRE_E_PERMISSION, "the session was granted no device memory of this tier");
  const uint32_t given_up = arena.table().chunks_given_up(request.tier);
  const auto all = std::span(arena.memory().device_fds[request.tier]);
  const uint64_t there =
      std::min<uint64_t>(arena.table().window_descriptors(request.tier) - given_up, all.size());
  if (request.count == 0 || request.first > there || request.count > there - request.first)
    return refuse(connection, KVT_WIRE_E_NOT_FOUND,
                  fmt::format("chunks {} to {} are wanted of tier {}, and {} are there", request.first,
                              uint64_t{request.first} + request.count, request.tier, there));
  constexpr uint32_t kTimesMax = 4;  // who could not map them may ask again
  Process::ChunksServed& served = process.chunks_served[request.tier];
  if (served.given_up != given_up) served = {given_up, 0};
  if (served.times++ >= kTimesMax)
    return refuse(connection, KVT_WIRE_E_LIMIT,
                  fmt::format("what is there of tier {} was given {} times", request.tier, kTimesMax));
  auto answer = message_of<kvt_wire_chunks>(KVT_WIRE_CHUNKS_GRANT);
  answer.tier = request.tier;
  answer.first = request.first;
  answer.count = request.count;
  if (!send_struct(connection.socket, answer, all.subspan(request.first, request.count))) close(connection);
}

void Server::grant(Session& session, Process& process) {
  Connection& connection = *process.connection;
  if (!process.is_watched) {  // nobody would notice its end
    end_process(process);
    return refuse(connection, KVT_WIRE_E_SYSTEM, "the daemon cannot watch for the end of the process");
  }
  store_release(slot_of(session).member[process.member].granted, uint32_t{1});
  reach(Point::kAttachGranting);
  const keeper::SessionState& state = *session.arena->find_session(session.id);
  const keeper::ArenaMemory& memory = session.arena->memory();
  auto grant = message_of<kvt_wire_grant>(KVT_WIRE_GRANT);
  grant.session_id = session.id;
  grant.member = process.member;
  grant.windows = static_cast<uint32_t>(memory.window_fds.size());
  grant.access = state.read_write ? KVT_WIRE_READ_WRITE : KVT_WIRE_READ;
  grant.daemon_pid = static_cast<uint32_t>(::getpid());
  std::memcpy(grant.token, session.token.data(), sizeof grant.token);
  grant.table_bytes = memory.table_mapping.bytes();
  grant.session_bytes = state.mapping.bytes();
  grant.device_tiers = process.device_tiers;
  std::vector<int> fds{memory.table_read_only_fd.get(), state.region_fd.get(), session.doorbell.get()};
  for (uint32_t tier = 0; tier < grant.windows; ++tier) {
    if (!session.arena->table().is_device(tier))
      fds.push_back((state.read_write ? memory.window_fds : memory.window_read_only_fds)[tier].get());
    else if ((process.device_tiers & 1u << tier) != 0)
      add_chunks(session, process, tier, grant, fds);
  }
  const size_t bytes = connection.minor < 3   ? KVT_WIRE_GRANT_BYTES_MIN
                       : connection.minor < 7 ? KVT_WIRE_GRANT_BYTES_MINOR_3
                                              : sizeof grant;
  grant.header.bytes = static_cast<uint16_t>(bytes);
  if (send_message(connection.socket, std::as_bytes(std::span(&grant, 1)).first(bytes), fds)) {
    reach(Point::kAttachGranted);
    return;
  }
  end_process(process);  // nobody has its descriptors
  drop(connection, "it did not wait for the grant");
}

void Server::on_detach(Connection& connection) {
  if (connection.process == nullptr) return close(connection);  // its attach was refused
  Process& process = *connection.process;
  if (keeper::SessionState* const state = process.session->arena->find_session(process.session->id))
    process.session->arena->serve_last(*state, process.member);
  end_process(process);
  if (!send_struct(connection.socket, message_of<kvt_wire_empty>(KVT_WIRE_DETACHED))) close(connection);
}

bool Server::lists_gpu(const uint8_t (&uuid)[KVT_DEVICE_UUID_BYTES]) const {
  const auto& gpus = keeper_.machine().gpus;
  return gpus != nullptr &&
         std::any_of(gpus->list().begin(), gpus->list().end(), [&](const tier::GpuMemory& gpu) {
           return std::equal(gpu.uuid.begin(), gpu.uuid.end(), uuid);
         });
}

/// The death of a process is not the end of its GPU's work (PROTOCOL A1): until the driver shows that it has no context
/// any more, its steps count, and what it was filling, what lay in its magazine and what was offered to it are kept.
void Server::on_death(Process& process) {
  process.died = Clock::now();
  if (!process.has_device) return end_process(process);
  loop_.remove(process.pidfd.get());  // it stays readable
  const auto& gpus = keeper_.machine().gpus;
  const std::optional<std::set<int>> users = gpus != nullptr ? gpus->processes() : std::nullopt;
  if (users && process.device_listed && !users->contains(process.pid)) return end_process(process);
  // A child that it forked has the connection too: nobody speaks for the dead.
  if (Connection* const connection = std::exchange(process.connection, nullptr); connection != nullptr) {
    connection->process = nullptr;
    close(*connection);
  }
  process.quarantined_until = Clock::now() + std::chrono::milliseconds(keeper_.config().cuda.quarantine_ms);
  if (keeper::SessionState* const state = process.session->arena->find_session(process.session->id))
    state->members[process.member].orphan = true;
  note(Kind::kQuarantine,
       fmt::format("session {}: process {} has gone; its pages are kept until its GPU work has ended",
                   process.session->id, process.pid));
  if (process.owner && !process.session->ending) begin_end(*process.session, "its owner has gone");
  if (!timer_set_) set_timer(true);
}

void Server::set_timer(bool on) {
  itimerspec every{};
  timer_set_ = on;
  if (on) every.it_value.tv_nsec = every.it_interval.tv_nsec = kQuarantineLookNs;
  ::timerfd_settime(timer_.get(), 0, &every, nullptr);
}

void Server::end_quarantines() {
  uint64_t fired = 0;
  [[maybe_unused]] const ssize_t got =
      ::read(timer_.get(), &fired, sizeof fired);  // ours alone, non-blocking
  const auto& gpus = keeper_.machine().gpus;
  std::vector<Process*> over;
  bool more = false;
  const std::optional<std::set<int>> users = gpus != nullptr ? gpus->processes() : std::nullopt;
  for (const auto& [id, session] : sessions_)
    for (Process& process : session->processes) {
      if (!process.quarantined_until) continue;
      // The deadline counts from when it was last seen. A GPU that is hidden from this process tells nothing.
      const bool seen = users && users->contains(process.pid);
      if (seen)
        process.quarantined_until =
            Clock::now() + std::chrono::milliseconds(keeper_.config().cuda.quarantine_ms);
      if (!seen && ((users && process.device_listed) || Clock::now() >= *process.quarantined_until))
        over.push_back(&process);
      else
        more = true;
    }
  if (!more) set_timer(false);
  for (Process* const process : over) end_process(*process);  // ends no other one
}

/// A process has died, or detached. Its own claims are gone; the session's are when the last process has.
void Server::end_process(Process& process) {
  Session& session = *process.session;
  const std::string who =
      fmt::format("{}, process {}, has gone",
                  process.owner ? "its owner" : fmt::format("member {}", process.member), process.pid);
  keeper::Arena& arena = *session.arena;
  const auto died = process.died;
  if (session.processes.size() == 1) {
    end_session(session, who);
    if (died) arena.watch_reclaim(*died);
    return;
  }
  const bool owner = process.owner;
  // First: a daemon that is killed from here on leaves to the next that nothing begins any more.
  if (owner && !session.ending) store_release(slot_of(session).ending, uint32_t{1});
  forget_process(process);
  reach(Point::kLeaveForgotten);
  if (keeper::SessionState* const state = session.arena->find_session(session.id))
    session.arena->end_member(*state, process.member);
  if (died) arena.watch_reclaim(*died);
  loop_.remove(process.pidfd.get());
  if (process.connection != nullptr) process.connection->process = nullptr;
  session.processes.remove_if([&](const Process& each) { return &each == &process; });
  if (owner && !session.ending) return begin_end(session, who);
  note(Kind::kLeave, fmt::format("session {}: {}", session.id, who));
}

/// Before its claims go: a daemon that is killed from here on leaves nothing of it to the next.
void Server::forget_process(const Process& process) {
  restart::RestartState::clear(slot_of(*process.session).member[process.member]);
  keeper_.kept().store.remove(restart::pidfd_name(process.session->id, process.member));
}

/// Members may still read and write where they resolved (PROTOCOL A1): their claims count until they have
/// gone too.
void Server::begin_end(Session& session, const std::string& why) {
  session.ending = true;
  store_release(slot_of(session).ending, uint32_t{1});
  session.arena->begin_end(*session.arena->find_session(session.id));
  close_connections(session);
  note(Kind::kSessionEnding,
       fmt::format("session {} ends: {}; {} of its members live", session.id, why, session.processes.size()));
}

Result<void> Server::evict_session(uint64_t id) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return fail(Code::kNotFound, fmt::format("there is no session {}", id));
  Session& session = *found->second;
  const size_t living = session.processes.size();
  // It may go on, with host memory registered with its GPU: that is never given back any more.
  if (const keeper::SessionState* const state = session.arena->find_session(id);
      state != nullptr && state->has_gpu)
    session.arena->keep_memory();
  // A daemon that is killed in between leaves one in which nothing begins; and that the next one ends, if they are told.
  store_release(slot_of(session).ending, uint32_t{1});
  close_connections(session);
  end_session(session, fmt::format("an operator has evicted it; {} of its processes live", living));
  return {};
}

Result<void> Server::create_arena(ArenaConfig arena, const std::map<std::string, std::string>& sources,
                                  keeper::Keeper::Made made) {
  KVT_TRY_ASSIGN(const Ownership ownership, ownership_of(arena));
  return keeper_.create_arena(std::move(arena), sources,
                              [this, ownership, made = std::move(made)](Result<keeper::Arena*> there) {
                                if (there) {
                                  ownership_[*there] = ownership;
                                  if ((ownership.mode & 066) != 0) open_for_others();
                                }
                                made(std::move(there));
                              });
}

/// attach.sock was this user's alone as long as every arena was.
void Server::open_for_others() {
  if (path_.empty() || !keeper_.config().socket_group.empty()) return;
  if (::chmod(path_.c_str(), 0666) != 0)
    note(Kind::kArenaCreated,
         fmt::format("{} stays closed to other users: chmod: {}", path_, std::strerror(errno)));
}

uint64_t Server::delete_arena(keeper::Arena& arena, std::function<void()> done) {
  std::vector<uint64_t> ids;
  for (const auto& [id, session] : sessions_)
    if (session->arena == &arena) ids.push_back(id);
  for (const uint64_t id : ids) (void)evict_session(id);  // it is there
  ownership_.erase(&arena);
  keeper_.delete_arena(arena, std::move(done));
  return ids.size();
}

/// A process that asks comes back, and is told.
void Server::close_connections(Session& session) {
  for (Process& process : session.processes) {
    Connection* const connection = std::exchange(process.connection, nullptr);
    if (connection == nullptr) continue;
    connection->process = nullptr;
    close(*connection);
  }
}

void Server::end_session(Session& session, const std::string& why) {
  const Clock::time_point begin = Clock::now();
  const uint32_t uid = session.uid;
  keeper::SessionState& state = *session.arena->find_session(session.id);
  // Before its slot is given up: the next daemon counts no step of it, and tells nobody.
  session.arena->tell_ended(state);
  reach(Point::kEndTold);
  restart::RestartState::clear(slot_of(session));
  reach(Point::kEndRecorded);
  session.arena->end_session(state);
  restart::FdStore& store = keeper_.kept().store;
  store.remove(restart::region_name(session.id));
  store.remove(restart::doorbell_name(session.id));
  for (const Process& process : session.processes)
    store.remove(restart::pidfd_name(session.id, process.member));
  loop_.remove(session.doorbell.get());
  for (Process& process : session.processes) {
    loop_.remove(process.pidfd.get());
    if (process.connection != nullptr) process.connection->process = nullptr;
  }
  note(Kind::kSessionEnd, fmt::format("session {} ended: {}", session.id, why));
  sessions_.erase(session.id);
  turns_.spend(uid, Clock::now() - begin, Clock::now());
}

void Server::refuse(Connection& connection, uint32_t status, const std::string& text) {
  ++refused_[status];
  // That a session has ended, by an operator or with its daemon, is news to its client alone.
  if (status != KVT_WIRE_E_ENDED) refused_at_ = Clock::now();
  note(Kind::kRefusal, fmt::format("refused process {} (user {}): {}", connection.pid, connection.uid, text));
  auto refused = message_of<kvt_wire_refused>(KVT_WIRE_REFUSED);
  refused.status = status;
  std::memcpy(refused.text, text.data(), std::min(text.size(), sizeof refused.text - 1));
  if (!send_struct(connection.socket, refused)) close(connection);
}

/// The socket is gone. A member of a living process becomes an orphan: its claims count, its commands wait.
void Server::close(Connection& connection) {
  if (Process* const process = connection.process; process != nullptr) {
    process->connection = nullptr;
    if (keeper::SessionState* const state = process->session->arena->find_session(process->session->id))
      state->members[process->member].orphan = true;
  }
  const int fd = connection.socket.get();
  const uint32_t uid = connection.uid;
  loop_.remove(fd);
  turns_.forget(connection.serial);
  if (connection.waiting) closer_.close(std::move(connection.waiting->fds), uid);
  Fd socket = std::move(connection.socket);
  connections_.erase(fd);
  hang_up(std::move(socket), uid);
}

void Server::drop(Connection& connection, const std::string& why) {
  ++dropped_;
  note(Kind::kDrop, fmt::format("dropped the connection of process {} (user {}): {}", connection.pid,
                                connection.uid, why));
  close(connection);
}

std::vector<Server::SessionInfo> Server::sessions() const {
  std::vector<SessionInfo> all;
  for (const auto& [id, session] : sessions_) {
    SessionInfo info{id,
                     session->arena->table().header().name,
                     0,
                     session->uid,
                     static_cast<uint32_t>(session->processes.size()),
                     false,
                     0,
                     0,
                     session->ending};
    for (const Process& process : session->processes) {
      info.quarantined += process.quarantined_until ? 1 : 0;
      info.device_tiers |= process.device_tiers;
      if (!process.owner && !(session->ending && info.pid == 0)) continue;
      info.pid = process.pid;
      info.connected = process.connection != nullptr;
    }
    all.push_back(std::move(info));
  }
  std::sort(all.begin(), all.end(), [](const SessionInfo& a, const SessionInfo& b) { return a.id < b.id; });
  return all;
}

}  // namespace kvt::server
