// SPDX-License-Identifier: Apache-2.0
#include "shm/base/mapping.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

namespace kvt {
namespace {

Fd memfd(uint64_t bytes) {
  auto made = make_memfd("kvt-unit", bytes);
  KVT_CHECK(made.has_value());
  return std::move(*made);
}

/// VmFlags of the mapping that begins at `address`, from smaps.
std::string vm_flags(const void* address) {
  std::ifstream smaps("/proc/self/smaps");
  std::stringstream begin;
  begin << std::hex << reinterpret_cast<uintptr_t>(address) << "-";
  std::string line;
  bool here = false;
  while (std::getline(smaps, line)) {
    if (line.find('-') < 20 && line.find(':') > line.find(' ')) here = line.rfind(begin.str(), 0) == 0;
    if (here && line.rfind("VmFlags:", 0) == 0) return line + " ";
  }
  return "";
}

TEST(Mapping, TwoMappingsShowTheSameBytes) {
  const Fd fd = memfd(3 * 4096);
  auto one = Mapping::map(fd, 3 * 4096, Access::kReadWrite);
  auto two = Mapping::map(fd, 4096, Access::kReadOnly);
  ASSERT_TRUE(one.has_value()) << one.error().text;
  ASSERT_TRUE(two.has_value()) << two.error().text;
  EXPECT_EQ(one->bytes(), 3u * 4096);
  EXPECT_EQ(two->bytes(), 4096u);
  EXPECT_EQ(one->data()[0], std::byte{0});
  one->data()[7] = std::byte{9};
  EXPECT_EQ(two->data()[7], std::byte{9});
}

TEST(Mapping, RefusesNothingAndMoreThanTheFile) {
  const Fd fd = memfd(4096);
  EXPECT_EQ(Mapping::map(fd, 0, Access::kReadOnly).error().code, Code::kInvalid);
  EXPECT_EQ(Mapping::map(fd, 4097, Access::kReadOnly).error().code, Code::kInvalid);
  EXPECT_FALSE(Mapping::map(Fd(), 4096, Access::kReadOnly).has_value());
}

TEST(Mapping, IsLeftOutOfDumpsAndOfChildren) {
  const Fd fd = memfd(4096);
  const auto mapping = Mapping::map(fd, 4096, Access::kReadWrite);
  ASSERT_TRUE(mapping.has_value());
  const std::string flags = vm_flags(mapping->data());
  if (flags.empty()) GTEST_SKIP() << "this kernel shows no VmFlags";
  EXPECT_NE(flags.find(" dd "), std::string::npos) << "MADV_DONTDUMP: " << flags;
  EXPECT_NE(flags.find(" dc "), std::string::npos) << "MADV_DONTFORK: " << flags;
}

TEST(Mapping, MovesAndUnmapsOnce) {
  const Fd fd = memfd(4096);
  auto mapping = Mapping::map(fd, 4096, Access::kReadWrite);
  ASSERT_TRUE(mapping.has_value());
  std::byte* const data = mapping->data();
  {
    const Mapping moved(std::move(*mapping));
    EXPECT_EQ(moved.data(), data);
  }
  unsigned char resident = 0;
  EXPECT_EQ(::mincore(data, 4096, &resident), -1) << "it is unmapped";
}

TEST(AddressRange, IsAlignedAndMapsWindowsAtTheirOffsets) {
  constexpr uint64_t kAlignment = 2 << 20;
  auto range = AddressRange::reserve(10 << 20, kAlignment);
  ASSERT_TRUE(range.has_value()) << range.error().text;
  EXPECT_EQ(reinterpret_cast<uintptr_t>(range->data()) % kAlignment, 0u);
  const Fd first = memfd(4096);
  const Fd second = memfd(3 * 4096);
  const Fd last = memfd(2 << 20);
  // Out of order, each in a gap of its own.
  const auto b = range->map(second, 3 * 4096, Access::kReadWrite, 4 << 20);
  const auto c = range->map(last, 2 << 20, Access::kReadWrite, 8 << 20);
  const auto a = range->map(first, 4096, Access::kReadOnly, 0);
  ASSERT_TRUE(a.has_value()) << a.error().text;
  ASSERT_TRUE(b.has_value()) << b.error().text;
  ASSERT_TRUE(c.has_value()) << c.error().text;
  EXPECT_EQ(a->data(), range->data());
  EXPECT_EQ(b->data(), range->data() + (4 << 20));
  EXPECT_EQ(c->data(), range->data() + (8 << 20));
  b->data()[4096] = std::byte{3};
  c->data()[(2 << 20) - 1] = std::byte{4};
  auto again = Mapping::map(second, 3 * 4096, Access::kReadOnly);
  EXPECT_EQ(again->data()[4096], std::byte{3});
}

TEST(AddressRange, RefusesWhatDoesNotFit) {
  auto range = AddressRange::reserve(1 << 20, 4096);
  ASSERT_TRUE(range.has_value());
  const Fd fd = memfd(1 << 20);
  EXPECT_EQ(range->map(fd, 1 << 20, Access::kReadWrite, 4096).error().code, Code::kInvalid) << "over the end";
  EXPECT_EQ(range->map(fd, 4096, Access::kReadWrite, 2 << 20).error().code, Code::kInvalid)
      << "behind the end";
  const auto taken = range->map(fd, 8192, Access::kReadWrite, 8192);
  ASSERT_TRUE(taken.has_value());
  EXPECT_FALSE(range->map(fd, 4096, Access::kReadWrite, 8192).has_value()) << "twice";
  EXPECT_FALSE(range->map(fd, 8192, Access::kReadWrite, 4096).has_value()) << "overlapping";
  EXPECT_TRUE(range->map(fd, 8192, Access::kReadWrite, 0).has_value()) << "before it";
  EXPECT_TRUE(range->map(fd, 4096, Access::kReadWrite, 16384).has_value()) << "behind it";
}

TEST(AddressRange, GivesBackItsAddressesAndLeavesTheWindows) {
  std::byte* base = nullptr;
  const Fd fd = memfd(4096);
  Result<Mapping> window = fail(Code::kInvalid, "");
  {
    auto range = AddressRange::reserve(64 * 4096, 4096);
    ASSERT_TRUE(range.has_value());
    base = range->data();
    window = range->map(fd, 4096, Access::kReadWrite, 8 * 4096);
    ASSERT_TRUE(window.has_value());
    AddressRange moved(std::move(*range));
    EXPECT_EQ(moved.data(), base);
  }
  unsigned char resident = 0;
  EXPECT_EQ(::mincore(base, 4096, &resident), -1) << "before the window";
  EXPECT_EQ(::mincore(base + 9 * 4096, 4096, &resident), -1) << "behind it";
  window->data()[0] = std::byte{1};
}

TEST(Populate, MakesMemoryResident) {
  constexpr uint64_t kBytes = 1 << 20;
  const Fd fd = memfd(kBytes);
  const auto mapping = Mapping::map(fd, kBytes, Access::kReadWrite);
  ASSERT_TRUE(mapping.has_value());
  mapping->data()[4096] = std::byte{7};
  ASSERT_TRUE(populate(mapping->data(), kBytes).has_value());
  std::vector<unsigned char> resident(kBytes / os_page_bytes());
  ASSERT_EQ(::mincore(mapping->data(), kBytes, resident.data()), 0);
  for (const unsigned char page : resident) ASSERT_EQ(page & 1, 1);
  EXPECT_EQ(mapping->data()[4096], std::byte{7}) << "what was there stays";
}

}  // namespace
}  // namespace kvt
