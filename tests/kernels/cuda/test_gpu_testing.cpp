// The instrument itself.
#include "kernels/cuda/gpu_testing.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("cuda testing: tensors travel to the device and back, unwritten ones are NaN") {
  GpuMachine gpu;
  Numbers numbers(1);
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Values x = numbers.tensor(dtype, {3, 5});
    CHECK(same_bits(gpu.download(gpu.upload(x)), x));
    const Values none = gpu.download(gpu.empty(dtype, {7}));
    for (int i = 0; i < 7; ++i) CHECK(std::isnan(none.at(i)));
  }
  const std::vector<int32_t> ids{5, 6, 7};
  const View on_device{gpu.upload(ids), DType::i32, {3}};
  CHECK(doubles(gpu.download(on_device)) == Doubles{5, 6, 7});
}

TEST_CASE("cuda testing: a step and its pages lie on the device") {
  GpuMachine gpu;
  Numbers numbers(2);
  PagedCache cache(numbers, DType::bf16, 2, 8, 4, {{5, 2}, {0, 1}, {3, 1}});
  const KvLayer layer = gpu.upload(cache);
  const cuda::DeviceKvPlan& plan = gpu.gpu.step.of(AttentionKind::chunked);
  CHECK(gpu.gpu.step.n_rows == 4);
  CHECK(plan.n_spans == 3);
  CHECK(plan.max_rows == 2);
  const Values slots = gpu.download({const_cast<int32_t*>(plan.slots), DType::i32, {4}});
  const std::vector<int32_t>& pages = cache.plan().pages;
  CHECK(doubles(slots) == Doubles{pages[1] * 4.0 + 1, pages[1] * 4.0 + 2, pages[2] * 4.0, pages[3] * 4.0 + 3});
  const Values before = cache.memory;
  std::memset(cache.memory.storage.data(), 0, cache.memory.storage.size());
  gpu.download(cache, layer);
  CHECK(same_bits(cache.memory, before));
}

TEST_CASE("cuda testing: operations run with the scratch that they measure") {
  GpuMachine gpu;
  int n = 0;
  gpu.run([&](const cuda::OpContext& ctx) {
    Scratch scratch(ctx.work);
    const View v = scratch.take(DType::f32, {100});
    CHECK(ctx.measuring() == (v.data == nullptr));
    if (!ctx.measuring()) L4_CUDA(cudaMemsetAsync(v.data, 0, v.bytes(), ctx.gpu.stream));
    ++n;
  });
  CHECK(n == 2);
}

TEST_CASE("cuda testing: a graph replays what was recorded, on what lies there then") {
  GpuMachine gpu;
  Numbers numbers(3);
  const Values a = numbers.tensor(DType::f32, {8}), b = numbers.tensor(DType::f32, {8});
  const View from = gpu.upload(a), to = gpu.empty(DType::f32, {8});
  auto replay = gpu.record([&](const cuda::OpContext& ctx) {
    if (!ctx.measuring())
      L4_CUDA(cudaMemcpyAsync(to.data, from.data, to.bytes(), cudaMemcpyDeviceToDevice, ctx.gpu.stream));
  });
  CHECK(std::isnan(gpu.download(to).at(0)));  // recorded, not done
  replay();
  CHECK(same_bits(gpu.download(to), a));
  gpu.write(from, b);
  replay();
  CHECK(same_bits(gpu.download(to), b));
}
