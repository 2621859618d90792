// SPDX-License-Identifier: Apache-2.0
//
// What kvtier relies on of a CUDA driver: the same tests for the stand-in and for a real one (cuda_fixture.h).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <fstream>
#include <numeric>
#include <thread>

#include "tests/contract/cuda_fixture.h"

namespace kvt::cuda {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

std::vector<uint64_t> words_from(uint64_t first, size_t count) {
  std::vector<uint64_t> words(count);
  std::iota(words.begin(), words.end(), first);
  return words;
}

// ---- loading ----

TEST(CudaLoad, SaysWhichLibraryIsMissing) {
  const auto loaded = Driver::load("/nowhere/libcuda.so.1");
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, Code::kNotFound);
  EXPECT_NE(loaded.error().text.find("/nowhere/libcuda.so.1"), std::string::npos) << loaded.error().text;
}

TEST(CudaLoad, RefusesALibraryThatIsNoDriver) {
  const auto loaded = Driver::load("libm.so.6");
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, Code::kMismatch);
  EXPECT_NE(loaded.error().text.find("libm.so.6"), std::string::npos) << loaded.error().text;
  EXPECT_NE(loaded.error().text.find("12.0"), std::string::npos) << loaded.error().text;
}

TEST(CudaLoad, TakesADriver) {
  const auto loaded = Driver::load(driver_path());
  ASSERT_TRUE(loaded) << loaded.error().text;
  EXPECT_GE((*loaded)->version(), kOldestDriver);
  EXPECT_EQ((*loaded)->path(), driver_path());
  EXPECT_TRUE(Driver::load(driver_path())) << "a second time";
}

TEST(CudaLoad, VersionsAreWritten) {
  EXPECT_EQ(version_text(12000), "12.0");
  EXPECT_EQ(version_text(12080), "12.8");
  EXPECT_EQ(version_text(13000), "13.0");
}

class CudaDriver : public CudaTest {};

TEST_F(CudaDriver, ErrorsHaveNamesAndKinds) {
  EXPECT_TRUE(driver_->check(CUDA_SUCCESS, "x"));
  const auto full = driver_->check(CUDA_ERROR_OUT_OF_MEMORY, "cuMemCreate of 2 MiB");
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, Code::kFull);
  EXPECT_NE(full.error().text.find("cuMemCreate of 2 MiB: CUDA_ERROR_OUT_OF_MEMORY (2)"), std::string::npos)
      << full.error().text;
  const auto unknown = driver_->check(static_cast<CUresult>(998), "x");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, Code::kSystem);
  EXPECT_NE(unknown.error().text.find("998"), std::string::npos) << unknown.error().text;
  EXPECT_TRUE(is_sticky(CUDA_ERROR_ILLEGAL_ADDRESS));
  EXPECT_FALSE(is_sticky(CUDA_ERROR_OUT_OF_MEMORY));
  EXPECT_FALSE(is_sticky(CUDA_ERROR_NOT_READY));
}

// ---- devices and contexts ----

TEST_F(CudaDriver, DevicesTellWhatTheyAre) {
  int count = 0;
  KVT_OK(driver_->cuDeviceGetCount(&count));
  EXPECT_GE(count, 1);
  std::array<char, 64> text{};
  KVT_OK(driver_->cuDeviceGetName(text.data(), text.size(), device_));
  EXPECT_STRNE(text.data(), "");
  KVT_OK(driver_->cuDeviceGetPCIBusId(text.data(), text.size(), device_));
  EXPECT_EQ(std::string(text.data()).size(), 12U) << text.data();
  size_t bytes = 0;
  KVT_OK(driver_->cuDeviceTotalMem(&bytes, device_));
  EXPECT_GT(bytes, 64 * kMiB);
  int major = 0;
  KVT_OK(driver_->cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device_));
  EXPECT_GE(major, 7);
  CUuuid uuid{};
  CUuuid again{};
  KVT_OK(driver_->cuDeviceGetUuid(&uuid, device_));
  KVT_OK(driver_->cuDeviceGetUuid(&again, device_));
  EXPECT_EQ(std::memcmp(uuid.bytes, again.bytes, sizeof uuid.bytes), 0);
  CUdevice none = 0;
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_DEVICE, driver_->cuDeviceGet(&none, count));
  int can = -1;
  KVT_OK(driver_->cuDeviceCanAccessPeer(&can, device_, device_));
  EXPECT_EQ(can, 0);
}

TEST_F(CudaDriver, NothingGoesWithoutAContext) {
  KVT_OK(driver_->cuCtxSetCurrent(nullptr));
  CUdeviceptr address = 0;
  CUdevice device = 0;
  void* host = nullptr;
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_CONTEXT, driver_->cuMemAlloc(&address, 64));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_CONTEXT, driver_->cuMemHostAlloc(&host, 64, 0));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_CONTEXT, driver_->cuCtxSynchronize());
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_CONTEXT, driver_->cuCtxGetDevice(&device));
  // Contexts are a thread's.
  KVT_OK(driver_->cuCtxSetCurrent(context_));
  std::thread([&] {
    KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_CONTEXT, driver_->cuCtxSynchronize());
    const Current current(*driver_, context_);
    KVT_OK(driver_->cuCtxSynchronize());
  }).join();
}

TEST_F(CudaDriver, ContextsAreAStack) {
  CUcontext found = nullptr;
  KVT_OK(driver_->cuCtxGetCurrent(&found));
  EXPECT_EQ(found, context_);
  KVT_OK(driver_->cuCtxSetCurrent(nullptr));
  KVT_OK(driver_->cuCtxGetCurrent(&found));
  EXPECT_EQ(found, nullptr);
  {
    const Current current(*driver_, context_);
    KVT_OK(driver_->cuCtxGetCurrent(&found));
    EXPECT_EQ(found, context_);
    CUdevice device = -1;
    KVT_OK(driver_->cuCtxGetDevice(&device));
    EXPECT_EQ(device, device_);
  }
  KVT_OK(driver_->cuCtxGetCurrent(&found));
  EXPECT_EQ(found, nullptr);
  CUcontext popped = nullptr;
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_CONTEXT, driver_->cuCtxPopCurrent(&popped));
  KVT_OK(driver_->cuCtxSetCurrent(context_));
}

