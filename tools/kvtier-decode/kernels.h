// SPDX-License-Identifier: Apache-2.0
//
// The arithmetic. Every result is a fixed expression of its inputs: for each element the same operations in
// the same order, whatever the number of rows, the alignment or the place of the memory, so that equal inputs
// give equal bits. (No contraction, no reassociation: see CMakeLists.txt.) Free functions without state; any
// thread.
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

namespace kvt::decode {

/// A matrix as `multiply` reads its left side: element (r, j) is data[r * row_step + j * column_step].
struct Strided {
  const float* data;
  size_t row_step;
  size_t column_step;
};

/// y[rows][out] = x[rows][in] * w[in][out], each element summed in the order of `in`; with `add` onto what y
/// has.
void multiply(float* y, Strided x, const float* w, size_t rows, size_t in, size_t out, bool add = false);
/// The same for one row.
inline void multiply(float* y, const float* x, const float* w, size_t in, size_t out) {
  multiply(y, Strided{x, in, 1}, w, 1, in, out);
}

/// Four floats side by side, the same on every target; element-wise operations only, so that lanes change no
/// result.
using Lanes = float __attribute__((vector_size(16)));
inline constexpr size_t kLanes = 4;

inline Lanes load_lanes(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}
inline void store_lanes(float* to, Lanes lanes) { std::memcpy(to, &lanes, sizeof lanes); }

// Inline: called for each token and head.

/// Sum of a[i] * b[i], in four partial sums by i mod 4.
inline float dot(const float* a, const float* b, size_t n) {
  Lanes sums{};
  const size_t whole = n - n % kLanes;
  for (size_t i = 0; i < whole; i += kLanes) sums += load_lanes(a + i) * load_lanes(b + i);
  float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (size_t i = whole; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// y[i] += scale * x[i]
inline void add_scaled(float* y, const float* x, float scale, size_t n) {
  const size_t whole = n - n % kLanes;
  for (size_t i = 0; i < whole; i += kLanes)
    store_lanes(y + i, load_lanes(y + i) + scale * load_lanes(x + i));
  for (size_t i = whole; i < n; ++i) y[i] += scale * x[i];
}

/// y[i] = x[i] * weight[i] / rms(x); returns 1 / rms(x).
float normalise(float* y, const float* x, const float* weight, size_t n);

/// x * sigmoid(x)
float silu(float x);

/// Makes scores probabilities, in place. REQUIRES: n > 0.
void softmax(float* scores, size_t n);

/// Rotary position embedding: rotates each pair (i, i + head_dim/2) by position * 10000^(-2i/head_dim).
class Rope {
 public:
  explicit Rope(size_t head_dim) : half_(head_dim / 2) {}
  /// Rotates `heads` vectors of head_dim floats; `inverse` turns back. Remembers the angles of positions
  /// seen.
  void rotate(float* vectors, size_t heads, size_t position, bool inverse = false);
  /// So that `rotate` of positions below `positions` changes nothing here, and threads may share it.
  void reserve(size_t positions);

 private:
  size_t half_;
  std::vector<float> angles_;  ///< by position: half_ cosines, then half_ sines
};

}  // namespace kvt::decode
