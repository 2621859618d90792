// SPDX-License-Identifier: Apache-2.0
//
// Nothing here waits, but the end of a step to which seals or releases were given: the GIL is kept.
#include "libclient/python/src/step.h"

#include <algorithm>

namespace kvt::python {
namespace {

constexpr size_t kChangesMax = 65536;  // a batch; as many as the log keeps

/// Whether there is memory: between windows there is none.
bool is_backed(const kvt_geometry& geometry, kvt_frame frame) {
  return frame == geometry.scratch_frame ||
         std::any_of(geometry.windows, geometry.windows + geometry.tiers, [frame](const kvt_window& window) {
           return frame >= window.first_frame && frame - window.first_frame < window.frames;
         });
}

}  // namespace

Step::Step(const Shared& attachment) {
  kvt_step step{};
  check(kvt_step_begin(attachment->get(), &step));
  open_ = std::make_shared<OpenStep>(attachment, step, false);
}

Step::Step(const Shared& attachment, kvt_cuda_stream stream) {
  kvt_step step{};
  without_gil(attachment, [&](kvt_session* session) { return kvt_cuda_step_begin(session, stream, &step); });
  open_ = std::make_shared<OpenStep>(attachment, step, true);
}

OpenStep& Step::open() const {
  if (!open_) raise_error(KVT_E_INVALID, "the step has ended");
  return *open_;
}

const kvt_step* Step::of(const Shared& attachment) const {
  if (open().attachment() != attachment) throw py::value_error("the step is another session's");
  return get();
}

void Step::defer(const Shared& attachment) {
  [[maybe_unused]] const kvt_step* const is_its_own = of(attachment);
  open().defer();
}

void Step::end() {
  std::shared_ptr<OpenStep> last = std::move(open_);  // nobody else ends it meanwhile
  open_ = nullptr;
  if (last == nullptr || last.use_count() != 1) return;  // it ends with the last of its arrays
  const int ended = last->end();
  // One whose end its stream does not take stays: it can be ended again.
  if (ended != KVT_OK && last->is_streams()) open_ = std::move(last);
  check(ended);
}

void Step::end_in_error() {
  if (open_ != nullptr && open_->is_streams() && !open_->attachment()->closed())
    kvt_cuda_drop_targets(session(), get());
  end();
}

py::array_t<kvt_frame> Step::resolve(const py::object& given) const {
  const Pages pages(given);
  py::array_t<kvt_frame> frames(static_cast<py::ssize_t>(pages.size()));
  check(kvt_resolve(session(), get(), pages.data(), pages.size(), frames.mutable_data()));
  return frames;
}

py::tuple Step::resolve_targets(const py::object& given) const {
  const Pages pages(given);
  py::array_t<kvt_frame> frames(static_cast<py::ssize_t>(pages.size()));
  py::array_t<kvt_frame> targets(static_cast<py::ssize_t>(pages.size()));
  check(kvt_cuda_resolve(session(), get(), pages.data(), pages.size(), frames.mutable_data(),
                         targets.mutable_data()));
  return py::make_tuple(frames, targets);
}

void Step::drop_targets() const { check(kvt_cuda_drop_targets(session(), get())); }

py::array_t<uint64_t> Step::addresses(const py::object& given) const {
  const py::array_t<kvt_frame> frames = resolve(given);
  const kvt_geometry& geometry = open().attachment()->geometry();
  py::array_t<uint64_t> addresses(frames.size());
  for (py::ssize_t i = 0; i < frames.size(); ++i)
    addresses.mutable_at(i) = frames.at(i) == KVT_NO_FRAME ? 0
                                                           : reinterpret_cast<uintptr_t>(geometry.base) +
                                                                 frames.at(i) * geometry.stride;
  return addresses;
}

py::list Step::pages(const py::object& pages) const { return arrays(resolve(pages)); }

py::list Step::pages_at(const py::object& given) const {
  if (!py::isinstance<py::array_t<kvt_frame>>(given) || py::reinterpret_borrow<py::array>(given).ndim() > 1)
    throw py::type_error("frames are a one-dimensional array of uint32");
  return arrays(py::array_t<kvt_frame>::ensure(given));
}

py::list Step::arrays(const py::array_t<kvt_frame>& frames) const {
  const Shared& attachment = open().attachment();
  const kvt_geometry& geometry = attachment->geometry();
  [[maybe_unused]] kvt_session* const session_is_open = attachment->get();
  const py::capsule owner = View::capsule(attachment, open_);
  py::list arrays(static_cast<size_t>(frames.size()));
  for (py::ssize_t i = 0; i < frames.size(); ++i) {
    const kvt_frame frame = frames.at(i);
    if (frame != KVT_NO_FRAME && !is_backed(geometry, frame))
      throw py::value_error("frame " + std::to_string(frame) + " is in no tier");
    if (frame != KVT_NO_FRAME && attachment->is_device(frame))
      raise_error(KVT_E_STATE, "frame " + std::to_string(frame) +
                                   " is memory of a GPU, which the CPU cannot read: Session.device_frames()");
    auto* const address = static_cast<char*>(geometry.base) + frame * geometry.stride;
    if (frame == KVT_NO_FRAME)
      arrays[static_cast<size_t>(i)] = py::none();
    else
      arrays[static_cast<size_t>(i)] = bytes_array(address, geometry.page_bytes, false, owner);
  }
  return arrays;
}

uint64_t Step::changes_begin() const {
  uint64_t cursor = 0;
  check(kvt_changes_begin(session(), get(), &cursor));
  return cursor;
}

py::tuple Step::changes(uint64_t cursor, size_t capacity) const {
  if (capacity == 0 || capacity > kChangesMax)
    throw py::value_error("capacity is 1 to " + std::to_string(kChangesMax));
  std::vector<kvt_change> changes(capacity);
  const int n = check(kvt_changes(session(), get(), &cursor, changes.data(), capacity));
  return py::make_tuple(cursor, py::array_t<kvt_change>(n, changes.data()));
}

void add_step(py::module_& module) {
  PYBIND11_NUMPY_DTYPE(kvt_change, index, frame, page);
  made_here<Step>(module, "Step",
                  R"(A span in which what was resolved stays where it was: normally one decode step.

Session.step() begins it; end(), or the end of a `with` block, ends it. Arrays that pages() gave keep it open until they
are gone, so that they always show what they showed: drop them soon, an open step keeps memory from being reused. At most
64 are open in a process. One thread at a time.

Of Session.step(stream): end() enqueues the end in the stream, and waits for nothing. What an exception leaves has its
targets dropped.)")
      .def("resolve", &Step::resolve, py::arg("pages"),
           "Frame of each page, an array of uint32: what a paged-attention kernel takes as block id. "
           "NO_FRAME where a page is gone.")
      .def("addresses", &Step::addresses, py::arg("pages"),
           "Address of each page in this process, an array of uint64, for kernels; 0 where a page is gone. "
           "Good until the step ends.")
      .def(
          "resolve_targets", &Step::resolve_targets, py::arg("pages"),
          R"((frames, targets), arrays of uint32: targets[i] is a frame of device memory into which a kernel of this step
is to store page i while it reads frames[i], all page_bytes of it, or NO_FRAME. The page has moved when the step is over.)")
      .def("drop_targets", &Step::drop_targets, "The targets have not all been filled: none of them counts.")
      .def("pages", &Step::pages, py::arg("pages"),
           R"(The bytes of each page as a read-only array of uint8, without a copy; None where a page is gone.

They keep the step open and the session mapped.)")
      .def("pages_at", &Step::pages_at, py::arg("frames"),
           "The same by frames, an array of uint32: those that were resolved in this step, or that a block "
           "table has which follows changes().")
      .def("changes_begin", &Step::changes_begin,
           "The cursor for a block table that is resolved in this step after this call.")
      .def(
          "changes", &Step::changes, py::arg("cursor"), py::arg("capacity") = 256,
          R"(What has changed its place since `cursor`: (the next cursor, an array with fields index, frame, page).

Call it until the array is empty. Overrun: more has changed than is kept; resolve everything again.)")
      .def("end", &Step::end,
           "Ends it: at once, or when the last array that pages() gave is gone. Again: nothing happens.")
      .def_property_readonly("ended", &Step::ended, "Whether end() was called.")
      .def(
          "__enter__", [](Step& step) -> Step& { return step; }, py::return_value_policy::reference)
      .def("__exit__", [](Step& step, const py::object& kind, const py::args&) {
        if (kind.is_none())
          step.end();
        else
          step.end_in_error();
      });
}

}  // namespace kvt::python
