// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-soak/worker.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <random>
#include <thread>
#include <vector>

#include "tools/kvtier-soak/contents.h"

namespace kvt::soak {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kSharedKeys = 512;  // that several clients store, as prompts that begin alike
constexpr size_t kBatch = 32;          // pages of a step
constexpr size_t kOpenSteps = 4;       // that stay open while others run
constexpr uint32_t kFilling = 24;      // pages that are being filled for a while
constexpr auto kPatience = std::chrono::seconds(60);
constexpr auto kPause = std::chrono::milliseconds(1);

/// What a client knows of a page that it holds.
struct Held {
  kvt_page page = KVT_NO_PAGE;
  uint64_t number = 0;  // of its key and contents
  kvt_frame born = KVT_NO_FRAME;
  bool published = false;
};

/// A step that is left open, and what was resolved in it.
struct OpenStep {
  kvt_step step{};
  std::vector<const void*> addresses;
  std::vector<uint64_t> numbers;
};

class Worker {
 public:
  Worker(const WorkerOptions& options, Board& board)
      : options_(options),
        board_(board),
        counters_(board.worker[options.index]),
        random_(options.seed * 1000003 + options.index * 7919 + options.life) {}

  int run() {
    counters_.running.store(1);
    if (!attach()) return 1;
    auto next_attach = Clock::now() + std::chrono::milliseconds(300 + random_() % 1500);
    while (board_.stop.load(std::memory_order_relaxed) == 0) {
      if (!turn()) return 1;
      if (const uint64_t restarts = board_.restarts.load(); restarts != restarts_seen_) {
        restarts_seen_ = restarts;
        check_all();
      }
      if (Clock::now() >= next_attach) {
        give_back_all();
        detach();
        if (!attach()) return 1;
        next_attach = Clock::now() + std::chrono::milliseconds(300 + random_() % 1500);
      }
    }
    check_all();
    give_back_all();
    detach();
    counters_.left.store(1);
    counters_.running.store(0);
    return 0;
  }

 private:
  void say(const std::string& line) const {
    std::fputs(fmt::format("soak: client {} ({}): {}\n", options_.index, ::getpid(), line).c_str(), stderr);
  }

  /// A call that the daemon's absence may cut short, until it has been served.
  template <typename Call>
  int patiently(const Call& call) {
    const auto end = Clock::now() + kPatience;
    int result = 0;
    while ((result = call()) == KVT_E_AGAIN) {
      counters_.away.fetch_add(1, std::memory_order_relaxed);
      if (Clock::now() >= end) {
        say("the daemon did not come back");
        return result;
      }
      std::this_thread::sleep_for(kPause);
    }
    return result;
  }

  bool attach() {
    kvt_attach_args args{};
    args.size = sizeof args;
    args.socket_dir = options_.folder.c_str();
    args.arena = options_.arena.c_str();
    args.timeout_ms = 2000;
    args.members_max = options_.index == 0 ? 2 : 1;
    // Client 1 joins client 0's session where there is one.
    if (options_.index == 1 && board_.token.valid.load(std::memory_order_acquire) != 0) {
      uint8_t token[KVT_TOKEN_BYTES];
      std::memcpy(token, board_.token.bytes, sizeof token);
      if (kvt_join(&args, token, &session_) == KVT_OK) {
        joined_ = true;
        return begin();
      }
    }
    joined_ = false;
    const int code = patiently([&] { return kvt_attach(&args, &session_); });
    if (code != KVT_OK) {
      say(fmt::format("attach: {}", kvt_last_error()));
      return false;
    }
    if (options_.index == 0) {
      board_.token.valid.store(0);
      kvt_token(session_, board_.token.bytes);
      board_.token.valid.store(1, std::memory_order_release);
    }
    return begin();
  }

  bool begin() {
    counters_.attached.fetch_add(1, std::memory_order_relaxed);
    kvt_geometry geometry{};
    geometry.size = sizeof geometry;
    kvt_get_geometry(session_, &geometry);
    base_ = static_cast<std::byte*>(geometry.base);
    stride_ = geometry.stride;
    bytes_ = geometry.page_bytes;
    return true;
  }

  void detach() {
    if (options_.index == 0) board_.token.valid.store(0);
    kvt_detach(session_);
    session_ = nullptr;
  }

