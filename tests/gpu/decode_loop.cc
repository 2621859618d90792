// SPDX-License-Identifier: Apache-2.0
//
// gpu_decode_loop: a decode whose KV is several times its HBM, in tokens a second on a card. A step is one layer's attention
// of one token of each sequence, and nothing else, so that its time is that of the pages. Each step's attention reads a
// part of the pages of every sequence, in one launch over HBM and host memory; what differs between the runs is who
// decides where pages are:
//   hbm              all of them in HBM: an upper bound that the HBM of the others has no room for
//   balance          kvtierd, whose promotions the attention kernel writes while it reads (kvt_cuda_resolve)
//   balance-copies   kvtierd, whose workers copy
//   static           kvtierd moves nothing: pages stay where they were written
//   lru-fetch        no daemon: what a step is going to read is copied into HBM before it reads, the oldest read leaves
//   lru-read         no daemon: the kernel reads what is missing from host memory, and it is copied besides, for later
// All read the same pages in the same order (decode_loop_reads.h) with the same kernel. In some steps the kernel's output
// is compared, bit for bit, with that over copies of the pages in HBM; at the end pages are brought home and compared.
// Without attention, for the stand-in driver, copies take the kernel's place where it writes, and what a step reads is
// brought home.
//
// Beside each run is what the simulator expects of it (decode_loop_expected.h), with a copy's speed within HBM and the
// kernel's over the link, and with the kernel's over both.
//
// `gpu_decode_loop beside` is something else: beside_decode.h.
//
// Prints a table, and one JSON object as its last line. Exit: 0; 1 when something is wrong; 2 wrong use; 3 no GPU.
#include <kvtier/cuda.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "daemon/tier/backend.h"
#include "shm/cuda/gpu.h"
#include "tests/gpu/beside_decode.h"
#include "tests/gpu/checks.h"
#include "tests/gpu/decode_loop_expected.h"
#include "tests/gpu/decode_loop_reads.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"
#include "tests/support/short_floats.h"
#include "tools/kvtier-decode/device/attention_host.h"

namespace kvt::loop {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

/// What a kvtierd takes its memories' speeds from that does not measure them.
constexpr const char* kProfile = "h200-pcie5";
/// How far shares may be from the simulator's, of a step's bytes.
constexpr double kCacheOff = 0.01;
constexpr double kDaemonOff = 0.1;

struct Options {
  // What is read. 8 GiB of KV; a step reads a fifth of it, which HBM has room for.
  uint64_t pages = 32768;
  uint64_t sequences = 64;
  double read_percent = 20;
  uint64_t steps = 4000;
  uint64_t drift_steps = 16;
  double drift_percent = 3;
  double flicker_percent = 2;
  double zipf = 0.9;
  uint64_t seed = 1;
  // One layer of a block: 256 KiB.
  uint64_t kv_heads = 8;
  uint64_t group = 4;
  uint64_t head_dim = 128;
  uint64_t block_tokens = 64;
  // Where.
  uint64_t hbm_bytes = uint64_t{2} << 30;
  uint64_t period_ms = 2;
  double seconds = 6;  ///< of a run at most: a run that is slow does fewer steps
  uint64_t least_step_us = 0;
  uint64_t verify_every = 16;  ///< of the pages, at the end of a run
  bool attention = true;
  std::vector<std::string> only;
  std::string driver;

  [[nodiscard]] uint64_t page_bytes() const { return 4 * kv_heads * block_tokens * head_dim; }
  [[nodiscard]] ReadsShape shape() const {
    ReadsShape shape;
    shape.sequences = static_cast<uint32_t>(sequences);
    shape.blocks = static_cast<uint32_t>(pages / sequences);
    shape.read_blocks = static_cast<uint32_t>(std::lround(read_percent / 100 * shape.blocks));
    shape.steps = static_cast<uint32_t>(steps);
    shape.drift_steps = static_cast<uint32_t>(drift_steps);
    shape.drift_share = drift_percent / 100;
    shape.flicker_share = flicker_percent / 100;
    shape.zipf = zipf;
    shape.seed = seed;
    return shape;
  }
};

[[noreturn]] void fail(const std::string& text) { throw std::runtime_error(text); }

template <typename T>
T must(Result<T> result) {
  if (!result) fail(result.error().text);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}
void must_be(int result, const char* what) {
  if (result < 0) fail(std::string(what) + ": " + kvt_strerror(result) + ": " + kvt_last_error());
}

using gpu_test::expect;
using gpu_test::failed;
using gpu_test::seconds_since;
uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

/// At a share of the values in order; 0 of none.
double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(static_cast<size_t>(share * static_cast<double>(values.size())), values.size() - 1)];
}

// ---- the GPU, and the pages' contents ----

/// The GPU with a stream for the steps and one for what goes on besides.
struct Device {
  std::shared_ptr<cuda::Gpu> gpu;
  CUstream stream = nullptr;
  CUstream side = nullptr;

  explicit Device(const std::string& path) : gpu(must(cuda::Gpu::open(must(cuda::Driver::load(path)), 0))) {
    check(driver().cuCtxSetCurrent(gpu->context()), "make the context current");
    for (CUstream* made : {&stream, &side})
      check(driver().cuStreamCreateWithPriority(made, CU_STREAM_NON_BLOCKING, 0), "a stream");
  }
  [[nodiscard]] const cuda::Driver& driver() const { return gpu->driver(); }
  void check(CUresult result, const char* what) const { must(driver().check(result, what)); }
  void wait() const { check(driver().cuStreamSynchronize(stream), "wait for the stream"); }
  void copy(CUdeviceptr to, CUdeviceptr from, uint64_t bytes) const {
    check(driver().cuMemcpyAsync(to, from, bytes, stream), "a copy");
  }
};

