// SPDX-License-Identifier: Apache-2.0
//
// Who gets in and who does not: versions, geometry, permissions, limits; what a reader of another user can do
// with the descriptors that it gets.
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "shm/abi/wire.h"
#include "shm/base/fd.h"
#include "shm/base/socket.h"
#include "tests/support/child.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

constexpr uid_t kNobody = 65534;
constexpr uint64_t kPageBytes = 16384;

// ---- a client by hand ----

Fd connect_raw(const Daemon& daemon) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = daemon.folder() + "/attach.sock";
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) fd.reset();
  return fd;
}

template <typename Struct>
Struct message_of(uint16_t type) {
  Struct message{};
  message.header.magic = KVT_WIRE_MAGIC;
  message.header.type = type;
  message.header.bytes = sizeof(Struct);
  return message;
}

template <typename Struct>
bool send_raw(const Fd& socket, const Struct& message, std::span<const int> fds = {}) {
  return send_message(socket, std::as_bytes(std::span(&message, 1)), fds).has_value();
}

Message receive_raw(const Fd& socket) {
  pollfd waiting{socket.get(), POLLIN, 0};
  ::poll(&waiting, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count()));
  auto message = receive_message(socket);
  return message ? std::move(*message) : Message{};
}

template <typename Struct>
bool parse_raw(const Message& message, uint16_t type, Struct& value) {
  if (message.bytes.size() != sizeof value) return false;
  std::memcpy(&value, message.bytes.data(), sizeof value);
  return value.header.type == type;
}

kvt_wire_hello hello_of(uint16_t major = KVT_ABI_MAJOR, uint16_t minor = KVT_ABI_MINOR) {
  auto hello = message_of<kvt_wire_hello>(KVT_WIRE_HELLO);
  hello.abi_major = major;
  hello.abi_minor = minor;
  return hello;
}

/// HELLO and ATTACH for reading; the GRANT's message with its descriptors.
Message grant_raw(const Fd& socket, const char* arena, uint16_t minor = KVT_ABI_MINOR) {
  if (!send_raw(socket, hello_of(KVT_ABI_MAJOR, minor))) return {};
  kvt_wire_welcome welcome{};
  if (!parse_raw(receive_raw(socket), KVT_WIRE_WELCOME, welcome)) return {};
  auto request = message_of<kvt_wire_attach>(KVT_WIRE_ATTACH);
  std::strncpy(request.arena, arena, sizeof request.arena - 1);
  request.access = KVT_WIRE_READ;
  request.members_max = 1;
  auto pidfd = own_pidfd();
  if (!pidfd) return {};
  const int fds[] = {pidfd->get()};
  // Before minor version 3 there was no GPU in it.
  if (minor < 3) request.header.bytes = KVT_WIRE_ATTACH_BYTES_MIN;
  if (!send_message(socket, std::as_bytes(std::span(&request, 1)).first(request.header.bytes), fds))
    return {};
  return receive_raw(socket);
}

// ---- refusals ----

class Attach : public ::testing::Test {
 protected:
  explicit Attach(World world = {}) : daemon_(std::move(world)), args_(attach_args(daemon_.folder())) {}
  void SetUp() override { ASSERT_TRUE(daemon_.ok()); }

  /// Attaching is refused with `code`, and the text has these words.
  void refused(int code, std::initializer_list<const char*> words) {
    kvt_session* session = reinterpret_cast<kvt_session*>(this);
    EXPECT_EQ(kvt_attach(&args_, &session), code);
    EXPECT_EQ(session, nullptr);
    EXPECT_TRUE(mentions(kvt_last_error(), words)) << kvt_last_error();
    kvt_detach(session);
    args_ = attach_args(daemon_.folder());
  }

  Daemon daemon_;
  kvt_attach_args args_;
};

