// SPDX-License-Identifier: Apache-2.0
//
// cuda.hpp: header-only C++17 over kvtier/cuda.h, beside kvtier.hpp. Same rules; needs no CUDA header. A session with a
// GPU attaches with KVT_ATTACH_CUDA. A map or counters belong to one stream at a time, and must not outlive their Session.
#pragma once

#include <kvtier/cuda.h>
#include <kvtier/kvtier.hpp>

#include <exception>
#include <memory>
#include <vector>

namespace kvt {

/// A step that `stream` ends: its scope is where its work is enqueued. When an exception leaves that scope, no target of
/// resolve_targets() counts as filled.
class CudaStep : public OpenStep {
 public:
  CudaStep(const Session& session, kvt_cuda_stream stream) : OpenStep(session.get()) {
    check(kvt_cuda_step_begin(session_, stream, &step_));
  }
  ~CudaStep() {
    if (!open_) return;
    if (std::uncaught_exceptions() > exceptions_) kvt_cuda_drop_targets(session_, &step_);
    kvt_cuda_step_end(session_, &step_);
  }

  /// Frames to read, and for each a frame to store the page into while it is read, or KVT_NO_FRAME: kvt_cuda_resolve.
  struct Targets {
    std::vector<kvt_frame> frames;
    std::vector<kvt_frame> targets;
  };
  [[nodiscard]] Targets resolve_targets(const std::vector<kvt_page>& pages) const {
    Targets found{std::vector<kvt_frame>(pages.size()), std::vector<kvt_frame>(pages.size())};
    check(kvt_cuda_resolve(session_, &step_, pages.data(), pages.size(), found.frames.data(), found.targets.data()));
    return found;
  }
  /// The targets have not all been filled: none counts.
  void drop_targets() const { check(kvt_cuda_drop_targets(session_, &step_)); }
  /// Enqueues the end now. Throws where the stream does not take it: the step is open still, and its scope tries again.
  void end() {
    check(kvt_cuda_step_end(session_, &step_));
    open_ = false;
  }

 private:
  int exceptions_ = std::uncaught_exceptions();
};

/// Does what waits for steps that their streams have ended. How many are under way still.
inline int poll(const Session& session) { return check(kvt_cuda_poll(session.get())); }

/// Seals pages when all work that is in `stream` now is done.
inline void seal(const Session& session, const std::vector<kvt_page>& pages, kvt_cuda_stream stream) {
  check(kvt_cuda_seal(session.get(), pages.data(), pages.size(), stream));
}

/// Enqueues copies between pages and memory that the GPU reaches: KVT_COPY_STORE or KVT_COPY_LOAD.
inline void copy(const Session& session, uint32_t direction, const std::vector<kvt_copy>& copies, kvt_cuda_stream stream) {
  check(kvt_cuda_copy(session.get(), direction, copies.data(), copies.size(), stream));
}

/// A page table on the device: kvt_cuda_map.
class CudaMap {
 public:
  explicit CudaMap(const Session& session) {
    kvt_cuda_map* made = nullptr;
    check(kvt_cuda_map_create(session.get(), &made));
    raw_.reset(made);
  }

  [[nodiscard]] kvt_cuda_map* get() const { return raw_.get(); }
  /// By page index, in device memory; constant for the life of the map.
  [[nodiscard]] const uint32_t* frames() const { return kvt_cuda_map_frames(raw_.get()); }
  /// Enqueues what has moved, and where `fresh` pages are, that tables have got since the last update. How many entries.
  int update(const CudaStep& step, const std::vector<kvt_page>& fresh = {}) const {
    return check(kvt_cuda_map_update(raw_.get(), step.get(), fresh.data(), fresh.size()));
  }
  /// Enqueues frames[i] = frame of page index pages[i]; both arrays in memory that the GPU reaches. May be captured.
  void translate(const int32_t* pages, int32_t* frames, size_t n, kvt_cuda_stream stream) const {
    check(kvt_cuda_translate(raw_.get(), pages, frames, n, stream));
  }

 private:
  struct Destroy {
    void operator()(kvt_cuda_map* map) const { kvt_cuda_map_destroy(map); }
  };
  std::unique_ptr<kvt_cuda_map, Destroy> raw_;
};

/// Counters of reads for kernels that choose what they read: kvt_cuda_touches.
class CudaTouches {
 public:
  explicit CudaTouches(const Session& session, uint32_t pages_max = 0) {
    kvt_cuda_touches* made = nullptr;
    check(kvt_cuda_touches_create(session.get(), pages_max, &made));
    raw_.reset(made);
  }

  [[nodiscard]] kvt_cuda_touches* get() const { return raw_.get(); }
  /// The kernels' argument, a kvt::device::Touches in device memory.
  [[nodiscard]] void* counters() const { return kvt_cuda_touches_counters(raw_.get()); }
  /// Kernels of `step` count there.
  void take(const CudaStep& step) const { check(kvt_cuda_touches_take(raw_.get(), step.get())); }

 private:
  struct Destroy {
    void operator()(kvt_cuda_touches* touches) const { kvt_cuda_touches_destroy(touches); }
  };
  std::unique_ptr<kvt_cuda_touches, Destroy> raw_;
};

}  // namespace kvt
