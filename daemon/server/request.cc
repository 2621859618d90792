// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/request.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace kvt::server {
namespace {

Result<Request> wrong_size(const char* name) {
  return fail(Code::kInvalid, fmt::format("{} of a wrong size", name));
}

/// Later minor versions are longer: the rest of a shorter message is zero.
template <typename Struct>
Result<Request> take(std::span<const std::byte> message, size_t bytes_min, const char* name) {
  if (message.size() != bytes_min && message.size() != sizeof(Struct)) return wrong_size(name);
  Struct value{};
  std::memcpy(&value, message.data(), message.size());
  return value;
}

std::string hex(const uint8_t (&bytes)[KVT_FINGERPRINT_BYTES]) {
  std::string text;
  for (size_t i = 0; i < 8; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text + "...";
}

}  // namespace

Result<Request> parse_request(std::span<const std::byte> message) {
  kvt_wire_header header{};
  if (message.size() < sizeof header) return fail(Code::kInvalid, "half a message");
  std::memcpy(&header, message.data(), sizeof header);
  if (header.magic != KVT_WIRE_MAGIC || header.bytes != message.size())
    return fail(Code::kInvalid, "a message with a wrong head");
  switch (header.type) {
    case KVT_WIRE_HELLO: return take<kvt_wire_hello>(message, sizeof(kvt_wire_hello), "a HELLO");
    case KVT_WIRE_ATTACH: {
      auto request = take<kvt_wire_attach>(message, KVT_WIRE_ATTACH_BYTES_MIN, "an ATTACH");
      if (request) std::get<kvt_wire_attach>(*request).arena[KVT_ARENA_NAME_BYTES - 1] = '\0';
      return request;
    }
    case KVT_WIRE_JOIN: return take<kvt_wire_join>(message, KVT_WIRE_JOIN_BYTES_MIN, "a JOIN");
    case KVT_WIRE_RESUME: return take<kvt_wire_resume>(message, sizeof(kvt_wire_resume), "a RESUME");
    case KVT_WIRE_CHUNKS: return take<kvt_wire_chunks>(message, sizeof(kvt_wire_chunks), "a CHUNKS");
    case KVT_WIRE_DETACH:
      if (message.size() != sizeof(kvt_wire_empty)) return wrong_size("a DETACH");
      return Detach{};
    default: return fail(Code::kInvalid, fmt::format("message type {}", header.type));
  }
}

Result<void> check_versions(const kvt_wire_hello& hello) {
  if (hello.abi_major != KVT_ABI_MAJOR)
    return fail(Code::kMismatch, fmt::format("the daemon speaks layout {}.{}, the client {}.{}",
                                             KVT_ABI_MAJOR, KVT_ABI_MINOR, hello.abi_major, hello.abi_minor));
  if ((hello.incompat & ~KVT_INCOMPAT_KNOWN) != 0)
    return fail(Code::kMismatch, fmt::format("the client needs feature bits {:#x}, the daemon knows {:#x}",
                                             hello.incompat, uint64_t{KVT_INCOMPAT_KNOWN}));
  return {};
}

bool has_no_fingerprint(const kvt_abi_arena_header& arena) {
  return std::all_of(std::begin(arena.fingerprint), std::end(arena.fingerprint),
                     [](uint8_t byte) { return byte == 0; });
}

Result<void> check_attach(const kvt_wire_attach& request, const kvt_abi_arena_header& arena) {
  const auto differs = [&](const char* what, uint64_t wanted, uint64_t has) -> Result<void> {
    if (wanted == 0 || wanted == has) return {};
    return fail(Code::kMismatch,
                fmt::format("arena \"{}\" has {} {}, the client wants {}", arena.name, what, has, wanted));
  };
  KVT_TRY(differs("page_bytes", request.page_bytes, arena.page_bytes));
  KVT_TRY(differs("block_tokens", request.block_tokens, arena.block_tokens));
  KVT_TRY(differs("planes", request.planes, arena.planes));
  KVT_TRY(differs("columns", request.columns, arena.columns));
  if (request.column >= arena.columns)
    return fail(Code::kMismatch, fmt::format("arena \"{}\" has {} columns, the client wants column {}",
                                             arena.name, arena.columns, request.column));
  if (request.members_max == 0 || request.members_max > KVT_MAX_MEMBERS)
    return fail(Code::kLimit, fmt::format("members_max {}: a session has 1 to {} members",
                                          request.members_max, KVT_MAX_MEMBERS));
  if (request.access != KVT_WIRE_READ && request.access != KVT_WIRE_READ_WRITE)
    return fail(Code::kInvalid, fmt::format("access {} is neither read nor read-write", request.access));
  if (request.access == KVT_WIRE_READ && request.guarantee_pages != 0)
    return fail(Code::kInvalid,
                fmt::format("guarantee_pages {}: a session that only reads allocates none; expected 0",
                            request.guarantee_pages));
  if (request.has_fingerprint == 0 || has_no_fingerprint(arena)) return {};
  if (!std::equal(std::begin(request.fingerprint), std::end(request.fingerprint),
                  std::begin(arena.fingerprint)))
    return fail(Code::kMismatch, fmt::format("arena \"{}\" has fingerprint {}, the client has {}", arena.name,
                                             hex(arena.fingerprint), hex(request.fingerprint)));
  return {};
}

}  // namespace kvt::server
