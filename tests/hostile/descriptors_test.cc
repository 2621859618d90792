// SPDX-License-Identifier: Apache-2.0
//
// Descriptors that a client sends: of the wrong kind, too many, none, of other processes, and such that are slow to
// close.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/hostile/siege.h"

namespace kvt::test {
namespace {

constexpr size_t kScmMaxFds = 253;       // the kernel's, a message
constexpr unsigned kPidfdThread = 0x80;  // PIDFD_THREAD: O_EXCL

class Descriptors : public Siege {
 protected:
  static kvt_wire_attach request() { return attach_message(kAttacked); }

  /// A request with these descriptors is refused with this status, and the connection lives.
  void refused(const std::string& what, std::span<const int> fds, uint32_t status) {
    const RawClient client(daemon_);
    ASSERT_TRUE(client.greet());
    for (const int fd : fds) ASSERT_GE(fd, 0) << what;
    const Answer attach = client.ask(request(), fds);
    EXPECT_EQ(attach.status, status) << what << ": " << attach.text;
    const Answer join = client.ask(wire_message<kvt_wire_join>(KVT_WIRE_JOIN), fds);
    EXPECT_EQ(join.status, status) << what << ": " << join.text;
    const Answer resume = client.ask(wire_message<kvt_wire_resume>(KVT_WIRE_RESUME), fds);
    EXPECT_EQ(resume.status, status) << what << ": " << resume.text;
    EXPECT_TRUE(client.greet()) << what;
  }
};

TEST_F(Descriptors, OfTheWrongKind) {
  const Folder folder;
  const std::string path = folder.write("file", "text");
  int pipe_ends[2];
  int pair_ends[2];
  ASSERT_EQ(::pipe2(pipe_ends, O_CLOEXEC), 0);
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair_ends), 0);
  sigset_t none;
  sigemptyset(&none);
  const RawClient another(daemon_);
  std::vector<std::pair<std::string, Fd>> kinds;
  const auto add = [&](const std::string& name, int fd) { kinds.emplace_back(name, Fd(fd)); };
  add("a regular file", ::open(path.c_str(), O_RDWR | O_CLOEXEC));
  add("a folder", ::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  add("a path", ::open(path.c_str(), O_PATH | O_CLOEXEC));
  add("a pipe to read", pipe_ends[0]);
  add("a pipe to write", pipe_ends[1]);
  add("a socket", pair_ends[0]);
  add("its other end", pair_ends[1]);
  add("an unconnected socket", ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  add("a memfd", static_cast<int>(::syscall(SYS_memfd_create, "kvt-test", 0)));
  add("an epoll", ::epoll_create1(EPOLL_CLOEXEC));
  add("an eventfd", ::eventfd(0, EFD_CLOEXEC));
  add("a timerfd", ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  add("a signalfd", ::signalfd(-1, &none, SFD_CLOEXEC));
  add("an inotify", ::inotify_init1(IN_CLOEXEC));
  add("/dev/null", ::open("/dev/null", O_RDWR | O_CLOEXEC));
  add("/dev/zero", ::open("/dev/zero", O_RDWR | O_CLOEXEC));
  add("/proc/self", ::open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  add("/proc/self/mem", ::open("/proc/self/mem", O_RDWR | O_CLOEXEC));
  add("its own stdin", ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
  add("the connection of another", ::fcntl(another.socket().get(), F_DUPFD_CLOEXEC, 3));
  add("the daemon's own socket file",
      ::open((daemon_.folder() + "/attach.sock").c_str(), O_PATH | O_CLOEXEC));
  for (const auto& [name, fd] : kinds) {
    const int fds[] = {fd.get()};
    refused(name, fds, KVT_WIRE_E_PROTOCOL);
  }
}

TEST_F(Descriptors, TooManyAndTooFew) {
  refused("none", {}, KVT_WIRE_E_PROTOCOL);
  const Fd pidfd = RawClient::pidfd_of(::getpid());
  for (const size_t count : {size_t{2}, size_t{KVT_WIRE_MAX_FDS}}) {
    const std::vector<int> fds(count, pidfd.get());
    refused(std::to_string(count) + " pidfds", fds, KVT_WIRE_E_PROTOCOL);
  }
  // More than any message has: that is no message.
  for (const size_t count : {size_t{KVT_WIRE_MAX_FDS} + 1, kScmMaxFds}) {
    const std::vector<int> fds(count, pidfd.get());
    const RawClient client(daemon_);
    ASSERT_TRUE(client.greet());
    EXPECT_TRUE(client.ask(request(), fds).ended()) << count;
  }
  // With messages that need none they are closed, and not kept.
  const RawClient client(daemon_);
  const std::vector<int> fds(KVT_WIRE_MAX_FDS, pidfd.get());
  for (int i = 0; i < 20; ++i) EXPECT_EQ(client.ask(hello_message(), fds).type, KVT_WIRE_WELCOME);
  EXPECT_EQ(client.ask_with_pidfd(request()).type, KVT_WIRE_GRANT);
  EXPECT_EQ(client.ask(wire_message<kvt_wire_empty>(KVT_WIRE_DETACH), fds).type, KVT_WIRE_DETACHED);
}

TEST_F(Descriptors, OfOtherProcesses) {
  Child living([](Lines& lines) -> std::string {
    std::ignore = lines.hear();
    return {};
  });
  const Fd of_living = RawClient::pidfd_of(living.pid());
  const Fd of_daemon = RawClient::pidfd_of(daemon_.pid());
  const Fd of_init = RawClient::pidfd_of(1);
  for (const Fd* const fd : {&of_living, &of_daemon, &of_init}) {
    const int fds[] = {fd->get()};
    refused("the pidfd of another process", fds, KVT_WIRE_E_PERMISSION);
  }
  living.kill();  // and reaped
  const int fds[] = {of_living.get()};
  refused("the pidfd of a dead process", fds, KVT_WIRE_E_PROTOCOL);
}

/// The right pidfd over the socket of another process: who connected is who counts.
TEST_F(Descriptors, OfTheRightProcessSentByAnother) {
  int pair_ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair_ends), 0);
  const Fd here(pair_ends[0]);
  Child other([&](Lines& lines) -> std::string {
    // Connects, and gives its connection and its pidfd away.
    RawClient client(daemon_);
    if (!client.greet()) return "no welcome";
    const Fd pidfd = RawClient::pidfd_of(::getpid());
    const int fds[] = {client.socket().get(), pidfd.get()};
    if (!RawClient(Fd(::dup(pair_ends[1]))).send(hello_message(), fds)) return "cannot pass its socket on";
    std::ignore = lines.hear();
    return {};
  });
  ::close(pair_ends[1]);
  Answer passed = RawClient(Fd(::dup(here.get()))).receive();
  ASSERT_EQ(passed.message.fds.size(), 2u);
  const RawClient theirs(std::move(passed.message.fds[0]));
  const Fd their_pidfd = std::move(passed.message.fds[1]);
  // The own pidfd over their connection, and theirs over the own one.
  EXPECT_EQ(theirs.ask_with_pidfd(request()).status, static_cast<uint32_t>(KVT_WIRE_E_PERMISSION));
  const RawClient mine(daemon_);
  ASSERT_TRUE(mine.greet());
  const int fds[] = {their_pidfd.get()};
  EXPECT_EQ(mine.ask(request(), fds).status, static_cast<uint32_t>(KVT_WIRE_E_PERMISSION));
  // Both of theirs: a session that is theirs, and ends with them and not with us.
  EXPECT_EQ(theirs.ask(request(), fds).type, KVT_WIRE_GRANT);
  EXPECT_EQ(daemon_.number("sessions", "/sessions/2/pid"), other.pid());
  other.say("end");
  EXPECT_EQ(other.finish(), "");
  EXPECT_TRUE(eventually([&] { return attackers() == 0; }));
  EXPECT_FALSE(theirs.ask(request(), fds).type == KVT_WIRE_GRANT) << "nobody speaks for the dead";
}

/// A process that has died and is not reaped has a pidfd that still looks like one: a child that has its connection
/// gets nothing out of it that lasts.
TEST_F(Descriptors, OfAProcessThatIsNotReaped) {
  int pair_ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair_ends), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    RawClient client(daemon_);
    const Fd pidfd = RawClient::pidfd_of(::getpid());
    const int fds[] = {client.socket().get(), pidfd.get()};
    const bool done = client.greet() && RawClient(Fd(::dup(pair_ends[1]))).send(hello_message(), fds);
    ::_exit(done ? 0 : 1);
  }
  ::close(pair_ends[1]);
  Answer passed = RawClient(Fd(pair_ends[0])).receive();
  ASSERT_EQ(passed.message.fds.size(), 2u);
  const RawClient theirs(std::move(passed.message.fds[0]));
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(info.si_status, 0);
  const int fds[] = {passed.message.fds[1].get()};
  theirs.ask(request(), fds);
  EXPECT_TRUE(eventually([&] { return attackers() == 0; })) << "a session of a dead process";
  ASSERT_EQ(::waitpid(pid, nullptr, 0), pid);
}

/// A pidfd of one's first thread is readable when that thread ends, and the others live on: as if it had detached.
TEST_F(Descriptors, OfAThread) {
  const Fd thread = RawClient::pidfd_of(::getpid(), kPidfdThread);
  if (!thread.valid()) GTEST_SKIP() << "this kernel has no pidfds of threads";
  const RawClient client(daemon_);
  ASSERT_TRUE(client.greet());
  const int fds[] = {thread.get()};
  ASSERT_EQ(client.ask(request(), fds).type, KVT_WIRE_GRANT);
  EXPECT_EQ(client.detach().type, KVT_WIRE_DETACHED);
}

/// The own end of a pidfd and of the doorbell is the client's to spoil: flags, counters, registrations.
TEST_F(Descriptors, SharedWithTheDaemon) {
  besiege([&] {
    RawClient client(daemon_);
    ASSERT_TRUE(client.greet());
    const Fd pidfd = RawClient::pidfd_of(::getpid());
    const int fds[] = {pidfd.get()};
    RawSession session = RawSession::of(client.ask(request(), fds));
    ASSERT_TRUE(session.valid());
    ASSERT_EQ(::fcntl(session.doorbell().get(), F_SETFL, 0), 0) << "blocking now";
    ASSERT_EQ(::fcntl(pidfd.get(), F_SETFL, O_NONBLOCK), 0);
    session.push(submission(KVT_OP_FLUSH));
    const uint64_t most = UINT64_MAX - 1;
    ASSERT_EQ(::write(session.doorbell().get(), &most, sizeof most), 8) << "one more would block";
    EXPECT_TRUE(eventually([&] { return load_acquire(session.member().sq_head.value) == 1; }));
    uint64_t counter = 0;
    ASSERT_EQ(::read(session.doorbell().get(), &counter, sizeof counter), 8) << "the daemon never reads it";
    for (const Fd& fd : session.fds()) ::flock(fd.get(), LOCK_EX);
    EXPECT_EQ(session.result_of(submission(KVT_OP_FLUSH)), uint32_t{KVT_RESULT_OK});
    EXPECT_EQ(client.detach().type, KVT_WIRE_DETACHED);
    // What is left of them here rings nobody any more.
    session.ring();
  });
}

/// Somebody else keeps what the daemon watches: the pidfd of a process that has died, and the doorbell of its session.
TEST_F(Descriptors, ThatOutliveTheirProcess) {
  int pair_ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair_ends), 0);
  Child other([&](Lines&) -> std::string {
    RawClient client(daemon_);
    if (!client.greet()) return "no welcome";
    const Fd pidfd = RawClient::pidfd_of(::getpid());
    const int own[] = {pidfd.get()};
    const RawSession session = RawSession::of(client.ask(request(), own));
    if (!session.valid()) return "no session";
    const int fds[] = {pidfd.get(), session.doorbell().get(), session.fds()[1].get()};
    return RawClient(Fd(::dup(pair_ends[1]))).send(hello_message(), fds) ? "" : "cannot pass them on";
  });
  ::close(pair_ends[1]);
  const Answer passed = RawClient(Fd(pair_ends[0])).receive();
  ASSERT_EQ(passed.message.fds.size(), 3u);
  EXPECT_EQ(other.finish(), "");
  EXPECT_TRUE(eventually([&] { return attackers() == 0; }));
  pollfd dead{passed.message.fds[0].get(), POLLIN, 0};
  EXPECT_EQ(::poll(&dead, 1, 0), 1) << "the pidfd is readable, for ever";
  expect_idle();
  const uint64_t many = 1'000'000;
  EXPECT_EQ(::write(passed.message.fds[1].get(), &many, sizeof many), 8);
  expect_idle();
}

