// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/workload/recording.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace kvt::sim {
namespace {

using nlohmann::json;

constexpr uint64_t kPagesMax = uint64_t{1} << 28;
constexpr uint32_t kColumnsMax = 8;
constexpr uint32_t kNoPage = UINT32_MAX;
constexpr uint64_t kReadsMax = UINT16_MAX;  // of a page in a step
constexpr uint64_t kMicrosecondsMax = uint64_t{1} << 45;
constexpr size_t kHeaderMax = size_t{1} << 20;

// Of a change's word.
constexpr uint64_t kTierMask = 7;
constexpr uint64_t kSecondShift = 3;
constexpr uint64_t kSecondMask = 15;
constexpr uint64_t kBorn = 1u << 7;
constexpr uint64_t kGone = 1u << 8;
constexpr uint64_t kByReader = 1u << 9;

struct HeaderTier {
  Tier tier;
  int64_t column = -1;
};

struct Header {
  std::string arena;
  std::string policy;
  uint64_t page_bytes = 0;
  uint64_t pages = 0;
  uint32_t columns = 0;
  std::vector<HeaderTier> tiers;
};

/// The whole file, and where in it a reader is: every error says so.
class File {
 public:
  explicit File(const std::string& path) : path_(path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw std::invalid_argument(path + ": cannot be read");
    bytes_.assign(std::istreambuf_iterator<char>(in), {});
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw std::invalid_argument(path_ + ", byte " + std::to_string(at_) + ": " + what);
  }
  [[nodiscard]] std::string line() {
    const size_t end = bytes_.find('\n');
    if (end == std::string::npos || end > kHeaderMax)
      fail("expected a recording of kvtierctl record: a line of JSON with \"kvtier_recording\" comes first");
    at_ = end + 1;
    return bytes_.substr(0, end);
  }
  [[nodiscard]] bool at_end() const { return at_ == bytes_.size(); }
  /// Begins a record; what follows is read from it alone.
  [[nodiscard]] char record() {
    end_ = bytes_.size();
    if (at_end()) fail("the file is cut off: its last record (E) is missing");
    const char type = bytes_[at_++];
    const uint64_t length = number("the length of a record");
    if (length > bytes_.size() - at_)
      fail("the file is cut off: a record of " + std::to_string(length) + " bytes begins here, " +
           std::to_string(bytes_.size() - at_) + " are there");
    end_ = at_ + static_cast<size_t>(length);
    return type;
  }
  [[nodiscard]] bool more() const { return at_ < end_; }
  void skip() { at_ = end_; }
  [[nodiscard]] uint64_t number(const char* what) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ >= end_) fail(std::string("expected ") + what + "; the record ends");
      const auto byte = static_cast<uint8_t>(bytes_[at_++]);
      value |= uint64_t{byte & 0x7fu} << shift;
      if ((byte & 0x80) == 0) return value;
    }
    fail(std::string("expected ") + what + " in at most 10 bytes");
  }
  /// A page, from its difference to the one before.
  [[nodiscard]] uint32_t page(uint64_t zigzag, int64_t& last, uint64_t pages) {
    const auto difference = static_cast<int64_t>(zigzag >> 1) ^ -static_cast<int64_t>(zigzag & 1);
    if (difference < -static_cast<int64_t>(kPagesMax) || difference > static_cast<int64_t>(kPagesMax))
      fail("expected a page of the arena");
    last += difference;
    if (last < 0 || last >= static_cast<int64_t>(pages))
      fail("page " + std::to_string(last) + ": the arena has " + std::to_string(pages) + " pages");
    return static_cast<uint32_t>(last);
  }
  void expect_end() const {
    if (at_ != end_) fail("the record is " + std::to_string(end_ - at_) + " bytes longer than expected");
  }

 private:
  std::string path_;
  std::string bytes_;
  size_t at_ = 0;
  size_t end_ = 0;
};

