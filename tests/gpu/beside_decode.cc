// SPDX-License-Identifier: Apache-2.0
//
// A child launches attention over pages in HBM, step after step, as an engine does; this process moves other pages in
// both directions at full speed, as a kvtierd does. Each alone, then together, for each size of pages and way to copy them:
//   2 MiB, 256 KiB   by copy engines
//   64 KiB           in by the engine, out by the mover's kernel
//   16 KiB           by its kernel
//   64, 16 KiB       by copy engines all the same, to compare: by a mover that has no kernel
// The mover's streams have the lowest priority. Priorities order work within a process: kernels of two processes share a
// GPU by time slices, unless MPS runs them as one. So copies by engines cost a decode the bandwidth that they take, while
// copies by a kernel take the whole GPU from it for a slice at a time. The figures are to tell whether small pages should
// go by engines while another process computes.
//
// A step's time is from the end of the one before to its own, by events, with two in flight. Prints a table, and one JSON
// object as its last line. Exit: 0; 1 when something is wrong that is no figure; 2 wrong use; 3 no GPU.
//
//   gpu_decode_loop beside [--small]     small: a few MiB, and copies in place of attention, for the stand-in driver
#include "tests/gpu/beside_decode.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/mover/mover.h"
#include "daemon/tier/backend.h"
#include "shm/cuda/gpu.h"
#include "tests/gpu/checks.h"
#include "tests/support/short_floats.h"
#include "tools/kvtier-decode/device/attention_host.h"

namespace kvt::beside {
namespace {

using namespace gpu_test;  // NOLINT: the words of this folder
using nlohmann::json;

/// At a share of the values in order. REQUIRES: there are some.
double quantile(std::vector<double>& values, double share) {
  std::sort(values.begin(), values.end());
  return values[std::min(static_cast<size_t>(share * static_cast<double>(values.size())), values.size() - 1)];
}
CUdeviceptr address(const void* data) { return reinterpret_cast<CUdeviceptr>(data); }
std::string driver_path() {
  const char* const named = std::getenv("KVT_CUDA_DRIVER");
  return named == nullptr ? "" : named;
}

struct Sizes {
  // Of the mover: a half of each memory goes in, the other half out.
  uint64_t window_bytes = 1ull << 30;
  // Of the decode, a layer of which is a step: 64 sequences, 256 KiB a block, 1.6 GiB.
  uint32_t sequences = 64;
  uint32_t blocks = 104;
  uint32_t block_tokens = 64;
  uint32_t kv_heads = 8;
  uint32_t group = 4;
  uint32_t head_dim = 128;
  bool attention = true;
  double warm_s = 0.2;
  double measure_s = 1;

