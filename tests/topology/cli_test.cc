// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/support/fake_machines.h"
#include "tests/topology/run_kvtierctl.h"

namespace kvt::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::set<std::string> kKinds{"dram", "hbm", "cxl", "lpddr", "gpu", "nvm", "unknown"};
const std::set<std::string> kSources{"unknown", "guessed", "profile", "hmat", "measured", "configuration"};

class TopologyCli : public testing::Test {
 protected:
  [[nodiscard]] Outcome run(const std::vector<std::string>& arguments) const {
    return run_kvtierctl(arguments, state_.path() + "/kvtier");
  }

  /// Its output, which must be one JSON document, with exit code 0.
  [[nodiscard]] json report(const std::vector<std::string>& arguments) const {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    json parsed = json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(parsed.is_object()) << outcome.out;
    return parsed;
  }
  [[nodiscard]] json topology_of(const FakeMachine& machine) const {
    const FakeSysfs sysfs(machine);
    return report({"topology", "--fsroot", sysfs.root(), "--json"});
  }
  /// Exit code and words on stderr; nothing on stdout.
  void expect_failure(const std::vector<std::string>& arguments, int code, const std::string& words) const {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find(words), std::string::npos) << outcome.err;
  }
  TemporaryFolder state_;
};

/// null, or a number above 0: never 0 for "unknown". Its source says "unknown" exactly then.
void expect_figure(const json& object, const std::string& key, bool has_source) {
  ASSERT_TRUE(object.contains(key)) << key << " of " << object;
  if (!object[key].is_null()) {
    ASSERT_TRUE(object[key].is_number()) << object;
    EXPECT_GT(object[key].get<double>(), 0) << object;
  }
  if (!has_source) return;
  ASSERT_TRUE(object.contains(key + "_source")) << object;
  EXPECT_TRUE(kSources.contains(object[key + "_source"].get<std::string>())) << object;
  EXPECT_EQ(object[key].is_null(), object[key + "_source"] == "unknown") << object;
}

/// What programs rely on: keys, types, kinds, and that tiers are made of nodes that are there.
void expect_contract(const json& report) {
  std::set<uint32_t> indices;
  ASSERT_TRUE(report.contains("nodes") && report["nodes"].is_array());
  ASSERT_FALSE(report["nodes"].empty());
  for (const json& node : report["nodes"]) {
    ASSERT_TRUE(node.at("os_index").is_number_unsigned());
    EXPECT_TRUE(indices.insert(node["os_index"].get<uint32_t>()).second) << "twice: " << node;
    EXPECT_TRUE(kKinds.contains(node.at("kind").get<std::string>())) << node;
    EXPECT_TRUE(node.at("bytes").is_number_unsigned()) << node;
    EXPECT_TRUE(node.at("cpus").is_string()) << node;
    expect_figure(node, "read_gbs", true);
    expect_figure(node, "write_gbs", true);
    expect_figure(node, "latency_ns", true);
    for (const json& initiator : node.at("initiators")) {
      expect_figure(initiator, "read_gbs", false);
      expect_figure(initiator, "write_gbs", false);
      expect_figure(initiator, "latency_ns", false);
    }
  }
  ASSERT_TRUE(report.contains("tiers") && report["tiers"].is_array());
  EXPECT_LE(report["tiers"].size(), 8u);
  std::set<std::string> names;
  for (const json& tier : report["tiers"]) {
    EXPECT_TRUE(names.insert(tier.at("name").get<std::string>()).second) << "twice: " << tier;
    EXPECT_TRUE(kKinds.contains(tier.at("kind").get<std::string>())) << tier;
    EXPECT_TRUE(tier.at("backend").is_string()) << tier;
    EXPECT_FALSE(tier.at("nodes").empty()) << tier;
    for (const json& index : tier["nodes"]) EXPECT_TRUE(indices.contains(index.get<uint32_t>())) << tier;
    EXPECT_GT(tier.at("bytes").get<uint64_t>(), 0u) << tier;
    expect_figure(tier, "read_gbs", true);
    EXPECT_TRUE(tier.at("emulated").is_boolean()) << tier;
    EXPECT_TRUE(tier.at("column").is_null() || tier["column"].is_number_unsigned()) << tier;
  }
  ASSERT_TRUE(report.contains("unused") && report["unused"].is_array());
  for (const json& each : report["unused"]) {
    EXPECT_TRUE(each.at("name").is_string()) << each;
    EXPECT_TRUE(kKinds.contains(each.at("kind").get<std::string>())) << each;
    EXPECT_GT(each.at("bytes").get<uint64_t>(), 0u) << each;
    EXPECT_FALSE(each.at("reason").get<std::string>().empty()) << each;
  }
}

TEST_F(TopologyCli, ContractOnThisMachine) { expect_contract(report({"topology", "--json"})); }

