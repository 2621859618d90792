// SPDX-License-Identifier: Apache-2.0
#include "libclient/python/src/session.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "libclient/python/src/arguments.h"
#include "libclient/python/src/copy_job.h"
#include "libclient/python/src/device.h"
#include "libclient/python/src/hold.h"
#include "libclient/python/src/step.h"

namespace kvt::python {
namespace {

constexpr size_t kFingerprintBytes = 32;

py::object record(const char* name) { return py::module_::import("kvtier._records").attr(name); }

PageArray no_pages(size_t n) {
  PageArray pages(static_cast<py::ssize_t>(n));
  std::fill_n(pages.mutable_data(), n, KVT_NO_PAGE);
  return pages;
}

py::bytes to_bytes(const void* data, size_t n) { return {static_cast<const char*>(data), n}; }

py::tuple key_tuple(const kvt_key& key) { return py::make_tuple(key.lo, key.hi); }

/// A session that is attached; the handle of it that Python has.
class Session {
 public:
  Session(kvt_session* session, bool has_gpu) : attachment_(std::make_shared<Attachment>(session, has_gpu)) {}

  void close() {
    if (attachment_->closed() || attachment_->close()) return;
    if (PyErr_WarnEx(PyExc_ResourceWarning,
                     "a kvtier session was closed while arrays of its pages, copy jobs, or what it has on a "
                     "GPU, are alive: it stays attached until they are gone",
                     1) != 0)
      throw py::error_already_set();
  }

  // ---- what it is ----

  [[nodiscard]] bool closed() const { return attachment_->closed(); }
  [[nodiscard]] size_t views() const { return attachment_->views(); }
  [[nodiscard]] uintptr_t handle() const { return reinterpret_cast<uintptr_t>(attachment_->get()); }
  [[nodiscard]] uint64_t free_count() const { return kvt_free_count(attachment_->get()); }

  [[nodiscard]] py::bytes token() const {
    uint8_t token[KVT_TOKEN_BYTES];
    check(kvt_token(attachment_->get(), token));
    return to_bytes(token, sizeof token);
  }

  [[nodiscard]] py::object geometry() const {
    attachment_->check_here();
    const kvt_geometry& g = attachment_->geometry();
    py::list windows;
    for (uint32_t i = 0; i < g.tiers; ++i) {
      const kvt_window& w = g.windows[i];
      windows.append(record("Window")(py::arg("name") = std::string(w.name, ::strnlen(w.name, sizeof w.name)),
                                      py::arg("first_frame") = w.first_frame, py::arg("frames") = w.frames,
                                      py::arg("emulated") = w.emulated != 0, py::arg("column") = w.column,
                                      py::arg("read_bytes_per_second") = w.read_bytes_per_second,
                                      py::arg("device") = (g.device_tiers >> i & 1u) != 0,
                                      py::arg("reachable") = (g.unreachable_tiers >> i & 1u) == 0));
    }
    return record("Geometry")(
        py::arg("base") = reinterpret_cast<uintptr_t>(g.base), py::arg("stride") = g.stride,
        py::arg("page_bytes") = g.page_bytes, py::arg("pages") = g.pages, py::arg("frames") = g.frames,
        py::arg("block_tokens") = g.block_tokens, py::arg("planes") = g.planes,
        py::arg("columns") = g.columns, py::arg("column") = g.column,
        py::arg("scratch_frame") = g.scratch_frame, py::arg("read_only") = g.access == KVT_ACCESS_READ,
        py::arg("session_id") = g.session_id, py::arg("member") = g.member,
        py::arg("windows") = py::tuple(windows));
  }

  [[nodiscard]] py::object stats() const {
    kvt_stats s{};
    s.size = sizeof s;
    without_gil(attachment_, [&](kvt_session* session) { return kvt_get_stats(session, &s); });
    return record("Stats")(
        py::arg("epoch") = s.epoch, py::arg("steps") = s.steps, py::arg("allocated") = s.allocated,
        py::arg("lookups") = s.lookups, py::arg("lookup_hits") = s.lookup_hits,
        py::arg("moves_promoted") = s.moves_promoted, py::arg("moves_demoted_copy") = s.moves_demoted_copy,
        py::arg("moves_demoted_free") = s.moves_demoted_free, py::arg("moves_aborted") = s.moves_aborted,
        py::arg("evictions") = s.evictions, py::arg("reconnects") = s.reconnects,
        py::arg("connected") = s.connected != 0, py::arg("offers_taken") = s.offers_taken,
        py::arg("bytes_staged") = s.bytes_staged);
  }