/// TCP to oneself: everything that fits is on its way, nobody reads it, and who closes the last descriptor waits for
/// it, for hours if it is told to.
Fd lingering_socket(Fd& reader) {
  const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof address;
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), bytes) != 0 ||
      ::listen(listener.get(), 1) != 0 ||
      ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &bytes) != 0)
    return {};
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return {};
  reader = Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  const std::vector<char> much(1 << 20, 'x');
  int least = 1;
  ::setsockopt(reader.get(), SOL_SOCKET, SO_RCVBUF, &least, sizeof least);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &least, sizeof least);
  while (::send(socket.get(), much.data(), much.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
  }
  const linger hours{1, 3600};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &hours, sizeof hours);
  return socket;
}

TEST_F(Descriptors, ThatAreSlowToClose) {
  Fd reader;
  Fd socket = lingering_socket(reader);
  if (!socket.valid()) GTEST_SKIP() << "no TCP on this host";
  // Each time the daemon has the last one. With a request:
  RawClient client(daemon_);
  ASSERT_TRUE(client.greet());
  std::vector<int> fds{socket.get()};
  EXPECT_TRUE(client.send(request(), fds));
  socket.reset();
  EXPECT_EQ(client.receive().type, KVT_WIRE_REFUSED);
  ASSERT_TRUE(client.greet()) << "the daemon waits for a socket of its client";
  // More of them than a message has:
  fds.clear();
  std::vector<Fd> readers(kScmMaxFds);
  std::vector<Fd> sockets;
  for (Fd& each : readers) fds.push_back(sockets.emplace_back(lingering_socket(each)).get());
  EXPECT_TRUE(client.send(request(), fds));
  sockets.clear();
  EXPECT_TRUE(client.receive().ended());
  // Behind the message that ends the connection:
  client = RawClient(daemon_);
  ASSERT_TRUE(client.greet());
  socket = lingering_socket(reader);
  fds = {socket.get()};
  daemon_.signal(SIGSTOP);
  EXPECT_TRUE(client.send(wire_message<kvt_wire_empty>(KVT_WIRE_DETACH)));  // it has no session
  EXPECT_TRUE(client.send(request(), fds));
  socket.reset();
  daemon_.signal(SIGCONT);
  EXPECT_TRUE(client.receive().ended());
  expect_unharmed();
}

