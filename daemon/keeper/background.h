// SPDX-License-Identifier: Apache-2.0
//
// A thread for what would keep the loop for seconds: making the memory of an arena, and giving it back. It does one task
// after the other, and the loop hears of each that has ended.
//
//   loop: submit(task) -> thread: task(), which returns what is to be done next -> fd() rings -> loop: finish(), does it
//
// A task has all that it needs as values of its own; what belongs to the loop is touched by what it returns alone.
// All functions are of the loop's thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "shm/base/fd.h"
#include "shm/base/result.h"

namespace kvt::keeper {

class Background {
 public:
  using Then = std::function<void()>;
  using Task = std::function<Then()>;

  /// Without a thread yet: the first task starts it.
  static Result<std::unique_ptr<Background>> create();
  /// Waits for the task that is under way, which should_stop() asks to hurry. Others are dropped, and so is what would
  /// have been done next.
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  /// kSystem: there can be no thread.
  Result<void> submit(Task task);
  /// Does what ended tasks have returned, in their order. Whether there was any.
  bool finish();
  /// Readable while there is something to finish.
  [[nodiscard]] const Fd& fd() const { return event_; }
  /// For tasks: true from the destructor on. Outlives them.
  [[nodiscard]] const std::atomic<bool>& should_stop() const { return stopping_; }

 private:
  explicit Background(Fd event) : event_(std::move(event)) {}
  void work();

  Fd event_;
  std::mutex mutex_;  // guards tasks_ and ended_
  std::condition_variable wake_;
  std::deque<Task> tasks_;
  std::vector<Then> ended_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace kvt::keeper
