// SPDX-License-Identifier: Apache-2.0
//
// Device memory behind descriptors, registered host memory, and what is left when a call of the driver fails. Over the
// stand-in driver.
#include "shm/cuda/gpu.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <string>
#include <vector>

#include "tests/support/cuda/standin.h"

namespace kvt::cuda {
namespace {

constexpr uint64_t kUnit = 2u << 20;

class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    auto driver = Driver::load(KVT_STANDIN_DRIVER);
    ASSERT_TRUE(driver) << driver.error().text;
    driver_ = *driver;
    auto gpu = Gpu::open(driver_, 0);
    ASSERT_TRUE(gpu) << gpu.error().text;
    gpu_ = *gpu;
  }
  AddressRange reserve(uint64_t bytes) {
    auto range = reserve_addresses(gpu_, bytes, kUnit);
    EXPECT_TRUE(range) << range.error().text;
    return std::move(*range);
  }
  uint64_t free_bytes() { return *gpu_->free_bytes(); }
  static std::vector<Fd> copies_of(const std::vector<Fd>& fds) {
    std::vector<Fd> copies;
    for (const Fd& fd : fds) copies.emplace_back(::dup(fd.get()));
    return copies;
  }

  standin::StandIn standin_{KVT_STANDIN_DRIVER};
  std::shared_ptr<const Driver> driver_;
  std::shared_ptr<Gpu> gpu_;
};

TEST_F(GpuTest, UuidsAreWrittenAsNvidiaSmiDoes) {
  Uuid uuid{};
  for (size_t i = 0; i < uuid.size(); ++i) uuid[i] = static_cast<uint8_t>(17 * i);
  EXPECT_EQ(uuid_text(uuid), "GPU-00112233-4455-6677-8899-aabbccddeeff");
}

TEST_F(GpuTest, OtherOrdinalsAreRefused) {
  for (const int ordinal : {-1, 1, 4711}) {
    const auto gpu = Gpu::open(driver_, ordinal);
    ASSERT_FALSE(gpu);
    EXPECT_EQ(gpu.error().code, Code::kNotFound);
    EXPECT_NE(gpu.error().text.find("GPU " + std::to_string(ordinal)), std::string::npos) << gpu.error().text;
  }
}

TEST_F(GpuTest, AWindowHasADescriptorForEachChunkAndIsZero) {
  const uint64_t before = free_bytes();
  {
    const AddressRange range = reserve(8 * kUnit);
    const auto window = DeviceWindow::create(gpu_, range.data(), 5 * kUnit, 2 * kUnit);
    ASSERT_TRUE(window) << window.error().text;
    EXPECT_EQ(window->fds().size(), 3u);
    EXPECT_EQ(window->data(), range.data());
    EXPECT_EQ(free_bytes(), before - 5 * kUnit);
    const Current current(*driver_, gpu_->context());
    std::vector<uint64_t> words(5 * kUnit / 8, 1);
    ASSERT_EQ(driver_->cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(words.data()),
                                     reinterpret_cast<CUdeviceptr>(range.data()), 5 * kUnit, nullptr),
              CUDA_SUCCESS);
    ASSERT_EQ(driver_->cuStreamSynchronize(nullptr), CUDA_SUCCESS);
    for (const uint64_t word : words) ASSERT_EQ(word, 0u);
  }
  EXPECT_EQ(free_bytes(), before);
}