TEST_F(CudaDriver, ThePrimaryContextIsCounted) {
  CUcontext again = nullptr;
  KVT_OK(driver_->cuDevicePrimaryCtxRetain(&again, device_));
  EXPECT_EQ(again, context_);
  KVT_OK(driver_->cuDevicePrimaryCtxRelease(device_));
  KVT_OK(driver_->cuCtxSynchronize());
  CUcontext of_stream = nullptr;
  KVT_OK(driver_->cuStreamGetCtx(stream_, &of_stream));
  EXPECT_EQ(of_stream, context_);
  int least = 1;
  int greatest = 1;
  KVT_OK(driver_->cuCtxGetStreamPriorityRange(&least, &greatest));
  EXPECT_LE(greatest, least);
}

TEST_F(CudaDriver, AForkCannotUseIt) {
  const pid_t child = ::fork();
  if (child == 0) {
    int count = 0;
    ::_exit(driver_->cuDeviceGetCount(&count) == CUDA_SUCCESS && driver_->cuCtxSynchronize() == CUDA_SUCCESS
                ? 1
                : 0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// ---- copies ----

TEST_F(CudaDriver, CopiesThereAndBack) {
  const CUdeviceptr hbm = allocate(kMiB);
  const auto words = words_from(7, kMiB / 8);
  write(hbm, words);
  EXPECT_EQ(read(hbm, words.size()), words);
  const CUdeviceptr other = allocate(kMiB);
  KVT_OK(driver_->cuMemcpyAsync(other, hbm, kMiB, stream_));
  EXPECT_EQ(read(other + 4096, 512), words_from(7 + 512, 512));
  KVT_OK(driver_->cuMemcpyAsync(other, hbm, 0, stream_));
  KVT_OK(driver_->cuMemFree(hbm));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemFree(hbm));
}

TEST_F(CudaDriver, PageableSourcesAreReadDuringTheCall) {
  const CUdeviceptr hbm = allocate(4096);
  Gate gate;
  std::vector<uint64_t> source = words_from(1, 512);
  KVT_OK(driver_->cuLaunchHostFunc(stream_, Gate::hold, &gate));
  KVT_OK(driver_->cuMemcpyAsync(hbm, at(source.data()), 4096, stream_));
  source.assign(512, 0);
  gate.open();
  KVT_OK(driver_->cuStreamSynchronize(stream_));
  EXPECT_EQ(read(hbm, 512), words_from(1, 512));
}

TEST_F(CudaDriver, PageableTargetsAreWrittenDuringTheCall) {
  const CUdeviceptr hbm = allocate(4096);
  write(hbm, words_from(1, 512));
  std::vector<uint64_t> target(512);
  KVT_OK(driver_->cuMemcpyAsync(at(target.data()), hbm, 4096, stream_));
  EXPECT_EQ(target, words_from(1, 512));
}

TEST_F(CudaDriver, PinnedSourcesAreReadWhenTheCopyRuns) {
  const CUdeviceptr hbm = allocate(64);
  auto* source = host(8);
  source[0] = 1;
  Gate gate;
  KVT_OK(driver_->cuLaunchHostFunc(stream_, Gate::hold, &gate));
  KVT_OK(driver_->cuMemcpyAsync(hbm, at(source), 64, stream_));
  source[0] = 2;
  gate.open();
  KVT_OK(driver_->cuStreamSynchronize(stream_));
  EXPECT_EQ(read(hbm, 1)[0], 2U);
}

TEST_F(CudaDriver, CopiesOfTwoDimensionsTakePitches) {
  const CUdeviceptr hbm = allocate(64 * 16);
  KVT_OK(driver_->cuMemsetD8Async(hbm, 0, 64 * 16, stream_));
  const auto words = words_from(1, 16);  // 4 rows of 32 bytes
  CUDA_MEMCPY2D what{};
  what.srcMemoryType = CU_MEMORYTYPE_HOST;
  what.srcHost = words.data();
  what.srcPitch = 32;
  what.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  what.dstDevice = hbm;
  what.dstPitch = 64;
  what.dstXInBytes = 8;
  what.dstY = 1;
  what.WidthInBytes = 16;
  what.Height = 4;
  KVT_OK(driver_->cuMemcpy2DAsync(&what, stream_));
  const auto found = read(hbm, 5 * 8);
  for (size_t row = 0; row < 5; ++row)
    for (size_t column = 0; column < 8; ++column) {
      const uint64_t expected =
          row >= 1 && (column == 1 || column == 2) ? 1 + 4 * (row - 1) + (column - 1) : uint64_t{0};
      EXPECT_EQ(found[row * 8 + column], expected) << row << " " << column;
    }
  what.dstPitch = 16;
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemcpy2DAsync(&what, stream_));
}

TEST_F(CudaDriver, FillsBytesAndWords) {
  const CUdeviceptr hbm = allocate(64);
  KVT_OK(driver_->cuMemsetD8Async(hbm, 0xab, 64, stream_));
  KVT_OK(driver_->cuMemsetD32Async(hbm + 8, 0x01020304, 2, stream_));
  EXPECT_EQ(read(hbm, 3),
            (std::vector<uint64_t>{0xababababababababULL, 0x0102030401020304ULL, 0xababababababababULL}));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemsetD32Async(hbm + 1, 0, 1, stream_));
}

