// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/witness.h"

#include <poll.h>

#include <algorithm>
#include <sstream>
#include <utility>
#include <vector>

#include "tests/support/client.h"

namespace kvt::test {
namespace {

constexpr uint64_t kPages = 24;  // in each arena

/// One of the two sessions, with what it holds.
struct Side {
  Client client;
  std::vector<kvt_page> pages;
  std::vector<kvt_key> keys;

  bool begin(const Daemon& daemon, const char* arena, uint64_t salt) {
    kvt_attach_args args = attach_args(daemon.folder());
    args.arena = arena;
    client = Client(args);
    if (client.code() != KVT_OK) return false;
    for (uint64_t i = 0; i < kPages; ++i) {
      keys.push_back(key_of(salt + i));
      pages.push_back(publish_page(client, keys.back(), kHostilePageBytes));
      if (pages.back() == KVT_NO_PAGE) return false;
    }
    return true;
  }

  /// All pages in one step.
  bool read(Witness::Report& report) {
    kvt_step step{};
    if (kvt_step_begin(client, &step) != KVT_OK) return false;
    for (size_t i = 0; i < pages.size(); ++i) {
      const void* address = nullptr;
      if (kvt_resolve_addresses(client, &step, &pages[i], 1, &address) != 1) {
        ++report.lost;
        continue;
      }
      const uint64_t wrong = wrong_words(address, kHostilePageBytes, keys[i]);
      report.wrong += wrong;
      report.words += kHostilePageBytes / 8 - wrong;
    }
    kvt_touch(client, pages.data(), pages.size());
    ++report.steps;
    return kvt_step_end(client, &step) == KVT_OK;
  }
};

}  // namespace

World hostile_world() {
  World world;
  world.more = "[[arena]]\nname = \"own\"\npage_bytes = 16384\nmode = \"0600\"\n";
  return world;
}

std::string Witness::live(const Daemon& daemon, Lines& lines) {
  Side attacked;
  Side own;
  KVT_CHILD_CHECK(attacked.begin(daemon, kAttacked, 1'000'000));
  KVT_CHILD_CHECK(own.begin(daemon, kOwn, 2'000'000));
  lines.say("ready");
  Report report;
  uint64_t fresh = 3'000'000;
  for (;;) {
    const bool asked = lines.has_line();
    KVT_CHILD_CHECK(attacked.read(report));
    KVT_CHILD_CHECK(own.read(report));
    const auto begin = Clock::now();
    const kvt_page page = publish_page(own.client, key_of(fresh), kHostilePageBytes);
    report.slowest_us = std::max<uint64_t>(
        report.slowest_us,
        static_cast<uint64_t>(
            std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count()));
    if (page == KVT_NO_PAGE) {
      ++report.refused;
    } else {
      const uint64_t wrong = verify_page(own.client, page, key_of(fresh), kHostilePageBytes);
      if (wrong == UINT64_MAX)
        ++report.lost;
      else
        report.wrong += wrong;
      ++report.published;
      KVT_CHILD_CHECK(kvt_release(own.client, &page, 1, nullptr) == KVT_OK);
    }
    ++fresh;
    if (!asked) {
      pollfd nothing{-1, 0, 0};
      ::poll(&nothing, 0, 1);  // leaves the processor to others
      continue;
    }
    const std::string line = lines.hear();
    if (line == "pause") {
      lines.say("paused");
      KVT_CHILD_CHECK(lines.hear() == "go on");
      continue;
    }
    if (line != "look") return {};
    const kvt_stats first = attacked.client.stats();
    const kvt_stats second = own.client.stats();
    report.reconnects = first.reconnects + second.reconnects;
    report.connected = first.connected + second.connected;
    std::ostringstream out;
    out << report.steps << ' ' << report.words << ' ' << report.published << ' ' << report.wrong << ' '
        << report.lost << ' ' << report.refused << ' ' << report.reconnects << ' ' << report.connected << ' '
        << report.slowest_us;
    lines.say(out.str());
    report.slowest_us = 0;
  }
}

Witness::Witness(const Daemon& daemon) : child_([&](Lines& lines) { return live(daemon, lines); }) {
  ready_ = child_.hear() == "ready";
}

Witness::Report Witness::look() {
  Report report;
  go_on();
  child_.say("look");
  std::istringstream in(child_.hear());
  in >> report.steps >> report.words >> report.published >> report.wrong >> report.lost >> report.refused >>
      report.reconnects >> report.connected >> report.slowest_us;
  return report;
}

void Witness::pause() {
  if (paused_) return;
  child_.say("pause");
  paused_ = child_.hear() == "paused";
}

void Witness::go_on() {
  if (std::exchange(paused_, false)) child_.say("go on");
}

std::string Witness::finish() {
  go_on();
  child_.say("end");
  return child_.finish();
}

}  // namespace kvt::test
