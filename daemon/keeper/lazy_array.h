// SPDX-License-Identifier: Apache-2.0
//
// A fixed array of zeroes whose memory is taken when it is touched. For the keeper's private state of
// millions of pages and frames: what is never used costs nothing. T is trivial and all-zero is its first
// state. Large arrays take huge OS pages where the system gives them, since they are accessed at random.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

#include "shm/base/mapping.h"
#include "shm/base/result.h"

namespace kvt::keeper {

template <typename T>
class LazyArray {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  LazyArray() = default;
  explicit LazyArray(uint64_t size) : size_(size) {
    if (size == 0) return;
    const uint64_t bytes = size * sizeof(T);
    void* const data =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) throw std::bad_alloc();  // at start-up: run() says so
    advise_huge(static_cast<std::byte*>(data), bytes);
    data_ = {static_cast<T*>(data), Unmap{bytes}};
  }
  /// Whether the system lets this process have one of `size` now: for those that somebody asks for while it
  /// runs.
  static bool can_have(uint64_t size) {
    void* const data = ::mmap(nullptr, size * sizeof(T), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) return false;
    ::munmap(data, size * sizeof(T));
    return true;
  }
  [[nodiscard]] T& operator[](uint64_t index) { return data_.get()[index]; }
  [[nodiscard]] const T& operator[](uint64_t index) const { return data_.get()[index]; }
  [[nodiscard]] uint64_t size() const { return size_; }
  [[nodiscard]] T* data() { return data_.get(); }

 private:
  struct Unmap {
    uint64_t bytes = 0;
    void operator()(T* data) const { ::munmap(data, bytes); }
  };
  std::unique_ptr<T, Unmap> data_;
  uint64_t size_ = 0;
};

}  // namespace kvt::keeper
