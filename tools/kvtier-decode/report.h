// SPDX-License-Identifier: Apache-2.0
//
// What a run prints, and the same for programs.
#pragma once

#include <string>
#include <vector>

#include "tools/kvtier-decode/run.h"
#include "tools/kvtier-decode/train.h"

namespace kvt::decode {

struct Report {
  std::string weights;  ///< where from
  std::string model;    ///< digest
  std::string device;   ///< that reads and writes the KV data; empty: the CPU
  Shape shape;
  RunOptions options;
  bool trained = false;
  TrainResult training;
  std::vector<Run> runs;
  bool verified = false;
  std::string difference;  ///< the first one; empty: none
};

/// Bytes that are no printable ASCII as \xNN, but for line ends.
std::string printable(const std::string& text);
struct Spread {
  double median = 0;
  double least = 0;
  double most = 0;
};
/// REQUIRES: not empty.
Spread spread_of(std::vector<double> values);

void print_report(const Report& report);
/// Throws std::runtime_error.
void write_json(const Report& report, const std::string& path);

}  // namespace kvt::decode
