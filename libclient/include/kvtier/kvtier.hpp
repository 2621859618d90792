// SPDX-License-Identifier: Apache-2.0
//
// kvtier.hpp: header-only C++17 over kvtier.h. Same rules; errors that are not outcomes are kvt::Exception.
// A Session may be shared by threads; a Step and a Hold belong to one thread at a time, and must not outlive their
// Session. Sessions with a GPU: kvtier/cuda.hpp. What is not here is in kvtier.h: Session::get() is the kvt_session that its
// functions take.
#pragma once

#include <kvtier/kvtier.h>

#include <optional>
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

/// Pages with one hold of the session on each, which are given back when it goes: the block list of a sequence.
class Hold {
 public:
  Hold() = default;
  /// Takes over holds that the session has.
  Hold(kvt_session* session, std::vector<kvt_page> pages) : session_(session), pages_(std::move(pages)) {}
  Hold(Hold&& other) noexcept : session_(other.session_), pages_(std::exchange(other.pages_, {})) {}
  Hold& operator=(Hold&& other) noexcept {
    std::swap(session_, other.session_);
    std::swap(pages_, other.pages_);
    return *this;
  }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  ~Hold() {
    if (!pages_.empty()) kvt_release(session_, pages_.data(), pages_.size(), nullptr);
  }

  [[nodiscard]] const std::vector<kvt_page>& pages() const { return pages_; }
  [[nodiscard]] size_t size() const { return pages_.size(); }
  [[nodiscard]] bool empty() const { return pages_.empty(); }
  [[nodiscard]] kvt_page operator[](size_t i) const { return pages_[i]; }
  [[nodiscard]] auto begin() const { return pages_.begin(); }
  [[nodiscard]] auto end() const { return pages_.end(); }

  /// Appends the pages of another one of the same session, which is empty then.
  void append(Hold&& other) {
    pages_.insert(pages_.end(), other.pages_.begin(), other.pages_.end());
    if (session_ == nullptr) session_ = other.session_;
    other.pages_.clear();
  }
  /// Gives the holds back now; with `step`: when that step ends.
  void release(const kvt_step* step = nullptr) {
    const std::vector<kvt_page> pages = take();
    if (!pages.empty()) check(kvt_release(session_, pages.data(), pages.size(), step));
  }
  /// The pages, whose holds are the caller's from here on.
  [[nodiscard]] std::vector<kvt_page> take() { return std::exchange(pages_, {}); }

 private:
  kvt_session* session_ = nullptr;
  std::vector<kvt_page> pages_;
};

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

  /// n fresh pages, or as many as the arena still gave (none: full).
  [[nodiscard]] Hold allocate(size_t n) const {
    std::vector<kvt_page> pages(n);
    size_t have = 0;
    int got = 0;
    while (have < n && (got = kvt_allocate(raw_, pages.data() + have, n - have)) > 0) have += static_cast<size_t>(got);
    pages.resize(have);
    Hold hold(raw_, std::move(pages));
    if (got != KVT_E_FULL) check(got);
    return hold;
  }
  /// Where to write a FILLING page of this session.
  [[nodiscard]] void* data(kvt_page page) const {
    void* const address = kvt_page_data(raw_, page);
    if (address == nullptr) throw Exception(kvt_last_error_code());
    return address;
  }
  /// Publishes; each entry has its own result.
  void publish(std::vector<kvt_publish_entry>& entries) const { check(kvt_publish(raw_, entries.data(), entries.size())); }
  /// The longest prefix of `keys` that is there.
  [[nodiscard]] Hold hold_prefix(const std::vector<kvt_key>& keys) const {
    std::vector<kvt_page> pages(keys.size());
    const int found = check(kvt_lookup(raw_, keys.data(), keys.size(), KVT_LOOKUP_HOLD | KVT_LOOKUP_CHAIN, pages.data()));
    pages.resize(static_cast<size_t>(found));
    return {raw_, std::move(pages)};
  }
  /// Counts one read of each page.
  void touch(const std::vector<kvt_page>& pages) const { check(kvt_touch(raw_, pages.data(), pages.size())); }

 private:
  kvt_session* raw_ = nullptr;
};

/// What can be done in an open step: the common part of Step and CudaStep (kvtier/cuda.hpp).
class OpenStep {
 public:
  OpenStep(const OpenStep&) = delete;
  OpenStep& operator=(const OpenStep&) = delete;

  [[nodiscard]] const kvt_step* get() const { return &step_; }
  [[nodiscard]] std::vector<kvt_frame> resolve(const std::vector<kvt_page>& pages) const {
    std::vector<kvt_frame> frames(pages.size());
    check(kvt_resolve(session_, &step_, pages.data(), pages.size(), frames.data()));
    return frames;
  }

  /// The cursor for a block table that is resolved in this step after this call.
  [[nodiscard]] uint64_t changes_begin() const {
    uint64_t cursor = 0;
    check(kvt_changes_begin(session_, &step_, &cursor));
    return cursor;
  }
  /// Writes the next changes of placement, at most `capacity`, and returns how many. Empty: more has changed than the
  /// log keeps, and everything must be resolved again.
  [[nodiscard]] std::optional<size_t> changes(uint64_t& cursor, kvt_change* changes, size_t capacity) const {
    const int n = kvt_changes(session_, &step_, &cursor, changes, capacity);
    if (n == KVT_E_OVERRUN) return std::nullopt;
    return static_cast<size_t>(check(n));
  }

 protected:
  explicit OpenStep(kvt_session* session) : session_(session) {}
  ~OpenStep() = default;

  kvt_session* session_;
  kvt_step step_{};
  bool open_ = true;
};

/// A step that ends with its scope.
class Step : public OpenStep {
 public:
  explicit Step(const Session& session) : OpenStep(session.get()) { check(kvt_step_begin(session_, &step_)); }
  ~Step() {
    if (open_) kvt_step_end(session_, &step_);
  }

  /// Ends it now, and tells whether all seals and releases that were given with it could be done.
  void end() {
    open_ = false;
    check(kvt_step_end(session_, &step_));
  }
};

}  // namespace kvt
