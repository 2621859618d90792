// SPDX-License-Identifier: Apache-2.0
//
// What a card does under kvtier, each beside a baseline of the same run: the mover's copies beside one large copy, page
// tables on the device, the end of a step, registration, checksums of pages; and what is left of a GPU's work and memory
// when processes die. Prints a table, and one JSON object as its last line. Exit code 1 when something is wrong that is no figure.
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "daemon/mover/checksum.h"
#include "daemon/mover/device/page_sums.h"
#include "daemon/mover/mover.h"
#include "daemon/tier/backend.h"
#include "shm/cuda/gpu.h"
#include "tests/gpu/checks.h"

extern const unsigned char kvt_gpu_test_code[];
extern const unsigned char kvt_page_sums_code[];  // of the mover

namespace kvt {
namespace {

using namespace gpu_test;  // NOLINT: the words of this folder
using nlohmann::json;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}
double spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values.back() - values.front()) / values[values.size() / 2];
}
CUdeviceptr address(const std::byte* data) { return reinterpret_cast<CUdeviceptr>(data); }

constexpr uint64_t kDeviceBytes = 4ull << 30;
constexpr uint64_t kHostBytes = 4ull << 30;

/// A device window and a host window in one range, as a daemon has them.
struct World {
  std::shared_ptr<cuda::Gpu> gpu;
  AddressRange range;
  tier::Window host;
  cuda::HostRegistration registered;
  std::unique_ptr<cuda::DeviceWindow> device;
  std::byte* device_data = nullptr;
  std::byte* host_data = nullptr;

  World() = default;
  World(const World&) = delete;
  World& operator=(const World&) = delete;
};

std::unique_ptr<World> make_world(json& out) {
  auto made = std::make_unique<World>();
  World& world = *made;
  world.gpu = must(cuda::Gpu::open(must(cuda::Driver::load("")), 0));
  out["gpu"] = world.gpu->info().name;
  out["driver"] = cuda::version_text(world.gpu->driver().version());
  world.range = must(cuda::reserve_addresses(world.gpu, kDeviceBytes + kHostBytes, 2u << 20));
  auto begin = Clock::now();
  world.device = std::make_unique<cuda::DeviceWindow>(
      must(cuda::DeviceWindow::create(world.gpu, world.range.data(), kDeviceBytes, 512u << 20)));
  out["device_window_s_a_gib"] = seconds_since(begin) / static_cast<double>(kDeviceBytes >> 30);
  world.device_data = world.range.data();
  tier::NumaBackend backend;
  tier::WindowRequest request;
  request.name = "gpu-measure";
  request.bytes = kHostBytes;
  request.pages = OsPages::kSmall;
  request.threads = std::max(1u, std::thread::hardware_concurrency());
  request.range = &world.range;
  request.offset = kDeviceBytes;
  begin = Clock::now();
  world.host = must(backend.make_window(request));
  out["prefault_s_a_gib"] = seconds_since(begin) / static_cast<double>(kHostBytes >> 30);
  world.host_data = world.host.mapping.data();
  begin = Clock::now();
  // One piece: the baseline is one copy. A daemon's pieces are a gigabyte each.
  world.registered = must(cuda::HostRegistration::make(world.gpu, world.host_data, kHostBytes, kHostBytes,
                                                       Access::kReadWrite, {}));
  out["register_4k_s_a_gib"] = seconds_since(begin) / static_cast<double>(kHostBytes >> 30);
  return made;
}

/// Registration of transparent and of reserved huge pages.
void measure_registration(World& world, json& out) {
  for (const auto& [name, pages] : {std::pair{"register_thp_s_a_gib", OsPages::kUsual},
                                    std::pair{"register_hugetlb_s_a_gib", OsPages::kHuge2M}}) {
    tier::NumaBackend backend;
    AddressRange range = must(AddressRange::reserve(1ull << 30, 2u << 20));
    tier::WindowRequest request;
    request.name = "gpu-register";
    request.bytes = 1ull << 30;
    request.pages = pages;
    request.threads = 8;
    request.range = &range;
    auto window = backend.make_window(request);
    if (!window) {
      out[name] = nullptr;
      continue;
    }
    const auto begin = Clock::now();
    const auto made = cuda::HostRegistration::make(world.gpu, window->mapping.data(), 1ull << 30, 1ull << 30,
                                                   Access::kReadWrite, {});
    out[name] = made ? json(seconds_since(begin)) : json(nullptr);
  }
  // By several threads at once, a quarter each: whether the driver lets them.
  constexpr uint64_t kPart = 256ull << 20;
  tier::NumaBackend backend;
  AddressRange range = must(AddressRange::reserve(4 * kPart, 2u << 20));
  tier::WindowRequest request;
  request.name = "gpu-register";
  request.bytes = 4 * kPart;
  request.pages = OsPages::kSmall;
  request.threads = 8;
  request.range = &range;
  const tier::Window window = must(backend.make_window(request));
  std::vector<cuda::HostRegistration> parts(4);
  const auto add = [&](size_t i) {
    parts[i] = must(cuda::HostRegistration::make(world.gpu, window.mapping.data() + i * kPart, kPart, kPart,
                                                 Access::kReadWrite, {}));
  };
  const auto begin = Clock::now();
  std::vector<std::thread> threads;
  for (size_t i = 0; i < parts.size(); ++i) threads.emplace_back(add, i);
  for (std::thread& thread : threads) thread.join();
  out["register_4k_by_4_threads_s_a_gib"] = seconds_since(begin);
}

