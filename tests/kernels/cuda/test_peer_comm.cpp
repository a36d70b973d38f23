// Sums and gathers among GPUs; under emulation two threads play two GPUs.
#include <thread>

#include "kernels/cuda/matmul_testing.h"
#include "kernels/cuda/peer_comm.h"

using namespace l4;
using namespace l4::test;

namespace {

constexpr int kRanks = 2;

struct Pair {
  GpuMachine first{0}, second{1};
  GpuMachine* of[kRanks] = {&first, &second};
  std::vector<std::unique_ptr<Comm>> comms;
  Pair() {
    cuda::Gpu* gpus[] = {&first.gpu, &second.gpu};
    REQUIRE(cuda::are_peers(gpus));
    comms = cuda::make_peer_comms(gpus, {});
  }
  // body(rank, its machine, its comm) on a thread a rank.
  template <class Body>
  void on_both(Body body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < kRanks; ++rank)
      threads.emplace_back([&, rank] {
        L4_CUDA(cudaSetDevice(rank));
        body(rank, *of[rank], *comms[size_t(rank)]);
      });
    for (std::thread& t : threads) t.join();
  }
};

}  // namespace

TEST_CASE("cuda peers: sums are by rank, rounded once, the same on every rank; each inbox is used many times") {
  Pair pair;
  Numbers numbers(5);
  for (DType dtype : {DType::f32, DType::bf16})
    for (int64_t n : {2, 8, 5120, 6, 1026, 4096, 2, 700'000}) {
      CAPTURE(n);
      CAPTURE(dtype_name(dtype));
      Values parts[kRanks] = {numbers.tensor(dtype, {n}), numbers.tensor(dtype, {n})};
      for (Values& part : parts) part.set(0, -0.0f), part.set(1, -0.0f);
      Values got[kRanks] = {Values(dtype, {n}), Values(dtype, {n})};
      pair.on_both([&](int rank, GpuMachine& gpu, Comm& comm) {
        View data = gpu.upload(parts[rank].view);
        comm.all_reduce_sum(data);
        gpu.read(got[rank].view, data);
      });
      for (int64_t i = 0; i < n; ++i) {
        float sum = float(parts[0].at(i)) + float(parts[1].at(i));
        if (dtype == DType::bf16) sum = round_bf16(sum);
        if (got[0].at(i) != sum || got[1].at(i) != sum)
          FAIL(cat("element ", i, ": ", got[0].at(i), " and ", got[1].at(i), ", wanted ", sum));
      }
    }
}

TEST_CASE("cuda peers: a product sends its part itself, and the residual has the sum") {
  Pair pair;
  for (GpuMachine* gpu : pair.of) gpu->gpu.n_sms = 64;  // a quarter of them at most exchange, one a row
  for (int64_t m : {1, 3, 7, 12}) {
    CAPTURE(m);
    Numbers numbers{uint64_t(m)};
    ThreadPool pool(1);
    const int64_t n = 264, k = 128;
    std::optional<GpuWeights> weights[kRanks];
    const Values x = numbers.tensor(DType::bf16, {m, n});
    Values in[kRanks] = {numbers.tensor(DType::bf16, {m, k}), numbers.tensor(DType::bf16, {m, k})};
    for (int rank = 0; rank < kRanks; ++rank) {
      L4_CUDA(cudaSetDevice(rank));
      weights[rank].emplace(*pair.of[rank], pool, numbers, LinearSpec{.name = "w", .n = n, .k = k, .bias = rank == 0});
    }
    Values parts[kRanks] = {Values(DType::bf16, {m, n}), Values(DType::bf16, {m, n})}, got[kRanks] = {x, x};
    pair.on_both([&](int rank, GpuMachine& gpu, Comm&) {
      const View input = gpu.upload(in[rank].view), y = gpu.empty(DType::bf16, {m, n});
      gpu.run([&](const cuda::OpContext& ctx) { cuda::linear(ctx, input, weights[rank]->device, y, DType::bf16); });
      gpu.read(parts[rank].view, y);
    });
    Values norm(DType::bf16, {n});
    for (int64_t i = 0; i < n; ++i) norm.set(i, 1);
    for (int repeat = 0; repeat < 7; ++repeat)  // every inbox, and both that sum
      pair.on_both([&](int rank, GpuMachine& gpu, Comm& comm) {
        const View input = gpu.upload(in[rank].view), sum = gpu.upload(x.view), y = gpu.empty(DType::bf16, {m, n}),
                   h = gpu.empty(DType::bf16, {m, n}), weight = gpu.upload(norm.view);
        gpu.run([&](const cuda::OpContext& ctx) {
          std::optional<cuda::PeerLinks> links = cuda::links_for(comm, y);
          REQUIRE(links);
          links->sent = cuda::linear(ctx, input, weights[rank]->device, y, DType::bf16, &*links);
          CHECK(links->sent);
          if (repeat % 2)
            cuda::add_residual(ctx, y, sum, &*links);
          else
            cuda::add_residual_norm_route(ctx, y, sum, weight, 1e-5f, h, nullptr, {}, &*links);
        });
        gpu.read(got[rank].view, sum);
      });
    for (int64_t i = 0; i < m * n; ++i) {
      const float sum = round_bf16(float(parts[0].at(i)) + float(parts[1].at(i)));
      const float want = round_bf16(float(x.at(i)) + sum);
      if (got[0].at(i) != want || got[1].at(i) != want)
        FAIL(cat("element ", i, ": ", got[0].at(i), " and ", got[1].at(i), ", wanted ", want));
    }
  }
}

TEST_CASE("cuda peers: gathers keep the ranks' order") {
  Pair pair;
  Numbers numbers(6);
  for (int64_t n : {1, 80, 131, 40'000}) {
    Values parts[kRanks] = {numbers.tensor(DType::f32, {n}), numbers.tensor(DType::f32, {n})};
    Values got[kRanks] = {Values(DType::f32, {kRanks, n}), Values(DType::f32, {kRanks, n})};
    pair.on_both([&](int rank, GpuMachine& gpu, Comm& comm) {
      View part = gpu.upload(parts[rank].view), all = gpu.empty(DType::f32, {kRanks, n});
      comm.all_gather(part, all);
      gpu.read(got[rank].view, all);
    });
    for (int rank = 0; rank < kRanks; ++rank)
      for (int64_t i = 0; i < kRanks * n; ++i) CHECK(got[rank].at(i) == parts[i / n].at(i % n));
  }
}

TEST_CASE("cuda peers: a recorded sum can be replayed") {
  Pair pair;
  const std::vector<float> ones(1000, 1.0f);
  pair.on_both([&](int, GpuMachine& gpu, Comm& comm) {
    const View data = gpu.upload({const_cast<float*>(ones.data()), DType::f32, {1000}});
    auto replay = gpu.record([&](const cuda::OpContext& ctx) {
      if (!ctx.measuring()) comm.all_reduce_sum(data);
    });
    for (int i = 0; i < 5; ++i) replay();
    CHECK(gpu.download(data).at(999) == 32.0);
  });
}

TEST_CASE("cuda peers: a rank that failed does not hang the others") {
  Pair pair;
  pair.on_both([&](int rank, GpuMachine& gpu, Comm& comm) {
    if (rank == 1) return comm.abort();
    const View data = gpu.empty(DType::f32, {64});
    comm.all_reduce_sum(data);
    gpu.wait();
  });
}
