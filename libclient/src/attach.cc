// SPDX-License-Identifier: Apache-2.0
//
// Attaching, joining, resuming, detaching: the only code here that talks on attach.sock.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>

#include "libclient/src/session.h"
#include "shm/abi/wire.h"
#include "shm/base/socket.h"

namespace kvt::client {
namespace {

/// What a step copies into faster tiers at most, by default: one or two milliseconds of one core, a tenth of
/// a short decode step. The pages beyond it are read where they are, and taken by a later step.
constexpr uint64_t kStageBytesMax = 16u << 20;

uint64_t now_ms() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

template <typename Struct>
Struct message_of(uint16_t type) {
  Struct message{};
  message.header.magic = KVT_WIRE_MAGIC;
  message.header.type = type;
  message.header.bytes = sizeof(Struct);
  return message;
}

/// A daemon that has gone is one that is away: the next may be coming.
Result<void> send_bytes(const Fd& socket, std::span<const std::byte> bytes, std::span<const int> fds) {
  auto sent = send_message(socket, bytes, fds);
  if (!sent && (sent.error().system_errno == EPIPE || sent.error().system_errno == ECONNRESET))
    return fail(Code::kAgain, "the daemon closed the connection");
  return sent;
}

template <typename Struct>
Result<void> send_struct(const Fd& socket, const Struct& message, std::span<const int> fds = {}) {
  return send_bytes(socket, std::as_bytes(std::span(&message, 1)), fds);
}

Code code_of(uint32_t status) {
  switch (status) {
    case KVT_WIRE_E_VERSION:
    case KVT_WIRE_E_MISMATCH: return Code::kMismatch;
    case KVT_WIRE_E_NOT_FOUND: return Code::kNotFound;
    case KVT_WIRE_E_PERMISSION: return Code::kPermission;
    case KVT_WIRE_E_LIMIT: return Code::kLimit;
    case KVT_WIRE_E_FULL: return Code::kFull;
    case KVT_WIRE_E_ENDED: return Code::kEnded;
    case KVT_WIRE_E_SYSTEM: return Code::kSystem;
    default: return Code::kInvalid;
  }
}

struct Reply {
  uint16_t type = 0;
  Message message;
};

/// Waits for one message. A REFUSED becomes an error with the daemon's words.
Result<Reply> receive(const Fd& socket, uint32_t timeout_ms) {
  const uint64_t end = now_ms() + timeout_ms;
  for (;;) {
    auto message = receive_message(socket);
    if (!message && message.error().code == Code::kAgain) {
      const uint64_t now = now_ms();
      if (now >= end)
        return fail(Code::kAgain, "the daemon did not answer within " + std::to_string(timeout_ms) + " ms");
      pollfd poll_fd{socket.get(), POLLIN, 0};
      ::poll(&poll_fd, 1, static_cast<int>(end - now));
      continue;
    }
    if (!message) return fail(Code::kAgain, message.error().text);
    if (message->end) return fail(Code::kAgain, "the daemon closed the connection");
    kvt_wire_header header{};
    if (message->truncated || message->bytes.size() < sizeof header)
      return fail(Code::kInvalid, "the daemon sent half a message");
    std::memcpy(&header, message->bytes.data(), sizeof header);
    if (header.magic != KVT_WIRE_MAGIC || header.bytes != message->bytes.size())
      return fail(Code::kInvalid, "the daemon's message has a wrong head");
    if (header.type == KVT_WIRE_REFUSED) {
      kvt_wire_refused refused{};
      if (message->bytes.size() != sizeof refused)
        return fail(Code::kInvalid, "the daemon's refusal has a wrong size");
      std::memcpy(&refused, message->bytes.data(), sizeof refused);
      refused.text[sizeof refused.text - 1] = '\0';
      return tl::unexpected<Error>(
          Error{code_of(refused.status), static_cast<int>(refused.system_errno), refused.text});
    }
    return Reply{header.type, std::move(*message)};
  }
}

/// `older`: what older minor versions send; the rest of it is zero.
template <typename Struct>
Result<Struct> parse(const Reply& reply, uint16_t type, std::initializer_list<size_t> older = {}) {
  Struct value{};
  const size_t bytes = reply.message.bytes.size();
  if (reply.type != type ||
      (bytes != sizeof value && std::find(older.begin(), older.end(), bytes) == older.end()))
    return fail(Code::kInvalid, "the daemon answered message " + std::to_string(reply.type) + " where " +
                                    std::to_string(type) + " was expected");
  std::memcpy(&value, reply.message.bytes.data(), bytes);
  return value;
}

/// `minor` gets the daemon's minor version.
Result<Fd> open_connection(const std::string& socket_dir, uint32_t timeout_ms, uint32_t& minor) {
  KVT_TRY_ASSIGN(Fd socket, connect_unix(socket_dir + "/attach.sock", SOCK_SEQPACKET));
  auto hello = message_of<kvt_wire_hello>(KVT_WIRE_HELLO);
  hello.abi_major = KVT_ABI_MAJOR;
  hello.abi_minor = KVT_ABI_MINOR;
  hello.compat = KVT_COMPAT_KNOWN;
  hello.incompat = KVT_INCOMPAT_KNOWN;
  KVT_TRY(send_struct(socket, hello));
  KVT_TRY_ASSIGN(const Reply reply, receive(socket, timeout_ms));
  KVT_TRY_ASSIGN(const auto welcome, parse<kvt_wire_welcome>(reply, KVT_WIRE_WELCOME));
  if (welcome.abi_major != KVT_ABI_MAJOR)
    return fail(Code::kMismatch, "the daemon speaks layout " + std::to_string(welcome.abi_major) + "." +
                                     std::to_string(welcome.abi_minor) + ", this library " +
                                     std::to_string(KVT_ABI_MAJOR) + "." + std::to_string(KVT_ABI_MINOR));
  if ((welcome.incompat & ~KVT_INCOMPAT_KNOWN) != 0)
    return fail(Code::kMismatch, "the daemon needs feature bits " + std::to_string(welcome.incompat) +
                                     ", this library knows " + std::to_string(KVT_INCOMPAT_KNOWN));
  minor = welcome.abi_minor;
  return socket;
}

/// What resolving needs of the tiers that this session's column reads.
void prepare_reads(kvt_session& session) {
  const auto reads = [&](uint32_t tier) {
    const int32_t column = session.table.tier(tier).column;
    return column < 0 || column == static_cast<int32_t>(session.geometry.column);
  };
  const auto reaches = [&](uint32_t tier) {
    return reads(tier) && (session.unreachable_tiers & 1u << tier) == 0;
  };
  const auto bandwidth = [&](uint32_t tier) { return session.table.tier(tier).read_bytes_per_second; };
  const uint32_t tiers = session.table.tiers();
  for (uint32_t tier = 0; tier < tiers; ++tier)
    if (reads(tier) && !reaches(tier)) session.blind_tiers |= 1u << tier;
  while (session.fast_tier + 1 < tiers && !reaches(session.fast_tier)) ++session.fast_tier;
  const uint64_t fast = bandwidth(session.fast_tier);
  constexpr uint64_t kFast = uint64_t{1} << kvt_session::kFastPageBits;
  session.tiers = tiers;
  bool differ = false;
  for (uint32_t tier = session.fast_tier; tier < tiers && fast != 0; ++tier) {
    if (!reaches(tier) || bandwidth(tier) == 0) continue;
    session.read_time[tier] = static_cast<uint64_t>(static_cast<double>(kFast) * static_cast<double>(fast) /
                                                    static_cast<double>(bandwidth(tier)));
    if (bandwidth(tier) < fast && !differ) {
      differ = true;
      session.third_look = static_cast<size_t>((3 * (session.read_time[tier] + kFast) + kFast / 2) / kFast);
    }
  }
  // Where not every place can be read, what the daemon knows of this session's reads is no account to balance by.
  session.balances = session.balances && differ && session.blind_tiers == 0;
  session.takes_offers = session.takes_offers && session.access == KVT_WIRE_READ_WRITE;
  // The daemon makes offers to sessions that say so. Never taken back: what nobody takes lapses.
  if (session.takes_offers) store_relaxed(session.region.header().takes_offers, uint64_t{1});
}

/// Maps everything that a GRANT carries.
Result<void> take_grant(kvt_session& session, const Reply& reply) {
  KVT_TRY_ASSIGN(
      const auto grant,
      parse<kvt_wire_grant>(reply, KVT_WIRE_GRANT, {KVT_WIRE_GRANT_BYTES_MIN, KVT_WIRE_GRANT_BYTES_MINOR_3}));
  const std::vector<Fd>& fds = reply.message.fds;
  if (fds.size() < 3)
    return fail(Code::kInvalid, "the daemon's grant has " + std::to_string(fds.size()) + " descriptors");
  session.access = grant.access;
  session.member_index = grant.member;
  std::memcpy(session.token, grant.token, sizeof session.token);
  KVT_TRY_ASSIGN(session.table_mapping, Mapping::map(fds[0], grant.table_bytes, kvt::Access::kReadOnly));
  advise_huge(session.table_mapping.data(), session.table_mapping.bytes());
  KVT_TRY_ASSIGN(session.table, ArenaTable::open(session.table_mapping.data(), grant.table_bytes));
  KVT_TRY_ASSIGN(session.region_mapping, Mapping::map(fds[1], grant.session_bytes, kvt::Access::kReadWrite));
  advise_huge(session.region_mapping.data(), session.region_mapping.bytes());
  KVT_TRY_ASSIGN(session.region,
                 SessionRegion::open(session.region_mapping.data(), grant.session_bytes, session.geometry));
  if (session.geometry.pages != session.table.pages() || session.geometry.column >= session.table.columns() ||
      grant.member >= session.geometry.members_max || grant.windows != session.table.tiers())
    return fail(Code::kInvalid, "the daemon's grant does not fit its arena");
  size_t expected = 3;
  for (uint32_t i = 0; i < grant.windows; ++i) {
    const bool device = session.table.is_device(i);
    const bool given = (grant.device_tiers & 1u << i) != 0;
    if (device && !given) session.unreachable_tiers |= 1u << i;
    if (device && given) session.device_tiers |= 1u << i;
    if (grant.chunks_given_up[i] >= session.table.window_descriptors(i))
      return fail(Code::kInvalid, "the daemon's grant gives up all of a window");
    if (!device || given) expected += session.table.window_descriptors(i) - grant.chunks_given_up[i];
  }
  if (fds.size() != expected || (session.device_tiers != 0 && !session.cuda))
    return fail(Code::kInvalid, "the daemon's grant has " + std::to_string(fds.size()) + " descriptors for " +
                                    std::to_string(grant.windows) + " windows; expected " +
                                    std::to_string(expected));
  if (session.cuda) {
    KVT_TRY_ASSIGN(session.range, reserve_device_range(session, session.table.range_bytes()));
  } else {
    KVT_TRY_ASSIGN(session.range, AddressRange::reserve(session.table.range_bytes(), kWindowAlignment));
  }
  const auto access = grant.access == KVT_WIRE_READ_WRITE ? kvt::Access::kReadWrite : kvt::Access::kReadOnly;
  if ((session.unreachable_tiers & 1u) != 0) {
    // The scratch frame is the first tier's first, which is not here: a page of this process's stands for it.
    KVT_TRY_ASSIGN(const Fd scratch, make_memfd("kvt-scratch", session.table.page_bytes()));
    KVT_TRY_ASSIGN(Mapping window, session.range.map(scratch, session.table.page_bytes(), access,
                                                     session.table.window_offset(0)));
    session.windows.push_back(std::move(window));
  }
  size_t next = 3;
  for (uint32_t i = 0; i < grant.windows; ++i) {
    if ((session.unreachable_tiers & 1u << i) != 0) continue;
    if (session.table.is_device(i)) {
      const size_t chunks = session.table.window_descriptors(i) - grant.chunks_given_up[i];
      KVT_TRY(map_device_window(session, i, std::span(fds).subspan(next, chunks)));
      next += chunks;
      continue;
    }
    KVT_TRY_ASSIGN(Mapping window, session.range.map(fds[next++], session.table.tier(i).window_bytes, access,
                                                     session.table.window_offset(i)));
    advise_huge(window.data(), window.bytes());
    session.windows.push_back(std::move(window));
  }
  session.doorbell = Fd(const_cast<Fd&>(fds[2]).release());
  session.index = PrefixIndex(session.table);
  session.log = ChangeLog(session.table);
  session.member = &session.region.member(grant.member);
  if (session.cuda) KVT_TRY(register_with_device(session));
  session.submissions = SubmissionWriter(*session.member);
  session.completions = CompletionReader(*session.member);
  prepare_reads(session);
  session.told.reset(static_cast<uint8_t*>(std::calloc(session.table.pages(), 1)));
  if (!session.told) return fail(Code::kFull, "out of memory");
  session.incarnation = session.table.incarnation();
  // Last: a daemon that comes after the one that granted this takes back what nobody has taken.
  uint32_t claim = KVT_CLAIM_GRANTED;
  if (!std::atomic_ref<uint32_t>(session.member->claim)
           .compare_exchange_strong(claim, KVT_CLAIM_TAKEN, std::memory_order_acq_rel))
    return fail(Code::kAgain, "the daemon was restarted meanwhile");
  return {};
}

std::string socket_dir_of(const kvt_attach_args& args) {
  if (args.socket_dir != nullptr) return args.socket_dir;
  if (const char* const variable = std::getenv("KVTIER_SOCKET_DIR"); variable != nullptr) return variable;
  return "/run/kvtier";
}

/// The caller's struct, which may be of another version: missing tail is zero, a longer tail must be zero.
Result<kvt_attach_args> take_args(const kvt_attach_args* given) {
  if (given == nullptr) return fail(Code::kInvalid, "args is NULL");
  size_t size = 0;
  std::memcpy(&size, given, sizeof size);
  if (size < sizeof size || size > 4096)
    return fail(Code::kInvalid,
                "args->size is " + std::to_string(size) + "; set it to sizeof(kvt_attach_args)");
  kvt_attach_args args{};
  std::memcpy(&args, given, std::min(size, sizeof args));
  const auto* const bytes = reinterpret_cast<const unsigned char*>(given);
  for (size_t i = sizeof args; i < size; ++i)
    if (bytes[i] != 0) return fail(Code::kInvalid, "args has fields that this library does not know");
  if (args.timeout_ms == 0) args.timeout_ms = 1000;
  if (args.members_max == 0) args.members_max = 1;
  if (args.access == 0) args.access = KVT_ACCESS_READ_WRITE;
  if (args.arena == nullptr) args.arena = "default";
  if (std::strlen(args.arena) >= KVT_ARENA_NAME_BYTES)
    return fail(Code::kInvalid,
                "arena names have at most " + std::to_string(KVT_ARENA_NAME_BYTES - 1) + " bytes");
  if (args.access != KVT_ACCESS_READ && args.access != KVT_ACCESS_READ_WRITE)
    return fail(Code::kInvalid, "access is KVT_ACCESS_READ or KVT_ACCESS_READ_WRITE");
  if ((args.flags & ~uint32_t{KVT_ATTACH_NO_OFFERS | KVT_ATTACH_NO_BALANCE | KVT_ATTACH_CUDA}) != 0)
    return fail(Code::kInvalid,
                "flags has bits that this library does not know: " + std::to_string(args.flags));
  if (args.copy_threads > 64) return fail(Code::kInvalid, "copy_threads is at most 64");
  if (args.members_max > KVT_MAX_MEMBERS)
    return fail(Code::kLimit, "members_max is " + std::to_string(args.members_max) + "; at most " +
                                  std::to_string(KVT_MAX_MEMBERS) + " can be");
  return args;
}

template <typename Struct>
Result<std::unique_ptr<kvt_session>> attach_with(const kvt_attach_args& args, Struct request,
                                                 uint16_t bytes_min) {
  auto session = std::make_unique<kvt_session>();
  session->socket_dir = socket_dir_of(args);
  session->timeout_ms = args.timeout_ms;
  session->takes_offers = (args.flags & KVT_ATTACH_NO_OFFERS) == 0;
  session->balances = (args.flags & KVT_ATTACH_NO_BALANCE) == 0;
  session->stage_bytes_max = args.stage_bytes_max != 0 ? args.stage_bytes_max : kStageBytesMax;
  if ((args.flags & KVT_ATTACH_CUDA) != 0) {
    KVT_TRY(open_device(*session, args));
    request.has_device = 1;
    device_uuid(*session, request.device_uuid);
  }
  uint32_t minor = 0;
  KVT_TRY_ASSIGN(session->socket, open_connection(session->socket_dir, args.timeout_ms, minor));
  // A daemon that knows nothing of GPUs has no device memory to give.
  if (minor < 3) request.header.bytes = bytes_min;
  KVT_TRY_ASSIGN(const Fd pidfd, own_pidfd());
  const int fds[] = {pidfd.get()};
  KVT_TRY(
      send_bytes(session->socket, std::as_bytes(std::span(&request, 1)).first(request.header.bytes), fds));
  const auto taken = [&]() -> Result<void> {
    KVT_TRY_ASSIGN(const Reply reply, receive(session->socket, args.timeout_ms));
    return take_grant(*session, reply);
  }();
  if (!taken) {
    // It may have been granted: nobody must be left with a session that nobody has.
    [[maybe_unused]] const auto sent =
        send_struct(session->socket, message_of<kvt_wire_empty>(KVT_WIRE_DETACH));
    return tl::make_unexpected(taken.error());
  }
  start_copy_threads(*session, args.copy_threads);
  return session;
}

Result<void> resume(kvt_session& session) {
  uint32_t minor = 0;
  KVT_TRY_ASSIGN(Fd socket, open_connection(session.socket_dir, 200, minor));
  auto request = message_of<kvt_wire_resume>(KVT_WIRE_RESUME);
  std::memcpy(request.token, session.token, sizeof request.token);
  request.session_id = session.geometry.session_id;
  request.member = session.member_index;
  KVT_TRY_ASSIGN(const Fd pidfd, own_pidfd());
  const int fds[] = {pidfd.get()};
  KVT_TRY(send_struct(socket, request, fds));
  const auto reply = receive(socket, 200);
  if (!reply) {
    // The session ends: over this connection kvt_detach still says that this process's claims are over.
    if (reply.error().code == Code::kEnded) session.socket = std::move(socket);
    return tl::make_unexpected(reply.error());
  }
  KVT_TRY(parse<kvt_wire_empty>(*reply, KVT_WIRE_RESUMED));
  session.socket = std::move(socket);
  return {};
}

}  // namespace

Result<std::vector<Fd>> fetch_chunks(kvt_session& session, uint32_t tier, uint64_t first, uint64_t count) {
  if (check_connection(session) != KVT_OK) return fail(Code::kAgain, "the daemon is away");
  const std::lock_guard guard(session.connection_mutex);
  if (!session.socket.valid()) return fail(Code::kAgain, "the daemon is away");
  auto request = message_of<kvt_wire_chunks>(KVT_WIRE_CHUNKS);
  request.tier = tier;
  request.first = static_cast<uint32_t>(first);
  request.count = static_cast<uint32_t>(count);
  auto fetched = [&]() -> Result<std::vector<Fd>> {
    KVT_TRY(send_struct(session.socket, request));
    KVT_TRY_ASSIGN(Reply reply, receive(session.socket, session.timeout_ms));
    KVT_TRY_ASSIGN(const auto granted, parse<kvt_wire_chunks>(reply, KVT_WIRE_CHUNKS_GRANT));
    if (granted.tier != tier || granted.first != first || granted.count != count ||
        reply.message.fds.size() != count)
      return fail(Code::kInvalid, "the daemon granted other chunks than were asked for");
    return std::move(reply.message.fds);
  }();
  // What comes late would be taken for the answer to something else.
  if (!fetched) session.socket.reset();
  return fetched;
}

int check_connection(kvt_session& session) {
  if (session.ended.load(std::memory_order_relaxed))
    return set_error(KVT_E_ENDED, "the daemon has ended this session; attach again");
  const std::lock_guard guard(session.connection_mutex);
  if (session.socket.valid()) {
    char byte = 0;
    const ssize_t got = ::recv(session.socket.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return KVT_OK;
    session.socket.reset();  // closed, or something that nobody asked for
  }
  const uint64_t now = now_ms();
  if (now - session.last_reconnect_ms < 50) return set_error(KVT_E_AGAIN, "the daemon is away");
  session.last_reconnect_ms = now;
  const uint64_t incarnation =
      session.table.incarnation();  // if another comes meanwhile, it is looked for again
  const auto resumed = resume(session);
  if (resumed) {
    session.incarnation.store(incarnation, std::memory_order_relaxed);
    session.reconnects.fetch_add(1, std::memory_order_relaxed);
    return KVT_OK;
  }
  if (resumed.error().code == Code::kEnded || resumed.error().code == Code::kMismatch) {
    session.ended.store(true, std::memory_order_relaxed);
    return set_error(KVT_E_ENDED, resumed.error().text);
  }
  return set_error(KVT_E_AGAIN, "the daemon is away: " + resumed.error().text);
}

}  // namespace kvt::client

using kvt::client::set_error;

namespace {

template <typename Make>
int attach_checked(const kvt_attach_args* given, kvt_session** out, uint16_t bytes_min, Make&& make) {
  if (out == nullptr) return set_error(KVT_E_INVALID, "out is NULL");
  *out = nullptr;
  try {
    const auto args = kvt::client::take_args(given);
    if (!args) return set_error(args.error());
    auto session = kvt::client::attach_with(*args, make(*args), bytes_min);
    if (!session) {
      // The daemon's "full" is an arena without room; only this process's is a lack of memory.
      if (session.error().code == kvt::Code::kFull) return set_error(KVT_E_FULL, session.error().text);
      return set_error(session.error());
    }
    *out = session->release();
    return KVT_OK;
  } catch (const std::bad_alloc&) {
    return set_error(KVT_E_NO_MEMORY, "out of memory");
  } catch (const std::exception& exception) {
    return set_error(KVT_E_SYSTEM, exception.what());
  }
}

}  // namespace

extern "C" {

int kvt_attach(const kvt_attach_args* given, kvt_session** out) noexcept {
  return attach_checked(given, out, KVT_WIRE_ATTACH_BYTES_MIN, [](const kvt_attach_args& args) {
    auto request = kvt::client::message_of<kvt_wire_attach>(KVT_WIRE_ATTACH);
    std::memcpy(request.arena, args.arena, std::strlen(args.arena));
    request.page_bytes = args.page_bytes;
    request.block_tokens = args.block_tokens;
    request.planes = args.planes;
    request.columns = args.columns;
    request.column = args.column;
    request.access = args.access;
    request.members_max = args.members_max;
    request.guarantee_pages = args.guarantee_pages;
    if (args.fingerprint != nullptr) {
      request.has_fingerprint = 1;
      std::memcpy(request.fingerprint, args.fingerprint, sizeof request.fingerprint);
    }
    return request;
  });
}

int kvt_join(const kvt_attach_args* given, const uint8_t token[KVT_TOKEN_BYTES], kvt_session** out) noexcept {
  if (token == nullptr) return set_error(KVT_E_INVALID, "token is NULL");
  return attach_checked(given, out, KVT_WIRE_JOIN_BYTES_MIN, [token](const kvt_attach_args&) {
    auto request = kvt::client::message_of<kvt_wire_join>(KVT_WIRE_JOIN);
    std::memcpy(request.token, token, sizeof request.token);
    return request;
  });
}

void kvt_detach(kvt_session* session) noexcept {
  if (session == nullptr) return;
  if (session->fork_word.here()) {
    kvt::client::stop_copy_threads(*session);
    if (session->cuda) {
      if (!kvt::client::wait_for_device(*session)) {
        // The device may still read and write: the session and what it maps stay until the process ends.
        session->socket.reset();
        return;
      }
      kvt::client::settle_steps(*session);
    }
    for (kvt_abi_step_slot& slot : session->member->slot) kvt::step_clear(slot);
    // A daemon that is away now learns it from here.
    kvt::store_release(session->member->claim, uint32_t{KVT_CLAIM_LEFT});
    kvt::client::check_connection(*session);
    if (session->socket.valid()) {
      const auto request = kvt::client::message_of<kvt_wire_empty>(KVT_WIRE_DETACH);
      // Answered or not: when this process dies the session ends anyway.
      if (kvt::client::send_struct(session->socket, request)) {
        [[maybe_unused]] const auto reply = kvt::client::receive(session->socket, session->timeout_ms);
      }
    }
    delete session;
  }
  // In a forked child the mappings are not there (MADV_DONTFORK) and the object's memory is the parent's
  // copy: leave it.
}

}  // extern "C"