struct Large {
  double in = 0, out = 0, both = 0, copy = 0;  // 10^9 bytes a second
};

Large measure_large(World& world, json& out) {
  const cuda::Driver& driver = world.gpu->driver();
  const cuda::Current current(driver, world.gpu->context());
  CUstream streams[2];
  for (CUstream& stream : streams)
    must(driver.check(driver.cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0), "stream"));
  constexpr uint64_t kBytes = 1ull << 30;
  const auto time = [&](const std::function<void()>& work) {
    std::vector<double> all;
    for (int i = 0; i < 6; ++i) {
      const auto begin = Clock::now();
      work();
      for (CUstream stream : streams) driver.cuStreamSynchronize(stream);
      if (i > 0) all.push_back(seconds_since(begin));
    }
    return median(all);
  };
  const auto in = [&](CUstream stream) {
    must(driver.check(
        driver.cuMemcpyAsync(address(world.device_data), address(world.host_data), kBytes, stream), "in"));
  };
  const auto to = [&](CUstream stream) {
    must(driver.check(driver.cuMemcpyAsync(address(world.host_data + kBytes),
                                           address(world.device_data + kBytes), kBytes, stream),
                      "out"));
  };
  Large large;
  large.in = kBytes / time([&] { in(streams[0]); }) / 1e9;
  large.out = kBytes / time([&] { to(streams[0]); }) / 1e9;
  large.both = 2 * kBytes / time([&] { in(streams[0]), to(streams[1]); }) / 1e9;
  large.copy =
      2 * kBytes / time([&] {
        must(driver.check(driver.cuMemcpyAsync(address(world.device_data),
                                               address(world.device_data + kBytes), kBytes, streams[0]),
                          "copy"));
      }) /
      1e9;
  for (CUstream stream : streams) driver.cuStreamDestroy(stream);
  out["large"] = {
      {"in_gbs", large.in}, {"out_gbs", large.out}, {"both_gbs", large.both}, {"copy_gbs", large.copy}};
  std::printf("one large copy: in %.1f, out %.1f, both at once %.1f, within HBM %.0f GB/s\n", large.in,
              large.out, large.both, large.copy);
  return large;
}

/// Host memory in handles of the driver: how long it takes to make, and to map by who imports it, beside registration; and
/// what copies to and from it reach of those to and from registered memory.
void measure_driver_host(World& world, const Large& large, json& out) {
  const cuda::Driver& driver = world.gpu->driver();
  if (!world.gpu->info().allocates_host) {
    out["driver_host"] = nullptr;
    std::printf("host memory of the driver's: not on this GPU\n");
    return;
  }
  constexpr uint64_t kBytes = 1ull << 30;
  constexpr uint64_t kChunk = 256ull << 20;
  const int node = std::max(0, world.gpu->info().numa_node);
  const AddressRange range = must(cuda::reserve_addresses(world.gpu, 2 * kBytes, 2u << 20));
  auto begin = Clock::now();
  const auto made = must(cuda::DeviceWindow::create(world.gpu, range.data(), kBytes, kChunk, node));
  const double made_s = seconds_since(begin);
  begin = Clock::now();
  const auto mapped =
      must(cuda::DeviceWindow::import(world.gpu, range.data() + kBytes, kBytes, kChunk, made.fds(), node));
  const double mapped_s = seconds_since(begin);
  const cuda::Current current(driver, world.gpu->context());
  CUstream stream = nullptr;
  must(driver.check(driver.cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0), "stream"));
  const auto gbs = [&](CUdeviceptr target, CUdeviceptr source) {
    std::vector<double> all;
    for (int i = 0; i < 6; ++i) {
      const auto start = Clock::now();
      must(driver.check(driver.cuMemcpyAsync(target, source, kBytes, stream), "copy"));
      must(driver.check(driver.cuStreamSynchronize(stream), "copy"));
      if (i > 0) all.push_back(seconds_since(start));
    }
    return static_cast<double>(kBytes) / median(all) / 1e9;
  };
  const double in = gbs(address(world.device_data), address(mapped.data()));
  const double to = gbs(address(mapped.data()), address(world.device_data));
  driver.cuStreamDestroy(stream);
  std::printf(
      "host memory of the driver's: made in %.3f s a GiB, mapped in %.4f; copies %.0f %% in, %.0f %% out of "
      "those "
      "with registered memory\n",
      made_s, mapped_s, 100 * in / large.in, 100 * to / large.out);
  out["driver_host"] = {{"made_s_a_gib", made_s},
                        {"mapped_s_a_gib", mapped_s},
                        {"in_percent", 100 * in / large.in},
                        {"out_percent", 100 * to / large.out}};
}

