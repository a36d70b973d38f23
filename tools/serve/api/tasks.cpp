#include "tools/serve/api/tasks.h"

namespace l4::serve {

void Tasks::Task::wake(Tasks& tasks) {
  if (wakes_.fetch_add(1) > 0) return;  // waits in the queue, or will look again
  {
    const std::lock_guard lock(tasks.mutex_);
    if (tasks.ending_) return;
    tasks.queue_.push_back(shared_from_this());
  }
  tasks.ready_.notify_one();
}

Tasks::Tasks(int n_threads) {
  for (int i = 0; i < n_threads; ++i) threads_.emplace_back([this] { work(); });
}

void Tasks::stop() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void Tasks::work() {
  for (;;) {
    std::shared_ptr<Task> task;
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [&] { return ending_ || !queue_.empty(); });
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    for (int seen = task->wakes_.load(); seen > 0; seen = task->wakes_.fetch_sub(seen) - seen) task->run();
  }
}

}  // namespace l4::serve