  [[nodiscard]] py::object page_info(uint32_t index) const {
    kvt_page_info i{};
    i.size = sizeof i;
    check(kvt_get_page_info(attachment_->get(), index, &i));
    return record("PageInfo")(py::arg("page") = i.page, py::arg("state") = record("State")(i.state),
                              py::arg("tier") = i.tier, py::arg("frame") = i.frame,
                              py::arg("shadow_frame") = i.shadow_frame, py::arg("keyed") = i.keyed != 0,
                              py::arg("group") = i.group, py::arg("key") = key_tuple(i.key),
                              py::arg("owner_session") = i.owner_session, py::arg("parent") = i.parent,
                              py::arg("own_holds") = i.own_holds);
  }

  // ---- writing ----

  std::unique_ptr<Hold> allocate(size_t n) {
    PageArray pages = no_pages(n);
    auto hold = std::make_unique<Hold>(attachment_, std::move(pages));
    kvt_page* const to = const_cast<kvt_page*>(hold->pages().data());
    size_t have = 0;
    while (have < n)  // what it has is in the hold, and given back when this raises
      have += static_cast<size_t>(without_gil(
          attachment_, [&](kvt_session* session) { return kvt_allocate(session, to + have, n - have); }));
    return hold;
  }

  py::array data(kvt_page page) {
    void* const address = page_data(page);
    const kvt_geometry& geometry = attachment_->geometry();
    const auto offset =
        static_cast<uint64_t>(static_cast<char*>(address) - static_cast<char*>(geometry.base));
    if (attachment_->is_device(static_cast<kvt_frame>(offset / geometry.stride)))
      raise_error(KVT_E_STATE, "page " + std::to_string(KVT_PAGE_INDEX(page)) +
                                   " is memory of a GPU, which the CPU cannot write: device_data()");
    py::array array =
        bytes_array(address, attachment_->geometry().page_bytes, true, View::capsule(attachment_, nullptr));
    attachment_->note_writable(page, array);
    return array;
  }

  /// Where the GPU writes a FILLING page.
  DeviceArray device_data(kvt_page page) { return device_page(attachment_, page_data(page)); }

  void seal(const py::object& given, Step* step, const py::object& stream) {
    const Pages pages(given);
    if (!stream.is_none()) {
      if (step != nullptr) throw py::value_error("a seal waits for a step or for a stream, not for both");
      const kvt_cuda_stream behind = stream_of(stream);
      attachment_->end_writing(pages.data(), pages.size());
      without_gil(attachment_, [&](kvt_session* session) {
        return kvt_cuda_seal(session, pages.data(), pages.size(), behind);
      });
      return;
    }
    attachment_->end_writing(pages.data(), pages.size());
    if (step == nullptr) {
      without_gil(attachment_, [&](kvt_session* session) {
        return kvt_seal(session, pages.data(), pages.size(), nullptr);
      });
      return;
    }
    step->defer(attachment_);
    check(kvt_seal(attachment_->get(), pages.data(), pages.size(), step->get()));
  }

