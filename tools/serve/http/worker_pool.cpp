#include "tools/serve/http/worker_pool.h"

namespace l4::serve {

WorkerPool::WorkerPool(int n_workers) {
  for (int i = 0; i < n_workers; ++i) threads_.emplace_back([this] { work(false); });
  threads_.emplace_back([this] { work(true); });
}

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  more_.notify_all();
  more_quick_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::add(std::function<void()> job, bool is_quick) {
  const std::lock_guard lock(mutex_);
  (is_quick ? quick_jobs_ : jobs_).push_back(std::move(job));
  (is_quick ? more_quick_ : more_).notify_one();
}

void WorkerPool::work(bool quick_only) {
  std::deque<std::function<void()>>& jobs = quick_only ? quick_jobs_ : jobs_;
  std::condition_variable& more = quick_only ? more_quick_ : more_;
  std::unique_lock lock(mutex_);
  for (;;) {
    more.wait(lock, [&] { return ends_ || !jobs.empty(); });
    if (ends_) return;
    std::function<void()> job = std::move(jobs.front());
    jobs.pop_front();
    lock.unlock();
    job();
    job = nullptr;  // what it holds ends outside the lock too
    lock.lock();
  }
}

}  // namespace l4::serve