  /// The session has been ended. It may be so for a member whose owner has gone, and for nobody else.
  bool ended(int code) {
    if (code != KVT_E_ENDED) return false;
    if (!joined_) {
      say(fmt::format("the session was ended: {}; {} pages are lost", kvt_last_error(), held_.size()));
      counters_.lost.fetch_add(held_.size() + filling_.size() + 1);
    }
    forget();
    detach();
    attach();
    return true;
  }

  void forget() {
    held_.clear();
    filling_.clear();
    open_.clear();
    note_ledger();
  }

  void note_ledger() {
    counters_.ledger_pages.store(held_.size() + filling_.size(), std::memory_order_relaxed);
  }

  kvt_frame frame_of(const void* address) const {
    return static_cast<kvt_frame>((static_cast<const std::byte*>(address) - base_) /
                                  static_cast<ptrdiff_t>(stride_));
  }

  void compare(const void* address, uint64_t number, kvt_page page, bool moved) {
    const uint64_t wrong = wrong_words(address, bytes_, number);
    counters_.words_verified.fetch_add(bytes_ / 8, std::memory_order_relaxed);
    if (moved) counters_.words_verified_moved.fetch_add(bytes_ / 8, std::memory_order_relaxed);
    if (wrong == 0) return;
    if (counters_.corrupt.fetch_add(wrong) < 64)
      say(fmt::format("page {} (generation {}) in frame {}: {} words are wrong", KVT_PAGE_INDEX(page),
                      page >> 32, frame_of(address), wrong));
  }

  bool turn() {
    // It reads nothing for a while: what it was offered lapses.
    if (random_() % 4096 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(150));
    switch (random_() % 16) {
      case 0:
      case 1:
      case 2: return take();
      case 3:
      case 4: return find();
      case 5: return let_go(held_.size() > options_.pages_held ? 16 : 2);
      case 6: return finish_filling();
      case 7: return findable();
      case 8:
        if (!held_.empty()) {
          const kvt_page page = held_[random_() % held_.size()].page;
          kvt_advise(session_, &page, 1, random_() % 2 == 0 ? KVT_ADVISE_PREFETCH : KVT_ADVISE_DEMOTE);
        }
        return true;
      default: return read();
    }
  }

  /// Fresh pages: filled and published, sealed, left to be filled for a while, or given back at once.
  bool take() {
    if (held_.size() > 2 * options_.pages_held) return let_go(32);
    kvt_page pages[8];
    const int got = patiently([&] { return kvt_allocate(session_, pages, 1 + random_() % 8); });
    if (ended(got)) return true;
    if (got == KVT_E_FULL) {
      counters_.full.fetch_add(1, std::memory_order_relaxed);
      close_steps();
      return let_go(16);
    }
    if (got <= 0) {
      say(fmt::format("allocate: {}", kvt_last_error()));
      return got == KVT_E_AGAIN ? false : true;
    }
    std::vector<Held> fresh;
    for (int i = 0; i < got; ++i) {
      Held held;
      held.page = pages[i];
      held.number = random_() % 8 == 0 ? 1 + random_() % kSharedKeys : next_number();
      void* const data = kvt_page_data(session_, pages[i]);
      if (data == nullptr) {
        lose(held, "cannot be written");
        continue;
      }
      write_words(data, bytes_, held.number);
      held.born = frame_of(data);
      fresh.push_back(held);
    }
    const uint64_t what = random_() % 8;
    if (what == 0) {
      for (const Held& held : fresh) kvt_release(session_, &held.page, 1, nullptr);
    } else if (what == 1 && filling_.size() < kFilling) {
      filling_.insert(filling_.end(), fresh.begin(), fresh.end());
    } else if (what == 2) {
      for (Held& held : fresh) {
        if (const int code = patiently([&] { return kvt_seal(session_, &held.page, 1, nullptr); });
            ended(code))
          return true;
        held_.push_back(held);
      }
    } else {
      publish(fresh);
    }
    note_ledger();
    return true;
  }

  void publish(std::vector<Held>& fresh) {
    std::vector<kvt_publish_entry> entries;
    for (const Held& held : fresh) {
      kvt_publish_entry entry{};
      entry.page = held.page;
      entry.key = key_of(held.number);
      entry.parent =
          !held_.empty() && random_() % 2 == 0 ? held_[random_() % held_.size()].page : KVT_NO_PAGE;
      entry.present = KVT_NO_PAGE;
      entries.push_back(entry);
    }
    const int done = patiently([&] { return kvt_publish(session_, entries.data(), entries.size()); });
    if (ended(done)) return;
    for (size_t i = 0; i < fresh.size(); ++i) {
      fresh[i].published = done > 0 && entries[i].result == KVT_PUBLISHED;
      if (done > 0 && entries[i].result < 0 && entries[i].result != KVT_E_FULL) {
        if (ended(entries[i].result)) return;
        lose(fresh[i], fmt::format("cannot be published: {}", entries[i].result));
        continue;
      }
      held_.push_back(fresh[i]);
      if (!fresh[i].published) continue;
      counters_.published.fetch_add(1, std::memory_order_relaxed);
      board_.recent[board_.recent_next.fetch_add(1) % kRecent].store(fresh[i].number,
                                                                     std::memory_order_relaxed);
    }
  }

