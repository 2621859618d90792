// SPDX-License-Identifier: Apache-2.0
//
// kvtierd's command line.
// Exit codes: 0, 1 runtime, 2 configuration, 3 something missing on this machine.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

#include "daemon/config/config.h"
#include "daemon/keeper/keeper.h"
#include "daemon/restart/keep.h"
#include "daemon/restart/points.h"
#include "daemon/run.h"

using kvt::kExitConfiguration;
using kvt::keeper::Inject;

namespace {

/// What was measured of a GPU, behind a comma; nothing where nothing was.
std::string gpu_text(const kvt::tier::GpuFigures& figures) {
  if (figures.in_gbs <= 0) return "";
  std::string text = fmt::format(", copies in {:.4g}, out {:.4g}, both {:.4g}, within {:.4g} GB/s",
                                 figures.in_gbs, figures.out_gbs, figures.both_gbs, figures.copy_gbs);
  if (figures.read_gbs > 0)
    text += fmt::format(", kernels read host memory at {:.4g} GB/s", figures.read_gbs);
  return text;
}

/// The tiers as they would be on this machine now.
void print_plan(const kvt::keeper::Machine& machine) {
  for (size_t i = 0; i < machine.tiers.size(); ++i) {
    const kvt::TierConfig& tier = machine.config.tiers[i];
    const kvt::keeper::TierOnMachine& plan = machine.tiers[i];
    fmt::print("tier {}: {}{}, {} MiB of {}, read {:.4g} GB/s ({}), {}{}{}\n", tier.name,
               kvt::kind_name(plan.kind), plan.emulated ? " (emulated)" : "", tier.bytes >> 20,
               tier.nodes.empty() ? "any node" : fmt::format("node {}", fmt::join(tier.nodes, ", ")),
               plan.read_gbs.value, plan.figures_from, plan.pages_note,
               tier.column < 0 ? "" : fmt::format(", for column {}", tier.column),
               gpu_text(plan.gpu_figures));
  }
  for (const std::string& note : machine.notes) fmt::print("{}\n", note);
}

/// The same command line without --keep, under a parent that keeps its descriptors.
int run_kept(int argc, char** argv, const kvt::Config& config) {
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i)
    if (std::string_view(argv[i]) != "--keep") arguments.emplace_back(argv[i]);
  char program[4096] = {};
  const ssize_t length = ::readlink("/proc/self/exe", program, sizeof program - 1);
  if (length <= 0) {
    fmt::print(stderr, "kvtierd: /proc/self/exe cannot be read\n");
    return kvt::kExitMissing;
  }
  if (::mkdir(config.socket_dir.c_str(), 0755) != 0 && errno != EEXIST) {
    fmt::print(stderr, "kvtierd: mkdir {}: {}\n", config.socket_dir, std::strerror(errno));
    return kvt::kExitRuntime;
  }
  return kvt::restart::keep(program, arguments, config.socket_dir + "/keep.sock", config.descriptors_max);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"kvtierd: owns the KV cache of all LLM inference processes on this host"};
  std::string config_path;
  std::string socket_dir;
  std::string inject_name;
  bool check_config = false;
  bool print_default = false;
  bool plan = false;
  bool allow_injection = false;
  bool keep = false;
  bool list_points = false;
  app.add_option("--config", config_path,
                 "TOML configuration; default: two tiers of ordinary memory, one of them emulated HBM");
  app.add_option("--socket-dir", socket_dir,
                 "folder of attach.sock and control.sock; overrides the configuration");
  app.add_flag("--check-config", check_config,
               "check the configuration and exit: 0, or 2 with file:line and what was expected");
  app.add_flag("--plan", plan,
               "print the tiers as they would be on this machine now, and exit; takes no memory");
  app.add_flag("--print-default-config", print_default, "print the default configuration and exit");
  app.add_flag("--allow-injection", allow_injection, "allow --inject (tests only)");
  app.add_flag("--keep", keep,
               "for hosts without a service manager that keeps descriptors: a small parent holds the arenas "
               "and starts the "
               "daemon again when it ends; SIGHUP starts it anew (an upgrade), SIGTERM ends both");
  app.add_flag("--list-points", list_points,
               "print the places at which tests can stop or kill the daemon, and exit");
  app.add_option("--inject", inject_name,
                 "a fault to order: flip, early-reuse, lost-publish, leak, poison (tests only)");
  app.set_version_flag("--version", fmt::format("kvtierd {} (CUDA tier: {})", KVT_VERSION,
                                                KVT_HAVE_CUDA_HEADERS != 0 ? "built" : "not built"));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : kExitConfiguration;
  }

  if (list_points) {
    for (const char* const name : kvt::restart::point_names()) fmt::print("{}\n", name);
    return 0;
  }
  if (print_default) {
    fmt::print("{}", kvt::print_config(kvt::Config::defaults()));
    return 0;
  }
  kvt::Config config = kvt::Config::defaults();
  if (!config_path.empty()) {
    auto loaded = kvt::load_config(config_path);
    if (!loaded) {
      fmt::print(stderr, "kvtierd: {}\n", loaded.error().text);
      return kExitConfiguration;
    }
    config = std::move(*loaded);
  }
  if (!socket_dir.empty()) {
    config.socket_dir = socket_dir;
    config.given["daemon.socket_dir"] = "--socket-dir";
  }
  Inject inject = Inject::kNone;
  if (!inject_name.empty()) {
    if (inject_name == "flip")
      inject = Inject::kFlip;
    else if (inject_name == "early-reuse")
      inject = Inject::kEarlyReuse;
    else if (inject_name == "lost-publish")
      inject = Inject::kLostPublish;
    else if (inject_name == "leak")
      inject = Inject::kLeak;
    else if (inject_name == "poison")
      inject = Inject::kPoison;
    if (inject == Inject::kNone || !allow_injection) {
      const char* const why = inject == Inject::kNone
                                  ? "expected flip, early-reuse, lost-publish, leak or poison"
                                  : "is for tests and needs --allow-injection";
      fmt::print(stderr, "kvtierd: --inject {}: {}\n", inject_name, why);
      return kExitConfiguration;
    }
  }
  if (check_config) {
    if (const auto planned = kvt::keeper::check_plan(config); !planned) {
      fmt::print(stderr, "kvtierd: {}\n", planned.error().text);
      return kExitConfiguration;
    }
    fmt::print("{} is good: {} tier(s), {} arena(s)\n",
               config_path.empty() ? "the default configuration" : config_path, config.tiers.size(),
               config.arenas.size());
    return 0;
  }
  if (plan) {
    const auto machine =
        kvt::keeper::plan_this_machine(config, [](const std::string& note) { fmt::print("{}\n", note); });
    if (!machine) {
      fmt::print(stderr, "kvtierd: {}\n", machine.error().text);
      return machine.error().code == kvt::Code::kNotFound ? kvt::kExitMissing : kExitConfiguration;
    }
    print_plan(*machine);
    return 0;
  }
  if (keep) return run_kept(argc, argv, config);
  kvt::RunOptions options;
  if (!config_path.empty())
    options.read_again = [config_path, socket_dir]() -> kvt::Result<kvt::Config> {
      KVT_TRY_ASSIGN(kvt::Config fresh, kvt::load_config(config_path));
      if (!socket_dir.empty()) fresh.socket_dir = socket_dir;
      KVT_TRY(kvt::keeper::check_plan(fresh));
      return fresh;
    };
  options.inject = inject;
  options.allow_injection = allow_injection;
  if (allow_injection) options.point_file = config.socket_dir + "/point";
  return kvt::run(config, options);
}
