// SPDX-License-Identifier: Apache-2.0
//
// What is found on the recorded machines of $KVTIER_DATA/hwloc, as tables. lstopo's own output lies beside
// each recording; the tables say the same where both speak of a thing.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "daemon/topology/topology.h"
#include "tests/support/fake_sysfs.h"
#include "tests/unit/daemon/topology/machine_table.h"

namespace kvt {
namespace {

using namespace test;
namespace fs = std::filesystem;

constexpr const char* kKnlHybrid =
    R"(node 0: dram, 1048576 KiB, cpus 0-3,16-19,32-35,48-51, read 22.5 hmat, latency -, behind 2097152 KiB
node 1: dram, 1048576 KiB, cpus 4-7,20-23,36-39,52-55, read 22.5 hmat, latency -, behind 2097152 KiB
node 2: dram, 1048576 KiB, cpus 8-11,24-27,40-43,56-59, read 22.5 hmat, latency -, behind 2097152 KiB
node 3: dram, 1048576 KiB, cpus 12-15,28-31,44-47,60-63, read 22.5 hmat, latency -, behind 2097152 KiB
node 4: hbm, 2097152 KiB, cpus -, read 90 hmat, latency -
node 5: hbm, 2097152 KiB, cpus -, read 90 hmat, latency -
node 6: hbm, 2097152 KiB, cpus -, read 90 hmat, latency -
node 7: hbm, 2097152 KiB, cpus -, read 90 hmat, latency -
tier hbm: hbm, nodes 4-7, 8388608 KiB, read 360 hmat
tier dram: dram, nodes 0-3, 4194304 KiB, read 90 hmat
)";

constexpr const char* kSideCaches =
    R"(node 0: dram, 388492316 KiB, cpus 0,4,8,12,16,20,24,28,32,36,40,44,48,52,56,60,64,68,72,76, read -, latency -, behind 100663296 KiB
node 1: dram, 390163848 KiB, cpus 1,5,9,13,17,21,25,29,33,37,41,45,49,53,57,61,65,69,73,77, read -, latency -, behind 100663296 KiB
node 2: dram, 390163840 KiB, cpus 2,6,10,14,18,22,26,30,34,38,42,46,50,54,58,62,66,70,74,78, read -, latency -, behind 100663296 KiB
node 3: dram, 390162812 KiB, cpus 3,7,11,15,19,23,27,31,35,39,43,47,51,55,59,63,67,71,75,79, read -, latency -, behind 100663296 KiB
tier hbm: hbm emulated, nodes 0-3, 194872852 KiB, read -
tier dram: dram, nodes 0-3, 1364109964 KiB, read -
)";

constexpr const char* kHeteroCpus = R"(node 0: dram, 1048576 KiB, cpus 0-3, read -, latency -
node 1: dram, 1048576 KiB, cpus 8-11, read -, latency -
node 2: unknown, 1048576 KiB, cpus -, read -, latency -
node 3: dram, 1048576 KiB, cpus 20-23, read -, latency -
node 4: dram, 1048576 KiB, cpus 16-23, read -, latency -
node 5: dram, 1048576 KiB, cpus 12-23, read -, latency -
tier dram: dram, nodes 0-1,3-5, 5242880 KiB, read -
tier other: unknown, nodes 2, 1048576 KiB, read -
)";

