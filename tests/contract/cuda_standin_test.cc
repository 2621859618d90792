// SPDX-License-Identifier: Apache-2.0
//
// What only the stand-in driver does: settings, failures on demand, counts, kernels of the host. The rest of its
// promises are in cuda_driver_test.cc.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>

#include "tests/contract/cuda_fixture.h"

namespace kvt::cuda {
namespace {

using standin::StandIn;

uint64_t mix(uint64_t x) {
  uint64_t z = x + 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

void forget_environment() {
  for (const char* name : {"DEVICES", "BYTES", "VERSION", "CAPABILITY", "WITHOUT", "DELAY_US", "SEED", "FAIL",
                           "FAIL_ASYNC", "LOST_FILE", "LOST_DEVICE", "PEERS", "COUNTS_FILE"})
    ::unsetenv(("KVT_STANDIN_" + std::string(name)).c_str());
}

/// Sets variables (without KVT_STANDIN_) for the stand-in.
void set_environment(const StandIn& standin,
                     const std::vector<std::pair<std::string, std::string>>& variables) {
  for (const auto& [name, value] : variables) ::setenv(("KVT_STANDIN_" + name).c_str(), value.c_str(), 1);
  standin.reload();
}

class CudaStandinLoad : public testing::Test {
 protected:
  ~CudaStandinLoad() override {
    forget_environment();
    standin_.reload();
  }
  StandIn standin_{KVT_STANDIN_DRIVER};
};

TEST_F(CudaStandinLoad, ADriverCanBeTooOld) {
  set_environment(standin_, {{"VERSION", "11080"}});
  const auto loaded = Driver::load(KVT_STANDIN_DRIVER);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, Code::kMismatch);
  EXPECT_NE(loaded.error().text.find("12.0"), std::string::npos) << loaded.error().text;
  EXPECT_NE(loaded.error().text.find(KVT_STANDIN_DRIVER), std::string::npos) << loaded.error().text;
}

TEST_F(CudaStandinLoad, ADriverCanBeWithoutDevices) {
  set_environment(standin_, {{"DEVICES", "0"}});
  const auto loaded = Driver::load(KVT_STANDIN_DRIVER);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, Code::kNotFound);
}

TEST_F(CudaStandinLoad, ADriverMayNotInitialise) {
  set_environment(standin_, {{"FAIL", "cuInit:1=999"}});
  const auto loaded = Driver::load(KVT_STANDIN_DRIVER);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, Code::kSystem);
  EXPECT_NE(loaded.error().text.find("cuInit: CUDA_ERROR_UNKNOWN"), std::string::npos) << loaded.error().text;
  EXPECT_TRUE(Driver::load(KVT_STANDIN_DRIVER)) << "only the first call failed";
}

TEST_F(CudaStandinLoad, BatchesCameWithThirteen) {
#if CUDA_VERSION >= 13000
  EXPECT_NE((*Driver::load(KVT_STANDIN_DRIVER))->cuMemcpyBatchAsync, nullptr);
  set_environment(standin_, {{"WITHOUT", "batch"}});
  EXPECT_EQ((*Driver::load(KVT_STANDIN_DRIVER))->cuMemcpyBatchAsync, nullptr);
  set_environment(standin_, {{"WITHOUT", ""}, {"VERSION", "12080"}});
  const auto loaded = Driver::load(KVT_STANDIN_DRIVER);
  ASSERT_TRUE(loaded) << loaded.error().text;
  EXPECT_EQ((*loaded)->cuMemcpyBatchAsync, nullptr);
  EXPECT_EQ((*loaded)->version(), 12080);
#else
  GTEST_SKIP() << "these headers are older";
#endif
}

TEST_F(CudaStandinLoad, AProcessFindsItsEnvironment) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // the process of EXPECT_EXIT loads the library anew
  ::setenv("KVT_STANDIN_DEVICES", "5", 1);
  ::setenv("KVT_STANDIN_FAIL", "cuDeviceGetCount:2=2", 1);
  EXPECT_EXIT(
      {
        const auto driver = *Driver::load(KVT_STANDIN_DRIVER);
        int count = 0;
        if (driver->cuDeviceGetCount(&count) != CUDA_SUCCESS || count != 5) std::_Exit(1);
        std::_Exit(driver->cuDeviceGetCount(&count) == CUDA_ERROR_OUT_OF_MEMORY ? 0 : 2);
      },
      testing::ExitedWithCode(0), "");
}