Header header_of(const File& file, const std::string& line) {
  const json parsed = json::parse(line, nullptr, false);
  const auto version = parsed.is_object() ? parsed.find("kvtier_recording") : parsed.end();
  if (!parsed.is_object() || version == parsed.end())
    file.fail(
        "expected a recording of kvtierctl record: a line of JSON with \"kvtier_recording\" comes first");
  if (*version != 1) file.fail("it is of version " + version->dump() + "; version 1 is read here");
  Header header;
  const auto number = [&](const json& from, const char* key, uint64_t least, uint64_t most) {
    const auto found = from.find(key);
    if (found == from.end() || !found->is_number_unsigned() || found->get<uint64_t>() < least ||
        found->get<uint64_t>() > most)
      file.fail(std::string("header: expected ") + key + " from " + std::to_string(least) + " to " +
                std::to_string(most));
    return found->get<uint64_t>();
  };
  const auto text = [&](const json& from, const char* key) {
    const auto found = from.find(key);
    if (found == from.end() || !found->is_string()) file.fail(std::string("header: expected a text ") + key);
    return found->get<std::string>();
  };
  header.arena = text(parsed, "arena");
  header.policy = text(parsed, "policy");
  header.page_bytes = number(parsed, "page_bytes", 1, uint64_t{1} << 40);
  header.pages = number(parsed, "pages", 1, kPagesMax);
  header.columns = static_cast<uint32_t>(number(parsed, "columns", 1, kColumnsMax));
  const auto tiers = parsed.find("tiers");
  if (tiers == parsed.end() || !tiers->is_array() || tiers->empty() || tiers->size() > kTiersMax)
    file.fail("header: expected 1 to 8 tiers");
  for (const json& each : *tiers) {
    if (!each.is_object()) file.fail("header: expected tiers that are objects");
    HeaderTier tier;
    tier.tier.name = text(each, "name");
    tier.tier.read_bytes_per_second =
        static_cast<double>(number(each, "read_bytes_per_second", 1, uint64_t{1} << 60));
    tier.tier.write_bytes_per_second =
        static_cast<double>(number(each, "write_bytes_per_second", 1, uint64_t{1} << 60));
    tier.tier.capacity_pages = number(each, "frames", 1, uint64_t{1} << 40);
    const auto column = each.find("column");
    if (column == each.end() || !column->is_number_integer())
      file.fail("header: expected the column of tier " + tier.tier.name + ", -1: all");
    tier.column = column->get<int64_t>();
    header.tiers.push_back(tier);
  }
  return header;
}

/// Which page of the trace an index of the arena is now. Memory for the parts of the arena that are named.
class PageTable {
 public:
  explicit PageTable(uint64_t pages) : parts_((pages + kPart - 1) / kPart) {}
  uint32_t& operator[](uint32_t index) {
    std::unique_ptr<Part>& part = parts_[index / kPart];
    if (part == nullptr) {
      part = std::make_unique<Part>();
      part->fill(kNoPage);
    }
    return (*part)[index % kPart];
  }

 private:
  static constexpr size_t kPart = 4096;
  using Part = std::array<uint32_t, kPart>;
  std::vector<std::unique_ptr<Part>> parts_;
};

/// Reads of each column, to choose one. The whole file is looked at: what comes after need not check again
/// what this has.
uint32_t busiest_column(File file, const Header& header) {
  if (header.columns == 1) return 0;
  std::array<uint64_t, kColumnsMax> entries{};
  for (char type = 0; type != 'E';) {
    type = file.record();
    if (type == 'R') {
      const uint64_t column = file.number("a column");
      if (column >= header.columns)
        file.fail("column " + std::to_string(column) + ": the arena has " + std::to_string(header.columns));
      for (; file.more(); ++entries[column])
        if ((file.number("a page") & 1) != 0) static_cast<void>(file.number("its reads"));
    }
    file.skip();
  }
  return static_cast<uint32_t>(std::max_element(entries.begin(), entries.end()) - entries.begin());
}

class Reader {
 public:
  Reader(File file, Header header)
      : file_(std::move(file)), header_(std::move(header)), table_(header_.pages) {
    recorded_.arena = header_.arena;
    recorded_.policy = header_.policy;
    recorded_.column = busiest_column(file_, header_);
    recorded_.machine.name = "recorded";
    tier_.fill(Recorded::kNoTier);
    for (size_t i = 0; i < header_.tiers.size(); ++i) {
      if (header_.tiers[i].column >= 0 && header_.tiers[i].column != recorded_.column) continue;
      tier_[i] = static_cast<uint8_t>(recorded_.machine.tiers.size());
      recorded_.machine.tiers.push_back(header_.tiers[i].tier);
    }
    if (recorded_.machine.tiers.size() < 2)
      file_.fail("column " + std::to_string(recorded_.column) + " has one tier: there is nothing to place");
    recorded_.machine.tiers.back().capacity_pages = UINT64_MAX;
    trace_.name = "recording of arena " + header_.arena;
    trace_.page_bytes = header_.page_bytes;
  }

