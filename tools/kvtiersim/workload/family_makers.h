// SPDX-License-Identifier: Apache-2.0
//
// The generators behind make_family(), which names the trace and finishes it.
#pragma once

#include "tools/kvtiersim/model/random.h"
#include "tools/kvtiersim/model/trace.h"

namespace kvt::sim {

inline constexpr uint32_t kFamilySteps = 300;
inline constexpr uint32_t kFamilyPages = 4000;
inline constexpr uint64_t kFamilyPageBytes = 64 << 10;  // no result depends on it: nothing is fixed traffic

// sequences.cc
[[nodiscard]] Workload make_dense(Random& random);
[[nodiscard]] Workload make_shared(Random& random);
[[nodiscard]] Workload make_burst(Random& random);
// sparse.cc
[[nodiscard]] Workload make_sparse_slow(Random& random);
[[nodiscard]] Workload make_sparse_fast(Random& random);
// zipf.cc
[[nodiscard]] Workload make_zipf_shift(Random& random);
[[nodiscard]] Workload make_zipf(Random& random);
// adversarial.cc
[[nodiscard]] Workload make_adversarial_lru(Random& random);
[[nodiscard]] Workload make_adversarial_self(Random& random);

}  // namespace kvt::sim
