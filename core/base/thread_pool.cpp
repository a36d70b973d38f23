#include "base/thread_pool.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace l4 {

namespace {
// A decode step is dozens of loops a few microseconds apart: waiters spin for some tens of microseconds before they
// sleep, so that within a step nobody pays for a system call.
constexpr int kSpins = 2000;

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns the first value of `word` that is not `old`.
template <class T>
T wait_change(const std::atomic<T>& word, T old) {
  T value;
  for (int i = 0; i < kSpins; ++i) {
    if ((value = word.load(std::memory_order_acquire)) != old) return value;
    pause_cpu();
  }
  while ((value = word.load(std::memory_order_acquire)) == old) word.wait(old, std::memory_order_acquire);
  return value;
}
}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> threads;
  std::atomic<uint32_t> generation{0};  // counts loops; a change wakes the threads
  std::atomic<int> running{0};          // threads that have not finished the current loop
  std::atomic<int64_t> next{0};         // first index nobody has taken
  // The current loop. Written before `generation` changes, read after.
  Call call = nullptr;
  const void* body = nullptr;
  int64_t n = 0, chunk = 1;
  bool stopping = false;
  std::mutex error_mutex;
  std::exception_ptr error;

  void work() {
    for (int64_t begin; (begin = next.fetch_add(chunk, std::memory_order_relaxed)) < n;) {
      try {
        call(body, begin, std::min(begin + chunk, n));
      } catch (...) {
        std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    }
  }

  void loop() {
    uint32_t seen = 0;
    while (true) {
      seen = wait_change(generation, seen);
      if (stopping) return;
      work();
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
    }
  }

  void start() {
    generation.fetch_add(1, std::memory_order_release);
    generation.notify_all();
  }
};

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>()) {
  if (n_threads <= 0) n_threads = int(std::max(1u, std::thread::hardware_concurrency()));
  for (int i = 1; i < n_threads; ++i) state_->threads.emplace_back([this] { state_->loop(); });
}

ThreadPool::~ThreadPool() {
  state_->stopping = true;
  state_->start();
  for (std::thread& t : state_->threads) t.join();
}

int ThreadPool::size() const {
  return int(state_->threads.size()) + 1;
}

void ThreadPool::run(int64_t n, int64_t grain, Call call, const void* body) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (size() == 1 || n <= grain) {
    call(body, 0, n);
    return;
  }
  State& s = *state_;
  s.call = call;
  s.body = body;
  s.n = n;
  // Four ranges a thread: a core that is slow or shared does not hold up the others.
  s.chunk = std::max(grain, (n + 4 * size() - 1) / (4 * size()));
  s.next.store(0, std::memory_order_relaxed);
  s.running.store(size() - 1, std::memory_order_relaxed);
  s.start();
  s.work();
  for (int left = s.running.load(std::memory_order_acquire); left != 0;) left = wait_change(s.running, left);
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

}  // namespace l4