TEST_F(GpuTest, AnImportedWindowIsTheSameMemory) {
  const AddressRange range = reserve(4 * kUnit);
  const auto made = DeviceWindow::create(gpu_, range.data(), 3 * kUnit, 2 * kUnit);
  ASSERT_TRUE(made) << made.error().text;
  const AddressRange other = reserve(4 * kUnit);
  const auto seen = DeviceWindow::import(gpu_, other.data(), 3 * kUnit, 2 * kUnit, copies_of(made->fds()));
  ASSERT_TRUE(seen) << seen.error().text;
  const Current current(*driver_, gpu_->context());
  ASSERT_EQ(
      driver_->cuMemsetD8Async(reinterpret_cast<CUdeviceptr>(range.data()) + 3 * kUnit - 8, 0x5a, 8, nullptr),
      CUDA_SUCCESS);
  uint64_t word = 0;
  ASSERT_EQ(driver_->cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(&word),
                                   reinterpret_cast<CUdeviceptr>(other.data()) + 3 * kUnit - 8, 8, nullptr),
            CUDA_SUCCESS);
  ASSERT_EQ(driver_->cuStreamSynchronize(nullptr), CUDA_SUCCESS);
  EXPECT_EQ(word, 0x5a5a5a5a5a5a5a5au);
}

/// A window of one GPU is read by another's copies when it says so, and not before; its own access stays.
TEST_F(GpuTest, AnotherGpuReachesAWindowThatAllowsIt) {
  ::setenv("KVT_STANDIN_DEVICES", "3", 1);
  ::setenv("KVT_STANDIN_PEERS", "1:0", 1);
  standin_.reload();
  ::unsetenv("KVT_STANDIN_DEVICES");
  ::unsetenv("KVT_STANDIN_PEERS");
  EXPECT_TRUE(can_access_peer(*driver_, 1, 0));
  EXPECT_FALSE(can_access_peer(*driver_, 0, 1));
  EXPECT_FALSE(can_access_peer(*driver_, 2, 0));
  EXPECT_FALSE(can_access_peer(*driver_, 0, 0));
  EXPECT_FALSE(can_access_peer(*driver_, 1, 7)) << "there is none";
  const AddressRange range = reserve(4 * kUnit);
  auto window = DeviceWindow::create(gpu_, range.data(), 4 * kUnit, 2 * kUnit);
  ASSERT_TRUE(window) << window.error().text;
  const auto refused = window->allow_peer(2);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text.find("access of GPU 2"), std::string::npos) << refused.error().text;
  const auto read_by = [&](int ordinal) {
    const auto gpu = *Gpu::open(driver_, ordinal);
    const Current current(*driver_, gpu->context());
    uint64_t word = 1;
    const CUresult copied =
        driver_->cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(&word),
                               reinterpret_cast<CUdeviceptr>(range.data()) + 2 * kUnit - 4, 8, nullptr);
    return copied == CUDA_SUCCESS ? driver_->cuStreamSynchronize(nullptr) : copied;
  };
  EXPECT_EQ(read_by(1), CUDA_ERROR_ILLEGAL_ADDRESS);
  ASSERT_TRUE(window->allow_peer(1));
  EXPECT_EQ(read_by(1), CUDA_SUCCESS);
  EXPECT_EQ(read_by(0), CUDA_SUCCESS);
}

TEST_F(GpuTest, DescriptorsHaveToFitTheWindow) {
  const AddressRange range = reserve(4 * kUnit);
  const auto made = DeviceWindow::create(gpu_, range.data(), 3 * kUnit, 2 * kUnit);
  const AddressRange other = reserve(4 * kUnit);
  std::vector<Fd> one = copies_of(made->fds());
  one.pop_back();
  const auto many = DeviceWindow::import(gpu_, other.data(), 2 * kUnit, 2 * kUnit, made->fds());
  ASSERT_FALSE(many);
  EXPECT_EQ(many.error().code, Code::kInvalid);
  EXPECT_FALSE(DeviceWindow::import(gpu_, other.data(), 3 * kUnit, 2 * kUnit, {}));
  const auto none = DeviceWindow::import(gpu_, other.data(), 3 * kUnit, 0, one);
  ASSERT_FALSE(none);
  std::vector<Fd> wrong = copies_of(made->fds());
  wrong[1] = *make_memfd("kvt-other", 2 * kUnit);
  EXPECT_FALSE(DeviceWindow::import(gpu_, other.data(), 3 * kUnit, 2 * kUnit, wrong));
}

