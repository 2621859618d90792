# SPDX-License-Identifier: Apache-2.0
# A machine without NUMA: one node, two CPUs.

check topology topology

frames() {
  { tier fast 0 24; tier slow 0 48; tier anywhere -1 32; arena; } > /tmp/nodes.toml
  start_kvtierd /tmp/nodes.toml
  frames_on_nodes fast=0 slow=0 anywhere=0 || exit 1
  stop_kvtierd
}
check frames frames

moves() {
  { churn; tier fast 0 24; tier slow 0 48; arena; } > /tmp/moves.toml
  start_kvtierd /tmp/moves.toml
  replay_and_look 100 fast=0 slow=0
  stop_kvtierd
}
check moves moves

# The emulated HBM, too, is memory of this node.
discovered() {
  { printf '[daemon]\ntiers = "discovered"\n'; arena; } > /tmp/discovered.toml
  start_kvtierd /tmp/discovered.toml
  frames_on_nodes hbm=0 dram=0 || exit 1
  stop_kvtierd
}
check discovered discovered

absent_node() {
  { tier fast 0 8; tier slow 1 8; arena; } > /tmp/absent.toml
  kvtierd_refuses 3 'tier "slow".*node 1.*this machine has 0$' kvtierd --config /tmp/absent.toml --socket-dir $sockets
}
check absent_node absent_node

memory_too_small() {
  { tier anywhere -1 600; arena; } > /tmp/large.toml
  kvtierd_refuses 2 'the tiers want 60[0-9] MiB, tables included; [0-9]+ MiB can be had' kvtierd --config /tmp/large.toml --socket-dir $sockets
}
check memory_too_small memory_too_small
