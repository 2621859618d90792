// SPDX-License-Identifier: Apache-2.0
//
// Who may attach an arena: owner, group and mode as of a file, against the kernel's word on the peer. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shm/base/result.h"

namespace kvt::server {

struct Peer {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups;  ///< supplementary
};

struct Ownership {
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t mode = 0600;
};

enum class Wanted : uint8_t { kRead = 4, kReadWrite = 6 };

/// As for a file: root may; else the bits of the first class that fits decide.
bool may_attach(const Peer& peer, const Ownership& arena, Wanted wanted);

/// A user or group by name or number. kNotFound names it.
Result<uint32_t> find_user(const std::string& name);
Result<uint32_t> find_group(const std::string& name);

}  // namespace kvt::server
