// SPDX-License-Identifier: Apache-2.0
#include "shm/base/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "shm/base/mapping.h"

namespace kvt {
namespace {

std::string link_of(const Fd& fd) {
  char target[256]{};
  const ssize_t length =
      ::readlink(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), target, sizeof target - 1);
  return length > 0 ? std::string(target, static_cast<size_t>(length)) : "";
}

TEST(Fd, ClosesWhatItOwnsOnce) {
  int raw = -1;
  {
    Fd first(::dup(1));
    raw = first.get();
    Fd second(std::move(first));
    EXPECT_FALSE(first.valid());  // NOLINT: a moved-from Fd is empty by contract
    EXPECT_EQ(second.get(), raw);
    EXPECT_NE(::fcntl(raw, F_GETFD), -1);
  }
  EXPECT_EQ(::fcntl(raw, F_GETFD), -1);
  Fd kept(::dup(1));
  const int number = kept.release();
  EXPECT_FALSE(kept.valid());
  EXPECT_NE(::fcntl(number, F_GETFD), -1);
  ::close(number);
}

TEST(Memfd, IsNamedSizedCloseOnExecAndPrivate) {
  const auto fd = make_memfd("kvt-unit", 8192);
  ASSERT_TRUE(fd.has_value()) << fd.error().text;
  EXPECT_NE(link_of(*fd).find("memfd:kvt-unit"), std::string::npos) << link_of(*fd);
  EXPECT_EQ(*file_bytes(*fd), 8192u);
  EXPECT_NE(::fcntl(fd->get(), F_GETFD) & FD_CLOEXEC, 0);
  struct stat status {};
  ASSERT_EQ(::fstat(fd->get(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST(Memfd, CannotBeResizedNorSealedFurther) {
  const auto fd = make_memfd("kvt-unit", 8192);
  ASSERT_TRUE(fd.has_value());
  EXPECT_EQ(::ftruncate(fd->get(), 4096), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(fd->get(), 16384), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::fcntl(fd->get(), F_GET_SEALS), F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
  EXPECT_EQ(::fcntl(fd->get(), F_ADD_SEALS, F_SEAL_WRITE), -1)
      << "a client cannot take writing away from the daemon";
  EXPECT_EQ(*file_bytes(*fd), 8192u);
}

TEST(Memfd, AnAbsurdSizeIsAnErrorThatNamesIt) {
  const auto fd = make_memfd("kvt-unit", UINT64_MAX / 2 + 1);
  ASSERT_FALSE(fd.has_value());
  EXPECT_EQ(fd.error().code, Code::kSystem);
  EXPECT_NE(fd.error().text.find("kvt-unit"), std::string::npos) << fd.error().text;
}

class ReadOnly : public testing::Test {
 protected:
  void SetUp() override {
    auto made = make_memfd("kvt-unit", 4096);
    ASSERT_TRUE(made.has_value());
    fd_ = std::move(*made);
    auto reopened = reopen_read_only(fd_);
    ASSERT_TRUE(reopened.has_value()) << reopened.error().text;
    read_only_ = std::move(*reopened);
  }
  Fd fd_;
  Fd read_only_;
};

TEST_F(ReadOnly, CannotBeMappedForWriting) {
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, read_only_.get(), 0), MAP_FAILED);
  EXPECT_EQ(errno, EACCES);
  EXPECT_FALSE(Mapping::map(read_only_, 4096, Access::kReadWrite).has_value());
  const char byte = 1;
  EXPECT_EQ(::write(read_only_.get(), &byte, 1), -1);
}

TEST_F(ReadOnly, CannotBeMadeWritableLater) {
  void* const address = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, read_only_.get(), 0);
  ASSERT_NE(address, MAP_FAILED);
  EXPECT_EQ(::mprotect(address, 4096, PROT_READ | PROT_WRITE), -1);
  EXPECT_EQ(errno, EACCES);
  ::munmap(address, 4096);
}

TEST_F(ReadOnly, SeesWhatTheWriterWrites) {
  auto writer = Mapping::map(fd_, 4096, Access::kReadWrite);
  auto reader = Mapping::map(read_only_, 4096, Access::kReadOnly);
  ASSERT_TRUE(writer.has_value());
  ASSERT_TRUE(reader.has_value());
  writer->data()[100] = std::byte{42};
  EXPECT_EQ(reader->data()[100], std::byte{42});
}

TEST_F(ReadOnly, AnotherUserCannotReopenItForWriting) {
  if (::getuid() != 0) GTEST_SKIP() << "needs root to become another user";
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(2);
    // A process that changed its user keeps the descriptor but not the right to open /proc/self/fd for
    // writing.
    const int again =
        ::open(("/proc/self/fd/" + std::to_string(read_only_.get())).c_str(), O_RDWR | O_CLOEXEC);
    if (again >= 0) ::_exit(1);
    if (::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, read_only_.get(), 0) != MAP_FAILED)
      ::_exit(3);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0) << "1: reopened for writing, 2: setuid failed, 3: mapped for writing";
}

TEST(Pidfd, NamesItsProcess) {
  const auto own = own_pidfd();
  ASSERT_TRUE(own.has_value()) << own.error().text;
  const auto pid = pidfd_pid(*own);
  ASSERT_TRUE(pid.has_value()) << pid.error().text;
  EXPECT_EQ(*pid, ::getpid());
}

TEST(Pidfd, WhatIsNoPidfdIsRefused) {
  const auto memfd = make_memfd("kvt-unit", 4096);
  const auto pid = pidfd_pid(*memfd);
  ASSERT_FALSE(pid.has_value());
  EXPECT_EQ(pid.error().code, Code::kInvalid);
  int pipes[2];
  ASSERT_EQ(::pipe2(pipes, O_CLOEXEC), 0);
  const Fd in(pipes[0]);
  const Fd out(pipes[1]);
  EXPECT_FALSE(pidfd_pid(in).has_value());
  EXPECT_FALSE(pidfd_pid(Fd()).has_value());
}

TEST(Pidfd, ADeadProcessIsRefused) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_GT(child, 0);
  const Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  ASSERT_TRUE(pidfd.valid());
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_FALSE(pidfd_pid(pidfd).has_value());
}

}  // namespace
}  // namespace kvt
