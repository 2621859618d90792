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
