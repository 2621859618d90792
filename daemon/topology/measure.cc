// SPDX-License-Identifier: Apache-2.0
#include "daemon/topology/measure.h"

#include <numa.h>
#include <numaif.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstring>
#include <ctime>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <thread>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace kvt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kLine = 64;
constexpr uint64_t kAlignment = 2ull << 20;
/// Lines that the chain of loads visits, and loads of one repetition.
constexpr uint64_t kChainBytes = 64ull << 20;
constexpr uint64_t kBufferBytes = 256ull << 20;
/// A buffer this many times larger than the caches is read from memory.
constexpr uint64_t kTimesCache = 4;
constexpr uint64_t kChainLoads = 400'000;

/// Memory on one node, touched.
class Buffer {
 public:
  static Result<Buffer> on(uint32_t node, uint64_t bytes, bool only_node) {
    void* const address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) return fail_errno("map " + std::to_string(bytes) + " bytes");
    Buffer buffer;
    buffer.data_ = static_cast<uint64_t*>(address);
    buffer.bytes_ = bytes;
    ::madvise(address, bytes, MADV_HUGEPAGE);
    std::vector<unsigned long> mask(node / (8 * sizeof(unsigned long)) + 1, 0);
    mask[node / (8 * sizeof(unsigned long))] |= 1ul << (node % (8 * sizeof(unsigned long)));
    if (::mbind(address, bytes, MPOL_BIND, mask.data(), mask.size() * 8 * sizeof(unsigned long) + 1, 0) !=
            0 &&
        !only_node) {
      if (errno == EPERM || errno == ENOSYS)
        return fail(Code::kPermission, "this process may not bind memory to a node (mbind: " +
                                           std::string(std::strerror(errno)) + ")");
      return fail_errno("mbind to node " + std::to_string(node));
    }
#ifdef MADV_POPULATE_WRITE
    if (::madvise(address, bytes, MADV_POPULATE_WRITE) != 0 && errno != EINVAL)
      return fail(Code::kFull,
                  "node " + std::to_string(node) + " has not " + std::to_string(bytes >> 20) + " MiB free");
#endif
    std::memset(address, 1, bytes);
    return buffer;
  }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer& operator=(Buffer&&) = delete;
  ~Buffer() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }
  [[nodiscard]] uint64_t* words() const { return data_; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }

 private:
  Buffer() = default;
  uint64_t* data_ = nullptr;
  uint64_t bytes_ = 0;
};

/// Words of one thread's part; a multiple of a line.
struct Part {
  uint64_t first;
  uint64_t count;
};

uint64_t sum_words(const uint64_t* words, uint64_t count) {
  uint64_t sums[8]{};
  for (uint64_t i = 0; i + 8 <= count; i += 8)
    for (uint64_t lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
  return std::accumulate(std::begin(sums), std::end(sums), uint64_t{0});
}

void write_words(uint64_t* words, uint64_t count, uint64_t value) {
#if defined(__SSE2__)
  const __m128i pattern = _mm_set1_epi64x(static_cast<long long>(value));
  for (uint64_t i = 0; i + 8 <= count; i += 8)
    for (uint64_t lane = 0; lane < 8; lane += 2)
      _mm_stream_si128(reinterpret_cast<__m128i*>(words + i + lane), pattern);
  _mm_sfence();
#else
  for (uint64_t i = 0; i < count; ++i) words[i] = value;
#endif
}

void copy_words(uint64_t* to, const uint64_t* from, uint64_t count) {
#if defined(__SSE2__)
  for (uint64_t i = 0; i + 8 <= count; i += 8)
    for (uint64_t lane = 0; lane < 8; lane += 2)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i + lane),
                       _mm_load_si128(reinterpret_cast<const __m128i*>(from + i + lane)));
  _mm_sfence();
#else
  std::memcpy(to, from, count * sizeof(uint64_t));
#endif
}

/// CPUs of `list` that this process may run on.
std::vector<uint32_t> usable_cpus(const std::string& list) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  ::sched_getaffinity(0, sizeof allowed, &allowed);
  std::vector<uint32_t> cpus = parse_cpu_list(list).value_or(std::vector<uint32_t>{});
  std::erase_if(cpus, [&](uint32_t cpu) { return cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &allowed); });
  return cpus;
}

void run_on(uint32_t cpu) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  ::pthread_setaffinity_np(::pthread_self(), sizeof one, &one);
}

struct Timing {
  double median_seconds = 0;
  double spread = 0;
};

