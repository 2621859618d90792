// SPDX-License-Identifier: Apache-2.0
#include "daemon/mover/mover.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

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

/// Memory that is not there fails the job, and nothing else.
void do_job(Job& job) {
  Touched touched{job.target, job.source, &job};
  if (job.poison == BadSide::kSource) touched.source = missing_memory();
  if (job.poison == BadSide::kTarget) touched.target = missing_memory();
  job.bad =
      touch_guarded(job.sums ? touch_with_sums : touch, &touched, touched.source, touched.target, job.bytes);
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
                   complete(jobs.data(), jobs.size());
                 }));
  copiers_[ordinal] = std::move(copier);
  return {};
}

bool Mover::stop_gpus() {
  bool have_ended = true;
  for (const auto& [ordinal, copier] : copiers_) have_ended = copier->stop() && have_ended;
  return have_ended;
}

Mover::~Mover() {
  copiers_.clear();  // their completions come back until then
  {
    const std::lock_guard guard(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Mover::submit(const Job& job) {
  if (job.gpu >= 0) return copiers_.at(job.gpu)->submit(job);
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
