// SPDX-License-Identifier: Apache-2.0
//
// The life of pages through kvtier.h against a real kvtierd, with one column and with two.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "shm/abi/limits.h"
#include "tests/support/child.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

constexpr uint64_t kPageBytes = 16384;

class Pages : public ::testing::TestWithParam<uint32_t> {
 protected:
  static World world() {
    World world;
    world.columns = GetParam();
    return world;
  }
  /// The column that a second session reads through.
  static uint32_t last_column() { return GetParam() - 1; }
};
INSTANTIATE_TEST_SUITE_P(Columns, Pages, ::testing::Values(1u, 2u),
                         [](const auto& parameter) { return std::to_string(parameter.param); });

TEST_P(Pages, WholeLife) {
  Daemon daemon(world());
  ASSERT_TRUE(daemon.ok());
  constexpr size_t kCount = 8;
  std::vector<kvt_key> keys;
  for (uint64_t i = 0; i < kCount; ++i) keys.push_back(key_of(i));

  Child reader([&](Lines& lines) -> std::string {
    if (lines.hear() != "published") return "the writer has gone";
    Client client(daemon, last_column());
    KVT_CHILD_CHECK(client.code() == KVT_OK);
    std::vector<kvt_page> pages(kCount);
    KVT_CHILD_CHECK(kvt_lookup(client, keys.data(), kCount, KVT_LOOKUP_HOLD | KVT_LOOKUP_CHAIN,
                               pages.data()) == static_cast<int>(kCount));
    for (size_t i = 0; i < kCount; ++i)
      KVT_CHILD_CHECK(verify_page(client, pages[i], keys[i], kPageBytes) == 0);
    KVT_CHILD_CHECK(client.info(pages[0]).own_holds == 1);
    KVT_CHILD_CHECK(client.info(pages[0]).owner_session != client.geometry().session_id);
    lines.say("held");
    if (lines.hear() != "released") return "the writer has gone";
    KVT_CHILD_CHECK(kvt_release(client, pages.data(), kCount, nullptr) == KVT_OK);
    KVT_CHILD_CHECK(client.info(pages[0]).own_holds == 0);
    return {};
  });

  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  const kvt_geometry geometry = client.geometry();
  EXPECT_EQ(geometry.page_bytes, kPageBytes);
  EXPECT_EQ(geometry.stride, kPageBytes);
  EXPECT_EQ(geometry.block_tokens, 16u);
  EXPECT_EQ(geometry.planes, 1u);
  EXPECT_EQ(geometry.columns, GetParam());
  EXPECT_EQ(geometry.column, 0u);
  EXPECT_EQ(geometry.scratch_frame, 0u);
  EXPECT_EQ(geometry.access, static_cast<uint32_t>(KVT_ACCESS_READ_WRITE));
  ASSERT_EQ(geometry.tiers, GetParam() + 1);
  uint64_t pages_of_tiers = 0;  // a 32nd of each tier is room to move in
  for (uint32_t tier = 0; tier < geometry.tiers; ++tier) {
    const kvt_window& window = geometry.windows[tier];
    const bool host = tier + 1 == geometry.tiers;
    EXPECT_EQ(std::string(window.name), host ? "dram" : "hbm" + std::to_string(tier));
    EXPECT_EQ(window.emulated, host ? 0u : 1u);
    EXPECT_EQ(window.column, host ? -1 : static_cast<int32_t>(tier));
    EXPECT_GE(window.first_frame,
              tier == 0 ? 1u : geometry.windows[tier - 1].first_frame + geometry.windows[tier - 1].frames);
    EXPECT_LE(uint64_t{window.first_frame} + window.frames, geometry.frames);
    EXPECT_GT(window.read_bytes_per_second, 0u);
    if (GetParam() == 1 || host) pages_of_tiers += window.frames - window.frames / 32;
  }
  EXPECT_EQ(geometry.windows[0].frames, 127u) << "the scratch frame is of the first window";
  EXPECT_EQ(geometry.pages, pages_of_tiers)
      << "with several columns a new page lies where all of them read it";
  EXPECT_EQ(kvt_free_count(client), geometry.pages);

  const std::vector<kvt_page> pages = allocate(client, kCount);
  ASSERT_EQ(pages.size(), kCount) << kvt_last_error();
  EXPECT_EQ(std::set<kvt_page>(pages.begin(), pages.end()).size(), kCount);
  EXPECT_EQ(kvt_free_count(client), geometry.pages - kCount);
  for (size_t i = 0; i < kCount; ++i) {
    void* const data = kvt_page_data(client, pages[i]);
    ASSERT_NE(data, nullptr) << kvt_last_error();
    fill(data, kPageBytes, keys[i]);
    const kvt_page_info info = client.info(pages[i]);
    EXPECT_EQ(info.page, pages[i]);
    EXPECT_EQ(info.state, static_cast<uint32_t>(KVT_STATE_FILLING));
    EXPECT_EQ(info.own_holds, 1u);
    EXPECT_EQ(info.keyed, 0u);
    EXPECT_EQ(info.owner_session, geometry.session_id);
    EXPECT_EQ(data, static_cast<char*>(geometry.base) + info.frame * geometry.stride);
  }
  // Half are sealed first: a page may be published from either state.
  ASSERT_EQ(kvt_seal(client, pages.data(), kCount / 2, nullptr), KVT_OK) << kvt_last_error();
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(client.info(pages[0]).state, static_cast<uint32_t>(KVT_STATE_SEALED));
  EXPECT_EQ(client.info(pages[kCount - 1]).state, static_cast<uint32_t>(KVT_STATE_FILLING));

  std::vector<kvt_publish_entry> entries(kCount);
  for (size_t i = 0; i < kCount; ++i) {
    entries[i].page = pages[i];
    entries[i].key = keys[i];
    entries[i].parent = i == 0 ? KVT_NO_PAGE : pages[i - 1];
    entries[i].group = 3;
  }
  ASSERT_EQ(kvt_publish(client, entries.data(), kCount), static_cast<int>(kCount)) << kvt_last_error();
  for (size_t i = 0; i < kCount; ++i) {
    EXPECT_EQ(entries[i].result, KVT_PUBLISHED);
    EXPECT_EQ(entries[i].present, KVT_NO_PAGE);
    const kvt_page_info info = client.info(pages[i]);
    EXPECT_EQ(info.state, static_cast<uint32_t>(KVT_STATE_SEALED));
    EXPECT_EQ(info.keyed, 1u);
    EXPECT_EQ(info.key.lo, keys[i].lo);
    EXPECT_EQ(info.key.hi, keys[i].hi);
    EXPECT_EQ(info.group, 3u);
    EXPECT_EQ(info.parent, entries[i].parent);
    EXPECT_EQ(info.own_holds, 1u);
  }

  // Asking has no effect; holding adds one hold a page.
  std::vector<kvt_page> found(kCount);
  EXPECT_EQ(kvt_lookup(client, keys.data(), kCount, 0, found.data()), static_cast<int>(kCount));
  EXPECT_EQ(found, pages);
  EXPECT_EQ(client.info(pages[0]).own_holds, 1u);
  EXPECT_EQ(kvt_lookup(client, keys.data(), kCount, KVT_LOOKUP_HOLD, found.data()), static_cast<int>(kCount));
  EXPECT_EQ(client.info(pages[0]).own_holds, 2u);
  EXPECT_EQ(kvt_release(client, found.data(), kCount, nullptr), KVT_OK);

  // A chain ends at the first key that is missing; without the flag the others are found.
  std::vector<kvt_key> gap = keys;
  gap[3] = key_of(1000);
  EXPECT_EQ(kvt_lookup(client, gap.data(), kCount, KVT_LOOKUP_CHAIN | KVT_LOOKUP_HOLD, found.data()), 3);
  EXPECT_EQ(found[2], pages[2]);
  for (size_t i = 3; i < kCount; ++i) {
    EXPECT_EQ(found[i], KVT_NO_PAGE);
    EXPECT_EQ(client.info(pages[i]).own_holds, 1u) << "no hold stays behind the end of the chain";
  }
  EXPECT_EQ(kvt_release(client, found.data(), 3, nullptr), KVT_OK);
  EXPECT_EQ(kvt_lookup(client, gap.data(), kCount, 0, found.data()), static_cast<int>(kCount) - 1);
  EXPECT_EQ(found[3], KVT_NO_PAGE);
  EXPECT_EQ(found[4], pages[4]);

  reader.say("published");
  ASSERT_EQ(reader.hear(), "held");
  ASSERT_EQ(kvt_release(client, pages.data(), kCount, nullptr), KVT_OK);
  for (const kvt_page page : pages) EXPECT_EQ(client.info(page).own_holds, 0u);
  reader.say("released");
  EXPECT_EQ(reader.finish(), "");
  // A keyed page that nobody holds stays.
  EXPECT_EQ(kvt_lookup(client, keys.data(), kCount, 0, found.data()), static_cast<int>(kCount));

  ASSERT_EQ(kvt_hold(client, &pages[7], 1, nullptr), 1);
  ASSERT_EQ(kvt_unpublish(client, pages[7]), KVT_OK) << kvt_last_error();
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(kvt_lookup(client, &keys[7], 1, 0, found.data()), 0);
  EXPECT_EQ(client.info(pages[7]).keyed, 0u);
  EXPECT_EQ(client.info(pages[7]).own_holds, 1u) << "holds stay";
  EXPECT_EQ(verify_page(client, pages[7], keys[7], kPageBytes), 0u);
  ASSERT_EQ(kvt_release(client, &pages[7], 1, nullptr), KVT_OK);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(client.info(pages[7]).state, static_cast<uint32_t>(KVT_STATE_FREE))
      << "unkeyed and held by nobody";
  EXPECT_NE(client.info(pages[7]).page, pages[7]) << "the next generation";
  EXPECT_TRUE(eventually([&] { return kvt_free_count(client) == geometry.pages - kCount + 1; }));

  const kvt_stats stats = client.stats();
  EXPECT_EQ(stats.allocated, kCount);
  EXPECT_EQ(stats.lookups, 5 * kCount + 1);
  EXPECT_EQ(stats.lookup_hits, 3 * kCount + 3 + (kCount - 1));
  EXPECT_EQ(stats.steps, 1u);
  EXPECT_EQ(stats.connected, 1u);
  EXPECT_EQ(stats.reconnects, 0u);
  EXPECT_GE(stats.epoch, 2u);
  EXPECT_EQ(daemon.number("status", "/arenas/0/published"), kCount);
  EXPECT_EQ(daemon.number("audit", "/arenas/0/audit/leaked"), 0);
}

