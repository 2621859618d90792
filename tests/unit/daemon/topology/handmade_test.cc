// SPDX-License-Identifier: Apache-2.0
//
// What is found on hand-made machines, as tables: nodes, tiers, memory not in use.
#include <gtest/gtest.h>

#include "daemon/topology/topology.h"
#include "tests/support/fake_machines.h"
#include "tests/unit/daemon/topology/machine_table.h"

namespace kvt {
namespace {

using namespace test;

std::string found_on(const FakeMachine& machine) {
  const FakeSysfs sysfs(machine);
  return table_of(TopologySource::Kind::kFsroot, sysfs.root());
}

/// The machine as discovery sees it, for what the table does not show.
Topology discovered(const FakeMachine& machine) {
  const FakeSysfs sysfs(machine);
  auto topology = discover_topology({TopologySource::Kind::kFsroot, sysfs.root()});
  EXPECT_TRUE(topology.has_value()) << topology.error().text;
  return topology ? *topology : Topology{};
}

constexpr const char* kGh200 = R"(node 0: lpddr, 503316480 KiB, cpus 0-71, read 335 profile, latency -
node 1: gpu, 100663296 KiB, cpus -, read 3728 profile, latency -
empty 2-8
tier gpu0: gpu, nodes 1, 100663296 KiB, read 3728 profile
tier lpddr: lpddr, nodes 0, 503316480 KiB, read 335 profile
)";

TEST(HandMade, Gh200) { EXPECT_EQ(found_on(gh200()), kGh200); }

TEST(HandMade, Gh200WhoseFirmwareSaysWhatTheCpuSees) {
  // The CPU reads both through its own ports at about the same speed; placement is about what the GPU reads.
  EXPECT_EQ(found_on(gh200(true)), kGh200);
  const Topology topology = discovered(gh200(true));
  ASSERT_EQ(topology.find(1)->initiators.size(), 1u);
  EXPECT_EQ(topology.find(1)->initiators[0].cpus, "0-71");
  EXPECT_DOUBLE_EQ(topology.find(1)->initiators[0].read_gbs, 400);
}

TEST(HandMade, Gh200IsKnownByItsNameToo) {
  FakeMachine machine = gh200();
  machine.cpu = "0xd00";  // an unknown part
  EXPECT_EQ(discovered(machine).find(0)->kind, MemoryKind::kDram);
  machine.product = "Quanta Grace Hopper MGX";
  EXPECT_EQ(discovered(machine).find(0)->kind, MemoryKind::kLpddr);
}

TEST(HandMade, Gh200FourWay) {
  EXPECT_EQ(found_on(gh200_four_way()),
            R"(node 0: lpddr, 125829120 KiB, cpus 0-71, read 335 profile, latency -
node 1: lpddr, 125829120 KiB, cpus 72-143, read 335 profile, latency -
node 2: lpddr, 125829120 KiB, cpus 144-215, read 335 profile, latency -
node 3: lpddr, 125829120 KiB, cpus 216-287, read 335 profile, latency -
node 4: gpu, 100663296 KiB, cpus -, read 3728 profile, latency -
node 12: gpu, 100663296 KiB, cpus -, read 3728 profile, latency -
node 20: gpu, 100663296 KiB, cpus -, read 3728 profile, latency -
node 28: gpu, 100663296 KiB, cpus -, read 3728 profile, latency -
empty 5-11,13-19,21-27,29-35
tier gpu0: gpu, nodes 4, 100663296 KiB, read 3728 profile, column 0
tier gpu1: gpu, nodes 12, 100663296 KiB, read 3728 profile, column 1
tier gpu2: gpu, nodes 20, 100663296 KiB, read 3728 profile, column 2
tier gpu3: gpu, nodes 28, 100663296 KiB, read 3728 profile, column 3
tier lpddr: lpddr, nodes 0-3, 503316480 KiB, read 335 profile
)");
  const Topology topology = discovered(gh200_four_way());
  EXPECT_EQ(topology.packages.size(), 4u);
  EXPECT_EQ(topology.find(4)->distance, 80u) << "of its own CPU, not of another";
  EXPECT_EQ(topology.find(3)->distance, 10u);
}

TEST(HandMade, DramAndCxl) {
  EXPECT_EQ(found_on(dram_and_cxl()),
            R"(node 0: dram, 268435456 KiB, cpus 0-3, read 220 hmat, latency 110 hmat
node 1: dram, 268435456 KiB, cpus 4-7, read 220 hmat, latency 110 hmat
node 3: cxl, 134217728 KiB, cpus -, read 50 hmat, latency 250 hmat
node 6: cxl, 134217728 KiB, cpus -, read 50 hmat, latency 250 hmat
tier dram: dram, nodes 0-1, 536870912 KiB, read 440 hmat
tier cxl: cxl, nodes 3,6, 268435456 KiB, read 100 hmat
)");
  const Topology topology = discovered(dram_and_cxl());
  EXPECT_EQ(topology.find(6)->near_cpus, "4-7");
  EXPECT_EQ(topology.find(6)->distance, 14u);
  EXPECT_DOUBLE_EQ(topology.find(6)->figures.write_gbs.value, 40);
}

TEST(HandMade, SetApartWithoutInitiators) {
  EXPECT_EQ(found_on(set_apart_without_initiators()),
            R"(node 0: dram, 67108864 KiB, cpus 0-3, read 100 hmat, latency 95 hmat
node 4: cxl, 33554432 KiB, cpus -, read 30 hmat, latency 300 hmat
empty 1
tier dram: dram, nodes 0, 67108864 KiB, read 100 hmat
tier cxl: cxl, nodes 4, 33554432 KiB, read 30 hmat
)");
}

TEST(HandMade, XeonMaxFlat) {
  EXPECT_EQ(found_on(xeon_max()), R"(node 0: dram, 134217728 KiB, cpus 0-3, read 250 hmat, latency 110 hmat
node 1: dram, 134217728 KiB, cpus 4-7, read 250 hmat, latency 110 hmat
node 2: hbm, 67108864 KiB, cpus -, read 800 hmat, latency 130 hmat
node 3: hbm, 67108864 KiB, cpus -, read 800 hmat, latency 130 hmat
tier hbm: hbm, nodes 2-3, 134217728 KiB, read 1600 hmat
tier dram: dram, nodes 0-1, 268435456 KiB, read 500 hmat
)");
}

TEST(HandMade, ThreeSpeeds) {
  EXPECT_EQ(found_on(xeon_max(true)),
            R"(node 0: dram, 134217728 KiB, cpus 0-3, read 250 hmat, latency 110 hmat
node 1: dram, 134217728 KiB, cpus 4-7, read 250 hmat, latency 110 hmat
node 2: hbm, 67108864 KiB, cpus -, read 800 hmat, latency 130 hmat
node 3: hbm, 67108864 KiB, cpus -, read 800 hmat, latency 130 hmat
node 4: cxl, 268435456 KiB, cpus -, read 40 hmat, latency 280 hmat
tier hbm: hbm, nodes 2-3, 134217728 KiB, read 1600 hmat
tier dram: dram, nodes 0-1, 268435456 KiB, read 500 hmat
tier cxl: cxl, nodes 4, 268435456 KiB, read 40 hmat
)");
}

TEST(HandMade, ZerosSayNothing) {
  EXPECT_EQ(found_on(zeros()), R"(node 0: dram, 67108864 KiB, cpus 0-3, read -, latency -
node 1: dram, 67108864 KiB, cpus 4-7, read -, latency -
node 2: unknown, 33554432 KiB, cpus -, read -, latency -
tier dram: dram, nodes 0-1, 134217728 KiB, read -
tier other: unknown, nodes 2, 33554432 KiB, read -
)");
  for (const MemoryNode& node : discovered(zeros()).nodes)
    EXPECT_TRUE(node.initiators.empty()) << node.os_index;
}

TEST(HandMade, GuessesFromANodeOfTheKind) {
  EXPECT_EQ(found_on(one_figure_a_kind()),
            R"(node 0: dram, 67108864 KiB, cpus 0-3, read 100 hmat, latency 100 hmat
node 1: dram, 67108864 KiB, cpus 4-7, read 100 guessed, latency 100 guessed
node 2: cxl, 33554432 KiB, cpus -, read 30 hmat, latency 200 hmat
node 3: cxl, 33554432 KiB, cpus -, read 15 guessed, latency 400 guessed
tier dram: dram, nodes 0-1, 134217728 KiB, read 200 guessed
tier cxl0: cxl, nodes 2, 33554432 KiB, read 30 hmat
tier cxl1: cxl, nodes 3, 33554432 KiB, read 15 guessed
)");
}

TEST(HandMade, NothingSaid) {
  EXPECT_EQ(found_on(nothing_said()), R"(node 0: dram, 67108864 KiB, cpus 0-3, read -, latency -
node 1: unknown, 33554432 KiB, cpus -, read -, latency -
tier dram: dram, nodes 0, 67108864 KiB, read -
tier other: unknown, nodes 1, 33554432 KiB, read -
)");
}

TEST(HandMade, Memoryless) {
  EXPECT_EQ(found_on(memoryless()), R"(node 0: unknown, 0 KiB, cpus 0-3, read -, latency -
node 1: dram, 67108864 KiB, cpus 4-7, read -, latency -
empty 2
tier hbm: hbm emulated, nodes 1, 8388608 KiB, read -
tier dram: dram, nodes 1, 58720256 KiB, read -
)");
}

TEST(HandMade, Node0Missing) {
  EXPECT_EQ(found_on(node_0_missing()), R"(node 1: dram, 67108864 KiB, cpus 0-3, read -, latency -
node 3: dram, 67108864 KiB, cpus 4-7, read -, latency -
tier hbm: hbm emulated, nodes 1,3, 16777216 KiB, read -
tier dram: dram, nodes 1,3, 117440512 KiB, read -
)");
}

TEST(HandMade, OfflineBlocks) {
  EXPECT_EQ(found_on(offline_blocks()), R"(node 0: dram, 67108864 KiB, cpus 0-3, read -, latency -
empty 1
tier hbm: hbm emulated, nodes 0, 8388608 KiB, read -
tier dram: dram, nodes 0, 58720256 KiB, read -
unused node1: unknown, 2097152 KiB
unused memory: unknown, 1048576 KiB
)");
}

TEST(HandMade, DevicesNotInUse) {
  EXPECT_EQ(found_on(devices_not_in_use()), R"(node 0: dram, 67108864 KiB, cpus 0-3, read -, latency -
tier hbm: hbm emulated, nodes 0, 8388608 KiB, read -
tier dram: dram, nodes 0, 58720256 KiB, read -
unused dax0.0: unknown, 8388608 KiB
unused dax1.0: nvm, 16777216 KiB
unused dax2.0: cxl, 4194304 KiB
unused mem0: cxl, 33554432 KiB
unused mem1: cxl, 8388608 KiB
)");
}

TEST(HandMade, OneGpuHasNoColumn) {
  EXPECT_EQ(found_on(one_gpu()), R"(node 0: dram, 268435456 KiB, cpus 0-3, read -, latency -
node 255: gpu, 83886080 KiB, cpus -, read -, latency -
tier gpu0: gpu, nodes 255, 83886080 KiB, read -
tier dram: dram, nodes 0, 268435456 KiB, read -
)");
}

TEST(HandMade, GpuMemoryThatIsNotOnlined) {
  EXPECT_EQ(found_on(one_gpu("offline")), R"(node 0: dram, 268435456 KiB, cpus 0-3, read -, latency -
empty 255
tier hbm: hbm emulated, nodes 0, 33554432 KiB, read -
tier dram: dram, nodes 0, 234881024 KiB, read -
unused gpu 0000:3b:00.0: gpu, 83886080 KiB
)");
}

TEST(HandMade, MoreTiersThanAnArenaHas) {
  const std::string found = found_on(eight_gpus());
  EXPECT_EQ(found.substr(found.find("tier gpu0")), R"(tier gpu0: gpu, nodes 10, 83886080 KiB, read -, column 0
tier gpu1: gpu, nodes 11, 83886080 KiB, read -, column 1
tier gpu2: gpu, nodes 12, 83886080 KiB, read -, column 2
tier gpu3: gpu, nodes 13, 83886080 KiB, read -, column 3
tier gpu4: gpu, nodes 14, 83886080 KiB, read -, column 4
tier gpu5: gpu, nodes 15, 83886080 KiB, read -, column 5
tier gpu6: gpu, nodes 16, 83886080 KiB, read -, column 6
tier dram: dram, nodes 0, 536870912 KiB, read 300 hmat
unused node1: cxl, 268435456 KiB
unused node17: gpu, 83886080 KiB
)");
}

TEST(HandMade, InACpuset) {
  EXPECT_EQ(found_on(in_a_cpuset()), R"(node 0: dram, 67108864 KiB, cpus 0-3, read -, latency -
node 1: dram, 0 KiB, cpus 4-7, read -, latency -
tier hbm: hbm emulated, nodes 0, 8388608 KiB, read -
tier dram: dram, nodes 0, 58720256 KiB, read -
unused node1: dram, 67108864 KiB
)");
}

TEST(HandMade, SideCache) {
  FakeMachine machine = node_0_missing();
  machine.nodes[0].side_cache_bytes = 16ull << 30;
  const Topology topology = discovered(machine);
  EXPECT_EQ(topology.find(1)->side_cache_bytes, 16ull << 30);
  EXPECT_EQ(topology.find(3)->side_cache_bytes, 0u);
}

TEST(HandMade, GpusCountByPciAddress) {
  FakeMachine machine = gh200_four_way();
  std::swap(machine.gpus[0].node, machine.gpus[3].node);
  const std::string found = found_on(machine);
  EXPECT_NE(found.find("tier gpu0: gpu, nodes 28,"), std::string::npos) << found;
  EXPECT_NE(found.find("tier gpu3: gpu, nodes 4,"), std::string::npos) << found;
}

}  // namespace
}  // namespace kvt
