// SPDX-License-Identifier: Apache-2.0
//
// Charts as inline SVG: colours and fonts are classes of the document that they are in (html.cc), so they
// follow light and dark. Pure: values in, text out.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kvt::sim {

/// &, <, > and quotes as entities.
[[nodiscard]] std::string escaped(const std::string& text);

/// A class of the document: one that stands out, or the rest.
enum class Tone : uint8_t { kOurs, kReference, kCeiling, kClassic, kRest };
[[nodiscard]] Tone tone_of(const std::string& policy);

struct Bar {
  std::vector<double> parts;  ///< stacked from 0; one for a plain bar
  double low = 0, high = 0;   ///< spread, drawn when high > low
  std::string text;           ///< beside the bar
};

struct BarColumn {
  std::string title;
  double limit = 0;                                   ///< end of the scale; 0: the largest bar
  std::vector<Bar> bars;                              ///< parallel to the rows
  std::vector<std::pair<double, std::string>> marks;  ///< lines across all rows
};

struct BarRow {
  std::string name;
  Tone tone = Tone::kRest;
  bool oracle = false;
};

/// Columns of horizontal bars with the same rows. `label` tells those who cannot see it what it shows.
[[nodiscard]] std::string bar_chart(const std::string& label, const std::vector<BarRow>& rows,
                                    const std::vector<BarColumn>& columns);

struct Line {
  std::string name;
  Tone tone = Tone::kRest;
  bool oracle = false;
  std::vector<std::pair<double, double>> points;  ///< ascending x
};

struct Axis {
  std::string title;
  double low = 0;
  double high = 0;   ///< high <= low: from the lines
  std::string unit;  ///< behind each tick
};

[[nodiscard]] std::string line_chart(const std::string& label, const std::vector<Line>& lines, Axis x,
                                     Axis y);

struct Cells {
  uint32_t rows = 0;
  uint32_t columns = 0;
  std::vector<double> values;  ///< [row * columns + column]; 0 is not drawn
  double saturates = 0;        ///< value of the full colour
  std::string x_title, x_low, x_high, y_title, y_low, y_high;
};

[[nodiscard]] std::string cell_chart(const std::string& label, const Cells& cells);

}  // namespace kvt::sim