/// A chunk of HBM that is given up and taken again, with other memory behind the same addresses.
void measure_chunk(World& world, json& out) {
  constexpr uint64_t kChunk = 512ull << 20;
  const AddressRange range = must(cuda::reserve_addresses(world.gpu, 2 * kChunk, 2u << 20));
  auto window = must(cuda::DeviceWindow::create(world.gpu, range.data(), 2 * kChunk, kChunk));
  std::vector<double> gone;
  std::vector<double> back;
  for (int i = 0; i < 5; ++i) {
    auto begin = Clock::now();
    window.shrink(1);
    gone.push_back(1e3 * seconds_since(begin));
    begin = Clock::now();
    must(window.grow(2));
    back.push_back(1e3 * seconds_since(begin));
  }
  std::printf("a chunk of 512 MiB of HBM: given up in %.2f ms, taken again in %.2f ms\n", median(gone),
              median(back));
  out["chunk_512_mib"] = {{"given_up_ms", median(gone)}, {"taken_ms", median(back)}};
}

/// Seconds until the mover has given back all jobs.
double run_jobs(mover::Mover& mover, const std::vector<mover::Job>& jobs) {
  const auto begin = Clock::now();
  for (const mover::Job& job : jobs) mover.submit(job);
  for (size_t done = 0; done < jobs.size();) {
    pollfd waiting{mover.completion_fd().get(), POLLIN, 0};
    ::poll(&waiting, 1, 10'000);
    for (const mover::Job& job : mover.take_completions()) {
      expect(!job.failed, "a copy failed: CUDA error " + std::to_string(job.driver_error));
      expect(job.finding == mover::Finding::kRight && job.mismatches == 0, "a copy has another checksum");
      ++done;
    }
  }
  return seconds_since(begin);
}

/// Pages at random places through the daemon's mover, beside one large copy.
void measure_mover(World& world, const Large& large, json& out) {
  auto mover = must(mover::Mover::start(1));
  must(mover->add_gpu(0, world.gpu));
  std::mt19937_64 random(1);
  std::printf("the mover, pages at random places, percent of one large copy (median of 5, spread)\n");
  for (const uint64_t bytes :
       {uint64_t{2} << 20, uint64_t{256} << 10, uint64_t{64} << 10, uint64_t{16} << 10}) {
    const uint64_t count = std::min<uint64_t>((1ull << 30) / bytes, 32768);
    std::vector<uint64_t> device(kDeviceBytes / bytes);
    std::vector<uint64_t> host(kHostBytes / bytes);
    std::iota(device.begin(), device.end(), 0);
    std::iota(host.begin(), host.end(), 0);
    std::shuffle(device.begin(), device.end(), random);
    std::shuffle(host.begin(), host.end(), random);
    std::vector<mover::Job> in;
    std::vector<mover::Job> to;
    for (uint64_t i = 0; i < count; ++i) {
      mover::Job job;
      job.gpu = 0;
      job.bytes = bytes;
      job.source = world.host_data + host[i] * bytes;
      job.target = world.device_data + device[i] * bytes;
      in.push_back(job);
      job.out = true;
      job.source = world.device_data + device[count + i] * bytes;
      job.target = world.host_data + host[count + i] * bytes;
      to.push_back(job);
    }
    std::vector<mover::Job> both;
    for (uint64_t i = 0; i < count; ++i) both.push_back(in[i]), both.push_back(to[i]);
    const auto rate = [&](const std::vector<mover::Job>& jobs, std::vector<double>& all) {
      run_jobs(*mover, jobs);
      for (int i = 0; i < 5; ++i)
        all.push_back(static_cast<double>(jobs.size() * bytes) / run_jobs(*mover, jobs) / 1e9);
      return median(all);
    };
    std::vector<double> ins, outs, boths;
    const double in_gbs = rate(in, ins);
    const double out_gbs = rate(to, outs);
    const double both_gbs = rate(both, boths);
    std::printf("  %7lu bytes x %5lu: in %5.1f (%.1f)  out %5.1f (%.1f)  both %5.1f (%.1f)\n",
                static_cast<unsigned long>(bytes), static_cast<unsigned long>(count), 100 * in_gbs / large.in,
                100 * spread(ins), 100 * out_gbs / large.out, 100 * spread(outs), 100 * both_gbs / large.both,
                100 * spread(boths));
    out["mover"].push_back({{"page_bytes", bytes},
                            {"pages", count},
                            {"in_percent", 100 * in_gbs / large.in},
                            {"out_percent", 100 * out_gbs / large.out},
                            {"both_percent", 100 * both_gbs / large.both},
                            {"in_gbs", in_gbs},
                            {"out_gbs", out_gbs},
                            {"both_gbs", both_gbs}});
  }
}

/// Every byte of pages that the mover has taken in and out again.
void check_mover(World& world, json& out) {
  const cuda::Driver& driver = world.gpu->driver();
  const cuda::Current current(driver, world.gpu->context());
  auto mover = must(mover::Mover::start(1));
  must(mover->add_gpu(0, world.gpu));
  uint64_t pages = 0;
  for (const uint64_t bytes : {uint64_t{16384}, uint64_t{65536}, uint64_t{3} * 65536, uint64_t{1} << 20}) {
    constexpr uint64_t kPages = 256;
    auto* const words = reinterpret_cast<uint64_t*>(world.host_data);
    for (uint64_t i = 0; i < kPages * bytes / 8; ++i) words[i] = i * 0x9e3779b97f4a7c15ull ^ bytes;
    std::byte* const back = world.host_data + kHostBytes / 2;
    std::memset(back, 0x5a, kPages * bytes);
    std::vector<mover::Job> in(kPages);
    std::vector<mover::Job> to(kPages);
    for (uint64_t i = 0; i < kPages; ++i) {
      in[i].gpu = to[i].gpu = 0;
      in[i].bytes = to[i].bytes = bytes;
      in[i].source = world.host_data + i * bytes;
      in[i].target = world.device_data + (kPages - 1 - i) * bytes;
      to[i].out = true;
      to[i].source = in[i].target;
      to[i].target = back + i * bytes;
    }
    run_jobs(*mover, in);
    run_jobs(*mover, to);
    expect(std::memcmp(world.host_data, back, kPages * bytes) == 0,
           "pages of " + std::to_string(bytes) + " bytes came back different");
    pages += kPages;
  }
  out["pages_checked"] = pages;
}

// ---- checksums ----

/// kvt_page_sums by itself.
class SumsKernel {
 public:
  static constexpr uint64_t kPagesMax = 65536;

  explicit SumsKernel(World& world) : driver_(world.gpu->driver()) {
    must(driver_.check(driver_.cuModuleLoadData(&module_, kvt_page_sums_code), "device code"));
    must(driver_.check(driver_.cuModuleGetFunction(&function_, module_, "kvt_page_sums"), "kvt_page_sums"));
    must(driver_.check(driver_.cuStreamCreateWithPriority(&stream_, CU_STREAM_NON_BLOCKING, 0), "stream"));
    void* memory = nullptr;
    must(driver_.check(driver_.cuMemHostAlloc(&memory, 2 * kPagesMax * sizeof(uint64_t), 0),
                       "memory for lists"));
    pages_ = static_cast<uint64_t*>(memory);
  }
  ~SumsKernel() {
    driver_.cuMemFreeHost(pages_);
    driver_.cuStreamDestroy(stream_);
    driver_.cuModuleUnload(module_);
  }
  SumsKernel(const SumsKernel&) = delete;
  SumsKernel& operator=(const SumsKernel&) = delete;

  /// Seconds until all are summed.
  double run(const std::vector<const std::byte*>& pages, uint64_t bytes, uint32_t blocks) {
    for (size_t i = 0; i < pages.size(); ++i) pages_[i] = address(pages[i]);
    CUdeviceptr list = reinterpret_cast<CUdeviceptr>(pages_);
    CUdeviceptr sums = reinterpret_cast<CUdeviceptr>(pages_ + kPagesMax);
    auto count = static_cast<uint32_t>(pages.size());
    void* arguments[] = {&list, &sums, &count, &bytes};
    const auto begin = Clock::now();
    must(driver_.check(
        driver_.cuLaunchKernel(function_, std::min(blocks, count), 1, 1, mover::device::kSumThreads, 1, 1, 0,
                               stream_, arguments, nullptr),
        "launch"));
    must(driver_.check(driver_.cuStreamSynchronize(stream_), "sums"));
    return seconds_since(begin);
  }
  [[nodiscard]] uint64_t sum(size_t i) const { return pages_[kPagesMax + i]; }

 private:
  const cuda::Driver& driver_;
  CUmodule module_ = nullptr;
  CUfunction function_ = nullptr;
  CUstream stream_ = nullptr;
  uint64_t* pages_ = nullptr;
};

/// The kernel's sums beside a CPU's, of pages of all shapes: whole blocks and halves, one tile and several.
void check_sums(World& world, json& out) {
  const cuda::Driver& driver = world.gpu->driver();
  const cuda::Current current(driver, world.gpu->context());
  SumsKernel kernel(world);
  constexpr uint64_t kPages = 40;
  uint64_t checked = 0;
  std::mt19937_64 random(2);
  auto* const words = reinterpret_cast<uint64_t*>(world.host_data);
  for (uint64_t i = 0; i < kPages * ((8u << 20) + 512) / 8; ++i) words[i] = random();
  for (const uint64_t bytes :
       {uint64_t{512}, uint64_t{16384}, uint64_t{16896}, uint64_t{65536}, uint64_t{66048}, uint64_t{131072},
        uint64_t{655360}, uint64_t{2} << 20, (uint64_t{2} << 20) + 512, uint64_t{8} << 20}) {
    must(driver.check(
        driver.cuMemcpyAsync(address(world.device_data), address(world.host_data), kPages * bytes, nullptr),
        "in"));
    must(driver.check(driver.cuStreamSynchronize(nullptr), "in"));
    std::vector<const std::byte*> pages;
    for (uint64_t i = 0; i < kPages; ++i) pages.push_back(world.device_data + i * bytes);
    for (const uint32_t blocks : {1u, 3u, 32u, 64u}) {
      kernel.run(pages, bytes, blocks);
      for (uint64_t i = 0; i < kPages; ++i)
        expect(kernel.sum(i) == mover::page_sum(world.host_data + i * bytes, bytes),
               "checksum of page " + std::to_string(i) + " of " + std::to_string(bytes) + " bytes");
      checked += kPages;
    }
  }
  out["sums_checked"] = checked;
}

/// How fast pages in HBM are summed, and what that takes of the mover's copies.
void measure_sums(World& world, json& out) {
  const cuda::Current current(world.gpu->driver(), world.gpu->context());
  constexpr uint32_t kWorkers = 4;
  auto mover = must(mover::Mover::start(kWorkers));
  must(mover->add_gpu(0, world.gpu));
  expect(mover->can_sum(0), "the mover sums no pages in HBM");
  SumsKernel kernel(world);
  std::mt19937_64 random(3);
  constexpr uint64_t kSummedBytes = 1ull << 30;
  auto* const words = reinterpret_cast<uint64_t*>(world.host_data);
  for (uint64_t i = 0; i < kSummedBytes / 8; ++i) words[i] = i * 0x9e3779b97f4a7c15ull;
  std::printf(
      "checksums, GB/s (median of 5): of pages in HBM by blocks of the kernel; the mover's copies without "
      "and with\n");
  for (const uint64_t bytes :
       {uint64_t{2} << 20, uint64_t{256} << 10, uint64_t{64} << 10, uint64_t{16} << 10}) {
    const uint64_t count = std::min<uint64_t>(kSummedBytes / bytes, 32768);
    std::vector<uint64_t> device(kDeviceBytes / bytes);
    std::iota(device.begin(), device.end(), 0);
    std::shuffle(device.begin(), device.end(), random);
    std::vector<mover::Job> in;
    std::vector<const std::byte*> pages;
    std::vector<uint64_t> sums;
    for (uint64_t i = 0; i < count; ++i) {
      mover::Job job;
      job.gpu = 0;
      job.bytes = bytes;
      job.source = world.host_data + i * bytes;
      job.target = world.device_data + device[i] * bytes;
      in.push_back(job);
      pages.push_back(job.target);
      sums.push_back(mover::page_sum(job.source, bytes));
    }
    run_jobs(*mover, in);  // they have the bytes whose sums are known
    json row{{"page_bytes", bytes}, {"pages", count}};
    const auto rate = [&](const std::function<double()>& work) {
      std::vector<double> all;
      work();
      for (int i = 0; i < 5; ++i) all.push_back(static_cast<double>(count * bytes) / work() / 1e9);
      return median(all);
    };
    std::printf("  %7lu bytes:", static_cast<unsigned long>(bytes));
    for (const uint32_t blocks : {1u, 8u, 32u, 64u}) {
      const double gbs = rate([&] { return kernel.run(pages, bytes, blocks); });
      for (uint64_t i = 0; i < count; ++i)
        if (kernel.sum(i) != sums[i]) {
          expect(false, "checksum of page " + std::to_string(i) + " of " + std::to_string(bytes) + " bytes");
          break;
        }
      row["kernel_gbs"][std::to_string(blocks)] = gbs;
      std::printf(" %u: %.0f", blocks, gbs);
    }
    // Of pages whose sum is not known yet a worker reads the source; of those that go out it reads the target.
    struct Mode {
      const char* name;
      bool out;
      bool sums;
      bool known;
    };
    for (const Mode& mode : {Mode{"in", false, false, false}, Mode{"in_checked", false, true, true},
                             Mode{"in_checked_first", false, true, false}, Mode{"out", true, false, false},
                             Mode{"out_checked", true, true, true}}) {
      std::vector<mover::Job> jobs = in;
      for (uint64_t i = 0; i < count; ++i) {
        if (mode.out) {
          jobs[i].out = true;
          jobs[i].source = in[i].target;
          jobs[i].target = world.host_data + kHostBytes / 2 + i * bytes;
        }
        jobs[i].sums = mode.sums;
        if (mode.known) jobs[i].expected = sums[i];
      }
      const double gbs = rate([&] { return run_jobs(*mover, jobs); });
      row[std::string(mode.name) + "_gbs"] = gbs;
      std::printf("  %s %.1f", mode.name, gbs);
    }
    std::printf("\n");
    out["sums"].push_back(row);
  }
  out["sums_workers"] = kWorkers;
}

// ---- what is left when a process dies ----

void send_fd(int socket, int fd) {
  char byte = 'x';
  iovec data{&byte, 1};
  char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  ::sendmsg(socket, &message, 0);
}
Fd receive_fd(int socket) {
  char byte = 0;
  iovec data{&byte, 1};
  char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(socket, &message, 0) <= 0 || CMSG_FIRSTHDR(&message) == nullptr) return Fd();
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  return Fd(fd);
}

