// SPDX-License-Identifier: Apache-2.0
#include "libclient/python/src/device.h"

#include <pybind11/stl.h>

#include <utility>

#include "libclient/python/src/copies.h"
#include "libclient/python/src/step.h"

namespace kvt::python {

kvt_cuda_stream stream_of(const py::object& given) {
  py::object handle = given;
  if (PyIndex_Check(given.ptr()) == 0) {
    if (const py::object said = attribute_of(given, "__cuda_stream__")) {  // (version, handle)
      const py::tuple both = PyCallable_Check(said.ptr()) != 0 ? said() : said;
      handle = both[1];
    } else if (py::object of_torch = attribute_of(given, "cuda_stream")) {
      handle = std::move(of_torch);
    } else if (py::object of_cupy = attribute_of(given, "ptr")) {
      handle = std::move(of_cupy);
    } else {
      throw py::type_error(
          "a stream is an integer, or an object with cuda_stream, ptr or __cuda_stream__, not " +
          py::cast<std::string>(py::type::handle_of(given).attr("__name__")));
    }
  }
  return reinterpret_cast<kvt_cuda_stream>(static_cast<uintptr_t>(integer_of(handle)));
}

// ---- arrays ----

DeviceArray::DeviceArray(const void* address, std::string type, std::vector<py::ssize_t> shape,
                         std::vector<py::ssize_t> strides, py::object owner)
    : address_(reinterpret_cast<uintptr_t>(address)),
      type_(std::move(type)),
      shape_(std::move(shape)),
      strides_(std::move(strides)),
      owner_(std::move(owner)) {}

py::dict DeviceArray::interface() const {
  py::dict said;
  said["version"] = 3;
  said["shape"] = py::tuple(py::cast(shape_));
  said["strides"] = py::tuple(py::cast(strides_));
  said["typestr"] = type_;
  // Not said to be read-only, where it is: torch takes no such array.
  said["data"] = py::make_tuple(address_, false);
  said["stream"] = py::none();  // what is in it is a matter of steps
  return said;
}

DeviceArray device_frames(const Shared& attachment) {
  [[maybe_unused]] kvt_session* const session_is_open = attachment->get();
  if (!attachment->has_gpu()) raise_error(KVT_E_STATE, "the session has no GPU: attach with cuda_device");
  const kvt_geometry& geometry = attachment->geometry();
  return {geometry.base,
          "|u1",
          {static_cast<py::ssize_t>(geometry.frames), static_cast<py::ssize_t>(geometry.page_bytes)},
          {static_cast<py::ssize_t>(geometry.stride), 1},
          View::capsule(attachment, nullptr)};
}

DeviceArray device_page(const Shared& attachment, void* address) {
  if (!attachment->has_gpu()) raise_error(KVT_E_STATE, "the session has no GPU: attach with cuda_device");
  return {address,
          "|u1",
          {static_cast<py::ssize_t>(attachment->geometry().page_bytes)},
          {1},
          View::capsule(attachment, nullptr)};
}

void enqueue_copy(const Shared& attachment, uint32_t direction, const py::object& stream,
                  const py::object& pages, const py::object& arrays, uint64_t page_offset,
                  std::optional<uint64_t> page_stride) {
  const kvt_cuda_stream to = stream_of(stream);
  std::vector<py::object> kept;  // until the copies are enqueued
  const std::vector<kvt_copy> copies =
      copies_of(direction, Reach::kGpu, pages, arrays, page_offset, page_stride, &kept);
  if (copies.empty()) return;
  without_gil(attachment, [&](kvt_session* session) {
    return kvt_cuda_copy(session, direction, copies.data(), copies.size(), to);
  });
}

// ---- the page table and the counters on the device ----

namespace {

/// `kept`, or raises: it is closed, or its session is.
template <typename T>
const std::shared_ptr<T>& open_one(const Shared& attachment, const std::shared_ptr<T>& kept,
                                   const char* closed) {
  if (kept == nullptr) raise_error(KVT_E_INVALID, closed);
  [[maybe_unused]] kvt_session* const session_is_open = attachment->get();
  return kept;
}

}  // namespace

DeviceMap::DeviceMap(const Shared& attachment) : attachment_(attachment) {
  const Use use(attachment);  // another thread may close the session before the map has its own
  kvt_cuda_map* made = nullptr;
  without_gil(attachment, [&](kvt_session* session) { return kvt_cuda_map_create(session, &made); });
  map_ = std::make_shared<Map>(attachment, made);
}

const std::shared_ptr<DeviceMap::Map>& DeviceMap::map() const {
  return open_one(attachment_, map_, "the map is closed");
}

DeviceArray DeviceMap::frames() const {
  auto* const owner = new std::shared_ptr<Map>(map());
  return {kvt_cuda_map_frames(map_->get()),
          "<u4",
          {static_cast<py::ssize_t>(attachment_->geometry().pages)},
          {4},
          py::capsule(owner, [](void* kept) { delete static_cast<std::shared_ptr<Map>*>(kept); })};
}

int DeviceMap::update(const Step& step, const py::object& given) const {
  const Pages pages(given);
  const std::shared_ptr<Map> kept = map();
  const kvt_step at = *step.of(attachment_);
  return without_gil(attachment_, [&](kvt_session*) {
    return kvt_cuda_map_update(kept->get(), &at, pages.data(), pages.size());
  });
}

void DeviceMap::translate(const py::object& pages, const py::object& frames, const py::object& stream) const {
  const Memory from = device_memory_of(pages, "pages", false);
  const Memory to = device_memory_of(frames, "frames", false);
  for (const auto& [name, memory] : {std::pair{"pages", &from}, std::pair{"frames", &to}})
    if (memory->item_bytes != 4 || memory->shape.size() != 1 || memory->strides[0] != 4)
      throw py::type_error(std::string(name) + " is a one-dimensional array of int32, without gaps");
  if (from.shape[0] != to.shape[0])
    throw py::value_error(std::to_string(from.shape[0]) + " pages and " + std::to_string(to.shape[0]) +
                          " frames");
  if (!to.is_writable) throw py::value_error("frames is read-only");
  const kvt_cuda_stream enqueued_in = stream_of(stream);  // may run code of its own
  const std::shared_ptr<Map> kept = map();
  without_gil(attachment_, [&](kvt_session*) {
    return kvt_cuda_translate(kept->get(), static_cast<const int32_t*>(from.data),
                              static_cast<int32_t*>(to.data), static_cast<size_t>(from.shape[0]),
                              enqueued_in);
  });
}

DeviceTouches::DeviceTouches(const Shared& attachment, uint32_t pages_max) : attachment_(attachment) {
  const Use use(attachment);  // as above
  kvt_cuda_touches* made = nullptr;
  without_gil(attachment,
              [&](kvt_session* session) { return kvt_cuda_touches_create(session, pages_max, &made); });
  touches_ = std::make_shared<Touches>(attachment, made);
}

const std::shared_ptr<DeviceTouches::Touches>& DeviceTouches::touches() const {
  return open_one(attachment_, touches_, "the counters are closed");
}

uintptr_t DeviceTouches::counters() const {
  return reinterpret_cast<uintptr_t>(kvt_cuda_touches_counters(touches()->get()));
}

void DeviceTouches::take(const Step& step) const {
  check(kvt_cuda_touches_take(touches()->get(), step.of(attachment_)));
}

void add_device(py::module_& module) {
  constexpr auto kItself = py::return_value_policy::reference;
  made_here<DeviceArray>(
      module, "DeviceArray",
      R"(Memory that a GPU reaches, by __cuda_array_interface__: torch.as_tensor(array, device="cuda"),
cupy.asarray(array). No copy. The memory stays mapped while this, or what was made of it, is alive.

Pages that are sealed must not be written, though the array does not say that it is read-only: torch takes no such array.)")
      .def_property_readonly("__cuda_array_interface__", &DeviceArray::interface)
      .def_property_readonly("address", &DeviceArray::address, "Of its first byte, for the GPU.")
      .def_property_readonly("shape", &DeviceArray::shape);

  made_here<DeviceMap>(
      module, "DeviceMap",
      R"(Where each page is, as an array in device memory that follows the daemon's moves: so a captured
graph that translates block ids by it finds pages that have moved. Belongs to one stream at a time. Session.device_map().)")
      .def_property_readonly("frames", &DeviceMap::frames,
                             "By page index: its frame, or NO_FRAME. A DeviceArray of uint32.")
      .def(
          "update", &DeviceMap::update, py::arg("step"), py::arg("pages") = py::tuple(),
          R"(Enqueues what has moved since the last update, and where `pages` are, that block tables have got since then.

In each step, before the work that translates by it. Returns how many entries it writes.)")
      .def(
          "translate", &DeviceMap::translate, py::arg("pages"), py::arg("frames"), py::arg("stream"),
          R"(Enqueues frames[i] = frame of page index pages[i], arrays of int32 that the GPU reaches; the scratch frame
where pages[i] < 0 or the page is gone. May be captured.)")
      .def("close", &DeviceMap::close, "Frees it, when no array of it is alive. Again: nothing happens.")
      .def(
          "__enter__", [](DeviceMap& map) -> DeviceMap& { return map; }, kItself)
      .def("__exit__", [](DeviceMap& map, const py::args&) { map.close(); });

  made_here<DeviceTouches>(
      module, "DeviceTouches",
      R"(Counters of reads in device memory, for kernels that choose by themselves what they read:
kvt::device::touch of kvtier/device.cuh. Belongs to one stream at a time. Session.device_touches().)")
      .def_property_readonly("counters", &DeviceTouches::counters,
                             "The kernels' argument: address of a kvt::device::Touches.")
      .def("take", &DeviceTouches::take, py::arg("step"),
           "Kernels of this step count there; what they count is added when it is over.")
      .def("close", &DeviceTouches::close, "Frees them. Again: nothing happens.")
      .def(
          "__enter__", [](DeviceTouches& touches) -> DeviceTouches& { return touches; }, kItself)
      .def("__exit__", [](DeviceTouches& touches, const py::args&) { touches.close(); });
}

}  // namespace kvt::python