TEST_F(TopologyCli, ContractOnHandMadeMachines) {
  for (const FakeMachine& machine :
       {gh200(), gh200(true), gh200_four_way(), dram_and_cxl(), set_apart_without_initiators(),
        xeon_max(true), zeros(), one_figure_a_kind(), memoryless(), node_0_missing(), offline_blocks(),
        devices_not_in_use(), one_gpu("offline"), eight_gpus(), in_a_cpuset()})
    expect_contract(topology_of(machine));
}

TEST_F(TopologyCli, ContractOnRecordedMachines) {
  const char* const data = std::getenv("KVTIER_DATA");
  if (data == nullptr) GTEST_SKIP() << "KVTIER_DATA is not set: no recorded machines";
  const fs::path folder = fs::path(data) / "hwloc";
  if (!fs::is_directory(folder)) GTEST_SKIP() << folder << " is not there";
  size_t seen = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    SCOPED_TRACE(entry.path());
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".xml")) {
      expect_contract(report({"topology", "--json", "--xml", entry.path().string()}));
    } else if (name.ends_with(".tar.bz2")) {
      const TemporaryFolder unpacked;
      const int status = std::system(
          ("tar --no-same-owner -xjf '" + entry.path().string() + "' -C '" + unpacked.path() + "'").c_str());
      ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "needs tar and bzip2";
      expect_contract(report(
          {"topology", "--json", "--fsroot", unpacked.path() + "/" + name.substr(0, name.size() - 8)}));
    } else {
      continue;
    }
    ++seen;
  }
  EXPECT_GT(seen, 0u);
}

TEST_F(TopologyCli, Gh200) {
  const json found = topology_of(gh200());
  EXPECT_EQ(found["profile"], "gh200");
  EXPECT_EQ(found["tiers"][0]["name"], "gpu0");
  EXPECT_EQ(found["tiers"][0]["read_gbs"], 3728.0);
  EXPECT_EQ(found["tiers"][0]["read_gbs_source"], "profile");
  EXPECT_EQ(found["tiers"][0]["nodes"], json({1}));
  EXPECT_TRUE(found["tiers"][0]["column"].is_null());
  EXPECT_EQ(found["tiers"][1]["kind"], "lpddr");
}

TEST_F(TopologyCli, ColumnsOfFourGpus) {
  const json found = topology_of(gh200_four_way());
  ASSERT_EQ(found["tiers"].size(), 5u);
  for (uint32_t column = 0; column < 4; ++column) {
    EXPECT_EQ(found["tiers"][column]["column"], column);
    EXPECT_EQ(found["tiers"][column]["nodes"], json({4 + 8 * column}));
  }
}

TEST_F(TopologyCli, ForPeople) {
  const FakeSysfs sysfs(devices_not_in_use());
  const Outcome outcome = run({"topology", "--fsroot", sysfs.root()});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  for (const char* words : {"NODE", "TIER", "hbm (emulated)", "node 0 is taken for dram: a node with CPUs",
                            "unused: 8 GiB of dax0.0", "daxctl", "8 GiB of mem1, cxl", "cxl create-region"})
    EXPECT_NE(outcome.out.find(words), std::string::npos) << words << " is not in\n" << outcome.out;
  EXPECT_EQ(outcome.out.find('\033'), std::string::npos) << "no colour in a pipe";
  EXPECT_EQ(outcome.out.find(" 0 GB/s"), std::string::npos) << outcome.out;
  EXPECT_EQ(outcome.out.find(" 0.0 GB/s"), std::string::npos) << outcome.out;
  const FakeSysfs cxl(dram_and_cxl());
  const std::string text = run({"topology", "--fsroot", cxl.root()}).out;
  EXPECT_NE(text.find("220 GB/s, hmat"), std::string::npos) << "how it is known\n" << text;
}

TEST_F(TopologyCli, TablesFitInto80Columns) {
  for (const FakeMachine& machine : {gh200_four_way(), dram_and_cxl(), eight_gpus()}) {
    const FakeSysfs sysfs(machine);
    std::istringstream lines(run({"topology", "--fsroot", sysfs.root()}).out);
    for (std::string line; std::getline(lines, line);)
      if (!line.starts_with("unused: ") && !line.starts_with("node "))
        EXPECT_LE(line.size(), 80u) << line;  // sentences may be longer
  }
}

TEST_F(TopologyCli, AnotherProfile) {
  const FakeSysfs sysfs(node_0_missing());
  const json found = report({"topology", "--fsroot", sysfs.root(), "--profile", "h100-pcie5", "--json"});
  EXPECT_EQ(found["profile"], "h100-pcie5");
  EXPECT_EQ(found["tiers"][0]["emulated"], true);
  EXPECT_EQ(found["tiers"][0]["read_gbs"], 2570.0);
  EXPECT_EQ(found["tiers"][1]["read_gbs"], 55.6);
  expect_failure({"topology", "--fsroot", sysfs.root(), "--profile", "fast"}, 1,
                 "\"fast\"; expected one of \"gh200\"");
}

