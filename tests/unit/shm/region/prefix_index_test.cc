// SPDX-License-Identifier: Apache-2.0
#include "shm/region/prefix_index.h"

#include <gtest/gtest.h>

#include <optional>
#include <unordered_map>
#include <vector>

#include "tests/support/random.h"
#include "tests/support/shared_memory.h"

namespace kvt {
namespace {

struct KeyHash {
  size_t operator()(const Key& key) const { return key.lo * 31 + key.hi; }
};

/// The index with the rows' keys beside it, as the keeper has them.
class Model {
 public:
  explicit Model(uint64_t pages) : made_(test::small_geometry(1, pages)), index_(made_.table), keys_(pages) {}

  PrefixIndex::Insert insert(Key key, PageIndex page, uint32_t generation) {
    keys_[page] = key;
    return index_.insert(key, page, generation);
  }
  bool erase(PageIndex page) {
    const bool erased = index_.erase(keys_[page], page, [this](PageIndex other) { return keys_[other]; });
    return erased;
  }
  /// As a reader does: the hint, then the row's own key.
  std::optional<Handle> find(Key key) {
    std::optional<Handle> found;
    index_.find(PrefixIndex::hash(key), [&](PageIndex page, uint32_t generation) {
      if (!(keys_[page] == key)) return false;
      found = Handle::of(page, generation);
      return true;
    });
    return found;
  }
  PrefixIndex& index() { return index_; }

