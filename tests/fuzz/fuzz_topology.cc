// SPDX-License-Identifier: Apache-2.0
//
// Any text as a machine in hwloc's XML: it is refused with words, or becomes nodes that the daemon can name to the kernel.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "daemon/topology/topology.h"
#include "shm/base/fd.h"
#include "tests/fuzz/input.h"

namespace {

using kvt::Result;
using kvt::Topology;
using kvt::fuzz::found;
using kvt::fuzz::require;

/// The only call that knows how the topology is asked to read a text.
Result<Topology> read_topology(const std::string& xml) {
  static const kvt::Fd file(::memfd_create("topology", MFD_CLOEXEC));
  static const bool named = ::setenv("HWLOC_XMLFILE", ("/proc/self/fd/" + std::to_string(file.get())).c_str(), 1) == 0 &&
                            ::setenv("HWLOC_HIDE_ERRORS", "2", 1) == 0;
  require(named && ::ftruncate(file.get(), 0) == 0 && ::pwrite(file.get(), xml.data(), xml.size(), 0) == static_cast<ssize_t>(xml.size()),
          "the harness: memfd");
  return kvt::discover_topology();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto topology = read_topology({reinterpret_cast<const char*>(data), size});
  if (!topology) {
    if (topology.error().text.empty()) found("a topology refused without words");
    return 0;
  }
  require(!topology->nodes.empty(), "a machine without memory");
  for (const kvt::MemoryNode& node : topology->nodes) {
    const kvt::MemoryNode* const named = topology->find(node.os_index);
    require(named != nullptr && named->os_index == node.os_index, "a node that is not found by its number");
    require(named == &node, "two nodes have one number");
#ifdef KVT_FUZZ_CANARY
    // The planted bug: a copy of the rule that has no place for memory without CPUs beside a node with a number above 3.
    if (!node.has_cpus && topology->nodes.back().os_index > 3) found("canary: a node without CPUs");
#endif
  }
  return 0;
}