TEST_F(CudaStandinLoad, NeedsNoThreadBeforeThereIsWork) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a fork could not use the driver
  EXPECT_EXIT(
      {
        const auto driver = *Driver::load(KVT_STANDIN_DRIVER);
        CUcontext context = nullptr;
        CUstream stream = nullptr;
        CUdeviceptr address = 0;
        driver->cuDevicePrimaryCtxRetain(&context, 0);
        driver->cuCtxSetCurrent(context);
        driver->cuStreamCreateWithPriority(&stream, 0, 0);
        driver->cuMemAlloc(&address, 64);
        driver->cuStreamSynchronize(stream);
        if (standin_.threads() != 0) std::_Exit(1);
        driver->cuMemsetD8Async(address, 0, 64, stream);
        std::_Exit(standin_.threads() == 1 ? 0 : 2);
      },
      testing::ExitedWithCode(0), "");
}

class CudaStandin : public CudaTest {
 protected:
  void SetUp() override {
    forget_environment();
    standin_.reload();
    driver_ = nullptr;
    auto loaded = Driver::load(KVT_STANDIN_DRIVER);
    ASSERT_TRUE(loaded) << loaded.error().text;
    driver_ = *loaded;
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    make_context();
  }
  void TearDown() override {
    forget_environment();
    standin_.reload();
    CudaTest::TearDown();
  }
  void set(const std::vector<std::pair<std::string, std::string>>& variables) {
    set_environment(standin_, variables);
  }
  CUfunction function(const char* name) {
    CUfunction found = nullptr;
    CUmodule module = nullptr;
    KVT_OK(driver_->cuModuleLoadData(&module, "anything"));
    KVT_OK(driver_->cuModuleGetFunction(&found, module, name));
    return found;
  }
  template <typename... Arguments>
  CUresult launch(const char* name, Arguments... arguments) {
    std::array<void*, sizeof...(Arguments)> pointers{&arguments...};
    return driver_->cuLaunchKernel(function(name), 4, 1, 1, 128, 1, 1, 0, stream_, pointers.data(), nullptr);
  }
  CUresult synchronize() { return driver_->cuStreamSynchronize(stream_); }
  void expect_new_context_is_well() {
    end_context();
    make_context();
    const CUdeviceptr hbm = allocate(8);
    write(hbm, {4});
    EXPECT_EQ(read(hbm, 1)[0], 4U);
  }

  StandIn standin_{KVT_STANDIN_DRIVER};
};

// ---- settings ----

TEST_F(CudaStandin, HasAsManyDevicesAsItIsTold) {
  set({{"DEVICES", "3"}, {"BYTES", "67108864"}, {"CAPABILITY", "8.6"}});
  int count = 0;
  KVT_OK(driver_->cuDeviceGetCount(&count));
  EXPECT_EQ(count, 3);
  size_t bytes = 0;
  KVT_OK(driver_->cuDeviceTotalMem(&bytes, 2));
  EXPECT_EQ(bytes, 67108864U);
  int minor = 0;
  KVT_OK(driver_->cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 2));
  EXPECT_EQ(minor, 6);
  CUuuid first{};
  CUuuid last{};
  KVT_OK(driver_->cuDeviceGetUuid(&first, 0));
  KVT_OK(driver_->cuDeviceGetUuid(&last, 2));
  EXPECT_NE(std::memcmp(first.bytes, last.bytes, sizeof first.bytes), 0);
  int can = 0;
  KVT_OK(driver_->cuDeviceCanAccessPeer(&can, 0, 2));
  EXPECT_EQ(can, 1);
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_DEVICE, driver_->cuDeviceTotalMem(&bytes, 3));
}

TEST_F(CudaStandin, AnotherDeviceNeedsAccessOfItsOwn) {
  set({{"DEVICES", "2"}});
  const size_t unit = granularity();
  const CUdeviceptr hbm = mapped(create(unit), unit);
  CUcontext second = nullptr;
  KVT_OK(driver_->cuDevicePrimaryCtxRetain(&second, 1));
  {
    const Current current(*driver_, second);
    CUdeviceptr other = 0;
    KVT_OK(driver_->cuMemAlloc(&other, 64));
    KVT_OK(driver_->cuMemcpyAsync(other, hbm, 64, nullptr));
    KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, driver_->cuCtxSynchronize());
  }
  KVT_OK(driver_->cuCtxSynchronize()) << "the first device's context is well";
  KVT_OK(driver_->cuDevicePrimaryCtxRelease(1));
  KVT_OK(driver_->cuDevicePrimaryCtxRetain(&second, 1));
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = 1;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
  KVT_OK(driver_->cuMemSetAccess(hbm, unit, &access, 1));
  {
    const Current current(*driver_, second);
    CUdeviceptr other = 0;
    KVT_OK(driver_->cuMemAlloc(&other, 64));
    KVT_OK(driver_->cuMemcpyAsync(other, hbm, 64, nullptr));
    KVT_OK(driver_->cuCtxSynchronize());
    KVT_OK(driver_->cuMemcpyAsync(hbm, other, 64, nullptr));
    KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, driver_->cuCtxSynchronize()) << "it may only read";
  }
  KVT_OK(driver_->cuDevicePrimaryCtxRelease(1));
}

