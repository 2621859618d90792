// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-soak/storm.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <thread>

#include "tools/kvtier-soak/board.h"
#include "tools/kvtier-soak/hostile.h"
#include "tools/kvtier-soak/passing.h"
#include "tools/kvtier-soak/worker.h"

namespace kvt::soak {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr auto kPause = std::chrono::milliseconds(1);
/// A point is waited for so long: clients get to most of them many times a second, to some by chance.
constexpr auto kPointPatience = std::chrono::seconds(20);
constexpr auto kEndPatience = std::chrono::seconds(120);

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

struct Client {
  uint32_t index = 0;
  bool archivist = false;
  pid_t pid = -1;
  uint64_t life = 0;
};

class Storm {
 public:
  Storm(const StormOptions& options, Outcome& outcome)
      : options_(options), outcome_(outcome), random_(options.seed), daemon_(options.daemon) {
    void* const memory =
        ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no memory for the board");
    board_ = new (memory) Board;
    for (uint32_t i = 0; i < options.clients; ++i) clients_.push_back({i, false, -1, 0});
    clients_.push_back({options.clients, true, -1, 0});
    outcome_.pause_points = daemon_.points();
    note_adoption();
  }
  ~Storm() {
    for (Client& client : clients_) end(client);
    for (const pid_t pid : hostile_) stop_process(pid);
    stop_process(passing_);
    ::munmap(board_, sizeof(Board));
  }