/// The first chunks can be had alone, and the others come and go behind them.
TEST_F(GpuTest, ChunksComeAndGoAtTheEnd) {
  const AddressRange range = reserve(4 * kUnit);
  const uint64_t before = free_bytes();
  auto made = DeviceWindow::create(gpu_, range.data(), 3 * kUnit, 2 * kUnit);
  ASSERT_TRUE(made) << made.error().text;
  const AddressRange other = reserve(4 * kUnit);
  const std::vector<Fd> fds = copies_of(made->fds());
  auto part = DeviceWindow::import(gpu_, other.data(), 3 * kUnit, 2 * kUnit, std::span(fds).first(1));
  ASSERT_TRUE(part) << part.error().text;
  EXPECT_EQ(part->chunks(), 1u);
  ASSERT_TRUE(part->map(std::span(fds).subspan(1)));
  EXPECT_EQ(part->chunks(), 2u);
  EXPECT_FALSE(part->map(fds)) << "there is no room for a third";
  part->shrink(1);
  made->shrink(1);
  EXPECT_EQ(made->fds().size(), 1u);
  ASSERT_TRUE(made->grow(2)) << "anew, where another was";
  EXPECT_EQ(made->chunks(), 2u);
  EXPECT_EQ(made->fds().size(), 2u);
  part->shrink(0);
  made->shrink(0);
  EXPECT_EQ(made->chunks(), 0u);
  EXPECT_LE(free_bytes(), before);  // the copies of the descriptors keep the first ones
}

TEST_F(GpuTest, MoreThanThereIsIsRefused) {
  const AddressRange range = reserve(512u << 20);
  const uint64_t before = free_bytes();
  const auto window = DeviceWindow::create(gpu_, range.data(), 512u << 20, 64u << 20);
  ASSERT_FALSE(window);
  EXPECT_EQ(window.error().code, Code::kFull) << window.error().text;
  EXPECT_NE(window.error().text.find("512 MiB"), std::string::npos) << window.error().text;
  EXPECT_EQ(free_bytes(), before);
}

/// Whichever call fails, nothing stays behind: the memory is there again, and so are the addresses.
TEST_F(GpuTest, NothingStaysWhereACallFails) {
  const uint64_t before = free_bytes();
  for (const char* const call :
       {"cuMemCreate", "cuMemExportToShareableHandle", "cuMemMap", "cuMemSetAccess", "cuMemsetD8Async",
        "cuStreamSynchronize", "cuMemImportFromShareableHandle"}) {
    for (uint64_t nth = 1; nth <= 3; ++nth) {
      const AddressRange range = reserve(4 * kUnit);
      const AddressRange other = reserve(4 * kUnit);
      ASSERT_TRUE(standin_.fail(call, nth, CUDA_ERROR_INVALID_VALUE));
      const auto window = DeviceWindow::create(gpu_, range.data(), 4 * kUnit, 2 * kUnit);
      if (!window) {
        EXPECT_EQ(window.error().code, Code::kSystem) << call;
        EXPECT_NE(window.error().text.find("CUDA_ERROR_INVALID_VALUE"), std::string::npos)
            << window.error().text;
        standin_.reload();
        EXPECT_TRUE(DeviceWindow::create(gpu_, range.data(), 4 * kUnit, 2 * kUnit)) << "addresses, " << call;
      } else {
        const auto seen =
            DeviceWindow::import(gpu_, other.data(), 4 * kUnit, 2 * kUnit, copies_of(window->fds()));
        EXPECT_FALSE(seen && nth == 1) << call << " was never called";
        if (!seen) EXPECT_EQ(seen.error().code, Code::kSystem) << call;
      }
      standin_.reload();
    }
    EXPECT_EQ(free_bytes(), before) << call;
  }
}

