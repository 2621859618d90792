// SPDX-License-Identifier: Apache-2.0
//
// Machines of all kinds in hwloc's XML, the impossible ones too: each is refused with words, or becomes nodes
// that a configuration can name, and tiers of all of them.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/topology/tiers.h"
#include "daemon/topology/topology.h"
#include "shm/abi/limits.h"
#include "tests/fuzz/input.h"

namespace {

using kvt::Topology;
using kvt::fuzz::found;
using kvt::fuzz::require;

void check_nodes(const Topology& topology) {
  require(!topology.nodes.empty(), "a machine without memory");
  for (const kvt::MemoryNode& node : topology.nodes) {
    require(topology.find(node.os_index) == &node, "a node that is not found by its number, or two with one");
    require(node.os_index <= INT32_MAX, "a node whose number no configuration can name");
    for (const std::string* cpus : {&node.cpus, &node.near_cpus})
      require(kvt::parse_cpu_list(*cpus).has_value(), "CPUs that are no list");
    for (const kvt::Figure& figure : {node.figures.read_gbs, node.figures.write_gbs, node.figures.latency_ns})
      require(!figure.known() || (std::isfinite(figure.value) && figure.value > 0), "a figure that is none");
#ifdef KVT_FUZZ_CANARY
    // The planted bug: a copy of the rule that has no place for a small node of persistent memory.
    if (node.subtype == "NVM" && node.bytes < 65536) found("canary: a small node of persistent memory");
#endif
  }
}

/// Every node with memory is in one tier, or is said to be unused; a tier that stands for another kind shares
/// its nodes.
void check_tiers(const Topology& topology, const std::vector<kvt::TierProposal>& tiers) {
  require(tiers.size() <= KVT_MAX_TIERS, "more tiers than an arena may have");
  std::set<std::string> names;
  std::set<uint32_t> placed;
  for (const kvt::TierProposal& tier : tiers) {
    require(!tier.name.empty() && names.insert(tier.name).second, "tiers without a name, or with the same");
    require(!tier.nodes.empty(), "a tier without nodes");
    require(tier.column >= -1 && tier.column < static_cast<int32_t>(KVT_MAX_COLUMNS),
            "a column that no arena has");
    for (const uint32_t index : tier.nodes) {
      require(topology.find(index) != nullptr && topology.find(index)->bytes != 0,
              "a tier of a node without memory");
      if (!tier.emulated) require(placed.insert(index).second, "a node in two tiers");
    }
    for (const kvt::Figure& figure : {tier.figures.read_gbs, tier.figures.write_gbs, tier.figures.latency_ns})
      require(!figure.known() || (std::isfinite(figure.value) && figure.value > 0),
              "a tier's figure that is none");
  }
  for (const kvt::MemoryNode& node : topology.nodes) {
    const bool unused = std::any_of(
        topology.unused.begin(), topology.unused.end(),
        [&](const kvt::UnusedMemory& each) { return each.name == "node" + std::to_string(node.os_index); });
    require(node.bytes == 0 || unused || placed.contains(node.os_index),
            "memory that no tier has and that is not said to be unused");
  }
}

// ---- mutations ----

/// splitmix64, from libFuzzer's seed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  size_t below(size_t bound) {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return static_cast<size_t>((z ^ (z >> 31)) % bound);
  }
  template <size_t N>
  std::string_view one_of(const std::array<std::string_view, N>& choices) {
    return choices[below(N)];
  }

 private:
  uint64_t state_;
};

struct Span {
  size_t begin;
  size_t count;
};

/// Where the values of attributes called `name` are, without their quotes.
std::vector<Span> values_of(const std::string& xml, std::string_view name) {
  std::vector<Span> spans;
  const std::string begin = " " + std::string(name) + "=\"";
  for (size_t at = 0; (at = xml.find(begin, at)) != std::string::npos;) {
    at += begin.size();
    const size_t end = xml.find('"', at);
    if (end == std::string::npos) break;
    spans.push_back({at, end - at});
  }
  return spans;
}

