// SPDX-License-Identifier: Apache-2.0
//
// Memory that goes bad under the real daemon: it retires frames, and goes on.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

constexpr uint64_t kPageBytes = 16384;

size_t count_of(const std::string& text, const std::string& what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

class BadMemory : public ::testing::TestWithParam<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Columns, BadMemory, ::testing::Values(1u, 2u),
                         [](const auto& parameter) { return std::to_string(parameter.param); });

/// Eight of the first copies meet memory that is not there, four as they read and four as they write.
TEST_P(BadMemory, RetiresFramesAndNotTheDaemon) {
  constexpr uint64_t kPages = 300;
  World world;
  world.columns = GetParam();
  world.policy = "churn";
  world.arguments = {"--allow-injection", "--inject", "poison"};
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  for (uint64_t i = 0; i < kPages; ++i) {
    const kvt_page page = publish_page(client, key_of(i), kPageBytes);
    ASSERT_NE(page, KVT_NO_PAGE) << kvt_last_error();
    ASSERT_EQ(kvt_release(client, &page, 1, nullptr), KVT_OK);
  }
  const auto retired = [&] {
    double sum = 0;
    for (uint32_t tier = 0; tier <= GetParam(); ++tier)
      sum += daemon.number("quiesce", "/arenas/0/tiers/" + std::to_string(tier) + "/retired");
    return sum;
  };
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/copies_failed") >= 8; }));
  EXPECT_EQ(daemon.number("status", "/arenas/0/copies_failed"), 8);
  EXPECT_TRUE(eventually([&] { return retired() == 8; })) << retired();
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);
  EXPECT_TRUE(
      mentions(daemon.log(), {"cannot be read", "cannot be written", "arena \"default\": page ", "(SIGBUS)"}))
      << daemon.log();
  // What can be found is right, and only pages that had no other frame are lost.
  uint64_t found = 0;
  for (uint64_t i = 0; i < kPages; ++i) {
    kvt_page page = KVT_NO_PAGE;
    const kvt_key key = key_of(i);
    if (kvt_lookup(client, &key, 1, KVT_LOOKUP_HOLD, &page) != 1) continue;
    ++found;
    EXPECT_EQ(verify_page(client, page, key, kPageBytes), 0u);
    EXPECT_EQ(kvt_release(client, &page, 1, nullptr), KVT_OK);
  }
  const double lost = daemon.number("status", "/arenas/0/lost_pages");
  EXPECT_EQ(static_cast<double>(found) + lost, kPages);
  EXPECT_LE(lost, 4);
  // Moves go on.
  const double moved = daemon.number("status", "/arenas/0/moves/promoted");
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/moves/promoted") > moved; }));
}

/// A bit of a page's frame changes while nobody looks: this process maps the window and may write it.
TEST_P(BadMemory, AScrubFindsWhatHasChanged) {
  World world;
  world.columns = GetParam();
  world.integrity = "all";
  world.scrub_pages_per_second = 10'000;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  std::vector<kvt_page> pages;
  for (uint64_t i = 0; i < 40; ++i) {
    pages.push_back(publish_page(client, key_of(i), kPageBytes));
    ASSERT_NE(pages.back(), KVT_NO_PAGE) << kvt_last_error();
  }
  const uint32_t slow_tier = GetParam();
  const auto move = [&](kvt_page page, const std::string& tier) {
    return daemon.control("{\"command\":\"move\",\"page\":" + std::to_string(KVT_PAGE_INDEX(page)) +
                          ",\"tier\":\"" + tier + "\"}");
  };
  const auto number = [&](const char* what) {
    return daemon.number("status", std::string("/arenas/0/integrity/") + what);
  };
  // Into the slow tier and up again: then it has a shadow there.
  const kvt_page page = pages[7];
  const kvt_key key = key_of(7);
  for (const auto& [tier, index] : {std::pair<const char*, uint32_t>{"dram", slow_tier}, {"hbm0", 0}}) {
    EXPECT_TRUE(eventually([&] {
      if (client.info(page).tier != index) (void)move(page, tier);
      return client.info(page).tier == index;
    })) << move(page, tier);
  }
  const auto flip = [&](kvt_frame frame) {
    auto* const base =
        static_cast<char*>(const_cast<void*>(static_cast<const void*>(client.geometry().base)));
    base[uint64_t{frame} * kPageBytes + 5000] ^= 1;
  };
  EXPECT_EQ(number("mismatches"), 0);
  ASSERT_TRUE(gets_shadow(client, page));
  const kvt_page_info before = client.info(page);
  flip(before.shadow_frame);
  EXPECT_TRUE(eventually([&] { return number("repaired") == 1; }))
      << daemon.control("{\"command\":\"arenas\"}");
  EXPECT_EQ(number("mismatches"), 1);
  EXPECT_EQ(client.info(page).shadow_frame, KVT_NO_FRAME);
  EXPECT_EQ(verify_page(client, page, key, kPageBytes), 0u);
  EXPECT_TRUE(mentions(daemon.log(), {"has not the page's checksum; the page is read from frame"}))
      << daemon.log();
  // And one that has no other frame: it is lost, and nobody finds it.
  flip(client.info(pages[8]).frame);
  EXPECT_TRUE(eventually([&] { return number("lost") == 1; }));
  kvt_page found = KVT_NO_PAGE;
  const kvt_key lost = key_of(8);
  EXPECT_EQ(kvt_lookup(client, &lost, 1, 0, &found), 0);
  for (uint64_t i = 0; i < pages.size(); ++i) {
    if (i == 8) continue;
    EXPECT_EQ(verify_page(client, pages[i], key_of(i), kPageBytes), 0u);
  }
}

