// SPDX-License-Identifier: Apache-2.0
#include "tools/bench/session_counters.h"

#include <cstddef>
#include <fstream>
#include <sstream>
#include <string>

#include "shm/region/session_region.h"
#include "tools/bench/rows.h"

namespace kvt::bench {

uint16_t sum_of_counters(uint64_t session_id) {
  std::byte* found = nullptr;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    // "from-to rw-s offset device inode /memfd:kvt-..."; windows are such files too, the magic tells.
    std::istringstream fields(line);
    std::string range, mode, offset;
    fields >> range >> mode >> offset;
    if (mode != "rw-s" || std::stoull(offset, nullptr, 16) != 0 ||
        line.find("/memfd:kvt-") == std::string::npos)
      continue;
    auto* const data = reinterpret_cast<std::byte*>(std::stoull(range, nullptr, 16));
    if (reinterpret_cast<const kvt_abi_region*>(data)->magic != KVT_SESSION_MAGIC) continue;
    // The keeper rows have a session in this process, too.
    if (reinterpret_cast<const kvt_abi_session_header*>(data)->session_id != session_id) continue;
    require(found == nullptr, "this process has the session's region twice");
    found = data;
  }
  require(found != nullptr, "the session's region is not mapped here");
  SessionGeometry geometry;
  const auto region =
      SessionRegion::open(found, reinterpret_cast<const kvt_abi_region*>(found)->region_bytes, geometry);
  if (!region) throw RowError("the session region: " + region.error().text);
  uint16_t sum = 0;
  for (uint64_t page = 0; page < geometry.pages; ++page)
    sum = static_cast<uint16_t>(sum + load_relaxed(region->counters()[page].count));
  return sum;
}

}  // namespace kvt::bench
