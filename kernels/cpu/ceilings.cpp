#include "ops/ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "base/thread_pool.h"
#include "kernels/cpu/host_memory.h"
#include "ops/backend.h"

namespace l4 {

namespace {

template <class Body>
double fastest_seconds(int n_times, const Body& body) {
  double best = 1e30;
  for (int i = 0; i < n_times; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

double read_rate(int n_threads) {
  constexpr int64_t kBytes = int64_t(256) << 20, kWords = kBytes / 8;
  ThreadPool pool(n_threads);
  const Buffer buffer = cpu::huge_buffer(size_t(kBytes), "the read stream");
  uint64_t* words = static_cast<uint64_t*>(buffer.data());
  pool.parallel_for(kWords, 1 << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) words[i] = uint64_t(i) * 0x9E3779B97F4A7C15ull;
  });
  std::atomic<uint64_t> all = 0;
  const double seconds = fastest_seconds(4, [&] {
    pool.parallel_for(kWords, 1 << 16, [&](int64_t begin, int64_t end) {
      uint64_t sums[8] = {};  // independent, so that the loop waits for memory alone
      int64_t i = begin;
      for (; i + 8 <= end; i += 8)
        for (int lane = 0; lane < 8; ++lane) sums[lane] ^= words[i + lane];
      for (; i < end; ++i) sums[0] ^= words[i];
      for (const uint64_t sum : sums) all ^= sum;  // read, so that the loop stays
    });
  });
  return double(kBytes) / seconds;
}

double product_rate(int n_threads) {
  constexpr int64_t kRows = 256, kN = 2048, kK = 2048;
  const std::unique_ptr<Backend> backend = make_cpu_backend(n_threads);
  const RandomSlice slice{{.n = kN, .k = kK, .n_stride = kK}, 0, {1, 0, 0.03125f}};
  const PackedWeight w = backend->pack_random({.name = "a product", .n = kN, .k = kK}, {&slice, 1}, {});
  View in{nullptr, DType::bf16, {kRows, kK}}, out{nullptr, DType::bf16, {kRows, kN}};
  const Buffer x = backend->allocate(in.bytes(), "a product"), y = backend->allocate(out.bytes(), "a product");
  in.data = x.data(), out.data = y.data();
  backend->fill_random(in, {2, 0, 1}, 0);
  Arena measuring;
  LinearArgs args{};
  args.in = in, args.out = out;
  args.w = &w;
  args.work = &measuring;
  backend->linear(args);
  Arena work(backend->allocate(std::max<size_t>(measuring.peak(), Arena::kAlign), "a product"));
  args.work = &work;
  const double seconds = fastest_seconds(3, [&] {
    work.reset();
    backend->linear(args);
  });
  return 2.0 * double(kRows) * double(kN) * double(kK) / seconds;
}

}  // namespace

Ceilings measure_cpu_ceilings(int n_threads) {
  const double flops = product_rate(n_threads);
  return {read_rate(n_threads), flops, flops};
}

}  // namespace l4
