// SPDX-License-Identifier: Apache-2.0
//
// HBM through the CUDA driver: windows of device memory behind descriptors, and who still uses a GPU.
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>

#include "daemon/tier/gpus.h"
#include "shm/cuda/gpu.h"

#ifdef KVT_HAVE_DEVICE_CODE
extern const unsigned char kvt_copy_pages_code[];
#endif

namespace kvt::tier {
namespace {

/// The driver's management library, of which one question is asked: which processes have a context. Its few types
/// are written down here: its header comes with no package that CUDA's do.
class Nvml {
 public:
  explicit Nvml(const std::vector<GpuMemory>& gpus) {
    library_ = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) return;
    const auto init = find<int (*)()>("nvmlInit_v2");
    const auto by_uuid = find<int (*)(const char*, void**)>("nvmlDeviceGetHandleByUUID");
    processes_ = find<Processes>("nvmlDeviceGetComputeRunningProcesses_v3");
    if (init == nullptr || by_uuid == nullptr || processes_ == nullptr || init() != 0) return;
    for (const GpuMemory& gpu : gpus) {
      void* device = nullptr;
      if (by_uuid(gpu.uuid_text.c_str(), &device) == 0) devices_.push_back(device);
    }
    if (devices_.size() != gpus.size()) devices_.clear();
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  /// Nothing when it cannot tell: it sees this process nowhere either, though this has a context.
  std::optional<std::set<int>> processes(int own_pid) const {
    std::set<int> all;
    for (void* const device : devices_) {
      Process list[kProcesses];
      unsigned int count = kProcesses;
      if (processes_(device, &count, list) != 0) return std::nullopt;
      for (unsigned int i = 0; i < std::min(count, kProcesses); ++i)
        all.insert(static_cast<int>(list[i].pid));
    }
    if (!all.contains(own_pid)) return std::nullopt;
    return all;
  }

 private:
  struct Process {
    unsigned int pid;
    unsigned long long used_bytes;
    unsigned int gpu_instance;
    unsigned int compute_instance;
  };
  static constexpr unsigned int kProcesses = 1024;
  using Processes = int (*)(void*, unsigned int*, Process*);
  template <typename Function>
  Function find(const char* name) const {
    return reinterpret_cast<Function>(::dlsym(library_, name));
  }

