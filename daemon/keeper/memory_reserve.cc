// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/memory_reserve.h"

#include <sys/mman.h>

#include <atomic>
#include <new>

namespace kvt::keeper {
namespace {

std::atomic<void*> reserve{nullptr};
size_t reserve_bytes = 0;

/// What operator new calls before it throws; it tries again when this returns.
void give_up() {
  // acq_rel: pairs with refill(); one thread gets it
  void* const kept = reserve.exchange(nullptr, std::memory_order_acq_rel);
  if (kept == nullptr) throw std::bad_alloc();
  ::munmap(kept, reserve_bytes);
}

}  // namespace

bool MemoryReserve::keep(size_t bytes) {
  reserve_bytes = bytes;
  if (!refill()) return false;
  std::set_new_handler(give_up);
  return true;
}

bool MemoryReserve::is_used() {
  return reserve_bytes != 0 &&
         reserve.load(std::memory_order_relaxed) == nullptr;  // who refills is the asker
}

bool MemoryReserve::refill() {
  // Counted against the process's limits, and no memory as long as nobody writes it.
  void* const kept =
      ::mmap(nullptr, reserve_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (kept == MAP_FAILED) return false;
  reserve.store(kept, std::memory_order_release);  // pairs with give_up()
  return true;
}

}  // namespace kvt::keeper