  [[nodiscard]] uint64_t block_bytes() const { return uint64_t{4} * kv_heads * block_tokens * head_dim; }
  [[nodiscard]] uint32_t all_blocks() const { return sequences * blocks; }
  [[nodiscard]] uint64_t out_bytes() const { return uint64_t{2} * sequences * kv_heads * group * head_dim; }
};

Sizes sizes_of(bool small) {
  Sizes sizes;
  if (!small) return sizes;
  sizes.window_bytes = 32ull << 20;
  sizes.sequences = 4;
  sizes.blocks = 8;
  sizes.block_tokens = 16;
  sizes.kv_heads = 2;
  sizes.attention = false;
  sizes.warm_s = 0.02;
  sizes.measure_s = 0.1;
  return sizes;
}

// ---- the process that decodes ----

/// What it is told, with descriptor 3 for both directions; it answers with Steps.
struct Order {
  double warm_s = 0;
  double measure_s = 0;
};
struct Steps {
  uint64_t count = 0;
  double median_ms = 0;
  double p99_ms = 0;
  double mean_ms = 0;
  bool right = false;  ///< the last one gave the same bytes as the first one of the process
};

class Decode {
 public:
  Decode(std::shared_ptr<cuda::Gpu> gpu, const Sizes& sizes) : gpu_(std::move(gpu)), sizes_(sizes) {
    check(driver().cuStreamCreateWithPriority(&stream_, CU_STREAM_NON_BLOCKING, 0), "a stream");
    for (CUevent& event : events_) check(driver().cuEventCreate(&event, CU_EVENT_DEFAULT), "an event");
    const uint64_t pages_bytes = sizes.all_blocks() * sizes.block_bytes();
    pages_ = device_memory(pages_bytes);
    out_ = device_memory(answer_bytes());
    void* memory = nullptr;
    check(driver().cuMemHostAlloc(&memory, std::max(answer_bytes(), kContentBytes), 0), "host memory");
    host_ = static_cast<std::byte*>(memory);
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    const auto fill_host = [&](uint64_t bytes) {
      auto* const numbers = reinterpret_cast<uint16_t*>(host_);
      for (uint64_t i = 0; i < bytes / 2; ++i) numbers[i] = test::to_half(normal(random));
    };
    // The same megabyte again and again, begun at another place each time.
    fill_host(kContentBytes);
    for (uint64_t at = 0, n = 0; at < pages_bytes; ++n) {
      const uint64_t from = n * 4096 % kContentBytes;
      const uint64_t bytes = std::min(kContentBytes - from, pages_bytes - at);
      copy(pages_ + at, address(host_) + from, bytes);
      at += bytes;
    }
    wait();
    order_.resize(sizes.all_blocks());
    std::iota(order_.begin(), order_.end(), 0);
    std::shuffle(order_.begin(), order_.end(), random);
    if (!sizes.attention) return;
    attention_ = std::make_unique<decode::PagedAttention>(
        must(decode::PagedAttention::create(gpu_->shared_driver(), gpu_->context())));
    const CUdeviceptr queries = device_memory(sizes.out_bytes());
    const CUdeviceptr table = device_memory(order_.size() * 4);
    const CUdeviceptr lengths = device_memory(sizes.sequences * 4);
    fill_host(sizes.out_bytes());
    copy(queries, address(host_), sizes.out_bytes());
    const std::vector<int32_t> tokens(sizes.sequences,
                                      static_cast<int32_t>(sizes.blocks * sizes.block_tokens));
    copy(table, address(order_.data()), order_.size() * 4);
    copy(lengths, address(tokens.data()), tokens.size() * 4);
    wait();
    arguments_.base = pages_;
    arguments_.stride = arguments_.layer_stride = sizes.block_bytes();
    arguments_.first_host_frame = static_cast<int32_t>(sizes.all_blocks());
    arguments_.block_table = table;
    arguments_.lengths = lengths;
    arguments_.q = queries;
    arguments_.out = out_;
    arguments_.seqs = static_cast<int>(sizes.sequences);
    arguments_.heads = static_cast<int>(sizes.kv_heads * sizes.group);
    arguments_.kv_heads = static_cast<int>(sizes.kv_heads);
    arguments_.head_dim = static_cast<int>(sizes.head_dim);
    arguments_.block_tokens = static_cast<int>(sizes.block_tokens);
    arguments_.max_blocks = static_cast<int>(sizes.blocks);
    arguments_.scale = 1.0f / std::sqrt(static_cast<float>(sizes.head_dim));
  }
  Decode(const Decode&) = delete;
  Decode& operator=(const Decode&) = delete;
  ~Decode() {
    driver().cuStreamSynchronize(stream_);
    for (const CUdeviceptr memory : memory_) driver().cuMemFree(memory);
    driver().cuMemFreeHost(host_);
  }