  void* library_ = nullptr;  // stays loaded, as the driver does
  Processes processes_ = nullptr;
  std::vector<void*> devices_;
};

/// Memory and streams of one measurement.
class Stopwatch {
 public:
  explicit Stopwatch(const cuda::Gpu& gpu) : driver_(gpu.driver()), current_(driver_, gpu.context()) {}
  ~Stopwatch() {
    for (CUevent event : events_)
      if (event != nullptr) driver_.cuEventDestroy(event);
    for (CUstream stream : streams_)
      if (stream != nullptr) driver_.cuStreamDestroy(stream);
    if (module_ != nullptr) driver_.cuModuleUnload(module_);
    if (pairs_ != nullptr) driver_.cuMemFreeHost(pairs_);
    if (host_ != nullptr) driver_.cuMemFreeHost(host_);
    if (device_ != 0) driver_.cuMemFree(device_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  Result<GpuFigures> run() {
    KVT_TRY(check(driver_.cuMemAlloc(&device_, 2 * kBytes)));
    KVT_TRY(check(driver_.cuMemHostAlloc(&host_, 2 * kBytes, CU_MEMHOSTALLOC_DEVICEMAP)));
    for (CUstream& stream : streams_)
      KVT_TRY(check(driver_.cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0)));
    for (CUevent& event : events_) KVT_TRY(check(driver_.cuEventCreate(&event, CU_EVENT_DEFAULT)));
    const auto host = reinterpret_cast<CUdeviceptr>(host_);
    const auto in = [&](CUstream stream) { return driver_.cuMemcpyAsync(device_, host, kBytes, stream); };
    const auto out = [&](CUstream stream) {
      return driver_.cuMemcpyAsync(host + kBytes, device_ + kBytes, kBytes, stream);
    };
    GpuFigures figures;
    KVT_TRY(best(figures.in_gbs, kBytes, [&] { return in(streams_[0]); }));
    KVT_TRY(best(figures.out_gbs, kBytes, [&] { return out(streams_[0]); }));
    KVT_TRY(best(figures.both_gbs, 2 * kBytes, [&] {
      // The second stream begins behind the first event, and the last event waits for it.
      CUresult result = driver_.cuStreamWaitEvent(streams_[1], events_[0], 0);
      if (result == CUDA_SUCCESS) result = in(streams_[0]);
      if (result == CUDA_SUCCESS) result = out(streams_[1]);
      if (result == CUDA_SUCCESS) result = driver_.cuEventRecord(events_[2], streams_[1]);
      return result == CUDA_SUCCESS ? driver_.cuStreamWaitEvent(streams_[0], events_[2], 0) : result;
    }));
    KVT_TRY(best(figures.copy_gbs, 2 * kBytes,
                 [&] { return driver_.cuMemcpyAsync(device_, device_ + kBytes, kBytes, streams_[0]); }));
    KVT_TRY(measure_reads(figures.read_gbs));
    return figures;
  }

 private:
  static constexpr uint64_t kBytes = 64ull << 20;
  static constexpr uint64_t kPieceBytes = 64ull << 10;  // a page, as many have it
  static constexpr uint32_t kPieces = kBytes / kPieceBytes;
  /// Two for each multiprocessor of an H100, as decode kernels have them: a few dozen fill the link already.
  static constexpr uint32_t kBlocks = 256;
  static constexpr uint32_t kThreads = 256;

  /// What the multiprocessors read of host memory, which is not what the copy engines read of it. Nothing is measured
  /// where there is no kernel for this GPU.
  Result<void> measure_reads([[maybe_unused]] double& gbs) {
#ifdef KVT_HAVE_DEVICE_CODE
    CUfunction kernel = nullptr;
    if (driver_.cuModuleLoadData(&module_, kvt_copy_pages_code) != CUDA_SUCCESS ||
        driver_.cuModuleGetFunction(&kernel, module_, "kvt_copy_pages") != CUDA_SUCCESS)
      return {};
    KVT_TRY(
        check(driver_.cuMemHostAlloc(&pairs_, kPieces * 2 * sizeof(CUdeviceptr), CU_MEMHOSTALLOC_DEVICEMAP)));
    for (uint64_t i = 0; i < kPieces; ++i) {
      static_cast<CUdeviceptr*>(pairs_)[2 * i] = reinterpret_cast<CUdeviceptr>(host_) + i * kPieceBytes;
      static_cast<CUdeviceptr*>(pairs_)[2 * i + 1] = device_ + i * kPieceBytes;
    }
    auto pairs = reinterpret_cast<CUdeviceptr>(pairs_);
    uint32_t count = kPieces;
    uint64_t bytes = kPieceBytes;
    void* arguments[] = {&pairs, &count, &bytes};
    KVT_TRY(best(gbs, kBytes, [&] {
      return driver_.cuLaunchKernel(kernel, kBlocks, 1, 1, kThreads, 1, 1, 0, streams_[0], arguments,
                                    nullptr);
    }));
#endif
    return {};
  }

  Result<void> check(CUresult result) const { return driver_.check(result, "measure the GPU's copies"); }
  template <typename Work>
  Result<void> best(double& gbs, uint64_t bytes, const Work& work) {
    for (int round = 0; round < 3; ++round) {
      float ms = 0;
      KVT_TRY(check(driver_.cuEventRecord(events_[0], streams_[0])));
      KVT_TRY(check(work()));
      KVT_TRY(check(driver_.cuEventRecord(events_[1], streams_[0])));
      KVT_TRY(check(driver_.cuEventSynchronize(events_[1])));
      KVT_TRY(check(driver_.cuEventElapsedTime(&ms, events_[0], events_[1])));
      if (ms > 0) gbs = std::max(gbs, static_cast<double>(bytes) / (static_cast<double>(ms) * 1e6));
    }
    return {};
  }

  const cuda::Driver& driver_;
  cuda::Current current_;
  CUdeviceptr device_ = 0;
  void* host_ = nullptr;
  void* pairs_ = nullptr;  // for the kernel: [kPieces][2], source and target
  CUmodule module_ = nullptr;
  CUstream streams_[2] = {};
  CUevent events_[3] = {};
};

class CudaMemory final : public DeviceMemory {
 public:
  explicit CudaMemory(cuda::DeviceWindow window) : window_(std::move(window)) {}
  [[nodiscard]] std::vector<int> fds() const override {
    std::vector<int> all;
    for (const Fd& fd : window_.fds()) all.push_back(fd.get());
    return all;
  }
  Result<void> grow(size_t chunks) override { return window_.grow(chunks); }
  void shrink(size_t chunks) override { window_.shrink(chunks); }

