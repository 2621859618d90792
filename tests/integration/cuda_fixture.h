// SPDX-License-Identifier: Apache-2.0
//
// A kvtierd whose fast tier is a GPU's memory, and clients that work with it. The driver is the one that KVT_CUDA_DRIVER
// names, else the stand-in: where a test needs faults to order it says so.
#pragma once

#include <gtest/gtest.h>
#include <kvtier/cuda.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "shm/cuda/gpu.h"
#include "tests/support/client.h"
#include "tests/support/cuda/standin.h"
#include "tests/support/daemon.h"

namespace kvt::test {

inline constexpr uint64_t kCudaPageBytes = 65536;

inline std::string cuda_driver() {
  const char* const named = std::getenv("KVT_CUDA_DRIVER");
  return named == nullptr || *named == '\0' ? KVT_STANDIN_DRIVER : named;
}

/// Three quarters of the pages do not fit into device memory.
inline World cuda_world(const char* policy = "off") {
  World world;
  world.cuda_driver = cuda_driver();
  world.page_bytes = kCudaPageBytes;
  world.hbm_bytes = 4u << 20;
  world.dram_bytes = 16u << 20;
  world.policy = policy;
  return world;
}

inline kvt_attach_args cuda_args(const std::string& folder, const std::string& driver) {
  kvt_attach_args args = attach_args(folder);
  args.flags = KVT_ATTACH_CUDA;
  args.cuda_driver = driver.c_str();
  return args;
}

/// With which GPU a session works, and through which column it reads.
struct GpuPlace {
  int device = 0;
  uint32_t column = 0;
};

/// A session with a GPU, and a stream of the test's own.
class GpuClient {
 public:
  explicit GpuClient(const Daemon& daemon, uint32_t flags = 0, uint32_t access = KVT_ACCESS_READ_WRITE,
                     uint32_t members_max = 1, GpuPlace place = {})
      : path_(cuda_driver()) {
    kvt_attach_args args = cuda_args(daemon.folder(), path_);
    args.flags |= flags;
    args.cuda_device = place.device;
    args.column = place.column;
    args.access = access;
    args.members_max = members_max;
    client_ = Client(args);
    if (client_.code() != KVT_OK) return;
    driver_ = *cuda::Driver::load(path_);
    gpu_ = *cuda::Gpu::open(driver_, place.device);
    driver_->cuCtxSetCurrent(gpu_->context());
    driver_->cuStreamCreateWithPriority(&stream_, CU_STREAM_NON_BLOCKING, 0);
    driver_->cuMemHostAlloc(&buffer_, kCudaPageBytes, CU_MEMHOSTALLOC_PORTABLE);
  }
  ~GpuClient() {
    client_.detach();
    if (driver_ == nullptr) return;
    driver_->cuCtxSetCurrent(gpu_->context());
    driver_->cuMemFreeHost(buffer_);
    driver_->cuStreamDestroy(stream_);
  }
  GpuClient(const GpuClient&) = delete;
  GpuClient& operator=(const GpuClient&) = delete;

  operator kvt_session*() const { return client_.get(); }  // NOLINT: the tests are about the C calls
  [[nodiscard]] const Client& client() const { return client_; }
  [[nodiscard]] int code() const { return client_.code(); }
  [[nodiscard]] CUstream stream() const { return stream_; }
  [[nodiscard]] const cuda::Driver& driver() const { return *driver_; }
  [[nodiscard]] CUcontext context() const { return gpu_->context(); }

