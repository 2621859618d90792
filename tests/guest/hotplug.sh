# SPDX-License-Identifier: Apache-2.0
# Two packages and memory that comes and goes: node 2 is a module that was plugged in.

online() {
  local block
  for block in /sys/devices/system/memory/memory*; do
    [ "$(cat $block/state)" = online ] || echo online_movable > $block/state || wrong "$block cannot be brought online"
  done
  dmesg | grep -i 'hotplug\|memory block' | tail -n 4
  echo "node 2: $(grep MemTotal /sys/devices/system/node/node2/meminfo)"
  [ "$(awk '/MemTotal:/ { print $4 }' /sys/devices/system/node/node2/meminfo)" -ge 131072 ] || wrong "node 2 has no memory"
}
check online online

# A daemon that has run without the module gets it while clients read: a tier, and an arena in it.
tier_added() {
  local replay before more
  { churn; tier near 0 24; tier far 1 48; arena; printf 'bytes = { near = "12MiB" }\n'; } > /tmp/without.toml
  start_kvtierd /tmp/without.toml
  kvtier-replay --socket-dir $sockets --seconds 6 --processes 1 --seed 12 --json /results/replay.json > /tmp/replay.log 2>&1 &
  replay=$!
  sleep 1
  before=$(shmem_kib 2)
  kvtierctl tier add plugged node=2 bytes=64MiB || wrong "the tier is not added"
  kvtierctl arena create chat bytes.near=0 bytes.far=0 bytes.plugged=48MiB || wrong "there is no arena in it"
  more=$(($(shmem_kib 2) - before))
  echo "$more KiB more of shared memory on node 2"
  [ $more -ge 48000 ] || wrong "the arena does not lie on node 2"
  kvtier-replay --socket-dir $sockets --arena chat --seconds 2 --processes 1 --seed 19 > /tmp/chat.log 2>&1 ||
    { cat /tmp/chat.log; wrong "the replay in it failed"; }
  kvtierctl tier remove plugged && wrong "it was removed under an arena"
  kvtierctl arena delete chat --yes && kvtierctl tier remove plugged || wrong "it cannot be removed"
  replay_was_right $replay
  stop_kvtierd
}
check tier_added tier_added

{ churn; tier near 0 24; tier far 1 48; tier plugged 2 72; arena; } > /tmp/nodes.toml

# The kernel takes memory for bad, as after a machine check; the daemon meets it while it copies.
poisoned() {
  local retired
  start_kvtierd /tmp/nodes.toml
  poison_frames 400 3 || { cat /tmp/kvtierd.log; exit 1; }
  grep 'has gone bad\|bad memory\|memory' /tmp/kvtierd.log | tail -n 5
  kvtierctl status --json > /tmp/status.json
  retired=$(sed -n 's/.*"retired": \([0-9][0-9]*\).*/\1/p' /tmp/status.json | awk '{ all += $1 } END { print all }')
  echo "$retired frames are not used any more"
  [ "$retired" -ge 1 ] || wrong "no frame was retired"
  kvtier-replay --socket-dir $sockets --seconds 2 --processes 2 --seed 13 --json /results/replay.json > /tmp/replay.log 2>&1 ||
    { cat /tmp/replay.log; wrong "the replay after it failed"; }
  for key in corrupt lost; do
    [ "$(number /results/replay.json $key)" = 0 ] || wrong "$key is not 0"
  done
  stop_kvtierd
}
check poisoned poisoned

status_says() { kvtierctl status | grep -q "$1"; }
offline() {
  local block
  for block in /sys/devices/system/node/node2/memory*; do echo offline > $block/state || return 1; done
}
node_2_is_gone() { [ ! -e /sys/devices/system/node/node2 ] || grep -q 'MemTotal: *0 kB' /sys/devices/system/node/node2/meminfo; }
says() { grep -q "$1" /tmp/kvtierd.log; }

# Its memory is taken offline while clients read every word.
node_lost() {
  local replay before process
  kvtierd --keep --config /tmp/nodes.toml --socket-dir $sockets > /tmp/kvtierd.log 2>&1 &
  daemon=$!
  eventually kvtierd_answers
  kvtier-replay --socket-dir $sockets --seconds 14 --processes 2 --seed 14 --json /results/replay.json > /tmp/replay.log 2>&1 &
  replay=$!
  sleep 3
  eventually offline
  eventually node_2_is_gone
  eventually says 'NUMA node 2 of tier plugged has no memory any more; the tier is closed'
  eventually status_says 'tier plugged has memory any more'
  # Another daemon takes over what lies elsewhere now.
  before=$(pidof kvtierd)
  for process in $before; do [ $process -eq $daemon ] || kill -9 $process || wrong "the daemon was not killed"; done
  eventually says 'windows that an earlier daemon has made stay'
  eventually kvtierd_answers
  eventually status_says 'tier plugged has memory any more'
  echo "kvtierd was $before, is $(pidof kvtierd)"
  replay_was_right $replay
  # It comes back, and is used when an operator says so.
  (online) > /dev/null || wrong "node 2 does not come back"
  kvtier-replay --socket-dir $sockets --seconds 3 --processes 1 --seed 15 --json /results/replay.json > /tmp/replay.log 2>&1 ||
    { cat /tmp/replay.log; wrong "the replay failed"; }
  says 'NUMA node 2 of tier plugged has memory again' || wrong "the daemon has not seen that node 2 is back"
  kvtierctl resize default plugged all --yes || wrong "the tier is not used again"
  kvtier-replay --socket-dir $sockets --seconds 2 --processes 1 --seed 16 --json /results/replay.json > /tmp/replay.log 2>&1 ||
    { cat /tmp/replay.log; wrong "the replay failed"; }
  grep 'node 2' /tmp/kvtierd.log
  kill -TERM $daemon
  wait $daemon || wrong "kvtierd --keep ended with $?"
}
check node_lost node_lost
