// SPDX-License-Identifier: Apache-2.0
//
// A session's GPU: its memory mapped, host memory registered, steps that its streams end, copies in their order.
#include <kvtier/cuda.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <thread>
#include <utility>

#include "libclient/src/cuda_part.h"

#ifdef KVT_HAVE_DEVICE_CODE
extern const unsigned char kvt_map_code[];
extern const unsigned char kvt_touches_code[];
#endif

namespace kvt::client {

CudaPart::~CudaPart() {
  if (gpu == nullptr) return;
  const cuda::Current current(driver(), gpu->context());
  if (stream != nullptr) driver().cuStreamDestroy(stream);
  for (CUmodule loaded : modules) driver().cuModuleUnload(loaded);
  registered.clear();
  windows.clear();
}

int check_driver(const CudaPart& part, CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return KVT_OK;
  return set_error(part.driver().check(result, what).error());
}

Result<void> open_device(kvt_session& session, const kvt_attach_args& args) {
  const char* path = args.cuda_driver;
  if (path == nullptr) path = std::getenv("KVTIER_CUDA_DRIVER");
  KVT_TRY_ASSIGN(auto driver, cuda::Driver::load(path == nullptr ? "" : path));
  auto part = std::make_shared<CudaPart>();
  KVT_TRY_ASSIGN(part->gpu, cuda::Gpu::open(std::move(driver), args.cuda_device));
  const cuda::Driver& calls = part->driver();
  const cuda::Current current(calls, part->gpu->context());
  KVT_TRY(calls.check(calls.cuStreamCreateWithPriority(&part->stream, CU_STREAM_NON_BLOCKING, 0),
                      "a stream for the library's copies"));
#ifdef KVT_HAVE_DEVICE_CODE
  const auto load = [&](const unsigned char* code,
                        std::initializer_list<std::pair<CUfunction*, const char*>> functions) {
    CUmodule module = nullptr;
    if (calls.cuModuleLoadData(&module, code) != CUDA_SUCCESS) return;
    part->modules.push_back(module);
    bool whole = true;
    for (const auto& [function, name] : functions)
      whole = whole && calls.cuModuleGetFunction(function, module, name) == CUDA_SUCCESS;
    for (const auto& [function, name] : functions)
      if (!whole) *function = nullptr;
  };
  load(kvt_map_code, {{&part->map_apply, "kvt_map_apply"}, {&part->translate, "kvt_translate"}});
  load(kvt_touches_code, {{&part->touches_take, "kvt_touches_take"}});
#endif
  session.cuda = std::move(part);
  return {};
}

void device_uuid(const kvt_session& session, uint8_t uuid[KVT_DEVICE_UUID_BYTES]) {
  const cuda::Uuid& own = session.cuda->gpu->info().uuid;
  static_assert(sizeof own == KVT_DEVICE_UUID_BYTES);
  std::memcpy(uuid, own.data(), own.size());
}

Result<AddressRange> reserve_device_range(kvt_session& session, uint64_t bytes) {
  return cuda::reserve_addresses(session.cuda->gpu, bytes, kWindowAlignment);
}

Result<void> map_device_window(kvt_session& session, uint32_t tier, std::span<const Fd> chunks) {
  KVT_TRY_ASSIGN(cuda::DeviceWindow window,
                 cuda::DeviceWindow::import(
                     session.cuda->gpu, session.range.data() + session.table.window_offset(tier),
                     session.table.tier(tier).window_bytes, session.table.device(tier).chunk_bytes, chunks));
  session.cuda->windows.push_back({tier, std::move(window)});
  return {};
}

namespace {

/// The last chunks of a window, as many as the daemon has given up and no more. Nothing that is read now lies in those
/// that go, and nothing will lie in those that come before this has said that they are mapped.
void follow_chunks_of(kvt_session& session, DeviceTier& mapped) {
  const uint32_t given_up = session.table.chunks_given_up(mapped.tier);
  // Behind it: of a session that an operator has ended nobody waits for the steps. It keeps what it has, which its kernels
  // may still read (PROTOCOL A9).
  if (load_acquire(session.region.header().ended) != 0) return;
  const uint64_t all = session.table.window_descriptors(mapped.tier);
  const uint64_t has = mapped.window.chunks();
  if (given_up >= all || all - given_up == has) return;
  const uint64_t wanted = all - given_up;
  if (has > wanted) {
    mapped.window.shrink(wanted);
  } else {
    // What fails is tried again by the next call; the daemon waits, and says for whom. It is no failure of this one.
    const int code = kvt_last_error_code();
    const std::string text = kvt_last_error();
    const auto fds = fetch_chunks(session, mapped.tier, has, wanted - has);
    set_error(code, text);
    if (!fds || !mapped.window.map(*fds)) {
      mapped.window.shrink(has);
      return;
    }
  }
  store_release(session.member->chunks_unmapped[mapped.tier], static_cast<uint16_t>(given_up));
}

}  // namespace

void follow_chunks(kvt_session& session) {
  CudaPart& part = *session.cuda;
  if (part.windows.empty() || session.ended.load(std::memory_order_relaxed)) return;
  const std::unique_lock turn(part.windows_mutex, std::try_to_lock);
  if (!turn.owns_lock()) return;
  for (DeviceTier& mapped : part.windows) follow_chunks_of(session, mapped);
}

Result<void> register_with_device(kvt_session& session) {
  const auto access = session.access == KVT_ACCESS_READ_WRITE ? Access::kReadWrite : Access::kReadOnly;
  const auto add = [&](std::byte* data, uint64_t bytes, uint64_t piece_bytes, Access wanted) -> Result<void> {
    KVT_TRY_ASSIGN(cuda::HostRegistration made,
                   cuda::HostRegistration::make(session.cuda->gpu, data, bytes, piece_bytes, wanted, {}));
    session.cuda->registered.push_back(std::move(made));
    return {};
  };
  for (const Mapping& window : session.windows)
    KVT_TRY(add(window.data(), window.bytes(), cuda::piece_bytes_of(session.table.page_bytes()), access));
  // The slots fill OS pages of their own: nothing else of the region is the device's to write.
  static_assert(sizeof(kvt_abi_member::slot) % 4096 == 0);
  return add(reinterpret_cast<std::byte*>(session.member->slot), sizeof session.member->slot,
             sizeof session.member->slot, Access::kReadWrite);
}

namespace {

CUresult enqueue_rows(const CudaPart& part, const kvt_copy& copy, std::byte* page, bool store,
                      CUstream stream) {
  if (copy.rows == 0 || copy.row_bytes == 0) return CUDA_SUCCESS;
  const CUdeviceptr in_page = device_address(page + copy.page_offset);
  const CUdeviceptr in_memory = device_address(copy.memory);
  if (copy.rows == 1 || (copy.page_stride == copy.row_bytes && copy.memory_stride == copy.row_bytes))
    return part.driver().cuMemcpyAsync(store ? in_page : in_memory, store ? in_memory : in_page,
                                       copy.row_bytes * copy.rows, stream);
  CUDA_MEMCPY2D rows{};
  rows.srcMemoryType = rows.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
  rows.dstDevice = store ? in_page : in_memory;
  rows.dstPitch = store ? copy.page_stride : copy.memory_stride;
  rows.srcDevice = store ? in_memory : in_page;
  rows.srcPitch = store ? copy.memory_stride : copy.page_stride;
  rows.WidthInBytes = copy.row_bytes;
  rows.Height = copy.rows;
  return part.driver().cuMemcpy2DAsync(&rows, stream);
}

}  // namespace

int copy_with_device(kvt_session& session, const kvt_copy& copy, std::byte* page, bool store) {
  const CudaPart& part = *session.cuda;
  const cuda::Current current(part.driver(), part.gpu->context());
  CUresult result = enqueue_rows(part, copy, page, store, part.stream);
  if (result == CUDA_SUCCESS) result = part.driver().cuStreamSynchronize(part.stream);
  return check_driver(part, result, "copy between a page in device memory and memory");
}

bool stage_with_device(kvt_session& session, const StepState& step, Frame target, Frame source) {
  const CudaPart& part = *session.cuda;
  const cuda::Current current(part.driver(), part.gpu->context());
  const auto stream = static_cast<CUstream>(step.stream);
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  if (part.driver().cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS ||
      status != CU_STREAM_CAPTURE_STATUS_NONE)
    return false;
  return part.driver().cuMemcpyAsync(device_address(session.frame_address(target)),
                                     device_address(session.frame_address(source)),
                                     session.table.page_bytes(), stream) == CUDA_SUCCESS;
}

bool wait_for_device(kvt_session& session) {
  const cuda::Current current(session.cuda->driver(), session.cuda->gpu->context());
  const CUresult result = session.cuda->driver().cuCtxSynchronize();
  // A context that has failed runs nothing any more.
  if (result == CUDA_SUCCESS || cuda::is_sticky(result)) return true;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(session.timeout_ms);
  while (settle_steps(session) != 0) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

int check_not_captured(const CudaPart& part, CUstream stream) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  if (const int asked = check_driver(part, part.driver().cuStreamIsCapturing(stream, &status),
                                     "ask a stream whether it is captured");
      asked != KVT_OK)
    return asked;
  if (status == CU_STREAM_CAPTURE_STATUS_NONE) return KVT_OK;
  return set_error(
      KVT_E_STATE,
      "the stream is being captured: a step begins before a graph is launched and ends after it");
}

}  // namespace kvt::client