  Workload read() {
    char type = 0;
    while (type != 'E') {
      type = file_.record();
      switch (type) {
        case 'P': period(); break;
        case 'C': changes(true); break;
        case 'N': changes(false); break;
        case 'R': reads(); break;
        case 'D':
          static_cast<void>(file_.number("periods"));
          recorded_.dropped_entries = file_.number("pages");
          break;
        case 'E': end(); break;
        default: file_.skip();  // of a later minor version
      }
      file_.expect_end();
    }
    if (!file_.at_end()) file_.fail("there is something behind the last record");
    Workload workload;
    trace_.finish();
    workload.trace = std::move(trace_);
    workload.recorded = std::make_shared<const Recorded>(std::move(recorded_));
    return workload;
  }

 private:
  /// The period whose reads follow ends now.
  void period() {
    end_step();
    static_cast<void>(file_.number("periods since the last one"));
    stamp();
    const uint64_t length = file_.number("microseconds of the period");
    recorded_.wall_seconds += static_cast<double>(length) * 1e-6;
    period_ = {now_us_ > length ? now_us_ - length : 0, now_us_};
    began_ = true;
  }

  void stamp() {
    const uint64_t since = file_.number("microseconds since the last stamp");
    if (since > kMicrosecondsMax) file_.fail("expected less than a year between two stamps");
    now_us_ += since;
  }

  uint64_t column() {
    const uint64_t column = file_.number("a column");
    if (column >= header_.columns)
      file_.fail("column " + std::to_string(column) + ": the arena has " + std::to_string(header_.columns));
    return column;
  }

  uint32_t new_page(bool born) {
    if (trace_.pages == kNoPage) file_.fail("too many pages");
    trace_.born_step.push_back(born ? trace_.steps() : 0);
    changed_us_.push_back(0);
    return trace_.pages++;
  }

  uint8_t tier_of(uint64_t index) {
    if (index >= header_.tiers.size() || tier_[index] == Recorded::kNoTier)
      file_.fail("tier " + std::to_string(index) + " is none of column " + std::to_string(recorded_.column));
    return tier_[index];
  }

  /// `timed`: they happened before the period that comes next ends; else they are found by the reads of this
  /// one.
  void changes(bool timed) {
    const bool wanted = column() == recorded_.column;
    if (timed) {
      end_step();
      stamp();
    } else if (!began_) {
      file_.fail("expected a period (P) before its reads");
    }
    int64_t last = 0;
    while (file_.more()) {
      const uint64_t difference = file_.number("a page");
      const uint32_t index = file_.page(difference, last, header_.pages);
      const uint64_t word = file_.number("its place");
      if (!wanted) {
        if ((word & (kGone | kByReader)) == kByReader)
          static_cast<void>(file_.number("microseconds since it was offered"));
        continue;
      }
      uint32_t& page = table_[index];
      Recorded::Change change;
      if ((word & kGone) != 0) {
        if (page == kNoPage) file_.fail("page " + std::to_string(index) + " goes, and was not there");
        change.page = page;
        change.gone = true;
        page = kNoPage;
      } else {
        change.came = page == kNoPage || (word & kBorn) != 0;
        if (change.came) page = new_page((word & kBorn) != 0);
        change.page = page;
        change.tier = tier_of(word & kTierMask);
        if (const uint64_t second = (word >> kSecondShift) & kSecondMask; second != 0)
          change.second = tier_of(second - 1);
        change.by_reader = (word & kByReader) != 0;
      }
      // Its reader has read the new place since it was offered, but no longer than the page has been known.
      const uint64_t ago = change.by_reader ? file_.number("microseconds since it was offered") : 0;
      if (ago > kMicrosecondsMax) file_.fail("expected less than a year since it was offered");
      uint64_t& last_us = changed_us_[change.page];
      last_us = std::max(last_us, now_us_ - std::min(ago, now_us_));
      recorded_.changes.push_back(change);
      times_us_.push_back(last_us);
    }
  }

