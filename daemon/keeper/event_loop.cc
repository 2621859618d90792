// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/event_loop.h"

#include <sys/epoll.h>

#include <array>

namespace kvt::keeper {

Result<EventLoop> EventLoop::create() {
  EventLoop loop;
  loop.epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!loop.epoll_.valid()) return fail_errno("epoll_create1");
  return loop;
}

Result<void> EventLoop::add(int fd, Trigger trigger, std::function<void()> on_ready) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  if (trigger == Trigger::kEdge) event.events |= EPOLLET;
  // Descriptor and serial: an event that was queued for a descriptor closed meanwhile is not given to its
  // successor.
  const uint64_t serial = next_serial_++;
  event.data.u64 = (serial << 32) | static_cast<uint32_t>(fd);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return fail_errno("epoll_ctl add");
  entries_[fd] = Entry{serial & UINT32_MAX, std::move(on_ready)};
  return {};
}

Result<void> EventLoop::expect_writable(int fd) {
  epoll_event event{};
  event.events = EPOLLOUT;
  event.data.u64 = (entries_.at(fd).serial << 32) | static_cast<uint32_t>(fd);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) return fail_errno("epoll_ctl mod");
  return {};
}

void EventLoop::remove(int fd) {
  if (entries_.erase(fd) != 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void EventLoop::wait(int timeout_ms) {
  std::array<epoll_event, 64> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  woke_at_ = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) {
    const auto fd = static_cast<int>(events[static_cast<size_t>(i)].data.u64 & UINT32_MAX);
    const uint64_t serial = events[static_cast<size_t>(i)].data.u64 >> 32;
    const auto found = entries_.find(fd);
    if (found == entries_.end() || found->second.serial != serial) continue;
    const auto on_ready = found->second.on_ready;  // a copy: the callback may remove itself
    on_ready();
  }
}

}  // namespace kvt::keeper