using kvt::client::CudaPart;
using kvt::client::is_open;
using kvt::client::set_error;
using kvt::client::StepState;

namespace {

/// The end of a step in stream order.
CUresult enqueue_end(const CudaPart& part, kvt_abi_step_slot& slot, CUstream stream) {
  // Its default has a fence: all that the stream has read and written comes before.
  if (part.gpu->info().stream_writes)
    return part.driver().cuStreamWriteValue64(stream, kvt::client::device_address(&slot.epoch), 0,
                                              CU_STREAM_WRITE_VALUE_DEFAULT);
  return part.driver().cuLaunchHostFunc(
      stream, [](void* raw) { kvt::step_clear(*static_cast<kvt_abi_step_slot*>(raw)); }, &slot);
}

/// The pages that a step's kernels fill: they will have done so for what comes later in the stream, or will not.
void settle_targets(kvt_session& session, StepState& state, bool filled) {
  if (state.staged.empty()) return;
  const std::lock_guard guard(session.stage_lock);
  for (const kvt::client::StagedPage& staged : state.staged) {
    kvt_session::Taken& taken = session.taken[staged.page.index() % kvt_session::kTakenEntries];
    if (taken.page != staged.page.index() || taken.frame != staged.frame || taken.serial != staged.serial)
      continue;
    taken.copied = filled;
    if (!filled) taken.page = UINT32_MAX;
  }
}

/// Ends an open step of a stream. The session is entered.
int end_step(kvt_session& session, const kvt_step& step) {
  const CudaPart& part = *session.cuda;
  StepState& state = session.steps[step.slot];
  const auto stream = static_cast<CUstream>(state.stream);
  if (const int outside = kvt::client::check_not_captured(part, stream); outside != KVT_OK) return outside;
  if (state.touches != nullptr) kvt::client::enqueue_touches(session, state);
  state.busy.store(StepState::kEnding, std::memory_order_relaxed);
  if (const CUresult result = enqueue_end(part, session.member->slot[step.slot], stream);
      result != CUDA_SUCCESS) {
    state.busy.store(1, std::memory_order_relaxed);
    return kvt::client::check_driver(part, result, "enqueue the end of a step");
  }
  settle_targets(session, state, true);
  session.ending_steps.fetch_or(uint64_t{1} << step.slot, std::memory_order_release);
  return KVT_OK;
}

/// Ends a step that its caller will not end again: where the stream does not take the end, after waiting for what it
/// has. A stream that cannot be waited for keeps the step open. Returns what end_step() said.
int end_for_good(kvt_session& session, const kvt_step& step) {
  const int ended = end_step(session, step);
  if (ended == KVT_OK) return KVT_OK;
  const std::string text = kvt_last_error();
  StepState& state = session.steps[step.slot];
  const CudaPart& part = *session.cuda;
  const CUresult waited = part.driver().cuStreamSynchronize(static_cast<CUstream>(state.stream));
  if (waited == CUDA_SUCCESS || kvt::cuda::is_sticky(waited)) {
    const bool cut_short = kvt::load_acquire(session.region.header().ended) != 0;
    kvt::step_clear(session.member->slot[step.slot]);
    kvt::client::finish_step(session, state, cut_short);
    state.busy.store(0, std::memory_order_release);
  }
  return set_error(ended, text);
}

}  // namespace