/// Pinned host memory, or device memory.
class Memory {
 public:
  enum class Kind { kPinned, kDevice };
  Memory(const Device& device, Kind kind, uint64_t bytes) : device_(device), kind_(kind) {
    void* host = nullptr;
    if (kind == Kind::kPinned)
      device.check(device.driver().cuMemHostAlloc(&host, bytes, CU_MEMHOSTALLOC_PORTABLE), "pinned memory");
    else
      device.check(device.driver().cuMemAlloc(&at_, bytes), "device memory");
    if (host != nullptr) at_ = reinterpret_cast<CUdeviceptr>(host);
  }
  ~Memory() {
    if (kind_ == Kind::kPinned)
      device_.driver().cuMemFreeHost(reinterpret_cast<void*>(at_));
    else
      device_.driver().cuMemFree(at_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  [[nodiscard]] CUdeviceptr at(uint64_t offset = 0) const { return at_ + offset; }
  template <typename T>
  [[nodiscard]] T* host() const {
    return reinterpret_cast<T*>(at_);
  }

 private:
  const Device& device_;
  Kind kind_;
  CUdeviceptr at_ = 0;
};

/// Contents of pages: each begins at a place of its own in a sea of random numbers.
class Contents {
 public:
  Contents(const Device& device, uint64_t pages, uint64_t page_bytes, uint64_t seed)
      : page_bytes_(page_bytes),
        places_(std::bit_ceil(4 * pages)),
        bytes_(places_ * kApart + page_bytes),
        home_(device, Memory::Kind::kPinned, bytes_),
        device_(device, Memory::Kind::kDevice, bytes_) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    constexpr size_t kDistinct = 1 << 18;
    auto* const numbers = home_.host<uint16_t>();
    for (size_t i = 0; i < bytes_ / 2; ++i)
      numbers[i] = i < kDistinct ? test::to_half(normal(random)) : numbers[random() % kDistinct];
    device.copy(device_.at(), home_.at(), bytes_);
    device.wait();
  }
  /// In device memory, and as it has to be.
  [[nodiscard]] CUdeviceptr source(uint32_t page) const { return device_.at(offset(page)); }
  [[nodiscard]] bool is(uint32_t page, const std::byte* found) const {
    return std::memcmp(home_.host<std::byte>() + offset(page), found, page_bytes_) == 0;
  }

 private:
  static constexpr uint64_t kApart = 256;
  /// Different for all pages: the factor is odd, the places are a power of two.
  [[nodiscard]] uint64_t offset(uint32_t page) const { return page * 0x9e3779b1ull % places_ * kApart; }

  uint64_t page_bytes_, places_, bytes_;
  Memory home_, device_;
};

/// 10^9 bytes a second.
struct Rates {
  double hbm = 0;   ///< a copy within it, read and written
  double link = 0;  ///< a large copy from host memory
};

/// Memory of this process alone, in one range: HBM of the same size as the daemon's, all pages in HBM, all in host memory.
class Private {
 public:
  Private(const Device& device, const Options& options, const Contents& contents)
      : page_bytes_(options.page_bytes()),
        pool_frames_(static_cast<uint32_t>(options.hbm_bytes / page_bytes_)),
        pages_(static_cast<uint32_t>(options.pages)) {
    const uint64_t unit = std::max<uint64_t>(page_bytes_, 2u << 20);
    const uint64_t device_bytes = round_up((uint64_t{pool_frames_} + pages_) * page_bytes_, unit);
    const uint64_t host_bytes = round_up(uint64_t{pages_} * page_bytes_, unit);
    first_host_frame_ = static_cast<int32_t>(device_bytes / page_bytes_);
    range_ = must(cuda::reserve_addresses(device.gpu, device_bytes + host_bytes, unit));
    hbm_ = std::make_unique<cuda::DeviceWindow>(
        must(cuda::DeviceWindow::create(device.gpu, range_.data(), device_bytes, 512u << 20)));
    tier::NumaBackend backend;
    tier::WindowRequest request;
    request.name = "decode-loop";
    request.bytes = host_bytes;
    request.threads = std::max(1u, std::thread::hardware_concurrency());
    request.range = &range_;
    request.offset = device_bytes;
    host_ = must(backend.make_window(request));
    const uint64_t piece = cuda::piece_bytes_of(page_bytes_);
    registered_ = must(cuda::HostRegistration::make(device.gpu, host_.mapping.data(), host_bytes, piece,
                                                    Access::kReadWrite, {}));
    for (uint32_t page = 0; page < pages_; ++page) {
      device.copy(address(all_in_hbm(page)), contents.source(page), page_bytes_);
      device.copy(address(in_host(page)), contents.source(page), page_bytes_);
    }
    device.wait();
    measure(device, std::min<uint64_t>({pool_frames_ * page_bytes_, host_bytes, piece, uint64_t{1} << 30}));
  }

  [[nodiscard]] CUdeviceptr base() const { return reinterpret_cast<CUdeviceptr>(range_.data()); }
  [[nodiscard]] CUdeviceptr address(int32_t frame) const {
    return base() + static_cast<uint32_t>(frame) * page_bytes_;
  }
  [[nodiscard]] uint32_t pool_frames() const { return pool_frames_; }  ///< frames 0 .. pool_frames-1
  [[nodiscard]] uint32_t pages() const { return pages_; }
  [[nodiscard]] int32_t all_in_hbm(uint32_t page) const { return static_cast<int32_t>(pool_frames_ + page); }
  [[nodiscard]] int32_t in_host(uint32_t page) const {
    return first_host_frame_ + static_cast<int32_t>(page);
  }
  [[nodiscard]] int32_t first_host_frame() const { return first_host_frame_; }
  [[nodiscard]] const Rates& rates() const { return rates_; }

 private:
  /// Copies in a row, so that what starting them costs does not count. Best of some.
  void measure(const Device& device, uint64_t bytes) {
    constexpr int kCopies = 4;
    const auto best = [&](const std::function<void()>& work) {
      double shortest = 1e9;
      for (int i = 0; i < 5; ++i) {
        const auto begin = Clock::now();
        for (int n = 0; n < kCopies; ++n) work();
        device.wait();
        shortest = std::min(shortest, seconds_since(begin));
      }
      return kCopies * static_cast<double>(bytes) / shortest * 1e-9;
    };
    rates_.hbm = best([&] { device.copy(base() + bytes / 2, base(), bytes / 2); });
    rates_.link = best([&] { device.copy(base(), address(in_host(0)), bytes); });
  }

  uint64_t page_bytes_;
  uint32_t pool_frames_, pages_;
  int32_t first_host_frame_ = 0;
  AddressRange range_;
  std::unique_ptr<cuda::DeviceWindow> hbm_;
  tier::Window host_;
  cuda::HostRegistration registered_;
  Rates rates_;
};

// ---- who decides where pages are ----

/// Pages of one step.
struct Count {
  uint64_t hbm = 0;      ///< read there
  uint64_t host = 0;     ///< read there
  uint64_t written = 0;  ///< by the kernel, into HBM
  uint64_t copied = 0;   ///< into HBM, by this process
};

class Placement {
 public:
  Placement(CUdeviceptr frames, uint64_t frame_bytes, int32_t first_in_host)
      : base(frames), stride(frame_bytes), first_host_frame(first_in_host) {}
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;
  virtual ~Placement() = default;

  /// Where the work that follows in the stream reads these pages, and the frames that it writes them to, or -1.
  virtual void begin(std::span<const uint32_t> pages, int32_t* table, int32_t* offers) = 0;
  /// Behind that work.
  virtual void end() = 0;
  /// Seconds of a step that does nothing but move these bytes as fast as the memories do; bytes a page, bytes a second.
  [[nodiscard]] virtual double model(const Count& count, double page, double hbm, double link) const {
    return std::max(static_cast<double>(count.hbm + count.written) * page / hbm,
                    static_cast<double>(count.host) * page / link);
  }
  /// Pages copied in and out so far by others than this process.
  [[nodiscard]] virtual std::pair<double, double> moved() const { return {0, 0}; }
  [[nodiscard]] virtual json facts() const { return json::object(); }
  [[nodiscard]] virtual std::string log() const { return {}; }

  CUdeviceptr base;
  uint64_t stride;
  int32_t first_host_frame;
  uint64_t copied = 0;  ///< pages that begin() has begun to copy, since somebody set it to 0

