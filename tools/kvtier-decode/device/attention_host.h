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

namespace kvt::decode {

enum class ElementType { kFloat16, kBfloat16 };

/// One layer of one step. Addresses are device addresses. All arrays but the frames are in HBM.
struct AttentionArguments {
  // Frame f of this layer lies at base + f * stride + layer * layer_stride: keys [kv_head][token][head_dim], then
  // values alike. Frames from first_host_frame on are host memory that is registered for this context.
  CUdeviceptr base = 0;
  uint64_t stride = 0;        ///< bytes, a multiple of 16, as is base
  uint64_t layer_stride = 0;  ///< bytes, a multiple of 16
  int layer = 0;
  int32_t first_host_frame = 0;

  CUdeviceptr block_table = 0;  ///< int32 [seqs][max_blocks]: frames. Only those within a sequence are read
  CUdeviceptr lengths = 0;      ///< int32 [seqs]: tokens; 0 is a sequence whose output is zeros
  /// int32 [seqs][max_blocks] or 0: a frame of HBM for a block in host memory, which the launch fills, or -1. REQUIRES:
  /// no frame is offered for two different pages or read in the same launch, and no block that is partly beyond the end
  /// of its sequence has an offer.
  CUdeviceptr offers = 0;
  CUdeviceptr q = 0;    ///< [seqs][heads][head_dim], 16-byte aligned
  CUdeviceptr out = 0;  ///< like q

  int seqs = 0;
  int heads = 0;  ///< a multiple of kv_heads, at most 16 times as many
  int kv_heads = 0;
  int head_dim = 0;      ///< 64 or 128
  int block_tokens = 0;  ///< a multiple of 16, at most 256
  int max_blocks = 0;
  int max_length = 0;  ///< of the sequences; 0: max_blocks * block_tokens. What is beyond is not read
  float scale = 0.0f;  ///< of the scores, above 0
  ElementType type = ElementType::kFloat16;

  int split_tokens = 0;     ///< 0: choose_split_tokens()
  int copying_blocks = -1;  ///< blocks that begin as copiers of host pages; -1: kCopyingBlocks
};

/// Enough to have 384 KiB of the link on its way: PCIe 5 at 55 GB/s needs 165 KB for 3 us of latency.
inline constexpr int kCopyingBlocks = 2;

/// Tokens of a split: the sequences are cut so that there are about 4096 items (KV heads of splits), four for each warp
/// of a large GPU, which evens out their ends; but into no less than 256 tokens, whose partial results (head_dim + 2
/// floats for each query head) are a few percent of the pages' bytes. A multiple of block_tokens and of 64. Depends on
/// shapes alone, so that the same step has the same bits everywhere.
int choose_split_tokens(int seqs, int kv_heads, int max_length, int block_tokens);

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
