// SPDX-License-Identifier: Apache-2.0
//
// What reading from two tiers costs, and what promoting pages costs: by their reader while it reads them, and
// by the daemon out of band. Against a real daemon in another process.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "tools/bench/daemon_fixture.h"
#include "tools/bench/publisher.h"
#include "tools/bench/rows.h"
#include "tools/bench/sequence.h"
#include "tools/bench/stopwatch.h"

namespace kvt::bench {
namespace {

void succeeded(bool good, const char* call) {
  if (!good) [[unlikely]]
    throw RowError(std::string(call) + ": " + kvt_last_error());
}

/// A session of this process that goes with the object.
class Reader {
 public:
  Reader(const std::string& socket_dir, uint32_t flags, uint64_t stage_bytes_max = 0) {
    succeeded(attach_bench_arena(socket_dir, &session_, flags, stage_bytes_max) == KVT_OK, "kvt_attach");
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { kvt_detach(session_); }
  [[nodiscard]] kvt_session* get() const { return session_; }
  [[nodiscard]] kvt_page_info info(kvt_page page) const {
    kvt_page_info info{};
    info.size = sizeof info;
    succeeded(kvt_get_page_info(session_, KVT_PAGE_INDEX(page), &info) == KVT_OK, "kvt_get_page_info");
    return info;
  }
  [[nodiscard]] kvt_geometry geometry() const {
    kvt_geometry geometry{};
    geometry.size = sizeof geometry;
    succeeded(kvt_get_geometry(session_, &geometry) == KVT_OK, "kvt_get_geometry");
    return geometry;
  }
  [[nodiscard]] kvt_stats stats() const {
    kvt_stats stats{};
    stats.size = sizeof stats;
    succeeded(kvt_get_stats(session_, &stats) == KVT_OK, "kvt_get_stats");
    return stats;
  }

 private:
  kvt_session* session_ = nullptr;
};

// ---- reading from two tiers ----

/// Pages that have two places, at most: 512 MiB of frames.
constexpr uint64_t kTwoPlaces = 16384;
/// Moves that are asked for before the bench waits for them: the daemon has 256 copies under way at most.
constexpr size_t kMovesAtOnce = 128;
constexpr auto kMovesTimeout = std::chrono::seconds(60);

/// Asks the daemon to move a page. Whether it has done so is seen in the page's row.
void ask_to_move(const std::string& socket_dir, kvt_page page, const char* tier) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = socket_dir + "/control.sock";
  require(path.size() < sizeof address.sun_path, "the path of control.sock is too long");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const std::string request = "{\"command\":\"move\",\"arena\":\"" + std::string(kArenaName) +
                              "\",\"page\":" + std::to_string(KVT_PAGE_INDEX(page)) + ",\"tier\":\"" + tier +
                              "\"}\n";
  char answer[1024];
  const bool asked =
      ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      ::send(fd, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size()) &&
      ::read(fd, answer, sizeof answer) > 0;
  ::close(fd);
  require(asked, "control.sock does not answer");
}

/// Moves all of `pages` to a tier, as an operator.
void move_all(const std::string& socket_dir, const Reader& reader, const std::vector<kvt_page>& pages,
              const char* tier_name, uint32_t tier) {
  const auto end = std::chrono::steady_clock::now() + kMovesTimeout;
  for (size_t first = 0; first < pages.size(); first += kMovesAtOnce) {
    std::vector<kvt_page> left(
        pages.begin() + static_cast<std::ptrdiff_t>(first),
        pages.begin() + static_cast<std::ptrdiff_t>(std::min(first + kMovesAtOnce, pages.size())));
    while (!left.empty()) {
      for (const kvt_page page : left) ask_to_move(socket_dir, page, tier_name);
      std::erase_if(left, [&](kvt_page page) { return reader.info(page).tier == tier; });
      require(std::chrono::steady_clock::now() < end, "pages do not move");
    }
  }
}

/// Handles of pages that lie in the fast tier and have a second frame in the slow one; spread over the arena,
/// in random order, a multiple of kBatch. Made once for a host.
const std::vector<kvt_page>& pages_in_two_places(Host& host) {
  std::vector<kvt_page>& visited = host.pages_in_two_places();
  if (!visited.empty()) return visited;
  const Reader reader(host.socket_dir(), KVT_ATTACH_NO_OFFERS);
  std::vector<kvt_page> fast;
  for (const kvt_page page : host.handles())
    if (reader.info(page).tier == 0) fast.push_back(page);
  const uint64_t wanted = std::min<uint64_t>(kTwoPlaces, fast.size() / 2);
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < wanted; ++i) pages.push_back(fast[i * fast.size() / wanted]);
  move_all(host.socket_dir(), reader, pages, "dram", 1);
  move_all(host.socket_dir(), reader, pages, "hbm", 0);
  for (const kvt_page page : pages)
    require(reader.info(page).shadow_frame != KVT_NO_FRAME, "a promoted page has no second frame");
  for (const uint32_t number : visits(wanted)) visited.push_back(pages[number]);
  return visited;
}

/// Resolves batches of `pages`, a step each. Each frame must be one of its page's.
void resolve_batches(benchmark::State& state, const Reader& reader, const std::vector<kvt_page>& pages) {
  BatchCursor cursor(pages.size());
  std::vector<kvt_frame> frames(kBatch);
  uint64_t bad = 0;
  uint64_t sum = 0;
  const auto batch = [&](const kvt_page* first) {
    kvt_step step;
    bad |= kvt_step_begin(reader.get(), &step) != KVT_OK;
    bad |= kvt_resolve(reader.get(), &step, first, kBatch, frames.data()) != int{kBatch};
    for (const kvt_frame frame : frames) sum += frame;
    bad |= kvt_step_end(reader.get(), &step) != KVT_OK;
  };
  while (state.KeepRunningBatch(kBatch)) batch(&pages[cursor.next()]);
  benchmark::DoNotOptimize(sum);
  require(bad == 0, "a call failed or a published page was not readable");
  const uint32_t slow_first = reader.geometry().windows[1].first_frame;
  const kvt_page* const checked = &pages[cursor.next()];
  batch(checked);
  uint64_t slow = 0;
  for (size_t i = 0; i < kBatch; ++i) {
    const kvt_page_info info = reader.info(checked[i]);
    require(frames[i] == info.frame || frames[i] == info.shadow_frame, "a frame is none of its page's");
    slow += frames[i] >= slow_first ? 1 : 0;
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
  state.SetLabel(std::to_string(slow) + " of " + std::to_string(kBatch) + " from the slow tier");
}

void resolve_two_places(benchmark::State& state, Host& host) {
  const std::vector<kvt_page>& pages = pages_in_two_places(host);
  resolve_batches(state, Reader(host.socket_dir(), 0), pages);
}
void resolve_first_place(benchmark::State& state, Host& host) {
  const std::vector<kvt_page>& pages = pages_in_two_places(host);
  resolve_batches(state, Reader(host.socket_dir(), KVT_ATTACH_NO_BALANCE), pages);
}
void resolve_unbalanced(benchmark::State& state, Host& host) {
  resolve_batches(state, Reader(host.socket_dir(), KVT_ATTACH_NO_BALANCE | KVT_ATTACH_NO_OFFERS),
                  host.visited_handles());
}

// ---- promoting ----

constexpr uint64_t kPromotePageBytes = 65536;
/// Until so much of what a step reads comes from the fast tier, or was promoted for it: the policy stops at
/// the share of the bandwidths, 92 %, and its dead band.
constexpr double kPromotedShare = 0.85;
constexpr auto kPromoteTimeout = std::chrono::seconds(30);

/// A daemon whose fast tier is empty and has room for all of `hot` pages, which lie in the slow one and are
/// read by nobody yet.
class ColdStart {
 public:
  ColdStart(const std::string& kvtierd, const char* promote, uint64_t hot) : hot_count_(hot) {
    const std::string config = folder_.path() + "/kvtierd.toml";
    const std::string log = folder_.path() + "/kvtierd.log";
    std::ofstream(config)
        << "[daemon]\nperiod_ms = 10\n[policy]\nname = \"balance\"\nprofile = \"gh200\"\npromote = \""
        << promote << "\"\n[[tier]]\nname = \"hbm\"\nkind = \"emulated-hbm\"\nbytes = "
        << fast_frames() * kPromotePageBytes
        << "\ncolumn = 0\n[[tier]]\nname = \"dram\"\nkind = \"numa\"\nbytes = " << 3 * hot * kPromotePageBytes
        << "\n[[arena]]\nname = \"" << kArenaName << "\"\npage_bytes = " << kPromotePageBytes
        << "\nblock_tokens = 16\n";
    daemon_ = Child({kvtierd, "--config", config, "--socket-dir", folder_.path()}, log);
    wait_for_socket(folder_.path() + "/attach.sock", SOCK_SEQPACKET, daemon_, log, 60'000);
    reader_ = std::make_unique<Reader>(folder_.path(), KVT_ATTACH_NO_BALANCE, hot * kPromotePageBytes);
    publish();
  }
  ColdStart(const ColdStart&) = delete;
  ColdStart& operator=(const ColdStart&) = delete;
  ~ColdStart() {
    reader_.reset();
    daemon_.stop();
  }

  [[nodiscard]] const Reader& reader() const { return *reader_; }
  [[nodiscard]] const std::vector<kvt_page>& hot() const { return hot_; }

 private:
  [[nodiscard]] uint64_t fast_frames() const { return hot_count_ + hot_count_ / 2; }
  void publish() {
    kvt_session* const session = reader_->get();
    // What fills the fast tier is given back when the hot pages lie behind it.
    std::vector<kvt_page> fill;
    uint64_t number = 0;
    while (hot_.size() < hot_count_) {
      kvt_page page = KVT_NO_PAGE;
      succeeded(kvt_allocate(session, &page, 1) == 1, "kvt_allocate");
      if (reader_->info(page).tier == 0) {
        fill.push_back(page);
        continue;
      }
      auto* const words = static_cast<uint64_t*>(kvt_page_data(session, page));
      succeeded(words != nullptr, "kvt_page_data");
      for (uint64_t i = 0; i < kPromotePageBytes / 8; ++i) words[i] = mix(number * kPromotePageBytes + i);
      kvt_publish_entry entry{};
      entry.page = page;
      entry.key = key_of(number++);
      entry.parent = KVT_NO_PAGE;
      succeeded(kvt_publish(session, &entry, 1) == 1 && entry.result == KVT_PUBLISHED, "kvt_publish");
      hot_.push_back(page);
    }
    succeeded(kvt_seal(session, fill.data(), fill.size(), nullptr) == KVT_OK, "kvt_seal");
    succeeded(kvt_release(session, fill.data(), fill.size(), nullptr) == KVT_OK, "kvt_release");
    succeeded(kvt_flush(session) == KVT_OK, "kvt_flush");
  }

  uint64_t hot_count_;
  TemporaryFolder folder_;
  Child daemon_;
  std::unique_ptr<Reader> reader_;
  std::vector<kvt_page> hot_;
};

/// Steps that read all hot pages, every word, until they lie in the fast tier. The time is that of these
/// steps, from the first one after which a page has been promoted: what the policy needs before to know that
/// they are hot is not in it.
void promote(benchmark::State& state, const std::string& kvtierd, const char* how, uint64_t hot) {
  double promoted_bytes = 0;
  double only_to_promote = 0;
  double steps = 0;
  double by_reader = 0;
  std::vector<double> step_ms;
  for (auto _ : state) {
    const ColdStart world(kvtierd, how, hot);
    const Reader& reader = world.reader();
    const kvt_geometry geometry = reader.geometry();
    std::vector<kvt_frame> frames(hot);
    uint64_t expected = 0;
    double seconds = 0;
    bool began = false;
    const auto end = std::chrono::steady_clock::now() + kPromoteTimeout;
    for (uint64_t fast = 0; static_cast<double>(fast) < kPromotedShare * static_cast<double>(hot);) {
      const Stopwatch watch;
      kvt_step step{};
      succeeded(kvt_step_begin(reader.get(), &step) == KVT_OK, "kvt_step_begin");
      succeeded(
          kvt_resolve(reader.get(), &step, world.hot().data(), hot, frames.data()) == static_cast<int>(hot),
          "kvt_resolve");
      uint64_t sum = 0;
      fast = 0;
      for (const kvt_frame frame : frames) {
        const auto* const words = reinterpret_cast<const uint64_t*>(static_cast<const char*>(geometry.base) +
                                                                    uint64_t{frame} * geometry.stride);
        for (uint64_t i = 0; i < kPromotePageBytes / 8; ++i) sum += words[i];
        if (frame < geometry.windows[1].first_frame) ++fast;
      }
      succeeded(kvt_touch(reader.get(), world.hot().data(), hot) == KVT_OK, "kvt_touch");
      succeeded(kvt_step_end(reader.get(), &step) == KVT_OK, "kvt_step_end");
      if (expected == 0) expected = sum;
      require(sum == expected, "a step read other words than the first");
      require(std::chrono::steady_clock::now() < end, "the pages do not get into the fast tier");
      began = began || fast != 0;
      if (!began) continue;
      seconds += watch.seconds();
      step_ms.push_back(watch.seconds() * 1e3);
      ++steps;
    }
    state.SetIterationTime(seconds);
    const kvt_stats stats = reader.stats();
    // A worker's copy reads the slow tier besides; the reader's is what it would have read anyway.
    const uint64_t by_workers = stats.moves_promoted - std::min(stats.moves_promoted, stats.offers_taken);
    promoted_bytes += static_cast<double>(stats.moves_promoted * kPromotePageBytes);
    only_to_promote += static_cast<double>(by_workers * kPromotePageBytes);
    by_reader += static_cast<double>(stats.offers_taken);
  }
  const auto runs = static_cast<double>(state.iterations());
  std::nth_element(step_ms.begin(), step_ms.begin() + static_cast<std::ptrdiff_t>(step_ms.size() / 2),
                   step_ms.end());
  state.counters["slow_reads_a_promotion"] = only_to_promote / promoted_bytes;
  state.counters["steps"] = steps / runs;
  state.counters["step_ms"] = step_ms[step_ms.size() / 2];
  state.counters["by_reader"] = by_reader / runs;
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * static_cast<int64_t>(hot)));
}

}  // namespace

