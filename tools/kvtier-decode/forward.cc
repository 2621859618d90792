// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/forward.h"

#include <algorithm>

namespace kvt::decode {

Forward::Forward(const Model& model, const KvLayout& layout, AttentionKind attention, KvAccess& access)
    : model_(model),
      layout_(layout),
      summarise_(attention.top_k),
      access_(access),
      attention_(model.shape, layout, attention, access),
      rope_(model.shape.head_dim),
      residual_(model.shape.width),
      normed_(model.shape.width),
      queries_(model.shape.query_width()),
      keys_(model.shape.kv_width()),
      values_(model.shape.kv_width()),
      mixed_(std::max(model.shape.query_width(), model.shape.width)),
      gate_(model.shape.hidden),
      up_(model.shape.hidden),
      logits_(kVocabulary) {}

std::span<const float> Forward::step(Token token, size_t position, const KvView& view, Summaries& summaries,
                                     StepReads& reads, AttentionMass* mass) {
  const Shape& shape = model_.shape;
  reads.begin(shape.layers, view.blocks.size());
  if (summarise_ || mass != nullptr) summaries.extend(access_, view, position / layout_.block_tokens);
  std::copy_n(model_.at(model_.places.embedding) + size_t{token} * shape.width, shape.width,
              residual_.begin());
  for (size_t layer = 0; layer < shape.layers; ++layer) {
    attention_layer(layer, position, view, summaries, reads, mass);
    feed_forward_layer(layer);
  }
  normalise(normed_.data(), residual_.data(), model_.at(model_.places.final_norm), shape.width);
  multiply(logits_.data(), normed_.data(), model_.at(model_.places.head), shape.width, kVocabulary);
  return logits_;
}

void Forward::attention_layer(size_t layer, size_t position, const KvView& view, const Summaries& summaries,
                              StepReads& reads, AttentionMass* mass) {
  const Shape& shape = model_.shape;
  const WeightPlaces::Layer& places = model_.places.layers[layer];
  normalise(normed_.data(), residual_.data(), model_.at(places.attention_norm), shape.width);
  multiply(queries_.data(), normed_.data(), model_.at(places.query), shape.width, shape.query_width());
  multiply(keys_.data(), normed_.data(), model_.at(places.key), shape.width, shape.kv_width());
  multiply(values_.data(), normed_.data(), model_.at(places.value), shape.width, shape.kv_width());
  rope_.rotate(queries_.data(), shape.heads, position);
  rope_.rotate(keys_.data(), shape.kv_heads, position);

  access_.store(view, layer, position, keys_.data(), values_.data());
  attention_.attend(mixed_.data(), queries_.data(), layer, position, view, summaries, reads, mass);
  multiply(normed_.data(), mixed_.data(), model_.at(places.output), shape.query_width(), shape.width);
  add_scaled(residual_.data(), normed_.data(), 1, shape.width);
}

void Forward::feed_forward_layer(size_t layer) {
  const Shape& shape = model_.shape;
  const WeightPlaces::Layer& places = model_.places.layers[layer];
  normalise(normed_.data(), residual_.data(), model_.at(places.ffn_norm), shape.width);
  multiply(gate_.data(), normed_.data(), model_.at(places.gate), shape.width, shape.hidden);
  multiply(up_.data(), normed_.data(), model_.at(places.up), shape.width, shape.hidden);
  for (size_t i = 0; i < shape.hidden; ++i) gate_[i] = silu(gate_[i]) * up_[i];
  multiply(mixed_.data(), gate_.data(), model_.at(places.down), shape.hidden, shape.width);
  add_scaled(residual_.data(), mixed_.data(), 1, shape.width);
}

}  // namespace kvt::decode