TEST_F(CudaStandin, APeerIsWhatItIsTold) {
  set({{"DEVICES", "3"}, {"PEERS", "1:0,2:1"}});
  const auto can = [&](CUdevice device, CUdevice peer) {
    int answer = -1;
    KVT_OK(driver_->cuDeviceCanAccessPeer(&answer, device, peer));
    return answer;
  };
  EXPECT_EQ(can(1, 0), 1);
  EXPECT_EQ(can(0, 1), 0);
  EXPECT_EQ(can(2, 1), 1);
  EXPECT_EQ(can(2, 0), 0);
  const size_t unit = granularity();
  const CUdeviceptr hbm = mapped(create(unit), unit);
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  access.location.id = 1;
  KVT_OK(driver_->cuMemSetAccess(hbm, unit, &access, 1));
  access.location.id = 2;
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_DEVICE, driver_->cuMemSetAccess(hbm, unit, &access, 1));
  set({{"PEERS", "none"}});
  EXPECT_EQ(can(1, 0), 0);
}

TEST_F(CudaStandin, OneDeviceOfSeveralCanBeLost) {
  const auto file = std::filesystem::temp_directory_path() / ("kvt_lost_one_" + std::to_string(::getpid()));
  set({{"DEVICES", "2"}, {"LOST_FILE", file.string()}, {"LOST_DEVICE", "1"}});
  CUcontext second = nullptr;
  KVT_OK(driver_->cuDevicePrimaryCtxRetain(&second, 1));
  CUdeviceptr there = 0;
  {
    const Current current(*driver_, second);
    KVT_OK(driver_->cuMemAlloc(&there, 64));
  }
  const CUdeviceptr hbm = allocate(64);
  KVT_OK(driver_->cuMemcpyAsync(hbm, there, 64, stream_));
  KVT_OK(synchronize());
  std::ofstream(file) << "";
  {
    const Current current(*driver_, second);
    KVT_EXPECT_CUDA(CUDA_ERROR_UNKNOWN, driver_->cuCtxSynchronize());
  }
  KVT_OK(synchronize()) << "the other one is well";
  KVT_OK(driver_->cuMemcpyAsync(hbm, there, 64, stream_));
  KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, synchronize()) << "until it reads there";
  std::filesystem::remove(file);
  KVT_OK(driver_->cuDevicePrimaryCtxRelease(1));
  set({{"LOST_FILE", ""}, {"LOST_DEVICE", ""}});
  expect_new_context_is_well();
}

TEST_F(CudaStandin, LacksWhatItIsToldToLack) {
  const auto attribute = [&](CUdevice_attribute which) {
    int value = -1;
    KVT_OK(driver_->cuDeviceGetAttribute(&value, which, 0));
    return value;
  };
  const CUdevice_attribute attributes[] = {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                                           CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
                                           CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS,
                                           CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED,
                                           CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM};
  for (const CUdevice_attribute each : attributes) EXPECT_EQ(attribute(each), 1) << each;
  auto* word = host(1);
  set({{"WITHOUT", "vmm,posix-handles,stream-write-64,read-only-register,host-pointer"}});
  for (const CUdevice_attribute each : attributes) EXPECT_EQ(attribute(each), 0) << each;
  CUmemGenericAllocationHandle handle = 0;
  const CUmemAllocationProp of = properties();
  KVT_EXPECT_CUDA(CUDA_ERROR_NOT_SUPPORTED, driver_->cuMemCreate(&handle, size_t{2} << 20, &of, 0));
  KVT_EXPECT_CUDA(CUDA_ERROR_NOT_SUPPORTED, driver_->cuStreamWriteValue64(stream_, at(word), 1, 0));
  set({{"WITHOUT", "posix-handles"}});
  KVT_OK(driver_->cuMemCreate(&handle, size_t{2} << 20, &of, 0));
  const CUmemAllocationProp exportable = properties(true);
  KVT_EXPECT_CUDA(CUDA_ERROR_NOT_SUPPORTED, driver_->cuMemCreate(&handle, size_t{2} << 20, &exportable, 0));
}