  Steps run(const Order& order) {
    std::vector<double> ms;
    uint64_t step = 0;
    const auto begun = Clock::now();
    for (; seconds_since(begun) < order.warm_s + order.measure_s || ms.empty(); ++step) {
      if (step >= kInFlight) {
        const uint64_t done = step - kInFlight;
        check(driver().cuEventSynchronize(event(done)), "wait for a step");
        if (done > 0 && seconds_since(begun) > order.warm_s) {
          float took = 0;
          check(driver().cuEventElapsedTime(&took, event(done - 1), event(done)), "time of a step");
          ms.push_back(static_cast<double>(took));
        }
      }
      enqueue();
      check(driver().cuEventRecord(event(step), stream_), "record an event");
    }
    wait();
    Steps steps;
    steps.count = ms.size();
    steps.mean_ms = std::accumulate(ms.begin(), ms.end(), 0.0) / static_cast<double>(ms.size());
    steps.median_ms = quantile(ms, 0.5);
    steps.p99_ms = quantile(ms, 0.99);
    copy(address(host_), out_, answer_bytes());
    check(driver().cuMemsetD8Async(out_, 0xff, answer_bytes(), stream_), "a fill");
    wait();
    if (first_.empty()) first_.assign(host_, host_ + answer_bytes());
    steps.right = std::memcmp(first_.data(), host_, answer_bytes()) == 0;
    return steps;
  }

 private:
  static constexpr uint64_t kContentBytes = 1 << 20;
  static constexpr uint64_t kInFlight = 2;

  [[nodiscard]] const cuda::Driver& driver() const { return gpu_->driver(); }
  void check(CUresult result, const char* what) const { must(driver().check(result, what)); }
  void wait() const { check(driver().cuStreamSynchronize(stream_), "wait for the stream"); }
  void copy(CUdeviceptr to, CUdeviceptr from, uint64_t bytes) const {
    check(driver().cuMemcpyAsync(to, from, bytes, stream_), "a copy");
  }
  CUdeviceptr device_memory(uint64_t bytes) {
    memory_.push_back(0);
    check(driver().cuMemAlloc(&memory_.back(), bytes), "device memory");
    return memory_.back();
  }
  /// One more than are in flight keeps the end of the step before.
  [[nodiscard]] CUevent event(uint64_t step) const { return events_[step % events_.size()]; }
  [[nodiscard]] uint64_t answer_bytes() const {
    return sizes_.attention ? sizes_.out_bytes() : sizes_.all_blocks() * sizes_.block_bytes();
  }
  void enqueue() {
    if (attention_ != nullptr) return must(attention_->launch(arguments_, stream_));
    for (size_t i = 0; i < order_.size(); ++i)
      copy(out_ + i * sizes_.block_bytes(), pages_ + static_cast<uint32_t>(order_[i]) * sizes_.block_bytes(),
           sizes_.block_bytes());
  }

  std::shared_ptr<cuda::Gpu> gpu_;
  const Sizes sizes_;
  CUstream stream_ = nullptr;
  std::array<CUevent, kInFlight + 2> events_{};
  std::vector<CUdeviceptr> memory_;
  CUdeviceptr pages_ = 0, out_ = 0;
  std::byte* host_ = nullptr;
  std::vector<int32_t> order_;  // frames of the sequences' blocks
  std::unique_ptr<decode::PagedAttention> attention_;
  decode::AttentionArguments arguments_;
  std::vector<std::byte> first_;
};

int run_child(bool small) {
  const auto gpu = must(cuda::Gpu::open(must(cuda::Driver::load(driver_path())), 0));
  const cuda::Current current(gpu->driver(), gpu->context());
  Decode decode(gpu, sizes_of(small));
  const Steps ready = decode.run({});
  [[maybe_unused]] ssize_t put = ::write(3, &ready, sizeof ready);
  for (Order order; ::read(3, &order, sizeof order) == sizeof order;) {
    const Steps steps = decode.run(order);
    put = ::write(3, &steps, sizeof steps);
  }
  return 0;
}

class Child {
 public:
  explicit Child(bool small) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) std::exit(1);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(ends[1], 3);
      ::execl("/proc/self/exe", "gpu_decode_loop", "beside", "--decode", small ? "--small" : nullptr,
              static_cast<char*>(nullptr));
      ::_exit(9);
    }
    ::close(ends[1]);
    socket_ = Fd(ends[0]);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    socket_.reset();
    ::waitpid(pid_, nullptr, 0);
  }
  [[nodiscard]] const Fd& socket() const { return socket_; }
  void order(const Order& order) const {
    if (::write(socket_.get(), &order, sizeof order) != sizeof order) gone();
  }
  /// Waits for the steps that were ordered.
  [[nodiscard]] Steps take() const {
    Steps steps;
    if (::read(socket_.get(), &steps, sizeof steps) != sizeof steps) gone();
    return steps;
  }

 private:
  [[noreturn]] static void gone() {
    std::printf("FAILED: the decoding process has ended\n");
    std::exit(1);
  }
  pid_t pid_ = -1;
  Fd socket_;
};

