// SPDX-License-Identifier: Apache-2.0
//
// Text for people: tables, sizes. Values; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvt::ctl {

/// Columns as wide as they have to be. Numbers stand right.
class Table {
 public:
  enum class Align : uint8_t { kLeft, kRight };
  Table& column(std::string title, Align align = Align::kRight);
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  /// One line a row, without spaces at its end; ends with a newline.
  [[nodiscard]] std::string text() const;

 private:
  struct Column {
    std::string title;
    Align align;
  };
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};
inline constexpr auto kLeft = Table::Align::kLeft;

/// "64 KiB", "1.5 GiB"
std::string bytes_text(double bytes);
std::string bytes_text(uint64_t bytes);

/// At most `most` bytes, the rest as "...".
std::string shortened(const std::string& text, size_t most);

}  // namespace kvt::ctl
