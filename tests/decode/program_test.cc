// SPDX-License-Identifier: Apache-2.0
//
// The program: what it prints, its exit codes, and what it says about wrong use.
#include "tests/decode/program.h"

#include <gtest/gtest.h>

#include "tests/decode/setup.h"

namespace kvt::test {
namespace {

TEST(Program, Help) {
  const Said said = run_program("--help");
  EXPECT_EQ(said.exit_code, 0);
  for (const char* const word :
       {"--prompt", "--attention", "--mode", "--memory", "--verify", "--record", "Examples", "Exit code"})
    EXPECT_NE(said.text.find(word), std::string::npos) << word;
}

TEST(Program, WrongUse) {
  expect_refusal("", 2, "expected --prompt TEXT|@FILE, or --train FILE");
  expect_refusal("--prompt x --attention sparse", 2, "--attention sparse: expected dense, topk or topk:K");
  expect_refusal("--prompt x --mode both", 2, "--mode");
  expect_refusal("--prompt x --memory gpu", 2, "--memory");
  expect_refusal("--prompt x --tokens 0", 2, "--tokens");
  expect_refusal("--prompt x --nonsense", 2, "--nonsense");
  expect_refusal("--prompt x --memory private --verify", 2, "expected --memory arena");
  expect_refusal("--prompt x --memory private --attention topk --mass 4", 2, "expected --attention dense");
  expect_refusal("--prompt x --memory private --kv-heads 3", 2,
                 "--kv-heads is 3: expected a divisor of heads, 4");
  expect_refusal("--prompt x --memory private --json /nowhere/report", 2,
                 "/nowhere/report: cannot be written");
  expect_refusal("--prompt x --memory private --record /nowhere/reads", 2,
                 "/nowhere/reads: cannot be written");
  expect_refusal("--prompt @/nowhere/text", 3, "/nowhere/text: there is no such file");
  expect_refusal("--train /nowhere/text", 3, "/nowhere/text: there is no such file");
  expect_refusal("--prompt x --weights /nowhere/weights", 3,
                 "/nowhere/weights: there is no such weights file");
  expect_refusal("--prompt x --weights /dev/null", 2, "not a weights file");
  expect_refusal("--train /dev/null", 2, "0 bytes to train on: expected at least 2570");
}

TEST(Program, NoDevice) {
  expect_refusal("--prompt x --memory private --device cuda --cuda-driver /nowhere/driver", 3,
                 KVT_HAVE_CUDA_HEADERS ? "/nowhere/driver" : "built without CUDA");
  expect_refusal("--prompt x --memory private --cuda-device 0", 2, "expected --device cuda");
}

TEST(Program, NoDaemon) {
  const Folder folder;
  expect_refusal("--prompt x --socket-dir " + folder.path(), 1, folder.path());
}

TEST(Program, ArenasThatDoNotFit) {
  World world = decode_world();
  world.more =
      "[[arena]]\nname = \"narrow\"\nplanes = 4\nblock_tokens = 32\n[[arena]]\nname = \"flat\"\nplanes = 1\n";
  Daemon daemon(world);
  const std::string with = "--prompt x --socket-dir " + daemon.folder();
  expect_refusal(with + " --arena none", 3, "none");
  expect_refusal(with + " --arena flat", 2, "flat");
  expect_refusal(with + " --arena narrow", 2, "narrow");
  expect_refusal(with + " --arena narrow --block-tokens 32 --head-dim 64", 2,
                 "16384 in each of 4 layers: expected at least 32768");
  expect_refusal(with + " --column 7", 2, "column");
  EXPECT_EQ(run_program(with).exit_code, 0);
  expect_refusal(with + " --seed 2", 2, "fingerprint");
}

TEST(Program, VerifiesAndReports) {
  const Folder folder;
  Daemon daemon(decode_world("churn"));
  const std::string prompt = folder.write("prompt", text_of_words(200, 41));
  for (const char* const mode : {"native", "connector"}) {
    const std::string report = folder.path() + "/" + mode;
    const Said said =
        run_program("--prompt @" + prompt + " --tokens 40 --attention topk:2 --verify --rounds 2 --mode " +
                    mode + " --socket-dir " + daemon.folder() + " --json " + report);
    EXPECT_EQ(said.exit_code, 0) << said.text;
    EXPECT_NE(said.text.find("every bit of the logits as on private memory"), std::string::npos) << said.text;
    const json got = json_of(report);
    ASSERT_EQ(got.at("runs").size(), 3u);
    EXPECT_EQ(got.at("runs")[0].at("place"), "private");
    EXPECT_EQ(got.at("runs")[2].at("place"), mode);
    EXPECT_EQ(got.at("runs")[2].at("blocks_found"), 12);
    for (const json& run : got.at("runs")) {
      EXPECT_EQ(run.at("logits"), got.at("runs")[0].at("logits"));
      EXPECT_EQ(run.at("tokens"), got.at("runs")[0].at("tokens"));
      EXPECT_EQ(run.at("decoded_tokens"), 40);
    }
    EXPECT_EQ(got.at("verify").at("equal"), true);
  }
}

/// Exit code 1, and the first bit that differs.
TEST(Program, FindsAFault) {
  const Folder folder;
  World world = decode_world("churn");
  world.arguments = {"--allow-injection", "--inject", "flip"};
  Daemon daemon(world);
  const std::string prompt = folder.write("prompt", text_of_words(600, 42));
  Said said;
  for (int round = 0; round < 30 && said.exit_code != 1; ++round)
    said = run_program("--prompt @" + prompt + " --tokens 400 --verify --socket-dir " + daemon.folder());
  EXPECT_EQ(said.exit_code, 1) << said.text;
  EXPECT_NE(said.text.find("DIFFERENT: position "), std::string::npos) << said.text;
  EXPECT_NE(said.text.find(", expected "), std::string::npos) << said.text;
}

TEST(Program, ComparesSpeeds) {
  Daemon daemon(decode_world());
  const Said said =
      run_program("--prompt 'two keys' --tokens 30 --bench --rounds 3 --socket-dir " + daemon.folder());
  EXPECT_EQ(said.exit_code, 0) << said.text;
  for (const char* const line : {"speed     private", "speed     native", "speed     connector", "of 3 runs"})
    EXPECT_NE(said.text.find(line), std::string::npos) << said.text;
}

TEST(Program, TrainsSavesAndLoads) {
  const Folder folder;
  const std::string text = folder.write("text", text_of_words(4000, 43));
  const std::string small = " --layers 2 --width 16 --heads 2 --kv-heads 1 --head-dim 8 --hidden 16";
  const std::string weights = folder.path() + "/weights";
  const std::string first = folder.path() + "/first";
  const std::string second = folder.path() + "/second";
  const Said trained = run_program("--train " + text + small +
                                   " --train-steps 60 --train-context 32 --train-batch 2 --weights " +
                                   weights + " --memory private --prompt 'the cat' --json " + first);
  EXPECT_EQ(trained.exit_code, 0) << trained.text;
  EXPECT_NE(trained.text.find("step     60   loss "), std::string::npos) << trained.text;
  const Said loaded =
      run_program("--weights " + weights + " --memory private --prompt 'the cat' --json " + second);
  EXPECT_EQ(loaded.exit_code, 0) << loaded.text;
  const json a = json_of(first);
  const json b = json_of(second);
  EXPECT_LT(a.at("training").at("loss_after"), a.at("training").at("loss_before"));
  EXPECT_EQ(a.at("model").at("digest"), b.at("model").at("digest"));
  EXPECT_EQ(a.at("runs")[0].at("logits"), b.at("runs")[0].at("logits"));
}

}  // namespace
}  // namespace kvt::test
