#include "kernels/cuda/gpu_testing.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("cuda norm: RMS norm as the CPU's, all rows and chosen rows") {
  Machine cpu_machine(1);
  GpuMachine gpu;
  for (int64_t n_rows : {1, 3})
    for (int64_t d : {1, 17, 24, 64, 2560, 5128})
      for (DType a : {DType::f32, DType::bf16}) {
        INFO(cat(n_rows, " ", d, " ", dtype_name(a)));
        Numbers numbers(uint64_t(n_rows + d));
        Values x = numbers.tensor(a, {5, d}, -3, 3), w = numbers.tensor(a, {d}, 0, 2), want(a, {n_rows, d});
        for (int64_t i = 0; i < d; ++i) x.set(i, 0);  // a row of zeros gives zeros
        const std::vector<int32_t> rows = {4, 0, 2};
        const View gx = gpu.upload(x), gw = gpu.upload(w), got = gpu.empty(a, {n_rows, d});
        const int32_t* grows = gpu.upload(rows);
        for (bool chosen : {false, true}) {
          cpu_machine.run([&](const cpu::OpContext& ctx) {
            cpu::rms_norm(ctx, x, chosen ? rows.data() : nullptr, w, 1e-5f, want);
          });
          gpu.run(
              [&](const cuda::OpContext& ctx) { cuda::rms_norm(ctx, gx, chosen ? grows : nullptr, gw, 1e-5f, got); });
          CHECK(difference(gpu.download(got), doubles(want), tolerance::kNorm) == "");
        }
      }
}

TEST_CASE("cuda norm: layer norm as the CPU's, also in place") {
  Machine cpu_machine(1);
  GpuMachine gpu;
  for (int64_t n_rows : {1, 5})
    for (int64_t d : {2, 17, 32, 1408, 2568})
      for (DType a : {DType::f32, DType::bf16}) {
        INFO(cat(n_rows, " ", d, " ", dtype_name(a)));
        Numbers numbers(uint64_t(n_rows + d));
        Values x = numbers.tensor(a, {n_rows, d}, -1, 3), w = numbers.tensor(a, {d}), b = numbers.tensor(a, {d});
        Values want(a, {n_rows, d});
        cpu_machine.run([&](const cpu::OpContext& ctx) { cpu::layer_norm(ctx, x, {w, b, 1e-5f}, want); });
        const View gx = gpu.upload(x), gw = gpu.upload(w), gb = gpu.upload(b), got = gpu.empty(a, {n_rows, d});
        gpu.run([&](const cuda::OpContext& ctx) { cuda::layer_norm(ctx, gx, {gw, gb, 1e-5f}, got); });
        Doubles size = sizes(doubles(want));
        for (double& s : size) s += 2;  // of the terms
        CHECK(difference(gpu.download(got), doubles(want), size, tolerance::kNorm) == "");
        gpu.run([&](const cuda::OpContext& ctx) { cuda::layer_norm(ctx, gx, {gw, gb, 1e-5f}, gx); });
        CHECK(same_bits(gpu.download(gx), gpu.download(got)));
      }
}

TEST_CASE("cuda norm: the residual sum, bit for bit") {
  GpuMachine gpu;
  for (int64_t n : {1, 7, 8, 2559, 2560, 2568})
    for (DType a : {DType::f32, DType::bf16}) {
      Numbers numbers{uint64_t(n)};
      Values x = numbers.tensor(a, {n}), y = numbers.tensor(a, {n}), want(a, {n});
      for (int64_t i = 0; i < n; ++i) want.set(i, float(x.at(i)) + float(y.at(i)));
      const View gx = gpu.upload(x), gy = gpu.upload(y);
      gpu.run([&](const cuda::OpContext& ctx) { cuda::add_residual(ctx, gy, gx); });
      CHECK(same_bits(gpu.download(gx), want));
    }
  // Every pair of what is awkward to add: signed zeros, subnormals, ties, the largest, infinity.
  const std::vector<double> values = {0,        -0.0,      1,         -1,       1 + 0x1p-7, 1 - 0x1p-8,
                                      0x1p-8,   -0x1p-8,   0x3p-9,    0x1p-9,   -0x3p-9,    0x1p-7,
                                      256,      0x1p-126,  -0x1p-126, 0x1p-133, 0x7fp-133,  -0x1p-133,
                                      0xffp120, -0xffp120, INFINITY,  0x1p-40,  3,          -256};
  const int64_t n = int64_t(values.size());
  Values x(DType::bf16, {n * n}), y(DType::bf16, {n * n}), want(DType::bf16, {n * n});
  for (int64_t i = 0; i < n * n; ++i) {
    x.set(i, values[size_t(i / n)]), y.set(i, values[size_t(i % n)]);
    want.set(i, float(x.at(i)) + float(y.at(i)));
  }
  const View gx = gpu.upload(x), gy = gpu.upload(y);
  gpu.run([&](const cuda::OpContext& ctx) { cuda::add_residual(ctx, gy, gx); });
  CHECK(same_bits(gpu.download(gx), want));
}

