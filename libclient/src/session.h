// SPDX-License-Identifier: Apache-2.0
//
// The inside of a kvt_session: what is mapped, this process's steps, its end of the rings, its connection.
//
// Locks, in the order in which they may be taken: connection_mutex, ring_mutex; the spin locks are leaves.
// Steps, resolving, touching and holding take none.
#pragma once

#include <kvtier/kvtier.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "shm/base/fd.h"
#include "shm/base/mapping.h"
#include "shm/region/arena_table.h"
#include "shm/region/change_log.h"
#include "shm/region/prefix_index.h"
#include "shm/region/rings.h"
#include "shm/region/session_region.h"
#include "shm/region/step_times.h"

namespace kvt::client {

/// Sets the calling thread's last error and returns `code`.
int set_error(int code, std::string text);
int set_error(const Error& error);
/// KVT_E_NO_MEMORY, without a text.
int no_memory() noexcept;

/// A lock for a handful of instructions; yields when it has to wait long.
class SpinLock {
 public:
  void lock() {
    for (uint32_t spins = 0; flag_.exchange(true, std::memory_order_acquire);)
      if (++spins % 128 == 0) std::this_thread::yield();
  }
  void unlock() { flag_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> flag_{false};
};

/// What was given with a step and waits for its end (PROTOCOL A6).
struct Deferred {
  enum class Kind : uint8_t { kSeal, kRelease } kind;
  kvt_page page;
};

/// A page that a step has copied into the frame that it was offered: what the report says (PROTOCOL A3).
struct StagedPage {
  Handle page;
  Frame frame = kNoFrame;
  uint64_t serial = 0;
};

struct CudaPart;       ///< what a session with a GPU has; cuda_part.h
struct DeviceTouches;  ///< where kernels count reads; cuda_touches.cc

/// How long the steps of a slot take (shm/region/step_times.h). Of the thread that uses the step.
struct StepClock {
  uint64_t begun_ns = 0;    ///< 0: this step is not measured
  uint32_t unmeasured = 0;  ///< steps before this one, since one was
  uint32_t left_out = 0;    ///< so many more are not
  void begin() {
    if (left_out == 0) {
      begun_ns = now_ns();
      return;
    }
    --left_out;
    ++unmeasured;
  }
  void end(kvt_abi_member& member) {
    if (begun_ns != 0) count(member);
  }

 private:
  static uint64_t now_ns();
  void count(kvt_abi_member& member);
};

struct StepState {
  std::atomic<uint32_t> busy{0};  ///< 1: claimed by an open step of this process; kEnding: its stream ends it
  static constexpr uint32_t kEnding = 2;
  uint32_t serial = 0;  ///< counts the steps of this slot
  std::atomic<bool> has_deferred{false};
  SpinLock lock;
  std::vector<Deferred> deferred;

  // Of the thread that uses the step.
  void* stream = nullptr;                  ///< that ends it, as stream_mark() writes it; null: the CPU does
  std::vector<StagedPage> staged;          ///< to be reported when it ends
  std::shared_ptr<DeviceTouches> touches;  ///< where its kernels count; null: nowhere
  StepClock clock;
  uint32_t touches_list = UINT32_MAX;  ///< into which its counts are packed; UINT32_MAX: none
  uint64_t bytes_staged = 0;
  uint64_t read_time[KVT_MAX_TIERS] = {};  ///< of what it has resolved, by tier; unit: kvt_session::read_time
  uint64_t look_at = 0;                    ///< no shadow is looked at while the fast tier's time is not more
  uint64_t looks_apart = 0;  ///< pages from one look at a shadow to the next, while looks are in vain
  void begin_reads() {
    bytes_staged = 0;
    std::fill(std::begin(read_time), std::end(read_time), 0);
    look_at = 0;
    looks_apart = 0;
  }
};

/// A call that waits for completions with tags first .. first+count-1.
struct Waiter {
  uint64_t first = 0;
  uint64_t count = 0;
  uint64_t outstanding = 0;
  kvt_abi_completion* results = nullptr;
};

struct CopyJob {
  uint32_t direction = 0;
  std::vector<kvt_copy> copies;
  enum class State : uint8_t { kQueued, kRunning, kDone } state = State::kQueued;
  int result = KVT_OK;
  std::string text;
};

/// A zeroed-in-forked-children word (MADV_WIPEONFORK): 1 in the process that attached, 0 in its children.
class ForkWord {
 public:
  ForkWord();
  ~ForkWord();
  ForkWord(const ForkWord&) = delete;
  ForkWord& operator=(const ForkWord&) = delete;
  [[nodiscard]] bool here() const { return *word_ != 0; }

