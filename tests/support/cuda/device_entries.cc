// SPDX-License-Identifier: Apache-2.0
//
// The driver itself, its devices and contexts.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "tests/support/cuda/call.h"

namespace kvt::standin {
namespace {

bool is_device(const State& state, CUdevice device) { return device >= 0 && device < state.settings.devices; }

CUresult init(Call& call, unsigned flags) {
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (call.state.settings.devices == 0) return CUDA_ERROR_NO_DEVICE;
  call.state.process.store(::getpid(), std::memory_order_release);
  return CUDA_SUCCESS;
}

CUresult driver_version(Call& call, int* version) {
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *version = call.state.settings.version;
  return CUDA_SUCCESS;
}

struct ErrorWords {
  CUresult result;
  const char* name;
  const char* text;
};
#define KVT_STANDIN_ERROR(name, text) \
  ErrorWords { name, #name, text }
const ErrorWords kErrors[] = {
    KVT_STANDIN_ERROR(CUDA_SUCCESS, "no error"),
    KVT_STANDIN_ERROR(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    KVT_STANDIN_ERROR(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    KVT_STANDIN_ERROR(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    KVT_STANDIN_ERROR(CUDA_ERROR_DEINITIALIZED, "driver shutting down"),
    KVT_STANDIN_ERROR(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    KVT_STANDIN_ERROR(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    KVT_STANDIN_ERROR(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    KVT_STANDIN_ERROR(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered"),
    KVT_STANDIN_ERROR(CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state"),
    KVT_STANDIN_ERROR(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    KVT_STANDIN_ERROR(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    KVT_STANDIN_ERROR(CUDA_ERROR_NOT_READY, "device not ready"),
    KVT_STANDIN_ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    KVT_STANDIN_ERROR(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated"),
    KVT_STANDIN_ERROR(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed"),
    KVT_STANDIN_ERROR(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
                      "part of the memory range is already mapped"),
    KVT_STANDIN_ERROR(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
                      "pointer does not correspond to a registered memory region"),
    KVT_STANDIN_ERROR(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address"),
    KVT_STANDIN_ERROR(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    KVT_STANDIN_ERROR(CUDA_ERROR_NOT_PERMITTED, "operation not permitted"),
    KVT_STANDIN_ERROR(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    KVT_STANDIN_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                      "operation not permitted when stream is capturing"),
    KVT_STANDIN_ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
                      "operation failed due to a previous error during capture"),
    KVT_STANDIN_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
                      "capture was not ended in the same stream as it began"),
    KVT_STANDIN_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work"),
    KVT_STANDIN_ERROR(CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
                      "dependency created on uncaptured work in another stream"),
    KVT_STANDIN_ERROR(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
                      "attempt to terminate a thread-local capture sequence from another thread"),
    KVT_STANDIN_ERROR(CUDA_ERROR_CAPTURED_EVENT,
                      "operation not permitted on an event last recorded in a capturing stream"),
    KVT_STANDIN_ERROR(CUDA_ERROR_UNKNOWN, "unknown error"),
};

CUresult error_words(CUresult result, const char** words, const char* ErrorWords::*which) {
  if (words == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *words = nullptr;
  for (const ErrorWords& error : kErrors)
    if (error.result == result) *words = error.*which;
  return *words == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult error_name(Call&, CUresult result, const char** name) {
  return error_words(result, name, &ErrorWords::name);
}

CUresult error_string(Call&, CUresult result, const char** text) {
  return error_words(result, text, &ErrorWords::text);
}

CUresult device_count(Call& call, int* count) {
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *count = call.state.settings.devices;
  return CUDA_SUCCESS;
}

CUresult device_get(Call& call, CUdevice* device, int ordinal) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(call.state, ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult device_name(Call& call, char* name, int length, CUdevice device) {
  if (name == nullptr || length <= 0) return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(call.state, device)) return CUDA_ERROR_INVALID_DEVICE;
  std::snprintf(name, static_cast<size_t>(length), "Stand-in GPU %d", device);
  return CUDA_SUCCESS;
}

CUresult device_uuid(Call& call, CUuuid* uuid, CUdevice device) {
  if (uuid == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(call.state, device)) return CUDA_ERROR_INVALID_DEVICE;
  std::memcpy(uuid->bytes, "kvt-stand-in-gpu", sizeof uuid->bytes);
  uuid->bytes[15] = static_cast<char>(device);  // the same in every process
  return CUDA_SUCCESS;
}

CUresult device_pci_bus_id(Call& call, char* text, int length, CUdevice device) {
  if (text == nullptr || length < 13) return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(call.state, device)) return CUDA_ERROR_INVALID_DEVICE;
  std::snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0",
                static_cast<unsigned>(device + 1) & 0xffU);
  return CUDA_SUCCESS;
}

CUresult device_total_mem(Call& call, size_t* bytes, CUdevice device) {
  if (bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(call.state, device)) return CUDA_ERROR_INVALID_DEVICE;
  *bytes = call.state.settings.device_bytes;
  return CUDA_SUCCESS;
}

CUresult device_attribute(Call& call, int* value, CUdevice_attribute attribute, CUdevice device) {
  if (value == nullptr || attribute <= 0 || attribute >= CU_DEVICE_ATTRIBUTE_MAX)
    return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(call.state, device)) return CUDA_ERROR_INVALID_DEVICE;
  const Settings& settings = call.state.settings;
  switch (static_cast<int>(attribute)) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = settings.capability_major; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = settings.capability_minor; break;
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: *value = settings.vmm; break;
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
      *value = settings.vmm && settings.posix_handles;
      break;
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1: *value = settings.stream_write_64; break;
    case CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED: *value = settings.read_only_register; break;
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
      *value = settings.host_numa;
      break;
    case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM: *value = settings.host_pointer; break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP: *value = 1; break;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: *value = 3; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: *value = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: *value = 64; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *value = 0x7fffffff; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *value = 65535; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 48 << 10; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 227 << 10; break;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: *value = device + 1; break;
    default: *value = 0; break;  // HOST_NUMA_ID too
  }
  return CUDA_SUCCESS;
}

CUresult can_access_peer(Call& call, int* can, CUdevice device, CUdevice peer) {
  if (can == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(call.state, device) || !is_device(call.state, peer)) return CUDA_ERROR_INVALID_DEVICE;
  *can = call.state.settings.can_access(device, peer);
  return CUDA_SUCCESS;
}

CUresult primary_retain(Call& call, CUcontext* context, CUdevice device) {
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(call.state, device)) return CUDA_ERROR_INVALID_DEVICE;
  State& state = call.state;
  auto& primary = state.devices[static_cast<size_t>(device)]->primary;
  if (primary == nullptr) {
    primary = std::make_shared<Context>();
    primary->id = state.contexts.add(state.new_handle(), primary);
    primary->device = device;
    primary->null_stream = make_stream(state, primary);
  }
  ++primary->retained;
  *context = handle_of<CUcontext>(primary->id);
  return CUDA_SUCCESS;
}

CUresult primary_release(Call& call, CUdevice device) {
  State& state = call.state;
  if (!is_device(state, device)) return CUDA_ERROR_INVALID_DEVICE;
  auto& slot = state.devices[static_cast<size_t>(device)]->primary;
  if (slot == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (--slot->retained > 0) return CUDA_SUCCESS;
  const std::shared_ptr<Context> context = std::move(slot);
  slot = nullptr;
  (void)wait_for_all(state, call.lock, *context);  // what is queued, unless it has failed
  context->destroyed = true;
  const std::vector<std::shared_ptr<Capture>> captures = state.captures;
  for (const auto& capture : captures)
    if (capture->origin->context == context) end_capture(state, capture);
  for (const auto& weak : context->streams) {
    const auto stream = weak.lock();
    if (stream == nullptr) continue;
    close_stream(state, *stream);
    while (stream->has_thread && !state.ended) state.changed.wait(call.lock);
  }
  const auto of_context = [&](const auto& object) { return object.context == context; };
  state.streams.erase_if(of_context);
  state.events.erase_if(of_context);
  state.modules.erase_if(of_context);
  state.functions.erase_if(of_context);
  state.memory.forget_context(context->id);
  context->null_stream = nullptr;
  return CUDA_SUCCESS;
}

CUresult push_current(Call& call, CUcontext context) {
  const auto pushed = call.state.contexts.find(number_of(context));
  if (pushed == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (pushed->destroyed) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  context_stack().push_back(pushed->id);
  return CUDA_SUCCESS;
}

CUresult pop_current(Call&, CUcontext* context) {
  if (context_stack().empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (context != nullptr) *context = handle_of<CUcontext>(context_stack().back());
  context_stack().pop_back();
  return CUDA_SUCCESS;
}

CUresult get_current(Call&, CUcontext* context) {
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *context = context_stack().empty() ? nullptr : handle_of<CUcontext>(context_stack().back());
  return CUDA_SUCCESS;
}

CUresult set_current(Call& call, CUcontext context) {
  std::vector<uint64_t>& stack = context_stack();
  if (context == nullptr) {
    if (!stack.empty()) stack.pop_back();
    return CUDA_SUCCESS;
  }
  const auto found = call.state.contexts.find(number_of(context));
  if (found == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (found->destroyed) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  if (stack.empty()) stack.push_back(0);
  stack.back() = found->id;
  return CUDA_SUCCESS;
}

CUresult context_device(Call& call, CUdevice* device) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (call.context() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  *device = call.context()->device;
  return CUDA_SUCCESS;
}

CUresult context_synchronize(Call& call) {
  bool captured = false;
  for (const auto& capture : call.state.captures)
    if (capture->origin->context == call.context()) {
      invalidate(*capture);
      captured = true;
    }
  if (captured) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return wait_for_all(call.state, call.lock, *call.context());
}

CUresult priority_range(Call&, int* least, int* greatest) {
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = -5;
  return CUDA_SUCCESS;
}

}  // namespace

void add_device_entries(State& state) {
  KVT_STANDIN_ENTRY(state, cuInit, init, kInit);
  KVT_STANDIN_ENTRY(state, cuDriverGetVersion, driver_version, kAlways);
  KVT_STANDIN_ENTRY(state, cuGetErrorName, error_name, kAlways);
  KVT_STANDIN_ENTRY(state, cuGetErrorString, error_string, kAlways);
  KVT_STANDIN_ENTRY(state, cuDeviceGetCount, device_count, kDevice);
  KVT_STANDIN_ENTRY(state, cuDeviceGet, device_get, kDevice);
  KVT_STANDIN_ENTRY(state, cuDeviceGetName, device_name, kDevice);
  KVT_STANDIN_ENTRY(state, cuDeviceGetUuid, device_uuid, kDevice);
  KVT_STANDIN_ENTRY(state, cuDeviceGetAttribute, device_attribute, kDevice);
  KVT_STANDIN_ENTRY(state, cuDeviceGetPCIBusId, device_pci_bus_id, kDevice);
  KVT_STANDIN_ENTRY(state, cuDeviceTotalMem, device_total_mem, kDevice);
  KVT_STANDIN_ENTRY(state, cuDeviceCanAccessPeer, can_access_peer, kDevice);
  KVT_STANDIN_ENTRY(state, cuDevicePrimaryCtxRetain, primary_retain, kDevice);
  KVT_STANDIN_ENTRY(state, cuDevicePrimaryCtxRelease, primary_release, kDevice);
  KVT_STANDIN_ENTRY(state, cuCtxPushCurrent, push_current, kThread);
  KVT_STANDIN_ENTRY(state, cuCtxPopCurrent, pop_current, kThread);
  KVT_STANDIN_ENTRY(state, cuCtxGetCurrent, get_current, kThread);
  KVT_STANDIN_ENTRY(state, cuCtxSetCurrent, set_current, kThread);
  KVT_STANDIN_ENTRY(state, cuCtxGetDevice, context_device, kThread);
  KVT_STANDIN_ENTRY(state, cuCtxSynchronize, context_synchronize, kContext).in_capture = false;
  KVT_STANDIN_ENTRY(state, cuCtxGetStreamPriorityRange, priority_range, kContext);
}

}  // namespace kvt::standin