 private:
  cuda::DeviceWindow window_;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::shared_ptr<cuda::Gpu> gpu) : gpu_(std::move(gpu)) {}
  [[nodiscard]] const char* name() const override { return "cuda"; }

  Result<Window> make_window(const WindowRequest& request) override {
    const uint64_t step = gpu_->granularity();
    if (request.range == nullptr || request.bytes == 0 || request.bytes % step != 0 ||
        request.offset % step != 0 || request.chunk_bytes == 0 || request.chunk_bytes % step != 0)
      return fail(Code::kInvalid, request.name + ": " + std::to_string(request.bytes) + " bytes at " +
                                      std::to_string(request.offset) + ": device memory comes in pieces of " +
                                      std::to_string(step) + " bytes, in a range of the driver's");
    if (request.adopt) return adopt_window(request);
    if (!request.nodes.empty()) return make_host_window(request);
    KVT_TRY_ASSIGN(const uint64_t free, gpu_->free_bytes());
    if (request.bytes > free)
      return fail(Code::kFull, request.name + ": " + std::to_string(request.bytes >> 20) + " MiB of " +
                                   gpu_->info().name + ", which has " + std::to_string(free >> 20) +
                                   " MiB free; make the tier smaller");
    auto made = cuda::DeviceWindow::create(gpu_, request.range->data() + request.offset, request.bytes,
                                           request.chunk_bytes);
    if (!made) return fail(made.error().code, request.name + ": " + made.error().text);
    if (request.progress) request.progress(request.bytes);
    return window_of(request, std::move(*made));
  }

 private:
  /// On the one node that the request names.
  Result<Window> make_host_window(const WindowRequest& request) {
    auto made = cuda::DeviceWindow::create(gpu_, request.range->data() + request.offset, request.bytes,
                                           request.chunk_bytes, static_cast<int>(request.nodes.front().node));
    if (!made) return fail(made.error().code, request.name + ": " + made.error().text);
    if (request.progress) request.progress(request.bytes);
    return window_of(request, std::move(*made));
  }
  /// Without its peers it is as good, but for copies from it.
  static Window window_of(const WindowRequest& request, cuda::DeviceWindow made) {
    Window window;
    window.bytes = request.bytes;
    window.chunks.push_back({0, request.bytes, -1});
    for (const int peer : request.peers) {
      if (const auto allowed = made.allow_peer(peer))
        window.peers.push_back(peer);
      else if (window.peers_left_out.empty())
        window.peers_left_out = allowed.error().text;
    }
    window.device = std::make_shared<CudaMemory>(std::move(made));
    return window;
  }
  Result<Window> adopt_window(const WindowRequest& request) {
    auto made = cuda::DeviceWindow::import(
        gpu_, request.range->data() + request.offset, request.bytes, request.chunk_bytes, *request.adopt,
        request.nodes.empty() ? -1 : static_cast<int>(request.nodes.front().node));
    if (!made) return fail(made.error().code, request.name + ": " + made.error().text);
    made->keep(std::move(*request.adopt));
    return window_of(request, std::move(*made));
  }

