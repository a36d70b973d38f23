// The emulator's own promises: what it finds wrong in a kernel.
#include <cuda_runtime.h>

#include <thread>

#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/ptx/barrier.h"
#include "kernels/cuda/ptx/cluster.h"
#include "kernels/cuda/ptx/cp_async.h"
#include "kernels/cuda/ptx/load.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/ptx/tma.h"
#include "support/test.h"

using namespace l4;
using namespace l4::cuda;

namespace {

// What the emulator says of a kernel, launched both ways round and both eager and late.
template <class... P, class... A>
std::string said(const Launch& l, void (*kernel)(P...), A... arguments) {
  std::string message;
  for (int i = 0; i < 4; ++i) {
    try {
      launch(l, kernel, arguments...);
      L4_CUDA(cudaStreamSynchronize(l.stream));
    } catch (const Error& e) {
      message = e.message();
    }
  }
  return message;
}
bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  MESSAGE(text);
  return false;
}

__global__ void missing_barrier(int n) {
  if (int(threadIdx.x) < n) barrier_sync(3, 64);
}
__global__ void diverging_shuffle() {
  if (threadIdx.x < 16)
    __shfl_xor_sync(0xffffffffu, 1, 1);
  else
    __ballot_sync(0xffffffffu, 1);
}
__global__ void missing_lanes() {
  __shared__ Mbarrier never;
  if (threadIdx.x == 0) mbarrier_init(&never, 1);
  __syncwarp();
  if (threadIdx.x < 16) __shfl_xor_sync(0xffffffffu, 1, 1);
  if (threadIdx.x >= 16) mbarrier_wait(&never, 0);
}
__global__ void wrong_bytes(const void* from, uint32_t n_expected, bool wait) {
  __shared__ Mbarrier full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_init_fence();
    mbarrier_arrive_expect_tx(&full, n_expected);
    bulk_load(dynamic_shared<>(), from, 128, &full);
  }
  __syncthreads();
  if (wait) mbarrier_wait(&full, 0);
}
__global__ void past_the_end(const void* from) {
  cp_async<16>(dynamic_shared<>() + 1024 - 8 * threadIdx.x, from);
  cp_async_commit();
  cp_async_wait<0>();
}
__global__ void no_store_wait(void* to) {
  bulk_store(to, dynamic_shared<>(), 16);
  bulk_commit();
}
__global__ void never_waits() {}
__global__ void waits() {
  wait_for_predecessor();
}
__global__ void checked(int n) {
  L4_CHECK(int(threadIdx.x) < n, "thread ", threadIdx.x);
}
// Each thread reads its neighbour's value with no barrier in between: wrong in one of the orders.
__global__ void race(int* out) {
  __shared__ int values[64];
  values[threadIdx.x] = int(threadIdx.x) + 1000 * int(blockIdx.x);
  const int v = values[(threadIdx.x + 1) % 64];
  out[threadIdx.x] = v;
}
// Reads what was copied without waiting for it: wrong where copies are late.
__global__ void copy_not_waited_for(const int* from, int* out) {
  int* to = dynamic_shared<int>();
  to[threadIdx.x * 4] = -1;
  cp_async<16>(to + threadIdx.x * 4, from + threadIdx.x * 4);
  cp_async_commit();
  out[threadIdx.x] = to[threadIdx.x * 4];
  cp_async_wait<0>();
}

}  // namespace

TEST_CASE("emulator: a barrier that never fills is a deadlock, with names and places") {
  CHECK(said({.block = 64}, missing_barrier, 64) == "");
  const std::string message = said({.block = 64}, missing_barrier, 32);
  CHECK(has(message, "missing_barrier, block (0, 0, 0): deadlock: threads 0-31: barrier_sync at "));
  CHECK(has(message, "test_emulator.cpp:"));
  CHECK(has(message, "threads 32-63: ended"));
  CHECK(has(message, "barrier 3 has 32 of 64"));
}

TEST_CASE("emulator: shuffles must be met by the whole mask") {
  CHECK(has(said({.block = 32}, diverging_shuffle), "of its warp are in"));
  const std::string message = said({.block = 32}, missing_lanes);
  CHECK(has(message, "deadlock: threads 0-15: __shfl_xor_sync at "));
  CHECK(has(message, "threads 16-31: mbarrier_wait at "));
  CHECK(has(message, "1 of 1 arrivals and 0 bytes missing"));
}