#if CUDA_VERSION >= 13000
TEST_F(CudaDriver, ABatchIsOneOperation) {
  if (driver_->cuMemcpyBatchAsync == nullptr) GTEST_SKIP() << "a driver before 13.0 has no batches";
  constexpr size_t kCount = 64;
  const CUdeviceptr hbm = allocate(kCount * 4096);
  auto* source = host(kCount * 512);
  for (size_t i = 0; i < kCount * 512; ++i) source[i] = i;
  std::vector<CUdeviceptr> targets;
  std::vector<CUdeviceptr> sources;
  std::vector<size_t> sizes(kCount, 4096);
  for (size_t i = 0; i < kCount; ++i) {
    targets.push_back(hbm + (kCount - 1 - i) * 4096);
    sources.push_back(at(source) + i * 4096);
  }
  CUmemcpyAttributes attributes{};
  attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  size_t begin = 0;
  KVT_OK(driver_->cuMemcpyBatchAsync(targets.data(), sources.data(), sizes.data(), kCount, &attributes,
                                     &begin, 1, stream_));
  const auto found = read(hbm, kCount * 512);
  for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(found[i * 512 + 5], (kCount - 1 - i) * 512 + 5) << i;
  const auto batch = [&](size_t count, CUstream stream) {
    return driver_->cuMemcpyBatchAsync(targets.data(), sources.data(), sizes.data(), count, &attributes,
                                       &begin, 1, stream);
  };
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, batch(0, stream_));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, batch(1, nullptr)) << "the null stream takes none";
  begin = 1;
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, batch(2, stream_)) << "a copy without attributes";
}
#endif

// ---- streams and events ----

TEST_F(CudaDriver, WorkIsAsynchronous) {
  Gate gate;
  const CUevent done = event();
  KVT_OK(driver_->cuEventQuery(done)) << "never recorded";
  KVT_OK(driver_->cuLaunchHostFunc(stream_, Gate::hold, &gate));
  KVT_OK(driver_->cuEventRecord(done, stream_));
  KVT_EXPECT_CUDA(CUDA_ERROR_NOT_READY, driver_->cuStreamQuery(stream_));
  KVT_EXPECT_CUDA(CUDA_ERROR_NOT_READY, driver_->cuEventQuery(done));
  gate.open();
  KVT_OK(driver_->cuEventSynchronize(done));
  KVT_OK(driver_->cuEventQuery(done));
  KVT_OK(driver_->cuStreamSynchronize(stream_));
  KVT_OK(driver_->cuStreamQuery(stream_));
  KVT_OK(driver_->cuEventDestroy(done));
}

TEST_F(CudaDriver, StreamsOverlap) {
  const CUstream other = another_stream();
  const CUdeviceptr hbm = allocate(8);
  Gate gate;
  KVT_OK(driver_->cuLaunchHostFunc(stream_, Gate::hold, &gate));
  gate.wait_until_reached();
  KVT_OK(driver_->cuMemsetD8Async(hbm, 1, 8, other));
  KVT_OK(driver_->cuStreamSynchronize(other));
  KVT_EXPECT_CUDA(CUDA_ERROR_NOT_READY, driver_->cuStreamQuery(stream_));
  gate.open();
  KVT_OK(driver_->cuCtxSynchronize());
  KVT_OK(driver_->cuStreamQuery(stream_));
  KVT_OK(driver_->cuStreamDestroy(other));
}

TEST_F(CudaDriver, AStreamWaitsForAnEventOfAnother) {
  const CUstream other = another_stream();
  const CUdeviceptr hbm = allocate(8);
  const CUevent first = event();
  Gate gate;
  KVT_OK(driver_->cuStreamWaitEvent(other, first, 0)) << "never recorded: nothing to wait for";
  KVT_OK(driver_->cuLaunchHostFunc(stream_, Gate::hold, &gate));
  KVT_OK(driver_->cuMemsetD8Async(hbm, 1, 8, stream_));
  KVT_OK(driver_->cuEventRecord(first, stream_));
  KVT_OK(driver_->cuStreamWaitEvent(other, first, 0));
  KVT_OK(driver_->cuMemsetD8Async(hbm, 2, 8, other));
  KVT_EXPECT_CUDA(CUDA_ERROR_NOT_READY, driver_->cuStreamQuery(other));
  gate.open();
  KVT_OK(driver_->cuStreamSynchronize(other));
  EXPECT_EQ(read(hbm, 1)[0], 0x0202020202020202U);
}

TEST_F(CudaDriver, AWaitIsForTheRecordThatWasMadeBefore) {
  const CUstream other = another_stream();
  const CUstream third = another_stream();
  const CUevent twice = event();
  Gate gate;
  KVT_OK(driver_->cuEventRecord(twice, third));
  KVT_OK(driver_->cuStreamWaitEvent(other, twice, 0));
  KVT_OK(driver_->cuLaunchHostFunc(stream_, Gate::hold, &gate));
  KVT_OK(driver_->cuEventRecord(twice, stream_));
  KVT_OK(driver_->cuStreamSynchronize(other)) << "not for the record that came later";
  KVT_EXPECT_CUDA(CUDA_ERROR_NOT_READY, driver_->cuEventQuery(twice));
  gate.open();
  KVT_OK(driver_->cuEventSynchronize(twice));
}

TEST_F(CudaDriver, EventsMeasureTime) {
  const CUevent begin = event(CU_EVENT_DEFAULT);
  const CUevent end = event(CU_EVENT_DEFAULT);
  const CUevent untimed = event(CU_EVENT_DISABLE_TIMING);
  float milliseconds = -1;
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_HANDLE, driver_->cuEventElapsedTime(&milliseconds, begin, end))
      << "not recorded";
  Gate gate;
  KVT_OK(driver_->cuEventRecord(begin, stream_));
  KVT_OK(driver_->cuLaunchHostFunc(stream_, Gate::hold, &gate));
  KVT_OK(driver_->cuEventRecord(end, stream_));
  KVT_OK(driver_->cuEventRecord(untimed, stream_));
  KVT_EXPECT_CUDA(CUDA_ERROR_NOT_READY, driver_->cuEventElapsedTime(&milliseconds, begin, end));
  gate.open();
  KVT_OK(driver_->cuStreamSynchronize(stream_));
  KVT_OK(driver_->cuEventElapsedTime(&milliseconds, begin, end));
  EXPECT_GE(milliseconds, 0);
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_HANDLE, driver_->cuEventElapsedTime(&milliseconds, begin, untimed));
}

