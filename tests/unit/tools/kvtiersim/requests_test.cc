// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/workload/requests.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace kvt::sim {
namespace {

class Requests : public testing::Test {
 protected:
  std::string write(const std::string& text, const std::string& name = "trace.jsonl") {
    const std::string path = folder_ / name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  std::string error_of(const std::string& text, const RequestOptions& options = {}) {
    try {
      (void)read_requests(write(text), options);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "taken";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

 private:
  static std::filesystem::path make_folder() {
    std::string text = std::filesystem::temp_directory_path() / "kvtiersim.XXXXXX";
    return mkdtemp(text.data());
  }
  std::filesystem::path folder_ = make_folder();
};

std::vector<uint32_t> pages(const Trace& trace, uint32_t step) {
  const StepView view = trace.step(step);
  return {view.page.begin(), view.page.end()};
}
std::vector<uint32_t> born(const Trace& trace, uint32_t step) {
  const StepView view = trace.step(step);
  return {view.born.begin(), view.born.end()};
}
using Pages = std::vector<uint32_t>;

const char* const kThree =
    R"({"timestamp": 0, "input_length": 1400, "output_length": 3, "hash_ids": [7, 90, 12]}
{"timestamp": 1, "input_length": 1000, "output_length": 2, "hash_ids": [7, 90]}

{"timestamp": 2, "input_length": 1024, "output_length": 1, "hash_ids": [7, 13]}
)";

TEST_F(Requests, ARequestIsAStep) {
  const Trace trace = read_requests(write(kThree), {}).trace;
  EXPECT_EQ(trace.name, "trace.jsonl");
  EXPECT_EQ(trace.page_bytes, 512u * 128 * 1024);
  EXPECT_EQ(trace.pages, 4u);
  ASSERT_EQ(trace.steps(), 3u);
  EXPECT_EQ(pages(trace, 0), (Pages{0, 1, 2}));
  EXPECT_EQ(pages(trace, 1), (Pages{0, 1}));
  EXPECT_EQ(pages(trace, 2), (Pages{0, 3}));
  EXPECT_EQ(born(trace, 1), Pages{});
  EXPECT_EQ(born(trace, 2), Pages{3});
  EXPECT_EQ(trace.parent, (Pages{UINT32_MAX, 0, 1, 0}));
  EXPECT_EQ(trace.asked(), 7u);
}

TEST_F(Requests, StepsCanBeFewer) {
  const Trace trace = read_requests(write(kThree), {.steps_max = 2}).trace;
  EXPECT_EQ(trace.steps(), 2u);
  EXPECT_EQ(trace.pages, 3u) << "a page that nobody reads is none";
}

TEST_F(Requests, DecodeReadsAllBlocksOfThoseThatAreServed) {
  const Trace trace = read_requests(write(kThree), {.as = RequestsAs::kDecode, .concurrency = 2}).trace;
  // Step 0 and 1: the first two; the second is through, the third follows, whose first token opens a block:
  // 1024 is two full ones.
  ASSERT_EQ(trace.steps(), 3u);
  EXPECT_EQ(pages(trace, 0), (Pages{0, 1, 2}));
  EXPECT_EQ(trace.step(0).reads_of(0), 2u) << "shared by two";
  EXPECT_EQ(trace.step(0).reads_of(2), 1u);
  EXPECT_EQ(pages(trace, 1), (Pages{0, 1, 2}));
  EXPECT_EQ(pages(trace, 2), (Pages{0, 1, 2, 3, 4}));
  EXPECT_EQ(born(trace, 2), (Pages{3, 4}));
  EXPECT_EQ(trace.parent[4], 3u);
}

TEST_F(Requests, AzureRequestsHaveTheirOwnBlocks) {
  const std::string path = write(
      "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,33,2\r\n2023-11-16 "
      "18:15:50.9951690,16,3\r\n",
      "a.csv");
  EXPECT_TRUE(is_request_trace(path));
  const Trace requests = read_requests(path, {}).trace;
  ASSERT_EQ(requests.steps(), 2u);
  EXPECT_EQ(requests.page_bytes, 16u * 128 * 1024);
  EXPECT_EQ(pages(requests, 0), (Pages{0, 1, 2}));
  EXPECT_EQ(pages(requests, 1), Pages{3});
  const Trace decode = read_requests(path, {.as = RequestsAs::kDecode, .concurrency = 1}).trace;
  ASSERT_EQ(decode.steps(), 5u);
  EXPECT_EQ(pages(decode, 1), (Pages{0, 1, 2}));
  EXPECT_EQ(pages(decode, 2), (Pages{3, 4}));
  EXPECT_EQ(pages(decode, 4), (Pages{3, 4}));
}

TEST_F(Requests, BrokenLinesAreNamed) {
  const std::string good = R"({"input_length": 10, "output_length": 3, "hash_ids": [7]})";
  EXPECT_NE(error_of(good + "\n{\n").find("trace.jsonl:2: expected a JSON object"), std::string::npos);
  EXPECT_NE(error_of(good + "\n\n[]\n").find("trace.jsonl:3: expected a JSON object"), std::string::npos);
  EXPECT_NE(
      error_of(good + "\n{\"input_length\": -1}\n").find(":2: expected \"input_length\": a number of tokens"),
      std::string::npos);
  EXPECT_NE(error_of(R"({"input_length": 1, "output_length": 99999999999})")
                .find(":1: expected \"output_length\": a number of tokens, at most 268435456"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"input_length": 1, "output_length": 1})").find("\"hash_ids\": block ids"),
            std::string::npos);
  EXPECT_NE(
      error_of(R"({"input_length": 1, "output_length": 1, "hash_ids": []})").find("\"hash_ids\": block ids"),
      std::string::npos);
  EXPECT_NE(error_of(R"({"input_length": 1, "output_length": 1, "hash_ids": [1, "x"]})")
                .find("\"hash_ids\": block ids"),
            std::string::npos);
  EXPECT_NE(error_of("\n").find("expected requests, has none"), std::string::npos);
  const std::string header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
  EXPECT_NE(error_of(header).find("has none"), std::string::npos);
  for (const char* bad :
       {"x", "x,1", "x,1,", "x,1,2,3", "x,1,-2", "x,1.5,2", "x,999999999999999999999,2", "x,1,2 "})
    EXPECT_NE(
        error_of(header + "t,1,1\n" + bad + "\n").find("trace.jsonl:3: expected TIMESTAMP,ContextTokens"),
        std::string::npos)
        << bad << ": " << error_of(header + "t,1,1\n" + bad);
  EXPECT_NE(error_of(good, {.concurrency = 0}).find("concurrency"), std::string::npos);
  EXPECT_THROW((void)read_requests("/nonexistent/file", {}), std::invalid_argument);
}

TEST_F(Requests, OtherFilesAreNone) {
  EXPECT_FALSE(is_request_trace(write("{\"kvtier_decode_reads\": 1}\n")));
  EXPECT_FALSE(is_request_trace(write("")));
  EXPECT_TRUE(is_request_trace(write(kThree)));
}

}  // namespace
}  // namespace kvt::sim
