// SPDX-License-Identifier: Apache-2.0
//
// A real kvtierd in a private folder, the publisher process beside it, and this process's own session: what
// the client rows run against. Started when a row needs it, kept while rows ask for the same arena, one at a
// time.
#pragma once

#include <kvtier/kvtier.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tools/bench/child.h"
#include "tools/bench/memory.h"

namespace kvt::bench {

/// What the daemon does with pages meanwhile.
enum class Traffic {
  kStill,      ///< policy `off`: placements stay as they are
  kChurn,      ///< policy `churn`: random pages move all the time
  kTwoPlaces,  ///< as kStill; rows give pages a second place
};

/// This process's session on a daemon whose arena has `pages` published by another process, and tables about
/// them.
class Host {
 public:
  Host(const std::string& kvtierd, Traffic traffic, uint64_t pages);
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;
  ~Host();

  [[nodiscard]] kvt_session* session() const { return session_; }
  [[nodiscard]] uint64_t pages() const { return pages_; }
  [[nodiscard]] Traffic traffic() const { return traffic_; }
  [[nodiscard]] const std::string& socket_dir() const { return folder_.path(); }
  /// Handle of page number i, as the publisher reported it.
  [[nodiscard]] std::span<const kvt_page> handles() const;
  /// In the order of visits(pages()): page numbers, handles, keys.
  [[nodiscard]] const std::vector<uint32_t>& visited_numbers() const { return visited_numbers_; }
  [[nodiscard]] const std::vector<kvt_page>& visited_handles() const { return visited_handles_; }
  [[nodiscard]] const std::vector<kvt_key>& visited_keys() const { return visited_keys_; }
  /// Sum of the frames of each batch of visits, by kvt_get_page_info. REQUIRES: kStill.
  const std::vector<uint64_t>& batch_frame_sums();
  /// For the rows of kTwoPlaces, which fill it once.
  [[nodiscard]] std::vector<kvt_page>& pages_in_two_places() { return pages_in_two_places_; }
  /// Ends everything. Whether daemon and publisher were still alive and left in order.
  bool stop();

 private:
  void start_publisher();

  Traffic traffic_;
  uint64_t pages_;
  TemporaryFolder folder_;
  SharedMemory report_;
  Child daemon_;
  Child publisher_;
  kvt_session* session_ = nullptr;
  std::vector<uint32_t> visited_numbers_;
  std::vector<kvt_page> visited_handles_;
  std::vector<kvt_key> visited_keys_;
  std::vector<uint64_t> batch_frame_sums_;
  std::vector<kvt_page> pages_in_two_places_;
};

class DaemonFixture {
 public:
  explicit DaemonFixture(std::string kvtierd) : kvtierd_(std::move(kvtierd)) {}
  /// The host of that kind; replaces another. Throws RowError.
  Host& host(Traffic traffic, uint64_t pages);
  /// The host that runs now, if it is still; else one of that size.
  Host& any_still_host(uint64_t pages);
  [[nodiscard]] const std::string& kvtierd() const { return kvtierd_; }
  /// Ends the host. Call it before exit.
  void stop();
  /// Whether a daemon or publisher died or left badly: then no figure of this run counts.
  [[nodiscard]] bool failed() const { return failed_; }

 private:
  std::string kvtierd_;
  std::unique_ptr<Host> host_;
  // The host that could not be started last: its other rows fail at once instead of waiting again.
  Traffic broken_traffic_ = Traffic::kStill;
  uint64_t broken_pages_ = 0;
  std::string broken_why_;
  bool failed_ = false;
};

}  // namespace kvt::bench
