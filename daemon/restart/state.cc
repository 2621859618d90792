// SPDX-License-Identifier: Apache-2.0
#include "daemon/restart/state.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <type_traits>

#include "shm/base/fence.h"

namespace kvt::restart {
namespace {

constexpr uint64_t kMagic = 0x4554415453545648ull;  // "HVTSTATE"

static_assert(sizeof(ArenaSlot) == 256 && sizeof(MemberSlot) == 48 && sizeof(SessionSlot) == 904,
              "the next daemon reads what this one writes: sizes change with the major version");
static_assert(std::is_trivially_copyable_v<ArenaSlot> && std::is_trivially_copyable_v<SessionSlot>);

}  // namespace

struct RestartState::Header {
  uint64_t magic;
  uint16_t major;
  uint16_t minor;
  uint32_t pad0;
  uint64_t bytes;
  uint64_t last_session_id;
  int64_t daemon_pid;
  // Of minor 2:
  uint64_t renewed_at[RestartState::kRenewalsMax];  ///< seconds since the boot, oldest first; 0: not yet
  uint64_t pad[24];
};

struct RestartState::Contents {
  Header header;
  ArenaSlot arena[KVT_MAX_ARENAS];
  SessionSlot session[KVT_MAX_ARENAS][KVT_MAX_SESSIONS];
};

Result<RestartState> RestartState::map(Fd fd) {
  RestartState state;
  state.fd_ = std::move(fd);
  KVT_TRY_ASSIGN(state.mapping_, Mapping::map(state.fd_, sizeof(Contents), Access::kReadWrite));
  state.contents_ = reinterpret_cast<Contents*>(state.mapping_.data());
  return state;
}

Result<RestartState> RestartState::create() {
  KVT_TRY_ASSIGN(Fd fd, make_memfd("kvt-state", sizeof(Contents)));
  // The slots are touched one by one; what the first store to one of them would allocate is had now.
  KVT_TRY(allocate_file(fd, sizeof(Contents)));
  KVT_TRY_ASSIGN(RestartState state, map(std::move(fd)));
  Header& header = state.contents_->header;
  header.major = kStateMajor;
  header.minor = kStateMinor;
  header.bytes = sizeof(Contents);
  store_release(header.magic, kMagic);
  return state;
}

Result<RestartState> RestartState::adopt(Fd fd) {
  KVT_TRY_ASSIGN(const uint64_t bytes, file_bytes(fd));
  if (bytes < sizeof(Header)) return fail(Code::kInvalid, "the restart state is shorter than its header");
  {
    KVT_TRY_ASSIGN(const Mapping head, Mapping::map(fd, sizeof(Header), Access::kReadOnly));
    const auto& header = *reinterpret_cast<const Header*>(head.data());
    if (load_acquire(header.magic) != kMagic)
      return fail(Code::kInvalid, "this is no restart state: wrong magic");
    if (header.major != kStateMajor)
      return fail(Code::kMismatch, "the restart state is of version " + std::to_string(header.major) + "." +
                                       std::to_string(header.minor) + ", this kvtierd knows " +
                                       std::to_string(kStateMajor) + "." + std::to_string(kStateMinor));
    if (header.bytes != bytes || bytes < sizeof(Contents))
      return fail(Code::kInvalid, "the restart state has " + std::to_string(bytes) + " bytes; expected " +
                                      std::to_string(sizeof(Contents)));
  }
  return map(std::move(fd));
}

int RestartState::daemon_pid() const { return static_cast<int>(contents_->header.daemon_pid); }
void RestartState::set_daemon_pid(int pid) { contents_->header.daemon_pid = pid; }

bool RestartState::note_renewal(uint64_t now_seconds) {
  uint64_t(&at)[kRenewalsMax] = contents_->header.renewed_at;
  if (at[0] != 0 && now_seconds - at[0] < kRenewalsSeconds) return false;
  std::copy(std::begin(at) + 1, std::end(at), std::begin(at));
  at[kRenewalsMax - 1] = std::max<uint64_t>(now_seconds, 1);
  return true;
}

uint64_t RestartState::next_session_id() {
  uint64_t& last = contents_->header.last_session_id;
  const uint64_t id = load_relaxed(last) + 1;
  store_release(last, id);  // before it is used anywhere
  return id;
}

ArenaSlot* RestartState::find_arena(const std::string& name) {
  for (ArenaSlot* const slot : arenas())
    if (name == slot->name) return slot;
  return nullptr;
}

std::vector<ArenaSlot*> RestartState::arenas() {
  std::vector<ArenaSlot*> found;
  for (uint64_t i = 0; i < KVT_MAX_ARENAS; ++i) {
    ArenaSlot& slot = contents_->arena[i];
    if (load_acquire(slot.valid) == i + 1 && slot.name[sizeof slot.name - 1] == '\0' &&
        slot.tiers <= KVT_MAX_TIERS)
      found.push_back(&slot);
  }
  return found;
}

ArenaSlot* RestartState::new_arena() {
  for (ArenaSlot& slot : contents_->arena) {
    if (load_relaxed(slot.valid) != 0) continue;
    std::memset(&slot, 0, sizeof slot);
    return &slot;
  }
  return nullptr;
}

void RestartState::commit(ArenaSlot& slot) {
  store_release(slot.valid, static_cast<uint64_t>(&slot - contents_->arena) + 1);
}

void RestartState::clear(ArenaSlot& slot) { store_release(slot.valid, uint64_t{0}); }

uint32_t RestartState::arena_number(uint64_t arena_id) const {
  for (uint32_t i = 0; i < KVT_MAX_ARENAS; ++i)
    if (contents_->arena[i].arena_id == arena_id && load_relaxed(contents_->arena[i].valid) != 0) return i;
  KVT_CHECK(false);  // sessions are of arenas that have a slot
}

SessionSlot& RestartState::session(uint64_t arena_id, uint32_t slot) {
  return contents_->session[arena_number(arena_id)][slot];
}

SessionSlot& RestartState::new_session(uint64_t arena_id, uint32_t slot) {
  SessionSlot& fresh = session(arena_id, slot);
  clear(fresh);
  std::memset(&fresh, 0, sizeof fresh);
  fresh.arena_id = arena_id;
  fresh.slot = slot;
  return fresh;
}

void RestartState::commit(SessionSlot& slot, uint64_t session_id) { store_release(slot.valid, session_id); }
void RestartState::clear(SessionSlot& slot) { store_release(slot.valid, uint64_t{0}); }
void RestartState::commit(MemberSlot& slot) { store_release(slot.valid, uint64_t{1}); }
void RestartState::clear(MemberSlot& slot) { store_release(slot.valid, uint64_t{0}); }

std::vector<SessionSlot*> RestartState::sessions(uint64_t arena_id) {
  std::vector<SessionSlot*> found;
  SessionSlot(&slots)[KVT_MAX_SESSIONS] = contents_->session[arena_number(arena_id)];
  for (uint32_t i = 0; i < KVT_MAX_SESSIONS; ++i) {
    SessionSlot& slot = slots[i];
    if (load_acquire(slot.valid) != 0 && slot.arena_id == arena_id && slot.slot == i &&
        slot.members_max != 0 && slot.members_max <= KVT_MAX_MEMBERS)
      found.push_back(&slot);
  }
  return found;
}

namespace {
std::string numbered(const char* what, uint64_t id) {
  char text[64];
  std::snprintf(text, sizeof text, "%s-%llx", what, static_cast<unsigned long long>(id));
  return text;
}
}  // namespace

std::string table_name(uint64_t arena_id) { return numbered("table", arena_id); }
std::string window_name(uint64_t arena_id, uint32_t tier, uint64_t chunk) {
  return numbered("window", arena_id) + "-" + std::to_string(tier) + "-" + std::to_string(chunk);
}
std::string sums_name(uint64_t arena_id) { return numbered("sums", arena_id); }
std::string region_name(uint64_t session_id) { return numbered("region", session_id); }
std::string doorbell_name(uint64_t session_id) { return numbered("bell", session_id); }
std::string pidfd_name(uint64_t session_id, uint32_t member) {
  return numbered("pid", session_id) + "-" + std::to_string(member);
}

}  // namespace kvt::restart
