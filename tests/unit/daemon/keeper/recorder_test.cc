// SPDX-License-Identifier: Apache-2.0
//
// Recorder: what it writes is read back here by a decoder of its own and compared with rows and reads.
#include "daemon/keeper/recorder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "tests/support/arena_fixture.h"
#include "tests/support/random.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

/// What a reader of the records knows.
class Decoded {
 public:
  struct Place {
    uint32_t tier = 0;
    int second = -1;
    bool born = false;
    [[maybe_unused]] friend bool operator==(const Place&, const Place&) = default;
  };
  using Pages = std::map<PageIndex, Place>;
  using Reads = std::map<PageIndex, uint64_t>;

  void add(const std::string& bytes) {
    at_ = reinterpret_cast<const uint8_t*>(bytes.data());
    const uint8_t* const end = at_ + bytes.size();
    while (at_ < end) {
      const char type = static_cast<char>(*at_++);
      const uint64_t length = number();
      const uint8_t* const record_end = at_ + length;
      ASSERT_LE(record_end, end) << "records come whole";
      types += type;
      switch (type) {
        case 'C':
        case 'N': {
          const uint64_t column = number();
          if (type == 'C') number();
          for (int64_t page = 0; at_ < record_end;) {
            page += difference(number());
            const uint64_t word = number();
            if ((word & 0x300) == 0x200) {
              static_cast<void>(number());
              ++by_reader;
            }
            change(column, page, word);
          }
          break;
        }
        case 'P':
          period += number();
          number();
          number();
          reads.clear();
          break;
        case 'R': {
          const uint64_t column = number();
          for (int64_t page = 0; at_ < record_end;) {
            const uint64_t word = number();
            page += difference(word >> 1);
            const auto index = static_cast<PageIndex>(page);
            EXPECT_TRUE(pages[column].contains(index))
                << "page " << index << " is read, and nothing said where it is";
            reads[index] += (word & 1) != 0 ? number() : 1;
            ++entries;
          }
          break;
        }
        case 'D':
          dropped_periods = number();
          dropped_entries = number();
          break;
        case 'E':
          periods = number();
          end_entries = number();
          number();
          dropped_periods = number();
          dropped_entries = number();
          break;
        default: FAIL() << "a record of type " << type;
      }
      ASSERT_EQ(at_, record_end) << type;
    }
  }

  std::map<uint64_t, Pages> pages;  ///< by column
  Reads reads;                      ///< of the last period, all columns
  std::string types;
  uint64_t by_reader = 0, period = 0, entries = 0, periods = 0, end_entries = 0, dropped_periods = 0,
           dropped_entries = 0;

 private:
  uint64_t number() {
    uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
      value |= uint64_t{*at_ & 0x7fu} << shift;
      if ((*at_++ & 0x80) == 0) return value;
    }
  }
  static int64_t difference(uint64_t zigzag) {
    return static_cast<int64_t>(zigzag >> 1) ^ -static_cast<int64_t>(zigzag & 1);
  }
  void change(uint64_t column, int64_t index, uint64_t word) {
    const auto page = static_cast<PageIndex>(index);
    if ((word & 0x100) != 0) {
      EXPECT_EQ(pages[column].erase(page), 1u) << "page " << page << " goes, and was not there";
      return;
    }
    pages[column][page] = {static_cast<uint32_t>(word & 7), static_cast<int>((word >> 3) & 15) - 1,
                           (word & 0x80) != 0};
  }
  const uint8_t* at_ = nullptr;
};

Decoded::Place place_of(TestArena& test, uint32_t column, PageIndex page) {
  const Placement now = test.table().placement(column, page);
  const Shadow shadow = test.table().shadow(column, page);
  return {now.tier(), shadow.valid() ? static_cast<int>(shadow.tier()) : -1, false};
}

/// Empty, or how rows and records differ. What nobody has sealed or read may be missing.
std::string difference(TestArena& test, const Decoded& decoded) {
  for (uint32_t column = 0; column < test.table().columns(); ++column) {
    const auto found = decoded.pages.find(column);
    const Decoded::Pages pages = found == decoded.pages.end() ? Decoded::Pages{} : found->second;
    for (uint64_t i = 0; i < test.table().pages(); ++i) {
      const auto page = static_cast<PageIndex>(i);
      const auto told = pages.find(page);
      const PageState state = test.table().placement(column, page).state();
      const std::string where = "column " + std::to_string(column) + ", page " + std::to_string(page);
      if (state == PageState::kFree && told != pages.end())
        return where + " is free, and is said to be there";
      if (state == PageState::kSealed && told == pages.end())
        return where + " is sealed, and nothing is said of it";
      if (told == pages.end()) continue;
      const Decoded::Place place = place_of(test, column, page);
      if (told->second.tier != place.tier || told->second.second != place.second)
        return where + " is elsewhere";
    }
  }
  return {};
}

