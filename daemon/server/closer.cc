// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/closer.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>

namespace kvt::server {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kPatience{1};
/// Users beyond these wait until another one's are closed.
constexpr size_t kThreadsMost = 64;

}  // namespace

struct Closer::Shared {
  struct User {
    std::deque<Fd> queue;  ///< the first is being closed, where there is a thread
    bool has_thread = false;
    Clock::time_point begun{};  ///< closing the first
  };
  std::mutex mutex;
  std::condition_variable closed;
  std::unordered_map<uint32_t, User> users;  // guarded by mutex
  size_t threads = 0;                        // guarded by mutex

  /// A thread for each user that has none, as far as there may be some. REQUIRES: mutex.
  static void start_threads(const std::shared_ptr<Shared>& shared) {
    for (auto& [uid, user] : shared->users) {
      if (user.has_thread || shared->threads >= kThreadsMost) continue;
      try {
        std::thread([shared, uid = uid] { run(shared, uid); }).detach();
      } catch (const std::system_error&) {
        return;  // the next descriptor tries again
      }
      user.has_thread = true;
      user.begun = Clock::now();
      ++shared->threads;
    }
  }

  static void run(const std::shared_ptr<Shared>& shared, uint32_t uid) {
    std::unique_lock lock(shared->mutex);
    for (;;) {
      User& user = shared->users.at(uid);
      user.begun = Clock::now();
      Fd fd = std::move(user.queue.front());
      lock.unlock();
      fd.reset();  // may wait for whoever made it
      lock.lock();
      user.queue.pop_front();
      if (!user.queue.empty()) continue;
      shared->users.erase(uid);
      --shared->threads;
      start_threads(shared);
      shared->closed.notify_all();
      return;
    }
  }
};

Closer::Closer() : shared_(std::make_shared<Shared>()) {}

Closer::~Closer() { finish(kPatience); }

void Closer::close(std::vector<Fd> fds, uint32_t uid) {
  std::erase_if(fds, [](const Fd& fd) { return !fd.valid(); });
  if (fds.empty()) return;
  const std::scoped_lock lock(shared_->mutex);
  std::deque<Fd>& queue = shared_->users[uid].queue;
  std::move(fds.begin(), fds.end(), std::back_inserter(queue));
  Shared::start_threads(shared_);
}

void Closer::finish(std::chrono::milliseconds limit) const {
  std::unique_lock lock(shared_->mutex);
  shared_->closed.wait_for(lock, limit, [this] { return shared_->users.empty(); });
}

bool Closer::is_stuck(uint32_t uid) const {
  const std::scoped_lock lock(shared_->mutex);
  const auto found = shared_->users.find(uid);
  return found != shared_->users.end() && found->second.queue.size() >= kStuckMost &&
         Clock::now() - found->second.begun >= kPatience;
}

}  // namespace kvt::server
