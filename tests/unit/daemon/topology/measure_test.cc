// SPDX-License-Identifier: Apache-2.0
//
// Measuring this machine with small buffers: that it works, not how fast the machine is.
#include "daemon/topology/measure.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace kvt {
namespace {

MeasureOptions small() {
  MeasureOptions options;
  options.bytes = 2 << 20;
  options.repetitions = 2;
  return options;
}

TEST(Measure, ThisMachine) {
  const auto topology = discover_topology();
  ASSERT_TRUE(topology.has_value()) << topology.error().text;
  std::vector<std::string> lines;
  MeasureOptions options = small();
  options.progress = [&](const std::string& line) { lines.push_back(line); };
  const auto calibration = measure(*topology, options);
  if (!calibration && calibration.error().code == Code::kPermission) GTEST_SKIP() << calibration.error().text;
  ASSERT_TRUE(calibration.has_value()) << calibration.error().text;
  EXPECT_EQ(calibration->machine, fingerprint_of(*topology));
  EXPECT_EQ(calibration->measured_at.size(), std::string("2026-01-02T03:04:05Z").size());
  EXPECT_EQ(lines.size(), calibration->speeds.size());
  for (const NodeSpeed& speed : calibration->speeds) {
    SCOPED_TRACE("node " + std::to_string(speed.node) + ", threads " + std::to_string(speed.threads));
    for (const double gbs : {speed.read_gbs, speed.write_gbs, speed.copy_gbs}) {
      EXPECT_TRUE(std::isfinite(gbs));
      EXPECT_GT(gbs, 1e-4);
      EXPECT_LT(gbs, 1e5);
    }
    EXPECT_GE(speed.spread, 0);
    EXPECT_EQ(speed.latency_ns > 0, speed.threads == 1) << "latency is measured with one thread";
    if (speed.threads == 1) EXPECT_LT(speed.latency_ns, 1e6);
  }
  for (const MemoryNode& node : topology->nodes)
    if (node.bytes != 0) EXPECT_TRUE(calibration->best_of(node.os_index).has_value()) << node.os_index;
}

TEST(Measure, WrongOptions) {
  const auto topology = discover_topology();
  ASSERT_TRUE(topology.has_value()) << topology.error().text;
  MeasureOptions options = small();
  options.nodes = {54321};
  const auto no_node = measure(*topology, options);
  ASSERT_FALSE(no_node.has_value());
  EXPECT_EQ(no_node.error().code, Code::kNotFound);
  EXPECT_NE(no_node.error().text.find("54321"), std::string::npos) << no_node.error().text;
  options = small();
  options.repetitions = 0;
  ASSERT_FALSE(measure(*topology, options).has_value());
  options = small();
  options.bytes = 4096;
  const auto tiny = measure(*topology, options);
  ASSERT_FALSE(tiny.has_value());
  EXPECT_EQ(tiny.error().code, Code::kInvalid);
}

TEST(Measure, ANodeWithoutMemory) {
  auto topology = discover_topology();
  ASSERT_TRUE(topology.has_value()) << topology.error().text;
  topology->nodes.emplace_back();
  topology->nodes.back().os_index = 600;
  MeasureOptions options = small();
  options.nodes = {600};
  const auto result = measure(*topology, options);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, Code::kNotFound);
}

TEST(Measure, CpusThatThisProcessMayNotUse) {
  auto topology = discover_topology();
  ASSERT_TRUE(topology.has_value()) << topology.error().text;
  topology->packages = {{7, "60000-60003"}};
  const auto result = measure(*topology, small());
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, Code::kPermission);
  EXPECT_NE(result.error().text.find("package 7"), std::string::npos) << result.error().text;
}

}  // namespace
}  // namespace kvt
