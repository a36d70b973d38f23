#include "dist/comm.h"

#include <atomic>
#include <functional>
#include <numeric>
#include <thread>

#include "support/test.h"

using namespace l4;

namespace {

// Runs body(comm) on every rank of a group of `size`.
void on_all(int size, const std::function<void(Comm&)>& body) {
  auto comms = make_thread_comms(size);
  std::vector<std::thread> threads;
  for (auto& c : comms) threads.emplace_back([&, comm = c.get()] { body(*comm); });
  for (std::thread& t : threads) t.join();
}

View view_of(std::vector<float>& v, Shape shape) {
  return {v.data(), DType::f32, shape};
}

}  // namespace

TEST_CASE("comm: collectives of thread groups of 1 to 5 ranks") {
  for (int size = 1; size <= 5; ++size) {
    std::atomic<int> good = 0;
    on_all(size, [&](Comm& comm) {
      const int r = comm.rank();
      bool ok = comm.size() == size;
      for (int round = 0; round < 20; ++round) {
        std::vector<float> x{float(r), float(r * 10 + round), 1};
        comm.all_reduce_sum(view_of(x, {3}));
        const float ranks = float(size * (size - 1) / 2);
        ok &= x == std::vector<float>{ranks, ranks * 10 + float(size * round), float(size)};

        std::vector<BFloat16> b{to_bf16(float(r + 1)), to_bf16(0.5f)};
        comm.all_reduce_sum({b.data(), DType::bf16, {2}});
        ok &= to_float(b[0]) == float(size * (size + 1) / 2) && to_float(b[1]) == 0.5f * float(size);

        std::vector<float> part{float(r), float(-r)}, all(size_t(2 * size));
        comm.all_gather(view_of(part, {1, 2}), view_of(all, {size, 2}));
        for (int i = 0; i < size; ++i) ok &= all[size_t(2 * i)] == float(i) && all[size_t(2 * i + 1)] == float(-i);

        std::vector<float> word{float(r)};
        comm.broadcast(view_of(word, {1}), size - 1);
        ok &= word[0] == float(size - 1);

        std::vector<float> from, to(static_cast<size_t>(size));
        for (int i = 0; i < size; ++i) from.push_back(float(100 * r + i));
        comm.all_to_all(view_of(from, {size, 1}), view_of(to, {size, 1}));
        for (int i = 0; i < size; ++i) ok &= to[size_t(i)] == float(100 * i + r);

        if (size > 1) {  // a ring, the odd ranks receiving first
          std::vector<float> mine{float(r)}, theirs{-1};
          int next = (r + 1) % size, previous = (r + size - 1) % size;
          if (r == 0) {
            comm.send(view_of(mine, {1}), next);
            comm.recv(view_of(theirs, {1}), previous);
          } else {
            comm.recv(view_of(theirs, {1}), previous);
            comm.send(view_of(mine, {1}), next);
          }
          ok &= theirs[0] == float(previous);
        }
      }
      if (ok) ++good;
    });
    CHECK(good == size);
  }
}

TEST_CASE("comm: a rank that fails does not leave the others waiting") {
  std::atomic<int> told = 0;
  on_all(3, [&](Comm& comm) {
    if (comm.rank() == 1) {
      comm.abort();
      return;
    }
    std::vector<float> x{1};
    try {
      comm.all_reduce_sum(view_of(x, {1}));
    } catch (const Error& e) {
      if (e.message() == "another rank failed") ++told;
    }
  });
  CHECK(told == 2);
}

TEST_CASE("comm: a group of one copies") {
  auto comm = make_single_comm();
  std::vector<float> a{1, 2}, b(2);
  comm->all_gather(view_of(a, {2}), view_of(b, {1, 2}));
  CHECK(b == a);
}
