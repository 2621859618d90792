// SPDX-License-Identifier: Apache-2.0
//
// The arithmetic: what makes runs comparable bit for bit, what top-k reads, and files of weights.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

#include "tests/decode/setup.h"
#include "tests/support/random.h"
#include "tools/kvtier-decode/errors.h"
#include "tools/kvtier-decode/keys.h"
#include "tools/kvtier-decode/weights_file.h"

namespace kvt::test {
namespace {

using decode::AttentionKind;
using decode::KvLayout;
using decode::Place;
using decode::Shape;
using decode::Strided;

std::vector<float> random_floats(Random& random, size_t n) {
  std::vector<float> values(n);
  for (float& value : values)
    value = static_cast<float>(static_cast<int64_t>(random.below(2001)) - 1000) / 500;
  return values;
}

TEST(Kernels, AProductIsTheSameWhateverTheNumberOfRows) {
  Random random;
  for (int i = 0; i < 50; ++i) {
    const size_t rows = 1 + random.below(9);
    const size_t in = 1 + random.below(70);
    const size_t out = 1 + random.below(70);
    const auto x = random_floats(random, rows * in);
    const auto w = random_floats(random, in * out);
    std::vector<float> together(rows * out);
    std::vector<float> alone(rows * out);
    decode::multiply(together.data(), Strided{x.data(), in, 1}, w.data(), rows, in, out);
    for (size_t r = 0; r < rows; ++r)
      decode::multiply(alone.data() + r * out, x.data() + r * in, w.data(), in, out);
    EXPECT_EQ(together, alone) << rows << "x" << in << "x" << out;
    for (size_t r = 0; r < rows; ++r) {
      for (size_t j = 0; j < out; ++j) {
        double sum = 0;
        for (size_t k = 0; k < in; ++k)
          sum += static_cast<double>(x[r * in + k]) * static_cast<double>(w[k * out + j]);
        EXPECT_NEAR(static_cast<double>(together[r * out + j]), sum, 1e-3);
      }
    }
  }
}

TEST(Kernels, RopeTurnsBackAndKeepsDistances) {
  Random random;
  decode::Rope rope(16);
  const auto a = random_floats(random, 16);
  const auto b = random_floats(random, 16);
  const auto product = [&](size_t at_a, size_t at_b) {
    auto x = a;
    auto y = b;
    rope.rotate(x.data(), 1, at_a);
    rope.rotate(y.data(), 1, at_b);
    return static_cast<double>(decode::dot(x.data(), y.data(), 16));
  };
  EXPECT_NEAR(product(5, 3), product(105, 103), 1e-3) << "only the distance counts";
  EXPECT_GT(std::abs(product(5, 3) - product(5, 0)), 1e-3);
  auto back = a;
  rope.rotate(back.data(), 1, 77);
  rope.rotate(back.data(), 1, 77, true);
  for (size_t i = 0; i < back.size(); ++i)
    EXPECT_NEAR(static_cast<double>(back[i]), static_cast<double>(a[i]), 1e-5);
}

TEST(Attention, Names) {
  EXPECT_EQ(AttentionKind::parse("dense")->text(), "dense");
  EXPECT_EQ(AttentionKind::parse("topk")->text(), "topk:8");
  EXPECT_EQ(AttentionKind::parse("topk:3")->text(), "topk:3");
  for (const char* const wrong :
       {"", "Dense", "topk:", "topk:0", "topk:-1", "topk:3x", "topk:99999999999", "top"})
    EXPECT_FALSE(AttentionKind::parse(wrong)) << wrong;
}

decode::Run run_private(const char* attention, size_t tokens,
                        const std::function<void(const decode::StepEvent&)>& on_step = {}) {
  return decode::run_once(test_model(), decode::tokens_of(text_of_words(300, 3)),
                          run_options("", Place::kPrivate, attention, tokens), on_step);
}

TEST(Attention, TopKReadsTheFirstTheLastAndK) {
  size_t left_out = 0;
  run_private("topk:3", 60, [&](const decode::StepEvent& event) {
    const size_t blocks = event.position / 16 + 1;
    ASSERT_EQ(event.reads.blocks(), blocks);
    for (size_t layer = 0; layer < event.reads.layers(); ++layer) {
      size_t reads = 0;
      for (size_t block = 0; block < blocks; ++block) {
        reads += event.reads.heads(layer, block);
        const bool always = block == 0 || block + 2 >= blocks;
        if (always) EXPECT_EQ(event.reads.heads(layer, block), 2u) << "both KV heads";
      }
      EXPECT_EQ(reads, 2 * std::min<size_t>(blocks, 6)) << "1 + 3 + 2 for each KV head";
      left_out += blocks > 6 ? 1 : 0;
    }
  });
  EXPECT_GT(left_out, 500u);
}

TEST(Attention, TopKOfEverythingIsDense) {
  const auto dense = run_private("dense", 40);
  EXPECT_EQ(run_private("topk:100", 40).result.logits, dense.result.logits);
  EXPECT_NE(run_private("topk:2", 40).result.logits, dense.result.logits);
}

/// One key that answers the query of one KV head, in any block: it is found, and its value is what comes out.
TEST(Attention, TopKFindsTheBlockThatMatters) {
  Random random;
  const Shape shape;
  const KvLayout layout(shape, 16);
  constexpr size_t kBlocks = 12;
  for (size_t block = 1; block + 2 < kBlocks; ++block) {
    const size_t kv_head = random.below(shape.kv_heads);
    const size_t token = random.below(16);
    auto queries = random_floats(random, shape.query_width());
    std::vector<std::vector<float>> data(kBlocks);
    std::vector<const std::byte*> addresses;
    for (auto& one : data) {
      one = random_floats(random, layout.layers * layout.layer_floats());
      addresses.push_back(reinterpret_cast<const std::byte*>(one.data()));
    }
    const float* const query = queries.data() + kv_head * shape.heads_of_kv_head() * shape.head_dim;
    for (size_t d = 0; d < shape.head_dim; ++d) data[block][layout.key(kv_head, token) + d] = 40 * query[d];
    const decode::KvView view{addresses, nullptr, layout.layer_bytes()};
    decode::Summaries summaries(layout);
    decode::HostAccess access(shape, layout);
    summaries.extend(access, view, kBlocks - 1);
    decode::Attention attention(shape, layout, {true, 1}, access);
    decode::StepReads reads;
    reads.begin(layout.layers, kBlocks);
    std::vector<float> out(shape.query_width());
    attention.attend(out.data(), queries.data(), 0, kBlocks * 16 - 1, view, summaries, reads, nullptr);
    EXPECT_GE(reads.heads(0, block), 1u) << "block " << block;
    for (size_t d = 0; d < shape.head_dim; ++d) {
      EXPECT_NEAR(static_cast<double>(out[kv_head * shape.heads_of_kv_head() * shape.head_dim + d]),
                  static_cast<double>(data[block][layout.value(kv_head, token) + d]), 1e-3);
    }
  }
}

/// The bound by which blocks are chosen is never below what a key of the block would score.
TEST(Attention, SummariesBoundEveryKey) {
  Random random;
  const KvLayout layout(Shape{}, 16);
  std::vector<std::vector<float>> blocks;
  std::vector<const std::byte*> addresses;
  for (int i = 0; i < 5; ++i) {
    blocks.push_back(random_floats(random, layout.layers * layout.layer_floats()));
    addresses.push_back(reinterpret_cast<const std::byte*>(blocks.back().data()));
  }
  const decode::KvView view{addresses, nullptr, layout.layer_bytes()};
  decode::Summaries summaries(layout);
  decode::HostAccess access(Shape{}, layout);
  summaries.extend(access, view, 3);
  EXPECT_EQ(summaries.blocks(), 3u);
  summaries.truncate(1);
  summaries.extend(access, view, 5);
  ASSERT_EQ(summaries.blocks(), 5u);
  for (size_t block = 0; block < 5; ++block) {
    for (size_t layer = 0; layer < layout.layers; ++layer) {
      for (size_t kv_head = 0; kv_head < layout.kv_heads; ++kv_head) {
        const auto query = random_floats(random, layout.head_dim);
        double bound = 0;
        for (size_t d = 0; d < layout.head_dim; ++d)
          bound += static_cast<double>(std::max(query[d] * summaries.least(block, layer, kv_head)[d],
                                                query[d] * summaries.greatest(block, layer, kv_head)[d]));
        double highest = -INFINITY;
        for (size_t token = 0; token < layout.block_tokens; ++token)
          highest = std::max(highest, static_cast<double>(decode::dot(
                                          query.data(), view.layer(block, layer) + layout.key(kv_head, token),
                                          layout.head_dim)));
        EXPECT_GE(bound + 1e-4, highest);
        EXPECT_LT(bound, highest + 200) << "and it is of this block";
      }
    }
  }
}

TEST(Keys, NameTheWholePrefix) {
  const auto a = decode::tokens_of(text_of_words(200, 1));
  auto b = a;
  b[20] ^= 1;  // in the second block
  decode::KeyChain of_a({}, 16, 0);
  decode::KeyChain of_b({}, 16, 0);
  decode::KeyChain salted({}, 16, 1);
  decode::KeyChain sparse(*AttentionKind::parse("topk:4"), 16, 0);
  const auto same = [](const kvt_key& x, const kvt_key& y) { return x.lo == y.lo && x.hi == y.hi; };
  for (size_t block = 0; block < 12; ++block) {
    const kvt_key key = of_a.keys(a, 12)[block];
    EXPECT_EQ(same(key, of_b.keys(b, 12)[block]), block == 0) << block;
    EXPECT_FALSE(same(key, salted.keys(a, 12)[block]));
    EXPECT_FALSE(same(key, sparse.keys(a, 12)[block]));
  }
}

TEST(Weights, TheSeedIsTheModel) {
  const decode::Model a(Shape{}, 1);
  EXPECT_EQ(a.digest(), decode::Model(Shape{}, 1).digest());
  EXPECT_NE(a.digest(), decode::Model(Shape{}, 2).digest());
  EXPECT_EQ(a.weights.size(), 217792u);
}

TEST(Weights, AShapeThatCannotBe) {
  EXPECT_EQ(decode::check_shape(Shape{}), "");
  EXPECT_EQ(decode::check_shape({.layers = 0}), "layers is 0: expected 1 to 256");
  EXPECT_EQ(decode::check_shape({.heads = 4, .kv_heads = 3}),
            "kv-heads is 3: expected a divisor of heads, 4");
  EXPECT_EQ(decode::check_shape({.head_dim = 15}), "head-dim is 15: expected an even number");
}

class WeightsFile : public ::testing::Test {
 protected:
  void SetUp() override {
    decode::save_weights(model_, path_);
    std::ifstream file(path_, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
  }
  /// What loading says of the file with these bytes in it.
  [[nodiscard]] std::string refusal(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
    try {
      decode::load_weights(path_);
    } catch (const decode::UsageError& error) {
      return error.what();
    }
    return "";
  }
  [[nodiscard]] std::string with(size_t at, char byte) const {
    std::string bytes = bytes_;
    bytes[at] = byte;
    return bytes;
  }
  const Folder folder_;
  const std::string path_ = folder_.path() + "/weights";
  const decode::Model model_{
      {.layers = 2, .width = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .hidden = 12}, 5};
  std::string bytes_;
};

TEST_F(WeightsFile, ComesBackAsItWas) {
  const decode::Model loaded = decode::load_weights(path_);
  EXPECT_EQ(loaded.shape, model_.shape);
  EXPECT_EQ(loaded.weights, model_.weights);
}

TEST_F(WeightsFile, SaysWhatIsWrong) {
  EXPECT_THROW(decode::load_weights(folder_.path() + "/none"), decode::MissingError);
  EXPECT_NE(refusal("").find("expected it to begin with \"KVTDECOD\""), std::string::npos);
  EXPECT_NE(refusal(with(0, 'X')).find("not a weights file"), std::string::npos);
  EXPECT_NE(refusal(with(8, 9)).find("version 9: expected 1"), std::string::npos);
  EXPECT_NE(refusal(with(12, 0)).find("vocabulary of 256 tokens: expected 257"), std::string::npos);
  EXPECT_NE(refusal(with(16, 0)).find("layers is 0"), std::string::npos);
  EXPECT_NE(refusal(with(20, 10)).find("expected"), std::string::npos) << "another width, other sizes";
  EXPECT_NE(refusal(bytes_.substr(0, bytes_.size() - 4)).find("bytes for"), std::string::npos);
  EXPECT_NE(refusal(bytes_ + "more").find("bytes for"), std::string::npos);
  EXPECT_NE(refusal(with(bytes_.size() - 1, 77)).find("damaged"), std::string::npos);
  EXPECT_EQ(refusal(bytes_), "");
}

TEST_F(WeightsFile, AFolderThatIsNotThere) {
  EXPECT_THROW(decode::save_weights(model_, folder_.path() + "/none/weights"), std::runtime_error);
}

}  // namespace
}  // namespace kvt::test
