// small_m with FP8 and INT4 weights, against doubles; the stages it serves, against the CPU backend's.
#include <cmath>

#include "kernels/cpu/quantized.h"
#include "kernels/cuda/matmul/dispatch.h"
#include "kernels/cuda/matmul/small_m.h"
#include "kernels/cuda/matmul_testing.h"

using namespace l4;
using namespace l4::test;

namespace {

struct Format {
  const char* what;
  WeightFormat format;
  int64_t group;
  InputFormat input;
  int64_t slab;
};
constexpr Format kFormats[] = {
    {"fp8", WeightFormat::fp8, 0, InputFormat::fp8_token, 128},
    {"fp8, one scale for the input", WeightFormat::fp8, 0, InputFormat::fp8_static, 128},
    {"int4 g128", WeightFormat::int4, 128, InputFormat::as_is, 256},
    {"int4 g64", WeightFormat::int4, 64, InputFormat::as_is, 256},
    {"int4 g32", WeightFormat::int4, 32, InputFormat::as_is, 256},
};

struct Case {
  int64_t m, n, slabs;  // k: slabs of the format
  bool bias = false;
  DType y = DType::bf16;
};

// One token's x with INT4 weights (small_m_one.h): of each 256 columns the largest has 13 bits behind its first.
void round_to_integers(Doubles& x) {
  for (size_t begin = 0; begin < x.size(); begin += 256) {
    double largest = 0;
    for (size_t i = begin; i < begin + 256; ++i) largest = std::max(largest, std::abs(x[i]));
    if (largest == 0) continue;
    const double unit = std::ldexp(1.0, std::ilogb(largest) - 13);
    for (size_t i = begin; i < begin + 256; ++i) x[i] = std::nearbyint(x[i] / unit) * unit;
  }
}

void check_linear(GpuMachine& gpu, const Format& f, const Case& c) {
  INFO(cat(f.what, ", ", c.m, " rows, n ", c.n, ", slabs ", c.slabs, " on ", gpu.gpu.n_sms));
  Numbers numbers(uint64_t(c.m * 1000 + c.n + c.slabs));
  const QuantizedWeights w(numbers, {.name = "w",
                                     .n = c.n,
                                     .k = c.slabs * f.slab,
                                     .bias = c.bias,
                                     .format = f.format,
                                     .group = f.group,
                                     .input = f.input,
                                     .input_scale = 0.002f});
  const PackedWeight packed =
      cuda::pack_weight(gpu.gpu, w.spec, w.weight_slices(), w.bias_slices(), w.scale_slices(),
                        [](size_t bytes, const char* what) { return cuda::device_buffer(bytes, what); });
  Values x = numbers.tensor(DType::bf16, {c.m, w.spec.k});
  for (int64_t k = 0; c.m > 1 && k < w.spec.k; ++k) {
    x.set(w.spec.k + k, 0);                        // a row of zeros
    x.set(k, x.at(k) * (k % 7 ? 1 : 1.0 / 4096));  // codes below the smallest normal one
  }
  const View device_x = gpu.upload(x), y = gpu.empty(c.y, {c.m, c.n});
  CHECK(std::string(cuda::linear_kernel_name(w.spec, DType::bf16, c.m)) == "small_m");
  Doubles want, sizes;
  for (int64_t i = 0; i < c.m; ++i) {
    Doubles in = w.input(x, i, DType::bf16);
    if (c.m == 1 && f.format == WeightFormat::int4) round_to_integers(in);
    for (int64_t j = 0; j < c.n; ++j) {
      const auto [sum, size] = w.output(0, j, in);
      want.push_back(round_as(c.y, sum)), sizes.push_back(size);
    }
  }
  Values first;
  for (int repeat = 0; repeat < 2; ++repeat) {
    gpu.run([&](const cuda::OpContext& ctx) { cuda::linear(ctx, device_x, packed, y, c.y); });
    const Values got = gpu.download(y);
    CHECK(difference(got, want, sizes, tolerance::kLinear) == "");
    if (repeat == 0)
      first = got;
    else
      CHECK(same_bits(got, first));
  }
}

}  // namespace

// What is no number must not become one: it is found by its logits (StepRunner).
TEST_CASE("cuda matmul: small_m with int4 keeps infinities and NaN of one token") {
  GpuMachine gpu;
  Numbers numbers(3);
  const QuantizedWeights w(numbers, {.name = "w", .n = 40, .k = 512, .format = WeightFormat::int4, .group = 128});
  const PackedWeight packed =
      cuda::pack_weight(gpu.gpu, w.spec, w.weight_slices(), w.bias_slices(), w.scale_slices(),
                        [](size_t bytes, const char* what) { return cuda::device_buffer(bytes, what); });
  for (float bad : {INFINITY, -INFINITY, NAN}) {
    Values x = numbers.tensor(DType::bf16, {1, 512});
    x.set(300, bad);
    const View device_x = gpu.upload(x), y = gpu.empty(DType::f32, {1, 40});
    gpu.run([&](const cuda::OpContext& ctx) { cuda::linear(ctx, device_x, packed, y, DType::f32); });
    const Values got = gpu.download(y);
    for (int64_t n = 0; n < 40; ++n) CHECK(!std::isfinite(got.at(n)));
  }
}

TEST_CASE("cuda matmul: small_m with fp8 and int4, every number of rows and tiles split in any way") {
  for (int n_sms : {1, 3, 7}) {
    GpuMachine gpu;
    gpu.gpu.n_sms = n_sms;
    for (const Format& f : kFormats) {
      for (int64_t m : {1, 3, 8, 9, 16}) {
        if (n_sms != 3 && m != 3 && m != 16) continue;
        check_linear(gpu, f, {m, 40, 1, true});
        check_linear(gpu, f, {m, 7, 9});
        check_linear(gpu, f, {m, 33, 3, false, DType::f32});
      }
      check_linear(gpu, f, {2, 130, 18});  // more items than blocks are given; more stages than one
      check_linear(gpu, f, {11, 300, 2});
    }
  }
}
