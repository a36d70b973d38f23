// Products with FP8 and INT4 weights, and with input that is quantised, against the CPU's
// (tests/kernels/cpu/test_quantized.cpp compares that with doubles).
#include "kernels/cpu/quantized.h"
#include "kernels/cuda/matmul/dispatch.h"
#include "kernels/cuda/matmul/generic.h"
#include "kernels/cuda/matmul_testing.h"
#include "kernels/cuda/weight_layout.h"

using namespace l4;
using namespace l4::test;

namespace {
PackedWeight pack(GpuMachine& gpu, const QuantizedWeights& w) {
  return cuda::pack_weight(gpu.gpu, w.spec, w.weight_slices(), w.bias_slices(), w.scale_slices(),
                           [](size_t bytes, const char* what) { return cuda::device_buffer(bytes, what); });
}
}  // namespace

TEST_CASE("cuda matmul: fp8 and int4, every shape, cut, type and input as on the CPU") {
  GpuMachine gpu;
  Machine machine(1);
  uint64_t seed = 0;
  for (const QuantizedCase& c : kQuantizedCases)
    for (InputFormat input : kInputFormats)
      for (DType a : {DType::f32, DType::bf16})
        for (bool scaled : {false, true}) {  // by a router's scores
          INFO(cat(c.what, ", input ", int(input), " ", dtype_name(a), scaled ? " scaled" : ""));
          Numbers numbers(++seed);
          const QuantizedWeights w(numbers, spec_of(c, input), c.cut);
          const PackedWeight on_cpu = w.packed(machine.pool), on_gpu = pack(gpu, w);
          // Row i goes to expert i mod E; one row is all zeros.
          Values x = numbers.tensor(a, {c.m, c.k}), y(a, {c.m, c.n});
          for (int64_t k = 0; c.m > 1 && k < c.k; ++k) x.set(c.k + k, 0);
          std::vector<int32_t> begin = {0}, rows;
          std::vector<float> scores;
          for (int64_t e = 0; e < c.n_experts; ++e) {
            for (int64_t i = e; i < c.m; i += c.n_experts) {
              rows.push_back(int32_t(i));
              scores.push_back(scaled ? float(round_as(a, numbers.uniform(0.1, 1))) : 1);
            }
            begin.push_back(int32_t(rows.size()));
          }
          std::vector<cpu::LinearJob> jobs;
          for (size_t e = 0; e + 1 < begin.size(); ++e)
            jobs.push_back({.w = &on_cpu,
                            .expert = int64_t(e),
                            .x = x,
                            .y = y,
                            .n_rows = begin[e + 1] - begin[e],
                            .x_rows = rows.data() + begin[e],
                            .y_rows = rows.data() + begin[e],
                            .x_scale = scaled ? scores.data() + begin[e] : nullptr});
          machine.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, jobs); });
          const View device_y = gpu.empty(a, {c.m, c.n});
          int32_t* const device_rows = gpu.upload(rows);
          const cuda::ExpertGroups groups{.n_experts = c.n_experts,
                                          .n_slots = c.m,
                                          .begin = gpu.upload(begin),
                                          .slots = device_rows,
                                          .rows = device_rows,
                                          .scores = gpu.upload(scores)};
          cuda::GenericGemm product{.w = &on_gpu, .x = gpu.upload(x), .y = device_y, .round_to = a};
          if (c.n_experts > 1 || scaled) {
            product.groups = &groups;
            product.x_rows = groups.rows, product.y_rows = groups.slots;
            product.x_scale = scaled ? groups.scores : nullptr;
          }
          gpu.run([&](const cuda::OpContext& ctx) { cuda::generic_gemm(ctx, product); });
          const Values packed_y = gpu.download(device_y);
          Values got(a, {c.m, c.n});
          Doubles size(size_t(c.m * c.n));
          for (size_t i = 0; i < rows.size(); ++i) {
            const int64_t row = rows[i], e = row % c.n_experts;
            const Doubles in = w.input(x, row, a, scores[i]);
            for (int64_t n = 0; n < c.n; ++n) {
              got.set(row * c.n + n, packed_y.at(row * c.n + cuda::packed_row(w.spec, n)));
              size[size_t(row * c.n + n)] = w.output(e, n, in).second;
            }
          }
          CHECK(difference(got, doubles(y), size, tolerance::kLinear) == "");
        }
}

TEST_CASE("cuda matmul: weights that are no codes take quantised input too") {
  GpuMachine gpu;
  Machine machine(1);
  for (InputFormat input : {InputFormat::fp8_token, InputFormat::fp8_static})
    for (DType a : {DType::f32, DType::bf16}) {
      Numbers numbers(7);
      LinearSpec spec{.name = "w", .n = 70, .k = 64, .format = format_of(a), .input = input, .input_scale = 0.002f};
      CHECK(std::string(cuda::linear_kernel_name(spec, a, 1)) == "generic");
      const GpuWeights w(gpu, machine.pool, numbers, spec);
      const Values x = numbers.tensor(a, {5, 64}), want(a, {5, 70});
      machine.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, x, w.packed, want); });
      const View device_x = gpu.upload(x), y = gpu.empty(a, {5, 70});
      gpu.run([&](const cuda::OpContext& ctx) { cuda::linear(ctx, device_x, w.device, y, a); });
      CHECK(difference(gpu.download(y), doubles(want), Doubles(5 * 70, 64), tolerance::kLinear) == "");
    }
}

TEST_CASE("cuda matmul: which kernel serves what is quantised") {
  auto linear = [](WeightFormat format, InputFormat input, int64_t k, int64_t m) {
    const LinearSpec spec{.name = "w", .n = 5120, .k = k, .format = format, .group = 128, .input = input};
    return std::string(cuda::linear_kernel_name(spec, DType::bf16, m));
  };
  const auto as_is = InputFormat::as_is, token = InputFormat::fp8_token;
  CHECK(linear(WeightFormat::int4, as_is, 5120, 16) == "small_m");
  CHECK(linear(WeightFormat::int4, as_is, 5120 + 128, 1) == "dequantized");  // no whole slabs: as of more rows
  CHECK(linear(WeightFormat::int4, token, 5120, 1) == "generic");
  CHECK(linear(WeightFormat::fp8, token, 5120 + 128, 16) == "small_m");
  CHECK(linear(WeightFormat::fp8, token, 5120 + 64, 1) == "fp8");
  CHECK(linear(WeightFormat::fp8, as_is, 5120, 1) == "dequantized");
  CHECK(linear(WeightFormat::bf16, token, 5120, 1) == "generic");
  // A shared expert and experts that are unlike.
  PackedWeight w, experts;
  w.spec = experts.spec = {.name = "w", .n = 512, .k = 512, .gated = true};
  Values h(DType::bf16, {1, 512});
  auto ffn = [&] {
    const FfnUpArgs args{.h = h,
                         .shared = &w,
                         .experts = &experts,
                         .first_expert = 0,
                         .route = {.top_k = 1, .expert = {}, .score = {}},
                         .act_shared = {},
                         .act_routed = {},
                         .work = nullptr};
    return std::string(cuda::ffn_kernel_name(args));
  };
  CHECK(ffn() == "small_m");
  experts.spec.format = WeightFormat::int4, experts.spec.group = 64;
  CHECK(ffn() == "grouped");
  w.spec.format = WeightFormat::int4, w.spec.group = 128;
  CHECK(ffn() == "grouped");
  w.spec.group = 64;
  CHECK(ffn() == "small_m");
}
