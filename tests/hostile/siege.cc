// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/siege.h"

#include <poll.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace kvt::test {
namespace {

/// Within which the daemon notices that everybody has gone; a busy machine is slow.
constexpr std::chrono::seconds kSoon{20};
/// Of memory, for what an allocator keeps; with the address sanitizer, which the daemon then has as well, that is all.
#ifdef __SANITIZE_ADDRESS__
constexpr uint64_t kRssSlack = uint64_t{1} << 30;
#else
constexpr uint64_t kRssSlack = uint64_t{2} << 20;
#endif
/// A second of a daemon that sleeps, ticks: its last periods, and what it takes to look at it.
constexpr uint64_t kIdleTicks = 3;
// What daemon/run.cc lets through of lines about clients, and how long one is at most.
constexpr double kLinesAtOnce = 200;
constexpr double kLinesPerSecond = 20;
constexpr double kLineBytes = 300;
constexpr double kOtherBytes = 4096;  // the start

}  // namespace

Footprint footprint_of(const Daemon& daemon) {
  Footprint now;
  const std::string proc = "/proc/" + std::to_string(daemon.pid());
  std::error_code ignored;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(proc + "/fd", ignored))
    ++now.descriptors;
  std::ifstream statm(proc + "/statm");
  uint64_t size = 0;
  statm >> size >> now.rss_bytes;
  now.rss_bytes *= os_page_bytes();
  now.log_bytes = std::filesystem::file_size(daemon.folder() + "/stderr", ignored);
  std::ifstream stat(proc + "/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), std::istreambuf_iterator<char>());
  std::istringstream fields(text.substr(text.rfind(')') + 1));  // the name may have blanks
  std::string skipped;
  for (int i = 3; i < 14; ++i) fields >> skipped;
  uint64_t user = 0;
  uint64_t system = 0;
  fields >> user >> system;
  now.cpu_ticks = user + system;
  return now;
}

void let_a_second_pass() {
  pollfd nothing{-1, 0, 0};
  ::poll(&nothing, 0, 1000);
}

Siege::Siege(World world) : daemon_(std::move(world)), pid_(daemon_.pid()) {}

void Siege::SetUp() {
  ASSERT_TRUE(daemon_.ok());
  witness_ = std::make_unique<Witness>(daemon_);
  ASSERT_TRUE(witness_->ready());
  last_ = witness_->look();
  EXPECT_EQ(last_.wrong + last_.lost + last_.refused, 0u);
  before_ = footprint_of(daemon_);
}

void Siege::TearDown() {
  if (!witness_ || !witness_->ready()) return;
  expect_unharmed();
  expect_settled();
  // Both arenas still have every frame.
  for (const char* const arena : {"0", "1"})
    EXPECT_TRUE(eventually(
        [&] { return daemon_.number("quiesce", std::string("/arenas/") + arena + "/audit/leaked") == 0; },
        kSoon))
        << daemon_.control("{\"command\":\"quiesce\"}");
  expect_bounded_log();
  expect_idle();
  EXPECT_EQ(witness_->finish(), "");
}

void Siege::expect_idle() {
  witness_->pause();
  // Whoever looks at it wakes it, and it stays awake for some periods: one second in a few is idle.
  uint64_t used = 0;
  for (int i = 0; i < 3; ++i) {
    const uint64_t begin = footprint_of(daemon_).cpu_ticks;
    let_a_second_pass();
    used = footprint_of(daemon_).cpu_ticks - begin;
    if (used <= kIdleTicks) break;
  }
  EXPECT_LE(used, kIdleTicks) << "ticks of a second in which there was nothing to do";
}

double Siege::attackers() const { return daemon_.number("status", "/sessions") - 2; }

void Siege::expect_unharmed() {
  const Witness::Report now = witness_->look();
  EXPECT_GT(now.steps, last_.steps) << "its steps go on";
  EXPECT_GT(now.words, last_.words);
  EXPECT_GT(now.published, last_.published) << "in its own arena";
  EXPECT_EQ(now.wrong, 0u);
  EXPECT_EQ(now.lost, 0u);
  EXPECT_EQ(now.refused, 0u);
  EXPECT_EQ(now.reconnects, 0u);
  EXPECT_EQ(now.connected, 2u);
  last_ = now;
  EXPECT_EQ(daemon_.pid(), pid_);
  EXPECT_EQ(daemon_.number("status", "/pid"), pid_);
}

void Siege::expect_settled() {
  witness_->pause();
  EXPECT_TRUE(
      eventually([&] { return attackers() == 0 && daemon_.number("status", "/connections") == 2; }, kSoon))
      << daemon_.control("{\"command\":\"sessions\"}");
  EXPECT_TRUE(eventually([&] { return footprint_of(daemon_).descriptors == before_.descriptors; }, kSoon))
      << footprint_of(daemon_).descriptors << " descriptors, " << before_.descriptors << " before";
}

void Siege::expect_bounded_log() {
  const double seconds = std::chrono::duration<double>(Clock::now() - began_).count();
  EXPECT_LE(static_cast<double>(footprint_of(daemon_).log_bytes),
            kOtherBytes + kLineBytes * (kLinesAtOnce + kLinesPerSecond * seconds));
}

void Siege::besiege(const std::function<void()>& attack) {
  Footprint first;
  for (int time = 0; time < 3; ++time) {
    attack();
    if (HasFatalFailure()) return;
    expect_unharmed();
    expect_settled();
    const Footprint now = footprint_of(daemon_);
    if (time == 0) first = now;
    EXPECT_LE(now.rss_bytes, first.rss_bytes + kRssSlack) << "after the first time: " << first.rss_bytes;
    witness_->go_on();
  }
}

void Siege::in_process(const Child::Body& body) {
  Child child(body);
  EXPECT_EQ(child.finish(), "");
}

}  // namespace kvt::test
