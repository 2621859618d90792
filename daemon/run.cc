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
#include <sys/socket.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <string_view>
#include <system_error>
#include <utility>

#include "daemon/control/control.h"
#include "daemon/events/event_log.h"
#include "daemon/journal/journal.h"
#include "daemon/keeper/adopt.h"
#include "daemon/keeper/event_loop.h"
#include "daemon/keeper/keeper.h"
#include "daemon/keeper/memory_reserve.h"
#include "daemon/metrics/exporter.h"
#include "daemon/metrics/snapshot.h"
#include "daemon/restart/kept.h"
#include "daemon/restart/notifier.h"
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

/// Of everything that happens an event, and a line in the log.
using Tell = std::function<void(events::Kind, const std::string&)>;

spdlog::level::level_enum level_of(events::Weight weight) {
  switch (weight) {
    case events::Weight::kInfo: return spdlog::level::info;
    case events::Weight::kWarn: return spdlog::level::warn;
    case events::Weight::kError: return spdlog::level::err;
  }
  return spdlog::level::err;
}

/// What became of what an earlier daemon has left.
void say_adoption(const keeper::Adoption& adoption, const Tell& tell) {
  if (adoption.arenas == 0) return;
  tell(events::Kind::kAdoption,
       fmt::format(
           "took over {} arena(s) in {:.1f} ms: {} pages, {} with a key, {} being filled, {} session(s); {} "
           "filling pages of nobody freed, {} evictions undone, {} offers withdrawn",
           adoption.arenas, adoption.seconds * 1e3, adoption.pages, adoption.keyed, adoption.filling,
           adoption.sessions, adoption.filling_freed, adoption.evictions_undone, adoption.offers_cleared));
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
void look_at_memory(metrics::LoopCounts& counts, const Tell& tell) {
  if (!keeper::MemoryReserve::is_used()) return;
  if (!std::exchange(counts.is_memory_short, true)) {
    ++counts.memory_reserve_used;
    tell(events::Kind::kMemoryShort,
         "the system gives kvtierd no memory: it goes on with its reserve and begins nothing new");
  }
  if (!keeper::MemoryReserve::refill()) return;
  tell(events::Kind::kMemoryBack, "the system gives kvtierd memory again");
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

/// What `systemctl status` shows.
std::string status_line(const keeper::Keeper& keeper) {
  uint64_t pages = 0;
  uint64_t used = 0;
  uint64_t sessions = 0;
  uint64_t bytes = 0;
  for (const auto& arena : keeper.arenas()) {
    const keeper::ArenaCounts counts = arena->counts();
    pages += arena->table().pages();
    used += counts.filling + counts.sealed + counts.evicting;
    sessions += arena->session_count();
    bytes += arena->table().page_bytes() * counts.frames;
  }
  return fmt::format("{} arena(s) in {} tier(s), {:.1f} GiB; {} of {} pages in use, {} session(s)",
                     keeper.arenas().size(), keeper.machine().tiers.size(),
                     static_cast<double>(bytes) / static_cast<double>(1 << 30), used, pages, sessions);
}

/// Arenas that the file names and that are not there are made. One that it does not name any more stays: its pages would be
/// lost. How many are being made.
uint32_t reload_arenas(keeper::Keeper& keeper, server::Server& server, Config& config, const Config& fresh,
                       const Tell& tell) {
  const auto names = [](const Config& in, const std::string& name) {
    return std::any_of(in.arenas.begin(), in.arenas.end(),
                       [&](const ArenaConfig& arena) { return arena.name == name; });
  };
  uint32_t begun = 0;
  for (const ArenaConfig& arena : fresh.arenas) {
    const std::string of = "arena." + arena.name + ".";
    if (!names(config, arena.name)) config.arenas.push_back(arena);
    if (keeper.find_arena(arena.name) != nullptr) continue;
    std::map<std::string, std::string> sources;
    for (const auto& [key, source] : fresh.given)
      if (key.starts_with(of)) sources[key.substr(of.size())] = source;
    const auto refused = [tell, name = arena.name](const Error& error) {
      tell(events::Kind::kReloadRefused, fmt::format("SIGHUP: arena '{}' is not made: {}", name, error.text));
    };
    const auto done = [refused](const Result<keeper::Arena*>& made) {
      if (!made) refused(made.error());
    };
    if (auto created = server.create_arena(arena, sources, done); created)
      ++begun;
    else
      refused(created.error());
  }
  for (const ArenaConfig& arena : config.arenas)
    if (!names(fresh, arena.name) && keeper.find_arena(arena.name) != nullptr)
      spdlog::warn(
          "SIGHUP: arena '{0}' is not named any more; it stays. kvtierctl arena delete '{0}' gives it up, "
          "with its pages",
          arena.name);
  return begun;
}

/// Tiers that the file names and that are not there are added, and then `then` is called. One that it does not name any more
/// stays. How many are being added; 0: none, and `then` is not called.
size_t reload_tiers(keeper::Keeper& keeper, Config& config, const Config& fresh, const Tell& tell,
                    const std::function<void()>& then) {
  const auto names = [](const std::vector<TierConfig>& tiers, const std::string& name) {
    return std::any_of(tiers.begin(), tiers.end(), [&](const TierConfig& tier) { return tier.name == name; });
  };
  if (config.discover_tiers || fresh.discover_tiers) return 0;
  for (const TierConfig& tier : config.tiers)
    if (!names(fresh.tiers, tier.name) && names(keeper.config().tiers, tier.name))
      spdlog::warn(
          "SIGHUP: tier '{0}' is not named any more; it stays. kvtierctl tier remove '{0}' forgets it, when "
          "no "
          "arena has memory of it",
          tier.name);
  std::vector<TierConfig> missing;
  std::map<std::string, std::string> sources;
  std::string all;
  for (const TierConfig& tier : fresh.tiers) {
    if (!names(config.tiers, tier.name)) config.tiers.push_back(tier);
    if (names(keeper.config().tiers, tier.name)) continue;
    if (keeper.machine().left_out.contains(tier.name))
      continue;  // its GPU is not there: "tier add" looks again
    missing.push_back(tier);
    all += fmt::format("{}'{}'", all.empty() ? "" : ", ", tier.name);
    for (const auto& [key, source] : fresh.given)
      if (key.starts_with("tier." + tier.name + ".")) sources[key] = source;
  }
  if (missing.empty()) return 0;
  const auto done = [tell, then, all](const Result<void>& added) {
    if (!added)
      tell(events::Kind::kReloadRefused,
           fmt::format("SIGHUP: tier {} is not added: {}", all, added.error().text));
    then();
  };
  const auto begun = keeper.add_tiers(missing, sources, done);
  if (!begun)
    tell(events::Kind::kReloadRefused,
         fmt::format("SIGHUP: tier {} is not added: {}", all, begun.error().text));
  return begun ? missing.size() : 0;
}

/// What the file names for the first time, and kvtierctl or an earlier daemon has made.
void say_what_stays(const keeper::Keeper& keeper, const Config& fresh) {
  const auto say = [&](const char* section, const auto& read, const auto& there) {
    for (const auto& each : read)
      if (std::any_of(there.begin(), there.end(), [&](const auto& now) { return now.name == each.name; }) &&
          !keeper.config().names(section, each.name))
        spdlog::warn("SIGHUP: {} '{}' is there already; what the file says of it waits for the next start",
                     section, each.name);
  };
  say("tier", fresh.tiers, keeper.config().tiers);
  say("arena", fresh.arenas, keeper.config().arenas);
}

/// Takes over what the configuration's file says now, as far as that can be done while running; all else is named and waits
/// for the next start. `config`: as it was read last. A file that is not right changes nothing.
void reload(keeper::Keeper& keeper, server::Server& server, Config& config, const RunOptions& options,
            const Tell& tell) {
  if (!options.read_again) {
    spdlog::warn("SIGHUP: there is no configuration to read again, kvtierd was started without --config");
    return;
  }
  const auto fresh = options.read_again();
  if (!fresh) {
    tell(events::Kind::kReloadRefused, fmt::format("SIGHUP: nothing is changed: {}", fresh.error().text));
    return;
  }
  // What an operator has set meanwhile becomes what the file says, too.
  const std::string profile = config.policy.profile;
  config.policy = keeper.config().policy;
  config.policy.profile = profile;
  uint32_t taken = 0;
  for (const std::string& key : changed_keys(config, *fresh)) {
    // Whole ones: reload_tiers(), reload_arenas()
    if ((key.starts_with("arena '") || key.starts_with("tier '")) && key.find("': ") == std::string::npos)
      continue;
    if (is_live_key(key)) {
      ++taken;
      tell(events::Kind::kPolicy, fmt::format("SIGHUP: {} has changed", key));
    } else {
      spdlog::warn("SIGHUP: {} has changed, which waits for the next start", key);
    }
  }
  config.policy = fresh->policy;
  config.policy.profile = profile;
  keeper.set_policy(config.policy);
  keeper.set_sources("policy.", fresh->given);
  keeper.set_sources("daemon.log_level", fresh->given);
  keeper.set_log_level(fresh->log_level);
  for (ArenaConfig& arena : config.arenas)
    for (const ArenaConfig& as_read : fresh->arenas)
      if (as_read.name == arena.name) {
        arena.weight = as_read.weight;
        arena.least_percent = as_read.least_percent;
        keeper.set_weight(arena);
        for (const char* const key : {".weight", ".least_percent"})
          keeper.set_sources("arena." + arena.name + key, fresh->given);
      }
  say_what_stays(keeper, *fresh);
  keeper.take_sources(*fresh);
  // New arenas may have memory of new tiers.
  const auto then = [&keeper, &server, &config, fresh = *fresh, tell] {
    return reload_arenas(keeper, server, config, fresh, tell);
  };
  if (reload_tiers(keeper, config, *fresh, tell, then) == 0) taken += then();
  spdlog::info("SIGHUP: the configuration was read again, {} value(s) taken over", taken);
  config.log_level = fresh->log_level;  // the last, so that it is said
  spdlog::set_level(spdlog::level::from_str(config.log_level));
}

int serve(const Config& given, const RunOptions& options) {
  Config config = given;  // as read last
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
  sigaddset(&signals, SIGHUP);
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
  auto attach_socket = kept->store.take_listener("attach", SOCK_SEQPACKET);
  if (!attach_socket) return failed(attach_socket.error());
  auto control_socket = kept->store.take_listener("control", SOCK_STREAM);
  if (!control_socket) return failed(control_socket.error());
  if (attach_socket->valid() && !config.socket_group.empty())
    say("daemon.socket_group is not used: the service manager has opened attach.sock, and its unit says "
        "whose it is");
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
  events::EventLog events;
  metrics::LoopCounts counts;
  LogLimit limit(counts.lines_left_out);
  const Tell tell = [&](events::Kind kind, const std::string& text) {
    events.add(kind, text, events::EventLog::Clock::now());
    const events::KindRow& row = events::row_of(kind);
    if (row.is_logged && (!row.is_about_clients || limit.pass()))
      spdlog::log(level_of(row.weight), "{}", text);
  };
  say_adoption((*keeper)->adoption(), tell);
  auto loop = keeper::EventLoop::create();
  if (!loop) return failed(loop.error());
  auto server = server::Server::create(*loop, **keeper, tell);
  if (!server) return failed(server.error());
  keeper::drop_unnamed((*keeper)->kept());
  auto control = control::Control::start(*loop, **keeper, **server, events, tell, std::move(*control_socket));
  if (!control) return failed(control.error());
  bool stop = false;
  bool read_again = false;
  const auto on_signal = [&] {
    for (signalfd_siginfo info{}; ::read(signal_fd.get(), &info, sizeof info) == sizeof info;)
      (info.ssi_signo == SIGHUP ? read_again : stop) = true;
  };
  if (auto added = loop->add(signal_fd.get(), keeper::EventLoop::Trigger::kLevel, on_signal); !added)
    return failed(added.error());
  // The copy workers' eventfd is level-triggered: taking the completions clears it.
  // So is that of what a thread does for arenas that come and go.
  for (const Fd* const fd : {&(*keeper)->completion_fd(), &(*keeper)->background_fd()})
    if (auto added = loop->add(fd->get(), keeper::EventLoop::Trigger::kLevel, [] {}); !added)
      return failed(added.error());

  const auto exporter = start_metrics(*loop, **keeper, **server, counts);
  if (auto listens = (*server)->listen(std::move(*attach_socket)); !listens) return failed(listens.error());

  tell(events::Kind::kReady,
       fmt::format("kvtierd {} is ready: {} arena(s), {} tier(s){}, policy {}, sockets in {}", KVT_VERSION,
                   (*keeper)->arenas().size(), machine->tiers.size(),
                   (*keeper)->emulated() ? ", HBM is emulated in ordinary memory" : "", config.policy.name,
                   config.socket_dir));
  restart::Notifier notifier((*keeper)->kept().store, [&] { return status_line(**keeper); });
  notifier.ready(keeper::Keeper::Clock::now());
  while (!stop && !(*keeper)->wants_restart()) {
    const auto begin = keeper::Keeper::Clock::now();
    int sleep_ms = notifier.sleep_ms((*keeper)->sleep_ms(begin), begin);
    if (!(*keeper)->kept().store.flush()) sleep_ms = 1;
    loop->wait(sleep_ms);
    look_at_memory(counts, tell);
    (*keeper)->awake();
    const auto now = keeper::Keeper::Clock::now();
    (*keeper)->pass(now);
    (*control)->look(now);
    notifier.turn_done(keeper::Keeper::Clock::now());
    if (std::exchange(read_again, false)) {
      notifier.reloading();
      reload(**keeper, **server, config, options, tell);
      notifier.reloaded(keeper::Keeper::Clock::now());
    }
    for (const auto& arena : (*keeper)->arenas())
      for (const auto& [kind, text] : arena->take_notes()) tell(kind, text);
    for (const auto& [kind, text] : (*keeper)->take_notes()) tell(kind, text);
    counts.turns.add(std::chrono::duration<double>(keeper::Keeper::Clock::now() - loop->woke_at()).count());
  }
  notifier.stopping();
  for (const auto& arena : (*keeper)->arenas()) arena->set_closing();
  (*keeper)->end_copies();
  tell(events::Kind::kStopping, "kvtierd stops");
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
