// What the tests of CUDA operations share. The same tests run on the first Hopper GPU of the machine (l4-tests) and on
// emulated CUDA (l4-emulated-tests, tests/emulation); without a GPU the former are skipped.
//
//   GpuMachine gpu;                                   // or the test is skipped
//   Values x = numbers.tensor(DType::bf16, {3, 64});
//   View dx = gpu.upload(x), dy = gpu.empty(DType::bf16, {3, 64});
//   gpu.run([&](const cuda::OpContext& ctx) { cuda::rms_norm(ctx, dx, nullptr, dweight, eps, dy); });
//   CHECK(difference(gpu.download(dy), want, tolerance::kNorm) == "");
//
// Tensors of host and references: op_testing.h, pages: paged_cache.h (both made for kernels/cpu, and used with it
// here).
#pragma once

#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "kernels/cpu/op_testing.h"
#include "kernels/cpu/paged_cache.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/libraries.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/step_buffer.h"
#include "ops/cuda_devices.h"

namespace l4::test {

inline void skip_without_gpu(int n_needed = 1) {
  int n = 0;
  for (const CudaDevice& device : list_cuda_devices().devices) n += device.usable();
  if (n < n_needed) L4_SKIP(n_needed == 1 ? std::string("an NVIDIA Hopper GPU") : cat(n_needed, " NVIDIA Hopper GPUs"));
}

// One device with a stream, and what a test puts into its memory, which lives as long as this.
class GpuMachine {
 public:
  explicit GpuMachine(int device = 0) {
    skip_without_gpu(device + 1);
    gpu.index = device;
    L4_CUDA(cudaSetDevice(device));
    cudaDeviceProp properties;
    L4_CUDA(cudaGetDeviceProperties(&properties, device));
    gpu.n_sms = properties.multiProcessorCount;
    gpu.max_shared_bytes = properties.sharedMemPerBlockOptin;
    L4_CUDA(cudaStreamCreateWithFlags(&gpu.stream, cudaStreamNonBlocking));
    L4_CUDA(cuda::cublas_lt().cublasLtCreate(&gpu.cublas_lt));
    constexpr size_t kBytes = cuda::Gpu::kAllCounters * sizeof(uint32_t);
    gpu.set_counters(static_cast<uint32_t*>(memory(kBytes)));
    L4_CUDA(cudaMemsetAsync(gpu.counters, 0, kBytes, gpu.stream));
  }
  ~GpuMachine() {
    cudaSetDevice(gpu.index);
    cudaStreamSynchronize(gpu.stream);
    cuda::cublas_lt().cublasLtDestroy(gpu.cublas_lt);
    cudaStreamDestroy(gpu.stream);
  }
  GpuMachine(const GpuMachine&) = delete;
  GpuMachine& operator=(const GpuMachine&) = delete;

  cuda::Gpu gpu;

  // ---- tensors

  // Not written: every byte 0xFF, which is NaN.
  View empty(DType dtype, Shape shape) {
    View v{nullptr, dtype, shape};
    v.data = memory(v.bytes());
    L4_CUDA(cudaMemsetAsync(v.data, 0xFF, v.bytes(), gpu.stream));
    return v;
  }
  View upload(const View& host) {
    View v = empty(host.dtype, host.shape);
    write(v, host);
    return v;
  }
  template <class T>
  T* upload(const std::vector<T>& host) {
    return static_cast<T*>(
        upload(View{const_cast<T*>(host.data()), DType::u8, {int64_t(host.size() * sizeof(T))}}).data);
  }
  void write(const View& device, const View& host) {
    L4_CHECK(device.bytes() == host.bytes());
    if (host.bytes())
      L4_CUDA(cudaMemcpyAsync(device.data, host.data, host.bytes(), cudaMemcpyHostToDevice, gpu.stream));
    wait();
  }
  Values download(const View& device) {
    Values host(device.dtype, device.shape);
    read(host, device);
    return host;
  }
  void read(const View& host, const View& device) {
    L4_CHECK(device.bytes() == host.bytes());
    if (host.bytes())
      L4_CUDA(cudaMemcpyAsync(host.data, device.data, host.bytes(), cudaMemcpyDeviceToHost, gpu.stream));
    wait();
  }
  void wait() { L4_CUDA(cudaStreamSynchronize(gpu.stream)); }

  // ---- weights, pages and steps

