// SPDX-License-Identifier: Apache-2.0
//
// The copy engines of one GPU: jobs in batches, each direction of the link in a stream of its own at the lowest
// priority, so that both directions go at once and clients' work comes first. A thread issues the batches, because the
// driver's locks must not keep the loop; nothing polls while copies run: the stream calls back when a batch is done.
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
  /// Gets jobs that have been copied, or have failed (Job::failed), on any thread, a batch at a time.
  using Done = std::function<void(std::vector<Job> jobs)>;

  /// Starts the thread. kSystem when streams cannot be had. Without CUDA kNotFound.
  static Result<std::unique_ptr<GpuCopier>> start(std::shared_ptr<cuda::Gpu> gpu, Done done);
  virtual ~GpuCopier() = default;  // waits for the copies under way
  /// Waits for the copies under way; nothing is submitted any more. False: the driver does not say that they have ended.
  virtual bool stop() = 0;

  /// Source or target of each is this GPU's memory; both, or the other one, may be. Host memory is registered.
  virtual void submit(const Job& job) = 0;
};

}  // namespace kvt::mover
