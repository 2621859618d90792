// SPDX-License-Identifier: Apache-2.0
//
// The kernels of attention.cu, run on a CPU (tests/support/warps.h). tests/gpu/attention_check runs them on a GPU.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/support/random.h"
#include "tests/support/warps.h"
#include "tools/kvtier-decode/device/attention_layout.h"

// clang-format off
#include "tools/kvtier-decode/device/attention.cu"  // behind the words that it is written in
// clang-format on

namespace kvt::decode {
namespace {

struct Shape16 {
  ElementType type;
  int head_dim, group, kv_heads, block_tokens;
};

uint16_t to_element(ElementType type, float v) {
  return type == ElementType::kFloat16 ? test::to_half(v) : test::to_bfloat(v);
}
double from_element(ElementType type, uint16_t v) {
  return static_cast<double>(type == ElementType::kFloat16 ? test::from_half(v) : test::from_bfloat(v));
}

/// Some sequences with their pages, which can be put anywhere.
class Step {
 public:
  static constexpr int kDeviceFrames = 96;
  static constexpr int kHostFrames = 48;
  static constexpr int kMaxBlocks = 24;

  Step(const Shape16& shape, uint64_t seed) : shape_(shape), random_(seed) {
    bytes_ = uint64_t{4} * shape.kv_heads * shape.block_tokens * shape.head_dim;
    stride_ = 2 * bytes_ + 64;
    std::normal_distribution<float> normal;
    for (int s = 0; s < static_cast<int>(lengths_.size()); ++s)
      for (int b = 0; b * shape.block_tokens < lengths_[s]; ++b) {
        std::vector<uint16_t> page(bytes_ / 2, 0xffff);  // not a number, where there is no token
        for (int part = 0; part < 2 * shape.kv_heads; ++part)
          for (int t = 0; t < std::min(shape.block_tokens, lengths_[s] - b * shape.block_tokens); ++t)
            for (int d = 0; d < shape.head_dim; ++d)
              page[(part * shape.block_tokens + t) * shape.head_dim + d] =
                  to_element(shape.type, normal(random_));
        pages_.push_back({s, b, std::move(page)});
      }
    q_.resize(lengths_.size() * heads() * shape.head_dim);
    for (auto& v : q_) v = to_element(shape.type, normal(random_));
  }

