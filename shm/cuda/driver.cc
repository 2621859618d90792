// SPDX-License-Identifier: Apache-2.0
#include "shm/cuda/driver.h"

#include <dlfcn.h>

namespace kvt::cuda {
namespace {

using GetProcAddress = decltype(&::cuGetProcAddress);

/// The entry point, or null with the reason in `status`.
void* find(GetProcAddress get, const char* name, int version, CUdriverProcAddressQueryResult& status) {
  void* address = nullptr;
  if (get(name, &address, version, CU_GET_PROC_ADDRESS_DEFAULT, &status) != CUDA_SUCCESS) return nullptr;
  return status == CU_GET_PROC_ADDRESS_SUCCESS ? address : nullptr;
}

}  // namespace

Result<std::shared_ptr<const Driver>> Driver::load(const std::string& path) {
  std::shared_ptr<Driver> driver(new Driver());
  driver->path_ = path.empty() ? "libcuda.so.1" : path;
  driver->library_ = ::dlopen(driver->path_.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (driver->library_ == nullptr)
    return fail(Code::kNotFound, std::string("no CUDA driver: ") + ::dlerror());
  const auto too_old = [&](const std::string& why) {
    return fail(Code::kMismatch, "the CUDA driver " + driver->path_ + " is too old: " + why + "; " +
                                     version_text(kOldestDriver) + " or later is needed");
  };
  const auto get = reinterpret_cast<GetProcAddress>(::dlsym(driver->library_, "cuGetProcAddress_v2"));
  if (get == nullptr) return too_old("it has no cuGetProcAddress_v2");
#define KVT_CUDA_FIND(name, version)                                                              \
  {                                                                                               \
    CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SUCCESS;                          \
    driver->name = reinterpret_cast<decltype(driver->name)>(find(get, #name, version, status));   \
    if (driver->name == nullptr && needed)                                                        \
      return too_old(std::string("it has no ") + #name + " of version " + version_text(version)); \
  }
  bool needed = true;
  // The names below are those before cuda.h's macros give them a version of their own.
  KVT_CUDA_NEEDED(KVT_CUDA_FIND)
  needed = false;
  KVT_CUDA_OPTIONAL(KVT_CUDA_FIND)
#undef KVT_CUDA_FIND
  const CUresult made = driver->cuInit(0);
  if (made == CUDA_ERROR_NO_DEVICE)
    return fail(Code::kNotFound, driver->path_ + ": no GPU that CUDA can use");
  KVT_TRY(driver->check(made, driver->path_ + ": cuInit"));
  KVT_TRY(driver->check(driver->cuDriverGetVersion(&driver->version_), "cuDriverGetVersion"));
  return std::shared_ptr<const Driver>(std::move(driver));
}

// The driver has threads of its own and no way to end them: the library stays.
Driver::~Driver() = default;

Result<void> Driver::check(CUresult result, const std::string& what) const {
  if (result == CUDA_SUCCESS) return {};
  const char* name = nullptr;
  const char* text = nullptr;
  if (cuGetErrorName(result, &name) != CUDA_SUCCESS || name == nullptr) name = "unknown error";
  if (cuGetErrorString(result, &text) != CUDA_SUCCESS || text == nullptr) text = "";
  return fail(
      result == CUDA_ERROR_OUT_OF_MEMORY ? Code::kFull : Code::kSystem,
      what + ": " + name + " (" + std::to_string(result) + (*text != '\0' ? std::string("), ") : ")") + text);
}

bool is_sticky(CUresult result) {
  switch (static_cast<int>(result)) {
    case CUDA_ERROR_DEINITIALIZED:
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
    case CUDA_ERROR_NO_DEVICE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_MPS_RPC_FAILURE:
    case CUDA_ERROR_EXTERNAL_DEVICE:
    case 226:  // CUDA_ERROR_CONTAINED, of later headers than 12.0, as the next two
    case 721:  // CUDA_ERROR_TENSOR_MEMORY_LEAK
    case 810:  // CUDA_ERROR_MPS_CLIENT_TERMINATED
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_UNKNOWN: return true;
    default: return false;
  }
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace kvt::cuda
