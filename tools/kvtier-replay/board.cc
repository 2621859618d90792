// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/board.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <system_error>
#include <utility>

namespace kvt::replay {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t align_up(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

struct Offsets {
  size_t statistics;
  size_t windows;
  size_t requests;
  size_t block_ids;
  size_t ledger;
  size_t end;
};

Offsets offsets_of(const Board::Sizes& sizes) {
  Offsets offsets{};
  offsets.statistics = align_up(sizeof(BoardHeader));
  offsets.windows = align_up(offsets.statistics + sizes.workers * sizeof(WorkerStatistics));
  offsets.requests = align_up(offsets.windows + sizes.workers * sizes.windows * sizeof(WindowBytes));
  offsets.block_ids = align_up(offsets.requests + sizes.requests * sizeof(PlannedRequest));
  offsets.ledger = align_up(offsets.block_ids + sizes.block_ids * sizeof(uint64_t));
  offsets.end = align_up(offsets.ledger + sizes.pages * sizeof(uint64_t));
  return offsets;
}

Offsets offsets_of(const BoardHeader& header) {
  return offsets_of(
      Board::Sizes{header.workers, header.requests, header.block_ids, header.pages, header.windows});
}

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

void* map(int fd, size_t bytes) {
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) fail("mmap of the replay's shared memory");
  return memory;
}

}  // namespace

Board Board::create(const Sizes& sizes) {
  const size_t bytes = offsets_of(sizes).end;
  // No MFD_CLOEXEC: workers find it under the same number after exec.
  const int fd = memfd_create("kvtier-replay", 0);
  if (fd < 0) fail("memfd_create");
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0) fail("ftruncate of the replay's shared memory");
  Board board(fd, map(fd, bytes), bytes);
  BoardHeader& header = board.header();
  header.bytes = bytes;
  header.workers = sizes.workers;
  header.requests = sizes.requests;
  header.block_ids = sizes.block_ids;
  header.pages = sizes.pages;
  header.windows = sizes.windows;
  return board;
}

Board Board::open(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) fail("fstat of the replay's shared memory");
  const auto bytes = static_cast<size_t>(status.st_size);
  if (bytes < sizeof(BoardHeader)) {
    errno = EINVAL;
    fail("the replay's shared memory");
  }
  return {fd, map(fd, bytes), bytes};
}

Board::Board(Board&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      memory_(std::exchange(other.memory_, nullptr)),
      bytes_(other.bytes_) {}

Board::~Board() {
  if (memory_ != nullptr) munmap(memory_, bytes_);
  if (fd_ >= 0) close(fd_);
}

std::span<WorkerStatistics> Board::statistics() const {
  return {reinterpret_cast<WorkerStatistics*>(at(offsets_of(header()).statistics)), header().workers};
}

std::span<WindowBytes> Board::windows(uint32_t worker) const {
  auto* const first = reinterpret_cast<WindowBytes*>(at(offsets_of(header()).windows));
  return {first + worker * header().windows, header().windows};
}

std::span<PlannedRequest> Board::requests() const {
  return {reinterpret_cast<PlannedRequest*>(at(offsets_of(header()).requests)), header().requests};
}

std::span<uint64_t> Board::block_ids() const {
  return {reinterpret_cast<uint64_t*>(at(offsets_of(header()).block_ids)), header().block_ids};
}

Ledger Board::ledger() const {
  return {{reinterpret_cast<std::atomic<uint64_t>*>(at(offsets_of(header()).ledger)), header().pages},
          header().static_fast_frames};
}

int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace kvt::replay
