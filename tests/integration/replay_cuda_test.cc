// SPDX-License-Identifier: Apache-2.0
//
// kvtier-replay with HBM behind a CUDA driver: real processes, pages that kernels verify while they move. The driver is
// the stand-in, or the one that KVT_CUDA_DRIVER names.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

using nlohmann::json;

std::string driver() {
  const char* const named = std::getenv("KVT_CUDA_DRIVER");
  return named == nullptr || *named == '\0' ? "stand-in" : named;
}

Outcome replay(const std::string& cuda_driver, std::vector<std::string> more) {
  more.insert(more.end(), {"--start-daemon", KVTIERD_PATH, "--device", "cuda", "--cuda-driver", cuda_driver,
                           "--seed", "7", "--hbm-bytes", "32MiB", "--host-bytes", "192MiB"});
  return run_program(KVTIER_REPLAY_PATH, more);
}

void expect_all_is_right(const std::vector<std::string>& more, bool by_readers) {
  const Folder folder;
  const std::string file = folder.path() + "/replay.json";
  std::vector<std::string> arguments{"--seconds", "5", "--json", file};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const Outcome outcome = replay(driver(), arguments);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  std::ifstream stream(file);
  const json result = json::parse(stream, nullptr, false);
  ASSERT_TRUE(result.is_object()) << outcome.out;
  for (const char* const name : {"corrupt", "lost", "leaked"}) EXPECT_EQ(result.at(name), 0) << name;
  for (const char* const name :
       {"words_verified", "words_verified_own", "words_verified_moved", "pages_verified_in_move"})
    EXPECT_GT(result.at(name), 0) << name;
  EXPECT_GT(result.at("moves").at("promoted"), 0);
  if (by_readers) EXPECT_GT(result.at("moves").at("promoted_by_readers"), 0);
  EXPECT_GT(result.at("bytes_read").at("hbm"), 0);
  EXPECT_GT(result.at("bytes_read").at("dram"), 0) << "host pages are read where they are";
  EXPECT_EQ(result.at("device"), "cuda");
  EXPECT_NE(result.at("driver"), "");
  if (driver() == "stand-in") EXPECT_EQ(result.at("driver"), "stand-in");
}

TEST(ReplayOnCuda, EveryWordIsRightUnderBalance) { expect_all_is_right({}, true); }

TEST(ReplayOnCuda, EveryWordIsRightUnderChurn) { expect_all_is_right({"--policy", "churn"}, true); }

TEST(ReplayOnCuda, EveryWordIsRightWhereTheDaemonCopies) {
  expect_all_is_right({"--promote", "copies", "--reads", "dense"}, false);
}

TEST(ReplayOnCuda, AFlippedByteIsFound) {
  const Outcome outcome = replay(driver(), {"--seconds", "4", "--inject", "flip"});
  EXPECT_EQ(outcome.exit_code, 1) << outcome.out << outcome.err;
  EXPECT_NE(outcome.out.find("fault \"flip\" was ordered: found"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.err.find("1 of 8192 words wrong"), std::string::npos) << outcome.err;
}

TEST(ReplayOnCuda, AMissingDriverIsNamed) {
  const Outcome outcome = replay("/nowhere/libcuda.so.1", {"--seconds", "1"});
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_NE(outcome.err.find("/nowhere/libcuda.so.1"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find('\n'), outcome.err.size() - 1) << "one line: " << outcome.err;
}

TEST(ReplayOnCuda, AMissingGpuIsNamed) {
  const Outcome outcome = replay(driver(), {"--seconds", "1", "--cuda-device", "1000"});
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_NE(outcome.err.find("--cuda-device 1000"), std::string::npos) << outcome.err;
}

TEST(ReplayOnCuda, ADriverNeedsItsDevice) {
  const Outcome outcome = run_program(
      KVTIER_REPLAY_PATH, {"--start-daemon", KVTIERD_PATH, "--device", "cpu", "--cuda-driver", "stand-in"});
  EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
}

}  // namespace
}  // namespace kvt::test
