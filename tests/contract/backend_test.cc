// SPDX-License-Identifier: Apache-2.0
//
// What daemon/tier/backend.h promises, over every backend, with and without a node, with and without
// prefault. A new kind of tier adds a row to kBackends; what it cannot keep is a change of backend.h, not of
// a test.
#include "daemon/tier/backend.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <numaif.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "daemon/tier/budget.h"

namespace kvt::tier {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

/// One kind of backend.
struct BackendRow {
  const char* name;  ///< what Backend::name() says
  std::unique_ptr<Backend> (*make)();
  /// From now on this process gets no memory for windows; false: that cannot be done here. For a child
  /// process.
  bool (*take_memory_away)();
};

void PrintTo(const BackendRow& row, std::ostream* out) { *out << row.name; }  // as gtest wants it

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/// madvise(MADV_POPULATE_WRITE) answers ENOMEM, as it does when the machine or the cgroup has nothing left.
bool no_populate() {
  const std::array<sock_filter, 6> program = {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_madvise, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
               offsetof(seccomp_data, args) + 2 * sizeof(uint64_t)),  // little-endian: the low half
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_POPULATE_WRITE, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOMEM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  const sock_fprog filter{static_cast<unsigned short>(program.size()),
                          const_cast<sock_filter*>(program.data())};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

const BackendRow kBackends[] = {
    {"numa", [] { return std::unique_ptr<Backend>(new NumaBackend); }, no_populate},
};

/// OS indices of the nodes that this process may allocate on.
std::vector<int32_t> nodes() {
  constexpr size_t kWordBits = 8 * sizeof(unsigned long);
  std::array<unsigned long, 16> mask{};
  std::vector<int32_t> found;
  if (::get_mempolicy(nullptr, mask.data(), mask.size() * kWordBits, nullptr, MPOL_F_MEMS_ALLOWED) != 0)
    return found;
  for (size_t bit = 0; bit < mask.size() * kWordBits; ++bit)
    if (((mask[bit / kWordBits] >> (bit % kWordBits)) & 1) != 0) found.push_back(static_cast<int32_t>(bit));
  return found;
}

std::vector<int32_t> bindings() {
  std::vector<int32_t> all = nodes();
  all.insert(all.begin(), -1);
  return all;
}

/// Containers often forbid mbind.
bool may_bind() {
  void* const page =
      ::mmap(nullptr, os_page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool may = page != MAP_FAILED && ::mbind(page, os_page_bytes(), MPOL_DEFAULT, nullptr, 0, 0) == 0;
  ::munmap(page, os_page_bytes());
  return may;
}

std::string link_of(const Fd& fd) {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd.get()), error).string();
}

size_t open_descriptors() {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                                           std::filesystem::directory_iterator()));
}

bool is_mapped(const std::string& name) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line))
    if (line.find(name) != std::string::npos) return true;
  return false;
}

uint64_t allocated_bytes(const Fd& fd) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return UINT64_MAX;
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

/// The node of each OS page of a mapping (below 0: not allocated); nothing when the kernel does not answer.
std::optional<std::vector<int>> where_is(const Mapping& mapping) {
  std::vector<void*> addresses;
  for (uint64_t at = 0; at < mapping.bytes(); at += os_page_bytes()) addresses.push_back(mapping.data() + at);
  std::vector<int> status(addresses.size(), -1);
  if (::move_pages(0, addresses.size(), addresses.data(), nullptr, status.data(), 0) != 0)
    return std::nullopt;
  return status;
}

class BackendContract : public testing::TestWithParam<std::tuple<BackendRow, int32_t, bool>> {
 protected:
  void SetUp() override {
    if (node() >= 0 && !may_bind())
      GTEST_SKIP() << "mbind is not allowed here: no memory can be bound to node " << node();
    backend_ = row().make();
  }