namespace {
struct EndOfAttention {  // arguments and results of one call
  Values y, x, norm, router;
  int64_t top_k;

  struct Result {
    Values x, h, expert, score, logits;
  };
  int64_t n_rows() const { return x.view.rows(); }
  int64_t d() const { return x.view.cols(); }
  int64_t n_experts() const { return router.view.shape.rank() ? router.view.rows() : 0; }
  LinearSpec spec() const { return {.name = "router", .n = n_experts(), .k = d(), .format = format_of(x.view.dtype)}; }
  Result empty() const {
    return {x, Values(x.view.dtype, {n_rows(), d()}), Values(DType::i32, {n_rows(), top_k}),
            Values(DType::f32, {n_rows(), top_k}), Values(x.view.dtype, {n_rows(), n_experts()})};
  }
  static Route route(const View& expert, const View& score, int64_t top_k) {
    Route r;
    r.top_k = top_k, r.expert = expert, r.score = score;
    return r;
  }

  Result on_cpu(Machine& cpu_machine) const {
    Result r = empty();
    Values parts(DType::f32, {1, n_rows(), d()});
    for (int64_t i = 0; i < y.view.elements(); ++i) parts.set(i, y.at(i));
    cpu_machine.run([&](const cpu::OpContext& ctx) {
      if (ctx.measuring()) return;
      cpu::add_residual(ctx, parts, r.x);
      cpu::rms_norm(ctx, r.x, nullptr, norm, 1e-5f, r.h);
    });
    if (!n_experts()) return r;
    const WeightSlice slice{router.view.data, router.view.dtype, n_experts(), d(), d(), 1, 0, 0, 0};
    const PackedWeight w = cpu::pack_weight(cpu_machine.pool, spec(), {&slice, 1}, {});
    cpu_machine.run([&](const cpu::OpContext& ctx) {
      cpu::linear(ctx, r.h, w, r.logits);
      cpu::route_rows(ctx, r.logits, route(r.expert, r.score, top_k));
    });
    return r;
  }
  Result on_gpu(GpuMachine& gpu) const {
    Result r = empty();
    const View gx = gpu.upload(x), gy = gpu.upload(y), gnorm = gpu.upload(norm), gh = gpu.upload(r.h),
               gexpert = gpu.upload(r.expert), gscore = gpu.upload(r.score);
    const WeightSlice slice{router.view.data, x.view.dtype, n_experts(), d(), d(), 1, 0, 0, 0};
    PackedWeight w;
    if (n_experts())
      w = cuda::pack_weight(gpu.gpu, spec(), {&slice, 1}, {}, {},
                            [](size_t bytes, const char* what) { return cuda::device_buffer(bytes, what); });
    gpu.run([&](const cuda::OpContext& ctx) {
      cuda::add_residual_norm_route(ctx, gy, gx, gnorm, 1e-5f, gh, n_experts() ? &w : nullptr,
                                    route(gexpert, gscore, top_k));
    });
    r.x = gpu.download(gx), r.h = gpu.download(gh), r.expert = gpu.download(gexpert), r.score = gpu.download(gscore);
    return r;
  }
};

EndOfAttention end_of_attention(DType a, int64_t n_rows, int64_t d, int64_t n_experts, int64_t top_k) {
  Numbers numbers(uint64_t(n_rows * 1000 + d + n_experts));
  EndOfAttention e;
  e.y = numbers.tensor(a, {n_rows, d}), e.x = numbers.tensor(a, {n_rows, d}, -2, 2),
  e.norm = numbers.tensor(a, {d}, 0, 2);
  if (n_experts) e.router = numbers.tensor(a, {n_experts, d}, -0.2, 0.2);
  e.top_k = top_k;
  return e;
}
}  // namespace

