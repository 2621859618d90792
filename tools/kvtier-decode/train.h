// SPDX-License-Identifier: Apache-2.0
//
// Training on a text: random windows of it, next-byte cross entropy, Adam. The same options and text give the
// same weights: each thread has its fixed part of a batch, and parts are summed in order.
#pragma once

#include <functional>
#include <span>
#include <string_view>

#include "tools/kvtier-decode/model.h"

namespace kvt::decode {

struct TrainOptions {
  size_t steps = 600;
  size_t context = 256;  ///< tokens of a window
  size_t batch = 8;      ///< windows of a step
  size_t threads = 2;
  double learning_rate = 3e-3;  ///< highest; falls to a tenth along a cosine
  uint64_t seed = 1;
};

struct TrainResult {
  float loss_before = 0;  ///< nats a byte, of the held-out end of the text
  float loss_after = 0;
  size_t tokens = 0;  ///< that the model has seen, repetitions counted
  double seconds = 0;
};

/// Changes the weights. `on_step` hears the mean loss of the steps since it was called last, every 50 steps
/// and at the end. Throws UsageError when the text is shorter than 10 windows.
TrainResult train(Model& model, std::string_view text, const TrainOptions& options,
                  const std::function<void(size_t step, float loss)>& on_step);

}  // namespace kvt::decode
