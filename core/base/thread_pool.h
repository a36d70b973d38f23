// A fixed set of threads for data-parallel loops. One owner a pool; a loop may not start another on the same pool.
// Starting a loop allocates nothing and costs about a microsecond while the threads are awake.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>

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
  template <class Body>
  void parallel_for(int64_t n, int64_t grain, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run(
        n, grain, [](const void* b, int64_t begin, int64_t end) { (*static_cast<const Plain*>(b))(begin, end); },
        std::addressof(body));
  }

  // Calls body(slot, item) once for every item in [0, n). Calls with the same slot in [0, size()) never overlap, so a
  // slot can own scratch memory. Which slot gets which item depends on timing: results must not depend on the slot.
  template <class Body>
  void parallel_items(int64_t n, Body&& body) {
    std::atomic<int64_t> next{0};
    parallel_for(n < size() ? n : size(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot)
        for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < n;) body(slot, item);
    });
  }

 private:
  struct State;
  using Call = void (*)(const void* body, int64_t begin, int64_t end);
  void run(int64_t n, int64_t grain, Call call, const void* body);
  std::unique_ptr<State> state_;
};

}  // namespace l4