extern "C" {

int kvt_cuda_step_begin(kvt_session* session, kvt_cuda_stream stream, kvt_step* step) noexcept {
  KVT_ENTER_CUDA(session);
  if (step == nullptr) return set_error(KVT_E_INVALID, "step is NULL");
  if (stream == CU_STREAM_PER_THREAD)
    return set_error(KVT_E_INVALID,
                     "cudaStreamPerThread is another stream in each thread, and any thread may end a step: "
                     "expected a stream that was made, or the default stream");
  if (const int outside = kvt::client::check_not_captured(*session->cuda, stream); outside != KVT_OK)
    return outside;
  return kvt::client::guarded(
      [&] { return kvt::client::begin_step(*session, kvt::client::stream_mark(stream), *step); });
}

int kvt_cuda_step_end(kvt_session* session, const kvt_step* step) noexcept {
  KVT_ENTER_CUDA(session);
  if (!is_open(*session, step) || session->steps[step->slot].stream == nullptr)
    return set_error(KVT_E_INVALID, "the step is not open, or not of kvt_cuda_step_begin");
  return end_step(*session, *step);
}

int kvt_cuda_poll(kvt_session* session) noexcept {
  KVT_ENTER_CUDA(session);
  return kvt::client::guarded([&]() -> int {
    const int open = kvt::client::settle_steps(*session);
    kvt::client::follow_chunks(*session);
    const int late = session->late_result.exchange(KVT_OK, std::memory_order_relaxed);
    if (late == KVT_OK) return open;
    return set_error(late,
                     late == KVT_E_ENDED
                         ? "an operator has ended this session: what steps under way have read may be wrong"
                         : "a seal or a release of a step that is over has failed");
  });
}

int kvt_cuda_seal(kvt_session* session, const kvt_page* pages, size_t n, kvt_cuda_stream stream) noexcept {
  kvt_step step{};
  if (const int begun = kvt_cuda_step_begin(session, stream, &step); begun != KVT_OK) return begun;
  const int sealed = kvt_seal(session, pages, n, &step);
  const kvt::cuda::Current current(session->cuda->driver(), session->cuda->gpu->context());
  const int ended = kvt::client::guarded([&] { return end_for_good(*session, step); });
  return sealed != KVT_OK ? sealed : ended;
}

int kvt_cuda_resolve(kvt_session* session, const kvt_step* step, const kvt_page* pages, size_t n,
                     kvt_frame* frames, kvt_frame* targets) noexcept {
  KVT_ENTER_CUDA(session);
  if (!is_open(*session, step) || session->steps[step->slot].stream == nullptr)
    return set_error(KVT_E_INVALID, "the step is not open, or not of kvt_cuda_step_begin");
  if (n != 0 && (pages == nullptr || frames == nullptr || targets == nullptr))
    return set_error(KVT_E_INVALID, "pages, frames or targets is NULL");
  return kvt::client::guarded([&]() -> int {
    // Kernels fill what is offered: nothing is staged.
    StepState& state = session->steps[step->slot];
    const auto readable =
        static_cast<int>(kvt::client::resolve_in_step(*session, state, std::span(pages, n), frames, false));
    std::fill_n(targets, n, KVT_NO_FRAME);
    // An operator has ended the session: its slot may be another's by now, and so may an offer.
    if (kvt::load_acquire(session->region.header().ended) != 0) return readable;
    if (!session->takes_offers || session->keeps_tables.load(std::memory_order_relaxed) ||
        kvt::load_relaxed(session->region.header().offers) == 0)
      return readable;
    const uint32_t column = session->geometry.column;
    for (size_t i = 0; i < n; ++i) {
      const kvt::Handle page{pages[i]};
      if (frames[i] == KVT_NO_FRAME || session->is_hbm_frame(frames[i])) continue;
      const kvt::Offer offer = session->table.offer(column, page.index());
      if (!offer.valid() || offer.session_slot() != session->geometry.slot ||
          offer.generation() != page.generation() || !session->is_hbm_frame(offer.frame()))
        continue;
      const uint64_t serial = session->table.offer_serial(column, page.index());
      if (serial == 0) continue;  // it is being withdrawn
      kvt_session::Taken& taken = session->taken[page.index() % kvt_session::kTakenEntries];
      const std::lock_guard guard(session->stage_lock);
      if (taken.page == page.index() && taken.frame == offer.frame() && taken.serial == serial) {
        // A step before this one fills it. Once that has been enqueued, what comes later in its stream reads the copy:
        // host memory is read once.
        if (taken.copied && taken.stream == state.stream) frames[i] = offer.frame();
        continue;
      }
      if (taken.page != UINT32_MAX && !taken.copied) continue;  // of a step that has not been enqueued yet
      state.staged.push_back({page, offer.frame(), serial});
      taken = {page.index(), offer.frame(), serial, false, state.stream};
      targets[i] = offer.frame();
    }
    return readable;
  });
}

int kvt_cuda_drop_targets(kvt_session* session, const kvt_step* step) noexcept {
  KVT_ENTER_CUDA(session);
  if (!is_open(*session, step) || session->steps[step->slot].stream == nullptr)
    return set_error(KVT_E_INVALID, "the step is not open, or not of kvt_cuda_step_begin");
  settle_targets(*session, session->steps[step->slot], false);
  session->steps[step->slot].staged.clear();
  return KVT_OK;
}

int kvt_cuda_copy(kvt_session* session, uint32_t direction, const kvt_copy* copies, size_t n,
                  kvt_cuda_stream stream) noexcept {
  KVT_ENTER_CUDA(session);
  const bool store = direction == KVT_COPY_STORE;
  if (!store && direction != KVT_COPY_LOAD)
    return set_error(KVT_E_INVALID, "direction is KVT_COPY_STORE or KVT_COPY_LOAD");
  if (store && session->access != KVT_ACCESS_READ_WRITE)
    return set_error(KVT_E_PERMISSION, "the session has read access only");
  if (n == 0 || copies == nullptr) return set_error(KVT_E_INVALID, "n is 0, or copies is NULL");
  for (size_t i = 0; i < n; ++i)
    if (const int good = kvt::client::check_copy(*session, copies[i], i); good != KVT_OK) return good;
  return kvt::client::guarded([&]() -> int {
    kvt_step step{};
    // A store is a step too: its writes keep the frame until they are done (PROTOCOL A5).
    if (const int begun = kvt_cuda_step_begin(session, stream, &step); begun != KVT_OK) return begun;
    int result = KVT_OK;
    for (size_t i = 0; i < n && result == KVT_OK; ++i) {
      const kvt::Handle page{copies[i].page};
      kvt_frame frame = KVT_NO_FRAME;
      if (store) {
        result = kvt::client::check_own(*session, page, false);
        if (result != KVT_OK) break;
        frame = session->table.placement(session->geometry.column, page.index()).frame();
      } else {
        kvt_resolve(session, &step, &copies[i].page, 1, &frame);
        if (frame == KVT_NO_FRAME) {
          result = set_error(KVT_E_STALE,
                             "page " + std::to_string(page.index()) + " cannot be read: the handle is stale");
          break;
        }
        kvt::touch(session->region, page.index());
      }
      result = kvt::client::check_driver(
          *session->cuda,
          kvt::client::enqueue_rows(*session->cuda, copies[i], session->frame_address(frame), store, stream),
          "enqueue a copy");
    }
    const int ended = end_for_good(*session, step);
    return result != KVT_OK ? result : ended;
  });
}

}  // extern "C"