TEST_P(Pages, TheSameKeyTwice) {
  Daemon daemon(world());
  Client client(daemon);
  Client other(daemon, last_column());
  ASSERT_EQ(other.code(), KVT_OK) << kvt_last_error();
  const kvt_key key = key_of(1);
  const kvt_page first = publish_page(client, key, kPageBytes);
  ASSERT_NE(first, KVT_NO_PAGE) << kvt_last_error();
  // The same page under the same key: done already.
  EXPECT_EQ(publish_result(client, first, key), KVT_PUBLISHED);
  // The same page under another key.
  EXPECT_EQ(publish_result(client, first, key_of(2)), KVT_E_STATE);
  EXPECT_NE(std::string(kvt_last_error()), "");
  // Another page under the same key, of the same session and of another one: the first has it.
  for (kvt_session* const session : {client.get(), other.get()}) {
    const std::vector<kvt_page> pages = allocate(session, 1);
    ASSERT_EQ(pages.size(), 1u);
    kvt_page present = KVT_NO_PAGE;
    EXPECT_EQ(publish_result(session, pages[0], key, &present), KVT_PRESENT);
    EXPECT_EQ(present, first);
    kvt_page_info info{};
    info.size = sizeof info;
    ASSERT_EQ(kvt_get_page_info(session, KVT_PAGE_INDEX(pages[0]), &info), KVT_OK);
    EXPECT_EQ(info.state, static_cast<uint32_t>(KVT_STATE_SEALED));
    EXPECT_EQ(info.keyed, 0u);
    EXPECT_EQ(info.own_holds, 1u);
    // It may still get a key of its own.
    EXPECT_EQ(publish_result(session, pages[0], key_of(session == client.get() ? 10 : 11)), KVT_PUBLISHED);
  }
  // An unpublished page: its key is free for another, not for itself in another name before.
  ASSERT_EQ(kvt_unpublish(client, first), KVT_OK);
  const kvt_page second = publish_page(client, key, kPageBytes);
  EXPECT_NE(second, KVT_NO_PAGE) << kvt_last_error();
  kvt_page found = KVT_NO_PAGE;
  EXPECT_EQ(kvt_lookup(client, &key, 1, 0, &found), 1);
  EXPECT_EQ(found, second);
}

