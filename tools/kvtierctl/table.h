// SPDX-License-Identifier: Apache-2.0
//
// Text for people: tables that fit a screen, sizes. Values; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kvt::ctl {

inline constexpr size_t kScreenColumns = 80;
inline constexpr const char* kEmulated = " (emulated)";

/// Columns as wide as they have to be. Numbers stand right. What is wider than a screen gets closer columns,
/// and then shorter names.
class Table {
 public:
  enum class Align : uint8_t { kLeft, kRight };
  enum class Width : uint8_t { kFixed, kName };  ///< kName: may be shortened
  Table& column(std::string title, Align align = Align::kRight, Width width = Width::kFixed) {
    columns_.push_back({std::move(title), align, width});
    return *this;
  }
  Table& name(std::string title) { return column(std::move(title), Align::kLeft, Width::kName); }
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  /// One line a row, without spaces at its end; ends with a newline.
  [[nodiscard]] std::string text() const;

 private:
  struct Column {
    std::string title;
    Align align;
    Width width;
  };
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};
inline constexpr auto kLeft = Table::Align::kLeft;

/// "64 KiB", "1.50 GiB": three digits, or four of a whole number.
std::string bytes_text(double bytes);
std::string bytes_text(uint64_t bytes);

/// A count for tables: exact up to 99999, then three digits and k, M or G.
std::string short_count(uint64_t count);
/// 10^9 bytes a second, as bandwidths are given.
std::string gbps_text(double bytes_per_second);
/// "4.2 s", "3 min 05 s", "2 h 01 min", "9 d 03 h".
std::string duration_text(double seconds);
/// "12.3%"; "-" of nothing.
std::string percent_text(double part, double whole);

/// "  label    words words ..." on as many lines of a screen as it takes.
std::string paragraph(const std::string& label, const std::string& words);

/// At most `width` characters: "averylongna..". What says that a tier is emulated is not cut off.
std::string shortened(const std::string& text, size_t width);

}  // namespace kvt::ctl
