// SPDX-License-Identifier: Apache-2.0
//
// Connector mode: who stores a key, and strided copies between pages and memory of the engine's own.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/child.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

constexpr uint64_t kPageBytes = 16384;

class Connector : public ::testing::TestWithParam<uint32_t> {
 protected:
  static World world() {
    World world;
    world.columns = GetParam();
    return world;
  }
};
INSTANTIATE_TEST_SUITE_P(Columns, Connector, ::testing::Values(1u, 2u),
                         [](const auto& parameter) { return std::to_string(parameter.param); });

/// The kvt_reserve result of one key; below 0: the call's.
int reserve(kvt_session* session, kvt_key key, kvt_page& page) {
  uint8_t result = 0;
  page = KVT_NO_PAGE;
  const int done = kvt_reserve(session, &key, 1, &page, &result);
  return done == 1 ? result : done;
}

TEST_P(Connector, ReserveAcrossProcesses) {
  Daemon daemon(world());
  const kvt_key key = key_of(1);
  Child other([&](Lines& lines) -> std::string {
    if (lines.hear() != "reserved") return "the first has gone";
    Client client(daemon);
    kvt_page page = KVT_NO_PAGE;
    KVT_CHILD_CHECK(reserve(client, key, page) == KVT_RESERVE_PENDING);
    KVT_CHILD_CHECK(client.stats().allocated == 1);
    lines.say("pending");
    if (lines.hear() != "published") return "the first has gone";
    KVT_CHILD_CHECK(reserve(client, key, page) == KVT_RESERVE_PRESENT);
    KVT_CHILD_CHECK(client.info(page).own_holds == 1);
    KVT_CHILD_CHECK(verify_page(client, page, key, kPageBytes) == 0);
    KVT_CHILD_CHECK(kvt_release(client, &page, 1, nullptr) == KVT_OK);
    return {};
  });
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  kvt_page page = KVT_NO_PAGE;
  ASSERT_EQ(reserve(client, key, page), KVT_RESERVE_NEW) << kvt_last_error();
  ASSERT_NE(page, KVT_NO_PAGE);
  kvt_page second = KVT_NO_PAGE;
  EXPECT_EQ(reserve(client, key, second), KVT_RESERVE_PENDING) << "for the own session too";
  other.say("reserved");
  ASSERT_EQ(other.hear(), "pending");
  fill(kvt_page_data(client, page), kPageBytes, key);
  ASSERT_EQ(publish_result(client, page, key), KVT_PUBLISHED);
  other.say("published");
  EXPECT_EQ(other.finish(), "");
  EXPECT_TRUE(eventually([&] { return kvt_free_count(client) == client.geometry().pages - 1; }))
      << "nothing but the page is in use";
}

TEST_P(Connector, ReserveManyAtOnce) {
  Daemon daemon(world());
  Client client(daemon);
  const kvt_page present = publish_page(client, key_of(0), kPageBytes);
  ASSERT_NE(present, KVT_NO_PAGE);
  // Present, new, twice the same, none.
  const kvt_key keys[] = {key_of(0), key_of(1), key_of(2), key_of(2)};
  kvt_page pages[4] = {};
  uint8_t results[4] = {};
  ASSERT_EQ(kvt_reserve(client, keys, 4, pages, results), 4) << kvt_last_error();
  EXPECT_EQ(results[0], KVT_RESERVE_PRESENT);
  EXPECT_EQ(pages[0], present);
  EXPECT_EQ(results[1], KVT_RESERVE_NEW);
  EXPECT_EQ(results[2], KVT_RESERVE_NEW);
  EXPECT_EQ(results[3], KVT_RESERVE_PENDING);
  // Given up: the next one stores it.
  ASSERT_EQ(kvt_release(client, &pages[1], 1, nullptr), KVT_OK);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  Client other(daemon);
  kvt_page page = KVT_NO_PAGE;
  EXPECT_EQ(reserve(other, key_of(1), page), KVT_RESERVE_NEW);
  EXPECT_EQ(reserve(other, key_of(2), page), KVT_RESERVE_PENDING);
  // Stored under another key after all: the reservation is over.
  ASSERT_EQ(publish_result(client, pages[2], key_of(7)), KVT_PUBLISHED);
  EXPECT_EQ(reserve(other, key_of(2), page), KVT_RESERVE_NEW);
  // A full arena.
  const std::vector<kvt_page> all = allocate(client, client.geometry().pages);
  std::ignore = allocate(other, client.geometry().pages);
  EXPECT_EQ(reserve(client, key_of(100), page), KVT_RESERVE_FULL);
  EXPECT_EQ(reserve(client, key_of(0), page), KVT_RESERVE_PRESENT)
      << "what is there is found in a full arena too";
}

