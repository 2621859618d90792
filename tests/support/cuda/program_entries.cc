// SPDX-License-Identifier: Apache-2.0
//
// Modules, kernels, capture and graphs.
#include "tests/support/cuda/call.h"
#include "tests/support/cuda/kernels.h"

namespace kvt::standin {
namespace {

constexpr int kSharedBytesMax = 227 << 10;

CUresult module_load(Call& call, CUmodule* handle, const void* image) {
  if (handle == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  auto made = std::make_shared<Module>();
  made->context = call.context();
  *handle = handle_of<CUmodule>(call.state.modules.add(call.state.new_handle(), std::move(made)));
  return CUDA_SUCCESS;
}

CUresult module_unload(Call& call, CUmodule handle) {
  if (!call.state.modules.erase(number_of(handle))) return CUDA_ERROR_INVALID_HANDLE;
  call.state.functions.erase_if(
      [&](const Function& function) { return function.module == number_of(handle); });
  return CUDA_SUCCESS;
}

CUresult module_function(Call& call, CUfunction* handle, CUmodule module_handle, const char* name) {
  if (handle == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto module = call.state.modules.find(number_of(module_handle));
  if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const Kernel* const kernel = find_kernel(name);
  if (kernel == nullptr) return CUDA_ERROR_NOT_FOUND;
  auto made = std::make_shared<Function>();
  made->module = number_of(module_handle);
  made->context = module->context;
  made->kernel = kernel;
  *handle = handle_of<CUfunction>(call.state.functions.add(call.state.new_handle(), std::move(made)));
  return CUDA_SUCCESS;
}

CUresult function_attribute(Call& call, CUfunction handle, CUfunction_attribute attribute, int value) {
  const auto function = call.state.functions.find(number_of(handle));
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      if (value < 0 || value > kSharedBytesMax) return CUDA_ERROR_INVALID_VALUE;
      function->max_dynamic_shared_bytes = value;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      return value >= -1 && value <= 100 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult launch_kernel(Call& call, CUfunction handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                       unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                       CUstream stream_handle, void** arguments, void** extra) {
  const auto function = call.state.functions.find(number_of(handle));
  const auto stream = call.stream(stream_handle);
  if (function == nullptr || stream == nullptr || function->context != stream->context ||
      stream->context != call.context())
    return CUDA_ERROR_INVALID_HANDLE;
  if (extra != nullptr) return CUDA_ERROR_NOT_SUPPORTED;
  const uint64_t grid = uint64_t{grid_x} * grid_y * grid_z;
  const uint64_t block = uint64_t{block_x} * block_y * block_z;
  if (grid == 0 || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535 || block == 0 || block > 1024 ||
      block_z > 64 || shared_bytes > static_cast<unsigned>(function->max_dynamic_shared_bytes) ||
      arguments == nullptr)
    return CUDA_ERROR_INVALID_VALUE;
  const Kernel* const kernel = function->kernel;
  std::vector<std::vector<unsigned char>> copied;
  for (size_t i = 0; i < kernel->argument_bytes.size(); ++i) {
    const auto* const from = static_cast<const unsigned char*>(arguments[i]);
    copied.emplace_back(from, from + kernel->argument_bytes[i]);
  }
  return enqueue(call.state, stream,
                 {Kind::kKernel,
                  [kernel, device = stream->context->device, values = std::move(copied)] {
                    KernelCall running(device, values);
                    kernel->run(running);
                    return running.result();
                  },
                  nullptr});
}

// ---- capture ----

CUresult is_capturing(Call& call, CUstream handle, CUstreamCaptureStatus* status) {
  const auto stream = call.stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (status == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *status = stream->capture == nullptr ? CU_STREAM_CAPTURE_STATUS_NONE
            : stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                       : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}

CUresult begin_capture(Call& call, CUstream handle, CUstreamCaptureMode mode) {
  const auto stream = call.stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (mode != CU_STREAM_CAPTURE_MODE_GLOBAL && mode != CU_STREAM_CAPTURE_MODE_THREAD_LOCAL &&
      mode != CU_STREAM_CAPTURE_MODE_RELAXED)
    return CUDA_ERROR_INVALID_VALUE;
  if (stream == stream->context->null_stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream->capture != nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  auto capture = std::make_shared<Capture>();
  capture->origin = stream;
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->joined.push_back(stream);
  stream->capture = capture;
  stream->steps = stream->steps_joined = 0;
  call.state.captures.push_back(std::move(capture));
  return CUDA_SUCCESS;
}

CUresult stream_end_capture(Call& call, CUstream handle, CUgraph* graph) {
  const auto stream = call.stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *graph = nullptr;
  const auto capture = stream->capture;
  if (capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  if (capture->origin != stream) {
    invalidate(*capture);
    return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  }
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != std::this_thread::get_id())
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  bool joined = true;
  for (const auto& other : capture->joined)
    joined = joined && (other == stream || other->steps == other->steps_joined);
  end_capture(call.state, capture);
  if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (!joined) return CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  auto made = std::make_shared<Graph>();
  made->nodes = std::move(capture->nodes);
  *graph = handle_of<CUgraph>(call.state.graphs.add(call.state.new_handle(), std::move(made)));
  return CUDA_SUCCESS;
}

// ---- graphs ----

CUresult graph_instantiate(Call& call, CUgraphExec* handle, CUgraph graph_handle, unsigned long long flags) {
  constexpr unsigned long long kKnown = CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH |
                                        CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
                                        CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
  const auto graph = call.state.graphs.find(number_of(graph_handle));
  if (handle == nullptr || graph == nullptr || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  const uint64_t made = call.state.executables.add(call.state.new_handle(), std::make_shared<Graph>(*graph));
  *handle = handle_of<CUgraphExec>(made);
  return CUDA_SUCCESS;
}

CUresult graph_launch(Call& call, CUgraphExec handle, CUstream stream_handle) {
  const auto executable = call.state.executables.find(number_of(handle));
  const auto stream = call.stream(stream_handle);
  if (executable == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  for (const Work& node : executable->nodes)
    if (const CUresult queued = enqueue(call.state, stream, node); queued != CUDA_SUCCESS) return queued;
  return CUDA_SUCCESS;
}

CUresult graph_exec_destroy(Call& call, CUgraphExec handle) {
  return call.state.executables.erase(number_of(handle)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult graph_destroy(Call& call, CUgraph handle) {
  return call.state.graphs.erase(number_of(handle)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace

void add_program_entries(State& state) {
  KVT_STANDIN_ENTRY(state, cuModuleLoadData, module_load, kContext);
  KVT_STANDIN_ENTRY(state, cuModuleUnload, module_unload, kContext);
  KVT_STANDIN_ENTRY(state, cuModuleGetFunction, module_function, kContext);
  KVT_STANDIN_ENTRY(state, cuFuncSetAttribute, function_attribute, kContext);
  KVT_STANDIN_ENTRY(state, cuLaunchKernel, launch_kernel, kContext);
  KVT_STANDIN_ENTRY(state, cuStreamIsCapturing, is_capturing, kContext);
  KVT_STANDIN_ENTRY(state, cuStreamBeginCapture, begin_capture, kContext);
  KVT_STANDIN_ENTRY(state, cuStreamEndCapture, stream_end_capture, kContext);
  KVT_STANDIN_ENTRY(state, cuGraphInstantiateWithFlags, graph_instantiate, kContext);
  KVT_STANDIN_ENTRY(state, cuGraphLaunch, graph_launch, kContext);
  KVT_STANDIN_ENTRY(state, cuGraphExecDestroy, graph_exec_destroy, kContext);
  KVT_STANDIN_ENTRY(state, cuGraphDestroy, graph_destroy, kContext);
}

}  // namespace kvt::standin
