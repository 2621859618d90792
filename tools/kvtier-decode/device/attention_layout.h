// SPDX-License-Identifier: Apache-2.0
//
// What attention.cu is asked for, checked, and turned into what its kernels take: sizes, splits, and the workspace dealt
// out. Values only; nothing here needs a GPU or its headers.
#pragma once

#include <cstdint>

#include "shm/base/result.h"
#include "tools/kvtier-decode/device/attention.cuh"

namespace kvt::decode {

enum class ElementType { kFloat16, kBfloat16 };

/// One layer of one step. Addresses are device addresses. All arrays but the frames are in HBM.
struct AttentionArguments {
  // Frame f of this layer lies at base + f * stride + layer * layer_stride: keys [kv_head][token][head_dim], then
  // values alike. Frames from first_host_frame on are host memory that is registered for this context.
  uint64_t base = 0;
  uint64_t stride = 0;        ///< bytes, a multiple of 16, as is base
  uint64_t layer_stride = 0;  ///< bytes, a multiple of 16
  int layer = 0;
  int32_t first_host_frame = 0;

  uint64_t block_table = 0;  ///< int32 [seqs][max_blocks]: frames. Only those within a sequence are read
  uint64_t lengths = 0;      ///< int32 [seqs]: tokens; 0 is a sequence whose output is zeros
  /// int32 [seqs][max_blocks] or 0: a frame of HBM for a block in host memory, which the launch fills, or -1. REQUIRES:
  /// no frame is offered for two different pages or read in the same launch, and no block that is partly beyond the end
  /// of its sequence has an offer.
  uint64_t offers = 0;
  uint64_t q = 0;    ///< [seqs][heads][head_dim], 16-byte aligned
  uint64_t out = 0;  ///< like q

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

/// So many have 1 MiB of the link on its way. Half of it does where HBM is idle; beside workers that keep HBM busy a
/// copier's stores take longer (measured on an H200 with 1.3 % of the pages in host memory: 2 blocks 991 us, 4 759, 8 577,
/// 16 596, 32 717).
inline constexpr int kCopyingBlocks = 8;

/// More than the copiers get ahead of the workers, who take what has come first.
inline constexpr uint64_t kStagingBytes = uint64_t{32} << 20;

/// Tokens of a split: the sequences are cut so that there are about 16384 items (KV heads of splits), sixteen for each
/// warp of a large GPU: their ends are even, and the last host pages to arrive leave little work; but into no less than 256 tokens, whose partial results (head_dim + 2
/// floats for each query head) are a few percent of the pages' bytes. A multiple of block_tokens and of 64. Depends on
/// shapes alone, so that the same step has the same bits everywhere.
int choose_split_tokens(int seqs, int kv_heads, int max_length, int block_tokens);

/// kInvalid, with what is wrong and its value.
Result<void> check_arguments(const AttentionArguments& arguments);

struct AttentionLayout {
  AttentionParameters parameters;  ///< but for copying_blocks
  uint64_t workspace_bytes;
};
/// REQUIRES: check_arguments() has nothing against them. `workspace` is the address of the workspace, a multiple of 256;
/// 0 to learn its size. `staging_bytes` is the size of the ring for host pages without an offer; it is at least that of
/// the pages of two splits.
AttentionLayout lay_out(const AttentionArguments& arguments, uint64_t workspace,
                        uint64_t staging_bytes = kStagingBytes);

}  // namespace kvt::decode