 private:
  volatile uint32_t* word_;
};

}  // namespace kvt::client

struct kvt_session {
  // Constant after attach.
  std::string socket_dir;
  uint32_t timeout_ms = 1000;
  uint32_t access = KVT_ACCESS_READ_WRITE;
  uint32_t member_index = 0;
  bool takes_offers = false;
  bool balances = false;  ///< pages in two tiers are read from either
  /// This process follows the change log: what it resolves is kept over steps, and only first places are in
  /// the log.
  std::atomic<bool> keeps_tables{false};
  uint32_t unreachable_tiers = 0;  ///< bit t: device memory that is not mapped here
  uint32_t blind_tiers = 0;        ///< of those, the ones in which pages of this session's column may lie
  uint32_t device_tiers = 0;       ///< bit t: device memory that is
  uint32_t tiers = 0;
  uint32_t fast_tier = 0;  ///< of the session's column
  /// What reading a page from each tier takes, where a page of the fast tier takes 2^kFastPageBits: so
  /// precise that no step is long enough to see the error. 0: unknown, or another column's.
  uint64_t read_time[KVT_MAX_TIERS] = {};
  static constexpr uint32_t kFastPageBits = 20;
  /// Pages from one that is read from its shadow to the third next one, where all have one
  size_t third_look = 1;
  uint64_t stage_bytes_max = 0;
  uint8_t token[KVT_TOKEN_BYTES] = {};
  kvt::Mapping table_mapping;
  kvt::Mapping region_mapping;
  kvt::AddressRange range;
  std::vector<kvt::Mapping> windows;
  kvt::Fd doorbell;
  kvt::ArenaTable table;
  kvt::PrefixIndex index;
  kvt::ChangeLog log;
  kvt::SessionRegion region;
  kvt::SessionGeometry geometry;
  kvt_abi_member* member = nullptr;
  kvt::client::ForkWord fork_word;

  // Steps of this process.
  kvt::client::StepState steps[KVT_STEP_SLOTS];

  // Offers that this process has taken or is taking, by page modulo the size: so that it copies no page
  // twice. What is overwritten is forgotten, and copied again if the offer is still there. stage_lock.
  struct Taken {
    kvt::PageIndex page = UINT32_MAX;
    kvt::Frame frame = kvt::kNoFrame;
    uint64_t serial = 0;
    bool copied = false;
    void* stream = nullptr;  ///< the copy is seen by work of this stream alone, until its step has ended
  };
  static constexpr size_t kTakenEntries = 1024;
  kvt::client::SpinLock stage_lock;
  Taken taken[kTakenEntries];

