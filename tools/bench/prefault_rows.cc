// SPDX-License-Identifier: Apache-2.0
//
// How long a window takes to be there: the backend's parallel prefault beside a memset of the same fresh
// memory by as many threads, and beside a memset of memory that is there already, which no prefault can beat.
#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "daemon/tier/backend.h"
#include "tools/bench/memory.h"
#include "tools/bench/rows.h"

namespace kvt::bench {
namespace {

using Clock = std::chrono::steady_clock;

uint32_t cores() { return std::max(1u, std::thread::hardware_concurrency()); }

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void report(benchmark::State& state, uint64_t bytes) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(bytes));
  state.counters["threads"] = cores();
}

void prefault(benchmark::State& state, uint64_t bytes) {
  tier::NumaBackend backend;
  tier::WindowRequest request;
  request.name = "bench-prefault";
  request.bytes = bytes;
  request.threads = cores();
  for (auto _ : state) {
    auto range = AddressRange::reserve(bytes, uint64_t{2} << 20);
    require(range.has_value(), "no addresses");
    request.range = &*range;
    const auto begin = Clock::now();
    const auto window = backend.make_window(request);
    state.SetIterationTime(seconds_since(begin));
    require(window.has_value(), "the window could not be made");
    std::vector<unsigned char> resident(bytes / os_page_bytes());
    require(::mincore(window->mapping.data(), bytes, resident.data()) == 0, "mincore");
    for (const unsigned char page : resident)
      require((page & 1) != 0, "an OS page of the window is not there");
  }
  report(state, bytes);
}

void parallel_memset(std::byte* data, uint64_t bytes) {
  const uint64_t each = bytes / cores();
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < cores(); ++i)
    threads.emplace_back(
        [=] { std::memset(data + i * each, 1, i + 1 == cores() ? bytes - i * each : each); });
  for (std::thread& thread : threads) thread.join();
}

void memset_fresh(benchmark::State& state, uint64_t bytes) {
  for (auto _ : state) {
    const auto begin = Clock::now();
    const SharedMemory memory(bytes);
    parallel_memset(memory.data(), bytes);
    state.SetIterationTime(seconds_since(begin));
    require(memory.data()[bytes - 1] == std::byte{1}, "the memory was not set");
  }
  report(state, bytes);
}

void memset_resident(benchmark::State& state, uint64_t bytes) {
  const SharedMemory memory(bytes);
  parallel_memset(memory.data(), bytes);
  for (auto _ : state) {
    const auto begin = Clock::now();
    parallel_memset(memory.data(), bytes);
    state.SetIterationTime(seconds_since(begin));
    benchmark::ClobberMemory();
  }
  report(state, bytes);
}

}  // namespace

void add_prefault_rows(RowList& rows, const Sizes& sizes) {
  const auto add = [&](const char* name, void (*run)(benchmark::State&, uint64_t)) {
    rows.add({name, sizes.prefault_bytes, "prefault", Timing::kManual, sizes.prefault_runs,
              [run, bytes = sizes.prefault_bytes](benchmark::State& state) { run(state, bytes); }});
  };
  add("prefault", prefault);
  add("baseline_memset_fresh", memset_fresh);
  add("baseline_memset_resident", memset_resident);
}

}  // namespace kvt::bench
