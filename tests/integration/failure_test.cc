// SPDX-License-Identifier: Apache-2.0
//
// Things that die, stop and fork: the daemon, clients, and threads that share a session.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <deque>
#include <memory>
#include <random>
#include <thread>

#include "shm/base/socket.h"
#include "tests/support/child.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

constexpr uint64_t kPageBytes = 16384;

class Failure : public ::testing::TestWithParam<uint32_t> {
 protected:
  static World world(const char* policy = "off") {
    World world;
    world.columns = GetParam();
    world.policy = policy;
    return world;
  }
};
INSTANTIATE_TEST_SUITE_P(Columns, Failure, ::testing::Values(1u, 2u),
                         [](const auto& parameter) { return std::to_string(parameter.param); });

struct Published {
  std::vector<kvt_key> keys;
  std::vector<kvt_page> pages;
};
Published publish_some(kvt_session* session, uint64_t count) {
  Published some;
  for (uint64_t i = 0; i < count; ++i) {
    some.keys.push_back(key_of(i));
    some.pages.push_back(publish_page(session, some.keys.back(), kPageBytes));
    EXPECT_NE(some.pages.back(), KVT_NO_PAGE) << kvt_last_error();
  }
  return some;
}

/// Everything that needs no daemon goes on.
void reads_go_on(kvt_session* session, const Published& some) {
  std::vector<kvt_page> found(some.keys.size());
  EXPECT_EQ(kvt_lookup(session, some.keys.data(), some.keys.size(), KVT_LOOKUP_HOLD, found.data()),
            static_cast<int>(some.keys.size()));
  EXPECT_EQ(found, some.pages);
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_EQ(verify_page(session, found[i], some.keys[i], kPageBytes), 0u);
  EXPECT_EQ(kvt_touch(session, found.data(), found.size()), KVT_OK);
  EXPECT_EQ(kvt_release(session, found.data(), found.size(), nullptr), KVT_OK);
}

/// The stock lasts for a while; then the answer is `code`.
int allocate_until_refused(kvt_session* session) {
  for (;;) {
    kvt_page page = KVT_NO_PAGE;
    const int got = kvt_allocate(session, &page, 1);
    if (got < 0) return got;
  }
}

TEST_P(Failure, TheDaemonIsKilled) {
  Daemon daemon(world());
  kvt_attach_args args = attach_args(daemon.folder());
  args.timeout_ms = 300;
  Client client(args);
  ASSERT_EQ(client.code(), KVT_OK);
  const Published some = publish_some(client, 6);
  const kvt_page unkeyed = allocate(client, 1).at(0);
  uint32_t sequence = 0;
  ASSERT_EQ(kvt_sequence_create(client, 4, &sequence), KVT_OK);
  daemon.kill();

  reads_go_on(client, some);
  EXPECT_EQ(kvt_sequence_touch(client, sequence), KVT_OK);
  const auto begin = Clock::now();
  EXPECT_EQ(kvt_flush(client), KVT_E_AGAIN);
  EXPECT_TRUE(mentions(kvt_last_error(), {"away"})) << kvt_last_error();
  EXPECT_EQ(publish_result(client, unkeyed, key_of(100)), KVT_E_AGAIN);
  EXPECT_EQ(allocate_until_refused(client), KVT_E_AGAIN);
  EXPECT_LT(Clock::now() - begin, 3 * std::chrono::milliseconds(args.timeout_ms) + std::chrono::seconds(10));
  EXPECT_EQ(client.stats().connected, 0u);
  kvt_session* second = nullptr;
  EXPECT_EQ(kvt_attach(&args, &second), KVT_E_AGAIN) << "the socket file is there, nobody listens";
  reads_go_on(client, some);

  daemon.start();
  ASSERT_TRUE(daemon.ok());
  EXPECT_TRUE(eventually([&] { return kvt_flush(client) == KVT_E_ENDED; })) << kvt_last_error();
  EXPECT_EQ(publish_result(client, unkeyed, key_of(100)), KVT_E_ENDED);
  EXPECT_EQ(allocate_until_refused(client), KVT_E_ENDED);
  reads_go_on(client, some);
  Client again(args);
  ASSERT_EQ(again.code(), KVT_OK) << kvt_last_error();
  EXPECT_NE(publish_page(again, key_of(0), kPageBytes), KVT_NO_PAGE) << kvt_last_error();
  client.detach();
  EXPECT_EQ(daemon.number("status", "/sessions"), 1);
}