  py::object publish(const py::object& given_pages, const py::object& given_keys,
                     const py::object& given_parents, bool chain, uint32_t group) {
    const Pages pages(given_pages);
    const std::vector<kvt_key> keys = keys_of(given_keys);
    if (keys.size() != pages.size())
      throw py::value_error(std::to_string(pages.size()) + " pages and " + std::to_string(keys.size()) +
                            " keys");
    std::vector<kvt_publish_entry> entries(pages.size());
    for (size_t i = 0; i < entries.size(); ++i) {
      entries[i].page = pages.data()[i];
      entries[i].key = keys[i];
      entries[i].parent = chain && i != 0 ? pages.data()[i - 1] : KVT_NO_PAGE;
      entries[i].group = group;
    }
    if (!given_parents.is_none()) {
      const Pages parents(given_parents);
      const size_t expected = chain ? std::min<size_t>(1, entries.size()) : entries.size();
      if (parents.size() != expected)
        throw py::value_error(std::to_string(parents.size()) + " parents where " + std::to_string(expected) +
                              " are expected");
      for (size_t i = 0; i < expected; ++i) entries[i].parent = parents.data()[i];
    }
    attachment_->end_writing(pages.data(), pages.size());
    without_gil(attachment_,
                [&](kvt_session* session) { return kvt_publish(session, entries.data(), entries.size()); });
    return published(entries);
  }

  void unpublish(kvt_page page) {
    without_gil(attachment_, [&](kvt_session* session) { return kvt_unpublish(session, page); });
  }

  void set_group(const py::object& given, uint32_t group) {
    const Pages pages(given);
    without_gil(attachment_, [&](kvt_session* session) {
      return kvt_set_group(session, pages.data(), pages.size(), group);
    });
  }

  void flush() {
    without_gil(attachment_, [](kvt_session* session) { return kvt_flush(session); });
  }

  // ---- finding and holding ----

  PageArray lookup(const py::object& given, bool chain) const {
    const std::vector<kvt_key> keys = keys_of(given);
    PageArray pages(static_cast<py::ssize_t>(keys.size()));
    check(kvt_lookup(attachment_->get(), keys.data(), keys.size(), chain ? KVT_LOOKUP_CHAIN : 0,
                     pages.mutable_data()));
    return pages;
  }

  std::unique_ptr<Hold> hold_keys(const py::object& given, bool chain) const {
    const std::vector<kvt_key> keys = keys_of(given);
    PageArray pages(static_cast<py::ssize_t>(keys.size()));
    const uint32_t flags = KVT_LOOKUP_HOLD | (chain ? KVT_LOOKUP_CHAIN : 0);
    const int found =
        check(kvt_lookup(attachment_->get(), keys.data(), keys.size(), flags, pages.mutable_data()));
    if (chain) pages.resize({found});
    return std::make_unique<Hold>(attachment_, std::move(pages));
  }

  std::unique_ptr<Hold> hold(const py::object& given) const {
    const Pages pages(given);
    std::vector<uint8_t> ok(pages.size());
    const int result = kvt_hold(attachment_->get(), pages.data(), pages.size(), ok.data());
    const std::string text = result < 0 ? kvt_last_error() : "";
    PageArray held = no_pages(pages.size());
    for (size_t i = 0; i < ok.size(); ++i)
      if (ok[i] != 0) held.mutable_data()[i] = pages.data()[i];
    // Gives back what it has when this raises
    auto hold = std::make_unique<Hold>(attachment_, std::move(held));
    if (result < 0) raise_error(result, text);
    return hold;
  }

  void release(const py::object& given, Step* step) {
    const Pages pages(given);
    python::release(attachment_, pages.data(), pages.size(), step);
  }

  py::object reserve(const py::object& given) {
    const std::vector<kvt_key> keys = keys_of(given);
    PageArray pages = no_pages(keys.size());
    py::array_t<uint8_t> results(static_cast<py::ssize_t>(keys.size()));
    kvt_page* const to = pages.mutable_data();
    uint8_t* const said = results.mutable_data();
    without_gil(attachment_, [&](kvt_session* session) {
      return kvt_reserve(session, keys.data(), keys.size(), to, said);
    });
    return record("Reservation")(py::arg("results") = results,
                                 py::arg("hold") = std::make_unique<Hold>(attachment_, std::move(pages)));
  }

  // ---- reading ----

  [[nodiscard]] std::unique_ptr<Step> step(const py::object& stream) const {
    return stream.is_none() ? std::make_unique<Step>(attachment_)
                            : std::make_unique<Step>(attachment_, stream_of(stream));
  }
  int poll() const {
    return without_gil(attachment_, [](kvt_session* session) { return kvt_cuda_poll(session); });
  }

