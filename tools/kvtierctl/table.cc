// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtierctl/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace kvt::ctl {

Table& Table::column(std::string title, Align align) {
  columns_.push_back({std::move(title), align});
  return *this;
}

std::string Table::text() const {
  std::vector<size_t> widths;
  for (size_t i = 0; i < columns_.size(); ++i) {
    widths.push_back(columns_[i].title.size());
    for (const auto& row : rows_) widths[i] = std::max(widths[i], row.at(i).size());
  }
  std::string out;
  const auto line = [&](const auto& cell) {
    std::string built;
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (i != 0) built += "  ";
      built += columns_[i].align == Align::kLeft ? fmt::format("{:<{}}", cell(i), widths[i]) : fmt::format("{:>{}}", cell(i), widths[i]);
    }
    built.erase(built.find_last_not_of(' ') + 1);
    out += built + "\n";
  };
  line([&](size_t i) { return columns_[i].title; });
  for (const auto& row : rows_) line([&](size_t i) { return row[i]; });
  return out;
}

std::string bytes_text(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  const bool whole = bytes == static_cast<double>(static_cast<uint64_t>(bytes));
  return whole ? fmt::format("{:.0f} {}", bytes, kUnits[unit]) : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}
std::string bytes_text(uint64_t bytes) { return bytes_text(static_cast<double>(bytes)); }

std::string shortened(const std::string& text, size_t most) { return text.size() <= most ? text : text.substr(0, most - 3) + "..."; }

}  // namespace kvt::ctl
