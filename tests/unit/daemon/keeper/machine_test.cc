// SPDX-License-Identifier: Apache-2.0
//
// A configuration on a machine: nodes, bytes, figures, refusals. Topologies are made up, free memory is this
// machine's, so sizes are small.
#include "daemon/keeper/machine.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "shm/abi/limits.h"

namespace kvt::keeper {
namespace {

static_assert(kTiersMax == KVT_MAX_TIERS, "discovery proposes what an arena can have");

constexpr uint64_t kMiB = 1ull << 20;

MemoryNode node(uint32_t index, MemoryKind kind, double hmat_read = 0) {
  MemoryNode made;
  made.os_index = index;
  made.bytes = 1ull << 34;
  made.kind = kind;
  made.cpus = kind == MemoryKind::kDram ? std::to_string(index) : "";
  made.figures.read_gbs.learn(hmat_read, FigureSource::kHmat);
  return made;
}

/// Node 0 is the only one that this machine is sure to have; a kind's nodes need not be allowed for a plan to
/// name them.
Topology machine(std::vector<MemoryNode> nodes) {
  Topology topology;
  topology.nodes = std::move(nodes);
  return topology;
}

Config config_of(std::vector<TierConfig> tiers) {
  Config config = Config::defaults();
  config.prefault = false;
  config.tiers = std::move(tiers);
  return config;
}

TierConfig tier(const char* name, const char* kind, uint64_t bytes, std::vector<uint32_t> nodes = {}) {
  TierConfig made;
  made.name = name;
  made.kind = kind;
  made.bytes = bytes;
  made.nodes = std::move(nodes);
  return made;
}

std::string refusal(const Config& config, const Topology& topology) {
  const auto planned = plan_machine(config, topology, nullptr);
  return planned ? "" : planned.error().text;
}

TEST(PlanMachine, AKindMeansAllItsNodes) {
  const auto planned = plan_machine(config_of({tier("fast", "dram", 8 * kMiB)}),
                                    machine({node(0, MemoryKind::kDram, 100)}), nullptr);
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  ASSERT_EQ(planned->tiers.size(), 1u);
  ASSERT_EQ(planned->tiers[0].parts.size(), 1u);
  EXPECT_EQ(planned->tiers[0].parts[0].node, 0u);
  EXPECT_EQ(planned->tiers[0].kind, MemoryKind::kDram);
  EXPECT_EQ(planned->config.tiers[0].nodes, std::vector<uint32_t>{0});
}

TEST(PlanMachine, WhatIsNotThereIsNamed) {
  const Topology topology = machine({node(0, MemoryKind::kDram)});
  EXPECT_NE(refusal(config_of({tier("far", "cxl", kMiB)}), topology)
                .find("tier \"far\" wants nodes of kind cxl; this machine has node 0 dram"),
            std::string::npos);
  EXPECT_NE(refusal(config_of({tier("far", "numa", kMiB, {0, 7})}), topology)
                .find("wants NUMA node 7; this machine has 0"),
            std::string::npos);
  Config config = config_of({tier("t", "numa", kMiB, {0})});
  config.memory.push_back({});
  config.memory[0].node = 0;
  config.memory[0].use = false;
  EXPECT_NE(refusal(config, topology).find("NUMA node 0, which has no memory, or is not to be used"),
            std::string::npos)
      << refusal(config, topology);
  config.memory[0].node = 3;
  EXPECT_NE(refusal(config, topology).find("[[memory]] of node 3: this machine has NUMA nodes 0"),
            std::string::npos);
  config = config_of({tier("t", "numa", kMiB)});
  config.arenas[0].bytes = {{"other", kMiB}};
  EXPECT_NE(refusal(config, topology).find("tier \"other\", which this machine has not"), std::string::npos);
}

TEST(PlanMachine, ANodeThatThisProcessMayNotUseIsNotTaken) {
  const Topology topology = machine({node(0, MemoryKind::kDram), node(1000, MemoryKind::kCxl)});
  EXPECT_NE(refusal(config_of({tier("far", "cxl", kMiB)}), topology)
                .find("NUMA node 1000, which this process may not use"),
            std::string::npos);
}

/// A node goes while a daemon is away: the next one takes over what was made there all the same.
TEST(PlanMachine, WindowsOfANodeThatHasGoneAreTakenOver) {
  const Topology topology = machine({node(0, MemoryKind::kDram)});
  const Config config = config_of({tier("near", "numa", 8 * kMiB, {0}), tier("far", "numa", 8 * kMiB, {0, 5}),
                                   tier("expander", "cxl", 8 * kMiB)});
  EXPECT_FALSE(plan_machine(config, topology, nullptr).has_value());
  AdoptedArena before;
  before.arena = config.arenas[0];
  for (const TierConfig& each : config.tiers) {
    before.windows.push_back(each);
    before.arena.bytes.emplace_back(each.name, each.bytes);
  }
  const auto planned = plan_machine(config, topology, nullptr, nullptr, "", {before});
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  ASSERT_EQ(planned->tiers.size(), 3u);
  EXPECT_EQ(planned->tiers[1].gone, std::vector<uint32_t>{5});
  ASSERT_EQ(planned->tiers[1].parts.size(), 1u);
  EXPECT_EQ(planned->tiers[1].parts[0].node, 0u);
  EXPECT_TRUE(planned->tiers[2].parts.empty());
  ASSERT_EQ(planned->notes.size(), 1u);
  EXPECT_NE(planned->notes[0].find("tier \"far\" wants NUMA node 5"), std::string::npos) << planned->notes[0];
}

TEST(PlanMachine, TheStrongestFigureCounts) {
  const Topology topology = machine({node(0, MemoryKind::kDram, 100)});
  Calibration calibration;
  calibration.speeds.push_back({0, 0, 4, 80, 70, 60, 110, 0.01});
  const auto figure = [&](TierConfig tier, const Calibration* measured) {
    auto planned = plan_machine(config_of({std::move(tier)}), topology, measured);
    EXPECT_TRUE(planned.has_value());
    return planned ? std::pair(planned->tiers[0].read_gbs.value, planned->tiers[0].figures_from)
                   : std::pair(0.0, std::string());
  };
  TierConfig dram = tier("dram", "dram", kMiB);
  EXPECT_EQ(figure(dram, nullptr), std::pair(100.0, std::string("hmat")));
  EXPECT_EQ(figure(dram, &calibration), std::pair(80.0, std::string("measured")));
  dram.read_gbps = 55;
  EXPECT_EQ(figure(dram, &calibration), std::pair(55.0, std::string("configuration")));
  EXPECT_EQ(figure(tier("any", "numa", kMiB), &calibration), std::pair(335.0, std::string("profile gh200")))
      << "memory of any node has no figure of its own";
}

TEST(PlanMachine, BesideAnEmulatedTierAllFiguresAreTheProfiles) {
  const Topology topology = machine({node(0, MemoryKind::kDram, 100)});
  Calibration calibration;
  calibration.speeds.push_back({0, 0, 4, 80, 70, 60, 110, 0.01});
  const auto planned = plan_machine(
      config_of({tier("hbm", "emulated-hbm", kMiB), tier("dram", "dram", kMiB)}), topology, &calibration);
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  EXPECT_TRUE(planned->tiers[0].emulated);
  EXPECT_EQ(planned->tiers[0].kind, MemoryKind::kHbm);
  EXPECT_EQ(planned->config.tiers[0].read_gbps, 3728);
  EXPECT_EQ(planned->config.tiers[1].read_gbps, 335);
  EXPECT_EQ(planned->tiers[1].measured.read_gbs.value, 80) << "what was measured is shown beside it";
}

TEST(PlanMachine, AnOperatorsWordOnMemoryCounts) {
  Config config = config_of({tier("slow", "nvm", kMiB)});
  config.memory.push_back({});
  config.memory[0].of_kind = MemoryKind::kDram;
  config.memory[0].kind = MemoryKind::kNvm;
  config.memory[0].read_gbps = 7;
  const auto planned = plan_machine(config, machine({node(0, MemoryKind::kDram, 100)}), nullptr);
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  EXPECT_EQ(planned->tiers[0].read_gbs.value, 7);
  EXPECT_EQ(planned->tiers[0].figures_from, "configuration");
}

TEST(PlanMachine, DiscoveredTiersAreListed) {
  Config config = Config::defaults();
  config.prefault = false;
  config.discover_tiers = true;
  config.tiers.clear();
  const auto planned = plan_machine(config, machine({node(0, MemoryKind::kDram)}), nullptr);
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  ASSERT_EQ(planned->config.tiers.size(), 2u);
  EXPECT_EQ(planned->config.tiers[0].name, "hbm");
  EXPECT_TRUE(planned->tiers[0].emulated);
  EXPECT_NEAR(planned->config.tiers[0].percent, 10, 0.01);
  EXPECT_NEAR(planned->config.tiers[1].percent, 70, 0.01);
  EXPECT_GT(planned->config.tiers[0].bytes, kMiB);
  EXPECT_NEAR(static_cast<double>(planned->config.tiers[1].bytes) /
                  static_cast<double>(planned->config.tiers[0].bytes),
              7, 0.5);
  EXPECT_FALSE(planned->config.discover_tiers);
}

TEST(PlanMachine, PercentsOfTheSameMemoryAreNotMoreThanItHas) {
  TierConfig first = tier("first", "numa", 0, {0});
  TierConfig second = tier("second", "numa", 0, {0});
  first.percent = second.percent = 60;
  const auto planned =
      plan_machine(config_of({first, second}), machine({node(0, MemoryKind::kDram)}), nullptr);
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  first.percent = 100;
  const auto all = plan_machine(config_of({first}), machine({node(0, MemoryKind::kDram)}), nullptr);
  ASSERT_TRUE(all.has_value()) << all.error().text;
  EXPECT_LT(static_cast<double>(planned->config.tiers[0].bytes + planned->config.tiers[1].bytes),
            1.05 * static_cast<double>(all->config.tiers[0].bytes))
      << "free memory changes a little meanwhile";
  ASSERT_EQ(planned->notes.size(), 1u);
  EXPECT_NE(planned->notes[0].find("each is smaller"), std::string::npos) << planned->notes[0];
  EXPECT_TRUE(all->notes.empty());
}

TEST(PlanMachine, AGpusMemoryIsFastHoweverItIsNamed) {
  Topology topology = machine({node(0, MemoryKind::kGpu)});
  const auto planned = plan_machine(config_of({tier("hbm", "numa", kMiB, {0})}), topology, nullptr);
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  EXPECT_EQ(planned->tiers[0].kind, MemoryKind::kGpu);
  EXPECT_EQ(planned->config.tiers[0].read_gbps, 3728);
  EXPECT_EQ(planned->tiers[0].profile.read_gbps, 3728);
}

TEST(PlanMachine, GpusThatNoArenaHasAColumnForAreLeftOut) {
  Config config = Config::defaults();
  config.prefault = false;
  config.discover_tiers = true;
  config.tiers.clear();
  const Topology topology = machine({node(0, MemoryKind::kGpu), node(1000, MemoryKind::kGpu)});
  const auto planned = plan_machine(config, topology, nullptr);
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  ASSERT_EQ(planned->config.tiers.size(), 1u);
  EXPECT_EQ(planned->config.tiers[0].name, "gpu0");
  ASSERT_EQ(planned->notes.size(), 1u);
  EXPECT_NE(planned->notes[0].find("\"gpu1\" is left out: it is of column 1"), std::string::npos)
      << planned->notes[0];
  config.arenas[0].columns = 2;
  EXPECT_NE(refusal(config, topology).find("NUMA node 1000"), std::string::npos)
      << "with a column for it it is wanted";
}

/// GPUs as a driver would list them.
class FakeGpus final : public tier::Gpus {
 public:
  explicit FakeGpus(int count) {
    for (int ordinal = 0; ordinal < count; ++ordinal) {
      tier::GpuMemory gpu;
      gpu.ordinal = ordinal;
      gpu.uuid[0] = static_cast<uint8_t>(ordinal);
      gpu.uuid_text = "GPU-0" + std::to_string(ordinal);
      gpu.name = "Fake";
      gpu.bytes = 1ull << 30;
      list_.push_back(std::move(gpu));
    }
  }
  [[nodiscard]] tier::GpuMemory& gpu_at(size_t ordinal) { return list_[ordinal]; }
  /// It is there, and gives no context.
  void make_sick() { is_sick_ = true; }
  [[nodiscard]] const std::vector<tier::GpuMemory>& list() const override { return list_; }
  [[nodiscard]] std::string driver_text() const override { return "a fake"; }
  Result<uint64_t> free_bytes(int) override {
    if (is_sick_) return fail(Code::kSystem, "no context");
    return uint64_t{1} << 30;
  }
  Result<tier::GpuFigures> measure(int) override { return figures_; }
  void set_figures(const tier::GpuFigures& figures) { figures_ = figures; }
  Result<AddressRange> reserve_addresses(int, uint64_t, uint64_t) override { return none(); }
  Result<std::unique_ptr<tier::Backend>> backend(int) override { return none(); }
  Result<tier::Kept> register_host(int, const Mapping&, uint64_t,
                                   const std::function<void(uint64_t bytes)>&) override {
    return none();
  }
  Result<std::shared_ptr<cuda::Gpu>> gpu(int) override { return none(); }
  [[nodiscard]] bool can_access(int ordinal, int peer) const override {
    return peers_.contains({ordinal, peer});
  }
  void add_peer(int ordinal, int peer) { peers_.emplace(ordinal, peer); }
  std::optional<std::set<int>> processes() override { return std::nullopt; }

