// SPDX-License-Identifier: Apache-2.0
//
// One client process of the replay: an engine with one kvtier session. Requests arrive; the blocks of their
// prompts are looked up and held, or allocated, written and published; a batch of them decodes a while, then
// the next. What does not decode stays held, so pages get hot and cold, and all together are more than the
// fast tier holds.
#pragma once

#include <deque>
#include <list>
#include <memory>
#include <vector>

#include "tools/kvtier-replay/client.h"
#include "tools/kvtier-replay/device.h"
#include "tools/kvtier-replay/random.h"
#include "tools/kvtier-replay/reads.h"
#include "tools/kvtier-replay/verifier.h"

namespace kvt::replay {

class Worker {
 public:
  Worker(const Board& board, uint32_t index);
  /// Until all requests are done, the time is over, or the parent says stop.
  void run();

 private:
  struct Block {
    KnownPage page;
    bool keyed = true;
  };
  struct Sequence {
    std::vector<Block> blocks;
    ReadPattern pattern;
    uint32_t steps = 0;
    uint32_t steps_wanted = 0;
    uint32_t burst = 0;         ///< steps since it entered the batch
    bool tail_filling = false;  ///< the last block is being written
  };
  /// A step that stays open while later ones run, with what was read in it.
  struct OpenStep {
    kvt_step step;
    int64_t closes_ns;
    std::vector<Verifier::Read> reads;
  };

  void wait_for_start();
  [[nodiscard]] bool stopped() const;
  void admit(const PlannedRequest& request);
  size_t find_prefix(const std::vector<kvt_key>& keys, size_t from, std::vector<Block>& blocks);
  bool write_blocks(const std::vector<kvt_key>& keys, std::vector<Block>& blocks, size_t n);
  size_t allocate(std::vector<kvt_page>& pages, size_t n);
  void settle(const kvt_publish_entry& entry, std::vector<Block>& blocks);
  void check_published(const std::vector<Block>& blocks, size_t first);
  void check_findable(const Sequence& sequence);
  void check_findable(const KnownPage& page);

  void fill_batch();
  void decode(Sequence& sequence);
  void extend(Sequence& sequence);
  void close_open_steps(bool all);
  [[nodiscard]] bool batch_done(const Sequence& sequence) const;

  void make_room(size_t pages);
  bool drop_one();
  void drop(Sequence& sequence);
  /// Where the page is, and what it will be; and says so in the ledger.
  PageWords begin_page(KnownPage page);
  [[nodiscard]] kvt_key key_of_block(uint64_t id) const;
  [[nodiscard]] kvt_key next_private_key();

  const Board& board_;
  const BoardHeader& header_;
  uint32_t index_;
  WorkerStatistics& statistics_;
  Random random_;
  Client client_;
  std::unique_ptr<Device> device_;
  Ledger ledger_;
  Verifier verifier_;
  int64_t deadline_ns_ = 0;
  uint64_t steps_ = 0;
  uint64_t private_keys_ = 0;
  size_t held_ = 0;
  std::list<Sequence> batch_;    ///< decoding, round robin
  std::list<Sequence> waiting_;  ///< for their next turn in the batch
  std::list<Sequence> done_;     ///< conversations that stay open; oldest first
  std::deque<OpenStep> open_steps_;
  std::vector<uint32_t> chosen_;
  std::vector<KnownPage> to_read_;
  std::vector<size_t> lost_;
};

/// What a worker process runs; the exit code.
int run_worker(int board_fd, uint32_t index);

}  // namespace kvt::replay
