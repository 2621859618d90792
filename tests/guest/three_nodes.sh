# SPDX-License-Identifier: Apache-2.0
# Two packages and an expander, with HMAT.

check topology topology

nodes="near=0 far=1 expander=2"
{ churn; tier near 0 24; tier far 1 48; tier expander 2 72; arena; } > /tmp/nodes.toml

frames() {
  start_kvtierd /tmp/nodes.toml
  frames_on_nodes $nodes || exit 1
  # The program that all this rests on finds a frame that is elsewhere.
  frames_on_nodes near=0 far=2 expander=1 > /tmp/exchanged.log && wrong "frames_on_nodes takes node 1 for node 2"
  grep -q '12288 on node 1 WRONG' /tmp/exchanged.log || { cat /tmp/exchanged.log; wrong "no count of misplaced pages"; }
  stop_kvtierd
}
check frames frames

moves() {
  start_kvtierd /tmp/nodes.toml
  replay_and_look 1000 $nodes
  stop_kvtierd
}
check moves moves

# What the daemon took of each node it gives back.
given_back() {
  local node
  for node in 0 1 2; do shmem_kib $node; done > /tmp/before
  start_kvtierd /tmp/nodes.toml
  for node in 0 1 2; do shmem_kib $node; done > /tmp/while
  stop_kvtierd
  for node in 0 1 2; do shmem_kib $node; done > /tmp/after
  echo "KiB of shared memory on nodes 0, 1, 2: before $(echo $(cat /tmp/before)), with kvtierd $(echo $(cat /tmp/while)), after $(echo $(cat /tmp/after))"
  # Windows are whole frames of 64 KiB; this guest's files are in memory, too.
  paste /tmp/before /tmp/while /tmp/after | awk '
    { taken = $2 - $1; kept = $3 - $1; if (taken < (NR * 24 - 1) * 1024 || kept > 512) bad = 1 }
    END { exit bad }' || wrong "expected 24, 48, 72 MiB more with kvtierd, and no more than 512 KiB more after it"
}
check given_back given_back

absent_node() {
  { tier near 0 8; tier nowhere 3 8; arena; } > /tmp/absent.toml
  kvtierd_refuses 3 'tier "nowhere".*node 3.*0, 1, 2' kvtierd --config /tmp/absent.toml --socket-dir $sockets
}
check absent_node absent_node

node_too_small() {
  { tier near 0 8; tier far 1 520; arena; } > /tmp/large.toml
  kvtierd_refuses 2 'node 1 want 520 MiB' kvtierd --config /tmp/large.toml --socket-dir $sockets
}
check node_too_small node_too_small

# Less than the node has, more than is free there. Other nodes have room: nothing may be taken from them instead.
node_full() {
  mkdir /tmp/node2
  mount -t tmpfs -o size=500m,mpol=bind:2 none /tmp/node2
  dd if=/dev/zero of=/tmp/node2/ballast bs=1M count=400 2> /dev/null || wrong "cannot fill node 2"
  echo "node 2 has $(free_kib 2) KiB free"
  { tier near 0 8; tier expander 2 200; arena; } > /tmp/full.toml
  kvtierd_refuses 2 'node 2' kvtierd --config /tmp/full.toml --socket-dir $sockets
  umount /tmp/node2
}
check node_full node_full

# A cpuset as a container manager sets it.
cpuset_without_node() {
  kvtierd_refuses 3 'tier "far".*node 1' in_cgroup mems cpuset.mems=0,2 -- kvtierd --config /tmp/nodes.toml --socket-dir $sockets
}
check cpuset_without_node cpuset_without_node

cgroup_limit() {
  local peak
  kvtierd_refuses 2 'the tiers want 144 MiB' in_cgroup limit memory.max=96M memory.swap.max=0 -- kvtierd --config /tmp/nodes.toml --socket-dir $sockets
  peak=$(cat /sys/fs/cgroup/limit/memory.peak)
  echo "the cgroup's peak was $peak bytes"
  grep oom_kill /sys/fs/cgroup/limit/memory.events
  [ $peak -lt 16777216 ] || wrong "memory was taken before the refusal"
  grep -q '^oom_kill 0$' /sys/fs/cgroup/limit/memory.events || wrong "something was killed for lack of memory"
}
check cgroup_limit cgroup_limit
