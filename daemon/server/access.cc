// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/access.h"

#include <grp.h>
#include <pwd.h>

#include <algorithm>

namespace kvt::server {

bool may_attach(const Peer& peer, const Ownership& arena, Wanted wanted) {
  if (peer.uid == 0) return true;
  uint32_t bits = arena.mode & 7;
  if (peer.uid == arena.uid)
    bits = (arena.mode >> 6) & 7;
  else if (peer.gid == arena.gid ||
           std::find(peer.groups.begin(), peer.groups.end(), arena.gid) != peer.groups.end())
    bits = (arena.mode >> 3) & 7;
  const auto needed = static_cast<uint32_t>(wanted);
  return (bits & needed) == needed;
}

namespace {
bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 10 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}
}  // namespace

Result<uint32_t> find_user(const std::string& name) {
  if (is_number(name)) return static_cast<uint32_t>(std::stoul(name));
  const passwd* const found = ::getpwnam(name.c_str());
  if (found == nullptr) return fail(Code::kNotFound, "no user \"" + name + "\" on this host");
  return found->pw_uid;
}

Result<uint32_t> find_group(const std::string& name) {
  if (is_number(name)) return static_cast<uint32_t>(std::stoul(name));
  const group* const found = ::getgrnam(name.c_str());
  if (found == nullptr) return fail(Code::kNotFound, "no group \"" + name + "\" on this host");
  return found->gr_gid;
}

}  // namespace kvt::server