TEST_CASE("emulator: a wrong number of expected bytes is found, waited for or not") {
  Buffer from = device_buffer(1024, "test");
  const Launch l{.block = 32, .shared_bytes = 1024};
  CHECK(said(l, wrong_bytes, from.data(), 128u, true) == "");
  CHECK(said(l, wrong_bytes, from.data(), 128u, false) == "");
  CHECK(has(said(l, wrong_bytes, from.data(), 256u, true), "deadlock: threads 0-31: mbarrier_wait"));
  CHECK(has(said(l, wrong_bytes, from.data(), 256u, false), "expects 128 bytes that nobody copied"));
  CHECK(has(said(l, wrong_bytes, from.data(), 64u, false), "more were copied than it was told of"));
}

TEST_CASE("emulator: accesses past shared memory and odd ones are found") {
  Buffer from = device_buffer(1024, "test");
  CHECK(has(said({.shared_bytes = 1024}, past_the_end, from.data()),
            "dynamic shared memory + 1024 are not in shared memory"));
  CHECK(has(said({.block = 2, .shared_bytes = 2048}, past_the_end, from.data()), "+ 1016 is not a multiple of 16"));
}

TEST_CASE("emulator: stores and predecessors must be waited for") {
  Buffer to = device_buffer(1024, "test");
  CHECK(has(said({.shared_bytes = 1024}, no_store_wait, to.data()), "ends without waiting for its bulk stores"));
  CHECK(said({.programmatic = true}, waits) == "");
  CHECK(has(said({.programmatic = true}, never_waits), "never called wait_for_predecessor()"));
}

TEST_CASE("emulator: a failed check in a kernel is the launcher's error") {
  CHECK(said({.grid = 2, .block = 64}, checked, 64) == "");
  CHECK(has(said({.grid = 2, .block = 64}, checked, 60), "thread 6"));
}

TEST_CASE("emulator: orders vary, so that races and missing waits show") {
  Buffer memory = device_buffer(4096, "test");
  int* out = static_cast<int*>(memory.data());
  int n_wrong = 0, n_late = 0;
  for (int i = 0; i < 4; ++i) {
    launch({.block = 64}, race, out);
    L4_CUDA(cudaDeviceSynchronize());
    for (int t = 0; t < 64; ++t) n_wrong += out[t] != (t + 1) % 64;
  }
  CHECK(n_wrong > 0);
  L4_CUDA(cudaMemset(out, 0, 4096));
  for (int i = 0; i < 4; ++i) {
    launch({.block = 32, .shared_bytes = 512}, copy_not_waited_for, out + 512, out);
    L4_CUDA(cudaDeviceSynchronize());
    n_late += out[0] == -1;
  }
  CHECK(n_late == 2);
}

