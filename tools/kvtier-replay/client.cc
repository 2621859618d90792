// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/client.h"

#include <fmt/format.h>

#include <chrono>
#include <stdexcept>
#include <thread>

namespace kvt::replay {
namespace {

constexpr int64_t kDaemonAwayMaxNs = 10'000'000'000;
constexpr auto kPause = std::chrono::milliseconds(1);
constexpr uint32_t kTimeoutMs = 2000;

[[noreturn]] void fail(const char* name, int code) {
  const char* const detail = kvt_last_error();
  throw std::runtime_error(fmt::format("{}: {} ({})", name, kvt_strerror(code), detail));
}

kvt_attach_args attach_args(const BoardHeader& board) {
  kvt_attach_args args{};
  args.size = sizeof args;
  args.socket_dir = board.socket_dir.data();
  args.arena = board.arena.data();
  args.page_bytes = board.page_bytes;
  args.timeout_ms = kTimeoutMs;
  if (board.no_balance != 0) args.flags |= KVT_ATTACH_NO_BALANCE;
  if (board.device == DeviceKind::kCuda) {
    args.flags |= KVT_ATTACH_CUDA;
    args.cuda_device = board.cuda_device;
    args.cuda_driver = board.cuda_driver.data();
  }
  return args;
}

}  // namespace

int Client::checked(const char* name, int result) {
  if (result < 0) fail(name, result);
  return result;
}

template <class Call>
int Client::wait_through(const char* name, Call call) {
  int result = call();
  if (result != KVT_E_AGAIN) return result;
  const int64_t give_up_ns = now_ns() + kDaemonAwayMaxNs;
  while (result == KVT_E_AGAIN) {
    if (now_ns() > give_up_ns) fail(name, result);
    std::this_thread::sleep_for(kPause);
    result = call();
  }
  return result;
}

Client::Client(const BoardHeader& board) {
  wait_through("kvt_attach", [&] {
    try {
      session_ = Session::attach(attach_args(board));
      return static_cast<int>(KVT_OK);
    } catch (const Exception& error) {
      if (error.code() == KVT_E_AGAIN) return error.code();
      throw;
    }
  });
  geometry_ = session_.geometry();
}

uint32_t Client::tier_of(kvt_frame frame) const {
  uint32_t tier = 0;
  while (tier < geometry_.tiers &&
         frame - geometry_.windows[tier].first_frame >= geometry_.windows[tier].frames)
    ++tier;
  return tier;
}

size_t Client::lookup(std::span<const kvt_key> keys, uint32_t flags, kvt_page* pages) {
  const int found = wait_through(
      "kvt_lookup", [&] { return kvt_lookup(session_.get(), keys.data(), keys.size(), flags, pages); });
  return static_cast<size_t>(checked("kvt_lookup", found));
}

size_t Client::allocate(std::span<kvt_page> pages) {
  size_t have = 0;
  while (have < pages.size()) {
    const int got = wait_through("kvt_allocate", [&] {
      return kvt_allocate(session_.get(), pages.data() + have, pages.size() - have);
    });
    if (got == KVT_E_FULL) break;
    have += static_cast<size_t>(checked("kvt_allocate", got));
  }
  return have;
}

void* Client::page_data(kvt_page page) {
  void* const data = kvt_page_data(session_.get(), page);
  if (data == nullptr) throw std::runtime_error(fmt::format("kvt_page_data: {}", kvt_last_error()));
  return data;
}

void Client::publish(std::span<kvt_publish_entry> entries) {
  const int result = wait_through(
      "kvt_publish", [&] { return kvt_publish(session_.get(), entries.data(), entries.size()); });
  checked("kvt_publish", result);
  for (const kvt_publish_entry& entry : entries)
    if (entry.result < 0) fail("kvt_publish of a page", entry.result);
}

bool Client::hold(kvt_page page) {
  return checked("kvt_hold", kvt_hold(session_.get(), &page, 1, nullptr)) == 1;
}

void Client::seal(kvt_page page) {
  checked("kvt_seal", wait_through("kvt_seal", [&] { return kvt_seal(session_.get(), &page, 1, nullptr); }));
}

void Client::release(std::span<const kvt_page> pages) {
  if (pages.empty()) return;
  bool again = false;
  const int result = wait_through("kvt_release", [&] {
    const int once = kvt_release(session_.get(), pages.data(), pages.size(), nullptr);
    again |= once == KVT_E_AGAIN;
    return once;
  });
  // What an interrupted call had released is not held any more when it is called again.
  if (again && (result == KVT_E_NOT_HELD || result == KVT_E_STALE)) return;
  checked("kvt_release", result);
}

kvt_step Client::step_begin() {
  kvt_step step{};
  checked("kvt_step_begin", kvt_step_begin(session_.get(), &step));
  return step;
}

void Client::step_end(const kvt_step& step) { checked("kvt_step_end", kvt_step_end(session_.get(), &step)); }

void Client::resolve(const kvt_step& step, std::span<const kvt_page> pages, kvt_frame* frames) {
  checked("kvt_resolve", kvt_resolve(session_.get(), &step, pages.data(), pages.size(), frames));
}

bool Client::lies_in(kvt_page page, kvt_frame frame) {
  kvt_page_info info{};
  info.size = sizeof info;
  checked("kvt_get_page_info", kvt_get_page_info(session_.get(), KVT_PAGE_INDEX(page), &info));
  return info.page == page && (info.frame == frame || info.shadow_frame == frame);
}

uint64_t Client::bytes_staged() {
  kvt_stats stats{};
  stats.size = sizeof stats;
  checked("kvt_get_stats", kvt_get_stats(session_.get(), &stats));
  return stats.bytes_staged;
}

void Client::touch(std::span<const kvt_page> pages) {
  checked("kvt_touch", kvt_touch(session_.get(), pages.data(), pages.size()));
}

}  // namespace kvt::replay