TEST_P(Failure, TheDaemonEndsInOrder) {
  Daemon daemon(world());
  kvt_attach_args args = attach_args(daemon.folder());
  args.timeout_ms = 300;
  Client client(args);
  const Published some = publish_some(client, 3);
  EXPECT_EQ(daemon.stop(), 0);
  reads_go_on(client, some);
  EXPECT_EQ(kvt_flush(client), KVT_E_AGAIN);
}

TEST_P(Failure, TheDaemonIsStoppedForAWhile) {
  Daemon daemon(world());
  kvt_attach_args args = attach_args(daemon.folder());
  args.timeout_ms = 200;
  Client client(args);
  ASSERT_EQ(client.code(), KVT_OK);
  const Published some = publish_some(client, 6);
  const std::vector<kvt_page> pages = allocate(client, 3);
  ASSERT_EQ(pages.size(), 3u);
  for (const kvt_page page : pages) fill(kvt_page_data(client, page), kPageBytes, key_of(50));
  daemon.signal(SIGSTOP);
  reads_go_on(client, some);
  EXPECT_EQ(publish_result(client, pages[0], key_of(50)), KVT_E_AGAIN);
  EXPECT_TRUE(mentions(kvt_last_error(), {"200 ms"})) << kvt_last_error();
  EXPECT_EQ(kvt_flush(client), KVT_E_AGAIN);
  EXPECT_EQ(kvt_seal(client, &pages[1], 1, nullptr), KVT_OK) << "does not wait";
  EXPECT_EQ(kvt_release(client, &pages[1], 1, nullptr), KVT_OK);
  EXPECT_EQ(kvt_release(client, &pages[2], 1, nullptr), KVT_OK);
  EXPECT_EQ(allocate_until_refused(client), KVT_E_AGAIN);
  daemon.signal(SIGCONT);
  EXPECT_TRUE(eventually([&] { return kvt_flush(client) == KVT_OK; }));
  EXPECT_EQ(publish_result(client, pages[0], key_of(50)), KVT_PUBLISHED)
      << "again, under the key that it has by now";
  EXPECT_EQ(verify_page(client, pages[0], key_of(50), kPageBytes), 0u);
  EXPECT_EQ(kvt_release(client, &pages[1], 1, nullptr), KVT_E_STALE) << "sealed and let go meanwhile";
  EXPECT_EQ(client.stats().reconnects, 0u);
  EXPECT_EQ(client.stats().connected, 1u);
}

/// Commands that nobody takes: the ring fills, calls say so, nothing is lost or done twice afterwards.
TEST_P(Failure, TheRingFills) {
  Daemon daemon(world());
  kvt_attach_args args = attach_args(daemon.folder());
  args.timeout_ms = 100;
  Client client(args);
  const kvt_page page = publish_page(client, key_of(1), kPageBytes);
  ASSERT_NE(page, KVT_NO_PAGE);
  daemon.signal(SIGSTOP);
  std::vector<kvt_page> many(5000, page);
  const int passed_on = kvt_advise(client, many.data(), many.size(), KVT_ADVISE_DEMOTE);
  EXPECT_EQ(passed_on, 1024) << "one ring";
  EXPECT_EQ(kvt_set_group(client, &page, 1, 5), KVT_E_AGAIN);
  EXPECT_EQ(kvt_flush(client), KVT_E_AGAIN);
  // A call that was not taken has done nothing, and can be made again.
  kvt_page fresh = KVT_NO_PAGE;
  ASSERT_EQ(kvt_allocate(client, &fresh, 1), 1) << kvt_last_error();
  EXPECT_EQ(kvt_seal(client, &fresh, 1, nullptr), KVT_E_AGAIN);
  const kvt_key keys[] = {key_of(1), key_of(77)};
  kvt_page reserved[2] = {};
  uint8_t results[2] = {};
  const uint32_t holds = client.info(page).own_holds;
  EXPECT_EQ(kvt_reserve(client, keys, 2, reserved, results), KVT_E_AGAIN);
  EXPECT_EQ(reserved[0], KVT_NO_PAGE);
  EXPECT_EQ(client.info(page).own_holds, holds);
  daemon.signal(SIGCONT);
  EXPECT_TRUE(eventually([&] { return kvt_flush(client) == KVT_OK; }));
  EXPECT_EQ(kvt_seal(client, &fresh, 1, nullptr), KVT_OK) << kvt_last_error();
  EXPECT_EQ(kvt_set_group(client, &page, 1, 6), KVT_OK);
  EXPECT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(client.info(page).group, 6u);
}

