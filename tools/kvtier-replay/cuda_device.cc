// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/cuda_device.h"

#include <fmt/format.h>
#include <kvtier/cuda.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <stdexcept>

#include "shm/cuda/driver.h"
#include "tools/kvtier-replay/device/verify.h"
#include "tools/kvtier-replay/errors.h"

#ifdef KVT_HAVE_DEVICE_CODE
extern const unsigned char kvt_replay_code[];
#else
// A stand-in looks for names alone; a real driver refuses it, and is not asked.
constexpr unsigned char kvt_replay_code[1] = {};
#endif

namespace kvt::replay {
namespace {

constexpr const char* kStandIn = "stand-in";
constexpr const char* kStandInFile = "libcuda-standin.so";
/// Pages that are written lie in pinned memory until the stream has copied them.
constexpr uint64_t kStagingBytes = uint64_t{8} << 20;
/// Of the kernel that fills one page.
constexpr uint32_t kFillBlocksMax = 256;
constexpr size_t kLaunchPagesLeast = 64;

std::string find_stand_in() {
  const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  const std::filesystem::path beside = folder / kStandInFile;
  const std::filesystem::path built = (folder / KVT_STANDIN_FROM_TOOL).lexically_normal();
  for (const auto& path : {beside, built})
    if (std::filesystem::exists(path)) return path;
  throw MissingError(
      fmt::format("--cuda-driver {}: it is for trying kvtier out in a checkout, and lies neither beside this "
                  "program nor where a "
                  "build has it (target kvt_standin, {})",
                  kStandIn, kStandInFile));
}

/// Memory of the host that the device sees too.
template <class T>
class Pinned {
 public:
  Pinned(const cuda::Driver& driver, size_t count) : driver_(driver), count_(count) {
    void* memory = nullptr;
    if (const auto made =
            driver.check(driver.cuMemHostAlloc(&memory, count * sizeof(T), CU_MEMHOSTALLOC_PORTABLE),
                         "pinned memory of the replay");
        !made)
      throw std::runtime_error(made.error().text);
    data_ = static_cast<T*>(memory);
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { driver_.cuMemFreeHost(data_); }

  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] size_t count() const { return count_; }
  [[nodiscard]] CUdeviceptr device() const { return reinterpret_cast<CUdeviceptr>(data_); }

 private:
  const cuda::Driver& driver_;
  T* data_ = nullptr;
  size_t count_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(const BoardHeader& board, Client& client)
      : client_(client), session_(client.session()), page_bytes_(client.geometry().page_bytes) {
    auto loaded = cuda::Driver::load(board.cuda_driver.data());
    if (!loaded) throw MissingError(loaded.error().text);
    driver_ = std::move(*loaded);
    CUcontext context = nullptr;
    check(driver_->cuDeviceGet(&device_, board.cuda_device), "cuDeviceGet");
    check(driver_->cuDevicePrimaryCtxRetain(&context, device_), "the device's context");
    check(driver_->cuCtxSetCurrent(context), "make the context current");
    check(driver_->cuStreamCreateWithPriority(&stream_, CU_STREAM_NON_BLOCKING, 0), "a stream");
    check(driver_->cuModuleLoadData(&module_, kvt_replay_code), "load the replay's kernels");
    check(driver_->cuModuleGetFunction(&verify_, module_, "kvt_replay_verify"), "kvt_replay_verify");
    check(driver_->cuModuleGetFunction(&fill_, module_, "kvt_replay_fill"), "kvt_replay_fill");
    staging_pages_ = std::max<size_t>(kStagingBytes / page_bytes_, 1);
    staging_.emplace(*driver_, staging_pages_ * client_.page_words());
  }
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;
  ~CudaDevice() override {
    driver_->cuStreamSynchronize(stream_);
    under_way_.clear();
    free_.clear();
    staging_.reset();
    driver_->cuModuleUnload(module_);
    driver_->cuStreamDestroy(stream_);
    driver_->cuCtxSetCurrent(nullptr);
    driver_->cuDevicePrimaryCtxRelease(device_);
  }

  kvt_step step_begin() override {
    kvt_step step{};
    Client::checked("kvt_cuda_step_begin", kvt_cuda_step_begin(session_, stream_, &step));
    return step;
  }
  void step_end(const kvt_step& step) override {
    Client::checked("kvt_cuda_step_end", kvt_cuda_step_end(session_, &step));
  }

