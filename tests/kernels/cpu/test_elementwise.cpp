#include "kernels/cpu/op_testing.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("cpu elementwise: SwiGLU rounds silu and the product, against doubles") {
  Machine machine(2);
  for (int64_t n_rows : {1, 5, 300})
    for (int64_t f : {1, 15, 16, 33, 96})
      for (DType a : {DType::f32, DType::bf16}) {
        INFO(cat(n_rows, " ", f, " ", dtype_name(a)));
        Numbers numbers(uint64_t(n_rows + f));
        Values gu = numbers.tensor(a, {n_rows, 2 * f}, -8, 8), out(a, {n_rows, f});
        const double edges[] = {0, -0.0, 90, -90, 1e30, -1e30, 1e-30};  // exp over and underflows
        for (int64_t i = 0; i < std::min<int64_t>(f, 7); ++i) gu.set(i, edges[i]);
        std::vector<int32_t> rows;  // reversed
        for (int64_t i = 0; i < n_rows; ++i) rows.push_back(int32_t(n_rows - 1 - i));
        for (bool moved : {false, true}) {
          machine.run([&](const cpu::OpContext& ctx) { cpu::swiglu(ctx, gu, moved ? rows.data() : nullptr, out); });
          Doubles want(size_t(n_rows * f)), size(want.size());
          for (int64_t i = 0; i < n_rows; ++i)
            for (int64_t j = 0; j < f; ++j) {
              const double g = gu.at(i * 2 * f + j), u = gu.at(i * 2 * f + f + j);
              const size_t at = size_t((moved ? rows[size_t(i)] : i) * f + j);
              want[at] = round_as(a, round_as(a, g / (1 + std::exp(-g))) * u);
              size[at] = std::abs(want[at]) + 1e-28;  // exp overflows: silu(-90) is 0
            }
          CHECK(difference(out, want, size, tolerance::kActivation) == "");
        }
      }
}

TEST_CASE("cpu elementwise: residual of one sum and of two") {
  Machine machine(3);
  for (int64_t parts : {1, 2})
    for (DType a : {DType::f32, DType::bf16}) {
      const int64_t n_rows = 37, d = 257;
      Numbers numbers(3);
      Values y = numbers.tensor(DType::f32, {parts, n_rows, d}, -2, 2), x = numbers.tensor(a, {n_rows, d}, -4, 4);
      Doubles want, size;
      for (int64_t i = 0; i < n_rows * d; ++i) {
        double sum = round_as(a, y.at(i));
        if (parts == 2) sum = round_as(a, sum + round_as(a, y.at(n_rows * d + i)));
        want.push_back(round_as(a, x.at(i) + sum));
        size.push_back(std::abs(x.at(i)) + std::abs(sum));
      }
      machine.run([&](const cpu::OpContext& ctx) { cpu::add_residual(ctx, y, x); });
      CHECK(difference(x, want, size, tolerance::kResidual) == "");
    }
}

TEST_CASE("cpu elementwise: exact GELU, with and without a residual, in place") {
  Machine machine(2);
  for (DType a : {DType::f32, DType::bf16})
    for (Activation activation : {Activation::none, Activation::gelu})
      for (bool residual : {false, true}) {
        const int64_t n = 4001;
        Numbers numbers(4);
        Values z(a, {1, n}), r = numbers.tensor(a, {1, n});
        for (int64_t i = 0; i < n; ++i) z.set(i, a == DType::f32 ? double(i - 2000) / 150 : double(i) / 300 - 2);
        Doubles want, size;
        for (int64_t i = 0; i < n; ++i) {
          double v = z.at(i);
          if (activation == Activation::gelu) v = round_as(a, 0.5 * v * std::erfc(-v / std::sqrt(2.0)));
          if (residual) v = round_as(a, r.at(i) + v);
          want.push_back(v);
          // 1 + erf cancels on the far negative side: the error is one of 1, times z / 2.
          size.push_back(std::abs(v) + (residual ? std::abs(r.at(i)) : 0) + std::abs(z.at(i)) * 0.25);
        }
        const Values& out = residual ? r : z;
        machine.run(
            [&](const cpu::OpContext& ctx) { cpu::activate(ctx, z, activation, residual ? r.view : View{}, out); });
        CHECK(difference(out, want, size, tolerance::kActivation) == "");
      }
}

TEST_CASE("cpu elementwise: values rounded in place") {
  Machine machine(2);
  Numbers numbers(5);
  Values v = numbers.tensor(DType::f32, {3, 100});
  const Doubles before = doubles(v);
  machine.run([&](const cpu::OpContext& ctx) { cpu::round_values(ctx, v, DType::f32); });
  CHECK(doubles(v) == before);
  machine.run([&](const cpu::OpContext& ctx) { cpu::round_values(ctx, v, DType::bf16); });
  for (size_t i = 0; i < before.size(); ++i) CHECK(v.at(int64_t(i)) == round_as(DType::bf16, before[i]));
}
