// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/device.h"

#include <deque>
#include <utility>

#include "tools/kvtier-replay/cuda_device.h"

namespace kvt::replay {
namespace {

/// All is done when the call returns.
class CpuDevice final : public Device {
 public:
  explicit CpuDevice(Client& client) : client_(client) {}

  kvt_step step_begin() override { return client_.step_begin(); }
  void step_end(const kvt_step& step) override { client_.step_end(step); }

  void write(std::span<const PageWords> pages) override {
    for (const PageWords& page : pages) generate(page);
  }
  void generate(const PageWords& page) override {
    page.content.write(client_.address(page.frame), client_.page_words());
  }
  void seal(kvt_page page) override { client_.seal(page); }
  void settle() override {}

  void compare(std::span<const PageWords> pages) override {
    std::vector<Compared>& results = done_.emplace_back();
    for (const PageWords& page : pages) {
      const void* const at = client_.address(page.frame);
      Compared& result = results.emplace_back();
      result.words_read = client_.page_words();
      result.good = page.content.matches(at, client_.page_words());
      if (!result.good) result.difference = page.content.compare(at, client_.page_words());
    }
  }
  bool take(std::vector<Compared>& results, bool) override {
    if (done_.empty()) return false;
    results = std::move(done_.front());
    done_.pop_front();
    return true;
  }

 private:
  Client& client_;
  std::deque<std::vector<Compared>> done_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(Client& client) { return std::make_unique<CpuDevice>(client); }

std::unique_ptr<Device> make_device(const BoardHeader& board, Client& client) {
  return board.device == DeviceKind::kCuda ? make_cuda_device(board, client) : make_cpu_device(client);
}

}  // namespace kvt::replay