TEST_F(CudaDriver, AStreamThatIsDestroyedFinishesItsWork) {
  const CUstream other = another_stream();
  const CUdeviceptr hbm = allocate(8);
  const CUevent done = event();
  Gate gate;
  KVT_OK(driver_->cuMemsetD8Async(hbm, 1, 8, stream_));
  KVT_OK(driver_->cuStreamSynchronize(stream_));
  KVT_OK(driver_->cuLaunchHostFunc(other, Gate::hold, &gate));
  KVT_OK(driver_->cuMemsetD8Async(hbm, 2, 8, other));
  KVT_OK(driver_->cuEventRecord(done, other));
  KVT_OK(driver_->cuStreamDestroy(other));
  KVT_EXPECT_CUDA(CUDA_ERROR_NOT_READY, driver_->cuEventQuery(done));
  gate.open();
  KVT_OK(driver_->cuEventSynchronize(done));
  EXPECT_EQ(read(hbm, 1)[0], 0x0202020202020202U);
}

TEST_F(CudaDriver, AHostFunctionMayNotCallTheDriver) {
  struct Asked {
    const Driver* driver;
    CUresult result;
  } asked{driver_.get(), CUDA_SUCCESS};
  KVT_OK(driver_->cuLaunchHostFunc(
      stream_,
      [](void* data) {
        auto& self = *static_cast<Asked*>(data);
        CUdeviceptr address = 0;
        self.result = self.driver->cuMemAlloc(&address, 64);
      },
      &asked));
  KVT_OK(driver_->cuStreamSynchronize(stream_));
  KVT_EXPECT_CUDA(CUDA_ERROR_NOT_PERMITTED, asked.result);
}

TEST_F(CudaDriver, AWrittenValueComesAfterTheWorkBeforeIt) {
  const CUdeviceptr hbm = allocate(kMiB);
  write(hbm, words_from(3, kMiB / 8));
  auto* target = host(kMiB / 8);
  auto* flag = host(1);
  std::atomic_ref<uint64_t>(*flag).store(0, std::memory_order_relaxed);
  for (uint64_t round = 1; round <= 8; ++round) {
    KVT_OK(driver_->cuMemsetD8Async(at(target), 0, kMiB, stream_));
    KVT_OK(driver_->cuMemcpyAsync(at(target), hbm, kMiB, stream_));
    KVT_OK(driver_->cuStreamWriteValue64(stream_, at(flag), round, CU_STREAM_WRITE_VALUE_DEFAULT));
    while (std::atomic_ref<uint64_t>(*flag).load(std::memory_order_acquire) != round)
      std::this_thread::yield();
    ASSERT_EQ(target[kMiB / 8 - 1], 3 + kMiB / 8 - 1);
  }
  std::vector<uint64_t> pageable(2);
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuStreamWriteValue64(stream_, at(flag) + 4, 1, 0));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE,
                  driver_->cuStreamWriteValue64(stream_, at(pageable.data()), 1, 0));
  KVT_OK(driver_->cuStreamWriteValue64(stream_, hbm, 99, 0));
  EXPECT_EQ(read(hbm, 1)[0], 99U);
}

// ---- virtual memory ----

TEST_F(CudaDriver, HandlesHaveAGranularity) {
  const size_t unit = granularity();
  EXPECT_EQ(unit % 4096, 0U);
  CUmemGenericAllocationHandle handle = 0;
  CUmemAllocationProp of = properties();
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemCreate(&handle, unit + 4096, &of, 0));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemCreate(&handle, 0, &of, 0));
  of.location.id = 4711;
  EXPECT_NE(driver_->cuMemCreate(&handle, unit, &of, 0), CUDA_SUCCESS);
  KVT_OK(driver_->cuMemRelease(create(unit)));
}

TEST_F(CudaDriver, AHintIsTakenWhereTheRangeIsFree) {
  const size_t bytes = 4 * granularity();
  const CUdeviceptr first = reserve(bytes);
  KVT_OK(driver_->cuMemAddressFree(first, bytes));
  CUdeviceptr again = 0;
  KVT_OK(driver_->cuMemAddressReserve(&again, bytes, 0, first, 0));
  EXPECT_EQ(again, first);
  CUdeviceptr elsewhere = 0;
  KVT_OK(driver_->cuMemAddressReserve(&elsewhere, bytes, 0, first, 0));
  EXPECT_NE(elsewhere, first);
  EXPECT_NE(elsewhere, 0U);
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemAddressFree(first, bytes / 2));
  KVT_OK(driver_->cuMemAddressFree(first, bytes));
  KVT_OK(driver_->cuMemAddressFree(elsewhere, bytes));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemAddressReserve(&again, 12345, 0, 0, 0));
}

TEST_F(CudaDriver, MapsOnlyWhatFits) {
  const size_t unit = granularity();
  const CUdeviceptr range = reserve(4 * unit);
  const CUmemGenericAllocationHandle handle = create(2 * unit);
  // The driver of an H200 says NOT_SUPPORTED to the first, and takes the second: it reserves more than it says.
  EXPECT_NE(driver_->cuMemMap(range, 3 * unit, 0, handle, 0), CUDA_SUCCESS) << "more than it has";
  if (standin::StandIn::is_one(driver_path()))
    KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemMap(range + 3 * unit, 2 * unit, 0, handle, 0))
        << "past the range";
  KVT_OK(driver_->cuMemMap(range, 2 * unit, 0, handle, 0));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemMap(range + unit, 2 * unit, 0, handle, 0))
      << "mapped already";
  KVT_OK(driver_->cuMemMap(range + 2 * unit, 2 * unit, 0, handle, 0)) << "the same memory in two places";
  KVT_OK(allow(range, 4 * unit));
  write(range, {5});
  EXPECT_EQ(read(range + 2 * unit, 1)[0], 5U);
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemUnmap(range, unit)) << "half of a mapping";
  KVT_OK(driver_->cuMemUnmap(range, 2 * unit));
  if (standin::StandIn::is_one(driver_path()))  // the driver of an H200 does not mind
    KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemUnmap(range, 2 * unit)) << "twice";
  KVT_OK(driver_->cuMemUnmap(range + 2 * unit, 2 * unit));
  KVT_OK(driver_->cuMemAddressFree(range, 4 * unit));
  KVT_OK(driver_->cuMemRelease(handle));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemRelease(handle));
}

