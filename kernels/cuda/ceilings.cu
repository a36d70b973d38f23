// Contract: ops/ceilings.h. Everything is timed by events on one stream, in runs that are warm, and the best run counts:
// a ceiling is what the device can do, not what it does on average.
//
// The read stream: a grid-stride loop of 16-byte loads, four in flight a thread (any grid of at least 2 blocks of 512 a
// multiprocessor was within 2 % of the best on H100 and H200). The words are XORed and the result is compared with a
// value it does not have, so that the loads stay.
#include "ops/ceilings.h"

#include <algorithm>
#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "dist/comm.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/ptx/load.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/random_weights.h"
#include "kernels/cuda/timing.h"

namespace l4 {

using namespace cuda;

namespace {

// ---- kernels --------------------------------------------------------------------------------------------------------

constexpr int kReadThreads = 512, kInFlight = 4;

__global__ void __launch_bounds__(kReadThreads) read_kernel(const uint4* from, int64_t n, uint32_t* never) {
  const int64_t step = int64_t(gridDim.x) * kReadThreads;
  int64_t i = int64_t(blockIdx.x) * kReadThreads + threadIdx.x;
  uint32_t sum = 0;
  for (; i + (kInFlight - 1) * step < n; i += kInFlight * step) {
    uint4 v[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) v[j] = load_once16(from + i + j * step);
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  for (; i < n; i += step) {
    const uint4 v = load_once16(from + i);
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x9E3779B9u) *never = sum;  // (one thread in four billion: harmless)
}

// One link of a chain of dependent kernels.
__global__ void __launch_bounds__(128) link_kernel(uint32_t* value) {
  wait_for_predecessor();
  let_successor_start();
  if (blockIdx.x == 0 && threadIdx.x == 0) *value += 1;
}

// Barriers of the whole grid: every block adds itself, and waits until the count says that all have.
__global__ void __launch_bounds__(256) grid_sync_kernel(uint32_t* arrived, int n_barriers) {
  for (int i = 1; i <= n_barriers; ++i) {
    __syncthreads();
    if (threadIdx.x == 0) {
      add_release_gpu(arrived, 1);
      while (load_acquire_gpu(arrived) < uint32_t(i) * gridDim.x) __nanosleep(20);
    }
    __syncthreads();
  }
}

// Seconds of the fastest of n runs.
double fastest(cudaStream_t stream, int n_runs, const std::function<void()>& issue) {
  const std::vector<double> runs = time_runs(stream, n_runs, issue);
  return std::max(*std::min_element(runs.begin(), runs.end()), 1e-9);
}

// A device with a stream, and no step.
class Machine {
 public:
  explicit Machine(int device) : backend_(device, {}) { backend_.make_current(); }
  Gpu& gpu() { return backend_.gpu(); }
  cudaStream_t stream() { return gpu().stream; }
  CudaBackend& backend() { return backend_; }
  Buffer random(size_t bytes, const char* what, uint64_t key) {
    Buffer buffer = device_buffer(bytes, what);
    fill_random_view(stream(), {buffer.data(), DType::f32, {int64_t(bytes / sizeof(float))}}, {key, 0, 1}, 0);
    return buffer;
  }

 private:
  CudaBackend backend_;
};

// ---- measurements ---------------------------------------------------------------------------------------------------

uint64_t stream_bytes(Machine& m, const CeilingSizes& sizes) {
  return std::min(sizes.stream_bytes, m.backend().memory().free_bytes / 10 * 8) / 4096 * 4096;
}

struct Stream {
  double bytes = 0;  // a second
  int blocks_per_sm = 0;
};

Stream read_stream(Machine& m, const Buffer& buffer, const CeilingSizes& sizes) {
  const Buffer never = device_buffer(sizeof(uint32_t), "a word");
  Stream best;
  for (const int blocks : {2, 4, 8, 16}) {
    const double seconds = fastest(m.stream(), sizes.n_runs, [&] {
      launch({.grid = unsigned(m.gpu().n_sms * blocks), .block = kReadThreads, .stream = m.stream()}, read_kernel,
             static_cast<const uint4*>(buffer.data()), int64_t(buffer.bytes() / sizeof(uint4)),
             static_cast<uint32_t*>(never.data()));
    });
    const double rate = double(buffer.bytes()) / seconds;
    if (rate > best.bytes) best = {rate, blocks};
  }
  return best;
}

double copy_stream(Machine& m, const Buffer& buffer, const CeilingSizes& sizes) {
  const size_t half = buffer.bytes() / 2;
  std::byte* data = static_cast<std::byte*>(buffer.data());
  const double seconds = fastest(m.stream(), sizes.n_runs, [&] {
    L4_CUDA(cudaMemcpyAsync(data + half, data, half, cudaMemcpyDeviceToDevice, m.stream()));
  });
  return 2 * double(half) / seconds;
}

ProductRate product_rate(Machine& m, const ProductShape& shape, const CeilingSizes& sizes) {
  CublasProduct product(m.gpu(), shape);
  ProductRate rate{shape, fastest(m.stream(), sizes.n_runs, [&] { product.issue(); }), 0};
  rate.flops = 2.0 * double(shape.m) * double(shape.n) * double(shape.k) / rate.seconds;
  return rate;
}

double edge_seconds(Machine& m, bool programmatic, const CeilingSizes& sizes) {
  const Buffer value = device_buffer(sizeof(uint32_t), "a word");
  L4_CUDA(cudaMemsetAsync(value.data(), 0, value.bytes(), m.stream()));
  const Recording chain(m.stream(), [&] {
    for (int i = 0; i < sizes.n_edges; ++i)
      launch({.grid = 1, .block = 128, .stream = m.stream(), .programmatic = programmatic}, link_kernel,
             static_cast<uint32_t*>(value.data()));
  });
  return fastest(m.stream(), sizes.n_runs, [&] { chain.replay(); }) / sizes.n_edges;
}

double grid_sync_seconds(Machine& m, const CeilingSizes& sizes) {
  const Buffer arrived = device_buffer(sizeof(uint32_t), "a word");
  auto seconds = [&](int n_barriers) {
    return fastest(m.stream(), sizes.n_runs, [&] {
      L4_CUDA(cudaMemsetAsync(arrived.data(), 0, arrived.bytes(), m.stream()));
      launch({.grid = unsigned(m.gpu().n_sms), .block = 256, .stream = m.stream(), .cooperative = true},
             grid_sync_kernel, static_cast<uint32_t*>(arrived.data()), n_barriers);
    });
  };
  // The launch itself, and clearing the counter, are in both.
  return std::max(0.0, seconds(sizes.n_edges) - seconds(1)) / std::max(1, sizes.n_edges - 1);
}

}  // namespace

Ceilings measure_cuda_ceilings(int device, const CeilingSizes& sizes) {
  Machine m(device);
  Ceilings ceilings;
  {
    const Buffer buffer = m.random(stream_bytes(m, sizes), "the read stream", 1);
    ceilings.read_bytes = read_stream(m, buffer, sizes).bytes;
  }
  for (const bool fp8 : {false, true})
    (fp8 ? ceilings.fp8_flops : ceilings.flops) =
        product_rate(m, {sizes.product, sizes.product, sizes.product, fp8, ""}, sizes).flops;
  return ceilings;
}

ProductRate measure_cuda_product(int device, const ProductShape& shape, const CeilingSizes& sizes) {
  Machine m(device);
  return product_rate(m, shape, sizes);
}

CudaReport measure_cuda_report(int device, std::span<const ProductShape> products, const CeilingSizes& sizes) {
  Machine m(device);
  CudaReport report;
  {
    const Buffer buffer = m.random(stream_bytes(m, sizes), "the read stream", 1);
    const Stream best = read_stream(m, buffer, sizes);
    report.read_bytes = best.bytes;
    report.read_blocks_per_sm = best.blocks_per_sm;
    report.copy_bytes = copy_stream(m, buffer, sizes);
  }
  for (const ProductShape& shape : products) report.products.push_back(product_rate(m, shape, sizes));
  report.graph_edge_seconds = edge_seconds(m, false, sizes);
  report.programmatic_edge_seconds = edge_seconds(m, true, sizes);
  report.grid_sync_seconds = grid_sync_seconds(m, sizes);
  return report;
}

// ---- two devices ----------------------------------------------------------------------------------------------------

namespace {

double peer_copy_rate(Machine& from, Machine& to, const CeilingSizes& sizes) {
  const size_t bytes = size_t(std::min(stream_bytes(from, sizes), stream_bytes(to, sizes)) / 8);
  to.backend().make_current();
  const Buffer target = device_buffer(bytes, "a copy");
  from.backend().make_current();
  const Buffer source = from.random(bytes, "a copy", 3);
  const double seconds = fastest(from.stream(), sizes.n_runs, [&] {
    L4_CUDA(cudaMemcpyPeerAsync(target.data(), to.gpu().index, source.data(), from.gpu().index, bytes, from.stream()));
  });
  return double(bytes) / seconds;
}

// Both ranks record a chain of sums and replay it; the slower one's time counts.
std::vector<PairReport::AllReduce> all_reduce_times(Machine& a, Machine& b, std::span<const uint64_t> sizes_bytes,
                                                    const CeilingSizes& sizes) {
  Backend* const backends[] = {&a.backend(), &b.backend()};
  Machine* const machines[] = {&a, &b};
  std::vector<std::unique_ptr<Comm>> comms = make_cuda_comms(backends);
  const int n_sums = std::max(1, sizes.n_edges / 8);
  std::vector<PairReport::AllReduce> out;
  for (const uint64_t bytes : sizes_bytes) {
    double seconds[2] = {};
    std::exception_ptr failures[2];
    auto run = [&](int rank) {
      try {
        Machine& m = *machines[rank];
        m.backend().make_current();
        const Buffer data = device_buffer(bytes, "a sum");
        const View view{data.data(), DType::bf16, {int64_t(bytes / 2)}};
        fill_random_view(m.stream(), view, {uint64_t(rank), 0, 0x1p-40f}, 0);
        comms[size_t(rank)]->all_reduce_sum(view);  // what is made once is made outside of the recording
        L4_CUDA(cudaStreamSynchronize(m.stream()));
        const Recording chain(m.stream(), [&] {
          for (int i = 0; i < n_sums; ++i) comms[size_t(rank)]->all_reduce_sum(view);
        });
        seconds[rank] = fastest(m.stream(), sizes.n_runs, [&] { chain.replay(); }) / n_sums;
      } catch (...) {
        failures[rank] = std::current_exception();
        comms[size_t(rank)]->abort();
      }
    };
    std::thread other([&] { run(1); });
    run(0);
    other.join();
    for (const std::exception_ptr& failure : failures)
      if (failure) std::rethrow_exception(failure);
    out.push_back({bytes, std::max(seconds[0], seconds[1])});
  }
  return out;
}

}  // namespace

PairReport measure_cuda_pair(int first, int second, std::span<const uint64_t> all_reduce_bytes,
                             const CeilingSizes& sizes) {
  Machine a(first), b(second);
  PairReport report;
  int there = 0, back = 0;
  L4_CUDA(cudaDeviceCanAccessPeer(&there, first, second));
  L4_CUDA(cudaDeviceCanAccessPeer(&back, second, first));
  report.peer_access = there && back;
  report.all_reduce = all_reduce_times(a, b, all_reduce_bytes, sizes);
  report.copy_bytes = peer_copy_rate(a, b, sizes);  // after it: the sums have opened the devices to each other
  return report;
}

}  // namespace l4