class ArenaRecording : public testing::TestWithParam<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Columns, ArenaRecording, testing::Values(1u, 2u));

/// Sessions write, read, let go; pages move at random. After each pass the records say where every page is,
/// and after each period who was read how often.
TEST_P(ArenaRecording, SaysWhereEverythingIsAndWhatWasRead) {
  test::Random random;
  ArenaOptions options;
  options.columns = GetParam();
  options.pages = 60;
  options.settings.policy = PolicyName::kChurn;
  TestArena test(options);
  std::vector<std::unique_ptr<TestSession>> sessions;
  for (uint32_t i = 0; i < 3; ++i) sessions.push_back(test.attach(i % options.columns));
  std::vector<std::pair<size_t, Handle>> held;
  uint64_t key = 0;
  const auto publish = [&] {
    const size_t who = random.below(sessions.size());
    const Handle page = sessions[who]->publish_new(test, key_of(++key));
    if (!page.none()) held.emplace_back(who, page);
  };
  for (int i = 0; i < 20; ++i) publish();
  test.arena().start_recording();
  Recorder& recorder = *test.arena().recorder();
  Decoded decoded;
  Decoded::Reads expected;
  uint64_t moved = 0;
  for (int operation = 0; operation < 6000; ++operation) {
    switch (random.below(8)) {
      case 0: publish(); break;
      case 1:
        if (held.size() > 10) {
          const size_t at = random.below(held.size());
          if (expected.contains(held[at].second.index())) break;  // until it has been counted
          sessions[held[at].first]->let_go(test, held[at].second);
          held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
        }
        break;
      case 2: {
        test.period_and_copies();
        decoded.add(recorder.take(UINT64_MAX));
        if (!expected.empty()) {
          ASSERT_EQ(decoded.reads, expected) << "operation " << operation;
          ASSERT_EQ(decoded.period, test.arena().period());
        }
        expected.clear();
        break;
      }
      default: {
        const auto& [who, page] = held[random.below(held.size())];
        const uint32_t times = 1 + random.below32(random.one_in(4) ? 300 : 2);
        sessions[who]->read(page, times);
        expected[page.index()] += times;
      }
    }
    if (!random.one_in(3)) continue;
    test.pass();
    decoded.add(recorder.take(UINT64_MAX));
    ASSERT_EQ(difference(test, decoded), "") << "operation " << operation;
    moved = load_relaxed(test.table().counters().promoted);
  }
  EXPECT_GT(moved, 100u);
  EXPECT_GT(load_relaxed(test.table().counters().evicted), 100u);
  recorder.end();
  test.period_and_copies();
  decoded.add(recorder.take(UINT64_MAX));
  EXPECT_EQ(decoded.types.find('E'), decoded.types.size() - 1) << "nothing comes after the end";
  EXPECT_EQ(decoded.end_entries, decoded.entries);
  EXPECT_EQ(decoded.dropped_entries, 0u);
  EXPECT_EQ(decoded.types.find('D'), std::string::npos);
}

struct Pages : testing::Test {
  Pages() {
    for (uint64_t key = 1; key <= 20; ++key) pages.push_back(session->publish_new(test, key_of(key)));
  }
  Decoded& take(Recorder& recorder, uint64_t bytes = UINT64_MAX) {
    decoded.add(recorder.take(bytes));
    return decoded;
  }
  TestArena test;
  std::unique_ptr<TestSession> session = test.attach();
  std::vector<Handle> pages;
  Decoded decoded;
};
using RecorderAlone = Pages;

TEST_F(RecorderAlone, WhatWasThereIsNotBornAndWhatComesIs) {
  Recorder recorder(test.table());
  recorder.begin_period(7);
  take(recorder);
  ASSERT_EQ(decoded.pages[0].size(), 20u) << "those of the magazine are nobody's yet";
  for (const auto& [page, place] : decoded.pages[0]) EXPECT_FALSE(place.born) << page;
  const Handle born = session->publish_new(test, key_of(100));
  recorder.sealed(born.index());
  recorder.follow();
  EXPECT_TRUE(take(recorder).pages[0].at(born.index()).born);
  // A page that is being written is there when it is read.
  const Handle filling = session->pop();
  const std::vector<PageReads> reads{{filling.index(), 3}};
  recorder.begin_period(8);
  recorder.reads(0, reads);
  take(recorder);
  EXPECT_TRUE(decoded.pages[0].at(filling.index()).born);
  EXPECT_EQ(decoded.reads, (Decoded::Reads{{filling.index(), 3}}));
  EXPECT_EQ(decoded.types, "CCPNR");
}