  [[nodiscard]] CUdeviceptr address(int32_t frame) const {
    return base + static_cast<uint32_t>(frame) * stride;
  }
};

class AllInOne final : public Placement {
 public:
  enum class Where { kHbm, kHost };
  AllInOne(const Private& memory, uint64_t page_bytes, Where where)
      : Placement(memory.base(), page_bytes, memory.first_host_frame()), memory_(memory), where_(where) {}
  void begin(std::span<const uint32_t> pages, int32_t* table, int32_t*) override {
    for (size_t i = 0; i < pages.size(); ++i)
      table[i] = where_ == Where::kHbm ? memory_.all_in_hbm(pages[i]) : memory_.in_host(pages[i]);
  }
  void end() override {}

 private:
  const Private& memory_;
  Where where_;
};

/// The pool is the pages read last.
class Lru final : public Placement {
 public:
  enum class Fetch { kBeforeReading, kBesides };

  Lru(const Device& device, const Private& memory, uint64_t page_bytes, Fetch fetch)
      : Placement(memory.base(), page_bytes, memory.first_host_frame()),
        device_(device),
        memory_(memory),
        fetch_(fetch),
        frame_of_(memory.pages(), -1),
        frames_(memory.pool_frames()) {
    for (CUevent* event : {&read_, &fetched_})
      device.check(device.driver().cuEventCreate(event, CU_EVENT_DISABLE_TIMING), "an event");
    for (uint32_t f = 0; f < frames_.size(); ++f) {
      frames_[f] = {f == 0 ? kNone : f - 1, f + 1 == frames_.size() ? kNone : f + 1, f};
      if (f >= memory.pages()) {
        frames_[f].page = kNone;
        continue;
      }
      frame_of_[f] = static_cast<int32_t>(f);
      device.copy(address(static_cast<int32_t>(f)), address(memory.in_host(f)), page_bytes);
    }
    newest_ = 0;
    oldest_ = static_cast<uint32_t>(frames_.size()) - 1;
    device.check(device.driver().cuEventRecord(read_, device.stream), "record an event");
    device.wait();
  }
  ~Lru() override {
    device_.driver().cuCtxSynchronize();
    for (CUevent event : {read_, fetched_}) device_.driver().cuEventDestroy(event);
  }

  void begin(std::span<const uint32_t> pages, int32_t* table, int32_t*) override {
    to_.clear();
    from_.clear();
    for (const uint32_t page : pages)
      if (frame_of_[page] >= 0) touch(static_cast<uint32_t>(frame_of_[page]));
    for (size_t i = 0; i < pages.size(); ++i) {
      const uint32_t page = pages[i];
      table[i] = frame_of_[page];
      if (table[i] >= 0) continue;
      // What this step reads has been touched: the oldest is none of it, as long as it has room.
      const uint32_t frame = oldest_;
      if (const uint32_t victim = frames_[frame].page; victim != kNone) frame_of_[victim] = -1;
      frames_[frame].page = page;
      frame_of_[page] = static_cast<int32_t>(frame);
      touch(frame);
      to_.push_back(address(frame_of_[page]));
      from_.push_back(address(memory_.in_host(page)));
      table[i] = fetch_ == Fetch::kBeforeReading ? frame_of_[page] : memory_.in_host(page);
    }
    copied += to_.size();
    const cuda::Driver& driver = device_.driver();
    if (fetch_ == Fetch::kBeforeReading) {
      copy_in(device_.stream);
      return;
    }
    // The frames have been read by the steps before, and are read by the steps after.
    if (fetching_) device_.check(driver.cuStreamWaitEvent(device_.stream, fetched_, 0), "wait for an event");
    fetching_ = !to_.empty();
    if (!fetching_) return;
    device_.check(driver.cuStreamWaitEvent(device_.side, read_, 0), "wait for an event");
    copy_in(device_.side);
    device_.check(driver.cuEventRecord(fetched_, device_.side), "record an event");
  }
  void end() override {
    device_.check(device_.driver().cuEventRecord(read_, device_.stream), "record an event");
  }

  [[nodiscard]] double model(const Count& count, double page, double hbm, double link) const override {
    const double read = static_cast<double>(count.hbm) * page / hbm;
    const double copy = static_cast<double>(count.copied) * page / link;
    return fetch_ == Fetch::kBeforeReading
               ? copy + read
               : std::max(read, copy + static_cast<double>(count.host) * page / link);
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr size_t kBatch = 64;
  struct Frame {
    uint32_t newer, older, page;
  };

  void touch(uint32_t f) {
    if (f == newest_) return;
    Frame& frame = frames_[f];
    frames_[frame.newer].older = frame.older;
    (frame.older == kNone ? oldest_ : frames_[frame.older].newer) = frame.newer;
    frame.newer = kNone;
    frame.older = newest_;
    frames_[newest_].newer = f;
    newest_ = f;
  }
  void copy_in(CUstream stream) {
    for (size_t at = 0; at < to_.size(); at += kBatch) {
      const size_t n = std::min(kBatch, to_.size() - at);
#if CUDA_VERSION >= 13000
      if (batches_ && device_.driver().cuMemcpyBatchAsync != nullptr) {
        std::array<size_t, kBatch> sizes;
        sizes.fill(stride);
        CUmemcpyAttributes attributes{};
        attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
        size_t first = 0;
        if (device_.driver().cuMemcpyBatchAsync(to_.data() + at, from_.data() + at, sizes.data(), n,
                                                &attributes, &first, 1, stream) == CUDA_SUCCESS)
          continue;
        batches_ = false;
        std::printf("cuMemcpyBatchAsync is refused: copies one by one\n");
      }
#endif
      for (size_t i = at; i < at + n; ++i)
        device_.check(device_.driver().cuMemcpyAsync(to_[i], from_[i], stride, stream), "a copy");
    }
  }

  const Device& device_;
  const Private& memory_;
  Fetch fetch_;
  std::vector<int32_t> frame_of_;  // by page; -1: in host memory alone
  std::vector<Frame> frames_;
  uint32_t newest_ = 0, oldest_ = 0;
  std::vector<CUdeviceptr> to_, from_;
  CUevent read_ = nullptr, fetched_ = nullptr;
  bool fetching_ = false;
  bool batches_ = true;
};

/// Pages of a kvtierd of its own.
class Tiered final : public Placement {
 public:
  Tiered(const Device& device, const Options& options, const Contents& contents, const std::string& policy,
         const std::string& promote)
      : Placement(0, 0, 0),
        device_(device),
        daemon_(std::make_unique<test::Daemon>(world(options, policy, promote))) {
    if (!daemon_->ok()) fail("no kvtierd");
    try {
      attach(options);
      fill(options, contents);
    } catch (const std::exception& error) {
      fail(std::string(error.what()) + "\n" + daemon_->log());
    }
  }
  ~Tiered() override {
    device_.driver().cuCtxSynchronize();
    session_.detach();
    daemon_.reset();
  }

