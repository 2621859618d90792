// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/device/attention_layout.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

namespace kvt::decode {
namespace {

AttentionArguments right() {
  AttentionArguments a;
  a.base = 1 << 20;
  a.stride = 1 << 20;
  a.layer_stride = 64 << 10;
  a.layer = 3;
  a.first_host_frame = 1000;
  a.block_table = a.lengths = a.q = a.out = 4096;
  a.seqs = 64;
  a.heads = 32;
  a.kv_heads = 8;
  a.head_dim = 128;
  a.block_tokens = 16;
  a.max_blocks = 512;
  a.scale = 0.1f;
  return a;
}

TEST(AttentionLayout, ArgumentsThatAreWrongAreNamed) {
  ASSERT_TRUE(check_arguments(right()));
  const struct {
    std::function<void(AttentionArguments&)> change;
    std::string words;
  } cases[] = {
      {[](AttentionArguments& a) { a.head_dim = 96; }, "head_dim is 96"},
      {[](AttentionArguments& a) { a.heads = 33; }, "heads is 33"},
      {[](AttentionArguments& a) { a.heads = 8 * 17; }, "heads is 136"},
      {[](AttentionArguments& a) { a.block_tokens = 24; }, "block_tokens is 24"},
      {[](AttentionArguments& a) { a.block_tokens = 512; }, "block_tokens is 512"},
      {[](AttentionArguments& a) { a.seqs = 0; }, "no sequences"},
      {[](AttentionArguments& a) { a.max_blocks = 1 << 28; }, "more blocks"},
      {[](AttentionArguments& a) { a.base += 8; }, "multiple of 16"},
      {[](AttentionArguments& a) { a.layer = 16; }, "layer 16"},
      {[](AttentionArguments& a) { a.layer = -1; }, "negative"},
      {[](AttentionArguments& a) { a.q = 0; }, "missing"},
      {[](AttentionArguments& a) { a.scale = 0.0f; }, "scale"},
      {[](AttentionArguments& a) { a.split_tokens = 40; }, "split_tokens is 40"},
  };
  for (const auto& c : cases) {
    AttentionArguments a = right();
    c.change(a);
    const auto result = check_arguments(a);
    ASSERT_FALSE(result) << c.words;
    EXPECT_EQ(result.error().code, Code::kInvalid);
    EXPECT_NE(result.error().text.find(c.words), std::string::npos) << result.error().text;
  }
}

TEST(AttentionLayout, SplitsAreOfWholeBlocksAndEnoughForAGpu) {
  EXPECT_EQ(choose_split_tokens(1, 8, 131072, 16), 256);
  EXPECT_EQ(choose_split_tokens(64, 8, 8192, 16), 256);
  EXPECT_EQ(choose_split_tokens(256, 8, 8192, 64), 1024);
  EXPECT_EQ(choose_split_tokens(64, 8, 100, 16), 256);
  for (const int block : {16, 32, 48, 64, 80, 128, 256})
    for (const int seqs : {1, 7, 300})
      EXPECT_EQ(choose_split_tokens(seqs, 4, 5000, block) % block, 0) << block;
}

TEST(AttentionLayout, TheRingHoldsTheBlocksOfASplit) {
  for (const uint64_t staging : {uint64_t{0}, kStagingBytes}) {
    AttentionArguments a = right();
    const AttentionLayout layout = lay_out(a, 1 << 20, staging);
    const AttentionParameters& p = layout.parameters;
    EXPECT_GE(p.staging_pages * p.block_tokens, p.split_tokens);
    EXPECT_LE(p.splits * p.split_tokens, 8192 + p.split_tokens);
    EXPECT_EQ(p.staging + p.page_bytes * p.staging_pages, (1 << 20) + layout.workspace_bytes);
    EXPECT_EQ(layout.workspace_bytes, lay_out(a, 0, staging).workspace_bytes);
  }
}

}  // namespace
}  // namespace kvt::decode
