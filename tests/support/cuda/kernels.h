// SPDX-License-Identifier: Apache-2.0
//
// Kernels as functions of the host. One is a row in kKernels of kernels.cc: its name in the module, the bytes of each of
// its parameters, and the function that does what all threads of a launch do together.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tests/support/cuda/memory.h"

namespace kvt::standin {

/// One launch that runs. The first bad address is the launch's result; memory() gives null from then on.
class KernelCall {
 public:
  KernelCall(int device, const std::vector<std::vector<unsigned char>>& arguments)
      : device_(device), arguments_(arguments) {}
  ~KernelCall();
  KernelCall(const KernelCall&) = delete;
  KernelCall& operator=(const KernelCall&) = delete;

  template <typename T>
  [[nodiscard]] T argument(size_t index) const {
    T value;
    std::memcpy(&value, arguments_[index].data(), sizeof value);
    return value;
  }
  /// `count` of T at an address of the device: HBM or registered memory; null when the device may not use it so.
  template <typename T>
  T* memory(uint64_t address, uint64_t count, Use use) {
    return static_cast<T*>(find(address, count * sizeof(T), alignof(T), use));
  }
  /// Copies, and counts the bytes as copied.
  void copy(uint64_t target, uint64_t source, uint64_t bytes);
  [[nodiscard]] CUresult result() const { return result_; }

 private:
  void* find(uint64_t address, uint64_t bytes, uint64_t alignment, Use use);

  int device_;
  const std::vector<std::vector<unsigned char>>& arguments_;
  std::vector<Pins> pins_;
  Place place_;  ///< of what was found last
  CUresult result_ = CUDA_SUCCESS;
};

struct Kernel {
  const char* name;
  std::vector<size_t> argument_bytes;
  void (*run)(KernelCall& call);
};

// Of kvtier-decode.
void decode_store(KernelCall& call);
void decode_attend(KernelCall& call);

/// Null: no kernel has that name.
const Kernel* find_kernel(const char* name);

}  // namespace kvt::standin
