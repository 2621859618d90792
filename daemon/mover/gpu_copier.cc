// SPDX-License-Identifier: Apache-2.0
#include "daemon/mover/gpu_copier.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/mover/device/page_sums.h"
#include "daemon/mover/mover.h"
#include "shm/cuda/gpu.h"

#ifdef KVT_HAVE_DEVICE_CODE
extern const unsigned char kvt_copy_pages_code[];
extern const unsigned char kvt_page_sums_code[];
#endif

namespace kvt::mover {
namespace {

/// Copies of one call of the driver. Longer batches are slower: it takes them apart before it begins (measured on an
/// H200: 64 of 256 KiB reach 96 % of the link, 4096 in one call 82 %).
constexpr size_t kBatchPages = 64;
/// A batch takes a few milliseconds at most, so that the direction can turn to something more urgent.
constexpr uint64_t kBatchBytes = 64ull << 20;
/// Batches of a direction under way: one is copied, the others have been handed over.
constexpr size_t kBatchesAhead = 4;
/// Pages up to this size the multiprocessors copy faster than the copy engine, up and down.
constexpr uint64_t kKernelBytesIn = 48ull << 10;
constexpr uint64_t kKernelBytesOut = 128ull << 10;
/// Blocks of the copy kernel: enough to fill the link, of the 132 that an H100 has room for. Outwards, of pages that few
/// blocks copy as fast, few while the other direction is at work: reads wait behind the stores that the link has taken
/// (an H200, 64 KiB, both directions: 83 % of two large copies with 4 blocks, 63 % with 32).
constexpr uint32_t kKernelBlocks = 32;
constexpr uint32_t kKernelBlocksBeside = 4;
constexpr uint64_t kFewBlocksBytes = 48ull << 10;
constexpr uint32_t kKernelThreads = 256;
constexpr size_t kKernelPages = 1024;
/// Blocks of the kernel of checksums, a page each: few, for engines' kernels have the other multiprocessors.
constexpr uint32_t kSumBlocks = 32;
/// How long work may be under way before the stream is asked whether it is still well: one that has failed calls back
/// no more.
constexpr auto kLookAfter = std::chrono::milliseconds(100);

/// What kernels are given for a batch, and give back; in registered memory.
struct Lists {
  uint64_t pairs[kKernelPages][2];   ///< source and target of pages to copy
  uint64_t pages[2 * kKernelPages];  ///< to be summed: first the sources, behind kKernelPages the targets
  uint64_t sums[2 * kKernelPages];   ///< of `pages`
};

struct Batch {
  uint64_t serial = 0;  ///< counts a direction's batches
  std::vector<Job> jobs;
  Lists* lists = nullptr;  ///< where a kernel is launched
};

/// Which sides of a job its GPU sums: those that no worker reads.
bool sums_source(const Job& job) { return job.sums && (job.out || job.within || job.target == nullptr); }
bool sums_target(const Job& job) { return job.sums && (!job.out || job.within) && job.target != nullptr; }

enum Way : uint8_t { kIn, kOut, kWays };  // into this GPU's memory, within it too; out of it

class CudaCopier;

struct Direction;

/// What a call of the stream is about.
struct Ticket {
  Direction* direction = nullptr;
  uint64_t serial = 0;
};

struct Direction {
  CudaCopier* copier = nullptr;
  Way way = kIn;
  CUstream stream = nullptr;
  CUstream telling = nullptr;   // calls back: a stream waits for its host functions, and copies must not
  std::vector<CUevent> events;  // what `telling` waits for, one for each batch ahead
  std::array<Ticket, kBatchesAhead> tickets;  // of the events
  size_t next_event = 0;
  uint64_t next_serial = 0;
  std::deque<Job> waiting;
  std::deque<std::unique_ptr<Batch>> under_way;  // oldest first
  std::vector<Lists*> free_lists;
};

class CudaCopier final : public GpuCopier {
 public:
  CudaCopier(std::shared_ptr<cuda::Gpu> gpu, Done done) : gpu_(std::move(gpu)), done_(std::move(done)) {}