  [[nodiscard]] static const BackendRow& row() { return std::get<0>(GetParam()); }
  [[nodiscard]] static int32_t node() { return std::get<1>(GetParam()); }
  [[nodiscard]] static bool prefault() { return std::get<2>(GetParam()); }
  [[nodiscard]] static WindowRequest request(const std::string& name, uint64_t bytes) {
    WindowRequest request;
    request.name = name;
    request.bytes = bytes;
    if (node() >= 0) request.nodes = {{static_cast<uint32_t>(node()), 1}};
    request.prefault = prefault();
    return request;
  }
  /// A window that must be had.
  Window make(const WindowRequest& request) {
    auto window = backend_->make_window(request);
    if (!window) {
      ADD_FAILURE() << window.error().text;
      return {};
    }
    return std::move(*window);
  }
  Window make(const std::string& name, uint64_t bytes) { return make(request(name, bytes)); }
  static Mapping map(const Fd& fd, uint64_t bytes, Access access = Access::kReadWrite) {
    auto mapping = Mapping::map(fd, bytes, access);
    if (!mapping) {
      ADD_FAILURE() << mapping.error().text;
      return {};
    }
    return std::move(*mapping);
  }

  std::unique_ptr<Backend> backend_;
};

TEST_P(BackendContract, SaysItsName) { EXPECT_STREQ(backend_->name(), row().name); }

TEST_P(BackendContract, AWindowIsAMemfdOfThatName) {
  const Window window = make("default-hbm", kMiB);
  EXPECT_EQ(link_of(window.fd).find("/memfd:kvt-default-hbm"), 0u) << link_of(window.fd);
}

TEST_P(BackendContract, AWindowHasTheBytesThatWereAskedFor) {
  for (const uint64_t bytes : {os_page_bytes(), 3 * os_page_bytes(), 2 * kMiB, 5 * kMiB + os_page_bytes()}) {
    const Window window = make("size", bytes);
    EXPECT_EQ(window.bytes, bytes);
    EXPECT_EQ(file_bytes(window.fd).value_or(0), bytes);
    const Mapping mapping = map(window.fd, bytes);
    ASSERT_TRUE(mapping.valid());
    mapping.data()[bytes - 1] = std::byte{1};
  }
}

