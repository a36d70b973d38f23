// INT4 weights with more rows than small_m.cu takes: int4.cu, and weights dequantised in scratch, against sums in doubles
// over the weights' exact values; the CPU's products are tested against the same (tests/kernels/cpu/test_quantized.cpp).
#include <optional>

#include "kernels/cpu/quantized.h"
#include "kernels/cuda/matmul/dequantize.h"
#include "kernels/cuda/matmul/dispatch.h"
#include "kernels/cuda/matmul/grouped.h"
#include "kernels/cuda/matmul/int4.h"
#include "kernels/cuda/matmul_testing.h"

using namespace l4;
using namespace l4::test;

namespace {

// As in test_matmul.cpp: a rounding to bfloat16 is 2^-8 of the size at most, 0.0016 in the root mean square. Codes are
// multiplied exactly; a dequantised weight is rounded once, which moves a sum of such terms by 0.0011 of its size.
constexpr double kLargestRounding = 0.0039;
double roundings(double n_roundings, int64_t n_outputs) {
  return n_roundings * 0.0018 + kLargestRounding / std::sqrt(double(n_outputs));
}

// Codes with scales of either sign, on the device, and their values.
struct CodedWeights {
  QuantizedWeights w;
  PackedWeight device;
  Doubles values;  // [E, n, k]