  [[nodiscard]] CUdeviceptr address(kvt_frame frame) const {
    const kvt_geometry geometry = client_.geometry();
    return reinterpret_cast<CUdeviceptr>(geometry.base) + uint64_t{frame} * geometry.stride;
  }
  /// The tier that the frame lies in; tiers where it lies in none.
  [[nodiscard]] uint32_t tier_of(kvt_frame frame) const {
    const kvt_geometry geometry = client_.geometry();
    for (uint32_t tier = 0; tier < geometry.tiers; ++tier) {
      const kvt_window& window = geometry.windows[tier];
      if (frame >= window.first_frame && frame - window.first_frame < window.frames) return tier;
    }
    return geometry.tiers;
  }
  /// Whether the frame is device memory.
  [[nodiscard]] bool on_device(kvt_frame frame) const {
    const uint32_t tier = tier_of(frame);
    return tier < KVT_TIERS_MAX && (client_.geometry().device_tiers & 1u << tier) != 0;
  }
  /// Writes a FILLING page through the stream. false: it could not be.
  bool write(kvt_page page, kvt_key key) {
    void* const data = kvt_page_data(client_, page);
    if (data == nullptr) return false;
    fill(buffer_, kCudaPageBytes, key);
    return driver_->cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(data), host(), kCudaPageBytes, stream_) ==
               CUDA_SUCCESS &&
           driver_->cuStreamSynchronize(stream_) == CUDA_SUCCESS;
  }
  /// Wrong words of a frame, brought home through the stream; UINT64_MAX when that fails.
  uint64_t wrong(kvt_frame frame, kvt_key key) {
    if (driver_->cuMemcpyAsync(host(), address(frame), kCudaPageBytes, stream_) != CUDA_SUCCESS ||
        driver_->cuStreamSynchronize(stream_) != CUDA_SUCCESS)
      return UINT64_MAX;
    return wrong_words(buffer_, kCudaPageBytes, key);
  }
  /// Of a page, in a step of its own.
  uint64_t wrong_page(kvt_page page, kvt_key key) {
    kvt_step step{};
    if (kvt_cuda_step_begin(client_, stream_, &step) != KVT_OK) return UINT64_MAX;
    kvt_frame frame = KVT_NO_FRAME;
    uint64_t wrong_words = UINT64_MAX;
    if (kvt_resolve(client_, &step, &page, 1, &frame) == 1) wrong_words = wrong(frame, key);
    kvt_cuda_step_end(client_, &step);
    driver_->cuStreamSynchronize(stream_);
    kvt_cuda_poll(client_);
    return wrong_words;
  }
  /// Allocates, writes and publishes a page under `key`; it stays held.
  kvt_page publish(kvt_key key, kvt_page parent = KVT_NO_PAGE) {
    kvt_page page = KVT_NO_PAGE;
    if (kvt_allocate(client_, &page, 1) != 1 || !write(page, key)) return KVT_NO_PAGE;
    kvt_publish_entry entry{};
    entry.page = page;
    entry.key = key;
    entry.parent = parent;
    if (kvt_publish(client_, &entry, 1) != 1 || entry.result != KVT_PUBLISHED) return KVT_NO_PAGE;
    return page;
  }
  std::vector<kvt_page> publish_many(uint64_t n) {
    std::vector<kvt_page> pages;
    for (uint64_t i = 0; i < n; ++i) pages.push_back(publish(key_of(i)));
    return pages;
  }
  [[nodiscard]] uint32_t tier(kvt_page page) const { return client_.info(page).tier; }

 private:
  [[nodiscard]] CUdeviceptr host() const { return reinterpret_cast<CUdeviceptr>(buffer_); }

  std::string path_;
  Client client_;
  std::shared_ptr<const cuda::Driver> driver_;
  std::shared_ptr<cuda::Gpu> gpu_;
  CUstream stream_ = nullptr;
  void* buffer_ = nullptr;
};

/// An operator's move, which has begun when this returns.
inline void move_page(const Daemon& daemon, kvt_page page, const std::string& tier, uint32_t column = 0) {
  const std::string answer =
      daemon.control("{\"command\":\"move\",\"page\":" + std::to_string(KVT_PAGE_INDEX(page)) +
                     ",\"tier\":\"" + tier + "\",\"column\":" + std::to_string(column) + "}");
  EXPECT_TRUE(mentions(answer, {"\"ok\":true"})) << answer;
}

/// Whether the daemon has done what it was asked; its answer and log where not.
inline bool is_done(const Daemon& daemon, const std::string& answer) {
  EXPECT_TRUE(mentions(answer, {"\"ok\":true"})) << answer << daemon.log();
  return mentions(answer, {"\"ok\":true"});
}

/// Keeps a stream from going on until it is opened.
class StreamGate {
 public:
  explicit StreamGate(const GpuClient& client) {
    auto held = std::make_unique<std::shared_ptr<std::atomic<bool>>>(open_);
    closed_ = client.driver().cuLaunchHostFunc(client.stream(), &hold, held.get()) == CUDA_SUCCESS;
    if (closed_) held.release();  // hold() has it
  }
  ~StreamGate() { open(); }
  StreamGate(const StreamGate&) = delete;
  StreamGate& operator=(const StreamGate&) = delete;
  [[nodiscard]] bool closed() const { return closed_; }
  void open() {
    open_->store(true, std::memory_order_release);
    open_->notify_all();
  }

 private:
  /// May still be waking up when the gate is gone.
  static void CUDA_CB hold(void* held) {
    const std::unique_ptr<std::shared_ptr<std::atomic<bool>>> open(
        static_cast<std::shared_ptr<std::atomic<bool>>*>(held));
    (*open)->wait(false, std::memory_order_acquire);
  }
  std::shared_ptr<std::atomic<bool>> open_ = std::make_shared<std::atomic<bool>>(false);
  bool closed_ = false;
};

/// Variables of the stand-in, for the processes that begin while it lives.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) { ::setenv(name, value.c_str(), 1); }
  ~Environment() { ::unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
};

/// A stand-in with two GPUs, here and in the daemons that begin while this lives.
class TwoGpus {
 public:
  TwoGpus() : variable_("KVT_STANDIN_DEVICES", "2"), standin_(KVT_STANDIN_DRIVER) { standin_.reload(); }

 private:
  Environment variable_;
  standin::StandIn standin_;
};

/// A column for each of them: tiers hbm0, hbm1 and dram.
inline World two_columns(const char* policy = "off") {
  World world = cuda_world(policy);
  world.cuda_driver = KVT_STANDIN_DRIVER;
  world.columns = world.cuda_gpus = 2;
  return world;
}

/// The page as another session finds it; it holds it.
inline kvt_page found_by(kvt_session* session, kvt_key key) {
  kvt_page page = KVT_NO_PAGE;
  kvt_lookup(session, &key, 1, KVT_LOOKUP_HOLD, &page);
  return page;
}

}  // namespace kvt::test