  void write(std::span<const PageWords> pages) override {
    const size_t words = client_.page_words();
    for (size_t at = 0; at < pages.size();) {
      if (staged_ == staging_pages_) settle();
      const size_t n = std::min(pages.size() - at, staging_pages_ - staged_);
      copies_.clear();
      for (const PageWords& page : pages.subspan(at, n)) {
        uint64_t* const memory = staging_->data() + staged_++ * words;
        page.content.write(memory, words);
        kvt_copy copy{};
        copy.page = page.page;
        copy.row_bytes = page_bytes_;
        copy.rows = 1;
        copy.memory = memory;
        copies_.push_back(copy);
      }
      unsettled_ = true;
      Client::checked("kvt_cuda_copy",
                      kvt_cuda_copy(session_, KVT_COPY_STORE, copies_.data(), copies_.size(), stream_));
      at += n;
    }
  }

  void generate(const PageWords& page) override {
    CUdeviceptr data = address(page.frame);
    uint64_t words = client_.page_words();
    uint64_t start = page.content.start();
    uint64_t stride = page.content.stride();
    void* arguments[] = {&data, &words, &start, &stride};
    const auto blocks = static_cast<uint32_t>(
        std::min<uint64_t>((words + kVerifyThreads - 1) / kVerifyThreads, kFillBlocksMax));
    const kvt_step step = step_begin();
    launch(fill_, blocks, 1, arguments);
    step_end(step);
    unsettled_ = true;
  }

  void seal(kvt_page page) override {
    Client::checked("kvt_cuda_seal", kvt_cuda_seal(session_, &page, 1, stream_));
    unsettled_ = true;
  }

  void settle() override {
    if (!unsettled_) return;
    check(driver_->cuStreamSynchronize(stream_), "wait for the stream");
    if (const int open = Client::checked("kvt_cuda_poll", kvt_cuda_poll(session_)); open != 0)
      throw std::runtime_error(
          fmt::format("kvt_cuda_poll: {} steps are open behind the end of their stream", open));
    staged_ = 0;
    unsettled_ = false;
  }

  void compare(std::span<const PageWords> pages) override {
    std::unique_ptr<Launch> next = free_launch(pages.size());
    next->pages = pages.size();
    next->contents.clear();
    for (size_t i = 0; i < pages.size(); ++i) {
      const Content& content = pages[i].content;
      next->checks.data()[i] = {address(pages[i].frame), content.start(), content.stride()};
      next->contents.push_back(content);
    }
    const size_t check_bytes = pages.size() * sizeof(PageCheck);
    const size_t result_bytes = pages.size() * sizeof(PageResult);
    uint64_t words = client_.page_words();
    auto count = static_cast<uint32_t>(pages.size());
    void* arguments[] = {&next->device_checks, &next->device_results, &count, &words};
    const auto pieces = static_cast<uint32_t>((words + kPieceWords - 1) / kPieceWords);
    check(driver_->cuMemcpyAsync(next->device_checks, next->checks.device(), check_bytes, stream_),
          "list of pages");
    check(driver_->cuMemsetD8Async(next->device_results, 0, result_bytes, stream_), "zero the results");
    if (count != 0) launch(verify_, count, pieces, arguments);
    check(driver_->cuMemcpyAsync(next->results.device(), next->device_results, result_bytes, stream_),
          "results of the verification");
    check(driver_->cuEventRecord(next->done, stream_), "record an event");
    under_way_.push_back(std::move(next));
  }

  bool take(std::vector<Compared>& results, bool wait) override {
    Client::checked("kvt_cuda_poll", kvt_cuda_poll(session_));
    if (under_way_.empty()) return false;
    Launch& oldest = *under_way_.front();
    if (wait) {
      check(driver_->cuEventSynchronize(oldest.done), "verify pages on the device");
    } else {
      const CUresult state = driver_->cuEventQuery(oldest.done);
      if (state == CUDA_ERROR_NOT_READY) return false;
      check(state, "verify pages on the device");
    }
    results.clear();
    for (size_t i = 0; i < oldest.pages; ++i)
      results.push_back(result_of(oldest.results.data()[i], oldest.contents[i]));
    free_.push_back(std::move(under_way_.front()));
    under_way_.pop_front();
    return true;
  }

 private:
  /// One verification: its list and its results, here and on the device.
  struct Launch {
    Launch(const cuda::Driver& of, size_t capacity)
        : driver(of), checks(of, capacity), results(of, capacity) {
      CUresult made = driver.cuMemAlloc(&device_checks, capacity * sizeof(PageCheck));
      if (made == CUDA_SUCCESS) made = driver.cuMemAlloc(&device_results, capacity * sizeof(PageResult));
      if (made == CUDA_SUCCESS)
        made = driver.cuEventCreate(&done, CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING);
      if (const auto good = driver.check(made, "device memory of the replay"); !good) {
        release();
        throw std::runtime_error(good.error().text);
      }
    }
    Launch(const Launch&) = delete;
    Launch& operator=(const Launch&) = delete;
    ~Launch() { release(); }
    void release() {
      if (done != nullptr) driver.cuEventDestroy(done);
      if (device_results != 0) driver.cuMemFree(device_results);
      if (device_checks != 0) driver.cuMemFree(device_checks);
    }

