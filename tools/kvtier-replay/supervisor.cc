// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/supervisor.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>

namespace kvt::replay {
namespace {

constexpr int64_t kAttachMaxNs = 60'000'000'000;
/// After the time is over: open steps end, holds go back. A build with sanitizers takes long.
constexpr int64_t kEndMaxNs = 60'000'000'000;
constexpr int64_t kTickNs = 1'000'000'000;
constexpr int kPollMs = 20;

}  // namespace

Supervisor::~Supervisor() { kill_all(); }

void Supervisor::start_workers() {
  for (uint32_t index = 0; index < board_.header().workers; ++index) {
    ChildSpec spec;
    spec.program = "/proc/self/exe";
    spec.arguments = {"kvtier-replay", "--worker", std::to_string(board_.fd()), std::to_string(index)};
    spec.death_signal = SIGKILL;
    pids_.push_back(spawn(spec));
    running_.push_back(true);
    ++left_;
  }
}

void Supervisor::stop() const { board_.header().stop.store(1, std::memory_order_relaxed); }

void Supervisor::reap() {
  for (size_t i = 0; i < pids_.size(); ++i) {
    int status = 0;
    if (!running_[i] || waitpid(pids_[i], &status, WNOHANG) != pids_[i]) continue;
    running_[i] = false;
    --left_;
    const bool done = board_.statistics()[i].state.load(std::memory_order_acquire) == WorkerState::kDone;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && done) continue;
    failures_.push_back(fmt::format("worker {} (pid {}) {}", i, pids_[i], describe_exit(status)));
    fmt::print(stderr, "kvtier-replay: {}\n", failures_.back());
    stop();
  }
}

void Supervisor::kill_all() {
  for (size_t i = 0; i < pids_.size(); ++i) {
    if (!running_[i]) continue;
    kill(pids_[i], SIGKILL);
    waitpid(pids_[i], nullptr, 0);
    running_[i] = false;
    --left_;
  }
}

void Supervisor::wait_until_attached() {
  const int64_t give_up_ns = now_ns() + kAttachMaxNs;
  const auto attached = [this] {
    const auto statistics = board_.statistics();
    return std::all_of(statistics.begin(), statistics.end(), [](const WorkerStatistics& worker) {
      return worker.state.load(std::memory_order_acquire) != WorkerState::kStarting;
    });
  };
  while (!attached() && failures_.empty() && interrupts_.signal() == 0) {
    if (now_ns() > give_up_ns) {
      failures_.emplace_back("the workers could not attach in time");
      break;
    }
    interrupts_.wait(kPollMs);
    reap();
  }
}

void Supervisor::run(const std::function<bool(double seconds)>& tick) {
  BoardHeader& header = board_.header();
  start_workers();
  wait_until_attached();
  const int64_t start_ns = now_ns();
  header.start_ns.store(start_ns, std::memory_order_release);
  int64_t next_tick_ns = start_ns + kTickNs;
  int64_t give_up_ns = start_ns + header.duration_ns + kEndMaxNs;
  bool stopping = false;
  bool told_to_stop = false;
  while (left_ > 0) {
    if (!stopping && (told_to_stop || interrupts_.signal() != 0 || !failures_.empty())) {
      stopping = true;
      stop();
      give_up_ns = std::min(give_up_ns, now_ns() + kEndMaxNs);
    }
    if (interrupts_.count() > 1 || now_ns() > give_up_ns) {
      failures_.push_back(fmt::format("{} workers did not stop and were killed", left_));
      kill_all();
      break;
    }
    const int64_t wait_ns = std::max<int64_t>(next_tick_ns - now_ns(), 0);
    interrupts_.wait(static_cast<int>(wait_ns / 1'000'000) + 1);
    reap();
    if (now_ns() >= next_tick_ns && left_ > 0) {
      next_tick_ns += kTickNs;
      told_to_stop |= !tick(static_cast<double>(now_ns() - start_ns) / 1e9);
    }
  }
  wall_seconds_ = static_cast<double>(now_ns() - start_ns) / 1e9;
}

}  // namespace kvt::replay