/// By path below hwloc/.
const std::map<std::string, std::string> kExpected{
    {"linux/64intel64-fakeKNL-A2A-cache.tar.bz2",
     R"(node 0: dram, 1048576 KiB, cpus 0-63, read -, latency -, behind 16777216 KiB
tier hbm: hbm emulated, nodes 0, 131072 KiB, read -
tier dram: dram, nodes 0, 917504 KiB, read -
)"},
    {"linux/64intel64-fakeKNL-SNC4-hybrid.tar.bz2", kKnlHybrid},
    {"xml/64intel64-heteromem.xml", kKnlHybrid},
    {"linux/fakeheterocpunuma.tar.bz2", kHeteroCpus},
    {"linux/fakeheterocpunuma.xml", kHeteroCpus},  // of hwloc 3
    {"linux/fakeheteromemtiers.tar.bz2", R"(node 0: dram, 3005392 KiB, cpus 0-1, read 1 hmat, latency -
node 1: dram, 1002460 KiB, cpus 2-3, read 1 hmat, latency -
node 2: hbm, 524288 KiB, cpus 4-5, read 10 hmat, latency -
node 4: hbm, 524288 KiB, cpus -, read 10 hmat, latency -
node 6: nvm, 393216 KiB, cpus -, read 0.1 hmat, latency -
node 8: nvm, 393216 KiB, cpus -, read 0.1 hmat, latency -
node 9: nvm, 393216 KiB, cpus -, read 0.1 hmat, latency -
tier hbm: hbm, nodes 2,4, 1048576 KiB, read 20 hmat
tier dram: dram, nodes 0-1, 4007852 KiB, read 2 hmat
tier nvm: nvm, nodes 6,8-9, 1179648 KiB, read 0.3 hmat
unused dax0.0: unknown, 524288 KiB
unused dax2.0: unknown, 524288 KiB
unused dax6.0: nvm, 514048 KiB
)"},
    {"linux/memorysidecaches.tar.bz2", kSideCaches},
    {"xml/memorysidecaches.xml", kSideCaches},
    {"linux/nvidiagpunumanodes.tar.bz2", R"(node 0: dram, 129839104 KiB, cpus 0-87, read -, latency -
node 8: dram, 133952000 KiB, cpus 88-175, read -, latency -
node 250: gpu, 15728640 KiB, cpus -, read -, latency -
node 251: gpu, 15728640 KiB, cpus -, read -, latency -
node 252: gpu, 15728640 KiB, cpus -, read -, latency -
node 253: gpu, 15728640 KiB, cpus -, read -, latency -
node 254: gpu, 15728640 KiB, cpus -, read -, latency -
node 255: gpu, 15728640 KiB, cpus -, read -, latency -
tier gpu0: gpu, nodes 255, 15728640 KiB, read -, column 0
tier gpu1: gpu, nodes 254, 15728640 KiB, read -, column 1
tier gpu2: gpu, nodes 253, 15728640 KiB, read -, column 2
tier gpu3: gpu, nodes 252, 15728640 KiB, read -, column 3
tier gpu4: gpu, nodes 251, 15728640 KiB, read -, column 4
tier gpu5: gpu, nodes 250, 15728640 KiB, read -, column 5
tier dram: dram, nodes 0,8, 263791104 KiB, read -
)"},
    {"linux/offline-cpu0-node0.tar.bz2",
     R"(node 1: dram, 67108864 KiB, cpus 1,3,5,7,9,11,13,15,17,19,21,23, read -, latency -
tier hbm: hbm emulated, nodes 1, 8388608 KiB, read -
tier dram: dram, nodes 1, 58720256 KiB, read -
)"},
    {"xml/cxlmem+dax.v2.xml", R"(node 0: dram, 2989960 KiB, cpus 0-3, read -, latency -
tier hbm: hbm emulated, nodes 0, 373745 KiB, read -
tier dram: dram, nodes 0, 2616215 KiB, read -
unused dax0.0: unknown, 1048576 KiB
unused mem0: cxl, 262144 KiB
unused mem1: cxl, 524288 KiB
unused mem2: cxl, 262144 KiB
unused mem3: cxl, 262144 KiB
)"},
};

bool is_topology(const fs::path& file) {
  return file.extension() == ".xml" || file.string().ends_with(".tar.bz2");
}

/// Empty when there are none; then why is in `reason`.
fs::path recordings(std::string& reason) {
  const char* const data = std::getenv("KVTIER_DATA");
  if (data == nullptr) {
    reason = "KVTIER_DATA is not set: no recorded machines";
    return {};
  }
  fs::path folder = fs::path(data) / "hwloc";
  if (fs::is_directory(folder)) return folder;
  reason = folder.string() + " is not there: no recorded machines";
  return {};
}

TEST(Recorded, EveryMachineOfTheDataFolderHasATable) {
  std::string reason;
  const fs::path folder = recordings(reason);
  if (folder.empty()) GTEST_SKIP() << reason;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && is_topology(entry.path()))
      EXPECT_TRUE(kExpected.contains(fs::relative(entry.path(), folder).string()))
          << entry.path() << " has no table in this file";
  }
}

class RecordedMachine : public testing::TestWithParam<std::string> {};

TEST_P(RecordedMachine, IsAsItsTableSays) {
  std::string reason;
  const fs::path folder = recordings(reason);
  if (folder.empty()) GTEST_SKIP() << reason;
  const fs::path file = folder / GetParam();
  ASSERT_TRUE(fs::is_regular_file(file)) << file;
  if (file.extension() == ".xml") {
    EXPECT_EQ(table_of(TopologySource::Kind::kXml, file.string()), kExpected.at(GetParam()));
    return;
  }
  const TemporaryFolder unpacked;
  const std::string command = "tar --no-same-owner -xjf '" + file.string() + "' -C '" + unpacked.path() + "'";
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << command << " (needs tar and bzip2)";
  const std::string name = file.filename().string();
  const fs::path root =
      fs::path(unpacked.path()) / name.substr(0, name.size() - std::string(".tar.bz2").size());
  EXPECT_EQ(table_of(TopologySource::Kind::kFsroot, root.string()), kExpected.at(GetParam()));
}

std::vector<std::string> expected_paths() {
  std::vector<std::string> paths;
  for (const auto& [path, table] : kExpected) paths.push_back(path);
  return paths;
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace_if(
      name.begin(), name.end(),
      [](char letter) { return std::isalnum(static_cast<unsigned char>(letter)) == 0; }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(, RecordedMachine, testing::ValuesIn(expected_paths()), test_name);

}  // namespace
}  // namespace kvt