Timing timing_of(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  return {median, median > 0 ? (seconds.back() - seconds.front()) / median : 0};
}

/// Runs `work(part)` on each CPU at once, `repetitions` times after one that does not count.
template <typename Work>
Timing time_on(const std::vector<uint32_t>& cpus, uint64_t words, uint32_t repetitions, const Work& work) {
  std::vector<double> seconds;
  std::barrier start(static_cast<std::ptrdiff_t>(cpus.size()));
  std::barrier end(static_cast<std::ptrdiff_t>(cpus.size()));
  const uint64_t each = words / cpus.size() / (kLine / 8) * (kLine / 8);
  const auto run = [&](size_t thread) {
    run_on(cpus[thread]);
    for (uint32_t i = 0; i <= repetitions; ++i) {
      start.arrive_and_wait();
      const auto begin = Clock::now();
      work(Part{thread * each, each});
      end.arrive_and_wait();
      if (thread == 0 && i != 0)
        seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 0; i < cpus.size(); ++i) threads.emplace_back(run, i);
  for (std::thread& thread : threads) thread.join();
  return timing_of(std::move(seconds));
}

/// Nanoseconds of a load that needs the one before: one cycle through random lines.
double chain_latency_ns(uint32_t cpu, uint64_t* words, uint64_t bytes, uint32_t repetitions) {
  const uint64_t lines = bytes / kLine;
  std::vector<uint32_t> order(lines);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
  for (uint64_t i = 0; i < lines; ++i)
    words[uint64_t{order[i]} * (kLine / 8)] = uint64_t{order[(i + 1) % lines]} * (kLine / 8);
  std::vector<double> nanoseconds;
  std::thread([&] {
    run_on(cpu);
    uint64_t at = uint64_t{order[0]} * (kLine / 8);
    for (uint32_t i = 0; i <= repetitions; ++i) {
      const auto begin = Clock::now();
      for (uint64_t load = 0; load < kChainLoads; ++load) at = words[at];
      // The chain's end goes somewhere, or it would not be walked.
      [[maybe_unused]] volatile uint64_t sink = at;
      if (i != 0)
        nanoseconds.push_back(std::chrono::duration<double, std::nano>(Clock::now() - begin).count() /
                              static_cast<double>(kChainLoads));
    }
  }).join();
  std::sort(nanoseconds.begin(), nanoseconds.end());
  return nanoseconds[nanoseconds.size() / 2];
}

/// The node whose memory is nearest to a package: where a copy ends.
uint32_t node_near(const Topology& topology, const CpuPackage& package) {
  const auto cpus = parse_cpu_list(package.cpus).value_or(std::vector<uint32_t>{});
  for (const MemoryNode& node : topology.nodes) {
    if (node.bytes == 0 || !node.has_cpus()) continue;
    const auto own = parse_cpu_list(node.cpus).value_or(std::vector<uint32_t>{});
    if (std::any_of(own.begin(), own.end(),
                    [&](uint32_t cpu) { return std::binary_search(cpus.begin(), cpus.end(), cpu); }))
      return node.os_index;
  }
  for (const MemoryNode& node : topology.nodes)  // of CPUs without memory of their own
    if (node.bytes != 0) return node.os_index;
  return topology.nodes.front().os_index;
}

/// Last-level caches of these CPUs, bytes.
uint64_t cache_bytes(const std::vector<uint32_t>& cpus) {
  std::map<std::string, uint64_t> caches;  // by the CPUs that share one
  for (const uint32_t cpu : cpus) {
    for (const char* const index : {"index3", "index2"}) {  // the last one that there is
      const std::string folder =
          "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cache/" + index + "/";
      std::string shared;
      uint64_t kib = 0;
      if (!(std::ifstream(folder + "shared_cpu_list") >> shared) || !(std::ifstream(folder + "size") >> kib))
        continue;
      caches[shared] = kib << 10;
      break;
    }
  }
  return std::accumulate(caches.begin(), caches.end(), uint64_t{0},
                         [](uint64_t sum, const auto& cache) { return sum + cache.second; });
}

uint64_t buffer_bytes(uint32_t node, uint64_t wanted, bool only_node) {
  long long free = -1;
  if (::numa_available() >= 0) ::numa_node_size64(static_cast<int>(node), &free);
  if (free < 0 || only_node)
    free = static_cast<long long>(::sysconf(_SC_AVPHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  return std::min(wanted, static_cast<uint64_t>(free) / 4) / kAlignment * kAlignment;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

}  // namespace

Result<Calibration> measure(const Topology& topology, const MeasureOptions& options) {
  std::vector<uint32_t> nodes = options.nodes;
  const size_t with_memory = static_cast<size_t>(std::count_if(
      topology.nodes.begin(), topology.nodes.end(), [](const MemoryNode& node) { return node.bytes != 0; }));
  if (nodes.empty())
    for (const MemoryNode& node : topology.nodes)
      if (node.bytes != 0) nodes.push_back(node.os_index);
  for (const uint32_t node : nodes)
    if (topology.find(node) == nullptr || topology.find(node)->bytes == 0)
      return fail(Code::kNotFound, "NUMA node " + std::to_string(node) + " is not there, or has no memory");
  if ((options.bytes != 0 && options.bytes < kAlignment) || options.repetitions == 0)
    return fail(Code::kInvalid, "expected buffers of at least 2 MiB and one repetition");
  Calibration calibration;
  calibration.machine = fingerprint_of(topology);
  calibration.measured_at = utc_now();
  for (const CpuPackage& package : topology.packages) {
    const std::vector<uint32_t> cpus = usable_cpus(package.cpus);
    if (cpus.empty())
      return fail(Code::kPermission, "this process may run on no CPU of package " +
                                         std::to_string(package.os_index) + " (" + package.cpus + ")");
    const uint32_t near = node_near(topology, package);
    const uint64_t least = options.bytes != 0 ? kAlignment : kTimesCache * cache_bytes(cpus);
    const uint64_t wanted = options.bytes != 0
                                ? options.bytes
                                : (std::max(kBufferBytes, least) + kAlignment - 1) / kAlignment * kAlignment;
    for (const uint32_t node : nodes) {
      const uint64_t bytes = std::min(buffer_bytes(node, wanted, with_memory == 1),
                                      buffer_bytes(near, wanted, with_memory == 1));
      if (bytes < std::max(least, kAlignment))
        return fail(
            Code::kFull,
            "node " + std::to_string(node) + ", or node " + std::to_string(near) +
                " near the cores, has not four times " + std::to_string(std::max(least, kAlignment) >> 20) +
                " MiB free, which buffers larger than the caches take; with fewer bytes caches are measured");
      KVT_TRY_ASSIGN(const Buffer buffer, Buffer::on(node, bytes, with_memory == 1));
      KVT_TRY_ASSIGN(const Buffer local, Buffer::on(near, bytes, with_memory == 1));
      std::vector<std::vector<uint32_t>> teams{cpus};
      if (cpus.size() > 1) teams.push_back({cpus.front()});
      for (const std::vector<uint32_t>& team : teams) {
        if (options.progress)
          options.progress("node " + std::to_string(node) + ", package " + std::to_string(package.os_index) +
                           ", " + std::to_string(team.size()) + (team.size() == 1 ? " core" : " cores"));
        NodeSpeed speed;
        speed.package = package.os_index;
        speed.node = node;
        speed.threads = static_cast<uint32_t>(team.size());
        const uint64_t words = bytes / sizeof(uint64_t);
        const double moved = static_cast<double>(words / team.size() / (kLine / 8) * (kLine / 8) *
                                                 team.size() * sizeof(uint64_t)) /
                             1e9;
        std::vector<uint64_t> sinks(team.size() * 8, 0);
        const Timing read = time_on(team, words, options.repetitions, [&](Part part) {
          sinks[part.first / std::max<uint64_t>(part.count, 1) * 8] +=
              sum_words(buffer.words() + part.first, part.count);
        });
        if (std::accumulate(sinks.begin(), sinks.end(), uint64_t{0}) == 0)
          return fail(Code::kSystem, "node " + std::to_string(node) + " reads as zeros");
        speed.read_gbs = moved / read.median_seconds;
        speed.spread = read.spread;
        speed.write_gbs = moved / time_on(team, words, options.repetitions, [&](Part part) {
                                    write_words(buffer.words() + part.first, part.count, 1);
                                  }).median_seconds;
        speed.copy_gbs =
            moved / time_on(team, words, options.repetitions, [&](Part part) {
                      copy_words(local.words() + part.first, buffer.words() + part.first, part.count);
                    }).median_seconds;
        if (team.size() == 1)
          speed.latency_ns =
              chain_latency_ns(team.front(), buffer.words(), std::min(bytes, std::max(kChainBytes, least)),
                               options.repetitions);
        calibration.speeds.push_back(speed);
      }
    }
  }
  return calibration;
}

}  // namespace kvt
