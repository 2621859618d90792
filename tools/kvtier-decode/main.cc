// SPDX-License-Identifier: Apache-2.0
//
// kvtier-decode: a small real transformer whose KV data lives in an arena of kvtierd.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <iterator>
#include <optional>

#include "tools/kvtier-decode/device.h"
#include "tools/kvtier-decode/errors.h"
#include "tools/kvtier-decode/record.h"
#include "tools/kvtier-decode/report.h"
#include "tools/kvtier-decode/run.h"
#include "tools/kvtier-decode/train.h"
#include "tools/kvtier-decode/weights_file.h"

namespace kvt::decode {
namespace {

constexpr size_t kTokensMax = 1 << 20;

constexpr const char* kFooter =
    R"(Examples (a kvtierd with an arena of 4 planes must run: docs/decode.md has its configuration):
  kvtier-decode --memory private --prompt "Once upon a time"
  kvtier-decode --train README.md --weights w.bin --prompt @README.md --verify
  kvtier-decode --weights w.bin --prompt @README.md --attention topk:8 --mode native --verify
  kvtier-decode --weights w.bin --prompt @README.md --device cuda --verify
  kvtier-decode --weights w.bin --prompt @README.md --memory private --mass 8 --record reads.jsonl
  kvtier-decode --weights w.bin --prompt @README.md --tokens 500 --bench --rounds 7

Exit code: 0; 1 something failed, or --verify found a difference; 2 wrong use, a file or an arena that does not fit;
3 a file, an arena or a GPU that is not there.)";

struct Options {
  std::string prompt;
  uint64_t seed = 1;
  Shape shape;
  std::string weights;
  std::vector<std::string> train;
  TrainOptions training;
  std::string attention = "dense";
  std::string mode = "native";
  std::string memory = "arena";
  std::string device = "cpu";
  std::string cuda_driver;
  int cuda_device = 0;
  double patience_seconds = 60;
  bool verify = false;
  bool bench = false;
  uint32_t rounds = 1;
  std::string record;
  std::string json;
  RunOptions run;
};

std::string read_file(const std::string& path, const char* option) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file.is_open() || file.bad())
    throw MissingError(fmt::format("{} {}: there is no such file, or it cannot be read", option, path));
  return text;
}