/// What a client does all day, until it is killed.
std::string live_until_killed(const Daemon& daemon, uint32_t column, uint64_t seed) {
  Client client(daemon, column);
  KVT_CHILD_CHECK(client.code() == KVT_OK);
  std::mt19937_64 random(seed);
  std::deque<kvt_page> mine;
  for (;;) {
    const kvt_key key = key_of(random() % 400);
    switch (random() % 6) {
      case 0: {
        const kvt_page page = publish_page(client, key, kPageBytes);
        if (page != KVT_NO_PAGE) mine.push_back(page);
        break;
      }
      case 1: {
        kvt_page pages[16];
        const int got = kvt_allocate(client, pages, 16);
        if (got <= 0) break;
        kvt_seal(client, pages, static_cast<size_t>(got) / 2, nullptr);
        for (int i = 0; i < got; ++i) mine.push_back(pages[i]);
        break;
      }
      case 2: {
        kvt_page page = KVT_NO_PAGE;
        if (kvt_lookup(client, &key, 1, KVT_LOOKUP_HOLD, &page) != 1) break;
        KVT_CHILD_CHECK(verify_page(client, page, key, kPageBytes) == 0);
        mine.push_back(page);
        break;
      }
      case 3: {
        kvt_step step{};
        kvt_step_begin(client, &step);
        for (const kvt_page page : mine) kvt_touch(client, &page, 1);
        if (!mine.empty()) kvt_release(client, &mine.front(), 1, &step);
        if (!mine.empty()) mine.pop_front();
        if (random() % 8 != 0) kvt_step_end(client, &step);  // some stay open
        break;
      }
      case 4: {
        kvt_page page = KVT_NO_PAGE;
        uint8_t result = 0;
        if (kvt_reserve(client, &key, 1, &page, &result) == 1 && page != KVT_NO_PAGE) mine.push_back(page);
        break;
      }
      default:
        while (mine.size() > 100) {
          kvt_release(client, &mine.front(), 1, nullptr);
          mine.pop_front();
        }
    }
  }
}

/// Operators' tools that hang: neither half a request nor an answer that nobody takes stays for ever.
TEST(FailureOfTools, AConnectionEndsAfterAWhile) {
  Daemon daemon;
  ASSERT_TRUE(daemon.ok());
  const auto connect = [&] {
    Result<Fd> socket = connect_unix(daemon.folder() + "/control.sock", SOCK_STREAM);
    EXPECT_TRUE(socket.has_value());
    return socket.has_value() ? std::move(*socket) : Fd();
  };
  const Fd silent = connect();
  const Fd half = connect();
  ASSERT_EQ(::send(half.get(), "{\"comm", 7, MSG_NOSIGNAL), 7);
  for (const Fd* const socket : {&silent, &half}) {
    pollfd waiting{socket->get(), POLLIN, 0};
    ASSERT_EQ(::poll(&waiting, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())), 1)
        << "it is still open";
    char byte = 0;
    EXPECT_EQ(::recv(socket->get(), &byte, 1, 0), 0);
  }
  EXPECT_EQ(daemon.text("status", "/ok"), "true");
}

