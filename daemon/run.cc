// SPDX-License-Identifier: Apache-2.0
#include "daemon/run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <new>
#include <string_view>
#include <system_error>
#include <utility>

#include "daemon/control/control.h"
#include "daemon/journal/journal.h"
#include "daemon/keeper/adopt.h"
#include "daemon/keeper/event_loop.h"
#include "daemon/keeper/keeper.h"
#include "daemon/keeper/memory_reserve.h"
#include "daemon/metrics/exporter.h"
#include "daemon/metrics/snapshot.h"
#include "daemon/restart/kept.h"
#include "daemon/restart/points.h"
#include "daemon/server/server.h"

namespace kvt {
namespace {

int exit_code(const Error& error) {
  switch (error.code) {
    case Code::kNotFound: return kExitMissing;
    case Code::kInvalid:
    case Code::kLimit:
    case Code::kFull: return kExitConfiguration;
    default: return kExitRuntime;
  }
}

/// To systemd's journal, with fields. The loop's thread alone logs.
class JournalSink final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const std::string_view line(message.payload.data(), message.payload.size());
    if (!journal::send(priority_of(message.level), line)) fmt::print(stderr, "{}\n", line);
  }
  void flush_() override {}
  static int priority_of(spdlog::level::level_enum level) {
    return level >= spdlog::level::err    ? LOG_ERR
           : level == spdlog::level::warn ? LOG_WARNING
           : level == spdlog::level::info ? LOG_INFO
                                          : LOG_DEBUG;
  }
};

void start_log(const std::string& level) {
  if (journal::stderr_is_journal()) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("kvtierd", std::make_shared<JournalSink>()));
  } else {
    spdlog::set_default_logger(spdlog::stderr_logger_st("kvtierd"));
    spdlog::set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
  }
  spdlog::set_level(spdlog::level::from_str(level));
}

