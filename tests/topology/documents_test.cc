// SPDX-License-Identifier: Apache-2.0
//
// docs/topology.md against what kvtierctl prints: every field of the JSON has its row, every row is a field.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "tests/support/fake_machines.h"
#include "tests/topology/run_kvtierctl.h"

namespace kvt::test {
namespace {

using nlohmann::json;

/// "nodes[].os_index" and the like; a field of objects has no row of its own, only what is in it.
void collect(const json& value, const std::string& path, std::set<std::string>& paths) {
  if (value.is_object()) {
    for (const auto& [key, each] : value.items()) collect(each, path.empty() ? key : path + "." + key, paths);
  } else if (value.is_array() && !value.empty() && value[0].is_object()) {
    for (const json& each : value) collect(each, path + "[]", paths);
  } else if (!(value.is_array() && value.empty())) {
    paths.insert(path);
  }
}

/// First column of the tables below a heading: "| `nodes[].bytes` | ..." up to the next heading.
std::set<std::string> rows_below(const std::string& heading) {
  std::ifstream file(std::string(KVT_DOCUMENTS) + "/topology.md");
  EXPECT_TRUE(file.is_open());
  std::set<std::string> rows;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("#")) inside = line == heading;
    if (!inside || !line.starts_with("| `")) continue;
    const std::string field = line.substr(3, line.find('`', 3) - 3);
    EXPECT_TRUE(rows.insert(field).second) << "twice below " << heading << ": " << field;
  }
  return rows;
}

TEST(Documents, FieldsOfTopology) {
  const TemporaryFolder state;
  std::set<std::string> fields;
  for (const FakeMachine& machine : {dram_and_cxl(), devices_not_in_use(), gh200_four_way()}) {
    const FakeSysfs sysfs(machine);
    const Outcome outcome = run_kvtierctl({"topology", "--json", "--fsroot", sysfs.root()}, state.path());
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    collect(json::parse(outcome.out), "", fields);
  }
  EXPECT_EQ(rows_below("### Fields of `kvtierctl topology --json`"), fields);
}

TEST(Documents, FieldsOfCalibrate) {
  const TemporaryFolder state;
  const Outcome outcome =
      run_kvtierctl({"calibrate", "--json", "--bytes", "2097152", "--repetitions", "1"}, state.path());
  if (outcome.code == 1 && outcome.err.find("this process may ") != std::string::npos)
    GTEST_SKIP() << outcome.err;
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  std::set<std::string> fields;
  collect(json::parse(outcome.out), "", fields);
  EXPECT_EQ(rows_below("### Fields of `kvtierctl calibrate --json`"), fields);
}

}  // namespace
}  // namespace kvt::test