TEST_F(Attach, RefusalsSayWhatWasWantedAndWhatIsThere) {
  args_.arena = "elsewhere";
  refused(KVT_E_NOT_FOUND, {"elsewhere"});
  args_.page_bytes = 65536;
  refused(KVT_E_MISMATCH, {"page_bytes", "65536", "16384"});
  args_.block_tokens = 64;
  refused(KVT_E_MISMATCH, {"block_tokens", "64", "16"});
  args_.planes = 32;
  refused(KVT_E_MISMATCH, {"planes", "32", " 1,"});
  args_.columns = 2;
  refused(KVT_E_MISMATCH, {"columns", "2", " 1,"});
  args_.column = 1;
  refused(KVT_E_MISMATCH, {"1 columns", "column 1"});
  args_.guarantee_pages = 1'000'000;
  refused(KVT_E_FULL, {"1000000", "1116 pages"});
  args_.access = KVT_ACCESS_READ;
  args_.guarantee_pages = 5;
  refused(KVT_E_INVALID, {"guarantee_pages 5", "only reads"});
  args_.members_max = 17;
  refused(KVT_E_LIMIT, {"17", "16"});
  const std::string long_name(64, 'a');
  args_.arena = long_name.c_str();
  refused(KVT_E_INVALID, {"63"});
  args_.access = 3;
  refused(KVT_E_INVALID, {"access"});
  args_.copy_threads = 65;
  refused(KVT_E_INVALID, {"64"});
  EXPECT_EQ(daemon_.number("status", "/attach_refused"), 8);
  EXPECT_EQ(daemon_.number("status", "/sessions"), 0);
  // The same values as the arena's are welcome.
  args_.arena = "default";
  args_.page_bytes = 16384;
  args_.block_tokens = 16;
  args_.planes = args_.columns = 1;
  args_.members_max = 16;
  args_.guarantee_pages = 1000;
  Client client(args_);
  EXPECT_EQ(client.code(), KVT_OK) << kvt_last_error();
  args_ = attach_args(daemon_.folder());
  args_.guarantee_pages = 152;
  refused(KVT_E_FULL, {"152", "1000", "1116"});
}

TEST_F(Attach, Fingerprint) {
  uint8_t fingerprint[32];
  uint8_t another[32];
  std::memset(fingerprint, 0xab, sizeof fingerprint);
  std::memset(another, 0xcd, sizeof another);
  // One that may only read does not set it.
  args_.fingerprint = another;
  args_.access = KVT_ACCESS_READ;
  {
    Client reader(args_);
    EXPECT_EQ(reader.code(), KVT_OK) << kvt_last_error();
  }
  args_.access = KVT_ACCESS_READ_WRITE;
  args_.fingerprint = fingerprint;
  {
    Client first(args_);
    EXPECT_EQ(first.code(), KVT_OK) << kvt_last_error();
  }
  {
    Client same(args_);
    EXPECT_EQ(same.code(), KVT_OK) << kvt_last_error();
  }
  args_.fingerprint = another;
  refused(KVT_E_MISMATCH, {"fingerprint", "abababab", "cdcdcdcd"});
  args_.fingerprint = nullptr;
  {
    Client any(args_);
    EXPECT_EQ(any.code(), KVT_OK) << kvt_last_error();
  }
}

