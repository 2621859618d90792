// SPDX-License-Identifier: Apache-2.0
#include "libclient/python/src/copy_job.h"

namespace kvt::python {
namespace {

/// Rows of an array: its first axis, or all of it when it has one that is contiguous.
kvt_copy copy_of(const py::array& array, const std::string& name, bool written) {
  if (py::cast<bool>(array.dtype().attr("hasobject")))
    throw py::type_error(name + " has Python objects, which cannot be copied");
  if (array.size() == 0) throw py::value_error(name + " is empty");
  if (written && !array.writeable()) throw py::value_error(name + " is read-only");
  py::ssize_t row_bytes = array.itemsize();
  for (py::ssize_t axis = array.ndim() - 1; axis >= 1; --axis) {
    if (array.shape(axis) != 1 && array.strides(axis) != row_bytes)
      throw py::value_error(name + ": only the first axis may have gaps; the others must be contiguous");
    row_bytes *= array.shape(axis);
  }
  kvt_copy copy{};
  copy.memory = const_cast<void*>(array.data());
  copy.rows = 1;
  copy.row_bytes = static_cast<uint64_t>(row_bytes);
  if (array.ndim() == 0 || array.shape(0) == 1) return copy;
  if (array.strides(0) < (written ? row_bytes : 0))
    throw py::value_error(name + ": rows that overlap, or go backwards");
  if (array.ndim() == 1 && array.strides(0) == row_bytes) {
    copy.row_bytes = static_cast<uint64_t>(array.nbytes());
    return copy;
  }
  if (array.shape(0) > UINT32_MAX) throw py::value_error(name + " has more than 2^32-1 rows");
  copy.rows = static_cast<uint32_t>(array.shape(0));
  copy.memory_stride = static_cast<uint64_t>(array.strides(0));
  return copy;
}

}  // namespace

CopyJob::CopyJob(const Shared& attachment, uint32_t direction, const py::object& given_pages,
                 const py::object& given_arrays, uint64_t page_offset, std::optional<uint64_t> page_stride)
    : attachment_(attachment) {
  const Pages pages(given_pages);
  if (!py::isinstance<py::sequence>(given_arrays))
    throw py::type_error("arrays is a sequence of arrays, one for each page");
  for (const py::handle& item : py::reinterpret_borrow<py::sequence>(given_arrays)) {
    if (!py::isinstance<py::array>(item))
      throw py::type_error("arrays is a sequence of arrays, one for each page");
    arrays_.push_back(py::reinterpret_borrow<py::array>(item));
  }
  if (arrays_.size() != pages.size())
    throw py::value_error(std::to_string(pages.size()) + " pages and " + std::to_string(arrays_.size()) +
                          " arrays");
  std::vector<kvt_copy> copies;
  for (size_t i = 0; i < arrays_.size(); ++i) {
    kvt_copy copy = copy_of(arrays_[i], "array " + std::to_string(i), direction == KVT_COPY_LOAD);
    copy.page = pages.data()[i];
    copy.page_offset = page_offset;
    copy.page_stride = page_stride.value_or(copy.row_bytes);
    copies.push_back(copy);
  }
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
  py::class_<CopyJob>(
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