TEST_P(Connector, AReserverThatIsKilledMakesRoomForTheNext) {
  Daemon daemon(world());
  const kvt_key key = key_of(1);
  Child first([&](Lines& lines) -> std::string {
    Client client(daemon);
    kvt_page page = KVT_NO_PAGE;
    KVT_CHILD_CHECK(reserve(client, key, page) == KVT_RESERVE_NEW);
    lines.say("reserved");
    std::ignore = lines.hear();
    return "not killed";
  });
  ASSERT_EQ(first.hear(), "reserved");
  Client client(daemon);
  kvt_page page = KVT_NO_PAGE;
  EXPECT_EQ(reserve(client, key, page), KVT_RESERVE_PENDING);
  first.kill();
  EXPECT_TRUE(eventually([&] { return reserve(client, key, page) == KVT_RESERVE_NEW; }));
  EXPECT_NE(page, KVT_NO_PAGE);
}

/// The daemon did not answer in time, so nobody has been told NEW: the key must not stay PENDING.
TEST_P(Connector, AReservationThatTimedOutIsNobodys) {
  Daemon daemon(world());
  kvt_attach_args args = attach_args(daemon.folder());
  args.timeout_ms = 100;
  Client hasty(args);
  Client other(daemon);
  ASSERT_EQ(other.code(), KVT_OK);
  const kvt_key key = key_of(1);
  const std::vector<kvt_page> warm = allocate(hasty, 4);
  ASSERT_EQ(warm.size(), 4u);
  daemon.signal(SIGSTOP);
  kvt_page page = KVT_NO_PAGE;
  EXPECT_EQ(reserve(hasty, key, page), KVT_E_AGAIN);
  daemon.signal(SIGCONT);
  EXPECT_TRUE(
      eventually([&] { return reserve(other, key, page) == KVT_RESERVE_NEW; }, std::chrono::seconds(5)))
      << "result " << reserve(other, key, page);
}

class Copies : public ::testing::TestWithParam<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(CopyThreads, Copies, ::testing::Values(0u, 2u),
                         [](const auto& parameter) { return std::to_string(parameter.param); });