constexpr uint64_t kSharedBytes = 64ull << 20;

/// A process of this program in another role, with one end of a socket as descriptor 3.
struct Role {
  pid_t pid = -1;
  Fd socket;
  Fd pidfd;

  explicit Role(const char* name) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) std::exit(1);
    pid = ::fork();
    if (pid == 0) {
      ::dup2(ends[1], 3);
      ::execl("/proc/self/exe", "gpu_measure", "--role", name, static_cast<char*>(nullptr));
      ::_exit(9);
    }
    ::close(ends[1]);
    socket = Fd(ends[0]);
    pidfd = Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  }
  [[nodiscard]] bool hear() const {
    char byte = 0;
    return ::read(socket.get(), &byte, 1) == 1;
  }
  void say() const { [[maybe_unused]] const ssize_t put = ::write(socket.get(), "x", 1); }
  /// Milliseconds from SIGKILL until its pidfd is readable.
  double kill() const {
    const auto begin = Clock::now();
    ::kill(pid, SIGKILL);
    pollfd waiting{pidfd.get(), POLLIN, 0};
    ::poll(&waiting, 1, 60'000);
    const double took = 1e3 * seconds_since(begin);
    ::waitpid(pid, nullptr, 0);
    return took;
  }
};

struct Kernels {
  CUmodule module = nullptr;
  CUfunction scribble = nullptr, fill = nullptr, count_wrong = nullptr;
  explicit Kernels(const cuda::Driver& driver) {
    must(driver.check(driver.cuModuleLoadData(&module, kvt_gpu_test_code), "device code"));
    for (const auto& [function, name] :
         {std::pair{&scribble, "kvt_test_scribble"}, std::pair{&fill, "kvt_test_fill"},
          std::pair{&count_wrong, "kvt_test_count_wrong"}})
      must(driver.check(driver.cuModuleGetFunction(function, module, name), name));
  }
};