/// Lines that are one element without children, or text: what may go or come twice.
std::vector<Span> single_lines(const std::string& xml) {
  std::vector<Span> lines;
  for (size_t at = 0; at < xml.size();) {
    const size_t end = std::min(xml.find('\n', at), xml.size() - 1) + 1;
    const std::string_view line = std::string_view(xml).substr(at, end - at);
    if (line.ends_with("/>\n") && line.find("type=\"PU\"") == std::string_view::npos)
      lines.push_back({at, end - at});
    at = end;
  }
  return lines;
}

void mutate(std::string& xml, Random& random) {
  static constexpr std::array<std::string_view, 9> kNames = {
      "os_index", "local_memory", "value", "subtype", "initiator_cpuset", "target_obj_gp_index",
      "name",     "size",         "count"};
  static constexpr std::array<std::string_view, 14> kNumbers = {"0",
                                                                "1",
                                                                "2",
                                                                "3",
                                                                "6",
                                                                "7",
                                                                "64",
                                                                "4096",
                                                                "200000",
                                                                "4294967295",
                                                                "4294967296",
                                                                "9223372036854775807",
                                                                "18446744073709551615",
                                                                ""};
  static constexpr std::array<std::string_view, 6> kIndices = {"0", "1",  "2",
                                                               "5", "64", "1023"};  // the kernel's limit
  static constexpr std::array<std::string_view, 8> kSets = {"0x0",     "0x1",        "0x2",     "0x3",
                                                            "0xf...f", "0x80000000", "0x1,0x0", ""};
  static constexpr std::array<std::string_view, 9> kWords = {
      "DRAM", "HBM", "MCDRAM", "GPUMemory", "CXLMemory", "NVM", "Bandwidth", "Latency", "ReadBandwidth"};
  const size_t what = random.below(8);
  if (what < 6) {
    const std::string_view name = random.one_of(kNames);
    const std::vector<Span> spans = values_of(xml, name);
    if (spans.empty()) return;
    const Span span = spans[random.below(spans.size())];
    std::string value;
    if (name == "subtype" || name == "name")
      value = random.one_of(kWords);
    else if (name == "initiator_cpuset")
      value = random.one_of(kSets);
    else if (name == "os_index")
      value = random.one_of(kIndices);
    else
      value = random.below(3) == 0 ? std::to_string(random.below(size_t{1} << random.below(63)))
                                   : std::string(random.one_of(kNumbers));
    xml.replace(span.begin, span.count, value);
    return;
  }
  const std::vector<Span> lines = single_lines(xml);
  if (lines.empty()) return;
  const Span line = lines[random.below(lines.size())];
  const std::string text = xml.substr(line.begin, line.count);
  if (what == 6)
    xml.erase(line.begin, line.count);
  else
    xml.insert(lines[random.below(lines.size())].begin, text);
}

}  // namespace

/// hwloc 2.9 loses the object at hand when a text is cut short.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }

/// Changes what a machine may be like, and leaves alone how hwloc writes it down: hwloc 2.9 takes any file
/// for one of its own, and does not survive one in which an object has no complete_nodeset, nor an index of a
/// billion (a bitmap as long). Such a file is the operator's; nobody else's text is ever read.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  std::string xml(reinterpret_cast<const char*>(data), size);
  Random random(seed);
  for (size_t left = 1 + random.below(4); left != 0; --left) mutate(xml, random);
  if (xml.size() > max_size) return size;
  std::memcpy(data, xml.data(), xml.size());
  return xml.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string xml(reinterpret_cast<const char*>(data), size);
  auto topology = kvt::topology_from_xml(xml);
  if (!topology) {
    if (topology.error().text.empty()) found("a topology refused without words");
    return 0;
  }
  check_nodes(*topology);
  // Once with nothing but what the machine says, once with all that is known of its like.
  Topology plain = *topology;
  kvt::learn_figures(plain, nullptr, nullptr);
  check_nodes(plain);
  const std::vector<kvt::TierProposal> tiers = kvt::propose_tiers(plain, nullptr);
  check_tiers(plain, tiers);
  const auto profile = kvt::recognise_profile(*topology);
  kvt::learn_figures(*topology, nullptr, profile ? &*profile : nullptr);
  check_nodes(*topology);
  const std::vector<kvt::TierProposal> learnt = kvt::propose_tiers(*topology, profile ? &*profile : nullptr);
  check_tiers(*topology, learnt);
  return 0;
}
