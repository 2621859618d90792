// SPDX-License-Identifier: Apache-2.0
//
// The page table on the device. The change log says what has moved; a kernel writes that into the array, in the order
// of the stream whose work reads it.
#include <kvtier/cuda.h>

#include <algorithm>
#include <array>
#include <vector>

#include "libclient/src/cuda_part.h"

using kvt::client::CudaPart;
using kvt::client::set_error;

namespace {

struct Entry {
  uint32_t index;
  uint32_t frame;
};

/// Updates under way at once: the list of each lies in memory that the device reads until it is done.
constexpr size_t kLists = 4;
constexpr uint32_t kThreads = 256;
constexpr uint32_t kBlocksMax = 256;

uint32_t blocks_for(uint64_t n) {
  return static_cast<uint32_t>(std::clamp<uint64_t>((n + kThreads - 1) / kThreads, 1, kBlocksMax));
}

}  // namespace

struct kvt_cuda_map {
  kvt_session* session = nullptr;
  std::shared_ptr<CudaPart> part;
  CUdeviceptr frames = 0;  ///< uint32_t[pages]
  uint64_t cursor = 0;
  struct List {
    Entry* entries = nullptr;  ///< pinned, `capacity` of them
    size_t capacity = 0;
    CUevent done = nullptr;
  };
  std::array<List, kLists> lists;
  size_t next = 0;
  std::vector<uint64_t> seen;  ///< bit of each page: it is in the list

  ~kvt_cuda_map() {
    const kvt::cuda::Current current(part->driver(), part->gpu->context());
    for (List& list : lists) {
      if (list.done != nullptr) {
        part->driver().cuEventSynchronize(list.done);
        part->driver().cuEventDestroy(list.done);
      }
      if (list.entries != nullptr) part->driver().cuMemFreeHost(list.entries);
    }
    if (frames != 0) part->driver().cuMemFree(frames);
  }

  /// Room for `n` entries; waits for the update that used the list last.
  CUresult room(List& list, size_t n) {
    const kvt::cuda::Driver& driver = part->driver();
    if (list.done == nullptr) {
      if (const CUresult made = driver.cuEventCreate(&list.done, CU_EVENT_DISABLE_TIMING);
          made != CUDA_SUCCESS)
        return made;
    } else if (const CUresult waited = driver.cuEventSynchronize(list.done); waited != CUDA_SUCCESS) {
      return waited;
    }
    if (list.capacity >= n) return CUDA_SUCCESS;
    if (list.entries != nullptr) driver.cuMemFreeHost(list.entries);
    list.entries = nullptr;
    list.capacity = 0;
    const size_t wanted = std::max<size_t>(2 * n, 4096);
    void* memory = nullptr;
    const CUresult got = driver.cuMemHostAlloc(&memory, wanted * sizeof(Entry), CU_MEMHOSTALLOC_PORTABLE);
    if (got != CUDA_SUCCESS) return got;
    list.entries = static_cast<Entry*>(memory);
    list.capacity = wanted;
    return CUDA_SUCCESS;
  }

  [[nodiscard]] uint32_t frame_of(kvt::PageIndex page) const {
    const kvt::Placement placement = session->table.placement(session->geometry.column, page);
    const bool own = placement.state() == kvt::PageState::kFilling &&
                     session->table.owner(page) == session->geometry.session_id;
    return placement.readable() || own ? placement.frame() : KVT_NO_FRAME;
  }

  /// Pages of the log since the cursor, or all when it has been overrun. Each once.
  void changed(std::vector<uint32_t>& pages) {
    const kvt::ChangeLog& log = session->log;
    const uint64_t tail = log.tail();
    const auto all = [&] {
      pages.resize(session->table.pages());
      for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<uint32_t>(i);
    };
    if (cursor > tail || tail - cursor > kvt::ChangeLog::kCapacity) {
      all();
    } else {
      for (uint64_t at = cursor; at < tail; ++at) {
        kvt::ChangeLog::Entry entry{};
        if (log.read(at, entry) == kvt::ChangeLog::Read::kOverrun) {
          all();
          break;
        }
        if (entry.column == session->geometry.column && entry.page < session->table.pages())
          pages.push_back(entry.page);
      }
    }
    cursor = tail;
  }
};

namespace {

/// Reads the log anew from where it was, unless what was read has been written.
class Cursor {
 public:
  explicit Cursor(uint64_t& cursor) : cursor_(cursor), before_(cursor) {}
  ~Cursor() {
    if (!written_) cursor_ = before_;
  }
  Cursor(const Cursor&) = delete;
  Cursor& operator=(const Cursor&) = delete;
  void written() { written_ = true; }