TEST_CASE("cuda norm: the end of attention: sum, norm and routes as the CPU's") {
  Machine cpu_machine(1);
  GpuMachine gpu;
  struct Case {
    int64_t n_rows, d, n_experts, top_k;
  };
  const Case cases[] = {{1, 64, 0, 0},     {3, 17, 0, 0},   {1, 24, 1, 1},    {1, 5120, 16, 1},
                        {1, 2568, 128, 2}, {2, 17, 3, 2},   {5, 64, 16, 1},   {9, 320, 6, 1},
                        {17, 72, 16, 3},   {67, 64, 16, 1}, {33, 64, 128, 1}, {300, 24, 16, 1}};
  for (const Case& c : cases)
    for (DType a : {DType::f32, DType::bf16}) {
      INFO(cat(c.n_rows, " x ", c.d, ", ", c.top_k, " of ", c.n_experts, " ", dtype_name(a)));
      EndOfAttention e = end_of_attention(a, c.n_rows, c.d, c.n_experts, c.top_k);
      const auto want = e.on_cpu(cpu_machine), got = e.on_gpu(gpu);
      CHECK(same_bits(got.x, want.x));
      CHECK(difference(got.h, doubles(want.h), tolerance::kNorm) == "");
      int64_t other = 0;
      for (int64_t i = 0; i < c.n_rows * c.top_k; ++i) {
        const int64_t row = i / c.top_k, g = int64_t(got.expert.at(i)), w = int64_t(want.expert.at(i));
        REQUIRE((g >= 0 && g < c.n_experts));
        const double gap = std::abs(want.logits.at(row * c.n_experts + g) - want.logits.at(row * c.n_experts + w));
        // Another order of a sum may turn a logit by a step; the experts are then nearly equal.
        CHECK(gap <= (a == DType::bf16 ? 0x1p-6 : 1e-5) * (1 + std::abs(want.logits.at(row * c.n_experts + w))));
        other += g != w;
        CHECK(std::abs(got.score.at(i) - want.score.at(i)) < 0x1p-7);
      }
      CHECK(other <= 1 + c.n_rows * c.top_k / 50);
    }
}

TEST_CASE("cuda norm: bits of a route do not depend on how many blocks share a row") {
  GpuMachine gpu;
  EndOfAttention e = end_of_attention(DType::bf16, 2, 640, 16, 16);  // all scores, in order
  const auto want = e.on_gpu(gpu);
  for (int n_sms : {1, 4, 16}) {
    gpu.gpu.n_sms = n_sms;
    const auto got = e.on_gpu(gpu);
    CHECK((same_bits(got.x, want.x) && same_bits(got.h, want.h)));
    CHECK((same_bits(got.expert, want.expert) && same_bits(got.score, want.score)));
  }
}

TEST_CASE("cuda norm: logits are rounded before they are compared") {
  GpuMachine gpu;
  EndOfAttention e = end_of_attention(DType::bf16, 2, 64, 3, 2);
  for (int64_t i = 0; i < 2 * 64; ++i) e.x.set(i, 1), e.y.set(i, 0);
  for (int64_t i = 0; i < 64; ++i) e.norm.set(i, 1);
  for (int64_t i = 0; i < 3 * 64; ++i) e.router.set(i, i < 64 ? -1 : 1);
  e.router.set(2 * 64, 1.0078125);  // 64.0078 is 64 in bfloat16: the lower index wins
  const auto got = e.on_gpu(gpu);
  CHECK(doubles(got.expert) == Doubles{1, 2, 1, 2});
}
