# SPDX-License-Identifier: Apache-2.0
# As many nodes as a daemon may have tiers; nodes 4 to 7 have no CPU.

check topology topology

nodes=""
{
  churn
  for node in 0 1 2 3 4 5 6 7; do
    tier tier$node $node $((8 + node * 2))
    nodes="$nodes tier$node=$node"
  done
  arena
} > /tmp/nodes.toml

frames() {
  start_kvtierd /tmp/nodes.toml
  frames_on_nodes $nodes || exit 1
  stop_kvtierd
}
check frames frames

moves() {
  start_kvtierd /tmp/nodes.toml
  replay_and_look 100 $nodes
  stop_kvtierd
}
check moves moves
