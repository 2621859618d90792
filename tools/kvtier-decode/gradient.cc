// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/gradient.h"

#include <algorithm>
#include <cmath>

namespace kvt::decode {
namespace {

/// dw[in][out] += x^T dy, over all rows.
void weight_gradient(float* dw, const float* x, const float* dy, size_t rows, size_t in, size_t out) {
  multiply(dw, Strided{x, 1, in}, dy, in, rows, out, true);
}

/// dx[rows][in] (+)= dy w^T
void input_gradient(float* dx, const float* dy, const float* w, size_t rows, size_t in, size_t out, bool add,
                    std::vector<float>& transposed) {
  transposed.resize(in * out);
  for (size_t i = 0; i < in; ++i)
    for (size_t j = 0; j < out; ++j) transposed[j * in + i] = w[i * out + j];
  multiply(dx, Strided{dy, out, 1}, transposed.data(), rows, out, in, add);
}

/// Of y = x * inverse_rms(x) * weight, by rows: dx += ..., dweight += ...
void normalise_backward(float* dx, float* dweight, const float* dy, const float* x, const float* weight,
                        const float* inverse_rms, size_t rows, size_t n) {
  for (size_t row = 0; row < rows; ++row) {
    const float* const x_row = x + row * n;
    const float* const dy_row = dy + row * n;
    const float inverse = inverse_rms[row];
    float along = 0;  // of the change of the rms
    for (size_t i = 0; i < n; ++i) {
      dweight[i] += dy_row[i] * x_row[i] * inverse;
      along += dy_row[i] * weight[i] * x_row[i];
    }
    const float back = along * inverse * inverse * inverse / static_cast<float>(n);
    for (size_t i = 0; i < n; ++i) dx[row * n + i] += dy_row[i] * weight[i] * inverse - x_row[i] * back;
  }
}

}  // namespace

Gradient::Gradient(const Shape& shape, size_t context)
    : shape_(shape), context_(context), rope_(shape.head_dim), saved_(shape.layers) {
  rope_.reserve(context);
  const size_t width = context * shape.width;
  const size_t query = context * shape.query_width();
  const size_t kv = context * shape.kv_width();
  const size_t hidden = context * shape.hidden;
  for (Saved& saved : saved_) {
    for (auto* const wide : {&saved.input, &saved.normed, &saved.middle, &saved.ffn_normed})
      wide->resize(width);
    for (auto* const rms : {&saved.inverse_rms, &saved.ffn_inverse_rms}) rms->resize(context);
    for (auto* const of_query : {&saved.queries, &saved.mixed}) of_query->resize(query);
    for (auto* const of_kv : {&saved.keys, &saved.values}) of_kv->resize(kv);
    for (auto* const of_hidden : {&saved.gate, &saved.up, &saved.activated}) of_hidden->resize(hidden);
    saved.attention.resize(shape.heads * context * context);
  }
  for (auto* const wide : {&residual_, &final_normed_, &d_residual_, &d_normed_}) wide->resize(width);
  for (auto* const of_query : {&d_queries_, &d_mixed_}) of_query->resize(query);
  for (auto* const of_kv : {&d_keys_, &d_values_}) of_kv->resize(kv);
  for (auto* const of_hidden : {&d_hidden_, &d_gate_, &d_up_}) of_hidden->resize(hidden);
  final_inverse_rms_.resize(context);
  probabilities_.resize(context * kVocabulary);
  scratch_.resize(std::max(context, size_t{shape.width} * context));
}

void Gradient::forward(const Model& model, std::span<const Token> tokens) {
  const size_t width = shape_.width;
  const auto rows = [&](std::vector<float>& y, const std::vector<float>& x, size_t place, size_t in,
                        size_t out) {
    multiply(y.data(), Strided{x.data(), in, 1}, model.at(place), context_, in, out);
  };
  const auto norm_rows = [&](std::vector<float>& y, std::vector<float>& inverse, const std::vector<float>& x,
                             size_t place) {
    for (size_t t = 0; t < context_; ++t)
      inverse[t] = normalise(y.data() + t * width, x.data() + t * width, model.at(place), width);
  };
  for (size_t t = 0; t < context_; ++t)
    std::copy_n(model.at(model.places.embedding) + size_t{tokens[t]} * width, width,
                residual_.data() + t * width);
  for (size_t l = 0; l < shape_.layers; ++l) {
    Saved& saved = saved_[l];
    const WeightPlaces::Layer& places = model.places.layers[l];
    saved.input = residual_;
    norm_rows(saved.normed, saved.inverse_rms, saved.input, places.attention_norm);
    rows(saved.queries, saved.normed, places.query, width, shape_.query_width());
    rows(saved.keys, saved.normed, places.key, width, shape_.kv_width());
    rows(saved.values, saved.normed, places.value, width, shape_.kv_width());
    for (size_t t = 0; t < context_; ++t) {
      rope_.rotate(saved.queries.data() + t * shape_.query_width(), shape_.heads, t);
      rope_.rotate(saved.keys.data() + t * shape_.kv_width(), shape_.kv_heads, t);
    }
    attend(saved);
    rows(scratch_, saved.mixed, places.output, shape_.query_width(), width);
    add_scaled(residual_.data(), scratch_.data(), 1, residual_.size());
    saved.middle = residual_;
    norm_rows(saved.ffn_normed, saved.ffn_inverse_rms, saved.middle, places.ffn_norm);
    rows(saved.gate, saved.ffn_normed, places.gate, width, shape_.hidden);
    rows(saved.up, saved.ffn_normed, places.up, width, shape_.hidden);
    for (size_t i = 0; i < saved.gate.size(); ++i) saved.activated[i] = silu(saved.gate[i]) * saved.up[i];
    rows(scratch_, saved.activated, places.down, shape_.hidden, width);
    add_scaled(residual_.data(), scratch_.data(), 1, residual_.size());
  }
  norm_rows(final_normed_, final_inverse_rms_, residual_, model.places.final_norm);
  rows(probabilities_, final_normed_, model.places.head, width, kVocabulary);
  for (size_t t = 0; t < context_; ++t) softmax(probabilities_.data() + t * kVocabulary, kVocabulary);
}

void Gradient::attend(Saved& saved) const {
  const size_t dim = shape_.head_dim;
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  std::fill(saved.mixed.begin(), saved.mixed.end(), 0.0f);
  for (size_t head = 0; head < shape_.heads; ++head) {
    const size_t kv_head = head / shape_.heads_of_kv_head();
    const auto key = [&](size_t t) { return saved.keys.data() + t * shape_.kv_width() + kv_head * dim; };
    const auto value = [&](size_t t) { return saved.values.data() + t * shape_.kv_width() + kv_head * dim; };
    for (size_t t = 0; t < context_; ++t) {
      const size_t at = t * shape_.query_width() + head * dim;
      float* const weights = saved.attention.data() + (head * context_ + t) * context_;
      for (size_t s = 0; s <= t; ++s) weights[s] = dot(saved.queries.data() + at, key(s), dim) * scale;
      softmax(weights, t + 1);
      for (size_t s = 0; s <= t; ++s) add_scaled(saved.mixed.data() + at, value(s), weights[s], dim);
    }
  }
}

/// d_mixed_ to d_queries_, d_keys_, d_values_.
void Gradient::attend_backward(const Saved& saved) {
  const size_t dim = shape_.head_dim;
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  for (auto* const gradient : {&d_queries_, &d_keys_, &d_values_})
    std::fill(gradient->begin(), gradient->end(), 0.0f);
  for (size_t head = 0; head < shape_.heads; ++head) {
    const size_t kv_head = head / shape_.heads_of_kv_head();
    const auto kv_at = [&](size_t t) { return t * shape_.kv_width() + kv_head * dim; };
    for (size_t t = 0; t < context_; ++t) {
      const size_t at = t * shape_.query_width() + head * dim;
      const float* const weights = saved.attention.data() + (head * context_ + t) * context_;
      const float* const d_out = d_mixed_.data() + at;
      float along = 0;
      for (size_t s = 0; s <= t; ++s) {
        add_scaled(d_values_.data() + kv_at(s), d_out, weights[s], dim);
        scratch_[s] = dot(d_out, saved.values.data() + kv_at(s), dim);
        along += weights[s] * scratch_[s];
      }
      for (size_t s = 0; s <= t; ++s) {
        const float d_score = weights[s] * (scratch_[s] - along) * scale;
        add_scaled(d_queries_.data() + at, saved.keys.data() + kv_at(s), d_score, dim);
        add_scaled(d_keys_.data() + kv_at(s), saved.queries.data() + at, d_score, dim);
      }
    }
  }
}

/// d_residual_ of the layer's output becomes that of its input.
void Gradient::layer_backward(const Model& model, size_t layer, std::vector<float>& gradient) {
  const Saved& saved = saved_[layer];
  const WeightPlaces::Layer& places = model.places.layers[layer];
  const size_t width = shape_.width;
  const auto to = [&](size_t place) { return gradient.data() + place; };
  const auto through = [&](std::vector<float>& dx, const std::vector<float>& dy, const std::vector<float>& x,
                           size_t place, size_t in, size_t out, bool add) {
    weight_gradient(to(place), x.data(), dy.data(), context_, in, out);
    input_gradient(dx.data(), dy.data(), model.at(place), context_, in, out, add, transposed_);
  };
  through(d_hidden_, d_residual_, saved.activated, places.down, shape_.hidden, width, false);
  for (size_t i = 0; i < d_hidden_.size(); ++i) {
    const float sigmoid = 1 / (1 + std::exp(-saved.gate[i]));
    d_up_[i] = d_hidden_[i] * saved.gate[i] * sigmoid;
    d_gate_[i] = d_hidden_[i] * saved.up[i] * sigmoid * (1 + saved.gate[i] * (1 - sigmoid));
  }
  through(d_normed_, d_gate_, saved.ffn_normed, places.gate, width, shape_.hidden, false);
  through(d_normed_, d_up_, saved.ffn_normed, places.up, width, shape_.hidden, true);
  normalise_backward(d_residual_.data(), to(places.ffn_norm), d_normed_.data(), saved.middle.data(),
                     model.at(places.ffn_norm), saved.ffn_inverse_rms.data(), context_, width);

  through(d_mixed_, d_residual_, saved.mixed, places.output, shape_.query_width(), width, false);
  attend_backward(saved);
  for (size_t t = 0; t < context_; ++t) {
    rope_.rotate(d_queries_.data() + t * shape_.query_width(), shape_.heads, t, true);
    rope_.rotate(d_keys_.data() + t * shape_.kv_width(), shape_.kv_heads, t, true);
  }
  through(d_normed_, d_queries_, saved.normed, places.query, width, shape_.query_width(), false);
  through(d_normed_, d_keys_, saved.normed, places.key, width, shape_.kv_width(), true);
  through(d_normed_, d_values_, saved.normed, places.value, width, shape_.kv_width(), true);
  normalise_backward(d_residual_.data(), to(places.attention_norm), d_normed_.data(), saved.input.data(),
                     model.at(places.attention_norm), saved.inverse_rms.data(), context_, width);
}

float Gradient::loss(const Model& model, std::span<const Token> tokens) {
  forward(model, tokens);
  double sum = 0;
  for (size_t t = 0; t < context_; ++t)
    sum -= std::log(static_cast<double>(probabilities_[t * kVocabulary + tokens[t + 1]]) + 1e-30);
  return static_cast<float>(sum / static_cast<double>(context_));
}

float Gradient::loss_and_gradient(const Model& model, std::span<const Token> tokens, float scale,
                                  std::vector<float>& gradient) {
  const float value = loss(model, tokens);
  const size_t width = shape_.width;
  // The gradient by logits, in place of the probabilities.
  const float each = scale / static_cast<float>(context_);
  for (size_t t = 0; t < context_; ++t) {
    float* const row = probabilities_.data() + t * kVocabulary;
    row[tokens[t + 1]] -= 1;
    for (size_t i = 0; i < kVocabulary; ++i) row[i] *= each;
  }
  weight_gradient(gradient.data() + model.places.head, final_normed_.data(), probabilities_.data(), context_,
                  width, kVocabulary);
  input_gradient(d_normed_.data(), probabilities_.data(), model.at(model.places.head), context_, width,
                 kVocabulary, false, transposed_);
  std::fill(d_residual_.begin(), d_residual_.end(), 0.0f);
  normalise_backward(d_residual_.data(), gradient.data() + model.places.final_norm, d_normed_.data(),
                     residual_.data(), model.at(model.places.final_norm), final_inverse_rms_.data(), context_,
                     width);
  for (size_t layer = shape_.layers; layer-- > 0;) layer_backward(model, layer, gradient);
  for (size_t t = 0; t < context_; ++t)
    add_scaled(gradient.data() + model.places.embedding + size_t{tokens[t]} * width,
               d_residual_.data() + t * width, 1, width);
  return value;
}

}  // namespace kvt::decode
