// SPDX-License-Identifier: Apache-2.0
//
// Attention of a decode step on a GPU over pages that lie partly in HBM, partly in host memory: the kernels of
// attention.cu with their workspace. An object serves one context, and one launch at a time: calls on it are ordered
// by the caller, and so are the streams. Nothing here waits for the GPU but the growing of the workspace.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "shm/base/result.h"
#include "shm/cuda/driver.h"
#include "tools/kvtier-decode/device/attention_layout.h"

namespace kvt::decode {

class PagedAttention {
 public:
  /// kMismatch: the GPU is older than compute capability 8.0, or has a single multiprocessor.
  static Result<PagedAttention> create(std::shared_ptr<const cuda::Driver> driver, CUcontext context);
  PagedAttention(PagedAttention&& other) noexcept;
  PagedAttention& operator=(PagedAttention&&) = delete;
  ~PagedAttention();

  /// Makes the workspace large enough; frees the one before, which waits for the GPU. launch() and plan() do it too,
  /// so this is for capturing: memory cannot be had while a stream is captured.
  Result<void> reserve(const AttentionArguments& arguments);

  /// What launch() does first: which pages are in host memory, and the order of work. REQUIRES of launch_layer().
  Result<void> plan(const AttentionArguments& arguments, CUstream stream);
  /// Attention with the plan of the last plan(). REQUIRES: block table, lengths, offers and shapes are those of it.
  Result<void> launch_layer(const AttentionArguments& arguments, CUstream stream);
  /// plan() and launch_layer().
  Result<void> launch(const AttentionArguments& arguments, CUstream stream);

  [[nodiscard]] uint64_t workspace_bytes() const { return workspace_bytes_; }

 private:
  PagedAttention(std::shared_ptr<const cuda::Driver> driver, CUcontext context);
  Result<void> load();
  Result<CUfunction> function(const char* name, unsigned shared_bytes);
  Result<void> start(CUfunction function, unsigned blocks, unsigned threads, unsigned shared_bytes,
                     const void* parameters, CUstream stream, const char* what);

  std::shared_ptr<const cuda::Driver> driver_;
  CUcontext context_ = nullptr;
  CUmodule module_ = nullptr;
  CUdeviceptr workspace_ = 0;
  uint64_t workspace_bytes_ = 0;
  int processors_ = 0;
  int warps_ = 0;  ///< of a block of the attention kernel: as many as there is shared memory for
  CUfunction plan_count_ = nullptr, plan_order_ = nullptr, plan_fill_ = nullptr;
  std::array<CUfunction, 8> attend_{};  ///< type * 4 + (head_dim == 128) * 2 + (group > 8)
  std::array<CUfunction, 4> reduce_{};  ///< type * 2 + (head_dim == 128)
};

}  // namespace kvt::decode
