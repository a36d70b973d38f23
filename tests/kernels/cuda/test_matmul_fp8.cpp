// Products of FP8 weights and FP8 inputs of more than 16 rows, against sums in doubles of the same codes
// (tests/kernels/cpu/test_quantized.cpp compares the CPU's with those).
#include <algorithm>
#include <optional>

#include "kernels/cpu/quantized.h"
#include "kernels/cuda/matmul/dispatch.h"
#include "kernels/cuda/matmul/grouped.h"
#include "kernels/cuda/matmul/quantise.h"
#include "kernels/cuda/matmul_testing.h"

using namespace l4;
using namespace l4::test;

namespace {

// bfloat16: as in test_matmul.cpp. The matrix units keep about 14 bits of the sum of 128 columns: four instructions,
// each cut by up to 2^-13, of a chain whose sum is of the size of the result at most.
constexpr double kChain = 0.001;
double roundings(double n_roundings, int64_t n_outputs) {
  return n_roundings * 0.0018 + 0.0039 / std::sqrt(double(n_outputs)) + kChain;
}

// The largest error over the size of what is wanted; small ones count as of the mean size.
double worst(const View& got, const Doubles& want) {
  double size = 0, most = 0;
  for (double v : want) size += v * v / double(want.size());
  for (size_t i = 0; i < want.size(); ++i)
    most = std::max(most, std::abs(Values::value(got, int64_t(i)) - want[i]) / (std::abs(want[i]) + std::sqrt(size)));
  return most;
}

// FP8 with quantised input, or the same numbers in bfloat16: scales are powers of two, of either sign and all sizes.
struct Matrix {
  QuantizedWeights w;
  PackedWeight device;

  Matrix(GpuMachine& gpu, Numbers& numbers, LinearSpec spec, double size = 1)
      : w(numbers, with_format(spec, WeightFormat::fp8), {.scale = DType::f32}) {
    for (int64_t i = 0; i < w.scale.view.elements(); ++i)
      w.scale.set(i, std::ldexp(numbers.below(2) ? size : -size, -int(6 + numbers.below(3))) / 16);
    auto allocate = [](size_t bytes, const char* what) { return cuda::device_buffer(bytes, what); };
    if (spec.format == WeightFormat::fp8) {
      device = cuda::pack_weight(gpu.gpu, spec, w.weight_slices(), {}, w.scale_slices(), allocate);
    } else {
      const Values plain(DType::bf16, {spec.n_experts, spec.n, spec.k});
      std::vector<WeightSlice> slices;
      for (int64_t e = 0; e < spec.n_experts; ++e) {
        slices.push_back({plain.view.slice(e, 1).data, DType::bf16, spec.n, spec.k, spec.k, 1, e, 0, 0});
        for (int64_t n = 0; n < spec.n; ++n)
          for (int64_t k = 0; k < spec.k; ++k) plain.set((e * spec.n + n) * spec.k + k, w.at(e, n, k));
      }
      device = cuda::pack_weight(gpu.gpu, spec, slices, {}, {}, allocate);
      w.spec.input = InputFormat::as_is;
    }
  }
  static LinearSpec with_format(LinearSpec spec, WeightFormat format) {
    spec.format = format;
    return spec;
  }
};

struct Scheme {
  WeightFormat format;
  InputFormat input;
  float input_scale = 0;
};
constexpr Scheme kToken{WeightFormat::fp8, InputFormat::fp8_token}, kPlain{WeightFormat::bf16, InputFormat::as_is},
    kStatic{WeightFormat::fp8, InputFormat::fp8_static, 0.004f},
    kStaticToo{WeightFormat::fp8, InputFormat::fp8_static, 0.006f};

LinearSpec spec_of(const Scheme& s, int64_t n, int64_t k, int64_t n_experts = 1, bool gated = false) {
  return {.name = "w",
          .n = n,
          .k = k,
          .n_experts = n_experts,
          .gated = gated,
          .format = s.format,
          .input = s.input,
          .input_scale = s.input_scale};
}

// Rows of unlike sizes; one of zeros.
Values inputs(Numbers& numbers, int64_t m, int64_t k) {
  Values x(DType::bf16, {m, k});
  for (int64_t i = 0; i < m; ++i) {
    const double size = i == 3 ? 0 : std::ldexp(1.0, int(i % 3) - 1);
    for (int64_t j = 0; j < k; ++j) x.set(i * k + j, numbers.uniform(-size, size));
  }
  return x;
}

}  // namespace