  void run() {
    const auto begin = Clock::now();
    const auto deadline = begin + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(options_.minutes * 60));
    for (Client& client : clients_) start(client);
    passing_ =
        spawn([&] { return run_passing(daemon_, options_.daemon.page_bytes, options_.seed + 77, *board_); });
    if (options_.kill_clients) measure_reclaim(options_.reclaims);
    if (options_.hostile)
      for (uint32_t i = 0; i < 2; ++i)
        hostile_.push_back(spawn([&, i] { return run_hostile(daemon_.folder(), options_.seed + i); }));
    if (options_.kill_daemon || options_.kill_clients) visit_points();
    while (Clock::now() < deadline && !outcome_.failed) {
      look_after_clients();
      const uint64_t what = random_() % 8;
      if (what < 4 && options_.kill_daemon) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20 + random_() % 150));
        kill_daemon("");
      } else if (what < 7 && options_.kill_clients) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5 + random_() % 40));
        kill_client();
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    }
    finish();
    outcome_.seconds = ms_since(begin) / 1000;
  }

 private:
  pid_t spawn(const std::function<int()>& body) const {
    std::fflush(nullptr);
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    ::_exit(body());
  }

  static void stop_process(pid_t pid) {
    if (pid <= 0) return;
    ::kill(pid, SIGKILL);
    int status = 0;
    ::waitpid(pid, &status, 0);
  }

  void start(Client& client) {
    WorkerOptions worker;
    worker.folder = daemon_.folder();
    worker.index = client.index;
    worker.seed = options_.seed;
    worker.life = ++client.life;
    if (client.archivist) worker.arena = "archive";
    board_->worker[client.index].running.store(0);
    board_->worker[client.index].left.store(0);
    client.pid = spawn(
        [&] { return client.archivist ? run_archivist(worker, *board_) : run_worker(worker, *board_); });
  }

  static void end(Client& client) {
    stop_process(client.pid);
    client.pid = -1;
  }

  /// A client never ends by itself before it is told to.
  void look_after_clients() {
    uint64_t ledger = 0;
    for (Client& client : clients_) {
      int status = 0;
      if (client.pid > 0 && ::waitpid(client.pid, &status, WNOHANG) == client.pid) {
        std::fputs(fmt::format("soak: client {} has ended by itself, wait status {}\n", client.index, status)
                       .c_str(),
                   stderr);
        ++outcome_.lost;
        client.pid = -1;
        start(client);
      }
      ledger += board_->worker[client.index].ledger_pages.load();
    }
    outcome_.ledger_pages = std::max(outcome_.ledger_pages, ledger);
  }

  void note_adoption() {
    const auto status = daemon_.ask(R"({"command":"status"})");
    if (!status) return;
    const auto adopted = status->find("restart");
    if (adopted == status->end() || (*adopted)["arenas"].get<int>() == 0) return;
    outcome_.adopt_ms.values.push_back((*adopted)["adopt_ms"].get<double>());
    if (const uint64_t damaged = (*adopted)["damaged_rows"].get<uint64_t>(); damaged != 0) {
      std::fputs(fmt::format("soak: {} rows were damaged\n", damaged).c_str(), stderr);
      outcome_.lost += damaged;
    }
  }

  /// An audit in the middle: what a daemon has lost sight of is found by looking at every row.
  void audit() {
    const auto answer = daemon_.ask(R"({"command":"audit"})");
    if (!answer) return;
    for (const json& arena : (*answer)["arenas"]) {
      const auto leaked = arena["audit"]["leaked"].get<int64_t>();
      if (leaked == 0) continue;
      std::fputs(
          fmt::format("soak: arena {}: {} frames are leaked\n", arena["name"].get<std::string>(), leaked)
              .c_str(),
          stderr);
      outcome_.leaked += static_cast<uint64_t>(std::abs(leaked));
    }
  }

  void came_back(pid_t before, Clock::time_point killed) {
    if (daemon_.wait_for_other(before) < 0) {
      std::fputs(fmt::format("soak: no daemon has come back:\n{}\n", daemon_.log()).c_str(), stderr);
      outcome_.failed = true;
      ++outcome_.lost;
      return;
    }
    outcome_.outage_ms.values.push_back(ms_since(killed));
    ++outcome_.kills_daemon;
    board_->restarts.fetch_add(1);
    note_adoption();
  }

  /// At a point, or anywhere. False: the point was not reached in time.
  bool kill_daemon(const std::string& point) {
    if (!options_.daemon.inject.empty()) audit();
    const pid_t before = daemon_.worker();
    auto killed = Clock::now();
    if (point.empty()) {
      ::kill(before, SIGKILL);
      came_back(before, killed);
      return true;
    }
    if (point.starts_with("adopt.")) {
      // It is reached at a start: the daemon is killed, and the one after it is, too.
      std::ofstream(daemon_.folder() + "/point") << point << " kill\n";
      ::kill(before, SIGKILL);
      came_back(before, killed);
      return ::access((daemon_.folder() + "/point").c_str(), F_OK) != 0;
    }
    if (!arm(point, "kill")) return false;
    const auto end = Clock::now() + kPointPatience;
    while (daemon_.worker() == before) {
      if (Clock::now() > end) return false;
      killed = Clock::now();
      look_after_clients();
      std::this_thread::sleep_for(kPause);
    }
    came_back(before, killed);
    return true;
  }

  bool arm(const std::string& point, const char* action) {
    const auto answer = daemon_.ask(fmt::format(
        R"({{"command":"point","point":"{}","action":"{}","after":{}}})", point, action, 1 + random_() % 5));
    return answer && (*answer)["ok"].get<bool>();
  }

  void kill_client() {
    Client& client = clients_[random_() % clients_.size()];
    if (random_() % 6 == 0) {  // stopped in the middle of a step, for a while
      ::kill(client.pid, SIGSTOP);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ::kill(client.pid, SIGCONT);
      ++outcome_.stops_clients;
      return;
    }
    end(client);
    ++outcome_.kills_clients;
    start(client);
  }

  /// Each point once with the daemon killed there, and once with a client killed while the daemon stands there.
  void visit_points() {
    for (const std::string& point : outcome_.pause_points) {
      if (outcome_.failed) return;
      const bool at_start = point.starts_with("adopt.");
      if (options_.kill_daemon) {
        if (kill_daemon(point))
          ++outcome_.kills_at[point];
        else
          std::fputs(fmt::format("soak: point {} was not reached\n", point).c_str(), stderr);
      }
      if (options_.kill_clients && (!at_start || options_.kill_daemon)) visit_with_client(point, at_start);
    }
  }

  void visit_with_client(const std::string& point, bool at_start) {
    const pid_t before = daemon_.worker();
    const auto killed = Clock::now();
    if (at_start) {
      std::ofstream(daemon_.folder() + "/point") << point << " stop\n";
      ::kill(before, SIGKILL);
    } else if (!arm(point, "stop")) {
      return;
    }
    const auto end = Clock::now() + kPointPatience;
    while (!daemon_.is_stopped()) {
      if (Clock::now() > end) {
        std::fputs(fmt::format("soak: the daemon did not stop at {}\n", point).c_str(), stderr);
        return;
      }
      look_after_clients();
      std::this_thread::sleep_for(kPause);
    }
    Client& client = clients_[random_() % options_.clients];
    soak::Storm::end(client);
    ++outcome_.kills_clients;
    ++outcome_.client_kills_at[point];
    ::kill(daemon_.worker(), SIGCONT);
    if (at_start) came_back(before, killed);
    start(client);
  }

  /// How long after its death what a client had is free.
  void measure_reclaim(uint32_t rounds) {
    kvt_attach_args args{};
    args.size = sizeof args;
    args.socket_dir = daemon_.folder().c_str();
    args.arena = "reclaim";
    args.access = KVT_ACCESS_READ;
    // The storm waits: at most one other process is busy, this one.
    for (Client& client : clients_) ::kill(client.pid, SIGSTOP);
    ::kill(passing_, SIGSTOP);
    kvt_session* session = nullptr;
    if (kvt_attach(&args, &session) != KVT_OK) {
      std::fputs(fmt::format("soak: attach reclaim: {}\n", kvt_last_error()).c_str(), stderr);
      ++outcome_.lost;
    }
    for (uint32_t round = 0; round < rounds && session != nullptr; ++round) {
      board_->victim.ready.store(0);
      const pid_t pid = spawn([&] { return run_victim(daemon_.folder(), *board_); });
      while (board_->victim.ready.load(std::memory_order_acquire) == 0) std::this_thread::sleep_for(kPause);
      const uint32_t pages = board_->victim.pages;
      const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
      const auto killed = Clock::now();
      ::kill(pid, SIGKILL);
      pollfd wait{pidfd, POLLIN, 0};
      ::poll(&wait, 1, -1);
      const auto gone = Clock::now();
      uint32_t freed = 0;
      const auto end = gone + std::chrono::seconds(5);
      while (freed < pages && Clock::now() < end) {
        kvt_page_info info{};
        info.size = sizeof info;
        const kvt_page page = board_->victim.page[freed];
        kvt_get_page_info(session, KVT_PAGE_INDEX(page), &info);
        if (info.page != page || info.state == KVT_STATE_FREE)
          ++freed;
        else
          ::sched_yield();
      }
      outcome_.reclaim_ms.values.push_back(ms_since(gone));
      outcome_.exit_ms.values.push_back(std::chrono::duration<double, std::milli>(gone - killed).count());
      outcome_.leaked += pages - freed;
      int status = 0;
      ::waitpid(pid, &status, 0);
      ::close(pidfd);
      ++outcome_.kills_clients;
      if (pages != kVictimPages) ++outcome_.lost;
    }
    kvt_detach(session);
    for (Client& client : clients_) ::kill(client.pid, SIGCONT);
    ::kill(passing_, SIGCONT);
  }

  /// All clients give back what they have; nothing may be left, and the archive is whole.
  void finish() {
    for (const pid_t pid : hostile_) stop_process(pid);
    hostile_.clear();
    if (options_.hostile)
      outcome_.good_client_throughput_ratio =
          throughput_ratio(daemon_.folder(), options_.seed, outcome_.corrupt);
    board_->stop.store(1);
    const auto end_at = Clock::now() + kEndPatience;
    for (Client& client : clients_) {
      int status = 0;
      pid_t got = 0;
      while ((got = ::waitpid(client.pid, &status, WNOHANG)) == 0 && Clock::now() < end_at)
        std::this_thread::sleep_for(kPause);
      if (got != client.pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        std::fputs(fmt::format("soak: client {} did not end in order, wait status {}\n", client.index, status)
                       .c_str(),
                   stderr);
        ++outcome_.lost;
        if (got == 0) end(client);
      }
      client.pid = -1;
    }
    int passed = 0;
    pid_t got = 0;
    while ((got = ::waitpid(passing_, &passed, WNOHANG)) == 0 && Clock::now() < end_at)
      std::this_thread::sleep_for(kPause);
    if (got != passing_ || !WIFEXITED(passed) || WEXITSTATUS(passed) != 0) {
      std::fputs(
          fmt::format("soak: the arena that comes and goes did not go, wait status {}\n", passed).c_str(),
          stderr);
      ++outcome_.lost;
    }
    if (got == passing_) passing_ = -1;
    final_look();
    std::vector<const Counters*> all{&board_->passing};
    for (const Client& client : clients_) all.push_back(&board_->worker[client.index]);
    for (const Counters* const each : all) {
      const Counters& counters = *each;
      outcome_.words_verified += counters.words_verified.load();
      outcome_.words_verified_moved += counters.words_verified_moved.load();
      outcome_.corrupt += counters.corrupt.load();
      outcome_.lost += counters.lost.load();
      outcome_.pages_checked_after_restart += counters.checked_after_restart.load();
      outcome_.steps += counters.steps.load();
      outcome_.published += counters.published.load();
      outcome_.calls_away += counters.away.load();
    }
  }

  void final_look() {
    kvt_attach_args args{};
    args.size = sizeof args;
    args.socket_dir = daemon_.folder().c_str();
    args.arena = "archive";
    kvt_session* session = nullptr;
    if (kvt_attach(&args, &session) != KVT_OK) {
      std::fputs(fmt::format("soak: attach archive: {}\n", kvt_last_error()).c_str(), stderr);
      ++outcome_.lost;
      return;
    }
    check_archive(session, *board_, board_->worker[options_.clients]);
    kvt_detach(session);
    // Unkeyed pages that nobody holds are found by a slow sweep.
    std::optional<json> status;
    const auto end = Clock::now() + std::chrono::seconds(30);
    uint64_t left = 0;
    do {
      left = 0;
      status = daemon_.ask(R"({"command":"quiesce"})");
      if (!status) break;
      for (const json& arena : (*status)["arenas"]) {
        const json& states = arena["pages_by_state"];
        left += states["filling"].get<uint64_t>() + states["evicting"].get<uint64_t>() +
                states["sealed"].get<uint64_t>() - arena["keyed"].get<uint64_t>();
      }
    } while (left != 0 && Clock::now() < end);
    outcome_.leaked += left;
    if (left != 0) std::fputs(fmt::format("soak: {} pages of nobody are left\n", left).c_str(), stderr);
    if (!status) {
      ++outcome_.lost;
      return;
    }
    audit();
    if (!(*status)["sessions"].empty()) {
      std::fputs(fmt::format("soak: sessions are left: {}\n", (*status)["sessions"].dump()).c_str(), stderr);
      outcome_.leaked += (*status)["sessions"].size();
    }
  }

  const StormOptions& options_;
  Outcome& outcome_;
  std::mt19937_64 random_;
  Daemon daemon_;
  Board* board_ = nullptr;
  std::vector<Client> clients_;
  std::vector<pid_t> hostile_;
  pid_t passing_ = -1;
};

