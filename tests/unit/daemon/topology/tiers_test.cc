// SPDX-License-Identifier: Apache-2.0
#include "daemon/topology/tiers.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace kvt {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

MemoryNode node(uint32_t os_index, MemoryKind kind, double read_gbs = 0,
                FigureSource source = FigureSource::kHmat) {
  MemoryNode made;
  made.os_index = os_index;
  made.kind = kind;
  made.bytes = 8 * kGiB;
  made.figures.read_gbs.learn(read_gbs, source);
  return made;
}

Topology of_nodes(std::vector<MemoryNode> nodes) {
  Topology topology;
  topology.nodes = std::move(nodes);
  return topology;
}

NodeSpeed speed(uint32_t package, uint32_t at, double read_gbs, double latency_ns) {
  NodeSpeed made;
  made.package = package;
  made.node = at;
  made.read_gbs = made.write_gbs = made.copy_gbs = read_gbs;
  made.latency_ns = latency_ns;
  return made;
}

/// "hbm[4,5] dram[0]"
std::string names_of(const std::vector<TierProposal>& tiers) {
  std::string text;
  for (const TierProposal& tier : tiers)
    text += (text.empty() ? "" : " ") + tier.name + "[" + cpu_list(tier.nodes) + "]";
  return text;
}

// ---- profiles ----

TEST(RecogniseProfile, GraceWithGpuMemoryAlone) {
  const auto named = [](const Topology& topology) {
    const auto profile = recognise_profile(topology);
    return profile ? std::string(profile->name) : "";
  };
  EXPECT_EQ(named(of_nodes({node(0, MemoryKind::kLpddr), node(1, MemoryKind::kGpu)})), "gh200");
  EXPECT_EQ(named(of_nodes({node(0, MemoryKind::kLpddr)})), "");
  EXPECT_EQ(named(of_nodes({node(0, MemoryKind::kDram), node(1, MemoryKind::kGpu)})), "")
      << "POWER9's GPUs are others";
  EXPECT_EQ(named(of_nodes({node(0, MemoryKind::kDram), node(1, MemoryKind::kHbm)})), "");
  Topology empty = of_nodes({node(0, MemoryKind::kLpddr), node(1, MemoryKind::kGpu)});
  empty.nodes[1].bytes = 0;
  EXPECT_EQ(named(empty), "") << "a GPU's node without memory";
}

// ---- what is known of a node ----

TEST(LearnFigures, MeasuredBeforeFirmwareBeforeProfile) {
  Topology topology = of_nodes(
      {node(0, MemoryKind::kDram, 200), node(1, MemoryKind::kDram, 200), node(2, MemoryKind::kDram)});
  Calibration calibration;
  calibration.speeds = {speed(0, 0, 150, 90), speed(1, 0, 60, 140)};
  const Profile profile{"some", {1000, 1000}, {50, 40}};
  learn_figures(topology, &calibration, &profile);
  EXPECT_EQ(topology.find(0)->figures.read_gbs.value, 150) << "as the best consumer sees it";
  EXPECT_EQ(topology.find(0)->figures.read_gbs.source, FigureSource::kMeasured);
  EXPECT_EQ(topology.find(0)->figures.latency_ns.value, 90);
  EXPECT_EQ(topology.find(1)->figures.read_gbs.value, 200);
  EXPECT_EQ(topology.find(1)->figures.write_gbs.value, 40) << "firmware has not said it";
  EXPECT_EQ(topology.find(2)->figures.read_gbs.value, 50);
  EXPECT_EQ(topology.find(2)->figures.read_gbs.source, FigureSource::kProfile);
}

TEST(LearnFigures, AnOperatorsWordStays) {
  Topology topology = of_nodes({node(0, MemoryKind::kLpddr, 111, FigureSource::kConfigured),
                                node(1, MemoryKind::kGpu, 2222, FigureSource::kConfigured)});
  Calibration calibration;
  calibration.speeds = {speed(0, 0, 1, 1), speed(0, 1, 1, 1)};
  const Profile profile = *find_profile("gh200");
  learn_figures(topology, &calibration, &profile);
  EXPECT_EQ(topology.find(0)->figures.read_gbs.value, 111);
  EXPECT_EQ(topology.find(1)->figures.read_gbs.value, 2222);
}

