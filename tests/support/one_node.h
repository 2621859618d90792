// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "daemon/topology/topology.h"

namespace kvt::test {

/// A machine with one large node, beside the real memory of this one.
inline Topology one_node() {
  Topology topology;
  topology.nodes.resize(1);
  topology.nodes[0].bytes = 1ull << 40;
  topology.nodes[0].kind = MemoryKind::kDram;
  return topology;
}

}  // namespace kvt::test
