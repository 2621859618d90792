// SPDX-License-Identifier: Apache-2.0
//
// The tokenizer: a token is a byte; one more begins every sequence.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvt::decode {

using Token = uint16_t;

inline constexpr uint32_t kBytes = 256;
inline constexpr Token kBegin = 256;
inline constexpr uint32_t kVocabulary = 257;

/// kBegin, then the bytes of `text`.
inline std::vector<Token> tokens_of(std::string_view text) {
  std::vector<Token> tokens{kBegin};
  tokens.reserve(text.size() + 1);
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

/// The bytes of tokens [first, end), without kBegin.
inline std::string text_of(const std::vector<Token>& tokens, size_t first = 0) {
  std::string text;
  for (size_t i = first; i < tokens.size(); ++i)
    if (tokens[i] < kBytes) text.push_back(static_cast<char>(tokens[i]));
  return text;
}

}  // namespace kvt::decode
