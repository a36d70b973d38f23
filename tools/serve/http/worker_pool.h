// The threads that run handlers. One of them takes quick jobs only, so that /health answers while the others decode
// pictures.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace l4::serve {

class WorkerPool {
 public:
  explicit WorkerPool(int n_workers);  // and the quick one
  ~WorkerPool();                       // what has not begun is dropped
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Must not throw. A job waits no longer than connections are many: each has one at a time.
  void add(std::function<void()> job, bool is_quick);

 private:
  void work(bool quick_only);
  std::mutex mutex_;
  std::condition_variable more_, more_quick_;
  std::deque<std::function<void()>> jobs_, quick_jobs_;
  bool ends_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace l4::serve
