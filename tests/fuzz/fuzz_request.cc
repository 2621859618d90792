// SPDX-License-Identifier: Apache-2.0
//
// Any bytes as one message on attach.sock. It is refused with words, or it is one request, whose fields are the message's;
// what of an ATTACH the arena cannot give is refused, and nothing else.
//
// The first byte of an input says whether the head is made right (bit 0) and which arena is asked (bit 1); the rest is the
// message.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <variant>
#include <vector>

#include "daemon/server/request.h"
#include "tests/fuzz/input.h"

namespace {

using namespace kvt;
using fuzz::found;
using fuzz::require;

#ifdef KVT_FUZZ_CANARY
constexpr uint32_t kMembersMax = 4;  // the planted bug: more are taken for a mistake of the daemon's
#else
constexpr uint32_t kMembersMax = KVT_MAX_MEMBERS;
#endif

kvt_abi_arena_header arena_header(bool with_fingerprint) {
  kvt_abi_arena_header header{};
  std::strcpy(header.name, "kv");
  header.page_bytes = 65536;
  header.block_tokens = 16;
  header.planes = 2;
  header.columns = 2;
  if (with_fingerprint) std::memset(header.fingerprint, 0xab, sizeof header.fingerprint);
  return header;
}

/// The rules once more, in the order of the documents.
bool may_attach(const kvt_wire_attach& request, const kvt_abi_arena_header& arena) {
  const auto fits = [](uint64_t wanted, uint64_t has) { return wanted == 0 || wanted == has; };
  const bool is_read = request.access == KVT_WIRE_READ;
  const bool knows = std::any_of(std::begin(arena.fingerprint), std::end(arena.fingerprint),
                                 [](uint8_t byte) { return byte != 0; });
  return fits(request.page_bytes, arena.page_bytes) && fits(request.block_tokens, arena.block_tokens) &&
         fits(request.planes, arena.planes) && fits(request.columns, arena.columns) &&
         request.column < arena.columns && request.members_max >= 1 && request.members_max <= kMembersMax &&
         (is_read || request.access == KVT_WIRE_READ_WRITE) && (!is_read || request.guarantee_pages == 0) &&
         (!knows || request.has_fingerprint == 0 ||
          std::memcmp(request.fingerprint, arena.fingerprint, sizeof arena.fingerprint) == 0);
}

/// The fields are the message's, and those that it has not are 0.
template <typename Struct>
void check_fields(Struct request, const std::vector<std::byte>& message) {
  std::vector<std::byte> all(sizeof request);
  std::memcpy(all.data(), message.data(), std::min(message.size(), all.size()));
  if constexpr (std::is_same_v<Struct, kvt_wire_attach>) {
    require(request.arena[sizeof request.arena - 1] == '\0', "a name that does not end");
    all[offsetof(kvt_wire_attach, arena) + sizeof request.arena - 1] = std::byte{0};
  }
  require(message.size() <= sizeof request && std::memcmp(&request, all.data(), all.size()) == 0,
          "a request that is not what was sent");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  std::vector<std::byte> message(size - 1);
  std::memcpy(message.data(), data + 1, message.size());
  if ((data[0] & 1) != 0 && message.size() >= sizeof(kvt_wire_header)) {
    const uint32_t magic = KVT_WIRE_MAGIC;
    const auto bytes = static_cast<uint16_t>(message.size());
    std::memcpy(message.data() + offsetof(kvt_wire_header, magic), &magic, sizeof magic);
    std::memcpy(message.data() + offsetof(kvt_wire_header, bytes), &bytes, sizeof bytes);
  }
  const auto request = server::parse_request(message);
  if (!request) {
    require(!request.error().text.empty(), "refused without words");
    return 0;
  }
  kvt_wire_header header{};
  std::memcpy(&header, message.data(), sizeof header);
  if (const auto* const hello = std::get_if<kvt_wire_hello>(&*request)) {
    require(header.type == KVT_WIRE_HELLO, "a HELLO of another type");
    check_fields(*hello, message);
    require(server::check_versions(*hello).has_value() ==
                (hello->abi_major == KVT_ABI_MAJOR && (hello->incompat & ~KVT_INCOMPAT_KNOWN) == 0),
            "other versions than the rules have");
  } else if (const auto* const attach = std::get_if<kvt_wire_attach>(&*request)) {
    require(header.type == KVT_WIRE_ATTACH, "an ATTACH of another type");
    check_fields(*attach, message);
    const kvt_abi_arena_header arena = arena_header((data[0] & 2) != 0);
    const auto checked = server::check_attach(*attach, arena);
    if (checked.has_value() != may_attach(*attach, arena))
      found(kMembersMax == KVT_MAX_MEMBERS
                ? "the rules say otherwise: " + (checked ? "granted" : checked.error().text)
                : "canary: a session of more members");
  } else if (const auto* const join = std::get_if<kvt_wire_join>(&*request)) {
    require(header.type == KVT_WIRE_JOIN, "a JOIN of another type");
    check_fields(*join, message);
  } else if (const auto* const resume = std::get_if<kvt_wire_resume>(&*request)) {
    require(header.type == KVT_WIRE_RESUME, "a RESUME of another type");
    check_fields(*resume, message);
  } else if (const auto* const chunks = std::get_if<kvt_wire_chunks>(&*request)) {
    require(header.type == KVT_WIRE_CHUNKS, "a CHUNKS of another type");
    check_fields(*chunks, message);
  } else {
    require(header.type == KVT_WIRE_DETACH && message.size() == sizeof header, "a DETACH of another type");
  }
  return 0;
}
