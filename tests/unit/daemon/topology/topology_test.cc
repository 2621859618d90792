// SPDX-License-Identifier: Apache-2.0
#include "daemon/topology/topology.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>

#include "daemon/topology/kinds.h"
#include "tests/support/fake_sysfs.h"

/// hwloc 2.9 forgets objects of an XML file that ends in the middle. A topology that we forgot would be
/// another leak.
extern "C" __attribute__((visibility("default"))) const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:hwloc_alloc_setup_object\n"; }

namespace kvt {
namespace {

using test::TemporaryFolder;

TEST(Topology, ThisMachineHasANodeWithMemoryAndCpus) {
  const auto topology = discover_topology();
  ASSERT_TRUE(topology.has_value()) << topology.error().text;
  ASSERT_GE(topology->nodes.size(), 1u);
  uint64_t bytes = 0;
  bool cpus = false;
  for (const MemoryNode& node : topology->nodes) {
    bytes += node.bytes;
    cpus |= node.has_cpus();
    EXPECT_EQ(topology->find(node.os_index), &node) << "an OS index names one node";
  }
  EXPECT_GT(bytes, 64u << 20);
  EXPECT_TRUE(cpus);
  EXPECT_FALSE(topology->packages.empty());
  EXPECT_EQ(topology->find(123456), nullptr);
}

TEST(Topology, KindsAndSourcesHaveNames) {
  for (const MemoryKind kind : {MemoryKind::kUnknown, MemoryKind::kDram, MemoryKind::kHbm, MemoryKind::kCxl,
                                MemoryKind::kLpddr, MemoryKind::kGpu, MemoryKind::kNvm})
    EXPECT_EQ(find_kind(kind_name(kind)), kind) << kind_name(kind);
  EXPECT_EQ(find_kind("DRAM"), std::nullopt);
  EXPECT_EQ(find_kind(""), std::nullopt);
  EXPECT_STREQ(source_name(FigureSource::kHmat), "hmat");
  EXPECT_STREQ(source_name(FigureSource::kConfigured), "configuration");
}

// ---- what is no topology ----

TEST(Topology, WrongSourcesAreNamed) {
  const TemporaryFolder folder;
  const auto expect = [](TopologySource::Kind kind, const std::string& path, Code code,
                         const std::string& words) {
    const auto result = discover_topology({kind, path});
    ASSERT_FALSE(result.has_value()) << path;
    EXPECT_EQ(result.error().code, code) << result.error().text;
    EXPECT_NE(result.error().text.find(path), std::string::npos) << result.error().text;
    EXPECT_NE(result.error().text.find(words), std::string::npos) << result.error().text;
  };
  expect(TopologySource::Kind::kXml, folder.path() + "/none.xml", Code::kNotFound, "expected an XML file");
  expect(TopologySource::Kind::kXml, folder.path(), Code::kNotFound, "expected an XML file");
  expect(TopologySource::Kind::kFsroot, folder.path() + "/none", Code::kNotFound, "expected a folder");
  expect(TopologySource::Kind::kFsroot, folder.path(), Code::kNotFound, "expected a folder");
  const std::string file = folder.path() + "/text.xml";
  for (const char* text : {"", "hello", "<topology", "<?xml version=\"1.0\"?>\n<other/>\n"}) {
    std::ofstream(file) << text;
    expect(TopologySource::Kind::kXml, file, Code::kInvalid, "hwloc");
  }
}

constexpr const char* kXmlHead = R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
)";
constexpr const char* kXmlBody = R"(
  <object type="Machine" os_index="0" cpuset="0x3" complete_cpuset="0x3" allowed_cpuset="0x3" nodeset="0x5" complete_nodeset="0x5" allowed_nodeset="0x5" gp_index="1">
    <object type="NUMANode" os_index="0" cpuset="0x3" complete_cpuset="0x3" nodeset="0x1" complete_nodeset="0x1" gp_index="2" local_memory="1073741824"/>
    <object type="NUMANode" os_index="2" cpuset="0x3" complete_cpuset="0x3" nodeset="0x4" complete_nodeset="0x4" gp_index="3" subtype="CXL-DRAM" local_memory="536870912">
      <info name="CXLDevice" value="mem0,mem3"/>
    </object>
    <object type="PU" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x5" complete_nodeset="0x5" gp_index="4"/>
    <object type="PU" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x5" complete_nodeset="0x5" gp_index="5"/>
    <object type="OSDev" gp_index="6" name="mem3" subtype="CXLMem" osdev_type="0"><info name="CXLRAMSize" value="262144KiB"/></object>
    <object type="OSDev" gp_index="7" name="mem1" subtype="CXLMem" osdev_type="0"><info name="CXLRAMSize" value="262144KiB"/></object>
  </object>
</topology>
)";

