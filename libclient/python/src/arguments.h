// SPDX-License-Identifier: Apache-2.0
//
// Batches as they come from Python, taken without loss, or refused with a sentence: a float is no page.
#pragma once

#include <vector>

#include "libclient/python/src/attachment.h"

namespace kvt::python {

using PageArray =
    py::array_t<uint64_t, int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_}>;

/// Page handles: a uint64 array is read where it is, a Hold or a sequence of integers copied.
class Pages {
 public:
  explicit Pages(const py::object& given);
  [[nodiscard]] const kvt_page* data() const { return array_.data(); }
  [[nodiscard]] size_t size() const { return static_cast<size_t>(array_.size()); }

 private:
  PageArray array_;
};

/// An integer of 64 bits without a sign, or a TypeError or OverflowError.
uint64_t integer_of(const py::handle& object);

/// An attribute, or a null object where there is none; any other error of the object's own code is raised.
py::object attribute_of(const py::handle& object, const char* name);

/// Keys: an array of shape (n, 2) of uint64, {lo, hi} in each row, or 16 bytes for each key.
std::vector<kvt_key> keys_of(const py::object& given);

/// Memory of a page as an array of bytes, whose base is `owner`.
py::array bytes_array(void* address, uint64_t bytes, bool writable, const py::capsule& owner);

/// An array that Python code can not write to.
void make_read_only(py::array& array);

}  // namespace kvt::python