TEST_P(Pages, WrongStates) {
  Daemon daemon(world());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  std::vector<kvt_page> pages = allocate(client, 4);
  ASSERT_EQ(pages.size(), 4u);

  // Written when it is sealed: at once, also before the daemon has seen the seal.
  ASSERT_EQ(kvt_seal(client, pages.data(), 1, nullptr), KVT_OK);
  EXPECT_EQ(kvt_page_data(client, pages[0]), nullptr);
  EXPECT_TRUE(mentions(kvt_last_error(), {"sealed"})) << kvt_last_error();
  EXPECT_EQ(kvt_seal(client, pages.data(), 1, nullptr), KVT_E_STATE);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(kvt_page_data(client, pages[0]), nullptr);
  EXPECT_EQ(kvt_seal(client, pages.data(), 1, nullptr), KVT_E_STATE);

  // Released twice: as FILLING, as SEALED and keyed.
  ASSERT_EQ(kvt_release(client, &pages[1], 1, nullptr), KVT_OK);
  EXPECT_EQ(kvt_release(client, &pages[1], 1, nullptr), KVT_E_NOT_HELD);
  EXPECT_TRUE(mentions(kvt_last_error(), {"not held"})) << kvt_last_error();
  ASSERT_EQ(publish_result(client, pages[2], key_of(1)), KVT_PUBLISHED);
  ASSERT_EQ(kvt_release(client, &pages[2], 1, nullptr), KVT_OK);
  EXPECT_EQ(kvt_release(client, &pages[2], 1, nullptr), KVT_E_NOT_HELD);
  // The others of a batch are done.
  const kvt_page batch[] = {pages[2], pages[3]};
  EXPECT_EQ(kvt_release(client, batch, 2, nullptr), KVT_E_NOT_HELD);
  EXPECT_EQ(client.info(pages[3]).own_holds, 0u);

  // A handle whose page is gone.
  ASSERT_EQ(kvt_release(client, &pages[0], 1, nullptr), KVT_OK);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(kvt_release(client, &pages[0], 1, nullptr), KVT_E_STALE);
  EXPECT_TRUE(mentions(kvt_last_error(), {"generation"})) << kvt_last_error();
  EXPECT_EQ(kvt_seal(client, &pages[0], 1, nullptr), KVT_E_STALE);
  EXPECT_EQ(kvt_page_data(client, pages[0]), nullptr);
  EXPECT_TRUE(mentions(kvt_last_error(), {"stale"})) << kvt_last_error();
  EXPECT_EQ(publish_result(client, pages[0], key_of(2)), KVT_E_STALE);
  EXPECT_EQ(kvt_unpublish(client, pages[0]), KVT_E_STALE);
  EXPECT_EQ(kvt_set_group(client, &pages[0], 1, 1), KVT_E_STALE);
  uint8_t ok = 1;
  EXPECT_EQ(kvt_hold(client, &pages[0], 1, &ok), 0);
  EXPECT_EQ(ok, 0);
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  kvt_frame frame = 0;
  EXPECT_EQ(kvt_resolve(client, &step, &pages[0], 1, &frame), 0);
  EXPECT_EQ(frame, KVT_NO_FRAME);
  const void* address = &frame;
  EXPECT_EQ(kvt_resolve_addresses(client, &step, &pages[0], 1, &address), 0);
  EXPECT_EQ(address, nullptr);
  EXPECT_EQ(kvt_step_end(client, &step), KVT_OK);

  // No hold on a page that is being filled.
  const std::vector<kvt_page> filling = allocate(client, 1);
  EXPECT_EQ(kvt_hold(client, filling.data(), 1, &ok), 0);
  EXPECT_EQ(client.info(filling[0]).own_holds, 1u);
}

