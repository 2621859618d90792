// SPDX-License-Identifier: Apache-2.0
#include "daemon/topology/profile.h"

namespace kvt {
namespace {

constexpr Profile kProfiles[] = {
    {"gh200", {3728, 3728}, {335, 297}},
    {"h200-pcie5", {4300, 4300}, {55.6, 57}},
    {"h100-pcie5", {2570, 2570}, {55.6, 57}},
    {"paper", {4900, 4900}, {450, 450}},
};

}  // namespace

std::optional<Profile> find_profile(const std::string& name) {
  for (const Profile& profile : kProfiles)
    if (name == profile.name) return profile;
  return std::nullopt;
}

std::string profile_names() {
  std::string all;
  for (const Profile& profile : kProfiles)
    all += (all.empty() ? "\"" : ", \"") + std::string(profile.name) + "\"";
  return all;
}

}  // namespace kvt