 private:
  uint64_t& cursor_;
  const uint64_t before_;
  bool written_ = false;
};

int update(kvt_cuda_map& map, const kvt_page* pages, size_t n, CUstream stream) {
  Cursor cursor(map.cursor);
  std::vector<uint32_t> list;
  map.changed(list);
  for (size_t i = 0; i < n; ++i)
    if (kvt::Handle{pages[i]}.index() < map.session->table.pages())
      list.push_back(kvt::Handle{pages[i]}.index());
  if (list.empty()) {
    cursor.written();
    return 0;
  }
  kvt_cuda_map::List& memory = map.lists[map.next];
  CUresult result = map.room(memory, list.size());
  uint32_t count = 0;
  if (result == CUDA_SUCCESS) {
    // The row may be newer than the log's entry: then a later update says the same again. A page comes once: the
    // kernel's threads write in no order.
    for (const uint32_t page : list) {
      uint64_t& word = map.seen[page / 64];
      const uint64_t bit = uint64_t{1} << page % 64;
      if ((word & bit) != 0) continue;
      word |= bit;
      memory.entries[count++] = {page, map.frame_of(page)};
    }
    for (uint32_t i = 0; i < count; ++i) map.seen[memory.entries[i].index / 64] = 0;
    // Behind the rows, as in a resolve: nobody keeps them for a session that has ended (PROTOCOL A9).
    if (kvt::load_acquire(map.session->region.header().ended) != 0)
      return set_error(KVT_E_ENDED, "an operator has ended this session; attach again");
    CUdeviceptr entries = kvt::client::device_address(memory.entries);
    void* arguments[] = {&map.frames, &entries, &count};
    result = map.part->driver().cuLaunchKernel(map.part->map_apply, blocks_for(count), 1, 1, kThreads, 1, 1,
                                               0, stream, arguments, nullptr);
  }
  if (result == CUDA_SUCCESS) {
    result = map.part->driver().cuEventRecord(memory.done, stream);
    // The kernel reads the list: nothing else would wait for it.
    if (result != CUDA_SUCCESS) map.part->driver().cuStreamSynchronize(stream);
  }
  if (result == CUDA_SUCCESS) cursor.written();
  map.next = (map.next + 1) % kLists;
  const int told = kvt::client::check_driver(*map.part, result, "update a page table on the device");
  return told == KVT_OK ? static_cast<int>(count) : told;
}

}  // namespace

extern "C" {

int kvt_cuda_map_create(kvt_session* session, kvt_cuda_map** out) noexcept {
  KVT_ENTER_CUDA(session);
  if (out == nullptr) return set_error(KVT_E_INVALID, "out is NULL");
  *out = nullptr;
  if (session->cuda->map_apply == nullptr)
    return set_error(KVT_E_STATE, "this library has no device code for " + session->cuda->gpu->info().name);
  return kvt::client::guarded([&]() -> int {
    auto map = std::make_unique<kvt_cuda_map>();
    map->part = session->cuda;
    map->session = session;
    map->seen.resize((session->table.pages() + 63) / 64);
    const kvt::cuda::Driver& driver = session->cuda->driver();
    const size_t bytes = session->table.pages() * sizeof(uint32_t);
    if (const int got = kvt::client::check_driver(*session->cuda, driver.cuMemAlloc(&map->frames, bytes),
                                                  "take memory for a page table on the device");
        got != KVT_OK)
      return got;
    std::vector<uint32_t> frames(session->table.pages());
    kvt_step step{};
    if (const int begun = kvt_step_begin(session, &step); begun != KVT_OK) return begun;
    int result = kvt_changes_begin(session, &step, &map->cursor);
    if (result == KVT_OK) {
      for (size_t i = 0; i < frames.size(); ++i) frames[i] = map->frame_of(static_cast<uint32_t>(i));
      CUresult copied = driver.cuMemcpyAsync(map->frames, kvt::client::device_address(frames.data()), bytes,
                                             session->cuda->stream);
      if (copied == CUDA_SUCCESS) copied = driver.cuStreamSynchronize(session->cuda->stream);
      result = kvt::client::check_driver(*session->cuda, copied, "fill a page table on the device");
    }
    const int ended = kvt_step_end(session, &step);
    if (result != KVT_OK || ended != KVT_OK) return result != KVT_OK ? result : ended;
    *out = map.release();
    return KVT_OK;
  });
}

void kvt_cuda_map_destroy(kvt_cuda_map* map) noexcept {
  if (map == nullptr || !map->session->fork_word.here()) return;
  delete map;
}

int kvt_cuda_map_update(kvt_cuda_map* map, const kvt_step* step, const kvt_page* pages, size_t n) noexcept {
  if (map == nullptr) return set_error(KVT_E_INVALID, "map is NULL");
  kvt_session* const session = map->session;
  KVT_ENTER_CUDA(session);
  if (!kvt::client::is_open(*session, step) || session->steps[step->slot].stream == nullptr)
    return set_error(KVT_E_INVALID, "the step is not open, or not of kvt_cuda_step_begin");
  if (n != 0 && pages == nullptr) return set_error(KVT_E_INVALID, "pages is NULL");
  const auto stream = static_cast<CUstream>(session->steps[step->slot].stream);
  if (const int outside = kvt::client::check_not_captured(*session->cuda, stream); outside != KVT_OK)
    return outside;
  return kvt::client::guarded([&] { return update(*map, pages, n, stream); });
}

const uint32_t* kvt_cuda_map_frames(const kvt_cuda_map* map) noexcept {
  return map == nullptr ? nullptr : reinterpret_cast<const uint32_t*>(map->frames);
}

int kvt_cuda_translate(const kvt_cuda_map* map, const int32_t* pages, int32_t* frames, size_t n,
                       kvt_cuda_stream stream) noexcept {
  if (map == nullptr) return set_error(KVT_E_INVALID, "map is NULL");
  KVT_ENTER_CUDA(map->session);
  if (n == 0) return KVT_OK;
  if (pages == nullptr || frames == nullptr || n > UINT32_MAX)
    return set_error(KVT_E_INVALID, "pages or frames is NULL, or n is more than 32 bits");
  CUdeviceptr from = kvt::client::device_address(pages);
  CUdeviceptr to = kvt::client::device_address(frames);
  auto count = static_cast<uint32_t>(n);
  CUdeviceptr table = map->frames;
  auto length = static_cast<uint32_t>(map->session->table.pages());
  void* arguments[] = {&table, &from, &to, &count, &length};
  return kvt::client::check_driver(
      *map->part,
      map->part->driver().cuLaunchKernel(map->part->translate, blocks_for(n), 1, 1, kThreads, 1, 1, 0, stream,
                                         arguments, nullptr),
      "translate block ids");
}

}  // extern "C"