json samples_json(const Samples& samples) {
  return {{"p50", samples.quantile(0.5)},
          {"p99", samples.quantile(0.99)},
          {"max", samples.quantile(1)},
          {"count", samples.values.size()}};
}

}  // namespace

double Samples::quantile(double q) const {
  if (values.empty()) return 0;
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const auto at = static_cast<size_t>(std::ceil(q * static_cast<double>(sorted.size())));
  return sorted[std::clamp<size_t>(at, 1, sorted.size()) - 1];
}

Outcome run_storm(const StormOptions& options) {
  Outcome outcome;
  Storm(options, outcome).run();
  return outcome;
}

std::string report_json(const StormOptions& options, const Outcome& o) {
  const json report{{"schema", "kvtier-soak/1"},
                    {"seed", options.seed},
                    {"minutes", options.minutes},
                    {"seconds", o.seconds},
                    {"page_bytes", options.daemon.page_bytes},
                    {"huge_pages", options.daemon.huge_pages},
                    {"inject", options.daemon.inject},
                    {"kills_daemon", o.kills_daemon},
                    {"kills_clients", o.kills_clients},
                    {"stops_clients", o.stops_clients},
                    {"pause_points", o.pause_points},
                    {"kills_at", o.kills_at},
                    {"client_kills_at", o.client_kills_at},
                    {"ledger_pages", o.ledger_pages},
                    {"pages_checked_after_restart", o.pages_checked_after_restart},
                    {"words_verified", o.words_verified},
                    {"words_verified_moved", o.words_verified_moved},
                    {"steps", o.steps},
                    {"published", o.published},
                    {"calls_cut_short", o.calls_away},
                    {"corrupt", o.corrupt},
                    {"lost", o.lost},
                    {"leaked", o.leaked},
                    {"reclaim_ms", samples_json(o.reclaim_ms)},
                    {"exit_ms", samples_json(o.exit_ms)},
                    {"adopt_ms", samples_json(o.adopt_ms)},
                    {"outage_ms", samples_json(o.outage_ms)},
                    {"good_client_throughput_ratio", o.good_client_throughput_ratio}};
  return report.dump(2) + "\n";
}