void launch(const cuda::Driver& driver, CUfunction function, unsigned blocks, unsigned threads,
            void** arguments, CUstream stream = nullptr) {
  must(driver.check(
      driver.cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, stream, arguments, nullptr), "launch"));
}

cuda::DeviceWindow import_window(const std::shared_ptr<cuda::Gpu>& gpu, AddressRange& range, Fd fd) {
  range = must(cuda::reserve_addresses(gpu, kSharedBytes, 2u << 20));
  std::vector<Fd> fds;
  fds.push_back(std::move(fd));
  return must(cuda::DeviceWindow::import(gpu, range.data(), kSharedBytes, kSharedBytes, fds));
}

uint64_t wrong_words(const cuda::Gpu& gpu, const Kernels& kernels, CUdeviceptr data, uint64_t seed) {
  const cuda::Driver& driver = gpu.driver();
  void* memory = nullptr;
  must(driver.check(driver.cuMemHostAlloc(&memory, 8, 0), "memory"));
  auto* const count = static_cast<unsigned long long*>(memory);
  *count = 0;
  uint64_t words = kSharedBytes / 8;
  CUdeviceptr to = reinterpret_cast<CUdeviceptr>(memory);
  void* arguments[] = {&data, &words, &seed, &to};
  launch(driver, kernels.count_wrong, 64, 256, arguments);
  must(driver.check(driver.cuCtxSynchronize(), "count"));
  const uint64_t wrong = *count;
  driver.cuMemFreeHost(memory);
  return wrong;
}

