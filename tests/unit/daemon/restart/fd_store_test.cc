// SPDX-License-Identifier: Apache-2.0
//
// The descriptor store against a manager that this test is: a socket that reads when it is told to.
#include "daemon/restart/fd_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <string>

#include "shm/base/socket.h"

namespace kvt::restart {
namespace {

using namespace std::chrono_literals;

class FdStoreTest : public testing::Test {
 protected:
  FdStoreTest() {
    char folder[] = "/tmp/kvtier-store-XXXXXX";
    folder_ = ::mkdtemp(folder);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_ = folder_ + "/notify";
    std::memcpy(address.sun_path, path_.c_str(), path_.size() + 1);
    keeping_ = Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    EXPECT_EQ(::bind(keeping_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    ::setenv("NOTIFY_SOCKET", path_.c_str(), 1);
  }
  ~FdStoreTest() override {
    ::unsetenv("NOTIFY_SOCKET");
    ::unlink(path_.c_str());
    ::rmdir(folder_.c_str());
  }

  /// The next message's text, "" when there is none; its descriptor is kept in `fd_`.
  std::string hear() {
    char text[4096];
    iovec vector{text, sizeof text};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr header{};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    const ssize_t got = ::recvmsg(keeping_.get(), &header, MSG_CMSG_CLOEXEC);
    if (got < 0) return "";
    fd_.reset();
    if (const cmsghdr* const item = CMSG_FIRSTHDR(&header);
        item != nullptr && item->cmsg_type == SCM_RIGHTS) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(item), sizeof fd);
      fd_ = Fd(fd);
    }
    return {text, static_cast<size_t>(got)};
  }

  std::string folder_;
  std::string path_;
  Fd keeping_;
  Fd fd_;
};

bool ended(const Fd& pipe) {
  pollfd wait{pipe.get(), POLLIN, 0};
  return ::poll(&wait, 1, 0) == 1;
}

TEST_F(FdStoreTest, WithoutAManagerNothingIsKept) {
  ::unsetenv("NOTIFY_SOCKET");
  FdStore store = FdStore::open(4);
  EXPECT_FALSE(store.is_kept());
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(store.put("x" + std::to_string(i), 0).has_value());
  EXPECT_TRUE(store.wait(0ms).has_value());
  EXPECT_TRUE(store.has_room(1000));
}

TEST_F(FdStoreTest, StoresUnderNamesAndRemoves) {
  FdStore store = FdStore::open(4);
  ASSERT_TRUE(store.is_kept());
  EXPECT_EQ(::getenv("NOTIFY_SOCKET"), nullptr) << "it is for this process alone";
  const Fd memory = std::move(*make_memfd("kvt-test", 4096));
  ASSERT_TRUE(store.put("region-1", memory.get()).has_value());
  EXPECT_EQ(hear(), "FDSTORE=1\nFDPOLL=0\nFDNAME=region-1");
  EXPECT_EQ(*file_bytes(fd_), 4096u);
  store.remove("region-1");
  EXPECT_EQ(hear(), "FDSTOREREMOVE=1\nFDNAME=region-1");
  store.remove("region-1");
  EXPECT_EQ(hear(), "") << "it is not stored";
}

TEST_F(FdStoreTest, TheBarrierEndsWhenAllBeforeItIsDone) {
  FdStore store = FdStore::open(4);
  const Fd barrier = std::move(*store.barrier());
  EXPECT_FALSE(ended(barrier));
  EXPECT_EQ(hear(), "BARRIER=1");
  EXPECT_FALSE(ended(barrier)) << "the manager has it, and has not done with it";
  fd_.reset();
  EXPECT_TRUE(ended(barrier));
  EXPECT_EQ(store.wait(5ms).error().code, Code::kAgain);
}

TEST_F(FdStoreTest, AFullStoreSaysSo) {
  FdStore store = FdStore::open(2);
  ASSERT_TRUE(store.put("a", 0).has_value());
  ASSERT_TRUE(store.put("b", 0).has_value());
  EXPECT_FALSE(store.has_room(1));
  EXPECT_EQ(store.put("c", 0).error().code, Code::kLimit);
  store.remove("a");
  EXPECT_TRUE(store.put("c", 0).has_value());
}

TEST_F(FdStoreTest, AManagerThatIsBusyGetsEverythingInOrderLater) {
  FdStore store = FdStore::open(10'000);
  for (int i = 0; i < 2000; ++i) ASSERT_TRUE(store.put("fd-" + std::to_string(i), 0).has_value());
  const Fd barrier = std::move(*store.barrier());
  EXPECT_FALSE(store.flush()) << "its queue is shorter than that";
  int next = 0;
  for (std::string text = hear(); next < 2000; text = hear()) {
    if (text.empty()) {
      store.flush();
      continue;
    }
    ASSERT_EQ(text, "FDSTORE=1\nFDPOLL=0\nFDNAME=fd-" + std::to_string(next++));
  }
  store.flush();
  fd_.reset();
  while (!ended(barrier)) {
    store.flush();
    hear();
    fd_.reset();
  }
  EXPECT_TRUE(store.flush());
}

TEST_F(FdStoreTest, AManagerThatHasGoneIsAnError) {
  FdStore store = FdStore::open(4);
  keeping_.reset();
  EXPECT_EQ(store.put("a", 0).error().code, Code::kSystem);
}

/// Becomes the one descriptor that a manager gives to a child, and runs `look` there. Its exit code.
int given(int fd, const char* name, int (*look)(FdStore&)) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(fd, 3);
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    ::setenv("LISTEN_FDS", "1", 1);
    ::setenv("LISTEN_FDNAMES", name, 1);
    FdStore store = FdStore::open(4);
    ::_exit(look(store));
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(FdStoreTest, ListeningSocketsAreTakenAndNotStored) {
  const Fd listening = std::move(*listen_unix(folder_ + "/attach.sock", SOCK_SEQPACKET, 0600));
  ::fcntl(listening.get(), F_SETFL, 0);  // as a socket unit has it
  const auto taken = [](FdStore& store) {
    const auto socket = store.take_listener("attach", SOCK_SEQPACKET);
    if (!socket || !socket->valid()) return 1;
    if ((::fcntl(socket->get(), F_GETFL) & O_NONBLOCK) == 0) return 2;
    return store.left().empty() && store.stored() == 0 ? 0 : 3;
  };
  EXPECT_EQ(given(listening.get(), "attach", taken), 0);
  const auto none = [](FdStore& store) {
    const auto socket = store.take_listener("attach", SOCK_SEQPACKET);
    return socket && !socket->valid() ? 0 : 1;
  };
  EXPECT_EQ(given(listening.get(), "other", none), 0);
  ::unlink((folder_ + "/attach.sock").c_str());
}

TEST_F(FdStoreTest, SocketsOfAnotherKindAreRefused) {
  const auto refused = [](FdStore& store) {
    const auto socket = store.take_listener("attach", SOCK_SEQPACKET);
    return !socket && socket.error().code == Code::kInvalid ? 0 : 1;
  };
  const Fd stream = std::move(*listen_unix(folder_ + "/stream.sock", SOCK_STREAM, 0600));
  EXPECT_EQ(given(stream.get(), "attach", refused), 0);
  const Fd deaf(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  EXPECT_EQ(given(deaf.get(), "attach", refused), 0) << "it does not listen";
  const Fd memory = std::move(*make_memfd("kvt-test", 4096));
  EXPECT_EQ(given(memory.get(), "attach", refused), 0) << "no socket at all";
  ::unlink((folder_ + "/stream.sock").c_str());
}

}  // namespace
}  // namespace kvt::restart
