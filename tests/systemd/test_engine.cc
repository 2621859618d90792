// SPDX-License-Identifier: Apache-2.0
//
// A client that goes on whatever happens to the daemon: one thread publishes pages under new keys, the other reads and
// checks every word of the newest of them in one step after another.
//
//   test_engine --pages N --state FILE [--arena NAME]      N: how many it keeps and reads
//
// FILE has a line of NAME=NUMBER words, rewritten with each round. When the session has ended (another daemon without its
// pages) it attaches anew. SIGTERM ends it: 0 when every word was right. 3: it may not attach; 4: it
// cannot.
#include <kvtier/kvtier.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

volatile sig_atomic_t stopping = 0;

struct Page {
  kvt_page page;
  kvt_key key;
};

struct Counts {
  uint64_t rounds = 0;
  uint64_t words = 0;
  uint64_t wrong = 0;
  uint64_t published = 0;
  uint64_t again = 0;     // calls that the daemon's absence has cut short
  uint64_t sessions = 0;  // attached
};

uint64_t word_of(kvt_key key, uint64_t index) {
  const uint64_t word = (key.lo ^ (index * 0xbf58476d1ce4e5b9ull)) * 0x94d049bb133111ebull;
  return word ^ (word >> 29);
}

kvt_key next_key() {
  static uint64_t number = 0;
  ++number;
  return kvt_key{number * 0x9e3779b97f4a7c15ull + static_cast<uint64_t>(::getpid()),
                 (static_cast<uint64_t>(::getpid()) << 32) + number};
}

void write_state(const std::string& path, const Counts& counts, kvt_session* session) {
  kvt_stats stats{};
  stats.size = sizeof stats;
  kvt_get_stats(session, &stats);
  const std::string fresh = path + ".new";
  std::FILE* const file = std::fopen(fresh.c_str(), "w");
  if (file == nullptr) return;
  std::fprintf(
      file, "rounds=%llu words=%llu wrong=%llu published=%llu again=%llu sessions=%llu reconnects=%llu\n",
      static_cast<unsigned long long>(counts.rounds), static_cast<unsigned long long>(counts.words),
      static_cast<unsigned long long>(counts.wrong), static_cast<unsigned long long>(counts.published),
      static_cast<unsigned long long>(counts.again), static_cast<unsigned long long>(counts.sessions),
      static_cast<unsigned long long>(stats.reconnects));
  std::fclose(file);
  std::rename(fresh.c_str(), path.c_str());
}

/// Publishes one more page. Its result: KVT_OK, or what stopped it. KVT_E_AGAIN: to be called again.
class Publisher {
 public:
  Publisher(kvt_session* session, uint64_t bytes) : session_(session), bytes_(bytes) {}
  int publish(Page& done) {
    if (page_ == KVT_NO_PAGE) {
      const int got = kvt_allocate(session_, &page_, 1);
      if (got != 1) {
        page_ = KVT_NO_PAGE;
        return got < 0 ? got : KVT_E_FULL;
      }
      key_ = next_key();
      auto* const words = static_cast<uint64_t*>(kvt_page_data(session_, page_));
      if (words == nullptr) return KVT_E_STALE;
      for (uint64_t i = 0; i < bytes_ / 8; ++i) words[i] = word_of(key_, i);
    }
    kvt_publish_entry entry{};
    entry.page = page_;
    entry.key = key_;
    entry.parent = KVT_NO_PAGE;
    const int result = kvt_publish(session_, &entry, 1);
    if (result < 0) return result;
    if (entry.result < 0) return entry.result;
    done = {page_, key_};
    page_ = KVT_NO_PAGE;
    return KVT_OK;
  }

 private:
  kvt_session* session_;
  uint64_t bytes_;
  kvt_page page_ = KVT_NO_PAGE;
  kvt_key key_{};
};

/// Reads all of them in a step. Words that are wrong.
uint64_t read_all(kvt_session* session, uint64_t bytes, const std::deque<Page>& pages, uint64_t& words_read) {
  kvt_step step{};
  if (kvt_step_begin(session, &step) != KVT_OK) return 0;
  uint64_t wrong = 0;
  for (const Page& each : pages) {
    const void* address = nullptr;
    if (kvt_resolve_addresses(session, &step, &each.page, 1, &address) != 1) {
      ++wrong;  // it is held
      continue;
    }
    const auto* const words = static_cast<const volatile uint64_t*>(address);
    for (uint64_t i = 0; i < bytes / 8; ++i) wrong += words[i] != word_of(each.key, i) ? 1 : 0;
    words_read += bytes / 8;
  }
  kvt_step_end(session, &step);
  return wrong;
}

void rest() {
  const timespec time{0, 10'000'000};
  ::nanosleep(&time, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  size_t pages_wanted = 16;
  std::string state;
  const char* arena = nullptr;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--pages") == 0) pages_wanted = std::strtoull(argv[i + 1], nullptr, 10);
    if (std::strcmp(argv[i], "--state") == 0) state = argv[i + 1];
    if (std::strcmp(argv[i], "--arena") == 0) arena = argv[i + 1];
  }
  struct sigaction action {};
  action.sa_handler = [](int) { stopping = 1; };
  sigaction(SIGTERM, &action, nullptr);

  Counts counts;
  while (!stopping) {
    kvt_attach_args args{};
    args.size = sizeof args;
    args.timeout_ms = 2000;
    args.arena = arena;
    kvt_session* session = nullptr;
    const int code = kvt_attach(&args, &session);
    if (code == KVT_E_AGAIN) {
      ++counts.again;
      rest();
      continue;
    }
    if (code != KVT_OK) {
      std::fprintf(stderr, "test_engine: attach: %s\n", kvt_last_error());
      return code == KVT_E_PERMISSION ? 3 : 4;
    }
    ++counts.sessions;
    kvt_geometry geometry{};
    geometry.size = sizeof geometry;
    kvt_get_geometry(session, &geometry);
    std::mutex lock;  // of what follows, but for `pages`, which is the reader's
    std::vector<Page> fresh;
    bool ended = false;
    uint64_t published = 0;
    uint64_t again = 0;
    std::thread publishing([&] {
      Publisher publisher(session, geometry.page_bytes);
      while (!stopping) {
        Page done{};
        const int result = publisher.publish(done);
        {
          const std::lock_guard guard(lock);
          published += result == KVT_OK ? 1 : 0;
          again += result == KVT_E_AGAIN ? 1 : 0;
          if (result == KVT_OK) fresh.push_back(done);
          if (result == KVT_E_ENDED) ended = true;
          if (ended) return;
        }
        rest();
      }
    });
    std::deque<Page> pages;
    for (bool over = false; !over;) {
      {
        const std::lock_guard guard(lock);
        pages.insert(pages.end(), fresh.begin(), fresh.end());
        fresh.clear();
        counts.published += std::exchange(published, 0);
        counts.again += std::exchange(again, 0);
        over = ended || stopping != 0;
      }
      while (pages.size() > pages_wanted) {
        kvt_release(session, &pages.front().page, 1, nullptr);
        pages.pop_front();
      }
      const uint64_t wrong = read_all(session, geometry.page_bytes, pages, counts.words);
      if (wrong != 0)
        std::fprintf(stderr, "test_engine: %llu words are wrong\n", static_cast<unsigned long long>(wrong));
      counts.wrong += wrong;
      ++counts.rounds;
      write_state(state, counts, session);
      rest();
    }
    publishing.join();
    kvt_detach(session);
  }
  return counts.wrong == 0 ? 0 : 1;
}