/// Roles: scribble (writes to a host page and to device memory until it is killed), own (makes memory, fills it, gives
/// its descriptor away), read (maps it and reads it again and again; says what it found), take (maps it once).
int run_role(const std::string& name) {
  const auto gpu = must(cuda::Gpu::open(must(cuda::Driver::load("")), 0));
  const cuda::Driver& driver = gpu->driver();
  const cuda::Current current(driver, gpu->context());
  const Kernels kernels(driver);
  AddressRange range;
  uint64_t seed = 77;
  uint64_t words = kSharedBytes / 8;
  if (name == "own") {
    range = must(cuda::reserve_addresses(gpu, kSharedBytes, 2u << 20));
    const cuda::DeviceWindow window =
        must(cuda::DeviceWindow::create(gpu, range.data(), kSharedBytes, kSharedBytes));
    CUdeviceptr data = address(window.data());
    void* arguments[] = {&data, &words, &seed};
    launch(driver, kernels.fill, 64, 256, arguments);
    must(driver.check(driver.cuCtxSynchronize(), "fill"));
    send_fd(3, window.fds()[0].get());
    ::pause();
    return 0;
  }
  const cuda::DeviceWindow window = import_window(gpu, range, receive_fd(3));
  if (name == "scribble") {
    const Fd page = receive_fd(3);
    const Mapping mapping = must(Mapping::map(page, 4096, Access::kReadWrite));
    const auto registered =
        must(cuda::HostRegistration::make(gpu, mapping.data(), 4096, 4096, Access::kReadWrite, {}));
    CUdeviceptr host = address(mapping.data());
    CUdeviceptr data = address(window.data());
    void* arguments[] = {&host, &data};
    launch(driver, kernels.scribble, 1, 1, arguments);
    [[maybe_unused]] const ssize_t put = ::write(3, "r", 1);
    ::pause();
    return 0;
  }
  // read and take: says 'g' or 'b' for each look that it is asked for
  for (char byte = 0; ::read(3, &byte, 1) == 1;) {
    const bool good = wrong_words(*gpu, kernels, address(window.data()), seed) == 0;
    [[maybe_unused]] const ssize_t put = ::write(3, good ? "g" : "b", 1);
  }
  return 0;
}

