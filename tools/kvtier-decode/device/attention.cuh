// SPDX-License-Identifier: Apache-2.0
//
// What the host hands to the attention kernels (attention.cu) by value, and the arrays of the workspace that they
// share. Plain C types: the host's compiler reads this file too. Chosen and checked by attention_host.cc.
//
// Words: a split is a part of one sequence, of split_tokens tokens; an item is a split of one KV head, the work of one
// warp; a copy is one host page of one sequence that the copying blocks bring to HBM, whence the items read it.
//
// Invariants: what an item computes depends on positions in the sequence alone, never on where a page lies or on which
// warp works when. Between launches all counters of AttentionState and the arrays ready and released are zero.
#pragma once

#include <stdint.h>

namespace kvt::decode {

/// Dynamic shared memory of one warp: its ring of tiles, and a slot number for each tile of it.
inline constexpr int kRingBytes = 24 * 1024;
inline constexpr int kRingSlots = 8;
inline constexpr int kWarpSharedBytes = kRingBytes + kRingSlots * 4 + 96;  ///< a multiple of 128
inline constexpr int kWarpsMax = 8;        ///< of a block of the attention kernel
inline constexpr int kTileTokens = 16;     ///< tokens of one step of an item
inline constexpr int kGroupMax = 16;       ///< query heads of one KV head
inline constexpr int kPlanThreads = 1024;  ///< of the one block of kvt_plan_order
inline constexpr int kReduceThreads = 256;

/// Written by kvt_plan_*, but for the counters that the attention kernel advances and the reduction clears.
struct AttentionState {
  int32_t plain_splits;  ///< splits without a host page: order[0..plain_splits)
  int32_t mixed_splits;  ///< the others: order[plain_splits..plain_splits + mixed_splits)
  int32_t copies;        ///< host pages to read
  int32_t staged;        ///< those of them without an offer: they pass through the staging ring
  int32_t reserved0[28];
  int32_t plain_next;  ///< items of plain splits that are taken
  int32_t reserved1[31];
  int32_t mixed_next;  ///< items of mixed splits that are taken
  int32_t reserved2[31];
};

/// One host page to read: where it is, and where to.
struct AttentionCopy {
  int32_t frame;  ///< the source
  int32_t
      target;  ///< >= 0: the frame offered; else -1 - (number in the order of passing through the staging ring)
};

struct AttentionStat {
  float maximum;  ///< of the scores, in units of log 2
  float sum;      ///< of 2^(score - maximum)
};

struct AttentionParameters {
  // The pages. Frame f of this layer lies at pages + f * stride: keys [kv_head][token][head_dim], then values alike.
  uint64_t pages;  ///< with the layer's offset in it
  uint64_t stride;
  uint64_t page_bytes;         ///< of one layer of one page: 2 * kv_heads * block_tokens * head_dim elements
  const int32_t* block_table;  ///< [seqs][max_blocks]
  const int32_t* lengths;      ///< [seqs], tokens
  const int32_t* offers;       ///< [seqs][max_blocks] or null
  const void* q;               ///< [seqs][heads][head_dim]
  void* out;                   ///< like q
  float scale_log2;            ///< scale / ln 2
  int32_t first_host_frame;
  int32_t seqs, heads, kv_heads, group;
  int32_t block_tokens, max_blocks;
  int32_t max_length;            ///< tokens of a sequence that count: at most max_blocks * block_tokens
  int32_t splits, split_tokens;  ///< of a sequence at most; of a split at most, a multiple of block_tokens
  int32_t copying_blocks;        ///< blocks of the grid that begin as copiers

  // The workspace.
  AttentionState* state;
  int32_t* order;         ///< [seqs * splits]: splits in the order of work, as seq * splits + split
  int32_t* host_pages;    ///< [seqs * splits]: of a split; -1: beyond the sequence
  int32_t* staged_pages;  ///< [seqs * splits]: those without an offer
  int32_t* first_copy;    ///< [seqs * splits]
  int32_t* first_staged;  ///< [seqs * splits]
  int32_t* last_copy;     ///< by place in the order of mixed splits
  int32_t* copy_of;       ///< [seqs][max_blocks]: the copy of a host page
  AttentionCopy* copies;  ///< [seqs * max_blocks], in the order of reading
  uint32_t* ready;        ///< [seqs * max_blocks]: parts of a copy that have arrived
  uint32_t* released;     ///< [staging_pages]: times that an item was done with a place of the ring
  uint64_t staging;       ///< [staging_pages][page_bytes]
  int32_t staging_pages;  ///< >= the blocks of a split
  AttentionStat* stats;   ///< [seqs][heads][splits]
  float* sums;            ///< [seqs][heads][splits][head_dim]
};

}  // namespace kvt::decode