std::string report_text(const StormOptions& options, const Outcome& o) {
  size_t reached = 0;
  for (const std::string& point : o.pause_points) reached += o.kills_at.contains(point) ? 1 : 0;
  std::string text = fmt::format(
      "{:.0f} s: {} daemons and {} clients killed ({} of {} points reached), {:.3g} words verified, {:.3g} "
      "of them in "
      "pages that had moved\n",
      o.seconds, o.kills_daemon, o.kills_clients, reached, o.pause_points.size(),
      static_cast<double>(o.words_verified), static_cast<double>(o.words_verified_moved));
  text += fmt::format(
      "{} pages looked at after restarts; taking over {:.1f} ms (max {:.1f}), outage {:.0f} ms (max "
      "{:.0f})\n",
      o.pages_checked_after_restart, o.adopt_ms.quantile(0.5), o.adopt_ms.quantile(1),
      o.outage_ms.quantile(0.5), o.outage_ms.quantile(1));
  if (!o.reclaim_ms.values.empty())
    text += fmt::format(
        "1,000 pages of a killed client are free {:.2f} ms after its pidfd (p99 {:.2f}); the kernel took "
        "{:.1f} ms to end it\n",
        o.reclaim_ms.quantile(0.5), o.reclaim_ms.quantile(0.99), o.exit_ms.quantile(0.5));
  if (options.hostile)
    text += fmt::format("beside hostile clients a good one does {:.0f} % of its work\n",
                        100 * o.good_client_throughput_ratio);
  text += fmt::format("corrupt {}, lost {}, leaked {}\n", o.corrupt, o.lost, o.leaked);
  if (!options.daemon.inject.empty())
    text += fmt::format("fault \"{}\" was ordered: {}\n", options.daemon.inject,
                        o.corrupt + o.lost + o.leaked != 0 ? "found" : "NOT found");
  return text;
}

}  // namespace kvt::soak
