// SPDX-License-Identifier: Apache-2.0
//
// Copy jobs between pages and arrays. A job keeps its arrays alive until it is done.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "libclient/python/src/arguments.h"

namespace kvt::python {

class CopyJob {
 public:
  /// Submits one copy for each page and array. `arrays` is a sequence of arrays, one for each page.
  CopyJob(const Shared& attachment, uint32_t direction, const py::object& pages, const py::object& arrays,
          uint64_t page_offset, std::optional<uint64_t> page_stride);
  /// Waits for it.
  ~CopyJob();
  CopyJob(const CopyJob&) = delete;
  CopyJob& operator=(const CopyJob&) = delete;

  void wait();
  bool done();

 private:
  void finish(int result);
  void report();

  Shared attachment_;
  std::optional<Use> use_;  // while it is not done
  std::vector<py::object> arrays_;
  uint64_t id_ = 0;
  std::mutex mutex_;  // taken without the GIL; what is below
  bool done_ = false;
  int result_ = KVT_OK;
  std::string text_;
};

void add_copy_job(py::module_& module);

}  // namespace kvt::python