TEST(LearnFigures, WhatCpusSeeOfAGpusMemoryDoesNotCount) {
  Topology topology = of_nodes({node(0, MemoryKind::kLpddr, 380), node(1, MemoryKind::kGpu, 400)});
  Calibration calibration;
  calibration.speeds = {speed(0, 0, 390, 100), speed(0, 1, 410, 800)};
  const Profile profile = *find_profile("gh200");
  Topology with_profile = topology;
  learn_figures(with_profile, &calibration, &profile);
  EXPECT_EQ(with_profile.find(1)->figures.read_gbs.value, 3728);
  EXPECT_EQ(with_profile.find(0)->figures.read_gbs.value, 335) << "as the GPU reads it, through its link";
  learn_figures(topology, &calibration, nullptr);
  EXPECT_FALSE(topology.find(1)->figures.read_gbs.known());
  EXPECT_FALSE(topology.find(1)->figures.latency_ns.known());
  EXPECT_EQ(topology.find(0)->figures.read_gbs.value, 390);
}

TEST(LearnFigures, GuessesByDistance) {
  Topology topology =
      of_nodes({node(0, MemoryKind::kDram, 100), node(1, MemoryKind::kDram), node(2, MemoryKind::kCxl),
                node(3, MemoryKind::kUnknown), node(4, MemoryKind::kDram, 40)});
  for (MemoryNode& each : topology.nodes) each.distance = 10;
  topology.nodes[1].distance = 40;
  topology.nodes[4].distance = 30;
  learn_figures(topology, nullptr, nullptr);
  EXPECT_EQ(topology.find(1)->figures.read_gbs.value, 30) << "from node 4, which is nearly as far away";
  EXPECT_EQ(topology.find(1)->figures.read_gbs.source, FigureSource::kGuessed);
  EXPECT_FALSE(topology.find(2)->figures.read_gbs.known()) << "no node of its kind has a figure";
  EXPECT_FALSE(topology.find(3)->figures.read_gbs.known()) << "nodes of no known kind have nothing in common";
  Topology without = of_nodes({node(0, MemoryKind::kDram, 100), node(1, MemoryKind::kDram)});
  learn_figures(without, nullptr, nullptr);
  EXPECT_FALSE(without.find(1)->figures.read_gbs.known()) << "without distances there is nothing to go by";
}

TEST(LearnFigures, ANodeWithoutMemoryLearnsNothing) {
  Topology topology = of_nodes({node(0, MemoryKind::kDram)});
  topology.nodes[0].bytes = 0;
  Calibration calibration;
  calibration.speeds = {speed(0, 0, 100, 100)};
  learn_figures(topology, &calibration, nullptr);
  EXPECT_FALSE(topology.find(0)->figures.read_gbs.known());
}

// ---- what a tier can do ----

TEST(TierFigures, AddUp) {
  Topology topology =
      of_nodes({node(0, MemoryKind::kDram, 100), node(1, MemoryKind::kDram, 90, FigureSource::kMeasured),
                node(2, MemoryKind::kDram)});
  topology.nodes[0].figures.latency_ns = {100, FigureSource::kHmat};
  topology.nodes[1].figures.latency_ns = {120, FigureSource::kMeasured};
  const Figures both = tier_figures(topology, {0, 1});
  EXPECT_EQ(both.read_gbs.value, 190);
  EXPECT_EQ(both.read_gbs.source, FigureSource::kHmat) << "as weak as its weakest part";
  EXPECT_EQ(both.latency_ns.value, 120);
  EXPECT_FALSE(both.write_gbs.known());
  for (const std::vector<uint32_t>& nodes : {std::vector<uint32_t>{0, 2}, {2, 0}, {0, 2, 1}, {2}, {9}, {}}) {
    EXPECT_FALSE(tier_figures(topology, nodes).read_gbs.known()) << cpu_list(nodes);
    EXPECT_FALSE(tier_figures(topology, nodes).latency_ns.known()) << cpu_list(nodes);
  }
}

TEST(TierFigures, HostMemoryByProfileIsBehindOneLink) {
  Topology topology = of_nodes({node(0, MemoryKind::kLpddr, 335, FigureSource::kProfile),
                                node(1, MemoryKind::kLpddr, 335, FigureSource::kProfile),
                                node(2, MemoryKind::kLpddr, 400, FigureSource::kConfigured)});
  EXPECT_EQ(tier_figures(topology, {0, 1}).read_gbs.value, 335);
  EXPECT_EQ(tier_figures(topology, {0, 2}).read_gbs.value, 400);
  EXPECT_EQ(tier_figures(topology, {2, 0}).read_gbs.value, 400) << "in whichever order";
}