TEST_F(CudaDriver, NothingIsMappedOutsideOfARange) {
  const size_t unit = granularity();
  const CUdeviceptr range = reserve(unit);
  KVT_OK(driver_->cuMemAddressFree(range, unit));
  const CUmemGenericAllocationHandle handle = create(unit);
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemMap(range, unit, 0, handle, 0));
  KVT_OK(driver_->cuMemRelease(handle));
}

TEST_F(CudaDriver, MappingsSideBySideAreOneMemory) {
  const size_t unit = granularity();
  const CUdeviceptr range = reserve(2 * unit);
  for (size_t i = 0; i < 2; ++i) {
    const CUmemGenericAllocationHandle handle = create(unit);
    KVT_OK(driver_->cuMemMap(range + i * unit, unit, 0, handle, 0));
    KVT_OK(driver_->cuMemRelease(handle)) << "the mapping keeps it";
  }
  KVT_OK(allow(range, 2 * unit));
  const auto words = words_from(9, 2 * unit / 8);
  write(range, words);
  EXPECT_EQ(read(range, words.size()), words);
  KVT_OK(driver_->cuMemUnmap(range, 2 * unit)) << "both at once";
  KVT_OK(driver_->cuMemAddressFree(range, 2 * unit));
}

TEST_F(CudaDriver, MemoryMovesWithItsHandle) {
  const size_t unit = granularity();
  const CUmemGenericAllocationHandle handle = create(unit);
  const CUdeviceptr here = mapped(handle, unit);
  write(here, words_from(1, 16));
  KVT_OK(driver_->cuMemUnmap(here, unit));
  const CUdeviceptr there = mapped(handle, unit);
  EXPECT_EQ(read(there, 16), words_from(1, 16));
}

TEST_F(CudaDriver, MemoryIsCounted) {
  const size_t unit = granularity();
  size_t before = 0;
  size_t now = 0;
  size_t total = 0;
  KVT_OK(driver_->cuMemGetInfo(&before, &total));
  EXPECT_LE(before, total);
  const CUmemGenericAllocationHandle handle = create(8 * unit);
  KVT_OK(driver_->cuMemGetInfo(&now, &total));
  EXPECT_EQ(now, before - 8 * unit);
  const CUdeviceptr range = mapped(handle, 8 * unit);
  KVT_OK(driver_->cuMemRelease(handle));
  KVT_OK(driver_->cuMemGetInfo(&now, &total));
  EXPECT_EQ(now, before - 8 * unit) << "still mapped";
  KVT_OK(driver_->cuMemUnmap(range, 8 * unit));
  KVT_OK(driver_->cuMemGetInfo(&now, &total));
  EXPECT_EQ(now, before);
  CUmemGenericAllocationHandle none = 0;
  const CUmemAllocationProp of = properties();
  KVT_EXPECT_CUDA(CUDA_ERROR_OUT_OF_MEMORY, driver_->cuMemCreate(&none, (total / unit + 1) * unit, &of, 0));
  CUdeviceptr address = 0;
  KVT_EXPECT_CUDA(CUDA_ERROR_OUT_OF_MEMORY, driver_->cuMemAlloc(&address, total + unit));
}

TEST_F(CudaDriver, AccessIsAskedFor) {
  const size_t unit = granularity();
  const CUdeviceptr range = reserve(unit);
  const CUmemGenericAllocationHandle handle = create(unit);
  EXPECT_NE(allow(range, unit), CUDA_SUCCESS) << "nothing is mapped";
  KVT_OK(driver_->cuMemMap(range, unit, 0, handle, 0));
  const uint64_t word = 1;
  // The copy may be refused at once or fail when it runs.
  CUresult result = driver_->cuMemcpyAsync(range, at(&word), 8, stream_);
  if (result == CUDA_SUCCESS) {
    result = driver_->cuStreamSynchronize(stream_);
    KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, result);
    KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_ADDRESS, driver_->cuCtxSynchronize()) << "and for good";
  }
  EXPECT_NE(result, CUDA_SUCCESS);
  end_context();
  make_context();
  const CUdeviceptr hbm = allocate(8);
  write(hbm, {4});
  EXPECT_EQ(read(hbm, 1)[0], 4U) << "a new context is well";
}

TEST_F(CudaDriver, TheCpuFaultsOnDeviceMemory) {
  const size_t unit = granularity();
  const CUdeviceptr hbm = mapped(create(unit), unit);
  const CUdeviceptr allocated = allocate(4096);
  EXPECT_DEATH({ *reinterpret_cast<volatile char*>(hbm) = 1; }, "");
  EXPECT_DEATH({ (void)*reinterpret_cast<volatile char*>(allocated); }, "");
}

// ---- memory of other processes ----

