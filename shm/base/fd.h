// SPDX-License-Identifier: Apache-2.0
//
// Owned file descriptors, and the memfds that hold everything that processes share.
// Fd is movable, not copyable; not synchronised.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "shm/base/result.h"

namespace kvt {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int number) : number_(number) {}
  Fd(Fd&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      number_ = std::exchange(other.number_, -1);
    }
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  [[nodiscard]] int get() const { return number_; }
  [[nodiscard]] bool valid() const { return number_ >= 0; }
  [[nodiscard]] int release() { return std::exchange(number_, -1); }
  void reset();

 private:
  int number_ = -1;
};

/// What OS pages a memfd is made of: the kernel's usual ones, and huge ones among them where it has some;
/// small ones alone; or reserved huge ones (hugetlb) of 2 MiB. The first two differ in what a mapping asks
/// for (`advise_pages`).
enum class OsPages : uint8_t { kUsual, kSmall, kHuge2M };

/// A new memfd called `name` ("kvt-..."), `bytes` long, close-on-exec, sealed against growing, shrinking and
/// further seals. No memory is allocated yet. With kHuge2M `bytes` is a multiple of 2 MiB.
Result<Fd> make_memfd(const std::string& name, uint64_t bytes, OsPages pages = OsPages::kUsual);

/// The same memory behind a descriptor that can never be mapped for writing. The memfd's mode becomes 0600
/// first, so that a process of another user cannot reopen it for writing through /proc.
Result<Fd> reopen_read_only(const Fd& memfd);

/// Allocates the memory behind the first `bytes` of a memfd, without mapping it. kSystem when there is none.
Result<void> allocate_file(const Fd& fd, uint64_t bytes);

/// The same of `bytes` from `offset` on.
Result<void> allocate_range(const Fd& fd, uint64_t offset, uint64_t bytes);
/// Gives that memory back: it reads as zeroes until somebody writes there. Offset and bytes: multiples of the OS page.
Result<void> punch_hole(const Fd& fd, uint64_t offset, uint64_t bytes);

/// Size of the file behind `fd`, bytes.
Result<uint64_t> file_bytes(const Fd& fd);

/// A pidfd of the calling process, to send along on attach.
Result<Fd> own_pidfd();

/// The process that a pidfd names, from its fdinfo; kInvalid when `fd` is not a pidfd or the process is dead.
Result<int> pidfd_pid(const Fd& fd);

}  // namespace kvt
