// SPDX-License-Identifier: Apache-2.0
//
// Writes down what was read and where it was then, period by period, for a simulator (docs/recording.md has
// the format). An arena has one only while somebody records. Numbers of pages and counts: no keys, no
// contents.
//
// Where pages are is learned from the change log, as an engine does it, and from three calls for what the log
// does not say. What has been written of a page is kept beside it (4 bytes a page and column), so only
// differences are written, and what the log or a full buffer lost is found again by looking at all rows, some
// in each period.
//
// The loop never waits for it: bytes collect in a buffer, and when nobody takes them reads are left out, and
// counted. One thread, the loop's.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "daemon/keeper/lazy_array.h"
#include "shm/region/arena_table.h"
#include "shm/region/change_log.h"

namespace kvt::keeper {

/// A page and how often it was read in a period.
struct PageReads {
  PageIndex page;
  uint32_t reads;
};

class Recorder {
 public:
  using Clock = std::chrono::steady_clock;
  struct Totals {
    uint64_t periods = 0;  ///< of which reads were written
    uint64_t entries = 0;  ///< pages read in a period, by session: one that two sessions read counts twice
    uint64_t reads = 0;
    uint64_t bytes = 0;            ///< of all records
    uint64_t dropped_periods = 0;  ///< of which entries were left out: the buffer was full
    uint64_t dropped_entries = 0;
  };

  /// Bytes that wait to be taken, at most; one batch of reads may come on top.
  static constexpr uint64_t kBufferBytes = uint64_t{256} << 20;
  /// When nothing is taken for so long, nobody will come for it.
  static constexpr std::chrono::seconds kPatience{30};

  explicit Recorder(const ArenaTable& table, uint64_t buffer_bytes = kBufferBytes,
                    std::chrono::seconds patience = kPatience);

  /// At the beginning and at the end of each pass of the loop: places that changed since the last call, with
  /// the time.
  void follow();
  /// Once a period, before its reads: the period's number, and the next part of the look at all rows.
  void begin_period(uint32_t period);
  /// Pages that were read in this period. Any order; often. REQUIRES: the pages exist.
  void reads(uint32_t column, std::span<const PageReads> batch);
  /// FILLING has become SEALED.
  void sealed(PageIndex page) { note(page | kBorn); }
  /// Its shadow is another, or gone.
  void shadow_changed(PageIndex page) { note(page); }
  /// The page has been offered to a reader, who may copy it from now on.
  void offered(uint32_t column, PageIndex page) {
    if (offered_.size() < kNotedMax) offered_[key_of(column, page)] = {Clock::now(), false};
  }
  /// Nobody has, and nobody will.
  void offer_withdrawn(uint32_t column, PageIndex page) { offered_.erase(key_of(column, page)); }
  /// A reader has copied the page while reading it, and this is its place now.
  void promoted_by_reader(uint32_t column, PageIndex page) {
    if (const auto found = offered_.find(key_of(column, page)); found != offered_.end())
      found->second.taken = true;
  }
  /// Writes the last record. Nothing is recorded after it.
  void end();

  /// Whole records, in order: about `bytes_max`, one more at most. Empty: nothing waits.
  [[nodiscard]] std::string take(uint64_t bytes_max);
  [[nodiscard]] uint64_t waiting() const { return waiting_ + current_.size(); }
  /// Nobody has taken anything for `patience`.
  [[nodiscard]] bool abandoned() const { return now_ - taken_ > patience_; }
  [[nodiscard]] const Totals& totals() const { return totals_; }

 private:
  static constexpr size_t kNotedMax = size_t{1} << 20;
  static constexpr uint32_t kBorn = uint32_t{1} << 31;  // beside a page's index in noted_
  static_assert(KVT_MAX_PAGES <= kBorn);
  struct Change {
    PageIndex page;
    uint32_t word;  // as in the file
    Clock::time_point offered{};
  };
  struct OfferMade {
    Clock::time_point at;
    bool taken;
  };
  static uint64_t key_of(uint32_t column, PageIndex page) { return (uint64_t{column} << 32) | page; }

  void note(uint32_t page_and_born);
  void look_again();
  void follow_log();
  void look_at_noted();
  void look_at_rows();
  void look(uint32_t column, PageIndex page, bool born);
  [[nodiscard]] bool there_before(PageIndex page) const { return first_look_ && page >= look_at_; }
  void write_changes(bool found_by_reads);
  void write_period();
  uint8_t* put_stamp(uint8_t* at);
  void write_dropped();
  void write_record(char type, std::span<const uint8_t> payload);

  const ArenaTable table_;
  const ChangeLog log_;
  const uint64_t buffer_bytes_;
  const std::chrono::seconds patience_;
  uint64_t log_position_;
  std::vector<LazyArray<uint32_t>> told_;  // by column: what has been written of a page, 0: nothing
  uint64_t look_at_ = 0;                   // rows before this one have been looked at
  bool first_look_ = true;                 // a page that it finds was there before the recording began
  std::vector<uint32_t> noted_;
  std::unordered_map<uint64_t, OfferMade> offered_;  // the last offer of a page, by key_of
  std::vector<std::vector<Change>> changes_;         // not yet written, by column

  Clock::time_point now_ = Clock::now();
  Clock::time_point stamped_ = now_;  // time that the file has come to
  Clock::time_point taken_ = now_;    // when somebody took something
  Clock::time_point period_began_ = now_;
  Clock::duration period_length_{};
  uint32_t period_ = 0;
  uint32_t written_period_ = 0;
  bool period_written_ = false;
  bool period_counted_ = false;
  bool period_dropped_ = false;
  bool full_ = false;  // this period's places are not followed
  bool ended_ = false;
  Totals totals_;
  uint64_t told_dropped_ = 0;  // entries

  std::vector<uint8_t> reads_payload_;  // of the record that is being made
  std::vector<uint8_t> changes_payload_;
  std::string current_;  // records that are in no chunk yet
  std::deque<std::string> chunks_;
  uint64_t waiting_ = 0;  // bytes of chunks_
};

}  // namespace kvt::keeper
