// SPDX-License-Identifier: Apache-2.0
//
// What a client of device memory costs, with a real kvtierd and a real session: page tables on the device, steps, attach,
// strided copies, counters of reads; and whether kvtier/device.cuh does what it says. Prints a table, and one JSON object
// as its last line. Exit code 1 when something is wrong that is no figure; 3 without a GPU.
//
//   gpu_clients [--small]     small: a few MiB and few rounds, for the stand-in driver (KVT_CUDA_DRIVER)
#include <gtest/gtest.h>
#include <kvtier/cuda.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <kvtier/device.cuh>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "shm/cuda/gpu.h"
#include "tests/support/client.h"
#include "tests/support/cuda/standin.h"
#include "tests/support/daemon.h"

extern const unsigned char kvt_gpu_reader_code[];

namespace kvt {
namespace {

using nlohmann::json;
using test::Clock;

bool failed = false;

void expect(bool good, const std::string& what) {
  if (good) return;
  failed = true;
  std::printf("WRONG: %s\n", what.c_str());
}
/// Of what nothing can go on without.
void must(bool good, const std::string& what) {
  if (good) return;
  std::printf("FAILED: %s: %s\n", what.c_str(), kvt_last_error());
  std::exit(1);
}
template <typename T>
T must(Result<T> result, const char* what) {
  if (result) return std::move(*result);
  std::printf("FAILED: %s: %s\n", what, result.error().text.c_str());
  std::exit(1);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}
double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}
/// This thread's, in microseconds.
double cpu_us() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e6 * static_cast<double>(now.tv_sec) + 1e-3 * static_cast<double>(now.tv_nsec);
}
CUdeviceptr address(const void* data) { return reinterpret_cast<CUdeviceptr>(data); }

struct Sizes {
  uint64_t page_bytes = 64 << 10;
  uint64_t hbm_bytes = 192ull << 20;  ///< half of the pages that kernels read, and their targets
  uint64_t dram_bytes = 8ull << 30;
  uint32_t pages = 10'000;    ///< that change, and that kernels count
  uint32_t blocks = 100'000;  ///< block ids that are translated
  uint32_t read_pages = 2'000;
  int rounds = 20;
};
constexpr uint32_t kPlanes = 32;
constexpr uint32_t kCopies = 64;

Sizes small_sizes() {
  Sizes sizes;
  sizes.hbm_bytes = 4u << 20;
  sizes.dram_bytes = 16u << 20;
  sizes.pages = 200;
  sizes.blocks = 1000;
  sizes.read_pages = 32;
  sizes.rounds = 3;
  return sizes;
}

std::string driver_path() {
  const char* const named = std::getenv("KVT_CUDA_DRIVER");
  return named == nullptr || *named == '\0' ? "libcuda.so.1" : named;
}

test::World world_of(const Sizes& sizes, const char* huge_pages) {
  test::World world;
  world.cuda_driver = driver_path();
  world.page_bytes = sizes.page_bytes;
  world.hbm_bytes = sizes.hbm_bytes;
  world.dram_bytes = sizes.dram_bytes;
  world.huge_pages = huge_pages;
  world.planes = kPlanes;
  return world;
}

/// A session with the GPU, and the program's own stream and kernels.
struct Engine {
  const test::Daemon& daemon;
  std::string driver_name = driver_path();
  std::shared_ptr<const cuda::Driver> driver;
  std::shared_ptr<cuda::Gpu> gpu;
  test::Client client;
  double attach_s = 0;
  CUstream stream = nullptr;
  CUevent events[3] = {};
  CUmodule module = nullptr;