TEST(Topology, XmlOfEitherVersion) {
  for (const char* version : {"2.0", "3.0"}) {
    const auto topology =
        topology_from_xml(std::string(kXmlHead) + "<topology version=\"" + version + "\">" + kXmlBody);
    ASSERT_TRUE(topology.has_value()) << topology.error().text;
    ASSERT_EQ(topology->nodes.size(), 2u);
    EXPECT_EQ(topology->nodes[0].cpus, "0-1");
    EXPECT_EQ(topology->nodes[0].kind, MemoryKind::kDram);
    EXPECT_EQ(topology->nodes[1].os_index, 2u) << "not hwloc's logical index";
    EXPECT_EQ(topology->nodes[1].cpus, "") << "those near to it are the first node's";
    EXPECT_EQ(topology->nodes[1].near_cpus, "0-1");
    EXPECT_EQ(topology->nodes[1].kind, MemoryKind::kCxl);
    // mem3 is memory of node 2.
    ASSERT_EQ(topology->unused.size(), 1u);
    EXPECT_EQ(topology->unused[0].name, "mem1");
    EXPECT_EQ(topology->unused[0].bytes, 256u << 20);
  }
  EXPECT_FALSE(
      topology_from_xml(std::string(kXmlHead) + "<topology version=\"4.0\">" + kXmlBody).has_value());
}

TEST(Topology, FiguresOfXmlAndZerosAmongThem) {
  const std::string body = kXmlBody;
  const std::string attributes = R"(<memattr name="Bandwidth" flags="5">
    <memattr_value target_obj_type="NUMANode" target_obj_gp_index="2" value="100000" initiator_cpuset="0x1"/>
    <memattr_value target_obj_type="NUMANode" target_obj_gp_index="2" value="50000" initiator_cpuset="0x2"/>
    <memattr_value target_obj_type="NUMANode" target_obj_gp_index="3" value="0" initiator_cpuset="0x3"/>
  </memattr>)";
  const auto topology =
      topology_from_xml(std::string(kXmlHead) + "<topology version=\"2.0\">" +
                        body.substr(0, body.find("</topology>")) + attributes + "</topology>");
  ASSERT_TRUE(topology.has_value()) << topology.error().text;
  ASSERT_EQ(topology->find(0)->initiators.size(), 2u);
  EXPECT_DOUBLE_EQ(topology->find(0)->figures.read_gbs.value, 100) << "as the best initiator sees it";
  EXPECT_DOUBLE_EQ(topology->find(0)->figures.write_gbs.value, 100)
      << "reading and writing are not told apart";
  EXPECT_TRUE(topology->find(2)->initiators.empty()) << "0 is not known";
  EXPECT_FALSE(topology->find(2)->figures.read_gbs.known());
}

TEST(Topology, XmlCutAnywhereEndsNothing) {
  const std::string whole = std::string(kXmlHead) + "<topology version=\"2.0\">" + kXmlBody;
  for (size_t length = 0; length < whole.size(); length += 37) {
    const auto topology = topology_from_xml(whole.substr(0, length));
    if (topology)
      EXPECT_FALSE(topology->nodes.empty()) << length;
    else
      EXPECT_FALSE(topology.error().text.empty()) << length;
  }
}

// ---- figures ----

