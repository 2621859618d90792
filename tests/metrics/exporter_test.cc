// SPDX-License-Identifier: Apache-2.0
//
// Who asks for metrics: well, badly, slowly, too often, in crowds; and a loop that is busy. The exporter with a loop that
// the test turns, and the real daemon.
#include "daemon/metrics/exporter.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <regex>

#include "shm/base/socket.h"
#include "tests/support/daemon.h"
#include "tests/support/random.h"

namespace kvt::metrics {
namespace {

using std::chrono::milliseconds;

Fd connect_to(const std::string& path) {
  Fd socket;
  const auto connected = [&] {  // the queue may be full for a moment
    auto made = connect_unix(path, SOCK_STREAM);
    if (made) socket = std::move(*made);
    return socket.valid();
  };
  EXPECT_TRUE(test::eventually(connected)) << path;
  return socket;
}

void say(const Fd& socket, const std::string& text) {
  // It may have been hung up on already.
  [[maybe_unused]] const ssize_t sent = ::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL);
}

/// What comes until the other side closes.
std::string hear(const Fd& socket) {
  std::string all;
  char buffer[4096];
  for (;;) {
    pollfd polled{socket.get(), POLLIN, 0};
    if (::poll(&polled, 1, 60'000) <= 0) {
      ADD_FAILURE() << "nothing came for a minute";
      return all;
    }
    const ssize_t got = ::recv(socket.get(), buffer, sizeof buffer, 0);
    if (got <= 0) return all;
    all.append(buffer, static_cast<size_t>(got));
  }
}

std::string ask(const std::string& path,
                const std::string& request = "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n") {
  const Fd socket = connect_to(path);
  say(socket, request);
  return hear(socket);
}

double value_of(const std::string& answer, const std::string& name) {
  std::smatch found;
  return std::regex_search(answer, found, std::regex("\n" + name + " (\\S+)\n")) ? std::stod(found[1]) : -1;
}

class ExporterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto loop = keeper::EventLoop::create();
    ASSERT_TRUE(loop);
    loop_ = std::make_unique<keeper::EventLoop>(std::move(*loop));
    config_.socket_dir = folder_.path();
  }
  void start(Exporter::Clock::duration patience = Exporter::kPatience) {
    auto exporter = Exporter::start(
        *loop_, config_,
        [this] {
          Snapshot snapshot;
          snapshot.taken = Exporter::Clock::now();
          snapshot.connections = ++taken_;
          return snapshot;
        },
        patience);
    ASSERT_TRUE(exporter) << exporter.error().text;
    exporter_ = std::move(*exporter);
  }
  /// Asks while the loop turns.
  std::string ask_with_loop(const std::string& request = "GET /metrics HTTP/1.1\r\n\r\n") {
    auto answer = std::async(std::launch::async, [&] { return ask(path(), request); });
    while (answer.wait_for(milliseconds(0)) != std::future_status::ready) loop_->wait(1);
    return answer.get();
  }
  [[nodiscard]] std::string path() const { return folder_.path() + "/metrics.sock"; }

  test::Folder folder_;
  Config config_ = Config::defaults();
  std::unique_ptr<keeper::EventLoop> loop_;
  std::atomic<uint64_t> taken_{0};
  std::unique_ptr<Exporter> exporter_;
};

TEST_F(ExporterTest, AnswersWithWhatTheLoopSaysNow) {
  start();
  const auto is_new = [&] { return value_of(ask_with_loop(), "kvtier_connections") > 1; };
  EXPECT_TRUE(test::eventually(is_new));  // the first is of the start, for a tenth of a second
  const std::string answer = ask_with_loop();
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer.substr(0, 200);
  EXPECT_NE(answer.find("Content-Type: text/plain; version=0.0.4"), std::string::npos);
  EXPECT_LT(value_of(answer, "kvtier_snapshot_age_seconds"), 60);
}

TEST_F(ExporterTest, ABusyLoopIsNotWaitedForAndTheAgeSaysSo) {
  start();
  std::string answer;
  EXPECT_TRUE(test::eventually([&] {  // nobody turns the loop
    answer = ask(path());
    return value_of(answer, "kvtier_snapshot_age_seconds") >= 0.5;
  }));
  EXPECT_EQ(value_of(answer, "kvtier_connections"), 1);
  EXPECT_EQ(taken_, 1u);
}

TEST_F(ExporterTest, HoweverOftenItIsAskedTheLoopIsAskedTenTimesASecond) {
  start();
  const auto begin = Exporter::Clock::now();
  for (int i = 0; i < 300; ++i) ASSERT_GT(value_of(ask_with_loop(), "kvtier_connections"), 0);
  const auto tenths = (Exporter::Clock::now() - begin) / Exporter::kFreshFor;
  EXPECT_LE(taken_, 2u + static_cast<uint64_t>(tenths));
}