TEST_F(CudaStandin, RegisteredMemoryCanBeElsewhereForTheDevice) {
  set({{"WITHOUT", "host-pointer"}});
  alignas(8) std::array<uint64_t, 8> memory{};
  KVT_OK(driver_->cuMemHostRegister(memory.data(), sizeof memory, 0));
  CUdeviceptr address = 0;
  KVT_OK(driver_->cuMemHostGetDevicePointer(&address, &memory[1], 0));
  EXPECT_NE(address, at(&memory[1]));
  KVT_OK(launch("kvt_fill", address, uint64_t{2}, uint64_t{5}));
  KVT_OK(synchronize());
  EXPECT_EQ(memory[2], mix(6));
  const CUdeviceptr hbm = allocate(8);
  KVT_OK(driver_->cuMemcpyAsync(hbm, at(&memory[1]), 8, stream_)) << "copies know the host's address";
  EXPECT_EQ(read(hbm, 1)[0], mix(5));
  KVT_OK(driver_->cuMemHostUnregister(memory.data()));
}

TEST_F(CudaStandin, DelaysKeepTheOrder) {
  set({{"DELAY_US", "300"}, {"SEED", "7"}});
  const CUdeviceptr hbm = allocate(8);
  auto* flag = host(1);
  for (uint64_t round = 1; round <= 20; ++round) {
    KVT_OK(driver_->cuMemsetD8Async(hbm, static_cast<unsigned char>(round), 8, stream_));
    KVT_OK(driver_->cuMemcpyAsync(at(flag), hbm, 8, stream_));
    KVT_OK(synchronize());
    ASSERT_EQ(*flag, round * 0x0101010101010101U);
  }
}

// ---- failures on demand ----

TEST_F(CudaStandin, FailsTheNthCall) {
  EXPECT_FALSE(standin_.fail("cuNothing", 1, 1));
  ASSERT_TRUE(standin_.fail("cuMemAlloc", 2, CUDA_ERROR_OUT_OF_MEMORY));
  CUdeviceptr address = 0;
  KVT_OK(driver_->cuMemAlloc(&address, 64));
  KVT_EXPECT_CUDA(CUDA_ERROR_OUT_OF_MEMORY, driver_->cuMemAlloc(&address, 64));
  KVT_OK(driver_->cuMemAlloc(&address, 64));
  set({{"FAIL", "cuMemAlloc:1=2,cuMemFree:2=1"}});
  KVT_EXPECT_CUDA(CUDA_ERROR_OUT_OF_MEMORY, driver_->cuMemAlloc(&address, 64));
  KVT_OK(driver_->cuMemFree(address));
}

TEST_F(CudaStandin, AFailedCallDoesNothing) {
  const CUdeviceptr hbm = allocate(8);
  write(hbm, {1});
  ASSERT_TRUE(standin_.fail("cuMemsetD8Async", 1, CUDA_ERROR_INVALID_VALUE));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemsetD8Async(hbm, 9, 8, stream_));
  EXPECT_EQ(read(hbm, 1)[0], 1U);
}

TEST_F(CudaStandin, FailsTheNthOperationThatRuns) {
  EXPECT_FALSE(standin_.fail_async("nothing", 1, 1));
  ASSERT_TRUE(standin_.fail_async("copy", 2, CUDA_ERROR_ILLEGAL_ADDRESS));
  const CUdeviceptr hbm = allocate(8);
  auto* words = host(4);
  words[0] = 1;
  words[1] = 2;
  Gate gate;
  const CUevent done = event();
  KVT_OK(driver_->cuLaunchHostFunc(stream_, Gate::hold, &gate));
  KVT_OK(driver_->cuMemcpyAsync(hbm, at(&words[0]), 8, stream_));
  KVT_OK(driver_->cuMemcpyAsync(at(&words[2]), hbm, 8, stream_)) << "it is made to fail when it runs";
  KVT_OK(driver_->cuStreamWriteValue64(stream_, at(&words[3]), 1, 0));
  KVT_OK(driver_->cuEventRecord(done, stream_));
  gate.open();
  KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, synchronize());
  EXPECT_EQ(words[2], 0U);
  EXPECT_EQ(words[3], 0U) << "what comes after it does not run";
  CUdeviceptr address = 0;
  size_t free_bytes = 0;
  size_t total = 0;
  KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, driver_->cuEventQuery(done));
  KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, driver_->cuMemAlloc(&address, 64));
  KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, driver_->cuMemGetInfo(&free_bytes, &total));
  CUcontext current = nullptr;
  KVT_OK(driver_->cuCtxGetCurrent(&current)) << "the thread's contexts are no work of the device";
  expect_new_context_is_well();
}

