// SPDX-License-Identifier: Apache-2.0
#include "daemon/topology/calibration.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/support/fake_sysfs.h"

namespace kvt {
namespace {

namespace fs = std::filesystem;

Topology machine(const std::string& cpu_model = "some processor") {
  Topology topology;
  topology.cpu_model = cpu_model;
  topology.nodes.resize(2);
  topology.nodes[0].bytes = 1 << 20;
  topology.nodes[0].cpus = "0-3";
  topology.nodes[1].os_index = 2;
  topology.nodes[1].bytes = 1 << 20;
  return topology;
}

Calibration measured() {
  Calibration calibration;
  calibration.machine = fingerprint_of(machine());
  calibration.measured_at = "2026-01-02T03:04:05Z";
  calibration.speeds = {
      {0, 0, 4, 100.5, 80, 40, 0, 0.01}, {0, 0, 1, 20, 15, 8, 95.25, 0.02}, {0, 2, 1, 10, 5, 3, 250, 0}};
  return calibration;
}

class CalibrationFile : public testing::Test {
 protected:
  [[nodiscard]] std::string path() const { return calibration_path(folder_.path()); }
  void write(const std::string& text) const { std::ofstream(path()) << text; }
  [[nodiscard]] std::string text() const {
    std::ostringstream all;
    all << std::ifstream(path()).rdbuf();
    return all.str();
  }
  /// Loading fails with this code and these words, and names the file.
  void expect(Code code, const std::string& words) const {
    const auto result = load_calibration(path(), machine());
    ASSERT_FALSE(result.has_value()) << text();
    EXPECT_EQ(result.error().code, code) << result.error().text;
    EXPECT_NE(result.error().text.find(words), std::string::npos) << result.error().text;
    EXPECT_NE(result.error().text.find(path()), std::string::npos) << result.error().text;
  }
  test::TemporaryFolder folder_;
};

TEST_F(CalibrationFile, ComesBackAsItWas) {
  ASSERT_TRUE(save_calibration(path(), measured()).has_value());
  const auto loaded = load_calibration(path(), machine());
  ASSERT_TRUE(loaded.has_value()) << loaded.error().text;
  EXPECT_EQ(loaded->machine, measured().machine);
  EXPECT_EQ(loaded->measured_at, measured().measured_at);
  ASSERT_EQ(loaded->speeds.size(), 3u);
  EXPECT_EQ(loaded->speeds[0].threads, 4u);
  EXPECT_EQ(loaded->speeds[0].read_gbs, 100.5);
  EXPECT_EQ(loaded->speeds[1].latency_ns, 95.25);
  EXPECT_EQ(loaded->speeds[1].spread, 0.02);
  EXPECT_EQ(loaded->speeds[2].node, 2u);
  EXPECT_EQ(loaded->speeds[2].copy_gbs, 3);
}

TEST_F(CalibrationFile, IsReplacedAsAWhole) {
  ASSERT_TRUE(save_calibration(path(), measured()).has_value());
  std::ifstream reader(path());  // has the old file open
  Calibration next = measured();
  next.measured_at = "2026-09-09T09:09:09Z";
  ASSERT_TRUE(save_calibration(path(), next).has_value());
  std::ostringstream old;
  old << reader.rdbuf();
  EXPECT_NE(old.str().find("2026-01-02"), std::string::npos) << "a reader keeps the file that it has opened";
  EXPECT_EQ(load_calibration(path(), machine())->measured_at, next.measured_at);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()), 1)
      << "nothing is left beside it";
}

TEST_F(CalibrationFile, CannotBeWritten) {
  const auto no_folder = save_calibration(folder_.path() + "/none/below/calibration.json", measured());
  ASSERT_FALSE(no_folder.has_value());
  EXPECT_NE(no_folder.error().text.find("none/below"), std::string::npos) << no_folder.error().text;
  ASSERT_TRUE(fs::create_directory(path()));
  const auto in_the_way = save_calibration(path(), measured());
  ASSERT_FALSE(in_the_way.has_value());
  EXPECT_NE(in_the_way.error().text.find(path()), std::string::npos) << in_the_way.error().text;
  EXPECT_FALSE(fs::exists(path() + ".new"));
  EXPECT_TRUE(save_calibration(folder_.path() + "/made/calibration.json", measured()).has_value())
      << "the folder itself is made";
}

TEST_F(CalibrationFile, IsNotThere) { expect(Code::kNotFound, "there is no "); }

