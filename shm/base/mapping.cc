// SPDX-License-Identifier: Apache-2.0
#include "shm/base/mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <boost/interprocess/detail/os_file_functions.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <utility>

namespace kvt {
namespace {

namespace bi = boost::interprocess;

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/// What mapped_region wants of a mappable thing: a handle and a mode. Borrows the descriptor.
class MappableFd {
 public:
  MappableFd(const Fd& fd, Access access) : fd_(fd), access_(access) {}
  [[nodiscard]] bi::mapping_handle_t get_mapping_handle() const {
    return bi::ipcdetail::mapping_handle_from_file_handle(fd_.get());
  }
  [[nodiscard]] bi::mode_t get_mode() const {
    return access_ == Access::kReadOnly ? bi::read_only : bi::read_write;
  }

 private:
  const Fd& fd_;
  Access access_;
};

}  // namespace

struct Mapping::Region {
  bi::mapped_region region;
  // In place of a reservation that is another allocator's, which is there again afterwards: never a hole into which
  // something else could be mapped.
  std::byte* reserved = nullptr;
  uint64_t reserved_bytes = 0;

  Region() = default;
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() {
    if (reserved != nullptr)
      ::mmap(reserved, reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0);
  }
};

Mapping::Mapping() = default;
Mapping::Mapping(Mapping&&) noexcept = default;
Mapping& Mapping::operator=(Mapping&&) noexcept = default;
Mapping::~Mapping() = default;

Result<Mapping> Mapping::map(const Fd& fd, uint64_t bytes, Access access, void* address) {
  KVT_TRY_ASSIGN(const uint64_t file, file_bytes(fd));
  if (bytes == 0 || bytes > file)
    return fail(Code::kInvalid,
                "cannot map " + std::to_string(bytes) + " bytes of a file of " + std::to_string(file));
  Mapping mapping;
  const MappableFd mappable(fd, access);
  try {
    mapping.region_ = std::make_unique<Region>();
    const bi::map_options_t options = address == nullptr ? bi::default_map_options : MAP_FIXED;
    mapping.region_->region =
        bi::mapped_region(mappable, mappable.get_mode(), 0, static_cast<size_t>(bytes), address, options);
  } catch (const bi::interprocess_exception& exception) {
    return fail_errno("map " + std::to_string(bytes) + " bytes", exception.get_native_error());
  } catch (const std::bad_alloc&) {
    return fail(Code::kFull, "out of memory");
  }
  ::madvise(mapping.data(), bytes, MADV_DONTDUMP);
  ::madvise(mapping.data(), bytes, MADV_DONTFORK);
  return mapping;
}

std::byte* Mapping::data() const {
  if (!region_) return nullptr;
  return region_->reserved != nullptr ? region_->reserved
                                      : static_cast<std::byte*>(region_->region.get_address());
}
uint64_t Mapping::bytes() const {
  if (!region_) return 0;
  return region_->reserved != nullptr ? region_->reserved_bytes : region_->region.get_size();
}

Result<Mapping> Mapping::map_over(const Fd& fd, uint64_t bytes, Access access, std::byte* reserved) {
  KVT_TRY_ASSIGN(const uint64_t file, file_bytes(fd));
  if (bytes == 0 || bytes > file)
    return fail(Code::kInvalid,
                "cannot map " + std::to_string(bytes) + " bytes of a file of " + std::to_string(file));
  Mapping mapping;
  mapping.region_ = std::make_unique<Region>();
  const int protection = access == Access::kReadOnly ? PROT_READ : PROT_READ | PROT_WRITE;
  if (::mmap(reserved, bytes, protection, MAP_SHARED | MAP_FIXED, fd.get(), 0) == MAP_FAILED)
    return fail_errno("map " + std::to_string(bytes) + " bytes");
  mapping.region_->reserved = reserved;
  mapping.region_->reserved_bytes = bytes;
  ::madvise(reserved, bytes, MADV_DONTDUMP);
  ::madvise(reserved, bytes, MADV_DONTFORK);
  return mapping;
}

AddressRange::AddressRange(AddressRange&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      gaps_(std::exchange(other.gaps_, {})),
      release_(std::exchange(other.release_, nullptr)) {}

AddressRange& AddressRange::operator=(AddressRange&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(gaps_, other.gaps_);
  std::swap(release_, other.release_);
  return *this;
}

AddressRange::~AddressRange() {
  if (release_) {
    release_();
    return;
  }
  for (const Gap& gap : gaps_) ::munmap(data_ + gap.offset, gap.bytes);
}

Result<AddressRange> AddressRange::reserve(uint64_t bytes, uint64_t alignment) {
  bytes = (bytes + os_page_bytes() - 1) & ~(os_page_bytes() - 1);
  const uint64_t wanted = bytes + alignment;
  void* const address =
      ::mmap(nullptr, wanted, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) return fail_errno("reserve " + std::to_string(bytes) + " bytes of addresses");
  const auto start = reinterpret_cast<uintptr_t>(address);
  const uintptr_t aligned = (start + alignment - 1) & ~(alignment - 1);
  if (aligned > start) ::munmap(address, aligned - start);
  const uintptr_t end = aligned + bytes;
  if (end < start + wanted) ::munmap(reinterpret_cast<void*>(end), start + wanted - end);
  AddressRange range;
  range.data_ = reinterpret_cast<std::byte*>(aligned);
  range.bytes_ = bytes;
  range.gaps_.push_back({0, bytes});
  ::madvise(range.data_, bytes, MADV_DONTFORK);
  return range;
}

AddressRange AddressRange::adopt(std::byte* data, uint64_t bytes, std::function<void()> release) {
  AddressRange range;
  range.data_ = data;
  range.bytes_ = bytes;
  range.gaps_.push_back({0, bytes});
  range.release_ = std::move(release);
  return range;
}

Result<Mapping> AddressRange::map(const Fd& fd, uint64_t bytes, Access access, uint64_t offset) {
  const uint64_t end = offset + ((bytes + os_page_bytes() - 1) & ~(os_page_bytes() - 1));
  for (size_t i = 0; i < gaps_.size(); ++i) {
    const Gap gap = gaps_[i];
    if (offset < gap.offset || end > gap.offset + gap.bytes) continue;
    KVT_TRY_ASSIGN(Mapping mapping, release_ ? Mapping::map_over(fd, bytes, access, data_ + offset)
                                             : Mapping::map(fd, bytes, access, data_ + offset));
    gaps_.erase(gaps_.begin() + static_cast<std::ptrdiff_t>(i));
    if (offset > gap.offset) gaps_.push_back({gap.offset, offset - gap.offset});
    if (gap.offset + gap.bytes > end) gaps_.push_back({end, gap.offset + gap.bytes - end});
    return mapping;
  }
  return fail(Code::kInvalid,
              "a window of " + std::to_string(bytes) + " bytes does not fit its address range");
}

void advise_huge(std::byte* data, uint64_t bytes) { ::madvise(data, bytes, MADV_HUGEPAGE); }

void advise_pages(std::byte* data, uint64_t bytes, OsPages pages) {
  if (pages == OsPages::kUsual) advise_huge(data, bytes);
  if (pages == OsPages::kSmall) ::madvise(data, bytes, MADV_NOHUGEPAGE);
}

Result<void> populate(std::byte* data, uint64_t bytes) {
  if (::madvise(data, bytes, MADV_POPULATE_WRITE) == 0) return {};
  if (errno != EINVAL) return fail_errno("allocate " + std::to_string(bytes) + " bytes of shared memory");
  // Kernels before 5.14: touch each OS page.
  const uint64_t step = os_page_bytes();
  for (uint64_t at = 0; at < bytes; at += step) {
    auto* const word = reinterpret_cast<volatile unsigned char*>(data + at);
    *word = *word;
  }
  return {};
}

uint64_t os_page_bytes() {
  static const auto bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace kvt
