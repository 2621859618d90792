// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "tools/kvtier-decode/digest.h"
#include "tools/kvtier-decode/random.h"

namespace kvt::decode {
namespace {

struct Limit {
  const char* name;
  uint32_t Shape::*field;
  uint32_t max;
};

constexpr std::array<Limit, 6> kLimits{{{"layers", &Shape::layers, 256},
                                        {"width", &Shape::width, 8192},
                                        {"heads", &Shape::heads, 256},
                                        {"kv-heads", &Shape::kv_heads, 256},
                                        {"head-dim", &Shape::head_dim, 256},
                                        {"hidden", &Shape::hidden, 32768}}};

}  // namespace

std::string check_shape(const Shape& shape) {
  for (const Limit& limit : kLimits) {
    const uint32_t value = shape.*limit.field;
    if (value == 0 || value > limit.max)
      return fmt::format("{} is {}: expected 1 to {}", limit.name, value, limit.max);
  }
  if (shape.heads % shape.kv_heads != 0)
    return fmt::format("kv-heads is {}: expected a divisor of heads, {}", shape.kv_heads, shape.heads);
  if (shape.head_dim % 2 != 0) return fmt::format("head-dim is {}: expected an even number", shape.head_dim);
  return "";
}

std::string shape_text(const Shape& shape) {
  return fmt::format("{} layers, width {}, {} heads on {} kv heads of {}, hidden {}", shape.layers,
                     shape.width, shape.heads, shape.kv_heads, shape.head_dim, shape.hidden);
}

WeightPlaces::WeightPlaces(const Shape& shape) {
  const auto take = [&](size_t floats) {
    const size_t at = count;
    count += floats;
    return at;
  };
  const size_t width = shape.width;
  embedding = take(kVocabulary * width);
  for (uint32_t i = 0; i < shape.layers; ++i) {
    Layer layer{};
    layer.attention_norm = take(width);
    layer.query = take(width * shape.query_width());
    layer.key = take(width * shape.kv_width());
    layer.value = take(width * shape.kv_width());
    layer.output = take(shape.query_width() * width);
    layer.ffn_norm = take(width);
    layer.gate = take(width * shape.hidden);
    layer.up = take(width * shape.hidden);
    layer.down = take(shape.hidden * width);
    layers.push_back(layer);
  }
  final_norm = take(width);
  head = take(width * kVocabulary);
}

Model::Model(const Shape& the_shape, uint64_t seed) : shape(the_shape), places(shape), weights(places.count) {
  Random random(seed);
  const auto fill = [&](size_t place, size_t in, size_t out, double deviation) {
    for (size_t i = 0; i < in * out; ++i)
      weights[place + i] = static_cast<float>(deviation * random.normal());
  };
  const auto ones = [&](size_t place) {
    std::fill_n(weights.begin() + static_cast<std::ptrdiff_t>(place), shape.width, 1.0f);
  };
  const auto of = [](size_t in) { return 1 / std::sqrt(static_cast<double>(in)); };
  // What is added to the residual stream is smaller the more layers add to it.
  const double residual = 1 / std::sqrt(2.0 * shape.layers);
  fill(places.embedding, kVocabulary, shape.width, 1);
  for (const WeightPlaces::Layer& layer : places.layers) {
    ones(layer.attention_norm);
    fill(layer.query, shape.width, shape.query_width(), of(shape.width));
    fill(layer.key, shape.width, shape.kv_width(), of(shape.width));
    fill(layer.value, shape.width, shape.kv_width(), of(shape.width));
    fill(layer.output, shape.query_width(), shape.width, of(shape.query_width()) * residual);
    ones(layer.ffn_norm);
    fill(layer.gate, shape.width, shape.hidden, of(shape.width));
    fill(layer.up, shape.width, shape.hidden, of(shape.width));
    fill(layer.down, shape.hidden, shape.width, of(shape.hidden) * residual);
  }
  ones(places.final_norm);
  fill(places.head, shape.width, kVocabulary, of(shape.width));
}

std::array<uint64_t, 2> Model::digest() const {
  std::array<uint32_t, 7> numbers{kVocabulary};
  std::transform(kLimits.begin(), kLimits.end(), numbers.begin() + 1,
                 [&](const Limit& limit) { return shape.*limit.field; });
  const Digest of_shape = digest_of(numbers.data(), sizeof numbers, {});
  const Digest all = digest_of(weights.data(), weights.size() * sizeof(float), of_shape);
  return {all.lo, all.hi};
}

}  // namespace kvt::decode
