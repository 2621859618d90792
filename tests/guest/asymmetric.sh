# SPDX-License-Identifier: Apache-2.0
# Nodes of unequal sizes, one without a CPU, no HMAT.

check topology topology

nodes="big=1 small=0 tiny=2"

# The order of the tiers is not that of the nodes. A page is no multiple of an OS page, so frames share these.
frames() {
  { tier big 1 200; tier small 0 40; tier tiny 2 24; arena; echo 'page_bytes = 49664'; } > /tmp/nodes.toml
  start_kvtierd /tmp/nodes.toml
  frames_on_nodes $nodes || exit 1
  stop_kvtierd
}
check frames frames

moves() {
  { churn; tier big 1 48; tier small 0 32; tier tiny 2 32; arena; echo 'page_bytes = 49664'; } > /tmp/moves.toml
  start_kvtierd /tmp/moves.toml
  replay_and_look 100 $nodes
  stop_kvtierd
}
check moves moves

# No [[tier]]: those that discovery proposes, with four fifths of what can be had.
discovered() {
  { printf '[daemon]\ntiers = "discovered"\n'; arena; } > /tmp/discovered.toml
  start_kvtierd /tmp/discovered.toml
  frames_on_nodes dram=0,1 other=2 | tee /tmp/look.log || exit 1
  grep '^tier dram' /tmp/look.log | grep 'on node 0' | grep -q 'on node 1' || wrong "tier dram is not on both"
  stop_kvtierd
}
check discovered discovered

# Fits into the machine, and into every node but the one that it names.
node_too_small() {
  { tier big 1 16; tier tiny 2 160; arena; } > /tmp/large.toml
  kvtierd_refuses 2 'node 2 want 160 MiB, tables included' kvtierd --config /tmp/large.toml --socket-dir $sockets
}
check node_too_small node_too_small

# Two tiers of one node, each of which would fit.
two_tiers_too_large() {
  { tier big 1 16; tier one 2 64; tier other 2 80; arena; } > /tmp/large.toml
  kvtierd_refuses 2 'node 2 want 144 MiB, tables included' kvtierd --config /tmp/large.toml --socket-dir $sockets
}
check two_tiers_too_large two_tiers_too_large
