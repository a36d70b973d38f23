#include "kernels/cpu/op_testing.h"
#include "kernels/cpu/simd/kernels.h"

using namespace l4;
using namespace l4::test;

namespace {
struct LinearCase {
  int64_t m, n, k;
};
// One row, odd rows, both sides of a panel (32), of a register tile (12), of a chain (512), of a chunk of rows (240).
constexpr LinearCase kCases[] = {{1, 1, 1},      {1, 32, 512},  {1, 33, 513},  {1, 300, 64},  {2, 31, 7},
                                 {3, 257, 96},   {11, 64, 512}, {12, 64, 511}, {13, 40, 600}, {24, 32, 33},
                                 {37, 95, 1030}, {239, 33, 20}, {241, 64, 16}, {500, 5, 33}};

void check(Machine& machine, const LinearCase& c, DType x_type, DType w_type, DType y_type, bool bias) {
  INFO(cat("c.m ", c.m, " c.n ", c.n, " c.k ", c.k, " x_type ", dtype_name(x_type), " w_type ", dtype_name(w_type),
           " y_type ", dtype_name(y_type), " bias ", bias));
  Numbers numbers(uint64_t(c.m * 1000003 + c.n * 1009 + c.k));
  Weights w(machine.pool, numbers, {.name = "w", .n = c.n, .k = c.k, .bias = bias, .format = format_of(w_type)});
  Values x = numbers.tensor(x_type, {c.m, c.k}), y(y_type, {c.m, c.n});
  machine.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, x, w.packed, y); });
  Doubles want, size;
  for (int64_t m = 0; m < c.m; ++m)
    for (int64_t n = 0; n < c.n; ++n) {
      auto [sum, terms] = w.output(0, n, [&](int64_t k) { return x.at(m * c.k + k); });
      want.push_back(round_as(y_type, sum));
      size.push_back(terms);
    }
  CHECK(difference(y, want, size, tolerance::kLinear) == "");
}
}  // namespace

TEST_CASE("cpu linear: every shape, type and bias against doubles") {
  Machine machine(2);
  for (const LinearCase& c : kCases)
    for (bool bias : {false, true}) {
      check(machine, c, DType::f32, DType::f32, DType::f32, bias);
      check(machine, c, DType::bf16, DType::bf16, DType::bf16, bias);
      check(machine, c, DType::bf16, DType::bf16, DType::f32, bias);
      check(machine, c, DType::f32, DType::bf16, DType::f32, bias);
    }
}

TEST_CASE("cpu linear: several jobs, rows chosen and scaled, an expert without rows, all rows to one") {
  Machine machine(2);
  Numbers numbers(7);
  const int64_t k = 70, n = 45, n_rows = 29;
  for (DType a : {DType::f32, DType::bf16})
    for (int spread : {0, 1}) {
      Weights w(machine.pool, numbers,
                {.name = "experts", .n = n, .k = k, .n_experts = 4, .bias = true, .format = format_of(a)});
      Values x = numbers.tensor(a, {n_rows, k}), y(a, {n_rows, n});
      // Which rows each expert gets: expert 2 none, or expert 3 all of them.
      std::vector<int32_t> rows[4];
      for (int32_t i = 0; i < n_rows; ++i) rows[spread ? (i % 3 == 2 ? 3 : i % 3) : 3].push_back(i);
      std::vector<float> scales[4];
      std::vector<cpu::LinearJob> jobs;
      for (int e = 0; e < 4; ++e) {
        for (size_t i = 0; i < rows[e].size(); ++i) scales[e].push_back(float(numbers.uniform(0, 1)));
        jobs.push_back({.w = &w.packed,
                        .expert = e,
                        .x = x,
                        .y = y,
                        .n_rows = int64_t(rows[e].size()),
                        .x_rows = rows[e].data(),
                        .y_rows = rows[e].data(),
                        .x_scale = scales[e].data()});
      }
      machine.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, jobs); });
      Doubles want(size_t(n_rows * n)), size(want.size());
      for (int e = 0; e < 4; ++e)
        for (size_t i = 0; i < rows[e].size(); ++i)
          for (int64_t j = 0; j < n; ++j) {
            auto [sum, terms] = w.output(
                e, j, [&](int64_t c) { return round_as(a, double(float(x.at(rows[e][i] * k + c)) * scales[e][i])); });
            want[size_t(rows[e][i] * n + j)] = round_as(a, sum);
            size[size_t(rows[e][i] * n + j)] = terms;
          }
      CHECK(difference(y, want, size, tolerance::kLinear) == "");
    }
}