  /// Each change gets the step in whose time it was, and its part of it; those after the last step go.
  void date_changes() {
    std::vector<uint32_t> order(recorded_.changes.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return times_us_[a] < times_us_[b]; });
    std::vector<Recorded::Change> dated;
    dated.reserve(order.size());
    uint32_t step = 0;
    for (const uint32_t index : order) {
      const uint64_t time = times_us_[index];
      while (step < steps_.size() && steps_[step].end_us < time) ++step;
      if (step == steps_.size()) break;
      const auto [begin, end] = steps_[step];
      Recorded::Change change = recorded_.changes[index];
      change.step = step;
      change.after = time <= begin ? 0 : static_cast<float>(time - begin) / static_cast<float>(end - begin);
      dated.push_back(change);
    }
    recorded_.changes = std::move(dated);
  }

  void reads() {
    const bool wanted = column() == recorded_.column;
    if (!began_) file_.fail("expected a period (P) before its reads");
    int64_t last = 0;
    while (file_.more()) {
      const uint64_t entry = file_.number("a page");
      const uint32_t index = file_.page(entry >> 1, last, header_.pages);
      const uint64_t reads = (entry & 1) != 0 ? file_.number("its reads") : 1;
      ++entries_;
      reads_ += reads;
      if (!wanted) continue;
      const uint32_t page = table_[index];
      if (page == kNoPage)
        file_.fail("page " + std::to_string(index) + " is read, and nothing says where it is");
      if (reads == 0 || reads > UINT32_MAX)
        file_.fail("expected reads of page " + std::to_string(index) + " from 1 to 4294967295");
      step_.push_back({page, reads});
    }
  }

  /// Reads of several sessions become one entry a page.
  void end_step() {
    if (step_.empty()) return;  // of another column, or all of its pages were given up
    std::sort(step_.begin(), step_.end(), [](const Entry& a, const Entry& b) { return a.page < b.page; });
    for (size_t i = 0; i < step_.size();) {
      uint64_t reads = 0;
      const uint32_t page = step_[i].page;
      for (; i < step_.size() && step_[i].page == page; ++i) reads += step_[i].reads;
      trace_.page.push_back(page);
      trace_.reads.push_back(static_cast<uint16_t>(std::min(reads, kReadsMax)));
    }
    step_.clear();
    trace_.end_step();
    steps_.push_back(period_);
    began_ = false;
  }

  void end() {
    end_step();
    static_cast<void>(file_.number("periods"));
    const uint64_t entries = file_.number("pages read");
    const uint64_t reads = file_.number("reads");
    static_cast<void>(file_.number("periods left out"));
    recorded_.dropped_entries = file_.number("pages left out");
    if (entries != entries_ || reads != reads_)
      file_.fail("the end says " + std::to_string(entries) + " pages and " + std::to_string(reads) +
                 " reads; there are " + std::to_string(entries_) + " and " + std::to_string(reads_));
    date_changes();
    if (trace_.steps() == 0) file_.fail("nobody read anything while it was recorded");
  }

  struct Entry {
    uint32_t page;
    uint64_t reads;
  };
  File file_;
  Header header_;
  PageTable table_;
  Trace trace_;
  Recorded recorded_;
  std::array<uint8_t, kTiersMax> tier_{};  // the machine's tier of one of the arena
  std::vector<Entry> step_;
  bool began_ = false;   // a period whose reads may follow
  uint64_t now_us_ = 0;  // since the recording began
  struct Period {
    uint64_t begin_us = 0;
    uint64_t end_us = 0;
  };
  Period period_;
  std::vector<Period> steps_;
  std::vector<uint64_t> times_us_;    // of the changes
  std::vector<uint64_t> changed_us_;  // of each page, the last time
  uint64_t entries_ = 0;
  uint64_t reads_ = 0;
};

}  // namespace

bool is_recording(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string line;
  for (char byte = 0; line.size() < kHeaderMax && file.get(byte) && byte != '\n';) line += byte;
  return line.find("\"kvtier_recording\"") != std::string::npos;
}

Workload read_recording(const std::string& path) {
  File file(path);
  const Header header = header_of(file, file.line());
  return Reader(std::move(file), header).read();
}

namespace {

/// Goes through a recording step by step. What a page that moved in the course of a step read from where is
/// divided by time: reads are taken to be even over the step.
class Replay {
 public:
  Replay(const Trace& trace, const Recorded& recorded, const Machine& machine)
      : trace_(trace),
        machine_(machine),
        places_(trace.pages),
        divided_at_(trace.pages, 0),
        paybacks_(trace.pages, outcome_.counts),
        change_(recorded.changes.begin()),
        end_(recorded.changes.end()),
        write_cost_(machine.tiers.back().read_bytes_per_second / machine.tiers[0].read_bytes_per_second) {}

