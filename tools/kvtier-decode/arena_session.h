// SPDX-License-Identifier: Apache-2.0
//
// An attached session of libkvtier whose arena fits the model, and the ways in which it can end. Not
// thread-safe.
#pragma once

#include <kvtier/kvtier.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <string>

#include "tools/kvtier-decode/kv_layout.h"

namespace kvt::decode {

struct ArenaOptions {
  std::string socket_dir;  ///< empty: as kvt_attach finds it
  std::string arena = "default";
  uint32_t column = 0;
  uint32_t timeout_ms = 1000;                 ///< longest wait in one call
  std::chrono::milliseconds patience{60000};  ///< longest wait for a daemon that is away
  std::array<uint8_t, 32> fingerprint{};
  bool cuda = false;        ///< pages are read and written by a GPU
  int cuda_device = 0;      ///< as CUDA counts them for this process
  std::string cuda_driver;  ///< path; empty: as kvt_attach finds it
};

class ArenaSession {
 public:
  ArenaSession(ArenaOptions options, const KvLayout& layout)
      : options_(std::move(options)), layout_(layout) {}
  ArenaSession(const ArenaSession&) = delete;
  ArenaSession& operator=(const ArenaSession&) = delete;
  ~ArenaSession() { detach(); }

  [[nodiscard]] bool attached() const { return session_ != nullptr; }
  [[nodiscard]] kvt_session* get() const { return session_; }
  [[nodiscard]] const kvt_geometry& geometry() const { return geometry_; }
  /// Of a layer in a page.
  [[nodiscard]] uint64_t plane_bytes() const { return geometry_.page_bytes / geometry_.planes; }
  [[nodiscard]] const ArenaOptions& options() const { return options_; }
  [[nodiscard]] const std::byte* address(kvt_frame frame) const {
    return static_cast<const std::byte*>(geometry_.base) + uint64_t{frame} * geometry_.stride;
  }

  /// Whether a frame is device memory, which a CPU cannot read.
  [[nodiscard]] bool on_device(kvt_frame frame) const;

  /// KVT_OK, or KVT_E_AGAIN when no daemon answers. Throws MissingError (no such arena), UsageError (an arena
  /// of another geometry or model), std::runtime_error (anything else).
  int try_attach();
  /// Once, when the program begins: no daemon is an error, too.
  void attach();
  /// Waits until a daemon answers, at most options().patience; then throws std::runtime_error.
  void attach_patiently();
  void detach();

  /// Moves of the arena's pages while this object was attached.
  [[nodiscard]] uint64_t arena_moves() const { return moves_ended_ + moves_now() - moves_begin_; }

 private:
  [[nodiscard]] uint64_t moves_now() const;

  ArenaOptions options_;
  KvLayout layout_;
  kvt_session* session_ = nullptr;
  kvt_geometry geometry_{};
  uint64_t moves_begin_ = 0;  ///< of the session that is attached
  uint64_t moves_ended_ = 0;  ///< of those before
};

/// Between two looks for a daemon that is away.
void pause_for_daemon();
/// Throws std::runtime_error with `what`, the code and kvt_last_error().
[[noreturn]] void fail(const char* what, int code);

}  // namespace kvt::decode