TEST_CASE("emulator: work of a stream is done when somebody waits for it") {
  Buffer device = device_buffer(64, "test"), pinned = pinned_buffer(64, "test");
  cudaStream_t stream, other;
  L4_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  L4_CUDA(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  std::memset(pinned.data(), 1, 64);
  L4_CUDA(cudaMemsetAsync(device.data(), 7, 64, stream));
  cudaEvent_t event;
  L4_CUDA(cudaEventCreate(&event));
  L4_CUDA(cudaEventRecord(event, stream));
  L4_CUDA(cudaStreamWaitEvent(other, event, 0));
  L4_CUDA(cudaMemcpyAsync(pinned.data(), device.data(), 64, cudaMemcpyDeviceToHost, other));
  CHECK(*static_cast<char*>(pinned.data()) == 1);
  L4_CUDA(cudaStreamSynchronize(other));
  CHECK(*static_cast<char*>(pinned.data()) == 7);
  // Pointers of the wrong side are an error, as is reaching past an allocation.
  char host[256];
  CHECK(cudaMemcpyAsync(host, host, 16, cudaMemcpyDeviceToHost, stream) == cudaErrorInvalidValue);
  CHECK(cudaMemcpyAsync(host, device.data(), 65, cudaMemcpyDeviceToHost, stream) == cudaErrorInvalidValue);
  cudaGetLastError();
  // While a stream is recorded nothing is allocated or waited for.
  L4_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  void* p;
  CHECK(cudaMalloc(&p, 16) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
  cudaGetLastError();
  cudaGraph_t graph;
  L4_CUDA(cudaStreamEndCapture(stream, &graph));
  L4_CUDA(cudaGraphDestroy(graph));
  L4_CUDA(cudaEventDestroy(event));
  L4_CUDA(cudaStreamDestroy(stream));
  L4_CUDA(cudaStreamDestroy(other));
}

TEST_CASE("emulator: a device's memory ends") {
  size_t free_bytes = 0, total_bytes = 0;
  L4_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
  CHECK(test::error_of([&] { device_buffer(total_bytes + 1, "a test"); }).find("not enough device memory for a test") ==
        0);
  Buffer some = device_buffer(1 << 20, "test");
  size_t now = 0;
  L4_CUDA(cudaMemGetInfo(&now, &total_bytes));
  CHECK(free_bytes - now == size_t(1) << 20);
}

namespace {
// Blocks that wait for one another.
__global__ void grid_barrier(uint32_t* arrived, uint32_t* seen) {
  if (threadIdx.x == 0) {
    add_release_gpu(arrived, 1);
    while (load_acquire_gpu(arrived) < gridDim.x) {
    }
  }
  __syncthreads();
  if (threadIdx.x == 1) seen[blockIdx.x] = *arrived;
}
__global__ void wait_for_flag(uint32_t* flag, uint32_t* done) {
  while (load_acquire_sys(flag) == 0) {
  }
  *done = 1;
}
__global__ void set_flag(uint32_t* flag) {
  store_release_sys(flag, 1);
}
}  // namespace

namespace {
__global__ void early_end(int* out) {
  __shared__ Mbarrier there;
  if (threadIdx.x == 0) mbarrier_init(&there, 1);
  cluster_arrive();
  cluster_wait();
  if (cluster_rank() == 0) return;
  for (int i = 0; i < 100; ++i) mbarrier_try_wait(&there, 0);  // the other block ends meanwhile
  mbarrier_arrive_at(&there, 0);
  out[blockIdx.x] = 1;
}
__global__ void cluster_without_one() {
  if (cluster_rank() == 1 && threadIdx.x == 5) {
    __shared__ Mbarrier never;
    mbarrier_init(&never, 1);
    mbarrier_wait(&never, 0);
  }
  cluster_arrive();
  cluster_wait();
}
__global__ void cluster_counts(int* counts) {
  __shared__ Mbarrier there;
  if (threadIdx.x == 0) mbarrier_init(&there, 3);
  cluster_arrive();
  cluster_wait();
  if (threadIdx.x < 3) mbarrier_arrive_at(&there, (cluster_rank() + 1) % 3);
  while (!mbarrier_try_wait(&there, 0)) {
  }
  if (threadIdx.x == 0) counts[blockIdx.x] = int(cluster_rank());
  cluster_arrive();
  if (threadIdx.x < 32) cluster_wait();
}
}  // namespace

TEST_CASE("emulator: the blocks of a cluster run at once, and what they do wrong is found") {
  Buffer memory = device_buffer(4096, "test");
  int* p = static_cast<int*>(memory.data());
  CHECK(has(said({.grid = 4, .block = 32, .cluster = 2}, early_end, p),
            "block 0 of the cluster has ended, and its shared memory is touched"));
  CHECK(has(said({.grid = 2, .block = 32, .cluster = 2}, cluster_without_one), "deadlock: threads "));
  CHECK(has(said({.grid = 2, .block = 32}, cluster_without_one), "cluster_arrive in a launch without clusters"));
  CHECK(has(said({.grid = 3, .block = 32, .cluster = 2}, cluster_without_one), "invalid cluster size"));
  CHECK(said({.grid = 6, .block = 64, .cluster = 3}, cluster_counts, p) == "");
  for (int b = 0; b < 6; ++b) CHECK(p[b] == b % 3);
}

TEST_CASE("emulator: the blocks of a cooperative launch run at once") {
  Buffer memory = device_buffer(4096, "test");
  L4_CUDA(cudaMemset(memory.data(), 0, 4096));
  uint32_t* p = static_cast<uint32_t*>(memory.data());
  launch({.grid = 4, .block = 64, .cooperative = true}, grid_barrier, p, p + 1);
  L4_CUDA(cudaDeviceSynchronize());
  for (int b = 0; b < 4; ++b) CHECK(p[1 + b] == 4);
}

TEST_CASE("emulator: a kernel may wait for one of another device, whoever issues it") {
  Buffer memory = device_buffer(4096, "test");
  L4_CUDA(cudaMemset(memory.data(), 0, 4096));
  uint32_t* p = static_cast<uint32_t*>(memory.data());
  cudaStream_t streams[2];
  for (int d = 0; d < 2; ++d) {
    L4_CUDA(cudaSetDevice(d));
    L4_CUDA(cudaStreamCreateWithFlags(&streams[d], cudaStreamNonBlocking));
  }
  launch({.stream = streams[0]}, wait_for_flag, p, p + 1);
  launch({.stream = streams[1]}, set_flag, p);
  L4_CUDA(cudaStreamSynchronize(streams[0]));
  CHECK(p[1] == 1);
  for (int d = 0; d < 2; ++d) {
    L4_CUDA(cudaStreamSynchronize(streams[d]));
    L4_CUDA(cudaStreamDestroy(streams[d]));
  }
  L4_CUDA(cudaSetDevice(0));
}