  void begin(std::span<const uint32_t> pages, int32_t* table, int32_t* offers) override {
    handles_.clear();
    for (const uint32_t page : pages) handles_.push_back(pages_[page]);
    frames_.resize(pages.size());
    targets_.resize(pages.size());
    must_be(kvt_cuda_step_begin(session_, device_.stream, &step_), "kvt_cuda_step_begin");
    const int readable =
        kvt_cuda_resolve(session_, &step_, handles_.data(), handles_.size(), frames_.data(), targets_.data());
    must_be(readable, "kvt_cuda_resolve");
    if (static_cast<size_t>(readable) != pages.size()) fail("kvt_cuda_resolve: pages are not readable");
    for (size_t i = 0; i < pages.size(); ++i) {
      table[i] = static_cast<int32_t>(frames_[i]);
      offers[i] = targets_[i] == KVT_NO_FRAME ? -1 : static_cast<int32_t>(targets_[i]);
    }
  }
  void end() override {
    must_be(kvt_cuda_step_end(session_, &step_), "kvt_cuda_step_end");
    must_be(kvt_touch(session_, handles_.data(), handles_.size()), "kvt_touch");
  }
  [[nodiscard]] std::pair<double, double> moved() const override {
    const json arena = this->arena();
    return {arena["moves"]["promoted"].get<double>() - arena["offers"]["taken"].get<double>(),
            arena["moves"]["demoted_copy"].get<double>()};
  }
  [[nodiscard]] json facts() const override {
    const json arena = this->arena();
    return {{"moves", arena["moves"]}, {"offers", arena["offers"]}, {"shadows", arena["shadows"]}};
  }
  [[nodiscard]] std::string log() const override { return daemon_->log(); }

 private:
  static test::World world(const Options& options, const std::string& policy, const std::string& promote) {
    test::World world;
    world.cuda_driver = options.driver;
    world.cuda_measure = options.attention;
    world.profile = kProfile;
    world.page_bytes = options.page_bytes();
    world.hbm_bytes = options.hbm_bytes;
    // Room for all pages, so that what is promoted keeps its place there.
    const uint64_t all = options.pages * options.page_bytes();
    world.dram_bytes = round_up(all + std::max<uint64_t>(all / 64, 4u << 20), 2u << 20);
    world.policy = policy;
    world.promote = promote;
    world.period_ms = static_cast<uint32_t>(options.period_ms);
    return world;
  }
  void attach(const Options& options) {
    kvt_attach_args args = test::attach_args(daemon_->folder());
    args.flags = KVT_ATTACH_CUDA;
    args.cuda_driver = options.driver.c_str();
    args.timeout_ms = 60'000;
    session_ = test::Client(args);
    must_be(session_.code(), "kvt_attach");
    const kvt_geometry geometry = session_.geometry();
    base = reinterpret_cast<CUdeviceptr>(geometry.base);
    stride = geometry.stride;
    uint32_t device_end = 0, host_begin = UINT32_MAX;
    for (uint32_t t = 0; t < geometry.tiers; ++t) {
      const kvt_window& window = geometry.windows[t];
      if ((geometry.device_tiers & 1u << t) != 0)
        device_end = std::max(device_end, window.first_frame + window.frames);
      else
        host_begin = std::min(host_begin, window.first_frame);
      std::printf("  tier %s: %u frames, read at %.1f GB/s\n", window.name, window.frames,
                  static_cast<double>(window.read_bytes_per_second) * 1e-9);
    }
    if (device_end == 0 || device_end > host_begin) fail("host memory is not behind device memory");
    first_host_frame = static_cast<int32_t>(host_begin);
  }
  void fill(const Options& options, const Contents& contents) {
    pages_ = test::allocate(session_, options.pages);
    if (pages_.size() != options.pages) fail("the arena gave " + std::to_string(pages_.size()) + " pages");
    constexpr size_t kAtOnce = 512;
    for (size_t at = 0; at < pages_.size(); at += kAtOnce) {
      const size_t n = std::min(kAtOnce, pages_.size() - at);
      must_be(kvt_cuda_step_begin(session_, device_.stream, &step_), "kvt_cuda_step_begin");
      for (size_t i = at; i < at + n; ++i) {
        void* const data = kvt_page_data(session_, pages_[i]);
        if (data == nullptr) fail(std::string("kvt_page_data: ") + kvt_last_error());
        device_.copy(reinterpret_cast<CUdeviceptr>(data), contents.source(static_cast<uint32_t>(i)),
                     options.page_bytes());
      }
      must_be(kvt_seal(session_, pages_.data() + at, n, &step_), "kvt_seal");
      must_be(kvt_cuda_step_end(session_, &step_), "kvt_cuda_step_end");
    }
    device_.wait();
    must_be(kvt_cuda_poll(session_), "kvt_cuda_poll");
    must_be(kvt_flush(session_), "kvt_flush");
  }
  [[nodiscard]] json arena() const {
    const json answer = json::parse(daemon_->control("{\"command\":\"status\"}"), nullptr, false);
    const json::json_pointer first("/arenas/0");
    if (answer.is_discarded() || !answer.contains(first)) fail("kvtierd says nothing of its arena");
    return answer[first];
  }

  const Device& device_;
  std::unique_ptr<test::Daemon> daemon_;
  test::Client session_;
  std::vector<kvt_page> pages_;    // by number
  std::vector<kvt_page> handles_;  // of the step
  std::vector<kvt_frame> frames_, targets_;
  kvt_step step_{};
};

// ---- the decode ----

class Loop {
 public:
  Loop(const Device& device, const Options& options, const Reads& reads, const Contents& contents,
       const Private& memory)
      : device_(device),
        options_(options),
        reads_(reads),
        contents_(contents),
        memory_(memory),
        count_(reads.pages_of_step()),
        home_(device, Memory::Kind::kPinned, kHomePages * options.page_bytes()) {
    for (Slot& slot : slots_) {
      slot.host = std::make_unique<Memory>(device, Memory::Kind::kPinned, 2 * count_ * 4);
      slot.device = std::make_unique<Memory>(device, Memory::Kind::kDevice, 2 * count_ * 4);
      for (CUevent* event : {&slot.begun, &slot.done})
        device.check(device.driver().cuEventCreate(event, CU_EVENT_DEFAULT), "an event");
    }
    checked_ = {3, 30, 100};
    for (uint64_t i = 1; i < 8; ++i) checked_.push_back(options.steps * i / 8 + 5);
    std::erase_if(checked_, [&](uint64_t step) { return step >= options.steps; });
    if (options.attention) prepare_attention();
  }

