// SPDX-License-Identifier: Apache-2.0
//
// Copy workers: threads that take a job and return a completion; where GPU memory is concerned, the GPU's copy engines
// (gpu_copier.h). They know frames, not pages: what a copy means is decided by the keeper loop when the completion comes
// back.
//
// A GPU's job with checksums goes to and fro between them, since each sums the memory that is near to it:
//
//   into HBM .... a worker sums the source, where its sum is not known; the GPU copies, and sums the target
//   out of it ... the GPU sums the source, and copies; a worker sums the target
//   within it ... all by the GPU
//
// and again from the start where the sums differ. It is among the completions when all of that is over.
//
// submit() and take_completions() are for one thread (the loop). completion_fd() becomes readable when there
// is one.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "daemon/mover/bad_memory.h"
#include "daemon/mover/gpu_copier.h"
#include "shm/base/fd.h"
#include "shm/base/result.h"
#include "shm/region/words.h"

namespace kvt::mover {

/// What the checksums of a job say.
enum class Finding : uint8_t {
  kRight,
  kSourceWrong,  ///< not what was expected; what became of the target is of no use
  kTargetWrong,  ///< as often as it was copied
};

/// A copy that came out wrong is made again so often.
inline constexpr uint32_t kCopiesAgain = 3;

struct Job {
  uint32_t arena = 0;  ///< the number of the arena in the keeper
  uint32_t column = 0;
  Handle page;
  Frame source_frame = kNoFrame;
  Frame target_frame = kNoFrame;
  uint32_t target_tier = 0;
  const std::byte* source = nullptr;
  std::byte* target = nullptr;
  size_t bytes = 0;
  int gpu = -1;      ///< ordinal of the GPU that copies; -1: a CPU does
  bool out = false;  ///< with a GPU: the target is host memory
  bool within =
      false;  ///< with a GPU: no worker reads source and target: memory of GPUs, or what a driver allocates
  bool peer = false;             ///< with a GPU: the source is another GPU's memory, which it reaches
  bool failed = false;           ///< of a completion: the target's bytes are anything
  bool lost_device = false;      ///< of a failed one: the GPU does nothing any more
  int driver_error = 0;          ///< of a failed one: what the driver said (CUresult)
  BadSide bad = BadSide::kNone;  ///< of a failed one: whose memory is not there (SIGBUS)
  /// With checksums; REQUIRES with a GPU: Mover::can_sum(). A job without a target reads the source, which with a GPU is its
  /// memory, for its sum alone.
  bool sums = false;
  uint64_t expected = 0;    ///< the source's, as it should be; 0: not known
  uint64_t sum = 0;         ///< of a completion: the source's, as it was read
  uint64_t target_sum = 0;  ///< of a GPU's job, while it is under way
  uint32_t mismatches = 0;  ///< of a completion: copies that had another sum than the source
  Finding finding = Finding::kRight;
  uint8_t flip = 0;  ///< fault to order for tests: in so many copies of this job one bit is wrong
  BadSide poison = BadSide::kNone;  ///< the same: memory that is not there in place of this side
};

class Mover {
 public:
  /// Starts `workers` threads. kSystem when the eventfd cannot be had.
  static Result<std::unique_ptr<Mover>> start(uint32_t workers);
  /// Copies of this GPU's memory are its own from now on. Before the first submit(). kSystem, kNotFound without CUDA.
  Result<void> add_gpu(int ordinal, std::shared_ptr<cuda::Gpu> gpu);
  [[nodiscard]] bool has_gpu(int ordinal) const { return copier(ordinal) != nullptr; }
  /// Whether jobs of this GPU may have sums: it is there, and runs the kernel for it.
  [[nodiscard]] bool can_sum(int ordinal) const;
  /// Waits for the copies of all GPUs; nothing of theirs is submitted any more. False: it is not known that they have ended.
  bool stop_gpus();
  ~Mover();
  Mover(const Mover&) = delete;
  Mover& operator=(const Mover&) = delete;

  void submit(const Job& job);
  /// Everything that has been copied since the last call, in any order. Clears completion_fd().
  std::vector<Job> take_completions();
  [[nodiscard]] const Fd& completion_fd() const { return event_; }

 private:
  explicit Mover(Fd event) : event_(std::move(event)) {}
  void work();
  void complete(const Job* jobs, size_t count);
  [[nodiscard]] GpuCopier* copier(int ordinal) const;
  void go_on(Job* jobs, size_t count);

  Fd event_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> queue_;
  std::vector<Job> done_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
  std::unordered_map<int, std::unique_ptr<GpuCopier>>
      copiers_;  // by ordinal; none leaves before the workers have
};

}  // namespace kvt::mover
