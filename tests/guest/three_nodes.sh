# SPDX-License-Identifier: Apache-2.0
# Two packages and an expander, with HMAT.

{ churn; tier near 0 24; tier far 1 48; tier expander 2 72; arena; } > /tmp/nodes.toml

frames() {
  start_kvtierd /tmp/nodes.toml
  frames_on_nodes near=0 far=1 expander=2 || exit 1
  stop_kvtierd
}
check frames frames