TEST_P(Copies, StridedStoresAndLoads) {
  constexpr uint64_t kPlanes = 4;
  constexpr size_t kPages = 6;
  World world;
  world.planes = kPlanes;
  Daemon daemon(world);
  kvt_attach_args args = attach_args(daemon.folder());
  args.planes = kPlanes;
  args.copy_threads = GetParam();
  Client client(args);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  // The engine keeps layer after layer, each with all its blocks; a page has all layers of one block.
  constexpr uint64_t kPlaneBytes = kPageBytes / kPlanes;
  std::vector<uint64_t> engine(kPages * kPageBytes / 8);
  for (size_t i = 0; i < engine.size(); ++i) engine[i] = word_of(key_of(9), i);
  const std::vector<kvt_page> pages = allocate(client, kPages);
  ASSERT_EQ(pages.size(), kPages);
  const auto copies_of = [&](std::vector<uint64_t>& memory) {
    std::vector<kvt_copy> copies(kPages);
    for (size_t i = 0; i < kPages; ++i) {
      copies[i].page = pages[i];
      copies[i].memory = reinterpret_cast<char*>(memory.data()) + i * kPlaneBytes;
      copies[i].page_stride = kPlaneBytes;
      copies[i].memory_stride = kPages * kPlaneBytes;
      copies[i].row_bytes = kPlaneBytes;
      copies[i].rows = kPlanes;
    }
    return copies;
  };
  uint64_t job = 0;
  {
    const std::vector<kvt_copy> copies = copies_of(engine);
    ASSERT_EQ(kvt_copy_submit(client, KVT_COPY_STORE, copies.data(), copies.size(), &job), KVT_OK)
        << kvt_last_error();
  }  // the job has its own copy of the list
  if (GetParam() == 0) {
    EXPECT_EQ(kvt_copy_poll(client, job), 0) << "nobody copies before somebody waits";
    EXPECT_EQ(kvt_copy_wait(client, job), KVT_OK) << kvt_last_error();
  } else {
    EXPECT_TRUE(eventually([&] { return kvt_copy_poll(client, job) == 1; }));
  }
  EXPECT_EQ(kvt_copy_poll(client, job), KVT_E_INVALID) << "a job is told of once";
  EXPECT_EQ(kvt_copy_wait(client, job), KVT_E_INVALID);
  for (size_t i = 0; i < kPages; ++i) {
    const auto* const page = static_cast<const char*>(kvt_page_data(client, pages[i]));
    ASSERT_NE(page, nullptr);
    for (uint64_t plane = 0; plane < kPlanes; ++plane)
      EXPECT_EQ(std::memcmp(page + plane * kPlaneBytes,
                            reinterpret_cast<const char*>(engine.data()) + (plane * kPages + i) * kPlaneBytes,
                            kPlaneBytes),
                0);
  }
  for (size_t i = 0; i < kPages; ++i) ASSERT_EQ(publish_result(client, pages[i], key_of(i)), KVT_PUBLISHED);
  std::vector<uint64_t> loaded(engine.size());
  const std::vector<kvt_copy> copies = copies_of(loaded);
  ASSERT_EQ(kvt_copy_submit(client, KVT_COPY_LOAD, copies.data(), copies.size(), &job), KVT_OK)
      << kvt_last_error();
  EXPECT_EQ(kvt_copy_wait(client, job), KVT_OK) << kvt_last_error();
  EXPECT_EQ(loaded, engine);
  // A store into what is sealed by now.
  ASSERT_EQ(kvt_copy_submit(client, KVT_COPY_STORE, copies.data(), copies.size(), &job), KVT_OK);
  EXPECT_EQ(kvt_copy_wait(client, job), KVT_E_STATE);
  EXPECT_TRUE(mentions(kvt_last_error(), {"sealed"})) << kvt_last_error();
}

