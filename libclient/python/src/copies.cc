// SPDX-License-Identifier: Apache-2.0
#include "libclient/python/src/copies.h"

namespace kvt::python {
namespace {

/// Rows of an array: its first axis, or all of it when it has one that is contiguous.
kvt_copy rows_of(const Memory& memory, const std::string& name, bool written) {
  const size_t axes = memory.shape.size();
  py::ssize_t bytes = memory.item_bytes;  // of all items: no product below is larger
  for (const py::ssize_t length : memory.shape) {
    if (length < 0) throw py::value_error(name + " has an axis of " + std::to_string(length));
    if (length == 0) throw py::value_error(name + " is empty");
    if (__builtin_mul_overflow(bytes, length, &bytes)) throw py::value_error(name + " is too large");
  }
  if (written && !memory.is_writable) throw py::value_error(name + " is read-only");
  py::ssize_t row_bytes = memory.item_bytes;
  for (size_t axis = axes; axis-- > 1;) {
    if (memory.shape[axis] != 1 && memory.strides[axis] != row_bytes)
      throw py::value_error(name + ": only the first axis may have gaps; the others must be contiguous");
    row_bytes *= memory.shape[axis];
  }
  kvt_copy copy{};
  copy.memory = memory.data;
  copy.rows = 1;
  copy.row_bytes = static_cast<uint64_t>(row_bytes);
  if (axes == 0 || memory.shape[0] == 1) return copy;
  if (memory.strides[0] < (written ? row_bytes : 0))
    throw py::value_error(name + ": rows that overlap, or go backwards");
  if (axes == 1 && memory.strides[0] == row_bytes) {
    copy.row_bytes = static_cast<uint64_t>(bytes);
    return copy;
  }
  if (memory.shape[0] > UINT32_MAX) throw py::value_error(name + " has more than 2^32-1 rows");
  copy.rows = static_cast<uint32_t>(memory.shape[0]);
  copy.memory_stride = static_cast<uint64_t>(memory.strides[0]);
  return copy;
}

/// Integers that __cuda_array_interface__ has, or a TypeError or OverflowError.
std::vector<py::ssize_t> integers_of(const py::object& given) {
  std::vector<py::ssize_t> found;
  for (const py::handle& item : given) {
    const py::ssize_t value = PyNumber_AsSsize_t(item.ptr(), PyExc_OverflowError);
    if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    found.push_back(value);
  }
  return found;
}

}  // namespace

Memory memory_of(const py::array& array, const std::string& name) {
  if (py::cast<bool>(array.dtype().attr("hasobject")))
    throw py::type_error(name + " has Python objects, which cannot be copied");
  Memory memory;
  memory.data = const_cast<void*>(array.data());
  memory.item_bytes = array.itemsize();
  memory.is_writable = array.writeable();
  memory.shape.assign(array.shape(), array.shape() + array.ndim());
  memory.strides.assign(array.strides(), array.strides() + array.ndim());
  return memory;
}

Memory device_memory_of(const py::handle& object, const std::string& name, bool takes_numpy) {
  if (takes_numpy && py::isinstance<py::array>(object))
    return memory_of(py::reinterpret_borrow<py::array>(object), name);
  const char* const else_text = takes_numpy ? ", and is no pinned array of NumPy" : "";
  const py::object interface = attribute_of(object, "__cuda_array_interface__");
  if (!interface) throw py::type_error(name + " has no __cuda_array_interface__" + else_text);
  if (!py::isinstance<py::dict>(interface))
    throw py::type_error(name + ": its __cuda_array_interface__ is no dict");
  const auto said = py::reinterpret_borrow<py::dict>(interface);
  if (said.contains("mask") && !py::object(said["mask"]).is_none())
    throw py::type_error(name + " has a mask, which cannot be copied");
  const py::dtype type = py::dtype::from_args(said["typestr"]);
  const py::tuple data = said["data"];
  Memory memory;
  memory.data = reinterpret_cast<void*>(static_cast<uintptr_t>(integer_of(data[0])));
  memory.item_bytes = type.itemsize();
  const int is_read_only = PyObject_IsTrue(py::object(data[1]).ptr());
  if (is_read_only < 0) throw py::error_already_set();
  memory.is_writable = is_read_only == 0;
  memory.shape = integers_of(said["shape"]);
  if (said.contains("strides") && !py::object(said["strides"]).is_none()) {
    memory.strides = integers_of(said["strides"]);
    if (memory.strides.size() != memory.shape.size())
      throw py::value_error(name + " has " + std::to_string(memory.shape.size()) + " axes and " +
                            std::to_string(memory.strides.size()) + " strides");
    return memory;
  }
  memory.strides.resize(memory.shape.size());
  auto bytes = static_cast<uint64_t>(memory.item_bytes);  // what does not fit is refused where it is used
  for (size_t axis = memory.shape.size(); axis-- > 0;) {
    memory.strides[axis] = static_cast<py::ssize_t>(bytes);
    bytes *= static_cast<uint64_t>(memory.shape[axis]);
  }
  return memory;
}

std::vector<kvt_copy> copies_of(uint32_t direction, Reach reach, const py::object& given_pages,
                                const py::object& given_arrays, uint64_t page_offset,
                                std::optional<uint64_t> page_stride, std::vector<py::object>* kept) {
  const Pages pages(given_pages);
  if (!py::isinstance<py::sequence>(given_arrays))
    throw py::type_error("arrays is a sequence of arrays, one for each page");
  std::vector<py::object> arrays;  // the sequence may change while its elements' code runs
  for (const py::handle& item : py::reinterpret_borrow<py::sequence>(given_arrays)) {
    if (reach == Reach::kCpu && !py::isinstance<py::array>(item))
      throw py::type_error("arrays is a sequence of arrays, one for each page");
    arrays.push_back(py::reinterpret_borrow<py::object>(item));
  }
  if (arrays.size() != pages.size())
    throw py::value_error(std::to_string(pages.size()) + " pages and " + std::to_string(arrays.size()) +
                          " arrays");
  std::vector<kvt_copy> copies;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const std::string name = "array " + std::to_string(i);
    kvt_copy copy =
        rows_of(reach == Reach::kCpu ? memory_of(py::reinterpret_borrow<py::array>(arrays[i]), name)
                                     : device_memory_of(arrays[i], name, true),
                name, direction == KVT_COPY_LOAD);
    copy.page = pages.data()[i];
    copy.page_offset = page_offset;
    copy.page_stride = page_stride.value_or(copy.row_bytes);
    copies.push_back(copy);
  }
  *kept = std::move(arrays);
  return copies;
}

}  // namespace kvt::python