  CodedWeights(GpuMachine& gpu, Numbers& numbers, const LinearSpec& spec)
      : w(numbers, spec),
        device(cuda::pack_weight(gpu.gpu, spec, w.weight_slices(), w.bias_slices(), w.scale_slices(),
                                 [](size_t bytes, const char* what) { return cuda::device_buffer(bytes, what); })) {
    for (int64_t e = 0; e < spec.n_experts; ++e)
      for (int64_t n = 0; n < spec.n; ++n)
        for (int64_t k = 0; k < spec.k; ++k) values.push_back(w.at(e, n, k));
  }
  double product(int64_t e, int64_t n, const double* x) const {
    const double* row = &values[size_t((e * w.spec.n + n) * w.spec.k)];
    double sum = w.spec.bias ? w.b.at(e * w.spec.n + n) : 0;
    for (int64_t k = 0; k < w.spec.k; ++k) sum += x[k] * row[k];
    return sum;
  }
};

LinearSpec int4_spec(int64_t n, int64_t k, int64_t group, int64_t n_experts = 1, bool gated = false) {
  return {.name = "w",
          .n = n,
          .k = k,
          .n_experts = n_experts,
          .gated = gated,
          .format = group ? WeightFormat::int4 : WeightFormat::fp8,
          .group = group};
}

struct LinearCase {
  int64_t m, n, k, group;
  bool bias = false;
  DType y = DType::bf16;
};

template <class Linear>
void check_linear(GpuMachine& gpu, const LinearCase& c, double n_roundings, const Linear& linear) {
  INFO(cat("m ", c.m, ", n ", c.n, ", k ", c.k, ", groups of ", c.group));
  Numbers numbers(uint64_t(c.m * 100 + c.n + c.k + c.group));
  LinearSpec spec = int4_spec(c.n, c.k, c.group);
  spec.bias = c.bias;
  const CodedWeights w(gpu, numbers, spec);
  const Values x = numbers.tensor(DType::bf16, {c.m, c.k});
  const Doubles in = doubles(x);
  Doubles want;
  for (int64_t i = 0; i < c.m; ++i)
    for (int64_t j = 0; j < c.n; ++j) want.push_back(w.product(0, j, &in[size_t(i * c.k)]));
  const View device_x = gpu.upload(x), y = gpu.empty(c.y, {c.m, c.n});
  gpu.run([&](const cuda::OpContext& ctx) { linear(ctx, device_x, w.device, y); });
  const Values got = gpu.download(y);
  const Errors e = errors(got, want);
  CHECK(e.rms <= roundings(n_roundings, c.m * c.n));
  CHECK(e.largest <= 5 * n_roundings * kLargestRounding);
  gpu.run([&](const cuda::OpContext& ctx) { linear(ctx, device_x, w.device, y); });
  CHECK(same_bits(gpu.download(y), got));
}

struct FfnCase {
  int64_t m, d, f_shared, f_experts, n_experts, group;
  enum Routing { random, one, some } routing = random;  // some: only experts 0 and the last
  int64_t first_expert = 0, n_elsewhere = 0;
  int64_t shared_group = -1;  // the same
};
std::string name(const FfnCase& c) {
  return cat(c.m, " rows, D ", c.d, ", F ", c.f_shared, " and ", c.f_experts, ", ", c.n_experts, " experts from ",
             c.first_expert, ", routing ", int(c.routing), ", groups of ", c.group);
}

template <class Up, class Down>
void check_ffn(GpuMachine& gpu, const FfnCase& c, double n_roundings, const Up& up, const Down& down) {
  INFO(name(c));
  Numbers numbers(uint64_t(c.m * 31 + c.d + c.group));
  const int64_t shared_group = c.shared_group < 0 ? c.group : c.shared_group;
  const CodedWeights shared_up(gpu, numbers, int4_spec(2 * c.f_shared, c.d, shared_group, 1, true)),
      shared_down(gpu, numbers, int4_spec(c.d, c.f_shared, shared_group));
  std::optional<CodedWeights> experts_up, experts_down;
  Values expert(DType::i32, {c.m, 1}), score(DType::f32, {c.m, 1});
  if (c.n_experts) {
    experts_up.emplace(gpu, numbers, int4_spec(2 * c.f_experts, c.d, c.group, c.n_experts, true));
    experts_down.emplace(gpu, numbers, int4_spec(c.d, c.f_experts, c.group, c.n_experts));
    const int64_t all = c.first_expert + c.n_experts + c.n_elsewhere;
    for (int64_t t = 0; t < c.m; ++t) {
      expert.set(t, double(c.routing == FfnCase::one    ? c.first_expert + c.n_experts / 2
                           : c.routing == FfnCase::some ? (t % 3 ? c.first_expert : all - 1)
                                                        : numbers.below(all)));
      score.set(t, round_bf16(float(numbers.uniform(0.1, 1))));
    }
  }
  const Values h = numbers.tensor(DType::bf16, {c.m, c.d});

  Doubles want(size_t(c.m * c.d));
  auto add = [&](const CodedWeights& of_up, const CodedWeights& of_down, int64_t e, int64_t t, double scale) {
    Doubles x, act;
    for (int64_t k = 0; k < c.d; ++k) x.push_back(h.at(t * c.d + k) * scale);
    const int64_t f = of_up.w.spec.n / 2;
    for (int64_t j = 0; j < f; ++j) {
      const double gate = of_up.product(e, j, x.data());
      act.push_back(gate / (1 + std::exp(-gate)) * of_up.product(e, f + j, x.data()));
    }
    for (int64_t i = 0; i < c.d; ++i) want[size_t(t * c.d + i)] += of_down.product(e, i, act.data());
  };
  for (int64_t t = 0; t < c.m; ++t) {
    add(shared_up, shared_down, 0, t, 1);
    const int64_t e = c.n_experts ? int64_t(expert.at(t)) - c.first_expert : -1;
    if (e >= 0 && e < c.n_experts) add(*experts_up, *experts_down, e, t, score.at(t));
  }

  Route route{};
  View act_routed;
  if (c.n_experts) {
    route = {1, gpu.upload(expert), gpu.upload(score)};
    act_routed = gpu.empty(DType::bf16, {c.m, c.f_experts});
  }
  const View act_shared = gpu.empty(DType::bf16, {c.m, c.f_shared}), y = gpu.empty(DType::bf16, {c.m, c.d});
  const FfnUpArgs up_args{gpu.upload(h), &shared_up.device, experts_up ? &experts_up->device : nullptr,
                          c.first_expert, route, act_shared, act_routed, nullptr};
  const FfnDownArgs down_args{act_shared, &shared_down.device, act_routed, experts_down ? &experts_down->device : nullptr,
                              c.first_expert, route, {}, {}, 0, {}, nullptr, nullptr};
  Values first;
  for (bool again : {false, true}) {
    gpu.run([&](const cuda::OpContext& ctx) { up(ctx, up_args); });
    gpu.run([&](const cuda::OpContext& ctx) { down(ctx, down_args, y); });
    const Values got = gpu.download(y);
    if (again) {
      CHECK(same_bits(got, first));
    } else {
      const Errors e = errors(got, want);
      CHECK(e.rms <= roundings(n_roundings, c.m * c.f_shared));
      CHECK(e.largest <= 9 * n_roundings * kLargestRounding);  // products have long tails
      first = got;
    }
  }
}

constexpr double kCodes = 3;            // roundings of a block: g and u, the activation, y
constexpr double kDequantized = 3 + 2;  // and those of the weights of each half

}  // namespace