TEST_P(Pages, OfAnotherSession) {
  Daemon daemon(world());
  Client owner(daemon);
  Client other(daemon, last_column());
  ASSERT_EQ(other.code(), KVT_OK);
  const std::vector<kvt_page> filling = allocate(owner, 1);
  ASSERT_EQ(filling.size(), 1u);
  const kvt_page keyed = publish_page(owner, key_of(1), kPageBytes);
  ASSERT_NE(keyed, KVT_NO_PAGE);
  for (const kvt_page page : {filling[0], keyed}) {
    EXPECT_EQ(kvt_seal(other, &page, 1, nullptr), KVT_E_PERMISSION);
    EXPECT_EQ(kvt_page_data(other, page), nullptr);
    EXPECT_TRUE(mentions(kvt_last_error(), {"another session"})) << kvt_last_error();
    EXPECT_EQ(publish_result(other, page, key_of(5)), KVT_E_PERMISSION);
    EXPECT_EQ(kvt_unpublish(other, page), KVT_E_PERMISSION);
    EXPECT_EQ(kvt_set_group(other, &page, 1, 1), KVT_E_PERMISSION);
  }
  EXPECT_EQ(kvt_release(other, &filling[0], 1, nullptr), KVT_E_PERMISSION);
  EXPECT_EQ(kvt_release(other, &keyed, 1, nullptr), KVT_E_NOT_HELD);
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(other, &step), KVT_OK);
  kvt_frame frame = 0;
  EXPECT_EQ(kvt_resolve(other, &step, &filling[0], 1, &frame), 0)
      << "another session's page is still being filled";
  EXPECT_EQ(kvt_resolve(other, &step, &keyed, 1, &frame), 1);
  ASSERT_EQ(kvt_step_end(other, &step), KVT_OK);
  ASSERT_EQ(kvt_step_begin(owner, &step), KVT_OK);
  EXPECT_EQ(kvt_resolve(owner, &step, &filling[0], 1, &frame), 1) << "the own session may read what it fills";
  ASSERT_EQ(kvt_step_end(owner, &step), KVT_OK);
}

