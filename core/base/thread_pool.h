// A fixed set of threads for data-parallel loops. One owner a pool; a loop may not start another on the same pool.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace l4 {

class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);  // the calling thread counts as one; 0 = one per available core
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  // Calls body(begin, end) on disjoint ranges that cover [0, n), each at least `grain` long but the last; returns when
  // all are done. Ranges depend on n, grain and size() only, never on timing. The first exception is rethrown here.
  void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace l4