// ---- tiers ----

TEST(ProposeTiers, FastestFirst) {
  Topology topology = of_nodes({node(0, MemoryKind::kDram, 200), node(1, MemoryKind::kCxl, 50),
                                node(2, MemoryKind::kHbm, 800), node(3, MemoryKind::kNvm, 10)});
  EXPECT_EQ(names_of(propose_tiers(topology, nullptr)), "hbm[2] dram[0] cxl[1] nvm[3]");
}

TEST(ProposeTiers, WithoutFiguresByKind) {
  Topology topology =
      of_nodes({node(0, MemoryKind::kNvm), node(1, MemoryKind::kUnknown), node(2, MemoryKind::kCxl),
                node(3, MemoryKind::kDram), node(4, MemoryKind::kHbm), node(5, MemoryKind::kGpu)});
  EXPECT_EQ(names_of(propose_tiers(topology, nullptr)), "gpu0[5] hbm[4] dram[3] other[1] cxl[2] nvm[0]");
}

TEST(ProposeTiers, OneKindOfTwoSpeeds) {
  Topology topology =
      of_nodes({node(0, MemoryKind::kDram, 200), node(1, MemoryKind::kCxl, 20), node(2, MemoryKind::kCxl, 60),
                node(3, MemoryKind::kCxl, 62), node(4, MemoryKind::kDram, 170)});
  EXPECT_EQ(names_of(propose_tiers(topology, nullptr)), "dram[0,4] cxl0[2-3] cxl1[1]");
}

TEST(ProposeTiers, ManySlowNodesAreNoFastTier) {
  Topology topology = of_nodes(
      {node(0, MemoryKind::kDram, 100), node(1, MemoryKind::kCxl, 60), node(2, MemoryKind::kCxl, 60)});
  const auto tiers = propose_tiers(topology, nullptr);
  EXPECT_EQ(names_of(tiers), "dram[0] cxl[1-2]");
  EXPECT_EQ(tiers[1].figures.read_gbs.value, 120);
  EXPECT_EQ(tiers[1].bytes, 16 * kGiB);
}

TEST(ProposeTiers, APartStandsForHbmWhereAllIsOneKind) {
  const Profile profile = *find_profile("gh200");
  Topology topology = of_nodes({node(0, MemoryKind::kDram, 100), node(1, MemoryKind::kDram, 100)});
  const auto tiers = propose_tiers(topology, &profile);
  EXPECT_EQ(names_of(tiers), "hbm[0-1] dram[0-1]");
  EXPECT_TRUE(tiers[0].emulated);
  EXPECT_FALSE(tiers[1].emulated);
  EXPECT_EQ(tiers[0].bytes, 2 * kGiB);
  EXPECT_EQ(tiers[0].bytes + tiers[1].bytes, 16 * kGiB) << "it is not there twice";
  EXPECT_EQ(tiers[0].figures.read_gbs.value, 3728);
  EXPECT_FALSE(propose_tiers(topology, nullptr)[0].figures.read_gbs.known());
  Topology hbm_alone = of_nodes({node(0, MemoryKind::kHbm, 800)});
  EXPECT_EQ(names_of(propose_tiers(hbm_alone, nullptr)), "hbm[0]");
}

TEST(ProposeTiers, NoMemoryNoTier) {
  Topology topology = of_nodes({node(0, MemoryKind::kDram)});
  topology.nodes[0].bytes = 0;
  EXPECT_TRUE(propose_tiers(topology, nullptr).empty());
}

TEST(ProposeTiers, AtMostEight) {
  std::vector<MemoryNode> nodes;
  for (uint32_t i = 0; i < 12; ++i) nodes.push_back(node(i, MemoryKind::kCxl, 1000 / (i + 1.0) / (i + 1)));
  Topology topology = of_nodes(nodes);
  const auto tiers = propose_tiers(topology, nullptr);
  ASSERT_EQ(tiers.size(), 8u);
  EXPECT_EQ(tiers[0].name, "cxl0");
  uint64_t bytes = 0;
  for (const TierProposal& tier : tiers) bytes += tier.bytes;
  for (const UnusedMemory& each : topology.unused) bytes += each.bytes;
  EXPECT_EQ(bytes, 12 * 8 * kGiB) << "each node is in a tier or named as unused";
}

}  // namespace
}  // namespace kvt
