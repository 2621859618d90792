# SPDX-License-Identifier: Apache-2.0
#
# What a scenario is made of; runs in the guest, under busybox. Read by /init before the scenario.
failed=0
sockets=/run/kvtier
export KVTIER_SOCKET_DIR=$sockets
set -o pipefail

# check NAME COMMAND...: runs it in a subshell, its output on the console and in /results/NAME.log, its status in
# /results/NAME.rc. Later checks run whatever came out.
check() {
  local name=$1 rc left
  shift
  echo "---- $name"
  ("$@") 2>&1 | tee /results/$name.log
  rc=$?
  echo $rc > /results/$name.rc
  if [ $rc -ne 0 ]; then
    failed=$((failed + 1))
    echo "---- $name FAILED, status $rc"
    # What it has left running is in the way of the next one.
    for left in kvtierd kvtier-replay; do
      while killall -9 $left 2> /dev/null; do usleep 20000; done
    done
    rm -f $sockets/*.sock
  fi
}

# Says what is wrong and ends the check.
wrong() {
  echo "WRONG: $*"
  exit 1
}

# eventually COMMAND...: polls until it succeeds; ends the check after 60 s.
eventually() {
  local end=$(($(date +%s) + 60))
  until "$@"; do
    if [ $(date +%s) -ge $end ]; then
      [ ! -e /tmp/kvtierd.log ] || tail -n 20 /tmp/kvtierd.log
      wrong "not within 60 s: $*"
    fi
    usleep 20000
  done
}

# tier NAME NODE MIB [LINE...]: one [[tier]] of a configuration; NODE "" leaves the nodes to the lines.
tier() {
  printf '[[tier]]\nname = "%s"\nbytes = "%sMiB"\n' "$1" "$3"
  [ -z "$2" ] || echo "node = $2"
  shift 3
  while [ $# -ne 0 ]; do
    echo "$1"
    shift
  done
}
arena() { printf '[[arena]]\nname = "default"\n'; }
# Random moves all the time.
churn() {
  printf '[daemon]\nperiod_ms = 5\n'
  printf '[policy]\nname = "churn"\ncooldown_ms = 5\nmove_bytes_per_second = "1GiB"\n'
}

# start_kvtierd CONFIG: returns when it answers; ends the check when it ends instead. Its log: /tmp/kvtierd.log.
start_kvtierd() {
  kvtierd --config $1 --socket-dir $sockets > /tmp/kvtierd.log 2>&1 &
  daemon=$!
  eventually kvtierd_answers
  cat /tmp/kvtierd.log
}
kvtierd_answers() {
  kvtierctl status --json > /dev/null 2>&1 && return
  kill -0 $daemon 2> /dev/null && return 1
  cat /tmp/kvtierd.log
  wrong "kvtierd ended before it answered"
}
stop_kvtierd() {
  local rc
  kill -TERM $daemon
  wait $daemon
  rc=$?
  [ $rc -eq 0 ] || { cat /tmp/kvtierd.log; wrong "kvtierd stopped with status $rc"; }
}

kvtierd_ended() {
  kill -0 $daemon 2> /dev/null || return 0
  kvtierctl status --json > /dev/null 2>&1 || return 1
  killall kvtierd
  cat /tmp/refused.log
  wrong "kvtierd has started; expected it to refuse"
}

# kvtierd_refuses STATUS WORDS COMMAND...: the command, which is to be a kvtierd, ends with this status, and one line
# of its log has these words (a regular expression).
kvtierd_refuses() {
  local status=$1 words=$2 rc
  shift 2
  "$@" > /tmp/refused.log 2>&1 &
  daemon=$!
  eventually kvtierd_ended
  wait $daemon
  rc=$?
  cat /tmp/refused.log
  [ $rc -eq $status ] || wrong "status $rc; expected $status"
  grep -q -E "$words" /tmp/refused.log || wrong "no line with: $words"
  [ ! -e $sockets/attach.sock ] || wrong "$sockets/attach.sock was left"
  [ ! -e $sockets/control.sock ] || wrong "$sockets/control.sock was left"
}

# Free memory of a node, KiB.
free_kib() { awk '/MemFree:/ { print $4 }' /sys/devices/system/node/node$1/meminfo; }
# Huge pages of 2 MiB on a node: reserves that many; how many nobody has.
reserve_huge_pages() { echo $2 > /sys/devices/system/node/node$1/hugepages/hugepages-2048kB/nr_hugepages; }
free_huge_pages() { cat /sys/devices/system/node/node$1/hugepages/hugepages-2048kB/free_hugepages; }
# Memory of files in memory (memfds are such files) on a node, KiB.
shmem_kib() { awk '/Shmem:/ { print $4 }' /sys/devices/system/node/node$1/meminfo; }

# What kvtierctl finds without a daemon; check_topology compares /results/topology.json with what QEMU was told.
topology() {
  kvtierctl topology --json > /results/topology.json || { cat /results/topology.json; exit 1; }
  kvtierctl topology
}

# number FILE NAME: the number that a JSON file, one key a line, has under a name.
number() {
  local value
  value=$(sed -n "s/^ *\"$2\": \([0-9][0-9]*\),\{0,1\}\$/\1/p" $1 | head -n 1)
  [ -n "$value" ] || wrong "$1 has no number $2" >&2
  echo $value
}

# replay_was_right PROCESS: waits for a kvtier-replay that reports to /results/replay.json; ends the check when a word was not.
replay_was_right() {
  local rc key
  wait $1
  rc=$?
  cat /tmp/replay.log
  [ $rc -eq 0 ] || { tail -n 30 /tmp/kvtierd.log; wrong "kvtier-replay ended with $rc"; }
  for key in corrupt lost leaked; do
    [ "$(number /results/replay.json $key)" = 0 ] || wrong "$key is not 0"
  done
}

# replay_and_look MOVES_MIN TIER=NODE...: clients verify every word that they read while pages move between the nodes.
# Meanwhile, and afterwards, each frame is on its node. Leaves /results/replay.json.
replay_and_look() {
  local moves_min=$1 looks=0 replay moves
  shift
  kvtier-replay --socket-dir $sockets --seconds 4 --processes 2 --seed 11 --json /results/replay.json > /tmp/replay.log 2>&1 &
  replay=$!
  while kill -0 $replay 2> /dev/null; do
    frames_on_nodes "$@" > /tmp/look.log || { cat /tmp/look.log; wrong "a frame was not on its node during the replay"; }
    looks=$((looks + 1))
  done
  replay_was_right $replay
  frames_on_nodes "$@" || exit 1
  moves=$(($(number /results/replay.json promoted) + $(number /results/replay.json demoted_copy)))
  echo "$moves copies between nodes; looked at all frames $looks times meanwhile"
  [ $moves -ge $moves_min ] || wrong "$moves copies; expected at least $moves_min"
  [ $looks -ge 1 ] || wrong "the replay ended before all frames had been looked at"
}

# in_cgroup NAME FILE=VALUE... -- COMMAND...: runs it in a new cgroup with these limits.
in_cgroup() {
  local group=/sys/fs/cgroup/$1
  shift
  echo "+memory +cpuset" > /sys/fs/cgroup/cgroup.subtree_control || return 1
  mkdir $group || return 1
  while [ "$1" != -- ]; do
    echo "${1#*=}" > $group/${1%%=*} || return 1
    shift
  done
  shift
  sh -c 'echo $$ > "$0/cgroup.procs" && exec "$@"' $group "$@"
}
