// SPDX-License-Identifier: Apache-2.0
//
// What every object of the Python module shares: one attached session, and what keeps it mapped. Python code
// must not be able to touch memory that is not there; so a session that is closed stays attached while a Use
// of it lives.
//
// Thread safety: everything here needs the GIL, which guards all members. A call that may wait gives the GIL
// up, and keeps a Use for that time.
#pragma once

#include <kvtier/cuda.h>
#include <kvtier/kvtier.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace kvt::python {

namespace py = pybind11;

/// Gives the GIL up for its scope. When the interpreter has ended meanwhile the thread stays here for good:
/// it may not touch Python any more, and what it has in use is still in use.
class WithoutGil {
 public:
  WithoutGil() : thread_(PyEval_SaveThread()) {}
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* thread_;
};

/// A class whose objects come from functions of this module alone: neither it nor its __new__ makes any, which would have no C++
/// object behind it.
template <typename T, typename... More>
py::class_<T> made_here(More&&... more) {
  py::class_<T> made(std::forward<More>(more)...);
  reinterpret_cast<PyTypeObject*>(made.ptr())->tp_new = nullptr;
  return made;
}

/// Raises the exception of kvtier._errors for `code`, which is negative, with `text` or kvt_last_error().
[[noreturn]] void raise_error(int code);
[[noreturn]] void raise_error(int code, const std::string& text);
/// `result`, unless it is a code.
inline int check(int result) {
  if (result < 0) raise_error(result);
  return result;
}

class Attachment {
 public:
  /// Takes the session over; `has_gpu`: it attached with one.
  Attachment(kvt_session* session, bool has_gpu);
  ~Attachment();
  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;

  /// Raises kvtier.Forked in a forked child of the process that attached.
  void check_here() const;
  /// For calls of Python code: raises kvtier.Closed after close(), and what check_here() does.
  [[nodiscard]] kvt_session* get() const;
  /// For giving things back: NULL once it is detached.
  [[nodiscard]] kvt_session* mapped() const { return session_; }
  [[nodiscard]] bool closed() const { return closed_; }
  [[nodiscard]] const kvt_geometry& geometry() const { return geometry_; }
  [[nodiscard]] bool has_gpu() const { return has_gpu_; }
  /// Whether a frame is memory of a GPU, which a CPU can neither read nor write.
  [[nodiscard]] bool is_device(kvt_frame frame) const;
  /// Results of data() and pages() whose arrays live.
  [[nodiscard]] size_t views() const { return views_; }
  /// Whether this is a forked child of the process that attached.
  [[nodiscard]] bool forked() const;

  /// Nothing new begins from here on. Detaches, unless something is in use: then false, and the last Use
  /// detaches.
  bool close();

  /// Remembers a writable array of a FILLING page.
  void note_writable(kvt_page page, const py::array& array);
  /// These pages may be somewhere else soon: the arrays that were noted for them can not be written any more.
  void end_writing(const kvt_page* pages, size_t n);

 private:
  friend class Use;
  friend class View;
  void detach();

  kvt_session* session_;
  kvt_geometry geometry_{};
  bool has_gpu_;
  uint64_t forks_;  ///< of this process and those before it, when it attached
  bool closed_ = false;
  size_t uses_ = 0;
  size_t views_ = 0;
  std::unordered_map<kvt_page, std::vector<py::weakref>> writable_;
};

using Shared = std::shared_ptr<Attachment>;

/// Keeps an attachment mapped: a call that runs without the GIL, a view of pages, a copy job.
class Use {
 public:
  explicit Use(Shared attachment) : attachment_(std::move(attachment)) { ++attachment_->uses_; }
  ~Use() {
    if (--attachment_->uses_ == 0 && attachment_->closed_) attachment_->detach();
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

 private:
  Shared attachment_;
};

/// Runs call(session), which may wait, without the GIL. Returns its result, or raises.
template <typename Call>
int without_gil(const Shared& attachment, Call&& call) {
  kvt_session* const session = attachment->get();
  const Use use(attachment);
  int result = 0;
  {
    const WithoutGil released;
    result = call(session);
  }
  return check(result);
}

/// An open step, which a Step and the views of pages that were resolved in it own together: it ends with the
/// last of them, so that what a view shows stays what it was.
class OpenStep {
 public:
  OpenStep(Shared attachment, const kvt_step& step, bool is_streams)
      : attachment_(std::move(attachment)), step_(step), is_streams_(is_streams) {}
  ~OpenStep() {
    if (open_) end();
  }
  OpenStep(const OpenStep&) = delete;
  OpenStep& operator=(const OpenStep&) = delete;

  [[nodiscard]] const Shared& attachment() const { return attachment_; }
  [[nodiscard]] const kvt_step* get() const { return &step_; }
  /// Seals or releases wait for its end, which may therefore wait for the daemon.
  void defer() { deferred_ = true; }
  /// Whether a stream ends it: of kvt_cuda_step_begin.
  [[nodiscard]] bool is_streams() const { return is_streams_; }
  /// A code when one of them has failed. A stream's: enqueues the end, and when that fails the step stays open.
  int end();

 private:
  Shared attachment_;
  kvt_step step_;
  bool is_streams_;
  bool deferred_ = false;
  bool open_ = true;
};

/// What arrays of page memory have as their base: keeps the memory mapped and the step, if any, open.
class View {
 public:
  View(const Shared& attachment, std::shared_ptr<OpenStep> step)
      : use_(attachment), attachment_(attachment), step_(std::move(step)) {
    ++attachment_->views_;
  }
  ~View() { --attachment_->views_; }
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  static py::capsule capsule(const Shared& attachment, std::shared_ptr<OpenStep> step) {
    return {new View(attachment, std::move(step)), [](void* view) { delete static_cast<View*>(view); }};
  }

 private:
  Use use_;  // first: what is below is destroyed while the memory is mapped
  Shared attachment_;
  std::shared_ptr<OpenStep> step_;
};

}  // namespace kvt::python