/// Lets at most `burst` lines through at once and `per_second` after that: a client cannot fill the journal.
class LogLimit {
 public:
  /// `left_out` counts all that were not let through.
  explicit LogLimit(uint64_t& left_out) : left_out_(left_out) {}
  bool pass() {
    const auto now = std::chrono::steady_clock::now();
    tokens_ = std::min(kBurst, tokens_ + std::chrono::duration<double>(now - last_).count() * kPerSecond);
    last_ = now;
    if (tokens_ < 1) {
      ++suppressed_;
      ++left_out_;
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
  uint64_t& left_out_;
};

/// What became of what an earlier daemon has left.
void say_adoption(const keeper::Adoption& adoption) {
  if (adoption.arenas == 0) return;
  spdlog::info(
      "took over {} arena(s) in {:.1f} ms: {} pages, {} with a key, {} being filled, {} session(s); {} "
      "filling pages of "
      "nobody freed, {} evictions undone, {} offers withdrawn",
      adoption.arenas, adoption.seconds * 1e3, adoption.pages, adoption.keyed, adoption.filling,
      adoption.sessions, adoption.filling_freed, adoption.evictions_undone, adoption.offers_cleared);
  if (adoption.damaged != 0) spdlog::error("{} rows were damaged: their pages are lost", adoption.damaged);
  if (adoption.regions_lost != 0)
    spdlog::error(
        "the regions of {} sessions are lost: nothing of their arenas is freed while their processes live",
        adoption.regions_lost);
  if (adoption.index_rebuilt) spdlog::info("the prefix index was made anew");
  for (const std::string& note : adoption.notes) spdlog::error("{}", note);
}

/// How long another one, or the service manager, is waited for.
constexpr std::chrono::milliseconds kPatience{10'000};

/// What the loop and the copies allocate while the system gives nothing: far less than this (decision 0018).
constexpr size_t kMemoryReserve = 16 << 20;

/// Tells when memory has run out, and when it can be had again.
void look_at_memory(metrics::LoopCounts& counts) {
  if (!keeper::MemoryReserve::is_used()) return;
  if (!std::exchange(counts.is_memory_short, true)) {
    ++counts.memory_reserve_used;
    spdlog::error("the system gives kvtierd no memory: it goes on with its reserve and begins nothing new");
  }
  if (!keeper::MemoryReserve::refill()) return;
  spdlog::info("the system gives kvtierd memory again");
  counts.is_memory_short = false;
}

/// Without metrics the daemon does all else: what keeps them from being served is a line.
std::unique_ptr<metrics::Exporter> start_metrics(keeper::EventLoop& loop, const keeper::Keeper& keeper,
                                                 const server::Server& server,
                                                 const metrics::LoopCounts& counts) {
  if (keeper.config().metrics.listen.empty()) return nullptr;
  auto exporter = metrics::Exporter::start(
      loop, keeper.config(), [&keeper, &server, &counts, started = keeper::Keeper::Clock::now()] {
        return metrics::take_snapshot(keeper, server, counts, started);
      });
  if (exporter) return std::move(*exporter);
  spdlog::error("metrics are not served: {}", exporter.error().text);
  return nullptr;
}

int serve(const Config& config, const RunOptions& options) {
  start_log(config.log_level);
  const auto failed = [](const Error& error) {
    spdlog::error("{}", error.text);
    return exit_code(error);
  };
  // Signals come as a descriptor, blocked before any thread starts.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  Fd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signal_fd.valid()) return failed(fail_errno("signalfd").value());

  if (!keeper::MemoryReserve::keep(kMemoryReserve))
    return failed(fail_errno("take a reserve of memory", ENOMEM).value());

  // Two descriptors a session, two a member: take what the hard limit gives.
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  if (::mkdir(config.socket_dir.c_str(), 0755) != 0 && errno != EEXIST)
    return failed(fail_errno("mkdir " + config.socket_dir).value());

  // Held until this process ends: one daemon a folder, known before any memory is taken.
  const std::string lock_path = config.socket_dir + "/kvtierd.lock";
  const Fd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.valid()) return failed(fail_errno("open " + lock_path).value());
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    spdlog::error("another kvtierd serves {}", config.socket_dir);
    return kExitRuntime;
  }

  const auto say = [](const std::string& line) { spdlog::info("{}", line); };
  auto kept = restart::open_kept(config.descriptors_max, kPatience);
  if (!kept) return failed(kept.error());
  if (options.allow_injection) restart::allow_arming();
  if (!options.point_file.empty())
    if (auto armed = restart::arm_from_file(options.point_file); !armed) return failed(armed.error());
  const auto adopted = keeper::adopted_arenas(*kept);
  if (!adopted) return failed(adopted.error());
  const auto machine = keeper::plan_this_machine(config, say, *adopted);
  if (!machine) return failed(machine.error());
  for (const std::string& note : machine->notes) say(note);
  auto keeper = keeper::Keeper::create(*machine, options.inject, say, std::move(*kept));
  if (!keeper) return failed(keeper.error());
  say_adoption((*keeper)->adoption());
  auto loop = keeper::EventLoop::create();
  if (!loop) return failed(loop.error());
  metrics::LoopCounts counts;
  LogLimit limit(counts.lines_left_out);
  auto server = server::Server::create(*loop, **keeper, [&](const std::string& line) {
    if (limit.pass()) spdlog::info("{}", line);
  });
  if (!server) return failed(server.error());
  keeper::drop_unnamed((*keeper)->kept());
  auto control = control::Control::start(*loop, **keeper, **server);
  if (!control) return failed(control.error());
  bool stop = false;
  if (auto added = loop->add(signal_fd.get(), keeper::EventLoop::Trigger::kLevel, [&stop] { stop = true; });
      !added)
    return failed(added.error());
  // The copy workers' eventfd is level-triggered: taking the completions clears it.
  if (auto added = loop->add((*keeper)->completion_fd().get(), keeper::EventLoop::Trigger::kLevel, [] {});
      !added)
    return failed(added.error());

  const auto exporter = start_metrics(*loop, **keeper, **server, counts);
  if (auto listens = (*server)->listen(); !listens) return failed(listens.error());

  spdlog::info("kvtierd {} is ready: {} arena(s), {} tier(s){}, policy {}, sockets in {}", KVT_VERSION,
               config.arenas.size(), machine->tiers.size(),
               (*keeper)->emulated() ? ", HBM is emulated in ordinary memory" : "", config.policy.name,
               config.socket_dir);
  (*keeper)->kept().store.notify(fmt::format("READY=1\nSTATUS={} arena(s), {} tier(s)",
                                             (*keeper)->arenas().size(), machine->tiers.size()));
  while (!stop) {
    int sleep_ms = (*keeper)->sleep_ms(keeper::Keeper::Clock::now());
    if (!(*keeper)->kept().store.flush()) sleep_ms = 1;
    loop->wait(sleep_ms);
    look_at_memory(counts);
    (*keeper)->awake();
    (*keeper)->pass(keeper::Keeper::Clock::now());
    for (const auto& arena : (*keeper)->arenas())
      for (const std::string& note : arena->take_notes()) spdlog::error("{}", note);
    counts.turns.add(std::chrono::duration<double>(keeper::Keeper::Clock::now() - loop->woke_at()).count());
  }
  (*keeper)->kept().store.notify("STOPPING=1");
  for (const auto& arena : (*keeper)->arenas()) arena->set_closing();
  spdlog::info("kvtierd stops");
  return 0;
}

}  // namespace

int run(const Config& config, const RunOptions& options) {
  try {
    return serve(config, options);
  } catch (const std::bad_alloc&) {
    spdlog::error("the system gives kvtierd no memory, and its reserve is used up");
  } catch (const std::system_error& error) {
    spdlog::error("{}", error.what());  // a thread that cannot be started
  }
  return kExitRuntime;
}

}  // namespace kvt
