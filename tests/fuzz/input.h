// SPDX-License-Identifier: Apache-2.0
//
// What the fuzz targets share: values taken off the input, and the way in which they fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace kvt::fuzz {

/// Takes values off the input; zeroes when it has ended. The bytes are not owned.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  [[nodiscard]] bool empty() const { return left_ == 0; }
  template <typename T>
  T take() {
    T value{};
    take_into(&value, sizeof value);
    return value;
  }
  /// Fills as much of `bytes` as there is input left; the rest stays as it is.
  void take_into(void* bytes, size_t count) {
    if (count > left_) count = left_;
    if (count != 0) std::memcpy(bytes, data_, count);
    data_ += count;
    left_ -= count;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

/// Ends the process with a line that says what is wrong; libFuzzer keeps the input. `tests/fuzz/run canary`
/// looks for the line.
[[noreturn]] inline void found(const std::string& what) {
  std::fprintf(stderr, "FOUND: %s\n", what.c_str());
  std::abort();
}

/// `what` is no std::string: a harness asks this thousands of times an input.
inline void require(bool holds, const char* what) {
  if (!holds) found(what);
}

}  // namespace kvt::fuzz
