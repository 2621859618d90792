// SPDX-License-Identifier: Apache-2.0
//
// attention_check [quick|check|measure|all] [SEED]: the attention of tools/kvtier-decode/device on a GPU, against a reference
// in double precision and for placements of the same pages; and its time against what the memories allow. Prints a
// table and, as the last line, one JSON object. Exit: 0; 1 when something is wrong; 3 without a GPU.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "shm/cuda/driver.h"
#include "tests/support/short_floats.h"
#include "tools/kvtier-decode/device/attention_host.h"

namespace kvt::decode {
namespace {

using Random = std::mt19937_64;

[[noreturn]] void die(const std::string& text, int code = 1) {
  std::fprintf(stderr, "attention_check: %s\n", text.c_str());
  std::exit(code);
}
void must(const Result<void>& result) {
  if (!result) die(result.error().text);
}

std::string format(const char* pattern, auto... values) {
  char text[512];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

using test::from_bfloat;
using test::from_half;
using test::to_bfloat;
using test::to_half;

uint16_t to_element(ElementType type, float v) {
  return type == ElementType::kFloat16 ? to_half(v) : to_bfloat(v);
}
/// Through tables: the reference converts more than it multiplies.
float from_element(ElementType type, uint16_t v) {
  static const auto kTables = [] {
    std::vector<float> values(2 << 16);
    for (uint32_t i = 0; i < 1 << 16; ++i) {
      values[i] = from_half(static_cast<uint16_t>(i));
      values[(1 << 16) + i] = from_bfloat(static_cast<uint16_t>(i));
    }
    return values;
  }();
  return kTables[(type == ElementType::kFloat16 ? 0 : 1 << 16) + v];
}
const char* name_of(ElementType type) { return type == ElementType::kFloat16 ? "fp16" : "bf16"; }

// ---- the GPU ----

struct Gpu {
  std::shared_ptr<const cuda::Driver> driver;
  CUcontext context = nullptr;
  CUstream stream = nullptr;
  CUstream side = nullptr;
  std::string name;
  int processors = 0;

  void check(CUresult result, const char* what) const { must(driver->check(result, what)); }
  void wait() const { check(driver->cuStreamSynchronize(stream), "cuStreamSynchronize"); }
  void copy(CUdeviceptr to, CUdeviceptr from, uint64_t bytes) const {
    check(driver->cuMemcpyAsync(to, from, bytes, stream), "cuMemcpyAsync");
  }
  void to_device(CUdeviceptr to, const void* from, uint64_t bytes) const {
    copy(to, reinterpret_cast<CUdeviceptr>(from), bytes);
    wait();
  }
  void to_host(void* to, CUdeviceptr from, uint64_t bytes) const {
    copy(reinterpret_cast<CUdeviceptr>(to), from, bytes);
    wait();
  }
};

/// Device memory that grows with what is put into it.
class Array {
 public:
  explicit Array(const Gpu& gpu) : gpu_(gpu) {}
  ~Array() {
    if (at_ != 0) gpu_.driver->cuMemFree(at_);
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  CUdeviceptr room(uint64_t bytes) {
    if (bytes > bytes_) {
      if (at_ != 0) gpu_.check(gpu_.driver->cuMemFree(at_), "cuMemFree");
      gpu_.check(gpu_.driver->cuMemAlloc(&at_, bytes), "cuMemAlloc");
      bytes_ = bytes;
    }
    return at_;
  }
  template <typename T>
  CUdeviceptr put(const std::vector<T>& values) {
    gpu_.to_device(room(values.size() * sizeof(T)), values.data(), values.size() * sizeof(T));
    return at_;
  }

 private:
  const Gpu& gpu_;
  CUdeviceptr at_ = 0;
  uint64_t bytes_ = 0;
};

/// HBM and registered host memory; host memory behind HBM in one range where the driver takes the address.
struct Range {
  CUdeviceptr base = 0;
  uint64_t device_bytes = 0;
  char* host = nullptr;
  uint64_t host_bytes = 0;
  bool adjacent = false;

  /// The first frame in host memory, for pages of this stride.
  [[nodiscard]] int64_t first_host_frame(uint64_t stride) const {
    return static_cast<int64_t>((reinterpret_cast<CUdeviceptr>(host) - base + stride - 1) / stride);
  }
  [[nodiscard]] char* host_frame(uint64_t stride, int64_t frame) const {
    return reinterpret_cast<char*>(base + static_cast<uint64_t>(frame) * stride);
  }
};

Range make_range(const Gpu& gpu, uint64_t device_bytes, uint64_t host_bytes) {
  constexpr uint64_t kAlignment = uint64_t{1} << 30;
  Range range;
  range.device_bytes = device_bytes;
  range.host_bytes = host_bytes;
  const int file = ::memfd_create("kvtier-attention", 0);
  if (file < 0 || ::ftruncate(file, static_cast<off_t>(host_bytes)) != 0) die("no memfd for the host pages");
  const uint64_t all = device_bytes + host_bytes + kAlignment;
  void* reserved = ::mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) die("no address range");
  const uint64_t front = (reinterpret_cast<uint64_t>(reserved) + kAlignment - 1) / kAlignment * kAlignment;
  ::munmap(reinterpret_cast<void*>(front), device_bytes);
  gpu.check(gpu.driver->cuMemAddressReserve(&range.base, device_bytes, 0, front, 0), "cuMemAddressReserve");
  CUmemAllocationProp kind{};
  kind.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  kind.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  gpu.check(gpu.driver->cuCtxGetDevice(&kind.location.id), "cuCtxGetDevice");
  CUmemGenericAllocationHandle handle = 0;
  gpu.check(gpu.driver->cuMemCreate(&handle, device_bytes, &kind, 0), "cuMemCreate");
  gpu.check(gpu.driver->cuMemMap(range.base, device_bytes, 0, handle, 0), "cuMemMap");
  CUmemAccessDesc access{};
  access.location = kind.location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  gpu.check(gpu.driver->cuMemSetAccess(range.base, device_bytes, &access, 1), "cuMemSetAccess");

  range.adjacent = range.base == front;
  // Elsewhere: the first free addresses behind HBM.
  void* at = MAP_FAILED;
  if (range.adjacent) {
    at = ::mmap(reinterpret_cast<void*>(front + device_bytes), host_bytes, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_FIXED | MAP_POPULATE, file, 0);
  } else {
    for (uint64_t hint = range.base + device_bytes;
         at == MAP_FAILED && hint < (uint64_t{1} << 47) - host_bytes; hint += uint64_t{64} << 30)
      at = ::mmap(reinterpret_cast<void*>(hint), host_bytes, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, file, 0);
  }
  ::close(file);
  if (at == MAP_FAILED) die("host memory cannot be mapped behind HBM");
  range.host = static_cast<char*>(at);
  gpu.check(gpu.driver->cuMemHostRegister(at, host_bytes,
                                          CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP),
            "cuMemHostRegister");
  CUdeviceptr seen = 0;
  gpu.check(gpu.driver->cuMemHostGetDevicePointer(&seen, at, 0), "cuMemHostGetDevicePointer");
  if (seen != reinterpret_cast<CUdeviceptr>(at))
    die("the GPU has host memory at other addresses than the CPU");
  return range;
}

// ---- right answers ----

struct Case {
  ElementType type;
  int head_dim, group, kv_heads, block_tokens;
};

struct Outcome {
  bool right = true;
  double worst = 0.0;  ///< relative error of a query head
  double whole = 0.0;  ///< of all
  std::string why;
  void wrong(const std::string& what) {
    right = false;
    if (why.empty()) why = what;
  }
};

class Checker {
 public:
  Checker(const Gpu& gpu, const Range& range, PagedAttention& attention)
      : gpu_(gpu),
        range_(range),
        attention_(attention),
        table_(gpu),
        lengths_(gpu),
        offers_(gpu),
        q_(gpu),
        out_(gpu) {}

  Outcome run(const Case& c, Random& random) {
    constexpr int kLayers = 2;
    const std::vector<int32_t> lengths = {1, 700, 15, 0, 16, 17, 64 * 5 + 3, 1024, 1500, 256};
    const int seqs = static_cast<int>(lengths.size());
    const int heads = c.group * c.kv_heads;
    const int max_blocks = 1500 / c.block_tokens + 2;
    const uint64_t bytes = uint64_t{4} * c.kv_heads * c.block_tokens * c.head_dim;
    const uint64_t layer_stride = bytes + 512;  // more than the layer, to see that strides are kept
    const uint64_t stride = kLayers * layer_stride + 1024;
    const auto row = [&](int seq, int block) { return static_cast<size_t>(seq) * max_blocks + block; };
    std::normal_distribution<float> normal;

    // Contents, which stay; what is beyond a sequence's end, and everything else, are NaNs.
    struct Page {
      int seq, block;
      bool full;
      std::vector<uint16_t> elements;
    };
    std::vector<Page> pages;
    for (int s = 0; s < seqs; ++s)
      for (int b = 0; b * c.block_tokens < lengths[s]; ++b) {
        Page page{s, b, (b + 1) * c.block_tokens <= lengths[s], std::vector<uint16_t>(bytes / 2, 0xffff)};
        for (int part = 0; part < 2 * c.kv_heads; ++part)
          for (int t = 0; t < c.block_tokens && b * c.block_tokens + t < lengths[s]; ++t)
            for (int d = 0; d < c.head_dim; ++d)
              page.elements[(static_cast<size_t>(part) * c.block_tokens + t) * c.head_dim + d] =
                  to_element(c.type, normal(random));
        pages.push_back(std::move(page));
      }
    std::vector<uint16_t> q(static_cast<size_t>(seqs) * heads * c.head_dim);
    for (auto& v : q) v = to_element(c.type, normal(random));

    // Frames: each page has one in HBM and one in host memory; as many of HBM are left for offers.
    const int count = static_cast<int>(pages.size());
    const int64_t first_host = range_.first_host_frame(stride);
    const int device_frames = 1 + 2 * count;
    if (device_frames * stride > range_.device_bytes || (count + 1) * stride > range_.host_bytes ||
        first_host > INT32_MAX / 2)
      die("the case does not fit");
    std::vector<int32_t> homes(device_frames - 1), host_homes(count);
    std::iota(homes.begin(), homes.end(), 1);
    std::iota(host_homes.begin(), host_homes.end(), static_cast<int32_t>(first_host));
    std::shuffle(homes.begin(), homes.end(), random);
    std::shuffle(host_homes.begin(), host_homes.end(), random);

    AttentionArguments a;
    a.base = range_.base;
    a.stride = stride;
    a.layer_stride = layer_stride;
    a.layer = 1;
    a.first_host_frame = static_cast<int32_t>(first_host);
    a.seqs = seqs;
    a.heads = heads;
    a.kv_heads = c.kv_heads;
    a.head_dim = c.head_dim;
    a.block_tokens = c.block_tokens;
    a.max_blocks = max_blocks;
    a.max_length = 1500;
    a.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    a.type = c.type;
    a.q = q_.put(q);
    a.lengths = lengths_.put(lengths);
    a.out = out_.room(q.size() * 2);

    Outcome outcome;
    std::vector<uint16_t> first;
    std::vector<uint8_t> device(device_frames * stride), after(device.size());
    const uint64_t host_span = static_cast<uint64_t>(count) * stride;
    enum Placement { kMixed, kOther, kAllDevice, kAllHost, kOffered, kPlacements };
    for (int placement = 0; placement < kPlacements; ++placement) {
      std::fill(device.begin(), device.end(), 0xff);
      char* host = range_.host_frame(stride, first_host);
      std::memset(host, 0xff, host_span);
      // Blocks beyond a sequence have frames that nobody may read: far outside.
      std::vector<int32_t> table(static_cast<size_t>(seqs) * max_blocks, 0x7fffffff);
      std::vector<int32_t> offers(table.size(), -1);
      for (int i = 0; i < count; ++i) {
        const bool in_host = placement == kAllHost || (placement != kAllDevice && random() % 2 == 0);
        const int32_t frame = in_host ? host_homes[i] : homes[i];
        table[row(pages[i].seq, pages[i].block)] = frame;
        char* to = in_host ? range_.host_frame(stride, frame)
                           : reinterpret_cast<char*>(device.data()) + frame * stride;
        std::memcpy(to + layer_stride, pages[i].elements.data(), bytes);
        if (placement == kOffered && in_host && pages[i].full && random() % 4 != 0)
          offers[row(pages[i].seq, pages[i].block)] = homes[count + i];
      }
      gpu_.to_device(range_.base, device.data(), device.size());
      a.block_table = table_.put(table);
      a.offers = placement == kOffered ? offers_.put(offers) : 0;
      for (int again = 0; again < 2;
           ++again) {  // the second launch uses what the first left in the workspace
        gpu_.check(gpu_.driver->cuMemsetD8Async(a.out, 0xff, q.size() * 2, gpu_.stream), "cuMemsetD8Async");
        must(again == 0 ? attention_.launch(a, gpu_.stream) : attention_.launch_layer(a, gpu_.stream));
        gpu_.wait();
        std::vector<uint16_t> out(q.size());
        gpu_.to_host(out.data(), a.out, out.size() * 2);
        if (first.empty()) {
          first = out;
          compare(c, lengths, pages, q, out, heads, a.scale, outcome);
        } else if (out != first) {
          size_t at = 0;
          while (out[at] == first[at]) ++at;
          outcome.wrong(format("placement %d, launch %d: other bits at element %zu", placement, again, at));
        }
      }
      // What was to be written to HBM, and nothing else.
      for (int i = 0; i < count; ++i) {
        const int32_t offer = offers[row(pages[i].seq, pages[i].block)];
        if (offer >= 0)
          std::memcpy(device.data() + offer * stride + layer_stride, pages[i].elements.data(), bytes);
      }
      gpu_.to_host(after.data(), range_.base, after.size());
      if (after != device) {
        size_t at = 0;
        while (after[at] == device[at]) ++at;
        outcome.wrong(format("placement %d: byte %zu of frame %zu is not as expected", placement, at % stride,
                             at / stride));
      }
    }
    return outcome;
  }

 private:
  template <typename Pages>
  static void compare(const Case& c, const std::vector<int32_t>& lengths, const Pages& pages,
                      const std::vector<uint16_t>& q, const std::vector<uint16_t>& out, int heads,
                      float scale, Outcome& outcome) {
    double all_error = 0.0, all_size = 0.0;
    size_t page = 0;
    std::vector<double> weights, right(c.head_dim);
    for (size_t s = 0; s < lengths.size(); ++s) {
      const int length = lengths[s];
      const auto element = [&](int kind, int kv, int token, int d) {
        return static_cast<double>(from_element(
            c.type, pages[page + token / c.block_tokens]
                        .elements[((static_cast<size_t>(kind) * c.kv_heads + kv) * c.block_tokens +
                                   token % c.block_tokens) *
                                      c.head_dim +
                                  d]));
      };
      for (int h = 0; h < heads; ++h) {
        const size_t at = (s * heads + h) * c.head_dim;
        weights.assign(length, 0.0);
        double top = -INFINITY, total = 0.0;
        for (int t = 0; t < length; ++t) {
          double score = 0.0;
          for (int d = 0; d < c.head_dim; ++d)
            score += static_cast<double>(from_element(c.type, q[at + d])) * element(0, h / c.group, t, d);
          weights[t] = score * static_cast<double>(scale);
          top = std::max(top, weights[t]);
        }
        for (double& w : weights) total += w = std::exp(w - top);
        std::fill(right.begin(), right.end(), 0.0);
        for (int t = 0; t < length; ++t)
          for (int d = 0; d < c.head_dim; ++d) right[d] += weights[t] / total * element(1, h / c.group, t, d);
        double error = 0.0, size = 0.0;
        for (int d = 0; d < c.head_dim; ++d) {
          const double is = static_cast<double>(from_element(c.type, out[at + d]));
          error += (is - right[d]) * (is - right[d]);
          size += right[d] * right[d];
        }
        all_error += error;
        all_size += size;
        const double relative = length == 0 ? std::sqrt(error) : std::sqrt(error / size);
        if (std::isnan(relative)) outcome.wrong(format("sequence %zu, head %d: not a number", s, h));
        outcome.worst = std::max(outcome.worst, relative);
      }
      page += (length + c.block_tokens - 1) / c.block_tokens;
    }
    outcome.whole = std::sqrt(all_error / all_size);
    const double limit = c.type == ElementType::kFloat16 ? 2e-3 : 1.5e-2;
    if (!(outcome.whole <= limit) || !(outcome.worst <= 2 * limit))
      outcome.wrong(format("relative error %.2e, of a head %.2e", outcome.whole, outcome.worst));
  }

  const Gpu& gpu_;
  const Range& range_;
  PagedAttention& attention_;
  Array table_, lengths_, offers_, q_, out_;
};

// ---- times ----

class Stopwatch {
 public:
  explicit Stopwatch(const Gpu& gpu) : gpu_(gpu), before_(gpu) {
    for (CUevent* event : {&begin_, &end_})
      gpu.check(gpu.driver->cuEventCreate(event, CU_EVENT_DEFAULT), "cuEventCreate");
  }
  ~Stopwatch() {
    gpu_.driver->cuEventDestroy(begin_);
    gpu_.driver->cuEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  /// Median and spread (of the middle half) of the time of `work` on the stream, in seconds.
  struct Time {
    double median = 0.0, spread = 0.0;
  };
  Time time(const std::function<void()>& work, int times = 11) {
    std::vector<double> seconds;
    for (int i = -3; i < times; ++i) {
      // Keeps the GPU busy until the work is queued, and empties the L2 cache.
      gpu_.check(gpu_.driver->cuMemsetD8Async(before_.room(kBeforeBytes), 0, kBeforeBytes, gpu_.stream),
                 "cuMemsetD8Async");
      gpu_.check(gpu_.driver->cuEventRecord(begin_, gpu_.stream), "cuEventRecord");
      work();
      gpu_.check(gpu_.driver->cuEventRecord(end_, gpu_.stream), "cuEventRecord");
      gpu_.check(gpu_.driver->cuEventSynchronize(end_), "cuEventSynchronize");
      float ms = 0.0f;
      gpu_.check(gpu_.driver->cuEventElapsedTime(&ms, begin_, end_), "cuEventElapsedTime");
      if (i >= 0) seconds.push_back(static_cast<double>(ms) * 1e-3);
    }
    std::sort(seconds.begin(), seconds.end());
    return {seconds[seconds.size() / 2], seconds[seconds.size() * 3 / 4] - seconds[seconds.size() / 4]};
  }

 private:
  static constexpr uint64_t kBeforeBytes = uint64_t{512} << 20;

  const Gpu& gpu_;
  Array before_;
  CUevent begin_ = nullptr, end_ = nullptr;
};

class Bench {
 public:
  Bench(const Gpu& gpu, const Range& range, PagedAttention& attention, Random& random)
      : gpu_(gpu),
        range_(range),
        attention_(attention),
        random_(random),
        watch_(gpu),
        table_(gpu),
        lengths_(gpu),
        offers_(gpu),
        q_(gpu),
        out_(gpu) {}

  /// The JSON of it, without braces.
  std::string run() {
    const uint64_t copied = uint64_t{1} << 30;
    const auto device = watch_.time([&] { gpu_.copy(range_.base + copied, range_.base, copied); });
    hbm_ = 2.0 * static_cast<double>(copied) / device.median;
    const uint64_t read = std::min<uint64_t>(range_.host_bytes, uint64_t{512} << 20);
    const auto link =
        watch_.time([&] { gpu_.copy(range_.base, reinterpret_cast<CUdeviceptr>(range_.host), read); }, 10);
    link_ = static_cast<double>(read) / link.median;
    std::printf("device copy, read and written: %.0f GB/s; link, host to device: %.1f GB/s\n", hbm_ * 1e-9,
                link_ * 1e-9);
    std::string json = format("\"copy_gb_s\":%.1f,\"link_gb_s\":%.2f,\"runs\":[", hbm_ * 1e-9, link_ * 1e-9);
    const double balance = link_ / (link_ + hbm_);
    json += measure(4, 16, {0.0, balance, 0.05, 0.1, 0.2, 0.3}, true) + ",";
    json += measure(8, 16, {0.0, balance, 0.1}, false) + ",";
    json += measure(8, 64, {0.0, balance, 0.1}, false);
    return json + "]";
  }

  [[nodiscard]] bool same_bits() const { return same_bits_; }

 private:
  static constexpr int kSeqs = 64, kLength = 8192, kHeads = 8, kDim = 128;

  struct Placed {
    std::vector<int32_t> table, offers;
    int hosts = 0;
  };

  std::string measure(int group, int block_tokens, const std::vector<double>& shares, bool more) {
    const int count = kSeqs * kLength / block_tokens;
    const uint64_t stride = uint64_t{4} * kHeads * block_tokens * kDim;
    const int64_t first_host = range_.first_host_frame(stride);
    const int hosts_max = count * 3 / 10 + 1;
    const int targets = count / 10 + 1;
    if ((1 + count + targets) * stride > range_.device_bytes || (hosts_max + 1) * stride > range_.host_bytes)
      die("the measured pages do not fit");
    // A period of random elements; page i has its home in frame homes[i], and its contents are those of the frame.
    std::vector<uint16_t> period(8 << 20);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < period.size(); ++i)
      period[i] = i < (1 << 20) ? to_half(normal(random_)) : period[(i * 2654435761u) & ((1 << 20) - 1)];
    const uint64_t period_bytes = period.size() * 2;
    for (uint64_t at = 0; at < (1 + count) * stride; at += period_bytes)
      gpu_.copy(range_.base + at, reinterpret_cast<CUdeviceptr>(period.data()),
                std::min(period_bytes, (1 + count) * stride - at));
    gpu_.wait();
    std::vector<int32_t> homes(count), chosen(count);
    std::iota(homes.begin(), homes.end(), 1);
    std::iota(chosen.begin(), chosen.end(), 0);
    std::shuffle(homes.begin(), homes.end(), random_);
    std::shuffle(chosen.begin(), chosen.end(), random_);
    std::vector<int32_t> in_order(count);
    std::iota(in_order.begin(), in_order.end(), 0);

    // `pages`: those in host memory come first.
    const auto place = [&](double share, const std::vector<int32_t>& pages) {
      Placed placed;
      placed.table = homes;
      placed.offers.assign(count, -1);
      placed.hosts = static_cast<int>(std::lround(share * count));
      for (int i = 0; i < placed.hosts; ++i) {
        const int32_t page = pages[i];
        placed.table[page] = static_cast<int32_t>(first_host) + i;
        if (i < targets) placed.offers[page] = 1 + count + i;
        const uint64_t from = static_cast<uint64_t>(homes[page]) * stride % period_bytes;
        std::memcpy(range_.host_frame(stride, first_host + i),
                    reinterpret_cast<const char*>(period.data()) + from, stride);
      }
      return placed;
    };

    AttentionArguments a;
    a.base = range_.base;
    a.stride = stride;
    a.first_host_frame = static_cast<int32_t>(first_host);
    a.seqs = kSeqs;
    a.heads = kHeads * group;
    a.kv_heads = kHeads;
    a.head_dim = kDim;
    a.block_tokens = block_tokens;
    a.max_blocks = kLength / block_tokens;
    a.scale = 1.0f / std::sqrt(static_cast<float>(kDim));
    std::vector<uint16_t> q(static_cast<size_t>(kSeqs) * a.heads * kDim);
    for (auto& v : q) v = to_half(normal(random_));
    a.q = q_.put(q);
    a.lengths = lengths_.put(std::vector<int32_t>(kSeqs, kLength));
    a.out = out_.room(q.size() * 2);
    const double all_bytes = static_cast<double>(count) * static_cast<double>(stride);

    std::string json;
    std::vector<uint16_t> first;
    double alone = 0.0;  // all in HBM
    const auto set = [&](const Placed& placed, bool offers) {
      a.block_table = table_.put(placed.table);
      a.offers = offers ? offers_.put(placed.offers) : 0;
      must(attention_.plan(a, gpu_.stream));
    };
    const auto layer = [&] { must(attention_.launch_layer(a, gpu_.stream)); };
    const auto row = [&](const char* what, const Placed& placed, bool offers) {
      set(placed, offers);
      const auto t = watch_.time(layer);
      if (placed.hosts == 0 && alone == 0.0) alone = t.median;
      std::vector<uint16_t> out(q.size());
      gpu_.to_host(out.data(), a.out, out.size() * 2);
      if (first.empty()) first = out;
      const bool same = out == first || a.split_tokens != 0;
      same_bits_ = same_bits_ && same;
      const double host_bytes = static_cast<double>(placed.hosts) * static_cast<double>(stride);
      const double model = std::max((all_bytes - host_bytes) / hbm_, host_bytes / link_);
      const double own = std::max((all_bytes - host_bytes) / (all_bytes / alone), host_bytes / kernel_link_);
      std::printf(
          "g%d b%d %-22s host %5.2f %%: %8.1f us +-%5.1f, %5.0f GB/s; model %8.1f us, ratio %.3f (own "
          "rates %.3f)%s\n",
          group, block_tokens, what, 100.0 * host_bytes / all_bytes, t.median * 1e6, t.spread * 1e6,
          all_bytes / t.median * 1e-9, model * 1e6, t.median / model, t.median / own,
          same ? "" : "  OTHER BITS");
      std::fflush(stdout);
      add(json, format("{\"what\":\"%s\",\"group\":%d,\"block\":%d,\"copying_blocks\":%d,\"split\":%d,\"host_"
                       "share\":%.4f,"
                       "\"us\":%.2f,\"spread_us\":%.2f,\"gb_s\":%.1f,\"model_us\":%.2f,\"ratio\":%.4f,"
                       "\"ratio_own\":%.4f,"
                       "\"same_bits\":%s}",
                       what, group, block_tokens, a.copying_blocks, a.split_tokens, host_bytes / all_bytes,
                       t.median * 1e6, t.spread * 1e6, all_bytes / t.median * 1e-9, model * 1e6,
                       t.median / model, t.median / own, same ? "true" : "false"));
      return t.median;
    };
    const auto other = [&](const char* what, double seconds) {
      std::printf("g%d b%d %-44s %8.1f us\n", group, block_tokens, what, seconds * 1e6);
      add(json, format("{\"what\":\"%s\",\"group\":%d,\"block\":%d,\"us\":%.2f}", what, group, block_tokens,
                       seconds * 1e6));
    };

    // What the kernel gets out of the link at most: with so many pages in host memory it does nothing else.
    {
      set(place(0.3, chosen), false);
      kernel_link_ = 0.3 * all_bytes / watch_.time(layer).median;
      std::printf("g%d b%d link, as the kernel reads: %.1f GB/s\n", group, block_tokens, kernel_link_ * 1e-9);
      add(json, format("{\"what\":\"link of the kernel\",\"group\":%d,\"block\":%d,\"gb_s\":%.2f}", group,
                       block_tokens, kernel_link_ * 1e-9));
    }
    for (const double share : shares) row("scattered", place(share, chosen), false);
    other("plan, once for all layers", watch_.time([&] { must(attention_.plan(a, gpu_.stream)); }).median);
    if (!more) return json;

    const double own_balance = kernel_link_ / (kernel_link_ + all_bytes / alone);
    row("balance, own rates", place(own_balance, chosen), false);
    row("three quarters of that", place(0.75 * own_balance, chosen), false);
    const double balance = link_ / (link_ + hbm_);
    row("whole sequences", place(balance, in_order), false);
    row("whole sequences", place(0.1, in_order), false);
    for (const int blocks : {2, 4, 8, 16}) {
      a.copying_blocks = blocks;
      const std::string what = "copying blocks " + std::to_string(blocks);
      row(what.c_str(), place(balance, chosen), false);
      row(what.c_str(), place(0.1, chosen), false);
    }
    a.copying_blocks = -1;
    for (const int tokens : {256, 512, 1024, 2048}) {
      a.split_tokens = tokens;
      row(("splits of " + std::to_string(tokens)).c_str(), place(0.0, chosen), false);
    }
    a.split_tokens = 0;

    // Pages in host memory: copied first; written through; read and copied besides.
    const Placed tenth = place(0.1, chosen);
    const Placed balanced = place(own_balance, chosen);
    const Placed none = place(0.0, chosen);
    const auto copy_in = [&](int pages, CUstream stream) {
      std::vector<CUdeviceptr> to, from;
      std::vector<size_t> sizes(static_cast<size_t>(pages), stride);
      for (int i = 0; i < pages; ++i) {
        to.push_back(range_.base + static_cast<uint64_t>(1 + count + i) * stride);
        from.push_back(reinterpret_cast<CUdeviceptr>(range_.host_frame(stride, first_host + i)));
      }
#if CUDA_VERSION >= 13000
      if (gpu_.driver->cuMemcpyBatchAsync != nullptr) {
        // The fastest way there is: longer batches begin later.
        constexpr size_t kBatch = 64;
        CUmemcpyAttributes attributes{};
        attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
        size_t at = 0;
        for (size_t i = 0; i < to.size(); i += kBatch)
          gpu_.check(
              gpu_.driver->cuMemcpyBatchAsync(to.data() + i, from.data() + i, sizes.data() + i,
                                              std::min(kBatch, to.size() - i), &attributes, &at, 1, stream),
              "cuMemcpyBatchAsync");
        return;
      }
#endif
      for (size_t i = 0; i < to.size(); ++i)
        gpu_.check(gpu_.driver->cuMemcpyAsync(to[i], from[i], sizes[i], stream), "cuMemcpyAsync");
    };
    set(none, false);
    const auto copied_first = [&](const Placed& placed) {
      return watch_
          .time([&] {
            copy_in(placed.hosts, gpu_.stream);
            layer();
          })
          .median;
    };
    other("a tenth copied in, then all in HBM", copied_first(tenth));
    other("the balance share copied in, then all in HBM", copied_first(balanced));
    row("offers", tenth, true);
    set(tenth, false);
    CUevent begun = nullptr, copied = nullptr;
    for (CUevent* event : {&begun, &copied})
      gpu_.check(gpu_.driver->cuEventCreate(event, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    other("a tenth read from host, and copied besides",
          watch_
              .time([&] {
                gpu_.check(gpu_.driver->cuEventRecord(begun, gpu_.stream), "cuEventRecord");
                gpu_.check(gpu_.driver->cuStreamWaitEvent(gpu_.side, begun, 0), "cuStreamWaitEvent");
                copy_in(tenth.hosts, gpu_.side);
                gpu_.check(gpu_.driver->cuEventRecord(copied, gpu_.side), "cuEventRecord");
                layer();
                gpu_.check(gpu_.driver->cuStreamWaitEvent(gpu_.stream, copied, 0), "cuStreamWaitEvent");
              })
              .median);
    return json;
  }

  static void add(std::string& list, const std::string& item) {
    if (!list.empty()) list += ",";
    list += item;
  }

  const Gpu& gpu_;
  const Range& range_;
  PagedAttention& attention_;
  Random& random_;
  Stopwatch watch_;
  Array table_, lengths_, offers_, q_, out_;
  double hbm_ = 0.0, link_ = 0.0, kernel_link_ = 1.0;
  bool same_bits_ = true;
};

int run(const std::string& what, uint64_t seed) {
  const auto begin = std::chrono::steady_clock::now();
  Gpu gpu;
  auto loaded = cuda::Driver::load("");
  if (!loaded) die(loaded.error().text, 3);
  gpu.driver = *loaded;
  CUdevice device = 0;
  gpu.check(gpu.driver->cuDeviceGet(&device, 0), "cuDeviceGet");
  char name[128] = "";
  gpu.check(gpu.driver->cuDeviceGetName(name, sizeof name, device), "cuDeviceGetName");
  gpu.check(
      gpu.driver->cuDeviceGetAttribute(&gpu.processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device),
      "cuDeviceGetAttribute");
  gpu.check(gpu.driver->cuDevicePrimaryCtxRetain(&gpu.context, device), "cuDevicePrimaryCtxRetain");
  gpu.check(gpu.driver->cuCtxSetCurrent(gpu.context), "cuCtxSetCurrent");
  for (CUstream* stream : {&gpu.stream, &gpu.side})
    gpu.check(gpu.driver->cuStreamCreateWithPriority(stream, CU_STREAM_NON_BLOCKING, 0),
              "cuStreamCreateWithPriority");
  auto attention = PagedAttention::create(gpu.driver, gpu.context);
  if (!attention) die(attention.error().text);
  const bool measures = what != "check" && what != "quick";
  const Range range =
      make_range(gpu, (measures ? uint64_t{2560} : 512) << 20, (measures ? uint64_t{768} : 256) << 20);
  std::printf("%s, %d multiprocessors, driver %s; host memory %s HBM; seed %llu\n", name, gpu.processors,
              cuda::version_text(gpu.driver->version()).c_str(),
              range.adjacent ? "right behind" : "elsewhere than", static_cast<unsigned long long>(seed));
  std::string json =
      format("{\"gpu\":\"%s\",\"multiprocessors\":%d,\"driver\":%d,\"adjacent\":%s,\"seed\":%llu", name,
             gpu.processors, gpu.driver->version(), range.adjacent ? "true" : "false",
             static_cast<unsigned long long>(seed));
  Random random(seed);
  bool right = true;

  if (what != "measure") {
    Checker checker(gpu, range, *attention);
    json += ",\"checks\":[";
    bool begun = false;
    for (const ElementType type : {ElementType::kFloat16, ElementType::kBfloat16})
      for (const int head_dim : {64, 128})
        for (const int group : {1, 4, 8, 16})
          for (const int block_tokens : {16, 64}) {
            if (what == "quick" && (type != ElementType::kFloat16 || group != 4 || block_tokens != 16))
              continue;
            const Case c{type, head_dim, group == 16 ? 11 : group, group == 1 ? 3 : 2, block_tokens};
            const Outcome o = checker.run(c, random);
            right = right && o.right;
            std::printf("%s head_dim %3d group %2d kv_heads %d block %2d: error %.2e, worst head %.2e %s%s\n",
                        name_of(type), head_dim, c.group, c.kv_heads, block_tokens, o.whole, o.worst,
                        o.right ? "right" : "WRONG: ", o.why.c_str());
            std::fflush(stdout);
            json += format(
                "%s{\"type\":\"%s\",\"head_dim\":%d,\"group\":%d,\"kv_heads\":%d,\"block\":%d,\"error\":%.3e,"
                "\"worst\":%.3e,\"right\":%s}",
                begun ? "," : "", name_of(type), head_dim, c.group, c.kv_heads, block_tokens, o.whole,
                o.worst, o.right ? "true" : "false");
            begun = true;
          }
    json += "]";
  }
  if (measures) {
    Bench bench(gpu, range, *attention, random);
    json += "," + bench.run();
    right = right && bench.same_bits();
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("%s,\"seconds\":%.1f,\"right\":%s}\n", json.c_str(), seconds, right ? "true" : "false");
  return right ? 0 : 1;
}

}  // namespace
}  // namespace kvt::decode

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "all";
  if (what != "quick" && what != "check" && what != "measure" && what != "all") {
    std::fprintf(stderr, "usage: attention_check [quick|check|measure|all] [SEED]\n");
    return 2;
  }
  ::alarm(120);  // a kernel that waits for ever
  return kvt::decode::run(what, argc > 2 ? std::strtoull(argv[2], nullptr, 0) : std::random_device{}());
}
