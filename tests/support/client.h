// SPDX-License-Identifier: Apache-2.0
//
// What tests of libkvtier share: attaching, keys, and page contents that are a function of key and offset, so
// that any process can check every word. Values; a Client may be shared by threads like its session.
#pragma once

#include <kvtier/kvtier.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/support/daemon.h"

namespace kvt::test {

inline kvt_attach_args attach_args(const std::string& folder) {
  kvt_attach_args args{};
  args.size = sizeof args;
  args.socket_dir = folder.c_str();
  args.timeout_ms = 10'000;
  return args;
}

/// A session that goes with the object.
class Client {
 public:
  Client() = default;
  explicit Client(const kvt_attach_args& args) { code_ = kvt_attach(&args, &raw_); }
  explicit Client(const Daemon& daemon, uint32_t column = 0, uint32_t access = KVT_ACCESS_READ_WRITE) {
    kvt_attach_args args = attach_args(daemon.folder());
    args.column = column;
    args.access = access;
    code_ = kvt_attach(&args, &raw_);
  }
  Client(const kvt_attach_args& args, const uint8_t (&token)[KVT_TOKEN_BYTES]) {
    code_ = kvt_join(&args, token, &raw_);
  }
  Client(Client&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)), code_(other.code_) {}
  Client& operator=(Client&& other) noexcept {
    std::swap(raw_, other.raw_);
    std::swap(code_, other.code_);
    return *this;
  }
  ~Client() { kvt_detach(raw_); }

  [[nodiscard]] kvt_session* get() const { return raw_; }
  operator kvt_session*() const { return raw_; }  // NOLINT: the tests are about the C calls
  [[nodiscard]] int code() const { return code_; }
  [[nodiscard]] kvt_geometry geometry() const {
    kvt_geometry geometry{};
    geometry.size = sizeof geometry;
    kvt_get_geometry(raw_, &geometry);
    return geometry;
  }
  [[nodiscard]] kvt_page_info info(kvt_page page) const {
    kvt_page_info info{};
    info.size = sizeof info;
    kvt_get_page_info(raw_, KVT_PAGE_INDEX(page), &info);
    return info;
  }
  [[nodiscard]] kvt_stats stats() const {
    kvt_stats stats{};
    stats.size = sizeof stats;
    kvt_get_stats(raw_, &stats);
    return stats;
  }
  void detach() {
    kvt_detach(raw_);
    raw_ = nullptr;
  }

 private:
  kvt_session* raw_ = nullptr;
  int code_ = KVT_OK;
};

/// Whether the page has a second frame: its row says so a moment after it says where the page is.
inline bool gets_shadow(const Client& client, kvt_page page) {
  return eventually([&] { return client.info(page).shadow_frame != KVT_NO_FRAME; });
}

inline kvt_key key_of(uint64_t number) { return kvt_key{number * 0x9e3779b97f4a7c15ull + 1, number + 1}; }

inline uint64_t word_of(kvt_key key, uint64_t index) {
  uint64_t word = key.lo ^ (key.hi << 32) ^ (index * 0xbf58476d1ce4e5b9ull);
  word = (word ^ (word >> 31)) * 0x94d049bb133111ebull;
  return word ^ (word >> 29);
}

inline void fill(void* data, uint64_t bytes, kvt_key key) {
  auto* const words = static_cast<uint64_t*>(data);
  for (uint64_t i = 0; i < bytes / 8; ++i) words[i] = word_of(key, i);
}

/// How many of the page's words are not what `fill` wrote.
inline uint64_t wrong_words(const void* data, uint64_t bytes, kvt_key key) {
  const auto* const words = static_cast<const volatile uint64_t*>(data);
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < bytes / 8; ++i) wrong += words[i] != word_of(key, i) ? 1 : 0;
  return wrong;
}

/// Allocates exactly n pages, in as many calls as it takes; fewer: the arena gave no more.
inline std::vector<kvt_page> allocate(kvt_session* session, size_t n) {
  std::vector<kvt_page> pages(n);
  size_t have = 0;
  while (have < n) {
    const int got = kvt_allocate(session, pages.data() + have, n - have);
    if (got <= 0) break;
    have += static_cast<size_t>(got);
  }
  pages.resize(have);
  return pages;
}

/// Allocates, fills and publishes a page under `key`; it stays held. KVT_NO_PAGE: something failed.
inline kvt_page publish_page(kvt_session* session, kvt_key key, uint64_t page_bytes,
                             kvt_page parent = KVT_NO_PAGE, uint32_t group = 0) {
  kvt_page page = KVT_NO_PAGE;
  if (kvt_allocate(session, &page, 1) != 1) return KVT_NO_PAGE;
  void* const data = kvt_page_data(session, page);
  if (data == nullptr) return KVT_NO_PAGE;
  fill(data, page_bytes, key);
  kvt_publish_entry entry{};
  entry.page = page;
  entry.key = key;
  entry.parent = parent;
  entry.group = group;
  if (kvt_publish(session, &entry, 1) != 1 || entry.result != KVT_PUBLISHED) return KVT_NO_PAGE;
  return page;
}

/// Wrong words of a page that is readable now, or UINT64_MAX when it is not.
inline uint64_t verify_page(kvt_session* session, kvt_page page, kvt_key key, uint64_t page_bytes) {
  kvt_step step{};
  if (kvt_step_begin(session, &step) != KVT_OK) return UINT64_MAX;
  const void* address = nullptr;
  uint64_t wrong = UINT64_MAX;
  if (kvt_resolve_addresses(session, &step, &page, 1, &address) == 1)
    wrong = wrong_words(address, page_bytes, key);
  kvt_step_end(session, &step);
  return wrong;
}

/// The kvt_publish result of one page.
inline int publish_result(kvt_session* session, kvt_page page, kvt_key key, kvt_page* present = nullptr) {
  kvt_publish_entry entry{};
  entry.page = page;
  entry.key = key;
  entry.parent = KVT_NO_PAGE;
  const int done = kvt_publish(session, &entry, 1);
  if (present != nullptr) *present = entry.present;
  return done == 1 ? entry.result : done;
}

inline bool mentions(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* const word : words)
    if (text.find(word) == std::string::npos) return false;
  return true;
}

}  // namespace kvt::test
