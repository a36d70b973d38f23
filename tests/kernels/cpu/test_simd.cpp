#include "kernels/cpu/op_testing.h"
#include "kernels/cpu/simd/kernels.h"
#include "quant/fp8.h"

using namespace l4;
using namespace l4::test;

namespace {
std::vector<const cpu::SimdKernels*> all_kernels() {
  std::vector<const cpu::SimdKernels*> all;
  for (const cpu::SimdKernels* k : {cpu::simd_kernels_generic(), cpu::simd_kernels_avx2(), cpu::simd_kernels_avx512()})
    if (k) all.push_back(k);
  return all;
}
}  // namespace

TEST_CASE("cpu simd: exp is within 2 ulp over its whole range, and exact at the edges") {
  for (const cpu::SimdKernels* kernels : all_kernels()) {
    INFO(kernels->name);
    double worst = 0;
    std::vector<float> x, y;
    for (double v = -87.3; v < 88.7; v += 0.000317) x.push_back(float(v));
    y.resize(x.size());
    kernels->exp(x.data(), y.data(), int64_t(x.size()));
    for (size_t i = 0; i < x.size(); ++i) {
      const double want = std::exp(double(x[i]));
      const double ulp = std::ldexp(1.0, std::ilogb(want) - 23);
      worst = std::max(worst, std::abs(double(y[i]) - want) / ulp);
    }
    CHECK(worst < 2);
    float edges[] = {0.0f, -0.0f, -200.0f, -INFINITY, 200.0f, INFINITY, NAN};
    kernels->exp(edges, edges, 7);
    CHECK(edges[0] == 1.0f);
    CHECK(edges[1] == 1.0f);
    CHECK(edges[2] == 0.0f);
    CHECK(edges[3] == 0.0f);
    CHECK(edges[4] == INFINITY);
    CHECK(edges[5] == INFINITY);
    CHECK(std::isnan(edges[6]));
  }
}

TEST_CASE("cpu simd: silu against doubles, any length") {
  for (const cpu::SimdKernels* kernels : all_kernels())
    for (int64_t n : {1, 15, 16, 17, 4001}) {
      INFO(cat(kernels->name, " ", n));
      Values z(DType::f32, {n});
      for (int64_t i = 0; i < n; ++i) z.set(i, n == 1 ? -1.5 : double(i) / double(n - 1) * 170 - 85);
      Doubles want;
      for (int64_t i = 0; i < n; ++i) want.push_back(z.at(i) / (1 + std::exp(-z.at(i))));
      kernels->silu(z.view.f32(), z.view.f32(), n);
      CHECK(difference(z, want, tolerance::kActivation) == "");
    }
}

TEST_CASE("cpu simd: bfloat16 widens exactly, any length") {
  for (const cpu::SimdKernels* kernels : all_kernels())
    for (size_t n : {size_t(1), size_t(15), size_t(16), size_t(33), size_t(65536)}) {
      std::vector<uint16_t> from(n);
      for (size_t i = 0; i < n; ++i) from[i] = uint16_t(i * 40503u);  // all bit patterns where n is 65,536
      std::vector<float> to(n + 1, 7.0f);
      kernels->widen_bf16(from.data(), to.data(), int64_t(n));
      int64_t wrong = 0;
      for (size_t i = 0; i < n; ++i) wrong += std::bit_cast<uint32_t>(to[i]) != uint32_t(from[i]) << 16;
      CHECK(wrong == 0);
      CHECK(to[n] == 7.0f);  // nothing beyond
    }
}

TEST_CASE("cpu simd: E4M3 widens exactly, any length, and is multiplied") {
  for (const cpu::SimdKernels* kernels : all_kernels())
    for (size_t n : {size_t(1), size_t(15), size_t(16), size_t(33), size_t(256)})
      for (float scale : {1.0f, 0.0123f, 3e5f, 1e-37f}) {
        INFO(cat(kernels->name, " ", n, " ", scale));
        std::vector<uint8_t> from(n);
        for (size_t i = 0; i < n; ++i) from[i] = uint8_t(i * 167);  // all codes where n is 256
        std::vector<float> to(n + 1, 7.0f);
        kernels->widen_fp8(from.data(), scale, to.data(), int64_t(n));
        int64_t wrong = 0;
        for (size_t i = 0; i < n; ++i) {
          const float want = fp8_to_float(from[i]) * scale;
          wrong +=
              std::isnan(want) ? !std::isnan(to[i]) : std::bit_cast<uint32_t>(to[i]) != std::bit_cast<uint32_t>(want);
        }
        CHECK(wrong == 0);
        CHECK(to[n] == 7.0f);  // nothing beyond
      }
}

TEST_CASE("cpu simd: AVX-512 and AVX2 give the same bits") {
  const cpu::SimdKernels *a = cpu::simd_kernels_avx2(), *b = cpu::simd_kernels_avx512();
  if (!a || !b) L4_SKIP("this CPU has no AVX-512");
  Numbers numbers(1);
  const int rows = 5, width = 32, n_keys = 50;
  Values q = numbers.tensor(DType::f32, {rows, width}), k = numbers.tensor(DType::f32, {52, width});
  Values v = numbers.tensor(DType::f32, {52, width});
  Values result[2];
  for (int i = 0; i < 2; ++i) {
    Values scores(DType::f32, {rows, 64}), state(DType::f32, {rows * (width + 2)});
    float* s = state.view.f32();
    std::fill_n(s, rows, -INFINITY);
    std::fill_n(s + rows, rows * (width + 1), 0.0f);
    (i ? b : a)->attend(rows, n_keys, width, q.view.f32(), k.view.f32(), v.view.f32(), 0.3f, true, scores.view.f32(), s,
                        s + rows, s + 2 * rows);
    result[i] = state;
  }
  CHECK(same_bits(result[0], result[1]));
}
