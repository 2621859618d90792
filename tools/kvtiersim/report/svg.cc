// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/report/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

namespace kvt::sim {

namespace {

constexpr double kWidth = 1040;

const char* tone_class(Tone tone) {
  switch (tone) {
    case Tone::kOurs: return "ours";
    case Tone::kReference: return "reference";
    case Tone::kCeiling: return "ceiling";
    case Tone::kClassic: return "classic";
    case Tone::kRest: break;
  }
  return "rest";
}

/// 1, 2 or 5 times a power of ten, so that there are about `count` in `range`.
double tick_step(double range, double count) {
  const double raw = range / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (const double times : {1.0, 2.0, 5.0})
    if (raw <= times * power * (1 + 1e-9)) return times * power;
  return 10 * power;
}

std::string head(const std::string& label, double height) {
  return fmt::format("<svg viewBox=\"0 0 {} {:.0f}\" role=\"img\" aria-label=\"{}\"><title>{}</title>\n",
                     kWidth, height, escaped(label), escaped(label));
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

Tone tone_of(const std::string& policy) {
  if (policy == "kvtier") return Tone::kOurs;
  if (policy == "reference") return Tone::kReference;
  if (policy == "bayes") return Tone::kCeiling;
  if (policy == "lru") return Tone::kClassic;
  return Tone::kRest;
}

std::string bar_chart(const std::string& label, const std::vector<BarRow>& rows,
                      const std::vector<BarColumn>& columns) {
  constexpr double kNames = 130, kRow = 22, kTop = 30, kGap = 18, kText = 74;
  const double height = kTop + kRow * static_cast<double>(rows.size()) + 20;
  const double wide = (kWidth - kNames) / static_cast<double>(std::max<size_t>(1, columns.size()));
  std::string svg = head(label, height);
  auto out = std::back_inserter(svg);
  for (size_t i = 0; i < rows.size(); ++i)
    fmt::format_to(out, "<text class=\"name {}\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}{}</text>\n",
                   tone_class(rows[i].tone), kNames - 10, kTop + kRow * static_cast<double>(i) + 15,
                   escaped(rows[i].name), rows[i].oracle ? " *" : "");
  for (size_t c = 0; c < columns.size(); ++c) {
    const BarColumn& column = columns[c];
    const double left = kNames + wide * static_cast<double>(c);
    const double length = wide - kGap - kText;
    double limit = column.limit;
    if (limit <= 0)
      for (const Bar& bar : column.bars)
        limit = std::max({limit, std::accumulate(bar.parts.begin(), bar.parts.end(), 0.0), bar.high});
    const double scale = limit > 0 ? length / limit : 0;
    fmt::format_to(out, "<text class=\"title\" x=\"{:.1f}\" y=\"14\">{}</text>\n", left,
                   escaped(column.title));
    fmt::format_to(out, "<line class=\"axis\" x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\"/>\n",
                   left, kTop - 4, kTop + kRow * static_cast<double>(rows.size()));
    for (size_t i = 0; i < column.bars.size(); ++i) {
      const Bar& bar = column.bars[i];
      const double y = kTop + kRow * static_cast<double>(i) + 4;
      double x = left;
      for (size_t part = 0; part < bar.parts.size(); ++part) {
        const double w = std::clamp(bar.parts[part] * scale, 0.0, left + length - x);
        if (w > 0.05)
          fmt::format_to(
              out, "<rect class=\"bar {}{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"14\"/>\n",
              tone_class(rows[i].tone), part == 0 ? "" : fmt::format(" part{}", part), x, y, w);
        x += w;
      }
      if (bar.high > bar.low)
        fmt::format_to(out,
                       "<line class=\"spread\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
                       left + std::clamp(bar.low * scale, 0.0, length), y + 7,
                       left + std::clamp(bar.high * scale, 0.0, length), y + 7);
      fmt::format_to(out, "<text class=\"value\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", left + length + 6,
                     y + 11, escaped(bar.text));
    }
    for (const auto& [value, text] : column.marks) {
      const double x = left + std::clamp(value * scale, 0.0, length);
      const double bottom = kTop + kRow * static_cast<double>(rows.size());
      fmt::format_to(out,
                     "<line class=\"mark\" x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\"/><text "
                     "class=\"tick\" x=\"{0:.1f}\" y=\"{3:.1f}\" text-anchor=\"{4}\">{5}</text>\n",
                     x, kTop - 4, bottom, bottom + 14, x > left + length / 2 ? "end" : "start",
                     escaped(text));
    }
  }
  return svg + "</svg>\n";
}

std::string line_chart(const std::string& label, const std::vector<Line>& lines, Axis x, Axis y) {
  constexpr double kLeft = 56, kRight = 150, kTop = 26, kLabel = 13;
  const double inner = std::max(240.0, kLabel * static_cast<double>(lines.size()));
  const double height = kTop + inner + 44;
  const double wide = kWidth - kLeft - kRight;
  const auto fit = [&](Axis& axis, auto value_of, bool from_zero) {
    if (axis.high > axis.low) return;
    double low = std::numeric_limits<double>::infinity(), high = -low;
    for (const Line& line : lines) {
      for (const auto& point : line.points) {
        low = std::min(low, value_of(point));
        high = std::max(high, value_of(point));
      }
    }
    if (from_zero) low = std::min(low, 0.0);
    if (!(high > low)) high = low + 1;
    if (!std::isfinite(low)) low = 0, high = 1;
    axis.low = low;
    axis.high = high;
  };
  fit(
      x, [](const auto& point) { return point.first; }, false);
  fit(
      y, [](const auto& point) { return point.second; }, true);
  const auto at_x = [&](double value) { return kLeft + (value - x.low) / (x.high - x.low) * wide; };
  const auto at_y = [&](double value) {
    return kTop + (1 - (std::clamp(value, y.low, y.high) - y.low) / (y.high - y.low)) * inner;
  };
  std::string svg = head(label, height);
  auto out = std::back_inserter(svg);
  const double y_step = tick_step(y.high - y.low, 5), x_step = tick_step(x.high - x.low, 8);
  for (double tick = std::ceil(y.low / y_step) * y_step; tick <= y.high + y_step * 1e-6; tick += y_step)
    fmt::format_to(out,
                   "<line class=\"grid\" x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\"/><text "
                   "class=\"tick\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}{}</text>\n",
                   kLeft, at_y(tick), kLeft + wide, at_y(tick), kLeft - 6, at_y(tick) + 4, tick,
                   escaped(y.unit));
  for (double tick = std::ceil(x.low / x_step) * x_step; tick <= x.high + x_step * 1e-6; tick += x_step)
    fmt::format_to(out,
                   "<line class=\"axis\" x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\"/><text "
                   "class=\"tick\" x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4:g}{5}</text>\n",
                   at_x(tick), kTop + inner, kTop + inner + 4, kTop + inner + 17, tick, escaped(x.unit));
  fmt::format_to(out, "<line class=\"axis\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>\n", kLeft, kTop + inner,
                 kLeft + wide, kTop + inner);
  fmt::format_to(out, "<text class=\"tick\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                 kLeft + wide / 2, kTop + inner + 34, escaped(x.title));
  fmt::format_to(out, "<text class=\"title\" x=\"{}\" y=\"12\">{}</text>\n", kLeft, escaped(y.title));
  // What stands out is drawn last; names are at the right, apart from each other.
  std::vector<size_t> order(lines.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return lines[a].tone > lines[b].tone; });
  for (const size_t i : order) {
    if (lines[i].points.empty()) continue;
    fmt::format_to(out, "<polyline class=\"line {}{}\" points=\"", tone_class(lines[i].tone),
                   lines[i].oracle ? " oracle" : "");
    for (const auto& point : lines[i].points)
      fmt::format_to(out, "{:.1f},{:.1f} ", at_x(point.first), at_y(point.second));
    svg += "\"/>\n";
    if (lines[i].points.size() <= 20)
      for (const auto& point : lines[i].points)
        fmt::format_to(out, "<circle class=\"dot {}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"/>\n",
                       tone_class(lines[i].tone), at_x(point.first), at_y(point.second));
  }
  std::erase_if(order, [&](size_t i) { return lines[i].points.empty(); });
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return lines[a].points.back().second > lines[b].points.back().second;
  });
  std::vector<double> place;
  for (const size_t i : order)
    place.push_back(std::max(at_y(lines[i].points.back().second), place.empty() ? 0 : place.back() + kLabel));
  const double lowest = kTop + inner + 4;  // pushed up again from the bottom
  for (size_t i = place.size(); i-- > 0;)
    place[i] = std::min(place[i], i + 1 == place.size() ? lowest : place[i + 1] - kLabel);
  for (size_t i = 0; i < order.size(); ++i) {
    const Line& line = lines[order[i]];
    fmt::format_to(out,
                   "<line class=\"lead\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/><text "
                   "class=\"name {}\" x=\"{:.1f}\" y=\"{:.1f}\">{}{}</text>\n",
                   at_x(line.points.back().first) + 4, at_y(line.points.back().second), kLeft + wide + 22,
                   place[i], tone_class(line.tone), kLeft + wide + 26, place[i] + 4, escaped(line.name),
                   line.oracle ? " *" : "");
  }
  return svg + "</svg>\n";
}

std::string cell_chart(const std::string& label, const Cells& cells) {
  constexpr double kLeft = 90, kTop = 6, kRight = 20;
  const double wide = kWidth - kLeft - kRight;
  const double tall = std::clamp(8.0 * cells.rows, 80.0, 400.0);
  std::string svg = head(label, kTop + tall + 40);
  auto out = std::back_inserter(svg);
  fmt::format_to(out, "<rect class=\"ground\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>\n", kLeft, kTop,
                 wide, tall);
  for (uint32_t row = 0; row < cells.rows; ++row) {
    const double y = kTop + tall * row / cells.rows;
    const auto shade = [&](uint32_t column) {
      const double value = cells.values[size_t{row} * cells.columns + column];
      return cells.saturates > 0 ? static_cast<int>(std::lround(20 * std::min(1.0, value / cells.saturates)))
                                 : 0;
    };
    for (uint32_t column = 0; column < cells.columns;) {  // neighbours of one shade are one rectangle
      uint32_t end = column + 1;
      while (end < cells.columns && shade(end) == shade(column)) ++end;
      if (shade(column) > 0)
        fmt::format_to(out,
                       "<rect class=\"heat\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
                       "fill-opacity=\"{:g}\"/>\n",
                       kLeft + wide * column / cells.columns, y, wide * (end - column) / cells.columns,
                       tall / cells.rows, shade(column) / 20.0);
      column = end;
    }
  }
  const double bottom = kTop + tall + 14;
  fmt::format_to(out,
                 "<text class=\"tick\" x=\"{}\" y=\"{:.1f}\">{}</text><text class=\"tick\" x=\"{}\" "
                 "y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
                 kLeft, bottom, escaped(cells.x_low), kLeft + wide, bottom, escaped(cells.x_high));
  fmt::format_to(out, "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                 kLeft + wide / 2, bottom + 8, escaped(cells.x_title));
  fmt::format_to(out,
                 "<text class=\"tick\" x=\"{0}\" y=\"{1}\" text-anchor=\"end\">{2}</text><text "
                 "class=\"tick\" x=\"{0}\" y=\"{3:.1f}\" text-anchor=\"end\">{4}</text><text class=\"tick\" "
                 "x=\"{0}\" y=\"{5:.1f}\" text-anchor=\"end\">{6}</text>\n",
                 kLeft - 6, kTop + 10, escaped(cells.y_low), kTop + tall, escaped(cells.y_high),
                 kTop + tall / 2, escaped(cells.y_title));
  return svg + "</svg>\n";
}

}  // namespace kvt::sim
