// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/workload/families.h"

#include <array>
#include <stdexcept>

#include "tools/kvtiersim/workload/family_makers.h"

namespace kvt::sim {

namespace {

struct Family {
  const char* name;
  Workload (*make)(Random&);
};
constexpr std::array<Family, 9> kFamilies{{
    {"dense", make_dense},
    {"shared", make_shared},
    {"sparse-slow", make_sparse_slow},
    {"sparse-fast", make_sparse_fast},
    {"zipf-shift", make_zipf_shift},
    {"zipf", make_zipf},
    {"adversarial-lru", make_adversarial_lru},
    {"adversarial-self", make_adversarial_self},
    {"burst", make_burst},
}};

}  // namespace

Workload make_family(const std::string& name, uint64_t seed) {
  for (size_t i = 0; i < kFamilies.size(); ++i) {
    if (name != kFamilies[i].name) continue;
    Random random(seed * 100 + i);  // families of one seed have nothing in common
    Workload workload = kFamilies[i].make(random);
    workload.trace.name = name;
    workload.trace.finish();
    return workload;
  }
  throw std::invalid_argument("no family \"" + name + "\"; expected " + family_names());
}

std::string family_names() {
  std::string names;
  for (const Family& family : kFamilies) names += (names.empty() ? "" : ", ") + std::string(family.name);
  return names;
}

}  // namespace kvt::sim
