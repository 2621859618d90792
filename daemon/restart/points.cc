// SPDX-License-Identifier: Apache-2.0
#include "daemon/restart/points.h"

#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

namespace kvt::restart {
namespace {

constexpr const char* kNames[] = {
#define KVT_POINT_NAME(id, name) name,
    KVT_POINTS(KVT_POINT_NAME)
#undef KVT_POINT_NAME
};

bool allowed = false;  // of the loop's thread
std::atomic<uint64_t> left{0};
std::atomic<PointAction> action{PointAction::kKill};

}  // namespace

namespace point_detail {

std::atomic<uint32_t> armed{0};

void reach(Point point) {
  if (armed.load(std::memory_order_acquire) != static_cast<uint32_t>(point) + 1) return;
  if (left.fetch_sub(1, std::memory_order_relaxed) != 1) return;
  const PointAction wanted = action.load(std::memory_order_relaxed);
  armed.store(0, std::memory_order_relaxed);
  ::kill(::getpid(), wanted == PointAction::kKill ? SIGKILL : SIGSTOP);
}

}  // namespace point_detail

void allow_arming() { allowed = true; }

std::span<const char* const> point_names() { return kNames; }

Result<void> arm(const std::string& name, PointAction wanted, uint64_t after) {
  if (!allowed) return fail(Code::kPermission, "points are for tests, and need --allow-injection");
  for (uint32_t i = 0; i < std::size(kNames); ++i) {
    if (name != kNames[i]) continue;
    point_detail::armed.store(0, std::memory_order_relaxed);
    left.store(after == 0 ? 1 : after, std::memory_order_relaxed);
    action.store(wanted, std::memory_order_relaxed);
    point_detail::armed.store(i + 1, std::memory_order_release);
    return {};
  }
  return fail(Code::kNotFound, "there is no point \"" + name + "\" (kvtierd --list-points)");
}

Result<void> arm_from_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) return {};
  std::string line;
  std::getline(file, line);
  file.close();
  ::unlink(path.c_str());
  std::istringstream words(line);
  std::string name;
  std::string what;
  uint64_t after = 1;
  words >> name >> what;
  const bool named = !words.fail();
  if (named && !(words >> after)) after = 1;
  if (!named || (what != "kill" && what != "stop"))
    return fail(Code::kInvalid, path + ": \"" + line + "\"; expected NAME kill|stop [AFTER]");
  return arm(name, what == "kill" ? PointAction::kKill : PointAction::kStop, after);
}

}  // namespace kvt::restart