TEST_CASE("cuda matmul: rows to FP8 codes and scales, bit for bit as the reference") {
  GpuMachine gpu;
  for (int64_t k : {16, 48, 4096, 4112, 16400})
    for (const Scheme& scheme : {kToken, kStatic}) {
      CAPTURE(k);
      Numbers numbers(1000 + uint64_t(k));
      const LinearSpec spec = spec_of(scheme, 8, k);
      const Values x = inputs(numbers, 5, k);
      for (int64_t j : {0, 7}) x.set(k + j, 448 * 0.004 * (j ? -1.03 : 1.04));  // beyond 448 of the static scale
      x.set(5, -0.0), x.set(6, 3e38), x.set(9, -3e38);
      for (int64_t j = 0; j < k; ++j) x.set(4 * k + j, std::ldexp(numbers.uniform(-1, 1), -130));  // a scale of 2^-139
      const std::vector<int32_t> order = {3, 1, 4, 4, 0};
      for (bool gathered : {false, true}) {
        const View device_x = gpu.upload(x);
        const int32_t* rows = gathered ? gpu.upload(order) : nullptr;
        const View codes = gpu.empty(DType::u8, {5, k}), scales = gpu.empty(DType::f32, {5});
        gpu.run([&](const cuda::OpContext& ctx) {
          Scratch scratch(ctx.work);
          const cuda::QuantisedRows got = cuda::quantise(scratch, ctx, device_x, spec, rows);
          if (ctx.measuring()) return;
          L4_CUDA(cudaMemcpyAsync(codes.data, got.codes, codes.bytes(), cudaMemcpyDeviceToDevice, ctx.gpu.stream));
          L4_CUDA(cudaMemcpyAsync(scales.data, got.scales, scales.bytes(), cudaMemcpyDeviceToDevice, ctx.gpu.stream));
        });
        const Values got_codes = gpu.download(codes), got_scales = gpu.download(scales);
        for (int64_t i = 0; i < 5; ++i) {
          const int64_t row = gathered ? order[size_t(i)] : i;
          float largest = 0;
          for (int64_t j = 0; j < k; ++j) largest = std::max(largest, std::abs(float(x.at(row * k + j))));
          const float s = scheme.input == InputFormat::fp8_static ? scheme.input_scale : fp8_scale(largest);
          REQUIRE(float(got_scales.at(i)) == s);
          for (int64_t j = 0; j < k; ++j)
            REQUIRE(static_cast<const uint8_t*>(got_codes.view.data)[i * k + j] ==
                    fp8_from_float(float(x.at(row * k + j)) / s));
        }
      }
    }
}

TEST_CASE("cuda matmul: FP8 linear, by cuBLASLt and where that has no kernel") {
  GpuMachine gpu;
  struct Case {
    int64_t m, n, k;
  };
  // n 24: not a multiple of 16; n 96: the emulated library has no kernel; k no multiple of 128; several parts of k.
  for (const Case& c : {Case{3, 48, 80}, {17, 64, 144}, {40, 96, 80}, {130, 24, 272}, {600, 96, 144}, {600, 40, 16}, {20, 264, 400}})
    for (const Scheme& scheme : {kToken, kStatic})
      for (DType type : {DType::bf16, DType::f32}) {
        INFO(cat(c.m, " x ", c.n, " x ", c.k, ", input ", int(scheme.input), " ", dtype_name(type)));
        Numbers numbers(uint64_t(c.m + c.n));
        const Matrix w(gpu, numbers, spec_of(scheme, c.n, c.k));
        REQUIRE(std::string(cuda::linear_kernel_name(w.device.spec, DType::bf16, c.m)) == "fp8");
        const Values x = inputs(numbers, c.m, c.k);
        const View device_x = gpu.upload(x), y = gpu.empty(type, {c.m, c.n});
        Doubles want;
        for (int64_t i = 0; i < c.m; ++i) {
          const Doubles in = w.w.input(x, i, DType::bf16);
          for (int64_t n = 0; n < c.n; ++n) want.push_back(w.w.output(0, n, in).first);
        }
        gpu.run([&](const cuda::OpContext& ctx) { cuda::linear(ctx, device_x, w.device, y, DType::bf16); });
        const Values got = gpu.download(y);
        const Errors e = errors(got, want);
        CHECK(e.rms <= roundings(1, c.m * c.n));
        CHECK(worst(got, want) <= 0.006);
        for (int64_t i = 0; type == DType::f32 && i < got.view.elements(); ++i)
          REQUIRE(double(round_bf16(float(got.at(i)))) == got.at(i));
        gpu.run([&](const cuda::OpContext& ctx) { cuda::linear(ctx, device_x, w.device, y, DType::bf16); });
        CHECK(same_bits(gpu.download(y), got));
      }
}