TEST_F(Attach, Arguments) {
  kvt_session* session = nullptr;
  EXPECT_EQ(kvt_attach(nullptr, &session), KVT_E_INVALID);
  EXPECT_EQ(kvt_attach(&args_, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_join(&args_, nullptr, &session), KVT_E_INVALID);
  args_.size = 0;
  refused(KVT_E_INVALID, {"size"});
  args_.size = 4097;
  refused(KVT_E_INVALID, {"4097"});
  // Of a newer library: fine as long as what is not known here is zero.
  struct {
    kvt_attach_args args;
    uint64_t tail[2];
  } newer{args_, {0, 0}};
  newer.args.size = sizeof newer;
  {
    Client client(newer.args);
    EXPECT_EQ(client.code(), KVT_OK) << kvt_last_error();
  }
  newer.tail[1] = 1;
  EXPECT_EQ(kvt_attach(&newer.args, &session), KVT_E_INVALID);
  EXPECT_EQ(session, nullptr);
  // Of an older one: what it does not have is the default.
  args_.size = offsetof(kvt_attach_args, page_bytes);
  {
    Client client(args_);
    EXPECT_EQ(client.code(), KVT_OK) << kvt_last_error();
  }
}

TEST_F(Attach, ReadOnlySessions) {
  Client writer(args_);
  const kvt_key key = key_of(1);
  const kvt_page keyed = publish_page(writer, key, kPageBytes);
  ASSERT_NE(keyed, KVT_NO_PAGE);
  Client reader(daemon_, 0, KVT_ACCESS_READ);
  ASSERT_EQ(reader.code(), KVT_OK) << kvt_last_error();
  EXPECT_EQ(reader.geometry().access, static_cast<uint32_t>(KVT_ACCESS_READ));
  kvt_page page = KVT_NO_PAGE;
  uint8_t result = 0;
  uint64_t job = 0;
  char byte = 0;
  kvt_copy copy{};
  copy.page = keyed;
  copy.memory = &byte;
  copy.row_bytes = 1;
  copy.rows = 1;
  kvt_publish_entry entry{keyed, key, KVT_NO_PAGE, 0, 0, 0};
  EXPECT_EQ(kvt_allocate(reader, &page, 1), KVT_E_PERMISSION);
  EXPECT_TRUE(mentions(kvt_last_error(), {"read access only"})) << kvt_last_error();
  EXPECT_EQ(kvt_page_data(reader, keyed), nullptr);
  EXPECT_EQ(kvt_seal(reader, &keyed, 1, nullptr), KVT_E_PERMISSION);
  EXPECT_EQ(kvt_publish(reader, &entry, 1), KVT_E_PERMISSION);
  EXPECT_EQ(kvt_unpublish(reader, keyed), KVT_E_PERMISSION);
  EXPECT_EQ(kvt_reserve(reader, &key, 1, &page, &result), KVT_E_PERMISSION);
  EXPECT_EQ(kvt_set_group(reader, &keyed, 1, 1), KVT_E_PERMISSION);
  EXPECT_EQ(kvt_copy_submit(reader, KVT_COPY_STORE, &copy, 1, &job), KVT_E_PERMISSION);
  EXPECT_EQ(kvt_free_count(reader), 0u);
  // It reads.
  ASSERT_EQ(kvt_lookup(reader, &key, 1, KVT_LOOKUP_HOLD, &page), 1);
  EXPECT_EQ(verify_page(reader, page, key, kPageBytes), 0u);
  EXPECT_EQ(kvt_copy_submit(reader, KVT_COPY_LOAD, &copy, 1, &job), KVT_OK);
  EXPECT_EQ(kvt_copy_wait(reader, job), KVT_OK);
  EXPECT_EQ(static_cast<unsigned char>(byte), word_of(key, 0) & 0xff);
  EXPECT_EQ(kvt_touch(reader, &page, 1), KVT_OK);
  EXPECT_EQ(kvt_release(reader, &page, 1, nullptr), KVT_OK);
  EXPECT_EQ(kvt_flush(reader), KVT_OK);
}

TEST_F(Attach, AnotherVersion) {
  const Fd socket = connect_raw(daemon_);
  ASSERT_TRUE(socket.valid());
  ASSERT_TRUE(send_raw(socket, hello_of(KVT_ABI_MAJOR + 1)));
  kvt_wire_refused refused{};
  ASSERT_TRUE(parse_raw(receive_raw(socket), KVT_WIRE_REFUSED, refused));
  EXPECT_EQ(refused.status, static_cast<uint32_t>(KVT_WIRE_E_VERSION));
  const std::string mine = std::to_string(KVT_ABI_MAJOR) + ".";
  const std::string theirs = std::to_string(KVT_ABI_MAJOR + 1) + ".";
  EXPECT_TRUE(mentions(refused.text, {mine.c_str(), theirs.c_str()})) << refused.text;

  const Fd second = connect_raw(daemon_);
  auto hello = hello_of();
  hello.incompat = uint64_t{1} << 63;
  ASSERT_TRUE(send_raw(second, hello));
  ASSERT_TRUE(parse_raw(receive_raw(second), KVT_WIRE_REFUSED, refused));
  EXPECT_EQ(refused.status, static_cast<uint32_t>(KVT_WIRE_E_VERSION));
  EXPECT_TRUE(mentions(refused.text, {"0x8000000000000000"})) << refused.text;

  // Bits that need not be understood do not matter.
  const Fd third = connect_raw(daemon_);
  hello = hello_of();
  hello.compat = ~uint64_t{0};
  ASSERT_TRUE(send_raw(third, hello));
  kvt_wire_welcome welcome{};
  EXPECT_TRUE(parse_raw(receive_raw(third), KVT_WIRE_WELCOME, welcome));
  EXPECT_EQ(welcome.daemon_pid, static_cast<uint32_t>(daemon_.pid()));
}

TEST_F(Attach, AnotherProcessesPidfd) {
  const Fd socket = connect_raw(daemon_);
  ASSERT_TRUE(send_raw(socket, hello_of()));
  kvt_wire_welcome welcome{};
  ASSERT_TRUE(parse_raw(receive_raw(socket), KVT_WIRE_WELCOME, welcome));
  auto request = message_of<kvt_wire_attach>(KVT_WIRE_ATTACH);
  std::strcpy(request.arena, "default");
  request.access = KVT_WIRE_READ;
  request.members_max = 1;
  kvt_wire_refused refused{};
  // None at all.
  ASSERT_TRUE(send_raw(socket, request));
  ASSERT_TRUE(parse_raw(receive_raw(socket), KVT_WIRE_REFUSED, refused));
  EXPECT_TRUE(mentions(refused.text, {"pidfd"})) << refused.text;
  // No pidfd.
  const int pair_ends = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_TRUE(send_raw(socket, request, std::span(&pair_ends, 1)));
  ::close(pair_ends);
  ASSERT_TRUE(parse_raw(receive_raw(socket), KVT_WIRE_REFUSED, refused));
  EXPECT_TRUE(mentions(refused.text, {"pidfd"})) << refused.text;
  // A child's.
  Child child([](Lines& lines) -> std::string {
    auto pidfd = own_pidfd();
    lines.say(pidfd ? std::to_string(pidfd->get()) : "none");
    std::ignore = lines.hear();
    return {};
  });
  ASSERT_NE(child.hear(), "none");
  const Fd theirs(static_cast<int>(::syscall(434 /* pidfd_open */, child.pid(), 0)));
  ASSERT_TRUE(theirs.valid());
  const int fds[] = {theirs.get()};
  ASSERT_TRUE(send_raw(socket, request, fds));
  ASSERT_TRUE(parse_raw(receive_raw(socket), KVT_WIRE_REFUSED, refused));
  EXPECT_EQ(refused.status, static_cast<uint32_t>(KVT_WIRE_E_PERMISSION));
  EXPECT_TRUE(
      mentions(refused.text, {std::to_string(child.pid()).c_str(), std::to_string(::getpid()).c_str()}))
      << refused.text;
  child.say("go");
  EXPECT_EQ(child.finish(), "");
}

TEST(AttachAway, NoDaemon) {
  const Folder folder;
  kvt_session* session = nullptr;
  const kvt_attach_args args = attach_args(folder.path());
  EXPECT_EQ(kvt_attach(&args, &session), KVT_E_AGAIN);
  EXPECT_EQ(session, nullptr);
  EXPECT_TRUE(mentions(kvt_last_error(), {folder.path().c_str()})) << kvt_last_error();
  // The folder may be named by the environment.
  kvt_attach_args named = args;
  named.socket_dir = nullptr;
  ::setenv("KVTIER_SOCKET_DIR", (folder.path() + "/x").c_str(), 1);
  EXPECT_EQ(kvt_attach(&named, &session), KVT_E_AGAIN);
  ::unsetenv("KVTIER_SOCKET_DIR");
  EXPECT_TRUE(mentions(kvt_last_error(), {(folder.path() + "/x").c_str()})) << kvt_last_error();
}

// ---- limits ----

TEST_F(Attach, SessionsOfOneArena) {
  std::vector<Client> clients;
  for (uint32_t i = 0; i < KVT_MAX_SESSIONS; ++i) {
    clients.emplace_back(args_);
    ASSERT_EQ(clients.back().code(), KVT_OK) << i << ": " << kvt_last_error();
  }
  refused(KVT_E_LIMIT, {"128 sessions"});
  EXPECT_EQ(daemon_.number("status", "/sessions"), KVT_MAX_SESSIONS);
  EXPECT_EQ(daemon_.number("status", "/arenas/0/sessions"), KVT_MAX_SESSIONS);
  clients.erase(clients.begin());
  Client again(args_);
  EXPECT_EQ(again.code(), KVT_OK) << kvt_last_error();
}

class AttachLimited : public Attach {
 protected:
  static World world() {
    World world;
    world.sessions_per_user = 3;
    world.session_bytes_max = "2MiB";
    return world;
  }
  AttachLimited() : Attach(world()) {}
};

TEST_F(AttachLimited, SessionsOfAUser) {
  std::vector<Client> clients;
  for (uint32_t i = 0; i < 3; ++i) {
    clients.emplace_back(args_);
    ASSERT_EQ(clients.back().code(), KVT_OK) << i << ": " << kvt_last_error();
  }
  refused(KVT_E_LIMIT, {"3 sessions", "sessions_per_user"});
  clients.pop_back();
  EXPECT_EQ(Client(args_).code(), KVT_OK) << kvt_last_error();
}

TEST_F(AttachLimited, MemoryOfAllSessions) {
  args_.members_max = 4;  // 1.6 MiB
  const Client large(args_);
  ASSERT_EQ(large.code(), KVT_OK) << kvt_last_error();
  const double bytes = daemon_.number("status", "/session_bytes");
  EXPECT_GT(bytes, 4 * 400.0 * 1024);
  args_.members_max = 4;
  refused(KVT_E_LIMIT, {"of 2048 KiB", "session_bytes_max"});
  EXPECT_EQ(daemon_.number("status", "/session_bytes"), bytes);
  EXPECT_EQ(daemon_.number("status", "/attach_refused"), 1);
}

TEST_F(Attach, Connections) {
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  if (files.rlim_max < KVT_MAX_CONNECTIONS + 200)
    GTEST_SKIP() << "the hard limit of " << files.rlim_max << " descriptors is below " << KVT_MAX_CONNECTIONS;
  files.rlim_cur = files.rlim_max;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
  Client before(args_);
  ASSERT_EQ(before.code(), KVT_OK);
  {
    std::vector<Fd> sockets;
    for (uint32_t i = 0; i < KVT_MAX_CONNECTIONS - 1; ++i) {
      sockets.push_back(connect_raw(daemon_));
      ASSERT_TRUE(sockets.back().valid()) << i;
    }
    EXPECT_EQ(daemon_.number("status", "/connections_dropped"), 0);
    const Fd one_more = connect_raw(daemon_);
    ASSERT_TRUE(one_more.valid());
    EXPECT_TRUE(receive_raw(sockets.front()).end) << "the oldest without a session gives way";
    EXPECT_EQ(daemon_.number("status", "/connections_dropped"), 1);
    EXPECT_EQ(Client(args_).code(), KVT_OK) << "who says nothing locks nobody out: " << kvt_last_error();
    // Who is attached is served.
    EXPECT_NE(publish_page(before, key_of(1), kPageBytes), KVT_NO_PAGE) << kvt_last_error();
  }
  EXPECT_TRUE(eventually([&] { return Client(args_).code() == KVT_OK; })) << kvt_last_error();
}

// ---- other users ----

/// Becomes nobody; may still look at its own /proc/self/fd.
bool become_nobody() {
  return ::setgroups(0, nullptr) == 0 && ::setresgid(kNobody, kNobody, kNobody) == 0 &&
         ::setresuid(kNobody, kNobody, kNobody) == 0 && ::prctl(PR_SET_DUMPABLE, 1) == 0;
}

bool can_write_through(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0 || status.st_size == 0) return true;  // not what was to be looked at
  void* const address = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address != MAP_FAILED) return true;
  void* const read_only = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
  if (read_only == MAP_FAILED) return true;
  if (::mprotect(read_only, 4096, PROT_READ | PROT_WRITE) == 0) return true;
  const Fd again(::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDWR | O_CLOEXEC));
  if (again.valid()) return true;
  if (::fchmod(fd, 0666) == 0 || ::ftruncate(fd, 1 << 30) == 0) return true;
  const char byte = 1;
  return ::pwrite(fd, &byte, 1, 0) == 1;
}