 private:
  test::TestTable made_;
  PrefixIndex index_;
  std::vector<Key> keys_;
};

TEST(PrefixIndex, SlotsKeepTheLoadAtThreeQuarters) {
  for (const uint64_t pages : {uint64_t{1}, uint64_t{95}, uint64_t{96}, uint64_t{97}, uint64_t{3} << 20,
                               (uint64_t{3} << 20) + 1, uint64_t{KVT_MAX_PAGES}}) {
    const uint64_t slots = PrefixIndex::slots_for(pages);
    EXPECT_EQ(slots & (slots - 1), 0u) << pages;
    EXPECT_GE(slots * 3, pages * 4 - 3) << pages;
    EXPECT_GE(slots, 2 * KVT_INDEX_PROBES) << pages;
  }
}

TEST(PrefixIndex, FindsWhatIsThereAndNothingElse) {
  Model model(100);
  EXPECT_FALSE(model.find({1, 2}).has_value());
  ASSERT_EQ(model.insert({1, 2}, 7, 99), PrefixIndex::Insert::kInserted);
  ASSERT_TRUE(model.find({1, 2}).has_value());
  EXPECT_EQ(*model.find({1, 2}), Handle::of(7, 99));
  EXPECT_FALSE(model.find({2, 1}).has_value());
  EXPECT_TRUE(model.erase(7));
  EXPECT_FALSE(model.find({1, 2}).has_value());
  EXPECT_FALSE(model.erase(7)) << "it was taken out already";
}

TEST(PrefixIndex, KeepsTheLastGeneration) {
  Model model(100);
  ASSERT_EQ(model.insert({1, 2}, 99, KVT_MAX_GENERATION), PrefixIndex::Insert::kInserted);
  EXPECT_EQ(*model.find({1, 2}), Handle::of(99, KVT_MAX_GENERATION));
}

// Random operations beside std::unordered_map, at 3/4 load: after each, every key that should be there is
// found.
TEST(PrefixIndex, RandomOperationsBesideAMap) {
  test::Random random;
  for (const uint64_t pages : {96ull, 200ull, 3072ull}) {
    Model model(pages);
    std::unordered_map<Key, Handle, KeyHash> expected;
    std::vector<std::optional<Key>> key_of_page(pages);
    uint64_t refused = 0;
    const int operations = pages > 1000 ? 20'000 : 4'000;
    for (int i = 0; i < operations; ++i) {
      const PageIndex page = random.below32(pages);
      if (key_of_page[page]) {
        ASSERT_TRUE(model.erase(page)) << "operation " << i;
        expected.erase(*key_of_page[page]);
        key_of_page[page].reset();
      }
      if (!random.one_in(8)) {  // so nearly all pages are in the index
        const Key key{random.next(), random.one_in(4) ? 0 : random.next()};
        const uint32_t generation = random.below32(KVT_MAX_GENERATION);
        if (model.insert(key, page, generation) == PrefixIndex::Insert::kInserted) {
          expected[key] = Handle::of(page, generation);
          key_of_page[page] = key;
        } else {
          ++refused;
        }
      }
      if (i % 64 != 0 && i + 1 != operations) continue;
      for (const auto& [key, handle] : expected) {
        const auto found = model.find(key);
        ASSERT_TRUE(found.has_value()) << "operation " << i << ", " << pages << " pages";
        ASSERT_EQ(*found, handle);
      }
      ASSERT_FALSE(model.find(Key{random.next(), random.next()}).has_value());
    }
    EXPECT_EQ(refused, 0u) << "runs stay shorter than the bound";
  }
}

/// Keys whose home is one and the same slot, whatever the size of the index (hash is the slot's low bits).
std::vector<Key> colliding_keys(size_t count, uint64_t slots) {
  std::vector<Key> keys;
  for (uint64_t lo = 1; keys.size() < count; ++lo)
    if ((PrefixIndex::hash({lo, 5}) & (slots - 1)) == slots - 3)
      keys.push_back({lo, 5});  // wraps around the end
  return keys;
}

TEST(PrefixIndex, ProbesReachTheirLimit) {
  constexpr uint64_t kPages = KVT_INDEX_PROBES + 1;
  Model model(kPages);
  const auto keys = colliding_keys(kPages, PrefixIndex::slots_for(kPages));
  for (PageIndex page = 0; page < KVT_INDEX_PROBES; ++page)
    ASSERT_EQ(model.insert(keys[page], page, 1), PrefixIndex::Insert::kInserted);
  EXPECT_EQ(model.insert(keys[KVT_INDEX_PROBES], KVT_INDEX_PROBES, 1), PrefixIndex::Insert::kNoSlot);
  EXPECT_FALSE(model.find(keys[KVT_INDEX_PROBES]).has_value());
  for (PageIndex page = 0; page < KVT_INDEX_PROBES; ++page) EXPECT_TRUE(model.find(keys[page]).has_value());
  EXPECT_TRUE(model.erase(10));
  EXPECT_EQ(model.insert(keys[KVT_INDEX_PROBES], KVT_INDEX_PROBES, 1), PrefixIndex::Insert::kInserted);
  EXPECT_TRUE(model.find(keys[KVT_INDEX_PROBES]).has_value());
}

TEST(PrefixIndex, ErasingShiftsBackOverTheEndOfTheTable) {
  const uint64_t slots = PrefixIndex::slots_for(96);
  const auto keys = colliding_keys(20, slots);
  for (PageIndex gone = 0; gone < keys.size(); ++gone) {
    Model model(96);
    for (PageIndex page = 0; page < keys.size(); ++page)
      ASSERT_EQ(model.insert(keys[page], page, 3), PrefixIndex::Insert::kInserted);
    ASSERT_TRUE(model.erase(gone));
    for (PageIndex page = 0; page < keys.size(); ++page)
      EXPECT_EQ(model.find(keys[page]).has_value(), page != gone) << gone << " " << page;
  }
}

// The entry has 8 bits of the key. Keys that share home and tag are told apart by the row, never by the
// index.
TEST(PrefixIndex, AnEntryOfAnotherKeyIsNoHit) {
  Model model(96);
  const Key first{1, 5};
  const uint64_t wanted = PrefixIndex::hash(first);
  Key second{};
  for (uint64_t lo = 2;; ++lo) {
    const uint64_t h = PrefixIndex::hash({lo, 5});
    if (((h ^ wanted) & (PrefixIndex::slots_for(96) - 1)) == 0 && ((h ^ wanted) >> 48 & 0x7f) == 0) {
      second = {lo, 5};
      break;
    }
  }
  ASSERT_EQ(model.insert(first, 1, 1), PrefixIndex::Insert::kInserted);
  int visits = 0;
  model.index().find(PrefixIndex::hash(second), [&](PageIndex, uint32_t) {
    ++visits;
    return false;
  });
  EXPECT_EQ(visits, 1) << "the hint is there";
  EXPECT_FALSE(model.find(second).has_value()) << "and the row refuses it";
  ASSERT_EQ(model.insert(second, 2, 1), PrefixIndex::Insert::kInserted);
  EXPECT_EQ(model.find(second)->index(), 2u);
  EXPECT_EQ(model.find(first)->index(), 1u);
  EXPECT_TRUE(model.erase(1));
  EXPECT_EQ(model.find(second)->index(), 2u);
}

TEST(PrefixIndex, ClearEmptiesEverySlot) {
  Model model(96);
  for (PageIndex page = 0; page < 90; ++page) model.insert({page + 1, 1}, page, 1);
  model.index().clear();
  for (PageIndex page = 0; page < 90; ++page) EXPECT_FALSE(model.find({page + 1, 1}).has_value());
}

}  // namespace
}  // namespace kvt
