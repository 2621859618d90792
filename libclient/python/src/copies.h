// SPDX-License-Identifier: Apache-2.0
//
// Copies between pages and arrays, as they come from Python: one array for each page.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "libclient/python/src/arguments.h"

namespace kvt::python {

/// What an array says of its memory.
struct Memory {
  void* data = nullptr;
  std::vector<py::ssize_t> shape;
  std::vector<py::ssize_t> strides;  ///< bytes, one for each axis
  py::ssize_t item_bytes = 0;
  bool is_writable = false;
};

/// Of an array of NumPy; `name` is for the error where it has Python objects.
Memory memory_of(const py::array& array, const std::string& name);
/// Of an object with __cuda_array_interface__; with `takes_numpy` also of an array of NumPy, which is to be pinned.
Memory device_memory_of(const py::handle& object, const std::string& name, bool takes_numpy);

/// Which memory a copy may name.
enum class Reach { kCpu, kGpu };

/// Copies of pages[i] and arrays[i]: row r of an array, by its first axis, at page_offset + r * page_stride of the page;
/// without a stride rows follow each other. The arrays go to `kept`: their memory is named by the copies.
std::vector<kvt_copy> copies_of(uint32_t direction, Reach reach, const py::object& pages,
                                const py::object& arrays, uint64_t page_offset,
                                std::optional<uint64_t> page_stride, std::vector<py::object>* kept);

}  // namespace kvt::python