  void touch(const py::object& given) const {
    const Pages pages(given);
    check(kvt_touch(attachment_->get(), pages.data(), pages.size()));
  }
  void touch_range(uint32_t first, uint32_t n) const { check(kvt_touch_range(attachment_->get(), first, n)); }

  int advise(const py::object& given, uint32_t advice) const {
    const Pages pages(given);
    return check(kvt_advise(attachment_->get(), pages.data(), pages.size(), advice));
  }

  std::unique_ptr<CopyJob> copy(uint32_t direction, const py::object& pages, const py::object& arrays,
                                uint64_t page_offset, std::optional<uint64_t> page_stride) {
    auto job = std::make_unique<CopyJob>(attachment_, direction, pages, arrays, page_offset, page_stride);
    return job;
  }

  [[nodiscard]] const Shared& attachment() const { return attachment_; }

 private:
  /// kvt_page_data, or raises.
  [[nodiscard]] void* page_data(kvt_page page) const {
    void* const address = kvt_page_data(attachment_->get(), page);
    if (address == nullptr) raise_error(kvt_last_error_code());
    return address;
  }

  /// What kvt_publish said of each page; raises for those that were refused.
  static py::object published(const std::vector<kvt_publish_entry>& entries) {
    const std::string last = kvt_last_error();
    py::array_t<int32_t> results(static_cast<py::ssize_t>(entries.size()));
    PageArray present(static_cast<py::ssize_t>(entries.size()));
    size_t bad = 0;
    size_t refused = 0;
    for (size_t i = 0; i < entries.size(); ++i) {
      results.mutable_data()[i] = entries[i].result;
      present.mutable_data()[i] = entries[i].present;
      if (entries[i].result < 0 && refused++ == 0) bad = i;
    }
    py::object record_of = record("Published")(py::arg("results") = results, py::arg("present") = present);
    if (refused == 0) return record_of;
    const int code = entries[bad].result;
    std::string text = refused == 1 ? last
                                    : "page " + std::to_string(KVT_PAGE_INDEX(entries[bad].page)) + ": " +
                                          kvt_strerror(code);
    text += " (" + std::to_string(refused) + " of " + std::to_string(entries.size()) + " pages refused)";
    try {
      raise_error(code, text);
    } catch (py::error_already_set& error) {
      error.value().attr("published") = record_of;
      throw;
    }
  }

  Shared attachment_;
};

/// Pages that are read together: one counter.
class Sequence {
 public:
  Sequence(Shared attachment, uint32_t pages_max) : attachment_(std::move(attachment)) {
    check(kvt_sequence_create(attachment_->get(), pages_max, &id_));
  }
  ~Sequence() {
    if (open_ && attachment_->mapped() != nullptr) kvt_sequence_destroy(attachment_->mapped(), id_);
  }
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  void append(const py::object& given) const {
    const Pages pages(given);
    check(kvt_sequence_append(session(), id_, pages.data(), pages.size()));
  }
  void touch() const { check(kvt_sequence_touch(session(), id_)); }
  void close() {
    if (std::exchange(open_, false) && !attachment_->closed())
      check(kvt_sequence_destroy(attachment_->get(), id_));
  }