TEST_CASE("cuda matmul int4: weights dequantised are codes times scales, rounded once") {
  GpuMachine gpu;
  for (auto [n, k, group] : {std::array<int64_t, 3>{48, 256, 64}, {7, 96, 32}, {70, 1280, 128}, {33, 640, 320},
                             {50, 136, 0}, {8, 2048, 0}}) {
    CAPTURE(k);
    CAPTURE(group);
    Numbers numbers(uint64_t(n + k));
    const CodedWeights w(gpu, numbers, int4_spec(n, k, group, 3, n % 16 == 0));
    const View to = gpu.empty(DType::bf16, {2, n, k});
    REQUIRE(cuda::is_dequantizable(w.w.spec));
    gpu.run([&](const cuda::OpContext& ctx) {
      const PackedWeight plain = cuda::dequantize(ctx, w.device, 1, 2, static_cast<__nv_bfloat16*>(to.data));
      CHECK(plain.spec.format == WeightFormat::bf16);
      CHECK(plain.spec.n_experts == 2);
    });
    const Values got = gpu.download(to);
    int64_t wrong = 0;
    for (int64_t e = 0; e < 2; ++e)
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < k; ++j)
          wrong += got.at((e * n + cuda::packed_row(w.w.spec, i)) * k + j) !=
                   double(round_bf16(float(w.values[size_t(((e + 1) * n + i) * k + j)])));
    CHECK(wrong == 0);
  }
}

TEST_CASE("cuda matmul int4: linear, codes to the matrix units") {
  auto codes = [](const cuda::OpContext& ctx, const View& x, const PackedWeight& w, const View& y) {
    cuda::int4_linear(ctx, x, w, y, DType::bf16);
  };
  for (int n_sms : {1, 5}) {
    GpuMachine gpu;
    gpu.gpu.n_sms = n_sms;
    for (const LinearCase& c :
         {LinearCase{17, 24, 256, 128}, {40, 136, 768, 64}, {64, 264, 1280, 32}, {130, 128, 2048, 128}, {6, 10, 512, 64}})
      check_linear(gpu, c, 1, codes);
  }
  GpuMachine gpu;
  check_linear(gpu, {20, 40, 256, 64, false, DType::f32}, 1, codes);
  // Weights are rounded.
  check_linear(gpu, {600, 16, 256, 32}, 2, codes);
  check_linear(gpu, {520, 40, 768, 128, false, DType::f32}, 2, codes);
}

TEST_CASE("cuda matmul int4: linear, whatever serves it") {
  GpuMachine gpu;
  for (const LinearCase& c :
       {LinearCase{17, 24, 256, 128}, {40, 33, 256, 64}, {130, 24, 96, 32}, {600, 8, 512, 128}, {20, 40, 160, 32, true},
        {20, 40, 256, 64, false, DType::f32}, {18, 24, 72, 0, true}})
    check_linear(gpu, c, 2, [](const cuda::OpContext& ctx, const View& x, const PackedWeight& w, const View& y) {
      cuda::linear(ctx, x, w, y, DType::bf16);
    });
}

TEST_CASE("cuda matmul int4: the feed-forward block, codes to the matrix units") {
  for (int n_sms : {1, 7}) {  // one block has tiles of all widths
    GpuMachine gpu;
    gpu.gpu.n_sms = n_sms;
    for (const FfnCase& c :
         {FfnCase{17, 256, 256, 256, 4, 128}, FfnCase{40, 512, 256, 256, 0, 64},
          FfnCase{70, 256, 256, 512, 3, 32, FfnCase::one}, FfnCase{33, 256, 512, 256, 5, 128, FfnCase::some},
          FfnCase{40, 256, 256, 256, 2, 64, FfnCase::random, 3, 2}, FfnCase{130, 256, 256, 256, 3, 32},
          FfnCase{1, 256, 256, 256, 40, 128}})
      check_ffn(gpu, c, kCodes, cuda::grouped_ffn_up, cuda::grouped_ffn_down);
  }
}

TEST_CASE("cuda matmul int4: the feed-forward block of more rows, wide tiles") {
  for (int n_sms : {1, 5}) {
    GpuMachine gpu;
    gpu.gpu.n_sms = n_sms;
    for (const FfnCase& c :
         {FfnCase{600, 256, 256, 512, 3, 64, FfnCase::random, 1, 1}, FfnCase{520, 256, 256, 256, 0, 128},
          FfnCase{530, 256, 256, 256, 2, 32, FfnCase::one}})
      check_ffn(gpu, c, kDequantized, cuda::grouped_ffn_up, cuda::grouped_ffn_down);
  }
}

TEST_CASE("cuda matmul int4: the feed-forward block whose shared expert is in other groups, or no kernel's") {
  GpuMachine gpu;
  for (int64_t m : {50, 530})
    for (int64_t shared_group : {32, 16, 0})  // int4.cu in a launch of its own; dequantised; FP8, dequantised
      check_ffn(gpu, {m, 256, 256, 256, 3, 128, FfnCase::random, 1, 1, shared_group}, kDequantized, cuda::grouped_ffn_up,
                cuda::grouped_ffn_down);
}

