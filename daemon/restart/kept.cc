// SPDX-License-Identifier: Apache-2.0
#include "daemon/restart/kept.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>

namespace kvt::restart {

Result<Kept> new_kept() {
  Kept kept;
  KVT_TRY_ASSIGN(kept.state, RestartState::create());
  return kept;
}

Result<Kept> open_kept(uint64_t descriptors_max, std::chrono::milliseconds patience) {
  Kept kept;
  kept.store = FdStore::open(descriptors_max);
  Fd before = kept.store.take(daemon_name());
  if (before.valid()) {
    // Readable when all of its threads are dead. Never read.
    pollfd wait{before.get(), POLLIN, 0};
    int ready = 0;
    do {
      ready = ::poll(&wait, 1, static_cast<int>(patience.count()));
    } while (ready < 0 && errno == EINTR);
    if (ready <= 0) return fail(Code::kAgain, "the kvtierd before this one has not ended");
  }
  if (Fd state = kept.store.take(state_name()); state.valid()) {
    KVT_TRY_ASSIGN(kept.state, RestartState::adopt(std::move(state)));
    kept.is_adopted = true;
    kept.daemon_before = kept.state.daemon_pid();
  } else {
    KVT_TRY_ASSIGN(kept.state, RestartState::create());
    if (auto put = kept.store.put(state_name(), kept.state.fd().get()); !put)
      return fail(put.error().code, "the restart state: " + put.error().text);
  }
  kept.store.remove(daemon_name());
  KVT_TRY_ASSIGN(const Fd self, own_pidfd());
  KVT_TRY(kept.store.put(daemon_name(), self.get()));
  KVT_TRY(kept.store.wait(patience));
  return kept;
}

}  // namespace kvt::restart