  explicit Engine(const test::Daemon& of) : daemon(of) {
    driver = must(cuda::Driver::load(driver_name), "the driver");
    gpu = must(cuda::Gpu::open(driver, 0), "the GPU");
    check(driver->cuCtxSetCurrent(gpu->context()), "context");
    kvt_attach_args args = test::attach_args(daemon.folder());
    args.flags = KVT_ATTACH_CUDA | KVT_ATTACH_NO_BALANCE;
    args.cuda_driver = driver_name.c_str();
    args.timeout_ms = 30'000;
    const auto begin = Clock::now();
    client = test::Client(args);
    attach_s = seconds_since(begin);
    must(client.code() == KVT_OK, "attach");
    check(driver->cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0), "stream");
    for (CUevent& event : events) check(driver->cuEventCreate(&event, CU_EVENT_DEFAULT), "event");
    check(driver->cuModuleLoadData(&module, kvt_gpu_reader_code), "device code");
  }
  ~Engine() {
    client.detach();
    driver->cuModuleUnload(module);
    for (CUevent event : events) driver->cuEventDestroy(event);
    driver->cuStreamDestroy(stream);
    driver->cuCtxSetCurrent(nullptr);
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  operator kvt_session*() const { return client.get(); }  // NOLINT: the program is about the C calls

  void check(CUresult result, const char* what) const {
    if (result == CUDA_SUCCESS) return;
    std::printf("FAILED: %s: CUDA error %d\n", what, static_cast<int>(result));
    std::exit(1);
  }
  void record(int event) const { check(driver->cuEventRecord(events[event], stream), "event"); }
  [[nodiscard]] double us_between(int first, int second) const {
    float ms = 0;
    check(driver->cuEventElapsedTime(&ms, events[first], events[second]), "time");
    return 1e3 * static_cast<double>(ms);
  }
  void sync() const {
    check(driver->cuStreamSynchronize(stream), "work of the stream");
    kvt_cuda_poll(client);
  }
  [[nodiscard]] kvt_step begin() const {
    kvt_step step{};
    must(kvt_cuda_step_begin(client, stream, &step) == KVT_OK, "a step's begin");
    return step;
  }
  void end(const kvt_step& step) const { must(kvt_cuda_step_end(client, &step) == KVT_OK, "a step's end"); }
  /// Null where the driver is the stand-in and has no such kernel.
  [[nodiscard]] CUfunction kernel(const char* name) const {
    CUfunction function = nullptr;
    const CUresult found = driver->cuModuleGetFunction(&function, module, name);
    if (found == CUDA_ERROR_NOT_FOUND && standin::StandIn::is_one(driver_name)) return nullptr;
    check(found, name);
    return function;
  }
  void launch(CUfunction function, uint32_t blocks, void** arguments) const {
    check(driver->cuLaunchKernel(function, blocks, 1, 1, 256, 1, 1, 0, stream, arguments, nullptr), "launch");
  }
};

