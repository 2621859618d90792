// SPDX-License-Identifier: Apache-2.0
//
// The recorded reads, line by line against docs/decode.md.
#include "tools/kvtier-decode/record.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/decode/setup.h"
#include "tools/kvtier-decode/errors.h"

namespace kvt::test {
namespace {

using decode::KvLayout;
using decode::Place;
using nlohmann::json;

constexpr size_t kPrompt = 130;  // with the token that begins
constexpr size_t kTokens = 50;

std::string record(const std::string& path, decode::RunOptions options,
                   const std::function<void(const decode::StepEvent&)>& on_step = {}) {
  const auto prompt = decode::tokens_of(text_of_words(kPrompt - 1, 31));
  decode::Record to(path, {test_model().shape, test_model().digest(), KvLayout(test_model().shape, 16),
                           options.attention, 7, 0, prompt.size(), options.tokens});
  decode::run_once(test_model(), prompt, options, [&](const decode::StepEvent& event) {
    to.write(event);
    if (on_step) on_step(event);
  });
  to.close();
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class RecordOf : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Attention, RecordOf, ::testing::Values("dense", "topk:2"),
                         [](const auto& parameter) {
                           return parameter.param == std::string("dense") ? "Dense" : "TopK";
                         });

TEST_P(RecordOf, KeepsToTheFormat) {
  const Folder folder;
  std::vector<size_t> reads_of_steps;
  std::istringstream lines(record(folder.path() + "/reads",
                                  run_options("", Place::kPrivate, GetParam(), kTokens),
                                  [&](const decode::StepEvent& event) {
                                    size_t sum = 0;
                                    for (size_t layer = 0; layer < event.reads.layers(); ++layer)
                                      for (size_t block = 0; block < event.reads.blocks(); ++block)
                                        sum += event.reads.heads(layer, block);
                                    reads_of_steps.push_back(sum);
                                  }));
  std::string line;
  ASSERT_TRUE(std::getline(lines, line));
  const json header = json::parse(line);
  EXPECT_EQ(header.at("kvtier_decode_reads"), 1);
  EXPECT_EQ(header.at("model").at("layers"), 4);
  EXPECT_EQ(header.at("model").at("kv_heads"), 2);
  EXPECT_EQ(header.at("model").at("weights").get<std::string>().size(), 32u);
  EXPECT_EQ(header.at("page"), json({{"block_tokens", 16}, {"bytes", 16384}, {"layer_bytes", 4096}}));
  EXPECT_EQ(header.at("attention"), GetParam());
  EXPECT_EQ(header.at("seed"), 7);
  EXPECT_EQ(header.at("prompt_tokens"), kPrompt);
  EXPECT_EQ(header.at("tokens"), kTokens);

  size_t steps = 0;
  std::set<std::string> keys;
  while (std::getline(lines, line)) {
    const json one = json::parse(line);
    if (one.contains("page")) {
      EXPECT_EQ(one.at("page"), keys.size()) << "in order, after the step that fills it";
      EXPECT_EQ(keys.size() + 1, steps / 16);
      EXPECT_TRUE(keys.insert(one.at("key").get<std::string>()).second);
      continue;
    }
    EXPECT_EQ(one.at("step"), steps);
    EXPECT_EQ(one.at("position"), steps) << "nothing found, nothing lost";
    EXPECT_EQ(one.at("phase"), steps < kPrompt - 1 ? "prefill" : "decode");
    EXPECT_EQ(one.at("write"), steps / 16);
    ASSERT_EQ(one.at("reads").size(), 4u) << "layers";
    size_t sum = 0;
    for (const json& layer : one.at("reads")) {
      size_t end = 0;
      for (const json& run : layer) {
        ASSERT_EQ(run.size(), 3u);
        EXPECT_GE(run[0].get<size_t>(), end) << "ascending, without overlap";
        end = run[0].get<size_t>() + run[1].get<size_t>();
        EXPECT_GE(run[1].get<size_t>(), 1u);
        EXPECT_GE(run[2].get<size_t>(), 1u);
        EXPECT_LE(run[2].get<size_t>(), 2u) << "KV heads";
        sum += run[1].get<size_t>() * run[2].get<size_t>();
      }
      EXPECT_EQ(end, steps / 16 + 1) << "the page that is written is read";
    }
    EXPECT_EQ(sum, reads_of_steps[steps]);
    ++steps;
  }
  EXPECT_EQ(steps, kPrompt + kTokens - 1);
  EXPECT_EQ(keys.size(), steps / 16);
}

TEST_P(RecordOf, IsTheSameWhereverTheDataLive) {
  const Folder folder;
  Daemon daemon(decode_world("churn"));
  const std::string expected =
      record(folder.path() + "/private", run_options("", Place::kPrivate, GetParam(), kTokens));
  EXPECT_EQ(
      record(folder.path() + "/native", run_options(daemon.folder(), Place::kNative, GetParam(), kTokens)),
      expected);
}

TEST(Record, AFileThatCannotBeWritten) {
  EXPECT_THROW(record("/nowhere/reads", run_options("", Place::kPrivate, "dense", 1)), decode::UsageError);
  EXPECT_THROW(record("/dev/full", run_options("", Place::kPrivate, "dense", 1)), std::runtime_error);
}

}  // namespace
}  // namespace kvt::test
