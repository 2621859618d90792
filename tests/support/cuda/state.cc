// SPDX-License-Identifier: Apache-2.0
#include "tests/support/cuda/state.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace kvt::standin {
namespace {

thread_local bool in_function = false;

/// splitmix64.
uint64_t next_random(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

uint64_t now_ns() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

bool dead(const Context& context) { return context.destroyed || context.failing; }

/// The n-th operation of its kind, if that has to fail.
CUresult injected(State& state, Kind kind) {
  const auto index = static_cast<size_t>(kind);
  const uint64_t number = ++state.ran[index];
  for (const Fault& fault : state.async_faults)
    if (fault.name == kKindNames[index] && fault.nth == number) return fault.result;
  return CUDA_SUCCESS;
}

void run_operation(State& state, Lock& lock, Stream& stream, Work& work) {
  if (state.settings.delay_us != 0) {
    const uint64_t delay_us = next_random(stream.random) % (state.settings.delay_us + 1);
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
    lock.lock();
  }
  Context& context = *stream.context;
  if (state.ended || state.look_for_loss(lock) || dead(context)) return;
  if (const CUresult result = injected(state, work.kind); result != CUDA_SUCCESS) {
    state.fail(lock, context, result);
    return;
  }
  const int counted = work.kind == Kind::kHost ? 0 : 1;
  ++state.running;
  context.running += counted;
  lock.unlock();
  const CUresult result = work.run();
  work.run = nullptr;
  lock.lock();
  --state.running;
  context.running -= counted;
  state.changed.notify_all();
  if (result != CUDA_SUCCESS) state.fail(lock, context, result);
}

void run_stream(const std::shared_ptr<Stream>& stream) {
  State& state = State::get();
  Lock lock(state.mutex);
  while (true) {
    while (stream->queue.empty() && !stream->closed && !state.ended) stream->has_work.wait(lock);
    if (state.ended || stream->queue.empty()) break;
    Work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    if (work.kind == Kind::kRecord) {
      work.record->done = true;
      work.record->time_ns = now_ns();
    } else if (work.kind == Kind::kWait) {
      while (!work.record->done && !dead(*stream->context) && !state.ended) state.changed.wait(lock);
    } else if (!dead(*stream->context)) {
      run_operation(state, lock, *stream, work);
    }
    ++stream->completed;
    state.changed.notify_all();
  }
  stream->has_thread = false;
  state.changed.notify_all();
}

/// Nothing of the program's may be touched while its statics are destroyed. A host function that does not end is left
/// behind, after two seconds.
void end_work() {
  State& state = State::get();
  if (state.process.load(std::memory_order_acquire) != ::getpid()) return;
  Lock lock(state.mutex);
  state.ended = true;
  state.changed.notify_all();
  for (int i = 0; i < 2000 && state.running > (in_function ? 1 : 0); ++i) {
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    lock.lock();
  }
}

size_t direction(const Place& source, const Place& target) {
  if (source.where == Where::kDevice) {
    if (target.where != Where::kDevice) return KVT_STANDIN_DEVICE_TO_HOST;
    return source.device == target.device ? KVT_STANDIN_DEVICE_TO_DEVICE : KVT_STANDIN_BETWEEN_DEVICES;
  }
  return target.where == Where::kDevice ? KVT_STANDIN_HOST_TO_DEVICE : KVT_STANDIN_HOST_TO_HOST;
}

uint64_t* map_counts(const std::string& path) {
  constexpr size_t kBytes = KVT_STANDIN_DIRECTIONS * sizeof(uint64_t);
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  void* made = MAP_FAILED;
  if (fd >= 0 && ::ftruncate(fd, kBytes) == 0)
    made = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (fd >= 0) ::close(fd);
  if (made == MAP_FAILED) {
    std::fprintf(stderr, "cuda-standin: KVT_STANDIN_COUNTS_FILE=%s cannot be mapped\n", path.c_str());
    std::abort();
  }
  return static_cast<uint64_t*>(made);
}

void start_thread(State& state, const std::shared_ptr<Stream>& stream) {
  if (state.threads_started++ == 0) std::atexit(end_work);
  stream->has_thread = true;
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the program's threads
  std::thread(run_stream, stream).detach();
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace

State& State::get() {
  static State* const state = [] {
    auto* made = new State;
    made->reload();
    return made;
  }();
  return *state;
}

void State::reload() {
  settings = Settings::from_environment();
  lost = false;
  memory.set_lost(-1);
  // The old mapping stays: there are few, and somebody may be counting.
  shared_counts = settings.counts_file.empty() ? nullptr : map_counts(settings.counts_file);
  while (devices.size() < static_cast<size_t>(settings.devices))
    devices.push_back(std::make_unique<Device>());
  for (auto& [name, entry] : entries) entry.faults.clear();
  for (const Fault& fault : settings.faults) {
    const auto entry = entries.find(fault.name);
    if (entry != entries.end())
      entry->second.faults.push_back({fault.name, entry->second.calls + fault.nth, fault.result});
  }
  async_faults.clear();
  for (const Fault& fault : settings.async_faults)
    for (size_t kind = 0; kind < kFaultyKinds; ++kind)
      if (fault.name == kKindNames[kind])
        async_faults.push_back({fault.name, ran[kind] + fault.nth, fault.result});
}

bool State::look_for_loss(Lock& lock) {
  if (!lost && !settings.lost_file.empty() && ::access(settings.lost_file.c_str(), F_OK) == 0) lost = true;
  if (!lost) return false;
  const int one = settings.lost_device;
  memory.set_lost(one);
  for (size_t i = 0; i < devices.size(); ++i) {  // reload() may add some meanwhile
    if (one >= 0 && i != static_cast<size_t>(one)) continue;
    if (const std::shared_ptr<Context> context = devices[i]->primary; context != nullptr)
      fail(lock, *context, CUDA_ERROR_UNKNOWN);
  }
  return one < 0;
}

void State::count_bytes(const Place& source, const Place& target, uint64_t bytes) {
  const size_t index = direction(source, target);
  bytes_copied[index] += bytes;
  if (shared_counts != nullptr) __atomic_fetch_add(shared_counts + index, bytes, __ATOMIC_RELAXED);
}

void State::fail(Lock& lock, Context& context, CUresult result) {
  context.failing = true;
  while (context.running > 0 && !ended) changed.wait(lock);
  if (context.sticky == CUDA_SUCCESS) context.sticky = result;
  changed.notify_all();
}

void unpin(State& state, std::vector<Pins>& pins) {
  for (const Pins& pin : pins) --*pin;
  pins.clear();
  state.changed.notify_all();
}

std::shared_ptr<Stream> make_stream(State& state, const std::shared_ptr<Context>& context) {
  auto made = std::make_shared<Stream>();
  made->context = context;
  made->random = state.settings.seed + 0x9e3779b97f4a7c15 * (context->streams.size() + 1);
  std::erase_if(context->streams, [](const std::weak_ptr<Stream>& stream) { return stream.expired(); });
  context->streams.push_back(made);
  return made;
}

CUresult enqueue(State& state, const std::shared_ptr<Stream>& stream, Work work, uint64_t* number) {
  if (stream->context->sticky != CUDA_SUCCESS) return stream->context->sticky;
  if (stream->capture != nullptr) {
    if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    stream->capture->nodes.push_back(std::move(work));
    ++stream->steps;
    if (number != nullptr) *number = stream->queued;
    return CUDA_SUCCESS;
  }
  stream->queue.push_back(std::move(work));
  ++stream->queued;
  if (number != nullptr) *number = stream->queued;
  if (!stream->has_thread) start_thread(state, stream);
  stream->has_work.notify_one();
  return CUDA_SUCCESS;
}

CUresult wait_for(State& state, Lock& lock, Stream& stream, uint64_t completed) {
  const Context& context = *stream.context;
  while (stream.completed < completed && context.sticky == CUDA_SUCCESS && !context.destroyed && !state.ended)
    state.changed.wait(lock);
  return stream.context->sticky;
}

CUresult wait_for_all(State& state, Lock& lock, Context& context) {
  std::vector<std::shared_ptr<Stream>> streams;
  for (const auto& weak : context.streams)
    if (auto stream = weak.lock(); stream != nullptr) streams.push_back(std::move(stream));
  std::vector<uint64_t> queued;
  queued.reserve(streams.size());
  for (const auto& stream : streams) queued.push_back(stream->queued);
  for (size_t i = 0; i < streams.size(); ++i) (void)wait_for(state, lock, *streams[i], queued[i]);
  return context.sticky;
}

void close_stream(State& state, Stream& stream) {
  stream.closed = true;
  stream.has_work.notify_one();
  state.changed.notify_all();
}

void invalidate(Capture& capture) { capture.invalid = true; }

void end_capture(State& state, const std::shared_ptr<Capture>& capture) {
  std::erase(state.captures, capture);
  for (const auto& stream : capture->joined) stream->capture = nullptr;
  capture->joined.clear();
  capture->origin = nullptr;
}

bool in_host_function() { return in_function; }

Work host_function(CUhostFn function, void* data) {
  return {Kind::kHost,
          [function, data] {
            in_function = true;
            function(data);
            in_function = false;
            return CUDA_SUCCESS;
          },
          nullptr};
}

}  // namespace kvt::standin