// All terms positive: a sum that kept 14 bits throughout would lose up to 2^-14 of itself at each of 128 instructions. With
// cuBLASLt on an H100 it loses 5.2 * 2^-13.
TEST_CASE("cuda matmul: long FP8 sums are added up in float32 every 128 columns") {
  GpuMachine gpu;
  constexpr int64_t kM = 17, kN = 8, kK = 4096;
  Numbers numbers(1);
  Matrix w(gpu, numbers, spec_of(kToken, kN, kK));
  for (uint8_t& code : w.w.codes) code &= 0x7F;
  w.device = cuda::pack_weight(gpu.gpu, w.w.spec, w.w.weight_slices(), {}, w.w.scale_slices(),
                               [](size_t bytes, const char* what) { return cuda::device_buffer(bytes, what); });
  const Values x = numbers.tensor(DType::bf16, {kM, kK}, 0, 1);
  const View device_x = gpu.upload(x), y = gpu.empty(DType::f32, {kM, kN});
  gpu.run([&](const cuda::OpContext& ctx) { cuda::fp8_linear(ctx, device_x, w.device, y, DType::f32); });
  const Values got = gpu.download(y);
  for (int64_t i = 0; i < kM; ++i) {
    const Doubles in = w.w.input(x, i, DType::bf16);
    for (int64_t n = 0; n < kN; ++n) {
      const double want = w.w.output(0, n, in).first;
      CHECK(std::abs(got.at(i * kN + n) - want) <= 8 * std::ldexp(1.0, -13) * std::abs(want));
    }
  }
}

namespace {

struct FfnCase {
  int64_t m, d, f_shared, f_experts, n_experts;
  enum Routing { random, one, some } routing = random;  // some: only experts 0 and the last
  int64_t first_expert = 0, n_elsewhere = 0;            // experts of the model before and after this rank's
};
std::string name(const FfnCase& c) {
  return cat(c.m, " rows, D ", c.d, ", F ", c.f_shared, " and ", c.f_experts, ", ", c.n_experts, " experts from ",
             c.first_expert, ", routing ", int(c.routing));
}
double silu(double g) {
  return g / (1 + std::exp(-g));
}

struct Ffn {
  const FfnCase& c;
  Numbers numbers;
  Values expert, score;
  std::vector<int64_t> order;  // rows as the kernels have them between up and down

  explicit Ffn(const FfnCase& of) : c(of), numbers(uint64_t(of.m * 31 + of.d)) {
    for (int64_t t = 0; t < c.m; ++t) order.push_back(t);
    if (!c.n_experts) return;
    expert = Values(DType::i32, {c.m, 1});
    score = Values(DType::f32, {c.m, 1});
    const int64_t all = c.first_expert + c.n_experts + c.n_elsewhere;
    for (int64_t t = 0; t < c.m; ++t) {
      int64_t e = numbers.below(all);
      if (c.routing == FfnCase::one) e = c.first_expert + c.n_experts / 2;
      if (c.routing == FfnCase::some) e = t % 3 ? c.first_expert : all - 1;
      expert.set(t, double(e));
      score.set(t, round_as(DType::bf16, numbers.uniform(0.1, 1)));
    }
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return place(a) < place(b); });
  }
  int64_t place(int64_t t) const {
    const int64_t e = local_expert(t);
    return e < 0 ? c.n_experts : e;
  }
  int64_t local_expert(int64_t t) const {  // -1: not here
    if (!c.n_experts) return -1;
    const int64_t e = int64_t(expert.at(t)) - c.first_expert;
    return e < c.n_experts && e >= 0 ? e : -1;
  }
  Route route(GpuMachine& gpu) const { return c.n_experts ? Route{1, gpu.upload(expert), gpu.upload(score)} : Route{}; }
};

