// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/kernels.h"

#include <algorithm>
#include <cmath>

namespace kvt::decode {
namespace {

/// Rows x (Vectors * 4) elements of y, kept in registers while `in` goes by.
template <size_t Rows, size_t Vectors>
void multiply_tile(float* y, Strided x, const float* w, size_t in, size_t out, bool add) {
  Lanes sums[Rows][Vectors];
  for (size_t r = 0; r < Rows; ++r)
    for (size_t v = 0; v < Vectors; ++v) sums[r][v] = add ? load_lanes(y + r * out + v * kLanes) : Lanes{};
  for (size_t j = 0; j < in; ++j) {
    const float* const row = w + j * out;
    for (size_t v = 0; v < Vectors; ++v) {
      const Lanes weights = load_lanes(row + v * kLanes);
      for (size_t r = 0; r < Rows; ++r) sums[r][v] += x.data[r * x.row_step + j * x.column_step] * weights;
    }
  }
  for (size_t r = 0; r < Rows; ++r)
    for (size_t v = 0; v < Vectors; ++v) store_lanes(y + r * out + v * kLanes, sums[r][v]);
}

template <size_t Rows, size_t Vectors>
void multiply_rows(float* y, Strided x, const float* w, size_t in, size_t out, bool add) {
  size_t i = 0;
  for (; i + Vectors * kLanes <= out; i += Vectors * kLanes)
    multiply_tile<Rows, Vectors>(y + i, x, w + i, in, out, add);
  for (; i + kLanes <= out; i += kLanes) multiply_tile<Rows, 1>(y + i, x, w + i, in, out, add);
  for (; i < out; ++i) {
    for (size_t r = 0; r < Rows; ++r) {
      float sum = add ? y[r * out + i] : 0;
      for (size_t j = 0; j < in; ++j) sum += x.data[r * x.row_step + j * x.column_step] * w[j * out + i];
      y[r * out + i] = sum;
    }
  }
}

}  // namespace

void multiply(float* y, Strided x, const float* w, size_t rows, size_t in, size_t out, bool add) {
  constexpr size_t kRows = 4;
  size_t r = 0;
  for (; r + kRows <= rows; r += kRows)
    multiply_rows<kRows, 2>(y + r * out, {x.data + r * x.row_step, x.row_step, x.column_step}, w, in, out,
                            add);
  for (; r < rows; ++r)
    multiply_rows<1, 8>(y + r * out, {x.data + r * x.row_step, x.row_step, x.column_step}, w, in, out, add);
}

float normalise(float* y, const float* x, const float* weight, size_t n) {
  constexpr float kEpsilon = 1e-5f;
  const float inverse = 1 / std::sqrt(dot(x, x, n) / static_cast<float>(n) + kEpsilon);
  for (size_t i = 0; i < n; ++i) y[i] = x[i] * inverse * weight[i];
  return inverse;
}

float silu(float x) { return x / (1 + std::exp(-x)); }

void softmax(float* scores, size_t n) {
  const float highest = *std::max_element(scores, scores + n);
  float sum = 0;
  for (size_t i = 0; i < n; ++i) {
    scores[i] = std::exp(scores[i] - highest);
    sum += scores[i];
  }
  const float inverse = 1 / sum;
  for (size_t i = 0; i < n; ++i) scores[i] *= inverse;
}

void Rope::reserve(size_t positions) {
  constexpr double kTheta = 10000;
  for (size_t position = angles_.size() / std::max<size_t>(2 * half_, 1); position < positions; ++position) {
    for (const bool sine : {false, true}) {
      for (size_t i = 0; i < half_; ++i) {
        const double angle = static_cast<double>(position) *
                             std::pow(kTheta, -static_cast<double>(i) / static_cast<double>(half_));
        angles_.push_back(static_cast<float>(sine ? std::sin(angle) : std::cos(angle)));
      }
    }
  }
}

void Rope::rotate(float* vectors, size_t heads, size_t position, bool inverse) {
  if (angles_.size() < (position + 1) * 2 * half_) reserve(position + 1);
  const float* const cosines = angles_.data() + position * 2 * half_;
  const float* const sines = cosines + half_;
  for (size_t head = 0; head < heads; ++head) {
    float* const low = vectors + head * 2 * half_;
    float* const high = low + half_;
    for (size_t i = 0; i < half_; ++i) {
      const float sine = inverse ? -sines[i] : sines[i];
      const float a = low[i];
      const float b = high[i];
      low[i] = a * cosines[i] - b * sine;
      high[i] = a * sine + b * cosines[i];
    }
  }
}

}  // namespace kvt::decode
