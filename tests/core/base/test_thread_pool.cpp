#include "base/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

#include "support/test.h"

using namespace l4;

TEST_CASE("thread pool: every index exactly once, in ranges that do not depend on timing") {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    CHECK(pool.size() == threads);
    for (int64_t n : {0, 1, 7, 100, 1000})
      for (int64_t grain : {0, 1, 3, 64, 5000}) {
        std::vector<std::pair<int64_t, int64_t>> first;
        for (int repeat = 0; repeat < 20; ++repeat) {
          std::mutex mutex;
          std::vector<std::pair<int64_t, int64_t>> ranges;
          pool.parallel_for(n, grain, [&](int64_t begin, int64_t end) {
            std::lock_guard lock(mutex);
            ranges.push_back({begin, end});
          });
          std::sort(ranges.begin(), ranges.end());
          int64_t at = 0;
          for (size_t i = 0; i < ranges.size(); ++i) {
            CHECK(ranges[i].first == at);
            CHECK((i + 1 == ranges.size() || ranges[i].second - at >= grain));
            at = ranges[i].second;
          }
          CHECK(at == n);
          if (repeat == 0) first = ranges;
          CHECK(ranges == first);
        }
      }
  }
}

TEST_CASE("thread pool: items once each, a slot never in two calls at a time") {
  ThreadPool pool(4);
  for (int64_t n : {0, 1, 3, 500}) {
    std::vector<std::atomic<int>> done(static_cast<size_t>(n)), busy(4);
    std::atomic<bool> overlap{false};
    pool.parallel_items(n, [&](int64_t slot, int64_t item) {
      if (busy[size_t(slot)].fetch_add(1) != 0) overlap = true;
      ++done[size_t(item)];
      --busy[size_t(slot)];
    });
    CHECK(!overlap);
    for (const auto& d : done) CHECK(d == 1);
  }
}

TEST_CASE("thread pool: the first exception arrives, and the pool goes on working") {
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int repeat = 0; repeat < 10; ++repeat) {
      CHECK(l4::test::error_of([&] {
              pool.parallel_for(100, 1, [](int64_t begin, int64_t) {
                if (begin % 2 == 0) fail(ErrorKind::internal, "broken");
              });
            }) == "broken");
      std::atomic<int64_t> sum{0};
      pool.parallel_for(100, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) sum += i;
      });
      CHECK(sum == 4950);
    }
  }
}

TEST_CASE("thread pool: loops that start after the threads have gone to sleep") {
  ThreadPool pool(3);
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int64_t> count{0};
    for (int i = 0; i < 200; ++i) pool.parallel_for(9, 1, [&](int64_t begin, int64_t end) { count += end - begin; });
    CHECK(count == 1800);
  }
}
