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

# The wall clock jumps by years, both ways, while clients read every word; nothing of the daemon goes by it.
somebody_is_attached() { kvtierctl sessions --json | grep -q '"pid"'; }
nobody_is_attached() { kvtierctl sessions --json | grep -q '"sessions": *\[\]'; }
clock() {
  local replay began now jump up
  { churn; tier fast 0 24; tier slow 0 48; arena; } > /tmp/clock.toml
  start_kvtierd /tmp/clock.toml
  began=$(cut -d. -f1 /proc/uptime)
  kvtier-replay --socket-dir $sockets --seconds 8 --processes 2 --seed 17 --json /results/replay.json > /tmp/replay.log 2>&1 &
  replay=$!
  now=$(date +%s)
  for jump in 31536000 -63072000 86400 -1 3600 -1000000000 2000000000 -86400; do
    usleep 700000
    date -s @$((now + jump)) > /dev/null || wrong "the clock cannot be set"
  done
  date -s @$((now + 500000000)) > /dev/null
  replay_was_right $replay
  kvtierctl status --json > /tmp/status.json
  up=$(sed -n 's/.*"uptime_seconds": *\([0-9][0-9]*\).*/\1/p' /tmp/status.json | head -n 1)
  began=$(($(cut -d. -f1 /proc/uptime) - began))
  [ $up -ge $((began - 3)) ] && [ $up -le $((began + 3)) ] || wrong "the daemon is $up s old, and not $began"
  # Who dies while it jumps is noticed at once.
  kvtier-replay --socket-dir $sockets --seconds 60 --processes 2 --seed 18 > /tmp/replay.log 2>&1 &
  eventually somebody_is_attached
  date -s @$((now - 500000000)) > /dev/null
  while killall -9 kvtier-replay 2> /dev/null; do usleep 20000; done
  date -s @$((now + 500000000)) > /dev/null
  eventually nobody_is_attached
  date -s @$((now + 20)) > /dev/null
  stop_kvtierd
}
check clock clock
