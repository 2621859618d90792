// SPDX-License-Identifier: Apache-2.0
//
// Real users: who may attach what, and that a descriptor for reading is one for reading, whatever its process tries.
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <tuple>
#include <vector>

#include "tests/hostile/siege.h"

namespace kvt::test {
namespace {

constexpr uid_t kFirst = 12001;
constexpr uid_t kSecond = 12002;
constexpr gid_t kGroup = 13001;

/// What the process is from now on. It may still look at its own /proc.
bool become(uid_t uid, gid_t gid, const std::vector<gid_t>& groups = {}) {
  return ::setgroups(groups.size(), groups.data()) == 0 && ::setresgid(gid, gid, gid) == 0 &&
         ::setresuid(uid, uid, uid) == 0 && ::prctl(PR_SET_DUMPABLE, 1) == 0;
}

std::string arena(const char* name, const char* mode, const std::string& more) {
  return std::string("[[arena]]\nname = \"") + name + "\"\npage_bytes = 16384\nmode = \"" + mode +
         "\"\nbytes = { hbm0 = 131072, dram = \"1MiB\" }\n" + more;
}

World users_world() {
  World world = hostile_world();
  world.open_folder = true;
  const std::string first = "owner = \"12001\"\n";
  const std::string group = "group = \"13001\"\n";
  world.more += arena("firsts", "0600", first) + arena("groups-read", "0640", first + group) +
                arena("groups", "0060", first + group) + arena("all-read", "0604", first + group) +
                arena("all", "0666", "") + arena("not-the-owner", "0066", first) +
                arena("not-the-group", "0606", first + group);
  return world;
}

class Users : public Siege {
 protected:
  Users() : Siege(users_world()) {}
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: children become users 12001 and 12002";
    Siege::SetUp();
  }

