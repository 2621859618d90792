// SPDX-License-Identifier: Apache-2.0
//
// kvtierd: reads the configuration, makes the arenas, and runs the keeper loop until SIGTERM or SIGINT.
// Exit codes: 0, 1 runtime, 2 configuration, 3 something missing on this machine.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "daemon/config/config.h"
#include "daemon/control/control.h"
#include "daemon/keeper/event_loop.h"
#include "daemon/keeper/keeper.h"
#include "daemon/server/server.h"
#include "daemon/topology/topology.h"

namespace {

using kvt::keeper::Inject;

constexpr int kExitRuntime = 1;
constexpr int kExitConfiguration = 2;
constexpr int kExitMissing = 3;

int exit_code(const kvt::Error& error) {
  switch (error.code) {
    case kvt::Code::kNotFound: return kExitMissing;
    case kvt::Code::kInvalid:
    case kvt::Code::kLimit:
    case kvt::Code::kFull: return kExitConfiguration;
    default: return kExitRuntime;
  }
}

/// Lets at most `burst` lines through at once and `per_second` after that: a client cannot fill the journal.
class LogLimit {
 public:
  bool pass() {
    const auto now = std::chrono::steady_clock::now();
    tokens_ = std::min(kBurst, tokens_ + std::chrono::duration<double>(now - last_).count() * kPerSecond);
    last_ = now;
    if (tokens_ < 1) {
      ++suppressed_;
      return false;
    }
    tokens_ -= 1;
    if (suppressed_ != 0) spdlog::warn("{} lines about clients were left out", std::exchange(suppressed_, 0));
    return true;
  }

 private:
  static constexpr double kBurst = 200;
  static constexpr double kPerSecond = 20;
  double tokens_ = kBurst;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  uint64_t suppressed_ = 0;
};

int run(const kvt::Config& config, Inject inject) {
  const auto failed = [](const kvt::Error& error) {
    spdlog::error("{}", error.text);
    return exit_code(error);
  };
  // Signals come as a descriptor, blocked before any thread starts.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  kvt::Fd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signal_fd.valid()) return failed(kvt::fail_errno("signalfd").value());

  // Two descriptors a session, two a member: take what the hard limit gives.
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  if (::mkdir(config.socket_dir.c_str(), 0755) != 0 && errno != EEXIST) return failed(kvt::fail_errno("mkdir " + config.socket_dir).value());

  // Held until this process ends: one daemon a folder, known before any memory is taken.
  const std::string lock_path = config.socket_dir + "/kvtierd.lock";
  const kvt::Fd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.valid()) return failed(kvt::fail_errno("open " + lock_path).value());
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    spdlog::error("another kvtierd serves {}", config.socket_dir);
    return kExitRuntime;
  }

  const auto topology = kvt::discover_topology();
  if (!topology) return failed(topology.error());
  auto keeper = kvt::keeper::Keeper::create(config, *topology, inject, [](const std::string& line) { spdlog::info("{}", line); });
  if (!keeper) return failed(keeper.error());
  auto loop = kvt::keeper::EventLoop::create();
  if (!loop) return failed(loop.error());
  LogLimit limit;
  auto server = kvt::server::Server::start(*loop, **keeper, [&](const std::string& line) {
    if (limit.pass()) spdlog::info("{}", line);
  });
  if (!server) return failed(server.error());
  auto control = kvt::control::Control::start(*loop, **keeper, **server);
  if (!control) return failed(control.error());
  bool stop = false;
  if (auto added = loop->add(signal_fd.get(), kvt::keeper::EventLoop::Trigger::kLevel, [&stop] { stop = true; }); !added) return failed(added.error());
  // The copy workers' eventfd is level-triggered: taking the completions clears it.
  if (auto added = loop->add((*keeper)->completion_fd().get(), kvt::keeper::EventLoop::Trigger::kLevel, [] {}); !added) return failed(added.error());

  spdlog::info("kvtierd {} is ready: {} arena(s), {} tier(s){}, policy {}, sockets in {}", KVT_VERSION, config.arenas.size(), config.tiers.size(),
               (*keeper)->emulated() ? ", HBM is emulated in ordinary memory" : "", config.policy.name, config.socket_dir);
  while (!stop) {
    const int sleep_ms = (*keeper)->sleep_ms(kvt::keeper::Keeper::Clock::now());
    loop->wait(sleep_ms);
    (*keeper)->awake();
    (*keeper)->pass(kvt::keeper::Keeper::Clock::now());
  }
  for (const auto& arena : (*keeper)->arenas()) arena->set_closing();
  spdlog::info("kvtierd stops");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"kvtierd: owns the KV cache of all LLM inference processes on this host"};
  std::string config_path;
  std::string socket_dir;
  std::string inject_name;
  bool check_config = false;
  bool print_default = false;
  bool allow_injection = false;
  app.add_option("--config", config_path, "TOML configuration; default: two tiers of ordinary memory, one of them emulated HBM");
  app.add_option("--socket-dir", socket_dir, "folder of attach.sock and control.sock; overrides the configuration");
  app.add_flag("--check-config", check_config, "check the configuration and exit: 0, or 2 with file:line and what was expected");
  app.add_flag("--print-default-config", print_default, "print the default configuration and exit");
  app.add_flag("--allow-injection", allow_injection, "allow --inject (tests only)");
  app.add_option("--inject", inject_name, "a fault to order: flip, early-reuse, lost-publish, leak (tests only)");
  app.set_version_flag("--version", fmt::format("kvtierd {} (CUDA headers: {})", KVT_VERSION, KVT_HAVE_CUDA_HEADERS != 0 ? "yes" : "no"));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : kExitConfiguration;
  }
  spdlog::set_default_logger(spdlog::stderr_logger_st("kvtierd"));
  spdlog::set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");

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
  if (!socket_dir.empty()) config.socket_dir = socket_dir;
  Inject inject = Inject::kNone;
  if (!inject_name.empty()) {
    if (inject_name == "flip") inject = Inject::kFlip;
    else if (inject_name == "early-reuse") inject = Inject::kEarlyReuse;
    else if (inject_name == "lost-publish") inject = Inject::kLostPublish;
    else if (inject_name == "leak") inject = Inject::kLeak;
    if (inject == Inject::kNone || !allow_injection) {
      const char* const why = inject == Inject::kNone ? "expected flip, early-reuse, lost-publish or leak" : "is for tests and needs --allow-injection";
      fmt::print(stderr, "kvtierd: --inject {}: {}\n", inject_name, why);
      return kExitConfiguration;
    }
  }
  if (check_config) {
    if (const auto planned = kvt::keeper::check_plan(config); !planned) {
      fmt::print(stderr, "kvtierd: {}\n", planned.error().text);
      return kExitConfiguration;
    }
    fmt::print("{} is good: {} tier(s), {} arena(s)\n", config_path.empty() ? "the default configuration" : config_path, config.tiers.size(), config.arenas.size());
    return 0;
  }
  spdlog::set_level(spdlog::level::from_str(config.log_level));
  return run(config, inject);
}
