// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/device/attention_host.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>

#include "tools/kvtier-decode/device/attention.cuh"

extern "C" {
extern const unsigned char kvt_attention[];
extern const size_t kvt_attention_bytes;
}

namespace kvt::decode {
namespace {

constexpr int kItems = 4096;  ///< that a launch is cut into
constexpr int kSplitTokensMin = 256;
constexpr int kBlockTokensMax = 256;
constexpr uint64_t kStagingBytes = uint64_t{32} << 20;  ///< of the staging ring, or the pages of two splits

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

int max_length(const AttentionArguments& a) {
  const int64_t room = int64_t{a.max_blocks} * a.block_tokens;
  return static_cast<int>(a.max_length > 0 ? std::min<int64_t>(a.max_length, room) : room);
}

std::string text(const char* name, int64_t value) {
  return std::string(name) + " is " + std::to_string(value);
}

Result<void> check(const AttentionArguments& a) {
  const auto refuse = [](const std::string& what) { return fail(Code::kInvalid, "attention: " + what); };
  if (a.head_dim != 64 && a.head_dim != 128) return refuse(text("head_dim", a.head_dim) + ", not 64 or 128");
  if (a.seqs < 1 || a.max_blocks < 1) return refuse("no sequences or no blocks");
  if (a.kv_heads < 1 || a.heads < 1 || a.heads % a.kv_heads != 0 || a.heads / a.kv_heads > kGroupMax)
    return refuse(text("heads", a.heads) + " for " + text("kv_heads", a.kv_heads) +
                  "; 1 to 16 times as many are possible");
  if (a.block_tokens < 1 || a.block_tokens % kTileTokens != 0 || a.block_tokens > kBlockTokensMax)
    return refuse(text("block_tokens", a.block_tokens) + ", not a multiple of 16 up to 256");
  if (int64_t{a.seqs} * a.max_blocks > INT32_MAX || int64_t{a.max_blocks} * a.block_tokens > INT32_MAX)
    return refuse("more blocks than 32 bits count");
  const uint64_t bytes = uint64_t{4} * a.kv_heads * a.block_tokens * a.head_dim;
  if (a.base % 16 != 0 || a.stride % 16 != 0 || a.layer_stride % 16 != 0 || a.q % 16 != 0 || a.out % 16 != 0)
    return refuse("base, stride, layer_stride, q or out is no multiple of 16 bytes");
  if (a.layer < 0 || a.first_host_frame < 0) return refuse("layer or first_host_frame is negative");
  if (a.layer * a.layer_stride + bytes > a.stride)
    return refuse("layer " + std::to_string(a.layer) + " of a page ends at byte " +
                  std::to_string(a.layer * a.layer_stride + bytes) + " of a stride of " +
                  std::to_string(a.stride));
  if (a.base == 0 || a.block_table == 0 || a.lengths == 0 || a.q == 0 || a.out == 0)
    return refuse("an address is missing");
  if (!(a.scale > 0.0f) || !std::isfinite(a.scale)) return refuse("scale is not above 0");
  if (a.split_tokens < 0 || a.split_tokens % a.block_tokens != 0)
    return refuse(text("split_tokens", a.split_tokens) + ", no multiple of block_tokens");
  return {};
}

/// Deals out the workspace, whose first byte is at `base` (0: to count its bytes).
AttentionParameters lay_out(const AttentionArguments& a, CUdeviceptr base, uint64_t& bytes) {
  AttentionParameters p{};
  p.pages = a.base + a.layer * a.layer_stride;
  p.stride = a.stride;
  p.page_bytes = uint64_t{4} * a.kv_heads * a.block_tokens * a.head_dim;
  p.block_table = reinterpret_cast<const int32_t*>(a.block_table);
  p.lengths = reinterpret_cast<const int32_t*>(a.lengths);
  p.offers = reinterpret_cast<const int32_t*>(a.offers);
  p.q = reinterpret_cast<const void*>(a.q);
  p.out = reinterpret_cast<void*>(a.out);
  p.scale_log2 = a.scale * 1.4426950408889634f;
  p.first_host_frame = a.first_host_frame;
  p.seqs = a.seqs;
  p.heads = a.heads;
  p.kv_heads = a.kv_heads;
  p.group = a.heads / a.kv_heads;
  p.block_tokens = a.block_tokens;
  const int length = max_length(a);
  p.max_blocks = a.max_blocks;
  p.max_length = length;
  p.split_tokens =
      a.split_tokens > 0 ? a.split_tokens : choose_split_tokens(a.seqs, a.kv_heads, length, a.block_tokens);
  p.splits = (length + p.split_tokens - 1) / p.split_tokens;

  uint64_t at = 0;
  const auto take = [&]<typename T>(T*& member, uint64_t count) {
    member = reinterpret_cast<T*>(base + at);
    at = round_up(at + count * sizeof(T), 256);
  };
  const uint64_t splits = uint64_t{static_cast<uint32_t>(a.seqs)} * p.splits;
  const uint64_t blocks = uint64_t{static_cast<uint32_t>(a.seqs)} * a.max_blocks;
  const uint64_t rows = uint64_t{static_cast<uint32_t>(a.seqs)} * a.heads * p.splits;
  take(p.state, 1);
  take(p.order, splits);
  take(p.host_pages, splits);
  take(p.staged_pages, splits);
  take(p.first_copy, splits);
  take(p.first_staged, splits);
  take(p.last_copy, splits);
  take(p.copy_of, blocks);
  take(p.copies, blocks);
  take(p.ready, blocks);
  const uint64_t wanted =
      std::max<uint64_t>(kStagingBytes / p.page_bytes, 2 * (p.split_tokens / p.block_tokens));
  p.staging_pages = static_cast<int32_t>(std::min<uint64_t>(wanted, std::max<uint64_t>(blocks, 1)));
  take(p.released, p.staging_pages);
  take(p.stats, rows);
  take(p.sums, rows * a.head_dim);
  p.staging = base + at;
  bytes = at + p.staging_pages * p.page_bytes;
  return p;
}

}  // namespace

int choose_split_tokens(int seqs, int kv_heads, int length, int block_tokens) {
  const int64_t unit = std::max(block_tokens % 64 == 0   ? block_tokens
                                : 64 % block_tokens == 0 ? 64
                                                         : block_tokens * 4,
                                64);
  const int64_t pairs = int64_t{seqs} * kv_heads;
  const int64_t splits = std::max<int64_t>((kItems + pairs - 1) / pairs, 1);
  const int64_t tokens = std::max<int64_t>((length + splits - 1) / splits, kSplitTokensMin);
  return static_cast<int>((tokens + unit - 1) / unit * unit);
}

PagedAttention::PagedAttention(std::shared_ptr<const cuda::Driver> driver, CUcontext context)
    : driver_(std::move(driver)), context_(context) {}

PagedAttention::PagedAttention(PagedAttention&& other) noexcept
    : driver_(std::move(other.driver_)),
      context_(other.context_),
      module_(std::exchange(other.module_, nullptr)),
      workspace_(std::exchange(other.workspace_, 0)),
      workspace_bytes_(other.workspace_bytes_),
      processors_(other.processors_),
      warps_(other.warps_),
      plan_count_(other.plan_count_),
      plan_order_(other.plan_order_),
      plan_fill_(other.plan_fill_),
      attend_(other.attend_),
      reduce_(other.reduce_) {}

PagedAttention::~PagedAttention() {
  if (module_ == nullptr && workspace_ == 0) return;
  const cuda::Current current(*driver_, context_);
  if (workspace_ != 0) driver_->cuMemFree(workspace_);
  if (module_ != nullptr) driver_->cuModuleUnload(module_);
}

Result<PagedAttention> PagedAttention::create(std::shared_ptr<const cuda::Driver> driver, CUcontext context) {
  PagedAttention attention(std::move(driver), context);
  KVT_TRY(attention.load());
  return attention;
}

Result<CUfunction> PagedAttention::function(const char* name, unsigned shared_bytes) {
  CUfunction found = nullptr;
  KVT_TRY(driver_->check(driver_->cuModuleGetFunction(&found, module_, name),
                         std::string("attention: no kernel ") + name));
  if (shared_bytes != 0)
    KVT_TRY(driver_->check(driver_->cuFuncSetAttribute(found, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                                       static_cast<int>(shared_bytes)),
                           std::string("attention: shared memory of ") + name));
  return found;
}

Result<void> PagedAttention::load() {
  const cuda::Current current(*driver_, context_);
  CUdevice device = 0;
  KVT_TRY(driver_->check(driver_->cuCtxGetDevice(&device), "attention: cuCtxGetDevice"));
  int shared_bytes = 0;
  int major = 0;
  KVT_TRY(driver_->check(
      driver_->cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device),
      "attention: compute capability"));
  if (major < 8)
    return fail(Code::kMismatch, "attention: the GPU has compute capability " + std::to_string(major) +
                                     ".x; its kernels need 8.0 or later");
  KVT_TRY(driver_->check(
      driver_->cuDeviceGetAttribute(&processors_, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device),
      "attention: number of multiprocessors"));
  KVT_TRY(driver_->check(driver_->cuDeviceGetAttribute(
                             &shared_bytes, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device),
                         "attention: shared memory of a block"));
  warps_ = std::clamp(shared_bytes / kWarpSharedBytes, 1, kWarpsMax);
  KVT_TRY(
      driver_->check(driver_->cuModuleLoadData(&module_, kvt_attention), "attention: loading its kernels"));
  KVT_TRY_ASSIGN(plan_count_, function("kvt_plan_count", 0));
  KVT_TRY_ASSIGN(plan_order_, function("kvt_plan_order", 0));
  KVT_TRY_ASSIGN(plan_fill_, function("kvt_plan_fill", 0));
  static constexpr std::array<const char*, 8> kAttend = {
      "kvt_attend_f16_64_8",  "kvt_attend_f16_64_16",  "kvt_attend_f16_128_8",  "kvt_attend_f16_128_16",
      "kvt_attend_bf16_64_8", "kvt_attend_bf16_64_16", "kvt_attend_bf16_128_8", "kvt_attend_bf16_128_16"};
  static constexpr std::array<const char*, 4> kReduce = {"kvt_reduce_f16_64", "kvt_reduce_f16_128",
                                                         "kvt_reduce_bf16_64", "kvt_reduce_bf16_128"};
  for (size_t i = 0; i < kAttend.size(); ++i) {
    KVT_TRY_ASSIGN(attend_[i], function(kAttend[i], static_cast<unsigned>(warps_ * kWarpSharedBytes)));
  }
  for (size_t i = 0; i < kReduce.size(); ++i) {
    KVT_TRY_ASSIGN(reduce_[i], function(kReduce[i], 0));
  }
  return {};
}