  /// The answer to an attach of this arena.
  [[nodiscard]] Answer attach(const char* name, uint32_t access) const {
    const RawClient client(daemon_);
    if (!client.greet()) return {};
    kvt_wire_attach request = attach_message(name);
    request.access = access;
    return client.ask_with_pidfd(request);
  }
  [[nodiscard]] std::string expect(const char* name, bool reads, bool writes) const {
    for (const auto& [access, may] :
         {std::pair{uint32_t{KVT_WIRE_READ}, reads}, {uint32_t{KVT_WIRE_READ_WRITE}, writes}}) {
      const Answer answer = attach(name, access);
      const bool granted = answer.type == KVT_WIRE_GRANT;
      if (granted != may || (!granted && answer.status != KVT_WIRE_E_PERMISSION))
        return std::string(name) + " with access " + std::to_string(access) + ": " +
               (granted ? "granted"
                        : "refused with status " + std::to_string(answer.status) + ", " + answer.text);
    }
    return {};
  }
};

#define CHECK_ACCESS(name, reads, writes)                                                    \
  do {                                                                                       \
    if (const std::string wrong = expect(name, reads, writes); !wrong.empty()) return wrong; \
  } while (false)

TEST_F(Users, ModesDecideAsForAFile) {
  in_process([&](Lines&) -> std::string {
    if (!become(kFirst, kFirst)) return "cannot become the first user";
    CHECK_ACCESS("firsts", true, true);
    CHECK_ACCESS("groups-read", true, true);
    CHECK_ACCESS("groups", false, false);  // the owner's bits count for the owner
    CHECK_ACCESS("all-read", true, true);
    CHECK_ACCESS("all", true, true);
    CHECK_ACCESS("not-the-owner", false, false);
    CHECK_ACCESS(kAttacked, false, false);
    return {};
  });
  in_process([&](Lines&) -> std::string {
    if (!become(kSecond, kSecond)) return "cannot become the second user";
    CHECK_ACCESS("firsts", false, false);
    CHECK_ACCESS("groups-read", false, false);
    CHECK_ACCESS("groups", false, false);
    CHECK_ACCESS("all-read", true, false);
    CHECK_ACCESS("all", true, true);
    CHECK_ACCESS("not-the-owner", true, true);
    CHECK_ACCESS("not-the-group", true, true);
    return {};
  });
  const auto in_group = [&](bool first_group) {
    return [&, first_group](Lines&) -> std::string {
      if (!(first_group ? become(kSecond, kGroup) : become(kSecond, kSecond, {14001, kGroup, 14002})))
        return "cannot join the group";
      CHECK_ACCESS("firsts", false, false);
      CHECK_ACCESS("groups-read", true, false);
      CHECK_ACCESS("groups", true, true);
      CHECK_ACCESS("all-read", false, false);  // the group's bits count for its members
      CHECK_ACCESS("not-the-group", false, false);
      return {};
    };
  };
  in_process(in_group(true));
  in_process(in_group(false));
  // What the kernel says counts, at the time of the connection: not what a process becomes, or was.
  in_process([&](Lines&) -> std::string {
    RawClient as_root(daemon_);
    if (!become(kSecond, kSecond)) return "cannot become the second user";
    if (!as_root.greet()) return "no welcome";
    if (as_root.ask_with_pidfd(attach_message("firsts")).type != KVT_WIRE_GRANT)
      return "not root's connection";
    CHECK_ACCESS("firsts", false, false);
    return {};
  });
}

/// Only root and the daemon's user get at control.sock, the daemon's descriptors and its memory.
TEST_F(Users, TheDaemonItself) {
  in_process([&](Lines&) -> std::string {
    if (!become(kSecond, kSecond)) return "cannot become the second user";
    if (connect_unix(daemon_.folder() + "/control.sock", SOCK_STREAM))
      return "control.sock is open to others";
    const std::string proc = "/proc/" + std::to_string(daemon_.pid());
    for (const char* const name : {"/fd", "/map_files", "/mem", "/environ", "/fdinfo"})
      if (const Fd fd(::open((proc + name).c_str(), O_RDONLY | O_CLOEXEC)); fd.valid())
        return std::string("opened ") + name;
    for (int fd = 0; fd < 64; ++fd)
      if (const Fd opened(::open((proc + "/fd/" + std::to_string(fd)).c_str(), O_RDWR | O_CLOEXEC));
          opened.valid())
        return "opened a descriptor of the daemon";
    const Fd pidfd = RawClient::pidfd_of(daemon_.pid());
    if (pidfd.valid() && ::syscall(438 /* pidfd_getfd */, pidfd.get(), 3, 0) >= 0)
      return "took a descriptor of the daemon";
    return {};
  });
}

/// A token opens nothing to another user, root included, and a member is who the kernel says it is.
TEST_F(Users, TokensOfAnotherUsersSession) {
  Child owner([&](Lines& lines) -> std::string {
    if (!become(kFirst, kFirst)) return "cannot become the first user";
    RawClient client(daemon_);
    kvt_wire_attach request = attach_message("all");
    request.members_max = 4;
    const RawSession session = RawSession::attach(client, request);
    if (!session.valid()) return "no session";
    std::string token;
    for (const uint8_t each : session.grant().token) token += std::to_string(each) + " ";
    lines.say(token + std::to_string(session.grant().session_id));
    std::ignore = lines.hear();
    // It goes on meanwhile.
    auto join = wire_message<kvt_wire_join>(KVT_WIRE_JOIN);
    std::memcpy(join.token, session.grant().token, sizeof join.token);
    const RawClient second(daemon_);
    if (!second.greet() || second.ask_with_pidfd(join).type != KVT_WIRE_GRANT)
      return "its own token is refused";
    return {};
  });
  auto join = wire_message<kvt_wire_join>(KVT_WIRE_JOIN);
  auto resume = wire_message<kvt_wire_resume>(KVT_WIRE_RESUME);
  std::istringstream said(owner.hear());
  for (uint8_t& each : join.token) {
    uint32_t value = 256;
    said >> value;
    ASSERT_LT(value, 256u);
    each = static_cast<uint8_t>(value);
  }
  said >> resume.session_id;
  std::memcpy(resume.token, join.token, sizeof resume.token);
  const auto steal = [&](uid_t uid) {
    return [&, uid](Lines&) -> std::string {
      if (uid != 0 && !become(uid, uid)) return "cannot become the user";
      const RawClient client(daemon_);
      if (!client.greet()) return "no welcome";
      if (const Answer answer = client.ask_with_pidfd(join); answer.status != KVT_WIRE_E_ENDED)
        return "JOIN with a stolen token: " + std::to_string(answer.type);
      for (resume.member = 0; resume.member < 4; ++resume.member)
        if (const Answer answer = client.ask_with_pidfd(resume); answer.status != KVT_WIRE_E_ENDED)
          return "RESUME with a stolen token: " + std::to_string(answer.type);
      // Guesses: all of one byte beside it.
      for (uint32_t i = 0; i < KVT_SESSION_TOKEN_BYTES; ++i)
        for (uint32_t value = 1; value < 256; ++value) {
          kvt_wire_join guess = join;
          guess.token[i] ^= static_cast<uint8_t>(value);
          if (client.ask_with_pidfd(guess).status != KVT_WIRE_E_ENDED) return "guessed";
        }
      return {};
    };
  };
  in_process(steal(kSecond));
  in_process(steal(0));
  owner.say("go on");
  EXPECT_EQ(owner.finish(), "");
}

/// Whether a store to, or a load from, this address is one that the MMU lets through.
sigjmp_buf fault;
void on_fault(int) { ::siglongjmp(fault, 1); }
bool can_store(volatile char* at) {
  struct sigaction action {};
  action.sa_handler = on_fault;
  ::sigaction(SIGSEGV, &action, nullptr);
  if (sigsetjmp(fault, 1) != 0) return false;
  *at = *at;
  return true;
}

/// "" when nothing that a process can do to a descriptor for reading writes what is behind it.
std::string try_to_write(int fd, uint64_t bytes) {
  void* const read_only = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (read_only == MAP_FAILED) return "cannot be read";
  if (::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
    return "mapped for writing";
  if (::mmap(nullptr, bytes, PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED) return "mapped for writing alone";
  if (::mprotect(read_only, bytes, PROT_READ | PROT_WRITE) == 0) return "made writable";
  if (::mprotect(read_only, bytes, PROT_READ | PROT_WRITE | PROT_EXEC) == 0)
    return "made writable and executable";
  for (uint64_t at = 0; at < bytes; at += bytes / 4)
    if (can_store(static_cast<volatile char*>(read_only) + at)) return "a store went through";
  for (const int flags : {O_RDWR, O_WRONLY, O_RDWR | O_TRUNC})
    for (const std::string& name :
         {"/proc/self/fd/" + std::to_string(fd), "/proc/thread-self/fd/" + std::to_string(fd)})
      if (const Fd again(::open(name.c_str(), flags | O_CLOEXEC)); again.valid()) return "opened for writing";
  const char byte = 1;
  if (::pwrite(fd, &byte, 1, 0) == 1) return "written";
  if (::ftruncate(fd, 0) == 0 || ::ftruncate(fd, static_cast<off_t>(bytes * 2)) == 0) return "truncated";
  if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes)) == 0)
    return "a hole punched";
  if (::fchmod(fd, 0666) == 0) return "its mode changed";
  if (::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0) return "sealed";
  if (::madvise(read_only, bytes, MADV_REMOVE) == 0) return "removed";
  return {};
}

