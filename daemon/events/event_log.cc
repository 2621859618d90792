// SPDX-License-Identifier: Apache-2.0
#include "daemon/events/event_log.h"

#include <algorithm>

namespace kvt::events {

void EventLog::add(Kind kind, std::string_view text, Clock::time_point now) {
  const auto row = static_cast<size_t>(kind);
  Event& event = events_[row * kEach + counts_[row]++ % kEach];
  event.serial = ++last_;
  event.at = now;
  event.kind = kind;
  const size_t bytes = std::min(text.size(), event.words.size());
  std::copy_n(text.begin(), bytes, event.words.begin());
  if (bytes < text.size()) std::fill(event.words.end() - 2, event.words.end(), '.');
  event.bytes = static_cast<uint8_t>(bytes);
}

std::vector<const Event*> EventLog::since(uint64_t serial, size_t most) const {
  std::vector<const Event*> found;
  for (const Event& event : events_)
    if (event.serial > serial) found.push_back(&event);
  std::sort(found.begin(), found.end(), [](const Event* a, const Event* b) { return a->serial < b->serial; });
  if (found.size() > most) found.erase(found.begin(), found.end() - static_cast<std::ptrdiff_t>(most));
  return found;
}

}  // namespace kvt::events