TEST_F(CudaStandin, EachKindOfWorkCanFail) {
  for (const std::string kind : {"copy", "kernel", "write", "memset", "host"}) {
    ASSERT_TRUE(standin_.fail_async(kind, 1, CUDA_ERROR_LAUNCH_FAILED));
    auto* words = host(2);
    CUresult queued = CUDA_SUCCESS;
    if (kind == "copy") queued = driver_->cuMemcpyAsync(at(words), at(words + 1), 8, stream_);
    if (kind == "kernel") queued = launch("kvt_fill", at(words), uint64_t{1}, uint64_t{0});
    if (kind == "write") queued = driver_->cuStreamWriteValue64(stream_, at(words), 1, 0);
    if (kind == "memset") queued = driver_->cuMemsetD8Async(at(words), 1, 8, stream_);
    if (kind == "host")
      queued = driver_->cuLaunchHostFunc(
          stream_, [](void*) { FAIL(); }, nullptr);
    KVT_OK(queued) << kind;
    KVT_EXPECT_CUDA(CUDA_ERROR_LAUNCH_FAILED, synchronize()) << kind;
    EXPECT_EQ(words[0], 0U) << kind;
    end_context();
    make_context();
  }
}

TEST_F(CudaStandin, WhenAnErrorIsKnownNothingRunsAnyMore) {
  constexpr size_t kBytes = size_t{32} << 20;
  const CUstream other = another_stream();
  const CUdeviceptr hbm = allocate(kBytes);
  void* const memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  KVT_OK(driver_->cuMemHostRegister(memory, kBytes, 0));
  ASSERT_TRUE(standin_.fail_async("memset", 1, CUDA_ERROR_LAUNCH_FAILED));
  for (int i = 0; i < 4; ++i) KVT_OK(driver_->cuMemcpyAsync(at(memory), hbm, kBytes, other));
  KVT_OK(driver_->cuMemsetD8Async(hbm, 0, 8, stream_));
  CUresult found = CUDA_SUCCESS;
  while (found == CUDA_SUCCESS || found == CUDA_ERROR_NOT_READY) found = driver_->cuStreamQuery(stream_);
  KVT_EXPECT_CUDA(CUDA_ERROR_LAUNCH_FAILED, found);
  ::munmap(memory, kBytes);  // a copy that went on would fault
  expect_new_context_is_well();
}

TEST_F(CudaStandin, ADeviceCanBeLost) {
  const auto file = std::filesystem::temp_directory_path() / ("kvt_lost_" + std::to_string(::getpid()));
  set({{"LOST_FILE", file.string()}});
  const CUdeviceptr hbm = allocate(8);
  write(hbm, {1});
  Gate gate;
  KVT_OK(driver_->cuLaunchHostFunc(stream_, Gate::hold, &gate));
  auto* flag = host(1);
  KVT_OK(driver_->cuStreamWriteValue64(stream_, at(flag), 1, 0));
  std::ofstream(file) << "";
  CUdevice device = 0;
  KVT_EXPECT_CUDA(CUDA_ERROR_UNKNOWN, driver_->cuDeviceGet(&device, 0));
  KVT_EXPECT_CUDA(CUDA_ERROR_UNKNOWN, synchronize());
  std::filesystem::remove(file);
  KVT_EXPECT_CUDA(CUDA_ERROR_UNKNOWN, driver_->cuStreamQuery(stream_)) << "and stays so";
  KVT_EXPECT_CUDA(CUDA_ERROR_UNKNOWN, driver_->cuInit(0));
  EXPECT_FALSE(Driver::load(KVT_STANDIN_DRIVER));
  gate.open();
  const char* name = nullptr;
  KVT_OK(driver_->cuGetErrorName(CUDA_ERROR_UNKNOWN, &name));
  EXPECT_STREQ(name, "CUDA_ERROR_UNKNOWN");
  set({{"LOST_FILE", ""}});
  KVT_EXPECT_CUDA(CUDA_ERROR_UNKNOWN, synchronize()) << "the context does not come back";
  EXPECT_EQ(*flag, 0U);
  expect_new_context_is_well();
}

