// SPDX-License-Identifier: Apache-2.0
//
// Everything that the stand-in driver knows, behind one mutex: operations, host functions and sleeps run without it.
// It is never destroyed: streams' threads may outlive main().
#pragma once

#include <cuda.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/cuda/memory.h"
#include "tests/support/cuda/settings.h"
#include "tests/support/cuda/standin.h"

namespace kvt::standin {

struct Stream;

/// A device's primary context. Its handle is not used again when it has ended.
struct Context {
  uint64_t id = 0;
  int device = 0;
  int retained = 0;
  bool destroyed = false;
  CUresult sticky = CUDA_SUCCESS;  ///< what every call returns from now on
  bool failing = false;            ///< no more work begins; `sticky` follows when none runs
  int running = 0;                 ///< operations that run now, without host functions
  std::shared_ptr<Stream> null_stream;
  std::vector<std::weak_ptr<Stream>> streams;  ///< with those that are destroyed and still have work
};

/// One cuEventRecord.
struct Record {
  bool done = false;
  uint64_t time_ns = 0;
};

struct Capture;

struct Event {
  std::shared_ptr<Context> context;
  bool timed = true;
  std::shared_ptr<Record> latest;  ///< null: never recorded
  // When it was last recorded in a capture:
  std::shared_ptr<Capture> capture;
  std::shared_ptr<Stream> captured_stream;
  uint64_t captured_step = 0;
};

enum class Kind { kCopy, kKernel, kWrite, kMemset, kHost, kRecord, kWait };
inline constexpr size_t kFaultyKinds = 5;  ///< the first ones can be made to fail
inline constexpr std::array<const char*, kFaultyKinds> kKindNames = {"copy", "kernel", "write", "memset",
                                                                     "host"};

/// What is in a stream's queue, or a node of a graph.
struct Work {
  Kind kind = Kind::kCopy;
  std::function<CUresult()> run;   ///< without the mutex; not of records and waits
  std::shared_ptr<Record> record;  ///< of records and waits
};

/// Streams that are being captured into one graph. Nodes are in the order of their calls, which is one that the
/// dependencies allow.
struct Capture {
  std::shared_ptr<Stream> origin;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::thread::id thread;
  bool invalid = false;
  std::vector<Work> nodes;
  std::vector<std::shared_ptr<Stream>> joined;
};

struct Stream {
  std::shared_ptr<Context> context;
  std::deque<Work> queue;
  uint64_t queued = 0;  ///< since it was made
  uint64_t completed = 0;
  bool closed = false;
  bool has_thread = false;
  std::condition_variable has_work;
  uint64_t random = 0;
  std::shared_ptr<Capture> capture;
  uint64_t steps = 0;         ///< captured here
  uint64_t steps_joined = 0;  ///< of those, so many are joined to the origin again
};

struct Graph {
  std::vector<Work> nodes;
};

struct Kernel;

struct Module {
  std::shared_ptr<Context> context;
};

struct Function {
  uint64_t module = 0;
  std::shared_ptr<Context> context;
  const Kernel* kernel = nullptr;
  int max_dynamic_shared_bytes = 48 << 10;
};

struct Device {
  uint64_t used_bytes = 0;
  std::shared_ptr<Context> primary;
};

/// When an entry point works. Each is stricter than those before it.
enum class Gate {
  kAlways,   ///< even on a lost device, and in a host function
  kInit,     ///< cuInit itself
  kThread,   ///< after cuInit: the thread's stack of contexts
  kDevice,   ///< while the devices are there
  kMemory,   ///< and the current context, if there is one, is well
  kContext,  ///< and there is one
};

struct EntryPoint {
  const char* name = nullptr;
  void* address = nullptr;
  Gate gate = Gate::kContext;
  int since = 12000;
  bool in_capture = true;  ///< false: ends a capture in global mode, wherever it is called
  uint64_t calls = 0;
  std::vector<Fault> faults;  ///< `nth` is a number of `calls`
};

/// Objects of one kind by handle. Handles are small numbers, so that using one as a pointer faults.
template <typename T>
class Handles {
 public:
  uint64_t add(uint64_t handle, std::shared_ptr<T> object) {
    objects_[handle] = std::move(object);
    return handle;
  }
  std::shared_ptr<T> find(uint64_t handle) const {
    const auto found = objects_.find(handle);
    return found == objects_.end() ? nullptr : found->second;
  }
  bool erase(uint64_t handle) { return objects_.erase(handle) == 1; }
  template <typename Condition>
  void erase_if(Condition condition) {
    std::erase_if(objects_, [&](const auto& item) { return condition(*item.second); });
  }

 private:
  std::map<uint64_t, std::shared_ptr<T>> objects_;
};

using Lock = std::unique_lock<std::mutex>;

struct State {
  std::mutex mutex;
  std::condition_variable changed;  ///< work has completed, or a context has failed

  Settings settings;
  std::atomic<pid_t> process{0};  ///< of cuInit; a child of it cannot use the driver
  bool lost = false;
  bool ended = false;  ///< the process is exiting: no more work
  std::map<std::string, EntryPoint> entries;
  std::vector<Fault> async_faults;
  std::array<uint64_t, kFaultyKinds> ran{};
  std::array<uint64_t, KVT_STANDIN_DIRECTIONS> bytes_copied{};
  uint64_t* shared_counts = nullptr;  ///< the same, of all processes that name the file
  uint64_t threads_started = 0;
  int running = 0;  ///< operations that run now

  std::vector<std::unique_ptr<Device>> devices;
  Memory memory;
  uint64_t next_handle = 0x1000;
  Handles<Context> contexts;
  Handles<Stream> streams;
  Handles<Event> events;
  Handles<Graph> graphs;
  Handles<Graph> executables;
  Handles<Module> modules;
  Handles<Function> functions;
  Handles<Backing> allocations;
  std::map<uint64_t, std::weak_ptr<Backing>> files;  ///< those of this process by inode
  std::vector<std::shared_ptr<Capture>> captures;

  static State& get();
  /// The environment again.
  void reload();
  uint64_t new_handle() { return next_handle += 0x10; }
  void count_bytes(const Place& source, const Place& target, uint64_t bytes);
  /// Whether all devices are lost; finds out, and fails the contexts of those that are.
  bool look_for_loss(Lock& lock);
  /// A context's error. Nobody learns of it while an operation of the context still runs: the program may take the
  /// memory away that it uses.
  void fail(Lock& lock, Context& context, CUresult result);
};

/// Unpins what Memory::find pinned.
void unpin(State& state, std::vector<Pins>& pins);

// ---- streams ----

std::shared_ptr<Stream> make_stream(State& state, const std::shared_ptr<Context>& context);
/// Queues the work, or captures it. `number`: what `completed` reaches when it is done.
CUresult enqueue(State& state, const std::shared_ptr<Stream>& stream, Work work, uint64_t* number = nullptr);
/// Waits until so much of the stream has completed; its context's error.
CUresult wait_for(State& state, Lock& lock, Stream& stream, uint64_t completed);
/// The same for all that is queued in all streams of a context.
CUresult wait_for_all(State& state, Lock& lock, Context& context);
/// No more work comes: the thread ends after what is queued.
void close_stream(State& state, Stream& stream);
void invalidate(Capture& capture);
/// Ends a capture, whatever has become of it.
void end_capture(State& state, const std::shared_ptr<Capture>& capture);

/// Whether this thread is in a function of cuLaunchHostFunc.
bool in_host_function();
Work host_function(CUhostFn function, void* data);

}  // namespace kvt::standin
