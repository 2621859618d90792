// SPDX-License-Identifier: Apache-2.0
//
// What the model is: a decoder-only transformer with grouped-query attention, rotary positions, RMS norms and
// gated feed-forward layers, all in float. Values; a Model that nobody changes may be shared by threads.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/kvtier-decode/tokens.h"

namespace kvt::decode {

struct Shape {
  uint32_t layers = 4;
  uint32_t width = 64;  ///< of the residual stream
  uint32_t heads = 4;
  uint32_t kv_heads = 2;  ///< divides heads: that many query heads share one
  uint32_t head_dim = 16;
  uint32_t hidden = 176;  ///< of the feed-forward layers

  [[nodiscard]] uint32_t query_width() const { return heads * head_dim; }
  [[nodiscard]] uint32_t kv_width() const { return kv_heads * head_dim; }
  [[nodiscard]] uint32_t heads_of_kv_head() const { return heads / kv_heads; }
  friend bool operator==(const Shape&, const Shape&) = default;
};

/// "" or what is wrong with it.
std::string check_shape(const Shape& shape);
/// "4 layers, width 64, ...".
std::string shape_text(const Shape& shape);

/// Where each matrix begins among all weights, in floats. A matrix is [in][out].
struct WeightPlaces {
  struct Layer {
    size_t attention_norm, query, key, value, output, ffn_norm, gate, up, down;
  };
  size_t embedding = 0;  ///< [kVocabulary][width]
  std::vector<Layer> layers;
  size_t final_norm = 0;
  size_t head = 0;  ///< [width][kVocabulary]
  size_t count = 0;

  explicit WeightPlaces(const Shape& shape);
};

struct Model {
  Shape shape;
  WeightPlaces places;
  std::vector<float> weights;

  /// Weights from a seed. REQUIRES: check_shape finds nothing.
  Model(const Shape& shape, uint64_t seed);

  [[nodiscard]] const float* at(size_t place) const { return weights.data() + place; }
  /// 128 bits of shape and weights: equal for models that compute the same.
  [[nodiscard]] std::array<uint64_t, 2> digest() const;
};

}  // namespace kvt::decode
