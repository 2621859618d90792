// SPDX-License-Identifier: Apache-2.0
//
// What every entry point does before its own work: it is counted, may be made to fail, and is refused where the driver
// would refuse it. A function of the driver is written as `CUresult name(Call& call, arguments...)`, runs with State's
// mutex held, and gets its C function from a row of a table.
#pragma once

#include <cuda.h>

#include <memory>
#include <type_traits>
#include <vector>

#include "tests/support/cuda/state.h"

namespace kvt::standin {

class Call {
 public:
  explicit Call(EntryPoint& entry);

  [[nodiscard]] CUresult refusal() const { return refusal_; }
  /// The current context; not null behind Gate::kContext.
  [[nodiscard]] const std::shared_ptr<Context>& context() const { return context_; }
  /// The stream of a handle, the null stream too; null when there is none.
  [[nodiscard]] std::shared_ptr<Stream> stream(CUstream handle) const;

  State& state;
  Lock lock;

 private:
  CUresult check(EntryPoint& entry);

  std::shared_ptr<Context> context_;
  CUresult refusal_ = CUDA_SUCCESS;
};

/// The thread's stack of contexts: handles.
std::vector<uint64_t>& context_stack();

template <auto Function>
struct Trampoline;

template <typename... Arguments, CUresult (*Function)(Call&, Arguments...)>
struct Trampoline<Function> {
  static inline EntryPoint* entry = nullptr;
  static CUresult CUDAAPI call(Arguments... arguments) {
    if (const pid_t process = State::get().process.load(std::memory_order_acquire);
        process != 0 && process != ::getpid())
      return CUDA_ERROR_NOT_INITIALIZED;  // a fork of it: another thread may hold the mutex for ever
    Call made(*entry);
    return made.refusal() != CUDA_SUCCESS ? made.refusal() : Function(made, arguments...);
  }
};

/// Adds an entry point with the type that cuda.h declares for it.
template <auto Function, typename Declared>
EntryPoint& add_entry(State& state, const char* name, Gate gate) {
  static_assert(std::is_same_v<decltype(&Trampoline<Function>::call), Declared>, "not as cuda.h has it");
  EntryPoint& entry = state.entries[name];
  entry.name = name;
  entry.address = reinterpret_cast<void*>(&Trampoline<Function>::call);
  entry.gate = gate;
  Trampoline<Function>::entry = &entry;
  return entry;
}
#define KVT_STANDIN_ENTRY(state, name, function, gate) \
  add_entry<function, decltype(&::name)>(state, #name, Gate::gate)

// The tables.
void add_device_entries(State& state);
void add_memory_entries(State& state);
void add_stream_entries(State& state);
void add_program_entries(State& state);

template <typename Handle>
uint64_t number_of(Handle handle) {
  return reinterpret_cast<uint64_t>(handle);
}
template <typename Handle>
Handle handle_of(uint64_t number) {
  return reinterpret_cast<Handle>(number);
}

}  // namespace kvt::standin