TEST_F(RecorderAlone, AFullBufferLeavesReadsOutAndFindsPlacesAgain) {
  Recorder recorder(test.table(), 64);
  std::vector<PageReads> all;
  for (const Handle page : pages) all.push_back({page.index(), 5});
  recorder.begin_period(1);
  recorder.reads(0, all);
  recorder.reads(0, all);  // the first ones have filled it
  EXPECT_EQ(recorder.totals().dropped_entries, 20u);
  EXPECT_EQ(recorder.totals().dropped_periods, 1u);
  recorder.begin_period(2);
  recorder.reads(0, all);
  EXPECT_EQ(recorder.totals().dropped_entries, 40u);
  EXPECT_EQ(recorder.totals().dropped_periods, 2u);
  ASSERT_EQ(test.arena().move(test.mover(), 0, pages[0].index(), 1), MoveRequest::kQueued);
  for (const mover::Job& job : test.finish_copies(1)) test.arena().commit(job);
  recorder.follow();
  take(recorder);
  EXPECT_EQ(decoded.entries, 20u);
  EXPECT_EQ(decoded.pages[0].at(pages[0].index()).tier, 0u) << "where it was when it was full";
  recorder.begin_period(3);
  take(recorder);
  EXPECT_EQ(difference(test, decoded), "");
  EXPECT_EQ(decoded.dropped_entries, 40u);
  recorder.end();
  EXPECT_EQ(take(recorder).periods, 1u);
}

TEST_F(RecorderAlone, AnOverrunOfTheLogIsMadeGood) {
  Recorder recorder(test.table());
  recorder.begin_period(1);
  ASSERT_EQ(test.arena().move(test.mover(), 0, pages[3].index(), 1), MoveRequest::kQueued);
  for (const mover::Job& job : test.finish_copies(1)) test.arena().commit(job);
  ChangeLog log(test.table());
  for (uint64_t i = 0; i <= ChangeLog::kCapacity; ++i) log.append(0, pages[0].index());
  recorder.follow();
  EXPECT_NE(difference(test, take(recorder)), "") << "the move is no longer in the log";
  recorder.begin_period(2);
  EXPECT_EQ(difference(test, take(recorder)), "");
}

TEST_F(RecorderAlone, AReadersCopyIsMarked) {
  Recorder recorder(test.table());
  recorder.begin_period(1);
  const auto move = [&](Handle page, uint32_t tier) {
    ASSERT_EQ(test.arena().move(test.mover(), 0, page.index(), tier), MoveRequest::kQueued);
    for (const mover::Job& job : test.finish_copies(1)) test.arena().commit(job);
    recorder.follow();
  };
  recorder.offered(0, pages[0].index());  // and it lapses
  move(pages[0], 1);
  EXPECT_EQ(take(recorder).by_reader, 0u);
  recorder.offered(0, pages[1].index());
  recorder.promoted_by_reader(0, pages[1].index());
  move(pages[1], 1);
  EXPECT_EQ(take(recorder).by_reader, 1u);
  move(pages[1], 0);
  EXPECT_EQ(take(recorder).by_reader, 1u) << "an offer is one move";
  recorder.promoted_by_reader(0, pages[2].index());  // of before the recording
  move(pages[2], 1);
  EXPECT_EQ(take(recorder).by_reader, 1u);
  EXPECT_EQ(difference(test, decoded), "");
}

TEST_F(RecorderAlone, IsGivenUpWhenNobodyComes) {
  Recorder recorder(test.table(), Recorder::kBufferBytes, std::chrono::seconds(-1));
  recorder.follow();
  EXPECT_TRUE(recorder.abandoned());
  Recorder patient(test.table());
  patient.follow();
  EXPECT_FALSE(patient.abandoned());
}

TEST_F(RecorderAlone, TakesWholeRecordsInOrder) {
  Recorder recorder(test.table());
  std::vector<PageReads> reads;
  for (size_t i = 0; i < 100'000; ++i)
    reads.push_back({pages[i % pages.size()].index(), static_cast<uint32_t>(1 + i % 1000)});
  for (uint32_t period = 1; period <= 20; ++period) {
    recorder.begin_period(period);
    recorder.reads(0, reads);
  }
  recorder.end();
  uint64_t parts = 0;
  while (recorder.waiting() != 0) {
    take(recorder, 600'000);
    ++parts;
  }
  EXPECT_GT(parts, 3u);
  EXPECT_EQ(decoded.entries, 2'000'000u);
  EXPECT_EQ(decoded.end_entries, 2'000'000u);
  EXPECT_EQ(decoded.periods, 20u);
  EXPECT_EQ(recorder.take(1), "");
}

}  // namespace
}  // namespace kvt::keeper
