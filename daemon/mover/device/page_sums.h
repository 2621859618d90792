// SPDX-License-Identifier: Apache-2.0
//
// XXH3 (64 bits, no seed) of a page, in pieces that many threads take at once: one text for the compiler of the device,
// for the host, and for whatever runs the kernel in a device's place. Its values are those of page_sum() (checksum.h).
//
// XXH3 goes through its input in stripes of 64 bytes, each of which adds to eight lanes of 64 bits, and scrambles the lanes
// behind every 16 stripes, a block of 1024 bytes. Within a block sums have no order: 64 blocks make a tile, and 256 threads
// take a block's 16 bytes of each stripe each (sum_part). What is in order are the blocks: eight threads, a lane each, go
// through the tile's sums (take_tile), while the others read the next tile.
//
// Pure. Pages are 16-byte aligned, of at least 512 bytes, a multiple of 64.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define KVT_BOTH_SIDES __host__ __device__
#define KVT_UNROLLED _Pragma("unroll")
#else
#define KVT_BOTH_SIDES
#define KVT_UNROLLED
#endif

namespace kvt::mover::device {

inline constexpr uint32_t kStripeBytes = 64;
inline constexpr uint32_t kStripes = 16;  // of a block
inline constexpr uint32_t kBlockBytes = kStripeBytes * kStripes;
inline constexpr uint32_t kLanes = 8;
inline constexpr uint32_t kPairs = kLanes / 2;  // 16 bytes of a stripe, two lanes
inline constexpr uint32_t kTileBlocks = 64;
inline constexpr uint32_t kTileThreads = kTileBlocks * kPairs;  // that read
inline constexpr uint32_t kSumThreads =
    kTileThreads + 32;  // of a CTA; kLanes of the last warp take the tiles

inline constexpr uint64_t kPrime32_1 = 0x9e3779b1;
inline constexpr uint64_t kPrime32_2 = 0x85ebca77;
inline constexpr uint64_t kPrime32_3 = 0xc2b2ae3d;
inline constexpr uint64_t kPrime64_1 = 0x9e3779b185ebca87;
inline constexpr uint64_t kPrime64_2 = 0xc2b2ae3d27d4eb4f;
inline constexpr uint64_t kPrime64_3 = 0x165667b19e3779f9;
inline constexpr uint64_t kPrime64_4 = 0x85ebca77c2b2ae63;
inline constexpr uint64_t kPrime64_5 = 0x27d4eb2f165667c5;

/// The algorithm's secret of 192 bytes, as little-endian words, and what its lanes begin with.
struct Constants {
  uint64_t secret[24];
  uint64_t first[kLanes];
};
inline constexpr Constants kConstants{
    {
        0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072,  //
        0x78e5c0cc4ee679cb, 0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0,  //
        0xcb00c391bb52283c, 0xa32e531b8b65d088, 0x4ef90da297486471, 0xd8acdea946ef1938,  //
        0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a, 0x647378d9c97e9fc8,  //
        0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3,  //
        0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af,  //
    },
    {kPrime32_3, kPrime64_1, kPrime64_2, kPrime64_3, kPrime64_4, kPrime32_2, kPrime64_5, kPrime32_1}};
inline constexpr uint32_t kScrambleWord = 16;       // the scramble's key: the secret's last 64 bytes
inline constexpr uint32_t kLastStripeSecret = 121;  // in bytes: seven before those
inline constexpr uint32_t kMergeSecret = 11;

struct alignas(16) Pair {
  uint64_t first;
  uint64_t second;
};

/// What a tile's blocks add to the lanes, each begun at 0.
struct Tile {
  uint64_t sums[kTileBlocks][kLanes];
};

/// Blocks that are scrambled: all but the last, which may be whole, too.
KVT_BOTH_SIDES constexpr uint64_t scrambled_blocks(uint64_t bytes) { return (bytes - 1) / kBlockBytes; }
/// Stripes of the last block, beside the very last one, which ends where the page does and may overlap them.
KVT_BOTH_SIDES constexpr uint32_t last_stripes(uint64_t bytes) {
  return static_cast<uint32_t>((bytes - 1) % kBlockBytes / kStripeBytes);
}
KVT_BOTH_SIDES constexpr uint64_t tiles(uint64_t bytes) { return scrambled_blocks(bytes) / kTileBlocks + 1; }

/// The secret's eight bytes from byte `at` on.
KVT_BOTH_SIDES inline uint64_t secret_at(const Constants& constants, uint32_t at) {
  const uint32_t shift = at % 8 * 8;
  const uint64_t low = constants.secret[at / 8] >> shift;
  return shift == 0 ? low : low | constants.secret[at / 8 + 1] << (64 - shift);
}

KVT_BOTH_SIDES inline Pair load(const std::byte* data) {
#ifdef __CUDA_ARCH__
  const ulonglong2 words = __ldcs(reinterpret_cast<const ulonglong2*>(data));
  return {words.x, words.y};
#else
  return *reinterpret_cast<const Pair*>(data);
#endif
}

/// Each word is multiplied half by half under its key, and goes as it is to its neighbour's lane.
KVT_BOTH_SIDES inline void add(Pair& sums, Pair data, uint64_t first_key, uint64_t second_key) {
  const uint64_t first = data.first ^ first_key;
  const uint64_t second = data.second ^ second_key;
  sums.first += data.second + (first & 0xffffffff) * (first >> 32);
  sums.second += data.first + (second & 0xffffffff) * (second >> 32);
}

/// One of kTileThreads: a pair of lanes of one block of the tile.
KVT_BOTH_SIDES inline void sum_part(Tile& tile, const std::byte* page, uint64_t bytes, uint64_t number,
                                    uint32_t thread, const Constants& constants) {
  const uint64_t block = number * kTileBlocks + thread / kPairs;
  const uint32_t pair = thread % kPairs;
  const uint64_t scrambled = scrambled_blocks(bytes);
  if (block > scrambled) return;
  const uint32_t stripes = block < scrambled ? kStripes : last_stripes(bytes);
  const std::byte* const data = page + block * kBlockBytes + pair * sizeof(Pair);
  Pair words[kStripes];  // all are under way before the first is used
  KVT_UNROLLED
  for (uint32_t stripe = 0; stripe < kStripes; ++stripe)
    if (stripe < stripes) words[stripe] = load(data + stripe * kStripeBytes);
  Pair sums{0, 0};
  KVT_UNROLLED
  for (uint32_t stripe = 0; stripe < kStripes; ++stripe)
    if (stripe < stripes)
      add(sums, words[stripe], constants.secret[stripe + 2 * pair], constants.secret[stripe + 2 * pair + 1]);
  if (block == scrambled) {
    const uint32_t key = kLastStripeSecret + pair * static_cast<uint32_t>(sizeof(Pair));
    add(sums, load(page + bytes - kStripeBytes + pair * sizeof(Pair)), secret_at(constants, key),
        secret_at(constants, key + 8));
  }
  tile.sums[thread / kPairs][2 * pair] = sums.first;
  tile.sums[thread / kPairs][2 * pair + 1] = sums.second;
}

/// A lane's value behind the tile.
KVT_BOTH_SIDES inline uint64_t take_tile(uint64_t value, const Tile& tile, uint64_t bytes, uint64_t number,
                                         uint32_t lane, const Constants& constants) {
  const uint64_t key = constants.secret[kScrambleWord + lane];
  const uint64_t scrambled = scrambled_blocks(bytes) - number * kTileBlocks;
  const uint32_t whole = scrambled < kTileBlocks ? static_cast<uint32_t>(scrambled) : kTileBlocks;
  for (uint32_t block = 0; block < whole; ++block) {
    value += tile.sums[block][lane];
    value = (value ^ value >> 47 ^ key) * kPrime32_1;
  }
  return whole < kTileBlocks ? value + tile.sums[whole][lane] : value;
}

KVT_BOTH_SIDES inline uint64_t fold_product(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
  return a * b ^ __umul64hi(a, b);
#else
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
#endif
}

/// The page's sum from its lanes. Never 0, as page_sum().
KVT_BOTH_SIDES inline uint64_t finish(const uint64_t* lanes, uint64_t bytes, const Constants& constants) {
  uint64_t sum = bytes * kPrime64_1;
  for (uint32_t pair = 0; pair < kPairs; ++pair) {
    const uint32_t key = kMergeSecret + pair * static_cast<uint32_t>(sizeof(Pair));
    sum += fold_product(lanes[2 * pair] ^ secret_at(constants, key),
                        lanes[2 * pair + 1] ^ secret_at(constants, key + 8));
  }
  sum ^= sum >> 37;
  sum *= 0x165667919e3779f9;
  sum ^= sum >> 32;
  return sum == 0 ? 1 : sum;
}

/// All threads' work, one after the other.
inline uint64_t sum_by_tiles(const std::byte* page, uint64_t bytes) {
  uint64_t lanes[kLanes];
  for (uint32_t lane = 0; lane < kLanes; ++lane) lanes[lane] = kConstants.first[lane];
  for (uint64_t number = 0; number < tiles(bytes); ++number) {
    Tile tile;
    for (uint32_t thread = 0; thread < kTileThreads; ++thread)
      sum_part(tile, page, bytes, number, thread, kConstants);
    for (uint32_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] = take_tile(lanes[lane], tile, bytes, number, lane, kConstants);
  }
  return finish(lanes, bytes, kConstants);
}

// kvt_page_sums(const uint64_t* pages, uint64_t* sums, uint32_t count, uint64_t bytes)
//   `count` pages at addresses that the device sees, `bytes` of each; kSumThreads threads a CTA, each of which takes whole
//   pages in turn; at most `count` CTAs.

}  // namespace kvt::mover::device
