// SPDX-License-Identifier: Apache-2.0
//
// Reads pages inside a step, comparing every word with what must be there, and counts what came of it: words
// by writer, bytes by tier, the modelled time of the step. What was read is looked at when the device is done
// with it, which may be after the step. Not thread-safe.
#pragma once

#include <array>
#include <deque>
#include <vector>

#include "tools/kvtier-replay/client.h"
#include "tools/kvtier-replay/device.h"
#include "tools/kvtier-replay/ledger.h"

namespace kvt::replay {

/// A page and the key that its words are made from (unkeyed pages have one of their own).
struct KnownPage {
  kvt_page page = KVT_NO_PAGE;
  kvt_key key{};
};

class Verifier {
 public:
  Verifier(Client& client, Device& device, Ledger ledger, const Board& board, uint32_t worker)
      : client_(client),
        device_(device),
        ledger_(ledger),
        header_(board.header()),
        statistics_(board.statistics()[worker]),
        windows_(board.windows(worker)),
        worker_(worker) {}

  /// A read that is still protected by its step.
  struct Read {
    KnownPage page;
    kvt_frame frame = KVT_NO_FRAME;
  };

  /// Reads `pages` in an open step from the places that resolve gives, and touches them. What was read is
  /// appended to `reads`; a page without a frame counts as lost, and its index in `pages` is appended to
  /// `lost`.
  void read(const kvt_step& step, const std::vector<KnownPage>& pages, std::vector<Read>& reads,
            std::vector<size_t>& lost);
  /// Before a step ends: pages that are elsewhere by now are read again where they were. The step still
  /// protects that place, so a frame that was reused too early shows here.
  void recheck_moved(const std::vector<Read>& reads);
  /// Looks at what is done of that; `all`: waits for all of it.
  void collect(bool all);

 private:
  /// A read that the device may be busy with, and what the ledger said when it began.
  struct Begun {
    Read read;
    Ledger::Entry entry;
  };
  using TierBytes = std::array<uint64_t, KVT_TIERS_MAX>;
  void begin(const Read& read);
  void compare_begun();
  void settle(const Begun& begun, const Compared& result);
  void report_corrupt(const Begun& begun, const Compared& result);
  void count_step(const TierBytes& kvtier, const TierBytes& fixed, uint64_t staged);
  [[nodiscard]] double slowest(const TierBytes& bytes) const;

  Client& client_;
  Device& device_;
  Ledger ledger_;
  const BoardHeader& header_;
  WorkerStatistics& statistics_;
  std::span<WindowBytes> windows_;
  uint32_t worker_;
  uint32_t shown_ = 0;
  std::vector<kvt_page> handles_;
  std::vector<kvt_frame> frames_;
  std::vector<PageWords> words_;  ///< of next_
  std::vector<Begun> next_;       ///< for the next compare
  std::deque<std::vector<Begun>> under_way_;
  std::vector<Compared> results_;
};

}  // namespace kvt::replay
