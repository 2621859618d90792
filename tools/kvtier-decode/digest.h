// SPDX-License-Identifier: Apache-2.0
//
// 128-bit digests of bytes, which can be chained. The same on every machine of the same byte order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvt::decode {

struct Digest {
  uint64_t lo = 0;
  uint64_t hi = 0;
  friend bool operator==(const Digest&, const Digest&) = default;
};

/// Of `bytes` bytes after what `before` is the digest of.
Digest digest_of(const void* data, size_t bytes, const Digest& before);

}  // namespace kvt::decode
