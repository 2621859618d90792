// SPDX-License-Identifier: Apache-2.0
#include "libclient/python/src/attachment.h"

#include <cxxabi.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>

namespace kvt::python {
namespace {

// ---- fork ----
//
// The library takes its memory out of forked children, where arrays of Python may still name it. They get
// empty memory in its place: zeros instead of a crash; every call says kvtier.Forked.

struct Range {
  void* begin;
  size_t bytes;
};

/// Address ranges of all attachments. Never destroyed: other threads may fork while the process ends.
struct Ranges {
  std::mutex mutex;
  std::vector<Range> all;
};

Ranges& ranges() {
  static auto* const instance = new Ranges;
  return *instance;
}

uint64_t forks = 0;  ///< that have led to this process, since the module was loaded

void before_fork() { ranges().mutex.lock(); }
void in_parent() { ranges().mutex.unlock(); }
void in_child() {
  ++forks;
  // Before anything else can have taken the addresses. Where it fails nothing is lost but the mild end.
  for (const Range& range : ranges().all) {
    [[maybe_unused]] void* const zeros =
        ::mmap(range.begin, range.bytes, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  }
  ranges().all.clear();
  ranges().mutex.unlock();
}

void add_range(const kvt_geometry& geometry) {
  static std::once_flag once;
  std::call_once(once, [] { ::pthread_atfork(before_fork, in_parent, in_child); });
  const std::lock_guard guard(ranges().mutex);
  ranges().all.push_back({geometry.base, geometry.frames * geometry.stride});
}

void remove_range(const kvt_geometry& geometry) {
  const std::lock_guard guard(ranges().mutex);
  auto& all = ranges().all;
  all.erase(std::remove_if(all.begin(), all.end(),
                           [&](const Range& range) { return range.begin == geometry.base; }),
            all.end());
}

}  // namespace

WithoutGil::~WithoutGil() {
  try {
    PyEval_RestoreThread(thread_);
  } catch (abi::__forced_unwind&) {  // CPython before 3.14 ends the thread here, and would run all
                                     // destructors above
    for (;;) ::pause();
  }
}

void raise_error(int code) {
  const std::string text = kvt_last_error();
  raise_error(code, text.empty() ? kvt_strerror(code) : text);
}

void raise_error(int code, const std::string& text) {
  const py::object error = py::module_::import("kvtier._errors").attr("error_of")(code, text);
  PyErr_SetObject(py::type::handle_of(error).ptr(), error.ptr());
  throw py::error_already_set();
}

Attachment::Attachment(kvt_session* session, bool has_gpu)
    : session_(session), has_gpu_(has_gpu), forks_(forks) {
  geometry_.size = sizeof geometry_;
  kvt_get_geometry(session, &geometry_);
  add_range(geometry_);
}

Attachment::~Attachment() {
  if (session_ != nullptr) detach();
}

void Attachment::check_here() const {
  if (forked()) raise_error(KVT_E_FORKED, "this session belongs to the parent of this process");
}

kvt_session* Attachment::get() const {
  check_here();
  if (closed_) {
    PyErr_SetString(py::module_::import("kvtier._errors").attr("Closed").ptr(), "the session is closed");
    throw py::error_already_set();
  }
  return session_;
}

bool Attachment::is_device(kvt_frame frame) const {
  for (uint32_t tier = 0; tier < geometry_.tiers; ++tier) {
    const kvt_window& window = geometry_.windows[tier];
    if (frame == geometry_.scratch_frame ||
        (frame >= window.first_frame && frame - window.first_frame < window.frames))
      return (geometry_.device_tiers >> tier & 1u) != 0;
  }
  return false;
}

bool Attachment::forked() const { return forks_ != forks; }

bool Attachment::close() {
  closed_ = true;
  if (forked()) return true;  // there is nothing of it here
  if (uses_ == 0 && session_ != nullptr) detach();
  return session_ == nullptr;
}

void Attachment::detach() {
  kvt_session* const session = session_;
  session_ = nullptr;
  // While the addresses are still the session's: behind the detach they may be another one's.
  remove_range(geometry_);
  const WithoutGil released;
  kvt_detach(session);
}

void Attachment::note_writable(kvt_page page, const py::array& array) {
  auto& arrays = writable_[page];
  arrays.erase(
      std::remove_if(arrays.begin(), arrays.end(), [](const py::weakref& weak) { return weak().is_none(); }),
      arrays.end());
  arrays.emplace_back(array, py::handle());
}

void Attachment::end_writing(const kvt_page* pages, size_t n) {
  if (writable_.empty()) return;
  for (size_t i = 0; i < n; ++i) {
    const auto found = writable_.find(pages[i]);
    if (found == writable_.end()) continue;
    for (const py::weakref& weak : found->second) {
      const py::object array = weak();
      if (!array.is_none()) array.attr("setflags")(py::arg("write") = false);
    }
    writable_.erase(found);
  }
}

int OpenStep::end() {
  kvt_session* const session = attachment_->mapped();
  if (session == nullptr) {  // it ended with the session
    open_ = false;
    return KVT_OK;
  }
  if (is_streams_) {
    const Use use(attachment_);
    const WithoutGil released;  // a full stream is waited for
    const int ended = kvt_cuda_step_end(session, &step_);
    open_ = ended != KVT_OK;
    return ended;
  }
  open_ = false;
  if (!deferred_) return kvt_step_end(session, &step_);
  const Use use(attachment_);
  const WithoutGil released;
  return kvt_step_end(session, &step_);
}

}  // namespace kvt::python
