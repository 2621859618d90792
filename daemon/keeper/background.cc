// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/background.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <system_error>
#include <utility>

namespace kvt::keeper {

Result<std::unique_ptr<Background>> Background::create() {
  Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return fail_errno("eventfd");
  return std::unique_ptr<Background>(new Background(std::move(event)));
}

Background::~Background() {
  {
    const std::lock_guard guard(mutex_);
    stopping_.store(true, std::memory_order_relaxed);  // no data comes with it
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Result<void> Background::submit(Task task) {
  if (!thread_.joinable()) {
    try {
      thread_ = std::thread([this] { work(); });
    } catch (const std::system_error& error) {
      return fail_errno("start of a thread", error.code().value());
    }
    ::pthread_setname_np(thread_.native_handle(), "arenas");
  }
  {
    const std::lock_guard guard(mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
  return {};
}

bool Background::finish() {
  uint64_t count = 0;
  // Non-blocking, ours alone
  [[maybe_unused]] const ssize_t got = ::read(event_.get(), &count, sizeof count);
  std::vector<Then> ended;
  {
    const std::lock_guard guard(mutex_);
    ended.swap(ended_);
  }
  for (const Then& then : ended)
    if (then) then();
  return !ended.empty();
}

void Background::work() {
  for (;;) {
    Task task;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_.load(std::memory_order_relaxed) || !tasks_.empty(); });
      if (stopping_.load(std::memory_order_relaxed)) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    Then then = task();
    task = nullptr;  // what it has is given up here, not by the loop
    {
      const std::lock_guard guard(mutex_);
      ended_.push_back(std::move(then));
    }
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t put = ::write(event_.get(), &one, sizeof one);
  }
}

}  // namespace kvt::keeper