TEST_F(TopologyCli, WrongUse) {
  expect_failure({"topology", "--xml"}, 2, "--xml");
  expect_failure({"topology", "--xml", "a", "--fsroot", "b"}, 2, "excludes");
  expect_failure({"topology", "--speed"}, 2, "--speed");
  expect_failure({"calibrate", "--bytes", "4096"}, 2, "--bytes");
  expect_failure({"calibrate", "--repetitions", "0"}, 2, "--repetitions");
  expect_failure({"calibrate", "--node", "x"}, 2, "--node");
}

TEST_F(TopologyCli, WhatIsNoTopology) {
  const TemporaryFolder folder;
  expect_failure({"topology", "--xml", folder.path() + "/none.xml"}, 1,
                 folder.path() + "/none.xml: expected an XML file");
  expect_failure({"topology", "--fsroot", folder.path()}, 1, folder.path() + ": expected a folder");
  std::ofstream(folder.path() + "/broken.xml") << "<topology version=\"2.0\"><object type=\"Machine\"";
  expect_failure({"topology", "--xml", folder.path() + "/broken.xml"}, 1, "broken.xml");
  expect_failure({"topology", "--json", "--xml", folder.path() + "/broken.xml"}, 1, "broken.xml");
  expect_failure({"calibrate", "--node", "54321"}, 1, "54321");
}

// ---- calibrate ----

TEST_F(TopologyCli, CalibrateKeepsWhatTopologyThenSays) {
  json before = report({"topology", "--json"});
  EXPECT_TRUE(before["measured_at"].is_null());
  const Outcome outcome = run({"calibrate", "--json", "--bytes", "2097152", "--repetitions", "1"});
  if (outcome.code == 1 && outcome.err.find("this process may ") != std::string::npos)
    GTEST_SKIP() << outcome.err;
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json measured = json::parse(outcome.out);
  const std::string file = state_.path() + "/kvtier/calibration.json";
  EXPECT_EQ(measured["kept_in"], file);
  EXPECT_TRUE(fs::is_regular_file(file));
  ASSERT_FALSE(measured["speeds"].empty());
  double best = 0;
  for (const json& speed : measured["speeds"]) {
    for (const char* key : {"read_gbs", "write_gbs", "copy_gbs"})
      EXPECT_GT(speed.at(key).get<double>(), 0) << speed;
    EXPECT_EQ(speed.at("latency_ns").is_null(), speed.at("threads") != 1) << speed;
    if (speed.at("node") == measured["speeds"][0]["node"])
      best = std::max(best, speed["read_gbs"].get<double>());
  }
  const json after = report({"topology", "--json"});
  EXPECT_EQ(after["measured_at"], measured["measured_at"]);
  for (const json& node : after["nodes"]) {
    if (node["os_index"] != measured["speeds"][0]["node"]) continue;
    EXPECT_EQ(node["read_gbs_source"], "measured") << node;
    EXPECT_DOUBLE_EQ(node["read_gbs"].get<double>(), best);
    EXPECT_EQ(node["latency_ns_source"], "measured") << node;
  }
  const std::string text = run({"topology"}).out;
  EXPECT_NE(text.find("GB/s, measured"), std::string::npos) << text;
  // Of another machine's recording it says nothing.
  EXPECT_TRUE(topology_of(dram_and_cxl())["measured_at"].is_null());
}

TEST_F(TopologyCli, CalibrateWithoutKeeping) {
  const Outcome outcome = run({"calibrate", "--no-keep", "--bytes", "2097152", "--repetitions", "1"});
  if (outcome.code == 1 && outcome.err.find("this process may ") != std::string::npos)
    GTEST_SKIP() << outcome.err;
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("not kept"), std::string::npos) << outcome.out;
  EXPECT_FALSE(fs::exists(state_.path() + "/kvtier"));
  const std::string text = run({"topology"}).out;
  EXPECT_NE(text.find("not measured yet: kvtierctl calibrate"), std::string::npos) << text;
}

TEST_F(TopologyCli, ACalibrationThatMakesNoSense) {
  fs::create_directory(state_.path() + "/kvtier");
  std::ofstream(state_.path() + "/kvtier/calibration.json") << "{\"version\": 1";
  const Outcome outcome = run({"topology"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(
      outcome.out.find("not used: " + state_.path() + "/kvtier/calibration.json: expected a calibration"),
      std::string::npos)
      << outcome.out;
  EXPECT_TRUE(report({"topology", "--json"})["measured_at"].is_null());
}

TEST_F(TopologyCli, CalibrationThatCannotBeKept) {
  expect_failure(
      {"calibrate", "--state-dir", state_.path() + "/none/below", "--bytes", "2097152", "--repetitions", "1"},
      1, "--no-keep");
}

}  // namespace
}  // namespace kvt::test
