// SPDX-License-Identifier: Apache-2.0
#include "tests/support/cuda/call.h"

namespace kvt::standin {

Call::Call(EntryPoint& entry) : state(State::get()), lock(state.mutex) { refusal_ = check(entry); }

CUresult Call::check(EntryPoint& entry) {
  ++entry.calls;
  for (const Fault& fault : entry.faults)
    if (fault.nth == entry.calls) return fault.result;
  if (!context_stack().empty()) context_ = state.contexts.find(context_stack().back());
  if (entry.gate == Gate::kAlways) return CUDA_SUCCESS;
  if (in_host_function()) return CUDA_ERROR_NOT_PERMITTED;
  if (entry.gate >= Gate::kThread && state.process.load(std::memory_order_relaxed) == 0)
    return CUDA_ERROR_NOT_INITIALIZED;
  if (entry.gate == Gate::kThread) return CUDA_SUCCESS;
  if (state.look_for_loss(lock)) return CUDA_ERROR_UNKNOWN;
  if (entry.gate == Gate::kContext && context_ == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (entry.gate >= Gate::kMemory && context_ != nullptr) {
    if (context_->destroyed) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    if (context_->sticky != CUDA_SUCCESS) return context_->sticky;
  }
  if (!entry.in_capture) {
    bool refused = false;
    for (const auto& capture : state.captures) {
      if (capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
      if (capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL &&
          capture->thread != std::this_thread::get_id())
        continue;
      invalidate(*capture);
      refused = true;
    }
    if (refused) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return CUDA_SUCCESS;
}

std::shared_ptr<Stream> Call::stream(CUstream handle) const {
  if (handle == nullptr || handle == CU_STREAM_LEGACY) return context_->null_stream;
  return state.streams.find(number_of(handle));
}

std::vector<uint64_t>& context_stack() {
  thread_local std::vector<uint64_t> stack;
  return stack;
}

}  // namespace kvt::standin
