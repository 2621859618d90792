// SPDX-License-Identifier: Apache-2.0
//
// A session with a GPU: its memory as arrays that GPU packages take, their streams, the page table and the counters of
// reads on the device.
#pragma once

#include <kvtier/cuda.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "libclient/python/src/arguments.h"

namespace kvt::python {

class Step;

/// A stream as engines have it: an integer, a torch.cuda.Stream, a cupy.cuda.Stream, or an object with __cuda_stream__().
kvt_cuda_stream stream_of(const py::object& given);

/// Memory that a GPU reaches, for packages that take __cuda_array_interface__: torch, CuPy, Numba. Its owner keeps it mapped.
class DeviceArray {
 public:
  DeviceArray(const void* address, std::string type, std::vector<py::ssize_t> shape,
              std::vector<py::ssize_t> strides, py::object owner);
  [[nodiscard]] py::dict interface() const;
  [[nodiscard]] uintptr_t address() const { return address_; }
  [[nodiscard]] py::tuple shape() const { return py::cast(shape_); }

 private:
  uintptr_t address_;
  std::string type_;
  std::vector<py::ssize_t> shape_;
  std::vector<py::ssize_t> strides_;
  py::object owner_;
};

/// All frames of a session with a GPU, of shape (frames, page_bytes). WrongState without one.
DeviceArray device_frames(const Shared& attachment);
/// Bytes of a FILLING page, where the GPU writes them; `address` is of kvt_page_data.
DeviceArray device_page(const Shared& attachment, void* address);

/// Enqueues copies between pages and memory that the GPU reaches.
void enqueue_copy(const Shared& attachment, uint32_t direction, const py::object& stream,
                  const py::object& pages, const py::object& arrays, uint64_t page_offset,
                  std::optional<uint64_t> page_stride);

/// What lives on the device for a session, and keeps that attached.
template <typename T, void (*destroy)(T*)>
class OnDevice {
 public:
  OnDevice(const Shared& attachment, T* raw) : use_(attachment), attachment_(attachment), raw_(raw) {}
  ~OnDevice() {
    if (attachment_->forked()) return;
    const WithoutGil released;
    destroy(raw_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  [[nodiscard]] T* get() const { return raw_; }

 private:
  Use use_;
  Shared attachment_;
  T* raw_;
};

/// kvt_cuda_map. Its arrays keep it.
class DeviceMap {
 public:
  explicit DeviceMap(const Shared& attachment);
  [[nodiscard]] DeviceArray frames() const;
  int update(const Step& step, const py::object& pages) const;
  void translate(const py::object& pages, const py::object& frames, const py::object& stream) const;
  void close() { map_ = nullptr; }

 private:
  using Map = OnDevice<kvt_cuda_map, kvt_cuda_map_destroy>;
  [[nodiscard]] const std::shared_ptr<Map>& map() const;
  Shared attachment_;
  std::shared_ptr<Map> map_;
};

/// kvt_cuda_touches.
class DeviceTouches {
 public:
  DeviceTouches(const Shared& attachment, uint32_t pages_max);
  [[nodiscard]] uintptr_t counters() const;
  void take(const Step& step) const;
  void close() { touches_ = nullptr; }

 private:
  using Touches = OnDevice<kvt_cuda_touches, kvt_cuda_touches_destroy>;
  [[nodiscard]] const std::shared_ptr<Touches>& touches() const;
  Shared attachment_;
  std::shared_ptr<Touches> touches_;
};

void add_device(py::module_& module);

}  // namespace kvt::python