  // What this process has told the daemon of a page: kSealSent, kReserved. Cleared when it comes fresh from
  // the magazine. Lazily zero memory, one byte a page.
  struct Free {
    void operator()(uint8_t* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<uint8_t[], Free> told;
  kvt::client::SpinLock stock_lock;  // member->stock

  // Rings; ring_mutex.
  std::mutex ring_mutex;
  kvt::SubmissionWriter submissions;
  kvt::CompletionReader completions;
  uint64_t next_tag = 1;
  std::vector<kvt::client::Waiter*> waiters;

  // Connection; connection_mutex.
  std::mutex connection_mutex;
  kvt::Fd socket;
  uint64_t last_reconnect_ms = 0;
  std::atomic<bool> ended{false};
  std::atomic<uint64_t> incarnation{0};  ///< of the daemon that has this connection
  std::atomic<uint64_t> reconnects{0};

  // Sequences; sequence_mutex.
  std::mutex sequence_mutex;
  struct Extent {
    uint32_t first;
    uint32_t length;
  };
  std::vector<Extent> free_extents{{0, KVT_SEQUENCE_POOL}};
  std::unordered_map<uint32_t, Extent> sequences;

  // Copy jobs; jobs_mutex.
  std::mutex jobs_mutex;
  std::condition_variable jobs_changed;
  uint64_t next_job = 1;
  std::unordered_map<uint64_t, std::shared_ptr<kvt::client::CopyJob>> jobs;
  std::deque<std::shared_ptr<kvt::client::CopyJob>> job_queue;
  std::vector<std::thread> copy_threads;
  bool stopping = false;

  // The GPU; goes before the windows do.
  std::shared_ptr<kvt::client::CudaPart> cuda;
  std::atomic<uint64_t> ending_steps{0};  ///< bits of slots whose streams will clear them
  std::atomic<int> late_result{KVT_OK};   ///< of seals and releases of such steps: the first that failed

  // Statistics of this process.
  std::atomic<uint64_t> stat_allocated{0};
  std::atomic<uint64_t> stat_lookups{0};
  std::atomic<uint64_t> stat_hits{0};
  std::atomic<uint64_t> stat_offers_taken{0};
  std::atomic<uint64_t> stat_bytes_staged{0};

  [[nodiscard]] bool is_device_frame(kvt::Frame frame) const {
    if (device_tiers == 0) return false;
    const auto tier = table.tier_of_frame(frame);
    return tier && (device_tiers & 1u << *tier) != 0;
  }
  /// Of those, that kernels read at the GPU's own speed.
  [[nodiscard]] bool is_hbm_frame(kvt::Frame frame) const {
    if (device_tiers == 0) return false;
    const auto tier = table.tier_of_frame(frame);
    return tier && (device_tiers & 1u << *tier) != 0 && table.is_hbm(*tier);
  }
  [[nodiscard]] std::byte* frame_address(kvt::Frame frame) const {
    return range.data() + uint64_t{frame} * table.page_bytes();
  }
};

namespace kvt::client {

/// First line of every public function: the session is there, of this process, not ended.
#define KVT_ENTER(session)                                                                                 \
  do {                                                                                                     \
    if ((session) == nullptr) [[unlikely]]                                                                 \
      return ::kvt::client::set_error(KVT_E_INVALID, "session is NULL");                                   \
    if (!(session)->fork_word.here()) [[unlikely]]                                                         \
      return ::kvt::client::set_error(KVT_E_FORKED, "this session belongs to the parent of this process"); \
  } while (false)
#define KVT_ENTER_WRITE(session)                               \
  KVT_ENTER(session);                                          \
  if ((session)->access != KVT_ACCESS_READ_WRITE) [[unlikely]] \
  return ::kvt::client::set_error(KVT_E_PERMISSION, "the session has read access only")

/// Runs the body of a public function that may run out of memory.
template <typename Body>
int guarded(Body&& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

/// Whether this step of this process has begun and not ended.
inline bool is_open(const kvt_session& session, const kvt_step* step) {
  return step != nullptr && step->slot < KVT_STEP_SLOTS &&
         session.steps[step->slot].busy.load(std::memory_order_relaxed) == 1 &&
         session.steps[step->slot].serial == step->serial;
}

// ---- step.cc ----

/// kvt_step_begin, for a step that `stream` ends, or the CPU.
int begin_step(kvt_session& session, void* stream, kvt_step& step);
/// kvt_resolve. With `stage` pages that were offered a faster frame are copied there.
size_t resolve_in_step(kvt_session& session, StepState& state, std::span<const kvt_page> pages,
                       kvt_frame* frames, bool stage);
/// What waits for a step: reports, seals and releases. The step is over, and `state` still claimed. `cut_short`: an
/// operator had ended the session before.
int finish_step(kvt_session& session, StepState& state, bool cut_short);
/// Does so for steps that streams have ended. Returns how many have not.
int settle_steps(kvt_session& session);

// ---- cuda.cc, or cuda_absent.cc in a build without CUDA ----

/// Opens the device that the arguments name. KVT_E codes by Error.
Result<void> open_device(kvt_session& session, const kvt_attach_args& args);
/// UUID of the opened device.
void device_uuid(const kvt_session& session, uint8_t uuid[KVT_DEVICE_UUID_BYTES]);
/// Addresses for all windows of an arena, in which the device's memory can be mapped.
Result<AddressRange> reserve_device_range(kvt_session& session, uint64_t bytes);
Result<void> map_device_window(kvt_session& session, uint32_t tier, std::span<const Fd> chunks);
/// Makes host windows and step slots reachable for the device. After all windows are mapped.
Result<void> register_with_device(kvt_session& session);
/// Copies rows between a page and memory, one of which is the device's, and waits.
int copy_with_device(kvt_session& session, const kvt_copy& copy, std::byte* page, bool store);
/// Enqueues the copy of a page in the step's stream; false: it cannot be.
bool stage_with_device(kvt_session& session, const StepState& step, Frame target, Frame source);
/// Enqueues the packing of what a step's kernels have counted, before the step's end. REQUIRES: state.touches.
void enqueue_touches(kvt_session& session, StepState& state);
/// Adds what was packed to the session's counters. The step is over. REQUIRES: state.touches.
void settle_touches(kvt_session& session, StepState& state, bool cut_short);
/// Waits for all work of the device's context, or where the driver refuses that (a stream is being captured) for the
/// ends of the steps, as long as a call may wait. False: work may still use the session.
[[nodiscard]] bool wait_for_device(kvt_session& session);

// ---- ring.cc ----

/// Tells the daemon that there is work. Never blocks. `only_if_asleep`: without a system call while it is
/// awake.
void ring_doorbell(kvt_session& session, bool only_if_asleep);
/// Pushes commands that want no completion. KVT_OK, or KVT_E_AGAIN when the ring stayed full for the timeout.
int submit(kvt_session& session, std::span<const kvt_abi_submission> commands);
/// Pushes commands (tags are set here) and waits for all completions, at most the session's timeout since the
/// last progress. results[i] belongs to commands[i]. KVT_E_AGAIN, KVT_E_ENDED.
int submit_and_wait(kvt_session& session, std::span<kvt_abi_submission> commands,
                    kvt_abi_completion* results);
/// How many of `commands` the ring takes without waiting.
size_t try_submit(kvt_session& session, std::span<const kvt_abi_submission> commands);

// ---- attach.cc ----

/// Looks whether the daemon still has our connection, and tries to resume the session if not.
/// KVT_OK, KVT_E_AGAIN, KVT_E_ENDED.
int check_connection(kvt_session& session);
/// Descriptors of chunks of a tier's device memory that were given up and are there again.
Result<std::vector<Fd>> fetch_chunks(kvt_session& session, uint32_t tier, uint64_t first, uint64_t count);
/// Another daemon has the arena: comes back to it, so that what is waiting in the rings is served. One load while it is the
/// same.
inline void notice_restart(kvt_session& session) {
  if (session.table.incarnation() != session.incarnation.load(std::memory_order_relaxed)) [[unlikely]]
    check_connection(session);
}

// ---- stage.cc ----

/// The page's frame for this step's reads: the offered one, into which it is copied if this process has not
/// done so, or the present one. REQUIRES: `offer` was loaded in the step, names this session, and is of the
/// placement's generation.
kvt_frame take_offer(kvt_session& session, StepState& step, Handle page, Placement placement, Offer offer);
/// Tells the daemon what a step has copied. The step is over; its thread still has its state.
void report_staged(kvt_session& session, StepState& step);

// ---- hold.cc ----

class FreeBatch;

int hold_checked(kvt_session& session, Handle page);  ///< 1: held; 0: not there; negative: KVT_E_LIMIT
int release_now(kvt_session& session, kvt_page page, FreeBatch& freed);
int seal_now(kvt_session& session, kvt_page page);

// ---- pages.cc ----

/// Checks that `page` is this session's and FILLING (or SEALED, with `sealed_too`); an error otherwise.
int check_own(kvt_session& session, Handle page, bool sealed_too);
/// A FILLING page without holds goes to this member's stock; false when the stock is full.
[[nodiscard]] bool return_to_stock(kvt_session& session, Handle page);

/// Pages that go back to the daemon, a few in one command. Sends what is left when it is destroyed.
class FreeBatch {
 public:
  explicit FreeBatch(kvt_session& session) : session_(session) {}
  ~FreeBatch() { flush(); }
  FreeBatch(const FreeBatch&) = delete;
  FreeBatch& operator=(const FreeBatch&) = delete;
  void add(Handle page);
  /// FILLING pages are not found by any sweep: wait for room in the ring.
  void add_filling(Handle page) {
    must_arrive_ = true;
    add(page);
  }

 private:
  void flush();
  kvt_session& session_;
  uint64_t pages_[KVT_FREE_HANDLES] = {};
  size_t count_ = 0;
  bool must_arrive_ = false;
  bool away_ = false;  ///< the daemon took nothing for as long as a call may wait
};

inline constexpr uint8_t kSealSent = 1;   ///< a seal or publish is in the ring, or done
inline constexpr uint8_t kReserved = 2;   ///< the daemon keeps a key for it (kvt_reserve)
inline constexpr uint8_t kSealWaits = 4;  ///< it is sealed when a step is over
inline uint8_t told(const kvt_session& session, PageIndex page) { return load_relaxed(session.told[page]); }
inline void tell(kvt_session& session, PageIndex page, uint8_t bits) {
  std::atomic_ref<uint8_t>(session.told[page]).fetch_or(bits, std::memory_order_relaxed);
}
inline void untell(kvt_session& session, PageIndex page) {
  if (told(session, page) != 0) store_relaxed(session.told[page], uint8_t{0});
}
inline void untell(kvt_session& session, PageIndex page, uint8_t bits) {
  std::atomic_ref<uint8_t>(session.told[page])
      .fetch_and(static_cast<uint8_t>(~bits), std::memory_order_relaxed);
}

// ---- copy.cc ----
/// KVT_OK when copies[at] has memory and stays inside its page.
int check_copy(const kvt_session& session, const kvt_copy& copy, size_t at);
void stop_copy_threads(kvt_session& session);
void start_copy_threads(kvt_session& session, uint32_t count);

}  // namespace kvt::client
