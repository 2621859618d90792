// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tools/kvtiersim/model/machine.h"

namespace kvt::sim {

/// A machine from a JSON file (docs/kvtiersim.md): tiers from the fastest to that which holds all pages, and
/// links. Throws std::invalid_argument with the file, the field and what was expected.
[[nodiscard]] Machine read_machine(const std::string& path);

}  // namespace kvt::sim
