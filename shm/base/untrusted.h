// SPDX-License-Identifier: Apache-2.0
//
// A value that another process wrote. It can be compared with a bound or taken after a check, and nothing
// else, so that no such byte becomes an index, a length or a loop count by accident.
#pragma once

#include <optional>

namespace kvt {

template <typename T>
class Untrusted {
 public:
  constexpr Untrusted() = default;
  constexpr explicit Untrusted(T value) : value_(value) {}

  /// The value if it is below `bound`.
  [[nodiscard]] constexpr std::optional<T> below(T bound) const {
    if (value_ < bound) return value_;
    return std::nullopt;
  }
  /// The value if low <= value <= high.
  [[nodiscard]] constexpr std::optional<T> between(T low, T high) const {
    if (value_ >= low && value_ <= high) return value_;
    return std::nullopt;
  }
  /// The value cut off at `high`.
  [[nodiscard]] constexpr T capped(T high) const { return value_ < high ? value_ : high; }
  /// The bare value, for arithmetic that is harmless whatever it is (hash, statistics, echo to the sender).
  [[nodiscard]] constexpr T harmless() const { return value_; }

 private:
  T value_{};
};

}  // namespace kvt
