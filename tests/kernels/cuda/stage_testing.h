// What the tests of stages share: the CPU backend and the CUDA backend side by side, each with a test's tensors in its
// memory.
#pragma once

#include <algorithm>
#include <deque>

#include "dist/comm.h"
#include "kernels/cpu/quantized.h"
#include "kernels/cuda/gpu_testing.h"
#include "ops/backend.h"

namespace l4::test {

// A backend with a test's tensors in its memory.
class Side {
 public:
  explicit Side(std::unique_ptr<Backend> b) : backend(std::move(b)) {}
  std::unique_ptr<Backend> backend;

  View empty(DType dtype, Shape shape) { return upload(Values(dtype, shape)); }  // NaN
  View upload(const View& host) {
    View v = host;
    buffers_.push_back(backend->allocate(std::max<size_t>(host.bytes(), 1), "a test"));
    v.data = buffers_.back().data();
    if (host.bytes()) backend->upload(v, host.data);
    return v;
  }
  Values download(const View& v) {
    Values host(v.dtype, v.shape);
    if (v.bytes()) backend->download(host.view.data, v);
    return host;
  }
  const PackedWeight* pack(const Weights& w) {
    const LinearSpec& spec = w.packed.spec;
    std::vector<WeightSlice> slices, biases;
    for (int64_t e = 0; e < spec.n_experts; ++e) {
      slices.push_back({w.w.view.slice(e, 1).data, w.w.view.dtype, spec.n, spec.k, spec.k, 1, e, 0, 0});
      if (spec.bias) biases.push_back({w.b.view.slice(e, 1).data, w.w.view.dtype, spec.n, 1, 1, 1, e, 0, 0});
    }
    return keep(backend->pack(spec, slices, biases));
  }
  const PackedWeight* pack(const QuantizedWeights& w) {
    return keep(backend->pack(w.spec, w.weight_slices(), w.bias_slices(), w.scale_slices()));
  }
  const PackedWeight* keep(PackedWeight packed) {
    CHECK(packed.bytes() == backend->packed_bytes(packed.spec));
    weights_.push_back(std::move(packed));
    return &weights_.back();
  }
  KvLayer upload(const PagedCache& cache) {
    cache_ = upload(cache.memory.view);
    KvLayer layer = cache.layer;
    layer.base =
        static_cast<std::byte*>(cache_.data) + (static_cast<std::byte*>(layer.base) - cache.memory.storage.data());
    return layer;
  }
  void download(PagedCache& cache) { backend->download(cache.memory.storage.data(), cache_); }

  // stages(arena) measured first, then run in exactly that much.
  template <class Stages>
  void run(Stages&& stages) {
    Arena measured;
    stages(measured);
    Arena work(backend->allocate(std::max<size_t>(measured.peak(), 1), "a test"));
    if (measured.peak()) {
      const View all = work.take(DType::u8, {int64_t(measured.peak())});
      const std::vector<std::byte> garbage(measured.peak(), std::byte{0xFF});
      backend->upload(all, garbage.data());
      work.reset();
    }
    stages(work);
    CHECK(work.peak() <= measured.peak());
  }

 private:
  std::deque<Buffer> buffers_;
  std::deque<PackedWeight> weights_;
  View cache_;
};

// The CPU's and the GPU's, for steps like this one.
struct Sides {
  Side cpu, gpu;
  ThreadPool pool{1};
  std::unique_ptr<Comm> one = make_single_comm();

  explicit Sides(const StepPlan& step = {}, int64_t page_tokens = 1)
      : cpu(make_cpu_backend(1)), gpu((skip_without_gpu(), make_cuda_backend(0, options_for(step, page_tokens)))) {}

  static CudaOptions options_for(const StepPlan& step, int64_t page_tokens) {
    CudaOptions o{.max_rows = std::max<int64_t>(step.n_rows(), 1),
                  .max_out_rows = std::max<int64_t>(step.n_out(), 1),
                  .page_tokens = page_tokens};
    for (const KvPlan& kv : step.kv) o.max_table_pages += int64_t(kv.pages.size());
    return o;
  }
  // body(side) on both; what it returns, CPU first.
  template <class Body>
  auto both(Body&& body) {
    auto on_cpu = body(cpu);
    auto on_gpu = body(gpu);
    return std::pair(std::move(on_cpu), std::move(on_gpu));
  }
};

// The GPU's values near the CPU's, for values about as large as `size`.
inline std::string compare(const Values& gpu, const Values& cpu, double size, const Tolerance& t = tolerance::kStage) {
  const Doubles want = doubles(cpu);
  return difference(gpu, want, Doubles(want.size(), size), t);
}

// Weights that keep sums near the size of the inputs.
inline double scale_of(int64_t k) {
  return 1.5 / std::sqrt(double(k));
}

}  // namespace l4::test