TEST_F(CalibrationFile, IsNoFile) {
  ASSERT_TRUE(fs::create_directory(path()));
  expect(Code::kInvalid, "expected a file");
  fs::remove(path());
  ASSERT_EQ(::mkfifo(path().c_str(), 0600), 0);  // opening it would wait for ever
  expect(Code::kInvalid, "expected a file");
}

TEST_F(CalibrationFile, IsCutShort) {
  ASSERT_TRUE(save_calibration(path(), measured()).has_value());
  const std::string whole = text();
  for (size_t length = 0; length + 3 < whole.size(); length += 11) {
    write(whole.substr(0, length));
    expect(Code::kInvalid, "kvtierctl calibrate writes it anew");
  }
}

TEST_F(CalibrationFile, IsOfAnotherVersion) {
  for (const char* version : {"0", "2", "\"1\"", "null", "[]"}) {
    write(std::string("{\"version\": ") + version +
          ", \"machine\": \"\", \"measured_at\": \"\", \"speeds\": []}");
    expect(Code::kInvalid, "a calibration of version 1");
  }
  write("{\"machine\": \"\"}");
  expect(Code::kInvalid, "a calibration of version 1");
  write("[1]");
  expect(Code::kInvalid, "a calibration of version 1");
}

TEST_F(CalibrationFile, IsOfAnotherMachine) {
  Calibration other = measured();
  other.machine = fingerprint_of(machine("another processor"));
  ASSERT_TRUE(save_calibration(path(), other).has_value());
  expect(Code::kMismatch, "another processor");
  Topology grown = machine();  // a node came up since
  grown.nodes.emplace_back();
  grown.nodes.back().os_index = 5;
  grown.nodes.back().bytes = 1;
  EXPECT_NE(fingerprint_of(grown), fingerprint_of(machine()));
  Topology resized = machine();
  resized.nodes[0].bytes += 4096;
  EXPECT_EQ(fingerprint_of(resized), fingerprint_of(machine())) << "a kernel takes a little more or less";
}

TEST_F(CalibrationFile, HasAbsurdNumbers) {
  const auto with = [&](const std::string& field, const std::string& value) {
    std::string speed =
        R"("package": 0, "node": 0, "threads": 1, "read_gbs": 1, "write_gbs": 1, "copy_gbs": 1, "latency_ns": 1, "spread": 0)";
    const size_t at = speed.find("\"" + field + "\": ") + field.size() + 4;
    speed.replace(
        at, speed.find_first_of(",", at) == std::string::npos ? std::string::npos : speed.find(',', at) - at,
        value);
    write("{\"version\": 1, \"machine\": \"" + fingerprint_of(machine()) +
          "\", \"measured_at\": \"\", \"speeds\": [{" + speed + "}]}");
  };
  with("read_gbs", "5");
  const auto good = load_calibration(path(), machine());
  ASSERT_TRUE(good.has_value()) << good.error().text;
  EXPECT_EQ(good->speeds[0].read_gbs, 5);
  for (const char* value : {"-1", "1e300", "1e999", "\"fast\"", "null", "[]", "true"}) {
    with("read_gbs", value);
    EXPECT_FALSE(load_calibration(path(), machine()).has_value()) << value;
    with("latency_ns", value);
    EXPECT_FALSE(load_calibration(path(), machine()).has_value()) << value;
  }
  for (const char* value : {"-1", "1.5", "4294967296", "1e20", "\"0\"", "null"}) {
    for (const char* field : {"package", "node", "threads"}) {
      with(field, value);
      expect(Code::kInvalid, field);
    }
  }
  write("{\"version\": 1, \"machine\": \"" + fingerprint_of(machine()) +
        "\", \"measured_at\": \"\", \"speeds\": 5}");
  EXPECT_FALSE(load_calibration(path(), machine()).has_value());
}

TEST_F(CalibrationFile, IsTooLarge) {
  write(std::string(5 << 20, ' '));
  expect(Code::kInvalid, "a calibration");
}

TEST(Calibration, BestOfANode) {
  const auto best = measured().best_of(0);
  ASSERT_TRUE(best.has_value());
  EXPECT_EQ(best->read_gbs, 100.5);
  EXPECT_EQ(best->latency_ns, 95.25) << "0 is not measured";
  EXPECT_FALSE(measured().best_of(1).has_value());
}

}  // namespace
}  // namespace kvt