  bool finish_filling() {
    if (filling_.empty()) return true;
    std::vector<Held> some;
    for (int i = 0; i < 4 && !filling_.empty(); ++i) {
      std::swap(filling_[random_() % filling_.size()], filling_.back());
      Held held = filling_.back();
      filling_.pop_back();
      // It is still where it was, with what was written.
      const void* const data = kvt_page_data(session_, held.page);
      if (data == nullptr) {
        lose(held, "is not being filled any more");
        continue;
      }
      compare(data, held.number, held.page, false);
      some.push_back(held);
    }
    if (random_() % 4 == 0)
      for (const Held& held : some) kvt_release(session_, &held.page, 1, nullptr);
    else
      publish(some);
    note_ledger();
    return true;
  }

  /// Pages that others have published, or this one.
  bool find() {
    for (int i = 0; i < 4; ++i) {
      const uint64_t number = board_.recent[random_() % kRecent].load(std::memory_order_relaxed);
      if (number == 0) continue;
      const kvt_key key = key_of(number);
      kvt_page page = KVT_NO_PAGE;
      const int found = kvt_lookup(session_, &key, 1, KVT_LOOKUP_HOLD, &page);
      if (found != 1) {
        counters_.missed.fetch_add(1, std::memory_order_relaxed);
        continue;
      }
      counters_.found.fetch_add(1, std::memory_order_relaxed);
      Held held;
      held.page = page;
      held.number = number;
      held.published = true;
      held_.push_back(held);
    }
    note_ledger();
    return true;
  }

  /// What this client holds and has published can be found, always: it is never evicted.
  bool findable() {
    if (held_.empty()) return true;
    const Held& held = held_[random_() % held_.size()];
    if (!held.published) return true;
    const kvt_key key = key_of(held.number);
    for (int tries = 0; tries < 100; ++tries) {  // it may miss for a moment while the index changes
      kvt_page page = KVT_NO_PAGE;
      if (kvt_lookup(session_, &key, 1, 0, &page) == 1) return true;
      std::this_thread::sleep_for(kPause);
    }
    kvt_page_info info{};
    info.size = sizeof info;
    kvt_get_page_info(session_, KVT_PAGE_INDEX(held.page), &info);
    // Another client may have had the key, published it and taken it away: then it is this one's no more.
    if (info.page == held.page && info.keyed == 0) return true;
    lose(held, "is held and published, and is not found");
    return true;
  }

  bool let_go(size_t count) {
    for (; count != 0 && !held_.empty(); --count) {
      const size_t at = random_() % held_.size();
      const Held held = held_[at];
      held_[at] = held_.back();
      held_.pop_back();
      if (held.born != KVT_NO_FRAME && held.published && random_() % 8 == 0)
        if (ended(patiently([&] { return kvt_unpublish(session_, held.page); }))) return true;
      if (const int code = kvt_release(session_, &held.page, 1, nullptr); code != KVT_OK && !ended(code))
        lose(held, fmt::format("cannot be released: {}", kvt_last_error()));
    }
    note_ledger();
    return true;
  }

  bool read() {
    if (held_.empty()) return take();
    OpenStep step;
    if (const int code = kvt_step_begin(session_, &step.step); code != KVT_OK) {
      if (ended(code)) return true;
      close_steps();
      return true;
    }
    std::vector<kvt_page> pages;
    std::vector<size_t> which;
    for (size_t i = 0; i < kBatch; ++i) which.push_back(random_() % held_.size());
    for (const size_t at : which) pages.push_back(held_[at].page);
    step.addresses.resize(pages.size());
    kvt_resolve_addresses(session_, &step.step, pages.data(), pages.size(), step.addresses.data());
    kvt_touch(session_, pages.data(), pages.size());
    for (size_t i = 0; i < pages.size(); ++i) {
      const Held& held = held_[which[i]];
      step.numbers.push_back(held.number);
      if (step.addresses[i] == nullptr) {
        // A page that was sealed a moment ago is sealed when the daemon has heard it.
        if (readable_soon(step.step, held)) continue;
        lose(held, "is held, and cannot be read");
        continue;
      }
      const bool moved = held.born != KVT_NO_FRAME && frame_of(step.addresses[i]) != held.born;
      compare(step.addresses[i], held.number, held.page, moved);
    }
    counters_.steps.fetch_add(1, std::memory_order_relaxed);
    if (random_() % 4 == 0) {
      open_.push_back(std::move(step));
      if (open_.size() > kOpenSteps) close_step();
    } else {
      kvt_step_end(session_, &step.step);
    }
    return true;
  }