TEST_P(Pages, NoSuchIndexAndNulls) {
  Daemon daemon(world());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  const uint64_t pages = client.geometry().pages;
  const kvt_page beyond = pages;
  EXPECT_EQ(kvt_release(client, &beyond, 1, nullptr), KVT_E_INVALID);
  EXPECT_TRUE(mentions(kvt_last_error(), {std::to_string(pages).c_str()})) << kvt_last_error();
  EXPECT_EQ(kvt_seal(client, &beyond, 1, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_page_data(client, beyond), nullptr);
  EXPECT_EQ(kvt_page_data(client, KVT_NO_PAGE), nullptr);
  EXPECT_EQ(publish_result(client, beyond, key_of(1)), KVT_E_INVALID);
  EXPECT_EQ(kvt_unpublish(client, beyond), KVT_E_INVALID);
  EXPECT_EQ(kvt_set_group(client, &beyond, 1, 1), KVT_E_INVALID);
  EXPECT_EQ(kvt_touch(client, &beyond, 1), KVT_E_INVALID);
  EXPECT_EQ(kvt_touch_range(client, static_cast<uint32_t>(pages), 1), KVT_E_INVALID);
  EXPECT_EQ(kvt_touch_range(client, UINT32_MAX, UINT32_MAX), KVT_E_INVALID);
  EXPECT_EQ(kvt_touch_range(client, 0, static_cast<uint32_t>(pages)), KVT_OK);
  EXPECT_EQ(kvt_hold(client, &beyond, 1, nullptr), 0);
  kvt_page_info info{};
  info.size = sizeof info;
  EXPECT_EQ(kvt_get_page_info(client, static_cast<uint32_t>(pages), &info), KVT_E_INVALID);
  EXPECT_EQ(kvt_get_page_info(client, 0, nullptr), KVT_E_INVALID);
  info.size = 0;
  EXPECT_EQ(kvt_get_page_info(client, 0, &info), KVT_E_INVALID);

  const kvt_key key = key_of(1);
  kvt_page page = KVT_NO_PAGE;
  kvt_frame frame = 0;
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  EXPECT_EQ(kvt_lookup(client, &key, 1, 4, &page), KVT_E_INVALID);
  EXPECT_TRUE(mentions(kvt_last_error(), {"flags 4"})) << kvt_last_error();
  EXPECT_EQ(kvt_lookup(client, nullptr, 1, 0, &page), KVT_E_INVALID);
  EXPECT_EQ(kvt_lookup(client, &key, 1, 0, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_lookup(client, nullptr, 0, 0, nullptr), 0);
  EXPECT_EQ(kvt_allocate(client, nullptr, 1), KVT_E_INVALID);
  EXPECT_EQ(kvt_allocate(client, &page, 0), KVT_E_INVALID);
  EXPECT_EQ(kvt_seal(client, nullptr, 1, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_release(client, nullptr, 1, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_hold(client, nullptr, 1, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_publish(client, nullptr, 1), KVT_E_INVALID);
  EXPECT_EQ(kvt_publish(client, nullptr, 0), 0);
  EXPECT_EQ(kvt_touch(client, nullptr, 1), KVT_E_INVALID);
  EXPECT_EQ(kvt_advise(client, nullptr, 1, KVT_ADVISE_PREFETCH), KVT_E_INVALID);
  EXPECT_EQ(kvt_advise(client, &page, 1, 3), KVT_E_INVALID);
  EXPECT_EQ(kvt_set_group(client, nullptr, 1, 0), KVT_E_INVALID);
  EXPECT_EQ(kvt_set_group(client, &page, 0, 65536), KVT_E_INVALID);
  EXPECT_EQ(kvt_resolve(client, &step, nullptr, 1, &frame), KVT_E_INVALID);
  EXPECT_EQ(kvt_resolve(client, &step, &page, 1, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_resolve(client, nullptr, &page, 1, &frame), KVT_E_INVALID);
  EXPECT_EQ(kvt_resolve_addresses(client, &step, &page, 1, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_resolve_addresses(client, &step, nullptr, 0, nullptr), 0);
  uint64_t cursor = 0;
  kvt_change change{};
  EXPECT_EQ(kvt_changes_begin(client, &step, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_changes_begin(client, nullptr, &cursor), KVT_E_INVALID);
  EXPECT_EQ(kvt_changes(client, &step, &cursor, nullptr, 1), KVT_E_INVALID);
  EXPECT_EQ(kvt_changes(client, &step, nullptr, &change, 1), KVT_E_INVALID);
  EXPECT_EQ(kvt_step_begin(client, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_step_end(client, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_step_end(client, &step), KVT_OK);
  uint32_t sequence = 0;
  EXPECT_EQ(kvt_sequence_create(client, 0, &sequence), KVT_E_INVALID);
  EXPECT_EQ(kvt_sequence_create(client, 1, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_reserve(client, nullptr, 1, &page, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_token(client, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_get_stats(client, nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_get_geometry(client, nullptr), KVT_E_INVALID);
  kvt_geometry small{};
  EXPECT_EQ(kvt_get_geometry(client, &small), KVT_E_INVALID) << "its size is not set";

  kvt_publish_entry entry{};
  entry.page = allocate(client, 1).at(0);
  entry.parent = KVT_NO_PAGE;
  EXPECT_EQ(kvt_publish(client, &entry, 1), 1);
  EXPECT_EQ(entry.result, KVT_E_INVALID) << "the key {0,0}";
  entry.key = key;
  entry.group = 65536;
  EXPECT_EQ(kvt_publish(client, &entry, 1), 1);
  EXPECT_EQ(entry.result, KVT_E_INVALID) << "a group above 65535";

  EXPECT_EQ(kvt_flush(nullptr), KVT_E_INVALID);
  EXPECT_EQ(kvt_allocate(nullptr, &page, 1), KVT_E_INVALID);
  EXPECT_EQ(kvt_lookup(nullptr, &key, 1, 0, &page), KVT_E_INVALID);
  EXPECT_EQ(kvt_free_count(nullptr), 0u);
  EXPECT_EQ(kvt_page_data(nullptr, page), nullptr);
  kvt_detach(nullptr);

  for (int code = 0; code >= KVT_E_PROTOCOL; --code)
    EXPECT_NE(std::string(kvt_strerror(code)), "unknown error") << code;
  EXPECT_EQ(std::string(kvt_strerror(-1000)), "unknown error");
}

TEST_P(Pages, ArenaFullAndEviction) {
  Daemon daemon(world());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  const uint64_t count = client.geometry().pages;
  const std::vector<kvt_page> pages = allocate(client, count);
  ASSERT_EQ(pages.size(), count) << kvt_last_error();
  EXPECT_EQ(kvt_free_count(client), 0u);
  kvt_page page = KVT_NO_PAGE;
  EXPECT_EQ(kvt_allocate(client, &page, 1), KVT_E_FULL) << "all are held and being filled";
  EXPECT_TRUE(mentions(kvt_last_error(), {"default"})) << kvt_last_error();

  std::vector<kvt_publish_entry> entries(count);
  std::vector<kvt_key> keys(count);
  for (size_t i = 0; i < count; ++i) {
    keys[i] = key_of(i);
    auto* const words = static_cast<uint64_t*>(kvt_page_data(client, pages[i]));
    ASSERT_NE(words, nullptr);
    words[0] = word_of(keys[i], 0);
    entries[i] = {pages[i], keys[i], KVT_NO_PAGE, 0, 0, 0};
  }
  ASSERT_EQ(kvt_publish(client, entries.data(), count), static_cast<int>(count)) << kvt_last_error();
  EXPECT_EQ(kvt_allocate(client, &page, 1), KVT_E_FULL) << "all are held and keyed";
  EXPECT_EQ(daemon.number("status", "/arenas/0/evicted"), 0);

  // The first half is let go: that many can be had again, and none of the held half is lost.
  const size_t half = count / 2;
  ASSERT_EQ(kvt_release(client, pages.data(), half, nullptr), KVT_OK);
  const std::vector<kvt_page> fresh = allocate(client, half);
  EXPECT_EQ(fresh.size(), half) << kvt_last_error();
  EXPECT_EQ(kvt_allocate(client, &page, 1), KVT_E_FULL);
  std::vector<kvt_page> found(count);
  EXPECT_EQ(kvt_lookup(client, keys.data(), count, 0, found.data()), static_cast<int>(count - half));
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  std::vector<kvt_frame> frames(count);
  EXPECT_EQ(kvt_resolve(client, &step, pages.data(), count, frames.data()), static_cast<int>(count - half));
  const auto* const base = static_cast<const char*>(client.geometry().base);
  for (size_t i = 0; i < count; ++i) {
    if (i < half) {
      EXPECT_EQ(found[i], KVT_NO_PAGE);
      EXPECT_EQ(frames[i], KVT_NO_FRAME) << "evicted";
      continue;
    }
    EXPECT_EQ(found[i], pages[i]);
    ASSERT_NE(frames[i], KVT_NO_FRAME);
    EXPECT_EQ(*reinterpret_cast<const uint64_t*>(base + uint64_t{frames[i]} * kPageBytes),
              word_of(keys[i], 0));
  }
  ASSERT_EQ(kvt_step_end(client, &step), KVT_OK);
  EXPECT_EQ(kvt_release(client, &pages[0], 1, nullptr), KVT_E_STALE);
  EXPECT_EQ(kvt_seal(client, &pages[0], 1, nullptr), KVT_E_STALE);
  EXPECT_EQ(kvt_unpublish(client, pages[0]), KVT_E_STALE);
  EXPECT_EQ(daemon.number("status", "/arenas/0/evicted"), static_cast<double>(half));
  EXPECT_EQ(daemon.number("audit", "/arenas/0/audit/leaked"), 0);
}

/// An arena of big pages has few of them.
TEST_P(Pages, EvictionInASmallArena) {
  World small = world();
  small.pages = 20;
  Daemon daemon(small);
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  for (uint64_t i = 0; i < 100; ++i) {
    const kvt_page page = publish_page(client, key_of(i), kPageBytes);
    ASSERT_NE(page, KVT_NO_PAGE) << i << ": " << kvt_last_error();
    ASSERT_EQ(kvt_release(client, &page, 1, nullptr), KVT_OK);
  }
  EXPECT_GE(daemon.number("status", "/arenas/0/evicted"), 80);
}

/// Unpublished by the owner and let go: of no use to anybody, whatever the order in which it is told.
TEST_P(Pages, UnpublishedPagesComeBack) {
  Daemon daemon(world());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  const uint64_t count = client.geometry().pages;
  std::vector<kvt_page> pages = allocate(client, count);
  ASSERT_EQ(pages.size(), count);
  std::vector<kvt_publish_entry> entries(count);
  for (size_t i = 0; i < count; ++i) entries[i] = {pages[i], key_of(i), KVT_NO_PAGE, 0, 0, 0};
  ASSERT_EQ(kvt_publish(client, entries.data(), count), static_cast<int>(count)) << kvt_last_error();
  for (const kvt_page page : pages) {
    ASSERT_EQ(kvt_unpublish(client, page), KVT_OK) << kvt_last_error();
    ASSERT_EQ(kvt_release(client, &page, 1, nullptr), KVT_OK) << kvt_last_error();
  }
  size_t have = 0;
  EXPECT_TRUE(eventually([&] { return (have += allocate(client, count - have).size()) == count; },
                         std::chrono::seconds(20)))
      << have << " of " << count << " pages came back: " << kvt_last_error();
}

/// Prefix chains lose their leaves first: what is present of a chain is always a prefix of it.
TEST_P(Pages, ChainsAreEvictedFromTheLeaf) {
  Daemon daemon(world());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  constexpr size_t kLength = 5;
  const uint64_t count = client.geometry().pages;
  const uint64_t chains = count / kLength;
  for (uint64_t chain = 0; chain < chains; ++chain) {
    kvt_page parent = KVT_NO_PAGE;
    std::vector<kvt_page> pages;
    for (uint64_t i = 0; i < kLength; ++i) {
      parent = publish_page(client, key_of(chain * kLength + i), 8, parent);
      ASSERT_NE(parent, KVT_NO_PAGE) << kvt_last_error();
      pages.push_back(parent);
    }
    ASSERT_EQ(kvt_release(client, pages.data(), pages.size(), nullptr), KVT_OK);
  }
  const std::vector<kvt_page> fresh = allocate(client, count / 2);
  ASSERT_EQ(fresh.size(), count / 2) << kvt_last_error();
  uint64_t left = 0;
  for (uint64_t chain = 0; chain < chains; ++chain) {
    std::vector<kvt_key> keys;
    for (uint64_t i = 0; i < kLength; ++i) keys.push_back(key_of(chain * kLength + i));
    std::vector<kvt_page> found(kLength);
    const int all = kvt_lookup(client, keys.data(), kLength, 0, found.data());
    const int prefix = kvt_lookup(client, keys.data(), kLength, KVT_LOOKUP_CHAIN, found.data());
    EXPECT_EQ(all, prefix) << "chain " << chain;
    left += static_cast<uint64_t>(all);
  }
  EXPECT_LT(left, chains * kLength);
  EXPECT_GT(left, 0u);
}

TEST_P(Pages, GuaranteesHold) {
  World roomy = world();
  roomy.pages = 400;
  Daemon daemon(roomy);
  kvt_attach_args args = attach_args(daemon.folder());
  args.guarantee_pages = 150;
  Client sure(args);
  ASSERT_EQ(sure.code(), KVT_OK) << kvt_last_error();
  EXPECT_GE(kvt_free_count(sure), 150u);
  Client greedy(daemon, last_column());
  ASSERT_EQ(greedy.code(), KVT_OK);
  EXPECT_LE(allocate(greedy, 400).size(), 250u);
  EXPECT_GE(kvt_free_count(sure), 150u);
  EXPECT_GE(allocate(sure, 150).size(), 150u) << kvt_last_error();
}

TEST_P(Pages, LimitsOfASession) {
  Daemon daemon(world());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  // Holds of one page: the publisher's own is one of them.
  const kvt_page page = publish_page(client, key_of(1), kPageBytes);
  ASSERT_NE(page, KVT_NO_PAGE);
  const std::vector<kvt_page> same(KVT_MAX_HOLDS, page);
  EXPECT_EQ(kvt_hold(client, same.data(), KVT_MAX_HOLDS - 1, nullptr), static_cast<int>(KVT_MAX_HOLDS) - 1);
  EXPECT_EQ(kvt_hold(client, same.data(), 1, nullptr), KVT_E_LIMIT);
  EXPECT_TRUE(mentions(kvt_last_error(), {"65000"})) << kvt_last_error();
  EXPECT_EQ(client.info(page).own_holds, KVT_MAX_HOLDS);
  EXPECT_EQ(kvt_release(client, same.data(), KVT_MAX_HOLDS, nullptr), KVT_OK);
  EXPECT_EQ(kvt_release(client, same.data(), 1, nullptr), KVT_E_NOT_HELD);

  // Sequences: how many, and how many pages in all together.
  std::vector<uint32_t> sequences(KVT_SEQUENCES);
  for (uint32_t& sequence : sequences)
    ASSERT_EQ(kvt_sequence_create(client, 1, &sequence), KVT_OK) << kvt_last_error();
  uint32_t one_more = 0;
  EXPECT_EQ(kvt_sequence_create(client, 1, &one_more), KVT_E_LIMIT);
  EXPECT_EQ(kvt_sequence_append(client, sequences[5], &page, 1), KVT_OK);
  EXPECT_EQ(kvt_sequence_append(client, sequences[5], &page, 1), KVT_E_LIMIT) << "made for one page";
  EXPECT_EQ(kvt_sequence_touch(client, sequences[5]), KVT_OK);
  EXPECT_EQ(kvt_sequence_touch(client, KVT_SEQUENCES), KVT_E_INVALID);
  for (const uint32_t sequence : sequences) ASSERT_EQ(kvt_sequence_destroy(client, sequence), KVT_OK);
  EXPECT_EQ(kvt_sequence_destroy(client, sequences[5]), KVT_E_INVALID);
  EXPECT_EQ(kvt_sequence_append(client, sequences[5], &page, 1), KVT_E_INVALID);
  ASSERT_EQ(kvt_sequence_create(client, KVT_SEQUENCE_POOL, &one_more), KVT_OK)
      << "the room of the destroyed ones is whole again";
  EXPECT_EQ(kvt_sequence_create(client, 1, &sequences[0]), KVT_E_LIMIT);
  EXPECT_EQ(kvt_sequence_create(client, KVT_SEQUENCE_POOL + 1, &sequences[0]), KVT_E_INVALID);
}

TEST_P(Pages, SealedPagesWithoutAHoldAreFreed) {
  Daemon daemon(world());
  Client client(daemon);
  Client other(daemon, last_column());
  ASSERT_EQ(other.code(), KVT_OK);
  const kvt_page page = allocate(client, 1).at(0);
  fill(kvt_page_data(client, page), kPageBytes, key_of(1));
  ASSERT_EQ(kvt_seal(client, &page, 1, nullptr), KVT_OK);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  // Passed on by handle: another session's hold keeps it.
  uint8_t ok = 0;
  ASSERT_EQ(kvt_hold(other, &page, 1, &ok), 1);
  EXPECT_EQ(ok, 1);
  ASSERT_EQ(kvt_release(client, &page, 1, nullptr), KVT_OK);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(verify_page(other, page, key_of(1), kPageBytes), 0u);
  ASSERT_EQ(kvt_release(other, &page, 1, nullptr), KVT_OK);
  ASSERT_EQ(kvt_flush(other), KVT_OK);
  EXPECT_EQ(client.info(page).state, static_cast<uint32_t>(KVT_STATE_FREE));
  EXPECT_EQ(verify_page(other, page, key_of(1), kPageBytes), UINT64_MAX);
}

TEST_P(Pages, GroupsAdviceAndSequencesReachTheDaemon) {
  Daemon daemon(world());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  const kvt_page page = publish_page(client, key_of(1), kPageBytes);
  ASSERT_NE(page, KVT_NO_PAGE);
  const std::string ask = "{\"command\":\"page\",\"page\":" + std::to_string(KVT_PAGE_INDEX(page)) + "}";
  ASSERT_EQ(kvt_set_group(client, &page, 1, 7), KVT_OK);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(client.info(page).group, 7u);
  EXPECT_EQ(daemon.number(ask, "/group"), 7);
  EXPECT_EQ(daemon.text(ask, "/held"), "true");
  EXPECT_EQ(kvt_advise(client, &page, 1, KVT_ADVISE_PREFETCH), 1);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_GT(daemon.number(ask, "/columns/0/reads_per_period"), 0);
  EXPECT_EQ(kvt_advise(client, &page, 1, KVT_ADVISE_DEMOTE), 1);
  ASSERT_EQ(kvt_flush(client), KVT_OK);
  EXPECT_EQ(daemon.number(ask, "/columns/0/reads_per_period"), 0);

  uint32_t sequence = 0;
  ASSERT_EQ(kvt_sequence_create(client, 4, &sequence), KVT_OK);
  ASSERT_EQ(kvt_sequence_append(client, sequence, &page, 1), KVT_OK);
  EXPECT_TRUE(eventually([&] {
    kvt_step step{};
    EXPECT_EQ(kvt_step_begin(client, &step), KVT_OK);
    EXPECT_EQ(kvt_sequence_touch(client, sequence), KVT_OK);
    EXPECT_EQ(kvt_step_end(client, &step), KVT_OK);
    return daemon.number(ask, "/columns/0/reads_per_period") > 0;
  }));
}

}  // namespace
}  // namespace kvt::test
