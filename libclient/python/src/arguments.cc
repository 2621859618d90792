// SPDX-License-Identifier: Apache-2.0
#include "libclient/python/src/arguments.h"

#include <cstring>

#include "libclient/python/src/hold.h"

namespace kvt::python {
namespace {

std::string name_of_type(const py::handle& object) {
  if (py::isinstance<py::array>(object)) {
    const auto array = py::reinterpret_borrow<py::array>(object);
    return "an array of " + py::cast<std::string>(py::str(array.dtype())) + " of shape " +
           py::cast<std::string>(py::str(object.attr("shape")));
  }
  return py::cast<std::string>(py::type::handle_of(object).attr("__name__"));
}

bool is_uint64(const py::array& array) { return py::isinstance<py::array_t<uint64_t>>(array); }

}  // namespace

uint64_t integer_of(const py::handle& object) {
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!number) throw py::error_already_set();
  const uint64_t value = PyLong_AsUnsignedLongLong(number.ptr());
  if (value == UINT64_MAX && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

py::object attribute_of(const py::handle& object, const char* name) {
  PyObject* const found = PyObject_GetAttrString(object.ptr(), name);
  if (found == nullptr) {
    if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw py::error_already_set();
    PyErr_Clear();
  }
  return py::reinterpret_steal<py::object>(found);
}

Pages::Pages(const py::object& given) {
  if (py::isinstance<Hold>(given)) {
    array_ = py::cast<Hold&>(given).pages();
  } else if (py::isinstance<py::array>(given)) {
    const auto array = py::reinterpret_borrow<py::array>(given);
    if (!is_uint64(array) || array.ndim() > 1)
      throw py::type_error("pages are a one-dimensional array of uint64, not " + name_of_type(given));
    array_ = PageArray::ensure(given);  // copies when it is not contiguous
    if (!array_) throw py::error_already_set();
  } else if (PyIndex_Check(given.ptr())) {
    array_ = PageArray(1);
    *array_.mutable_data() = integer_of(given);
  } else if (py::isinstance<py::sequence>(given) && !py::isinstance<py::str>(given) &&
             !py::isinstance<py::bytes>(given)) {
    const auto sequence = py::reinterpret_borrow<py::sequence>(given);
    std::vector<uint64_t> values;  // the sequence may change while its elements' code runs
    for (const py::handle& item : sequence) values.push_back(integer_of(item));
    array_ = PageArray(static_cast<py::ssize_t>(values.size()), values.data());
  } else {
    throw py::type_error("pages are an array of uint64, a Hold, or integers, not " + name_of_type(given));
  }
}

std::vector<kvt_key> keys_of(const py::object& given) {
  static_assert(sizeof(kvt_key) == 16);
  std::vector<kvt_key> keys;
  if (py::isinstance<py::array>(given)) {
    const auto array = py::reinterpret_borrow<py::array>(given);
    if (!is_uint64(array) || array.ndim() != 2 || array.shape(1) != 2)
      throw py::type_error("keys are an array of uint64 of shape (n, 2), or 16 bytes each, not " +
                           name_of_type(given));
    const PageArray words = PageArray::ensure(given);
    if (!words) throw py::error_already_set();
    keys.resize(static_cast<size_t>(words.shape(0)));
    if (!keys.empty()) std::memcpy(keys.data(), words.data(), keys.size() * sizeof(kvt_key));
    return keys;
  }
  if (PyObject_CheckBuffer(given.ptr()) == 0)
    throw py::type_error("keys are an array of uint64 of shape (n, 2), or 16 bytes each, not " +
                         name_of_type(given));
  Py_buffer buffer;
  if (PyObject_GetBuffer(given.ptr(), &buffer, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  const auto bytes = static_cast<size_t>(buffer.len);
  if (bytes % sizeof(kvt_key) == 0) {
    keys.resize(bytes / sizeof(kvt_key));
    if (bytes != 0) std::memcpy(keys.data(), buffer.buf, bytes);
  }
  PyBuffer_Release(&buffer);
  if (bytes % sizeof(kvt_key) != 0)
    throw py::value_error("keys are 16 bytes each, and " + std::to_string(bytes) + " bytes are given");
  return keys;
}

py::array bytes_array(void* address, uint64_t bytes, bool writable, const py::capsule& owner) {
  py::array_t<uint8_t> array({static_cast<py::ssize_t>(bytes)}, {py::ssize_t{1}},
                             static_cast<uint8_t*>(address), owner);
  if (!writable) make_read_only(array);
  return array;
}

void make_read_only(py::array& array) {
  py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
}

}  // namespace kvt::python
