// SPDX-License-Identifier: Apache-2.0
//
// What can be had, read from made-up files of /proc and /sys.
#include "daemon/tier/budget.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace kvt::tier {
namespace {

constexpr uint64_t kGiB = 1ull << 30;

class FakeRoot : public testing::Test {
 protected:
  FakeRoot() {
    char name[] = "/tmp/kvtier-budget-XXXXXX";
    root_ = std::string(::mkdtemp(name)) + "/";
    write("proc/meminfo",
          "MemTotal:       67108864 kB\nMemFree:        1000 kB\nMemAvailable:   33554432 "
          "kB\nHugePages_Total: 5\n");
  }
  ~FakeRoot() override { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  std::string root_;
};

TEST_F(FakeRoot, TheMachineKeepsItsMargin) {
  EXPECT_EQ(available_memory_bytes(root_).value(), 30 * kGiB) << "32 GiB available, less 2";
  write("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n");
  EXPECT_EQ(available_memory_bytes(root_).value(), 7 * kGiB) << "less 1/16";
  write("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 1024 kB\n");
  EXPECT_EQ(available_memory_bytes(root_).value(), 0u) << "never the last bytes";
  write("proc/meminfo", "nothing\n");
  EXPECT_FALSE(available_memory_bytes(root_).has_value());
}

TEST_F(FakeRoot, TheTightestCgroupOfTheBranchCounts) {
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/a/b/memory.max", "max\n");
  write("sys/fs/cgroup/a/b/memory.current", "5\n");
  write("sys/fs/cgroup/a/memory.max", std::to_string(6 * kGiB));
  write("sys/fs/cgroup/a/memory.current", std::to_string(kGiB));
  EXPECT_EQ(available_memory_bytes(root_).value(), 3 * kGiB)
      << "5 GiB of headroom, less the machine's margin of 2";
  EXPECT_TRUE(cgroup_limits_memory(root_));
  write("sys/fs/cgroup/a/memory.max", std::to_string(64 * kGiB));
  EXPECT_FALSE(cgroup_limits_memory(root_)) << "63 GiB of headroom, 32 GiB available";
  write("sys/fs/cgroup/a/memory.max", std::to_string(6 * kGiB));
  write("sys/fs/cgroup/a/memory.current", std::to_string(7 * kGiB));
  EXPECT_EQ(available_memory_bytes(root_).value(), 0u);
}

TEST_F(FakeRoot, FilesThatCanBeDroppedAreNoUseOfACgroup) {
  write("proc/self/cgroup", "0::/pod\n");
  write("sys/fs/cgroup/pod/memory.max", std::to_string(20 * kGiB));
  write("sys/fs/cgroup/pod/memory.current", std::to_string(19 * kGiB));
  write("sys/fs/cgroup/pod/memory.stat",
        "anon 1\nactive_file 5\ninactive_file " + std::to_string(16 * kGiB) + "\n");
  EXPECT_EQ(available_memory_bytes(root_).value(), 15 * kGiB);
  write("sys/fs/cgroup/pod/memory.high", std::to_string(10 * kGiB));
  EXPECT_EQ(available_memory_bytes(root_).value(), 5 * kGiB)
      << "above memory.high the kernel slows who allocates";
}

TEST_F(FakeRoot, ACgroupMayBeAllowedNoHugePages) {
  write("proc/self/cgroup", "0::/pod\n");
  write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "100\n");
  write("sys/fs/cgroup/pod/hugetlb.2MB.max", "max\n");
  write("sys/fs/cgroup/pod/hugetlb.2MB.current", "0\n");
  EXPECT_EQ(free_huge_bytes(std::nullopt, root_), 100 * kHugePageBytes);
  write("sys/fs/cgroup/pod/hugetlb.2MB.max", "0\n");
  EXPECT_EQ(free_huge_bytes(std::nullopt, root_), 0u);
}

TEST_F(FakeRoot, ControlGroupsOfVersion1Count) {
  write("proc/self/cgroup", "4:cpu:/x\n9:memory:/x\n");
  write("sys/fs/cgroup/memory/x/memory.limit_in_bytes", std::to_string(4 * kGiB));
  write("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "0");
  EXPECT_EQ(available_memory_bytes(root_).value(), 2 * kGiB);
}

TEST_F(FakeRoot, ANodeGivesWhatIsFreeAndHalfOfItsFilePages) {
  write("sys/devices/system/node/node3/meminfo",
        "Node 3 MemTotal:  8388608 kB\nNode 3 MemFree:  2097152 kB\nNode 3 Active(file): 1048576 kB\nNode 3 "
        "Inactive(file): 1048576 kB\n");
  EXPECT_EQ(available_on_node(3, root_), 3 * kGiB - (256ull << 20)) << "less 1/32 of the node";
  EXPECT_EQ(available_on_node(4, root_), 0u) << "not there";
}

TEST_F(FakeRoot, ANodeWithoutMemoryIsNotOneThatCannotBeAsked) {
  write("sys/devices/system/node/node3/meminfo", "Node 3 MemTotal:  8388608 kB\n");
  EXPECT_EQ(memory_of_node(3, root_), 8 * kGiB);
  write("sys/devices/system/node/node3/meminfo", "Node 3 MemTotal:  0 kB\n");
  EXPECT_EQ(memory_of_node(3, root_), 0u);
  EXPECT_EQ(memory_of_node(4, root_), 0u) << "not there";
  write("sys/devices/system/node/node3/meminfo", "");
  EXPECT_EQ(memory_of_node(3, root_), std::nullopt);
}

TEST_F(FakeRoot, PromisedHugePagesAreNotFree) {
  write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "100\n");
  write("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "30\n");
  write("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "20\n");
  EXPECT_EQ(free_huge_bytes(std::nullopt, root_), 70 * kHugePageBytes);
  EXPECT_EQ(free_huge_bytes(1, root_), 0u) << "which node the promised ones will come from nobody knows";
  write("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "0\n");
  EXPECT_EQ(free_huge_bytes(1, root_), 20 * kHugePageBytes);
  EXPECT_EQ(free_huge_bytes(2, root_), 0u);
}

TEST_F(FakeRoot, SaysWhatForbidsTransparentHugePages) {
  std::string why;
  EXPECT_FALSE(shmem_gets_huge_pages(why, root_));
  EXPECT_NE(why.find("has no huge pages"), std::string::npos) << why;
  for (const char* chosen : {"never", "deny"}) {
    write("sys/kernel/mm/transparent_hugepage/shmem_enabled",
          std::string("always within_size [") + chosen + "] force\n");
    EXPECT_FALSE(shmem_gets_huge_pages(why, root_));
    EXPECT_NE(why.find(std::string("shmem_enabled is ") + chosen), std::string::npos) << why;
  }
  for (const char* chosen : {"always", "within_size", "advise", "force"}) {
    write("sys/kernel/mm/transparent_hugepage/shmem_enabled", std::string("never [") + chosen + "]\n");
    EXPECT_TRUE(shmem_gets_huge_pages(why, root_)) << chosen;
  }
}

TEST_F(FakeRoot, SwapIsALineBelowTheHeading) {
  EXPECT_FALSE(has_swap(root_));
  write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
  EXPECT_FALSE(has_swap(root_));
  write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/swap file 1 0 -2\n");
  EXPECT_TRUE(has_swap(root_));
}

}  // namespace
}  // namespace kvt::tier