  bool readable_soon(const kvt_step& step, const Held& held) {
    for (int tries = 0; tries < 2000; ++tries) {
      const void* address = nullptr;
      if (kvt_resolve_addresses(session_, &step, &held.page, 1, &address) == 1) return true;
      if (const int code = kvt_flush(session_); code == KVT_E_ENDED) return joined_;
      std::this_thread::sleep_for(kPause);
    }
    return false;
  }

  /// What was resolved in a step stays where it was until it ends, whatever happened meanwhile.
  void close_step() {
    OpenStep step = std::move(open_.front());
    open_.pop_front();
    for (size_t i = 0; i < step.numbers.size(); ++i)
      if (step.addresses[i] != nullptr) compare(step.addresses[i], step.numbers[i], KVT_NO_PAGE, false);
    kvt_step_end(session_, &step.step);
  }
  void close_steps() {
    while (!open_.empty()) close_step();
  }

  /// After a restart, and at the end: every page of the ledger.
  void check_all() {
    close_steps();
    if (const int code = patiently([&] { return kvt_flush(session_); }); ended(code)) return;
    kvt_step step{};
    if (kvt_step_begin(session_, &step) != KVT_OK) return;
    for (const Held& held : held_) {
      const void* address = nullptr;
      if (kvt_resolve_addresses(session_, &step, &held.page, 1, &address) != 1) {
        lose(held, "is held, and is gone after a restart");
        continue;
      }
      compare(address, held.number, held.page, held.born != KVT_NO_FRAME && frame_of(address) != held.born);
      counters_.checked_after_restart.fetch_add(1, std::memory_order_relaxed);
    }
    for (const Held& held : filling_) {
      const void* const data = kvt_page_data(session_, held.page);
      if (data == nullptr) {
        lose(held, "was being filled, and is gone after a restart");
        continue;
      }
      compare(data, held.number, held.page, false);
      counters_.checked_after_restart.fetch_add(1, std::memory_order_relaxed);
    }
    kvt_step_end(session_, &step);
  }

  void give_back_all() {
    close_steps();
    for (const Held& held : filling_) kvt_release(session_, &held.page, 1, nullptr);
    filling_.clear();
    while (!held_.empty()) let_go(held_.size());
    note_ledger();
  }

  void lose(const Held& held, const std::string& why) {
    if (counters_.lost.fetch_add(1) < 32)
      say(fmt::format("page {} (generation {}, key {}) {}", KVT_PAGE_INDEX(held.page), held.page >> 32,
                      held.number, why));
  }

  uint64_t next_number() {
    return ((uint64_t{options_.index} + 1) << 56) | (options_.life << 32) | ++last_number_;
  }

  WorkerOptions options_;
  Board& board_;
  Counters& counters_;
  std::mt19937_64 random_;
  kvt_session* session_ = nullptr;
  bool joined_ = false;
  std::byte* base_ = nullptr;
  uint64_t stride_ = 1;
  uint64_t bytes_ = 0;
  std::vector<Held> held_;
  std::vector<Held> filling_;
  std::deque<OpenStep> open_;
  uint64_t restarts_seen_ = 0;
  uint64_t last_number_ = 0;
};

uint64_t archive_number(uint64_t index) { return (uint64_t{0xff} << 56) | index; }

kvt_session* attach_patiently(const std::string& folder, const char* arena) {
  kvt_attach_args args{};
  args.size = sizeof args;
  args.socket_dir = folder.c_str();
  args.arena = arena;
  args.timeout_ms = 2000;
  kvt_session* session = nullptr;
  for (const auto end = Clock::now() + kPatience; Clock::now() < end; std::this_thread::sleep_for(kPause))
    if (kvt_attach(&args, &session) == KVT_OK) return session;
  std::fputs(fmt::format("soak: attach {}: {}\n", arena, kvt_last_error()).c_str(), stderr);
  return nullptr;
}

}  // namespace