TEST(Kinds, GraceIsToldByItsCoresWhereARecordingHasNoArchitecture) {
  Topology topology;
  topology.nodes.resize(2);
  topology.nodes[0].bytes = topology.nodes[1].bytes = 1ull << 37;
  topology.nodes[0].cpus = "0-71";
  topology.nodes[1].os_index = 1;
  topology.architecture = "x86_64";  // the reader's
  topology.cpu_model = "0xd4f";
  classify(topology, {{1, {true, ""}}});
  EXPECT_EQ(topology.nodes[0].kind, MemoryKind::kLpddr);
  EXPECT_EQ(topology.nodes[1].kind, MemoryKind::kGpu);
  topology.cpu_model = "POWER9";
  classify(topology, {{1, {true, ""}}});
  EXPECT_EQ(topology.nodes[0].kind, MemoryKind::kDram);
}

TEST(Figure, AStrongerSourceReplacesAWeakerOne) {
  const FigureSource weakest_first[] = {FigureSource::kGuessed, FigureSource::kProfile, FigureSource::kHmat,
                                        FigureSource::kMeasured, FigureSource::kConfigured};
  Figure figure;
  EXPECT_FALSE(figure.known());
  double value = 1;
  for (const FigureSource source : weakest_first) {
    figure.learn(value, source);
    EXPECT_EQ(figure.value, value) << source_name(source);
    EXPECT_EQ(figure.source, source);
    for (const FigureSource weaker : weakest_first) {
      if (weaker > source) break;
      figure.learn(99, weaker);
      EXPECT_EQ(figure.value, value) << source_name(weaker) << " has replaced " << source_name(source);
    }
    ++value;
  }
}

TEST(Figure, ZeroAndLessSayNothing) {
  Figure figure;
  figure.learn(0, FigureSource::kConfigured);
  figure.learn(-5, FigureSource::kHmat);
  EXPECT_FALSE(figure.known());
  figure.learn(7, FigureSource::kProfile);
  figure.learn(0, FigureSource::kMeasured);
  EXPECT_EQ(figure.value, 7);
}

// ---- overrides ----

MemoryNode node(uint32_t os_index, MemoryKind kind, uint64_t bytes = 1 << 20) {
  MemoryNode made;
  made.os_index = os_index;
  made.kind = kind;
  made.bytes = bytes;
  return made;
}

Topology of_nodes(std::vector<MemoryNode> nodes) {
  Topology topology;
  topology.nodes = std::move(nodes);
  return topology;
}

TEST(Overrides, ByNode) {
  Topology topology = of_nodes({node(0, MemoryKind::kDram), node(3, MemoryKind::kUnknown)});
  topology.nodes[1].figures.read_gbs.learn(10, FigureSource::kMeasured);
  MemoryOverride given;
  given.node = 3;
  given.kind = MemoryKind::kCxl;
  given.read_gbps = 55;
  given.latency_ns = 300;
  ASSERT_TRUE(apply_overrides(topology, {given}).has_value());
  EXPECT_EQ(topology.find(0)->kind, MemoryKind::kDram);
  EXPECT_FALSE(topology.find(0)->figures.read_gbs.known());
  EXPECT_EQ(topology.find(3)->kind, MemoryKind::kCxl);
  EXPECT_EQ(topology.find(3)->kind_from, "configuration");
  EXPECT_EQ(topology.find(3)->figures.read_gbs.value, 55);
  EXPECT_EQ(topology.find(3)->figures.read_gbs.source, FigureSource::kConfigured);
  EXPECT_FALSE(topology.find(3)->figures.write_gbs.known()) << "0 leaves what is known";
  EXPECT_EQ(topology.find(3)->figures.latency_ns.value, 300);
}

TEST(Overrides, ByKindAsDiscovered) {
  Topology topology = of_nodes({node(0, MemoryKind::kDram), node(1, MemoryKind::kCxl),
                                node(2, MemoryKind::kCxl), node(4, MemoryKind::kUnknown, 0)});
  MemoryOverride to_nvm;
  to_nvm.of_kind = MemoryKind::kCxl;
  to_nvm.kind = MemoryKind::kNvm;
  MemoryOverride nvm;  // no node was discovered as this kind
  nvm.of_kind = MemoryKind::kNvm;
  nvm.read_gbps = 1;
  const auto result = apply_overrides(topology, {to_nvm, nvm});
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, Code::kNotFound);
  EXPECT_NE(result.error().text.find("nvm"), std::string::npos) << result.error().text;
  EXPECT_EQ(topology.find(1)->kind, MemoryKind::kNvm);
  EXPECT_EQ(topology.find(2)->kind, MemoryKind::kNvm);
  MemoryOverride unknown;  // node 4 has no memory and so no kind
  unknown.of_kind = MemoryKind::kUnknown;
  EXPECT_FALSE(apply_overrides(topology, {unknown}).has_value());
}

