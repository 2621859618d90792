// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/arena_session.h"

#include <fmt/format.h>

#include <stdexcept>
#include <thread>

#include "tools/kvtier-decode/errors.h"

namespace kvt::decode {
namespace {

constexpr auto kPause = std::chrono::milliseconds(5);

}  // namespace

void pause_for_daemon() { std::this_thread::sleep_for(kPause); }

void fail(const char* what, int code) {
  throw std::runtime_error(fmt::format("{}: {}: {}", what, kvt_strerror(code), kvt_last_error()));
}

int ArenaSession::try_attach() {
  kvt_attach_args args{};
  args.size = sizeof args;
  args.socket_dir = options_.socket_dir.empty() ? nullptr : options_.socket_dir.c_str();
  args.arena = options_.arena.c_str();
  args.block_tokens = layout_.block_tokens;
  args.planes = layout_.layers;
  args.column = options_.column;
  args.timeout_ms = options_.timeout_ms;
  args.fingerprint = options_.fingerprint.data();
  if (options_.cuda) {
    args.flags = KVT_ATTACH_CUDA;
    args.cuda_device = options_.cuda_device;
    args.cuda_driver = options_.cuda_driver.empty() ? nullptr : options_.cuda_driver.c_str();
  }
  const int code = kvt_attach(&args, &session_);
  if (code == KVT_E_AGAIN) return code;
  if (code == KVT_E_NOT_FOUND)
    throw MissingError(fmt::format("arena \"{}\": {}", options_.arena, kvt_last_error()));
  if (code == KVT_E_MISMATCH || code == KVT_E_INVALID)
    throw UsageError(fmt::format("arena \"{}\": {}", options_.arena, kvt_last_error()));
  if (code != KVT_OK) fail("attach", code);
  geometry_.size = sizeof geometry_;
  if (const int got = kvt_get_geometry(session_, &geometry_); got != KVT_OK) fail("geometry", got);
  if (plane_bytes() < layout_.layer_bytes() || plane_bytes() % sizeof(float) != 0) {
    const std::string text = fmt::format(
        "arena \"{}\" has pages of {} bytes, {} in each of {} layers: expected at least {} in a layer, a "
        "multiple of {}",
        options_.arena, geometry_.page_bytes, plane_bytes(), geometry_.planes, layout_.layer_bytes(),
        sizeof(float));
    detach();
    throw UsageError(text);
  }
  moves_begin_ = moves_now();
  return KVT_OK;
}

bool ArenaSession::on_device(kvt_frame frame) const {
  for (uint32_t tier = 0; tier < geometry_.tiers; ++tier) {
    const kvt_window& window = geometry_.windows[tier];
    if (frame >= window.first_frame && frame - window.first_frame < window.frames)
      return (geometry_.device_tiers >> tier & 1) != 0;
  }
  return false;
}

void ArenaSession::attach() {
  if (const int code = try_attach(); code != KVT_OK) fail("attach", code);
}

void ArenaSession::attach_patiently() {
  const auto end = std::chrono::steady_clock::now() + options_.patience;
  for (;;) {
    const int code = try_attach();
    if (code == KVT_OK) return;
    if (std::chrono::steady_clock::now() > end) fail("the daemon has not come back", code);
    pause_for_daemon();
  }
}

void ArenaSession::detach() {
  if (session_ == nullptr) return;
  moves_ended_ += moves_now() - moves_begin_;
  moves_begin_ = 0;
  kvt_detach(session_);
  session_ = nullptr;
}

uint64_t ArenaSession::moves_now() const {
  if (session_ == nullptr) return 0;
  kvt_stats stats{};
  stats.size = sizeof stats;
  if (kvt_get_stats(session_, &stats) != KVT_OK) return 0;
  return stats.moves_promoted + stats.moves_demoted_copy + stats.moves_demoted_free;
}

}  // namespace kvt::decode
