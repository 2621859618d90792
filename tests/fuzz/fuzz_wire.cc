// SPDX-License-Identifier: Apache-2.0
//
// Programs against attach.sock: processes that connect, send whole, half and spoiled messages with
// descriptors of all kinds, use what they were granted, close, and die, in any order with the turns of the
// loop. The real Server, Keeper and EventLoop serve them in this process; each input has its own.
//
// What must hold: nothing is answered that the harness' own copy of the rules does not allow; a good client
// is served whatever the others do; when all have gone, no session, no descriptor, no frame and no work for
// the loop is left.
//
// An input is a row of operations, each a byte (its kind) and its arguments; zeroes are the plainest choice
// everywhere, and what is missing at the end is zeroes. tests/fuzz/seeds has examples in words.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/keeper/event_loop.h"
#include "daemon/keeper/keeper.h"
#include "daemon/server/server.h"
#include "shm/abi/wire.h"
#include "shm/base/socket.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/puppet.h"
#include "tests/support/arena_fixture.h"
#include "tests/support/one_node.h"

namespace {

using namespace kvt;
using fuzz::found;
using fuzz::Input;
using fuzz::Puppet;
using fuzz::require;

#ifdef KVT_FUZZ_CANARY
constexpr bool kCanary = true;
#else
constexpr bool kCanary = false;
#endif

constexpr size_t kConnections = 8;             // at once
constexpr size_t kPuppets = 2;                 // processes besides this one
constexpr int kSelf = -1;                      // this process, where others are numbers of puppets
constexpr int kDead = -2;                      // a puppet that has died
constexpr size_t kSessions = 10;               // an input asks for: each has half a MiB and more
constexpr int kOperations = 200;               // of an input
constexpr double kNoWaiting = 1e6;             // an input does not wait for its turn to attach
constexpr std::chrono::seconds kPatience{10};  // for what threads do
constexpr int kSettleTurns = 64;               // after which everybody's end must have been noticed
constexpr uint64_t kPageBytes = 16384;
constexpr uint8_t kFingerprintByte = 0xab;

template <typename T>
T must(Result<T> result) {
  if (!result) found("the harness: " + result.error().text);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// The folder of the socket; the same for all inputs, gone at the end.
const std::string& socket_dir() {
  struct Folder {
    std::string path = std::filesystem::temp_directory_path() / "kvt-fuzz-wire-XXXXXX";
    Folder() { require(::mkdtemp(path.data()) != nullptr, "the harness: mkdtemp"); }
    ~Folder() { std::filesystem::remove_all(path); }
  };
  static const Folder folder;
  return folder.path;
}

/// "one" has one column and takes any fingerprint; "two" has two columns and a fingerprint.
Config small_config() {
  Config config;
  config.socket_dir = socket_dir();
  config.prefault = false;
  config.policy.name = "off";
  config.tiers.resize(3);
  config.tiers[0] = {.name = "hbm0", .kind = "emulated-hbm", .bytes = 16 * kPageBytes, .column = 0};
  config.tiers[1] = {.name = "hbm1", .kind = "emulated-hbm", .bytes = 16 * kPageBytes, .column = 1};
  config.tiers[2] = {.name = "dram", .bytes = 64 * kPageBytes};
  config.arenas.resize(2);
  config.arenas[0].name = "one";
  config.arenas[0].page_bytes = kPageBytes;
  config.arenas[1].name = "two";
  config.arenas[1].page_bytes = kPageBytes;
  config.arenas[1].columns = 2;
  config.arenas[1].fingerprint.emplace();
  config.arenas[1].fingerprint->fill(kFingerprintByte);
  return config;
}

std::vector<int> open_descriptors() {
  std::vector<int> numbers;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    numbers.push_back(std::stoi(entry.path().filename()));
  return numbers;  // the iterator's own among them, every time
}

/// A process that has died: its pidfd names nobody.
const Fd& dead_pidfd() {
  static const Fd pidfd = [] {
    Puppet puppet;
    const Fd listener = must(listen_unix(socket_dir() + "/dead.sock", SOCK_SEQPACKET, 0600));
    require(puppet.start(socket_dir() + "/dead.sock"), "the harness: no process");
    puppet.kill();
    return Fd(::fcntl(puppet.pidfd().get(), F_DUPFD_CLOEXEC, 0));
  }();
  return pidfd;
}

/// What of the daemon runs, as in daemon/run.cc; its clock stands between turns.
class World {
 public:
  World() {
    keeper_ = must(keeper::Keeper::create(
        must(keeper::plan_machine(small_config(), test::one_node(), nullptr)), keeper::Inject::kNone,
        [](const std::string&) {}, must(restart::new_kept())));
    epoll_ = ::dup(0);  // the number that the loop's descriptor gets
    ::close(epoll_);
    loop_ = std::make_unique<keeper::EventLoop>(must(keeper::EventLoop::create()));
    server_ = must(server::Server::create(
        *loop_, *keeper_,
        [](events::Kind, const std::string& line) {
          for (const char each : line)
            require(static_cast<unsigned char>(each) >= 0x20 && each != 0x7f,
                    "a control character in the log");
        },
        server::AttachTurns(kNoWaiting)));
    must(server_->listen());
    must(loop_->add(keeper_->completion_fd().get(), keeper::EventLoop::Trigger::kLevel, [] {}));
    now_ = keeper::Keeper::Clock::now();
  }

  [[nodiscard]] std::string path() const { return keeper_->config().socket_dir + "/attach.sock"; }
  [[nodiscard]] keeper::Keeper& keeper() { return *keeper_; }
  [[nodiscard]] server::Server& server() { return *server_; }
  [[nodiscard]] keeper::Arena& arena(size_t index) { return *keeper_->arenas()[index]; }

  void turn(std::chrono::milliseconds after = std::chrono::milliseconds(1)) {
    now_ += after;
    keeper_->sleep_ms(now_);
    loop_->wait(0);
    keeper_->awake();
    keeper_->pass(now_);
  }
  /// Whether the loop would be woken at once: with nobody there, it would spin.
  [[nodiscard]] bool busy() const {
    pollfd ready{epoll_, POLLIN, 0};
    return ::poll(&ready, 1, 0) == 1;
  }

 private:
  std::unique_ptr<keeper::Keeper> keeper_;
  std::unique_ptr<keeper::EventLoop> loop_;
  std::unique_ptr<server::Server> server_;
  int epoll_ = -1;
  keeper::Keeper::Clock::time_point now_;
};

/// A membership that somebody was granted.
struct Grant {
  uint64_t session = 0;
  uint32_t member = 0;
  server::Token token{};
  int process = kSelf;
  size_t arena = 0;
  uint32_t members_max = 0;
  bool ended = false;  ///< its process died or asked to detach: the member may be gone
  bool gone = false;   ///< and its place is certainly free again
  Handle page = kNoHandle;
};

/// A message as it was sent, for what may be answered to it.
struct Sent {
  std::vector<std::byte> bytes;
  bool own_pidfd = false;  ///< came with exactly one descriptor, the sender's pidfd
};

struct Connection {
  Fd socket;
  int process = kSelf;
  bool greeted = false;
  bool mute = false;            ///< does not read
  std::optional<size_t> grant;  ///< the membership that it speaks for
  std::deque<Sent> sent;
};

/// Wire messages are copied out: in the buffer they have no alignment.
template <typename Struct>
std::optional<Struct> as(const std::vector<std::byte>& bytes) {
  if (bytes.size() != sizeof(Struct)) return std::nullopt;
  Struct value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

template <typename Struct>
Struct message_of(uint16_t type) {
  Struct message{};
  message.header = {KVT_WIRE_MAGIC, type, sizeof(Struct)};
  return message;
}

template <typename Struct>
std::vector<std::byte> bytes_of(const Struct& message) {
  const auto bytes = std::as_bytes(std::span(&message, 1));
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> hello_bytes() {
  auto hello = message_of<kvt_wire_hello>(KVT_WIRE_HELLO);
  hello.abi_major = KVT_ABI_MAJOR;
  hello.abi_minor = KVT_ABI_MINOR;
  return bytes_of(hello);
}

class Clients {
 public:
  explicit Clients(World& world) : world_(world), own_pidfd_(must(own_pidfd())) {}

  void operate(Input& input) {
    switch (input.take<uint8_t>() % 16) {
      case 0: return connect();
      case 1: return hello(choose(input));
      case 2: return attach(choose(input), input);
      case 3: return join(choose(input), input);
      case 4: return resume(choose(input), input);
      case 5: return detach(choose(input));
      case 6: return raw(choose(input), input);
      case 7: return close(choose(input));
      case 8: return turn();
      case 9:  // accepted, greeted, granted: a turn takes one message of each connection
        for (int i = 0; i < 3; ++i) turn();
        return;
      case 10: return begin_process(input.take<uint8_t>());
      case 11: {
        const auto which = input.take<uint8_t>();
        return end_process(which % kPuppets, (which & 2) == 0);
      }
      case 12: return use(input);
      case 13: {  // the next message is whole but for one byte
        const auto at = input.take<uint8_t>();
        spoil_ = {at, input.take<uint8_t>()};
        return;
      }
      case 14: return flood(choose(input));
      case 15: return starve(input.take<uint8_t>() % 8);
    }
  }

  /// A client that does everything right gets all of it.
  void serve_good_one() {
    ending_ = true;
    Connection good;
    good.socket = must(connect_unix(world_.path(), SOCK_SEQPACKET));
    const size_t known = grants_.size();
    send(good, hello_bytes(), {});
    auto request = message_of<kvt_wire_attach>(KVT_WIRE_ATTACH);
    std::strcpy(request.arena, "two");
    request.page_bytes = kPageBytes;
    request.columns = 2;
    request.column = 1;
    request.access = KVT_WIRE_READ_WRITE;
    request.members_max = 1;
    send(good, bytes_of(request), {own_pidfd_.get()});
    for (int i = 0; i < kSettleTurns && grants_.size() == known; ++i) {
      world_.turn();
      read(good);
    }
    require(grants_.size() == known + 1, "a good client gets no session");
    send(good, bytes_of(message_of<kvt_wire_empty>(KVT_WIRE_DETACH)), {});
    for (int i = 0; i < kSettleTurns && good.socket.valid() && !good.sent.empty(); ++i) {
      world_.turn();
      read(good);
    }
    require(good.socket.valid() && good.sent.empty(), "a good client's detach is not answered");
    require(session_of(grants_.back()) == nullptr, "a good client's session is still there after its detach");
    grants_.pop_back();
  }

  /// Everybody goes: puppets die, this process resumes what it still has and detaches.
  void end_all() {
    spoil_.reset();
    for (size_t i = 0; i < kPuppets; ++i) end_process(i, true);
    for (Connection& each : connections_) close(&each);
    // The owner's detach closes its members' connections, with what they have sent: those come again.
    for (int round = 0; round < 3 && !world_.server().sessions().empty(); ++round) detach_all();
    for (int i = 0; i < kSettleTurns && (world_.busy() || !world_.server().sessions().empty()); ++i)
      world_.turn();
    require(world_.server().sessions().empty(), "a session is left when all its processes have gone");
  }

 private:
  struct Spoil {
    uint8_t at;
    uint8_t with;
  };

  void detach_all() {
    std::vector<Connection> last;
    for (const Grant& grant : grants_) {
      if (grant.process != kSelf) continue;
      Connection& connection = last.emplace_back();
      connection.socket = must(connect_unix(world_.path(), SOCK_SEQPACKET));
      send(connection, hello_bytes(), {});
      send(connection, bytes_of(resume_of(grant)), {own_pidfd_.get()});
      send(connection, bytes_of(message_of<kvt_wire_empty>(KVT_WIRE_DETACH)), {});
    }
    for (int i = 0; i < kSettleTurns && !settled(last); ++i) {
      world_.turn();
      for (Connection& each : last) read(each);
    }
  }

  [[nodiscard]] static bool settled(const std::vector<Connection>& connections) {
    return std::all_of(connections.begin(), connections.end(),
                       [](const Connection& each) { return !each.socket.valid() || each.sent.empty(); });
  }

  Connection* choose(Input& input) {
    Connection& chosen = connections_[input.take<uint8_t>() % kConnections];
    return chosen.socket.valid() ? &chosen : nullptr;
  }

  keeper::SessionState* session_of(const Grant& grant) {
    return world_.arena(grant.arena).find_session(grant.session);
  }

  [[nodiscard]] const Fd& pidfd_of(int process) const {
    if (process == kDead) return dead_pidfd();
    return process == kSelf ? own_pidfd_ : puppets_[static_cast<size_t>(process)].pidfd();
  }

  Connection* free_connection() {
    const auto free = std::find_if(connections_.begin(), connections_.end(),
                                   [](const Connection& each) { return !each.socket.valid(); });
    return free == connections_.end() ? nullptr : &*free;
  }

  void connect() {
    Connection* const connection = free_connection();
    if (connection == nullptr) return;
    if (auto socket = connect_unix(world_.path(), SOCK_SEQPACKET)) connection->socket = std::move(*socket);
  }

  void begin_process(uint8_t choice) {
    const size_t number = choice % kPuppets;
    Puppet& puppet = puppets_[number];
    if (puppet.alive() || !puppet.start(world_.path())) return;
    for (size_t i = 0; i < Puppet::kConnections; ++i) {
      Fd socket = puppet.take_connection(i);
      Connection* const connection = free_connection();
      if (connection == nullptr) return;
      connection->socket = std::move(socket);
      connection->process = static_cast<int>(number);
    }
  }

  /// Its sockets close with it, unless somebody else has them too.
  void end_process(size_t number, bool close_sockets) {
    if (!puppets_[number].alive()) return;
    puppets_[number].kill();
    const auto process = static_cast<int>(number);
    for (Connection& connection : connections_) {
      if (connection.process != process) continue;
      if (close_sockets)
        close(&connection);  // reads what was answered while it lived
      else
        connection.process = kDead;
    }
    for (size_t i = 0; i < grants_.size(); ++i) {
      if (grants_[i].process != process) continue;
      grants_[i].process = kDead;
      grants_[i].ended = true;
      leaving_.push_back(i);
    }
  }

  void close(Connection* connection) {
    if (connection == nullptr || !connection->socket.valid()) return;
    read(*connection);  // so that every grant is known
    *connection = Connection{};
  }

  void hello(Connection* connection) {
    if (connection != nullptr) send_with(*connection, hello_bytes(), 1);
  }

  void attach(Connection* connection, Input& input) {
    auto request = message_of<kvt_wire_attach>(KVT_WIRE_ATTACH);
    const auto what = input.take<uint8_t>();
    const auto more = input.take<uint8_t>();
    switch (what & 3) {
      case 0: std::strcpy(request.arena, "one"); break;
      case 1: std::strcpy(request.arena, "two"); break;
      case 2: std::strcpy(request.arena, "three"); break;
      case 3: input.take_into(request.arena, sizeof request.arena); break;
    }
    static constexpr uint32_t kMembers[] = {1, 2, 3};
    request.access = (what >> 2 & 3) == 3   ? input.take<uint8_t>()
                     : (what >> 2 & 3) == 2 ? KVT_WIRE_READ
                                            : KVT_WIRE_READ_WRITE;
    request.members_max = (what >> 4 & 3) == 3 ? input.take<uint8_t>() : kMembers[what >> 4 & 3];
    request.column = (what >> 6 & 3) == 3 ? input.take<uint32_t>() : what >> 6 & 1;
    request.guarantee_pages = (more & 3) == 0   ? 0
                              : (more & 3) == 1 ? input.take<uint8_t>()
                              : (more & 3) == 2 ? input.take<uint32_t>()
                                                : 8;
    if ((more & 4) != 0) request.page_bytes = kPageBytes;
    if ((more & 8) != 0) request.columns = 1 + (what & 1);
    if ((more & 16) != 0) {
      request.has_fingerprint = 1;
      std::memset(request.fingerprint, input.take<uint8_t>() ^ kFingerprintByte, sizeof request.fingerprint);
    }
    const auto descriptors = input.take<uint8_t>();
    if (connection == nullptr || asked_ >= kSessions) return;
    ++asked_;
    send_with(*connection, bytes_of(request), descriptors);
  }

  const Grant* choose_grant(Input& input) {
    const auto number = input.take<uint8_t>();
    return grants_.empty() ? nullptr : &grants_[number % grants_.size()];
  }

  void join(Connection* connection, Input& input) {
    auto request = message_of<kvt_wire_join>(KVT_WIRE_JOIN);
    if (const Grant* const grant = choose_grant(input))
      std::memcpy(request.token, grant->token.data(), sizeof request.token);
    const auto descriptors = input.take<uint8_t>();
    if (connection != nullptr) send_with(*connection, bytes_of(request), descriptors);
  }

  static kvt_wire_resume resume_of(const Grant& grant) {
    auto request = message_of<kvt_wire_resume>(KVT_WIRE_RESUME);
    std::memcpy(request.token, grant.token.data(), sizeof request.token);
    request.session_id = grant.session;
    request.member = grant.member;
    return request;
  }

  void resume(Connection* connection, Input& input) {
    const Grant* const grant = choose_grant(input);
    const kvt_wire_resume request = resume_of(grant != nullptr ? *grant : Grant{});
    const auto descriptors = input.take<uint8_t>();
    if (connection != nullptr) send_with(*connection, bytes_of(request), descriptors);
  }

  void detach(Connection* connection) {
    if (connection != nullptr)
      send_with(*connection, bytes_of(message_of<kvt_wire_empty>(KVT_WIRE_DETACH)), 1);
  }

  void raw(Connection* connection, Input& input) {
    const auto how = input.take<uint8_t>();
    const auto type = input.take<uint8_t>();
    std::vector<std::byte> bytes((how & 1) != 0 ? input.take<uint16_t>() % (KVT_WIRE_MAX_BYTES + 64)
                                                : input.take<uint8_t>());
    size_t begin = 0;
    if ((how & 2) == 0 && bytes.size() >= sizeof(kvt_wire_header)) {  // with a head that fits
      const kvt_wire_header header{KVT_WIRE_MAGIC, static_cast<uint16_t>(type % 12),
                                   static_cast<uint16_t>(bytes.size())};
      std::memcpy(bytes.data(), &header, sizeof header);
      begin = sizeof header;
    }
    input.take_into(bytes.data() + begin, std::min<size_t>(bytes.size() - begin, 32));
    if (connection != nullptr) send_with(*connection, std::move(bytes), static_cast<uint8_t>(how >> 2));
  }

  /// More than the server's answers fit into: from then on nothing is read any more.
  void flood(Connection* connection) {
    if (connection == nullptr || flooded_) return;
    flooded_ = true;
    connection->mute = true;
    for (int i = 0; i < 4; ++i) {
      for (int k = 0; k < 100; ++k) hello(connection);
      for (int k = 0; k < 100; ++k) world_.turn();
    }
  }

  void turn() {
    world_.turn();
    for (Connection& each : connections_)
      if (each.socket.valid() && !each.mute) read(each);
    // Now that all answers of the turn have been looked at: within it, a place may have been asked for before
    // it was free.
    for (const size_t each : std::exchange(leaving_, {})) grants_[each].gone = true;
  }

  /// A turn in which the daemon can open only `spare` descriptors.
  void starve(size_t spare) {
    const std::vector<int> used = open_descriptors();
    rlimit before{};
    ::getrlimit(RLIMIT_NOFILE, &before);
    rlimit now = before;
    now.rlim_cur = 0;
    for (size_t left = spare + 1;; ++now.rlim_cur)
      if (std::find(used.begin(), used.end(), static_cast<int>(now.rlim_cur)) == used.end() && --left == 0)
        break;
    ::setrlimit(RLIMIT_NOFILE, &now);
    world_.turn();
    ::setrlimit(RLIMIT_NOFILE, &before);
  }

  /// What a member does with its session's memory.
  void use(Input& input) {
    const auto what = input.take<uint8_t>();
    const auto number = input.take<uint8_t>();
    if (grants_.empty()) return;
    Grant& grant = grants_[number % grants_.size()];
    keeper::SessionState* const state = session_of(grant);
    if (state == nullptr) return;
    test::TestSession session(*state, grant.member, world_.arena(grant.arena).table().pages());
    const Key key = test::key_of(what >> 4);
    switch (what % 8) {
      case 0: grant.page = session.pop(); break;
      case 1: session.submit(KVT_OP_PUBLISH, grant.page, key); break;
      case 2: session.submit(KVT_OP_SEAL, grant.page); break;
      case 3: session.submit(KVT_OP_FREE, grant.page); break;
      case 4: session.submit(KVT_OP_FLUSH, Handle{0}); break;
      case 5: session.begin_step(world_.arena(grant.arena).table(), what >> 4); break;
      case 6: session.lookup(world_.arena(grant.arena).table(), key); break;
      case 7: store_release(session.member().sq_tail.value, uint64_t{what} << 12); break;
    }
  }

  // ---- sending and reading ----

  /// `choice` is a kind of descriptor, 0 for what a request needs, and what lies above the kinds adds one of
  /// another kind.
  void send_with(Connection& connection, std::vector<std::byte> bytes, uint8_t choice) {
    std::vector<int> descriptors;
    for (const int kind : {choice % 8, choice / 8 % 8 == 0 ? 1 : choice / 8 % 8}) {
      switch (kind) {
        case 0: descriptors.push_back(pidfd_of(connection.process).get()); break;
        case 1: break;
        case 2:
          descriptors.push_back(connection.process == kSelf ? parent_pidfd_.get() : own_pidfd_.get());
          break;  // another's
        case 3: descriptors.push_back(dead_pidfd().get()); break;
        case 4:
          descriptors.push_back(socket_.get());
          break;  // not its own: under way, that would outlive the connection
        case 5: descriptors.push_back(event_.get()); break;
        case 6: descriptors.push_back(memory_.get()); break;
        case 7:
          descriptors.insert(descriptors.end(), KVT_WIRE_MAX_FDS, pidfd_of(connection.process).get());
          break;
      }
    }
    std::erase(descriptors, -1);  // a process that never was
    if (spoil_ && !bytes.empty()) bytes[spoil_->at % bytes.size()] ^= std::byte{spoil_->with};
    spoil_.reset();
    send(connection, std::move(bytes), descriptors);
  }

  /// send_message cannot send more descriptors than there may be; a client can.
  void send(Connection& connection, std::vector<std::byte> bytes, const std::vector<int>& descriptors) {
    if (const auto header = as_header(bytes); header && header->type == KVT_WIRE_DETACH)
      for (Grant& grant : grants_)  // of one of them; which one is the server's business
        if (grant.process == connection.process) grant.ended = true;
    iovec vector{bytes.data(), bytes.size()};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    std::vector<char> control(CMSG_SPACE(sizeof(int) * descriptors.size()));
    if (!descriptors.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* const item = CMSG_FIRSTHDR(&message);
      item->cmsg_level = SOL_SOCKET;
      item->cmsg_type = SCM_RIGHTS;
      item->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
      std::memcpy(CMSG_DATA(item), descriptors.data(), sizeof(int) * descriptors.size());
    }
    if (::sendmsg(connection.socket.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) return;
    const bool own = connection.process != kDead && descriptors.size() == 1 &&
                     descriptors[0] == pidfd_of(connection.process).get();
    connection.sent.push_back({std::move(bytes), own});
  }

  static std::optional<kvt_wire_header> as_header(const std::vector<std::byte>& bytes) {
    if (bytes.size() < sizeof(kvt_wire_header)) return std::nullopt;
    kvt_wire_header header;
    std::memcpy(&header, bytes.data(), sizeof header);
    if (header.magic != KVT_WIRE_MAGIC || header.bytes != bytes.size()) return std::nullopt;
    return header;
  }

  /// All answers that are there; at the end of the connection, closes it.
  void read(Connection& connection) {
    for (;;) {
      auto message = receive_message(connection.socket);
      if (!message && message.error().code == Code::kAgain) return;
      if (!message && message.error().system_errno == ECONNRESET)
        continue;  // told once; what had been answered is still there
      if (!message || message->end) {
        connection = Connection{};
        return;
      }
      check_answer(connection, *message);
    }
  }

  // ---- what may be answered: the rules once more, from docs/protocol.md and shm/abi/wire.h ----

  void check_answer(Connection& connection, Message& answer) {
    const auto header = as_header(answer.bytes);
    require(header.has_value() && !answer.truncated, "an answer without a head");
    require(!connection.sent.empty(), "an answer to nothing");
    const Sent request = std::move(connection.sent.front());
    connection.sent.pop_front();
    const auto asked = as_header(request.bytes);
    require(asked.has_value(), "an answer to a message without a head");
    require(answer.fds.empty() || header->type == KVT_WIRE_GRANT, "descriptors without a grant");
    if (header->type == KVT_WIRE_REFUSED) {
      const auto refused = as<kvt_wire_refused>(answer.bytes);
      require(refused.has_value() && refused->status >= KVT_WIRE_E_PROTOCOL &&
                  refused->status <= KVT_WIRE_E_ENDED,
              "a refusal without a reason");
      require(refused->text[0] != '\0' && refused->text[sizeof refused->text - 1] == '\0',
              "a refusal without words");
      if (refused->status == KVT_WIRE_E_LIMIT && asked->type == KVT_WIRE_JOIN) check_full(request);
      // A member whose owner has gone is told so, and can still detach.
      if (refused->status == KVT_WIRE_E_ENDED && asked->type == KVT_WIRE_RESUME)
        take_over(connection, request);
      return;
    }
    if (header->type == KVT_WIRE_WELCOME) {
      const auto hello = as<kvt_wire_hello>(request.bytes);
      require(asked->type == KVT_WIRE_HELLO && hello && hello->abi_major == KVT_ABI_MAJOR &&
                  (hello->incompat & ~KVT_INCOMPAT_KNOWN) == 0,
              "a welcome to one that is not");
      connection.greeted = true;
      return;
    }
    require(connection.greeted, "an answer before hello");
    switch (header->type) {
      case KVT_WIRE_GRANT: return check_grant(connection, request, *asked, answer);
      case KVT_WIRE_RESUMED: return check_resumed(connection, request, *asked);
      case KVT_WIRE_DETACHED:
        require(asked->type == KVT_WIRE_DETACH, "DETACHED to another request");
        // What a flooded connection was answered is read when others may have spoken for its member.
        require(connection.grant.has_value() || flooded_, "DETACHED without a session");
        if (connection.grant) leaving_.push_back(*std::exchange(connection.grant, std::nullopt));
        return;
      default: found("an answer of type " + std::to_string(header->type));
    }
  }

  /// A member was refused because all were there: they must be.
  void check_full(const Sent& request) {
    const auto join = as<kvt_wire_join>(request.bytes);
    if (!join || flooded_) return;  // a flooded connection keeps grants to itself
    const auto there = [&](const Grant& grant) {
      return std::memcmp(join->token, grant.token.data(), sizeof join->token) == 0 && !grant.gone;
    };
    const auto first = std::find_if(grants_.begin(), grants_.end(), there);
    require(first != grants_.end() && std::count_if(grants_.begin(), grants_.end(), there) >=
                                          static_cast<ptrdiff_t>(first->members_max),
            "no place for a member where one is free");
  }

  void check_grant(Connection& connection, const Sent& request, const kvt_wire_header& asked,
                   const Message& answer) {
    require(request.own_pidfd, "a grant without the sender's own pidfd");
    const auto granted = as<kvt_wire_grant>(answer.bytes);
    require(granted.has_value(), "a grant of a wrong size");
    Grant grant;
    grant.session = granted->session_id;
    grant.member = granted->member;
    grant.process = connection.process;
    // A DETACH that was sent before this was read is about it, too.
    grant.ended = connection.process == kDead ||
                  std::any_of(connection.sent.begin(), connection.sent.end(), [](const Sent& later) {
                    const auto head = as_header(later.bytes);
                    return head && head->type == KVT_WIRE_DETACH;
                  });
    std::memcpy(grant.token.data(), granted->token, sizeof granted->token);
    const bool attached = asked.type == KVT_WIRE_ATTACH;
    if (attached) {
      check_attach(request, *granted, grant);
      for (const Grant& other : grants_)
        require(other.session != grant.session && other.token != grant.token, "a session given twice");
    } else {
      const auto join = as<kvt_wire_join>(request.bytes);
      require(asked.type == KVT_WIRE_JOIN && join.has_value(), "a grant to another request");
      const Grant* of = nullptr;
      for (const Grant& other : grants_) {
        if (other.session == grant.session) of = &other;
        require(other.session != grant.session || other.member != grant.member || other.ended,
                "a member's place given twice");
      }
      require(of != nullptr && of->token == grant.token &&
                  std::memcmp(join->token, granted->token, sizeof join->token) == 0,
              "a grant for another token");
      grant.arena = of->arena;
      grant.members_max = of->members_max;
    }
    const ArenaTable& table = world_.arena(grant.arena).table();
    require(granted->windows == table.tiers() && answer.fds.size() == 3 + granted->windows,
            "a grant without all descriptors");
    const auto mode = [&](size_t index) { return ::fcntl(answer.fds[index].get(), F_GETFL) & O_ACCMODE; };
    require(mode(0) == O_RDONLY && mode(1) == O_RDWR, "table or session region with wrong rights");
    require(granted->table_bytes == must(file_bytes(answer.fds[0])) &&
                granted->session_bytes == must(file_bytes(answer.fds[1])),
            "a grant with wrong sizes");
    for (uint32_t i = 0; i < granted->windows; ++i) {
      require(mode(3 + i) == (granted->access == KVT_WIRE_READ ? O_RDONLY : O_RDWR),
              "a window with wrong rights");
      require(must(file_bytes(answer.fds[3 + i])) == table.tier(i).window_bytes, "a window of another size");
    }
    connection.grant = grants_.size();
    grants_.push_back(grant);
  }

  void check_attach(const Sent& request, const kvt_wire_grant& granted, Grant& grant) {
    auto attach = as<kvt_wire_attach>(request.bytes);
    require(attach.has_value(), "a grant to an ATTACH of a wrong size");
    attach->arena[sizeof attach->arena - 1] = '\0';
    const std::string name = attach->arena;
    require(name == "one" || name == "two", "a grant for an arena that is not there");
    grant.arena = name == "two" ? 1 : 0;
    const uint32_t columns = grant.arena == 1 ? 2 : 1;
    const auto fits = [](uint64_t wanted, uint64_t has) { return wanted == 0 || wanted == has; };
    require(fits(attach->page_bytes, kPageBytes) && fits(attach->block_tokens, 16) &&
                fits(attach->planes, 1) && fits(attach->columns, columns),
            "a grant for another geometry");
    require(attach->column < columns, "a grant for a column that is not there");
    require(attach->members_max >= 1 && attach->members_max <= KVT_MAX_MEMBERS,
            "a grant for no members, or too many");
    require(attach->access == granted.access &&
                (attach->access == KVT_WIRE_READ || attach->access == KVT_WIRE_READ_WRITE),
            "a grant of other access");
    require(attach->access == KVT_WIRE_READ_WRITE || attach->guarantee_pages == 0,
            "a guarantee for one that only reads");
    require(attach->guarantee_pages <= world_.arena(grant.arena).table().pages(),
            "a guarantee of more than there is");
    const bool same = std::all_of(std::begin(attach->fingerprint), std::end(attach->fingerprint),
                                  [](uint8_t each) { return each == kFingerprintByte; });
    require(grant.arena == 0 || attach->has_fingerprint == 0 || same, "a grant for another fingerprint");
    require(grant.member == 0, "the first member has another number");
    grant.members_max = attach->members_max;
    const keeper::SessionState* const state = session_of(grant);
    // The planted bug: a copy of the rule that gives of the second arena only the first column, and only for
    // writing.
    if (kCanary && !ending_ && grant.arena == 1 && attach->column == 1)
      found("canary: a grant for the second column");
    if (kCanary && !ending_ && grant.arena == 1 && attach->access == KVT_WIRE_READ)
      found("canary: a grant for reading arena two");
    if (state == nullptr) return;  // it has asked to detach already
    require(state->geometry.column == attach->column && state->geometry.members_max == attach->members_max &&
                state->guarantee == attach->guarantee_pages &&
                state->read_write == (attach->access == KVT_WIRE_READ_WRITE),
            "a session that differs from what was asked");
  }

  /// The connection speaks from now on for the membership that a RESUME names. False: the process has no such
  /// one.
  bool take_over(Connection& connection, const Sent& request) {
    const auto resume = as<kvt_wire_resume>(request.bytes);
    if (!resume) return false;
    const auto known = std::find_if(
        grants_.rbegin(), grants_.rend(), [&](const Grant& grant) {  // the last that had this place
          return grant.session == resume->session_id && grant.member == resume->member;
        });
    if (known == grants_.rend() || known->process != connection.process ||
        std::memcmp(resume->token, known->token.data(), sizeof resume->token) != 0)
      return false;
    const auto index = static_cast<size_t>(grants_.rend() - known - 1);
    for (Connection& other : connections_)
      if (other.grant == index) other.grant.reset();
    connection.grant = index;
    return true;
  }

  void check_resumed(Connection& connection, const Sent& request, const kvt_wire_header& asked) {
    const auto resume = as<kvt_wire_resume>(request.bytes);
    require(asked.type == KVT_WIRE_RESUME && resume.has_value(), "RESUMED to another request");
    require(request.own_pidfd, "resumed without the sender's own pidfd");
    require(take_over(connection, request), "resumed what the process never had");
  }

  World& world_;
  const Fd own_pidfd_;
  const Fd parent_pidfd_{static_cast<int>(::syscall(SYS_pidfd_open, ::getppid(), 0))};
  const Fd event_{::eventfd(0, EFD_CLOEXEC)};
  const Fd socket_{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  const Fd memory_ = must(make_memfd("kvt-fuzz", 4096));
  std::array<Connection, kConnections> connections_;
  std::array<Puppet, kPuppets> puppets_;
  std::vector<Grant> grants_;
  std::vector<size_t> leaving_;  // grants whose members have detached or died since the last turn
  std::optional<Spoil> spoil_;
  size_t asked_ = 0;
  bool flooded_ = false;
  bool ending_ = false;  // what comes now is the harness' own
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dead_pidfd();
  // The sanitizer wants a pipe to look at a class for the first time, and finds fault when it gets none
  // (starve).
  static const auto seen = fail_errno("every class that an error needs", EMFILE);
  require(!seen.value().text.empty(), "the harness: an error without words");
  const std::vector<int> before = open_descriptors();
  {
    World world;
    const std::vector<int> begin = open_descriptors();
    {
      Input input(data, size);
      Clients clients(world);
      for (int operations = 0; !input.empty() && operations < kOperations; ++operations)
        clients.operate(input);
      clients.serve_good_one();
      clients.end_all();
    }
    world.turn();
    world.server().finish_closing(kPatience);
    require(open_descriptors() == begin, "descriptors are left when all have gone");
    require(!world.busy(), "the loop finds no rest when all have gone");
    for (const auto& arena : world.keeper().arenas()) {
      const keeper::ArenaReport report = arena->report();
      require(arena->session_count() == 0, "the arena has a session that the server has not");
      require(report.accounted == report.frames, "frames are lost");
      require(report.limbo == 0, "frames stay in limbo when all have gone");
      require(report.filling == 0 && report.evicting == 0, "pages stay unfinished when all have gone");
    }
  }
  require(open_descriptors() == before, "descriptors are left behind");
  return 0;
}
