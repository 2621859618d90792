// SPDX-License-Identifier: Apache-2.0
//
// What reads and writes pages: the CPU, or a GPU through a stream of its own. Work takes effect in the order of the
// calls; on a GPU after they have returned, and the results come later. Not thread-safe.
//
// Every function throws std::runtime_error with the name of what failed.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "tools/kvtier-replay/client.h"
#include "tools/kvtier-replay/content.h"

namespace kvt::replay {

/// A page, where it is, and what must be there.
struct PageWords {
  kvt_page page = KVT_NO_PAGE;
  kvt_frame frame = KVT_NO_FRAME;
  Content content;
};

/// What came of comparing one page.
struct Compared {
  uint64_t words_read = 0;
  bool good = false;
  Content::Difference difference;  ///< of a page that is not good
};

class Device {
 public:
  virtual ~Device() = default;

  virtual kvt_step step_begin() = 0;
  /// The step is over when all that was called before is done.
  virtual void step_end(const kvt_step& step) = 0;

  /// Writes FILLING pages of this session from host memory, as a prefill does that came from elsewhere.
  virtual void write(std::span<const PageWords> pages) = 0;
  /// Writes one by computing it, as new tokens are.
  virtual void generate(const PageWords& page) = 0;
  /// Seals a page when what was written before is there.
  virtual void seal(kvt_page page) = 0;
  /// Waits until all that was written is there, and all seals are done. Before pages are published, and before pages
  /// that were sealed are released.
  virtual void settle() = 0;

  /// Compares every word of pages of an open step, which may end before the results are taken.
  virtual void compare(std::span<const PageWords> pages) = 0;
  /// The results of the oldest compare() that were not taken, in its order of pages. False: not done yet (with `wait`
  /// it waits), or nothing is under way. To be called now and then: steps that have ended report what they moved.
  virtual bool take(std::vector<Compared>& results, bool wait) = 0;
};

/// The one that the board names. The client outlives it.
std::unique_ptr<Device> make_device(const BoardHeader& board, Client& client);
std::unique_ptr<Device> make_cpu_device(Client& client);

}  // namespace kvt::replay