  struct Placement {
    int host_percent = 0;
    bool offers = false;
    int copying_blocks = 1;
    uint64_t staging_bytes = 0;
  };
  /// The output's bits. Expects HBM to have what was offered, and the counters to be cleared.
  std::vector<uint16_t> run(const Placement& placement) {
    const size_t frames = kDeviceFrames + kHostFrames;
    std::vector<char> memory(frames * stride_ + 256, static_cast<char>(0xff));
    char* base = memory.data() + (256 - reinterpret_cast<uintptr_t>(memory.data()) % 256) % 256;
    std::vector<int32_t> homes(kDeviceFrames), host_homes(kHostFrames);
    std::iota(homes.begin(), homes.end(), 0);
    std::iota(host_homes.begin(), host_homes.end(), kDeviceFrames);
    std::shuffle(homes.begin(), homes.end(), random_);
    std::shuffle(host_homes.begin(), host_homes.end(), random_);
    std::vector<int32_t> table(lengths_.size() * kMaxBlocks, INT32_MAX), offers(table.size(), -1);
    const size_t count = pages_.size();
    EXPECT_LE(2 * count, static_cast<size_t>(kDeviceFrames));
    EXPECT_LE(count, static_cast<size_t>(kHostFrames));
    for (size_t i = 0; i < count; ++i) {
      const Page& page = pages_[i];
      const bool host = static_cast<int>(random_() % 100) < placement.host_percent;
      const int32_t frame = host ? host_homes[i] : homes[i];
      const size_t at = static_cast<size_t>(page.seq) * kMaxBlocks + page.block;
      table[at] = frame;
      std::memcpy(base + frame * stride_ + bytes_, page.elements.data(), bytes_);  // layer 1
      const bool full = (page.block + 1) * shape_.block_tokens <= lengths_[page.seq];
      if (placement.offers && host && full && random_() % 4 != 0) offers[at] = homes[count + i];
    }
    std::vector<char> expected(base, base + kDeviceFrames * stride_);
    for (size_t i = 0; i < count; ++i) {
      const int32_t offer = offers[static_cast<size_t>(pages_[i].seq) * kMaxBlocks + pages_[i].block];
      if (offer >= 0)
        std::memcpy(expected.data() + offer * stride_ + bytes_, pages_[i].elements.data(), bytes_);
    }

    std::vector<uint16_t> q(q_.size() + 8), out(q_.size() + 8, 0xffff);
    const auto aligned = [](std::vector<uint16_t>& v) {
      return v.data() + (16 - reinterpret_cast<uintptr_t>(v.data()) % 16) % 16 / 2;
    };
    std::copy(q_.begin(), q_.end(), aligned(q));
    AttentionArguments a;
    a.base = reinterpret_cast<uint64_t>(base);
    a.stride = stride_;
    a.layer_stride = bytes_;
    a.layer = 1;
    a.first_host_frame = kDeviceFrames;
    a.block_table = reinterpret_cast<uint64_t>(table.data());
    a.lengths = reinterpret_cast<uint64_t>(lengths_.data());
    a.offers = placement.offers ? reinterpret_cast<uint64_t>(offers.data()) : 0;
    a.q = reinterpret_cast<uint64_t>(aligned(q));
    a.out = reinterpret_cast<uint64_t>(aligned(out));
    a.seqs = static_cast<int>(lengths_.size());
    a.heads = heads();
    a.kv_heads = shape_.kv_heads;
    a.head_dim = shape_.head_dim;
    a.block_tokens = shape_.block_tokens;
    a.max_blocks = kMaxBlocks;
    a.scale = scale();
    a.type = shape_.type;
    a.split_tokens = 64;
    if (const auto checked = check_arguments(a); !checked) {
      ADD_FAILURE() << checked.error().text;
      return {};
    }
    std::vector<char> workspace(lay_out(a, 0, placement.staging_bytes).workspace_bytes + 256,
                                static_cast<char>(0xee));
    const uint64_t work = (reinterpret_cast<uint64_t>(workspace.data()) + 255) / 256 * 256;
    AttentionParameters p = lay_out(a, work, placement.staging_bytes).parameters;
    p.copying_blocks = placement.copying_blocks;
    const unsigned planners = static_cast<unsigned>(p.seqs * p.splits);
    warps::launch(planners, 32, 0, 1, [&] { kvt_plan_count(p); });
    warps::launch_by_block(1, kPlanThreads, [&] { kvt_plan_order(p); });
    warps::launch(planners, 32, 0, 2, [&] { kvt_plan_fill(p); });
    for (int layer = 0; layer < 2; ++layer) {  // the second finds what the first leaves
      warps::launch(3, 64, 2 * kWarpSharedBytes, random_(), [&] { attend(p); });
      warps::launch_by_block(static_cast<unsigned>(p.seqs * p.heads), kReduceThreads, [&] { reduce(p); });
      EXPECT_EQ(p.state->plain_next, 0);
      EXPECT_EQ(p.state->mixed_next, 0);
      EXPECT_EQ(std::count(p.ready, p.ready + p.state->copies, 0u), p.state->copies);
      EXPECT_EQ(std::count(p.released, p.released + p.staging_pages, 0u), p.staging_pages);
    }
    EXPECT_EQ(std::memcmp(base, expected.data(), expected.size()), 0) << "HBM is not as it should be";
    return {aligned(out), aligned(out) + q_.size()};
  }