void measure_death(World& world, json& out) {
  const cuda::Driver& driver = world.gpu->driver();
  const cuda::Current current(driver, world.gpu->context());
  std::printf("a killed process whose kernel writes to registered host memory and to shared HBM\n");
  for (int round = 0; round < 3; ++round) {
    AddressRange range = must(cuda::reserve_addresses(world.gpu, kSharedBytes, 2u << 20));
    const cuda::DeviceWindow window =
        must(cuda::DeviceWindow::create(world.gpu, range.data(), kSharedBytes, kSharedBytes));
    const Fd page = must(make_memfd("kvt-gpu-death", 4096));
    const Mapping mapping = must(Mapping::map(page, 4096, Access::kReadWrite));
    auto* const word = reinterpret_cast<volatile uint64_t*>(mapping.data());
    *word = 0;
    const Role role("scribble");
    send_fd(role.socket.get(), window.fds()[0].get());
    send_fd(role.socket.get(), page.get());
    if (!role.hear()) return expect(false, "the scribbling process did not begin");
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const auto device_word = [&] {
      uint64_t value = 0;
      driver.cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(&value), address(window.data()), 8, nullptr);
      driver.cuStreamSynchronize(nullptr);
      return value;
    };
    expect(*word > 0 && device_word() > 0, "the kernel wrote nothing before the kill");
    const double pidfd_ms = role.kill();
    const uint64_t host_then = *word;
    const uint64_t device_then = device_word();
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    const uint64_t host_more = *word - host_then;
    const uint64_t device_more = device_word() - device_then;
    std::printf("  SIGKILL to pidfd %.1f ms; stores after that: host %lu, HBM %lu\n", pidfd_ms,
                static_cast<unsigned long>(host_more), static_cast<unsigned long>(device_more));
    out["death"].push_back(
        {{"pidfd_ms", pidfd_ms}, {"host_stores_after", host_more}, {"hbm_stores_after", device_more}});
  }
  const Role owner("own");
  const Fd memory = receive_fd(owner.socket.get());
  const Role reader("read");
  send_fd(reader.socket.get(), memory.get());
  const auto looks = [](const Role& role, const char* when) {
    char answer = 0;
    role.say();
    if (::read(role.socket.get(), &answer, 1) != 1) answer = 'x';
    expect(answer == 'g', std::string("HBM read ") + when + ": " + answer);
    return answer == 'g';
  };
  const bool before = looks(reader, "before its owner was killed");
  reader.say();  // a read is under way while the owner dies
  const double owner_ms = owner.kill();
  char during = 0;
  if (::read(reader.socket.get(), &during, 1) != 1) during = 'x';
  expect(during == 'g', "HBM read while its owner died");
  const bool after = looks(reader, "by who had mapped it, after its owner was killed");
  const double reader_ms = reader.kill();
  // Nobody has it mapped now; the descriptor alone keeps it.
  const Role taker("take");
  send_fd(taker.socket.get(), memory.get());
  const bool kept = looks(taker, "by its descriptor alone, after all who had mapped it were killed");
  taker.kill();
  std::printf(
      "HBM whose owner is killed: right before %d, meanwhile %d, after %d, through its descriptor alone %d\n",
      before, during == 'g', after, kept);
  out["owner_killed"] = {{"right_before", before},     {"right_meanwhile", during == 'g'},
                         {"right_after", after},       {"right_by_descriptor_alone", kept},
                         {"owner_pidfd_ms", owner_ms}, {"reader_pidfd_ms", reader_ms}};
}

