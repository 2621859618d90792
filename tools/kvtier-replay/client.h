// SPDX-License-Identifier: Apache-2.0
//
// One kvtier session as the replay uses it: waits through KVT_E_AGAIN (the daemon is busy or away), and
// throws std::runtime_error with the call's name for every error that the replay does not expect. Not
// thread-safe.
#pragma once

#include <kvtier/kvtier.hpp>
#include <span>
#include <string>

#include "tools/kvtier-replay/board.h"

namespace kvt::replay {

class Client {
 public:
  /// Attaches; waits up to 10 s for the daemon.
  explicit Client(const BoardHeader& board);

  [[nodiscard]] kvt_session* session() const { return session_.get(); }
  [[nodiscard]] const kvt_geometry& geometry() const { return geometry_; }
  [[nodiscard]] size_t page_words() const { return geometry_.page_bytes / sizeof(uint64_t); }
  [[nodiscard]] void* address(kvt_frame frame) const {
    return static_cast<char*>(geometry_.base) + frame * geometry_.stride;
  }
  [[nodiscard]] kvt_frame frame_at(const void* address) const {
    const auto offset = static_cast<const char*>(address) - static_cast<const char*>(geometry_.base);
    return static_cast<kvt_frame>(static_cast<uint64_t>(offset) / geometry_.stride);
  }
  /// The window that a frame lies in, or geometry().tiers.
  [[nodiscard]] uint32_t tier_of(kvt_frame frame) const;

  /// How many of the keys were found (KVT_LOOKUP_ flags).
  size_t lookup(std::span<const kvt_key> keys, uint32_t flags, kvt_page* pages);
  /// How many pages were had: fewer than asked when the arena is full.
  size_t allocate(std::span<kvt_page> pages);
  void* page_data(kvt_page page);
  void publish(std::span<kvt_publish_entry> entries);
  bool hold(kvt_page page);
  void seal(kvt_page page);
  /// Gives one hold back on each.
  void release(std::span<const kvt_page> pages);
  void release(kvt_page page) { release({&page, 1}); }

  kvt_step step_begin();
  void step_end(const kvt_step& step);
  void resolve(const kvt_step& step, std::span<const kvt_page> pages, kvt_frame* frames);
  void touch(std::span<const kvt_page> pages);
  /// Whether `frame` is the page's first or second place now.
  [[nodiscard]] bool lies_in(kvt_page page, kvt_frame frame);
  /// Bytes that this process has copied into faster tiers while it resolved them.
  [[nodiscard]] uint64_t bytes_staged();

  /// `result` of the call of that name; throws when it is an error.
  static int checked(const char* name, int result);

 private:
  template <class Call>
  int wait_through(const char* name, Call call);

  Session session_;
  kvt_geometry geometry_{};
};

}  // namespace kvt::replay
