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

// Returns a value of `word` for which done() holds.
template <class Done>
uint32_t wait_until(const std::atomic<uint32_t>& word, Done done) {
  uint32_t value;
  for (int i = 0; i < kSpins; ++i) {
    if (done(value = word.load(std::memory_order_acquire))) return value;
    pause_cpu();
  }
  while (!done(value = word.load(std::memory_order_acquire))) word.wait(value, std::memory_order_acquire);
  return value;
}

// The loop's number and how many of its ranges nobody has taken, in one word: taking a range proves that its loop is
// the current one and stays so until the range is done.
constexpr uint32_t kLeftBits = 14, kLeftMask = (1u << kLeftBits) - 1;
constexpr int kRangesPerThread = 4;  // a core that is slow or shared does not hold up the others
constexpr int kMaxThreads = int(kLeftMask) / kRangesPerThread;
}  // namespace

// The caller waits for ranges that somebody took, never for a thread as such: one that the system does not run, because
// something else has its core, takes nothing and holds up nobody.
struct ThreadPool::State {
  std::vector<std::thread> threads;
  std::atomic<uint32_t> ticket{0};   // see kLeftBits
  std::atomic<uint32_t> pending{0};  // ranges that are not done
  std::atomic<bool> stopping{false};
  // The current loop. Written while no range is pending, read by who has taken one.
  Call call = nullptr;
  const void* body = nullptr;
  int64_t n = 0, range = 1;
  std::mutex error_mutex;
  std::exception_ptr error;

  void start(uint32_t n_ranges) {
    pending.store(n_ranges, std::memory_order_relaxed);
    const uint32_t loop = (ticket.load(std::memory_order_relaxed) >> kLeftBits) + 1;
    ticket.store(loop << kLeftBits | n_ranges, std::memory_order_release);
    ticket.notify_all();
  }

  // Takes ranges until none is left.
  void work() {
    for (uint32_t t = ticket.load(std::memory_order_acquire); (t & kLeftMask) != 0;) {
      if (!ticket.compare_exchange_weak(t, t - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      const int64_t begin = (int64_t(t & kLeftMask) - 1) * range;
      try {
        call(body, begin, std::min(begin + range, n));
      } catch (...) {
        std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
      }
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) pending.notify_one();
      t = ticket.load(std::memory_order_acquire);
    }
  }

  void loop() {
    while (!stopping) {
      wait_until(ticket, [&](uint32_t t) { return (t & kLeftMask) != 0 || stopping; });
      work();
    }
  }
};

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>()) {
  if (n_threads <= 0) n_threads = int(std::max(1u, std::thread::hardware_concurrency()));
  n_threads = std::min(n_threads, kMaxThreads);
  for (int i = 1; i < n_threads; ++i) state_->threads.emplace_back([this] { state_->loop(); });
}

ThreadPool::~ThreadPool() {
  state_->stopping = true;
  state_->start(0);
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
  s.range = std::max(grain, (n + kRangesPerThread * size() - 1) / (kRangesPerThread * size()));
  s.start(uint32_t((n + s.range - 1) / s.range));
  s.work();
  wait_until(s.pending, [](uint32_t left) { return left == 0; });
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

}  // namespace l4
