// SPDX-License-Identifier: Apache-2.0
//
// The memory that the stand-in's devices see. HBM is a memfd for each handle. It is mapped twice: nowhere at the address
// that the program has (that range is PROT_NONE, so that the CPU faults there as it would with a real card), and at an
// alias that only the stand-in uses.
//
// Not thread-safe: everything is called with State's mutex held. A place that was found stays valid while it is pinned.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "tests/support/cuda/settings.h"

namespace kvt::standin {

inline constexpr uint64_t kGranularity = uint64_t{2} << 20;
/// In place of a device: host memory in a handle, which devices map like their own, and no CPU touches either.
inline constexpr int kOfHost = -2;

/// The bytes behind a handle. Their last owner gives the memory back to the device.
class Backing {
 public:
  /// `used`: what is in use of the device, or null for another process's memory.
  Backing(int device, uint64_t bytes, int fd, bool exportable, uint64_t* used);
  ~Backing();
  Backing(const Backing&) = delete;
  Backing& operator=(const Backing&) = delete;

  /// A memfd of `bytes`, with a line behind them that import() knows it by; -1 when there is none.
  static int make_file(int device, uint64_t bytes);
  /// What make_file wrote: false when `fd` is something else.
  static bool read_file(int fd, int& device, uint64_t& bytes);
  static uint64_t inode(int fd);

  const int device;
  const uint64_t bytes;
  const int fd;
  const bool exportable;

 private:
  uint64_t* used_;
};

/// How many operations that run now use something.
using Pins = std::shared_ptr<int>;

struct Mapping {
  uint64_t bytes = 0;
  std::shared_ptr<Backing> backing;
  std::vector<unsigned> access;  ///< CUmemAccess_flags by device
  Pins pins = std::make_shared<int>(0);
};

/// A range of device addresses, with the same range of aliases.
struct Reservation {
  uint64_t base = 0;
  uint64_t bytes = 0;
  char* alias = nullptr;
  std::map<uint64_t, Mapping> mappings;  ///< by offset
  uint64_t context = 0;                  ///< of cuMemAlloc; 0: cuMemAddressReserve
};

/// Host memory that devices see.
struct Registration {
  char* host = nullptr;
  uint64_t bytes = 0;
  uint64_t device_base = 0;  ///< its address for the device
  bool read_only = false;
  bool allocated = false;  ///< by cuMemHostAlloc
  uint64_t context = 0;
  Pins pins = std::make_shared<int>(0);
};

enum class Where { kDevice, kRegistered, kPageable };
enum class Use { kRead, kWrite };

struct Place {
  Where where = Where::kPageable;
  char* pointer = nullptr;
  int device = -1;  ///< whose memory; -1: host memory
};

class Memory {
 public:
  // The entry points of the same names, less the checks of flags.
  CUresult reserve(uint64_t& address, uint64_t bytes, uint64_t alignment, uint64_t hint);
  CUresult free_reservation(uint64_t address, uint64_t bytes);
  CUresult map(uint64_t address, uint64_t bytes, uint64_t offset, std::shared_ptr<Backing> backing);
  /// The pins of what would be unmapped, to wait for, and then unmap().
  CUresult can_unmap(uint64_t address, uint64_t bytes, std::vector<Pins>& pins) const;
  void unmap(uint64_t address, uint64_t bytes);
  CUresult set_access(uint64_t address, uint64_t bytes, int device, const Settings& settings,
                      unsigned access);
  CUresult allocate(uint64_t& address, uint64_t bytes, std::shared_ptr<Backing> backing, int devices,
                    uint64_t context);
  CUresult free_allocation(uint64_t address);

  CUresult register_host(void* host, uint64_t bytes, bool read_only, bool same_address, uint64_t context);
  CUresult allocate_host(void*& host, uint64_t bytes, uint64_t context);
  /// The registration that begins there, or null.
  Registration* registration_at(const void* host);
  /// Takes it out, and gives what cuMemHostAlloc made back to the system.
  void forget(Registration* registration);
  /// All that a context owns.
  void forget_context(uint64_t context);

  /// What an address is, without looking at how much of it there is.
  [[nodiscard]] Where classify(uint64_t address) const;
  /// The registration that has this host address, or null.
  [[nodiscard]] const Registration* registered(uint64_t host) const;
  /// Whether [address, address + bytes) is of one registration, or not of any.
  [[nodiscard]] bool within_one_registration(uint64_t address, uint64_t bytes) const;

  /// For a kernel, which sees device and registered memory. `pins`: what has to be unpinned afterwards.
  CUresult find(uint64_t address, uint64_t bytes, Use use, int device, std::vector<Pins>& pins, Place& place);
  /// For a copy, which has any host memory as well.
  CUresult find_for_copy(uint64_t address, uint64_t bytes, Use use, int device, std::vector<Pins>& pins,
                         Place& place);
  /// From now on other devices do not find this one's memory; -1: they do.
  void set_lost(int device) { lost_device_ = device; }

 private:
  Reservation* reservation_of(uint64_t address);
  [[nodiscard]] const Reservation* reservation_of(uint64_t address) const;
  CUresult find_device(Reservation& reservation, uint64_t address, uint64_t bytes, Use use, int device,
                       std::vector<Pins>& pins, Place& place);

  std::map<uint64_t, Reservation> reservations_;
  std::map<uint64_t, Registration> registrations_;  ///< by host address
  int lost_device_ = -1;
};

}  // namespace kvt::standin