TEST_P(BackendContract, TheDescriptorIsPrivateAndCloseOnExec) {
  const Window window = make("mode", kMiB);
  EXPECT_NE(::fcntl(window.fd.get(), F_GETFD) & FD_CLOEXEC, 0);
  struct stat status {};
  ASSERT_EQ(::fstat(window.fd.get(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_P(BackendContract, AWindowCannotBeResizedNorSealedFurther) {
  const Window window = make("seals", kMiB);
  EXPECT_EQ(::fcntl(window.fd.get(), F_GET_SEALS), F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
  EXPECT_EQ(::ftruncate(window.fd.get(), static_cast<off_t>(kMiB / 2)), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(window.fd.get(), static_cast<off_t>(2 * kMiB)), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::fcntl(window.fd.get(), F_ADD_SEALS, F_SEAL_WRITE), -1)
      << "nobody can take writing away from the daemon";
}

TEST_P(BackendContract, AWindowIsZeroedAndSharedWithNoOther) {
  const Window first = make("twin", kMiB);
  const Window second = make("twin", kMiB);  // a name is for people: two may be the same
  const Mapping one = map(first.fd, kMiB);
  const Mapping again = map(first.fd, kMiB);
  const Mapping other = map(second.fd, kMiB);
  ASSERT_TRUE(one.valid() && again.valid() && other.valid());
  const auto is_zero = [](std::byte byte) { return byte == std::byte{0}; };
  EXPECT_TRUE(std::all_of(one.data(), one.data() + kMiB, is_zero));
  std::fill(one.data(), one.data() + kMiB, std::byte{0x5a});
  EXPECT_EQ(again.data()[kMiB - 1], std::byte{0x5a}) << "all mappings of a window see the same bytes";
  EXPECT_TRUE(std::all_of(other.data(), other.data() + kMiB, is_zero));
}

TEST_P(BackendContract, AReadOnlyReopeningRefusesWriting) {
  const Window window = make("read-only", kMiB);
  const auto reopened = reopen_read_only(window.fd);
  ASSERT_TRUE(reopened.has_value()) << reopened.error().text;
  EXPECT_EQ(::mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_SHARED, reopened->get(), 0), MAP_FAILED);
  EXPECT_EQ(errno, EACCES);
  const char byte = 1;
  EXPECT_EQ(::pwrite(reopened->get(), &byte, 1, 0), -1);
  void* const address = ::mmap(nullptr, kMiB, PROT_READ, MAP_SHARED, reopened->get(), 0);
  ASSERT_NE(address, MAP_FAILED);
  EXPECT_EQ(::mprotect(address, kMiB, PROT_READ | PROT_WRITE), -1);
  EXPECT_EQ(errno, EACCES);
  const Mapping writer = map(window.fd, kMiB);
  ASSERT_TRUE(writer.valid());
  writer.data()[4711] = std::byte{42};
  EXPECT_EQ(static_cast<const std::byte*>(address)[4711], std::byte{42}) << "it is the same memory";
  ::munmap(address, kMiB);
}

TEST_P(BackendContract, MemoryIsTakenAtOnceOrWhenItIsTouched) {
  const uint64_t bytes = 5 * kMiB + os_page_bytes();
  const Window window = make("resident", bytes);
  EXPECT_EQ(allocated_bytes(window.fd) >= bytes, prefault()) << allocated_bytes(window.fd);
  if (!prefault()) EXPECT_EQ(allocated_bytes(window.fd), 0u);
  const Mapping mapping = map(window.fd, bytes);
  ASSERT_TRUE(mapping.valid());
  std::vector<unsigned char> resident(bytes / os_page_bytes());
  ASSERT_EQ(::mincore(mapping.data(), bytes, resident.data()), 0);
  EXPECT_EQ(
      std::count_if(resident.begin(), resident.end(), [](unsigned char page) { return (page & 1) != 0; }),
      prefault() ? static_cast<ptrdiff_t>(resident.size()) : 0);
}

TEST_P(BackendContract, ProgressRisesToTheEndOnTheCallersThread) {
  for (const uint32_t threads : {1u, 4u}) {
    WindowRequest wanted = request(
        "progress", 130 * kMiB + os_page_bytes());  // more than two of the chunks that are taken at once
    std::vector<uint64_t> reports;
    bool here = true;
    wanted.threads = threads;
    wanted.progress = [&, caller = std::this_thread::get_id()](uint64_t bytes) {
      reports.push_back(bytes);
      here = here && std::this_thread::get_id() == caller;
    };
    const Window window = make(wanted);
    EXPECT_TRUE(here) << "the daemon's report is not synchronised";
    if (!prefault()) {
      EXPECT_TRUE(reports.empty()) << "nothing was prefaulted";
      continue;
    }
    ASSERT_FALSE(reports.empty());
    EXPECT_TRUE(std::is_sorted(reports.begin(), reports.end())) << threads << " threads";
    EXPECT_EQ(reports.back(), wanted.bytes) << threads << " threads";
    EXPECT_GE(allocated_bytes(window.fd), wanted.bytes) << threads << " threads";
  }
}

TEST_P(BackendContract, PlacementIsReportedAsTheKernelSaysIt) {
  const uint64_t bytes = 5 * kMiB;
  const Window window = make("placement", bytes);
  if (node() < 0 || !prefault()) {
    EXPECT_EQ(window.verified_os_pages, 0u) << "there is nothing to compare with";
    EXPECT_EQ(window.misplaced_os_pages, 0u);
    return;
  }
  const Mapping mapping = map(window.fd, bytes);
  ASSERT_TRUE(mapping.valid());
  std::for_each(mapping.data(), mapping.data() + bytes,
                [](std::byte& byte) { byte = std::byte{1}; });  // into this mapping's tables
  const auto where = where_is(mapping);
  if (!where) GTEST_SKIP() << "move_pages is not allowed here";
  EXPECT_EQ(window.verified_os_pages, where->size()) << "5 MiB are few enough to look at each page";
  const auto misplaced = std::count_if(where->begin(), where->end(), [](int at) { return at != node(); });
  EXPECT_EQ(window.misplaced_os_pages, static_cast<uint64_t>(misplaced));
}

TEST_P(BackendContract, AWindowOfANodeStaysThereWhoeverTouchesIt) {
  const uint64_t bytes = 2 * kMiB;
  const Window window = make("bound", bytes);
  const Mapping mapping = map(window.fd, bytes);  // as a client: the mapping that was bound has gone
  ASSERT_TRUE(mapping.valid());
  std::fill(mapping.data(), mapping.data() + bytes, std::byte{1});
  const auto where = where_is(mapping);
  if (!where) GTEST_SKIP() << "move_pages is not allowed here";
  for (const int at : *where) ASSERT_TRUE(at >= 0 && (node() < 0 || at == node())) << at;
}

TEST_P(BackendContract, NothingIsLeftBehind) {
  const size_t before = open_descriptors();
  {
    const Window window = make("left-behind", kMiB);
    EXPECT_FALSE(is_mapped("kvt-left-behind")) << "a window is mapped by who uses it";
    EXPECT_EQ(open_descriptors(), before + 1);
  }
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_FALSE(backend_->make_window(request("left-behind", 0)).has_value());
  EXPECT_FALSE(is_mapped("kvt-left-behind"));
  EXPECT_EQ(open_descriptors(), before) << "after a failure";
}

TEST_P(BackendContract, ANodeThatIsNotThereIsNamed) {
  if (!may_bind()) GTEST_SKIP() << "mbind is not allowed here";
  const std::vector<int32_t> here = nodes();
  for (const int32_t missing : {here.empty() ? 1000 : here.back() + 1, 4095}) {
    WindowRequest wanted = request("nowhere", kMiB);
    wanted.nodes = {{static_cast<uint32_t>(missing), 1}};
    const auto window = backend_->make_window(wanted);
    ASSERT_FALSE(window.has_value()) << "node " << missing;
    EXPECT_EQ(window.error().code, Code::kNotFound) << window.error().text;
    EXPECT_NE(window.error().text.find("node " + std::to_string(missing)), std::string::npos)
        << window.error().text;
  }
}

TEST_P(BackendContract, ImpossibleSizesAreRefusedByTheirNumber) {
  // Nothing; more than a file can have; more than an address space has.
  for (const uint64_t bytes : {uint64_t{0}, UINT64_MAX / 2 + 1, uint64_t{1} << 62}) {
    const auto window = backend_->make_window(request("impossible", bytes));
    ASSERT_FALSE(window.has_value()) << bytes;
    EXPECT_NE(window.error().text.find(" " + std::to_string(bytes) + " bytes"), std::string::npos)
        << window.error().text;
    if (bytes == 0) EXPECT_EQ(window.error().code, Code::kInvalid);
  }
}

TEST_P(BackendContract, AnImpossibleNameIsRefused) {
  const std::string name(300, 'n');
  const auto window = backend_->make_window(request(name, kMiB));
  ASSERT_FALSE(window.has_value());
  EXPECT_NE(window.error().text.find(name), std::string::npos) << window.error().text;
}

TEST_P(BackendContract, MemoryThatIsNotThereIsAnErrorThatNamesTheWindow) {
  for (const uint32_t threads : {1u, 3u}) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      if (row().take_memory_away == nullptr || !row().take_memory_away()) ::_exit(77);
      WindowRequest wanted = request("starved", 130 * kMiB);
      wanted.threads = threads;
      const size_t before = open_descriptors();
      const auto window = backend_->make_window(wanted);
      if (window.has_value() == prefault()) ::_exit(1);
      if (!prefault()) ::_exit(0);  // the lack shows when it is touched
      if (window.error().code != Code::kFull) ::_exit(2);
      if (window.error().text.find("starved") == std::string::npos) ::_exit(3);
      ::_exit(open_descriptors() == before && !is_mapped("kvt-starved") ? 0 : 4);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status)) << "wait status " << status;
    if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "the lack of memory cannot be made here";
    EXPECT_EQ(WEXITSTATUS(status), 0)
        << "1: made with prefault, or refused without, 2: not kFull, 3: does not name the window, "
        << "4: left something behind; " << threads << " threads";
  }
}

std::string param_name(const testing::TestParamInfo<BackendContract::ParamType>& param) {
  const int32_t node = std::get<1>(param.param);
  return std::get<0>(param.param).name +
         (node < 0 ? std::string("_AnyNode") : "_Node" + std::to_string(node)) +
         (std::get<2>(param.param) ? "_Prefault" : "_OnTouch");
}
INSTANTIATE_TEST_SUITE_P(Every, BackendContract,
                         testing::Combine(testing::ValuesIn(kBackends), testing::ValuesIn(bindings()),
                                          testing::Bool()),
                         param_name);

TEST(Divide, GivesEachNodeItsShareAllTheWay) {
  const std::vector<NodePart> nodes{{0, 3}, {5, 1}};
  for (const uint64_t bytes : {uint64_t{2} << 20, uint64_t{37} << 20, uint64_t{1} << 30, uint64_t{3} << 40}) {
    const std::vector<Chunk> chunks = divide(bytes, nodes);
    uint64_t next = 0;
    std::array<double, 2> given{};
    for (const Chunk& chunk : chunks) {
      ASSERT_EQ(chunk.offset, next) << "no gaps";
      ASSERT_EQ(chunk.offset % (2 * kMiB), 0u) << "a huge page lies on one node";
      next += chunk.bytes;
      given[chunk.node == 5 ? 1 : 0] += static_cast<double>(chunk.bytes);
    }
    EXPECT_EQ(next, bytes);
    EXPECT_LE(chunks.size(), 8193u) << "mappings of a process are few";
    if (bytes >= uint64_t{1} << 30) EXPECT_NEAR(given[1] / static_cast<double>(bytes), 0.25, 0.04) << bytes;
  }
  EXPECT_EQ(divide(100 * kMiB, {}).front().node, -1);
  EXPECT_TRUE(divide(0, nodes).empty());
}

TEST(HugePages, AWindowOfThemIsWhole) {
  NumaBackend backend;
  WindowRequest request;
  request.name = "huge";
  request.bytes = 3 * kMiB;
  request.pages = OsPages::kHuge2M;
  const auto torn = backend.make_window(request);
  ASSERT_FALSE(torn.has_value());
  EXPECT_EQ(torn.error().code, Code::kInvalid);
  request.bytes = 4 * kMiB;
  const bool enough = free_huge_bytes(std::nullopt) >= request.bytes;
  const auto window = backend.make_window(request);
  if (enough) {
    ASSERT_TRUE(window.has_value()) << window.error().text;
    const auto mapping = Mapping::map(window->fd, request.bytes, Access::kReadWrite);
    ASSERT_TRUE(mapping.has_value()) << mapping.error().text;
    std::memset(mapping->data(), 1, request.bytes);
  } else {
    ASSERT_FALSE(window.has_value()) << "there are none free";
    EXPECT_EQ(window.error().code, Code::kFull) << window.error().text;
    EXPECT_NE(window.error().text.find("huge"), std::string::npos) << window.error().text;
  }
}

/// Sanitizers' mlock does nothing and says that all is well.
constexpr bool mlock_is_real() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
  return false;
#endif
#endif
  return true;
}

