// SPDX-License-Identifier: Apache-2.0
#include "shm/base/fd.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

namespace kvt {

void Fd::reset() {
  if (number_ >= 0) ::close(number_);
  number_ = -1;
}

Result<Fd> make_memfd(const std::string& name, uint64_t bytes, OsPages pages) {
  const unsigned huge = pages == OsPages::kHuge2M ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
  Fd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | huge));
  if (!fd.valid()) return fail_errno("memfd_create " + name);
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0)
    return fail_errno("ftruncate " + name + " to " + std::to_string(bytes) + " bytes");
  if (::fchmod(fd.get(), 0600) != 0) return fail_errno("fchmod " + name);
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
    return fail_errno("F_ADD_SEALS " + name);
  return fd;
}

Result<Fd> reopen_read_only(const Fd& memfd) {
  if (::fchmod(memfd.get(), 0600) != 0) return fail_errno("fchmod memfd");
  const std::string path = "/proc/self/fd/" + std::to_string(memfd.get());
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return fail_errno("open " + path + " read-only");
  return fd;
}

Result<void> allocate_file(const Fd& fd, uint64_t bytes) { return allocate_range(fd, 0, bytes); }

Result<void> allocate_range(const Fd& fd, uint64_t offset, uint64_t bytes) {
  if (::fallocate(fd.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)) != 0)
    return fail_errno("allocate " + std::to_string(bytes) + " bytes of shared memory");
  return {};
}

Result<void> punch_hole(const Fd& fd, uint64_t offset, uint64_t bytes) {
  if (::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(bytes)) != 0)
    return fail_errno("give " + std::to_string(bytes) + " bytes of shared memory back");
  return {};
}

Result<uint64_t> file_bytes(const Fd& fd) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return fail_errno("fstat");
  return static_cast<uint64_t>(status.st_size);
}

Result<Fd> own_pidfd() {
  Fd fd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!fd.valid()) return fail_errno("pidfd_open");
  return fd;
}

Result<int> pidfd_pid(const Fd& fd) {
  // Asked first: the fdinfo of another kind of descriptor can be of any length.
  if (::syscall(SYS_pidfd_send_signal, fd.get(), 0, nullptr, 0) != 0 && errno != EPERM)
    return fail(Code::kInvalid, "the descriptor is not the pidfd of a living process");
  const std::string path = "/proc/self/fdinfo/" + std::to_string(fd.get());
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return fail_errno("open " + path);
  int pid = -1;
  char line[256];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::sscanf(line, "Pid: %d", &pid) == 1) break;
  }
  const int failed = std::ferror(file) != 0 ? errno : 0;
  std::fclose(file);
  if (failed != 0) return fail_errno("read " + path, failed);
  if (pid <= 0) return fail(Code::kInvalid, "the descriptor is not the pidfd of a living process");
  return pid;
}

}  // namespace kvt
