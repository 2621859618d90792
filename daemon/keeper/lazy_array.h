// SPDX-License-Identifier: Apache-2.0
//
// A fixed array of zeroes whose memory is taken when it is touched. For the keeper's private state of millions of
// pages and frames: what is never used costs nothing. T is trivial and all-zero is its first state.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <type_traits>

#include "shm/base/result.h"

namespace kvt::keeper {

template <typename T>
class LazyArray {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  LazyArray() = default;
  explicit LazyArray(uint64_t size) : data_(static_cast<T*>(std::calloc(size, sizeof(T)))), size_(size) {
    KVT_CHECK(data_ != nullptr || size == 0);
  }
  [[nodiscard]] T& operator[](uint64_t index) { return data_.get()[index]; }
  [[nodiscard]] const T& operator[](uint64_t index) const { return data_.get()[index]; }
  [[nodiscard]] uint64_t size() const { return size_; }
  [[nodiscard]] T* data() { return data_.get(); }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T, Free> data_;
  uint64_t size_ = 0;
};

}  // namespace kvt::keeper