 private:
  static tl::unexpected<Error> none() { return fail(Code::kNotFound, "a plan needs no memory"); }
  std::vector<tier::GpuMemory> list_;
  tier::GpuFigures figures_{50, 40, 80, 4000, 0};
  bool is_sick_ = false;
  std::set<std::pair<int, int>> peers_;
};

Config discovering(uint32_t columns) {
  Config config = Config::defaults();
  config.prefault = false;
  config.discover_tiers = true;
  config.tiers.clear();
  config.arenas[0].columns = columns;
  config.cuda.reserve_bytes = 0;
  return config;
}

TEST(PlanMachine, DiscoveredGpusTakeThePlaceOfEmulatedMemory) {
  const auto planned = plan_machine(discovering(1), machine({node(0, MemoryKind::kDram)}), nullptr,
                                    std::make_shared<FakeGpus>(1));
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  ASSERT_EQ(planned->config.tiers.size(), 2u);
  EXPECT_EQ(planned->config.tiers[0].name, "gpu0");
  EXPECT_EQ(planned->config.tiers[0].kind, "cuda");
  EXPECT_EQ(planned->config.tiers[0].device, "GPU-00");
  EXPECT_EQ(planned->config.tiers[0].column, 0);
  EXPECT_EQ(planned->config.tiers[0].bytes, 818 * kMiB) << "80 % of a GiB, in huge pages";
  EXPECT_EQ(planned->tiers[0].kind, MemoryKind::kGpu);
  EXPECT_EQ(planned->config.tiers[0].read_gbps, 4000);
  EXPECT_EQ(planned->config.tiers[1].kind, "dram");
  EXPECT_EQ(planned->config.tiers[1].column, -1);
  EXPECT_NEAR(planned->config.tiers[1].percent, 80, 0.01) << "with what would have stood for HBM";
  EXPECT_EQ(planned->config.tiers[1].read_gbps, 50) << "as the link lets it through";
  for (const TierOnMachine& plan : planned->tiers) EXPECT_FALSE(plan.emulated);
  EXPECT_TRUE(planned->notes.empty());
}

TEST(PlanMachine, HostMemoryIsReadAsFastAsKernelsReadIt) {
  const auto gpus = std::make_shared<FakeGpus>(1);
  const auto host = [&](const Config& config) {
    const auto planned = plan_machine(config, machine({node(0, MemoryKind::kDram)}), nullptr, gpus);
    return planned ? std::pair(planned->tiers[1].read_gbs.value, planned->tiers[1].write_gbs.value)
                   : std::pair(0.0, 0.0);
  };
  EXPECT_EQ(host(discovering(1)), std::pair(50.0, 40.0)) << "copies, where no kernel has been measured";
  gpus->set_figures({50, 40, 80, 4000, 45});
  EXPECT_EQ(host(discovering(1)), std::pair(45.0, 40.0));
  gpus->set_figures({50, 40, 80, 4000, 55});
  EXPECT_EQ(host(discovering(1)), std::pair(55.0, 40.0)) << "whichever is faster: kernels read pages";
  Config configured = discovering(1);
  configured.discover_tiers = false;
  TierConfig hbm = tier("hbm", "cuda", 64 * kMiB, {});
  hbm.device = "0";
  hbm.column = 0;
  TierConfig dram = tier("dram", "numa", 64 * kMiB, {0});
  dram.read_gbps = 30;
  configured.tiers = {hbm, dram};
  EXPECT_EQ(host(configured).first, 30) << "what is configured comes first";
}

TEST(PlanMachine, EachDiscoveredGpuIsAColumn) {
  const Topology topology = machine({node(0, MemoryKind::kDram)});
  const auto one = plan_machine(discovering(1), topology, nullptr, std::make_shared<FakeGpus>(2));
  ASSERT_TRUE(one.has_value()) << one.error().text;
  ASSERT_EQ(one->config.tiers.size(), 2u);
  ASSERT_EQ(one->notes.size(), 1u);
  EXPECT_NE(one->notes[0].find("\"gpu1\" is left out: it is of column 1"), std::string::npos)
      << one->notes[0];
  const auto two = plan_machine(discovering(2), topology, nullptr, std::make_shared<FakeGpus>(2));
  ASSERT_TRUE(two.has_value()) << two.error().text;
  ASSERT_EQ(two->config.tiers.size(), 3u);
  EXPECT_EQ(two->config.tiers[1].name, "gpu1");
  EXPECT_EQ(two->config.tiers[1].device, "GPU-01");
  EXPECT_EQ(two->config.tiers[1].column, 1);
  EXPECT_EQ(two->tiers[1].gpu->ordinal, 1);
  EXPECT_EQ(two->config.tiers[2].column, -1);
}

TEST(PlanMachine, GpusThatReachEachOtherAreToldAtStart) {
  const auto gpus = std::make_shared<FakeGpus>(3);
  const Topology topology = machine({node(0, MemoryKind::kDram)});
  const auto plan = [&](uint32_t columns) {
    return plan_machine(discovering(columns), topology, nullptr, gpus);
  };
  EXPECT_TRUE(plan(3)->notes.empty());
  gpus->add_peer(1, 0);
  gpus->add_peer(1, 2);
  gpus->add_peer(2, 1);
  const auto planned = plan(3);
  ASSERT_EQ(planned->notes.size(), 1u);
  EXPECT_NE(planned->notes[0].find("gpu1 from gpu0, gpu2; gpu2 from gpu1"), std::string::npos)
      << planned->notes[0];
  EXPECT_EQ(peers_of(*planned, 0), std::vector<std::string>{});
  EXPECT_EQ(peers_of(*planned, 1), (std::vector<std::string>{"gpu0", "gpu2"}));
  EXPECT_EQ(peers_of(*planned, 3), std::vector<std::string>{}) << "host memory";
  const auto fewer = plan(2);
  ASSERT_TRUE(fewer.has_value());
  EXPECT_EQ(peers_of(*fewer, 1), std::vector<std::string>{"gpu0"}) << "tiers that there are";
  Config forbidden = discovering(3);
  forbidden.cuda.peers = false;
  const auto none = plan_machine(forbidden, topology, nullptr, gpus);
  EXPECT_TRUE(none->notes.empty());
  EXPECT_EQ(peers_of(*none, 1), std::vector<std::string>{});
}

TEST(PlanMachine, AGpuThatCannotBeATierTakesNoColumn) {
  const auto gpus = std::make_shared<FakeGpus>(2);
  gpus->gpu_at(0).unfit = "it is a toy";
  const auto planned = plan_machine(discovering(1), machine({node(0, MemoryKind::kDram)}), nullptr, gpus);
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  ASSERT_EQ(planned->config.tiers.size(), 2u);
  EXPECT_EQ(planned->config.tiers[0].name, "gpu1");
  EXPECT_EQ(planned->config.tiers[0].column, 0);
  ASSERT_EQ(planned->notes.size(), 1u);
  EXPECT_NE(planned->notes[0].find("GPU 0 (Fake) is no tier: it is a toy"), std::string::npos)
      << planned->notes[0];
}

/// A new tier is refused; one in which an earlier daemon has left pages keeps nobody from what lies elsewhere.
TEST(PlanMachine, AGpuWithoutAContextIsLeftOutWhereItWasAdopted) {
  Config config = Config::defaults();
  config.prefault = false;
  config.tiers = {TierConfig{}, TierConfig{}};
  config.tiers[0].name = "hbm";
  config.tiers[0].kind = "cuda";
  config.tiers[0].device = "0";
  config.tiers[0].bytes = 64 * kMiB;
  config.tiers[0].without_device = "fail";
  config.tiers[1].name = "dram";
  config.tiers[1].bytes = 64 * kMiB;
  const Topology topology = machine({node(0, MemoryKind::kDram)});
  const auto gpus = std::make_shared<FakeGpus>(1);
  gpus->make_sick();
  EXPECT_FALSE(plan_machine(config, topology, nullptr, gpus).has_value());
  AdoptedArena before{config.arenas[0], config.tiers};
  before.arena.bytes = {{"hbm", 64 * kMiB}, {"dram", 64 * kMiB}};
  const auto planned = plan_machine(config, topology, nullptr, gpus, "", {before});
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  ASSERT_EQ(planned->config.tiers.size(), 1u);
  EXPECT_EQ(planned->config.tiers[0].name, "dram");
  EXPECT_NE(planned->left_out.at("hbm").find("no context"), std::string::npos);
}

TEST(PlanMachine, AGpuThatIsANodeIsTakenAsOne) {
  const auto planned = plan_machine(discovering(1), machine({node(0, MemoryKind::kGpu)}), nullptr,
                                    std::make_shared<FakeGpus>(1));
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  ASSERT_EQ(planned->config.tiers.size(), 1u);
  EXPECT_EQ(planned->config.tiers[0].kind, "gpu");
}

TEST(PlanMachine, HugePagesThatAreInsistedOnMustBeFree) {
  TierConfig wanted = tier("huge", "numa", 1ull << 44, {0});
  wanted.huge_pages = "hugetlb";
  const std::string refused = refusal(config_of({wanted}), machine({node(0, MemoryKind::kDram)}));
  EXPECT_NE(refused.find("tier \"huge\" wants 8388609 huge pages of 2 MiB"), std::string::npos) << refused;
  wanted.huge_pages = "auto";
  const auto planned = plan_machine(config_of({wanted}), machine({node(0, MemoryKind::kDram)}), nullptr);
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  EXPECT_EQ(planned->tiers[0].pages, OsPages::kUsual);
  EXPECT_FALSE(planned->tiers[0].pages_note.empty());
}

TEST(PlanMachine, TwoGpusOfOneColumnAreRefused) {
  Config config = Config::defaults();
  config.prefault = false;
  config.discover_tiers = false;
  config.cuda.reserve_bytes = 0;
  TierConfig first = tier("hbm0", "cuda", 64 * kMiB, {});
  first.device = "0";
  first.column = 0;
  TierConfig second = tier("hbm1", "cuda", 64 * kMiB, {});
  second.device = "1";
  second.column = 0;
  config.tiers = {first, second, tier("dram", "numa", 64 * kMiB, {0})};
  config.arenas[0].columns = 2;
  const auto plan = [&] {
    return plan_machine(config, machine({node(0, MemoryKind::kDram)}), nullptr,
                        std::make_shared<FakeGpus>(2));
  };
  const auto refused = plan();
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().text.find("\"hbm0\" and \"hbm1\" are two GPUs' memory for one column"),
            std::string::npos)
      << refused.error().text;
  config.tiers[1].column = 1;
  const auto planned = plan();
  EXPECT_TRUE(planned.has_value()) << planned.error().text;
}

TEST(PlanMachine, MoreThanThereIsIsRefused) {
  Config config = config_of({tier("dram", "numa", 1ull << 44, {0})});
  config.prefault = true;
  const std::string refused = refusal(config, machine({node(0, MemoryKind::kDram)}));
  EXPECT_NE(refused.find("the tiers on NUMA node 0 want 16834560 MiB, tables included"), std::string::npos)
      << refused;
}

/// Others may have taken the memory of an arena that was deleted: those that are there go on.
TEST(PlanMachine, BesideArenasThatAreThereALackIsALine) {
  Config config = config_of({tier("dram", "numa", 1ull << 44, {0})});
  config.prefault = true;
  AdoptedArena before;
  before.arena.name = "chat";
  before.arena.weight = 7;
  before.arena.bytes = {{"dram", 8 * kMiB}, {"gone", kMiB}};
  before.windows = {tier("dram", "numa", 8 * kMiB), tier("gone", "numa", kMiB)};
  const auto planned =
      plan_machine(config, machine({node(0, MemoryKind::kDram)}), nullptr, nullptr, "", {before});
  ASSERT_TRUE(planned.has_value()) << planned.error().text;
  const auto has_note = [&](const std::string& words) {
    return std::any_of(planned->notes.begin(), planned->notes.end(),
                       [&](const std::string& note) { return note.find(words) != std::string::npos; });
  };
  EXPECT_TRUE(has_note("tables included"));
  EXPECT_TRUE(has_note("arena \"chat\" is not in the configuration; it stays"));
  ASSERT_EQ(planned->config.tiers.size(), 2u);
  EXPECT_TRUE(planned->config.tiers[0].is_configured);
  EXPECT_FALSE(planned->config.tiers[1].is_configured) << "no new arena gets anything of it";
  EXPECT_EQ(planned->config.arenas.back().weight, 7u);
  EXPECT_EQ(planned->config.given.at("arena.chat.name"), "kept");
}

}  // namespace
}  // namespace kvt::keeper
