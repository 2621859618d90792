// SPDX-License-Identifier: Apache-2.0
#include "tools/bench/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "tools/bench/rows.h"

namespace kvt::bench {
namespace {
[[noreturn]] void fail_call(const char* call) {
  throw RowError(std::string(call) + ": " + std::strerror(errno));
}
}  // namespace

SharedMemory::SharedMemory(uint64_t bytes) : bytes_(bytes) {
  fd_ = memfd_create("kvt-bench", MFD_CLOEXEC);
  if (fd_ < 0) fail_call("memfd_create");
  if (ftruncate(fd_, static_cast<off_t>(bytes)) != 0) {
    close(fd_);
    fail_call("ftruncate");
  }
  map();
}

SharedMemory::SharedMemory(int fd, uint64_t bytes) : fd_(fd), bytes_(bytes) { map(); }

void SharedMemory::map() {
  void* const data = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (data == MAP_FAILED) {
    close(fd_);
    fail_call("mmap");
  }
  data_ = static_cast<std::byte*>(data);
  madvise(data_, bytes_, MADV_HUGEPAGE);  // a wish: kernels without huge shared memory refuse it
}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
  if (fd_ >= 0) close(fd_);
}

}  // namespace kvt::bench