TEST_CASE("cuda matmul int4: the feed-forward block of dequantised weights, experts at once and in turn") {
  GpuMachine gpu;
  for (int64_t scratch_bytes : {cuda::kDequantizedBytes, int64_t(80000), int64_t(1)})
    for (const FfnCase& c :
         {FfnCase{40, 96, 40, 64, 5, 8, FfnCase::random, 2, 2}, FfnCase{70, 64, 32, 64, 3, 32, FfnCase::some},
          FfnCase{530, 64, 32, 96, 3, 32, FfnCase::one, 0, 1}, FfnCase{600, 32, 64, 0, 0, 32},
          FfnCase{20, 40, 24, 16, 4, 0}})
      check_ffn(
          gpu, c, kDequantized,
          [&](const cuda::OpContext& ctx, const FfnUpArgs& args) { cuda::dequantized_ffn_up(ctx, args, scratch_bytes); },
          [&](const cuda::OpContext& ctx, const FfnDownArgs& args, const View& y) {
            cuda::dequantized_ffn_down(ctx, args, y, scratch_bytes);
          });
}

TEST_CASE("cuda matmul int4: the scratch of dequantised experts stays within its bound") {
  Numbers numbers(1);
  const PackedWeight shared{.spec = int4_spec(16384, 5120, 256, 1, true), .data = {}, .scales = {}, .bias = {}},
      experts{.spec = int4_spec(16384, 5120, 256, 128, true), .data = {}, .scales = {}, .bias = {}};
  cuda::Gpu gpu;
  Arena measured;
  const Values h(DType::bf16, {600, 5120});
  Values expert(DType::i32, {600, 1}), score(DType::f32, {600, 1});
  cuda::dequantized_ffn_up({gpu, measured}, {.h = h,
                                         .shared = &shared,
                                         .experts = &experts,
                                         .first_expert = 0,
                                         .route = {1, expert, score},
                                         .act_shared = {},
                                         .act_routed = {},
                                         .work = nullptr});
  const int64_t one = cuda::dequantized_bytes(experts.spec), rows = 2 * int64_t(h.view.bytes());
  CHECK(int64_t(measured.peak()) > cuda::kDequantizedBytes - 2 * one);
  CHECK(int64_t(measured.peak()) < cuda::kDequantizedBytes + rows);
}

TEST_CASE("cuda matmul int4: which kernel serves what") {
  auto is = [](const char* got, const char* want) { return std::string(got) == want; };
  auto linear = [](const LinearSpec& spec, int64_t m) { return cuda::linear_kernel_name(spec, DType::bf16, m); };
  for (int64_t group : {32, 64, 128}) {
    for (int64_t m : {17, 512}) CHECK(is(linear(int4_spec(7168, 5120, group), m), "int4"));
    CHECK(is(linear(int4_spec(7168, 5120, group), 513), "dequantized"));
    CHECK(is(linear(int4_spec(7168, 5120 - 128, group), 17), "dequantized"));
  }
  CHECK(is(linear(int4_spec(7168, 5120, 256), 17), "dequantized"));
  LinearSpec quantised = int4_spec(7168, 5120, 128);
  quantised.input = InputFormat::fp8_token;
  CHECK(is(linear(quantised, 17), "generic"));
  CHECK(is(cuda::linear_kernel_name(int4_spec(7168, 5120, 128), DType::f32, 17), "generic"));
  CHECK(is(linear(int4_spec(202048, 5120, 128), 600), "generic"));  // 2 GB

  // Feed-forward blocks: of each weight by itself.
  PackedWeight shared, experts;
  const Values h(DType::bf16, {17, 512});
  auto ffn = [&] {
    return std::string(cuda::ffn_kernel_name({.h = h,
                                              .shared = &shared,
                                              .experts = &experts,
                                              .first_expert = 0,
                                              .route = {.top_k = 1, .expert = {}, .score = {}},
                                              .act_shared = {},
                                              .act_routed = {},
                                              .work = nullptr}));
  };
  shared.spec = int4_spec(512, 512, 64, 1, true);
  experts.spec = int4_spec(512, 512, 128, 4, true);
  CHECK(ffn() == "grouped");
  shared.spec.format = WeightFormat::bf16;
  CHECK(ffn() == "grouped");
  experts.spec.group = 256;
  CHECK(ffn() == "dequantized");
  experts.spec.input = InputFormat::fp8_token;
  CHECK(ffn() == "generic");
}
