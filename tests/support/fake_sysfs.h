// SPDX-License-Identifier: Apache-2.0
//
// A machine that nobody has: writes what hwloc (HWLOC_FSROOT) and daemon/topology read of /sys and /proc into
// a folder of its own, from a description. The folder goes with the object. Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kvt::test {

/// A node's access0/initiators: firmware's HMAT as the kernel shows it, of the best initiators.
struct FakeAccess {
  uint32_t read_mbs = 0;  ///< 10^6 bytes a second
  uint32_t write_mbs = 0;
  uint32_t latency_ns = 0;  ///< for reading; writing takes as long
  /// Nodes; empty: the files are there, links are not (as with CXL memory)
  std::vector<uint32_t> initiators;
};

struct FakeNode {
  uint32_t os_index = 0;
  uint64_t bytes = 0;               ///< MemTotal; 0: a node without memory
  std::string cpus;                 ///< as a list, "0-3,8"; empty: none
  std::vector<uint32_t> distances;  ///< to all nodes of the machine in their order; empty: no such file
  std::optional<FakeAccess> access;
  uint32_t offline_blocks = 0;    ///< memory blocks that it has and nobody has onlined
  uint64_t side_cache_bytes = 0;  ///< a memory-side cache in front of it
};

struct FakeDax {
  std::string name;  ///< "dax0.0"
  uint64_t bytes = 0;
  int target_node = -1;
  std::string parent;  ///< below sys/devices: "platform/hmem.0"
  std::string driver;  ///< "kmem": onlined as memory; "device_dax"; empty: none
};

struct FakeCxl {
  uint32_t index = 0;  ///< "mem0"
  uint64_t ram_bytes = 0;
  uint64_t persistent_bytes = 0;
  uint64_t mapped_bytes = 0;  ///< in a region, by a decoder of its endpoint
};

struct FakeGpu {
  std::string address;  ///< on PCI
  uint32_t node = 0;
  uint64_t bytes = 0;
  std::string status = "online";
};

struct FakeMachine {
  std::string architecture = "x86_64";
  std::string product;                ///< by DMI; may be empty
  std::string cpu;                    ///< x86: the model's name; aarch64: the part's number, "0xd4f"
  std::vector<std::string> packages;  ///< CPUs of each, as lists
  std::vector<FakeNode> nodes;
  std::vector<FakeDax> dax;
  std::vector<FakeCxl> cxl;
  std::vector<FakeGpu> gpus;
  uint64_t block_bytes = 128ull << 20;   ///< of a memory block
  uint32_t homeless_offline_blocks = 0;  ///< offline, of a node that is not online
  std::string allowed_nodes;             ///< the process's Mems_allowed_list; empty: not said
};

/// A matrix of distances as rows for FakeNode: 10 on the diagonal, `remote` elsewhere.
std::vector<std::vector<uint32_t>> plain_distances(size_t nodes, uint32_t remote);

/// A folder in $TMPDIR, else /dev/shm, else /tmp, that is removed with everything in it.
class TemporaryFolder {
 public:
  TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Throws std::runtime_error or std::filesystem::filesystem_error when it cannot write.
class FakeSysfs {
 public:
  explicit FakeSysfs(const FakeMachine& machine);
  [[nodiscard]] const std::string& root() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

}  // namespace kvt::test
