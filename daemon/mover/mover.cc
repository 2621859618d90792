// SPDX-License-Identifier: Apache-2.0
#include "daemon/mover/mover.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>

#include "daemon/mover/checksum.h"
#include "daemon/mover/copy.h"
#include "daemon/restart/points.h"

namespace kvt::mover {

namespace {

/// What of a job touches memory that may not be there.
struct Touched {
  std::byte* target;
  const std::byte* source;
  Job* job;
};

void flip_a_bit(const Touched& touched) {
  if (touched.job->flip == 0) return;
  --touched.job->flip;
  touched.target[touched.job->bytes / 2] ^= std::byte{0x10};
}

void touch(void* raw) {
  const auto& touched = *static_cast<const Touched*>(raw);
  copy_page(touched.target, touched.source, touched.job->bytes);
  flip_a_bit(touched);
}

void touch_with_sums(void* raw) {
  const auto& touched = *static_cast<const Touched*>(raw);
  Job& job = *touched.job;
  for (;;) {
    job.sum = touched.target == nullptr ? page_sum(touched.source, job.bytes)
                                        : copy_page_summed(touched.target, touched.source, job.bytes);
    if (job.expected != 0 && job.sum != job.expected) job.finding = Finding::kSourceWrong;
    if (touched.target == nullptr || job.finding == Finding::kSourceWrong) return;
    flip_a_bit(touched);
    if (page_sum(touched.target, job.bytes) == job.sum) return;
    if (job.mismatches++ == kCopiesAgain) break;
  }
  job.finding = Finding::kTargetWrong;
}

/// A worker's part of a GPU's job: what lies in host memory is summed.
void touch_beside_gpu(void* raw) {
  const auto& touched = *static_cast<const Touched*>(raw);
  if (touched.job->out)
    touched.job->target_sum = page_sum(touched.target, touched.job->bytes);
  else
    touched.job->sum = page_sum(touched.source, touched.job->bytes);
}

enum class Next : uint8_t { kWorker, kGpu, kOver };

/// What a GPU's job with sums needs now, by the sums that are known. It means what touch_with_sums() makes of them.
Next next_of(Job& job) {
  if (job.sum != 0 && job.expected != 0 && job.sum != job.expected) {
    job.finding = Finding::kSourceWrong;
    return Next::kOver;
  }
  if (job.target == nullptr) return job.sum == 0 ? Next::kGpu : Next::kOver;
  if (job.sum != 0 && job.target_sum != 0 && job.sum != job.target_sum) {
    if (job.mismatches++ == kCopiesAgain) {
      job.finding = Finding::kTargetWrong;
      return Next::kOver;
    }
    job.sum = job.target_sum = 0;
  }
  const bool from_host = !job.out && !job.within;
  if (job.sum == 0 && job.target_sum == 0) return from_host && job.expected == 0 ? Next::kWorker : Next::kGpu;
  if (job.target_sum == 0) return job.out && !job.within ? Next::kWorker : Next::kGpu;
  if (job.sum == 0) {  // in host memory, and not read so far, since it was known what it should be
    if (job.target_sum != job.expected) return Next::kWorker;
    job.sum = job.expected;
  }
  return Next::kOver;
}

/// Memory that is not there fails the job, and nothing else.
void do_job(Job& job) {
  Touched touched{job.target, job.source, &job};
  if (job.poison == BadSide::kSource) touched.source = missing_memory();
  if (job.poison == BadSide::kTarget) touched.target = missing_memory();
  if (job.gpu >= 0) {
    const bool source = !job.out;
    job.bad = touch_guarded(touch_beside_gpu, &touched, source ? touched.source : nullptr,
                            source ? nullptr : touched.target, job.bytes);
  } else {
    job.bad = touch_guarded(job.sums ? touch_with_sums : touch, &touched, touched.source, touched.target,
                            job.bytes);
  }
  if (job.bad == BadSide::kNone) return;
  order_copied();  // what was copied until then, before the frame is somebody else's
  job.failed = true;
}

}  // namespace

Result<std::unique_ptr<Mover>> Mover::start(uint32_t workers) {
  catch_sigbus();
  Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return fail_errno("eventfd");
  std::unique_ptr<Mover> mover(new Mover(std::move(event)));
  try {
    for (uint32_t i = 0; i < workers; ++i) {
      mover->threads_.emplace_back([raw = mover.get()] { raw->work(); });
      ::pthread_setname_np(mover->threads_.back().native_handle(), ("copy-" + std::to_string(i)).c_str());
    }
  } catch (const std::system_error& error) {
    // One is enough to go on with.
    if (mover->threads_.empty()) return fail_errno("start of a copy worker", error.code().value());
  }
  return mover;
}

Result<void> Mover::add_gpu(int ordinal, std::shared_ptr<cuda::Gpu> gpu) {
  KVT_TRY_ASSIGN(auto copier, GpuCopier::start(std::move(gpu), [this](std::vector<Job> jobs) {
                   go_on(jobs.data(), jobs.size());
                 }));
  const std::lock_guard guard(mutex_);
  copiers_[ordinal] = std::move(copier);
  return {};
}

GpuCopier* Mover::copier(int ordinal) const {
  const std::lock_guard guard(mutex_);
  const auto found = copiers_.find(ordinal);
  return found == copiers_.end() ? nullptr : found->second.get();
}

bool Mover::can_sum(int ordinal) const {
  const GpuCopier* const gpu = copier(ordinal);
  return gpu != nullptr && gpu->can_sum();
}

bool Mover::stop_gpus() {
  bool have_ended = true;
  for (const auto& [ordinal, copier] : copiers_) have_ended = copier->stop() && have_ended;
  return have_ended;
}

Mover::~Mover() {
  stop_gpus();  // their completions come back until then
  {
    const std::lock_guard guard(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  copiers_.clear();  // not before the workers, who may have something for them
}

/// GPUs' jobs of which a part is done, or none: hands them on to who does the next part, or they are over.
void Mover::go_on(Job* jobs, size_t count) {
  size_t over = 0;
  size_t queued = 0;
  for (size_t i = 0; i < count; ++i) {
    Job& job = jobs[i];
    const Next next = job.failed || !job.sums ? Next::kOver : next_of(job);
    if (next == Next::kGpu) {
      copier(job.gpu)->submit(job);
    } else if (next == Next::kWorker) {
      const std::lock_guard guard(mutex_);
      queue_.push_back(job);
      ++queued;
    } else {
      jobs[over++] = job;
    }
  }
  for (size_t i = 0; i < std::min(queued, threads_.size()); ++i) wake_.notify_one();
  if (over != 0) complete(jobs, over);
}

void Mover::submit(const Job& job) {
  if (job.gpu >= 0 && job.sums) {
    Job begun = job;
    return go_on(&begun, 1);
  }
  if (job.gpu >= 0) return copier(job.gpu)->submit(job);
  {
    const std::lock_guard guard(mutex_);
    queue_.push_back(job);
  }
  wake_.notify_one();
}

std::vector<Job> Mover::take_completions() {
  uint64_t count = 0;
  // Non-blocking, ours alone
  [[maybe_unused]] const ssize_t got = ::read(event_.get(), &count, sizeof count);
  const std::lock_guard guard(mutex_);
  return std::exchange(done_, {});
}

void Mover::work() {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      job = queue_.front();
      queue_.pop_front();
    }
    do_job(job);
    if (job.gpu >= 0) {
      go_on(&job, 1);
      continue;
    }
    restart::reach(restart::Point::kMoveCopied);
    complete(&job, 1);
  }
}

void Mover::complete(const Job* jobs, size_t count) {
  bool tell = false;
  {
    const std::lock_guard guard(mutex_);
    tell = done_.empty();
    done_.insert(done_.end(), jobs, jobs + count);
  }
  const uint64_t one = 1;
  if (tell) [[maybe_unused]]
    const ssize_t put = ::write(event_.get(), &one, sizeof one);
}

}  // namespace kvt::mover