  PackedWeight pack(const Weights& weights) {
    const LinearSpec& spec = weights.packed.spec;
    std::vector<WeightSlice> slices, biases;
    const View w = weights.w.view;
    for (int64_t e = 0; e < spec.n_experts; ++e) {
      slices.push_back({w.slice(e, 1).data, w.dtype, spec.n, spec.k, spec.k, 1, e, 0, 0});
      if (spec.bias) biases.push_back({weights.b.view.slice(e, 1).data, w.dtype, spec.n, 1, 1, 1, e, 0, 0});
    }
    return cuda::pack_weight(gpu, spec, slices, biases, {},
                             [](size_t bytes, const char* what) { return cuda::device_buffer(bytes, what); });
  }
  // The step of the operations that follow, as gpu.step.
  void begin_step(const StepPlan& plan, int64_t page_tokens) {
    CudaOptions options{.max_rows = plan.n_rows(), .max_out_rows = std::max<int64_t>(plan.n_out(), 1)};
    for (const KvPlan& kv : plan.kv) options.max_table_pages += int64_t(kv.pages.size());
    std::vector<std::byte> host(cuda::step_bytes_limit(options));
    const View device = empty(DType::u8, {int64_t(host.size())});
    cuda::write_step(plan, page_tokens, host.data(), static_cast<const std::byte*>(device.data), gpu.step);
    write(device, {host.data(), DType::u8, {int64_t(host.size())}});
  }
  // The cache's memory and its step; the layer is where it lies here.
  KvLayer upload(const PagedCache& cache) {
    begin_step(cache.step, cache.layer.layout.page_tokens);
    const View device = upload(cache.memory.view);
    KvLayer layer = cache.layer;
    layer.base = static_cast<std::byte*>(device.data) +
                 (static_cast<std::byte*>(cache.layer.base) - cache.memory.storage.data());
    return layer;
  }
  void download(PagedCache& cache, const KvLayer& layer) {
    View device = cache.memory.view;
    device.data =
        static_cast<std::byte*>(layer.base) - (static_cast<std::byte*>(cache.layer.base) - cache.memory.storage.data());
    read(cache.memory.view, device);
  }

  // ---- operations

  // Measures op(context), then runs it with scratch of exactly that size, with garbage in it, and waits. What is
  // measured must be what is taken, and counters must be zero again.
  template <class Op>
  void run(Op&& op) {
    L4_CUDA(cudaSetDevice(gpu.index));
    Arena measured;
    op(cuda::OpContext{gpu, measured});
    Arena work(cuda::device_buffer(measured.peak(), "scratch of a test"));
    if (measured.peak()) {
      const View all = work.take(DType::u8, {int64_t(measured.peak())});
      L4_CUDA(cudaMemsetAsync(all.data, 0xFF, all.bytes(), gpu.stream));
      work.reset();
    }
    op(cuda::OpContext{gpu, work});
    L4_CUDA(cudaGetLastError());
    wait();
    CHECK(work.peak() <= measured.peak());
    std::vector<uint32_t> counters(cuda::Gpu::kCounters + cuda::Gpu::kTickets);
    L4_CUDA(cudaMemcpy(counters.data(), gpu.counters, counters.size() * sizeof(uint32_t), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < counters.size(); ++i)
      if (counters[i]) FAIL_CHECK(cat("counter ", i, " is left at ", counters[i]));
  }
  // op(context) recorded as a graph, with scratch as in run(); every call of the result replays it and waits. Nothing
  // may have been waited for or allocated in it.
  template <class Op>
  auto record(Op&& op) {
    Arena measured;
    op(cuda::OpContext{gpu, measured});
    auto work = std::make_shared<Arena>(cuda::device_buffer(measured.peak(), "scratch of a test"));
    auto recording =
        std::make_shared<cuda::Recording>(gpu.stream, [&] { op(cuda::OpContext{gpu, *work}); });
    return [this, recording, work] {
      recording->replay();
      wait();
    };
  }

 private:
  void* memory(size_t bytes) {
    buffers_.push_back(cuda::device_buffer(bytes, "a tensor of a test"));
    return buffers_.back().data();
  }
  std::deque<Buffer> buffers_;
};

// |got - want| / |want| over all elements: for results whose single values may cancel out.
inline double relative_error(const View& got, const Doubles& want) {
  double error = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = Values::value(got, int64_t(i)) - want[i];
    error += d * d;
    size += want[i] * want[i];
  }
  return std::sqrt(error) / std::max(std::sqrt(size), 1e-30);
}

}  // namespace l4::test