void check_up(GpuMachine& gpu, const FfnCase& c, const Scheme& of_shared, const Scheme& of_experts) {
  Ffn ffn(c);
  const Matrix shared(gpu, ffn.numbers, spec_of(of_shared, 2 * c.f_shared, c.d, 1, true));
  std::optional<Matrix> experts;
  if (c.n_experts) experts.emplace(gpu, ffn.numbers, spec_of(of_experts, 2 * c.f_experts, c.d, c.n_experts, true), 4);
  const Values h = inputs(ffn.numbers, c.m, c.d);
  FfnUpArgs args{.h = gpu.upload(h),
                 .shared = &shared.device,
                 .experts = experts ? &experts->device : nullptr,
                 .first_expert = c.first_expert,
                 .route = ffn.route(gpu),
                 .act_shared = gpu.empty(DType::bf16, {c.m, c.f_shared}),
                 .act_routed = {},
                 .work = nullptr};
  if (c.n_experts) args.act_routed = gpu.empty(DType::bf16, {c.m, c.f_experts});
  REQUIRE(std::string(cuda::ffn_kernel_name(args)) == "grouped");
  gpu.run([&](const cuda::OpContext& ctx) { cuda::ffn_up(ctx, args); });
  auto check = [&](const Matrix& w, bool routed, const View& device) {
    const Values all = gpu.download(device);
    const int64_t f = w.w.spec.n / 2;
    Doubles want, got;
    for (int64_t i = 0; i < c.m; ++i) {
      const int64_t t = ffn.order[size_t(i)], e = routed ? ffn.local_expert(t) : 0;
      if (e < 0) continue;
      const Doubles x = w.w.input(h, t, DType::bf16, routed ? float(ffn.score.at(t)) : 1);
      for (int64_t j = 0; j < f; ++j) {
        want.push_back(silu(w.w.output(e, j, x).first) * w.w.output(e, f + j, x).first);
        got.push_back(all.at(i * f + j));
      }
    }
    Values got_view(DType::f32, {int64_t(got.size())});
    for (size_t i = 0; i < got.size(); ++i) got_view.set(int64_t(i), got[i]);
    const Errors e = errors(got_view, want);
    CHECK(e.rms <= roundings(4, int64_t(want.size())));  // gate, up, silu, act
    CHECK(worst(got_view, want) <= 0.04);                // of silu(g) as many times as g is large
  };
  check(shared, false, args.act_shared);
  if (experts) check(*experts, true, args.act_routed);
}

