// SPDX-License-Identifier: Apache-2.0
//
// A step, and arrays of the pages that are read in it.
#pragma once

#include "libclient/python/src/arguments.h"

namespace kvt::python {

class Step {
 public:
  explicit Step(const Shared& attachment);
  /// One that a stream ends.
  Step(const Shared& attachment, kvt_cuda_stream stream);

  /// Raises when it has ended.
  [[nodiscard]] const kvt_step* get() const { return open().get(); }
  /// Raises when it has ended, or is not of `attachment`.
  [[nodiscard]] const kvt_step* of(const Shared& attachment) const;
  /// Something of `attachment` is to be done when this step ends: raises when it is another session's.
  void defer(const Shared& attachment);
  void end();
  /// The end of a `with` block that an exception leaves: kernels may not have filled their targets.
  void end_in_error();
  [[nodiscard]] bool ended() const { return open_ == nullptr; }

  py::array_t<kvt_frame> resolve(const py::object& pages) const;
  py::array_t<uint64_t> addresses(const py::object& pages) const;
  /// (frames, targets) of kvt_cuda_resolve.
  py::tuple resolve_targets(const py::object& pages) const;
  void drop_targets() const;
  py::list pages(const py::object& pages) const;
  py::list pages_at(const py::object& frames) const;
  [[nodiscard]] uint64_t changes_begin() const;
  py::tuple changes(uint64_t cursor, size_t capacity) const;

 private:
  [[nodiscard]] OpenStep& open() const;
  [[nodiscard]] py::list arrays(const py::array_t<kvt_frame>& frames) const;
  [[nodiscard]] kvt_session* session() const { return open().attachment()->get(); }

  std::shared_ptr<OpenStep> open_;  // shared with the views of this step; null once it has ended
};

void add_step(py::module_& module);

}  // namespace kvt::python
