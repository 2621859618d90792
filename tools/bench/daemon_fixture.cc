// SPDX-License-Identifier: Apache-2.0
#include "tools/bench/daemon_fixture.h"

#include <sys/socket.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tools/bench/publisher.h"
#include "tools/bench/rows.h"
#include "tools/bench/sequence.h"

namespace kvt::bench {
namespace {

constexpr uint64_t kPageBytes = 16384;
/// Pages beyond the published ones: sixteen batches of the allocate row on their way through the daemon.
constexpr uint64_t kSparePages = uint64_t{1} << 18;
constexpr int kDaemonTimeoutMs = 120000;
constexpr auto kPublishTimeout = std::chrono::seconds(600);

/// Frames cost memory when they are touched, so tiers may be larger than the machine.
std::string config_text(Traffic traffic, uint64_t pages) {
  const uint64_t dram_bytes = (pages + kSparePages) * kPageBytes;
  // Churn needs a fast tier that fills up: then it moves pages both ways.
  const char* const hbm_bytes = traffic == Traffic::kChurn ? "256MiB" : pages < 1000000 ? "64MiB" : "8GiB";
  std::string text =
      "[daemon]\nperiod_ms = 10\nprefault = false\n"
      "[policy]\nname = \"";
  text += traffic == Traffic::kChurn ? "churn" : "off";
  text += "\"\nprofile = \"gh200\"\n[[tier]]\nname = \"hbm\"\nkind = \"emulated-hbm\"\nbytes = \"";
  text += hbm_bytes;
  text += "\"\ncolumn = 0\n[[tier]]\nname = \"dram\"\nkind = \"numa\"\nbytes = \"";
  text += std::to_string((dram_bytes >> 20) + 1) + "MiB\"\n";
  text += "[[arena]]\nname = \"" + std::string(kArenaName) +
          "\"\npage_bytes = \"16KiB\"\nblock_tokens = 1\npages = ";
  text += std::to_string(pages + kSparePages) + "\n";
  return text;
}

}  // namespace

Host::Host(const std::string& kvtierd, Traffic traffic, uint64_t pages)
    : traffic_(traffic), pages_(pages), report_(sizeof(Report) + pages * sizeof(kvt_page)) {
  const std::string config = folder_.path() + "/kvtierd.toml";
  const std::string log = folder_.path() + "/kvtierd.log";
  std::ofstream(config) << config_text(traffic, pages);
  if (!std::filesystem::exists(kvtierd))
    throw RowError("there is no " + kvtierd + ": build it, or name it with --kvtierd");
  daemon_ = Child({kvtierd, "--config", config, "--socket-dir", folder_.path()}, log);
  wait_for_socket(folder_.path() + "/attach.sock", SOCK_SEQPACKET, daemon_, log, kDaemonTimeoutMs);
  start_publisher();
  // Block tables that follow the change log are compared with first places.
  const uint32_t flags =
      traffic == Traffic::kChurn ? uint32_t{KVT_ATTACH_NO_OFFERS | KVT_ATTACH_NO_BALANCE} : 0;
  if (attach_bench_arena(folder_.path(), &session_, flags) != KVT_OK)
    throw RowError(std::string("kvt_attach: ") + kvt_last_error());

  visited_numbers_ = visits(pages);
  visited_handles_.reserve(visited_numbers_.size());
  visited_keys_.reserve(visited_numbers_.size());
  for (const uint32_t number : visited_numbers_) {
    visited_handles_.push_back(handles()[number]);
    visited_keys_.push_back(key_of(number));
  }
}

void Host::start_publisher() {
  publisher_ = Child({"/proc/self/exe", kPublisherFlag, folder_.path(), std::to_string(pages_),
                      traffic_ == Traffic::kChurn ? "churn" : "still"},
                     "", {report_.fd()});
  const auto& report = *reinterpret_cast<const Report*>(report_.data());
  const auto end = std::chrono::steady_clock::now() + kPublishTimeout;
  while (report.state.load(std::memory_order_acquire) == Report::kWorking) {
    if (!publisher_.running()) throw RowError("the publisher died");
    if (std::chrono::steady_clock::now() > end) throw RowError("the publisher takes too long");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  if (report.state.load(std::memory_order_acquire) == Report::kFailed) throw RowError(report.error);
}

Host::~Host() { stop(); }

bool Host::stop() {
  kvt_detach(std::exchange(session_, nullptr));
  const bool publisher = publisher_.stop();
  const bool daemon = daemon_.stop();
  return publisher && daemon;
}

std::span<const kvt_page> Host::handles() const {
  return {reinterpret_cast<const kvt_page*>(report_.data() + sizeof(Report)), pages_};
}

const std::vector<uint64_t>& Host::batch_frame_sums() {
  if (!batch_frame_sums_.empty()) return batch_frame_sums_;
  std::vector<uint64_t> sums(visited_handles_.size() / kBatch);
  for (uint64_t i = 0; i < visited_handles_.size(); ++i) {
    kvt_page_info info{};
    info.size = sizeof info;
    const kvt_page page = visited_handles_[i];
    require(kvt_get_page_info(session_, KVT_PAGE_INDEX(page), &info) == KVT_OK && info.page == page,
            "kvt_get_page_info does not know a published page");
    sums[i / kBatch] += info.frame;
  }
  batch_frame_sums_ = std::move(sums);
  return batch_frame_sums_;
}

Host& DaemonFixture::host(Traffic traffic, uint64_t pages) {
  if (host_ != nullptr && host_->traffic() == traffic && host_->pages() == pages) return *host_;
  if (broken_pages_ == pages && broken_traffic_ == traffic) throw RowError(broken_why_);
  stop();
  try {
    host_ = std::make_unique<Host>(kvtierd_, traffic, pages);
  } catch (const RowError& error) {
    broken_traffic_ = traffic;
    broken_pages_ = pages;
    broken_why_ = error.what();
    throw;
  }
  return *host_;
}

Host& DaemonFixture::any_still_host(uint64_t pages) {
  if (host_ != nullptr && host_->traffic() == Traffic::kStill) return *host_;
  return host(Traffic::kStill, pages);
}

void DaemonFixture::stop() {
  if (host_ != nullptr && !host_->stop()) {
    std::fprintf(stderr, "kvt_bench: kvtierd or the publisher died, or did not leave in order\n");
    failed_ = true;
  }
  host_.reset();
}

}  // namespace kvt::bench