  Result<void> begin() {
    const cuda::Driver& driver = gpu_->driver();
    const cuda::Current current(driver, gpu_->context());
    int least = 0;
    int greatest = 0;
    KVT_TRY(driver.check(driver.cuCtxGetStreamPriorityRange(&least, &greatest), "stream priorities"));
    for (Direction& direction : directions_) {
      direction.copier = this;
      direction.way = &direction == &directions_[kIn] ? kIn : kOut;
      for (CUstream* const stream : {&direction.stream, &direction.telling})
        KVT_TRY(driver.check(driver.cuStreamCreateWithPriority(stream, CU_STREAM_NON_BLOCKING, least),
                             "a stream for copies"));
      for (size_t i = 0; i < kBatchesAhead; ++i) {
        direction.events.push_back(nullptr);
        KVT_TRY(driver.check(driver.cuEventCreate(&direction.events.back(), CU_EVENT_DISABLE_TIMING),
                             "an event for copies"));
      }
    }
#ifdef KVT_HAVE_DEVICE_CODE
    // Without the first small pages are copied too, only slower; without the other GPU memory is not checked.
    load(kvt_copy_pages_code, "kvt_copy_pages", kernel_);
    load(kvt_page_sums_code, "kvt_page_sums", sums_kernel_);
#endif
    if (kernel_ != nullptr || sums_kernel_ != nullptr)
      for (Direction& direction : directions_)
        for (size_t i = 0; i < kBatchesAhead; ++i) {
          void* memory = nullptr;
          KVT_TRY(driver.check(driver.cuMemHostAlloc(&memory, sizeof(Lists),
                                                     CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP),
                               "memory for lists of copies"));
          lists_.push_back(static_cast<Lists*>(memory));
          direction.free_lists.push_back(lists_.back());
        }
    thread_ = std::thread([this] { work(); });
    ::pthread_setname_np(thread_.native_handle(),
                         ("copy-gpu-" + std::to_string(gpu_->info().ordinal)).c_str());
    return {};
  }

  ~CudaCopier() override {
    CudaCopier::stop();
    const cuda::Driver& driver = gpu_->driver();
    const cuda::Current current(driver, gpu_->context());
    for (Direction& direction : directions_) {
      for (CUstream const stream : {direction.stream, direction.telling})
        if (stream != nullptr) driver.cuStreamDestroy(stream);
      for (CUevent const event : direction.events)
        if (event != nullptr) driver.cuEventDestroy(event);
    }
    for (Lists* const memory : lists_) driver.cuMemFreeHost(memory);
    for (CUmodule const module : modules_) driver.cuModuleUnload(module);
  }