int run_worker(const WorkerOptions& options, Board& board) { return Worker(options, board).run(); }

uint64_t check_archive(kvt_session* session, Board& board, Counters& counters) {
  kvt_geometry geometry{};
  geometry.size = sizeof geometry;
  kvt_get_geometry(session, &geometry);
  uint64_t lost = 0;
  const uint64_t archived = board.archived.load(std::memory_order_acquire);
  for (uint64_t i = 1; i <= archived; ++i) {
    const kvt_key key = key_of(archive_number(i));
    kvt_page page = KVT_NO_PAGE;
    bool found = false;
    for (int tries = 0; tries < 200 && !found; ++tries) {
      found = kvt_lookup(session, &key, 1, KVT_LOOKUP_HOLD, &page) == 1;
      if (!found) std::this_thread::sleep_for(kPause);
    }
    if (!found) {
      ++lost;
      continue;
    }
    kvt_step step{};
    kvt_step_begin(session, &step);
    const void* address = nullptr;
    if (kvt_resolve_addresses(session, &step, &page, 1, &address) == 1) {
      counters.corrupt.fetch_add(wrong_words(address, geometry.page_bytes, archive_number(i)));
      counters.words_verified.fetch_add(geometry.page_bytes / 8, std::memory_order_relaxed);
      counters.checked_after_restart.fetch_add(1, std::memory_order_relaxed);
    } else {
      ++lost;
    }
    kvt_step_end(session, &step);
    kvt_release(session, &page, 1, nullptr);
  }
  counters.lost.fetch_add(lost);
  return lost;
}

int run_archivist(const WorkerOptions& options, Board& board) {
  Counters& counters = board.worker[options.index];
  counters.running.store(1);
  kvt_session* const session = attach_patiently(options.folder, options.arena.c_str());
  if (session == nullptr) return 1;
  kvt_geometry geometry{};
  geometry.size = sizeof geometry;
  kvt_get_geometry(session, &geometry);
  const uint64_t most = std::min<uint64_t>(kArchiveMax, geometry.pages / 2);
  while (board.stop.load() == 0) {
    const uint64_t next = board.archived.load() + 1;
    if (next <= most) {
      kvt_page page = KVT_NO_PAGE;
      if (kvt_allocate(session, &page, 1) == 1) {
        write_words(kvt_page_data(session, page), geometry.page_bytes, archive_number(next));
        kvt_publish_entry entry{};
        entry.page = page;
        entry.key = key_of(archive_number(next));
        entry.parent = KVT_NO_PAGE;
        // PRESENT: one that was killed here before has got as far, and no further.
        int done = 0;
        while ((done = kvt_publish(session, &entry, 1)) == KVT_E_AGAIN) std::this_thread::sleep_for(kPause);
        if (done == 1 && (entry.result == KVT_PUBLISHED || entry.result == KVT_PRESENT))
          board.archived.store(next, std::memory_order_release);
        kvt_release(session, &page, 1, nullptr);
        counters.published.fetch_add(1, std::memory_order_relaxed);
      }
    }
    if (next % 64 == 0 || next > most) check_archive(session, board, counters);
    counters.ledger_pages.store(board.archived.load());
    std::this_thread::sleep_for(kPause);
  }
  kvt_detach(session);
  counters.left.store(1);
  counters.running.store(0);
  return 0;
}

int run_victim(const std::string& folder, Board& board) {
  Victim& victim = board.victim;
  kvt_session* const session = attach_patiently(folder, "reclaim");
  if (session == nullptr) return 1;
  uint32_t have = 0;
  while (have < kVictimPages) {
    const int got = kvt_allocate(session, victim.page + have, kVictimPages - have);
    if (got <= 0) break;
    have += static_cast<uint32_t>(got);
  }
  kvt_geometry geometry{};
  geometry.size = sizeof geometry;
  kvt_get_geometry(session, &geometry);
  // Half of them are read holds of sealed pages, half are being written; all windows are mapped and touched.
  for (uint32_t i = 0; i < have; ++i)
    write_words(kvt_page_data(session, victim.page[i]), geometry.page_bytes, i + 1);
  kvt_seal(session, victim.page, have / 2, nullptr);
  while (kvt_flush(session) == KVT_E_AGAIN) std::this_thread::sleep_for(kPause);
  victim.pages = have;
  victim.ready.store(1, std::memory_order_release);
  for (;;) ::pause();
}

}  // namespace kvt::soak
