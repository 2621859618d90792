// SPDX-License-Identifier: Apache-2.0
#include "shm/base/socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <optional>

#include "shm/abi/limits.h"

namespace kvt {
namespace {

struct SocketPair : testing::Test {
  void SetUp() override {
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    left = Fd(pair[0]);
    right = Fd(pair[1]);
  }
  static std::vector<std::byte> bytes(size_t count, uint8_t value = 5) {
    return std::vector<std::byte>(count, std::byte{value});
  }
  Fd left, right;
};

TEST_F(SocketPair, CarriesBytesAndDescriptors) {
  const auto memfd = make_memfd("kvt-unit", 4096);
  const int fds[] = {memfd->get(), memfd->get()};
  ASSERT_TRUE(send_message(left, bytes(100), fds).has_value());
  const auto message = receive_message(right);
  ASSERT_TRUE(message.has_value()) << message.error().text;
  EXPECT_EQ(message->bytes, bytes(100));
  ASSERT_EQ(message->fds.size(), 2u);
  EXPECT_EQ(*file_bytes(message->fds[1]), 4096u);
  EXPECT_NE(::fcntl(message->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_FALSE(message->truncated);
  EXPECT_FALSE(message->end);
}

TEST_F(SocketPair, TheLargestMessageArrivesWhole) {
  const auto memfd = make_memfd("kvt-unit", 4096);
  const std::vector<int> fds(KVT_WIRE_MAX_FDS, memfd->get());
  ASSERT_TRUE(send_message(left, bytes(KVT_WIRE_MAX_BYTES), fds).has_value());
  const auto message = receive_message(right);
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->bytes.size(), KVT_WIRE_MAX_BYTES);
  EXPECT_EQ(message->fds.size(), KVT_WIRE_MAX_FDS);
  EXPECT_FALSE(message->truncated);
}

TEST_F(SocketPair, MaliciousTooManyBytesAreTruncatedAndTold) {
  ASSERT_TRUE(send_message(left, bytes(KVT_WIRE_MAX_BYTES + 1), {}).has_value());
  const auto message = receive_message(right);
  ASSERT_TRUE(message.has_value());
  EXPECT_TRUE(message->truncated);
  ASSERT_TRUE(send_message(left, bytes(10), {}).has_value());
  const auto next = receive_message(right);
  ASSERT_TRUE(next.has_value());
  EXPECT_FALSE(next->truncated) << "the rest does not spill into the next message";
  EXPECT_EQ(next->bytes.size(), 10u);
}

size_t open_descriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

TEST_F(SocketPair, MaliciousTooManyDescriptorsAreToldAndClosed) {
  constexpr size_t kMany = KVT_WIRE_MAX_FDS + 5;
  const Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  std::array<char, CMSG_SPACE(sizeof(int) * kMany)> control{};
  std::byte byte{1};
  iovec vector{&byte, 1};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* const item = CMSG_FIRSTHDR(&header);
  item->cmsg_level = SOL_SOCKET;
  item->cmsg_type = SCM_RIGHTS;
  item->cmsg_len = CMSG_LEN(sizeof(int) * kMany);
  for (size_t i = 0; i < kMany; ++i) {
    const int number = null.get();
    std::memcpy(CMSG_DATA(item) + i * sizeof(int), &number, sizeof number);
  }
  const size_t before = open_descriptors();
  ASSERT_EQ(::sendmsg(left.get(), &header, 0), 1);
  {
    const auto message = receive_message(right);
    ASSERT_TRUE(message.has_value());
    EXPECT_TRUE(message->truncated);
    EXPECT_EQ(message->fds.size(), kMany)
        << "all are handed over: how they are closed is not left to the kernel";
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(SocketPair, NothingThereIsKAgain) {
  const auto message = receive_message(right);
  ASSERT_FALSE(message.has_value());
  EXPECT_EQ(message.error().code, Code::kAgain);
}

TEST_F(SocketPair, TheOthersEndIsTold) {
  left.reset();
  const auto message = receive_message(right);
  ASSERT_TRUE(message.has_value());
  EXPECT_TRUE(message->end);
  EXPECT_FALSE(send_message(right, bytes(1), {}).has_value()) << "and no SIGPIPE";
}

TEST_F(SocketPair, AReaderThatDoesNotReadDoesNotBlockTheSender) {
  std::optional<Error> refused;
  for (int i = 0; i < 1'000'000 && !refused; ++i)
    if (auto sent = send_message(left, bytes(1000), {}); !sent) refused = sent.error();
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(refused->code, Code::kAgain);
}

struct Listening : testing::Test {
  void SetUp() override {
    char name[] = "/tmp/kvt-unit-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder); }
  std::string folder;
};

TEST_F(Listening, HasItsModeAndReplacesADeadSocketButNoLiveOne) {
  const std::string path = folder + "/a.sock";
  EXPECT_EQ(connect_unix(path, SOCK_SEQPACKET).error().code, Code::kAgain) << "nobody there";
  {
    const auto first = listen_unix(path, SOCK_SEQPACKET, 0660);
    ASSERT_TRUE(first.has_value()) << first.error().text;
    struct stat status {};
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0660u);
    const auto second = listen_unix(path, SOCK_SEQPACKET, 0660);
    ASSERT_FALSE(second.has_value());
    EXPECT_EQ(second.error().code, Code::kInvalid);
    EXPECT_NE(second.error().text.find(path), std::string::npos);
    EXPECT_TRUE(connect_unix(path, SOCK_SEQPACKET).has_value());
  }
  EXPECT_EQ(connect_unix(path, SOCK_SEQPACKET).error().code, Code::kAgain) << "dead";
  EXPECT_TRUE(listen_unix(path, SOCK_SEQPACKET, 0600).has_value());
}

TEST_F(Listening, APathThatIsTooLongIsRefusedWithItsLimit) {
  const std::string path = folder + "/" + std::string(200, 'x');
  const auto listening = listen_unix(path, SOCK_SEQPACKET, 0600);
  ASSERT_FALSE(listening.has_value());
  EXPECT_EQ(listening.error().code, Code::kInvalid);
  EXPECT_NE(listening.error().text.find("107"), std::string::npos) << listening.error().text;
}

}  // namespace
}  // namespace kvt