TEST_F(ExporterTest, WhatIsNotAskedWellIsSaidSo) {
  start();
  const auto status = [&](const std::string& request) { return ask_with_loop(request).substr(9, 3); };
  EXPECT_EQ(status("GET / HTTP/1.1\r\n\r\n"), "404");
  EXPECT_EQ(status("GET /metrics?x=1 HTTP/1.1\r\n\r\n"), "200");
  EXPECT_EQ(status("GET /metrics HTTP/1.0\n\n"), "200");
  EXPECT_EQ(status("POST /metrics HTTP/1.1\r\n\r\n"), "405");
  EXPECT_EQ(status("kvtier\r\n\r\n"), "400");
  EXPECT_EQ(status("GET /metrics\r\n\r\n"), "400");
  EXPECT_EQ(status("\r\n\r\n"), "400");
  EXPECT_EQ(status("GET /metrics HTTP/1.1\r\nX: " + std::string(Exporter::kRequestBytesMax, 'x')), "431");
  const std::string head = ask_with_loop("HEAD /metrics HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(head.ends_with("\r\n\r\n")) << head;
}

TEST_F(ExporterTest, TheOldestOfTooManyConnectionsIsClosed) {
  start();
  std::vector<Fd> silent;
  for (size_t i = 0; i < Exporter::kConnectionsMax; ++i) silent.push_back(connect_to(path()));
  const std::string answer = ask_with_loop();
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200")) << answer.substr(0, 100);
  EXPECT_EQ(hear(silent.front()), "");
  EXPECT_TRUE(test::eventually(
      [&] { return value_of(ask_with_loop(), "kvtier_metrics_connections_dropped_total") >= 1; }));
}

TEST_F(ExporterTest, WhoIsSlowIsHungUpOn) {
  start(milliseconds(100));
  const Fd half = connect_to(path());
  say(half, "GET /metrics HTTP/1.1\r\n");
  EXPECT_EQ(hear(half), "");
}

TEST_F(ExporterTest, WhoDoesNotTakeTheAnswerIsHungUpOn) {
  start(milliseconds(100));
  const Fd deaf = connect_to(path());
  const int small = 1;  // the kernel's least, a few KiB: the answer does not fit
  ::setsockopt(deaf.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  std::vector<Fd> others;
  say(deaf, "GET /metrics HTTP/1.1\r\n\r\n");
  const auto hung_up = [&] {
    loop_->wait(1);
    pollfd polled{deaf.get(), 0, 0};
    return ::poll(&polled, 1, 0) == 1 && (polled.revents & POLLHUP) != 0;
  };
  EXPECT_TRUE(test::eventually(hung_up));
}

TEST_F(ExporterTest, NoDescriptorIsLeftOfWhoHasGone) {
  const auto descriptors = [] {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return std::distance(begin(all), end(all));
  };
  start();
  ask_with_loop();
  const auto before = descriptors();
  for (int i = 0; i < 200; ++i) {
    const Fd socket = connect_to(path());
    if (i % 2 == 0) say(socket, "GET /metr");
  }
  for (int i = 0; i < 100; ++i) {
    const Fd socket = connect_to(path());
    say(socket, "GET /metrics HTTP/1.1\r\n\r\n");
  }
  EXPECT_TRUE(test::eventually([&] {
    loop_->wait(1);
    return descriptors() <= before;
  }));
  EXPECT_EQ(ask_with_loop().substr(9, 3), "200");
}

TEST_F(ExporterTest, GarbageIsAnsweredOrHungUpOn) {
  start(milliseconds(50));
  test::Random random;
  for (int i = 0; i < 60; ++i) {
    std::string request;
    const char* const words[] = {"GET", " ", "/metrics", "HTTP/1.1", "\r\n", "\n", "\r\n\r\n", "?", ":", "x"};
    for (uint64_t n = random.below(12); n != 0; --n) {
      if (random.one_in(4))
        request += static_cast<char>(random.below(256));
      else
        request += words[random.below(std::size(words))];
    }
    const std::string answer = ask_with_loop(request);
    EXPECT_TRUE(answer.empty() || answer.starts_with("HTTP/1.1 "))
        << request << " -> " << answer.substr(0, 80);
  }
  EXPECT_EQ(ask_with_loop().substr(9, 3), "200");
}

TEST_F(ExporterTest, ItsSocketGoesWithIt) {
  start();
  exporter_.reset();
  EXPECT_FALSE(std::filesystem::exists(path()));
}

TEST(Metrics, AreOnASocketOfTheDaemonsUser) {
  const test::Daemon daemon{test::World{}};
  const std::string path = daemon.folder() + "/metrics.sock";
  struct stat socket {};
  ASSERT_EQ(::stat(path.c_str(), &socket), 0);
  EXPECT_EQ(socket.st_mode & 0777, 0600u);
  const std::string answer = ask(path);
  EXPECT_NE(answer.find("\nkvtier_pages{arena=\"default\",state=\"free\"} "), std::string::npos);
  EXPECT_NE(answer.find("\nkvtier_tier_bytes{tier=\"hbm0\",kind=\"hbm\",emulated=\"true\"} "),
            std::string::npos);
}

TEST(Metrics, AreOffWhereNoPlaceIsNamed) {
  test::World world;
  world.more = "[metrics]\nlisten = []\n";
  const test::Daemon daemon{world};
  EXPECT_FALSE(std::filesystem::exists(daemon.folder() + "/metrics.sock"));
}

TEST(Metrics, ThatCannotBeServedAreALineAndTheDaemonServes) {
  test::World world;
  world.more = "[metrics]\nlisten = [\"unix:no/such/folder\"]\n";
  const test::Daemon daemon{world};
  EXPECT_NE(daemon.log().find("metrics are not served: "), std::string::npos);
  EXPECT_EQ(daemon.number("status", "/arenas/0/sessions"), 0);
}

TEST(Metrics, OfManySilentScrapersDoNotKeepTheLoop) {
  const test::Daemon daemon{test::World{}};
  std::vector<Fd> silent;
  for (int i = 0; i < 100; ++i) {
    silent.push_back(connect_to(daemon.folder() + "/metrics.sock"));
    ::send(silent.back().get(), "GET /metrics HTTP/1.1\r\n\r\n", i % 2 == 0 ? 25 : 10, MSG_NOSIGNAL);
  }
  EXPECT_EQ(daemon.number("status", "/arenas/0/sessions"), 0);
  EXPECT_EQ(ask(daemon.folder() + "/metrics.sock").substr(9, 3), "200");
}

}  // namespace
}  // namespace kvt::metrics
