// SPDX-License-Identifier: Apache-2.0
//
// A decode with a GPU in C++17: a stream writes blocks and seals them, they are published and found by their keys, and
// the stream reads them in steps that it ends itself, by a block table that follows the daemon's moves.
//
//   c++ -std=c++17 -I/usr/local/cuda/include cuda_decode.cpp $(pkg-config --cflags --libs kvtier) -ldl -o cuda_decode
//   ./cuda_decode [DECODE_STEPS]
//
// Needs a driver where it runs (KVTIER_CUDA_DRIVER names another one than libcuda.so.1), and a running kvtierd;
// KVTIER_SOCKET_DIR names its folder where that is not /run/kvtier. Pages are in HBM as far as kvtierd has a tier of
// kind "cuda", else in host memory, which the GPU reads, too.
#include <array>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <kvtier/cuda.hpp>

#include "gpu.hpp"

namespace {

/// Stands for a block's KV data: all of its words are that of its key.
uint64_t word_of(const kvt_key& key) { return key.lo * 0x9e3779b97f4a7c15 ^ key.hi; }

/// Writes a block for each key by the stream, and publishes them.
void prefill(const kvt::Session& session, const Gpu& gpu, const std::vector<kvt_key>& keys) {
  const uint64_t bytes = session.geometry().page_bytes;
  kvt::Hold blocks = session.allocate(keys.size());
  if (blocks.size() < keys.size())
    throw std::runtime_error("the arena is full: release, preempt, or do without");
  char* const computed = gpu.pinned(keys.size() * bytes);
  for (uint64_t at = 0; at < keys.size() * bytes; at += sizeof(uint64_t)) {
    const uint64_t word = word_of(keys[at / bytes]);
    std::memcpy(computed + at, &word, sizeof word);
  }
  {
    const kvt::CudaStep step(session, gpu.stream());
    // Here the prefill kernels store at session.data(page): the GPU's address, in HBM or in host memory.
    for (size_t i = 0; i < keys.size(); ++i) gpu.copy(session.data(blocks[i]), computed + i * bytes, bytes);
    kvt::check(
        kvt_seal(session.get(), blocks.pages().data(), blocks.size(), step.get()));  // when the step is over
  }  // the step's end is in the stream; nothing has waited for it
  const CUevent written = gpu.event();
  gpu.record(written);
  gpu.wait(
      written);  // publishing does not wait for streams; an engine queries its event between decode steps
  kvt::poll(session);
  std::vector<kvt_publish_entry> entries;
  for (size_t i = 0; i < keys.size(); ++i)
    entries.push_back({blocks[i], keys[i], i == 0 ? KVT_NO_PAGE : blocks[i - 1], 0, 0, KVT_NO_PAGE});
  session.publish(entries);
  for (const kvt_publish_entry& entry : entries)
    if (entry.result < 0) throw kvt::Exception(entry.result);
}  // `blocks` gives its holds back: what was published is there for all processes, by its keys

/// The block table of a running sequence. Who follows changes takes no offers, so the daemon copies what it promotes; who
/// resolves in each step (step.resolve) has the stream promote pages while it reads them.
struct BlockTable {
  std::vector<kvt_frame> frames;  ///< by slot, good for what is enqueued in the current step
  size_t moves = 0;
  uint64_t cursor = 0;

  void update(const kvt::CudaStep& step, const std::vector<kvt_page>& pages) {
    kvt_change changes[64];
    while (!frames.empty()) {
      const std::optional<size_t> n = step.changes(cursor, changes, 64);
      if (n == size_t{0}) return;
      if (!n) frames.clear();  // too far behind
      for (size_t i = 0; i < n.value_or(0); ++i)
        for (size_t slot = 0; slot < pages.size(); ++slot)  // an engine has an index for this
          if (pages[slot] == changes[i].page) {
            frames[slot] = changes[i].frame;
            ++moves;
          }
    }
    cursor = step.changes_begin();  // first the cursor, then the frames
    frames = step.resolve(pages);
  }
};

/// Reads the blocks in each step. Two steps are in flight: while the GPU works at one, the CPU prepares the next. How many
/// words were wrong.
size_t decode(const kvt::Session& session, const Gpu& gpu, const std::vector<kvt_key>& keys, size_t steps) {
  const kvt_geometry arena = session.geometry();
  const uint64_t bytes = arena.page_bytes;
  const kvt::Hold blocks = session.hold_prefix(keys);
  if (blocks.size() < keys.size()) throw std::runtime_error("blocks have been evicted: compute them again");
  struct InFlight {
    char* read = nullptr;
    CUevent done = nullptr;
  };
  std::array<InFlight, 2> in_flight;
  for (InFlight& each : in_flight) each = {gpu.pinned(blocks.size() * bytes), gpu.event()};
  BlockTable table;
  size_t wrong = 0;
  for (size_t n = 0; n < steps + in_flight.size(); ++n) {
    const InFlight& now = in_flight[n % in_flight.size()];
    if (n >= in_flight.size()) {  // the step that used it last
      gpu.wait(now.done);
      for (uint64_t at = 0; at < blocks.size() * bytes; at += sizeof(uint64_t)) {
        const uint64_t word = word_of(keys[at / bytes]);
        wrong += std::memcmp(now.read + at, &word, sizeof word) != 0 ? 1 : 0;
      }
    }
    if (n >= steps) continue;
    {
      const kvt::CudaStep step(session, gpu.stream());
      table.update(step, blocks.pages());
      // Here the frames are copied to the kernel's block table, and the attention kernel is launched. Frame f begins at
      // base + f * stride, in both memories (kvt::device::View of kvtier/device.cuh). Copies read in its place.
      for (size_t i = 0; i < blocks.size(); ++i)
        gpu.copy(now.read + i * bytes, static_cast<const char*>(arena.base) + table.frames[i] * arena.stride,
                 bytes);
      session.touch(blocks.pages());  // what is read often moves to faster memory
    }  // the stream ends the step when it has passed here: until then what the step reads stays where it is
    gpu.record(now.done);
    kvt::poll(session);  // does what waits for steps that are over: seals, releases
  }
  std::printf("%zu blocks, %zu steps, %zu moves followed, %zu words wrong\n", blocks.size(), steps,
              table.moves, wrong);
  return wrong;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const size_t steps = argc > 1 ? std::stoul(argv[1]) : 200;
    const Gpu gpu;
    kvt_attach_args args{};
    args.flags = KVT_ATTACH_CUDA;
    args.cuda_device = 0;
    const kvt::Session session = kvt::Session::attach(args);  // its end waits for the GPU
    // An engine's keys are hashes of all tokens up to the end of the block. These are new in each run.
    timespec now{};
    std::timespec_get(&now, TIME_UTC);
    std::vector<kvt_key> keys;
    for (uint64_t i = 1; i <= 12; ++i)
      keys.push_back(
          {i, static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec)});
    prefill(session, gpu, keys);
    return decode(session, gpu, keys, steps) == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_decode: %s\n", error.what());
    return 1;
  }
}