TEST_P(Failure, ClientsKilledAtAnyMomentLeakNothing) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  Daemon daemon(world("churn"));
  ASSERT_TRUE(daemon.ok());
  std::deque<std::unique_ptr<Child>> children;
  for (int i = 0; i < 30; ++i) {
    const uint64_t child_seed = random();
    const auto column = static_cast<uint32_t>(random() % GetParam());
    children.push_back(std::make_unique<Child>(
        [&, child_seed, column](Lines&) { return live_until_killed(daemon, column, child_seed); }));
    // The moment is what is random here: nothing to wait for.
    pollfd nothing{-1, 0, 0};
    ::poll(&nothing, 0, static_cast<int>(random() % 40));
    if (children.size() < 3) continue;
    pollfd done{-1, 0, 0};
    ::poll(&done, 0, static_cast<int>(random() % 3));
    children.front()->kill();
    children.pop_front();
  }
  for (auto& child : children) {
    EXPECT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/published") > 0; }))
        << "the last ones have done something";
    child->kill();
  }
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/sessions") == 0; }));
  const auto settled = [&](const char* pointer, double value) {
    return daemon.number("quiesce", pointer) == value;
  };
  EXPECT_TRUE(eventually([&] { return settled("/arenas/0/pages_by_state/filling", 0); }));
  EXPECT_TRUE(eventually(
      [&] {
        return daemon.number("quiesce", "/arenas/0/pages_by_state/sealed") ==
               daemon.number("status", "/arenas/0/keyed");
      },
      std::chrono::seconds(20)))
      << daemon.control("{\"command\":\"quiesce\"}");
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/pages_by_state/evicting"), 0);
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);
  // All of it can be had again, by somebody whom the others' ends have not hurt.
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  const uint64_t count = client.geometry().pages;
  size_t have = 0;
  EXPECT_TRUE(eventually([&] { return (have += allocate(client, count - have).size()) == count; }))
      << have << " of " << count << ": " << kvt_last_error();
}

TEST_P(Failure, AForkedChildHasNoSession) {
  Daemon daemon(world());
  kvt_attach_args args = attach_args(daemon.folder());
  args.members_max = 2;
  Client client(args);
  const Published some = publish_some(client, 1);
  const kvt_page filling = allocate(client, 1).at(0);
  kvt_step open{};
  ASSERT_EQ(kvt_step_begin(client, &open), KVT_OK);
  Child child([&](Lines&) -> std::string {
    kvt_page page = filling;
    kvt_frame frame = 0;
    kvt_step step{};
    uint8_t result = 0;
    uint8_t token[KVT_TOKEN_BYTES];
    uint64_t number = 0;
    uint32_t sequence = 0;
    kvt_copy copy{};
    kvt_change change{};
    kvt_publish_entry entry{filling, key_of(9), KVT_NO_PAGE, 0, 0, 0};
    kvt_geometry geometry{};
    geometry.size = sizeof geometry;
    kvt_stats stats{};
    stats.size = sizeof stats;
    kvt_page_info info{};
    info.size = sizeof info;
    KVT_CHILD_CHECK(kvt_step_begin(client, &step) == KVT_E_FORKED);
    KVT_CHILD_CHECK(mentions(kvt_last_error(), {"parent"}));
    KVT_CHILD_CHECK(kvt_step_end(client, &open) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_resolve(client, &open, &page, 1, &frame) == KVT_E_FORKED);
    const void* address = nullptr;
    KVT_CHILD_CHECK(kvt_resolve_addresses(client, &open, &page, 1, &address) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_lookup(client, some.keys.data(), 1, 0, &page) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_allocate(client, &page, 1) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_free_count(client) == 0);
    KVT_CHILD_CHECK(kvt_page_data(client, filling) == nullptr);
    KVT_CHILD_CHECK(kvt_seal(client, &filling, 1, nullptr) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_publish(client, &entry, 1) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_unpublish(client, filling) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_hold(client, &filling, 1, nullptr) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_release(client, &filling, 1, nullptr) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_reserve(client, some.keys.data(), 1, &page, &result) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_touch(client, &filling, 1) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_touch_range(client, 0, 1) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_sequence_create(client, 1, &sequence) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_sequence_append(client, 0, &filling, 1) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_sequence_touch(client, 0) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_sequence_destroy(client, 0) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_advise(client, &filling, 1, KVT_ADVISE_PREFETCH) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_set_group(client, &filling, 1, 1) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_flush(client) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_changes_begin(client, &open, &number) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_changes(client, &open, &number, &change, 1) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_copy_submit(client, KVT_COPY_LOAD, &copy, 1, &number) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_copy_poll(client, 1) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_copy_wait(client, 1) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_token(client, token) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_get_geometry(client, &geometry) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_get_stats(client, &stats) == KVT_E_FORKED);
    KVT_CHILD_CHECK(kvt_get_page_info(client, 0, &info) == KVT_E_FORKED);
    kvt_detach(client);  // does nothing here
    // A session of its own is another matter.
    Client own(daemon);
    KVT_CHILD_CHECK(own.code() == KVT_OK);
    KVT_CHILD_CHECK(kvt_lookup(own, some.keys.data(), 1, 0, &page) == 1);
    KVT_CHILD_CHECK(verify_page(own, page, some.keys[0], kPageBytes) == 0);
    return {};
  });
  EXPECT_EQ(child.finish(), "");
  // The parent's goes on.
  EXPECT_EQ(daemon.number("sessions", "/sessions/0/open_steps"), 1);
  EXPECT_EQ(kvt_step_end(client, &open), KVT_OK);
  EXPECT_EQ(publish_result(client, filling, key_of(9)), KVT_PUBLISHED) << kvt_last_error();
  EXPECT_TRUE(eventually([&] { return daemon.number("sessions", "/sessions") == 1; }));
}

