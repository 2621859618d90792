// SPDX-License-Identifier: Apache-2.0
//
// Shared mappings of memfds, through Boost.Interprocess's mapped_region over a descriptor, and the reserved
// address range in which an arena's windows lie. Movable, not copyable; not synchronised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "shm/base/fd.h"
#include "shm/base/result.h"

namespace kvt {

enum class Access { kReadOnly, kReadWrite };

class Mapping {
 public:
  Mapping();
  Mapping(Mapping&&) noexcept;
  Mapping& operator=(Mapping&&) noexcept;
  ~Mapping();

  /// Maps the first `bytes` of `fd`. With `address` not null: exactly there, in place of what is there.
  /// The mapping is left out of core dumps (it holds prompts) and out of forked children.
  static Result<Mapping> map(const Fd& fd, uint64_t bytes, Access access, void* address = nullptr);

  [[nodiscard]] std::byte* data() const;
  [[nodiscard]] uint64_t bytes() const;
  [[nodiscard]] bool valid() const { return region_ != nullptr; }

 private:
  friend class AddressRange;
  /// Over addresses that another allocator has reserved; a reservation again afterwards.
  static Result<Mapping> map_over(const Fd& fd, uint64_t bytes, Access access, std::byte* reserved);

  struct Region;
  std::unique_ptr<Region> region_;
};

/// A span of addresses that nothing else uses, into which windows are mapped. A window that has been mapped
/// owns its part of the span from then on; the range gives back the rest.
class AddressRange {
 public:
  AddressRange() = default;
  AddressRange(AddressRange&& other) noexcept;
  AddressRange& operator=(AddressRange&& other) noexcept;
  AddressRange(const AddressRange&) = delete;
  AddressRange& operator=(const AddressRange&) = delete;
  ~AddressRange();

  /// Reserves `bytes`, aligned to `alignment` (a power of two, at least an OS page).
  static Result<AddressRange> reserve(uint64_t bytes, uint64_t alignment);
  /// Takes over addresses that another allocator has reserved; `release` gives them back to it, after all windows
  /// in them have been unmapped.
  static AddressRange adopt(std::byte* data, uint64_t bytes, std::function<void()> release);
  /// Maps `bytes` of `fd` at `offset`, a multiple of the OS page. REQUIRES: nothing was mapped there before.
  Result<Mapping> map(const Fd& fd, uint64_t bytes, Access access, uint64_t offset);

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }

 private:
  struct Gap {
    uint64_t offset;
    uint64_t bytes;
  };
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
  std::vector<Gap> gaps_;          // reserved and still ours
  std::function<void()> release_;  // of an adopted range
};

/// Asks for huge pages where the kernel gives them to shared memory; no effect elsewhere.
void advise_huge(std::byte* data, uint64_t bytes);
/// Asks for what `pages` says.
void advise_pages(std::byte* data, uint64_t bytes, OsPages pages);

/// Allocates the memory behind a writable mapping now, so that a later touch cannot fail. kSystem with ENOMEM
/// or EFAULT when there is none, instead of a SIGBUS later.
Result<void> populate(std::byte* data, uint64_t bytes);

/// Bytes of an OS page.
uint64_t os_page_bytes();

}  // namespace kvt