TEST_P(Copies, Refused) {
  Daemon daemon;
  kvt_attach_args args = attach_args(daemon.folder());
  args.copy_threads = GetParam();
  Client client(args);
  ASSERT_EQ(client.code(), KVT_OK);
  const std::vector<kvt_page> pages = allocate(client, 2);
  ASSERT_EQ(pages.size(), 2u);
  std::vector<char> memory(2 * kPageBytes);
  kvt_copy good{};
  good.page = pages[0];
  good.memory = memory.data();
  good.row_bytes = 1024;
  good.rows = 16;
  good.page_stride = 1024;
  good.memory_stride = 2048;
  uint64_t job = 0;
  const auto submit = [&](const kvt_copy& copy) {
    return kvt_copy_submit(client, KVT_COPY_STORE, &copy, 1, &job);
  };
  const auto with = [&](auto change) {
    kvt_copy copy = good;
    change(copy);
    return copy;
  };
  EXPECT_EQ(submit(with([](kvt_copy& c) { c.rows = 17; })), KVT_E_INVALID);
  EXPECT_TRUE(mentions(kvt_last_error(), {"leaves its page", "16384"})) << kvt_last_error();
  EXPECT_EQ(submit(with([](kvt_copy& c) { c.page_offset = 1; })), KVT_E_INVALID);
  EXPECT_EQ(submit(with([](kvt_copy& c) { c.page_offset = UINT64_MAX; })), KVT_E_INVALID);
  EXPECT_EQ(submit(with([](kvt_copy& c) { c.row_bytes = UINT64_MAX; })), KVT_E_INVALID);
  EXPECT_EQ(submit(with([](kvt_copy& c) { c.page_stride = UINT64_MAX; })), KVT_E_INVALID);
  EXPECT_EQ(submit(with([](kvt_copy& c) { c.page_stride = UINT64_MAX / 15 + 2; })), KVT_E_INVALID)
      << "a product that wraps";
  EXPECT_EQ(submit(with([](kvt_copy& c) { c.rows = UINT32_MAX; })), KVT_E_INVALID);
  EXPECT_EQ(submit(with([](kvt_copy& c) { c.memory = nullptr; })), KVT_E_INVALID);
  EXPECT_EQ(kvt_copy_submit(client, 3, &good, 1, &job), KVT_E_INVALID);
  EXPECT_EQ(kvt_copy_submit(client, KVT_COPY_STORE, &good, 0, &job), KVT_E_INVALID);
  EXPECT_EQ(kvt_copy_submit(client, KVT_COPY_STORE, nullptr, 1, &job), KVT_E_INVALID);
  EXPECT_EQ(kvt_copy_submit(client, KVT_COPY_STORE, &good, 1, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_copy_wait(client, 12345), KVT_E_INVALID);
  ASSERT_EQ(submit(good), KVT_OK);
  EXPECT_EQ(kvt_copy_wait(client, job), KVT_OK) << "the last byte of the page is the page's";

  // The page has gone when the copy is made.
  ASSERT_EQ(kvt_seal(client, &pages[1], 1, nullptr), KVT_OK);
  ASSERT_EQ(kvt_release(client, &pages[1], 1, nullptr), KVT_OK);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  const kvt_copy stale = with([&](kvt_copy& c) { c.page = pages[1]; });
  for (const uint32_t direction : {KVT_COPY_STORE, KVT_COPY_LOAD}) {
    ASSERT_EQ(kvt_copy_submit(client, direction, &stale, 1, &job), KVT_OK);
    EXPECT_EQ(kvt_copy_wait(client, job), KVT_E_STALE)
        << "direction " << direction << ": " << kvt_last_error();
  }
  // Another session's page.
  Client other(daemon);
  const kvt_copy foreign = with([&](kvt_copy& c) { c.page = allocate(other, 1).at(0); });
  ASSERT_EQ(submit(foreign), KVT_OK);
  EXPECT_EQ(kvt_copy_wait(client, job), KVT_E_PERMISSION) << kvt_last_error();
}

TEST_P(Copies, JobsLimit) {
  Daemon daemon;
  kvt_attach_args args = attach_args(daemon.folder());
  args.copy_threads = GetParam();
  Client client(args);
  const kvt_page page = allocate(client, 1).at(0);
  uint64_t word = 42;
  kvt_copy copy{};
  copy.page = page;
  copy.memory = &word;
  copy.row_bytes = 8;
  copy.rows = 1;
  std::vector<uint64_t> jobs(1024);
  for (uint64_t& job : jobs)
    ASSERT_EQ(kvt_copy_submit(client, KVT_COPY_STORE, &copy, 1, &job), KVT_OK) << kvt_last_error();
  uint64_t one_more = 0;
  EXPECT_EQ(kvt_copy_submit(client, KVT_COPY_STORE, &copy, 1, &one_more), KVT_E_LIMIT)
      << "jobs count until they are asked for";
  EXPECT_TRUE(mentions(kvt_last_error(), {"1024"})) << kvt_last_error();
  for (const uint64_t job : jobs) EXPECT_EQ(kvt_copy_wait(client, job), KVT_OK);
  EXPECT_EQ(kvt_copy_submit(client, KVT_COPY_STORE, &copy, 1, &one_more), KVT_OK);
  // Detaching with a job that nobody asked for is fine.
}

}  // namespace
}  // namespace kvt::test
