// SPDX-License-Identifier: Apache-2.0
#include "tests/support/cuda/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

namespace kvt::standin {
namespace {

constexpr uint64_t kOsPage = 4096;
constexpr std::array<char, 16> kMagic = {'c', 'u', 'd', 'a', '-', 's', 't', 'a',
                                         'n', 'd', 'i', 'n', '-', 'h', 'b', 'm'};

/// Behind the memory of every handle's file.
struct Trailer {
  std::array<char, 16> magic;
  uint64_t bytes;
  int64_t device;
};

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

char* nowhere(void* at, uint64_t bytes, int more_flags) {
  void* made = ::mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | more_flags, -1, 0);
  return made == MAP_FAILED ? nullptr : static_cast<char*>(made);
}

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }
void* pointer_to(uint64_t address) { return reinterpret_cast<void*>(address); }

/// A range of `bytes` at a multiple of `alignment`; the rest is given back.
char* aligned_nowhere(uint64_t bytes, uint64_t alignment) {
  char* const made = nowhere(nullptr, bytes + alignment, 0);
  if (made == nullptr) return nullptr;
  char* const begin = static_cast<char*>(pointer_to(round_up(address_of(made), alignment)));
  if (begin > made) ::munmap(made, static_cast<size_t>(begin - made));
  ::munmap(begin + bytes, static_cast<size_t>(made + alignment - begin));
  return begin;
}

enum class Host { kMissing, kReadOnly, kWritable };

/// What the process has at [begin, end): the least of it.
Host host_pages(uint64_t begin, uint64_t end) {
  std::FILE* maps = std::fopen("/proc/self/maps", "re");
  if (maps == nullptr) return Host::kMissing;
  Host least = Host::kWritable;
  uint64_t next = begin;
  std::array<char, 512> line{};
  while (next < end && std::fgets(line.data(), line.size(), maps) != nullptr) {
    unsigned long long from = 0;
    unsigned long long to = 0;
    std::array<char, 5> rights{};
    if (std::sscanf(line.data(), "%llx-%llx %4s", &from, &to, rights.data()) != 3 || to <= next) continue;
    if (from > next || rights[0] != 'r') break;
    if (rights[1] != 'w') least = Host::kReadOnly;
    next = to;
  }
  std::fclose(maps);
  return next < end ? Host::kMissing : least;
}

}  // namespace

Backing::Backing(int of_device, uint64_t of_bytes, int of_fd, bool can_be_exported, uint64_t* used)
    : device(of_device), bytes(of_bytes), fd(of_fd), exportable(can_be_exported), used_(used) {
  if (used_ != nullptr) *used_ += bytes;
}

Backing::~Backing() {
  ::close(fd);
  if (used_ != nullptr) *used_ -= bytes;
}

int Backing::make_file(int device, uint64_t bytes) {
  const int fd = ::memfd_create("cuda-standin-hbm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -1;
  const uint64_t end = round_up(bytes, kOsPage);
  const Trailer trailer{kMagic, bytes, device};
  if (::ftruncate(fd, static_cast<off_t>(end + kOsPage)) != 0 ||
      ::pwrite(fd, &trailer, sizeof trailer, static_cast<off_t>(end)) != ssize_t{sizeof trailer} ||
      ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    ::close(fd);
    return -1;
  }
  return fd;
}

bool Backing::read_file(int fd, int& device, uint64_t& bytes) {
  struct stat status {};
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size < off_t{kOsPage}) return false;
  Trailer trailer{};
  const uint64_t end = static_cast<uint64_t>(status.st_size) - kOsPage;
  if (::pread(fd, &trailer, sizeof trailer, static_cast<off_t>(end)) != ssize_t{sizeof trailer}) return false;
  if (trailer.magic != kMagic || round_up(trailer.bytes, kOsPage) != end) return false;
  device = static_cast<int>(trailer.device);
  bytes = trailer.bytes;
  return true;
}

