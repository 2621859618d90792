// SPDX-License-Identifier: Apache-2.0
//
// Device memory, virtual memory management and host memory.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/cuda/call.h"

namespace kvt::standin {
namespace {

/// Memory of a device, or of the host (kOfHost), or why there is none.
CUresult make_backing(State& state, int device, uint64_t bytes, bool exportable,
                      std::shared_ptr<Backing>& made) {
  uint64_t* used = nullptr;
  if (device != kOfHost) {
    used = &state.devices[static_cast<size_t>(device)]->used_bytes;
    const uint64_t total = state.settings.device_bytes;
    if (*used > total || bytes > total - *used) return CUDA_ERROR_OUT_OF_MEMORY;
  }
  const int fd = Backing::make_file(device, bytes);
  if (fd < 0) return CUDA_ERROR_OUT_OF_MEMORY;
  made = std::make_shared<Backing>(device, bytes, fd, exportable, used);
  std::erase_if(state.files, [](const auto& file) { return file.second.expired(); });
  state.files[Backing::inode(fd)] = made;
  return CUDA_SUCCESS;
}

CUresult get_info(Call& call, size_t* free_bytes, size_t* total_bytes) {
  if (free_bytes == nullptr || total_bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *total_bytes = call.state.settings.device_bytes;
  const uint64_t used = call.state.devices[static_cast<size_t>(call.context()->device)]->used_bytes;
  *free_bytes = *total_bytes - std::min<uint64_t>(used, *total_bytes);
  return CUDA_SUCCESS;
}

CUresult mem_alloc(Call& call, CUdeviceptr* address, size_t bytes) {
  if (address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  State& state = call.state;
  std::shared_ptr<Backing> backing;
  if (const CUresult made = make_backing(state, call.context()->device, bytes, false, backing);
      made != CUDA_SUCCESS)
    return made;
  uint64_t at = 0;
  const CUresult result =
      state.memory.allocate(at, bytes, std::move(backing), state.settings.devices, call.context()->id);
  if (result == CUDA_SUCCESS) *address = at;
  return result;
}

CUresult mem_free(Call& call, CUdeviceptr address) {
  if (const CUresult result = wait_for_all(call.state, call.lock, *call.context()); result != CUDA_SUCCESS)
    return result;
  return call.state.memory.free_allocation(address);
}

// ---- virtual memory management ----

CUresult check_properties(const State& state, const CUmemAllocationProp* properties) {
  if (!state.settings.vmm) return CUDA_ERROR_NOT_SUPPORTED;
  if (properties == nullptr || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
      properties->win32HandleMetaData != nullptr)
    return CUDA_ERROR_INVALID_VALUE;
  if (properties->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA) {
    if (!state.settings.host_numa) return CUDA_ERROR_NOT_SUPPORTED;
    if (properties->location.id != 0) return CUDA_ERROR_INVALID_VALUE;  // the host has one node
  } else if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
    return CUDA_ERROR_INVALID_VALUE;
  } else if (properties->location.id < 0 || properties->location.id >= state.settings.devices) {
    return CUDA_ERROR_INVALID_DEVICE;
  }
  switch (properties->requestedHandleTypes) {
    case CU_MEM_HANDLE_TYPE_NONE: return CUDA_SUCCESS;
    case CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR:
      return state.settings.posix_handles ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
    default: return CUDA_ERROR_NOT_SUPPORTED;
  }
}

CUresult granularity(Call& call, size_t* bytes, const CUmemAllocationProp* properties,
                     CUmemAllocationGranularity_flags option) {
  if (bytes == nullptr ||
      (option != CU_MEM_ALLOC_GRANULARITY_MINIMUM && option != CU_MEM_ALLOC_GRANULARITY_RECOMMENDED))
    return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult checked = check_properties(call.state, properties); checked != CUDA_SUCCESS)
    return checked;
  *bytes = kGranularity;
  return CUDA_SUCCESS;
}

CUresult mem_create(Call& call, CUmemGenericAllocationHandle* handle, size_t bytes,
                    const CUmemAllocationProp* properties, unsigned long long flags) {
  if (handle == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult checked = check_properties(call.state, properties); checked != CUDA_SUCCESS)
    return checked;
  if (bytes == 0 || bytes % kGranularity != 0) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Backing> backing;
  const bool exportable = properties->requestedHandleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  const bool host = properties->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA;
  const CUresult made =
      make_backing(call.state, host ? kOfHost : properties->location.id, bytes, exportable, backing);
  if (made == CUDA_SUCCESS) *handle = call.state.allocations.add(call.state.new_handle(), std::move(backing));
  return made;
}

CUresult mem_release(Call& call, CUmemGenericAllocationHandle handle) {
  return call.state.allocations.erase(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult mem_export(Call& call, void* shared, CUmemGenericAllocationHandle handle,
                    CUmemAllocationHandleType type, unsigned long long flags) {
  if (shared == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  const auto backing = call.state.allocations.find(handle);
  if (backing == nullptr || !backing->exportable) return CUDA_ERROR_INVALID_VALUE;
  const int fd = ::dup(backing->fd);
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  *static_cast<int*>(shared) = fd;
  return CUDA_SUCCESS;
}

CUresult mem_import(Call& call, CUmemGenericAllocationHandle* handle, void* shared,
                    CUmemAllocationHandleType type) {
  State& state = call.state;
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || !state.settings.posix_handles)
    return CUDA_ERROR_NOT_SUPPORTED;
  const int fd = static_cast<int>(reinterpret_cast<intptr_t>(shared));
  int device = 0;
  uint64_t bytes = 0;
  if (!Backing::read_file(fd, device, bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (device != kOfHost && (device < 0 || device >= state.settings.devices)) return CUDA_ERROR_INVALID_DEVICE;
  if (const auto known = state.files.find(Backing::inode(fd)); known != state.files.end())
    if (auto backing = known->second.lock(); backing != nullptr) {  // this process's own
      *handle = state.allocations.add(state.new_handle(), std::move(backing));
      return CUDA_SUCCESS;
    }
  const int own = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  *handle =
      state.allocations.add(state.new_handle(), std::make_shared<Backing>(device, bytes, own, true, nullptr));
  return CUDA_SUCCESS;
}

CUresult address_reserve(Call& call, CUdeviceptr* address, size_t bytes, size_t alignment, CUdeviceptr hint,
                         unsigned long long flags) {
  if (!call.state.settings.vmm) return CUDA_ERROR_NOT_SUPPORTED;
  if (address == nullptr || bytes == 0 || bytes % kGranularity != 0 || flags != 0 ||
      (alignment & (alignment - 1)) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  uint64_t at = 0;
  const CUresult result = call.state.memory.reserve(at, bytes, alignment, hint);
  if (result == CUDA_SUCCESS) *address = at;
  return result;
}

CUresult address_free(Call& call, CUdeviceptr address, size_t bytes) {
  return call.state.memory.free_reservation(address, bytes);
}

CUresult mem_map(Call& call, CUdeviceptr address, size_t bytes, size_t offset,
                 CUmemGenericAllocationHandle handle, unsigned long long flags) {
  auto backing = call.state.allocations.find(handle);
  if (backing == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  return call.state.memory.map(address, bytes, offset, std::move(backing));
}

CUresult mem_unmap(Call& call, CUdeviceptr address, size_t bytes) {
  while (true) {  // operations that run go on to their end; those that are queued will find nothing here
    std::vector<Pins> pins;
    if (const CUresult result = call.state.memory.can_unmap(address, bytes, pins); result != CUDA_SUCCESS)
      return result;
    bool used = false;
    for (const Pins& pin : pins) used = used || *pin > 0;
    if (!used || call.state.ended) break;
    call.state.changed.wait(call.lock);
  }
  call.state.memory.unmap(address, bytes);
  return CUDA_SUCCESS;
}

CUresult mem_set_access(Call& call, CUdeviceptr address, size_t bytes, const CUmemAccessDesc* access,
                        size_t count) {
  State& state = call.state;
  if (access == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; ++i) {
    if (access[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
    if (access[i].location.id < 0 || access[i].location.id >= state.settings.devices)
      return CUDA_ERROR_INVALID_DEVICE;
    if (access[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE &&
        access[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
        access[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
      return CUDA_ERROR_INVALID_VALUE;
  }
  for (size_t i = 0; i < count; ++i) {
    const CUresult result =
        state.memory.set_access(address, bytes, access[i].location.id, state.settings, access[i].flags);
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

// ---- host memory ----

CUresult host_alloc(Call& call, void** host, size_t bytes, unsigned flags) {
  constexpr unsigned kKnown =
      CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
  if (host == nullptr || bytes == 0 || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  return call.state.memory.allocate_host(*host, bytes, call.context()->id);
}

/// The registration that begins there, when no operation uses it any more; null: there is none.
Registration* unused_registration(Call& call, const void* host) {
  while (true) {
    Registration* const found = call.state.memory.registration_at(host);
    if (found == nullptr || *found->pins == 0 || call.state.ended) return found;
    call.state.changed.wait(call.lock);
  }
}

CUresult free_host(Call& call, void* host) {
  if (const CUresult result = wait_for_all(call.state, call.lock, *call.context()); result != CUDA_SUCCESS)
    return result;
  Registration* const found = unused_registration(call, host);
  if (found == nullptr || !found->allocated) return CUDA_ERROR_INVALID_VALUE;
  call.state.memory.forget(found);
  return CUDA_SUCCESS;
}

CUresult host_register(Call& call, void* host, size_t bytes, unsigned flags) {
  constexpr unsigned kKnown =
      CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_READ_ONLY;
  if ((flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  const bool read_only = (flags & CU_MEMHOSTREGISTER_READ_ONLY) != 0;
  const Settings& settings = call.state.settings;
  if (read_only && !settings.read_only_register) return CUDA_ERROR_NOT_SUPPORTED;
  return call.state.memory.register_host(host, bytes, read_only, settings.host_pointer, call.context()->id);
}

CUresult host_unregister(Call& call, void* host) {
  if (host == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Registration* const found = unused_registration(call, host);
  if (found == nullptr || found->allocated) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  call.state.memory.forget(found);
  return CUDA_SUCCESS;
}

CUresult host_device_pointer(Call& call, CUdeviceptr* address, void* host, unsigned flags) {
  if (address == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const Registration* const found = call.state.memory.registered(number_of(host));
  if (found == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *address = found->device_base + (number_of(host) - number_of(found->host));
  return CUDA_SUCCESS;
}

}  // namespace

void add_memory_entries(State& state) {
  KVT_STANDIN_ENTRY(state, cuMemGetInfo, get_info, kContext);
  KVT_STANDIN_ENTRY(state, cuMemAlloc, mem_alloc, kContext).in_capture = false;
  KVT_STANDIN_ENTRY(state, cuMemFree, mem_free, kContext).in_capture = false;
  KVT_STANDIN_ENTRY(state, cuMemGetAllocationGranularity, granularity, kDevice);
  KVT_STANDIN_ENTRY(state, cuMemCreate, mem_create, kMemory);
  KVT_STANDIN_ENTRY(state, cuMemRelease, mem_release, kMemory);
  KVT_STANDIN_ENTRY(state, cuMemExportToShareableHandle, mem_export, kMemory);
  KVT_STANDIN_ENTRY(state, cuMemImportFromShareableHandle, mem_import, kMemory);
  KVT_STANDIN_ENTRY(state, cuMemAddressReserve, address_reserve, kMemory);
  KVT_STANDIN_ENTRY(state, cuMemAddressFree, address_free, kMemory);
  KVT_STANDIN_ENTRY(state, cuMemMap, mem_map, kMemory);
  KVT_STANDIN_ENTRY(state, cuMemUnmap, mem_unmap, kMemory);
  KVT_STANDIN_ENTRY(state, cuMemSetAccess, mem_set_access, kMemory);
  KVT_STANDIN_ENTRY(state, cuMemHostAlloc, host_alloc, kContext).in_capture = false;
  KVT_STANDIN_ENTRY(state, cuMemFreeHost, free_host, kContext).in_capture = false;
  KVT_STANDIN_ENTRY(state, cuMemHostRegister, host_register, kContext).in_capture = false;
  KVT_STANDIN_ENTRY(state, cuMemHostUnregister, host_unregister, kContext).in_capture = false;
  KVT_STANDIN_ENTRY(state, cuMemHostGetDevicePointer, host_device_pointer, kContext);
}

}  // namespace kvt::standin
