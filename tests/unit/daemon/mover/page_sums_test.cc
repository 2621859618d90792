// SPDX-License-Identifier: Apache-2.0
//
// The arithmetic of kvt_page_sums, all its threads one after the other, beside the library that CPUs sum with.
#include "daemon/mover/device/page_sums.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "daemon/mover/checksum.h"
#include "tests/support/random.h"

namespace kvt::mover {
namespace {

struct FreeBytes {
  void operator()(std::byte* bytes) const { std::free(bytes); }
};
std::unique_ptr<std::byte, FreeBytes> random_bytes(size_t bytes, test::Random& random) {
  std::unique_ptr<std::byte, FreeBytes> made(static_cast<std::byte*>(std::aligned_alloc(64, bytes)));
  for (size_t at = 0; at < bytes; at += 8) {
    const uint64_t word = random.next();
    std::memcpy(made.get() + at, &word, 8);
  }
  return made;
}

TEST(PageSums, AreThoseOfTheLibrary) {
  test::Random random;
  constexpr size_t kMost = 8u << 20;
  const auto data = random_bytes(kMost, random);
  std::vector<size_t> sizes;
  // Whole blocks of 1024 bytes and halves of one, each side of a tile's end, up to three tiles.
  for (size_t bytes = 512; bytes <= 200 * 1024; bytes += 512) sizes.push_back(bytes);
  for (size_t bytes = 512; bytes <= 4096; bytes += 64) sizes.push_back(bytes);
  for (const size_t bytes : {size_t{655360}, size_t{1} << 20, (size_t{2} << 20) - 512, size_t{2} << 20,
                             (size_t{2} << 20) + 512, kMost})
    sizes.push_back(bytes);
  for (const size_t bytes : sizes) {
    // Elsewhere each time, aligned as frames are.
    const std::byte* const page = data.get() + random.below((kMost - bytes) / 512 + 1) * 512;
    ASSERT_EQ(device::sum_by_tiles(page, bytes), page_sum(page, bytes)) << bytes;
  }
}

TEST(PageSums, AreOfEveryByte) {
  test::Random random;
  for (const size_t bytes : {size_t{16384}, size_t{16896}, size_t{66048}, size_t{131072}}) {
    const auto data = random_bytes(bytes, random);
    const uint64_t sum = device::sum_by_tiles(data.get(), bytes);
    for (size_t at = random.below(97); at < bytes; at += 97) {
      data.get()[at] ^= std::byte{0x10};
      ASSERT_NE(device::sum_by_tiles(data.get(), bytes), sum) << bytes << ", byte " << at;
      data.get()[at] ^= std::byte{0x10};
    }
  }
}

TEST(PageSums, OfPagesThatAreAllOneByte) {
  for (const size_t bytes : {size_t{512}, size_t{16384}, size_t{65536}})
    for (const int each : {0, 0xff}) {
      const std::unique_ptr<std::byte, FreeBytes> data(
          static_cast<std::byte*>(std::aligned_alloc(64, bytes)));
      std::memset(data.get(), each, bytes);
      EXPECT_EQ(device::sum_by_tiles(data.get(), bytes), page_sum(data.get(), bytes))
          << bytes << ", " << each;
    }
}

}  // namespace
}  // namespace kvt::mover