  Outcome run(bool charge_moves) {
    for (uint32_t n = 0; n < trace_.steps(); ++n) {
      traffic_ = {};
      paybacks_.begin_step();
      for (; change_ != end_ && change_->step == n; ++change_) change(*change_);
      if (!charge_moves) traffic_ = {};
      read(trace_.step(n));
      outcome_.seconds += step_time(machine_, traffic_, trace_.fixed_read_bytes).seconds;
    }
    paybacks_.settle_all();
    outcome_.asked = trace_.asked();
    outcome_.hits = static_cast<uint64_t>(hits_ + 0.5);
    return outcome_;
  }

 private:
  struct Place {
    uint8_t tier = 0;
    uint8_t second = Recorded::kNoTier;
  };
  /// Of a page that moved: shares of the step before its last move, by tier.
  struct Division {
    uint32_t page;
    double until = 0;
    std::array<double, kTiersMax> share{};
  };

  void change(const Recorded::Change& change) {
    Place& place = places_[change.page];
    if (!change.came) {
      uint32_t& at = divided_at_[change.page];
      if (at == 0) {
        divisions_.push_back({.page = change.page});
        at = static_cast<uint32_t>(divisions_.size());
      }
      Division& division = divisions_[at - 1];
      const double until = std::max(static_cast<double>(change.after), division.until);
      division.share[place.tier] += until - std::exchange(division.until, until);
      if (!change.gone) move(change, place);
    }
    if (!change.gone) place = {change.tier, change.second};
  }

  void move(const Recorded::Change& change, const Place& from) {
    if (change.tier == from.tier) return;
    const auto bytes = static_cast<double>(trace_.page_bytes);
    const bool up = change.tier < from.tier;
    if (up)
      paybacks_.promoted(change.page, (change.by_reader ? 0 : 1) + write_cost_);
    else
      paybacks_.demoted(change.page);
    if (!up && from.second == change.tier) {
      ++outcome_.counts.demoted_free;
      return;
    }
    traffic_.written[change.tier] += bytes;
    outcome_.bytes_moved += bytes;
    // A reader's copy is a read, too: all of its own reads are taken to be of the new place.
    traffic_.copied_out_of[from.tier] += bytes;
    ++(!up                ? outcome_.counts.demoted_copy
       : change.by_reader ? outcome_.counts.promoted_in_read
                          : outcome_.counts.promoted_copy);
  }

  void read(const StepView& step) {
    const auto bytes = static_cast<double>(trace_.page_bytes);
    const auto read_from = [&](size_t tier, double reads) {
      traffic_.read[tier] += reads * bytes;
      if (tier == 0) hits_ += reads;
    };
    for (size_t i = 0; i < step.page.size(); ++i) {
      const uint32_t page = step.page[i];
      const auto reads = static_cast<double>(step.reads_of(i));
      double rest = 1;
      if (const uint32_t at = divided_at_[page]; at != 0) {
        const Division& division = divisions_[at - 1];
        for (size_t tier = 0; tier < machine_.tiers.size(); ++tier)
          read_from(tier, division.share[tier] * reads);
        rest -= division.until;
      }
      read_from(places_[page].tier, rest * reads);
      paybacks_.read(page, reads);
    }
    for (const Division& division : divisions_) divided_at_[division.page] = 0;
    divisions_.clear();
  }

  const Trace& trace_;
  const Machine& machine_;
  Outcome outcome_;
  double hits_ = 0;
  Traffic traffic_;
  std::vector<Place> places_;
  std::vector<Division> divisions_;   // of this step
  std::vector<uint32_t> divided_at_;  // a page's position in divisions_ + 1
  Paybacks paybacks_;
  std::vector<Recorded::Change>::const_iterator change_;
  std::vector<Recorded::Change>::const_iterator end_;
  double write_cost_;
};

}  // namespace

Outcome replay_recorded(const Trace& trace, const Recorded& recorded, const Machine& machine,
                        bool charge_moves) {
  if (machine.tiers.size() != recorded.machine.tiers.size())
    throw std::invalid_argument("the recorded placement is of " +
                                std::to_string(recorded.machine.tiers.size()) + " tiers, machine " +
                                machine.name + " has " + std::to_string(machine.tiers.size()));
  return Replay(trace, recorded, machine).run(charge_moves);
}

}  // namespace kvt::sim