// ---- counts ----

TEST_F(CudaStandin, CountsCallsAndBytes) {
  const uint64_t calls = standin_.count("cuMemcpyAsync");
  const auto bytes = [&] {
    return std::array<uint64_t, 4>{
        standin_.bytes(KVT_STANDIN_HOST_TO_DEVICE), standin_.bytes(KVT_STANDIN_DEVICE_TO_HOST),
        standin_.bytes(KVT_STANDIN_DEVICE_TO_DEVICE), standin_.bytes(KVT_STANDIN_HOST_TO_HOST)};
  };
  const auto before = bytes();
  const CUdeviceptr hbm = allocate(4096);
  auto* pinned = host(512);
  KVT_OK(driver_->cuMemcpyAsync(hbm, at(pinned), 4096, stream_));
  KVT_OK(driver_->cuMemcpyAsync(hbm + 8, hbm, 16, stream_));
  KVT_OK(driver_->cuMemcpyAsync(at(pinned), hbm, 24, stream_));
  KVT_OK(driver_->cuMemcpyAsync(at(pinned), at(pinned + 1), 8, stream_));
  KVT_OK(synchronize());
  const auto after = bytes();
  EXPECT_EQ(standin_.count("cuMemcpyAsync") - calls, 4U);
  EXPECT_EQ(after[0] - before[0], 4096U);
  EXPECT_EQ(after[1] - before[1], 24U);
  EXPECT_EQ(after[2] - before[2], 16U);
  EXPECT_EQ(after[3] - before[3], 8U);
  EXPECT_EQ(standin_.count("cuNothing"), 0U);
}

TEST_F(CudaStandin, CountsBytesBetweenDevicesAndForOtherProcesses) {
  const auto file = std::filesystem::temp_directory_path() / ("kvt_counts_" + std::to_string(::getpid()));
  set({{"DEVICES", "2"}, {"COUNTS_FILE", file.string()}});
  CUcontext second = nullptr;
  KVT_OK(driver_->cuDevicePrimaryCtxRetain(&second, 1));
  CUdeviceptr there = 0;
  {
    const Current current(*driver_, second);
    KVT_OK(driver_->cuMemAlloc(&there, 64));
  }
  const CUdeviceptr hbm = allocate(64);
  KVT_OK(driver_->cuMemcpyAsync(hbm, there, 48, stream_));
  KVT_OK(driver_->cuMemcpyAsync(hbm, at(host(8)), 16, stream_));
  KVT_OK(synchronize());
  KVT_OK(driver_->cuDevicePrimaryCtxRelease(1));
  std::array<uint64_t, KVT_STANDIN_DIRECTIONS> counts{};
  std::ifstream(file, std::ios::binary).read(reinterpret_cast<char*>(counts.data()), sizeof counts);
  EXPECT_EQ(counts, (std::array<uint64_t, KVT_STANDIN_DIRECTIONS>{16, 0, 0, 0, 48}));
  std::filesystem::remove(file);
}

// ---- handles that are no more ----

TEST_F(CudaStandin, KnowsItsHandles) {
  const CUstream other = another_stream();
  const CUevent done = event();
  KVT_OK(driver_->cuStreamDestroy(other));
  KVT_OK(driver_->cuEventDestroy(done));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_HANDLE, driver_->cuStreamQuery(other));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_HANDLE, driver_->cuStreamDestroy(other));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_HANDLE, driver_->cuEventQuery(done));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_HANDLE, driver_->cuEventDestroy(done));
  const CUcontext old = context_;
  const CUstream stream = stream_;
  end_context();
  KVT_EXPECT_CUDA(CUDA_ERROR_CONTEXT_IS_DESTROYED, driver_->cuCtxPushCurrent(old));
  make_context();
  EXPECT_NE(context_, old);
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_HANDLE, driver_->cuStreamQuery(stream))
      << "streams end with their context";
}

TEST_F(CudaStandin, MemoryThatIsUnmappedWhileItsCopyWaitsIsNotThere) {
  const size_t unit = granularity();
  const CUdeviceptr hbm = mapped(create(unit), unit);
  auto* words = host(1);
  Gate gate;
  KVT_OK(driver_->cuLaunchHostFunc(stream_, Gate::hold, &gate));
  KVT_OK(driver_->cuMemcpyAsync(hbm, at(words), 8, stream_));
  KVT_OK(driver_->cuMemUnmap(hbm, unit));
  gate.open();
  KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, synchronize());
  expect_new_context_is_well();
}

