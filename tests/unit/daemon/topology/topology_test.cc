// SPDX-License-Identifier: Apache-2.0
#include "daemon/topology/topology.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace kvt {
namespace {

/// Sets an environment variable for one scope.
class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const std::string& value) : name_(name) { ::setenv(name, value.c_str(), 1); }
  ~ScopedEnvironment() { ::unsetenv(name_); }

 private:
  const char* name_;
};

TEST(Topology, ThisMachineHasANodeWithMemory) {
  const auto topology = discover_topology();
  ASSERT_TRUE(topology.has_value()) << topology.error().text;
  ASSERT_GE(topology->nodes.size(), 1u);
  uint64_t bytes = 0;
  for (const MemoryNode& node : topology->nodes) bytes += node.bytes;
  EXPECT_GT(bytes, 64u << 20);
  EXPECT_EQ(topology->find(topology->nodes[0].os_index), &topology->nodes[0]);
  EXPECT_EQ(topology->find(123456), nullptr);
}

TEST(Topology, ReadsTheMachinesOfTheDataFolder) {
  const char* const data = std::getenv("KVTIER_DATA");
  if (data == nullptr) GTEST_SKIP() << "KVTIER_DATA is not set: no recorded machines";
  const std::filesystem::path folder = std::filesystem::path(data) / "hwloc" / "xml";
  if (!std::filesystem::is_directory(folder)) GTEST_SKIP() << folder << " is not there";
  size_t read = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".xml") continue;
    const ScopedEnvironment xml("HWLOC_XMLFILE", entry.path().string());
    const auto topology = discover_topology();
    ASSERT_TRUE(topology.has_value()) << entry.path() << ": " << topology.error().text;
    EXPECT_GE(topology->nodes.size(), 1u) << entry.path();
    // OS indices are what mbind wants; they name one node each.
    for (const MemoryNode& node : topology->nodes)
      EXPECT_EQ(topology->find(node.os_index), &node) << entry.path() << " has two nodes " << node.os_index;
    ++read;
  }
  EXPECT_GT(read, 0u);
}

TEST(Topology, ANodeWithoutCpusIsMarked) {
  const char* const data = std::getenv("KVTIER_DATA");
  if (data == nullptr) GTEST_SKIP() << "KVTIER_DATA is not set: no recorded machines";
  const std::string file = std::string(data) + "/hwloc/xml/64intel64-heteromem.xml";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << file << " is not there";
  const ScopedEnvironment xml("HWLOC_XMLFILE", file);
  const auto topology = discover_topology();
  ASSERT_TRUE(topology.has_value()) << topology.error().text;
  EXPECT_GE(topology->nodes.size(), 2u) << "a machine of several kinds of memory";
}

}  // namespace
}  // namespace kvt
