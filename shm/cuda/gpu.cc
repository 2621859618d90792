// SPDX-License-Identifier: Apache-2.0
#include "shm/cuda/gpu.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <utility>

namespace kvt::cuda {
namespace {

constexpr uint64_t kPieceBytes = 1ull << 30;

uint64_t round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

CUdeviceptr device_address(const std::byte* address) { return reinterpret_cast<CUdeviceptr>(address); }

CUmemAllocationProp properties_of(CUdevice device, int host_node = -1) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
#if CUDA_VERSION >= 12020
  if (host_node >= 0) {
    properties.location.type = CU_MEM_LOCATION_TYPE_HOST_NUMA;
    properties.location.id = host_node;
  }
#else
  (void)host_node;
#endif
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return properties;
}

Result<GpuInfo> info_of(const Driver& driver, int ordinal) {
  GpuInfo info;
  info.ordinal = ordinal;
  const std::string about = "GPU " + std::to_string(ordinal);
  CUdevice device = 0;
  KVT_TRY(driver.check(driver.cuDeviceGet(&device, ordinal), about));
  const auto attribute = [&](CUdevice_attribute which) {
    int value = 0;
    return driver.cuDeviceGetAttribute(&value, which, device) == CUDA_SUCCESS ? value : 0;
  };
  char text[256] = {};
  KVT_TRY(driver.check(driver.cuDeviceGetName(text, sizeof text, device), about + ": its name"));
  info.name = text;
  CUuuid uuid{};
  KVT_TRY(driver.check(driver.cuDeviceGetUuid(&uuid, device), about + ": its UUID"));
  std::copy(std::begin(uuid.bytes), std::end(uuid.bytes), reinterpret_cast<char*>(info.uuid.data()));
  if (driver.cuDeviceGetPCIBusId(text, sizeof text, device) == CUDA_SUCCESS) info.pci_address = text;
  size_t bytes = 0;
  KVT_TRY(driver.check(driver.cuDeviceTotalMem(&bytes, device), about + ": its memory"));
  info.bytes = bytes;
  info.capability = 10 * attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
                    attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
#if CUDA_VERSION >= 12020
  int node = -1;
  if (driver.cuDeviceGetAttribute(&node, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, device) == CUDA_SUCCESS)
    info.numa_node = node;
  info.allocates_host = attribute(CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) != 0;
#endif
  info.stream_writes = attribute(CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS) != 0;
  info.registers_read_only = attribute(CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED) != 0;
  if (attribute(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) == 0)
    info.unfit = "it has no virtual memory management";
  else if (attribute(CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED) == 0)
    info.unfit = "its memory cannot be shared by descriptors";
  else if (attribute(CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM) == 0)
    info.unfit = "it sees registered host memory under another address";
  return info;
}

}  // namespace

std::string uuid_text(const Uuid& uuid) { return gpu_uuid_text(uuid); }

Result<std::vector<GpuInfo>> list_gpus(const Driver& driver) {
  int count = 0;
  KVT_TRY(driver.check(driver.cuDeviceGetCount(&count), "cuDeviceGetCount"));
  std::vector<GpuInfo> all;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    KVT_TRY_ASSIGN(GpuInfo info, info_of(driver, ordinal));
    all.push_back(std::move(info));
  }
  return all;
}

