// SPDX-License-Identifier: Apache-2.0
//
// The allocator that a program would take from the shelf for a pool that several processes share:
// Boost.Interprocess's best-fit tree with its process-shared mutex. It gives out 64-byte page descriptors,
// not pages: its headers lie in the blocks, and 10 million pages of memory are not there to be touched. A
// file of its own: the headers are heavy.
#include <boost/interprocess/indexes/null_index.hpp>
#include <boost/interprocess/managed_external_buffer.hpp>
#include <boost/interprocess/mem_algo/rbtree_best_fit.hpp>
#include <cstring>
#include <vector>

#include "tools/bench/memory.h"
#include "tools/bench/rows.h"
#include "tools/bench/stopwatch.h"

namespace kvt::bench {
namespace {

namespace ipc = boost::interprocess;
// managed_shared_memory's allocator and mutex, over a memfd: nothing with a name stays behind after a crash.
using Pool =
    ipc::basic_managed_external_buffer<char, ipc::rbtree_best_fit<ipc::mutex_family>, ipc::null_index>;

constexpr uint64_t kDescriptorBytes = 64;
constexpr uint64_t kBlockBytes = kDescriptorBytes + 32;  ///< with the allocator's header, rounded up
constexpr uint64_t kAllocateBatch = 16384;               ///< as the allocate row

void baseline_boost_interprocess(benchmark::State& state, uint64_t pages) {
  const uint64_t bytes = (pages + kAllocateBatch) * kBlockBytes + (uint64_t{1} << 20);
  const SharedMemory memory(bytes);
  std::memset(memory.data(), 0, bytes);
  Pool pool(ipc::create_only, memory.data(), bytes);
  // `pages` descriptors are out, as in the arena whose pages are all published. None of them comes back, so
  // that the free blocks lie together: the tree's best case, and the one that the allocate row has too.
  for (uint64_t i = 0; i < pages; ++i) pool.allocate(kDescriptorBytes);

  std::vector<void*> batch(kAllocateBatch);
  while (state.KeepRunningBatch(kAllocateBatch)) {
    const Stopwatch allocating;
    for (void*& block : batch) block = pool.allocate(kDescriptorBytes);
    const double allocated = allocating.seconds();
    for (uint64_t i = 0; i < kAllocateBatch; ++i) std::memcpy(batch[i], &i, sizeof i);
    for (uint64_t i = 0; i < kAllocateBatch; ++i)
      require(std::memcmp(batch[i], &i, sizeof i) == 0, "one block was given out twice");
    const Stopwatch releasing;
    for (void* const block : batch) pool.deallocate(block);
    state.SetIterationTime(allocated + releasing.seconds());
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
  state.SetLabel("rbtree_best_fit, mutex_family, 64-byte descriptors; allocate and deallocate");
}

}  // namespace

void add_boost_rows(RowList& rows, const Sizes& sizes) {
  for (const uint64_t pages : sizes.pages)
    rows.add({"baseline_boost_interprocess", pages, still_group(pages), Timing::kManual, 0,
              [pages](benchmark::State& state) { baseline_boost_interprocess(state, pages); }});
}

}  // namespace kvt::bench
