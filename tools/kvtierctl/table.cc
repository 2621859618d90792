// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtierctl/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <sstream>

namespace kvt::ctl {

std::string Table::text() const {
  std::vector<size_t> widths;
  for (size_t i = 0; i < columns_.size(); ++i) {
    widths.push_back(columns_[i].title.size());
    for (const auto& row : rows_) widths[i] = std::max(widths[i], row.at(i).size());
  }
  const auto total = [&](size_t gap) {
    size_t sum = gap * (widths.size() - 1);
    for (const size_t width : widths) sum += width;
    return sum;
  };
  const size_t gap = total(2) <= kScreenColumns ? 2 : 1;
  for (size_t i = 0; i < columns_.size(); ++i) {
    if (columns_[i].width != Width::kName || total(gap) <= kScreenColumns) continue;
    const size_t over = total(gap) - kScreenColumns;
    const size_t least = std::max<size_t>(columns_[i].title.size(), 8);
    widths[i] = std::min(widths[i], std::max(least, widths[i] > over ? widths[i] - over : 0));
  }
  std::string out;
  const auto line = [&](const auto& cell) {
    std::string built;
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (i != 0) built.append(gap, ' ');
      const std::string shown = columns_[i].width == Width::kName ? shortened(cell(i), widths[i]) : cell(i);
      built += columns_[i].align == Align::kLeft ? fmt::format("{:<{}}", shown, widths[i])
                                                 : fmt::format("{:>{}}", shown, widths[i]);
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
  // Three digits, or four of a whole number.
  const bool whole = bytes == static_cast<double>(static_cast<uint64_t>(bytes));
  return fmt::format("{:.{}f} {}", bytes, whole || bytes >= 100 ? 0 : bytes >= 10 ? 1 : 2, kUnits[unit]);
}
std::string bytes_text(uint64_t bytes) { return bytes_text(static_cast<double>(bytes)); }

std::string short_count(uint64_t count) {
  if (count < 100'000) return fmt::to_string(count);
  auto value = static_cast<double>(count);
  size_t unit = 0;
  static constexpr const char* kUnits[] = {"", "k", "M", "G", "T", "P", "E"};
  while (value >= 999.5) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f}{}", value, value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2, kUnits[unit]);
}
std::string gbps_text(double bytes_per_second) {
  const double value = bytes_per_second / 1e9;
  return value >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.1f}", value);
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<uint64_t>(seconds);
  if (whole < 60) return fmt::format("{:.1f} s", seconds);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
  return fmt::format("{} d {:02} h", whole / 86400, whole / 3600 % 24);
}

std::string percent_text(double part, double whole) {
  return whole > 0 ? fmt::format("{:.1f}%", 100 * part / whole) : "-";
}

std::string paragraph(const std::string& label, const std::string& words) {
  constexpr size_t kIndent = 11;
  std::string out;
  std::string line = fmt::format("  {:<{}}", shortened(label, kIndent - 3), kIndent - 2);
  std::istringstream in(words);
  for (std::string word; in >> word;) {
    if (line.size() > kIndent && line.size() + 1 + word.size() > kScreenColumns) {
      out += line + "\n";
      line = std::string(kIndent, ' ');
    }
    line += (line.size() > kIndent ? " " : "") + word;
  }
  return out + line + "\n";
}

std::string shortened(const std::string& text, size_t width) {
  if (text.size() <= width) return text;
  const std::string tail = text.ends_with(kEmulated) ? kEmulated : "";
  size_t head = width > tail.size() + 2 ? width - tail.size() - 2 : 1;
  while (head > 0 && (static_cast<unsigned char>(text[head]) & 0xc0) == 0x80)
    --head;  // not within a UTF-8 character
  return text.substr(0, head) + ".." + tail;
}

}  // namespace kvt::ctl
