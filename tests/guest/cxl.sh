# SPDX-License-Identifier: Apache-2.0
# A CXL memory device that becomes node 4 while there is no node 3. Each of its OS pages takes 500 us: tiers are small.

for module in cxl_acpi cxl_pci cxl_mem dax_cxl kmem; do insmod /modules/$module.ko; done

# What `cxl create-region` does: the device's one endpoint decoder, in the window of its host bridge.
online_expander() {
  local bus=/sys/bus/cxl bytes region endpoint
  eventually [ -e $bus/devices/mem0/ram/size ]
  eventually ls -d $bus/devices/endpoint*/decoder*.0 2> /dev/null
  endpoint=$(basename $bus/devices/endpoint*/decoder*.0)
  bytes=$(($(cat $bus/devices/mem0/ram/size)))
  region=$(cat $bus/devices/decoder0.1/create_ram_region)
  echo $region > $bus/devices/decoder0.1/create_ram_region
  cd $bus/devices/$region
  echo 256 > interleave_granularity
  echo 1 > interleave_ways
  echo ram > $bus/devices/$endpoint/mode
  echo $bytes > $bus/devices/$endpoint/dpa_size
  echo $bytes > size
  echo $endpoint > target0
  echo 1 > commit
  echo $region > $bus/drivers/cxl_region/bind
  eventually grep -qs 'MemTotal: *262144' /sys/devices/system/node/node4/meminfo
}
online() {
  online_expander
  dmesg | grep -i cxl
  echo "nodes: $(cat /sys/devices/system/node/online); node 4 has $(free_kib 4) KiB free"
  [ "$(cat /sys/devices/system/node/online)" = 0-2,4 ] || wrong "expected nodes 0-2,4"
  # The case that hwloc has no words for: figures, and nobody whose figures they are.
  grep . /sys/devices/system/node/node4/access0/initiators/read_* || wrong "expected bandwidth and latency of node 4"
  ls -d /sys/devices/system/node/node4/access0/initiators/node* 2> /dev/null && wrong "expected no initiator of node 4"
  return 0
}
check online online

check topology topology

nodes="near=0 far=1 dram=2 cxl=4"
{ churn; tier near 0 6; tier far 1 6; tier dram 2 6; tier cxl 4 3; arena; echo 'page_bytes = "16KiB"'; } > /tmp/nodes.toml

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

# In the hole of the numbers.
absent_node() {
  { tier near 0 2; tier cxl 3 2; arena; } > /tmp/absent.toml
  kvtierd_refuses 3 'tier "cxl".*node 3.*0, 1, 2, 4' kvtierd --config /tmp/absent.toml --socket-dir $sockets
}
check absent_node absent_node
