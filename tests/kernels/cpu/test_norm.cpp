#include "kernels/cpu/op_testing.h"

using namespace l4;
using namespace l4::test;

namespace {
double mean_square(const View& x, int64_t first, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += Values::value(x, first + i) * Values::value(x, first + i);
  return sum / double(n);
}
}  // namespace

TEST_CASE("cpu norm: RMS norm rounds twice, against doubles") {
  Machine machine(2);
  for (int64_t n_rows : {1, 3, 70})
    for (int64_t d : {1, 15, 16, 17, 64, 5120})
      for (DType a : {DType::f32, DType::bf16})
        for (float eps : {1e-5f, 0.5f}) {
          INFO(cat(n_rows, " ", d, " ", dtype_name(a), " ", eps));
          Numbers numbers(uint64_t(n_rows + d));
          Values x = numbers.tensor(a, {n_rows, d}, -3, 3), w = numbers.tensor(a, {d}, 0, 2), y(a, {n_rows, d});
          for (int64_t i = 0; i < d; ++i) x.set(i, 0);  // a row of zeros gives zeros
          machine.run([&](const cpu::OpContext& ctx) { cpu::rms_norm(ctx, x, nullptr, w, eps, y); });
          Doubles want;
          for (int64_t t = 0; t < n_rows; ++t) {
            const double scale = 1 / std::sqrt(mean_square(x, t * d, d) + double(eps));
            for (int64_t i = 0; i < d; ++i) want.push_back(round_as(a, round_as(a, x.at(t * d + i) * scale) * w.at(i)));
          }
          CHECK(difference(y, want, tolerance::kNorm) == "");
        }
}

TEST_CASE("cpu norm: RMS norm of chosen rows") {
  Machine machine(2);
  Numbers numbers(1);
  Values x = numbers.tensor(DType::f32, {5, 24}), w = numbers.tensor(DType::f32, {24});
  Values all(DType::f32, {5, 24}), some(DType::f32, {3, 24});
  const int32_t rows[] = {0, 3, 4};
  machine.run([&](const cpu::OpContext& ctx) { cpu::rms_norm(ctx, x, nullptr, w, 1e-5f, all); });
  machine.run([&](const cpu::OpContext& ctx) { cpu::rms_norm(ctx, x, rows, w, 1e-5f, some); });
  for (int64_t i = 0; i < 3; ++i) CHECK(same_bits(some.view.slice(i, 1), all.view.slice(rows[i], 1)));
}

TEST_CASE("cpu norm: layer norm rounds once, against doubles, also in place") {
  Machine machine(2);
  for (int64_t n_rows : {1, 37})
    for (int64_t d : {2, 17, 32, 1408})
      for (DType a : {DType::f32, DType::bf16}) {
        INFO(cat(n_rows, " ", d, " ", dtype_name(a)));
        Numbers numbers(uint64_t(n_rows + d));
        Values x = numbers.tensor(a, {n_rows, d}, -1, 3), w = numbers.tensor(a, {d}), b = numbers.tensor(a, {d});
        Values y(a, {n_rows, d});
        const LayerNormWeights norm{w, b, 1e-5f};
        machine.run([&](const cpu::OpContext& ctx) { cpu::layer_norm(ctx, x, norm, y); });
        Doubles want, size;
        for (int64_t t = 0; t < n_rows; ++t) {
          double mean = 0, variance = 0;
          for (int64_t i = 0; i < d; ++i) mean += x.at(t * d + i) / double(d);
          for (int64_t i = 0; i < d; ++i) variance += std::pow(x.at(t * d + i) - mean, 2) / double(d);
          for (int64_t i = 0; i < d; ++i) {
            double scaled = (x.at(t * d + i) - mean) / std::sqrt(variance + 1e-5) * w.at(i);
            want.push_back(round_as(a, scaled + b.at(i)));
            size.push_back(std::abs(scaled) + std::abs(b.at(i)) + 1);
          }
        }
        CHECK(difference(y, want, size, tolerance::kNorm) == "");
        machine.run([&](const cpu::OpContext& ctx) { cpu::layer_norm(ctx, x, norm, x); });
        CHECK(same_bits(x, y));
      }
}

TEST_CASE("cpu norm: QK norm of one head") {
  for (DType a : {DType::f32, DType::bf16})
    for (int64_t hd : {8, 16, 24, 128}) {
      Numbers numbers(1 + uint64_t(hd));
      Values v = numbers.tensor(a, {hd}, -4, 4);
      const double scale = 1 / std::sqrt(mean_square(v, 0, hd) + 1e-5);
      Doubles want;
      for (int64_t i = 0; i < hd; ++i) want.push_back(round_as(a, v.at(i) * scale));
      if (a == DType::f32)
        cpu::qk_norm(v.view.f32(), hd, 1e-5f);
      else
        cpu::qk_norm(v.view.bf16(), hd, 1e-5f);
      CHECK(difference(v, want, tolerance::kQkNorm) == "");
    }
}
