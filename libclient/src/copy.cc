// SPDX-License-Identifier: Apache-2.0
//
// Copy jobs: strided stores into FILLING pages and loads out of sealed ones, for engines that keep their own
// blocks.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "libclient/src/session.h"

namespace kvt::client {
namespace {

constexpr size_t kMaxJobs = 1024;

/// All of one copy's rows lie inside the page.
bool inside(const kvt_copy& copy, uint64_t page_bytes) {
  if (copy.rows == 0) return true;
  if (copy.row_bytes > page_bytes || copy.page_offset > page_bytes - copy.row_bytes) return false;
  const uint64_t room = page_bytes - copy.row_bytes - copy.page_offset;
  return copy.rows == 1 || copy.page_stride <= room / (copy.rows - 1);
}

void copy_rows(const kvt_copy& copy, std::byte* page, bool store) {
  auto* memory = static_cast<std::byte*>(copy.memory);
  for (uint32_t row = 0; row < copy.rows; ++row) {
    std::byte* const in_page = page + copy.page_offset + row * copy.page_stride;
    std::byte* const in_memory = memory + row * copy.memory_stride;
    if (store)
      std::memcpy(in_page, in_memory, copy.row_bytes);
    else
      std::memcpy(in_memory, in_page, copy.row_bytes);
  }
}

int copy_rows(kvt_session& session, const kvt_copy& copy, Frame frame, bool store) {
  std::byte* const page = session.frame_address(frame);
  if (session.is_device_frame(frame)) return copy_with_device(session, copy, page, store);
  copy_rows(copy, page, store);
  return KVT_OK;
}

int store_rows(kvt_session& session, const CopyJob& job) {
  for (const kvt_copy& copy : job.copies) {
    const Handle page{copy.page};
    if (const int own = check_own(session, page, false); own != KVT_OK) return own;
    const Placement placement = session.table.placement(session.geometry.column, page.index());
    if ((session.unreachable_tiers & 1u << placement.tier()) != 0)
      return set_error(KVT_E_PERMISSION, "the page lies in device memory, which this session has not mapped");
    if (const int copied = copy_rows(session, copy, placement.frame(), true); copied != KVT_OK) return copied;
  }
  return KVT_OK;
}

int store(kvt_session& session, const CopyJob& job) {
  if (session.device_tiers == 0) return store_rows(session, job);
  // What a device writes keeps its frames by a step (PROTOCOL A5).
  kvt_step step{};
  if (const int begun = kvt_step_begin(&session, &step); begun != KVT_OK) return begun;
  const int result = store_rows(session, job);
  const int ended = kvt_step_end(&session, &step);
  return result != KVT_OK ? result : ended;
}

int load(kvt_session& session, const CopyJob& job) {
  kvt_step step{};
  if (const int begun = kvt_step_begin(&session, &step); begun != KVT_OK) return begun;
  int result = KVT_OK;
  for (const kvt_copy& copy : job.copies) {
    kvt_frame frame = KVT_NO_FRAME;
    kvt_resolve(&session, &step, &copy.page, 1, &frame);
    if (frame == KVT_NO_FRAME) {
      result = set_error(KVT_E_STALE, "page " + std::to_string(Handle{copy.page}.index()) +
                                          " cannot be read: the handle is stale, or the page lies in "
                                          "device memory that this session has not mapped");
      break;
    }
    if (result = copy_rows(session, copy, frame, false); result != KVT_OK) break;
    touch(session.region, Handle{copy.page}.index());
  }
  const int ended = kvt_step_end(&session, &step);
  return result != KVT_OK ? result : ended;
}

/// Runs a job that this thread has set to kRunning, outside the lock.
void run(kvt_session& session, CopyJob& job) {
  job.result = job.direction == KVT_COPY_STORE ? store(session, job) : load(session, job);
  if (job.result != KVT_OK) job.text = kvt_last_error();
  const std::lock_guard guard(session.jobs_mutex);
  job.state = CopyJob::State::kDone;
  session.jobs_changed.notify_all();
}

void copy_thread(kvt_session& session) {
  for (;;) {
    std::shared_ptr<CopyJob> job;
    {
      std::unique_lock lock(session.jobs_mutex);
      session.jobs_changed.wait(lock, [&] { return session.stopping || !session.job_queue.empty(); });
      if (session.stopping) return;
      job = std::move(session.job_queue.front());
      session.job_queue.pop_front();
      if (job->state != CopyJob::State::kQueued) continue;
      job->state = CopyJob::State::kRunning;
    }
    run(session, *job);
  }
}

}  // namespace

int check_copy(const kvt_session& session, const kvt_copy& copy, size_t at) {
  if (copy.memory == nullptr)
    return set_error(KVT_E_INVALID, "copy " + std::to_string(at) + ": memory is NULL");
  if (!inside(copy, session.table.page_bytes()))
    return set_error(KVT_E_INVALID, "copy " + std::to_string(at) + ": a row leaves its page of " +
                                        std::to_string(session.table.page_bytes()) + " bytes");
  return KVT_OK;
}

void start_copy_threads(kvt_session& session, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i)
    session.copy_threads.emplace_back([&session] { copy_thread(session); });
}