/// A file whose server never says that it is closed: each close of it waits, and cannot be interrupted.
class FileThatDoesNotClose {
 public:
  FileThatDoesNotClose() {
    device_ = Fd(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
    if (!device_.valid()) return;
    path_ = folder_.write("file", "");
    const std::string options =
        "fd=" + std::to_string(device_.get()) + ",rootmode=100644,user_id=0,group_id=0";
    if (::mount("kvtier-test", path_.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) != 0) return;
    mounted_ = true;
    server_ = std::thread([this] { serve(); });
    file_ = Fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  }
  FileThatDoesNotClose(const FileThatDoesNotClose&) = delete;
  FileThatDoesNotClose& operator=(const FileThatDoesNotClose&) = delete;
  ~FileThatDoesNotClose() {
    answer();
    file_.reset();
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
    if (server_.joinable()) server_.join();  // the device says that there is no such file system any more
  }

  [[nodiscard]] const Fd& file() const { return file_; }
  /// Closes that wait now.
  [[nodiscard]] size_t waiting() {
    const std::scoped_lock lock(mutex_);
    return waiting_.size();
  }
  /// They wait no more, nor do later ones.
  void answer() {
    const std::scoped_lock lock(mutex_);
    answers_ = true;
    for (const uint64_t unique : waiting_) reply(unique, 0);
    waiting_.clear();
  }

 private:
  void serve() {
    std::vector<char> buffer(1 << 17);
    for (;;) {
      const ssize_t got = ::read(device_.get(), buffer.data(), buffer.size());
      if (got < 0 && (errno == EINTR || errno == ENOENT)) continue;
      if (got < static_cast<ssize_t>(sizeof(fuse_in_header))) return;
      fuse_in_header request{};
      std::memcpy(&request, buffer.data(), sizeof request);
      const std::scoped_lock lock(mutex_);
      switch (request.opcode) {
        case FUSE_INIT: {
          fuse_init_out init{};
          init.major = FUSE_KERNEL_VERSION;
          init.minor = 31;
          init.max_write = 4096;
          reply(request.unique, 0, &init, sizeof init);
          break;
        }
        case FUSE_GETATTR: {
          fuse_attr_out attributes{};
          attributes.attr.ino = FUSE_ROOT_ID;
          attributes.attr.mode = S_IFREG | 0644;
          attributes.attr.nlink = 1;
          reply(request.unique, 0, &attributes, sizeof attributes);
          break;
        }
        case FUSE_OPEN: {
          fuse_open_out opened{};
          reply(request.unique, 0, &opened, sizeof opened);
          break;
        }
        case FUSE_FLUSH:
          if (answers_)
            reply(request.unique, 0);
          else
            waiting_.push_back(request.unique);
          break;
        case FUSE_RELEASE: reply(request.unique, 0); break;
        case FUSE_FORGET:
        case FUSE_INTERRUPT: break;  // nobody waits for an answer
        default: reply(request.unique, -ENOSYS);
      }
    }
  }
  void reply(uint64_t unique, int error, const void* body = nullptr, size_t bytes = 0) const {
    fuse_out_header head{static_cast<uint32_t>(sizeof head + bytes), error, unique};
    const iovec parts[] = {{&head, sizeof head}, {const_cast<void*>(body), bytes}};
    [[maybe_unused]] const ssize_t sent = ::writev(device_.get(), parts, bytes == 0 ? 1 : 2);
  }

  Folder folder_;
  std::string path_;
  Fd device_;
  Fd file_;
  bool mounted_ = false;
  std::thread server_;
  std::mutex mutex_;
  std::vector<uint64_t> waiting_;  // guarded by mutex_
  bool answers_ = false;           // guarded by mutex_
};

/// Who has such a file keeps the thread that closes from its work, and is turned away; the loop goes on.
TEST_F(Descriptors, ThatNeverClose) {
  FileThatDoesNotClose hostile;
  if (!hostile.file().valid()) GTEST_SKIP() << "no FUSE here, or it needs root";
  RawClient before(daemon_);
  ASSERT_TRUE(before.greet());
  RawClient client(daemon_);
  ASSERT_TRUE(client.greet());
  std::vector<int> fds{hostile.file().get()};
  EXPECT_EQ(client.ask(request(), fds).type, KVT_WIRE_REFUSED);
  ASSERT_TRUE(eventually([&] { return hostile.waiting() == 1; })) << "nobody has closed it";
  EXPECT_TRUE(client.greet()) << "the daemon waits for the server of its client's file";
  expect_unharmed();
  // Many of them: from its user nobody is let in any more, who is there stays.
  fds.assign(100, hostile.file().get());
  EXPECT_EQ(client.ask(request(), fds).type, KVT_WIRE_REFUSED);
  EXPECT_TRUE(eventually([&] { return !RawClient(daemon_).greet(); })) << "after a second";
  EXPECT_TRUE(before.greet());
  fds = {hostile.file().get()};
  EXPECT_TRUE(before.send(hello_message(), fds));
  EXPECT_TRUE(before.receive().ended()) << "it sends more of them";
  expect_unharmed();
  hostile.answer();
  EXPECT_TRUE(eventually([&] { return RawClient(daemon_).greet(); }));
}

}  // namespace
}  // namespace kvt::test
