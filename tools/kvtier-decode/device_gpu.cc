// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/device_gpu.h"

#include <fmt/format.h>

#include <cstdlib>
#include <stdexcept>

#include "tools/kvtier-decode/device.h"
#include "tools/kvtier-decode/errors.h"

#ifdef KVT_HAVE_DEVICE_CODE
extern const unsigned char kvt_decode_code[];
#endif

namespace kvt::decode {
namespace {

template <typename T>
T have(Result<T> result) {
  if (result) return std::move(*result);
  const std::string text = "--device cuda: " + result.error().text;
  if (result.error().code == Code::kNotFound || result.error().code == Code::kMismatch)
    throw MissingError(text);
  throw std::runtime_error(text);
}

/// As libkvtier finds it, so that both use the same.
std::string driver_or_default(const std::string& path) {
  const char* const named = std::getenv("KVTIER_CUDA_DRIVER");
  return path.empty() && named != nullptr ? named : path;
}

}  // namespace

Device::Device(const std::string& driver, int ordinal)
    : driver_path_(driver),
      ordinal_(ordinal),
      gpu_(have(cuda::Gpu::open(have(cuda::Driver::load(driver_or_default(driver))), ordinal))) {
#ifdef KVT_HAVE_DEVICE_CODE
  const auto current = use();
  const cuda::Driver& calls = this->driver();
  if (const CUresult loaded = calls.cuModuleLoadData(&module_, kvt_decode_code); loaded != CUDA_SUCCESS)
    throw MissingError(fmt::format("--device cuda: {}",
                                   calls.check(loaded, "kernels for " + gpu_->info().name).error().text));
  check(calls.cuModuleGetFunction(&store_, module_, "kvt_decode_store"), "kvt_decode_store");
  check(calls.cuModuleGetFunction(&attend_, module_, "kvt_decode_attend"), "kvt_decode_attend");
  check(calls.cuStreamCreateWithPriority(&stream_, CU_STREAM_NON_BLOCKING, 0), "a stream");
#else
  throw MissingError("--device cuda: this kvtier-decode was built without a compiler of device code");
#endif
}

Device::~Device() {
  const auto current = use();
  if (stream_ != nullptr) {
    driver().cuStreamSynchronize(stream_);
    driver().cuStreamDestroy(stream_);
  }
  if (module_ != nullptr) driver().cuModuleUnload(module_);
}

void Device::wait(CUstream stream) const { check(driver().cuStreamSynchronize(stream), "wait for a stream"); }

void Device::check(CUresult result, const char* what) const {
  if (result != CUDA_SUCCESS) throw std::runtime_error(driver().check(result, what).error().text);
}

DeviceMemory::DeviceMemory(std::shared_ptr<Device> device, size_t bytes) : device_(std::move(device)) {
  const auto current = device_->use();
  device_->check(device_->driver().cuMemAlloc(&address_, bytes), "memory of the device");
}

DeviceMemory::~DeviceMemory() {
  const auto current = device_->use();
  device_->driver().cuMemFree(address_);
}

std::shared_ptr<Device> open_device(const std::string& driver, int ordinal) {
  return std::make_shared<Device>(driver, ordinal);
}

std::string device_text(const Device& device) {
  const cuda::GpuInfo& info = device.gpu().info();
  return fmt::format("{}, compute capability {}.{}, driver {} ({})", info.name, info.capability / 10,
                     info.capability % 10, cuda::version_text(device.driver().version()),
                     device.driver().path());
}

std::string arithmetic_of(const Device* device) {
  if (device == nullptr) return {};
  const cuda::GpuInfo& info = device->gpu().info();
  return fmt::format("cuda {} {}", info.capability, info.name);
}

}  // namespace kvt::decode
