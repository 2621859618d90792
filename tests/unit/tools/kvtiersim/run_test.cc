// SPDX-License-Identifier: Apache-2.0
//
// `kvtiersim run`: the same results for any number of threads, the JSON that others read, machines from
// files, advice.
#include "tools/kvtiersim/command/run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "tools/kvtiersim/model/machine_file.h"
#include "tools/kvtiersim/report/json.h"
#include "tools/kvtiersim/report/table.h"
#include "tools/kvtiersim/workload/advice.h"
#include "tools/kvtiersim/workload/families.h"

namespace kvt::sim {
namespace {

using Json = nlohmann::json;

class InFolder : public testing::Test {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }
  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

 private:
  static std::filesystem::path make_folder() {
    std::string text = std::filesystem::temp_directory_path() / "kvtiersim.XXXXXX";
    return mkdtemp(text.data());
  }
  std::filesystem::path folder_ = make_folder();
};

RunOptions family(const std::string& name) {
  RunOptions options;
  options.generate = name;
  options.policies = {"static", "lru", "reference", "bayes", "belady"};
  return options;
}

TEST(Run, IsTheSameForAnyNumberOfThreads) {
  RunOptions options = family("sparse-fast");
  options.seeds = {3, 4};
  options.hbm_percent = {10, 30};
  options.advice = .5;
  options.threads = 1;
  const std::string one = json_text(simulate_all(options));
  options.threads = 4;
  EXPECT_EQ(one, json_text(simulate_all(options)));
}

TEST(Run, JsonOfOneCellIsTheContract) {
  RunOptions options = family("dense");
  options.hbm_percent = {25};
  options.cost = "copies";
  const Json json = Json::parse(json_text(simulate_all(options)));
  EXPECT_EQ(json.at("trace"), "dense");
  EXPECT_EQ(json.at("profile"), "families");
  EXPECT_EQ(json.at("cost"), "copies");
  EXPECT_EQ(json.at("hbm_percent"), 25);
  EXPECT_EQ(json.at("seed"), 1);
  EXPECT_TRUE(json.at("bounds").is_null()) << "not asked for";
  ASSERT_EQ(json.at("policies").size(), options.policies.size());
  for (const auto& [name, policy] : json.at("policies").items()) {
    EXPECT_EQ(std::count(options.policies.begin(), options.policies.end(), name), 1) << name;
    EXPECT_GT(policy.at("seconds").get<double>(), 0) << name;
    EXPECT_TRUE(policy.at("percent_of_bound").is_null()) << name;
    EXPECT_EQ(policy.at("bytes_moved").get<double>(),
              policy.at("moves").get<double>() * json.at("page_bytes").get<double>())
        << name;
    EXPECT_LT(policy.at("hits").get<uint64_t>(), policy.at("asked").get<uint64_t>()) << name;
    EXPECT_EQ(policy.at("moves").get<uint64_t>(),
              policy.at("promoted_in_read").get<uint64_t>() + policy.at("promoted_copy").get<uint64_t>())
        << name;
    EXPECT_LE(policy.at("not_paid_back").get<uint64_t>(), policy.at("moves").get<uint64_t>()) << name;
    EXPECT_EQ(policy.at("promoted_in_read"), 0) << "copies only: " << name;
    EXPECT_EQ(policy.at("oracle"), name == "belady");
  }
  EXPECT_EQ(json.at("policies").at("static").at("moves"), 0);
  EXPECT_GT(json.at("policies").at("lru").at("moves"), 0);
}

TEST(Run, JsonOfSeveralCellsHasARowEach) {
  RunOptions options = family("dense");
  options.policies = {"lru"};
  options.hbm_percent = {25, 50};
  options.seeds = {1, 2, 3};
  const Json rows = Json::parse(json_text(simulate_all(options))).at("rows");
  ASSERT_EQ(rows.size(), 6u);
  EXPECT_EQ(rows[1].at("seed"), 2);
  EXPECT_EQ(rows[1].at("hbm_percent"), 25);
  EXPECT_EQ(rows[3].at("hbm_percent"), 50);
  EXPECT_GT(rows[0].at("policies").at("lru").at("seconds"), rows[3].at("policies").at("lru").at("seconds"));
  // A seed is a seed, alone or among others.
  options.seeds = {2};
  options.hbm_percent = {25};
  EXPECT_EQ(Json::parse(json_text(simulate_all(options))), rows[1]);
}

TEST(Run, PercentOfBoundIsThatOfUb2) {
  Results results;
  Cell cell;
  cell.bounds = BoundFigures{.ub0 = 1, .ub1 = 2, .ub2 = 3, .gap = .01, .feasible_seconds = 3.5};
  cell.policies.push_back({.name = "lru", .oracle = false, .outcome = {}});
  cell.policies[0].outcome.seconds = 4;
  results.cells.push_back(cell);
  const Json json = Json::parse(json_text(results));
  EXPECT_EQ(json.at("bounds"),
            Json::parse(R"({"ub0": 1.0, "ub1": 2.0, "ub2": 3.0, "gap": 0.01, "feasible": 3.5})"));
  EXPECT_EQ(json.at("policies").at("lru").at("percent_of_bound"), 75);
  const std::string table = table_text(results);
  EXPECT_NE(
      table.find("UB2 3 s, gap 1.00 %; of it UB0 33.3 %, UB1 66.7 %; a clairvoyant schedule takes 116.7 %"),
      std::string::npos)
      << table;
  EXPECT_NE(table.find("75.0"), std::string::npos) << table;
}

TEST(Run, TableHasMeansAndSpread) {
  RunOptions options = family("dense");
  options.seeds = {1, 2};
  const Results results = simulate_all(options);
  const std::string table = table_text(results);
  for (const std::string& name : options.policies)
    EXPECT_NE(table.find("\n" + name), std::string::npos) << table;
  EXPECT_NE(table.find("±"), std::string::npos);
  EXPECT_NE(table.find("belady *"), std::string::npos);
  EXPECT_NE(table.find("\n* sees the future"), std::string::npos);
  const Spread spread = spread_of({1, 2, 3, 4});
  EXPECT_DOUBLE_EQ(spread.mean, 2.5);
  EXPECT_NEAR(spread.deviation, 1.29099, 1e-5);
  EXPECT_EQ(spread_of({5}).deviation, 0);
}

TEST(Run, WrongUseIsNamed) {
  const auto error = [](RunOptions options) -> std::string {
    try {
      (void)simulate_all(options);
    } catch (const std::invalid_argument& wrong) {
      return wrong.what();
    }
    return "taken";
  };
  RunOptions options = family("dens");
  EXPECT_NE(error(options).find("no family \"dens\""), std::string::npos);
  options = family("dense");
  options.policies = {"lru", "mru"};
  EXPECT_NE(error(options).find("no policy \"mru\""), std::string::npos);
  options = family("dense");
  options.profile = "gh300";
  EXPECT_NE(error(options).find("no profile \"gh300\"; expected \"gh200\", \"h200-pcie5\""),
            std::string::npos)
      << error(options);
  options = family("dense");
  options.hbm_percent = {0};
  EXPECT_NE(error(options).find("--hbm"), std::string::npos);
  options = family("dense");
  options.seeds.clear();
  EXPECT_NE(error(options).find("--seed"), std::string::npos);
}

TEST_F(InFolder, RequestTraceStartsEmpty) {
  std::string lines;
  for (int i = 0; i < 40; ++i)
    lines += "{\"input_length\": 32, \"output_length\": 4, \"hash_ids\": [1, " + std::to_string(i % 10 + 2) +
             "]}\n";
  RunOptions options;
  options.trace = write("t.jsonl", lines);
  options.hbm_percent = {100};
  options.policies = {"lru"};
  Results results = simulate_all(options);
  EXPECT_EQ(results.trace, "t.jsonl");
  EXPECT_EQ(results.cells[0].pages, 11u);
  // Each block misses once: when it is born.
  EXPECT_EQ(results.cells[0].policies[0].outcome.hits, 80u - 11);
  options.policies = {"bayes"};
  EXPECT_THROW((void)simulate_all(options), std::invalid_argument);
  options.policies.clear();
  results = simulate_all(options);
  for (const PolicyResult& policy : results.cells[0].policies) EXPECT_NE(policy.name, "bayes");
  options.trace = write("other", "something else\n");
  EXPECT_THROW((void)simulate_all(options), std::invalid_argument);
}

TEST_F(InFolder, MachineFromAFile) {
  const Machine machine = read_machine(write("m.json", R"({"name": "three", "kappa": 0.5,
    "links": [{"name": "pcie", "in_bytes_per_second": 55.6e9, "out_bytes_per_second": 57e9}],
    "tiers": [{"name": "hbm", "read_bytes_per_second": 4300e9},
              {"name": "dram", "read_bytes_per_second": 240e9, "write_bytes_per_second": 200e9, "capacity_pages": 5000, "link": "pcie"},
              {"name": "cxl", "read_bytes_per_second": 25e9, "link": "pcie"}]})"));
  EXPECT_EQ(machine.name, "three");
  EXPECT_EQ(machine.kappa, .5);
  ASSERT_EQ(machine.tiers.size(), 3u);
  EXPECT_EQ(machine.tiers[0].write_bytes_per_second, 4300e9) << "as it is read";
  EXPECT_EQ(machine.tiers[1].write_bytes_per_second, 200e9);
  EXPECT_EQ(machine.tiers[1].capacity_pages, 5000u);
  EXPECT_EQ(machine.tiers[1].link, 0);
  EXPECT_EQ(machine.tiers[2].capacity_pages, UINT64_MAX);
  RunOptions options = family("dense");
  options.profile = path("m.json");
  const Results results = simulate_all(options);
  EXPECT_EQ(results.profile, "three");
  EXPECT_NE(results.machine.find("dram 240 GB/s (written 200) behind pcie"), std::string::npos)
      << results.machine;
}

TEST_F(InFolder, MachineFilesAreChecked) {
  const std::string tiers =
      R"("tiers": [{"name": "a", "read_bytes_per_second": 2}, {"name": "b", "read_bytes_per_second": 1}])";
  EXPECT_EQ(read_machine(write("good", R"({"name": "x", )" + tiers + "}")).tiers.size(), 2u);
  const auto error = [&](const std::string& text) -> std::string {
    try {
      (void)read_machine(write("m", text));
    } catch (const std::invalid_argument& wrong) {
      return wrong.what();
    }
    return "taken";
  };
  const auto names = [&](const std::string& text, const std::string& expected) {
    EXPECT_NE(error(text).find(expected), std::string::npos) << error(text);
  };
  names("{", "m: expected JSON");
  names("[]", "the file: expected an object");
  names("{" + tiers + "}", "name: expected a name");
  names(R"({"name": "x"})", "tiers: expected a list");
  names(R"({"name": "x", "tiers": [{"name": "a", "read_bytes_per_second": 2}]})",
        "tiers: expected 2 to 8 tiers");
  names(R"({"name": "x", "tiers": [3, 4]})", "tiers[0]: expected an object");
  names(R"({"name": "x", "bandwidth": 1, )" + tiers + "}",
        "bandwidth: expected no such field, but kappa, links, name, tiers");
  names(R"({"name": "x", "kappa": 2, )" + tiers + "}", "kappa: expected a number from 0 to 1");
  names(
      R"({"name": "x", "tiers": [{"name": "a", "read_bytes_per_second": 2}, {"name": "b", "read_bytes_per_second": 0}]})",
      "tiers[1].read_bytes_per_second: expected bytes per second, more than 0");
  names(
      R"({"name": "x", "tiers": [{"name": "a", "read_bytes_per_second": 2, "capacity_pages": 3}, {"name": "b", "read_bytes_per_second": 1}]})",
      "tiers[0].capacity_pages: expected none: --hbm");
  names(
      R"({"name": "x", "tiers": [{"name": "a", "read_bytes_per_second": 2}, {"name": "c", "read_bytes_per_second": 2}, {"name": "b", "read_bytes_per_second": 1}]})",
      "tiers[1].capacity_pages: expected a number of pages");
  names(
      R"({"name": "x", "tiers": [{"name": "a", "read_bytes_per_second": 2}, {"name": "b", "read_bytes_per_second": 1, "link": "pcie"}]})",
      "tiers[1].link: expected the name of one of the links, not \"pcie\"");
  names(R"({"name": "x", "links": [{"name": "p", "in_bytes_per_second": 1}], )" + tiers + "}",
        "links[0].out_bytes_per_second: expected bytes");
}

TEST(Advice, IsOfTheNextStepAndOfItsShare) {
  Trace trace = make_family("sparse-fast", 9).trace;
  announce(trace, .5, 1);
  double announced = 0, read = 0;
  for (uint32_t n = 0; n + 1 < trace.steps(); ++n) {
    const StepView now = trace.step(n), next = trace.step(n + 1);
    EXPECT_TRUE(std::includes(next.page.begin(), next.page.end(), now.advised.begin(), now.advised.end()))
        << n;
    announced += static_cast<double>(now.advised.size());
    read += static_cast<double>(next.page.size());
  }
  EXPECT_NEAR(announced / read, .5, .01);
  EXPECT_TRUE(trace.step(trace.steps() - 1).advised.empty());
  announce(trace, 1, 1);
  EXPECT_TRUE(std::ranges::equal(trace.step(5).advised, trace.step(6).page));
  announce(trace, 0, 1);
  EXPECT_TRUE(trace.step(5).advised.empty());
}

}  // namespace
}  // namespace kvt::sim
