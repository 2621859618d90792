// SPDX-License-Identifier: Apache-2.0
//
// Attention in a captured graph, over pages that move between its replays: block ids are translated in the graph, by the
// page table on the device, so that a replay reads where the pages are by then.
#include <gtest/gtest.h>
#include <kvtier/cuda.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <numeric>

#include "tests/decode/setup.h"
#include "tests/support/client.h"
#include "tools/kvtier-decode/device_access.h"

namespace kvt::test {
namespace {

using decode::device_address;
using decode::DeviceAccess;
using decode::PinnedArray;

constexpr size_t kBlocks = 12;
constexpr size_t kLayer = 2;
constexpr size_t kPosition = kBlocks * 16 - 4;  // the last block is not full

/// A host function that holds a stream until it is opened.
struct Gate {
  std::atomic<bool> open{false};
  ~Gate() { release(); }
  void release() {
    open.store(true, std::memory_order_release);
    open.notify_all();
  }
  static void CUDA_CB hold(void* gate) {
    static_cast<Gate*>(gate)->open.wait(false, std::memory_order_acquire);
  }
};

class Replays : public ::testing::Test {
 protected:
  static const decode::Device& device() { return *test_device(); }
  static const cuda::Driver& driver() { return device().driver(); }
  static void check(CUresult result) { device().check(result, "the test's call"); }
  static CUstream stream() { return device().stream(); }

  void SetUp() override {
    kvt_attach_args args = attach_args(daemon_.folder());
    args.flags = KVT_ATTACH_CUDA;
    args.cuda_driver = KVT_STANDIN_DRIVER;
    client_ = Client(args);
    ASSERT_EQ(client_.code(), KVT_OK) << kvt_last_error();
    decode::Random random(5);
    for (size_t i = 0; i < layout_.layers * layout_.layer_floats() * kBlocks; ++i)
      contents_.data()[i] = static_cast<float>(random.normal());
    queries_.resize(shape_.query_width());
    for (float& query : queries_) query = static_cast<float>(random.normal());
    chosen_.clear();
    for (size_t kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
      for (uint32_t block = 0; block < kBlocks; ++block) chosen_.blocks.push_back(block);
      chosen_.end_head();
    }
    fill_pages();
  }
  void TearDown() override {
    const auto current = device().use();
    device().wait(stream());
    kvt_cuda_map_destroy(map_);
    client_.detach();
  }

  /// The contents in pages of the arena, and in private memory of the device.
  void fill_pages() {
    const auto current = device().use();
    pages_ = allocate(client_, kBlocks);
    ASSERT_EQ(pages_.size(), kBlocks);
    for (size_t block = 0; block < kBlocks; ++block) {
      kvt_copy copy{};
      copy.page = pages_[block];
      copy.memory = contents_.data() + block * layout_.layers * layout_.layer_floats();
      copy.row_bytes = layout_.layers * layout_.layer_bytes();
      copy.rows = 1;
      ASSERT_EQ(kvt_cuda_copy(client_, KVT_COPY_STORE, &copy, 1, stream()), KVT_OK) << kvt_last_error();
    }
    ASSERT_EQ(kvt_cuda_seal(client_, pages_.data(), kBlocks, stream()), KVT_OK) << kvt_last_error();
    check(driver().cuMemcpyAsync(device_address(private_.data()), device_address(contents_.data()),
                                 kBlocks * layout_.layers * layout_.layer_bytes(), stream()));
    device().wait(stream());
    ASSERT_EQ(kvt_cuda_poll(client_), 0);
    ASSERT_EQ(kvt_cuda_map_create(client_, &map_), KVT_OK) << kvt_last_error();
  }

  /// On private memory, of the blocks in this order.
  std::vector<float> expected(const std::array<int32_t, kBlocks>& order) {
    const auto current = device().use();
    std::copy(order.begin(), order.end(), frames_.data());
    access_.set_table(
        {private_.data(), layout_.layers * layout_.layer_bytes(), layout_.layer_bytes(), frames_.data()});
    access_.set_attention(queries_.data(), chosen_);
    access_.enqueue_attend(kLayer, kPosition);
    device().wait(stream());
    return {access_.result(), access_.result() + shape_.query_width()};
  }

