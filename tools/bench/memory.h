// SPDX-License-Identifier: Apache-2.0
//
// Arrays for baselines and tables of expected results. Shared memory from a memfd with MADV_HUGEPAGE: the
// same kind of memory, advised the same way, as the arena's, so that a baseline has the same TLB misses
// whatever the kernel's shmem_enabled says. Movable, not copyable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace kvt::bench {

/// A shared mapping of a memfd, zeroed. Throws RowError when there is no memory.
class SharedMemory {
 public:
  SharedMemory() = default;
  explicit SharedMemory(uint64_t bytes);
  /// Maps a memfd that came from another process; takes the descriptor.
  SharedMemory(int fd, uint64_t bytes);
  SharedMemory(SharedMemory&& other) noexcept { swap(other); }
  SharedMemory& operator=(SharedMemory&& other) noexcept {
    swap(other);
    return *this;
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory();

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  [[nodiscard]] int fd() const { return fd_; }

 private:
  void map();
  void swap(SharedMemory& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  int fd_ = -1;
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

template <typename T>
class SharedArray {
 public:
  SharedArray() = default;
  explicit SharedArray(uint64_t length) : memory_(length * sizeof(T)), length_(length) {}
  [[nodiscard]] T& operator[](uint64_t i) const { return data()[i]; }
  [[nodiscard]] T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  [[nodiscard]] uint64_t size() const { return length_; }

 private:
  SharedMemory memory_;
  uint64_t length_ = 0;
};

}  // namespace kvt::bench
