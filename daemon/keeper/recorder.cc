// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/recorder.h"

#include <algorithm>
#include <array>
#include <utility>

namespace kvt::keeper {
namespace {

/// Rows that are looked at in one period: a tenth of a millisecond, the first time.
constexpr uint64_t kRowsAPeriod = 8192;
constexpr size_t kChunkBytes = size_t{256} << 10;
/// Of a varint of 64 bits.
constexpr size_t kVarintBytes = 10;

// A word of a change, as docs/recording.md has it. Below: a generation above the place says what has been
// written.
constexpr uint32_t kShadowShift = 3;
constexpr uint32_t kPlaceBits = 7;
constexpr uint32_t kFlagBorn = 1u << 7;
constexpr uint32_t kFlagGone = 1u << 8;
constexpr uint32_t kFlagByReader = 1u << 9;
constexpr uint32_t kTold = 1u << 31;
static_assert(KVT_MAX_TIERS <= 8 && KVT_MAX_GENERATION < (1u << 24));

uint8_t* put(uint8_t* at, uint64_t value) {
  for (; value >= 0x80; value >>= 7) *at++ = static_cast<uint8_t>(value | 0x80);
  *at++ = static_cast<uint8_t>(value);
  return at;
}

/// Small for small differences of either sign.
uint64_t zigzag(int64_t value) {
  return (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
}

/// Memory for so many varints.
uint8_t* room_in(std::vector<uint8_t>& payload, size_t varints) {
  if (payload.size() < varints * kVarintBytes) payload.resize(varints * kVarintBytes);
  return payload.data();
}

uint32_t told_generation(uint32_t told) { return (told & ~kTold) >> kPlaceBits; }

}  // namespace

Recorder::Recorder(const ArenaTable& table, uint64_t buffer_bytes, std::chrono::seconds patience)
    : table_(table),
      log_(table),
      buffer_bytes_(buffer_bytes),
      patience_(patience),
      log_position_(log_.tail()),
      changes_(table.columns()) {
  for (uint32_t column = 0; column < table.columns(); ++column) told_.emplace_back(table.pages());
}

void Recorder::note(uint32_t page_and_born) {
  if (noted_.size() >= kNotedMax) return look_again();
  noted_.push_back(page_and_born);
}

/// Changes may have been missed: all rows are compared with what has been written.
void Recorder::look_again() {
  look_at_ = 0;
  first_look_ = false;
  noted_.clear();
}

void Recorder::follow() {
  now_ = Clock::now();
  if (ended_ || full_) return;
  follow_log();
  look_at_noted();
  write_changes(false);
}

void Recorder::begin_period(uint32_t period) {
  now_ = Clock::now();
  period_ = period;
  period_length_ = now_ - std::exchange(period_began_, now_);
  period_written_ = period_counted_ = period_dropped_ = false;
  const bool was_full = std::exchange(full_, waiting() > buffer_bytes_);
  if (full_) offered_.clear();
  if (ended_ || full_) return;
  if (was_full) {
    log_position_ = log_.tail();
    look_again();
  }
  if (totals_.dropped_entries != told_dropped_) write_dropped();
  look_at_rows();
  write_changes(false);
}

void Recorder::follow_log() {
  const uint64_t tail = log_.tail();
  if (tail - log_position_ > ChangeLog::kCapacity) {
    log_position_ = tail;
    return look_again();
  }
  for (; log_position_ != tail; ++log_position_) {
    ChangeLog::Entry entry{};
    // The only writer is this thread: an entry that is in reach is as it was written.
    KVT_CHECK(log_.read(log_position_, entry) == ChangeLog::Read::kEntry);
    look(entry.column, entry.page, !there_before(entry.page));
  }
}

void Recorder::look_at_noted() {
  for (const uint32_t noted : noted_) {
    const PageIndex page = noted & ~kBorn;
    for (uint32_t column = 0; column < table_.columns(); ++column)
      look(column, page, (noted & kBorn) != 0 || !there_before(page));
  }
  noted_.clear();
}

void Recorder::look_at_rows() {
  const uint64_t end = std::min(look_at_ + kRowsAPeriod, table_.pages());
  for (uint32_t column = 0; column < table_.columns(); ++column)
    for (uint64_t page = look_at_; page < end; ++page)
      // What lies in a magazine is nobody's content yet. It is written when it is sealed, or read.
      if (const auto index = static_cast<PageIndex>(page);
          table_.placement(column, index).state() != PageState::kFilling)
        look(column, index, !first_look_);
  look_at_ = end;
  if (look_at_ == table_.pages()) first_look_ = false;
}

/// Adds a change where the row says something else than what has been written. `born`: a content that has not
/// been written of came to be meanwhile; it was not there all the time.
void Recorder::look(uint32_t column, PageIndex page, bool born) {
  const Placement now = table_.placement(column, page);
  uint32_t& told = told_[column][page];
  if (now.state() == PageState::kFree) {
    if (told != 0) changes_[column].push_back({page, kFlagGone});
    told = 0;
    return;
  }
  const Shadow shadow = table_.shadow(column, page);
  const bool second = shadow.valid() && shadow.generation() == now.generation();
  const uint32_t place = now.tier() | (second ? (shadow.tier() + 1) << kShadowShift : 0);
  const uint32_t telling = kTold | (now.generation() << kPlaceBits) | place;
  if (told == telling) return;
  const bool same_page = told != 0 && told_generation(told) == now.generation();
  uint32_t word = place;
  if (!same_page && (born || told != 0)) word |= kFlagBorn;
  told = telling;
  Change change{page, word};
  if (!offered_.empty()) {
    const auto offer = offered_.find(key_of(column, page));
    if (offer != offered_.end() && offer->second.taken) {
      if (same_page) change = {page, word | kFlagByReader, offer->second.at};
      offered_.erase(offer);
    }
  }
  changes_[column].push_back(change);
}

/// `found_by_reads`: they belong to the reads that come next, and have no time of their own.
void Recorder::write_changes(bool found_by_reads) {
  for (uint32_t column = 0; column < changes_.size(); ++column) {
    std::vector<Change>& changes = changes_[column];
    if (changes.empty()) continue;
    if (found_by_reads) write_period();
    uint8_t* const begin = room_in(changes_payload_, 2 + 3 * changes.size());
    uint8_t* at = put(begin, column);
    if (!found_by_reads) at = put_stamp(at);
    int64_t last = 0;
    for (const auto& [page, word, offered] : changes) {
      at = put(at, zigzag(int64_t{page} - last));
      at = put(at, word);
      if ((word & kFlagByReader) != 0)
        at = put(at, static_cast<uint64_t>(
                         std::chrono::duration_cast<std::chrono::microseconds>(now_ - offered).count()));
      last = page;
    }
    write_record(found_by_reads ? 'N' : 'C', {begin, at});
    changes.clear();
  }
}

void Recorder::reads(uint32_t column, std::span<const PageReads> batch) {
  constexpr size_t kAhead = 16;
  if (batch.empty() || ended_) return;
  if (full_ || waiting() > buffer_bytes_) {
    totals_.dropped_entries += batch.size();
    totals_.dropped_periods += std::exchange(period_dropped_, true) ? 0 : 1;
    return;
  }
  LazyArray<uint32_t>& told = told_[column];
  uint8_t* const begin = room_in(reads_payload_, 1 + 2 * batch.size());
  uint8_t* at = put(begin, column);
  int64_t last = 0;
  uint64_t entries = 0;
  uint64_t sum = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    if (i + kAhead < batch.size()) __builtin_prefetch(&told[batch[i + kAhead].page], 1);
    const auto [page, reads] = batch[i];
    const Placement now = table_.placement(column, page);
    if (now.state() == PageState::kFree) continue;  // given up since
    if (told[page] == 0 || told_generation(told[page]) != now.generation())
      look(column, page, !there_before(page));
    at = put(at, (zigzag(int64_t{page} - last) << 1) | (reads != 1 ? 1 : 0));
    if (reads != 1) at = put(at, reads);
    last = page;
    ++entries;
    sum += reads;
  }
  if (entries == 0) return;
  write_period();
  write_changes(true);  // pages that are new here come before their reads
  write_record('R', {begin, at});
  totals_.periods += std::exchange(period_counted_, true) ? 0 : 1;
  totals_.entries += entries;
  totals_.reads += sum;
}

/// Microseconds since the last stamp in the file.
uint8_t* Recorder::put_stamp(uint8_t* at) {
  const auto since = std::chrono::duration_cast<std::chrono::microseconds>(now_ - stamped_);
  stamped_ += since;
  return put(at, static_cast<uint64_t>(since.count()));
}

/// Before the first reads of a period.
void Recorder::write_period() {
  if (std::exchange(period_written_, true)) return;
  std::array<uint8_t, 3 * kVarintBytes> payload;
  uint8_t* at = put(payload.data(), period_ - std::exchange(written_period_, period_));
  at = put_stamp(at);
  at = put(at, static_cast<uint64_t>(
                   std::chrono::duration_cast<std::chrono::microseconds>(period_length_).count()));
  write_record('P', {payload.data(), at});
}

void Recorder::write_dropped() {
  std::array<uint8_t, 2 * kVarintBytes> payload;
  write_record('D',
               {payload.data(), put(put(payload.data(), totals_.dropped_periods), totals_.dropped_entries)});
  told_dropped_ = totals_.dropped_entries;
}

void Recorder::end() {
  if (std::exchange(ended_, true)) return;
  std::array<uint8_t, 5 * kVarintBytes> payload;
  uint8_t* at = payload.data();
  for (const uint64_t total :
       {totals_.periods, totals_.entries, totals_.reads, totals_.dropped_periods, totals_.dropped_entries})
    at = put(at, total);
  write_record('E', {payload.data(), at});
}

void Recorder::write_record(char type, std::span<const uint8_t> payload) {
  std::array<uint8_t, kVarintBytes> length;
  const auto length_bytes = static_cast<size_t>(put(length.data(), payload.size()) - length.data());
  current_.push_back(type);
  current_.append(reinterpret_cast<const char*>(length.data()), length_bytes);
  current_.append(reinterpret_cast<const char*>(payload.data()), payload.size());
  totals_.bytes += 1 + length_bytes + payload.size();
  if (current_.size() < kChunkBytes) return;
  waiting_ += current_.size();
  chunks_.push_back(std::move(current_));
  current_.clear();
}

std::string Recorder::take(uint64_t bytes_max) {
  taken_ = Clock::now();
  std::string taken;
  while (!chunks_.empty() && (taken.empty() || taken.size() + chunks_.front().size() <= bytes_max)) {
    waiting_ -= chunks_.front().size();
    if (taken.empty())
      taken = std::move(chunks_.front());
    else
      taken += chunks_.front();
    chunks_.pop_front();
  }
  if (chunks_.empty() && (taken.empty() || taken.size() + current_.size() <= bytes_max))
    taken += std::exchange(current_, {});
  return taken;
}

}  // namespace kvt::keeper
