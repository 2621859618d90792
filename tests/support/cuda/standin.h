// SPDX-License-Identifier: Apache-2.0
//
// What a test can ask of the stand-in driver (libcuda-standin.so), which takes libcuda.so.1's place on machines without
// a GPU: it keeps the driver's promises and failures as far as kvtier relies on them, and runs "device" work on threads.
// Everything here is thread-safe. Under tsan, work of two streams that touches the same bytes without an order is a race
// that tsan finds.
//
// A program that loads "libcuda.so.1" finds the stand-in with LD_LIBRARY_PATH set to the folder of that name's link:
// tests/support/cuda/driver in the build folder.
//
// The environment that it reads when it is loaded, and again at reload():
//   KVT_STANDIN_DEVICES     how many GPUs (1)
//   KVT_STANDIN_BYTES       memory of each (268435456)
//   KVT_STANDIN_VERSION     1000 * major + 10 * minor of the driver (13000); cuMemcpyBatchAsync comes with 13000
//   KVT_STANDIN_CAPABILITY  compute capability (9.0)
//   KVT_STANDIN_WITHOUT     comma list of what it lacks: vmm, posix-handles, stream-write-64, read-only-register, batch,
//                           host-numa (host memory in handles), host-pointer (registered memory has another address on the device)
//   KVT_STANDIN_DELAY_US    an operation takes effect up to so many microseconds late (0)
//   KVT_STANDIN_SEED        of those delays, and of the order of the copies in a batch (1)
//   KVT_STANDIN_FAIL        "cuMemCreate:2=2,cuMemcpyAsync:1=700": the n-th call from now on returns that, and does nothing
//   KVT_STANDIN_FAIL_ASYNC  "copy:3=700": the n-th operation of that kind that runs fails, and its context with it;
//                           kinds: copy, kernel, write, memset, host
//   KVT_STANDIN_LOST_FILE   a path: from the call on that finds a file there, the devices are lost (999)
//   KVT_STANDIN_LOST_DEVICE of these the one that is lost (all); who reads its memory fails, too (700)
//   KVT_STANDIN_PEERS       "1:0,0:1": device 1 reaches device 0's memory, and so on; "none" (all reach each other's). It
//                           takes an access of its own as well (cuMemSetAccess), which others are refused (101)
//   KVT_STANDIN_COUNTS_FILE a path: there are kvt_standin_bytes, 64 bits for each direction, for other processes
//
// Lost, or after an error of a context: work that is queued does not run, and calls return the error. Names of errors,
// the driver's version and the thread's stack of contexts go on working. A lost device comes back with reload() alone.
#pragma once

#include <dlfcn.h>
#include <stdint.h>

#include <stdexcept>
#include <string>

extern "C" {

enum kvt_standin_direction {
  KVT_STANDIN_HOST_TO_DEVICE = 0,
  KVT_STANDIN_DEVICE_TO_HOST = 1,
  KVT_STANDIN_DEVICE_TO_DEVICE = 2,  // within one
  KVT_STANDIN_HOST_TO_HOST = 3,
  KVT_STANDIN_BETWEEN_DEVICES = 4,
  KVT_STANDIN_DIRECTIONS = 5
};

/// The `nth` call of `entry_point` from now (1: the next) returns `result`. False: there is no such entry point.
typedef bool (*kvt_standin_fail_fn)(const char* entry_point, uint64_t nth, int result);
/// The `nth` operation of `kind` that runs from now fails with `result`. False: there is no such kind.
typedef bool (*kvt_standin_fail_async_fn)(const char* kind, uint64_t nth, int result);
/// Calls of an entry point so far, those that failed too.
typedef uint64_t (*kvt_standin_count_fn)(const char* entry_point);
/// Bytes that copies, and kernels that copy, have moved in a kvt_standin_direction.
typedef uint64_t (*kvt_standin_bytes_fn)(int direction);
/// Streams' threads that have been started so far.
typedef uint64_t (*kvt_standin_threads_fn)();
/// Reads the environment again, and forgets failures to come that are not in it. Contexts keep their errors.
typedef void (*kvt_standin_reload_fn)();
}

namespace kvt::standin {

/// The test interface of a stand-in that is loaded, or will be, from `path`.
class StandIn {
 public:
  explicit StandIn(const std::string& path) {
    library_ = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) throw std::runtime_error(::dlerror());
    find(fail_, "kvt_standin_fail");
    find(fail_async_, "kvt_standin_fail_async");
    find(count_, "kvt_standin_count");
    find(bytes_, "kvt_standin_bytes");
    find(threads_, "kvt_standin_threads");
    find(reload_, "kvt_standin_reload");
  }
  /// Whether the library at `path` is a stand-in: false for a real driver.
  static bool is_one(const std::string& path) {
    void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    return library != nullptr && ::dlsym(library, "kvt_standin_count") != nullptr;
  }

  [[nodiscard]] bool fail(const std::string& entry_point, uint64_t nth, int result) const {
    return fail_(entry_point.c_str(), nth, result);
  }
  [[nodiscard]] bool fail_async(const std::string& kind, uint64_t nth, int result) const {
    return fail_async_(kind.c_str(), nth, result);
  }
  [[nodiscard]] uint64_t count(const std::string& entry_point) const { return count_(entry_point.c_str()); }
  [[nodiscard]] uint64_t bytes(kvt_standin_direction direction) const { return bytes_(direction); }
  [[nodiscard]] uint64_t threads() const { return threads_(); }
  void reload() const { reload_(); }

 private:
  template <typename Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(::dlsym(library_, name));
    if (function == nullptr) throw std::runtime_error(std::string("no stand-in driver: it has no ") + name);
  }

  void* library_ = nullptr;  // stays loaded, as the driver does
  kvt_standin_fail_fn fail_ = nullptr;
  kvt_standin_fail_async_fn fail_async_ = nullptr;
  kvt_standin_count_fn count_ = nullptr;
  kvt_standin_bytes_fn bytes_ = nullptr;
  kvt_standin_threads_fn threads_ = nullptr;
  kvt_standin_reload_fn reload_ = nullptr;
};

}  // namespace kvt::standin