TEST_P(Failure, ThreadsShareASession) {
  Daemon daemon(world("churn"));
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  constexpr int kThreads = 4;
  constexpr int kRounds = 400;
  std::atomic<uint64_t> corrupt{0};
  std::atomic<uint64_t> verified{0};
  std::atomic<uint64_t> unexpected{0};
  const auto work = [&](uint64_t seed) {
    std::mt19937_64 random(seed);
    const auto need = [&](bool good) {
      if (!good) ++unexpected;
    };
    for (int round = 0; round < kRounds; ++round) {
      kvt_key keys[8];
      for (kvt_key& key : keys) key = key_of(random() % 300);
      kvt_page found[8];
      need(kvt_lookup(client, keys, 8, KVT_LOOKUP_HOLD, found) >= 0);
      kvt_step step{};
      need(kvt_step_begin(client, &step) == KVT_OK);
      for (size_t i = 0; i < 8; ++i) {
        if (found[i] == KVT_NO_PAGE) continue;
        const void* address = nullptr;
        need(kvt_resolve_addresses(client, &step, &found[i], 1, &address) == 1);
        corrupt += wrong_words(address, kPageBytes, keys[i]);
        ++verified;
        need(kvt_touch(client, &found[i], 1) == KVT_OK);
        need(kvt_release(client, &found[i], 1, i % 2 == 0 ? &step : nullptr) == KVT_OK);
      }
      need(kvt_step_end(client, &step) == KVT_OK);
      for (const kvt_key key : keys) {
        kvt_page page = KVT_NO_PAGE;
        if (kvt_allocate(client, &page, 1) != 1) {
          ++unexpected;
          continue;
        }
        void* const data = kvt_page_data(client, page);
        need(data != nullptr);
        if (data == nullptr) continue;
        if (random() % 4 == 0) {  // changed its mind
          need(kvt_release(client, &page, 1, nullptr) == KVT_OK);
          continue;
        }
        fill(data, kPageBytes, key);
        const int result = publish_result(client, page, key);
        need(result == KVT_PUBLISHED || result == KVT_PRESENT);
        need(kvt_release(client, &page, 1, nullptr) == KVT_OK);
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(work, 77 + i);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(corrupt, 0u);
  EXPECT_EQ(unexpected, 0u);
  EXPECT_GT(verified, 1000u);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(daemon.number("sessions", "/sessions/0/held_pages"), 0);
  EXPECT_EQ(daemon.number("sessions", "/sessions/0/open_steps"), 0);
  EXPECT_TRUE(eventually([&] {
    return daemon.number("quiesce", "/arenas/0/pages_by_state/sealed") ==
           daemon.number("status", "/arenas/0/keyed");
  }));
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);
}

}  // namespace
}  // namespace kvt::test