void stop_copy_threads(kvt_session& session) {
  {
    const std::lock_guard guard(session.jobs_mutex);
    session.stopping = true;
  }
  session.jobs_changed.notify_all();
  for (std::thread& thread : session.copy_threads) thread.join();
  session.copy_threads.clear();
}

}  // namespace kvt::client

using kvt::client::CopyJob;
using kvt::client::set_error;

namespace {

/// Takes a finished job out. REQUIRES: jobs_mutex.
int finish(kvt_session& session, uint64_t id, const CopyJob& job) {
  const int result = job.result == KVT_OK ? KVT_OK : set_error(job.result, job.text);
  session.jobs.erase(id);
  return result;
}

}  // namespace

extern "C" {

int kvt_copy_submit(kvt_session* session, uint32_t direction, const kvt_copy* copies, size_t n,
                    uint64_t* job_id) noexcept {
  KVT_ENTER(session);
  if (direction != KVT_COPY_STORE && direction != KVT_COPY_LOAD)
    return set_error(KVT_E_INVALID, "direction is KVT_COPY_STORE or KVT_COPY_LOAD");
  if (direction == KVT_COPY_STORE && session->access != KVT_ACCESS_READ_WRITE)
    return set_error(KVT_E_PERMISSION, "the session has read access only");
  if (n == 0 || copies == nullptr || job_id == nullptr)
    return set_error(KVT_E_INVALID, "n is 0, or copies or job is NULL");
  for (size_t i = 0; i < n; ++i)
    if (const int good = kvt::client::check_copy(*session, copies[i], i); good != KVT_OK) return good;
  try {
    auto job = std::make_shared<CopyJob>();
    job->direction = direction;
    job->copies.assign(copies, copies + n);
    const std::lock_guard guard(session->jobs_mutex);
    if (session->jobs.size() >= kvt::client::kMaxJobs)
      return set_error(KVT_E_LIMIT, std::to_string(kvt::client::kMaxJobs) + " copy jobs are open");
    const uint64_t id = session->next_job++;
    session->jobs.emplace(id, job);
    if (!session->copy_threads.empty()) {
      session->job_queue.push_back(std::move(job));
      session->jobs_changed.notify_one();
    }
    *job_id = id;
  } catch (const std::bad_alloc&) {
    return set_error(KVT_E_NO_MEMORY, "no memory for a copy job");
  }
  return KVT_OK;
}

int kvt_copy_poll(kvt_session* session, uint64_t job) noexcept {
  KVT_ENTER(session);
  const std::lock_guard guard(session->jobs_mutex);
  const auto found = session->jobs.find(job);
  if (found == session->jobs.end()) return set_error(KVT_E_INVALID, "no copy job " + std::to_string(job));
  if (found->second->state != CopyJob::State::kDone) return 0;
  const int result = finish(*session, job, *found->second);
  return result == KVT_OK ? 1 : result;
}

int kvt_copy_wait(kvt_session* session, uint64_t job_id) noexcept {
  KVT_ENTER(session);
  std::shared_ptr<CopyJob> job;
  {
    std::unique_lock lock(session->jobs_mutex);
    const auto found = session->jobs.find(job_id);
    if (found == session->jobs.end())
      return set_error(KVT_E_INVALID, "no copy job " + std::to_string(job_id));
    job = found->second;
    if (job->state != CopyJob::State::kQueued) {
      session->jobs_changed.wait(lock, [&] { return job->state == CopyJob::State::kDone; });
      return finish(*session, job_id, *job);
    }
    job->state = CopyJob::State::kRunning;
  }
  kvt::client::run(*session, *job);
  const std::lock_guard guard(session->jobs_mutex);
  return finish(*session, job_id, *job);
}

}  // extern "C"
