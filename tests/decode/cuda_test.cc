// SPDX-License-Identifier: Apache-2.0
//
// What there is on a GPU alone, besides the tests of caches_test.cc: work that takes effect late, what one mode finds of
// the other, wrong pages, a device that lacks something.
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "tests/decode/caches.h"
#include "tests/decode/program.h"
#include "tests/support/cuda/standin.h"

namespace kvt::test {
namespace {

/// Everything that is enqueued is done up to so many microseconds later, here and in the daemon.
class LateDevice : public Caches {
 protected:
  void SetUp() override {
    ::setenv("KVT_STANDIN_DELAY_US", "200", 1);
    standin().reload();
    Caches::SetUp();
  }
  void TearDown() override {
    ::unsetenv("KVT_STANDIN_DELAY_US");
    standin().reload();
  }
  static standin::StandIn standin() { return standin::StandIn(KVT_STANDIN_DRIVER); }
};
INSTANTIATE_TEST_SUITE_P(All, LateDevice, all_cases(), name_of_case);

TEST_P(LateDevice, WhileChurnMovesEveryPage) { churn(); }

class CudaCaches : public Caches {};
INSTANTIATE_TEST_SUITE_P(All, CudaCaches, all_cases(), name_of_case);

/// What one mode has stored, the other finds: the pages are the same.
TEST_P(CudaCaches, TheOtherModeFindsThePrompt) {
  Daemon daemon(decode_world("churn"));
  decode::RunOptions stores = options(daemon.folder());
  stores.place = native() ? decode::Place::kConnector : decode::Place::kNative;
  decode_and_compare(*cache(stores), stores);
  wait_for_moves(daemon, 2 * kPromptBlocks);
  const decode::RunOptions run = options(daemon.folder());
  const auto mine = cache(run);
  decode_and_compare(*mine, run);
  EXPECT_EQ(mine->counts().blocks_found, kPromptBlocks);
}

/// Another device, or the CPU, may round otherwise: its pages have other keys.
TEST_P(CudaCaches, FindsNothingOfTheCpus) {
  Daemon daemon(decode_world());
  decode::RunOptions stores = options(daemon.folder());
  stores.place = decode::Place::kConnector;
  decode_and_compare(*cache(stores), stores);
  decode::RunOptions reads = options(daemon.folder());
  reads.device = nullptr;
  reads.place = decode::Place::kConnector;
  const auto mine = cache(reads);
  mine->prepare(prompt_);
  EXPECT_EQ(mine->counts().blocks_found, 0u);
}

const std::string kOnDevice = std::string(" --device cuda --cuda-driver ") + KVT_STANDIN_DRIVER;

TEST(CudaProgram, VerifiesAndReports) {
  const Folder folder;
  Daemon daemon(decode_world("churn"));
  const std::string prompt = folder.write("prompt", text_of_words(300, 41));
  for (const char* const mode : {"native", "connector"}) {
    const std::string report = folder.path() + "/" + mode;
    const Said said =
        run_program("--prompt @" + prompt + " --tokens 200 --attention topk:2 --verify --rounds 3 --mode " +
                    mode + kOnDevice + " --socket-dir " + daemon.folder() + " --json " + report);
    EXPECT_EQ(said.exit_code, 0) << said.text;
    EXPECT_NE(said.text.find("every bit of the logits as on private memory"), std::string::npos) << said.text;
    const json got = json_of(report);
    EXPECT_NE(got.at("device").get<std::string>().find(KVT_STANDIN_DRIVER), std::string::npos);
    ASSERT_EQ(got.at("runs").size(), 4u);
    EXPECT_EQ(got.at("runs")[0].at("place"), "private");
    for (size_t round = 1; round < 4; ++round) {
      const json& run = got.at("runs")[round];
      EXPECT_EQ(run.at("logits"), got.at("runs")[0].at("logits"));
      EXPECT_LE(run.at("frames_crossed"), run.at("frames_changed"));
      if (round > 1) EXPECT_EQ(run.at("blocks_found"), 18);
    }
  }
}

/// A daemon that does not wait for the steps that a stream has still to end: reads that come late find other pages.
TEST(CudaProgram, StepsProtectWhatIsReadLate) {
  const Folder folder;
  World world = decode_world("churn");
  world.arguments = {"--allow-injection", "--inject", "early-reuse"};
  Daemon daemon(world);
  const std::string prompt = folder.write("prompt", text_of_words(400, 47));
  Said said;
  for (int round = 0; round < 10 && said.exit_code != 1; ++round)
    said = run_program("--prompt @" + prompt + " --tokens 100 --rounds 2 --verify --salt " +
                           std::to_string(round) + kOnDevice + " --socket-dir " + daemon.folder(),
                       "KVT_STANDIN_DELAY_US=1000");
  EXPECT_EQ(said.exit_code, 1) << said.text;
  EXPECT_NE(said.text.find("DIFFERENT: position "), std::string::npos) << said.text;
}

/// Two processes on one GPU, each with a mode of its own, share what they store.
TEST(CudaProgram, TwoAtOnce) {
  const Folder folder;
  Daemon daemon(decode_world("churn"));
  const std::string prompt = folder.write("prompt", text_of_words(300, 45));
  const auto run = [&](const char* mode) {
    return run_program("--prompt @" + prompt + " --tokens 200 --verify --rounds 3 --mode " + mode +
                       kOnDevice + " --socket-dir " + daemon.folder());
  };
  Said other;
  std::thread thread([&] { other = run("connector"); });
  const Said said = run("native");
  thread.join();
  EXPECT_EQ(said.exit_code, 0) << said.text;
  EXPECT_EQ(other.exit_code, 0) << other.text;
  EXPECT_LE(daemon.number("status", "/arenas/0/keyed"), static_cast<double>((301 + 200 - 1) / 16));
}

TEST(CudaProgram, MeasuresAttention) {
  const Folder folder;
  const std::string prompt = folder.write("prompt", text_of_words(300, 44));
  const std::string by_device = folder.path() + "/device";
  const std::string by_cpu = folder.path() + "/cpu";
  const std::string what = "--memory private --mass 2 --tokens 1 --prompt @" + prompt + " --json ";
  EXPECT_EQ(run_program(what + by_device + kOnDevice).exit_code, 0);
  EXPECT_EQ(run_program(what + by_cpu).exit_code, 0);
  const json device = json_of(by_device).at("runs")[0].at("attention_mass");
  const json cpu = json_of(by_cpu).at("runs")[0].at("attention_mass");
  EXPECT_EQ(device.at("samples"), cpu.at("samples"));
  EXPECT_NEAR(device.at("in_pages"), cpu.at("in_pages"), 1e-3);
}

class FaultyPages : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Modes, FaultyPages, ::testing::Values("native", "connector"));

/// Exit code 1, and the first bit that differs.
TEST_P(FaultyPages, AreNoticed) {
  const Folder folder;
  World world = decode_world("churn");
  world.arguments = {"--allow-injection", "--inject", "flip"};
  Daemon daemon(world);
  const std::string prompt = folder.write("prompt", text_of_words(600, 42));
  Said said;
  for (int round = 0; round < 30 && said.exit_code != 1; ++round) {
    said = run_program("--prompt @" + prompt + " --tokens 100 --rounds 2 --verify --mode " + GetParam() +
                       kOnDevice + " --socket-dir " + daemon.folder());
    if (said.exit_code == 0) wait_for_moves(daemon, 100);
  }
  EXPECT_EQ(said.exit_code, 1) << said.text;
  EXPECT_NE(said.text.find("DIFFERENT: position "), std::string::npos) << said.text;
}

/// Steps then end by a function that the driver calls.
TEST(CudaProgram, ADeviceWhoseStreamsWriteNothing) {
  const Folder folder;
  Daemon daemon(decode_world("churn"));
  const std::string prompt = folder.write("prompt", text_of_words(300, 46));
  const Said said = run_program(
      "--prompt @" + prompt + " --verify --rounds 2" + kOnDevice + " --socket-dir " + daemon.folder(),
      "KVT_STANDIN_WITHOUT=stream-write-64");
  EXPECT_EQ(said.exit_code, 0) << said.text;
}

TEST(CudaProgram, SaysWhatIsMissing) {
  Daemon daemon(decode_world());
  const std::string with = "--prompt x --socket-dir " + daemon.folder() + kOnDevice;
  expect_refusal(with + " --cuda-device 1", 3, "GPU 1");
  expect_refusal(with, 3, "kernels for", "KVT_STANDIN_FAIL=cuModuleLoadData:1=209");
  // The second module is libkvtier's. Connector mode needs no table on the device.
  const std::string no_map = "KVT_STANDIN_FAIL=cuModuleLoadData:2=209";
  expect_refusal(with, 3, "page table on the device", no_map);
  EXPECT_EQ(run_program(with + " --mode connector", no_map).exit_code, 0);
  // A daemon without device memory: pages are in host memory, and kernels read them all the same.
  World host = decode_world("churn");
  host.cuda_driver.clear();
  Daemon without(host);
  const Said said =
      run_program("--prompt x --tokens 60 --verify --socket-dir " + without.folder() + kOnDevice);
  EXPECT_EQ(said.exit_code, 0) << said.text;
}

}  // namespace
}  // namespace kvt::test