uint64_t Backing::inode(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

CUresult Memory::reserve(uint64_t& address, uint64_t bytes, uint64_t alignment, uint64_t hint) {
  if (alignment < kGranularity) alignment = kGranularity;
  char* range = nullptr;
  if (hint != 0 && hint % alignment == 0) {
    range = nowhere(pointer_to(hint), bytes, MAP_FIXED_NOREPLACE);
    if (range != nullptr && address_of(range) != hint) {  // a kernel that does not know the flag
      ::munmap(range, bytes);
      range = nullptr;
    }
  }
  if (range == nullptr) range = aligned_nowhere(bytes, alignment);
  if (range == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  char* const alias = nowhere(nullptr, bytes, 0);
  if (alias == nullptr) {
    ::munmap(range, bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  address = address_of(range);
  Reservation& made = reservations_[address];
  made.base = address;
  made.bytes = bytes;
  made.alias = alias;
  return CUDA_SUCCESS;
}

CUresult Memory::free_reservation(uint64_t address, uint64_t bytes) {
  const auto found = reservations_.find(address);
  if (found == reservations_.end()) return CUDA_ERROR_INVALID_VALUE;
  Reservation& reservation = found->second;
  if (reservation.bytes != bytes || reservation.context != 0 || !reservation.mappings.empty())
    return CUDA_ERROR_INVALID_VALUE;
  ::munmap(pointer_to(address), bytes);
  ::munmap(reservation.alias, bytes);
  reservations_.erase(found);
  return CUDA_SUCCESS;
}

CUresult Memory::map(uint64_t address, uint64_t bytes, uint64_t offset, std::shared_ptr<Backing> backing) {
  Reservation* const reservation = reservation_of(address);
  if (reservation == nullptr || reservation->context != 0) return CUDA_ERROR_INVALID_VALUE;
  if (bytes == 0 || bytes % kGranularity != 0 || address % kGranularity != 0 || offset != 0)
    return CUDA_ERROR_INVALID_VALUE;
  const uint64_t at = address - reservation->base;
  if (bytes > reservation->bytes - at || bytes > backing->bytes) return CUDA_ERROR_INVALID_VALUE;
  const auto next = reservation->mappings.lower_bound(at);
  if (next != reservation->mappings.end() && next->first < at + bytes) return CUDA_ERROR_INVALID_VALUE;
  if (next != reservation->mappings.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second.bytes > at) return CUDA_ERROR_INVALID_VALUE;
  }
  if (::mmap(reservation->alias + at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, backing->fd,
             0) == MAP_FAILED)
    return CUDA_ERROR_OUT_OF_MEMORY;
  Mapping& made = reservation->mappings[at];
  made.bytes = bytes;
  made.backing = std::move(backing);
  return CUDA_SUCCESS;
}

CUresult Memory::can_unmap(uint64_t address, uint64_t bytes, std::vector<Pins>& pins) const {
  const Reservation* const reservation = reservation_of(address);
  if (reservation == nullptr || reservation->context != 0 || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  const uint64_t begin = address - reservation->base;
  uint64_t at = begin;
  for (auto next = reservation->mappings.find(at); at - begin < bytes; ++next) {
    if (next == reservation->mappings.end() || next->first != at) return CUDA_ERROR_INVALID_VALUE;
    at += next->second.bytes;
    pins.push_back(next->second.pins);
  }
  return at - begin == bytes ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

void Memory::unmap(uint64_t address, uint64_t bytes) {
  Reservation& reservation = *reservation_of(address);
  const uint64_t begin = address - reservation.base;
  nowhere(reservation.alias + begin, bytes, MAP_FIXED);
  reservation.mappings.erase(reservation.mappings.lower_bound(begin),
                             reservation.mappings.lower_bound(begin + bytes));
}

CUresult Memory::set_access(uint64_t address, uint64_t bytes, int device, const Settings& settings,
                            unsigned access) {
  std::vector<Pins> pins;
  if (const CUresult whole = can_unmap(address, bytes, pins); whole != CUDA_SUCCESS) return whole;
  Reservation& reservation = *reservation_of(address);
  const uint64_t begin = address - reservation.base;
  const auto first = reservation.mappings.find(begin);
  const auto last = reservation.mappings.lower_bound(begin + bytes);
  for (auto next = first; next != last; ++next)
    if (const int owner = next->second.backing->device;
        owner != device && owner != kOfHost && !settings.can_access(device, owner))
      return CUDA_ERROR_INVALID_DEVICE;
  for (auto next = first; next != last; ++next) {
    next->second.access.resize(static_cast<size_t>(settings.devices), CU_MEM_ACCESS_FLAGS_PROT_NONE);
    next->second.access[static_cast<size_t>(device)] = access;
  }
  return CUDA_SUCCESS;
}

CUresult Memory::allocate(uint64_t& address, uint64_t bytes, std::shared_ptr<Backing> backing, int devices,
                          uint64_t context) {
  const uint64_t pages = round_up(bytes, kOsPage);
  if (const CUresult made = reserve(address, pages, kOsPage, 0); made != CUDA_SUCCESS) return made;
  Reservation& reservation = reservations_[address];
  if (::mmap(reservation.alias, pages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, backing->fd, 0) ==
      MAP_FAILED) {
    (void)free_reservation(address, pages);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  reservation.context = context;
  Mapping& mapping = reservation.mappings[0];
  mapping.bytes = bytes;  // exactly: what is behind it faults
  mapping.backing = std::move(backing);
  mapping.access.assign(static_cast<size_t>(devices), CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  return CUDA_SUCCESS;
}

CUresult Memory::free_allocation(uint64_t address) {
  const auto found = reservations_.find(address);
  if (found == reservations_.end() || found->second.context == 0) return CUDA_ERROR_INVALID_VALUE;
  ::munmap(pointer_to(address), found->second.bytes);
  ::munmap(found->second.alias, found->second.bytes);
  reservations_.erase(found);
  return CUDA_SUCCESS;
}

CUresult Memory::register_host(void* host, uint64_t bytes, bool read_only, bool same_address,
                               uint64_t context) {
  const uint64_t begin = address_of(host);
  if (host == nullptr || bytes == 0 || begin + bytes < begin) return CUDA_ERROR_INVALID_VALUE;
  const auto next = registrations_.lower_bound(begin);
  if (next != registrations_.end() && next->first < begin + bytes)
    return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  if (next != registrations_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second.bytes > begin) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  }
  const Host pages = host_pages(begin, begin + bytes);
  if (pages == Host::kMissing || (pages == Host::kReadOnly && !read_only)) return CUDA_ERROR_INVALID_VALUE;
  uint64_t device_base = begin;
  if (!same_address) {
    char* const range = nowhere(nullptr, round_up(bytes, kOsPage), 0);
    if (range == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    device_base = address_of(range);
  }
  Registration& made = registrations_[begin];
  made.host = static_cast<char*>(host);
  made.bytes = bytes;
  made.device_base = device_base;
  made.read_only = read_only;
  made.context = context;
  return CUDA_SUCCESS;
}

CUresult Memory::allocate_host(void*& host, uint64_t bytes, uint64_t context) {
  void* const made = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  Registration& registration = registrations_[address_of(made)];
  registration.host = static_cast<char*>(made);
  registration.bytes = bytes;
  registration.device_base = address_of(made);
  registration.allocated = true;
  registration.context = context;
  host = made;
  return CUDA_SUCCESS;
}

Registration* Memory::registration_at(const void* host) {
  const auto found = registrations_.find(address_of(host));
  return found == registrations_.end() ? nullptr : &found->second;
}

void Memory::forget(Registration* registration) {
  const uint64_t begin = address_of(registration->host);
  if (registration->device_base != begin)
    ::munmap(pointer_to(registration->device_base), round_up(registration->bytes, kOsPage));
  if (registration->allocated) ::munmap(registration->host, registration->bytes);
  registrations_.erase(begin);
}

void Memory::forget_context(uint64_t context) {
  std::vector<uint64_t> allocations;
  for (const auto& [address, reservation] : reservations_)
    if (reservation.context == context) allocations.push_back(address);
  for (const uint64_t address : allocations) (void)free_allocation(address);
  std::vector<Registration*> registrations;
  for (auto& [address, registration] : registrations_)
    if (registration.context == context) registrations.push_back(&registration);
  for (Registration* registration : registrations) forget(registration);
}

Where Memory::classify(uint64_t address) const {
  if (registered(address) != nullptr) return Where::kRegistered;
  for (const auto& [host, registration] : registrations_)
    if (address >= registration.device_base && address - registration.device_base < registration.bytes)
      return Where::kRegistered;
  if (reservation_of(address) != nullptr) return Where::kDevice;
  return Where::kPageable;
}

const Registration* Memory::registered(uint64_t host) const {
  auto next = registrations_.upper_bound(host);
  if (next == registrations_.begin()) return nullptr;
  --next;
  return host - next->first < next->second.bytes ? &next->second : nullptr;
}

bool Memory::within_one_registration(uint64_t address, uint64_t bytes) const {
  if (bytes == 0) return true;
  const Registration* const begin = registered(address);
  if (begin != nullptr) return bytes <= begin->bytes - (address - address_of(begin->host));
  const auto next = registrations_.upper_bound(address);
  return next == registrations_.end() || next->first >= address + bytes;
}

CUresult Memory::find(uint64_t address, uint64_t bytes, Use use, int device, std::vector<Pins>& pins,
                      Place& place) {
  // First: host memory may lie in a reserved range, where no device memory is mapped.
  for (auto& [host, registration] : registrations_) {
    if (address < registration.device_base || address - registration.device_base >= registration.bytes)
      continue;
    const uint64_t at = address - registration.device_base;
    if (bytes > registration.bytes - at || (use == Use::kWrite && registration.read_only))
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    place = {Where::kRegistered, registration.host + at};
    ++*registration.pins;
    pins.push_back(registration.pins);
    return CUDA_SUCCESS;
  }
  if (Reservation* const reservation = reservation_of(address); reservation != nullptr)
    return find_device(*reservation, address, bytes, use, device, pins, place);
  return CUDA_ERROR_ILLEGAL_ADDRESS;
}

CUresult Memory::find_for_copy(uint64_t address, uint64_t bytes, Use use, int device, std::vector<Pins>& pins,
                               Place& place) {
  const Registration* const registration = registered(address);
  if (registration != nullptr)
    address = registration->device_base + (address - address_of(registration->host));
  if (registration != nullptr || classify(address) != Where::kPageable)
    return find(address, bytes, use, device, pins, place);
  place = {Where::kPageable, static_cast<char*>(pointer_to(address))};
  return CUDA_SUCCESS;
}

Reservation* Memory::reservation_of(uint64_t address) {
  return const_cast<Reservation*>(static_cast<const Memory*>(this)->reservation_of(address));
}

const Reservation* Memory::reservation_of(uint64_t address) const {
  auto next = reservations_.upper_bound(address);
  if (next == reservations_.begin()) return nullptr;
  --next;
  return address - next->first < next->second.bytes ? &next->second : nullptr;
}

CUresult Memory::find_device(Reservation& reservation, uint64_t address, uint64_t bytes, Use use, int device,
                             std::vector<Pins>& pins, Place& place) {
  const unsigned needed =
      use == Use::kWrite ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_READ;
  const uint64_t begin = address - reservation.base;
  auto next = reservation.mappings.upper_bound(begin);
  if (next == reservation.mappings.begin()) return CUDA_ERROR_ILLEGAL_ADDRESS;
  --next;
  const int owner = next->second.backing->device;
  std::vector<Pins> used;
  Where where = Where::kDevice;
  for (uint64_t at = begin; at < begin + bytes || used.empty(); ++next) {
    if (next == reservation.mappings.end() || next->first > at || at - next->first >= next->second.bytes)
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    const Mapping& mapping = next->second;
    const auto index = static_cast<size_t>(device);
    if (index >= mapping.access.size() || (mapping.access[index] & needed) != needed ||
        mapping.backing->device == lost_device_)
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    if (mapping.backing->device == kOfHost) where = Where::kRegistered;
    used.push_back(mapping.pins);
    at = next->first + mapping.bytes;
  }
  for (const Pins& pin : used) {
    ++*pin;
    pins.push_back(pin);
  }
  place = {where, reservation.alias + begin, owner};
  return CUDA_SUCCESS;
}

}  // namespace kvt::standin
