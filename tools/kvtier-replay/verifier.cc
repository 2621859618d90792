// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/verifier.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "tools/kvtier-replay/content.h"

namespace kvt::replay {
namespace {

/// Corrupt pages that a worker describes; the rest are counted.
constexpr uint32_t kShownMax = 3;
/// Comparisons that a device may be behind.
constexpr size_t kAhead = 8;

}  // namespace

void Verifier::report_corrupt(const Begun& begun, const Compared& result) {
  if (shown_++ >= kShownMax) return;
  const Read& read = begun.read;
  const Content::Difference& difference = result.difference;
  fmt::print(
      stderr,
      "kvtier-replay: worker {}: corrupt page {} generation {} key {:016x}{:016x}, frame {} (written to {}): "
      "{} of {} words wrong now; word {}: found {:016x}, expected {:016x}\n",
      worker_, KVT_PAGE_INDEX(read.page.page), version_of(read.page.page), read.page.key.hi, read.page.key.lo,
      read.frame, begun.entry.known ? std::to_string(begun.entry.frame) : "?", difference.words_wrong,
      client_.page_words(), difference.offset, difference.found, difference.expected);
}

void Verifier::begin(const Read& read) {
  words_.push_back({read.page.page, read.frame, Content(read.page.key, version_of(read.page.page))});
  next_.push_back({read, ledger_.find(read.page.page)});
}

void Verifier::compare_begun() {
  if (!next_.empty()) {
    device_.compare(words_);
    under_way_.push_back(std::move(next_));
    words_.clear();
    next_.clear();
  }
  collect(false);
}

void Verifier::collect(bool all) {
  while (device_.take(results_, all || under_way_.size() > kAhead)) {
    for (size_t i = 0; i < results_.size(); ++i) settle(under_way_.front()[i], results_[i]);
    under_way_.pop_front();
  }
}

void Verifier::settle(const Begun& begun, const Compared& result) {
  if (!result.good) {
    count(statistics_.corrupt);
    report_corrupt(begun, result);
  }
  if (begun.entry.known && begun.entry.worker != worker_) {
    count(statistics_.words_verified, result.words_read);
    if (begun.entry.frame != begun.read.frame) count(statistics_.words_verified_moved, result.words_read);
  } else {
    count(statistics_.words_verified_own, result.words_read);
  }
}

void Verifier::read(const kvt_step& step, const std::vector<KnownPage>& pages, std::vector<Read>& reads,
                    std::vector<size_t>& lost) {
  handles_.clear();
  for (const KnownPage& page : pages) handles_.push_back(page.page);
  frames_.resize(pages.size());
  const uint64_t staged_before = client_.bytes_staged();
  client_.resolve(step, handles_, frames_.data());

  // Where a static placement would have a page: in the fastest tier, or in the one that has room for all.
  const kvt_geometry& geometry = client_.geometry();
  const uint32_t slow = geometry.tiers - 1;
  TierBytes kvtier{};
  TierBytes fixed{};
  for (size_t i = 0; i < pages.size(); ++i) {
    const uint32_t tier = frames_[i] == KVT_NO_FRAME ? geometry.tiers : client_.tier_of(frames_[i]);
    if (tier == geometry.tiers) {
      count(statistics_.lost);
      fmt::print(stderr, "kvtier-replay: worker {}: lost page {} generation {}: held, but frame {}\n",
                 worker_, KVT_PAGE_INDEX(pages[i].page), version_of(pages[i].page),
                 frames_[i] == KVT_NO_FRAME ? "none" : std::to_string(frames_[i]) + " is in no tier");
      lost.push_back(i);
      continue;
    }
    reads.push_back({pages[i], frames_[i]});
    begin(reads.back());
    kvtier[tier] += geometry.page_bytes;
    fixed[ledger_.find(pages[i].page).static_fast ? 0 : slow] += geometry.page_bytes;
  }
  compare_begun();
  client_.touch(handles_);
  count_step(kvtier, fixed, client_.bytes_staged() - staged_before);
}

double Verifier::slowest(const TierBytes& bytes) const {
  const kvt_geometry& geometry = client_.geometry();
  double seconds = 0;
  for (uint32_t tier = 0; tier < geometry.tiers; ++tier) {
    const auto bandwidth = static_cast<double>(geometry.windows[tier].read_bytes_per_second);
    if (bandwidth > 0) seconds = std::max(seconds, static_cast<double>(bytes[tier]) / bandwidth);
  }
  return seconds;
}

// All tiers are read at the same time, so a step takes as long as its slowest tier; at best all end together.
// Pages that the step has promoted were read from the slow tier once, too: `staged` bytes.
void Verifier::count_step(const TierBytes& kvtier, const TierBytes& fixed, uint64_t staged) {
  const kvt_geometry& geometry = client_.geometry();
  uint64_t all = 0;
  double bandwidths = 0;
  for (uint32_t tier = 0; tier < geometry.tiers; ++tier) {
    count(statistics_.bytes_read[tier], kvtier[tier]);
    all += kvtier[tier];
    bandwidths += static_cast<double>(geometry.windows[tier].read_bytes_per_second);
  }
  const int64_t since = now_ns() - header_.start_ns.load(std::memory_order_relaxed);
  const size_t window = static_cast<size_t>(std::max<int64_t>(since, 0) / header_.window_ns);
  WindowBytes& bytes = windows_[std::min(window, windows_.size() - 1)];
  for (uint32_t tier = 0; tier < geometry.tiers; ++tier) bytes[tier] += kvtier[tier];
  count(statistics_.steps);
  TierBytes charged = kvtier;
  charged[geometry.tiers - 1] += staged;
  count(statistics_.seconds_kvtier, slowest(charged));
  count(statistics_.seconds_static, slowest(fixed));
  if (bandwidths > 0) count(statistics_.seconds_best, static_cast<double>(all) / bandwidths);
}

void Verifier::recheck_moved(const std::vector<Read>& reads) {
  for (const Read& read : reads) {
    if (client_.lies_in(read.page.page, read.frame)) continue;
    count(statistics_.pages_verified_in_move);
    begin(read);
  }
  compare_begun();
}

}  // namespace kvt::replay