// ---- kernels ----

TEST_F(CudaStandin, KernelsAreFoundByName) {
  CUmodule module = nullptr;
  CUfunction found = nullptr;
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuModuleLoadData(&module, nullptr));
  KVT_OK(driver_->cuModuleLoadData(&module, "anything"));
  KVT_EXPECT_CUDA(CUDA_ERROR_NOT_FOUND, driver_->cuModuleGetFunction(&found, module, "kvt_nothing"));
  KVT_OK(driver_->cuModuleGetFunction(&found, module, "kvt_fill"));
  KVT_OK(driver_->cuFuncSetAttribute(found, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 100 << 10));
  KVT_EXPECT_CUDA(
      CUDA_ERROR_INVALID_VALUE,
      driver_->cuFuncSetAttribute(found, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1 << 20));
  void* none = nullptr;
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE,
                  driver_->cuLaunchKernel(found, 0, 1, 1, 32, 1, 1, 0, stream_, &none, nullptr));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE,
                  driver_->cuLaunchKernel(found, 1, 1, 1, 2048, 1, 1, 0, stream_, &none, nullptr));
  KVT_OK(driver_->cuModuleUnload(module));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_HANDLE,
                  driver_->cuLaunchKernel(found, 1, 1, 1, 32, 1, 1, 0, stream_, &none, nullptr));
}

TEST_F(CudaStandin, FillsAndCounts) {
  constexpr uint64_t kWords = 10000;
  const CUdeviceptr hbm = allocate(kWords * 8);
  auto* wrong = host(1);
  *wrong = 100;
  KVT_OK(launch("kvt_fill", hbm, kWords, uint64_t{3}));
  KVT_OK(launch("kvt_count_wrong", hbm, kWords, uint64_t{3}, at(wrong)));
  KVT_OK(synchronize());
  EXPECT_EQ(*wrong, 100U);
  EXPECT_EQ(read(hbm + 7 * 8, 1)[0], mix(10));
  KVT_OK(driver_->cuMemsetD8Async(hbm + 8, 0, 24, stream_));
  KVT_OK(launch("kvt_count_wrong", hbm, kWords, uint64_t{3}, at(wrong)));
  KVT_OK(synchronize());
  EXPECT_EQ(*wrong, 103U);
}

TEST_F(CudaStandin, AppliesChangesAndTranslates) {
  const CUdeviceptr map = allocate(16 * 4);
  KVT_OK(driver_->cuMemsetD32Async(map, 7, 16, stream_));
  auto* changes = host<uint32_t>(6);
  const uint32_t list[] = {3, 30, 5, 50, 3, 33};
  std::copy(std::begin(list), std::end(list), changes);
  auto* pages = host<int32_t>(5);
  auto* frames = host<int32_t>(5);
  const int32_t asked[] = {3, -1, 5, 0, 16};
  std::copy(std::begin(asked), std::end(asked), pages);
  KVT_OK(launch("kvt_map_apply", map, at(changes), uint32_t{3}));
  KVT_OK(launch("kvt_translate", map, at(pages), at(frames), uint32_t{5}, uint32_t{16}));
  KVT_OK(launch("kvt_map_apply", map, CUdeviceptr{0}, uint32_t{0})) << "nothing to look at";
  KVT_OK(synchronize());
  EXPECT_EQ(std::vector<int32_t>(frames, frames + 5), (std::vector<int32_t>{33, 0, 50, 7, 0}));
}

TEST_F(CudaStandin, CopiesPages) {
  const CUdeviceptr hbm = allocate(2 * 4096);
  auto* pinned = host(1024);
  for (uint64_t i = 0; i < 1024; ++i) pinned[i] = i;
  auto* pairs = host(4);
  const uint64_t list[] = {at(pinned), hbm + 4096, at(pinned + 512), hbm};
  std::copy(std::begin(list), std::end(list), pairs);
  const uint64_t before = standin_.bytes(KVT_STANDIN_HOST_TO_DEVICE);
  KVT_OK(launch("kvt_copy_pages", at(pairs), uint32_t{2}, uint64_t{4096}));
  KVT_OK(synchronize());
  EXPECT_EQ(standin_.bytes(KVT_STANDIN_HOST_TO_DEVICE) - before, 2U * 4096);
  EXPECT_EQ(read(hbm, 2), (std::vector<uint64_t>{512, 513}));
  EXPECT_EQ(read(hbm + 4096, 2), (std::vector<uint64_t>{0, 1}));
}

