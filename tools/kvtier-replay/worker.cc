// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/worker.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <thread>

#include "tools/kvtier-replay/content.h"
#include "tools/kvtier-replay/errors.h"

namespace kvt::replay {
namespace {

/// Sequences that decode together, and the steps of one turn: long enough that counters move pages, short
/// enough that the batch changes many times in a run.
constexpr size_t kBatch = 8;
constexpr uint32_t kBurstSteps = 256;
/// Steps right after admission (the first tokens).
constexpr uint32_t kFirstSteps = 2;
/// A decode step is one token; a new page comes more often than every 512 so that short runs have them.
constexpr uint32_t kAppendSteps = 64;
/// Steps that the new page is read while it is being filled.
constexpr uint32_t kFillSteps = 16;
/// New pages that are given back while they are still FILLING.
constexpr double kAbandon = 0.125;
/// Steps that stay open while others run: as long as a step of a large model on a GPU, and longer than the
/// daemon's period, so that pages move in the middle of it.
constexpr int64_t kStayOpenNs = 12'000'000;
/// Pages of one publish, which waits for the daemon once.
constexpr size_t kPublishBatch = 32;
/// The index may miss for a moment while the daemon changes it.
constexpr int kLookups = 3;
constexpr auto kLookupPause = std::chrono::microseconds(200);
/// Steps between two checks that what is held can be found.
constexpr uint64_t kFindableSteps = 64;
constexpr size_t kFindablePages = 4;
constexpr auto kIdle = std::chrono::microseconds(500);

}  // namespace

Worker::Worker(const Board& board, uint32_t index)
    : board_(board),
      header_(board.header()),
      index_(index),
      statistics_(board.statistics()[index]),
      random_(header_.seed ^ mix64(index + 1)),
      client_(header_),
      device_(make_device(header_, client_)),
      ledger_(board.ledger()),
      verifier_(client_, *device_, ledger_, board, index) {}

kvt_key Worker::key_of_block(uint64_t id) const {
  const uint64_t lo = mix64(id ^ mix64(header_.seed));
  return {lo | 1, mix64(lo + 0x9e3779b97f4a7c15ULL + id)};
}

/// For pages that no other process can find; even, so that it is never a block's.
kvt_key Worker::next_private_key() {
  const uint64_t lo = mix64(++private_keys_ ^ mix64(header_.seed + index_ + 1));
  return {lo & ~uint64_t{1}, mix64(lo + private_keys_) | 1};
}

bool Worker::stopped() const {
  return header_.stop.load(std::memory_order_relaxed) != 0 || now_ns() >= deadline_ns_;
}

void Worker::wait_for_start() {
  statistics_.state.store(WorkerState::kAttached, std::memory_order_release);
  int64_t start_ns = 0;
  while ((start_ns = header_.start_ns.load(std::memory_order_acquire)) == 0) {
    if (header_.stop.load(std::memory_order_relaxed) != 0) break;
    std::this_thread::sleep_for(kIdle);
  }
  deadline_ns_ = start_ns + header_.duration_ns;
}

void Worker::run() {
  wait_for_start();
  const int64_t start_ns = deadline_ns_ - header_.duration_ns;
  const auto requests = board_.requests();
  size_t next = 0;
  const auto skip_others = [&] {
    while (next < requests.size() && requests[next].worker != index_) ++next;
  };
  for (skip_others(); !stopped(); skip_others()) {
    const bool more = next < requests.size();
    if (more && start_ns + requests[next].arrival_ns <= now_ns()) {
      admit(requests[next++]);
      continue;
    }
    fill_batch();
    if (!batch_.empty()) {
      auto current = batch_.begin();
      decode(*current);
      auto& to = batch_done(*current) ? (current->steps >= current->steps_wanted ? done_ : waiting_) : batch_;
      to.splice(to.end(), batch_, current);
    } else if (!more) {
      break;
    } else {
      verifier_.collect(false);
      std::this_thread::sleep_for(kIdle);
    }
  }
  close_open_steps(true);
  verifier_.collect(true);
  while (drop_one()) {
  }
  statistics_.state.store(WorkerState::kDone, std::memory_order_release);
}

// ---- prefill ----

void Worker::admit(const PlannedRequest& request) {
  const auto ids = board_.block_ids().subspan(request.first_block, request.blocks);
  std::vector<kvt_key> keys;
  for (const uint64_t id : ids) keys.push_back(key_of_block(id));
  make_room(keys.size());

  Sequence sequence{{}, ReadPattern(header_.read_model, header_.gates, random_.next())};
  sequence.steps_wanted = std::max(request.output_tokens, kFirstSteps);
  std::vector<Block>& blocks = sequence.blocks;
  find_prefix(keys, 0, blocks);
  count(statistics_.blocks_asked, uint64_t{keys.size()});
  // The first missing block is published alone: when another worker is writing the same prompt, the rest is
  // likely there too, and the chain goes on from its pages.
  bool alone = true;
  while (blocks.size() < keys.size()) {
    const size_t before = blocks.size();
    const size_t n = alone ? 1 : std::min(kPublishBatch, keys.size() - before);
    if (!write_blocks(keys, blocks, n)) {
      count(statistics_.requests_shortened);
      break;
    }
    alone = false;
    if (blocks.size() < keys.size()) alone = find_prefix(keys, blocks.size(), blocks) > 0;
  }
  count(statistics_.requests);
  if (blocks.empty()) return;
  for (uint32_t i = 0; i < kFirstSteps && !blocks.empty(); ++i) decode(sequence);
  waiting_.push_back(std::move(sequence));
}

/// Holds the longest present prefix of keys[from..] and appends it to blocks.
size_t Worker::find_prefix(const std::vector<kvt_key>& keys, size_t from, std::vector<Block>& blocks) {
  std::vector<kvt_page> pages(keys.size() - from);
  const std::span<const kvt_key> asked{keys.data() + from, pages.size()};
  const size_t found = client_.lookup(asked, KVT_LOOKUP_HOLD | KVT_LOOKUP_CHAIN, pages.data());
  for (size_t i = 0; i < found; ++i) blocks.push_back({{pages[i], asked[i]}, true});
  held_ += found;
  count(statistics_.blocks_found, uint64_t{found});
  return found;
}

/// Up to n fresh pages; conversations that are only kept open make room.
size_t Worker::allocate(std::vector<kvt_page>& pages, size_t n) {
  // It may wait for pages that are being freed, and those wait for the steps of this very process.
  close_open_steps(true);
  pages.resize(n);
  size_t have = client_.allocate(pages);
  while (have < n && !done_.empty()) {
    drop(done_.front());
    done_.pop_front();
    have += client_.allocate({pages.data() + have, n - have});
  }
  pages.resize(have);
  held_ += have;
  return have;
}

PageWords Worker::begin_page(KnownPage page) {
  const kvt_frame frame = client_.frame_at(client_.page_data(page.page));
  ledger_.record(page.page, frame, index_);
  return {page.page, frame, Content(page.key, version_of(page.page))};
}

/// Writes and publishes the next n blocks. False when the arena had not room for all of them.
bool Worker::write_blocks(const std::vector<kvt_key>& keys, std::vector<Block>& blocks, size_t n) {
  std::vector<kvt_page> pages;
  const bool all = allocate(pages, n) == n;
  const size_t first = blocks.size();
  std::vector<kvt_publish_entry> entries;
  std::vector<PageWords> to_write;
  kvt_page parent = blocks.empty() ? KVT_NO_PAGE : blocks.back().page.page;
  for (size_t i = 0; i < pages.size(); ++i) {
    to_write.push_back(begin_page({pages[i], keys[first + i]}));
    kvt_publish_entry entry{};
    entry.page = pages[i];
    entry.key = keys[first + i];
    entry.parent = parent;
    entry.present = KVT_NO_PAGE;
    entries.push_back(entry);
    parent = pages[i];
  }
  if (entries.empty()) return false;
  device_->write(to_write);
  device_->settle();
  client_.publish(entries);
  count(statistics_.blocks_written, uint64_t{entries.size()});
  for (const kvt_publish_entry& entry : entries) settle(entry, blocks);
  check_published(blocks, first);
  return all;
}

/// Takes over what a publish answered: the own page, or the one that another worker published before.
void Worker::settle(const kvt_publish_entry& entry, std::vector<Block>& blocks) {
  if (entry.result != KVT_PRESENT) {
    blocks.push_back({{entry.page, entry.key}, true});
    return;
  }
  count(statistics_.publish_present);
  if (client_.hold(entry.present)) {
    client_.release(entry.page);
    blocks.push_back({{entry.present, entry.key}, true});
  } else {
    // Evicted since. The own page is sealed and as good, but nobody finds it.
    blocks.push_back({{entry.page, entry.key}, false});
  }
}

/// A page that is held and keyed is found under its key, and no other is.
void Worker::check_findable(const KnownPage& page) {
  kvt_page found = KVT_NO_PAGE;
  for (int i = 0; i < kLookups; ++i) {
    if (i > 0) std::this_thread::sleep_for(kLookupPause);
    client_.lookup({&page.key, 1}, 0, &found);
    if (found == page.page) return;
  }
  count(statistics_.lost);
  if (statistics_.lost.load(std::memory_order_relaxed) <= 3) {
    fmt::print(stderr, "kvtier-replay: worker {}: lost page {} generation {}: held, but its key finds {}\n",
               index_, KVT_PAGE_INDEX(page.page), version_of(page.page),
               found == KVT_NO_PAGE ? "nothing" : fmt::format("page {}", KVT_PAGE_INDEX(found)));
  }
}

void Worker::check_published(const std::vector<Block>& blocks, size_t first) {
  for (size_t i = first; i < blocks.size(); ++i)
    if (blocks[i].keyed) check_findable(blocks[i].page);
}

void Worker::check_findable(const Sequence& sequence) {
  for (size_t i = 0; i < kFindablePages; ++i) {
    const Block& block = sequence.blocks[random_.below(sequence.blocks.size())];
    if (block.keyed) check_findable(block.page);
  }
}

// ---- decode ----

void Worker::fill_batch() {
  while (batch_.size() < kBatch && !waiting_.empty()) {
    waiting_.front().burst = 0;
    batch_.splice(batch_.end(), waiting_, waiting_.begin());
  }
}

bool Worker::batch_done(const Sequence& sequence) const {
  return sequence.steps >= sequence.steps_wanted || sequence.blocks.empty() ||
         (sequence.burst >= kBurstSteps && !waiting_.empty());
}

void Worker::decode(Sequence& sequence) {
  sequence.pattern.next(static_cast<uint32_t>(sequence.blocks.size()), chosen_);
  to_read_.clear();
  for (const uint32_t block : chosen_) to_read_.push_back(sequence.blocks[block].page);

  lost_.clear();
  OpenStep open{device_->step_begin(), now_ns() + kStayOpenNs, {}};
  verifier_.read(open.step, to_read_, open.reads, lost_);
  // A page that is being filled may go back to the stock and be written again by this very process: such
  // steps end.
  if (!sequence.tail_filling && open_steps_.size() < header_.open_steps_max) {
    open_steps_.push_back(std::move(open));
  } else {
    verifier_.recheck_moved(open.reads);
    device_->step_end(open.step);
  }
  // From the back, so that the block numbers before it stay good.
  for (auto i = lost_.rbegin(); i != lost_.rend(); ++i) {
    if (chosen_[*i] + 1 == sequence.blocks.size()) sequence.tail_filling = false;
    sequence.blocks.erase(sequence.blocks.begin() + chosen_[*i]);
  }
  held_ -= lost_.size();

  ++steps_;
  ++sequence.steps;
  ++sequence.burst;
  extend(sequence);
  close_open_steps(false);
  if (steps_ % kFindableSteps == 0 && !sequence.blocks.empty()) check_findable(sequence);
}

/// The tokens that the sequence makes: now and then a new page, which is filled, read, sealed and read on.
void Worker::extend(Sequence& sequence) {
  const uint32_t phase = sequence.steps % kAppendSteps;
  if (phase == kAppendSteps - kFillSteps && !sequence.tail_filling) {
    std::vector<kvt_page> pages;
    if (allocate(pages, 1) == 0) return;
    const KnownPage page{pages[0], next_private_key()};
    device_->generate(begin_page(page));
    sequence.blocks.push_back({page, false});
    sequence.tail_filling = true;
    count(statistics_.pages_appended);
  } else if (phase == 0 && sequence.tail_filling) {
    sequence.tail_filling = false;
    if (random_.chance(kAbandon)) {
      client_.release(sequence.blocks.back().page.page);
      sequence.blocks.pop_back();
      --held_;
    } else {
      device_->seal(sequence.blocks.back().page.page);
    }
  }
}

void Worker::close_open_steps(bool all) {
  while (!open_steps_.empty() && (all || open_steps_.front().closes_ns <= now_ns())) {
    verifier_.recheck_moved(open_steps_.front().reads);
    device_->step_end(open_steps_.front().step);
    open_steps_.pop_front();
  }
}

// ---- room ----

void Worker::make_room(size_t pages) {
  while (held_ + pages > header_.held_pages_max && drop_one()) {
  }
}

/// Ends one sequence: a conversation that is only kept open, else the one that is furthest through its
/// output.
bool Worker::drop_one() {
  if (!done_.empty()) {
    drop(done_.front());
    done_.pop_front();
    return true;
  }
  std::list<Sequence>& from = waiting_.empty() ? batch_ : waiting_;
  if (from.empty()) return false;
  const auto progress = [](const Sequence& sequence) {
    return static_cast<double>(sequence.steps) / static_cast<double>(sequence.steps_wanted);
  };
  const auto victim = std::max_element(from.begin(), from.end(), [&](const Sequence& a, const Sequence& b) {
    return progress(a) < progress(b);
  });
  if (!stopped()) count(statistics_.requests_cut);
  drop(*victim);
  from.erase(victim);
  return true;
}

void Worker::drop(Sequence& sequence) {
  std::vector<kvt_page> pages;
  for (const Block& block : sequence.blocks) pages.push_back(block.page.page);
  device_->settle();
  client_.release(pages);
  held_ -= pages.size();
  sequence.blocks.clear();
}

int run_worker(int board_fd, uint32_t index) {
  // The parent alone is interrupted; it says stop on the board. When it is killed, so is this process.
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGTERM, SIG_IGN);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    const Board board = Board::open(board_fd);
    if (getppid() != board.header().parent_pid) return kExitFailed;
    Worker(board, index).run();
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "kvtier-replay: worker {}: {}\n", index, error.what());
    return kExitFailed;
  }
}

}  // namespace kvt::replay
