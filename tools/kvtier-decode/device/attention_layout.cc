// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/device/attention_layout.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace kvt::decode {
namespace {

constexpr int kItems = 16384;  ///< that a launch is cut into
constexpr int kSplitTokensMin = 256;
constexpr int kBlockTokensMax = 256;

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

int max_length(const AttentionArguments& a) {
  const int64_t room = int64_t{a.max_blocks} * a.block_tokens;
  return static_cast<int>(a.max_length > 0 ? std::min<int64_t>(a.max_length, room) : room);
}

std::string text(const char* name, int64_t value) {
  return std::string(name) + " is " + std::to_string(value);
}

}  // namespace

Result<void> check_arguments(const AttentionArguments& a) {
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

AttentionLayout lay_out(const AttentionArguments& a, uint64_t workspace, uint64_t staging_bytes) {
  AttentionLayout layout{};
  AttentionParameters& p = layout.parameters;
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
    member = reinterpret_cast<T*>(workspace + at);
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
      std::max<uint64_t>(staging_bytes / p.page_bytes, 2 * (p.split_tokens / p.block_tokens));
  p.staging_pages = static_cast<int32_t>(std::min<uint64_t>(wanted, std::max<uint64_t>(blocks, 1)));
  take(p.released, p.staging_pages);
  take(p.stats, rows);
  take(p.sums, rows * a.head_dim);
  p.staging = workspace + at;
  layout.workspace_bytes = at + p.staging_pages * p.page_bytes;
  return layout;
}

}  // namespace kvt::decode
