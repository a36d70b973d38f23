// Work that is woken often: an object is run by one of a few threads after each wake(), never by two at once, and wakes
// that come before it ran, or while it runs, are one.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace l4::serve {

class Tasks {
 public:
  class Task : public std::enable_shared_from_this<Task> {
   public:
    virtual ~Task() = default;
    void wake(Tasks& tasks);  // any thread; cheap

   private:
    friend class Tasks;
    virtual void run() noexcept = 0;
    std::atomic<int> wakes_{0};
  };

  explicit Tasks(int n_threads);
  ~Tasks() { stop(); }
  void stop();  // runs what was woken, then ends; wakes that come later do nothing
  Tasks(const Tasks&) = delete;
  Tasks& operator=(const Tasks&) = delete;

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::shared_ptr<Task>> queue_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace l4::serve