TEST(AttachAsNobody, ModesAndDescriptors) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: a child becomes user " << kNobody;
  World world;
  world.open_folder = true;
  world.dram_bytes = 32u << 20;
  world.more =
      "[[arena]]\nname = \"readable\"\npage_bytes = 16384\nmode = \"0664\"\nbytes = { hbm0 = \"1MiB\", dram "
      "= \"4MiB\" }\n"
      "[[arena]]\nname = \"open\"\npage_bytes = 16384\nmode = \"0666\"\nbytes = { hbm0 = 524288, dram = "
      "\"4MiB\" }\n"
      "[[arena]]\nname = \"nobodys\"\npage_bytes = 16384\nmode = \"0600\"\nowner = \"65534\"\nbytes = { hbm0 "
      "= 262144, dram = \"4MiB\" }\n"
      "[[arena]]\nname = \"group\"\npage_bytes = 16384\nmode = \"0060\"\ngroup = \"65534\"\nbytes = { hbm0 = "
      "131072, dram = \"4MiB\" }\n";
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  Child child([&](Lines&) -> std::string {
    if (!become_nobody()) return "cannot become nobody";
    kvt_attach_args args = attach_args(daemon.folder());
    args.access = KVT_ACCESS_READ;
    KVT_CHILD_CHECK(Client(args).code() == KVT_E_PERMISSION);
    KVT_CHILD_CHECK(mentions(kvt_last_error(), {"0600", "65534"}));
    args.arena = "readable";
    KVT_CHILD_CHECK(Client(args).code() == KVT_OK);
    args.access = KVT_ACCESS_READ_WRITE;
    KVT_CHILD_CHECK(Client(args).code() == KVT_E_PERMISSION);
    KVT_CHILD_CHECK(mentions(kvt_last_error(), {"0664", "65534", "writing"}));
    for (const char* const name : {"open", "nobodys", "group"}) {
      args.arena = name;
      Client writer(args);
      KVT_CHILD_CHECK(writer.code() == KVT_OK);
      const kvt_page page = publish_page(writer, key_of(1), kPageBytes);
      KVT_CHILD_CHECK(page != KVT_NO_PAGE);
      KVT_CHILD_CHECK(verify_page(writer, page, key_of(1), kPageBytes) == 0);
    }

    // The checks below mean something: a file of its own can be opened again and written.
    auto own = make_memfd("kvt-test", 4096);
    KVT_CHILD_CHECK(own.has_value() && can_write_through(own->get()));
    const Fd socket = connect_raw(daemon);
    Message grant = grant_raw(socket, "readable");
    kvt_wire_grant head{};
    KVT_CHILD_CHECK(parse_raw(grant, KVT_WIRE_GRANT, head));
    KVT_CHILD_CHECK(grant.fds.size() == 3 + head.windows && head.windows == 2);
    KVT_CHILD_CHECK(!can_write_through(grant.fds[0].get()));
    for (uint32_t i = 0; i < head.windows; ++i) KVT_CHILD_CHECK(!can_write_through(grant.fds[3 + i].get()));
    return {};
  });
  EXPECT_EQ(child.finish(), "");
}

/// A client of the layout's minor version before this one gets what it knows, and no byte more.
TEST(AttachOlder, AClientOfThePreviousMinorVersionIsServed) {
  Daemon daemon;
  ASSERT_TRUE(daemon.ok());
  const Fd old = connect_raw(daemon);
  const Message grant = grant_raw(old, "default", 2);
  EXPECT_EQ(grant.bytes.size(), KVT_WIRE_GRANT_BYTES_MIN);
  EXPECT_EQ(grant.fds.size(), 5u);
  const Fd now = connect_raw(daemon);
  EXPECT_EQ(grant_raw(now, "default").bytes.size(), sizeof(kvt_wire_grant));
}

/// With no arena for others the socket itself is closed to them.
TEST(AttachAsNobody, TheSocketItself) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: a child becomes user " << kNobody;
  World world;
  world.open_folder = true;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  Child child([&](Lines&) -> std::string {
    if (!become_nobody()) return "cannot become nobody";
    KVT_CHILD_CHECK(Client(daemon).code() == KVT_E_PERMISSION);
    KVT_CHILD_CHECK(daemon.control("{\"command\":\"status\"}").empty());
    return {};
  });
  EXPECT_EQ(child.finish(), "");
}

}  // namespace
}  // namespace kvt::test
