// SPDX-License-Identifier: Apache-2.0
//
// The copy engines of one GPU: jobs in batches, each direction of the link in a stream of its own at the lowest
// priority, so that both directions go at once and clients' work comes first. A thread issues the batches, because the
// driver's locks must not keep the loop; nothing polls while copies run: the stream calls back when a batch is done. With
// checksums a kernel sums what lies in the GPU's memory, before its copy the sources of a batch, behind it the targets.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shm/base/result.h"

namespace kvt::cuda {
class Gpu;
}

namespace kvt::mover {

struct Job;

class GpuCopier {
 public:
  /// Gets jobs that have been copied and summed, or have failed (Job::failed), on any thread, a batch at a time. What the
  /// sums say is not looked at.
  using Done = std::function<void(std::vector<Job> jobs)>;

  /// Starts the thread. kSystem when streams cannot be had. Without CUDA kNotFound.
  static Result<std::unique_ptr<GpuCopier>> start(std::shared_ptr<cuda::Gpu> gpu, Done done);
  virtual ~GpuCopier() = default;  // waits for the copies under way
  /// Waits for the copies under way; nothing is submitted any more. False: the driver does not say that they have ended.
  virtual bool stop() = 0;

  /// Whether jobs may have sums. The same from the start on.
  [[nodiscard]] virtual bool can_sum() const = 0;

  /// Source or target of each is this GPU's memory; both, or the other one, may be. Host memory is registered; of another
  /// GPU's (Job::peer) this one reaches the source. From any thread; nothing comes of it after stop().
  virtual void submit(const Job& job) = 0;
};

}  // namespace kvt::mover