  CUgraphExec capture() {
    const kvt_geometry geometry = client_.geometry();
    access_.set_table({static_cast<const std::byte*>(geometry.base), geometry.stride,
                       geometry.page_bytes / geometry.planes, frames_.data()});
    access_.set_attention(queries_.data(), chosen_);
    CUgraph graph = nullptr;
    CUgraphExec executable = nullptr;
    check(driver().cuStreamBeginCapture(stream(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    EXPECT_EQ(kvt_cuda_translate(map_, table_.data(), frames_.data(), kBlocks, stream()), KVT_OK)
        << kvt_last_error();
    access_.enqueue_attend(kLayer, kPosition);
    kvt_step step{};
    EXPECT_EQ(kvt_cuda_step_begin(client_, stream(), &step), KVT_E_STATE) << "steps are not for graphs";
    check(driver().cuStreamEndCapture(stream(), &graph));
    check(driver().cuGraphInstantiateWithFlags(&executable, graph, 0));
    check(driver().cuGraphDestroy(graph));
    return executable;
  }

  /// What a replay leaves, brought to host memory in stream order.
  struct Result {
    PinnedArray<int32_t> table{test_device(), kBlocks};  ///< block table that the replay is given
    PinnedArray<int32_t> frames{test_device(), kBlocks};
    PinnedArray<float> out{test_device(), decode::Shape{}.query_width()};
  };

  /// Enqueues a step with one replay, over the blocks in this order.
  void replay(CUgraphExec graph, const std::array<int32_t, kBlocks>& order, Result& result) {
    for (size_t i = 0; i < kBlocks; ++i)
      result.table.data()[i] = static_cast<int32_t>(KVT_PAGE_INDEX(pages_[static_cast<size_t>(order[i])]));
    kvt_step step{};
    ASSERT_EQ(kvt_cuda_step_begin(client_, stream(), &step), KVT_OK) << kvt_last_error();
    ASSERT_GE(kvt_cuda_map_update(map_, &step, nullptr, 0), 0) << kvt_last_error();
    const size_t out_bytes = shape_.query_width() * sizeof(float);
    const size_t table_bytes = kBlocks * sizeof(int32_t);
    const auto copy = [&](const void* to, const void* from, size_t bytes) {
      check(driver().cuMemcpyAsync(device_address(to), device_address(from), bytes, stream()));
    };
    copy(table_.data(), result.table.data(), table_bytes);
    check(driver().cuMemsetD8Async(device_address(access_.result()), 0xff, out_bytes, stream()));
    check(driver().cuGraphLaunch(graph, stream()));
    copy(result.frames.data(), frames_.data(), table_bytes);
    copy(result.out.data(), access_.result(), out_bytes);
    ASSERT_EQ(kvt_cuda_step_end(client_, &step), KVT_OK) << kvt_last_error();
  }

  /// Frames of all pages, as they are now.
  std::vector<uint32_t> places() const {
    std::vector<uint32_t> frames;
    for (const kvt_page page : pages_) frames.push_back(client_.info(page).frame);
    return frames;
  }

  World world() const {
    World world = decode_world("churn");
    world.pages = 64;
    return world;
  }

  decode::Shape shape_;
  decode::KvLayout layout_{shape_, 16};
  Daemon daemon_{world()};
  Client client_;
  PinnedArray<float> contents_{test_device(), layout_.layers* layout_.layer_floats() * kBlocks};
  decode::DeviceMemory private_{test_device(), layout_.layers* layout_.layer_bytes() * kBlocks};
  PinnedArray<int32_t> table_{test_device(), kBlocks};
  PinnedArray<int32_t> frames_{test_device(), kBlocks};
  DeviceAccess access_{test_device(), shape_, layout_, kBlocks * 16};
  std::vector<float> queries_;
  decode::ChosenBlocks chosen_;
  std::vector<kvt_page> pages_;
  kvt_cuda_map* map_ = nullptr;
};

template <typename Left, typename Right>
size_t count_different(const Left& left, const Right& right) {
  size_t different = 0;
  for (size_t i = 0; i < kBlocks; ++i)
    different += static_cast<uint32_t>(left[i]) != static_cast<uint32_t>(right[i]);
  return different;
}

TEST_F(Replays, ReadWherePagesAreByThen) {
  const auto current = device().use();
  std::array<int32_t, kBlocks> forwards{};
  std::iota(forwards.begin(), forwards.end(), 0);
  std::array<int32_t, kBlocks> backwards = forwards;
  std::reverse(backwards.begin(), backwards.end());
  const std::vector<float> expected_forwards = expected(forwards);
  const std::vector<float> expected_backwards = expected(backwards);
  ASSERT_NE(expected_forwards, expected_backwards);
  const CUgraphExec graph = capture();
  Result first;
  Result second;
  size_t moved = 0;
  for (int round = 0; round < 8; ++round) {
    Gate gate;
    check(driver().cuLaunchHostFunc(stream(), Gate::hold, &gate));
    replay(graph, forwards, first);
    const auto before = places();
    // The first replay has not begun: what it reads has to stay where it is until then.
    EXPECT_TRUE(eventually([&] { return count_different(places(), before) >= kBlocks / 2; }));
    replay(graph, backwards, second);
    EXPECT_EQ(kvt_cuda_poll(client_), 2) << "both are under way";
    gate.release();
    device().wait(stream());
    EXPECT_EQ(kvt_cuda_poll(client_), 0);
    std::reverse(second.frames.data(), second.frames.data() + kBlocks);
    moved += count_different(first.frames.data(), second.frames.data());
    EXPECT_TRUE(std::equal(expected_forwards.begin(), expected_forwards.end(), first.out.data())) << round;
    EXPECT_TRUE(std::equal(expected_backwards.begin(), expected_backwards.end(), second.out.data())) << round;
  }
  EXPECT_GE(moved, kBlocks) << "pages that the two replays of a round have read in different places";
  check(driver().cuGraphExecDestroy(graph));
}

}  // namespace
}  // namespace kvt::test