/// False: the program ends with `exit_code`.
bool parse(int argc, char** argv, Options& options, int& exit_code) {
  CLI::App app{"Decodes with a small real transformer whose KV cache lives in an arena of kvtierd.",
               "kvtier-decode"};
  app.footer(kFooter);
  app.add_option("--prompt", options.prompt, "TEXT, or @FILE");
  app.add_option("--tokens", options.run.tokens, "to decode")
      ->check(CLI::Range(size_t{1}, kTokensMax))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of weights and training")->capture_default_str();
  app.add_option("--attention", options.attention,
                 "dense, or topk[:K]: the K pages that matter most, the first and the last two; default K 8")
      ->capture_default_str();

  app.add_option("--memory", options.memory, "where the KV data lives")
      ->check(CLI::IsMember({"arena", "private"}))
      ->capture_default_str();
  app.add_option("--mode", options.mode,
                 "native: read and written in the arena; connector: in own memory, stored and loaded by key")
      ->check(CLI::IsMember({"native", "connector"}))
      ->capture_default_str();
  app.add_option(
         "--device", options.device,
         "what reads and writes the KV data; cuda: kernels, in device memory and host memory of the arena")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  auto* const cuda_driver =
      app.add_option("--cuda-driver", options.cuda_driver,
                     "path of the CUDA driver; default $KVTIER_CUDA_DRIVER, else libcuda.so.1");
  auto* const cuda_device =
      app.add_option("--cuda-device", options.cuda_device, "as CUDA counts them for this process")
          ->check(CLI::Range(0, 1023))
          ->capture_default_str();
  app.add_option("--socket-dir", options.run.arena.socket_dir,
                 "of kvtierd; default $KVTIER_SOCKET_DIR, else /run/kvtier");
  app.add_option("--arena", options.run.arena.arena,
                 "the arena to attach; needs as many planes as the model has layers")
      ->capture_default_str();
  app.add_option("--column", options.run.arena.column, "of the arena to read through")->capture_default_str();
  app.add_option("--block-tokens", options.run.block_tokens, "of a page, as of the arena")
      ->check(CLI::Range(1U, 4096U))
      ->capture_default_str();
  app.add_option("--salt", options.run.salt, "prompts are shared among runs of the same salt")
      ->capture_default_str();
  app.add_option("--timeout-ms", options.run.arena.timeout_ms, "longest wait for the daemon in one call")
      ->check(CLI::Range(1U, 600000U))
      ->capture_default_str();
  app.add_option("--patience", options.patience_seconds, "seconds to wait for a daemon that is away")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();

  app.add_option("--layers", options.shape.layers, "of a model that is not loaded")
      ->capture_default_str()
      ->group("Model");
  app.add_option("--width", options.shape.width, "of the residual stream")
      ->capture_default_str()
      ->group("Model");
  app.add_option("--heads", options.shape.heads, "query heads")->capture_default_str()->group("Model");
  app.add_option("--kv-heads", options.shape.kv_heads, "divides --heads")
      ->capture_default_str()
      ->group("Model");
  app.add_option("--head-dim", options.shape.head_dim, "even")->capture_default_str()->group("Model");
  app.add_option("--hidden", options.shape.hidden, "of the feed-forward layers")
      ->capture_default_str()
      ->group("Model");
  auto* const weights =
      app.add_option("--weights", options.weights, "read the model from there; with --train: write it there")
          ->group("Model");
  app.add_option("--train", options.train,
                 "text FILEs to train on first, beginning with weights from the seed")
      ->group("Model");
  app.add_option("--train-steps", options.training.steps)
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str()
      ->group("Model");
  app.add_option("--train-context", options.training.context, "tokens of a window")
      ->check(CLI::Range(2, 8192))
      ->capture_default_str()
      ->group("Model");
  app.add_option("--train-batch", options.training.batch, "windows of a step")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str()
      ->group("Model");
  app.add_option("--train-threads", options.training.threads)
      ->check(CLI::Range(1, 64))
      ->capture_default_str()
      ->group("Model");

  app.add_flag("--verify", options.verify, "decode on private memory, too, and compare every bit")
      ->group("Results");
  app.add_option("--rounds", options.rounds, "decode so many times")
      ->check(CLI::Range(1U, 10000U))
      ->capture_default_str()
      ->group("Results");
  app.add_flag("--bench", options.bench, "each round: private, native, connector, with a salt of its own")
      ->group("Results");
  app.add_option("--mass", options.run.mass_pages,
                 "K: how much of dense attention lies in the pages of topk:K")
      ->check(CLI::Range(1U, 65536U))
      ->group("Results");
  app.add_option("--record", options.record, "write the page reads of the first round as JSON lines")
      ->group("Results");
  app.add_option("--json", options.json, "write the report there, too")->group("Results");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    exit_code = app.exit(error) == 0 ? 0 : kExitUsage;
    return false;
  }
  const auto attention = AttentionKind::parse(options.attention);
  if (!attention)
    throw UsageError(
        fmt::format("--attention {}: expected dense, topk or topk:K with K from 1", options.attention));
  options.run.attention = *attention;
  if (const std::string wrong = check_shape(options.shape); !wrong.empty()) throw UsageError("--" + wrong);
  if (options.prompt.empty() && options.train.empty())
    throw UsageError("expected --prompt TEXT|@FILE, or --train FILE");
  if (options.run.mass_pages != 0 && attention->top_k)
    throw UsageError("--mass: expected --attention dense with it");
  if (options.verify && options.memory == "private" && !options.bench)
    throw UsageError("--verify compares with private memory: expected --memory arena with it");
  if (options.device != "cuda" && cuda_driver->count() + cuda_device->count() != 0)
    throw UsageError("--cuda-driver, --cuda-device: expected --device cuda with them");
  if (weights->count() != 0 && options.weights.empty()) throw UsageError("--weights: expected a file name");
  options.run.place = options.memory == "private" ? Place::kPrivate
                      : options.mode == "native"  ? Place::kNative
                                                  : Place::kConnector;
  options.run.arena.patience =
      std::chrono::milliseconds(static_cast<int64_t>(options.patience_seconds * 1000));
  options.training.seed = options.seed;
  return true;
}

std::string hex(const std::array<uint64_t, 2>& digest) {
  return fmt::format("{:016x}{:016x}", digest[1], digest[0]);
}

