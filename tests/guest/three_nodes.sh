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
  replay_and_look 100 $nodes
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

# A node is emptied while clients read every word, and used again.
drained() {
  local before after replay
  start_kvtierd /tmp/nodes.toml
  kvtier-replay --socket-dir $sockets --seconds 8 --processes 2 --seed 12 --json /results/replay.json > /tmp/replay.log 2>&1 &
  replay=$!
  sleep 2
  before=$(shmem_kib 2)
  kvtierctl drain expander --yes || wrong "node 2 was not drained"
  after=$(shmem_kib 2)
  echo "KiB of shared memory on node 2: $before with the tier, $after when it is drained"
  [ $((before - after)) -ge $((70 * 1024)) ] || wrong "expected 70 MiB less"
  kvtierctl drain expander --undo || wrong "node 2 is not used again"
  replay_was_right $replay
  frames_on_nodes near=0 far=1 expander=2 || exit 1
  stop_kvtierd
}
check drained drained

# A tier of two nodes has memory of both, by what can be had there.
several_nodes() {
  { tier far 1 24; tier both "" 96 'nodes = [0, 2]'; arena; } > /tmp/several.toml
  start_kvtierd /tmp/several.toml
  frames_on_nodes far=1 both=0,2 | tee /tmp/look.log || exit 1
  grep '^tier both' /tmp/look.log | grep 'on node 0' | grep -q 'on node 2' || wrong "tier both is not on both"
  stop_kvtierd
}
check several_nodes several_nodes

# Nodes by what discovery takes them for.
kinds() {
  { tier main "" 96 'kind = "dram"'; tier expander "" 48 'kind = "cxl"'; arena; } > /tmp/kinds.toml
  start_kvtierd /tmp/kinds.toml
  frames_on_nodes main=0,1 expander=2 | tee /tmp/look.log || exit 1
  grep '^tier main' /tmp/look.log | grep 'on node 0' | grep -q 'on node 1' || wrong "tier main is not on both"
  stop_kvtierd
  { tier fast "" 24 'kind = "hbm"'; arena; } > /tmp/absent.toml
  kvtierd_refuses 3 'tier "fast" wants nodes of kind hbm' kvtierd --config /tmp/absent.toml --socket-dir $sockets
}
check kinds kinds

# Windows of huge pages, each of its node; pages move between them.
hugetlb() {
  local node before
  # A window ends with a whole huge page, so it takes one more than fit.
  for node in 0 1 2; do reserve_huge_pages $node $((12 * node + 13)); done
  for node in 0 1 2; do
    before="$before $(free_huge_pages $node)"
    [ $(free_huge_pages $node) -eq $((12 * node + 13)) ] || wrong "cannot reserve huge pages on node $node"
  done
  { churn; tier near 0 24 'huge_pages = "hugetlb"'; tier far 1 48 'huge_pages = "hugetlb"'; tier expander 2 72; arena; } > /tmp/huge.toml
  start_kvtierd /tmp/huge.toml
  for node in 0 1 2; do echo "huge pages of node $node: $(free_huge_pages $node) free"; done
  # "auto" takes them where they are.
  for node in 0 1 2; do [ $(free_huge_pages $node) -le 1 ] || wrong "huge pages of node $node were not taken"; done
  awk '/kvt-default-(near|far|expander)/ { window = $6 } /^KernelPageSize:/ && window { print window, $2, "KiB"; window = "" }' \
    /proc/$daemon/smaps | sort -u | tee /tmp/sizes
  [ "$(grep -c ' 2048 KiB' /tmp/sizes)" -eq 3 ] || wrong "expected three windows of huge pages"
  replay_and_look 100 $nodes
  stop_kvtierd
  for node in 0 1 2; do
    [ $(free_huge_pages $node) -eq $((12 * node + 13)) ] || wrong "huge pages of node $node were not given back"
  done
}
check hugetlb hugetlb

# Enough of them in the machine, too few on the node.
hugetlb_elsewhere() {
  reserve_huge_pages 0 0
  reserve_huge_pages 1 4
  reserve_huge_pages 2 40
  { tier near 0 8; tier far 1 24 'huge_pages = "hugetlb"'; arena; } > /tmp/huge.toml
  kvtierd_refuses 2 'tier "far".*huge pages.*node 1' kvtierd --config /tmp/huge.toml --socket-dir $sockets
  [ $(free_huge_pages 1) -eq 4 ] || wrong "huge pages of node 1 were not given back"
}
check hugetlb_elsewhere hugetlb_elsewhere
for node in 0 1 2; do reserve_huge_pages $node 0; done

# Transparent ones: as many as the kernel finds, and on the node.
thp() {
  local huge_kib
  echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled
  { tier near 0 24 'huge_pages = "off"'; tier far 1 64 'huge_pages = "thp"'; arena; } > /tmp/thp.toml
  start_kvtierd /tmp/thp.toml
  frames_on_nodes near=0 far=1 || exit 1
  huge_kib=$(awk '/ShmemHugePages:/ { print $4 }' /sys/devices/system/node/node1/meminfo)
  echo "node 1 has $huge_kib KiB of shared memory in transparent huge pages"
  [ $huge_kib -ge 49152 ] || wrong "expected at least three quarters of 64 MiB"
  huge_kib=$(awk '/ShmemHugePages:/ { print $4 }' /sys/devices/system/node/node0/meminfo)
  [ $huge_kib -eq 0 ] || wrong "node 0 has $huge_kib KiB of them; expected none"
  stop_kvtierd
  echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled
}
check thp thp

absent_node() {
  { tier near 0 8; tier nowhere 3 8; arena; } > /tmp/absent.toml
  kvtierd_refuses 3 'tier "nowhere".*node 3.*0, 1, 2' kvtierd --config /tmp/absent.toml --socket-dir $sockets
}
check absent_node absent_node

node_too_small() {
  { tier near 0 8; tier far 1 520; arena; } > /tmp/large.toml
  kvtierd_refuses 2 'node 1 want 52[0-9] MiB, tables included' kvtierd --config /tmp/large.toml --socket-dir $sockets
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
  kvtierd_refuses 2 'cgroup|memory.max' in_cgroup limit memory.max=96M memory.swap.max=0 -- kvtierd --config /tmp/nodes.toml --socket-dir $sockets
  peak=$(cat /sys/fs/cgroup/limit/memory.peak)
  echo "the cgroup's peak was $peak bytes"
  grep oom_kill /sys/fs/cgroup/limit/memory.events
  [ $peak -lt 16777216 ] || wrong "memory was taken before the refusal"
  grep -q '^oom_kill 0$' /sys/fs/cgroup/limit/memory.events || wrong "something was killed for lack of memory"
}
check cgroup_limit cgroup_limit