  /// One decode. The figures are those of the second half of its steps, or of its time.
  json run(const std::string& name, Placement& placement) {
    const uint64_t warm_steps = options_.steps / 2;
    const auto begun = Clock::now();
    Clock::time_point measured_from{};
    std::optional<uint64_t> first;  // measured step
    std::pair<double, double> moved_before{};
    std::vector<double> step_ms;
    std::vector<double> host_us;  // to make a step ready
    Count sum;
    double model_s = 0, ideal_s = 0;
    uint64_t right = 0, checks = 0;
    const double page = static_cast<double>(options_.page_bytes());
    const Rates& rates = memory_.rates();
    const auto take_time = [&](uint64_t step) {  // of a step that is done
      if (!first || step <= *first) return;
      float ms = 0;
      device_.check(device_.driver().cuEventElapsedTime(&ms, slot(step - 1).done, slot(step).done),
                    "time of a step");
      step_ms.push_back(static_cast<double>(ms));
    };
    uint64_t step = 0;
    for (; step < options_.steps; ++step) {
      if (!first &&
          (step == warm_steps || (seconds_since(begun) > options_.seconds / 2 && step >= kStepsLeast))) {
        device_.wait();
        moved_before = placement.moved();
        first = step;
        measured_from = Clock::now();
      }
      if (first && seconds_since(measured_from) > options_.seconds / 2 && step - *first >= kStepsLeast) break;
      const auto step_begun = Clock::now();
      // As an engine has it: while a step runs the next one is made ready.
      if (step >= kInFlight) {
        device_.check(device_.driver().cuEventSynchronize(slot(step - kInFlight).done), "wait for a step");
        take_time(step - kInFlight);
      }
      const bool checked = std::find(checked_.begin(), checked_.end(), step) != checked_.end();
      bool good = true;
      const auto host_from = Clock::now();
      const Count count = one_step(placement, step, checked, good);
      if (first && !checked) host_us.push_back(1e6 * seconds_since(host_from));
      if (checked) {
        ++checks;
        right += good ? 1 : 0;
        expect(good, name + ": step " + std::to_string(step) + " is not as over HBM alone");
      }
      if (first) {
        sum.hbm += count.hbm;
        sum.host += count.host;
        sum.written += count.written;
        sum.copied += count.copied;
        model_s += placement.model(count, page, rates.hbm * 1e9, rates.link * 1e9);
        ideal_s += static_cast<double>(count.hbm + count.host) * page / ((rates.hbm + rates.link) * 1e9);
      }
      if (options_.least_step_us != 0)
        std::this_thread::sleep_until(step_begun + std::chrono::microseconds(options_.least_step_us));
    }
    device_.wait();
    const double seconds = seconds_since(measured_from);
    for (uint64_t last = step - std::min<uint64_t>(kInFlight, step); last < step; ++last) take_time(last);
    const auto moved = placement.moved();
    const double steps = static_cast<double>(step - *first);
    const auto mb_a_step = [&](double pages) { return pages * page / steps * 1e-6; };
    const uint64_t wrong = verify(placement);
    expect(wrong == 0, name + ": " + std::to_string(wrong) + " pages are not what was written");

    json out{{"name", name},
             {"steps_warm", *first},
             {"steps", step - *first},
             {"tokens_per_second", static_cast<double>(options_.sequences) * steps / seconds},
             {"step_ms_mean", 1e3 * seconds / steps},
             {"step_ms_median", quantile(step_ms, 0.5)},
             {"step_ms_p95", quantile(step_ms, 0.95)},
             {"host_us_median", quantile(host_us, 0.5)},
             {"hbm_share", static_cast<double>(sum.hbm) / static_cast<double>(sum.hbm + sum.host)},
             {"host_read_mb_a_step", mb_a_step(static_cast<double>(sum.host))},
             {"copied_in_mb_a_step",
              mb_a_step(static_cast<double>(sum.copied) + moved.first - moved_before.first)},
             {"copied_out_mb_a_step", mb_a_step(moved.second - moved_before.second)},
             {"written_through_mb_a_step", mb_a_step(static_cast<double>(sum.written))},
             {"model_ms", 1e3 * model_s / steps},
             {"ideal_ms", 1e3 * ideal_s / steps},
             {"steps_checked", checks},
             {"steps_right", right},
             {"pages_verified", (options_.pages + options_.verify_every - 1) / options_.verify_every},
             {"pages_wrong", wrong}};
    out.update(placement.facts());
    const auto figure = [&](const char* key) { return out[key].get<double>(); };
    std::printf(
        "%-15s %5.0f steps %9.0f tokens/s; step %7.3f ms, median %7.3f, p95 %7.3f, made ready in %6.3f; "
        "model %7.3f, ideal "
        "%6.3f; HBM share %6.2f %%; MB a step: read %7.2f, in %7.2f, out %6.2f, written %6.2f\n",
        name.c_str(), steps, figure("tokens_per_second"), figure("step_ms_mean"), figure("step_ms_median"),
        figure("step_ms_p95"), figure("host_us_median") * 1e-3, figure("model_ms"), figure("ideal_ms"),
        100 * figure("hbm_share"), figure("host_read_mb_a_step"), figure("copied_in_mb_a_step"),
        figure("copied_out_mb_a_step"), figure("written_through_mb_a_step"));
    return out;
  }

  /// As the attention kernel reads whole steps from one memory; the median. REQUIRES: attention.
  [[nodiscard]] Rates kernel_rates() {
    const auto rate = [&](AllInOne::Where where) {
      constexpr uint64_t kSteps = 4;
      AllInOne placement(memory_, options_.page_bytes(), where);
      std::vector<double> ms;
      for (uint64_t step = 0; step < std::min(kSteps, options_.steps); ++step) {
        bool good = true;
        one_step(placement, step, false, good);
        device_.wait();
        if (step == 0) continue;
        float took = 0;
        device_.check(device_.driver().cuEventElapsedTime(&took, slot(step).begun, slot(step).done),
                      "time of a step");
        ms.push_back(static_cast<double>(took));
      }
      return static_cast<double>(count_ * options_.page_bytes()) / quantile(ms, 0.5) * 1e-6;
    };
    return {.hbm = rate(AllInOne::Where::kHbm), .link = rate(AllInOne::Where::kHost)};
  }

 private:
  static constexpr uint64_t kInFlight = 2;
  static constexpr uint64_t kStepsLeast = 12;  ///< of each half
  static constexpr size_t kHomePages = 64;

  /// Block table and offers of a step in flight, in pinned memory and in HBM.
  struct Slot {
    std::unique_ptr<Memory> host, device;
    CUevent begun = nullptr;  ///< its kernel
    CUevent done = nullptr;
  };
  /// One more than are in flight keeps the end of the step before, from which the next one's time is taken.
  [[nodiscard]] Slot& slot(uint64_t step) { return slots_[step % slots_.size()]; }
  [[nodiscard]] uint64_t out_bytes() const {
    return options_.sequences * options_.kv_heads * options_.group * options_.head_dim * 2;
  }