 private:
  [[nodiscard]] kvt_session* session() const {
    if (!open_) raise_error(KVT_E_INVALID, "the sequence is closed");
    return attachment_->get();
  }
  Shared attachment_;
  uint32_t id_ = 0;
  bool open_ = true;
};

/// The GPU of a session; none: the session has none.
struct GivenGpu {
  std::optional<int32_t> device;
  std::optional<std::string> driver;
};

/// What attach and join have in common; the strings must outlive `args`.
kvt_attach_args shared_args(const std::optional<std::string>& socket_dir, uint32_t copy_threads,
                            uint32_t timeout_ms, bool offers, bool balance, uint64_t stage_bytes_max,
                            const GivenGpu& gpu) {
  kvt_attach_args args{};
  args.size = sizeof args;
  args.socket_dir = socket_dir ? socket_dir->c_str() : nullptr;
  args.cuda_device = gpu.device.value_or(0);
  args.cuda_driver = gpu.driver ? gpu.driver->c_str() : nullptr;
  args.copy_threads = copy_threads;
  args.timeout_ms = timeout_ms;
  args.flags = (offers ? 0u : uint32_t{KVT_ATTACH_NO_OFFERS}) |
               (balance ? 0u : uint32_t{KVT_ATTACH_NO_BALANCE}) |
               (gpu.device ? uint32_t{KVT_ATTACH_CUDA} : 0u);
  args.stage_bytes_max = stage_bytes_max;
  return args;
}

/// A folder as str, bytes or os.PathLike.
std::optional<std::string> path_of(const py::object& path) {
  if (path.is_none()) return std::nullopt;
  const py::object encoded = py::module_::import("os").attr("fsencode")(path);
  return py::cast<std::string>(encoded);
}

template <typename Begin>
std::unique_ptr<Session> begin(const GivenGpu& gpu, Begin&& function) {
  kvt_session* session = nullptr;
  int result = 0;
  {
    const WithoutGil released;
    result = function(&session);
  }
  check(result);
  return std::make_unique<Session>(session, gpu.device.has_value());
}

std::unique_ptr<Session> attach(const std::string& arena, const py::object& socket_dir, uint64_t page_bytes,
                                uint32_t block_tokens, uint32_t planes, uint32_t columns, uint32_t column,
                                bool read_only, uint32_t members_max, uint32_t guarantee_pages,
                                uint32_t copy_threads, uint32_t timeout_ms, bool offers, bool balance,
                                uint64_t stage_bytes_max, const std::optional<py::bytes>& fingerprint,
                                std::optional<int32_t> cuda_device, const py::object& cuda_driver) {
  const std::optional<std::string> folder = path_of(socket_dir);
  const GivenGpu gpu{cuda_device, path_of(cuda_driver)};
  const std::string print = fingerprint ? std::string(*fingerprint) : std::string();
  if (fingerprint && print.size() != kFingerprintBytes)
    throw py::value_error("a fingerprint is 32 bytes, not " + std::to_string(print.size()));
  kvt_attach_args args = shared_args(folder, copy_threads, timeout_ms, offers, balance, stage_bytes_max, gpu);
  args.arena = arena.c_str();
  args.page_bytes = page_bytes;
  args.block_tokens = block_tokens;
  args.planes = planes;
  args.columns = columns;
  args.column = column;
  args.access = read_only ? KVT_ACCESS_READ : KVT_ACCESS_READ_WRITE;
  args.members_max = members_max;
  args.guarantee_pages = guarantee_pages;
  args.fingerprint = fingerprint ? reinterpret_cast<const uint8_t*>(print.data()) : nullptr;
  return begin(gpu, [&](kvt_session** session) { return kvt_attach(&args, session); });
}

std::unique_ptr<Session> join(const py::bytes& token, const py::object& socket_dir, uint32_t copy_threads,
                              uint32_t timeout_ms, bool offers, bool balance, uint64_t stage_bytes_max,
                              std::optional<int32_t> cuda_device, const py::object& cuda_driver) {
  const std::optional<std::string> folder = path_of(socket_dir);
  const GivenGpu gpu{cuda_device, path_of(cuda_driver)};
  const std::string secret = token;
  if (secret.size() != KVT_TOKEN_BYTES)
    throw py::value_error("a token is 16 bytes, not " + std::to_string(secret.size()));
  const kvt_attach_args args =
      shared_args(folder, copy_threads, timeout_ms, offers, balance, stage_bytes_max, gpu);
  return begin(gpu, [&](kvt_session** session) {
    return kvt_join(&args, reinterpret_cast<const uint8_t*>(secret.data()), session);
  });
}

constexpr auto kItself = py::return_value_policy::reference;

void add_hold(py::module_& module) {
  made_here<Hold>(module, "Hold",
                  R"(Pages with one hold of the session on each, which are given back by release(), by the
end of a `with` block, or with the last reference. Every argument that takes pages takes a Hold.)")
      .def_property_readonly(
          "pages", &Hold::pages,
          "The handles, a read-only array of uint64. NO_PAGE: nothing is held in its place.")
      .def("append", &Hold::append, py::arg("other"),
           "Takes over what another one of the same session holds.")
      .def("release", &Hold::release, py::arg("step") = nullptr,
           "Gives the holds back now, or when `step` ends. Again: nothing happens.")
      .def("take", &Hold::take,
           "The handles, whose holds are the caller's from here on: Session.release() gives them back.")
      .def("__len__", &Hold::size)
      .def("__array__",
           [](const Hold& hold, const py::args& args, const py::kwargs& kwargs) {
             return py::module_::import("numpy").attr("array")(hold.pages(), *args, **kwargs);
           })
      .def(
          "__enter__", [](Hold& hold) -> Hold& { return hold; }, kItself)
      .def("__exit__", [](Hold& hold, const py::args&) { hold.release(nullptr); });
}

void add_sequence(py::module_& module) {
  made_here<Sequence>(
      module, "Sequence",
      "Pages that are always read together, as by dense attention: touching it costs one counter.")
      .def("append", &Sequence::append, py::arg("pages"), "Appends pages. Limit: more than it was made for.")
      .def("touch", &Sequence::touch, "Counts one read of each of its pages.")
      .def("close", &Sequence::close, "Forgets it. Again: nothing happens.")
      .def(
          "__enter__", [](Sequence& sequence) -> Sequence& { return sequence; }, kItself)
      .def("__exit__", [](Sequence& sequence, const py::args&) { sequence.close(); });
}

}  // namespace

void add_session(py::module_& module) {
  const auto enqueue = [](uint32_t direction) {
    return [direction](const Session& session, const py::object& stream, const py::object& pages,
                       const py::object& arrays, uint64_t page_offset, std::optional<uint64_t> page_stride) {
      enqueue_copy(session.attachment(), direction, stream, pages, arrays, page_offset, page_stride);
    };
  };
  add_hold(module);
  add_sequence(module);
  made_here<Session>(module, "Session", R"(One attached process of a session: see attach() and join().

All methods may be called from any thread. Those that may wait give up the GIL: for the daemon, at most for the session's
timeout (allocate, seal, publish, unpublish, release, reserve, set_group, flush, poll, stats, close), or for a GPU (close,
device_map, device_touches). `pages` is an array of uint64, a Hold, or one or more integers; `keys` an array of uint64 of
shape (n, 2), or 16 bytes for each key.)")
      .def("close", &Session::close,
           R"(Ends this process's part in the session: its steps and, when it is the last process, its holds.

Calls raise Closed from here on. While arrays that data() or Step.pages() gave are alive, or copy jobs, the memory stays
mapped and the session attached; it ends with the last of them, and a ResourceWarning says so. Again: nothing happens.)")
      .def_property_readonly("closed", &Session::closed)
      .def_property_readonly("views", &Session::views,
                             "How many results of data() and Step.pages() have arrays that are alive.")
      .def_property_readonly(
          "handle", &Session::handle,
          "The kvt_session* as an integer, for C code in this process; good until close().")
      .def_property_readonly("token", &Session::token,
                             "The secret with which another process can join(); give it to nobody else.")
      .def_property_readonly("geometry", &Session::geometry, "The arena as it is mapped here.")
      .def_property_readonly("free_count", &Session::free_count, "How many pages could be allocated now.")
      .def("stats", &Session::stats)
      .def("page_info", &Session::page_info, py::arg("index"),
           "What the arena table says of a page index now: for people and tests.")
      .def("allocate", &Session::allocate, py::arg("n"), R"(Exactly n fresh pages, each FILLING and held.

Full: fewer can be had, and none is kept. Again: the daemon is away.)")
      .def("data", &Session::data, py::arg("page"),
           R"(The bytes of a FILLING page of this session, a writable array of uint8, without a copy.

The page stays there until it is sealed, published or released, which makes the array read-only; it is no view of the page
from then on. Slices that were made before stay writable: do not write to them, another page may be there.)")
      .def(
          "device_data", &Session::device_data, py::arg("page"),
          R"(The bytes of a FILLING page of this session as a DeviceArray, for the GPU to write, wherever the page is.

Do not write there once it is sealed, published or released.)")
      .def("seal", &Session::seal, py::arg("pages"), py::arg("step") = nullptr, py::kw_only(),
           py::arg("stream") = py::none(),
           "Seals pages: now, when `step` ends, or when all work that is in `stream` now is done. They never "
           "change again.")
      .def("publish", &Session::publish, py::arg("pages"), py::arg("keys"), py::kw_only(),
           py::arg("parents") = py::none(), py::arg("chain") = false, py::arg("group") = 0,
           R"(Seals pages and publishes each under its key, so that every session finds it.

parents: the page of the block before each, NO_PAGE for none. With chain=True each page's parent is the one before it
here, and parents, if given, is the first one's. Returns Published(results, present): results[i] is PUBLISHED or
PRESENT, then present[i] has the key. Refused pages raise the first one's error, with the same record as .published.)")
      .def("unpublish", &Session::unpublish, py::arg("page"), "Takes the key away; holds stay.")
      .def("set_group", &Session::set_group, py::arg("pages"), py::arg("group"),
           "Tags pages with a KV-cache group.")
      .def("flush", &Session::flush, "Waits until the daemon has done all that was asked before.")
      .def("lookup", &Session::lookup, py::arg("keys"), py::arg("chain") = false,
           R"(Page of each key, or NO_PAGE: a hint, nothing is held.

keys: an array of uint64 of shape (n, 2), {lo, hi} in each row, or 16 bytes for each key. chain: after the first that is
missing all are NO_PAGE.)")
      .def("hold_keys", &Session::hold_keys, py::arg("keys"), py::arg("chain") = true,
           R"(Holds the pages of the longest prefix of `keys` that is there.

With chain=False: of every key that is there, NO_PAGE in the place of the others.)")
      .def("hold", &Session::hold, py::arg("pages"),
           "Holds sealed pages; NO_PAGE in the place of those that are gone.")
      .def("release", &Session::release, py::arg("pages"), py::arg("step") = nullptr,
           "Gives back one hold on each page, now or when `step` ends: for handles from Hold.take().")
      .def("reserve", &Session::reserve, py::arg("keys"),
           R"(Who stores each key? Returns Reservation(results, hold).

Reserve.NEW: hold.pages[i] is a fresh page to write and publish; PRESENT: it has the key; both are held. PENDING: another
session is storing it. FULL: no page can be had.)")
      .def(
          "step", &Session::step, py::arg("stream") = py::none(),
          R"(Begins a step. With a stream, which then ends it: what is resolved may be read by work that is enqueued there
until Step.end(). A stream is an integer, or an object with cuda_stream (torch), ptr (CuPy) or __cuda_stream__().)")
      .def("poll", &Session::poll,
           "Does what waits for steps that their streams have ended. Returns how many are under way still.")
      .def(
          "device_frames", [](const Session& session) { return device_frames(session.attachment()); },
          R"(All frames as a DeviceArray of bytes of shape (frames, page_bytes): the KV tensor, whose blocks are frames.

What a step has resolved may be read there; frames that are in no window have no memory.)")
      .def(
          "device_map",
          [](const Session& session) { return std::make_unique<DeviceMap>(session.attachment()); },
          "A DeviceMap. From here on resolve() gives this process first places only.")
      .def(
          "device_touches",
          [](const Session& session, uint32_t pages_max) {
            return std::make_unique<DeviceTouches>(session.attachment(), pages_max);
          },
          py::arg("pages_max") = 0,
          "DeviceTouches; pages_max: different pages that are counted in a step, 0: 16,384.")
      .def("touch", &Session::touch, py::arg("pages"),
           "Counts one read of each page: what is read often moves to faster memory.")
      .def("touch_range", &Session::touch_range, py::arg("first"), py::arg("n"),
           "Counts one read of the pages with index first .. first+n-1.")
      .def(
          "sequence",
          [](const Session& session, uint32_t pages_max) {
            return std::make_unique<Sequence>(session.attachment(), pages_max);
          },
          py::arg("pages_max"), "A list of up to pages_max pages that are read together.")
      .def("advise", &Session::advise, py::arg("pages"), py::arg("advice"),
           "Says that pages will be read soon or not. Returns how many were passed on.")
      .def(
          "store",
          [](Session& session, const py::object& pages, const py::object& arrays, uint64_t page_offset,
             std::optional<uint64_t> page_stride) {
            return session.copy(KVT_COPY_STORE, pages, arrays, page_offset, page_stride);
          },
          py::arg("pages"), py::arg("arrays"), py::kw_only(), py::arg("page_offset") = 0,
          py::arg("page_stride") = py::none(),
          R"(Submits a copy of arrays[i] into pages[i], which is FILLING: row r, an index of the array's first axis, to
page_offset + r * page_stride. page_stride: as long as a row by default. Returns a CopyJob.)")
      .def(
          "load",
          [](Session& session, const py::object& pages, const py::object& arrays, uint64_t page_offset,
             std::optional<uint64_t> page_stride) {
            return session.copy(KVT_COPY_LOAD, pages, arrays, page_offset, page_stride);
          },
          py::arg("pages"), py::arg("arrays"), py::kw_only(), py::arg("page_offset") = 0,
          py::arg("page_stride") = py::none(),
          "Submits a copy of pages[i], which is held, into arrays[i]: the same the other way. It begins and "
          "ends its own step.")
      .def(
          "enqueue_store", enqueue(KVT_COPY_STORE), py::arg("stream"), py::arg("pages"), py::arg("arrays"),
          py::kw_only(), py::arg("page_offset") = 0, py::arg("page_stride") = py::none(),
          R"(store() in the order of a stream: arrays[i] has __cuda_array_interface__, or is a pinned array of NumPy.

Waits for nothing, and is a step of its own, which the stream ends. The memory of the arrays is the caller's to keep until
then. Publish when the stream has passed. Limit: 64 steps are under way; wait for an event of an older one.)")
      .def("enqueue_load", enqueue(KVT_COPY_LOAD), py::arg("stream"), py::arg("pages"), py::arg("arrays"),
           py::kw_only(), py::arg("page_offset") = 0, py::arg("page_stride") = py::none(),
           "load() in the order of a stream: the same the other way, from pages that are held.")
      .def(
          "__enter__", [](Session& session) -> Session& { return session; }, kItself)
      .def("__exit__", [](Session& session, const py::args&) { session.close(); });

  module.def("attach", &attach, py::arg("arena") = "default", py::kw_only(),
             py::arg("socket_dir") = py::none(), py::arg("page_bytes") = 0, py::arg("block_tokens") = 0,
             py::arg("planes") = 0, py::arg("columns") = 0, py::arg("column") = 0,
             py::arg("read_only") = false, py::arg("members_max") = 1, py::arg("guarantee_pages") = 0,
             py::arg("copy_threads") = 0, py::arg("timeout_ms") = 1000, py::arg("offers") = true,
             py::arg("balance") = true, py::arg("stage_bytes_max") = 0, py::arg("fingerprint") = py::none(),
             py::arg("cuda_device") = py::none(), py::arg("cuda_driver") = py::none(),
             R"(Attaches an arena of the kvtierd in socket_dir ($KVTIER_SOCKET_DIR, else /run/kvtier).

offers: resolve may copy pages into a faster tier while it resolves them, at most stage_bytes_max bytes a step (0:
16 MiB). balance: pages that lie in two tiers are read from either, so that both tiers take equally long. cuda_device:
this process reads and writes pages with that GPU, as CUDA counts it; cuda_driver: path of the driver.

0 accepts whatever the arena has. fingerprint: 32 bytes of everything that makes KV data incompatible: model, dtype,
layout, split, hash seed, salt. Raises Again, NotFound, Permission, Mismatch, Limit, Full, Invalid.)");
  module.def("join", &join, py::arg("token"), py::kw_only(), py::arg("socket_dir") = py::none(),
             py::arg("copy_threads") = 0, py::arg("timeout_ms") = 1000, py::arg("offers") = true,
             py::arg("balance") = true, py::arg("stage_bytes_max") = 0, py::arg("cuda_device") = py::none(),
             py::arg("cuda_driver") = py::none(),
             "Joins the session whose owner passed on its token. Pages and holds are the session's, steps "
             "each process's.");
}

}  // namespace kvt::python
