// SPDX-License-Identifier: Apache-2.0
//
// What the library exports.
#include "tests/support/cuda/standin.h"

#include <cuda.h>

#include "tests/support/cuda/call.h"

namespace kvt::standin {
namespace {

/// The state with its entry points, made once.
State& loaded() {
  static State& state = [&]() -> State& {
    State& made = State::get();
    const Lock lock(made.mutex);
    add_device_entries(made);
    add_memory_entries(made);
    add_stream_entries(made);
    add_program_entries(made);
    made.reload();  // failures to come are of entry points
    return made;
  }();
  return state;
}

}  // namespace
}  // namespace kvt::standin

using kvt::standin::Fault;
using kvt::standin::Lock;
using kvt::standin::State;

#define KVT_STANDIN_EXPORT extern "C" __attribute__((visibility("default")))

KVT_STANDIN_EXPORT CUresult CUDAAPI cuGetProcAddress_v2(const char* name, void** function, int version,
                                                        cuuint64_t flags,
                                                        CUdriverProcAddressQueryResult* status) {
  State& state = kvt::standin::loaded();
  const Lock lock(state.mutex);
  if (name == nullptr || function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & ~cuuint64_t{CU_GET_PROC_ADDRESS_LEGACY_STREAM}) != 0) return CUDA_ERROR_INVALID_VALUE;
  *function = nullptr;
  const auto set_status = [&](CUdriverProcAddressQueryResult result) {
    if (status != nullptr) *status = result;
  };
  const auto found = state.entries.find(name);
  const bool off =
      found != state.entries.end() && found->first == "cuMemcpyBatchAsync" && !state.settings.batch;
  if (found == state.entries.end() || off) {
    set_status(CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    return CUDA_ERROR_NOT_FOUND;
  }
  if (version > state.settings.version || found->second.since > version) {
    set_status(CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    return CUDA_ERROR_NOT_FOUND;
  }
  *function = found->second.address;
  set_status(CU_GET_PROC_ADDRESS_SUCCESS);
  return CUDA_SUCCESS;
}

KVT_STANDIN_EXPORT bool kvt_standin_fail(const char* entry_point, uint64_t nth, int result) {
  State& state = kvt::standin::loaded();
  const Lock lock(state.mutex);
  const auto found = state.entries.find(entry_point);
  if (found == state.entries.end()) return false;
  found->second.faults.push_back({entry_point, found->second.calls + nth, static_cast<CUresult>(result)});
  return true;
}

KVT_STANDIN_EXPORT bool kvt_standin_fail_async(const char* kind, uint64_t nth, int result) {
  State& state = kvt::standin::loaded();
  const Lock lock(state.mutex);
  for (size_t i = 0; i < kvt::standin::kFaultyKinds; ++i)
    if (kind == std::string(kvt::standin::kKindNames[i])) {
      state.async_faults.push_back({kind, state.ran[i] + nth, static_cast<CUresult>(result)});
      return true;
    }
  return false;
}

KVT_STANDIN_EXPORT uint64_t kvt_standin_count(const char* entry_point) {
  State& state = kvt::standin::loaded();
  const Lock lock(state.mutex);
  const auto found = state.entries.find(entry_point);
  return found == state.entries.end() ? 0 : found->second.calls;
}

KVT_STANDIN_EXPORT uint64_t kvt_standin_bytes(int direction) {
  State& state = kvt::standin::loaded();
  const Lock lock(state.mutex);
  return direction < 0 || direction >= KVT_STANDIN_DIRECTIONS
             ? 0
             : state.bytes_copied[static_cast<size_t>(direction)];
}

KVT_STANDIN_EXPORT uint64_t kvt_standin_threads() {
  State& state = kvt::standin::loaded();
  const Lock lock(state.mutex);
  return state.threads_started;
}

KVT_STANDIN_EXPORT void kvt_standin_reload() {
  State& state = kvt::standin::loaded();
  const Lock lock(state.mutex);
  state.reload();
}
