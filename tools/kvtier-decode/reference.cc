// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/reference.h"

#include <fmt/format.h>

#include <bit>

namespace kvt::decode {

void Reference::remember(const StepEvent& event) {
  if (logits_.size() <= event.position) logits_.resize(event.position + 1);
  logits_[event.position].assign(event.logits.begin(), event.logits.end());
  tokens_.assign(event.tokens.begin(), event.tokens.end());
}

std::string Reference::compare(const StepEvent& event) const {
  if (event.position >= logits_.size() || logits_[event.position].size() != event.logits.size())
    return fmt::format("position {} has nothing to compare with", event.position);
  for (size_t i = 0; i < event.logits.size(); ++i) {
    const auto is = std::bit_cast<uint32_t>(event.logits[i]);
    const auto expected = std::bit_cast<uint32_t>(logits_[event.position][i]);
    if (is != expected)
      return fmt::format("position {}, logit of token {}: {:08x}, expected {:08x} ({} and {})",
                         event.position, i, is, expected, event.logits[i], logits_[event.position][i]);
  }
  const size_t next = event.position + 1;
  if (next < event.tokens.size() && event.tokens[next] != tokens_[next])
    return fmt::format("token {}: {}, expected {}", next, event.tokens[next], tokens_[next]);
  return "";
}

}  // namespace kvt::decode
