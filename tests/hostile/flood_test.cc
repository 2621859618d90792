// SPDX-License-Identifier: Apache-2.0
//
// Much of everything: messages, connections, sessions, commands, doorbells, requests of control.sock; readers that do
// not read, and clients that go away in the middle.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/hostile/siege.h"
#include "tests/support/random.h"

namespace kvt::test {
namespace {

constexpr uint32_t kMessages = 100'000;
constexpr uint32_t kConnects = 10'000;

class Flood : public Siege {
 protected:
  /// So many processes do this at once; all must end well.
  void in_processes(int count, const Child::Body& body) {
    std::vector<std::unique_ptr<Child>> children;
    for (int i = 0; i < count; ++i) children.push_back(std::make_unique<Child>(body));
    for (const auto& child : children) EXPECT_EQ(child->finish(), "");
  }
};

/// As many descriptors as this process may have.
void take_descriptors() {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
}

TEST_F(Flood, Messages) {
  besiege([&] {
    in_processes(2, [&](Lines&) -> std::string {
      const RawClient client(daemon_);
      uint32_t answers = 0;
      for (uint32_t sent = 0; sent < kMessages / 2; ++sent) {
        if (!client.send(hello_message())) return "the connection ended at message " + std::to_string(sent);
        // So many are under way; who lets more answers lie is hung up on.
        for (; sent - answers >= 64; ++answers)
          if (client.receive().type != KVT_WIRE_WELCOME) return "no welcome " + std::to_string(answers);
      }
      return {};
    });
  });
}

/// Who reads no answers is hung up on; nothing waits for it.
TEST_F(Flood, MessagesWhoseAnswersNobodyReads) {
  besiege([&] {
    in_processes(2, [&](Lines&) -> std::string {
      uint32_t connections = 0;
      for (uint32_t sent = 0; sent < kMessages / 2;) {
        const RawClient client(daemon_);
        if (!client.connected()) return "no connection";
        ++connections;
        for (bool open = true; open && sent < kMessages / 2;) {
          open = ::send(client.socket().get(), "x", 0, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 || errno == EAGAIN;
          open = open && client.send(hello_message());
          ++sent;
        }
      }
      return connections > 1 ? "" : "it was never hung up on";
    });
  });
}

TEST_F(Flood, SpoiltMessages) {
  besiege([&] {
    in_processes(2, [&](Lines&) -> std::string {
      Random random(20251127);
      for (int i = 0; i < 5000; ++i) {
        const RawClient client(daemon_);
        if (!client.connected()) return "no connection";
        std::vector<std::byte> bytes(random.below(200));
        for (std::byte& each : bytes) each = static_cast<std::byte>(random.next());
        client.send(bytes);
      }
      return {};
    });
    EXPECT_GE(daemon_.number("status", "/connections_dropped"), 5000);
  });
}

TEST_F(Flood, Connects) {
  besiege([&] {
    in_processes(2, [&](Lines&) -> std::string {
      take_descriptors();
      std::vector<RawClient> clients;
      for (uint32_t i = 0; i < kConnects / 2; ++i) {
        clients.emplace_back(daemon_);
        if (!clients.back().connected()) return "no connection " + std::to_string(i);
      }
      // The last one is served, among all the others that say nothing.
      return clients.back().greet() ? "" : "no welcome for the last one";
    });
  });
}

/// Connections that say something now and then keep their places; those that are silent give way.
TEST_F(Flood, ConnectionsThatHaveASession) {
  take_descriptors();
  const RawClient client(daemon_);
  RawClient attaching(daemon_);
  const RawSession session = RawSession::attach(attaching, attach_message(kAttacked));
  ASSERT_TRUE(session.valid());
  {
    std::vector<RawClient> silent;
    for (uint32_t i = 0; i < KVT_MAX_CONNECTIONS + 10; ++i) silent.emplace_back(daemon_);
    EXPECT_TRUE(eventually([&] { return daemon_.number("status", "/connections_dropped") >= 10; }));
    EXPECT_FALSE(client.greet()) << "it was the oldest";
    EXPECT_EQ(attaching.detach().type, KVT_WIRE_DETACHED);
    expect_unharmed();
  }
  attaching.close();
}

TEST_F(Flood, AttachAndDetach) {
  besiege([&] {
    in_processes(2, [&](Lines&) -> std::string {
      for (int i = 0; i < 400; ++i) {
        RawClient client(daemon_);
        kvt_wire_attach request = attach_message(kAttacked);
        request.members_max = i % 2 == 0 ? 1 : KVT_MAX_MEMBERS;
        const RawSession session = RawSession::attach(client, request);
        if (!session.valid()) return "refused";
        if (client.detach().type != KVT_WIRE_DETACHED) return "not detached";
      }
      return {};
    });
  });
}

/// Gone before the answer is there, or with the answer unread; the process dies at the end, and all with it.
TEST_F(Flood, GoneInTheMiddleOfAnAttach) {
  besiege([&] {
    in_processes(2, [&](Lines&) -> std::string {
      const Fd pidfd = RawClient::pidfd_of(::getpid());
      const int fds[] = {pidfd.get()};
      for (int i = 0; i < 1500; ++i) {
        RawClient client(daemon_);
        if (!client.send(hello_message())) return "no connection";
        if (i % 3 == 0) continue;
        client.send(attach_message(kAttacked), fds);
        if (i % 3 == 1) continue;
        std::ignore = client.receive();  // the welcome; the grant comes and is not taken
        pollfd waiting{client.socket().get(), POLLIN, 0};
        if (::poll(&waiting, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())) != 1)
          return "no answer";
      }
      return {};
    });
  });
  EXPECT_GT(daemon_.number("status", "/attach_refused"), 0) << "sessions have a limit";
}

TEST_F(Flood, KilledWhileAttaching) {
  Random random;
  besiege([&] {
    for (int i = 0; i < 20; ++i) {
      Child child([&](Lines&) -> std::string {
        for (;;) {
          RawClient client(daemon_);
          const RawSession session = RawSession::attach(client, attach_message(kAttacked));
          if (session.valid()) client.detach();
        }
      });
      pollfd nothing{-1, 0, 0};
      ::poll(&nothing, 0, static_cast<int>(random.below(10)));  // the moment is what is random here
      child.kill();
    }
  });
}

/// All sessions that an arena has, with all members: held by one process, and no harm to the other arena.
TEST_F(Flood, SessionsAndMembers) {
  take_descriptors();
  besiege([&] {
    in_process([&](Lines&) -> std::string {
      const Fd pidfd = RawClient::pidfd_of(::getpid());
      const int fds[] = {pidfd.get()};
      std::vector<RawClient> clients;
      uint32_t refused = 0;
      for (uint32_t i = 0; i < KVT_MAX_SESSIONS; ++i) {
        RawClient& client = clients.emplace_back(daemon_);
        if (!client.greet()) return "no welcome";
        kvt_wire_attach request = attach_message(kAttacked);
        request.members_max = 4;
        const Answer answer = client.ask(request, fds);
        if (answer.type == KVT_WIRE_REFUSED && answer.status == KVT_WIRE_E_LIMIT) ++refused;
        const RawSession session =
            RawSession::of(client.ask(hello_message()));  // no grant: nothing is mapped
        if (answer.type != KVT_WIRE_GRANT) continue;
        auto join = wire_message<kvt_wire_join>(KVT_WIRE_JOIN);
        kvt_wire_grant grant{};
        std::memcpy(&grant, answer.message.bytes.data(), sizeof grant);
        std::memcpy(join.token, grant.token, sizeof join.token);
        for (int member = 1; member <= 4; ++member) {
          const RawClient& joining = clients.emplace_back(daemon_);
          if (!joining.greet()) return "no welcome for a member";
          const Answer joined = joining.ask(join, fds);
          if (member < 4 ? joined.type != KVT_WIRE_GRANT : joined.status != KVT_WIRE_E_LIMIT)
            return "member " + std::to_string(member) + ": " + joined.text;
        }
      }
      return refused == 1 ? ""
                          : std::to_string(refused) + " sessions were refused: the witness has one of 128";
    });
  });
}

TEST_F(Flood, CommandsAndDoorbells) {
  besiege([&] {
    in_processes(2, [&](Lines&) -> std::string {
      RawClient client(daemon_);
      RawSession session = RawSession::attach(client, attach_message(kAttacked));
      if (!session.valid()) return "no session";
      kvt_abi_member& member = session.member();
      kvt_abi_submission command = submission(KVT_OP_FLUSH);
      uint64_t pushed = 0;
      while (pushed < 500'000) {
        if (pushed - load_acquire(member.sq_head.value) < KVT_RING_ENTRIES) {
          command.op = static_cast<uint32_t>(pushed % 10);
          command.page = session.handle(static_cast<PageIndex>(pushed % session.table().pages())).value;
          session.push(command);
          ++pushed;
        } else {
          session.ring();
        }
      }
      return {};
    });
  });
}

TEST_F(Flood, RequestsOfControlSock) {
  besiege([&] {
    in_processes(2, [&](Lines&) -> std::string {
      take_descriptors();
      const std::string path = daemon_.folder() + "/control.sock";
      const std::string lines[] = {"{\"command\":\"status\"}\n",
                                   "{\"command\":\"sess",
                                   std::string(8192, '['),
                                   std::string(3000, '\xff') + "\n",
                                   "{\"command\":\"evict-session\",\"session\":99999}\n",
                                   "{\"command\":\"move\",\"page\":-1}\n",
                                   ""};
      std::vector<Fd> silent;
      for (int i = 0; i < 3000; ++i) {
        auto socket = connect_unix(path, SOCK_STREAM);
        if (!socket) continue;  // the listener's queue is full
        const std::string& line = lines[i % std::size(lines)];
        std::ignore = ::send(socket->get(), line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (i % 3 == 0) silent.push_back(std::move(*socket));
      }
      return {};
    });
    EXPECT_TRUE(eventually([&] { return daemon_.text("status", "/ok") == "true"; }));
  });
}

/// The daemon has no descriptors left: nobody new gets in, everybody else goes on, and it recovers.
TEST_F(Flood, UntilThereAreNoDescriptors) {
  const Footprint before = footprint_of(daemon_);
  rlimit files{};
  ASSERT_EQ(::prlimit(daemon_.pid(), RLIMIT_NOFILE, nullptr, &files), 0);
  const rlimit few{before.descriptors + 40, files.rlim_max};
  ASSERT_EQ(::prlimit(daemon_.pid(), RLIMIT_NOFILE, &few, nullptr), 0);
  besiege([&] {
    in_processes(2, [&](Lines&) -> std::string {
      const Fd pidfd = RawClient::pidfd_of(::getpid());
      const std::vector<int> fds(KVT_WIRE_MAX_FDS, pidfd.get());
      std::vector<RawClient> clients;
      for (int i = 0; i < 200; ++i) {
        RawClient& client = clients.emplace_back(daemon_);
        client.send(hello_message(), fds);
        client.send(attach_message(kAttacked), std::span(fds).first(1));
      }
      return {};
    });
  });
  // Those that stay, and those that it cannot accept, do not keep it awake.
  Child staying([&](Lines& lines) -> std::string {
    std::vector<RawClient> clients;
    for (int i = 0; i < 100; ++i) clients.emplace_back(daemon_);
    lines.say("all");
    std::ignore = lines.hear();
    return {};
  });
  ASSERT_EQ(staying.hear(), "all");
  expect_idle();
  staying.say("end");
  EXPECT_EQ(staying.finish(), "");
  ASSERT_EQ(::prlimit(daemon_.pid(), RLIMIT_NOFILE, &files, nullptr), 0);
  RawClient client(daemon_);
  EXPECT_TRUE(RawSession::attach(client, attach_message(kAttacked)).valid());
  EXPECT_EQ(client.detach().type, KVT_WIRE_DETACHED);
}

}  // namespace
}  // namespace kvt::test