Model make_model(const Options& options, Report& report) {
  if (options.train.empty()) {
    if (!options.weights.empty()) {
      report.weights = options.weights;
      return load_weights(options.weights);
    }
    report.weights = fmt::format("seed {}", options.seed);
    return {options.shape, options.seed};
  }
  std::string text;
  for (const std::string& path : options.train) text += read_file(path, "--train");
  Model model(options.shape, options.seed);
  fmt::print("training {} weights on {} bytes: {} steps of {} windows of {} tokens\n", model.weights.size(),
             text.size(), options.training.steps, options.training.batch, options.training.context);
  report.training = train(model, text, options.training, [](size_t step, float loss) {
    fmt::print("  step {:6}   loss {:.3f}\n", step, loss);
    std::fflush(stdout);
  });
  report.trained = true;
  report.weights = fmt::format("seed {}, trained", options.seed);
  if (!options.weights.empty()) save_weights(model, options.weights);
  return model;
}

/// One place, as many rounds as asked for; the first is recorded, all are verified.
void decode_rounds(const Options& options, const Model& model, const std::vector<Token>& prompt,
                   Report& report) {
  Reference reference;
  if (options.verify) report.runs.push_back(run_reference(model, prompt, options.run, reference));
  std::optional<Record> record;
  if (!options.record.empty()) {
    record.emplace(options.record,
                   RecordHeader{model.shape, model.digest(), KvLayout(model.shape, options.run.block_tokens),
                                options.run.attention, options.seed, options.run.salt, prompt.size(),
                                options.run.tokens});
  }
  for (uint32_t round = 0; round < options.rounds; ++round) {
    report.runs.push_back(run_once(model, prompt, options.run, [&](const StepEvent& event) {
      if (record && round == 0) record->write(event);
      if (!options.verify) return;
      if (const std::string difference = reference.compare(event); !difference.empty())
        throw Difference(difference);
    }));
  }
  if (record) record->close();
}

void bench_rounds(const Options& options, const Model& model, const std::vector<Token>& prompt,
                  Report& report) {
  for (uint32_t round = 0; round < options.rounds; ++round) {
    for (const Place place : {Place::kPrivate, Place::kNative, Place::kConnector}) {
      RunOptions run = options.run;
      run.place = place;
      // Keys of its own: every round publishes what it computes, and finds nothing.
      run.salt = options.run.salt + 1 + round * 3 + static_cast<uint64_t>(place);
      report.runs.push_back(run_once(model, prompt, run, {}));
      if (report.runs.back().result.logits != report.runs.front().result.logits)
        throw Difference(
            fmt::format("round {}, {}: other logits than on private memory", round, name_of(place)));
    }
  }
}

int run(int argc, char** argv) {
  Options options;
  int exit_code = 0;
  if (!parse(argc, argv, options, exit_code)) return exit_code;
  if (!options.json.empty() && !std::ofstream(options.json, std::ios::app))
    throw UsageError(fmt::format("--json {}: cannot be written", options.json));
  std::string text = options.prompt;
  if (text.starts_with('@')) text = read_file(text.substr(1), "--prompt");
  if (text.size() > kTokensMax)
    throw UsageError(fmt::format("--prompt: {} bytes: expected at most {}", text.size(), kTokensMax));

  Report report;
  if (options.device == "cuda") {
    options.run.device = open_device(options.cuda_driver, options.cuda_device);
    report.device = device_text(*options.run.device);
  }
  const Model model = make_model(options, report);
  report.model = hex(model.digest());
  report.shape = model.shape;
  report.options = options.run;
  if (!options.prompt.empty()) {
    report.verified = options.verify || options.bench;
    try {
      const std::vector<Token> prompt = tokens_of(text);
      if (options.bench)
        bench_rounds(options, model, prompt, report);
      else
        decode_rounds(options, model, prompt, report);
    } catch (const Difference& difference) {
      report.difference = difference.what();
    }
  }
  print_report(report);
  if (!options.json.empty()) write_json(report, options.json);
  return report.difference.empty() ? 0 : kExitFailed;
}

}  // namespace
}  // namespace kvt::decode

int main(int argc, char** argv) {
  using namespace kvt::decode;
  const auto failed = [](const std::exception& error, int code) {
    fmt::print(stderr, "kvtier-decode: {}\n", error.what());
    return code;
  };
  try {
    return run(argc, argv);
  } catch (const UsageError& error) {
    return failed(error, kExitUsage);
  } catch (const MissingError& error) {
    return failed(error, kExitMissing);
  } catch (const std::exception& error) {
    return failed(error, kExitFailed);
  }
}
