// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-soak/hostile.h"

#include <kvtier/kvtier.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

#include "tools/kvtier-soak/contents.h"

namespace kvt::soak {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 3;
constexpr auto kRound = std::chrono::milliseconds(1500);
constexpr size_t kGoodPages = 200;

struct Span {
  uint64_t* words = nullptr;
  size_t count = 0;
};

/// This process's mapping of its session region, which the library does not show.
Span session_region() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("kvt-session") == std::string::npos) continue;
    unsigned long begin = 0;
    unsigned long end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) == 2)
      return {reinterpret_cast<uint64_t*>(begin), (end - begin) / 8};
  }
  return {};
}

void flood(const std::string& folder, std::mt19937_64& random) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = folder + "/attach.sock";
  std::memcpy(address.sun_path, path.c_str(), std::min(path.size() + 1, sizeof address.sun_path - 1));
  for (int i = 0; i < 50; ++i) {
    const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      uint64_t bytes[128];
      for (uint64_t& each : bytes) each = random();
      ::send(fd, bytes, 1 + random() % sizeof bytes, MSG_NOSIGNAL);
    }
    ::close(fd);
  }
}

/// The good client has a processor of its own and its neighbours another, in both phases: so they burn the same, whatever
/// they do. One processor: all share it.
void stay_on(bool good) {
  const long processors = ::sysconf(_SC_NPROCESSORS_ONLN);
  if (processors < 2) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(good ? 0 : 1, &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

pid_t fork_body(const std::function<void()>& body) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  body();
  ::_exit(0);
}

/// Reads and verifies its pages for a round; how many words.
uint64_t good_round(kvt_session* session, const std::vector<kvt_page>& pages, uint64_t bytes,
                    uint64_t& corrupt) {
  uint64_t words = 0;
  const auto end = Clock::now() + kRound;
  while (Clock::now() < end) {
    kvt_step step{};
    if (kvt_step_begin(session, &step) != KVT_OK) break;
    std::vector<const void*> addresses(pages.size());
    kvt_resolve_addresses(session, &step, pages.data(), pages.size(), addresses.data());
    kvt_touch(session, pages.data(), pages.size());
    for (size_t i = 0; i < pages.size(); ++i) {
      if (addresses[i] == nullptr) {
        ++corrupt;
        continue;
      }
      corrupt += wrong_words(addresses[i], bytes, i + 1);
      words += bytes / 8;
    }
    kvt_step_end(session, &step);
    // It allocates and gives back, too: that is what needs the daemon.
    kvt_page fresh[8];
    if (const int got = kvt_allocate(session, fresh, 8); got > 0)
      kvt_release(session, fresh, static_cast<size_t>(got), nullptr);
  }
  return words;
}

}  // namespace

int run_hostile(const std::string& folder, uint64_t seed) {
  std::mt19937_64 random(seed ^ 0xbadc0ffee);
  kvt_attach_args args{};
  args.size = sizeof args;
  args.socket_dir = folder.c_str();
  args.arena = "hostile";
  args.timeout_ms = 50;
  for (;;) {
    // A process of its own for each: what it does to its region may kill the library in it.
    const uint64_t own = random();
    const pid_t child = fork_body([&] {
      std::mt19937_64 mine(own);
      kvt_session* session = nullptr;
      if (kvt_attach(&args, &session) != KVT_OK) return;
      const Span region = session_region();
      if (region.words == nullptr) return;
      const auto end = Clock::now() + std::chrono::milliseconds(100 + mine() % 400);
      std::thread second([&] {
        std::mt19937_64 other(own + 1);
        while (Clock::now() < end)
          std::atomic_ref<uint64_t>(region.words[other() % std::min<size_t>(region.count, 1u << 14)])
              .store(other() % 2 == 0 ? other() : other() % 4096, std::memory_order_relaxed);
      });
      while (Clock::now() < end) {
        for (int i = 0; i < 4096; ++i)
          std::atomic_ref<uint64_t>(region.words[mine() % region.count])
              .store(mine() % 3 == 0 ? UINT64_MAX : mine(), std::memory_order_relaxed);
        // The doorbell rings whatever the rings say.
        kvt_page page = mine();
        kvt_advise(session, &page, 1, KVT_ADVISE_PREFETCH);
      }
      second.join();
    });
    flood(folder, random);
    int status = 0;
    ::waitpid(child, &status, 0);
  }
}

double throughput_ratio(const std::string& folder, uint64_t seed, uint64_t& corrupt) {
  kvt_attach_args args{};
  args.size = sizeof args;
  args.socket_dir = folder.c_str();
  args.arena = "reclaim";
  kvt_session* session = nullptr;
  if (kvt_attach(&args, &session) != KVT_OK) return 0;
  kvt_geometry geometry{};
  geometry.size = sizeof geometry;
  kvt_get_geometry(session, &geometry);
  std::vector<kvt_page> pages(kGoodPages);
  size_t have = 0;
  while (have < kGoodPages) {
    const int got = kvt_allocate(session, pages.data() + have, kGoodPages - have);
    if (got <= 0) break;
    have += static_cast<size_t>(got);
  }
  pages.resize(have);
  for (size_t i = 0; i < pages.size(); ++i)
    write_words(kvt_page_data(session, pages[i]), geometry.page_bytes, i + 1);
  kvt_seal(session, pages.data(), pages.size(), nullptr);
  kvt_flush(session);
  cpu_set_t before;
  ::sched_getaffinity(0, sizeof before, &before);
  stay_on(true);
  std::vector<double> ratios;
  for (int round = 0; round < kRounds; ++round) {
    uint64_t words[2] = {};
    for (int phase = 0; phase < 2; ++phase) {
      std::vector<pid_t> neighbours;
      for (uint64_t i = 0; i < 2; ++i)
        neighbours.push_back(fork_body([&, i] {
          stay_on(false);
          if (phase == 1) {
            // Those that it forks go with it.
            run_hostile(folder, seed + i);
            return;
          }
          // As many threads as a hostile one has.
          const auto burn = [seed] {
            std::vector<uint64_t> memory(1u << 20);
            for (uint64_t at = seed;; at = mix(at + 1)) memory[at % memory.size()] = at;
          };
          std::thread second(burn);
          std::thread third(burn);
          burn();
        }));
      words[phase] = good_round(session, pages, geometry.page_bytes, corrupt);
      for (const pid_t pid : neighbours) {
        ::kill(pid, SIGKILL);
        int status = 0;
        ::waitpid(pid, &status, 0);
      }
    }
    if (words[0] != 0) ratios.push_back(static_cast<double>(words[1]) / static_cast<double>(words[0]));
  }
  ::sched_setaffinity(0, sizeof before, &before);
  kvt_release(session, pages.data(), pages.size(), nullptr);
  kvt_detach(session);
  if (ratios.empty()) return 0;
  std::sort(ratios.begin(), ratios.end());
  return ratios[ratios.size() / 2];
}

}  // namespace kvt::soak
