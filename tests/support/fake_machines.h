// SPDX-License-Identifier: Apache-2.0
//
// Hand-made machines for fake_sysfs.h, of kinds that no recording is had of. Sizes and distances are as
// published where the machine exists.
#pragma once

#include "tests/support/fake_sysfs.h"

namespace kvt::test {

/// One Grace-Hopper: LPDDR as node 0, HBM3 as node 1, nodes 2 to 8 kept for partitions of the GPU. Known by
/// its cores and the GPU's driver alone. `firmware` adds an HMAT, which says what the CPU sees of both.
FakeMachine gh200(bool firmware = false);
/// Four of them in one box: CPUs are nodes 0 to 3, then eight nodes a GPU.
FakeMachine gh200_four_way();
/// Two sockets, each with DRAM and a CXL expander with HMAT; OS indices 0, 1, 3 and 6.
FakeMachine dram_and_cxl();
/// Memory that firmware has set apart, slower than DRAM, onlined; its HMAT names no initiator.
FakeMachine set_apart_without_initiators();
/// Xeon Max in flat mode: HBM as nodes without CPUs, told by HMAT; `with_cxl` adds an expander, a third
/// speed.
FakeMachine xeon_max(bool with_cxl = false);
/// An HMAT that says 0 of everything, and a node without CPUs.
FakeMachine zeros();
/// Two expanders on CXL regions; firmware knows the speed of the nearer one alone, and of one socket.
FakeMachine one_figure_a_kind();
/// No HMAT and no distances; a node without CPUs.
FakeMachine nothing_said();
/// Sockets without memory, one with; a node that has neither.
FakeMachine memoryless();
/// Nodes 1 and 3.
FakeMachine node_0_missing();
/// Memory blocks that are offline: of a node and of none.
FakeMachine offline_blocks();
/// DAX devices of three kinds and CXL memory, none or half of it in use.
FakeMachine devices_not_in_use();
/// x86 with one GPU whose memory is a node, which hwloc hides; `status`: what its driver says of it.
FakeMachine one_gpu(const std::string& status = "online");
/// Eight GPUs with memory as nodes, DRAM and CXL: more tiers than an arena has.
FakeMachine eight_gpus();
/// Two nodes, and a cpuset that has the first alone.
FakeMachine in_a_cpuset();

}  // namespace kvt::test
