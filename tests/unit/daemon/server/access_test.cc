// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/access.h"

#include <gtest/gtest.h>

namespace kvt::server {
namespace {

struct Row {
  const char* what;
  Peer peer;
  uint32_t mode;
  bool read;
  bool write;
};

const Ownership kArena{1000, 50, 0};
const Peer kOwner{1000, 7, {}};
const Peer kOwnerInGroup{1000, 50, {}};
const Peer kInGroup{2000, 50, {}};
const Peer kInSupplementary{2000, 7, {1, 50, 9}};
const Peer kOther{2000, 7, {51}};
const Peer kRoot{0, 0, {}};

const Row kRows[] = {
    {"root may, whatever the mode", kRoot, 0000, true, true},
    {"owner, rw", kOwner, 0600, true, true},
    {"owner, r", kOwner, 0400, true, false},
    {"owner, w alone is no read-write", kOwner, 0200, false, false},
    {"owner, nothing, though all others may: the first class that fits decides", kOwner, 0066, false, false},
    {"owner who is in the group as well", kOwnerInGroup, 0460, true, false},
    {"group, rw", kInGroup, 0660, true, true},
    {"group, r", kInGroup, 0640, true, false},
    {"group, nothing, though others may", kInGroup, 0606, false, false},
    {"supplementary group, rw", kInSupplementary, 0660, true, true},
    {"supplementary group, nothing", kInSupplementary, 0600, false, false},
    {"other, of a 0660 arena", kOther, 0660, false, false},
    {"other, rw", kOther, 0666, true, true},
    {"other, r", kOther, 0664, true, false},
    {"execute bits mean nothing", kOther, 0771, false, false},
};

TEST(MayAttach, Table) {
  for (const Row& row : kRows) {
    Ownership arena = kArena;
    arena.mode = row.mode;
    EXPECT_EQ(may_attach(row.peer, arena, Wanted::kRead), row.read) << row.what;
    EXPECT_EQ(may_attach(row.peer, arena, Wanted::kReadWrite), row.write) << row.what;
  }
}

TEST(FindUser, ByNameAndByNumber) {
  EXPECT_EQ(*find_user("root"), 0u);
  EXPECT_EQ(*find_user("1234"), 1234u);
  EXPECT_EQ(*find_group("root"), 0u);
  EXPECT_EQ(*find_group("77"), 77u);
  for (const char* name : {"", "no-such-user-here", "12x", "99999999999"}) {
    const auto user = find_user(name);
    ASSERT_FALSE(user.has_value()) << name;
    EXPECT_EQ(user.error().code, Code::kNotFound);
    EXPECT_NE(user.error().text.find(name), std::string::npos);
    EXPECT_FALSE(find_group(name).has_value());
  }
}

}  // namespace
}  // namespace kvt::server