TEST(LockWindow, ALimitIsNamed) {
  if (!mlock_is_real()) GTEST_SKIP() << "a sanitizer's mlock locks nothing";
  NumaBackend backend;
  WindowRequest request;
  request.name = "locked";
  request.bytes = 4 * kMiB;
  const auto window = backend.make_window(request);
  ASSERT_TRUE(window.has_value()) << window.error().text;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit limit{kMiB, kMiB};
    if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0) ::_exit(77);
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(77);  // CAP_IPC_LOCK is above the limit
    const auto mapping = Mapping::map(window->fd, request.bytes, Access::kReadWrite);
    if (!mapping) ::_exit(1);
    const auto locked = lock_window(*mapping, window->chunks, 2);
    if (locked) ::_exit(2);
    ::_exit(locked.error().text.find("RLIMIT_MEMLOCK is 1024 KiB") != std::string::npos ? 0 : 3);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "the limit cannot be set here";
  EXPECT_EQ(WEXITSTATUS(status), 0) << "1: no mapping, 2: locked all the same, 3: the limit is not named";
}

TEST(AvailableMemory, IsWhatIsFreeLessTheMargin) {
  const auto bytes = available_memory_bytes();
  ASSERT_TRUE(bytes.has_value()) << bytes.error().text;
  std::ifstream meminfo("/proc/meminfo");
  std::string word;
  uint64_t total = 0;
  meminfo >> word >> total;
  ASSERT_EQ(word, "MemTotal:");
  total <<= 10;
  EXPECT_GT(*bytes, 0u);
  EXPECT_LE(*bytes, total - std::min(total / 16, 2048 * kMiB)) << "the margin is for everybody else";
}

}  // namespace
}  // namespace kvt::tier
