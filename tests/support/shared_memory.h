// SPDX-License-Identifier: Apache-2.0
//
// Zeroed memory of a memfd for the tests of shm/: a table or a session region without a daemon. Aborts when
// there is none.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include "shm/base/fd.h"
#include "shm/base/mapping.h"
#include "shm/region/arena_table.h"
#include "shm/region/session_region.h"

namespace kvt::test {

struct SharedMemory {
  explicit SharedMemory(uint64_t bytes_wanted) {
    auto made = make_memfd("kvt-unit-test", bytes_wanted);
    KVT_CHECK(made.has_value());
    fd = std::move(*made);
    auto mapped = Mapping::map(fd, bytes_wanted, Access::kReadWrite);
    KVT_CHECK(mapped.has_value());
    mapping = std::move(*mapped);
  }
  [[nodiscard]] std::byte* data() const { return mapping.data(); }
  [[nodiscard]] uint64_t bytes() const { return mapping.bytes(); }

  Fd fd;
  Mapping mapping;
};

inline ArenaGeometry small_geometry(uint32_t columns = 1, uint64_t pages = 100) {
  ArenaGeometry geometry;
  geometry.name = "unit";
  geometry.arena_id = 7;
  geometry.page_bytes = 65536;
  geometry.pages = pages;
  geometry.block_tokens = 16;
  geometry.columns = columns;
  for (uint32_t column = 0; column < columns && column + 1 < KVT_MAX_TIERS; ++column)
    geometry.tiers.push_back(
        {"hbm" + std::to_string(column), 10 + column, 3000, 2000, static_cast<int32_t>(column), true});
  geometry.tiers.push_back({"dram", pages, 300, 200, -1, false});
  return geometry;
}

/// A table in memory of its own.
struct TestTable {
  explicit TestTable(const ArenaGeometry& geometry) : memory(arena_table_bytes(geometry)) {
    auto made = ArenaWriter::create(memory.data(), memory.bytes(), geometry);
    KVT_CHECK(made.has_value());
    table = *made;
  }
  SharedMemory memory;
  ArenaWriter table;
};

inline SessionGeometry session_geometry(uint64_t pages, uint32_t members_max = 1) {
  SessionGeometry geometry;
  geometry.session_id = 5;
  geometry.arena_id = 7;
  geometry.pages = pages;
  geometry.members_max = members_max;
  return geometry;
}

/// A session region in memory of its own.
struct TestRegion {
  explicit TestRegion(uint64_t page_count, uint32_t members_max = 1)
      : geometry(session_geometry(page_count, members_max)),
        memory(session_region_bytes(geometry)),
        region(SessionRegion::create(memory.data(), geometry)) {}
  SessionGeometry geometry;
  SharedMemory memory;
  SessionRegion region;
};

}  // namespace kvt::test
