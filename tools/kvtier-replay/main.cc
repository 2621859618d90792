// SPDX-License-Identifier: Apache-2.0
//
// kvtier-replay: client processes that replay a trace against a kvtierd, reading and verifying every word.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>

#include "tools/kvtier-replay/control.h"
#include "tools/kvtier-replay/cuda_device.h"
#include "tools/kvtier-replay/daemon.h"
#include "tools/kvtier-replay/errors.h"
#include "tools/kvtier-replay/generator.h"
#include "tools/kvtier-replay/plan.h"
#include "tools/kvtier-replay/report.h"
#include "tools/kvtier-replay/supervisor.h"
#include "tools/kvtier-replay/trace.h"
#include "tools/kvtier-replay/worker.h"

namespace kvt::replay {
namespace {

constexpr int kStatusMs = 5000;
constexpr int kQuiesceMs = 60000;
/// Held by all workers together, of the arena's pages: more than the fast tier, and room is left for new
/// ones.
constexpr double kHeldShare = 0.45;
/// Steps of a worker that stay open some milliseconds while others run. What they keep in limbo the policy
/// cannot use, so it has fewer of them than it takes to find a frame that was reused too early within
/// seconds.
constexpr uint32_t kOpenSteps = 2;
constexpr uint32_t kOpenStepsInjected = 8;
/// What was read in so long counts as one step where all reads are taken together, as a kvtierd does in its
/// period (10 ms by default). Longer where a replay has very many.
constexpr int64_t kWindowNs = 10'000'000;
constexpr int64_t kWindowsMax = 100'000;
/// Memory of a stand-in's device beside the tier: what workers verify with.
constexpr uint64_t kStandInBytesBeside = uint64_t{64} << 20;
constexpr int kSettleTries = 100;
constexpr int kSettlePauseMs = 50;

struct Options {
  std::string trace;
  double seconds = 20;
  uint32_t processes = 3;
  uint64_t seed = 1;
  uint64_t requests = 0;
  double fill = 0.7;
  bool strict = false;
  bool no_balance = false;
  std::string reads = "sparse";
  std::string gates;
  Gates gate_values = builtin_gates();
  std::string json;
  std::string socket_dir;
  std::string device;
  std::string cuda_driver;
  int cuda_device = 0;
  std::optional<CudaChoice> cuda;
  DaemonOptions daemon;
};

/// False: the program ends with `exit_code`.
bool parse(int argc, char** argv, Options& options, int& exit_code) {
  DaemonOptions& daemon = options.daemon;
  daemon.hbm_bytes = uint64_t{256} << 20;
  daemon.host_bytes = uint64_t{2} << 30;
  daemon.page_bytes = uint64_t{64} << 10;
  daemon.arena = "default";
  daemon.profile = "gh200";

  CLI::App app{
      "Replays a trace of LLM requests with real client processes of kvtier, verifying every word they read.",
      "kvtier-replay"};
  app.add_option("--trace", options.trace, "Mooncake-format JSONL file; default: a built-in seeded generator")
      ->check(CLI::ExistingFile);
  app.add_flag("--strict", options.strict,
               "stop (exit 2) at a trace line that does not parse, instead of skipping it");
  app.add_option("--seconds", options.seconds, "how long to replay")
      ->check(CLI::Range(0.5, 1e6))
      ->capture_default_str();
  app.add_option("--processes", options.processes, "client processes")
      ->check(CLI::Range(1U, kWorkersMax))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of everything random")->capture_default_str();
  app.add_option("--requests", options.requests, "replay no more than these; default: as many as fit");
  app.add_option("--fill", options.fill, "distinct blocks to replay / pages; above 1 pages are evicted")
      ->check(CLI::Range(0.01, 1e6))
      ->capture_default_str();
  app.add_option("--reads", options.reads, "what a decode step reads")
      ->check(CLI::IsMember({"sparse", "dense"}))
      ->capture_default_str();
  app.add_option("--gates", options.gates, "head gates that shape sparse reads (TSV, layers x heads)")
      ->check(CLI::ExistingFile);
  app.add_flag("--no-balance", options.no_balance,
               "read a page that lies in two tiers from the faster one, always: as a recording has it");
  app.add_option("--json", options.json, "write the report there, too");

  app.add_option(
         "--device", options.device,
         "what reads and writes pages; with cuda, HBM is a GPU's; default cpu, or cuda with --cuda-driver")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option(
      "--cuda-driver", options.cuda_driver,
      "path of the CUDA driver, or stand-in: a library that takes its place without a GPU; default "
      "$KVTIER_CUDA_DRIVER, else libcuda.so.1");
  app.add_option("--cuda-device", options.cuda_device, "which GPU, as the driver counts")
      ->check(CLI::Range(0, 1023))
      ->capture_default_str();

  auto* const start =
      app.add_option("--start-daemon", daemon.program, "start this kvtierd in a private folder");
  app.add_option("--socket-dir", options.socket_dir, "use the daemon that runs there")->excludes(start);
  app.add_option("--arena", daemon.arena, "the arena to attach")->capture_default_str();
  const CLI::AsSizeValue size(false);
  app.add_option("--block-bytes", daemon.page_bytes,
                 "of a page, with --start-daemon: 16KiB to 64MiB; default 64KiB")
      ->transform(size);
  app.add_option("--hbm-bytes", daemon.hbm_bytes, "of HBM, with --start-daemon; default 256MiB")
      ->transform(size);
  app.add_option("--host-bytes", daemon.host_bytes, "of the host tier, with --start-daemon; default 2GiB")
      ->transform(size);
  app.add_option("--policy", daemon.policy,
                 "with --start-daemon; default balance, or churn with some injections")
      ->check(CLI::IsMember({"balance", "off", "churn"}));
  app.add_option(
         "--promote", daemon.promote,
         "with --start-daemon; offers: readers copy pages up while they read them; copies: the daemon does")
      ->check(CLI::IsMember({"offers", "copies"}))
      ->capture_default_str();
  app.add_option("--profile", daemon.profile, "bandwidths of the tiers, with --start-daemon")
      ->capture_default_str();
  app.add_option(
         "--integrity", daemon.integrity,
         "checksums of the pages, with --start-daemon; with --inject flip they must find and repair it")
      ->check(CLI::IsMember({"off", "moves", "all"}))
      ->capture_default_str();
  app.add_option("--inject", daemon.inject, "order a fault, with --start-daemon; the replay must find it")
      ->check(CLI::IsMember({"flip", "early-reuse", "lost-publish", "leak"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    exit_code = app.exit(error) == 0 ? 0 : kExitUsage;
    return false;
  }
  if (options.device.empty()) options.device = options.cuda_driver.empty() ? "cpu" : "cuda";
  if (options.device == "cpu" && !options.cuda_driver.empty())
    throw UsageError("--cuda-driver: expected --device cuda with it");
  if (daemon.program.empty() == options.socket_dir.empty())
    throw UsageError("expected --start-daemon PROGRAM or --socket-dir FOLDER");
  if (daemon.program.empty() && !daemon.inject.empty())
    throw UsageError("--inject: expected --start-daemon with it");
  constexpr uint64_t kPageStep = 512;
  if (daemon.page_bytes < 16384 || daemon.page_bytes > uint64_t{64} << 20 ||
      daemon.page_bytes % kPageStep != 0)
    throw UsageError(
        fmt::format("--block-bytes {}: expected a multiple of 512 from 16KiB to 64MiB", daemon.page_bytes));
  return true;
}

/// A fault in moving needs many moves to show.
void choose_policy(Options& options) {
  DaemonOptions& daemon = options.daemon;
  if (!daemon.policy.empty()) return;
  const bool needs_moves = daemon.inject == "flip" || daemon.inject == "early-reuse";
  daemon.policy = needs_moves ? "churn" : "balance";
  if (needs_moves)
    fmt::print("fault \"{}\" needs moves to show: policy churn, which moves random pages\n", daemon.inject);
}

void copy_name(std::span<char> to, const std::string& from, const char* what) {
  if (from.size() >= to.size()) throw UsageError(fmt::format("{}: \"{}\" is too long", what, from));
  std::memcpy(to.data(), from.c_str(), from.size() + 1);
}

Board make_board(const Options& options, const Plan& plan, const ArenaStatus& arena, uint64_t held_max) {
  const auto duration_ns = static_cast<int64_t>(options.seconds * 1e9);
  const int64_t window_ns = std::max(kWindowNs, duration_ns / kWindowsMax);
  const auto windows = static_cast<uint64_t>(duration_ns / window_ns + 2);
  Board board =
      Board::create({options.processes, plan.requests.size(), plan.block_ids.size(), arena.pages, windows});
  BoardHeader& header = board.header();
  header.window_ns = window_ns;
  header.page_bytes = arena.page_bytes;
  header.seed = options.seed;
  header.held_pages_max = held_max;
  header.duration_ns = duration_ns;
  header.read_model = options.reads == "dense" ? ReadModel::kDense : ReadModel::kSparse;
  header.parent_pid = getpid();
  header.no_balance = options.no_balance ? 1 : 0;
  header.open_steps_max = options.daemon.inject.empty() ? kOpenSteps : kOpenStepsInjected;
  copy_name(header.socket_dir, options.socket_dir, "socket folder");
  copy_name(header.arena, options.daemon.arena, "arena");
  header.device = options.cuda ? DeviceKind::kCuda : DeviceKind::kCpu;
  if (options.cuda) {
    header.cuda_device = options.cuda->ordinal;
    copy_name(header.cuda_driver, options.cuda->path, "--cuda-driver");
  }
  header.gates = options.gate_values;
  header.static_fast_frames = arena.tiers.empty() ? 0 : static_cast<int64_t>(arena.tiers.front().frames);
  std::copy(plan.requests.begin(), plan.requests.end(), board.requests().begin());
  std::copy(plan.block_ids.begin(), plan.block_ids.end(), board.block_ids().begin());
  return board;
}

void show_progress(double seconds, const Totals& totals, const Moves& moves, bool redraw) {
  const std::string line = fmt::format(
      "{:4.0f} s  requests {:<6} hits {:4.1f} %  verified {:>7} words, {} moved, {} in a move  moves +{} -{} "
      " corrupt {}  "
      "lost {}",
      seconds, totals.requests, 100 * totals.hit_ratio(),
      count_text(totals.words_verified + totals.words_verified_own), count_text(totals.words_verified_moved),
      count_text(totals.pages_verified_in_move), count_text(moves.promoted),
      count_text(moves.demoted_copy + moves.demoted_free), totals.corrupt, totals.lost);
  if (redraw) {
    fmt::print("\r{}\x1b[K", line);
  } else {
    fmt::print("{}\n", line);
  }
  std::fflush(stdout);
}

/// Asks for the daemon's state when the workers' sessions are gone, or as it is after some seconds.
void find_settled_state(Outcome& outcome, Interrupts& interrupts) {
  for (int i = 0;; ++i) {
    outcome.after = ask_daemon(outcome.socket_dir, "quiesce", kQuiesceMs);
    outcome.after_known = true;
    const bool gone = outcome.after.sessions <= outcome.before.sessions;
    if (gone && outcome.leaked() == 0) return;
    if (i == kSettleTries) {
      if (!gone) outcome.failures.emplace_back("the daemon still has sessions of workers that have ended");
      return;
    }
    interrupts.wait(kSettlePauseMs);
  }
}

/// The time of all reads, those of each window as one step: all tiers are read at the same time. REQUIRES: no
/// worker runs.
double seconds_together(const Board& board, const DaemonStatus& daemon) {
  const BoardHeader& header = board.header();
  double seconds = 0;
  for (uint64_t window = 0; window < header.windows; ++window) {
    double slowest = 0;
    for (size_t tier = 0; tier < daemon.tiers.size() && tier < KVT_TIERS_MAX; ++tier) {
      uint64_t bytes = 0;
      for (uint32_t worker = 0; worker < header.workers; ++worker)
        bytes += board.windows(worker)[window][tier];
      if (daemon.tiers[tier].read_bytes_per_second > 0)
        slowest = std::max(slowest, static_cast<double>(bytes) / daemon.tiers[tier].read_bytes_per_second);
    }
    seconds += slowest;
  }
  return seconds;
}

void run_workers(Outcome& outcome, const Board& board, Daemon* daemon, Interrupts& interrupts) {
  const bool redraw = isatty(STDOUT_FILENO) == 1;
  const Moves before = outcome.before.arena(outcome.arena).moves;
  Moves moves;
  Supervisor supervisor(board, interrupts);
  supervisor.run([&](double seconds) {
    std::string how;
    if (daemon != nullptr && daemon->ended(how)) {
      outcome.failures.push_back(how);
      return false;
    }
    try {
      const DaemonStatus now = ask_daemon(outcome.socket_dir, "status", kStatusMs);
      moves = moves_between(before, now.arena(outcome.arena).moves);
    } catch (const std::exception&) {
      // Busy; the numbers of the last second stay. A daemon that is gone shows above, or in the workers.
    }
    show_progress(seconds, sum_of(board), moves, redraw);
    return true;
  });
  if (redraw) fmt::print("\n");
  outcome.pids.assign(supervisor.pids().begin(), supervisor.pids().end());
  outcome.wall_seconds = supervisor.wall_seconds();
  outcome.failures.insert(outcome.failures.end(), supervisor.failures().begin(), supervisor.failures().end());
  outcome.totals = sum_of(board);
  outcome.totals.seconds_together = seconds_together(board, outcome.before);
}

Plan plan_from(const Options& options, uint64_t pages, uint64_t held_max, Outcome& outcome) {
  PlanLimits limits;
  limits.pages = pages;
  limits.unique_share = options.fill;
  limits.requests_max = options.requests;
  limits.request_blocks = std::max<uint64_t>(held_max / 2, 1);
  limits.workers = options.processes;
  limits.seconds = options.seconds;
  limits.seed = options.seed;
  Plan plan;
  if (options.trace.empty()) {
    Generator generator(options.seed);
    plan = make_plan(generator, limits);
    outcome.source = fmt::format("built-in generator, seed {}", options.seed);
  } else {
    TraceReader reader(options.trace, options.strict);
    plan = make_plan(reader, limits);
    outcome.bad_lines = reader.bad_lines();
    outcome.source = options.trace;
    if (plan.requests.empty())
      throw UsageError(fmt::format("{}: expected at least one request", options.trace));
  }
  outcome.planned_requests = plan.requests.size();
  outcome.planned_reuse = plan.reuse();
  outcome.source_seconds = plan.source_seconds;
  outcome.prompts_cut = plan.prompts_cut;
  return plan;
}

int replay(Options& options) {
  if (!options.json.empty() && !std::ofstream(options.json, std::ios::app))
    throw UsageError(fmt::format("--json {}: cannot be written", options.json));
  if (!options.gates.empty()) options.gate_values = load_gates(options.gates);
  Interrupts interrupts;
  if (options.device == "cuda") {
    options.cuda =
        choose_cuda(options.cuda_driver, options.cuda_device, options.daemon.hbm_bytes + kStandInBytesBeside);
    options.daemon.cuda = true;
    options.daemon.cuda_driver = options.cuda->path;
    options.daemon.cuda_device = options.cuda->ordinal;
    options.daemon.stand_in = options.cuda->stand_in;
  }
  std::optional<Daemon> daemon;
  if (!options.daemon.program.empty()) {
    choose_policy(options);
    fmt::print("starting kvtierd: {} {}, {} host, {} a block\n", bytes_text(options.daemon.hbm_bytes),
               options.cuda ? fmt::format("HBM (CUDA driver: {})", options.cuda->text) : "emulated HBM",
               bytes_text(options.daemon.host_bytes), bytes_text(options.daemon.page_bytes));
    std::fflush(stdout);
    daemon.emplace(options.daemon, interrupts);
    options.socket_dir = daemon->socket_dir();
  }

  Outcome outcome;
  outcome.read_model = options.reads == "dense" ? ReadModel::kDense : ReadModel::kSparse;
  outcome.gates = options.gates.empty() ? "built-in gates" : "gates of " + options.gates;
  outcome.inject = options.daemon.inject;
  outcome.integrity = options.daemon.integrity;
  if (options.cuda) {
    outcome.cuda = true;
    outcome.driver = options.cuda->text;
    outcome.stand_in = options.cuda->stand_in;
  }
  outcome.socket_dir = options.socket_dir;
  outcome.arena = options.daemon.arena;
  outcome.before = ask_daemon(options.socket_dir, "status", kStatusMs);
  const ArenaStatus& arena = outcome.before.arena(options.daemon.arena);
  const auto held_max = std::max(
      static_cast<uint64_t>(kHeldShare * static_cast<double>(arena.pages) / options.processes), uint64_t{2});
  const Plan plan = plan_from(options, arena.pages, held_max, outcome);
  fmt::print("replaying {} requests ({} blocks, {} distinct) from {} in {:.0f} s with {} processes\n",
             plan.requests.size(), plan.block_ids.size(), plan.distinct_blocks, outcome.source,
             options.seconds, options.processes);
  std::fflush(stdout);

  {
    const Board board = make_board(options, plan, arena, held_max);
    run_workers(outcome, board, daemon ? &*daemon : nullptr, interrupts);
  }
  try {
    find_settled_state(outcome, interrupts);
  } catch (const std::exception& error) {
    outcome.failures.emplace_back(error.what());
  }
  if (daemon) {
    std::string how;
    const bool died = daemon->ended(how);
    if (const std::string end = died ? how : daemon->stop(); !end.empty()) outcome.failures.push_back(end);
  }
  outcome.interrupted_by = interrupts.signal();

  print_report(outcome);
  if (!options.json.empty()) write_json(outcome, options.json);
  if (!outcome.good()) return kExitFailed;
  return outcome.interrupted_by == 0 ? 0 : 128 + outcome.interrupted_by;
}

int run(int argc, char** argv) {
  // A worker is this very program, started by the parent with the board's descriptor.
  if (argc == 4 && std::strcmp(argv[1], "--worker") == 0)
    return run_worker(std::atoi(argv[2]), static_cast<uint32_t>(std::atoi(argv[3])));
  Options options;
  int exit_code = 0;
  if (!parse(argc, argv, options, exit_code)) return exit_code;
  return replay(options);
}

}  // namespace
}  // namespace kvt::replay

int main(int argc, char** argv) {
  using namespace kvt::replay;
  const auto failed = [](const std::exception& error, int code) {
    fmt::print(stderr, "kvtier-replay: {}\n", error.what());
    return code;
  };
  try {
    return run(argc, argv);
  } catch (const UsageError& error) {
    return failed(error, kExitUsage);
  } catch (const MissingError& error) {
    return failed(error, kExitMissing);
  } catch (const InterruptedError& error) {
    return failed(error, 128 + error.signal);
  } catch (const std::exception& error) {
    return failed(error, kExitFailed);
  }
}