// ---- the process that moves pages ----

/// A device window and a host window in one range, as a daemon has them. Pages come in from the first half of host
/// memory to the first half of HBM; they go out from and to the second halves.
struct World {
  std::shared_ptr<cuda::Gpu> gpu;
  AddressRange range;
  tier::Window host;
  cuda::HostRegistration registered;
  std::unique_ptr<cuda::DeviceWindow> device;
  std::byte* device_data = nullptr;
  std::byte* host_data = nullptr;
  uint64_t half = 0;

  World(const std::shared_ptr<cuda::Gpu>& opened, uint64_t bytes) : gpu(opened), half(bytes / 2) {
    range = must(cuda::reserve_addresses(gpu, 2 * bytes, 2u << 20));
    device = std::make_unique<cuda::DeviceWindow>(
        must(cuda::DeviceWindow::create(gpu, range.data(), bytes, bytes)));
    device_data = range.data();
    tier::NumaBackend backend;
    tier::WindowRequest request;
    request.name = "gpu-beside";
    request.bytes = bytes;
    request.pages = OsPages::kSmall;
    request.threads = std::max(1u, std::thread::hardware_concurrency());
    request.range = &range;
    request.offset = bytes;
    host = must(backend.make_window(request));
    host_data = host.mapping.data();
    registered = must(cuda::HostRegistration::make(gpu, host_data, bytes, bytes, Access::kReadWrite, {}));
    auto* const words = reinterpret_cast<uint64_t*>(host_data);
    for (uint64_t i = 0; i < half / 8; ++i) words[i] = i * 0x9e3779b97f4a7c15ull ^ 1;
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  ~World() = default;

  void copy(std::byte* to, const std::byte* from) const {
    const cuda::Current current(gpu->driver(), gpu->context());
    must(gpu->driver().check(gpu->driver().cuMemcpyAsync(address(to), address(from), half, nullptr),
                             "a copy"));
    must(gpu->driver().check(gpu->driver().cuStreamSynchronize(nullptr), "a copy"));
  }
};

/// 10^9 bytes a second.
struct Rate {
  double in = 0, out = 0;
};

/// Pages at random places, again and again.
class Moves {
 public:
  Moves(World& world, mover::Mover& mover, uint64_t page_bytes)
      : world_(world), mover_(mover), page_bytes_(page_bytes) {
    // The same words everywhere that pages are taken from; where they go to, none of them.
    world.copy(world.device_data + world.half, world.host_data);
    std::memset(world.host_data + world.half, 0x5a, world.half);
    world.copy(world.device_data, world.host_data + world.half);
    const uint64_t count = world.half / page_bytes;
    std::vector<uint64_t> from(count), to(count);
    std::iota(from.begin(), from.end(), 0);
    std::iota(to.begin(), to.end(), 0);
    std::mt19937_64 random(1);
    for (std::vector<uint64_t>* order : {&from, &to}) std::shuffle(order->begin(), order->end(), random);
    for (uint64_t i = 0; i < count; ++i) {
      mover::Job job;
      job.gpu = 0;
      job.bytes = page_bytes;
      job.source = world.host_data + from[i] * page_bytes;
      job.target = world.device_data + to[i] * page_bytes;
      jobs_[0].push_back(job);
      job.out = true;
      job.source = world.device_data + world.half + from[i] * page_bytes;
      job.target = world.host_data + world.half + to[i] * page_bytes;
      jobs_[1].push_back(job);
    }
  }

