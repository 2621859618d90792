// SPDX-License-Identifier: Apache-2.0
//
// A build without the CUDA headers: no session has a GPU.
#include <kvtier/cuda.h>

#include "libclient/src/session.h"

namespace kvt::client {

struct CudaPart {};
struct DeviceTouches {};

Result<void> open_device(kvt_session&, const kvt_attach_args&) {
  return fail(Code::kNotFound, "this libkvtier was built without CUDA");
}
void device_uuid(const kvt_session&, uint8_t[KVT_DEVICE_UUID_BYTES]) {}
Result<AddressRange> reserve_device_range(kvt_session& session, uint64_t) {
  return open_device(session, {}).map([] { return AddressRange(); });
}
Result<void> map_device_window(kvt_session& session, uint32_t, std::span<const Fd>) {
  return open_device(session, {});
}
Result<void> register_with_device(kvt_session& session) { return open_device(session, {}); }
int copy_with_device(kvt_session&, const kvt_copy&, std::byte*, bool) { return KVT_E_STATE; }
bool stage_with_device(kvt_session&, const StepState&, Frame, Frame) { return false; }
void enqueue_touches(kvt_session&, StepState&) {}
void settle_touches(kvt_session&, StepState&, bool) {}
bool wait_for_device(kvt_session&) { return true; }

}  // namespace kvt::client

namespace {

int no_cuda() { return kvt::client::set_error(KVT_E_STATE, "this libkvtier was built without CUDA"); }

}  // namespace

extern "C" {

int kvt_cuda_step_begin(kvt_session*, kvt_cuda_stream, kvt_step*) noexcept { return no_cuda(); }
int kvt_cuda_step_end(kvt_session*, const kvt_step*) noexcept { return no_cuda(); }
int kvt_cuda_poll(kvt_session*) noexcept { return no_cuda(); }
int kvt_cuda_seal(kvt_session*, const kvt_page*, size_t, kvt_cuda_stream) noexcept { return no_cuda(); }
int kvt_cuda_resolve(kvt_session*, const kvt_step*, const kvt_page*, size_t, kvt_frame*,
                     kvt_frame*) noexcept {
  return no_cuda();
}
int kvt_cuda_drop_targets(kvt_session*, const kvt_step*) noexcept { return no_cuda(); }
int kvt_cuda_copy(kvt_session*, uint32_t, const kvt_copy*, size_t, kvt_cuda_stream) noexcept {
  return no_cuda();
}
int kvt_cuda_map_create(kvt_session*, kvt_cuda_map**) noexcept { return no_cuda(); }
void kvt_cuda_map_destroy(kvt_cuda_map*) noexcept {}
int kvt_cuda_map_update(kvt_cuda_map*, const kvt_step*, const kvt_page*, size_t) noexcept {
  return no_cuda();
}
const uint32_t* kvt_cuda_map_frames(const kvt_cuda_map*) noexcept { return nullptr; }
int kvt_cuda_translate(const kvt_cuda_map*, const int32_t*, int32_t*, size_t, kvt_cuda_stream) noexcept {
  return no_cuda();
}
int kvt_cuda_touches_create(kvt_session*, uint32_t, kvt_cuda_touches**) noexcept { return no_cuda(); }
void kvt_cuda_touches_destroy(kvt_cuda_touches*) noexcept {}
void* kvt_cuda_touches_counters(const kvt_cuda_touches*) noexcept { return nullptr; }
int kvt_cuda_touches_take(kvt_cuda_touches*, const kvt_step*) noexcept { return no_cuda(); }

}  // extern "C"