  std::shared_ptr<cuda::Gpu> gpu_;
};

class CudaGpus final : public Gpus {
 public:
  CudaGpus(std::shared_ptr<const cuda::Driver> driver, const std::vector<cuda::GpuInfo>& gpus)
      : driver_(std::move(driver)), opened_(gpus.size()) {
    for (const cuda::GpuInfo& info : gpus)
      list_.push_back({info.ordinal, info.uuid, cuda::uuid_text(info.uuid), info.name, info.pci_address,
                       info.bytes, info.numa_node, info.allocates_host, info.unfit});
    for (const cuda::GpuInfo& one : gpus)
      for (const cuda::GpuInfo& other : gpus)
        if (one.unfit.empty() && other.unfit.empty() &&
            cuda::can_access_peer(*driver_, one.ordinal, other.ordinal))
          peers_.emplace(one.ordinal, other.ordinal);
    nvml_ = std::make_unique<Nvml>(list_);  // now: it takes a moment that the loop has not
  }
  [[nodiscard]] const std::vector<GpuMemory>& list() const override { return list_; }
  [[nodiscard]] std::string driver_text() const override {
    return driver_->path() + ", CUDA " + cuda::version_text(driver_->version());
  }
  Result<uint64_t> free_bytes(int ordinal) override {
    KVT_TRY_ASSIGN(const auto device, gpu(ordinal));
    return device->free_bytes();
  }
  Result<AddressRange> reserve_addresses(int ordinal, uint64_t bytes, uint64_t alignment) override {
    KVT_TRY_ASSIGN(const auto device, gpu(ordinal));
    return cuda::reserve_addresses(device, bytes, alignment);
  }
  Result<std::unique_ptr<Backend>> backend(int ordinal) override {
    KVT_TRY_ASSIGN(auto device, gpu(ordinal));
    return std::make_unique<CudaBackend>(std::move(device));
  }
  Result<Kept> register_host(int ordinal, const Mapping& window, uint64_t page_bytes,
                             const std::function<void(uint64_t bytes)>& progress) override {
    KVT_TRY_ASSIGN(const auto device, gpu(ordinal));
    KVT_TRY_ASSIGN(
        cuda::HostRegistration made,
        cuda::HostRegistration::make(device, window.data(), window.bytes(), cuda::piece_bytes_of(page_bytes),
                                     Access::kReadWrite, progress));
    return std::make_shared<cuda::HostRegistration>(std::move(made));
  }
  [[nodiscard]] bool can_access(int ordinal, int peer) const override {
    return peers_.contains({ordinal, peer});
  }
  Result<GpuFigures> measure(int ordinal) override {
    KVT_TRY_ASSIGN(const auto device, gpu(ordinal));
    return Stopwatch(*device).run();
  }
  Result<std::shared_ptr<cuda::Gpu>> gpu(int ordinal) override {
    std::shared_ptr<cuda::Gpu>& opened = opened_.at(static_cast<size_t>(ordinal));
    if (opened == nullptr) {
      KVT_TRY_ASSIGN(opened, cuda::Gpu::open(driver_, ordinal));
    }
    return opened;
  }
  std::optional<std::set<int>> processes() override { return nvml_->processes(::getpid()); }

 private:
  std::shared_ptr<const cuda::Driver> driver_;
  std::vector<GpuMemory> list_;
  std::set<std::pair<int, int>> peers_;             // ordinals: the first reaches the second's memory
  std::vector<std::shared_ptr<cuda::Gpu>> opened_;  // by ordinal; null: not used
  std::unique_ptr<Nvml> nvml_;
};

}  // namespace

Result<std::shared_ptr<Gpus>> Gpus::open(const std::string& driver_path) {
  KVT_TRY_ASSIGN(auto driver, cuda::Driver::load(driver_path));
  KVT_TRY_ASSIGN(const auto gpus, cuda::list_gpus(*driver));
  if (gpus.empty()) return fail(Code::kNotFound, driver->path() + ": the driver shows no GPU");
  return std::make_shared<CudaGpus>(std::move(driver), gpus);
}

}  // namespace kvt::tier
