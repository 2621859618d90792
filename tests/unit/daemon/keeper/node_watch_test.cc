// SPDX-License-Identifier: Apache-2.0
//
// Nodes that come and go, as made-up files of /sys say.
#include "daemon/keeper/node_watch.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace kvt::keeper {
namespace {

using std::chrono::seconds;

class NodeWatchTest : public testing::Test {
 protected:
  NodeWatchTest() {
    char name[] = "/tmp/kvtier-nodes-XXXXXX";
    root_ = std::string(::mkdtemp(name)) + "/";
  }
  ~NodeWatchTest() override { std::filesystem::remove_all(root_); }
  void set(uint32_t node, uint64_t kib) {
    const std::string folder = root() + "sys/devices/system/node/node" + std::to_string(node);
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/meminfo") << "Node " << node << " MemTotal:  " << kib << " kB\n";
  }
  void remove(uint32_t node) {
    std::filesystem::remove_all(root() + "sys/devices/system/node/node" + std::to_string(node));
  }
  [[nodiscard]] const std::string& root() const { return root_; }
  /// "1-" node 1 has gone, "2+" node 2 is back.
  std::string look(NodeWatch& watch) {
    std::string text;
    now_ += seconds(2);
    for (const auto& change : watch.look(now_))
      text += std::to_string(change.node) + (change.is_gone ? "-" : "+");
    return text;
  }
  std::string root_;
  NodeWatch::Clock::time_point now_{std::chrono::hours(1)};
};

TEST_F(NodeWatchTest, SaysWhatHasChanged) {
  for (const uint32_t node : {0u, 1u, 2u}) set(node, 1024);
  NodeWatch watch({1, 2}, root());
  EXPECT_EQ(look(watch), "");
  set(1, 0);
  EXPECT_EQ(look(watch), "1-");
  EXPECT_EQ(look(watch), "");
  EXPECT_TRUE(watch.is_gone(1));
  EXPECT_FALSE(watch.is_gone(2));
  remove(2);
  remove(0);
  EXPECT_EQ(look(watch), "2-") << "nobody asked for node 0";
  set(1, 512);
  set(2, 512);
  EXPECT_EQ(look(watch), "1+2+");
  EXPECT_FALSE(watch.is_gone(1));
}

TEST_F(NodeWatchTest, TheFirstLookSaysWhatIsNotThere) {
  set(0, 1024);
  NodeWatch watch({0, 5}, root());
  EXPECT_EQ(look(watch), "5-");
}

TEST_F(NodeWatchTest, LooksOnceASecond) {
  set(0, 1024);
  NodeWatch watch({0}, root());
  EXPECT_EQ(look(watch), "");
  set(0, 0);
  EXPECT_TRUE(watch.look(now_ + std::chrono::milliseconds(900)).empty());
  EXPECT_EQ(watch.look(now_ + std::chrono::milliseconds(1100)).size(), 1u);
}

TEST_F(NodeWatchTest, WhatCannotBeToldIsNoNews) {
  set(0, 1024);
  NodeWatch watch({0}, root());
  std::ofstream(root() + "sys/devices/system/node/node0/meminfo") << "nothing of use\n";
  EXPECT_EQ(look(watch), "");
  NodeWatch without({0, 1}, root() + "elsewhere/");
  EXPECT_EQ(look(without), "") << "a system that says nothing of nodes";
}

}  // namespace
}  // namespace kvt::keeper
