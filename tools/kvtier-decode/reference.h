// SPDX-License-Identifier: Apache-2.0
//
// The logits of every position of one run, to compare another run with, bit for bit. Not thread-safe.
#pragma once

#include <string>
#include <vector>

#include "tools/kvtier-decode/decoder.h"

namespace kvt::decode {

class Reference {
 public:
  void remember(const StepEvent& event);
  /// "" or the first difference: "position 70, logit of byte 101: 3f800000, expected 3f800001".
  [[nodiscard]] std::string compare(const StepEvent& event) const;

 private:
  std::vector<std::vector<float>> logits_;
  std::vector<Token> tokens_;
};

}  // namespace kvt::decode
