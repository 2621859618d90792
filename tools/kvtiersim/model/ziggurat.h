// SPDX-License-Identifier: Apache-2.0
//
// Standard normals at a few ns each, for generators that draw 10^8 of them: the ziggurat of Marsaglia and
// Tsang with 256 layers, on 64-bit words so that layer, sign and value come from bits of their own.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "tools/kvtiersim/model/random.h"

namespace kvt::sim {

class Ziggurat {
 public:
  double operator()(Random& random) const {
    for (;;) {
      const uint64_t word = random.next();
      const size_t layer = word & 255;
      const double x = static_cast<double>(word >> 11) * 0x1p-53 * edge_[layer];
      const double sign = (word & 256) != 0 ? -1.0 : 1.0;
      if (x < edge_[layer + 1]) return sign * x;  // 99 of 100
      if (layer == 0) {                           // the tail beyond kTail
        double far, above;
        do {
          far = -std::log(1 - random.uniform()) / kTail;
          above = -std::log(1 - random.uniform());
        } while (2 * above < far * far);
        return sign * (kTail + far);
      }
      if (height_[layer] + random.uniform() * (height_[layer + 1] - height_[layer]) < std::exp(-x * x / 2))
        return sign * x;
    }
  }

 private:
  static constexpr double kTail = 3.6541528853610088;
  static constexpr double kArea = 4.92867323399e-3;  // of each layer, under exp(-x*x/2)

  // Layer i is the rectangle of width edge_[i] between the curve's heights at edge_[i] and edge_[i + 1].
  struct Table {
    std::array<double, 257> edge{}, height{};
    Table() {
      edge[0] = kArea / std::exp(-kTail * kTail /
                                 2);  // as wide as makes the bottom's area, tail included, that of all
      edge[1] = kTail;
      for (size_t i = 2; i < 256; ++i)
        edge[i] = std::sqrt(-2 * std::log(kArea / edge[i - 1] + std::exp(-edge[i - 1] * edge[i - 1] / 2)));
      edge[256] = 0;
      for (size_t i = 0; i < 257; ++i) height[i] = std::exp(-edge[i] * edge[i] / 2);
    }
  };
  static const Table& table() {
    static const Table made;
    return made;
  }
  const std::array<double, 257>& edge_ = table().edge;
  const std::array<double, 257>& height_ = table().height;
};

}  // namespace kvt::sim
