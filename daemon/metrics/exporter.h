// SPDX-License-Identifier: Apache-2.0
//
// Serves the metrics over HTTP, GET /metrics, on Unix sockets and addresses (docs/decisions/0020). A thread of its own
// has the connections: whoever is slow, or many, or sends nonsense, waits for it and not for the loop.
//
//   scraper ----> exporter's thread ----- an eventfd -----> the loop: take_snapshot(), a copy of counters
//           <---- formats, sends    <---- an eventfd ------
//
// A snapshot that is younger than kFreshFor is used again, so the loop is asked ten times a second at most, however
// often scrapers ask. Where the loop does not answer within kLoopPatience, the last snapshot is served, and
// kvtier_snapshot_age_seconds says how old it is.
//
// start(), the destructor and the callback are of the loop's thread.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "daemon/config/config.h"
#include "daemon/keeper/event_loop.h"
#include "daemon/metrics/families.h"
#include "daemon/metrics/snapshot.h"
#include "shm/base/fd.h"
#include "shm/base/result.h"

namespace kvt::metrics {

class Exporter {
 public:
  using Clock = std::chrono::steady_clock;
  using Take = std::function<Snapshot()>;

  static constexpr size_t kConnectionsMax = 16;  ///< beyond, the oldest is closed
  static constexpr size_t kRequestBytesMax = 8192;
  /// For the request to come, and again for the answer to be taken.
  static constexpr std::chrono::seconds kPatience{10};
  static constexpr std::chrono::milliseconds kFreshFor{100};
  static constexpr std::chrono::milliseconds kLoopPatience{500};

  /// Listens at all that the configuration names. `take` is called on the loop's thread, once now. `loop` outlives it.
  static Result<std::unique_ptr<Exporter>> start(keeper::EventLoop& loop, const Config& config, Take take,
                                                 Clock::duration patience = kPatience);
  ~Exporter();
  Exporter(const Exporter&) = delete;
  Exporter& operator=(const Exporter&) = delete;

 private:
  struct Connection {
    Fd socket;
    Clock::time_point deadline;
    std::string request;
    bool wants_metrics = false;  // its request is whole, and waits for the loop
    Clock::time_point loop_deadline;
    std::string reply;  // empty: not there yet
    size_t sent = 0;
  };

  Exporter(keeper::EventLoop& loop, Take take, Clock::duration patience)
      : loop_(loop), take_(std::move(take)), patience_(patience) {}
  Result<void> listen(const Config& config);
  void on_wanted();

  // Of the thread:
  void run();
  void turn();
  void accept_from(const Fd& listener);
  [[nodiscard]] bool receive(Connection& connection);
  [[nodiscard]] bool answer(Connection& connection);
  [[nodiscard]] static bool send_more(Connection& connection);
  [[nodiscard]] bool serve(Connection& connection, short events, bool has_news);
  [[nodiscard]] std::shared_ptr<const Snapshot> last() const;
  const std::string& body();
  [[nodiscard]] int timeout_ms(Clock::time_point now) const;

  keeper::EventLoop& loop_;
  Take take_;
  const Clock::duration patience_;
  Fd wanted_;  // the thread rings: a snapshot, please
  Fd taken_;   // the loop rings: there is one
  Fd stop_;
  /// Release by the loop, acquire by the thread: seen after kPatience where stop_ could not be rung.
  std::atomic<bool> stopping_{false};
  std::vector<Fd> listeners_;
  std::vector<std::string> paths_;  // of Unix sockets, to be removed
  mutable std::mutex mutex_;        // guards last_
  std::shared_ptr<const Snapshot> last_;
  std::thread thread_;

  // Of the thread alone:
  std::vector<std::unique_ptr<Connection>> connections_;  // in the order in which they came
  std::string body_;
  Clock::time_point body_made_;
  Clock::time_point accepts_from_;  // no descriptors are left: who waits, waits
  uint64_t requests_ = 0;
  uint64_t dropped_ = 0;
};

}  // namespace kvt::metrics