Result<void> PagedAttention::reserve(const AttentionArguments& arguments) {
  KVT_TRY(check(arguments));
  uint64_t bytes = 0;
  lay_out(arguments, 0, bytes);
  if (bytes <= workspace_bytes_) return {};
  const cuda::Current current(*driver_, context_);
  if (workspace_ != 0)
    KVT_TRY(driver_->check(driver_->cuMemFree(std::exchange(workspace_, 0)), "attention: cuMemFree"));
  workspace_bytes_ = 0;
  KVT_TRY(driver_->check(driver_->cuMemAlloc(&workspace_, bytes),
                         "attention: a workspace of " + std::to_string(bytes) + " bytes"));
  workspace_bytes_ = bytes;
  return {};
}

Result<void> PagedAttention::start(CUfunction function, unsigned blocks, unsigned threads,
                                   unsigned shared_bytes, const void* parameters, CUstream stream,
                                   const char* what) {
  void* list[] = {const_cast<void*>(parameters)};
  return driver_->check(
      driver_->cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, shared_bytes, stream, list, nullptr),
      what);
}

Result<void> PagedAttention::plan(const AttentionArguments& arguments, CUstream stream) {
  KVT_TRY(reserve(arguments));
  const cuda::Current current(*driver_, context_);
  uint64_t bytes = 0;
  const AttentionParameters p = lay_out(arguments, workspace_, bytes);
  constexpr unsigned kThreads = 128;
  const auto blocks = static_cast<unsigned>((int64_t{p.seqs} * p.splits * 32 + kThreads - 1) / kThreads);
  KVT_TRY(start(plan_count_, blocks, kThreads, 0, &p, stream, "attention: kvt_plan_count"));
  KVT_TRY(start(plan_order_, 1, kPlanThreads, 0, &p, stream, "attention: kvt_plan_order"));
  return start(plan_fill_, blocks, kThreads, 0, &p, stream, "attention: kvt_plan_fill");
}