// ---- memory that cannot be had ----

uint64_t address_space_of(pid_t pid) {
  std::ifstream statm("/proc/" + std::to_string(pid) + "/statm");
  uint64_t os_pages = 0;
  statm >> os_pages;
  return os_pages * 4096;
}

#if defined(__SANITIZE_ADDRESS__)
#define KVT_SKIP_UNDER_SANITIZER() GTEST_SKIP() << "the sanitizer takes terabytes of address space"
#else
#define KVT_SKIP_UNDER_SANITIZER() static_cast<void>(0)
#endif

void limit_address_space(pid_t pid, uint64_t bytes) {
  const rlimit limit{bytes, RLIM_INFINITY};
  ASSERT_EQ(::prlimit(pid, RLIMIT_AS, &limit, nullptr), 0) << std::strerror(errno);
}

/// Regions of sessions do not fit any more: who comes is refused and told so, who is there is served.
TEST(NoMemory, SessionsAreRefusedAndTheDaemonGoesOn) {
  KVT_SKIP_UNDER_SANITIZER();
  Daemon daemon;
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  limit_address_space(daemon.pid(), address_space_of(daemon.pid()) + (3 << 20));
  std::vector<Client> others;
  int code = KVT_OK;
  for (int i = 0; i < 100 && code == KVT_OK; ++i) {
    others.emplace_back(daemon);
    code = others.back().code();
  }
  EXPECT_EQ(code, KVT_E_FULL);
  EXPECT_TRUE(mentions(kvt_last_error(), {"session region"}) || mentions(kvt_last_error(), {"no memory"}))
      << kvt_last_error();
  EXPECT_GT(others.size(), 1u) << "some fitted";
  for (uint64_t i = 0; i < 50; ++i) {
    const kvt_page page = publish_page(client, key_of(i), kPageBytes);
    ASSERT_NE(page, KVT_NO_PAGE) << kvt_last_error();
    EXPECT_EQ(verify_page(client, page, key_of(i), kPageBytes), 0u);
  }
  EXPECT_EQ(daemon.text("status", "/ok"), "true");
  EXPECT_GT(daemon.number("status", "/attach_refused"), 0);
  limit_address_space(daemon.pid(), RLIM_INFINITY);
  const Client later(daemon);
  EXPECT_EQ(later.code(), KVT_OK) << kvt_last_error();
}

/// Not a byte more than it has: who is attached is served, and operators are answered.
TEST(NoMemory, WhoIsThereIsServedWithoutAByteMore) {
  KVT_SKIP_UNDER_SANITIZER();
  World world;
  world.policy = "churn";
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  limit_address_space(daemon.pid(), address_space_of(daemon.pid()));
  for (uint64_t i = 0; i < 300; ++i) {
    const kvt_page page = publish_page(client, key_of(i), kPageBytes);
    ASSERT_NE(page, KVT_NO_PAGE) << i << ": " << kvt_last_error();
    EXPECT_EQ(kvt_release(client, &page, 1, nullptr), KVT_OK);
    if (i % 10 == 0) EXPECT_EQ(daemon.text("status", "/ok"), "true");
  }
  EXPECT_EQ(Client(daemon).code(), KVT_E_FULL);
  EXPECT_EQ(client.stats().connected, 1u);
  for (uint64_t i = 0; i < 300; ++i) {
    kvt_page page = KVT_NO_PAGE;
    const kvt_key key = key_of(i);
    ASSERT_EQ(kvt_lookup(client, &key, 1, KVT_LOOKUP_HOLD, &page), 1) << i;
    EXPECT_EQ(verify_page(client, page, key, kPageBytes), 0u);
    EXPECT_EQ(kvt_release(client, &page, 1, nullptr), KVT_OK);
  }
  limit_address_space(daemon.pid(), RLIM_INFINITY);
  EXPECT_EQ(Client(daemon).code(), KVT_OK) << kvt_last_error();
}

TEST(NoMemory, AStartWithoutItEndsWithALine) {
  KVT_SKIP_UNDER_SANITIZER();
  if (::access("/usr/bin/prlimit", X_OK) != 0) GTEST_SKIP() << "there is no prlimit here";
  const Folder folder;
  const std::string config = folder.write("kvtierd.toml", World{}.toml());
  size_t ended = 0;
  // From what its libraries need to what it needs: each a limit at which another call is refused.
  for (uint64_t mib = 24; mib <= 96; mib += 4) {
    const Outcome outcome = run_program(
        "/usr/bin/prlimit", {"--as=" + std::to_string(mib << 20), "/usr/bin/timeout", "-s", "TERM", "2",
                             kvtierd_program(), "--config", config, "--socket-dir", folder.path()});
    if (outcome.exit_code == 124) break;     // it serves, until it was told to end
    if (outcome.exit_code == 127) continue;  // the loader's
    ++ended;
    EXPECT_TRUE(outcome.exit_code >= 1 && outcome.exit_code <= 3) << mib << " MiB: " << outcome.exit_code;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n') -
                  static_cast<std::ptrdiff_t>(count_of(outcome.err, " info ")),
              1)
        << mib << " MiB: " << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(folder.path() + "/attach.sock"));
  }
  EXPECT_GT(ended, 1u);
}

}  // namespace
}  // namespace kvt::test