  /// The largest relative error of a query head.
  [[nodiscard]] double error(const std::vector<uint16_t>& out) const {
    double worst = 0.0;
    size_t first = 0;
    for (size_t s = 0; s < lengths_.size(); ++s) {
      const int length = lengths_[s];
      const auto element = [&](int half, int kv, int t, int d) {
        const auto& page = pages_[first + t / shape_.block_tokens].elements;
        return from_element(
            shape_.type,
            page[((half * shape_.kv_heads + kv) * shape_.block_tokens + t % shape_.block_tokens) *
                     shape_.head_dim +
                 d]);
      };
      for (int h = 0; h < heads(); ++h) {
        const size_t at = (s * heads() + h) * shape_.head_dim;
        std::vector<double> right(shape_.head_dim);
        double total = 0.0;
        for (int t = 0; t < length; ++t) {
          double score = 0.0;
          for (int d = 0; d < shape_.head_dim; ++d)
            score += from_element(shape_.type, q_[at + d]) * element(0, h / shape_.group, t, d);
          const double weight = std::exp(score * static_cast<double>(scale()));
          total += weight;
          for (int d = 0; d < shape_.head_dim; ++d) right[d] += weight * element(1, h / shape_.group, t, d);
        }
        double wrong = 0.0, size = length == 0 ? 1.0 : 0.0;
        for (int d = 0; d < shape_.head_dim; ++d) {
          const double value = length == 0 ? 0.0 : right[d] / total;
          wrong += std::pow(from_element(shape_.type, out[at + d]) - value, 2);
          size += value * value;
        }
        const double relative = std::sqrt(wrong / size);
        worst = std::isnan(relative) ? INFINITY : std::max(worst, relative);
      }
      first += (length + shape_.block_tokens - 1) / shape_.block_tokens;
    }
    return worst;
  }

 private:
  struct Page {
    int seq, block;
    std::vector<uint16_t> elements;
  };
  [[nodiscard]] int heads() const { return shape_.group * shape_.kv_heads; }
  [[nodiscard]] float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  void attend(const AttentionParameters& p) const {
    const bool wide = shape_.group > 8;
    if (shape_.type == ElementType::kFloat16) {
      if (shape_.head_dim == 64) return wide ? kvt_attend_f16_64_16(p) : kvt_attend_f16_64_8(p);
      return wide ? kvt_attend_f16_128_16(p) : kvt_attend_f16_128_8(p);
    }
    if (shape_.head_dim == 64) return wide ? kvt_attend_bf16_64_16(p) : kvt_attend_bf16_64_8(p);
    return wide ? kvt_attend_bf16_128_16(p) : kvt_attend_bf16_128_8(p);
  }
  void reduce(const AttentionParameters& p) const {
    if (shape_.type == ElementType::kFloat16)
      return shape_.head_dim == 64 ? kvt_reduce_f16_64(p) : kvt_reduce_f16_128(p);
    return shape_.head_dim == 64 ? kvt_reduce_bf16_64(p) : kvt_reduce_bf16_128(p);
  }

  Shape16 shape_;
  std::mt19937_64 random_;
  std::vector<int32_t> lengths_ = {70, 1, 0, 201, 32};
  uint64_t bytes_, stride_;
  std::vector<Page> pages_;
  std::vector<uint16_t> q_;
};

class Attention : public testing::TestWithParam<Shape16> {};

TEST_P(Attention, IsRightAndTheSameWhereverPagesLie) {
  test::Random random;
  Step step(GetParam(), random.next());
  const auto alone = step.run({});
  EXPECT_LT(step.error(alone), GetParam().type == ElementType::kFloat16 ? 2e-3 : 1.5e-2);
  EXPECT_TRUE(alone == step.run({.host_percent = 30})) << "30 % in host memory";
  EXPECT_TRUE(alone == step.run({.host_percent = 100, .copying_blocks = 2})) << "all in host memory";
  EXPECT_TRUE(alone == step.run({.host_percent = 60, .offers = true, .staging_bytes = 1 << 20})) << "offers";
}

INSTANTIATE_TEST_SUITE_P(Shapes, Attention,
                         testing::Values(Shape16{ElementType::kFloat16, 128, 4, 2, 16},
                                         Shape16{ElementType::kFloat16, 64, 11, 1, 32},
                                         Shape16{ElementType::kBfloat16, 128, 16, 1, 64},
                                         Shape16{ElementType::kBfloat16, 64, 1, 3, 16}));

}  // namespace
}  // namespace kvt::decode
