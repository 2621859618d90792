// SPDX-License-Identifier: Apache-2.0
#include "daemon/restart/notifier.h"

#include <algorithm>
#include <utility>

namespace kvt::restart {

Notifier::Notifier(FdStore& store, std::function<std::string()> status)
    : store_(store), status_(std::move(status)) {
  if (const auto watchdog = store.watchdog()) feed_every_ = *watchdog / 2;
}

void Notifier::tell_status(const std::string& before, Clock::time_point now) {
  told_ = status_();
  next_status_ = now + kStatusPause;
  store_.notify(before + "STATUS=" + told_);
}

void Notifier::ready(Clock::time_point now) {
  tell_status("READY=1\n", now);
  next_feed_ = now + feed_every_;  // the manager's time begins with READY
}

void Notifier::reloading() {
  // The time is for Type=notify-reload, which newer managers have.
  const auto since = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch());
  store_.notify("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(since.count()));
}

void Notifier::reloaded(Clock::time_point now) { tell_status("READY=1\n", now); }

void Notifier::stopping() { store_.notify("STOPPING=1"); }

int Notifier::sleep_ms(int wanted_ms, Clock::time_point now) {
  if (!store_.is_kept()) return wanted_ms;
  const auto at_most = [&](Clock::time_point end) {
    const auto left = std::max<int64_t>(0, std::chrono::ceil<std::chrono::milliseconds>(end - now).count());
    if (wanted_ms < 0 || wanted_ms > left) wanted_ms = static_cast<int>(left);
  };
  if (wanted_ms < 0 && status_() != told_) at_most(next_status_);
  if (feed_every_ != Clock::duration::zero()) at_most(next_feed_);
  return wanted_ms;
}

void Notifier::turn_done(Clock::time_point now) {
  if (!store_.is_kept()) return;
  if (feed_every_ != Clock::duration::zero() && now >= next_feed_) {
    store_.notify("WATCHDOG=1");
    next_feed_ = now + feed_every_;
  }
  if (now < next_status_) return;
  next_status_ = now + kStatusPause;
  if (status_() != told_) tell_status("", now);
}

}  // namespace kvt::restart
