// SPDX-License-Identifier: Apache-2.0
//
// Commands to the daemon: submission, doorbell, waiting for completions.
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "libclient/src/session.h"

namespace kvt::client {
namespace {

uint64_t now_ms() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

/// Takes what has been completed and hands it to whoever waits. REQUIRES: ring_mutex.
bool drain(kvt_session& session) {
  bool any = false;
  while (const auto completion = session.completions.try_pop()) {
    for (Waiter* const waiter : session.waiters) {
      if (completion->tag < waiter->first || completion->tag - waiter->first >= waiter->count) continue;
      kvt_abi_completion& result = waiter->results[completion->tag - waiter->first];
      if (result.tag == completion->tag) break;  // a daemon that was restarted says it again
      result = *completion;
      --waiter->outstanding;
      any = true;
      break;
    }
  }
  return any;
}

/// Waits for a wake-up of the daemon, at most `slice_ms`. `lock` is released meanwhile.
void wait_slice(kvt_session& session, std::unique_lock<std::mutex>& lock, uint32_t slice_ms) {
  const uint32_t seen = load_wake(*session.member);
  announce_waiter(*session.member, 1);
  if (!session.completions.ready()) {
    lock.unlock();
    ring_doorbell(session, false);
    wait_for_wake(*session.member, seen, slice_ms);
    lock.lock();
  }
  announce_waiter(*session.member, -1);
}

/// Between waits: is the daemon there at all?
int still_there(kvt_session& session, std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  const int connection = check_connection(session);
  lock.lock();
  return connection;
}

}  // namespace

void ring_doorbell(kvt_session& session, bool only_if_asleep) {
  if (only_if_asleep && !session.table.keeper_asleep()) return;
  const uint64_t one = 1;
  // The daemon never reads the eventfd; it is edge-triggered there. A full counter is as good as a ring.
  [[maybe_unused]] const ssize_t written = ::write(session.doorbell.get(), &one, sizeof one);
}

size_t try_submit(kvt_session& session, std::span<const kvt_abi_submission> commands) {
  size_t pushed = 0;
  {
    const std::lock_guard guard(session.ring_mutex);
    while (pushed < commands.size() && session.submissions.try_push(commands[pushed])) ++pushed;
  }
  full_fence();  // the submissions | keeper_asleep (PROTOCOL B1)
  ring_doorbell(session, true);
  notice_restart(session);
  return pushed;
}

int submit(kvt_session& session, std::span<const kvt_abi_submission> commands) {
  size_t pushed = try_submit(session, commands);
  if (pushed == commands.size()) return KVT_OK;
  uint64_t deadline = now_ms() + session.timeout_ms;
  while (pushed < commands.size()) {
    {
      std::unique_lock lock(session.ring_mutex);
      drain(session);
      wait_slice(session, lock, 1);
    }
    const size_t more = try_submit(session, commands.subspan(pushed));
    pushed += more;
    if (more != 0) deadline = now_ms() + session.timeout_ms;
    if (more == 0) {
      if (const int connection = check_connection(session); connection != KVT_OK) return connection;
      if (now_ms() > deadline) return set_error(KVT_E_AGAIN, "the daemon does not take commands");
    }
  }
  return KVT_OK;
}

int submit_and_wait(kvt_session& session, std::span<kvt_abi_submission> commands,
                    kvt_abi_completion* results) {
  if (commands.empty()) return KVT_OK;
  std::unique_lock lock(session.ring_mutex);
  Waiter waiter;
  waiter.first = session.next_tag;
  waiter.count = commands.size();
  waiter.outstanding = commands.size();
  waiter.results = results;
  session.next_tag += commands.size();
  for (size_t i = 0; i < commands.size(); ++i) {
    commands[i].tag = waiter.first + i;
    results[i].tag = 0;
  }
  session.waiters.push_back(&waiter);

  int outcome = KVT_OK;
  size_t pushed = 0;
  uint64_t deadline = now_ms() + session.timeout_ms;
  while (waiter.outstanding != 0) {
    const uint64_t before = waiter.outstanding;
    const size_t pushed_before = pushed;
    while (pushed < commands.size() && session.submissions.try_push(commands[pushed])) ++pushed;
    drain(session);
    if (waiter.outstanding == 0) break;
    wait_slice(session, lock, std::min<uint32_t>(session.timeout_ms, 20));
    drain(session);
    if (waiter.outstanding != before || pushed != pushed_before) {
      deadline = now_ms() + session.timeout_ms;
      continue;
    }
    if (const int connection = still_there(session, lock); connection != KVT_OK) {
      outcome = connection;
      break;
    }
    if (now_ms() > deadline) {
      outcome = set_error(KVT_E_AGAIN,
                          "the daemon did not answer within " + std::to_string(session.timeout_ms) + " ms");
      break;
    }
  }
  std::erase(session.waiters, &waiter);
  return outcome;
}

}  // namespace kvt::client

extern "C" {

int kvt_flush(kvt_session* session) noexcept {
  KVT_ENTER(session);
  if (session->ending_steps.load(std::memory_order_relaxed) != 0) kvt::client::settle_steps(*session);
  kvt_abi_submission command{};
  command.op = KVT_OP_FLUSH;
  kvt_abi_completion result{};
  return kvt::client::submit_and_wait(*session, std::span(&command, 1), &result);
}

}  // extern "C"
