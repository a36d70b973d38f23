// NCCL's communicators, on two GPUs; there is none under emulation.
#include <thread>

#include "kernels/cuda/gpu_testing.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/nccl_comm.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("cuda nccl: a communicator ends where recordings hold its sums, when they have been forgotten") {
  skip_without_gpu(2);
#ifdef L4_EMULATED
  L4_SKIP("NCCL");
#else
  constexpr int kRanks = 2;
  constexpr int64_t kElements = 1 << 20;
  GpuMachine machines[kRanks] = {GpuMachine(0), GpuMachine(1)};
  cuda::Gpu* gpus[] = {&machines[0].gpu, &machines[1].gpu};
  std::unique_ptr<cuda::Recording> recordings[kRanks];
  auto comms = cuda::make_nccl_comms(gpus, [&](int rank) { recordings[rank].reset(); });
  Values got[kRanks] = {Values(DType::f32, {kElements}), Values(DType::f32, {kElements})};
  View parts[kRanks];  // there before anything runs: who allocates may wait for the other's sum
  for (int rank = 0; rank < kRanks; ++rank) {
    Values part(DType::f32, {kElements});
    for (int64_t i = 0; i < kElements; ++i) part.set(i, double(i % 97 + rank));
    L4_CUDA(cudaSetDevice(rank));
    parts[rank] = machines[rank].upload(part);
  }
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank)
    threads.emplace_back([&, rank] {
      GpuMachine& gpu = machines[rank];
      const View& data = parts[rank];
      L4_CUDA(cudaSetDevice(rank));
      recordings[rank] =
          std::make_unique<cuda::Recording>(gpu.gpu.stream, [&] { comms[size_t(rank)]->all_reduce_sum(data); });
      recordings[rank]->replay();
      gpu.read(got[rank], data);
    });
  for (std::thread& t : threads) t.join();
  for (const Values& sum : got)
    for (int64_t i = 0; i < kElements; ++i) REQUIRE(sum.at(i) == double(2 * (i % 97) + 1));
  comms.clear();  // would wait for ever
  for (const auto& recording : recordings) CHECK_FALSE(recording);
#endif
}