Result<std::shared_ptr<Gpu>> Gpu::open(std::shared_ptr<const Driver> driver, int ordinal) {
  std::shared_ptr<Gpu> gpu(new Gpu());
  gpu->driver_ = std::move(driver);
  const Driver& calls = *gpu->driver_;
  int count = 0;
  KVT_TRY(calls.check(calls.cuDeviceGetCount(&count), "cuDeviceGetCount"));
  if (ordinal < 0 || ordinal >= count)
    return fail(Code::kNotFound, "GPU " + std::to_string(ordinal) + ": the driver shows " +
                                     std::to_string(count) + " to this process");
  KVT_TRY_ASSIGN(gpu->info_, info_of(calls, ordinal));
  const std::string about = "GPU " + std::to_string(ordinal) + " (" + gpu->info_.name + ")";
  if (!gpu->info_.unfit.empty()) return fail(Code::kMismatch, about + " cannot be used: " + gpu->info_.unfit);
  KVT_TRY(calls.check(calls.cuDeviceGet(&gpu->device_, ordinal), about));
  KVT_TRY(calls.check(calls.cuDevicePrimaryCtxRetain(&gpu->context_, gpu->device_), about + ": its context"));
  const Current current(calls, gpu->context_);
  const CUmemAllocationProp properties = properties_of(gpu->device_);
  size_t granularity = 0;
  KVT_TRY(calls.check(
      calls.cuMemGetAllocationGranularity(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
      about + ": its granularity"));
  gpu->granularity_ = std::max<uint64_t>(granularity, 1);
  return gpu;
}

Gpu::~Gpu() {
  if (context_ != nullptr) driver_->cuDevicePrimaryCtxRelease(device_);
}

Result<uint64_t> Gpu::free_bytes() const {
  const Current current(*driver_, context_);
  size_t free = 0;
  size_t total = 0;
  KVT_TRY(driver_->check(driver_->cuMemGetInfo(&free, &total), "free memory of " + info_.name));
  return free;
}

bool can_access_peer(const Driver& driver, int ordinal, int peer) {
  CUdevice device = 0;
  CUdevice other = 0;
  int can = 0;
  return ordinal != peer && driver.cuDeviceGet(&device, ordinal) == CUDA_SUCCESS &&
         driver.cuDeviceGet(&other, peer) == CUDA_SUCCESS &&
         driver.cuDeviceCanAccessPeer(&can, device, other) == CUDA_SUCCESS && can != 0;
}

Result<AddressRange> reserve_addresses(const std::shared_ptr<Gpu>& gpu, uint64_t bytes, uint64_t alignment) {
  const Driver& driver = gpu->driver();
  const Current current(driver, gpu->context());
  const uint64_t rounded = round_up(bytes, gpu->granularity());
  CUdeviceptr address = 0;
  KVT_TRY(driver.check(
      driver.cuMemAddressReserve(&address, rounded, std::max(alignment, gpu->granularity()), 0, 0),
      "reserve " + std::to_string(rounded) + " bytes of addresses"));
  return AddressRange::adopt(reinterpret_cast<std::byte*>(address), rounded, [gpu, address, rounded] {
    const Current there(gpu->driver(), gpu->context());
    gpu->driver().cuMemAddressFree(address, rounded);
  });
}

/// The next one. The mapping keeps the memory, the handle goes.
Result<void> DeviceWindow::map_chunk(CUmemGenericAllocationHandle handle) {
  const Driver& driver = gpu_->driver();
  const uint64_t offset = offset_of(mapped_.size());
  const uint64_t bytes = offset_of(mapped_.size() + 1) - offset;
  const CUresult mapped = driver.cuMemMap(device_address(address_) + offset, bytes, 0, handle, 0);
  driver.cuMemRelease(handle);
  KVT_TRY(driver.check(mapped, "map " + std::to_string(bytes) + " bytes of " + gpu_->info().name));
  mapped_.push_back(bytes);
  KVT_TRY(allow_access(gpu_->device(), offset, bytes, ""));
  for (const CUdevice peer : peers_)
    KVT_TRY(allow_access(peer, offset, bytes, " of GPU " + std::to_string(peer)));
  return {};
}

Result<void> DeviceWindow::allow_access(CUdevice device, uint64_t offset, uint64_t bytes,
                                        const std::string& whose) {
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = device;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  return gpu_->driver().check(
      gpu_->driver().cuMemSetAccess(device_address(address_) + offset, bytes, &access, 1),
      "access" + whose + " to " + std::to_string(bytes) + " bytes of " + gpu_->info().name);
}

Result<void> DeviceWindow::allow_peer(int ordinal) {
  const Driver& driver = gpu_->driver();
  const Current current(driver, gpu_->context());
  const std::string whose = " of GPU " + std::to_string(ordinal);
  CUdevice device = 0;
  KVT_TRY(driver.check(driver.cuDeviceGet(&device, ordinal), "access" + whose));
  for (uint64_t chunk = 0; chunk < mapped_.size(); ++chunk)
    KVT_TRY(allow_access(device, offset_of(chunk), mapped_[chunk], whose));
  peers_.push_back(device);
  return {};
}

std::string DeviceWindow::memory_text() const {
  return host_node_ < 0
             ? gpu_->info().name
             : "NUMA node " + std::to_string(host_node_) + " by the driver of " + gpu_->info().name;
}

Result<void> DeviceWindow::grow(uint64_t chunks) {
  const Driver& driver = gpu_->driver();
  const Current current(driver, gpu_->context());
  const uint64_t before = mapped_.size();
  const uint64_t begin = offset_of(before);
  const uint64_t bytes = offset_of(chunks) - begin;
  const CUmemAllocationProp properties = properties_of(gpu_->device(), host_node_);
  auto made = [&]() -> Result<void> {
    for (uint64_t chunk = before; chunk < chunks; ++chunk) {
      CUmemGenericAllocationHandle handle = 0;
      KVT_TRY(
          driver.check(driver.cuMemCreate(&handle, offset_of(chunk + 1) - offset_of(chunk), &properties, 0),
                       "take " + std::to_string(bytes >> 20) + " MiB of " + memory_text()));
      int fd = -1;
      const CUresult exported =
          driver.cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
      fds_.emplace_back(exported == CUDA_SUCCESS ? fd : -1);
      KVT_TRY(map_chunk(handle));
      KVT_TRY(driver.check(exported, "a descriptor for memory of " + gpu_->info().name));
      ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    KVT_TRY(driver.check(driver.cuMemsetD8Async(device_address(address_) + begin, 0, bytes, nullptr),
                         "clear memory of " + gpu_->info().name));
    auto cleared = driver.check(driver.cuStreamSynchronize(nullptr), "clear memory of " + gpu_->info().name);
    // It is unmapped then, and must not be while it is still being written: a wait that was refused has not waited.
    if (!cleared) (void)driver.cuStreamSynchronize(nullptr);
    return cleared;
  }();
  if (!made) shrink(before);
  return made;
}

Result<DeviceWindow> DeviceWindow::create(const std::shared_ptr<Gpu>& gpu, std::byte* address, uint64_t bytes,
                                          uint64_t chunk_bytes, int host_node) {
  DeviceWindow window(gpu, address, bytes, chunk_bytes, host_node);
  KVT_TRY(window.grow((bytes + chunk_bytes - 1) / chunk_bytes));
  return window;
}

Result<void> DeviceWindow::map(std::span<const Fd> next) {
  const Driver& driver = gpu_->driver();
  const Current current(driver, gpu_->context());
  if (mapped_.size() + next.size() > (bytes_ + chunk_bytes_ - 1) / chunk_bytes_)
    return fail(Code::kInvalid, "more chunks than the device window has room for");
  for (const Fd& fd : next) {
    CUmemGenericAllocationHandle handle = 0;
    const CUresult imported = driver.cuMemImportFromShareableHandle(
        &handle, reinterpret_cast<void*>(static_cast<intptr_t>(fd.get())),
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    KVT_TRY(driver.check(imported, "map memory of " + gpu_->info().name + " by its descriptor"));
    KVT_TRY(map_chunk(handle));
  }
  return {};
}

Result<DeviceWindow> DeviceWindow::import(const std::shared_ptr<Gpu>& gpu, std::byte* address, uint64_t bytes,
                                          uint64_t chunk_bytes, std::span<const Fd> chunks, int host_node) {
  if (chunk_bytes == 0 || chunks.empty() || chunks.size() > (bytes + chunk_bytes - 1) / chunk_bytes)
    return fail(Code::kInvalid, std::to_string(chunks.size()) + " descriptors for a device window of " +
                                    std::to_string(bytes) + " bytes in chunks of " +
                                    std::to_string(chunk_bytes));
  DeviceWindow window(gpu, address, bytes, chunk_bytes, host_node);
  KVT_TRY(window.map(chunks));
  return window;
}

void DeviceWindow::shrink(uint64_t chunks) {
  if (mapped_.size() > chunks) {
    const Current current(gpu_->driver(), gpu_->context());
    for (; mapped_.size() > chunks; mapped_.pop_back())
      gpu_->driver().cuMemUnmap(device_address(address_) + offset_of(mapped_.size() - 1), mapped_.back());
  }
  if (fds_.size() > chunks) fds_.erase(fds_.begin() + static_cast<std::ptrdiff_t>(chunks), fds_.end());
}

DeviceWindow::DeviceWindow(DeviceWindow&& other) noexcept
    : gpu_(std::move(other.gpu_)),
      address_(std::exchange(other.address_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      chunk_bytes_(other.chunk_bytes_),
      host_node_(other.host_node_),
      peers_(std::exchange(other.peers_, {})),
      mapped_(std::exchange(other.mapped_, {})),
      fds_(std::exchange(other.fds_, {})) {}

DeviceWindow& DeviceWindow::operator=(DeviceWindow&& other) noexcept {
  std::swap(gpu_, other.gpu_);
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  std::swap(chunk_bytes_, other.chunk_bytes_);
  std::swap(host_node_, other.host_node_);
  std::swap(peers_, other.peers_);
  std::swap(mapped_, other.mapped_);
  std::swap(fds_, other.fds_);
  return *this;
}

DeviceWindow::~DeviceWindow() { shrink(0); }

Result<HostRegistration> HostRegistration::make(const std::shared_ptr<Gpu>& gpu, std::byte* data,
                                                uint64_t bytes, uint64_t piece_bytes, Access access,
                                                const std::function<void(uint64_t bytes)>& progress) {
  if (access == Access::kReadOnly && !gpu->info().registers_read_only)
    return fail(Code::kMismatch, gpu->info().name + " cannot register memory that is mapped read-only");
  const Driver& driver = gpu->driver();
  const Current current(driver, gpu->context());
  HostRegistration registration;
  registration.gpu_ = gpu;
  unsigned int flags = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP;
  if (access == Access::kReadOnly) flags |= CU_MEMHOSTREGISTER_READ_ONLY;
  for (uint64_t offset = 0; offset < bytes; offset += piece_bytes) {
    const uint64_t part = std::min(piece_bytes, bytes - offset);
    KVT_TRY(driver.check(
        driver.cuMemHostRegister(data + offset, part, flags),
        "register " + std::to_string(part >> 20) + " MiB of host memory with " + gpu->info().name));
    registration.pieces_.push_back(data + offset);
    CUdeviceptr seen = 0;
    KVT_TRY(
        driver.check(driver.cuMemHostGetDevicePointer(&seen, data + offset, 0), "registered host memory"));
    if (seen != device_address(data + offset))
      return fail(Code::kMismatch, gpu->info().name + " sees registered host memory under another address");
    if (progress) progress(offset + part);
  }
  return registration;
}

HostRegistration::HostRegistration(HostRegistration&& other) noexcept
    : gpu_(std::move(other.gpu_)), pieces_(std::exchange(other.pieces_, {})) {}

HostRegistration& HostRegistration::operator=(HostRegistration&& other) noexcept {
  std::swap(gpu_, other.gpu_);
  std::swap(pieces_, other.pieces_);
  return *this;
}

HostRegistration::~HostRegistration() {
  if (pieces_.empty()) return;
  const Current current(gpu_->driver(), gpu_->context());
  for (std::byte* const piece : pieces_) gpu_->driver().cuMemHostUnregister(piece);
}

uint64_t piece_bytes_of(uint64_t page_bytes) {
  const uint64_t whole = std::lcm(page_bytes, os_page_bytes());
  return std::max<uint64_t>(1, kPieceBytes / whole) * whole;
}

}  // namespace kvt::cuda