  /// For so long, or until the descriptor is readable. Whole rounds besides, that each page moves once at least.
  Rate run(double seconds, int until_fd) {
    const auto begun = Clock::now();
    std::array<uint64_t, 2> submitted{}, done{};
    std::array<uint64_t, 2> counted{};
    double took = 0;
    bool over = false;
    const auto submit = [&](bool out) { mover_.submit(jobs_[out][submitted[out]++ % jobs_[out].size()]); };
    // More than the mover hands over ahead, so that it never waits for pages; less than all: a page is not under way twice.
    for (uint64_t i = 0; i < jobs_[0].size() * 7 / 8; ++i) submit(false), submit(true);
    while (done[0] < submitted[0] || done[1] < submitted[1]) {
      std::array<pollfd, 2> waiting{{{mover_.completion_fd().get(), POLLIN, 0}, {until_fd, POLLIN, 0}}};
      ::poll(waiting.data(), over ? 1 : 2, 10'000);
      if (!over && (until_fd < 0 ? seconds_since(begun) >= seconds : waiting[1].revents != 0)) {
        over = true;
        took = seconds_since(begun);
        counted = done;
      }
      for (const mover::Job& job : mover_.take_completions()) {
        expect(!job.failed, "a copy failed: CUDA error " + std::to_string(job.driver_error));
        ++done[job.out];
        if (!over || submitted[job.out] < jobs_[job.out].size()) submit(job.out);
      }
    }
    const auto rate = [&](uint64_t pages) { return static_cast<double>(pages * page_bytes_) / took * 1e-9; };
    return {rate(counted[0]), rate(counted[1])};
  }

  /// Looks at all pages that have been moved, in both memories.
  void check() {
    const auto wrong = [&](const std::vector<mover::Job>& jobs) {
      return std::count_if(jobs.begin(), jobs.end(), [&](const mover::Job& job) {
        const bool out = job.out;
        const uint64_t from =
            static_cast<uint64_t>(job.source - (out ? world_.device_data + world_.half : world_.host_data));
        const uint64_t to =
            static_cast<uint64_t>(job.target - (out ? world_.host_data + world_.half : world_.device_data));
        return std::memcmp(world_.host_data + from, world_.host_data + world_.half + to, page_bytes_) != 0;
      });
    };
    const std::string pages = " pages of " + std::to_string(page_bytes_) + " bytes are wrong after moving ";
    expect(wrong(jobs_[1]) == 0, std::to_string(wrong(jobs_[1])) + pages + "out");
    world_.copy(world_.host_data + world_.half, world_.device_data);
    expect(wrong(jobs_[0]) == 0, std::to_string(wrong(jobs_[0])) + pages + "in");
  }

 private:
  World& world_;
  mover::Mover& mover_;
  uint64_t page_bytes_;
  std::array<std::vector<mover::Job>, 2> jobs_;  // in, out
};

/// A driver of its own for a mover that copies all with engines: as where kvtierd was built without device code.
std::shared_ptr<const cuda::Driver> driver_without_kernels() {
  auto driver = must(cuda::Driver::load(driver_path()));
  const_cast<cuda::Driver&>(*driver).cuModuleLoadData = [](CUmodule*, const void*) {
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  };
  return driver;
}

int run(bool small) {
  const auto begun = Clock::now();
  const Sizes sizes = sizes_of(small);
  const auto driver = cuda::Driver::load(driver_path());
  if (!driver) {
    std::fprintf(stderr, "gpu_decode_loop: %s\n", driver.error().text.c_str());
    return 3;
  }
  const Child child(small);
  const auto gpu = must(cuda::Gpu::open(*driver, 0));
  World world(gpu, sizes.window_bytes);
  auto usual = must(mover::Mover::start(1));
  must(usual->add_gpu(0, gpu));
  auto by_engines = must(mover::Mover::start(1));
  must(by_engines->add_gpu(0, must(cuda::Gpu::open(driver_without_kernels(), 0))));
  expect(child.take().right, "the decoding process");

  json out{{"gpu", gpu->info().name},
           {"driver", cuda::version_text(gpu->driver().version())},
           {"attention", sizes.attention},
           {"step_bytes", sizes.all_blocks() * sizes.block_bytes()}};
  std::printf(
      "%s; a step reads %.2f GiB of HBM in another process; pages are moved in both directions\n"
      "%-20s %20s %20s %21s %13s %13s\n"
      "%-20s %10s %9s %10s %9s %7s %6s %6s %6s %6s %6s %6s\n",
      gpu->info().name.c_str(),
      static_cast<double>(sizes.all_blocks() * sizes.block_bytes()) / static_cast<double>(1u << 30), "",
      "step alone, ms", "beside, ms", "beside / alone", "alone, GB/s", "beside, GB/s", "", "median", "p99",
      "median", "p99", "median", "p99", "mean", "in", "out", "in", "out");
  struct Row {
    const char* name;
    const char* way;
    uint64_t page_bytes;
    mover::Mover& mover;
  };
  const Row rows[] = {{"2 MiB, engines", "engines", 2u << 20, *usual},
                      {"256 KiB, engines", "engines", 256u << 10, *usual},
                      {"64 KiB, kernel out", "engine in, kernel out", 64u << 10, *usual},
                      {"64 KiB, engines", "engines", 64u << 10, *by_engines},
                      {"16 KiB, kernel", "kernel", 16u << 10, *usual},
                      {"16 KiB, engines", "engines", 16u << 10, *by_engines}};
  for (const Row& row : rows) {
    Moves moves(world, row.mover, row.page_bytes);
    const Order order{sizes.warm_s, sizes.measure_s};
    child.order(order);
    const Steps alone = child.take();
    const Rate moved_alone = moves.run(sizes.warm_s + sizes.measure_s, -1);
    child.order(order);
    const Rate moved_beside = moves.run(0, child.socket().get());
    const Steps beside = child.take();
    moves.check();
    expect(alone.right && beside.right, std::string(row.name) + ": a step gave other bytes");
    expect(moved_alone.in > 0 && moved_alone.out > 0 && moved_beside.in > 0 && moved_beside.out > 0,
           std::string(row.name) + ": no page was moved");
    std::printf("%-20s %10.3f %9.3f %10.3f %9.3f %7.2f %6.2f %6.2f %6.1f %6.1f %6.1f %6.1f\n", row.name,
                alone.median_ms, alone.p99_ms, beside.median_ms, beside.p99_ms,
                beside.median_ms / alone.median_ms, beside.p99_ms / alone.p99_ms,
                beside.mean_ms / alone.mean_ms, moved_alone.in, moved_alone.out, moved_beside.in,
                moved_beside.out);
    std::fflush(stdout);
    const auto steps = [](const Steps& of) {
      return json{
          {"steps", of.count}, {"median_ms", of.median_ms}, {"p99_ms", of.p99_ms}, {"mean_ms", of.mean_ms}};
    };
    out["rows"].push_back({{"page_bytes", row.page_bytes},
                           {"by", row.way},
                           {"alone", steps(alone)},
                           {"beside", steps(beside)},
                           {"median_ratio", beside.median_ms / alone.median_ms},
                           {"p99_ratio", beside.p99_ms / alone.p99_ms},
                           {"mean_ratio", beside.mean_ms / alone.mean_ms},
                           {"mover_alone", {{"in_gbs", moved_alone.in}, {"out_gbs", moved_alone.out}}},
                           {"mover_beside", {{"in_gbs", moved_beside.in}, {"out_gbs", moved_beside.out}}}});
  }
  std::printf("%.1f s altogether\n", seconds_since(begun));
  out["seconds"] = seconds_since(begun);
  out["right"] = !failed;
  std::printf("%s\n", out.dump().c_str());
  return failed ? 1 : 0;
}

}  // namespace

int run_beside(int argc, char** argv) {
  bool small = false, decode = false;
  for (int i = 0; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--small") {
      small = true;
    } else if (option == "--decode") {
      decode = true;  // the child
    } else {
      std::fprintf(stderr, "usage: gpu_decode_loop beside [--small]\n");
      return 2;
    }
  }
  ::alarm(180);  // a kernel that waits for ever
  return decode ? run_child(small) : run(small);
}

}  // namespace kvt::beside