Result<void> PagedAttention::launch_layer(const AttentionArguments& arguments, CUstream stream) {
  KVT_TRY(check(arguments));
  uint64_t bytes = 0;
  AttentionParameters p = lay_out(arguments, workspace_, bytes);
  if (bytes > workspace_bytes_)
    return fail(Code::kInvalid, "attention: launched without a plan of its shapes");
  const cuda::Current current(*driver_, context_);
  // One block a multiprocessor, for its shared memory; one of them at least does nothing but attention.
  const int wanted = arguments.copying_blocks < 0 ? kCopyingBlocks : arguments.copying_blocks;
  p.copying_blocks = std::clamp(wanted, 1, processors_ - 1);
  const size_t shape =
      (arguments.type == ElementType::kBfloat16 ? 2 : 0) + (arguments.head_dim == 128 ? 1 : 0);
  KVT_TRY(start(attend_[shape * 2 + (p.group > 8 ? 1 : 0)], static_cast<unsigned>(processors_),
                static_cast<unsigned>(warps_ * 32), static_cast<unsigned>(warps_ * kWarpSharedBytes), &p,
                stream, "attention: kvt_attend"));
  return start(reduce_[shape], static_cast<unsigned>(p.seqs * p.heads), kReduceThreads, 0, &p, stream,
               "attention: kvt_reduce");
}

Result<void> PagedAttention::launch(const AttentionArguments& arguments, CUstream stream) {
  KVT_TRY(plan(arguments, stream));
  return launch_layer(arguments, stream);
}

}  // namespace kvt::decode