TEST_F(CudaDriver, AnExportedHandleIsTheSameMemory) {
  const size_t unit = granularity();
  const CUmemGenericAllocationHandle handle = create(unit, true);
  write(mapped(handle, unit), words_from(5, 8));
  int fd = -1;
  KVT_ASSERT_OK(
      driver_->cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  size_t before = 0;
  size_t after = 0;
  size_t total = 0;
  KVT_OK(driver_->cuMemGetInfo(&before, &total));
  CUmemGenericAllocationHandle imported = 0;
  KVT_OK(driver_->cuMemImportFromShareableHandle(&imported,
                                                 reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                                 CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  ::close(fd);
  KVT_OK(driver_->cuMemGetInfo(&after, &total));
  EXPECT_EQ(after, before) << "counted once";
  EXPECT_EQ(read(mapped(imported, unit), 8), words_from(5, 8));
}

/// Host memory in a handle is mapped and shared like the device's own, where the driver says that it can.
TEST_F(CudaDriver, HostMemoryComesInHandlesToo) {
  int supported = 0;
  KVT_OK(driver_->cuDeviceGetAttribute(
      &supported, CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device_));
  CUmemAllocationProp of = properties(true);
  of.location.type = CU_MEM_LOCATION_TYPE_HOST_NUMA;
  of.location.id = 0;
  CUmemGenericAllocationHandle handle = 0;
  if (supported == 0) {
    EXPECT_NE(driver_->cuMemCreate(&handle, granularity(), &of, 0), CUDA_SUCCESS);
    return;
  }
  size_t unit = 0;
  KVT_ASSERT_OK(driver_->cuMemGetAllocationGranularity(&unit, &of, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
  size_t before = 0;
  size_t after = 0;
  size_t total = 0;
  KVT_OK(driver_->cuMemGetInfo(&before, &total));
  KVT_ASSERT_OK(driver_->cuMemCreate(&handle, 16 * unit, &of, 0));
  KVT_OK(driver_->cuMemGetInfo(&after, &total));
  EXPECT_LT(before - after, 16 * unit) << "none of the device's";
  const CUdeviceptr own = mapped(handle, 16 * unit);
  write(own, words_from(7, 8));
  int fd = -1;
  KVT_ASSERT_OK(
      driver_->cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  CUmemGenericAllocationHandle imported = 0;
  KVT_ASSERT_OK(driver_->cuMemImportFromShareableHandle(&imported,
                                                        reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                                        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  ::close(fd);
  const CUdeviceptr other = mapped(imported, 16 * unit);
  EXPECT_EQ(read(other, 8), words_from(7, 8));
  const CUdeviceptr hbm = allocate(unit);
  KVT_OK(driver_->cuMemcpyAsync(hbm, other, unit, stream_));
  KVT_OK(driver_->cuStreamSynchronize(stream_));
  EXPECT_EQ(read(hbm, 8), words_from(7, 8));
}

TEST_F(CudaDriver, OnlyWhatWasMadeForItIsExported) {
  int fd = -1;
  EXPECT_NE(driver_->cuMemExportToShareableHandle(&fd, create(granularity()),
                                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
            CUDA_SUCCESS);
  CUmemGenericAllocationHandle handle = 0;
  for (const int wrong :
       {::open("/dev/null", O_RDWR | O_CLOEXEC), ::memfd_create("other", MFD_CLOEXEC), 4711}) {
    // INVALID_VALUE of the stand-in, UNKNOWN of an H200's driver
    EXPECT_NE(driver_->cuMemImportFromShareableHandle(&handle,
                                                      reinterpret_cast<void*>(static_cast<intptr_t>(wrong)),
                                                      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
              CUDA_SUCCESS)
        << wrong;
    if (wrong != 4711) ::close(wrong);
  }
}

TEST_F(CudaDriver, AnotherProcessUsesAnExportedHandle) {
  // The process of EXPECT_EXIT comes here too, with the descriptor and its number.
  constexpr const char* kVariable = "KVT_CUDA_TEST_FD";
  const size_t unit = granularity();
  CUdeviceptr hbm = 0;
  if (std::getenv(kVariable) == nullptr) {
    const CUmemGenericAllocationHandle handle = create(unit, true);
    hbm = mapped(handle, unit);
    write(hbm, words_from(5, 8));
    int exported = -1;
    KVT_ASSERT_OK(driver_->cuMemExportToShareableHandle(&exported, handle,
                                                        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    const int inherited = ::dup(exported);  // without close-on-exec, which the driver may set
    ::close(exported);
    ::setenv(kVariable, std::to_string(inherited).c_str(), 1);
  }
  const auto inherited_fd = [&] {
    const char* text = std::getenv(kVariable);
    return text == nullptr ? -1 : std::stoi(text);
  };
  const auto use = [&] {
    CUmemGenericAllocationHandle imported = 0;
    const auto fd = static_cast<intptr_t>(inherited_fd());
    if (driver_->cuMemImportFromShareableHandle(&imported, reinterpret_cast<void*>(fd),
                                                CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != CUDA_SUCCESS)
      return 2;
    const CUdeviceptr there = mapped(imported, unit);
    if (read(there, 8) != words_from(5, 8)) return 3;
    write(there, words_from(50, 8));
    return 0;
  };
  EXPECT_EXIT(std::_Exit(use()), testing::ExitedWithCode(0), "");
  ::close(inherited_fd());
  ::unsetenv(kVariable);
  EXPECT_EQ(read(hbm, 8), words_from(50, 8));
}

// ---- memory of the host ----

class Pages {
 public:
  explicit Pages(size_t count, int protection = PROT_READ | PROT_WRITE) : bytes_(count * 4096) {
    begin_ = static_cast<char*>(::mmap(nullptr, bytes_, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  }
  ~Pages() { ::munmap(begin_, bytes_); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  [[nodiscard]] char* page(size_t index) const { return begin_ + index * 4096; }

 private:
  size_t bytes_;
  char* begin_;
};

TEST_F(CudaDriver, RegistersMemoryOnce) {
  const Pages pages(4);
  KVT_OK(driver_->cuMemHostRegister(pages.page(0), size_t{2} * 4096, 0));
  KVT_EXPECT_CUDA(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
                  driver_->cuMemHostRegister(pages.page(1), size_t{2} * 4096, 0));
  KVT_EXPECT_CUDA(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
                  driver_->cuMemHostRegister(pages.page(0), 4096, 0));
  KVT_OK(driver_->cuMemHostRegister(pages.page(2), size_t{2} * 4096, 0)) << "the neighbour";
  EXPECT_NE(driver_->cuMemHostUnregister(pages.page(1)), CUDA_SUCCESS) << "not where it begins";
  KVT_OK(driver_->cuMemHostUnregister(pages.page(0)));
  KVT_EXPECT_CUDA(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, driver_->cuMemHostUnregister(pages.page(0)));
  KVT_OK(driver_->cuMemHostUnregister(pages.page(2)));
}

TEST_F(CudaDriver, RegistersOnlyWhatIsThere) {
  char* gone = nullptr;
  {
    const Pages pages(1);
    gone = pages.page(0);
  }
  EXPECT_NE(driver_->cuMemHostRegister(gone, 4096, 0), CUDA_SUCCESS);
  const Pages pages(1);
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemHostRegister(pages.page(0), 0, 0));
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE, driver_->cuMemHostRegister(pages.page(0), 4096, 0x8000));
}

TEST_F(CudaDriver, ReadOnlyMemoryNeedsItsFlag) {
  const Pages pages(1, PROT_READ);
  EXPECT_NE(driver_->cuMemHostRegister(pages.page(0), 4096, 0), CUDA_SUCCESS);
  int supported = 0;
  KVT_OK(driver_->cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED,
                                       device_));
  const CUresult result = driver_->cuMemHostRegister(pages.page(0), 4096, CU_MEMHOSTREGISTER_READ_ONLY);
  if (supported == 0) {
    KVT_EXPECT_CUDA(CUDA_ERROR_NOT_SUPPORTED, result);
    return;
  }
  KVT_OK(result);
  const CUdeviceptr hbm = allocate(4096);
  write(hbm, {1, 2});
  KVT_OK(driver_->cuMemcpyAsync(hbm, at(pages.page(0)), 4096, stream_));
  EXPECT_EQ(read(hbm, 2), (std::vector<uint64_t>{0, 0}));
  KVT_OK(driver_->cuMemHostUnregister(pages.page(0)));
}

TEST_F(CudaDriver, RegisteredMemoryHasAnAddressForTheDevice) {
  const Pages pages(2);
  CUdeviceptr address = 0;
  EXPECT_NE(driver_->cuMemHostGetDevicePointer(&address, pages.page(0), 0), CUDA_SUCCESS);
  KVT_OK(driver_->cuMemHostRegister(pages.page(0) + 64, 4096, CU_MEMHOSTREGISTER_DEVICEMAP))
      << "any alignment";
  KVT_OK(driver_->cuMemHostGetDevicePointer(&address, pages.page(0) + 128, 0));
  int same = 0;
  KVT_OK(driver_->cuDeviceGetAttribute(&same, CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM,
                                       device_));
  if (same != 0) EXPECT_EQ(address, at(pages.page(0) + 128));
  KVT_OK(driver_->cuStreamWriteValue64(stream_, address, 77, 0));
  KVT_OK(driver_->cuStreamSynchronize(stream_));
  uint64_t word = 0;
  std::memcpy(&word, pages.page(0) + 128, 8);
  EXPECT_EQ(word, 77U);
  KVT_OK(driver_->cuMemHostUnregister(pages.page(0) + 64));
}

TEST_F(CudaDriver, HostMemoryInAReservedRangeIsReachedWhereItIs) {
  int same = 0;
  KVT_OK(driver_->cuDeviceGetAttribute(&same, CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM,
                                       device_));
  if (same == 0) GTEST_SKIP() << "the device sees registered memory elsewhere";
  const size_t unit = granularity();
  const CUdeviceptr range = reserve(2 * unit);
  KVT_OK(driver_->cuMemMap(range, unit, 0, create(unit), 0));
  KVT_OK(allow(range, unit));
  void* const wanted = reinterpret_cast<void*>(range + unit);
  auto* const words = static_cast<uint64_t*>(
      ::mmap(wanted, unit, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
  ASSERT_EQ(words, wanted);
  KVT_OK(driver_->cuMemHostRegister(words, unit, CU_MEMHOSTREGISTER_DEVICEMAP));
  write(range, words_from(5, 8));
  KVT_OK(driver_->cuMemcpyAsync(at(words), range, 64, stream_));
  KVT_OK(driver_->cuStreamWriteValue64(stream_, at(words + 8), 77, 0));
  KVT_OK(driver_->cuStreamSynchronize(stream_));
  EXPECT_EQ(std::vector<uint64_t>(words, words + 8), words_from(5, 8));
  EXPECT_EQ(words[8], 77U);
  KVT_OK(driver_->cuMemHostUnregister(words));
}

TEST_F(CudaDriver, ACopyStaysWithinARegistration) {
  const Pages pages(2);
  KVT_OK(driver_->cuMemHostRegister(pages.page(0), 4096, 0));
  const CUdeviceptr hbm = allocate(size_t{2} * 4096);
  KVT_EXPECT_CUDA(CUDA_ERROR_INVALID_VALUE,
                  driver_->cuMemcpyAsync(hbm, at(pages.page(0)), size_t{2} * 4096, stream_));
  KVT_OK(driver_->cuMemHostUnregister(pages.page(0)));
  KVT_OK(driver_->cuMemcpyAsync(hbm, at(pages.page(0)), size_t{2} * 4096, stream_));
  KVT_OK(driver_->cuStreamSynchronize(stream_));
}

// ---- capture ----

class CudaCapture : public CudaTest {
 protected:
  void begin(CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) {
    KVT_ASSERT_OK(driver_->cuStreamBeginCapture(stream_, mode));
  }
  CUstreamCaptureStatus status(CUstream stream) {
    CUstreamCaptureStatus found = CU_STREAM_CAPTURE_STATUS_NONE;
    KVT_OK(driver_->cuStreamIsCapturing(stream, &found));
    return found;
  }
  void expect_invalid() {
    EXPECT_EQ(status(stream_), CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    CUgraph graph = nullptr;
    KVT_EXPECT_CUDA(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, driver_->cuStreamEndCapture(stream_, &graph));
    EXPECT_EQ(graph, nullptr);
    EXPECT_EQ(status(stream_), CU_STREAM_CAPTURE_STATUS_NONE);
    KVT_OK(driver_->cuStreamSynchronize(stream_));
  }
};

TEST_F(CudaCapture, AGraphReplaysItsWork) {
  const CUdeviceptr hbm = allocate(64);
  auto* source = host(8);
  auto* target = host(8);
  auto* flag = host(1);
  begin();
  EXPECT_EQ(status(stream_), CU_STREAM_CAPTURE_STATUS_ACTIVE);
  KVT_OK(driver_->cuMemcpyAsync(hbm, at(source), 64, stream_));
  KVT_OK(driver_->cuMemsetD8Async(hbm + 8, 0xff, 8, stream_));
  KVT_OK(driver_->cuMemcpyAsync(at(target), hbm, 64, stream_));
  KVT_OK(driver_->cuStreamWriteValue64(stream_, at(flag), 42, 0));
  CUgraph graph = nullptr;
  KVT_ASSERT_OK(driver_->cuStreamEndCapture(stream_, &graph));
  EXPECT_EQ(status(stream_), CU_STREAM_CAPTURE_STATUS_NONE);
  CUgraphExec executable = nullptr;
  KVT_ASSERT_OK(driver_->cuGraphInstantiateWithFlags(&executable, graph, 0));
  KVT_OK(driver_->cuGraphDestroy(graph));
  for (uint64_t round = 1; round <= 3; ++round) {
    source[0] = source[1] = round;
    target[0] = target[1] = flag[0] = 0;
    KVT_OK(driver_->cuGraphLaunch(executable, stream_));
    KVT_OK(driver_->cuStreamSynchronize(stream_));
    EXPECT_EQ(target[0], round);
    EXPECT_EQ(target[1], ~uint64_t{0});
    EXPECT_EQ(flag[0], 42U);
  }
  KVT_OK(driver_->cuGraphExecDestroy(executable));
}

TEST_F(CudaCapture, AskingAStreamEndsItsCapture) {
  begin();
  KVT_EXPECT_CUDA(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, driver_->cuStreamSynchronize(stream_));
  expect_invalid();
  begin();
  KVT_EXPECT_CUDA(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, driver_->cuStreamQuery(stream_));
  expect_invalid();
  begin();
  KVT_EXPECT_CUDA(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, driver_->cuCtxSynchronize());
  expect_invalid();
}

TEST_F(CudaCapture, AllocationIsUnsafeUnlessRelaxed) {
  CUdeviceptr address = 0;
  begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
  std::thread([&] {
    const Current current(*driver_, context_);
    KVT_EXPECT_CUDA(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, driver_->cuMemAlloc(&address, 64));
  }).join();
  expect_invalid();
  begin(CU_STREAM_CAPTURE_MODE_RELAXED);
  KVT_OK(driver_->cuMemAlloc(&address, 64));
  CUgraph graph = nullptr;
  KVT_OK(driver_->cuStreamEndCapture(stream_, &graph));
  KVT_OK(driver_->cuGraphDestroy(graph));
}

TEST_F(CudaCapture, EventsAreNotAskedWhileAnyoneCaptures) {
  const CUevent outside = event();
  begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
  std::thread([&] {
    const Current current(*driver_, context_);
    KVT_EXPECT_CUDA(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, driver_->cuEventQuery(outside));
  }).join();
  expect_invalid();
}

#if CUDA_VERSION >= 13000
TEST_F(CudaCapture, TakesNoBatches) {
  if (driver_->cuMemcpyBatchAsync == nullptr) GTEST_SKIP() << "a driver before 13.0 has no batches";
  CUdeviceptr target = allocate(64);
  auto source = at(host(8));
  size_t bytes = 64;
  size_t first = 0;
  CUmemcpyAttributes attributes{};
  attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  begin();
  EXPECT_NE(driver_->cuMemcpyBatchAsync(&target, &source, &bytes, 1, &attributes, &first, 1, stream_),
            CUDA_SUCCESS);
  CUgraph graph = nullptr;
  (void)driver_->cuStreamEndCapture(stream_, &graph);
}
#endif

TEST_F(CudaCapture, IsBegunAndEndedOnce) {
  CUgraph graph = nullptr;
  KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_STATE, driver_->cuStreamEndCapture(stream_, &graph));
  KVT_EXPECT_CUDA(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                  driver_->cuStreamBeginCapture(nullptr, CU_STREAM_CAPTURE_MODE_RELAXED));
  begin();
  KVT_EXPECT_CUDA(CUDA_ERROR_ILLEGAL_STATE,
                  driver_->cuStreamBeginCapture(stream_, CU_STREAM_CAPTURE_MODE_RELAXED));
  KVT_OK(driver_->cuStreamEndCapture(stream_, &graph));
  KVT_OK(driver_->cuGraphDestroy(graph));
}

TEST_F(CudaCapture, OtherStreamsJoinThroughEvents) {
  const CUstream other = another_stream();
  const CUevent fork = event();
  const CUevent join = event();
  const CUdeviceptr hbm = allocate(16);
  CUgraph graph = nullptr;
  begin();
  KVT_OK(driver_->cuMemsetD8Async(hbm, 1, 16, stream_));
  KVT_OK(driver_->cuEventRecord(fork, stream_));
  KVT_OK(driver_->cuStreamWaitEvent(other, fork, 0));
  EXPECT_EQ(status(other), CU_STREAM_CAPTURE_STATUS_ACTIVE);
  KVT_OK(driver_->cuMemsetD8Async(hbm + 8, 2, 8, other));
  KVT_OK(driver_->cuEventRecord(join, other));
  KVT_OK(driver_->cuStreamWaitEvent(stream_, join, 0));
  KVT_ASSERT_OK(driver_->cuStreamEndCapture(stream_, &graph));
  EXPECT_EQ(status(other), CU_STREAM_CAPTURE_STATUS_NONE);
  CUgraphExec executable = nullptr;
  KVT_OK(driver_->cuGraphInstantiateWithFlags(&executable, graph, 0));
  KVT_OK(driver_->cuGraphLaunch(executable, stream_));
  EXPECT_EQ(read(hbm, 2), (std::vector<uint64_t>{0x0101010101010101, 0x0202020202020202}));

  begin();
  KVT_OK(driver_->cuEventRecord(fork, stream_));
  KVT_OK(driver_->cuStreamWaitEvent(other, fork, 0));
  KVT_OK(driver_->cuMemsetD8Async(hbm + 8, 2, 8, other));
  KVT_EXPECT_CUDA(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, driver_->cuStreamEndCapture(stream_, &graph));
}

TEST_F(CudaCapture, DoesNotWaitForWorkOutsideOfIt) {
  const CUstream other = another_stream();
  const CUevent outside = event();
  KVT_OK(driver_->cuEventRecord(outside, other));
  begin();
  KVT_EXPECT_CUDA(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, driver_->cuStreamWaitEvent(stream_, outside, 0));
  expect_invalid();
}

}  // namespace
}  // namespace kvt::cuda