  bool stop() override {
    {
      const std::lock_guard guard(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
    const cuda::Current current(gpu_->driver(), gpu_->context());
    bool have_ended = true;
    for (Direction& direction : directions_)
      for (CUstream const stream : {direction.stream, direction.telling})
        if (stream != nullptr && gpu_->driver().cuStreamSynchronize(stream) != CUDA_SUCCESS)
          have_ended = false;
    return have_ended;
  }

  [[nodiscard]] bool can_sum() const override { return sums_kernel_ != nullptr; }

  void submit(const Job& job) override {
    {
      const std::lock_guard guard(mutex_);
      directions_[job.out ? kOut : kIn].waiting.push_back(job);
    }
    wake_.notify_one();
  }

 private:
  /// Null where the driver takes no such code.
  void load(const unsigned char* code, const char* name, CUfunction& function) {
    const cuda::Driver& driver = gpu_->driver();
    CUmodule module = nullptr;
    if (driver.cuModuleLoadData(&module, code) != CUDA_SUCCESS) return;
    modules_.push_back(module);
    if (driver.cuModuleGetFunction(&function, module, name) != CUDA_SUCCESS) function = nullptr;
  }

  void work() {
    const cuda::Current current(gpu_->driver(), gpu_->context());
    std::unique_lock lock(mutex_);
    for (;;) {
      const bool idle = directions_[kIn].under_way.empty() && directions_[kOut].under_way.empty();
      const auto ready = [&] {
        return stopping_ ||
               std::any_of(directions_.begin(), directions_.end(), [](const Direction& direction) {
                 return !direction.waiting.empty() && direction.under_way.size() < kBatchesAhead;
               });
      };
      if (idle)
        wake_.wait(lock, ready);
      else if (!wake_.wait_for(lock, kLookAfter, ready))
        look(lock);
      if (stopping_) return;
      for (Direction& direction : directions_)
        if (!direction.waiting.empty() && direction.under_way.size() < kBatchesAhead) issue(direction, lock);
    }
  }

  /// Hands the next batch over. The lock is given up meanwhile: the stream may call back at once.
  void issue(Direction& direction, std::unique_lock<std::mutex>& lock) {
    auto batch = std::make_unique<Batch>();
    const uint64_t bytes = direction.waiting.front().bytes;
    const bool peer = direction.waiting.front().peer;  // what refuses these copies may let the others pass
    const uint64_t limit = direction.way == kIn ? kKernelBytesIn : kKernelBytesOut;
    const bool by_kernel = kernel_ != nullptr && bytes <= limit;
    const size_t most = by_kernel ? kKernelPages : kBatchPages;
    for (uint64_t sum = 0; !direction.waiting.empty() && batch->jobs.size() < most && sum < kBatchBytes;) {
      if (direction.waiting.front().bytes != bytes || direction.waiting.front().peer != peer) break;
      sum += bytes;
      batch->jobs.push_back(direction.waiting.front());
      direction.waiting.pop_front();
    }
    // As many as there are batches ahead, each of which has one at most.
    if (!direction.free_lists.empty()) {
      batch->lists = direction.free_lists.back();
      direction.free_lists.pop_back();
    }
    const Direction& other = directions_[direction.way == kIn ? kOut : kIn];
    const bool beside = direction.way == kOut && bytes > kFewBlocksBytes &&
                        (!other.waiting.empty() || !other.under_way.empty());
    Batch& handed = *batch;
    handed.serial = direction.next_serial++;
    direction.under_way.push_back(std::move(batch));
    lock.unlock();
    CUresult result = broken_;
    if (result == CUDA_SUCCESS) result = sum(handed, sums_source, 0, direction.stream);
    if (result == CUDA_SUCCESS)
      result = by_kernel ? launch(handed, direction.stream, beside ? kKernelBlocksBeside : kKernelBlocks)
                         : copy(handed, direction.stream);
    for (Job& job : handed.jobs) {
      if (job.flip == 0 || job.target == nullptr || result != CUDA_SUCCESS) continue;
      --job.flip;
      result = gpu_->driver().cuMemsetD8Async(address(job.target) + job.bytes / 2, 0x5a, 1, direction.stream);
    }
    if (result == CUDA_SUCCESS) result = sum(handed, sums_target, kKernelPages, direction.stream);
    if (result == CUDA_SUCCESS) result = call_back(direction, handed.serial);
    // What was handed over before a refusal is copied all the same, into a frame that stays reserved until then.
    if (result != CUDA_SUCCESS) {
      const CUresult waited = gpu_->driver().cuStreamSynchronize(direction.stream);
      fail_batches(direction, cuda::is_sticky(waited) ? waited : result,
                   cuda::is_sticky(result) || waited != CUDA_SUCCESS);
    }
    lock.lock();
  }

  /// Behind what the direction's stream has now. An event is used again when its batch has long been told of: there are
  /// as many as batches ahead.
  CUresult call_back(Direction& direction, uint64_t serial) {
    const cuda::Driver& driver = gpu_->driver();
    CUevent const event = direction.events[direction.next_event];
    Ticket& ticket = direction.tickets[direction.next_event];
    ticket = {&direction, serial};
    direction.next_event = (direction.next_event + 1) % direction.events.size();
    CUresult result = driver.cuEventRecord(event, direction.stream);
    if (result == CUDA_SUCCESS) result = driver.cuStreamWaitEvent(direction.telling, event, 0);
    if (result != CUDA_SUCCESS) return result;
    return driver.cuLaunchHostFunc(
        direction.telling,
        [](void* raw) {
          const auto& done = *static_cast<const Ticket*>(raw);
          done.direction->copier->finish(*done.direction, done.serial);
        },
        &ticket);
  }

  static CUdeviceptr address(const void* data) { return reinterpret_cast<CUdeviceptr>(data); }

  CUresult copy(const Batch& batch, CUstream stream) {
    const cuda::Driver& driver = gpu_->driver();
#if CUDA_VERSION >= 13000
    if (driver.cuMemcpyBatchAsync != nullptr && batch.jobs.size() > 1) {
      std::array<CUdeviceptr, kBatchPages> targets;
      std::array<CUdeviceptr, kBatchPages> sources;
      std::array<size_t, kBatchPages> sizes;
      size_t count = 0;
      for (const Job& job : batch.jobs) {
        if (job.target == nullptr) continue;
        targets[count] = address(job.target);
        sources[count] = address(job.source);
        sizes[count++] = job.bytes;
      }
      if (count == 0) return CUDA_SUCCESS;
      CUmemcpyAttributes attributes{};
      attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
      size_t first = 0;
      return driver.cuMemcpyBatchAsync(targets.data(), sources.data(), sizes.data(), count, &attributes,
                                       &first, 1, stream);
    }
#endif
    for (const Job& job : batch.jobs) {
      if (job.target == nullptr) continue;
      if (const CUresult result =
              driver.cuMemcpyAsync(address(job.target), address(job.source), job.bytes, stream);
          result != CUDA_SUCCESS)
        return result;
    }
    return CUDA_SUCCESS;
  }

  CUresult launch(const Batch& batch, CUstream stream, uint32_t blocks) {
    uint32_t count = 0;
    for (const Job& job : batch.jobs) {
      if (job.target == nullptr) continue;
      batch.lists->pairs[count][0] = address(job.source);
      batch.lists->pairs[count++][1] = address(job.target);
    }
    if (count == 0) return CUDA_SUCCESS;
    CUdeviceptr pairs = address(batch.lists->pairs);
    uint64_t bytes = batch.jobs.front().bytes;
    void* arguments[] = {&pairs, &count, &bytes};
    return gpu_->driver().cuLaunchKernel(kernel_, std::min(blocks, count), 1, 1, kKernelThreads, 1, 1, 0,
                                         stream, arguments, nullptr);
  }

  /// Of the jobs that want it the sources, or the targets; `first`: where they begin in the lists.
  CUresult sum(const Batch& batch, bool (*wanted)(const Job&), size_t first, CUstream stream) {
    uint32_t count = 0;
    for (const Job& job : batch.jobs)
      if (wanted(job)) batch.lists->pages[first + count++] = address(first == 0 ? job.source : job.target);
    if (count == 0) return CUDA_SUCCESS;
    CUdeviceptr pages = address(batch.lists->pages + first);
    CUdeviceptr sums = address(batch.lists->sums + first);
    uint64_t bytes = batch.jobs.front().bytes;
    void* arguments[] = {&pages, &sums, &count, &bytes};
    return gpu_->driver().cuLaunchKernel(sums_kernel_, std::min(kSumBlocks, count), 1, 1, device::kSumThreads,
                                         1, 1, 0, stream, arguments, nullptr);
  }

  /// What the launches of sum() have written, which are over.
  static void take_sums(Batch& batch) {
    if (batch.lists == nullptr) return;
    const uint64_t* source = batch.lists->sums;
    const uint64_t* target = batch.lists->sums + kKernelPages;
    for (Job& job : batch.jobs) {
      if (sums_source(job)) job.sum = *source++;
      if (sums_target(job)) job.target_sum = *target++;
    }
  }

  /// A direction's oldest batch is done: the stream keeps order. Not when it has been given up before. On the driver's
  /// thread, which calls nothing of it.
  void finish(Direction& direction, uint64_t serial) {
    std::unique_ptr<Batch> batch;
    {
      const std::lock_guard guard(mutex_);
      if (direction.under_way.empty() || direction.under_way.front()->serial != serial) return;
      batch = std::move(direction.under_way.front());
      direction.under_way.pop_front();
      take_sums(*batch);
      if (batch->lists != nullptr) direction.free_lists.push_back(batch->lists);
    }
    wake_.notify_one();
    done_(std::move(batch->jobs));
  }

  /// The batch that was not taken; with a context that is lost all before it too.
  void fail_batches(Direction& direction, CUresult result, bool lost) {
    std::vector<std::unique_ptr<Batch>> failed;
    {
      const std::lock_guard guard(mutex_);
      while (!direction.under_way.empty() && (lost || failed.empty())) {
        failed.push_back(std::move(direction.under_way.back()));
        direction.under_way.pop_back();
        if (failed.back()->lists != nullptr) direction.free_lists.push_back(failed.back()->lists);
      }
    }
    if (lost) broken_ = result;
    for (const auto& batch : failed) {
      for (Job& job : batch->jobs) {
        job.failed = true;
        job.lost_device = lost;
        job.driver_error = static_cast<int>(result);
      }
      done_(std::move(batch->jobs));
    }
  }

  /// Work has been under way for long: a stream whose context has failed never calls back.
  void look(std::unique_lock<std::mutex>& lock) {
    for (Direction& direction : directions_) {
      if (direction.under_way.empty()) continue;
      lock.unlock();
      const CUresult result = gpu_->driver().cuStreamQuery(direction.telling);
      if (result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY) fail_batches(direction, result, true);
      lock.lock();
    }
  }

  std::shared_ptr<cuda::Gpu> gpu_;
  Done done_;
  std::vector<CUmodule> modules_;
  CUfunction kernel_ = nullptr;
  CUfunction sums_kernel_ = nullptr;
  std::vector<Lists*> lists_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::array<Direction, kWays> directions_;
  CUresult broken_ = CUDA_SUCCESS;  // of the thread
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<GpuCopier>> GpuCopier::start(std::shared_ptr<cuda::Gpu> gpu, Done done) {
  auto copier = std::make_unique<CudaCopier>(std::move(gpu), std::move(done));
  KVT_TRY(copier->begin());
  return std::unique_ptr<GpuCopier>(std::move(copier));
}

}  // namespace kvt::mover
