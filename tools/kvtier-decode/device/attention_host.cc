// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/device/attention_host.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

extern "C" {
extern const unsigned char kvt_attention[];
extern const size_t kvt_attention_bytes;
}

namespace kvt::decode {

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
  KVT_TRY(check_arguments(arguments));
  const uint64_t bytes = lay_out(arguments, 0).workspace_bytes;
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
  const AttentionParameters p = lay_out(arguments, workspace_).parameters;
  constexpr unsigned kThreads = 128;
  const auto blocks = static_cast<unsigned>((int64_t{p.seqs} * p.splits * 32 + kThreads - 1) / kThreads);
  KVT_TRY(start(plan_count_, blocks, kThreads, 0, &p, stream, "attention: kvt_plan_count"));
  KVT_TRY(start(plan_order_, 1, kPlanThreads, 0, &p, stream, "attention: kvt_plan_order"));
  return start(plan_fill_, blocks, kThreads, 0, &p, stream, "attention: kvt_plan_fill");
}

Result<void> PagedAttention::launch_layer(const AttentionArguments& arguments, CUstream stream) {
  KVT_TRY(check_arguments(arguments));
  AttentionLayout layout = lay_out(arguments, workspace_);
  AttentionParameters& p = layout.parameters;
  if (layout.workspace_bytes > workspace_bytes_)
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
