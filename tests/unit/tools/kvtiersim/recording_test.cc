// SPDX-License-Identifier: Apache-2.0
//
// Recordings made by hand: what becomes of them, and what is said of damaged ones.
#include "tools/kvtiersim/workload/recording.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>
#include <utility>

#include "tests/support/random.h"
#include "tools/kvtiersim/workload/decode_reads.h"

namespace kvt::sim {
namespace {

constexpr double kPage = 1000;

/// A file that goes with the object, in memory.
class TempFile {
 public:
  explicit TempFile(const std::string& bytes) : fd_(::memfd_create("kvt-recording-test", MFD_CLOEXEC)) {
    EXPECT_EQ(::write(fd_, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  ~TempFile() { ::close(fd_); }
  [[nodiscard]] std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}

/// Writes the format as docs/recording.md has it.
class Writer {
 public:
  /// Two tiers of 100 and 10 bytes a second; page_bytes 1000.
  explicit Writer(uint32_t columns = 1) {
    bytes =
        R"({"kvtier_recording":1,"arena":"a","policy":"balance","page_bytes":1000,"pages":100,"columns":)" +
        std::to_string(columns) + R"(,"tiers":[)";
    for (uint32_t column = 0; column < columns; ++column)
      bytes += R"({"name":"hbm","column":)" + std::to_string(column) +
               R"(,"frames":4,"read_bytes_per_second":100,"write_bytes_per_second":100},)";
    bytes +=
        R"({"name":"dram","column":-1,"frames":50,"read_bytes_per_second":10,"write_bytes_per_second":5}]})"
        "\n";
  }
  Writer& record(char type, const std::vector<uint64_t>& numbers) {
    std::string payload;
    for (const uint64_t number : numbers) payload += varint(number);
    bytes += type + varint(payload.size()) + payload;
    return *this;
  }
  /// Pages and words, at a time.
  Writer& places(uint64_t since_us, const std::vector<std::pair<int64_t, uint64_t>>& places,
                 uint64_t column = 0) {
    std::vector<uint64_t> numbers{column, since_us};
    add_places(numbers, places);
    return record('C', numbers);
  }
  Writer& found(const std::vector<std::pair<int64_t, uint64_t>>& places, uint64_t column = 0) {
    std::vector<uint64_t> numbers{column};
    add_places(numbers, places);
    return record('N', numbers);
  }
  Writer& period(uint64_t since_us, uint64_t length_us = 1000) {
    return record('P', {1, since_us, length_us});
  }
  Writer& reads(const std::vector<std::pair<int64_t, uint64_t>>& reads, uint64_t column = 0) {
    std::vector<uint64_t> numbers{column};
    int64_t last = 0;
    for (const auto& [page, count] : reads) {
      numbers.push_back(2 * zigzag(page - std::exchange(last, page)) + (count != 1 ? 1 : 0));
      if (count != 1) numbers.push_back(count);
      ++entries;
      sum += count;
    }
    return record('R', numbers);
  }
  Writer& end() { return record('E', {0, entries, sum, 0, 0}); }
  Workload read() {
    const TempFile file(bytes);
    return read_recording(file.path());
  }

  std::string bytes;
  uint64_t entries = 0;
  uint64_t sum = 0;

 private:
  static uint64_t zigzag(int64_t value) {
    return value >= 0 ? 2 * static_cast<uint64_t>(value) : 2 * static_cast<uint64_t>(-value) - 1;
  }
  static void add_places(std::vector<uint64_t>& numbers,
                         const std::vector<std::pair<int64_t, uint64_t>>& places) {
    int64_t last = 0;
    for (const auto& [page, word] : places) {
      numbers.push_back(zigzag(page - std::exchange(last, page)));
      numbers.push_back(word);
    }
  }
};

constexpr uint64_t kFast = 0;
constexpr uint64_t kSlow = 1;
constexpr uint64_t kShadow = 2 << 3;  // in tier 1
constexpr uint64_t kBorn = 1 << 7;
constexpr uint64_t kGone = 1 << 8;
constexpr uint64_t kByReader = 1 << 9;

TEST(Recording, BecomesATraceWithItsMachine) {
  Writer writer;
  writer.places(0, {{7, kFast}, {3, kSlow}}).period(1000).reads({{7, 5}, {3, 1}}).reads({{3, 2}});
  writer.places(100, {{9, kSlow | kBorn}, {7, kGone}}).period(900).reads({{9, 1}, {3, 1}});
  writer.places(100, {{7, kFast | kBorn}}).period(900).reads({{7, 4}}).end();
  const Workload workload = writer.read();
  const Trace& trace = workload.trace;
  ASSERT_EQ(trace.steps(), 3u);
  EXPECT_EQ(trace.pages, 4u) << "page 7 with another content is another page";
  EXPECT_EQ(trace.page_bytes, 1000u);
  EXPECT_EQ(std::vector<uint32_t>(trace.step(0).page.begin(), trace.step(0).page.end()),
            (std::vector<uint32_t>{0, 1}));
  EXPECT_EQ(std::vector<uint16_t>(trace.step(0).reads.begin(), trace.step(0).reads.end()),
            (std::vector<uint16_t>{5, 3}))
      << "of two sessions together";
  EXPECT_EQ(std::vector<uint32_t>(trace.step(1).page.begin(), trace.step(1).page.end()),
            (std::vector<uint32_t>{1, 2}));
  EXPECT_EQ(std::vector<uint32_t>(trace.step(2).page.begin(), trace.step(2).page.end()),
            (std::vector<uint32_t>{3}));
  EXPECT_EQ(trace.born_step, (std::vector<uint32_t>{0, 0, 1, 2}));
  ASSERT_NE(workload.recorded, nullptr);
  const Recorded& recorded = *workload.recorded;
  ASSERT_EQ(recorded.machine.tiers.size(), 2u);
  EXPECT_EQ(recorded.machine.tiers[0].read_bytes_per_second, 100);
  EXPECT_EQ(recorded.machine.tiers[1].write_bytes_per_second, 5);
  EXPECT_EQ(recorded.machine.tiers[0].capacity_pages, 4u);
  EXPECT_DOUBLE_EQ(recorded.wall_seconds, 0.003);
}

/// 40 reads of the fast tier take as long as 4 of the slow one.
TEST(Recording, TheRecordedPlacementHasItsTime) {
  Writer writer;
  writer.places(0, {{0, kSlow}, {1, kFast}}).period(1000).reads({{0, 8}, {1, 20}});
  const Workload still = Writer(writer).end().read();
  const Outcome outcome = replay_recorded(still.trace, *still.recorded, still.recorded->machine, true);
  EXPECT_DOUBLE_EQ(outcome.seconds, 8 * kPage / 10);
  EXPECT_EQ(outcome.hits, 20u);
  EXPECT_EQ(outcome.asked, 28u);
  EXPECT_EQ(outcome.counts.moves(), 0u);

  // Promoted after a quarter of the second step: a quarter of its reads are slow ones, and the copy reads as
  // well.
  const Workload moved =
      Writer(writer).places(250, {{0, kFast | kShadow}}).period(750).reads({{0, 8}}).end().read();
  const Outcome reads_alone = replay_recorded(moved.trace, *moved.recorded, moved.recorded->machine, false);
  EXPECT_NEAR(reads_alone.seconds - outcome.seconds, 2 * kPage / 10, 1e-3);
  const Outcome charged = replay_recorded(moved.trace, *moved.recorded, moved.recorded->machine, true);
  EXPECT_NEAR(charged.seconds - outcome.seconds, 3 * kPage / 10, 1e-3);
  EXPECT_EQ(charged.counts.promoted_copy, 1u);
  EXPECT_DOUBLE_EQ(charged.bytes_moved, kPage);
  EXPECT_EQ(charged.hits, 26u);

  // Copied by its reader, to whom it was offered 500 us before, in the step before: half of its reads there
  // are fast.
  const Workload offered = Writer(writer)
                               .record('C', {0, 0, 0, kFast | kShadow | kByReader, 500})
                               .period(1000)
                               .reads({{0, 8}})
                               .end()
                               .read();
  const Outcome in_passing =
      replay_recorded(offered.trace, *offered.recorded, offered.recorded->machine, false);
  EXPECT_NEAR(in_passing.seconds, 4 * kPage / 10 + 8 * kPage / 100, 1e-3);
  EXPECT_EQ(in_passing.counts.promoted_in_read, 1u);
  EXPECT_EQ(in_passing.hits, 20u + 4 + 8);
  // The copy reads the slow tier once.
  const Outcome with_copy =
      replay_recorded(offered.trace, *offered.recorded, offered.recorded->machine, true);
  EXPECT_NEAR(with_copy.seconds - in_passing.seconds, kPage / 10, 1e-3);
  // Not before the page came to be.
  const Workload late = Writer()
                            .places(1500, {{0, kSlow}, {1, kFast}})
                            .record('C', {0, 100, 0, kFast | kByReader, 1000})
                            .period(400)
                            .reads({{0, 1}})
                            .end()
                            .read();
  EXPECT_EQ(replay_recorded(late.trace, *late.recorded, late.recorded->machine, true).counts.promoted_in_read,
            1u);

  // Back to its second frame: free. To the slow tier without one: a copy.
  const Workload back = Writer(writer)
                            .places(0, {{0, kFast | kShadow}})
                            .places(100, {{0, kSlow}, {1, kSlow}})
                            .period(900)
                            .reads({{5 - 5, 1}})
                            .end()
                            .read();
  const Outcome demoted = replay_recorded(back.trace, *back.recorded, back.recorded->machine, true);
  EXPECT_EQ(demoted.counts.demoted_free, 1u);
  EXPECT_EQ(demoted.counts.demoted_copy, 1u);

  Machine three = still.recorded->machine;
  three.tiers.push_back(three.tiers.back());
  EXPECT_THROW(static_cast<void>(replay_recorded(still.trace, *still.recorded, three, true)),
               std::invalid_argument);
}

TEST(Recording, TakesTheBusiestColumn) {
  Writer writer(2);
  writer.places(0, {{0, 2}, {1, 2}}, 0).places(0, {{0, 2}, {1, 1}}, 1);
  writer.period(1000).reads({{0, 1}}, 0).reads({{0, 1}, {1, 3}}, 1).end();
  const Workload workload = writer.read();
  EXPECT_EQ(workload.recorded->column, 1u);
  ASSERT_EQ(workload.recorded->machine.tiers.size(), 2u);
  EXPECT_EQ(workload.trace.asked(), 4u);
  const Outcome outcome =
      replay_recorded(workload.trace, *workload.recorded, workload.recorded->machine, true);
  EXPECT_EQ(outcome.hits, 3u) << "tier 1 is the fast one of column 1";
}

TEST(Recording, RecordsOfOtherTypesAreLeftOut) {
  Writer writer;
  writer.record('?', {1, 2, 3}).places(0, {{0, kFast}}).period(1).reads({{0, 1}}).record('D', {2, 9}).end();
  EXPECT_EQ(writer.read().trace.asked(), 1u);
}

void expect_refused(const std::string& bytes, const std::string& words) {
  const TempFile file(bytes);
  try {
    static_cast<void>(read_recording(file.path()));
    ADD_FAILURE() << "read, expected: " << words;
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(file.path()), std::string::npos) << error.what();
  }
}

TEST(Recording, Malicious_SaysWhatIsWrong) {
  const Writer good = Writer().places(0, {{0, kFast}}).period(1000).reads({{0, 1}});
  const auto with = [&](char type, const std::vector<uint64_t>& numbers) {
    return Writer(good).record(type, numbers).bytes;
  };
  expect_refused("", "comes first");
  expect_refused("nonsense\n", "comes first");
  expect_refused("{\"kvtier_recording\":2}\n", "version 2");
  expect_refused("{\"kvtier_recording\":1}\n", "a text arena");
  std::string header = Writer().bytes;
  const auto replaced = [&](const std::string& from, const std::string& to) {
    return std::string(header).replace(header.find(from), from.size(), to);
  };
  expect_refused(replaced("\"pages\":100", "\"pages\":99999999999"), "pages from 1 to");
  expect_refused(replaced("\"pages\":100", "\"pages\":-1"), "pages from 1 to");
  expect_refused(replaced("\"columns\":1", "\"columns\":9"), "columns from 1 to 8");
  expect_refused(replaced("\"read_bytes_per_second\":100", "\"read_bytes_per_second\":0"),
                 "read_bytes_per_second");
  expect_refused(replaced("\"column\":-1", "\"column\":5"), "one tier");
  expect_refused(good.bytes, "last record (E) is missing");
  expect_refused(Writer(good).bytes + "R", "expected the length of a record");
  expect_refused(Writer(good).bytes + "R" + varint(200), "cut off");
  expect_refused(Writer(good).bytes + "R" + varint(UINT64_MAX), "cut off");
  expect_refused(with('R', {0, 2 * 400}), "page 200");
  expect_refused(with('R', {0, 2 * 1}), "page -1");
  expect_refused(with('R', {0, UINT64_MAX}), "expected a page of the arena");
  expect_refused(with('R', {0, 2 * 2 * 50}), "nothing says where it is");
  expect_refused(with('R', {0, 1, 0}), "expected reads");
  expect_refused(with('R', {0, 1}), "expected its reads");
  expect_refused(with('R', {1, 0}), "column 1");
  expect_refused(with('C', {0, 0, 0, 5}), "tier 5");
  expect_refused(with('C', {0, 0, 2 * 9, kGone}), "page 9 goes");
  expect_refused(with('C', {0, 0, 0}), "expected its place");
  expect_refused(with('C', {0, UINT64_MAX, 0, 0}), "a year");
  expect_refused(with('C', {0, 0, 0, kByReader}), "expected microseconds since it was offered");
  expect_refused(with('C', {0, 0, 0, kByReader, UINT64_MAX}), "less than a year");
  expect_refused(with('P', {1, 1}), "microseconds of the period");
  expect_refused(with('P', {1, 1, 1, 1}), "longer than expected");
  expect_refused(with('E', {1, 7, 1, 0, 0}), "the end says 7 pages");
  expect_refused(Writer(good).end().bytes + "x", "behind the last record");
  expect_refused(Writer().places(0, {{0, kFast}}).end().bytes, "nobody read anything");
  expect_refused(Writer().places(0, {{0, kFast}}).reads({{0, 1}}).end().bytes, "expected a period");
  EXPECT_THROW(static_cast<void>(read_recording("/nowhere/at/all")), std::invalid_argument);
}

/// Any bytes: an error or a trace that holds together.
TEST(Recording, Malicious_RandomDamage) {
  test::Random random;
  Writer writer(2);
  for (int i = 0; i < 30; ++i)
    writer.places(10, {{i, 2 | kBorn}, {i == 0 ? 99 : i - 1, i == 0 ? 2 | kBorn : kGone}})
        .period(100)
        .found({{i + 40, 2}}, 1)
        .reads({{i, 1 + random.below(300)}})
        .reads({{i + 40, 1}}, 1);
  ASSERT_EQ(writer.end().read().trace.steps(), 30u);
  const size_t body = writer.bytes.find('\n') + 1;
  uint64_t read = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = writer.bytes;
    if (random.one_in(3)) bytes.resize(random.below(bytes.size()));
    for (uint64_t n = random.below(4); n != 0 && !bytes.empty(); --n)
      bytes[random.one_in(4) ? random.below(bytes.size())
                             : std::min(body + random.below(bytes.size()), bytes.size() - 1)] =
          static_cast<char>(random.next());
    const TempFile file(bytes);
    try {
      const Workload workload = read_recording(file.path());
      const Outcome outcome =
          replay_recorded(workload.trace, *workload.recorded, workload.recorded->machine, true);
      EXPECT_LE(outcome.hits, outcome.asked);
      ++read;
    } catch (const std::invalid_argument&) {
    }
  }
  EXPECT_GT(read, 0u);
}

// ---- kvtier-decode ----

constexpr const char* kDecodeHeader =
    "{\"kvtier_decode_reads\":1,\"page\":{\"block_tokens\":2,\"bytes\":16384,\"layer_bytes\":8192}}\n";

TEST(DecodeReads, BecomeATrace) {
  const TempFile file(
      std::string(kDecodeHeader) +
      "{\"step\":0,\"position\":3,\"phase\":\"prefill\",\"write\":1,\"reads\":[[[0,2,2]],[[1,1,1]]]}\n"
      "{\"page\":0,\"key\":\"00\"}\n{\"page\":1,\"key\":\"01\"}\n"
      "{\"step\":1,\"position\":4,\"phase\":\"decode\",\"write\":2,\"reads\":[[[2,1,2]],[[0,1,1],[2,1,1]]]}"
      "\n");
  EXPECT_TRUE(is_decode_reads(file.path()));
  EXPECT_FALSE(is_recording(file.path()));
  const Trace trace = read_decode_reads(file.path()).trace;
  ASSERT_EQ(trace.steps(), 2u);
  EXPECT_EQ(trace.page_bytes, 16384u);
  EXPECT_EQ(std::vector<uint32_t>(trace.step(0).page.begin(), trace.step(0).page.end()),
            (std::vector<uint32_t>{0, 1}));
  EXPECT_EQ(std::vector<uint32_t>(trace.step(1).page.begin(), trace.step(1).page.end()),
            (std::vector<uint32_t>{0, 2}));
  EXPECT_EQ(trace.born_step, (std::vector<uint32_t>{0, 0, 1}));
  const TempFile other(Writer().bytes);
  EXPECT_TRUE(is_recording(other.path()));
  EXPECT_FALSE(is_decode_reads(other.path()));
}

TEST(DecodeReads, Malicious_SayWhatIsWrong) {
  const auto refused = [](const std::string& text, const std::string& words) {
    const TempFile file(text);
    try {
      static_cast<void>(read_decode_reads(file.path()));
      ADD_FAILURE() << "read, expected: " << words;
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  const std::string header = kDecodeHeader;
  refused("", ":1: expected what kvtier-decode --record writes");
  refused("{\"kvtier_decode_reads\":9}\n", "version 9");
  refused("{\"kvtier_decode_reads\":1}\n", "expected \"page\"");
  refused("{\"kvtier_decode_reads\":1,\"page\":{\"bytes\":0}}\n", "bytes of a page");
  refused(header, "expected a step");
  refused(header + "{\"step\":0,\"wri", ":2: expected an object");
  refused(header + "{\"step\":1,\"write\":0,\"reads\":[]}\n", "expected step from 0 to 0");
  refused(header + "{\"step\":0,\"reads\":[]}\n", "expected \"write\"");
  refused(header + "{\"step\":0,\"write\":99999999999,\"reads\":[]}\n", "the page that is written");
  refused(header + "{\"step\":0,\"write\":0,\"reads\":7}\n", "list of layers");
  refused(header + "{\"step\":0,\"write\":0,\"reads\":[7]}\n", "list of runs");
  refused(header + "{\"step\":0,\"write\":0,\"reads\":[[[0,1]]]}\n", "expected runs");
  refused(header + "{\"step\":0,\"write\":1,\"reads\":[[[2,1,1]]]}\n", "first page of a run from 0 to 1");
  refused(header + "{\"step\":0,\"write\":1,\"reads\":[[[1,2,1]]]}\n",
          "number of pages of a run from 1 to 1");
  refused(header + "{\"step\":0,\"write\":1,\"reads\":[[[-1,2,1]]]}\n", "first page of a run");
}

}  // namespace
}  // namespace kvt::sim