    const cuda::Driver& driver;
    Pinned<PageCheck> checks;
    Pinned<PageResult> results;
    CUdeviceptr device_checks = 0;
    CUdeviceptr device_results = 0;
    CUevent done = nullptr;
    size_t pages = 0;
    std::vector<Content> contents;
  };

  void check(CUresult result, const char* what) const {
    if (result == CUDA_SUCCESS) return;
    throw std::runtime_error(driver_->check(result, what).error().text);
  }
  [[nodiscard]] CUdeviceptr address(kvt_frame frame) const {
    return reinterpret_cast<CUdeviceptr>(client_.address(frame));
  }
  void launch(CUfunction kernel, uint32_t x, uint32_t y, void** arguments) const {
    check(driver_->cuLaunchKernel(kernel, x, y, 1, kVerifyThreads, 1, 1, 0, stream_, arguments, nullptr),
          "launch a kernel");
  }
  /// One that has room; those that are too small go.
  std::unique_ptr<Launch> free_launch(size_t pages) {
    while (!free_.empty()) {
      std::unique_ptr<Launch> found = std::move(free_.front());
      free_.pop_front();
      if (found->checks.count() >= pages) return found;
    }
    return std::make_unique<Launch>(*driver_, std::bit_ceil(std::max(pages, kLaunchPagesLeast)));
  }
  [[nodiscard]] Compared result_of(const PageResult& from, const Content& content) const {
    const size_t words = client_.page_words();
    if (from.words_read != words)
      throw std::runtime_error(
          fmt::format("the device has read {} words of a page of {}", from.words_read, words));
    Compared result{from.words_read, from.words_wrong == 0, {}};
    if (result.good) return result;
    const auto offset = static_cast<size_t>(words - from.first_wrong_to_end);
    result.difference = {static_cast<size_t>(from.words_wrong), offset, from.found, content.word(offset)};
    return result;
  }

  Client& client_;
  kvt_session* session_;
  uint64_t page_bytes_;
  std::shared_ptr<const cuda::Driver> driver_;
  CUdevice device_ = 0;
  CUstream stream_ = nullptr;
  CUmodule module_ = nullptr;
  CUfunction verify_ = nullptr;
  CUfunction fill_ = nullptr;
  std::optional<Pinned<uint64_t>> staging_;
  size_t staging_pages_ = 0;
  size_t staged_ = 0;       ///< pages of staging_ that the stream may not have read yet
  bool unsettled_ = false;  ///< something was written or sealed since settle()
  std::vector<kvt_copy> copies_;
  std::deque<std::unique_ptr<Launch>> under_way_;  ///< oldest first
  std::deque<std::unique_ptr<Launch>> free_;
};

}  // namespace

CudaChoice choose_cuda(const std::string& driver, int ordinal, uint64_t device_bytes) {
  CudaChoice choice;
  choice.ordinal = ordinal;
  choice.stand_in = driver == kStandIn;
  choice.path = driver;
  if (choice.stand_in) {
    choice.path = find_stand_in();
    setenv("KVT_STANDIN_BYTES", std::to_string(device_bytes).c_str(), 0);
  } else if (driver.empty()) {
    const char* const named = std::getenv("KVTIER_CUDA_DRIVER");
    choice.path = named == nullptr || *named == '\0' ? "libcuda.so.1" : named;
  }
  // No context is made here: this process has none, and whoever needs one makes it.
  const auto loaded = cuda::Driver::load(choice.path);
  if (!loaded) throw MissingError("--device cuda: " + loaded.error().text);
  const cuda::Driver& calls = **loaded;
  int count = 0;
  std::array<char, 128> name{};
  CUdevice device = 0;
  CUresult asked = calls.cuDeviceGetCount(&count);
  if (asked == CUDA_SUCCESS && ordinal >= count)
    throw MissingError(
        fmt::format("--cuda-device {}: {} shows {} of them, counted from 0", ordinal, choice.path, count));
  if (asked == CUDA_SUCCESS) asked = calls.cuDeviceGet(&device, ordinal);
  if (asked == CUDA_SUCCESS) asked = calls.cuDeviceGetName(name.data(), name.size(), device);
  if (const auto good = calls.check(asked, choice.path); !good) throw MissingError(good.error().text);
  choice.text = choice.stand_in ? kStandIn
                                : fmt::format("{}, CUDA {} on {}", choice.path,
                                              cuda::version_text(calls.version()), name.data());
#ifndef KVT_HAVE_DEVICE_CODE
  if (!choice.stand_in) throw MissingError("--device cuda: no device code in this build (it had no nvcc)");
#endif
  return choice;
}

std::unique_ptr<Device> make_cuda_device(const BoardHeader& board, Client& client) {
  return std::make_unique<CudaDevice>(board, client);
}

}  // namespace kvt::replay
