// SPDX-License-Identifier: Apache-2.0
#include "daemon/mover/bad_memory.h"

#include <sys/mman.h>

#include <csetjmp>
#include <csignal>

#include "shm/base/result.h"

namespace kvt::mover {
namespace {

struct Guard {
  sigjmp_buf landing;
  uintptr_t source = 0;
  uintptr_t target = 0;
  size_t bytes = 0;
};

thread_local Guard* volatile guard = nullptr;

constexpr bool meets(uintptr_t begin, uintptr_t end, uintptr_t stretch, size_t bytes) {
  return stretch != 0 && begin < stretch + bytes && stretch < end;
}

/// Whose the address is. The kernel may give that of a whole OS page or huge page, in which both lie: then it is the
/// one that was to be read, which is how bad memory is found.
BadSide side_of(const Guard& work, uintptr_t address, size_t grain) {
  if (meets(address, address + 1, work.source, work.bytes)) return BadSide::kSource;
  if (meets(address, address + 1, work.target, work.bytes)) return BadSide::kTarget;
  const uintptr_t begin = address & ~(uintptr_t{grain} - 1);
  if (meets(begin, begin + grain, work.source, work.bytes)) return BadSide::kSource;
  if (meets(begin, begin + grain, work.target, work.bytes)) return BadSide::kTarget;
  return BadSide::kNone;
}

void on_sigbus(int, siginfo_t* info, void*) {
  // A warning: memory has gone bad and nobody has read it. Who copies it finds out.
  if (info->si_code == BUS_MCEERR_AO) return;
  const bool of_hardware = info->si_code == BUS_MCEERR_AR;
  const size_t grain = of_hardware ? size_t{1} << (info->si_addr_lsb & 63) : 1;
  if (Guard* const work = guard; work != nullptr && info->si_code > 0)
    if (const BadSide side = side_of(*work, reinterpret_cast<uintptr_t>(info->si_addr), grain);
        side != BadSide::kNone)
      siglongjmp(work->landing, static_cast<int>(side));
  // Not ours: it ends the process, when the instruction is tried again or, where somebody has sent it, now.
  struct sigaction fatal {};
  fatal.sa_handler = SIG_DFL;
  ::sigaction(SIGBUS, &fatal, nullptr);
  if (info->si_code <= 0) ::raise(SIGBUS);
}

}  // namespace

void catch_sigbus() {
  struct sigaction action {};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

BadSide touch_guarded(void (*work)(void*), void* argument, const std::byte* source, const std::byte* target,
                      size_t bytes) {
  Guard here;
  here.source = reinterpret_cast<uintptr_t>(source);
  here.target = reinterpret_cast<uintptr_t>(target);
  here.bytes = bytes;
  const int landed = sigsetjmp(here.landing, 0);
  if (landed == 0) {
    guard = &here;
    work(argument);
  }
  guard = nullptr;
  if (landed != 0) {
    // It is blocked in its handler, and the jump out of there restores no mask: that would be a system call a copy.
    sigset_t again;
    sigemptyset(&again);
    sigaddset(&again, SIGBUS);
    ::pthread_sigmask(SIG_UNBLOCK, &again, nullptr);
  }
  return static_cast<BadSide>(landed);
}

std::byte* missing_memory() {
  static std::byte* const memory = [] {
    const int empty = ::memfd_create("kvt-missing", MFD_CLOEXEC);
    void* const mapped = ::mmap(nullptr, 64 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, empty, 0);
    KVT_CHECK(mapped != MAP_FAILED);
    return static_cast<std::byte*>(mapped);
  }();
  return memory;
}

}  // namespace kvt::mover