TEST(Overrides, TheLaterOneCounts) {
  Topology topology = of_nodes({node(1, MemoryKind::kCxl), node(2, MemoryKind::kCxl)});
  MemoryOverride all;
  all.of_kind = MemoryKind::kCxl;
  all.read_gbps = 30;
  MemoryOverride one;
  one.node = 2;
  one.read_gbps = 25;
  ASSERT_TRUE(apply_overrides(topology, {all, one}).has_value());
  EXPECT_EQ(topology.find(1)->figures.read_gbs.value, 30);
  EXPECT_EQ(topology.find(2)->figures.read_gbs.value, 25);
}

TEST(Overrides, NotToBeUsed) {
  Topology topology = of_nodes({node(0, MemoryKind::kDram), node(1, MemoryKind::kCxl, 5 << 20)});
  MemoryOverride given;
  given.node = 1;
  given.use = false;
  ASSERT_TRUE(apply_overrides(topology, {given, given}).has_value());
  EXPECT_EQ(topology.find(1)->bytes, 0u);
  ASSERT_EQ(topology.unused.size(), 1u) << "said once";
  EXPECT_EQ(topology.unused[0].name, "node1");
  EXPECT_EQ(topology.unused[0].bytes, 5u << 20);
}

TEST(Overrides, ANodeThatIsNotThere) {
  Topology topology = of_nodes({node(0, MemoryKind::kDram), node(7, MemoryKind::kDram)});
  MemoryOverride given;
  given.node = 1;
  const auto result = apply_overrides(topology, {given});
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, Code::kNotFound);
  EXPECT_NE(result.error().text.find("node 1: this machine has NUMA nodes 0, 7"), std::string::npos)
      << result.error().text;
}

// ---- lists of CPUs ----

TEST(CpuList, Reads) {
  using List = std::vector<uint32_t>;
  EXPECT_EQ(parse_cpu_list(""), List{});
  EXPECT_EQ(parse_cpu_list("\n"), List{});
  EXPECT_EQ(parse_cpu_list("0"), List{0});
  EXPECT_EQ(parse_cpu_list("0-3,8\n"), (List{0, 1, 2, 3, 8}));
  EXPECT_EQ(parse_cpu_list("8,0-1"), (List{0, 1, 8}));
  EXPECT_EQ(parse_cpu_list("1,1-2,2"), (List{1, 2}));
  EXPECT_EQ(parse_cpu_list("65535"), List{65535});
  EXPECT_EQ(parse_cpu_list("0-65535")->size(), 65536u);
}

TEST(CpuList, RefusesWhatIsNone) {
  for (const char* text : {"a", "-1", "1-", "3-1", "1,", ",1", "1,,2", "1 2", " 1", "0x3", "65536", "0-65536",
                           "99999999999", "0-65535,0-65535", "1-2-3", "1;2"})
    EXPECT_EQ(parse_cpu_list(text), std::nullopt) << '"' << text << '"';
}

TEST(CpuList, WritesWhatItReads) {
  EXPECT_EQ(cpu_list({}), "");
  EXPECT_EQ(cpu_list({5}), "5");
  EXPECT_EQ(cpu_list({0, 1, 2, 4, 6, 7}), "0-2,4,6-7");
  const char* const given = std::getenv("KVT_TEST_SEED");
  const unsigned seed = given != nullptr ? static_cast<unsigned>(std::stoul(given)) : std::random_device{}();
  SCOPED_TRACE("KVT_TEST_SEED=" + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    std::vector<uint32_t> all(random() % 300 + 1);
    std::iota(all.begin(), all.end(), random() % 1000);
    std::vector<uint32_t> some;
    for (const uint32_t cpu : all)
      if (random() % 3 != 0) some.push_back(cpu);
    EXPECT_EQ(parse_cpu_list(cpu_list(some)), some);
  }
}

}  // namespace
}  // namespace kvt