void add_place_rows(RowList& rows, const Sizes& sizes, DaemonFixture& fixture) {
  using RowFunction = void (*)(benchmark::State&, Host&);
  const uint64_t pages = sizes.pages.front();
  for (const uint64_t count : sizes.pages)
    rows.add({"resolve_unbalanced", count, still_group(count), Timing::kThreadCpu, 0,
              [&fixture, count](benchmark::State& state) {
                resolve_unbalanced(state, fixture.host(Traffic::kStill, count));
              }});
  for (const auto& [name, function] :
       {std::pair<const char*, RowFunction>{"resolve_two_places", resolve_two_places},
        {"resolve_first_place", resolve_first_place}})
    rows.add({name, pages, "two places", Timing::kThreadCpu, 0,
              [&fixture, pages, function = function](benchmark::State& state) {
                function(state, fixture.host(Traffic::kTwoPlaces, pages));
              }});
  for (const auto& [name, how] : {std::pair{"promote_offers", "offers"}, {"promote_copies", "copies"}})
    rows.add({name, sizes.promoted_pages, "promote", Timing::kManual, 1,
              [&fixture, how = how, hot = sizes.promoted_pages](benchmark::State& state) {
                promote(state, fixture.kvtierd(), how, hot);
              }});
}

}  // namespace kvt::bench