TEST_F(CudaStandin, ArgumentsAreCopiedAtTheLaunch) {
  const CUdeviceptr hbm = allocate(64);
  CUdeviceptr data = hbm;
  uint64_t words = 8;
  uint64_t seed = 1;
  std::array<void*, 3> arguments{&data, &words, &seed};
  KVT_OK(driver_->cuStreamBeginCapture(stream_, CU_STREAM_CAPTURE_MODE_RELAXED));
  KVT_OK(driver_->cuLaunchKernel(function("kvt_fill"), 1, 1, 1, 32, 1, 1, 0, stream_, arguments.data(),
                                 nullptr));
  CUgraph graph = nullptr;
  CUgraphExec executable = nullptr;
  KVT_OK(driver_->cuStreamEndCapture(stream_, &graph));
  KVT_OK(driver_->cuGraphInstantiateWithFlags(&executable, graph, 0));
  data = words = seed = 0;
  for (int round = 0; round < 2; ++round) {
    KVT_OK(driver_->cuMemsetD8Async(hbm, 0, 64, stream_));
    KVT_OK(driver_->cuGraphLaunch(executable, stream_));
    EXPECT_EQ(read(hbm + 8, 1)[0], mix(2));
  }
}

TEST_F(CudaStandin, KernelsSeeOnlyWhatTheDeviceSees) {
  std::vector<uint64_t> pageable(8);
  KVT_OK(launch("kvt_fill", at(pageable.data()), uint64_t{8}, uint64_t{0}));
  KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, synchronize());
  EXPECT_EQ(pageable[0], 0U);
  expect_new_context_is_well();

  const CUdeviceptr hbm = allocate(64);
  KVT_OK(launch("kvt_fill", hbm, uint64_t{9}, uint64_t{0}));
  KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, synchronize()) << "past the end";
  expect_new_context_is_well();

  const CUdeviceptr aligned = allocate(64);
  KVT_OK(launch("kvt_fill", aligned + 4, uint64_t{1}, uint64_t{0}));
  KVT_EXPECT_CUDA(CUDA_ERROR_MISALIGNED_ADDRESS, synchronize());
  expect_new_context_is_well();

  void* const page = ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  KVT_OK(driver_->cuMemHostRegister(page, 4096, CU_MEMHOSTREGISTER_READ_ONLY));
  KVT_OK(launch("kvt_fill", at(page), uint64_t{1}, uint64_t{0}));
  KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, synchronize()) << "it may only be read";
  expect_new_context_is_well();
  ::munmap(page, 4096);
}

// ---- many at once, and the end ----

TEST_F(CudaStandin, ThreadsShareIt) {
  set({{"DELAY_US", "20"}});
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread)
    threads.emplace_back([&, thread] {
      const Current current(*driver_, context_);
      const CUstream stream = another_stream();
      const CUdeviceptr hbm = allocate(4096);
      auto* words = host(512);
      const CUevent done = event();
      for (uint64_t round = 0; round < 30; ++round) {
        for (uint64_t i = 0; i < 512; ++i) words[i] = thread * 1000 + round + i;
        KVT_OK(driver_->cuMemcpyAsync(hbm, at(words), 4096, stream));
        KVT_OK(driver_->cuEventRecord(done, stream));
        KVT_OK(driver_->cuEventSynchronize(done));
        for (uint64_t i = 0; i < 512; ++i) words[i] = 0;
        KVT_OK(driver_->cuMemcpyAsync(at(words), hbm, 4096, stream));
        KVT_OK(driver_->cuStreamSynchronize(stream));
        ASSERT_EQ(words[511], thread * 1000 + round + 511);
      }
      KVT_OK(driver_->cuStreamDestroy(stream));
      KVT_OK(driver_->cuMemFree(hbm));
    });
  for (std::thread& thread : threads) thread.join();
}

TEST_F(CudaStandin, AProcessCanEndWithWorkInFlight) {
  const auto end = [&] {
    set({{"DELAY_US", "2000"}});
    for (int i = 0; i < 8; ++i) {
      const CUdeviceptr hbm = allocate(1 << 20);
      auto* words = host(1 << 17);
      const CUstream stream = another_stream();
      for (int j = 0; j < 50; ++j) (void)driver_->cuMemcpyAsync(hbm, at(words), 1 << 20, stream);
    }
    std::exit(0);  // NOLINT(concurrency-mt-unsafe): the threads at exit are what is tested
  };
  EXPECT_EXIT(end(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace kvt::cuda