/// Keeps the stream from going on: what is enqueued meanwhile runs without gaps, and its time is the GPU's alone. Not
/// around what is done for the first time: loading code and pinning memory may wait for the GPU.
class Gate {
 public:
  explicit Gate(const Engine& engine) {
    engine.check(engine.driver->cuLaunchHostFunc(engine.stream, &hold, &open_), "host function");
  }
  ~Gate() {
    open_.store(true, std::memory_order_release);
    open_.notify_all();
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

 private:
  static void CUDA_CB hold(void* open) {
    static_cast<std::atomic<bool>*>(open)->wait(false, std::memory_order_acquire);
  }
  std::atomic<bool> open_{false};
};

/// Pinned memory, or the device's.
template <typename T>
class Memory {
 public:
  Memory(const Engine& engine, size_t count, bool device = false) : engine_(engine), device_(device) {
    if (device_) {
      CUdeviceptr at = 0;
      engine.check(engine.driver->cuMemAlloc(&at, count * sizeof(T)), "device memory");
      data_ = reinterpret_cast<T*>(at);
    } else {
      void* at = nullptr;
      engine.check(engine.driver->cuMemHostAlloc(&at, count * sizeof(T), CU_MEMHOSTALLOC_PORTABLE),
                   "pinned memory");
      data_ = static_cast<T*>(at);
    }
  }
  ~Memory() {
    if (device_)
      engine_.driver->cuMemFree(address(data_));
    else
      engine_.driver->cuMemFreeHost(data_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  [[nodiscard]] T* get() const { return data_; }
  T& operator[](size_t i) const { return data_[i]; }

 private:
  const Engine& engine_;
  T* data_ = nullptr;
  bool device_;
};

// ---- figures ----

void measure_map(const Engine& engine, const Sizes& sizes, const std::vector<kvt_page>& pages, json& out) {
  kvt_cuda_map* map = nullptr;
  must(kvt_cuda_map_create(engine, &map) == KVT_OK, "a page table on the device");
  const Memory<int32_t> ids(engine, sizes.blocks, true);
  const Memory<int32_t> frames(engine, sizes.blocks, true);
  std::vector<int32_t> wanted(sizes.blocks);
  for (size_t i = 0; i < wanted.size(); ++i)
    wanted[i] = i % 1000 == 999 ? -1 : static_cast<int32_t>(KVT_PAGE_INDEX(pages[i * 7 % pages.size()]));
  engine.check(engine.driver->cuMemcpyAsync(address(ids.get()), address(wanted.data()), 4ull * sizes.blocks,
                                            engine.stream),
               "block ids");
  engine.sync();
  std::vector<double> both, update, update_cpu;
  constexpr int kWarm = 5;  // a map has four lists, each made when it is used first
  for (int round = 0; round < kWarm + sizes.rounds; ++round) {
    const kvt_step step = engine.begin();
    double cpu = 0;
    {
      std::optional<Gate> gate;
      if (round >= kWarm) gate.emplace(engine);
      engine.record(0);
      const double begin = cpu_us();
      const int changed = kvt_cuda_map_update(map, &step, pages.data(), pages.size());
      cpu = cpu_us() - begin;
      must(changed >= static_cast<int>(pages.size()), "an update");
      engine.record(1);
      must(kvt_cuda_translate(map, ids.get(), frames.get(), sizes.blocks, engine.stream) == KVT_OK,
           "a translation");
      engine.record(2);
    }
    engine.end(step);
    engine.sync();
    if (round < kWarm) continue;
    both.push_back(engine.us_between(0, 2));
    update.push_back(engine.us_between(0, 1));
    update_cpu.push_back(cpu);
  }
  std::vector<int32_t> found(sizes.blocks);
  engine.check(engine.driver->cuMemcpyAsync(address(found.data()), address(frames.get()), 4ull * sizes.blocks,
                                            engine.stream),
               "frames");
  const kvt_step step = engine.begin();
  std::vector<kvt_frame> resolved(pages.size());
  kvt_resolve(engine, &step, pages.data(), pages.size(), resolved.data());
  engine.end(step);
  engine.sync();
  uint64_t wrong = 0;
  for (size_t i = 0; i < found.size(); ++i)
    wrong += static_cast<kvt_frame>(found[i]) != (wanted[i] < 0 ? 0 : resolved[i * 7 % pages.size()]) ? 1 : 0;
  expect(wrong == 0, std::to_string(wrong) + " block ids are translated wrong");
  kvt_cuda_map_destroy(map);
  out["map"] = {
      {"changed", pages.size()},     {"translated", sizes.blocks},          {"stream_us", median(both)},
      {"update_us", median(update)}, {"update_cpu_us", median(update_cpu)}, {"wrong", wrong}};
  std::printf(
      "page table: %zu entries change in %.1f us, and %u block ids are translated: %.1f us (wanted: 100); "
      "the call "
      "%.1f us of CPU\n",
      pages.size(), median(update), sizes.blocks, median(both), median(update_cpu));
}

void measure_steps(const Engine& engine, const Sizes& sizes, json& out) {
  constexpr int kBatch = 32;
  std::vector<double> begins, ends;
  for (int round = 0; round <= 2 * sizes.rounds; ++round) {
    kvt_step steps[kBatch];
    double at = cpu_us();
    for (kvt_step& step : steps) step = engine.begin();
    begins.push_back((cpu_us() - at) / kBatch);
    at = cpu_us();
    for (const kvt_step& step : steps) engine.end(step);
    ends.push_back((cpu_us() - at) / kBatch);
    engine.sync();
  }
  out["step"] = {{"begin_cpu_us", median(begins)}, {"end_cpu_us", median(ends)}};
  std::printf("step: begin %.2f us and end %.2f us of CPU\n", median(begins), median(ends));
}

/// Strided rows of private device memory into pages and back: 64 copies in a call.
void measure_copies(const Engine& engine, const Sizes& sizes, json& out) {
  const uint64_t row_bytes = sizes.page_bytes / kPlanes / 2;
  const uint64_t own_bytes = kCopies * sizes.page_bytes;
  const Memory<unsigned char> own(engine, own_bytes, true);
  std::vector<uint64_t> words(own_bytes / 8);
  for (size_t i = 0; i < words.size(); ++i) words[i] = test::word_of(test::key_of(5), i);
  engine.check(
      engine.driver->cuMemcpyAsync(address(own.get()), address(words.data()), own_bytes, engine.stream),
      "contents");
  engine.sync();
  std::vector<kvt_page> pages = test::allocate(engine, kCopies);
  must(pages.size() == kCopies, "pages to copy to");
  std::vector<kvt_copy> copies(kCopies);
  for (uint32_t i = 0; i < kCopies; ++i) {
    copies[i].page = pages[i];
    copies[i].memory = own.get() + i * sizes.page_bytes;
    copies[i].page_stride = sizes.page_bytes / kPlanes;
    copies[i].memory_stride = 2 * row_bytes;
    copies[i].row_bytes = row_bytes;
    copies[i].rows = kPlanes;
  }
  const auto run = [&](uint32_t direction, const char* name) {
    std::vector<double> stream, cpu;
    for (int round = 0; round <= sizes.rounds; ++round) {
      {
        std::optional<Gate> gate;
        if (round > 0) gate.emplace(engine);
        engine.record(0);
        const double begin = cpu_us();
        must(kvt_cuda_copy(engine, direction, copies.data(), copies.size(), engine.stream) == KVT_OK,
             "copies");
        cpu.push_back(cpu_us() - begin);
        engine.record(1);
      }
      engine.sync();
      if (round > 0) stream.push_back(engine.us_between(0, 1));
    }
    const double bytes = static_cast<double>(kCopies * kPlanes * row_bytes);
    out["copy"][name] = {
        {"stream_us", median(stream)}, {"cpu_us", median(cpu)}, {"gbs", bytes / median(stream) / 1e3}};
    std::printf("%s of %u strided copies of %lu rows: %.1f us (%.1f GB/s), the call %.1f us of CPU\n", name,
                kCopies, static_cast<unsigned long>(kPlanes), median(stream), bytes / median(stream) / 1e3,
                median(cpu));
  };
  run(KVT_COPY_STORE, "store");
  must(kvt_cuda_seal(engine, pages.data(), pages.size(), engine.stream) == KVT_OK, "seal");
  engine.sync();
  must(kvt_flush(engine) == KVT_OK, "flush");
  engine.check(engine.driver->cuMemsetD8Async(address(own.get()), 0, own_bytes, engine.stream), "clear");
  run(KVT_COPY_LOAD, "load");
  std::vector<uint64_t> back(words.size());
  engine.check(
      engine.driver->cuMemcpyAsync(address(back.data()), address(own.get()), own_bytes, engine.stream),
      "contents");
  engine.sync();
  uint64_t wrong = 0;
  for (size_t i = 0; i < words.size(); ++i)
    wrong += back[i] != (i * 8 / row_bytes % 2 == 0 ? words[i] : 0) ? 1 : 0;
  expect(wrong == 0, std::to_string(wrong) + " words came back different from strided copies");
  kvt_release(engine, pages.data(), pages.size(), nullptr);
}

// ---- counting on the device ----

struct Counted {
  device::Touches header{};
  std::vector<uint32_t> words;  ///< counts, then the list
};
Counted counters_now(const Engine& engine, const kvt_cuda_touches* touches) {
  Counted now;
  const auto at = address(kvt_cuda_touches_counters(touches));
  engine.check(engine.driver->cuMemcpyAsync(address(&now.header), at, sizeof now.header, engine.stream),
               "counters");
  engine.sync();
  now.words.resize(uint64_t{now.header.pages} + now.header.capacity);
  engine.check(engine.driver->cuMemcpyAsync(address(now.words.data()), at + sizeof now.header,
                                            4 * now.words.size(), engine.stream),
               "counters");
  engine.sync();
  return now;
}

void measure_touches(const Engine& engine, const Sizes& sizes, const std::vector<kvt_page>& pages,
                     json& out) {
  kvt_cuda_touches* touches = nullptr;
  must(kvt_cuda_touches_create(engine, 0, &touches) == KVT_OK, "counters on the device");
  const CUfunction touch = engine.kernel("kvt_test_touch");
  const Memory<uint32_t> indices(engine, pages.size());
  for (size_t i = 0; i < pages.size(); ++i) indices[i] = KVT_PAGE_INDEX(pages[i]);
  auto counters = address(kvt_cuda_touches_counters(touches));
  auto list = address(indices.get());
  auto count = static_cast<uint32_t>(pages.size());
  uint32_t reads = 3;
  void* arguments[] = {&counters, &list, &count, &reads};
  // Counted right, and gone when it is taken.
  for (int i = 0; i < 5; ++i) engine.launch(touch, 40, arguments);
  const Counted before = counters_now(engine, touches);
  uint64_t wrong = before.header.length != count ? 1 : 0;
  for (const kvt_page page : pages) wrong += before.words[KVT_PAGE_INDEX(page)] != 15 ? 1 : 0;
  expect(wrong == 0, std::to_string(wrong) + " pages are counted wrong on the device");
  const kvt_step first = engine.begin();
  must(kvt_cuda_touches_take(touches, &first) == KVT_OK, "take");
  engine.end(first);
  engine.sync();
  const Counted after = counters_now(engine, touches);
  uint64_t left = after.header.length;
  for (uint32_t page = 0; page < after.header.pages; ++page) left += after.words[page];
  expect(left == 0 && after.header.blocks_done == 0, "counts are left on the device after they were taken");

  const auto quiesce = [&] {
    expect(engine.daemon.number("quiesce", "/arenas/0/audit/leaked") == 0, "pages are leaked");
  };
  quiesce();
  const double recording = engine.daemon.number("record-start", "/recording");
  std::vector<double> counting, taking, plain, settling;
  for (int round = 0; round < sizes.rounds; ++round) {
    for (const bool take : {false, true}) {
      const kvt_step step = engine.begin();
      {
        const Gate gate(engine);
        engine.record(0);
        if (take) engine.launch(touch, 40, arguments);
        engine.record(1);
        if (take) must(kvt_cuda_touches_take(touches, &step) == KVT_OK, "take");
        engine.end(step);
        engine.record(2);
      }
      engine.check(engine.driver->cuStreamSynchronize(engine.stream), "touches");
      const double begin = cpu_us();
      kvt_cuda_poll(engine);
      if (take) {
        settling.push_back(cpu_us() - begin);
        counting.push_back(engine.us_between(0, 1));
      }
      (take ? taking : plain).push_back(engine.us_between(1, 2));
    }
  }
  quiesce();
  const std::string answer = engine.daemon.control(
      "{\"command\":\"record-stop\",\"recording\":" + std::to_string(static_cast<uint64_t>(recording)) + "}");
  const json said = json::parse(answer.substr(0, answer.find('\n')), nullptr, false);
  const double wanted = 3.0 * static_cast<double>(pages.size()) * sizes.rounds;
  const double seen = said.is_object() ? said.value("reads", 0.0) : 0.0;
  // What races with the daemon's look may be counted later or not at all.
  expect(seen >= 0.9 * wanted && seen <= wanted,
         "the daemon saw " + std::to_string(seen) + " reads of " + std::to_string(wanted));
  kvt_cuda_touches_destroy(touches);
  out["touches"] = {{"pages", pages.size()},
                    {"count_us", median(counting)},
                    {"take_and_end_us", median(taking)},
                    {"end_alone_us", median(plain)},
                    {"settle_cpu_us", median(settling)},
                    {"counted_wrong", wrong},
                    {"reads_seen_of_all", seen / wanted}};
  std::printf(
      "touches: %zu pages are counted in %.1f us, taken in %.1f us (a step's end alone: %.1f us), added in "
      "%.1f us of "
      "CPU\n",
      pages.size(), median(counting), median(taking), median(plain), median(settling));
}

// ---- device.cuh ----

void check_reads(const Engine& engine, const Sizes& sizes, json& out) {
  const CUfunction read = engine.kernel("kvt_test_read");
  if (read == nullptr) {
    std::printf("reads by kernels of device.cuh: LEFT OUT, the stand-in driver has no such kernel\n");
    out["reads"] = nullptr;
    return;
  }
  const uint32_t n = sizes.read_pages;
  // What is allocated first lies in device memory: targets do, and some of the pages.
  const std::vector<kvt_page> copies = test::allocate(engine, n);
  const std::vector<kvt_page> pages = test::allocate(engine, n);
  must(pages.size() == n && copies.size() == n, "pages to read");
  const uint64_t words = sizes.page_bytes / 8;
  std::vector<uint64_t> contents(words);
  std::vector<uint64_t> sums(n);
  for (uint32_t i = 0; i < n; ++i) {
    for (uint64_t w = 0; w < words; ++w) sums[i] ^= contents[w] = test::word_of(test::key_of(i), w);
    engine.check(engine.driver->cuMemcpyAsync(address(kvt_page_data(engine, pages[i])),
                                              address(contents.data()), sizes.page_bytes, engine.stream),
                 "contents");
    engine.check(engine.driver->cuStreamSynchronize(engine.stream), "contents");
  }
  must(kvt_seal(engine, pages.data(), n, nullptr) == KVT_OK && kvt_flush(engine) == KVT_OK, "seal");
  kvt_cuda_map* map = nullptr;
  kvt_cuda_touches* touches = nullptr;
  must(kvt_cuda_map_create(engine, &map) == KVT_OK, "a page table on the device");
  must(kvt_cuda_touches_create(engine, 0, &touches) == KVT_OK, "counters on the device");
  const Memory<int32_t> ids(engine, n);
  const Memory<uint32_t> targets(engine, n);
  const Memory<uint64_t> found(engine, n);
  std::vector<kvt_frame> frames(n);
  device::View view = device::view_of(engine.client.geometry());
  uint32_t on_device = 0;
  uint64_t wrong_sums = 0;
  uint64_t wrong_words = 0;
  uint64_t wrong_counts = 0;
  // Once with a target for every other page, once without.
  for (const bool through : {true, false}) {
    const kvt_step step = engine.begin();
    must(kvt_cuda_map_update(map, &step, nullptr, 0) >= 0, "an update");
    must(kvt_resolve(engine, &step, copies.data(), n, frames.data()) == static_cast<int>(n), "own pages");
    for (uint32_t i = 0; i < n; ++i) {
      ids[i] = static_cast<int32_t>(KVT_PAGE_INDEX(pages[i]));
      targets[i] = i % 2 == 0 ? frames[i] : KVT_NO_FRAME;
      found[i] = 0;
      on_device += through && view.is_device(engine.client.info(pages[i]).frame) ? 1 : 0;
    }
    const uint32_t* map_frames = kvt_cuda_map_frames(map);
    void* counters = kvt_cuda_touches_counters(touches);
    const int32_t* id_list = ids.get();
    const uint32_t* target_list = through ? targets.get() : nullptr;
    uint32_t count = n;
    uint32_t planes = kPlanes;
    uint64_t* results = found.get();
    void* arguments[] = {&view, &map_frames, &counters, &id_list, &target_list, &count, &planes, &results};
    engine.launch(read, 64, arguments);
    must(kvt_cuda_touches_take(touches, &step) == KVT_OK, "take");
    const Counted counted = counters_now(engine, touches);
    wrong_counts += counted.header.length != n ? 1 : 0;
    for (const kvt_page page : pages) wrong_counts += counted.words[KVT_PAGE_INDEX(page)] != 1 ? 1 : 0;
    engine.end(step);
    engine.sync();
    for (uint32_t i = 0; i < n; ++i) wrong_sums += found[i] != sums[i] ? 1 : 0;
  }
  for (uint32_t i = 0; i < n; i += 2) {
    engine.check(engine.driver->cuMemcpyAsync(address(contents.data()), address(view.at(frames[i])),
                                              sizes.page_bytes, engine.stream),
                 "contents");
    engine.check(engine.driver->cuStreamSynchronize(engine.stream), "contents");
    wrong_words += test::wrong_words(contents.data(), sizes.page_bytes, test::key_of(i));
  }
  expect(on_device > 0 && on_device < n, "the pages do not lie in both memories");
  expect(wrong_sums == 0, std::to_string(wrong_sums) + " pages were read wrong by a kernel");
  expect(wrong_words == 0, std::to_string(wrong_words) + " words were stored through wrong");
  expect(wrong_counts == 0, std::to_string(wrong_counts) + " pages are counted wrong by their reader");
  kvt_cuda_map_destroy(map);
  kvt_cuda_touches_destroy(touches);
  kvt_release(engine, pages.data(), n, nullptr);
  kvt_release(engine, copies.data(), n, nullptr);
  out["reads"] = {{"pages", n},
                  {"on_device", on_device},
                  {"wrong_sums", wrong_sums},
                  {"wrong_words", wrong_words},
                  {"wrong_counts", wrong_counts}};
  std::printf(
      "device.cuh: %u pages, %u of them in device memory, read, counted and every other one stored through\n",
      n, on_device);
}

int run(bool small) {
  const Sizes sizes = small ? small_sizes() : Sizes{};
  json out;
  out["small"] = small;
  const double gib = static_cast<double>(sizes.dram_bytes) / static_cast<double>(1ull << 30);
  for (const char* const pages : {"off", "auto"}) {
    const test::Daemon daemon(world_of(sizes, pages));
    must(daemon.ok(), "kvtierd");
    const bool last = std::string(pages) == "auto";
    const std::string note = daemon.text("tiers", "/tiers/1/os_pages");
    const Engine engine(daemon);
    out["attach"][last ? "huge_pages_auto" : "small_pages"] = {
        {"seconds", engine.attach_s}, {"seconds_a_gib", engine.attach_s / gib}, {"os_pages", note}};
    std::printf("attach with %.2f GiB of host memory, huge_pages = %s (%s): %.3f s, %.3f s a GiB\n", gib,
                pages, note.c_str(), engine.attach_s, engine.attach_s / gib);
    if (!last) continue;
    out["gpu"] = engine.gpu->info().name;
    out["driver"] = cuda::version_text(engine.driver->version());
    // Copies first: their pages begin in device memory.
    measure_copies(engine, sizes, out);
    check_reads(engine, sizes, out);
    const std::vector<kvt_page> pages_used = test::allocate(engine, sizes.pages);
    must(pages_used.size() == sizes.pages, "pages");
    measure_map(engine, sizes, pages_used, out);
    measure_steps(engine, sizes, out);
    measure_touches(engine, sizes, pages_used, out);
  }
  failed = failed || ::testing::Test::HasFailure();
  out["right"] = !failed;
  std::printf("%s\n", out.dump().c_str());
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace kvt

int main(int argc, char** argv) {
  const bool small = argc == 2 && std::string(argv[1]) == "--small";
  if (argc > 2 || (argc == 2 && !small)) {
    std::fprintf(stderr, "usage: gpu_clients [--small]\n");
    return 2;
  }
  if (!kvt::cuda::Driver::load(kvt::driver_path())) {
    std::printf("no GPU, or no driver: %s\n", kvt::driver_path().c_str());
    return 3;
  }
  return kvt::run(small);
}