// The activations are given, so that codes are the same ones.
void check_down(GpuMachine& gpu, const FfnCase& c, const Scheme& of_shared, const Scheme& of_experts, double size) {
  Ffn ffn(c);
  const Matrix shared(gpu, ffn.numbers, spec_of(of_shared, c.d, c.f_shared));
  std::optional<Matrix> experts;
  if (c.n_experts) experts.emplace(gpu, ffn.numbers, spec_of(of_experts, c.d, c.f_experts, c.n_experts), size);
  const Values act_shared = inputs(ffn.numbers, c.m, c.f_shared);
  Values act_routed;
  if (c.n_experts) {
    act_routed = inputs(ffn.numbers, c.m, c.f_experts);
    for (int64_t i = 0; i < c.m; ++i)  // nobody wrote rows of experts elsewhere
      for (int64_t j = 0; ffn.local_expert(ffn.order[size_t(i)]) < 0 && j < c.f_experts; ++j)
        act_routed.set(i * c.f_experts + j, NAN);
  }
  const FfnDownArgs args{.act_shared = gpu.upload(act_shared),
                         .shared = &shared.device,
                         .act_routed = c.n_experts ? gpu.upload(act_routed) : View{},
                         .experts = experts ? &experts->device : nullptr,
                         .first_expert = c.first_expert,
                         .route = ffn.route(gpu),
                         .x = {},
                         .norm_weight = {},
                         .norm_eps = 0,
                         .h = {},
                         .comm = nullptr,
                         .work = nullptr};
  const View y = gpu.empty(DType::bf16, {c.m, c.d});
  REQUIRE(cuda::ffn_kernel(cuda::ffn_shape(args), c.m) == cuda::MatmulKernel::grouped);
  gpu.run([&](const cuda::OpContext& ctx) { cuda::ffn_down(ctx, args, y); });
  Doubles want(size_t(c.m * c.d));
  for (int64_t i = 0; i < c.m; ++i) {
    const int64_t t = ffn.order[size_t(i)], e = ffn.local_expert(t);
    const Doubles in_shared = shared.w.input(act_shared, i, DType::bf16);
    const Doubles in_expert = e < 0 ? Doubles{} : experts->w.input(act_routed, i, DType::bf16);
    for (int64_t n = 0; n < c.d; ++n) {
      want[size_t(t * c.d + n)] = shared.w.output(0, n, in_shared).first;
      if (e >= 0) want[size_t(t * c.d + n)] += experts->w.output(e, n, in_expert).first;
    }
  }
  const Values got = gpu.download(y);
  const Errors e = errors(got, want);
  CHECK(e.rms <= roundings(1, c.m * c.d));
  CHECK(worst(got, want) <= 0.006);
  gpu.run([&](const cuda::OpContext& ctx) { cuda::ffn_down(ctx, args, y); });
  CHECK(same_bits(gpu.download(y), got));
}

// Narrow tiles, and wide ones; widths and k that no tile divides; experts without tokens; experts elsewhere.
const FfnCase kNarrowCases[] = {{17, 80, 48, 0, 0},
                                {40, 144, 80, 16, 4},
                                {130, 272, 16, 144, 3, FfnCase::one},
                                {33, 208, 272, 48, 5, FfnCase::some},
                                {40, 64, 144, 16, 2, FfnCase::random, 3, 2}};
const FfnCase kWideCases[] = {{600, 80, 48, 0, 0},
                              {600, 144, 80, 144, 3},
                              {530, 48, 16, 80, 2, FfnCase::some, 1, 2},
                              {1040, 32, 48, 16, 2, FfnCase::random, 1, 1}};

}  // namespace

TEST_CASE("cuda matmul: FP8 feed-forward blocks, narrow tiles") {
  GpuMachine gpu;
  for (const FfnCase& c : kNarrowCases)
    for (const Scheme& scheme : {kToken, kStatic}) {
      INFO(cat(name(c), ", input ", int(scheme.input)));
      check_up(gpu, c, scheme, scheme);
      for (double size : {1.0, 64.0}) check_down(gpu, c, scheme, scheme, size);
    }
}

TEST_CASE("cuda matmul: FP8 feed-forward blocks, wide tiles") {
  GpuMachine gpu;
  for (const FfnCase& c : kWideCases)
    for (const Scheme& scheme : {kToken, kStatic}) {
      INFO(cat(name(c), ", input ", int(scheme.input)));
      const bool token = scheme.input == InputFormat::fp8_token;
      check_up(gpu, c, scheme, scheme);
      check_down(gpu, c, scheme, scheme, token ? 64 : 1);
      if (token) check_down(gpu, c, scheme, scheme, 1.0 / 64);
    }
}

TEST_CASE("cuda matmul: feed-forward blocks whose shared expert has another format, or another input scale") {
  GpuMachine gpu;
  for (const FfnCase& c :
       {FfnCase{40, 144, 80, 48, 3, FfnCase::random, 1, 1}, FfnCase{600, 48, 80, 144, 2, FfnCase::random, 0, 1}})
    for (auto [shared, experts] :
         {std::pair{kPlain, kToken}, {kToken, kPlain}, {kStatic, kStaticToo}, {kToken, kStatic}, {kPlain, kPlain}}) {
      INFO(cat(name(c), ", formats ", int(shared.format), " ", int(experts.format), ", inputs ", int(shared.input), " ",
               int(experts.input)));
      check_up(gpu, c, shared, experts);
      check_down(gpu, c, shared, experts, 1);
    }
}