TEST_CASE("cpu linear: a row's bits depend on neither the other rows nor the threads") {
  Machine one(1), three(3);
  Numbers numbers(11);
  for (DType a : {DType::f32, DType::bf16})
    for (int64_t m : {2, 3, 4, 5, 12, 13, 37, 250}) {
      const int64_t k = 1100, n = 200;
      INFO(cat("m ", m, " a ", dtype_name(a)));
      Weights w(one.pool, numbers, {.name = "w", .n = n, .k = k, .format = format_of(a)});
      Values x = numbers.tensor(a, {m, k}), y1(DType::f32, {m, n}), y3(DType::f32, {m, n});
      one.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, x, w.packed, y1); });
      three.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, x, w.packed, y3); });
      CHECK(same_bits(y1, y3));
      for (int64_t i = 0; i < m; i += 1 + m / 5) {
        Values alone(DType::f32, {1, n});
        three.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, x.view.slice(i, 1), w.packed, alone); });
        CHECK(same_bits(alone, y1.view.slice(i, 1)));
      }
    }
}

TEST_CASE("cpu linear: every instruction set gives sums within rounding, tile by tile") {
  Numbers numbers(3);
  for (const cpu::SimdKernels* kernels :
       {cpu::simd_kernels_generic(), cpu::simd_kernels_avx2(), cpu::simd_kernels_avx512()}) {
    if (!kernels) continue;
    for (int rows = 1; rows <= cpu::kMaxRows; ++rows)
      for (int panels : {1, 3, 4, 5}) {
        const int64_t k = 37;
        INFO(cat("kernels ", kernels->name, " rows ", rows, " panels ", panels));
        Values x = numbers.tensor(DType::f32, {k, rows}), w = numbers.tensor(DType::f32, {panels, k, 32});
        Values half(DType::bf16, {panels, k, 32});  // the same weights as pairs, rounded
        for (int64_t i = 0; i < panels * k; ++i)
          for (int64_t j = 0; j < 32; ++j) {
            w.set(i * 32 + j, round_bf16(float(w.at(i * 32 + j))));
            half.set(i * 32 + (j < 16 ? 2 * j : 2 * (j - 16) + 1), w.at(i * 32 + j));
          }
        Doubles want(size_t(panels * rows * 32)), size(want.size());
        for (int64_t p = 0; p < panels; ++p)
          for (int64_t i = 0; i < k; ++i)
            for (int64_t m = 0; m < rows; ++m)
              for (int64_t j = 0; j < 32; ++j) {
                double term = x.at(i * rows + m) * w.at((p * k + i) * 32 + j);
                want[size_t((p * rows + m) * 32 + j)] += 2 * term;  // the product is added twice
                size[size_t((p * rows + m) * 32 + j)] += 2 * std::abs(term);
              }
        for (bool wide : {true, false}) {
          Values c(DType::f32, {panels, rows, 32});
          for (bool first : {true, false}) {
            if (wide)
              kernels->gemm_f32(rows, panels, x.view.f32(), w.view.f32(), k * 32, k, c.view.f32(), rows * 32, first);
            else
              kernels->gemm_bf16(rows, panels, x.view.f32(), &half.view.bf16()->bits, k * 32, k, c.view.f32(),
                                 rows * 32, first);
          }
          CHECK(difference(c, want, size, tolerance::kLinear) == "");
        }
      }
  }
}
