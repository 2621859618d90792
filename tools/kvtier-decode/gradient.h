// SPDX-License-Identifier: Apache-2.0
//
// Forward and backward pass of a whole sequence at once, for training. The same model as forward.h, in
// matrices. One object a thread.
#pragma once

#include <span>
#include <vector>

#include "tools/kvtier-decode/kernels.h"
#include "tools/kvtier-decode/model.h"

namespace kvt::decode {

class Gradient {
 public:
  /// For sequences of `context` tokens.
  Gradient(const Shape& shape, size_t context);

  /// Mean next-token cross entropy, in nats, of context + 1 tokens.
  float loss(const Model& model, std::span<const Token> tokens);
  /// The same, and adds `scale` times its gradient to `gradient`, in the places of the model's weights.
  float loss_and_gradient(const Model& model, std::span<const Token> tokens, float scale,
                          std::vector<float>& gradient);
  /// After either: [context][kVocabulary] probabilities of the next token.
  [[nodiscard]] std::span<const float> probabilities() const { return probabilities_; }

 private:
  /// What the backward pass of a layer needs of the forward pass. Rows are positions.
  struct Saved {
    std::vector<float> input, normed, inverse_rms, queries, keys, values, attention, mixed;
    std::vector<float> middle, ffn_normed, ffn_inverse_rms, gate, up, activated;
  };

  void forward(const Model& model, std::span<const Token> tokens);
  void attend(Saved& saved) const;
  void attend_backward(const Saved& saved);
  void layer_backward(const Model& model, size_t layer, std::vector<float>& gradient);

  Shape shape_;
  size_t context_;
  Rope rope_;
  std::vector<Saved> saved_;
  std::vector<float> residual_, final_normed_, final_inverse_rms_, probabilities_;
  // Gradients with respect to what has the same name above, of the layer that is being worked on.
  std::vector<float> d_residual_, d_normed_, d_queries_, d_keys_, d_values_, d_mixed_, d_hidden_, d_gate_,
      d_up_;
  std::vector<float> scratch_, transposed_;
};

}  // namespace kvt::decode
