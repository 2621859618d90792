// SPDX-License-Identifier: Apache-2.0
//
// What a client asks for on attach.sock, as far as the bytes of its message say: the only place where they are given a
// meaning. Pure functions of values; whoever sent them, and with which descriptors, is the server's to look at.
#pragma once

#include <cstddef>
#include <span>
#include <variant>

#include "shm/abi/wire.h"
#include "shm/base/result.h"

namespace kvt::server {

/// A DETACH has no fields.
struct Detach {};

/// Of a message of an earlier minor version the fields that it does not have are 0; texts end.
using Request =
    std::variant<kvt_wire_hello, kvt_wire_attach, kvt_wire_join, kvt_wire_resume, kvt_wire_chunks, Detach>;

/// One whole message. kInvalid with what is wrong with it, which is no answer to a client: it does not speak our language.
Result<Request> parse_request(std::span<const std::byte> message);

/// Whether daemon and client can speak of the same layout. kMismatch with both versions.
Result<void> check_versions(const kvt_wire_hello& hello);

/// Geometry, access and fingerprint that a client expects, against the arena's; both are in the words. kMismatch, kLimit,
/// kInvalid.
Result<void> check_attach(const kvt_wire_attach& request, const kvt_abi_arena_header& arena);

/// Nobody has said yet what the bytes of the arena's pages mean.
bool has_no_fingerprint(const kvt_abi_arena_header& arena);

}  // namespace kvt::server
