// SPDX-License-Identifier: Apache-2.0
//
// kvtier.hpp: header-only C++17 over kvtier.h. Same rules; errors that are not outcomes are kvt::Exception.
// A Session may be shared by threads; a Step belongs to one thread at a time.
#pragma once

#include <kvtier/kvtier.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace kvt {

class Exception : public std::runtime_error {
 public:
  explicit Exception(int code) : std::runtime_error(text(code)), code_(code) {}
  [[nodiscard]] int code() const { return code_; }

 private:
  static std::string text(int code) {
    const char* const detail = kvt_last_error();
    return detail[0] != '\0' ? detail : kvt_strerror(code);
  }
  int code_;
};

inline int check(int result) {
  if (result < 0) throw Exception(result);
  return result;
}

class Session {
 public:
  Session() = default;
  static Session attach(kvt_attach_args args) {
    args.size = sizeof args;
    Session session;
    check(kvt_attach(&args, &session.raw_));
    return session;
  }
  static Session join(kvt_attach_args args, const uint8_t (&token)[KVT_TOKEN_BYTES]) {
    args.size = sizeof args;
    Session session;
    check(kvt_join(&args, token, &session.raw_));
    return session;
  }
  Session(Session&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
  Session& operator=(Session&& other) noexcept {
    std::swap(raw_, other.raw_);
    return *this;
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() { kvt_detach(raw_); }

  [[nodiscard]] kvt_session* get() const { return raw_; }
  [[nodiscard]] kvt_geometry geometry() const {
    kvt_geometry geometry{};
    geometry.size = sizeof geometry;
    check(kvt_get_geometry(raw_, &geometry));
    return geometry;
  }
  /// Exactly n pages, or what the arena still gave (empty: full).
  [[nodiscard]] std::vector<kvt_page> allocate(size_t n) const {
    std::vector<kvt_page> pages(n);
    size_t have = 0;
    while (have < n) {
      const int got = kvt_allocate(raw_, pages.data() + have, n - have);
      if (got == KVT_E_FULL) break;
      have += static_cast<size_t>(check(got));
    }
    pages.resize(have);
    return pages;
  }
  /// Pages of the longest prefix of `keys` that is present, each held.
  [[nodiscard]] std::vector<kvt_page> hold_prefix(const std::vector<kvt_key>& keys) const {
    std::vector<kvt_page> pages(keys.size());
    const int found = check(kvt_lookup(raw_, keys.data(), keys.size(), KVT_LOOKUP_HOLD | KVT_LOOKUP_CHAIN, pages.data()));
    pages.resize(static_cast<size_t>(found));
    return pages;
  }
  void release(const std::vector<kvt_page>& pages) const { check(kvt_release(raw_, pages.data(), pages.size(), nullptr)); }

 private:
  kvt_session* raw_ = nullptr;
};

/// A step that ends with its scope.
class Step {
 public:
  explicit Step(const Session& session) : session_(session.get()) { check(kvt_step_begin(session_, &step_)); }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;
  ~Step() { kvt_step_end(session_, &step_); }

  [[nodiscard]] const kvt_step* get() const { return &step_; }
  [[nodiscard]] std::vector<kvt_frame> resolve(const std::vector<kvt_page>& pages) const {
    std::vector<kvt_frame> frames(pages.size());
    check(kvt_resolve(session_, &step_, pages.data(), pages.size(), frames.data()));
    return frames;
  }

 private:
  kvt_session* session_;
  kvt_step step_{};
};

}  // namespace kvt