  void prepare_attention() {
    attention_ = std::make_unique<decode::PagedAttention>(
        must(decode::PagedAttention::create(device_.gpu->shared_driver(), device_.gpu->context())));
    const ReadsShape& shape = reads_.shape();
    std::mt19937_64 random(options_.seed + 1);
    std::normal_distribution<float> normal;
    queries_ = std::make_unique<Memory>(device_, Memory::Kind::kDevice, out_bytes());
    out_ = std::make_unique<Memory>(device_, Memory::Kind::kDevice, out_bytes());
    lengths_ = std::make_unique<Memory>(device_, Memory::Kind::kDevice, options_.sequences * 4);
    answer_ = std::make_unique<Memory>(device_, Memory::Kind::kPinned, out_bytes());
    for (uint64_t i = 0; i < out_bytes() / 2; ++i)
      answer_->host<uint16_t>()[i] = test::to_half(normal(random));
    device_.copy(queries_->at(), answer_->at(), out_bytes());
    device_.wait();
    const auto tokens = static_cast<int32_t>(shape.read_blocks * options_.block_tokens);
    std::fill_n(answer_->host<int32_t>(), options_.sequences, tokens);
    device_.copy(lengths_->at(), answer_->at(), options_.sequences * 4);
    device_.wait();
    arguments_.layer_stride = options_.page_bytes();
    arguments_.lengths = lengths_->at();
    arguments_.q = queries_->at();
    arguments_.out = out_->at();
    arguments_.seqs = static_cast<int>(options_.sequences);
    arguments_.heads = static_cast<int>(options_.kv_heads * options_.group);
    arguments_.kv_heads = static_cast<int>(options_.kv_heads);
    arguments_.head_dim = static_cast<int>(options_.head_dim);
    arguments_.block_tokens = static_cast<int>(options_.block_tokens);
    arguments_.max_blocks = static_cast<int>(shape.read_blocks);
    arguments_.scale = 1.0f / std::sqrt(static_cast<float>(options_.head_dim));
    // What the steps' output has to be.
    AllInOne hbm(memory_, options_.page_bytes(), AllInOne::Where::kHbm);
    for (const uint64_t step : checked_) {
      bool good = true;
      one_step(hbm, step, false, good);
      fetch_answer();
      const auto* const bytes = answer_->host<std::byte>();
      expected_[step].assign(bytes, bytes + out_bytes());
    }
  }
  void fetch_answer() {
    device_.copy(answer_->at(), out_->at(), out_bytes());
    device_.wait();
  }

  /// Enqueues a step. A checked one is waited for, and `good` says whether it read what it should have.
  Count one_step(Placement& placement, uint64_t step, bool checked, bool& good) {
    const std::span<const uint32_t> pages = reads_.at(static_cast<uint32_t>(step));
    Slot& slot = this->slot(step);
    auto* const table = slot.host->host<int32_t>();
    int32_t* const offers = table + count_;
    std::fill_n(offers, count_, -1);
    Count count;
    placement.copied = 0;
    placement.begin(pages, table, offers);
    count.copied = placement.copied;
    for (size_t i = 0; i < count_; ++i) {
      count.host += table[i] >= placement.first_host_frame ? 1 : 0;
      count.written += offers[i] >= 0 ? 1 : 0;
    }
    count.hbm = count_ - count.host;
    if (attention_ != nullptr) {
      device_.copy(slot.device->at(), slot.host->at(), (count.written != 0 ? 2 : 1) * count_ * 4);
      decode::AttentionArguments arguments = arguments_;
      arguments.base = placement.base;
      arguments.stride = placement.stride;
      arguments.first_host_frame = placement.first_host_frame;
      arguments.block_table = slot.device->at();
      arguments.offers = count.written != 0 ? slot.device->at(count_ * 4) : 0;
      if (checked)
        device_.check(device_.driver().cuMemsetD8Async(out_->at(), 0xff, out_bytes(), device_.stream),
                      "a fill");
      device_.check(device_.driver().cuEventRecord(slot.begun, device_.stream), "record an event");
      must(attention_->launch(arguments, device_.stream));
    } else {
      if (checked) good = wrong_at_home(placement, pages, table) == 0;
      take_offers(placement, table, offers, count_);
    }
    placement.end();
    device_.check(device_.driver().cuEventRecord(slot.done, device_.stream), "record an event");
    if (checked && attention_ != nullptr) {
      fetch_answer();
      good = std::memcmp(answer_->host<std::byte>(), expected_.at(step).data(), out_bytes()) == 0;
    }
    return count;
  }

  /// What the kernel does with offers, by copies.
  void take_offers(const Placement& placement, const int32_t* table, const int32_t* offers, size_t n) {
    for (size_t i = 0; i < n; ++i)
      if (offers[i] >= 0)
        device_.copy(placement.address(offers[i]), placement.address(table[i]), options_.page_bytes());
  }
  /// Pages whose bytes are not what was written, where this table has them. Waits for the stream.
  uint64_t wrong_at_home(const Placement& placement, std::span<const uint32_t> pages, const int32_t* table) {
    uint64_t wrong = 0;
    const uint64_t bytes = options_.page_bytes();
    for (size_t at = 0; at < pages.size(); at += kHomePages) {
      const size_t n = std::min(kHomePages, pages.size() - at);
      for (size_t i = 0; i < n; ++i)
        device_.copy(home_.at(i * bytes), placement.address(table[at + i]), bytes);
      device_.wait();
      for (size_t i = 0; i < n; ++i)
        wrong += contents_.is(pages[at + i], home_.host<std::byte>() + i * bytes) ? 0 : 1;
    }
    return wrong;
  }
  uint64_t verify(Placement& placement) {
    std::vector<uint32_t> pages;
    std::vector<int32_t> table(kHomePages), offers(kHomePages);
    uint64_t wrong = 0;
    const auto look = [&] {
      std::fill(offers.begin(), offers.end(), -1);
      placement.begin(pages, table.data(), offers.data());
      wrong += wrong_at_home(placement, pages, table.data());
      take_offers(placement, table.data(), offers.data(), pages.size());
      placement.end();
      device_.wait();
      pages.clear();
    };
    for (uint64_t page = 0; page < options_.pages; page += options_.verify_every) {
      pages.push_back(static_cast<uint32_t>(page));
      if (pages.size() == kHomePages) look();
    }
    if (!pages.empty()) look();
    return wrong;
  }

