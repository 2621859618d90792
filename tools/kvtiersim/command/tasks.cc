// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/command/tasks.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>

namespace kvt::sim {

void run_tasks(const std::vector<std::function<void()>>& tasks, uint32_t threads) {
  if (threads == 0) threads = std::max(1U, std::thread::hardware_concurrency());
  std::vector<std::exception_ptr> failed(tasks.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    // relaxed: the number alone is shared; what tasks write is read after join.
    for (size_t i = next.fetch_add(1, std::memory_order_relaxed); i < tasks.size();
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      try {
        tasks[i]();
      } catch (...) {
        failed[i] = std::current_exception();
      }
    }
  };
  std::vector<std::thread> others;
  for (size_t i = 1; i < std::min<size_t>(threads, tasks.size()); ++i) others.emplace_back(work);
  work();
  for (std::thread& thread : others) thread.join();
  for (const std::exception_ptr& exception : failed)
    if (exception) std::rethrow_exception(exception);
}

}  // namespace kvt::sim
