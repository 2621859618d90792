// SPDX-License-Identifier: Apache-2.0
//
// UUIDs of GPUs in words.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace kvt {

/// "GPU-01234567-89ab-cdef-0123-456789abcdef", as nvidia-smi prints it.
inline std::string gpu_uuid_text(std::span<const uint8_t, 16> uuid) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "GPU-";
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[uuid[i] >> 4];
    text += kDigits[uuid[i] & 15];
  }
  return text;
}

}  // namespace kvt