  const Device& device_;
  const Options& options_;
  const Reads& reads_;
  const Contents& contents_;
  const Private& memory_;
  const size_t count_;
  std::array<Slot, kInFlight + 2> slots_;
  Memory home_;
  std::vector<uint64_t> checked_;  // steps
  std::unique_ptr<decode::PagedAttention> attention_;
  decode::AttentionArguments arguments_;
  std::unique_ptr<Memory> queries_, out_, lengths_, answer_;
  std::map<uint64_t, std::vector<std::byte>> expected_;  // by step
};

/// What the simulator expects of these runs: prints it beside what was measured, and puts it into them.
void compare_with_simulator(const Options& options, const Reads& reads, const SimulatedMachine& machine,
                            const SimulatedMachine& kernel_machine, json& runs) {
  const auto begun = Clock::now();
  std::vector<std::pair<std::future<Expected>, std::future<Expected>>> expected;
  for (const json& row : runs) {
    expected.emplace_back();
    if (row.contains("failed")) continue;
    const auto first = row["steps_warm"].get<uint32_t>();
    const auto expect_on = [&](const SimulatedMachine& on) {
      return std::async(std::launch::async, [&, first, name = row["name"].get<std::string>(),
                                             end = first + row["steps"].get<uint32_t>()] {
        return simulate_run(name, reads, on, first, end);
      });
    };
    expected.back() = {expect_on(machine), expect_on(kernel_machine)};
  }
  std::printf("\n%-15s %10s %10s %10s %10s %10s %9s %9s %9s %9s %13s\n", "", "tokens/s", "expected",
              "/ expected", "by kernel", "/ that", "HBM share", "expected", "link MB", "expected",
              "steps/period");
  for (size_t i = 0; i < runs.size(); ++i) {
    json& row = runs[i];
    if (!expected[i].first.valid()) continue;
    const auto name = row["name"].get<std::string>();
    const Expected of_copy = expected[i].first.get();
    const Expected of_kernel = expected[i].second.get();
    const auto tokens_per_second = [&](const Expected& of) {
      return static_cast<double>(options.sequences) / std::max(of.step_s, machine.least_step_s);
    };
    const double measured = row["tokens_per_second"].get<double>();
    const double link_mb = row["host_read_mb_a_step"].get<double>() +
                           row["copied_in_mb_a_step"].get<double>() +
                           row["copied_out_mb_a_step"].get<double>();
    const auto figures = [&](const Expected& of) {
      return json{{"tokens_per_second", tokens_per_second(of)},
                  {"measured_of_expected", measured / tokens_per_second(of)},
                  {"step_ms", 1e3 * of.step_s},
                  {"hbm_share", of.hbm_share},
                  {"link_mb_a_step", 1e-6 * of.link_bytes},
                  {"period_steps", of.period_steps}};
    };
    row["link_mb_a_step"] = link_mb;
    row["expected"] = figures(of_copy);
    row["expected_by_kernel"] = figures(of_kernel);
    std::printf("%-15s %10.0f %10.0f %10.2f %10.0f %10.2f %7.2f %% %7.2f %% %9.2f %9.2f %13u\n", name.c_str(),
                measured, tokens_per_second(of_copy), measured / tokens_per_second(of_copy),
                tokens_per_second(of_kernel), measured / tokens_per_second(of_kernel),
                100 * row["hbm_share"].get<double>(), 100 * of_copy.hbm_share, link_mb,
                1e-6 * of_copy.link_bytes, of_copy.period_steps);
    // What moves when is the same in both where nobody's time decides it: in the engine's caches always, in kvtierd's runs
    // where a step is given a period at least. There it lags when it gets no CPU in time.
    const bool daemon_decides = name.starts_with("balance");
    if (daemon_decides && machine.least_step_s < machine.period_s) continue;
    const double off = (1e6 * link_mb - of_copy.link_bytes) /
                       static_cast<double>(reads.pages_of_step() * options.page_bytes());
    expect(std::abs(off) <= (daemon_decides ? kDaemonOff : kCacheOff),
           name + ": of a step's bytes " + std::to_string(100 * off) +
               " % more come over the link than the simulator expects");
    // Without what lru-fetch has read over the link before it reads.
    if (name != "lru-fetch")
      expect(std::abs(row["hbm_share"].get<double>() - of_copy.hbm_share) <=
                 (daemon_decides ? kDaemonOff : kCacheOff),
             name + ": the simulator expects " + std::to_string(100 * of_copy.hbm_share) +
                 " % of the reads from HBM");
  }
  std::printf(
      "expected: by kvtiersim's model and policies, of the same steps, with a copy's speed within HBM and "
      "the "
      "kernel's over the link; by kernel: with the kernel's over both; %.1f s\n",
      seconds_since(begun));
}

int run(const Options& options) {
  const auto begun = Clock::now();
  std::unique_ptr<Device> made;
  try {
    made = std::make_unique<Device>(options.driver);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_decode_loop: %s\n", error.what());
    return 3;
  }
  const Device& device = *made;
  json out{{"gpu", device.gpu->info().name},
           {"driver", cuda::version_text(device.driver().version())},
           {"attention", options.attention}};
  const Reads reads(options.shape());
  const ReadsShape& shape = reads.shape();
  const double gib = static_cast<double>(options.page_bytes()) / static_cast<double>(1u << 30);
  std::printf(
      "%s; %u sequences of %u blocks of %llu tokens, %.0f KiB a block: %.2f GiB, HBM %.2f GiB; a step reads "
      "%zu pages, "
      "%.2f GiB, %.2f %% of them not in the step before; seed %llu\n",
      device.gpu->info().name.c_str(), shape.sequences, shape.blocks,
      static_cast<unsigned long long>(options.block_tokens), static_cast<double>(options.page_bytes()) / 1024,
      static_cast<double>(options.pages) * gib,
      static_cast<double>(options.hbm_bytes) / static_cast<double>(1u << 30), reads.pages_of_step(),
      static_cast<double>(reads.pages_of_step()) * gib, 100 * reads.fresh_share(),
      static_cast<unsigned long long>(options.seed));
  const Contents contents(device, options.pages, options.page_bytes(), options.seed);
  const Private memory(device, options, contents);
  const Rates& rates = memory.rates();
  std::printf(
      "copy within HBM, read and written: %.0f GB/s; from host memory: %.1f GB/s; ready after %.1f s\n",
      rates.hbm, rates.link, seconds_since(begun));
  Loop loop(device, options, reads, contents, memory);
  // Without attention there is no kernel whose speed could be measured, and a CPU's copies say nothing of a GPU: then the
  // simulator gets what kvtierd is told.
  SimulatedMachine machine = machine_of_profile(kProfile);
  SimulatedMachine kernel_machine = machine;
  if (options.attention) {
    const Rates kernel = loop.kernel_rates();
    std::printf("as the kernel reads: HBM %.0f GB/s, host memory %.1f GB/s\n", kernel.hbm, kernel.link);
    machine.hbm_bytes_per_second = rates.hbm * 1e9;
    kernel_machine.hbm_bytes_per_second = kernel.hbm * 1e9;
    machine.link_bytes_per_second = kernel_machine.link_bytes_per_second = kernel.link * 1e9;
    out["kernel_hbm_gb_s"] = kernel.hbm;
    out["kernel_link_gb_s"] = kernel.link;
  }
  for (SimulatedMachine* each : {&machine, &kernel_machine}) {
    each->page_bytes = options.page_bytes();
    each->hbm_frames = options.hbm_bytes / options.page_bytes();
    each->period_s = 1e-3 * static_cast<double>(options.period_ms);
    each->least_step_s = 1e-6 * static_cast<double>(options.least_step_us);
  }

  using Make = std::function<std::unique_ptr<Placement>()>;
  const auto tiered = [&](const char* policy, const char* promote) -> Make {
    return [&device, &options, &contents, policy, promote] {
      return std::make_unique<Tiered>(device, options, contents, policy, promote);
    };
  };
  const auto lru = [&](Lru::Fetch fetch) -> Make {
    return [&, fetch] { return std::make_unique<Lru>(device, memory, options.page_bytes(), fetch); };
  };
  const std::vector<std::pair<std::string, Make>> all = {
      {"hbm",
       [&] { return std::make_unique<AllInOne>(memory, options.page_bytes(), AllInOne::Where::kHbm); }},
      {"balance", tiered("balance", "offers")},
      {"lru-fetch", lru(Lru::Fetch::kBeforeReading)},
      {"lru-read", lru(Lru::Fetch::kBesides)},
      {"balance-copies", tiered("balance", "copies")},
      {"static", tiered("off", "offers")}};
  json runs = json::array();
  for (const auto& [name, make] : all) {
    if (!options.only.empty() &&
        std::find(options.only.begin(), options.only.end(), name) == options.only.end())
      continue;
    try {
      const auto made_from = Clock::now();
      const std::unique_ptr<Placement> placement = make();
      const double ready_s = seconds_since(made_from);
      json row;
      try {
        row = loop.run(name, *placement);
      } catch (const std::exception& error) {
        fail(std::string(error.what()) + "\n" + placement->log());
      }
      row["ready_s"] = ready_s;
      if (name == "balance" || name == "balance-copies") {
        // Otherwise the run shows nothing of the daemon.
        expect(row["moves"]["promoted"].get<uint64_t>() > 0, name + ": no page was promoted");
        if (name == "balance") expect(row["offers"]["taken"].get<uint64_t>() > 0, "no offer was taken");
        std::printf("  moves %s\n  offers %s\n", row["moves"].dump().c_str(), row["offers"].dump().c_str());
      }
      runs.push_back(std::move(row));
    } catch (const std::exception& error) {
      expect(false, name + ": " + error.what());
      runs.push_back({{"name", name}, {"failed", error.what()}});
    }
    std::fflush(stdout);
  }

  expect(!runs.empty(), "--only names none of the runs");

  std::printf("\n%-15s %10s %9s %9s %9s %9s %9s %9s %7s\n", "", "tokens/s", "step ms", "model ms", "/ model",
              "ideal ms", "HBM share", "link MB", "right");
  for (const json& row : runs) {
    if (row.contains("failed")) continue;
    const double step_ms = row["step_ms_mean"].get<double>();
    const double model_ms = row["model_ms"].get<double>();
    std::printf("%-15s %10.0f %9.3f %9.3f %9.2f %9.3f %7.2f %% %9.1f %3d/%d\n",
                row["name"].get<std::string>().c_str(), row["tokens_per_second"].get<double>(), step_ms,
                model_ms, step_ms / model_ms, row["ideal_ms"].get<double>(),
                100 * row["hbm_share"].get<double>(),
                row["host_read_mb_a_step"].get<double>() + row["copied_in_mb_a_step"].get<double>() +
                    row["copied_out_mb_a_step"].get<double>(),
                row["steps_right"].get<int>(), row["steps_checked"].get<int>());
  }
  std::printf(
      "ideal: all reads shared by HBM and link in proportion to their speed; model: this run's bytes at "
      "those speeds\n");
  compare_with_simulator(options, reads, machine, kernel_machine, runs);
  std::printf("%.1f s altogether\n", seconds_since(begun));
  out["options"] = {{"pages", options.pages},
                    {"sequences", options.sequences},
                    {"page_bytes", options.page_bytes()},
                    {"hbm_bytes", options.hbm_bytes},
                    {"read_percent", options.read_percent},
                    {"steps", options.steps},
                    {"drift_percent", options.drift_percent},
                    {"drift_steps", options.drift_steps},
                    {"flicker_percent", options.flicker_percent},
                    {"zipf", options.zipf},
                    {"period_ms", options.period_ms},
                    {"seed", options.seed}};
  out["fresh_share"] = reads.fresh_share();
  out["hbm_gb_s"] = rates.hbm;
  out["link_gb_s"] = rates.link;
  out["runs"] = runs;
  out["seconds"] = seconds_since(begun);
  out["right"] = !failed;
  std::printf("%s\n", out.dump().c_str());
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace kvt::loop

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "beside") return kvt::beside::run_beside(argc - 2, argv + 2);
  kvt::loop::Options options;
  const char* const named = std::getenv("KVT_CUDA_DRIVER");
  if (named != nullptr) options.driver = named;
  const std::map<std::string, uint64_t*> counts = {{"--pages", &options.pages},
                                                   {"--sequences", &options.sequences},
                                                   {"--steps", &options.steps},
                                                   {"--drift-steps", &options.drift_steps},
                                                   {"--seed", &options.seed},
                                                   {"--kv-heads", &options.kv_heads},
                                                   {"--group", &options.group},
                                                   {"--head-dim", &options.head_dim},
                                                   {"--block-tokens", &options.block_tokens},
                                                   {"--hbm-bytes", &options.hbm_bytes},
                                                   {"--period-ms", &options.period_ms},
                                                   {"--least-step-us", &options.least_step_us},
                                                   {"--verify-every", &options.verify_every}};
  const std::map<std::string, double*> numbers = {{"--read-percent", &options.read_percent},
                                                  {"--drift-percent", &options.drift_percent},
                                                  {"--flicker-percent", &options.flicker_percent},
                                                  {"--zipf", &options.zipf},
                                                  {"--seconds", &options.seconds}};
  const auto usage = [&](const std::string& why) {
    std::fprintf(stderr, "gpu_decode_loop: %s\nusage: gpu_decode_loop [--no-attention] [--only NAME[,NAME]]",
                 why.c_str());
    for (const auto& [name, value] : counts)
      std::fprintf(stderr, " [%s %llu]", name.c_str(), static_cast<unsigned long long>(*value));
    for (const auto& [name, value] : numbers) std::fprintf(stderr, " [%s %g]", name.c_str(), *value);
    std::fprintf(stderr, "\n");
    return 2;
  };
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--no-attention") {
      options.attention = false;
      continue;
    }
    if (i + 1 == argc) return usage(name + " needs a value, or is unknown");
    const std::string value = argv[++i];
    char* end = nullptr;
    if (name == "--only") {
      for (size_t at = 0; at <= value.size();) {
        const size_t comma = std::min(value.find(',', at), value.size());
        options.only.push_back(value.substr(at, comma - at));
        at = comma + 1;
      }
    } else if (const auto count = counts.find(name); count != counts.end()) {
      *count->second = std::strtoull(value.c_str(), &end, 0);
    } else if (const auto number = numbers.find(name); number != numbers.end()) {
      *number->second = std::strtod(value.c_str(), &end);
    } else {
      return usage("unknown option " + name);
    }
    if (end != nullptr && (end == value.c_str() || *end != '\0'))
      return usage(name + " " + value + " is no number");
  }
  if (options.sequences == 0 || options.pages % options.sequences != 0)
    return usage("--pages is a multiple of --sequences");
  const kvt::loop::ReadsShape shape = options.shape();
  const uint64_t page_bytes = options.page_bytes();
  if (shape.read_blocks < kvt::loop::kRecentBlocks + 2 || 2 * shape.read_blocks > shape.blocks)
    return usage("--read-percent is of a few blocks of a sequence, and at most half of them");
  if (page_bytes < 4096 || (page_bytes & (page_bytes - 1)) != 0)
    return usage("a page is a power of two, from 4 KiB on");
  const bool fetches =
      options.only.empty() || std::any_of(options.only.begin(), options.only.end(),
                                          [](const auto& name) { return name.starts_with("lru"); });
  if (fetches && options.hbm_bytes / page_bytes < uint64_t{shape.sequences} * shape.read_blocks)
    return usage("--hbm-bytes has room for what a step reads, or --only names no lru");
  if (options.steps < 2 || options.drift_steps == 0 || options.verify_every == 0 || options.period_ms == 0)
    return usage("two steps, and other counts of one, at least");
  if (options.drift_percent > 100 || options.flicker_percent > 100)
    return usage("a share is at most 100 percent");
  ::alarm(300);  // a kernel that waits for ever
  try {
    return kvt::loop::run(options);
  } catch (const std::exception& error) {
    std::printf("FAILED: %s\n", error.what());
    return 1;
  }
}