TEST_F(GpuTest, HostMemoryIsRegisteredInPiecesOfWholePages) {
  const Fd fd = *make_memfd("kvt-host", 8 * kUnit);
  AddressRange range = reserve(16 * kUnit);
  const auto mapping = range.map(fd, 8 * kUnit, Access::kReadWrite, 4 * kUnit);
  ASSERT_TRUE(mapping) << mapping.error().text;
  std::vector<uint64_t> done;
  const auto made = HostRegistration::make(gpu_, mapping->data(), 8 * kUnit, 3 * kUnit, Access::kReadWrite,
                                           [&](uint64_t bytes) { done.push_back(bytes); });
  ASSERT_TRUE(made) << made.error().text;
  EXPECT_EQ(made->pieces(), 3u);
  EXPECT_EQ(done, (std::vector<uint64_t>{3 * kUnit, 6 * kUnit, 8 * kUnit}));
}

TEST_F(GpuTest, RegistrationIsUndoneWhereAPieceFails) {
  const Fd fd = *make_memfd("kvt-host", 4 * kUnit);
  AddressRange range = reserve(4 * kUnit);
  const auto mapping = range.map(fd, 4 * kUnit, Access::kReadWrite, 0);
  ASSERT_TRUE(standin_.fail("cuMemHostRegister", 3, CUDA_ERROR_OUT_OF_MEMORY));
  const auto failed = HostRegistration::make(gpu_, mapping->data(), 4 * kUnit, kUnit, Access::kReadWrite, {});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kFull);
  // Were a piece still registered, this would be refused.
  EXPECT_TRUE(HostRegistration::make(gpu_, mapping->data(), 4 * kUnit, 4 * kUnit, Access::kReadWrite, {}));
}

TEST_F(GpuTest, ReadOnlyMemoryIsRegisteredAsSuch) {
  const Fd fd = *make_memfd("kvt-host", 2 * kUnit);
  const Fd read_only = *reopen_read_only(fd);
  AddressRange range = reserve(4 * kUnit);
  const auto mapping = range.map(read_only, 2 * kUnit, Access::kReadOnly, 0);
  ASSERT_TRUE(mapping) << mapping.error().text;
  EXPECT_FALSE(HostRegistration::make(gpu_, mapping->data(), 2 * kUnit, 2 * kUnit, Access::kReadWrite, {}));
  const auto made =
      HostRegistration::make(gpu_, mapping->data(), 2 * kUnit, 2 * kUnit, Access::kReadOnly, {});
  EXPECT_TRUE(made) << made.error().text;
}

TEST(Pieces, HoldWholePages) {
  for (const uint64_t page :
       {uint64_t{16384}, uint64_t{16896}, uint64_t{65536}, uint64_t{3} << 20, uint64_t{64} << 20}) {
    const uint64_t piece = piece_bytes_of(page);
    EXPECT_EQ(piece % page, 0u) << page;
    EXPECT_EQ(piece % 4096, 0u) << page;
    EXPECT_LE(piece, uint64_t{1} << 30) << page;
    EXPECT_GT(piece, uint64_t{1} << 29) << page;
  }
}

TEST(StickyErrors, AreThoseThatEndAContext) {
  EXPECT_TRUE(is_sticky(CUDA_ERROR_ILLEGAL_ADDRESS));
  EXPECT_TRUE(is_sticky(CUDA_ERROR_ECC_UNCORRECTABLE));
  EXPECT_TRUE(is_sticky(CUDA_ERROR_UNKNOWN));
  EXPECT_FALSE(is_sticky(CUDA_SUCCESS));
  EXPECT_FALSE(is_sticky(CUDA_ERROR_NOT_READY));
  EXPECT_FALSE(is_sticky(CUDA_ERROR_OUT_OF_MEMORY));
  EXPECT_FALSE(is_sticky(CUDA_ERROR_INVALID_VALUE));
}

}  // namespace
}  // namespace kvt::cuda