/// What it costs to end a step by the stream.
void measure_step_end(World& world, json& out) {
  const cuda::Driver& driver = world.gpu->driver();
  const cuda::Current current(driver, world.gpu->context());
  CUstream stream = nullptr;
  must(driver.check(driver.cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0), "stream"));
  auto* const word = reinterpret_cast<volatile uint64_t*>(world.host_data);
  std::vector<double> enqueue, seen, host;
  for (int i = 0; i < 300; ++i) {
    *word = 1;
    const auto begin = Clock::now();
    must(driver.check(driver.cuStreamWriteValue64(stream, address(world.host_data), 0, 0), "write"));
    enqueue.push_back(1e6 * seconds_since(begin));
    while (*word != 0 && seconds_since(begin) < 1) {
    }
    seen.push_back(1e6 * seconds_since(begin));
  }
  for (int i = 0; i < 300; ++i) {
    *word = 1;
    const auto begin = Clock::now();
    must(driver.check(
        driver.cuLaunchHostFunc(
            stream, [](void* data) { *static_cast<volatile uint64_t*>(data) = 0; }, world.host_data),
        "host function"));
    while (*word != 0 && seconds_since(begin) < 1) {
    }
    host.push_back(1e6 * seconds_since(begin));
  }
  driver.cuStreamDestroy(stream);
  std::printf(
      "a step's end by the stream: enqueued in %.2f us, seen after %.2f us; by a host function after %.2f "
      "us\n",
      median(enqueue), median(seen), median(host));
  out["step_end"] = {
      {"enqueue_us", median(enqueue)}, {"seen_us", median(seen)}, {"host_function_us", median(host)}};
}

}  // namespace
}  // namespace kvt

int main(int argc, char** argv) {
  using namespace kvt;
  if (argc == 3 && std::string(argv[1]) == "--role") return run_role(argv[2]);
  if (argc == 2 && std::string(argv[1]) == "--probe") {
    const auto driver = cuda::Driver::load("");
    const auto gpus =
        driver ? cuda::list_gpus(**driver)
               : Result<std::vector<cuda::GpuInfo>>(fail(driver.error().code, driver.error().text));
    if (!gpus) std::printf("%s\n", gpus.error().text.c_str());
    return gpus && !gpus->empty() ? 0 : 3;
  }
  nlohmann::json out;
  const std::unique_ptr<World> made = make_world(out);
  World& world = *made;
  std::printf("%s, CUDA %s\n", world.gpu->info().name.c_str(), out["driver"].get<std::string>().c_str());
  measure_registration(world, out);
  const Large large = measure_large(world, out);
  measure_driver_host(world, large, out);
  measure_chunk(world, out);
  check_mover(world, out);
  measure_mover(world, large, out);
  check_sums(world, out);
  measure_sums(world, out);
  measure_step_end(world, out);
  measure_death(world, out);
  out["right"] = !failed;
  std::printf("%s\n", out.dump().c_str());
  return failed ? 1 : 0;
}