TEST_F(Users, WhatIsForReadingIsForReading) {
  in_process([&](Lines&) -> std::string {
    if (!become(kSecond, kSecond)) return "cannot become the second user";
    // The checks mean something: what is its own can be written in each of these ways, or most.
    const auto own = make_memfd("kvt-test", 65536);
    if (!own || try_to_write(own->get(), 65536) != "mapped for writing") return "the check finds nothing";
    RawClient client(daemon_);
    kvt_wire_attach request = attach_message("all-read");
    request.access = KVT_WIRE_READ;
    const RawSession session = RawSession::attach(client, request);
    if (!session.valid()) return "no session";
    if (session.fds().size() != 5) return "another number of descriptors";
    const std::string table = try_to_write(session.fds()[0].get(), session.grant().table_bytes);
    if (!table.empty()) return "the table: " + table;
    for (size_t window = 0; window < 2; ++window) {
      const std::string wrong = try_to_write(
          session.fds()[3 + window].get(), session.table().tier(static_cast<uint32_t>(window)).window_bytes);
      if (!wrong.empty()) return "window " + std::to_string(window) + ": " + wrong;
    }
    return {};
  });
  // The table is nobody's to write, of a session that may write pages either.
  in_process([&](Lines&) -> std::string {
    if (!become(kSecond, kSecond)) return "cannot become the second user";
    RawClient client(daemon_);
    const RawSession session = RawSession::attach(client, attach_message("all"));
    if (!session.valid()) return "no session";
    const std::string table = try_to_write(session.fds()[0].get(), session.grant().table_bytes);
    if (!table.empty()) return "the table: " + table;
    if (try_to_write(session.fds()[3].get(), session.table().tier(0).window_bytes) != "mapped for writing")
      return "its window is not its to write";
    return {};
  });
}

}  // namespace
}  // namespace kvt::test
