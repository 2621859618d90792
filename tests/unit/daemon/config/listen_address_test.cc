// SPDX-License-Identifier: Apache-2.0
#include "daemon/config/listen_address.h"

#include <gtest/gtest.h>

namespace kvt {
namespace {

TEST(ListenAddress, IsASocketOrAnAddressAndAPort) {
  const auto socket = parse_listen_address("unix:metrics.sock");
  ASSERT_TRUE(socket);
  EXPECT_TRUE(socket->is_unix());
  EXPECT_EQ(socket->path, "metrics.sock");
  EXPECT_TRUE(socket->is_loopback);
  const auto four = parse_listen_address("127.1.2.3:9713");
  ASSERT_TRUE(four);
  EXPECT_FALSE(four->is_unix());
  EXPECT_FALSE(four->is_ipv6);
  EXPECT_EQ(four->address, "127.1.2.3");
  EXPECT_EQ(four->port, 9713);
  EXPECT_TRUE(four->is_loopback);
  const auto six = parse_listen_address("[::1]:1");
  ASSERT_TRUE(six);
  EXPECT_TRUE(six->is_ipv6);
  EXPECT_EQ(six->address, "::1");
  EXPECT_TRUE(six->is_loopback);
}

TEST(ListenAddress, OfOtherHostsIsNoLoopback) {
  for (const char* const text :
       {"0.0.0.0:1", "10.0.0.1:1", "128.0.0.1:1", "[::]:1", "[fe80::1]:1", "[::2]:1"}) {
    const auto address = parse_listen_address(text);
    ASSERT_TRUE(address) << text;
    EXPECT_FALSE(address->is_loopback) << text;
  }
}

TEST(ListenAddress, IsNothingElse) {
  for (const char* const text : {"", "unix:", "9713", ":9713", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0",
                                 "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:9x", "localhost:9713",
                                 "::1:9713", "[::1]", "[]:1", "[127.0.0.1]:1", "127.0.0.1:+1"})
    EXPECT_FALSE(parse_listen_address(text)) << text;
}

}  // namespace
}  // namespace kvt
