// SPDX-License-Identifier: Apache-2.0
#include "libclient/python/src/copy_job.h"

#include "libclient/python/src/copies.h"

namespace kvt::python {

CopyJob::CopyJob(const Shared& attachment, uint32_t direction, const py::object& pages,
                 const py::object& arrays, uint64_t page_offset, std::optional<uint64_t> page_stride)
    : attachment_(attachment) {
  const std::vector<kvt_copy> copies =
      copies_of(direction, Reach::kCpu, pages, arrays, page_offset, page_stride, &arrays_);
  done_ = copies.empty();
  if (done_) return;
  check(kvt_copy_submit(attachment_->get(), direction, copies.data(), copies.size(), &id_));
  use_.emplace(attachment_);
}

CopyJob::~CopyJob() {
  if (!use_ || attachment_->forked()) return;
  kvt_session* const session = attachment_->mapped();
  const WithoutGil released;
  const std::lock_guard guard(mutex_);
  if (!done_) kvt_copy_wait(session, id_);
}

/// REQUIRES: mutex_.
void CopyJob::finish(int result) {
  done_ = true;
  result_ = result;
  if (result < 0) text_ = kvt_last_error();
}

/// Behind its end, with the GIL: gives up what it kept, and raises when it has failed.
void CopyJob::report() {
  arrays_.clear();
  use_.reset();
  if (result_ < 0) raise_error(result_, text_);
}

void CopyJob::wait() {
  if (use_) {
    if (attachment_->forked()) raise_error(KVT_E_FORKED);
    const Use use(attachment_);
    kvt_session* const session = attachment_->mapped();
    const WithoutGil released;
    const std::lock_guard guard(mutex_);
    if (!done_) finish(kvt_copy_wait(session, id_));
  }
  report();
}

bool CopyJob::done() {
  if (use_) {
    if (attachment_->forked()) raise_error(KVT_E_FORKED);
    const std::unique_lock guard(mutex_, std::try_to_lock);
    if (!guard.owns_lock()) return false;  // another thread waits for it
    if (!done_) {
      const int polled = kvt_copy_poll(attachment_->mapped(), id_);
      if (polled == 0) return false;
      finish(polled);
    }
  }
  report();
  return true;
}

void add_copy_job(py::module_& module) {
  made_here<CopyJob>(
      module, "CopyJob",
      R"(A copy between pages and arrays that was submitted with Session.store() or Session.load().

It keeps the arrays and the session; one that is dropped is waited for. Do not write to the arrays of a store, nor use
those of a load, before it is done.)")
      .def("wait", &CopyJob::wait,
           "Waits for it; copies in this thread when no copy thread has begun. Raises when it has failed.")
      .def("done", &CopyJob::done,
           "Whether it is done. Raises when it has failed. Without copy threads it begins in wait().");
}

}  // namespace kvt::python
