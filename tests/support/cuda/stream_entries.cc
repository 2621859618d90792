// SPDX-License-Identifier: Apache-2.0
//
// Streams, events, and the work that is not a kernel's.
#include <algorithm>
#include <cstring>
#include <utility>

#include "tests/support/cuda/call.h"
#include "tests/support/cuda/kernels.h"

namespace kvt::standin {
namespace {

/// One copy of contiguous bytes.
struct Segment {
  uint64_t target = 0;
  uint64_t source = 0;
  uint64_t bytes = 0;
  std::shared_ptr<std::vector<char>> staged;  ///< the source, when it was read during the call
};

CUresult run_copy(int device, const std::vector<Segment>& segments) {
  State& state = State::get();
  Lock lock(state.mutex);
  std::vector<Pins> pins;
  std::vector<std::pair<Place, Place>> places;  // source, target
  places.reserve(segments.size());
  for (const Segment& segment : segments) {
    Place source;
    Place target;
    CUresult found = CUDA_SUCCESS;
    if (segment.staged != nullptr)
      source.pointer = segment.staged->data();
    else
      found = state.memory.find_for_copy(segment.source, segment.bytes, Use::kRead, device, pins, source);
    if (found == CUDA_SUCCESS)
      found = state.memory.find_for_copy(segment.target, segment.bytes, Use::kWrite, device, pins, target);
    if (found != CUDA_SUCCESS) {
      unpin(state, pins);
      return found;
    }
    places.emplace_back(source, target);
  }
  lock.unlock();
  for (size_t i = 0; i < segments.size(); ++i)
    std::memmove(places[i].second.pointer, places[i].first.pointer, segments[i].bytes);
  lock.lock();
  for (size_t i = 0; i < segments.size(); ++i)
    state.count_bytes(places[i].first, places[i].second, segments[i].bytes);
  unpin(state, pins);
  return CUDA_SUCCESS;
}

/// Whether a copy could begin at these addresses; what is behind them is seen when it runs.
CUresult check_segment(const State& state, const Segment& segment) {
  for (const uint64_t address : {segment.source, segment.target}) {
    if (address < 4096 || address + segment.bytes < address) return CUDA_ERROR_INVALID_VALUE;
    if (state.memory.classify(address) != Where::kDevice &&
        !state.memory.within_one_registration(address, segment.bytes))
      return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

/// Reads pageable sources now, without the mutex.
void stage(Call& call, std::vector<Segment>& segments) {
  std::vector<Segment*> pageable;
  for (Segment& segment : segments)
    if (call.state.memory.classify(segment.source) == Where::kPageable) pageable.push_back(&segment);
  call.lock.unlock();
  for (Segment* segment : pageable) {
    const auto* const from = reinterpret_cast<const char*>(segment->source);
    segment->staged = std::make_shared<std::vector<char>>(from, from + segment->bytes);
  }
  call.lock.lock();
}

CUresult queue_copy(Call& call, const std::shared_ptr<Stream>& stream, std::vector<Segment> segments,
                    bool wait) {
  uint64_t number = 0;
  const int device = stream->context->device;
  const CUresult queued = enqueue(
      call.state, stream,
      {Kind::kCopy, [device, moved = std::move(segments)] { return run_copy(device, moved); }, nullptr},
      &number);
  if (queued != CUDA_SUCCESS || !wait || stream->capture != nullptr) return queued;
  return wait_for(call.state, call.lock, *stream, number);
}

/// A copy as cuMemcpyAsync makes it: pageable sources are read before it returns, pageable targets are written.
CUresult copy(Call& call, std::vector<Segment> segments, CUstream handle) {
  const auto stream = call.stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  std::erase_if(segments, [](const Segment& segment) { return segment.bytes == 0; });
  bool wait = false;
  for (const Segment& segment : segments) {
    if (const CUresult checked = check_segment(call.state, segment); checked != CUDA_SUCCESS) return checked;
    wait = wait || call.state.memory.classify(segment.target) == Where::kPageable;
  }
  if (segments.empty()) return CUDA_SUCCESS;
  if (stream->capture == nullptr) stage(call, segments);
  return queue_copy(call, stream, std::move(segments), wait);
}

CUresult memcpy_async(Call& call, CUdeviceptr target, CUdeviceptr source, size_t bytes, CUstream stream) {
  return copy(call, {{target, source, bytes, nullptr}}, stream);
}

/// An end of a 2D copy: the address of its first byte, or why there is none.
CUresult first_byte(CUmemorytype type, const void* host, CUdeviceptr device, size_t x, size_t y, size_t pitch,
                    uint64_t& address) {
  switch (type) {
    case CU_MEMORYTYPE_HOST: address = number_of(host); break;
    case CU_MEMORYTYPE_DEVICE:
    case CU_MEMORYTYPE_UNIFIED: address = device; break;
    default: return CUDA_ERROR_NOT_SUPPORTED;
  }
  address += x + y * pitch;
  return CUDA_SUCCESS;
}

CUresult memcpy_2d_async(Call& call, const CUDA_MEMCPY2D* what, CUstream stream) {
  if (what == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const uint64_t source_pitch = what->srcPitch != 0 ? what->srcPitch : what->WidthInBytes;
  const uint64_t target_pitch = what->dstPitch != 0 ? what->dstPitch : what->WidthInBytes;
  if (source_pitch < what->WidthInBytes + what->srcXInBytes ||
      target_pitch < what->WidthInBytes + what->dstXInBytes)
    return CUDA_ERROR_INVALID_VALUE;
  uint64_t source = 0;
  uint64_t target = 0;
  CUresult found = first_byte(what->srcMemoryType, what->srcHost, what->srcDevice, what->srcXInBytes,
                              what->srcY, source_pitch, source);
  if (found == CUDA_SUCCESS)
    found = first_byte(what->dstMemoryType, what->dstHost, what->dstDevice, what->dstXInBytes, what->dstY,
                       target_pitch, target);
  if (found != CUDA_SUCCESS) return found;
  std::vector<Segment> rows;
  rows.reserve(what->Height);
  for (uint64_t row = 0; row < what->Height; ++row)
    rows.push_back({target + row * target_pitch, source + row * source_pitch, what->WidthInBytes, nullptr});
  return copy(call, std::move(rows), stream);
}

#if CUDA_VERSION >= 13000
CUresult memcpy_batch_async(Call& call, CUdeviceptr* targets, CUdeviceptr* sources, size_t* sizes,
                            size_t count, CUmemcpyAttributes* attributes, size_t* attribute_begins,
                            size_t attribute_count, CUstream handle) {
  if (targets == nullptr || sources == nullptr || sizes == nullptr || attributes == nullptr ||
      attribute_begins == nullptr || count == 0 || attribute_count == 0 || attribute_count > count)
    return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < attribute_count; ++i) {
    if (i == 0 ? attribute_begins[i] != 0
               : attribute_begins[i] <= attribute_begins[i - 1] || attribute_begins[i] >= count)
      return CUDA_ERROR_INVALID_VALUE;
    if (attributes[i].srcAccessOrder < CU_MEMCPY_SRC_ACCESS_ORDER_STREAM ||
        attributes[i].srcAccessOrder > CU_MEMCPY_SRC_ACCESS_ORDER_ANY ||
        (attributes[i].flags & ~unsigned{CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE}) != 0)
      return CUDA_ERROR_INVALID_VALUE;
  }
  if (handle == nullptr || handle == CU_STREAM_LEGACY) return CUDA_ERROR_INVALID_VALUE;
  const auto stream = call.stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture != nullptr) {  // the driver has no node for it
    invalidate(*stream->capture);
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  std::vector<Segment> in_order;
  std::vector<Segment> during_call;
  for (size_t i = 0, attribute = 0; i < count; ++i) {
    while (attribute + 1 < attribute_count && attribute_begins[attribute + 1] <= i) ++attribute;
    const Segment segment{targets[i], sources[i], sizes[i], nullptr};
    if (segment.bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult checked = check_segment(call.state, segment); checked != CUDA_SUCCESS) return checked;
    const bool during = attributes[attribute].srcAccessOrder == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
    (during ? during_call : in_order).push_back(segment);
  }
  bool wait = false;
  for (const Segment& segment : during_call)
    wait = wait || call.state.memory.classify(segment.source) != Where::kPageable;
  stage(call, during_call);
  in_order.insert(in_order.end(), during_call.begin(), during_call.end());
  // The copies of a batch have no order, so they get one that nobody expects.
  for (size_t i = in_order.size(); i > 1; --i) {
    stream->random = stream->random * 6364136223846793005U + 1442695040888963407U;
    std::swap(in_order[i - 1], in_order[(stream->random >> 33) % i]);
  }
  return queue_copy(call, stream, std::move(in_order), wait);
}
#endif

/// Queues what fills [address, address + bytes).
template <typename T>
CUresult memset_async(Call& call, CUdeviceptr address, T value, size_t count, CUstream handle) {
  const auto stream = call.stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (address % sizeof(T) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (count == 0) return CUDA_SUCCESS;
  if (call.state.memory.classify(address) == Where::kPageable) return CUDA_ERROR_INVALID_VALUE;
  const int device = stream->context->device;
  return enqueue(call.state, stream,
                 {Kind::kMemset,
                  [=] {
                    State& state = State::get();
                    Lock lock(state.mutex);
                    std::vector<Pins> pins;
                    Place place;
                    const CUresult found =
                        state.memory.find(address, count * sizeof(T), Use::kWrite, device, pins, place);
                    if (found != CUDA_SUCCESS) return found;
                    lock.unlock();
                    std::fill_n(reinterpret_cast<T*>(place.pointer), count, value);
                    lock.lock();
                    unpin(state, pins);
                    return CUDA_SUCCESS;
                  },
                  nullptr});
}

CUresult memset_d8_async(Call& call, CUdeviceptr address, unsigned char value, size_t count,
                         CUstream stream) {
  return memset_async<unsigned char>(call, address, value, count, stream);
}

CUresult memset_d32_async(Call& call, CUdeviceptr address, unsigned value, size_t count, CUstream stream) {
  return memset_async<unsigned>(call, address, value, count, stream);
}

CUresult write_value_64(Call& call, CUstream handle, CUdeviceptr address, cuuint64_t value, unsigned flags) {
  if (!call.state.settings.stream_write_64) return CUDA_ERROR_NOT_SUPPORTED;
  const auto stream = call.stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if ((flags & ~unsigned{CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER}) != 0 || address % 8 != 0 ||
      call.state.memory.classify(address) == Where::kPageable)
    return CUDA_ERROR_INVALID_VALUE;
  const int device = stream->context->device;
  return enqueue(call.state, stream,
                 {Kind::kWrite,
                  [=] {
                    State& state = State::get();
                    const Lock lock(state.mutex);
                    std::vector<Pins> pins;
                    Place place;
                    const CUresult found = state.memory.find(address, 8, Use::kWrite, device, pins, place);
                    if (found != CUDA_SUCCESS) return found;
                    // Pairs with the acquire of whoever waits for the value.
                    __atomic_store_n(reinterpret_cast<uint64_t*>(place.pointer), uint64_t{value},
                                     __ATOMIC_RELEASE);
                    unpin(state, pins);
                    return CUDA_SUCCESS;
                  },
                  nullptr});
}

CUresult launch_host_func(Call& call, CUstream handle, CUhostFn function, void* data) {
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto stream = call.stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return enqueue(call.state, stream, host_function(function, data));
}

// ---- streams ----

CUresult stream_create(Call& call, CUstream* handle, unsigned flags, int) {
  if (handle == nullptr || (flags & ~unsigned{CU_STREAM_NON_BLOCKING}) != 0) return CUDA_ERROR_INVALID_VALUE;
  const uint64_t made =
      call.state.streams.add(call.state.new_handle(), make_stream(call.state, call.context()));
  *handle = handle_of<CUstream>(made);
  return CUDA_SUCCESS;
}

CUresult stream_destroy(Call& call, CUstream handle) {
  const auto stream = call.state.streams.find(number_of(handle));
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture != nullptr) {
    const auto capture = stream->capture;
    invalidate(*capture);
    if (capture->origin == stream) end_capture(call.state, capture);
  }
  close_stream(call.state, *stream);
  call.state.streams.erase(number_of(handle));
  return CUDA_SUCCESS;
}

/// The stream, when it may be asked how far it is.
CUresult askable(Call& call, CUstream handle, std::shared_ptr<Stream>& stream) {
  stream = call.stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture == nullptr) return CUDA_SUCCESS;
  invalidate(*stream->capture);
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult stream_synchronize(Call& call, CUstream handle) {
  std::shared_ptr<Stream> stream;
  if (const CUresult asked = askable(call, handle, stream); asked != CUDA_SUCCESS) return asked;
  return wait_for(call.state, call.lock, *stream, stream->queued);
}

CUresult stream_query(Call& call, CUstream handle) {
  std::shared_ptr<Stream> stream;
  if (const CUresult asked = askable(call, handle, stream); asked != CUDA_SUCCESS) return asked;
  if (stream->context->sticky != CUDA_SUCCESS) return stream->context->sticky;
  return stream->completed < stream->queued ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

CUresult stream_context(Call& call, CUstream handle, CUcontext* context) {
  const auto stream = call.stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *context = handle_of<CUcontext>(stream->context->id);
  return CUDA_SUCCESS;
}

CUresult stream_wait_event(Call& call, CUstream handle, CUevent event_handle, unsigned flags) {
  const auto stream = call.stream(handle);
  const auto event = call.state.events.find(number_of(event_handle));
  if (stream == nullptr || event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (flags != CU_EVENT_WAIT_DEFAULT) return CUDA_ERROR_INVALID_VALUE;
  if (const auto& capture = event->capture; capture != nullptr) {
    if (capture->origin == nullptr) return CUDA_ERROR_INVALID_VALUE;  // the capture has ended
    if (stream->capture == nullptr) {
      if (stream == stream->context->null_stream) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
      stream->capture = capture;
      stream->steps = stream->steps_joined = 0;
      capture->joined.push_back(stream);
    } else if (stream->capture != capture) {
      invalidate(*stream->capture);
      invalidate(*capture);
      return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    }
    Stream& from = *event->captured_stream;
    from.steps_joined = std::max(from.steps_joined, event->captured_step);
    return CUDA_SUCCESS;
  }
  if (event->latest == nullptr) return CUDA_SUCCESS;
  if (stream->capture != nullptr) {
    invalidate(*stream->capture);
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  }
  return enqueue(call.state, stream, {Kind::kWait, nullptr, event->latest});
}

// ---- events ----

CUresult event_create(Call& call, CUevent* handle, unsigned flags) {
  constexpr unsigned kKnown = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
  if (handle == nullptr || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & CU_EVENT_INTERPROCESS) != 0 && (flags & CU_EVENT_DISABLE_TIMING) == 0)
    return CUDA_ERROR_INVALID_VALUE;
  auto made = std::make_shared<Event>();
  made->context = call.context();
  made->timed = (flags & CU_EVENT_DISABLE_TIMING) == 0;
  *handle = handle_of<CUevent>(call.state.events.add(call.state.new_handle(), std::move(made)));
  return CUDA_SUCCESS;
}

CUresult event_destroy(Call& call, CUevent handle) {
  return call.state.events.erase(number_of(handle)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult event_record(Call& call, CUevent handle, CUstream stream_handle) {
  const auto stream = call.stream(stream_handle);
  const auto event = call.state.events.find(number_of(handle));
  if (stream == nullptr || event == nullptr || event->context != stream->context)
    return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture != nullptr) {
    if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    event->latest = nullptr;
    event->capture = stream->capture;
    event->captured_stream = stream;
    event->captured_step = stream->steps;
    return CUDA_SUCCESS;
  }
  auto record = std::make_shared<Record>();
  const CUresult queued = enqueue(call.state, stream, {Kind::kRecord, nullptr, record});
  if (queued != CUDA_SUCCESS) return queued;
  event->latest = std::move(record);
  event->capture = nullptr;
  event->captured_stream = nullptr;
  return CUDA_SUCCESS;
}

CUresult event_query(Call& call, CUevent handle) {
  const auto event = call.state.events.find(number_of(handle));
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (event->capture != nullptr) return CUDA_ERROR_CAPTURED_EVENT;
  if (event->context->sticky != CUDA_SUCCESS) return event->context->sticky;
  return event->latest == nullptr || event->latest->done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult event_synchronize(Call& call, CUevent handle) {
  const auto event = call.state.events.find(number_of(handle));
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (event->capture != nullptr) return CUDA_ERROR_CAPTURED_EVENT;
  const auto record = event->latest;
  const auto context = event->context;
  while (record != nullptr && !record->done && context->sticky == CUDA_SUCCESS && !context->destroyed &&
         !call.state.ended)
    call.state.changed.wait(call.lock);
  return context->sticky;
}

CUresult event_elapsed_time(Call& call, float* milliseconds, CUevent start_handle, CUevent end_handle) {
  const auto start = call.state.events.find(number_of(start_handle));
  const auto end = call.state.events.find(number_of(end_handle));
  if (start == nullptr || end == nullptr || start->context != end->context) return CUDA_ERROR_INVALID_HANDLE;
  if (milliseconds == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!start->timed || !end->timed || start->latest == nullptr || end->latest == nullptr)
    return CUDA_ERROR_INVALID_HANDLE;
  if (!start->latest->done || !end->latest->done) return CUDA_ERROR_NOT_READY;
  *milliseconds =
      static_cast<float>(static_cast<int64_t>(end->latest->time_ns - start->latest->time_ns)) * 1e-6F;
  return CUDA_SUCCESS;
}

}  // namespace

void add_stream_entries(State& state) {
  KVT_STANDIN_ENTRY(state, cuMemcpyAsync, memcpy_async, kContext);
  KVT_STANDIN_ENTRY(state, cuMemcpy2DAsync, memcpy_2d_async, kContext);
#if CUDA_VERSION >= 13000
  KVT_STANDIN_ENTRY(state, cuMemcpyBatchAsync, memcpy_batch_async, kContext).since = 13000;
#endif
  KVT_STANDIN_ENTRY(state, cuMemsetD8Async, memset_d8_async, kContext);
  KVT_STANDIN_ENTRY(state, cuMemsetD32Async, memset_d32_async, kContext);
  KVT_STANDIN_ENTRY(state, cuStreamWriteValue64, write_value_64, kContext);
  KVT_STANDIN_ENTRY(state, cuLaunchHostFunc, launch_host_func, kContext);
  KVT_STANDIN_ENTRY(state, cuStreamCreateWithPriority, stream_create, kContext);
  KVT_STANDIN_ENTRY(state, cuStreamDestroy, stream_destroy, kContext);
  KVT_STANDIN_ENTRY(state, cuStreamSynchronize, stream_synchronize, kContext);
  KVT_STANDIN_ENTRY(state, cuStreamQuery, stream_query, kContext);
  KVT_STANDIN_ENTRY(state, cuStreamGetCtx, stream_context, kContext);
  KVT_STANDIN_ENTRY(state, cuStreamWaitEvent, stream_wait_event, kContext);
  KVT_STANDIN_ENTRY(state, cuEventCreate, event_create, kContext);
  KVT_STANDIN_ENTRY(state, cuEventDestroy, event_destroy, kContext);
  KVT_STANDIN_ENTRY(state, cuEventRecord, event_record, kContext);
  KVT_STANDIN_ENTRY(state, cuEventQuery, event_query, kContext).in_capture = false;
  KVT_STANDIN_ENTRY(state, cuEventSynchronize, event_synchronize, kContext).in_capture = false;
  KVT_STANDIN_ENTRY(state, cuEventElapsedTime, event_elapsed_time, kContext);
}

}  // namespace kvt::standin
