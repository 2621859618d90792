// SPDX-License-Identifier: Apache-2.0
//
// What the manager hears, by a clock of the test's own.
#include "daemon/restart/notifier.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <string>

namespace kvt::restart {
namespace {

using namespace std::chrono_literals;

class NotifierTest : public testing::Test {
 protected:
  NotifierTest() {
    char folder[] = "/tmp/kvtier-notify-XXXXXX";
    folder_ = ::mkdtemp(folder);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_ = folder_ + "/notify";
    std::memcpy(address.sun_path, path_.c_str(), path_.size() + 1);
    service_ = Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    EXPECT_EQ(::bind(service_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    ::setenv("NOTIFY_SOCKET", path_.c_str(), 1);
  }
  ~NotifierTest() override {
    for (const char* const name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) ::unsetenv(name);
    ::unlink(path_.c_str());
    ::rmdir(folder_.c_str());
  }

  std::string hear() const {
    char text[1024];
    const ssize_t got = ::recv(service_.get(), text, sizeof text, 0);
    return got < 0 ? "" : std::string(text, static_cast<size_t>(got));
  }
  Notifier notifier() {
    store_ = FdStore::open(4);
    return {store_, [this] { return line_; }};
  }

  std::string folder_;
  std::string path_;
  Fd service_;
  FdStore store_;
  std::string line_ = "one";
  const Notifier::Clock::time_point begin_ = Notifier::Clock::now();
};

TEST_F(NotifierTest, FeedsTheWatchdogAtHalfItsTimeAndOnlyAfterATurn) {
  ::setenv("WATCHDOG_USEC", "2000000", 1);
  ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
  Notifier notifier = this->notifier();
  EXPECT_EQ(::getenv("WATCHDOG_USEC"), nullptr) << "it is for this process alone";
  notifier.ready(begin_);
  EXPECT_EQ(hear(), "READY=1\nSTATUS=one");
  // A loop that would sleep for ever, or for long, wakes for it; one that wakes sooner does not.
  EXPECT_EQ(notifier.sleep_ms(-1, begin_), 1000);
  EXPECT_EQ(notifier.sleep_ms(5000, begin_ + 400ms), 600);
  EXPECT_EQ(notifier.sleep_ms(10, begin_), 10);
  EXPECT_EQ(notifier.sleep_ms(-1, begin_ + 1500ms), 0) << "it is late";
  notifier.turn_done(begin_ + 999ms);
  EXPECT_EQ(hear(), "");
  notifier.turn_done(begin_ + 1000ms);
  EXPECT_EQ(hear(), "WATCHDOG=1");
  EXPECT_EQ(hear(), "");
  EXPECT_EQ(notifier.sleep_ms(-1, begin_ + 1000ms), 1000);
}

TEST_F(NotifierTest, AWatchdogOfAnotherProcessIsNotItsOwn) {
  ::setenv("WATCHDOG_USEC", "2000000", 1);
  ::setenv("WATCHDOG_PID", "1", 1);
  Notifier notifier = this->notifier();
  notifier.ready(begin_);
  EXPECT_EQ(hear(), "READY=1\nSTATUS=one");
  EXPECT_EQ(notifier.sleep_ms(-1, begin_), -1);
  notifier.turn_done(begin_ + 1h);
  EXPECT_EQ(hear(), "");
}

TEST_F(NotifierTest, TellsTheLineSeldomAndWhenItHasChanged) {
  Notifier notifier = this->notifier();
  notifier.ready(begin_);
  EXPECT_EQ(hear(), "READY=1\nSTATUS=one");
  EXPECT_EQ(notifier.sleep_ms(-1, begin_ + 1s), -1) << "nothing to tell";
  line_ = "two";
  notifier.turn_done(begin_ + 1s);
  EXPECT_EQ(hear(), "") << "too soon";
  // It is not forgotten when nothing else happens.
  EXPECT_EQ(notifier.sleep_ms(-1, begin_ + 1s), 2000);
  notifier.turn_done(begin_ + 3s);
  EXPECT_EQ(hear(), "STATUS=two");
  notifier.turn_done(begin_ + 10s);
  EXPECT_EQ(hear(), "") << "it is the same";
  EXPECT_EQ(notifier.sleep_ms(-1, begin_ + 10s), -1);
}

TEST_F(NotifierTest, SaysWhenItReloadsAndStops) {
  Notifier notifier = this->notifier();
  notifier.ready(begin_);
  hear();
  notifier.reloading();
  const std::string said = hear();
  EXPECT_EQ(said.substr(0, 27), "RELOADING=1\nMONOTONIC_USEC=") << said;
  line_ = "reloaded";
  notifier.reloaded(begin_);
  EXPECT_EQ(hear(), "READY=1\nSTATUS=reloaded");
  notifier.stopping();
  EXPECT_EQ(hear(), "STOPPING=1");
}

TEST_F(NotifierTest, WithoutAManagerNobodyIsWoken) {
  ::unsetenv("NOTIFY_SOCKET");
  ::setenv("WATCHDOG_USEC", "2000000", 1);
  Notifier notifier = this->notifier();
  notifier.ready(begin_);
  line_ = "two";
  EXPECT_EQ(notifier.sleep_ms(-1, begin_ + 1h), -1);
  notifier.turn_done(begin_ + 1h);
  EXPECT_EQ(hear(), "");
}

}  // namespace
}  // namespace kvt::restart
